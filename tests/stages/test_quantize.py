import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bioclip_lite.compression import grid, mixed_precision, quantized, rounding
from bioclip_lite.graph import execution, folding
from bioclip_lite.models.students import load_student
from bioclip_lite.stages import quantize
from bioclip_lite.utils import sections
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, write_json
from support.fake_data import FASTVIT, finish_pruning, images, make_data, student

REPAIR: sections.QuantizeRepair = {"equalise": True, "rounding": "gptq", "bias": True}
NO_REPAIR: sections.QuantizeRepair = {"equalise": False, "rounding": "nearest", "bias": False}
PARAMS: sections.Quantize = {"images": 4, "bytes_per_parameter": 1.08, "repair": REPAIR}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_data(tmp_path_factory.mktemp("data"), *FASTVIT)
    finish_pruning(folder)
    quantize.run(PARAMS, folder)
    return folder


def test_what_is_stored_is_what_is_measured(data: Path) -> None:
    model, _, preprocessing = load_student(data / "prune" / "model")
    folded, weights = quantized.load(data / "quantize" / "model")
    pixels = quantize._calibration_images(4, data, preprocessing)[1]
    with torch.no_grad():
        exact = torch.nn.functional.normalize(model(pixels), dim=1).numpy()
    cosines = (mixed_precision.embed(folded, weights, pixels) * exact).sum(axis=1)
    report = read_json(data / "quantize" / "report.json")
    assert 0.99 < cosines.min() < 1 - 1e-7  # close, and not the float32 weights
    assert report["cosine"]["mean"] == pytest.approx(cosines.mean(), abs=1e-6)
    assert report["cosine"]["min"] == pytest.approx(cosines.min(), abs=1e-6)
    assert report["images"] == 4
    assert report["bytes"] == sum(file.stat().st_size for file in (data / "quantize" / "model").iterdir())


def test_every_array_is_on_its_grid(data: Path) -> None:
    model, _, _ = load_student(data / "prune" / "model")
    _, exact = folding.fold(model, 32)
    _, tensors, grids = quantized.load_integers(data / "quantize" / "model")
    assert set(grids) == set(tensors) == set(exact)
    for name, tensor in tensors.items():
        assert tensor.dtype == grid.DTYPES[grids[name].bits]
        assert tensor.shape == exact[name].shape
        if exact[name].ndim == 1:
            assert grids[name].bits == 16


def test_the_budget_holds_and_nothing_that_fits_is_left(data: Path) -> None:
    report = read_json(data / "quantize" / "report.json")
    _, tensors, _ = quantized.load_integers(data / "quantize" / "model")
    size = sum(tensor.nbytes for tensor in tensors.values())
    parameters = sum(tensor.size for tensor in tensors.values())
    assert report["bytes_per_parameter"] == size / parameters
    assert report["parameters"] == parameters and report["bytes_float32"] == 4 * parameters
    left = 1.08 * parameters - size
    narrow = [layer for layer in report["layers"] if layer["bits"] == 8]
    assert 0 <= left < min(layer["bytes"] for layer in narrow)
    assert any(layer["bits"] == 16 for layer in report["layers"])
    for layer in report["layers"]:
        assert layer["bytes"] == np.prod(layer["shape"]) * layer["bits"] // 8
        assert (layer["sqnr_db"] > 60) == (layer["bits"] == 16)


@pytest.mark.parametrize(("value", "says"), [(np.nan, "embeddings are no number"), (0.0, "embeddings are zero")])
def test_a_student_that_gives_no_embeddings_is_refused(data: Path, tmp_path: Path, value: float, says: str) -> None:
    (tmp_path / "shard").symlink_to(data / "shard")
    shutil.copytree(data / "prune" / "model", tmp_path / "prune" / "model")
    weights = load_file(tmp_path / "prune" / "model" / "model.safetensors")
    for name in ("head.fc.weight", "head.fc.bias"):
        weights[name].fill_(value)
    save_file(weights, tmp_path / "prune" / "model" / "model.safetensors")
    with pytest.raises(UserError, match=f"the student in data/prune/model: 4 of 4 {says}"):
        quantize.run(PARAMS, tmp_path)
    assert not (tmp_path / "quantize").exists()


def test_a_budget_that_is_too_small(data: Path, tmp_path: Path) -> None:
    for name in ("prune", "distill", "shard"):
        (tmp_path / name).symlink_to(data / name)
    with pytest.raises(UserError, match=r"at least 1\.0\d+") as caught:
        quantize.run({**PARAMS, "bytes_per_parameter": 1.0}, tmp_path)
    assert not (tmp_path / "quantize").exists()
    least = float(str(caught.value).split("at least ")[1].split(",")[0])
    folded, weights = folding.fold(student(*FASTVIT, 32), 32)
    assert mixed_precision.least_bytes_per_parameter(folded, weights) == least
    mixed_precision.choose_grids(folded, weights, images(2, 32), least)  # what the message says is enough


def test_most_worth_keeps_the_budget() -> None:
    shifts = {"stem": 0.1, "large": 0.3, "small": 0.01, "last": 0.02}
    sizes = {"stem": 10, "large": 1000, "small": 5, "last": 100}
    assert mixed_precision.most_worth(shifts, sizes, 0) == []
    assert mixed_precision.most_worth(shifts, sizes, 10) == ["stem"]
    # large does not fit: passed over
    assert mixed_precision.most_worth(shifts, sizes, 999) == ["stem", "small", "last"]
    assert mixed_precision.most_worth(shifts, sizes, 1115) == ["stem", "large", "small", "last"]


def test_wide_layers_bring_the_embeddings_closer() -> None:
    folded, weights = folding.fold(student(*FASTVIT, 32), 32)
    pixels = images(16, 32)
    exact = mixed_precision.embed(folded, weights, pixels)
    narrow = {name: grid.fit(weights[name], 8) for name in rounding.arrays(folded)}
    shifts = mixed_precision.sensitivity(folded, weights, narrow, pixels, exact)
    sizes = {name: weights[name].size for name in narrow}
    budget = sum(sizes.values()) // 20
    wide = mixed_precision.most_worth(shifts, sizes, budget)
    least = mixed_precision.most_worth({name: 1 / shift for name, shift in shifts.items()}, sizes, budget)

    def error(names: list[str]) -> float:
        grids = {name: grid.fit(weights[name], 16 if name in names else 8) for name in narrow}
        on_grid = quantized.decode({name: grid.encode(weights[name], grids[name]) for name in grids}, grids)
        return float(np.square(mixed_precision.embed(folded, {**weights, **on_grid}, pixels) - exact).sum())

    assert error(wide) < 0.7 * error([])
    assert error(wide) < 0.7 * error(least)
    assert error(list(narrow)) < 1e-3 * error([])


@pytest.fixture(scope="module")
def error() -> Callable[..., float]:
    """Squared distance of embeddings by a choice of repairs, on photographs that the repairs have not seen."""
    folded, weights = folding.fold(student(*FASTVIT, 32), 32)
    pixels, others = images(24, 32), images(16, 32)
    exact = mixed_precision.embed(folded, weights, others)

    def measure(choice: dict[str, Any]) -> float:
        found = mixed_precision.quantize(folded, weights, pixels, 1.06, {**NO_REPAIR, **choice})
        return float(np.square(mixed_precision.embed(folded, found.rounded.weights, others) - exact).sum())

    return cache(lambda *names: measure({name: used for name, used in REPAIR.items() if name in names}))


@pytest.mark.parametrize("repair", [("rounding",), ("bias",), ("rounding", "bias")])
def test_each_repair_helps_on_photographs_it_has_not_seen(error: Callable[..., float], repair: tuple[str, ...]) -> None:
    assert error(*repair) < 0.9 * error()


def test_the_report_compares_each_layer_before_and_after(data: Path) -> None:
    report = read_json(data / "quantize" / "report.json")
    assert report["cosine"]["mean"] > report["cosine_unrepaired"]["mean"]
    names = [layer["weight"] for layer in report["layers"]]
    folded, _ = quantized.load(data / "quantize" / "model")
    assert names == rounding.arrays(folded)
    gains = [layer["output_sqnr_db"]["repaired"] - layer["output_sqnr_db"]["nearest"] for layer in report["layers"]]
    assert np.mean(gains) > 1


def test_the_graph_has_the_range_of_every_value(data: Path) -> None:
    folded, weights = quantized.load(data / "quantize" / "model")
    names = {folded["input"]["name"], *(node["name"] for node in folded["nodes"])}
    assert set(folded["ranges"]) == names
    _, _, preprocessing = load_student(data / "prune" / "model")
    found = execution.run(folded, weights, quantize._calibration_images(4, data, preprocessing)[1])
    assert folded["ranges"][folded["output"]] == pytest.approx([float(found.min()), float(found.max())], abs=1e-5)


def test_two_runs_give_the_same_bytes(data: Path) -> None:
    files = sorted((data / "quantize").rglob("*.*"))
    before = [file.read_bytes() for file in files]
    quantize.run(PARAMS, data)
    assert [file.read_bytes() for file in files] == before


def test_signal_to_noise_ratio() -> None:
    signal = np.array([3.0, 4.0], np.float32)
    assert mixed_precision.sqnr(signal, signal + np.array([0.3, 0.4], np.float32)) == pytest.approx(20, abs=1e-4)
    assert mixed_precision.sqnr(signal, signal) is None


def test_without_calibration_photographs(data: Path, tmp_path: Path) -> None:
    for name in ("prune", "distill"):
        (tmp_path / name).symlink_to(data / name)
    sizes = read_json(data / "shard" / "sizes.json")
    write_json(tmp_path / "shard" / "sizes.json", {k: n for k, n in sizes.items() if not k.startswith("calibration")})
    with pytest.raises(UserError, match=r"calibration"):
        quantize.run(PARAMS, tmp_path)
    assert not (tmp_path / "quantize").exists()
