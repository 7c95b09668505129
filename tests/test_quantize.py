from pathlib import Path

import numpy as np
import pytest
import torch

from bioclip_lite import graph, grid, quantized
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, write_json
from bioclip_lite.models import load_student
from bioclip_lite.stages import quantize
from fake_data import FASTVIT, finish_pruning, images, make_data, student

PARAMS = {"images": 4, "wide_layers": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_data(tmp_path_factory.mktemp("data"), *FASTVIT)
    finish_pruning(folder)
    quantize.run(PARAMS, folder)
    return folder


def test_what_is_stored_is_what_is_measured(data: Path) -> None:
    model, _, _ = load_student(data / "prune" / "model")
    folded, weights = quantized.load(data / "quantize" / "model")
    with torch.no_grad():
        exact = torch.nn.functional.normalize(model(images(8, 32)), dim=1).numpy()
    cosines = (quantize.embed(folded, weights, images(8, 32)) * exact).sum(axis=1)
    assert 0.98 < cosines.min() < 1 - 1e-7  # close, and not the float32 weights
    report = read_json(data / "quantize" / "report.json")
    assert 0.98 < report["cosine"]["min"] <= report["cosine"]["mean"] < 1
    assert report["images"] == 4
    assert report["bytes"] == sum(file.stat().st_size for file in (data / "quantize" / "model").iterdir())
    assert report["bytes"] < 0.6 * report["bytes_float32"]


def test_every_weight_is_on_its_grid_and_biases_are_not_rounded(data: Path) -> None:
    model, _, _ = load_student(data / "prune" / "model")
    _, exact = graph.fold(model, 32)
    _, tensors, grids = quantized.load_integers(data / "quantize" / "model")
    assert set(grids) == {name for name in exact if name.endswith(".weight")}
    for name, tensor in tensors.items():
        if name in grids:
            assert tensor.dtype == grid.DTYPES[grids[name].bits]
            assert np.abs(grid.decode(tensor, grids[name]) - exact[name]).max() <= 0.51 * grids[name].scale
        else:
            assert np.array_equal(tensor, exact[name])


def test_the_layers_where_a_byte_gains_most_have_16_bits(data: Path) -> None:
    layers = read_json(data / "quantize" / "report.json")["layers"]
    wide = {layer["weight"] for layer in layers if layer["bits"] == 16}
    assert len(wide) == 3
    gains = {layer["weight"]: layer["sensitivity"] ** 2 / np.prod(layer["shape"]) for layer in layers}
    assert wide == set(sorted(gains, key=lambda name: -gains[name])[:3])
    for layer in layers:
        assert layer["bytes"] == np.prod(layer["shape"]) * layer["bits"] // 8
        assert (layer["sqnr_db"] > 60) == (layer["bits"] == 16)


def test_wide_layers_bring_the_embeddings_closer() -> None:
    folded, weights = graph.fold(student(*FASTVIT, 32), 32)
    pixels = images(16, 32)
    exact = quantize.embed(folded, weights, pixels)
    narrow = {name: grid.fit(array, 8) for name, array in weights.items() if name.endswith(".weight")}
    shifts = quantize.sensitivity(folded, weights, narrow, pixels, exact)
    wide = quantize.most_worth(shifts, {name: array.size for name, array in weights.items()}, 6)

    def error(names: list[str]) -> float:
        grids = {name: grid.fit(weights[name], 16 if name in names else 8) for name in narrow}
        on_grid = quantized.decode({name: grid.encode(weights[name], grids[name]) for name in grids}, grids)
        return float(np.square(quantize.embed(folded, {**weights, **on_grid}, pixels) - exact).sum())

    least = sorted(shifts, key=lambda name: shifts[name] ** 2 / weights[name].size)[:6]
    assert error(wide) < 0.7 * error([])
    assert error(wide) < error(least)
    assert error(list(narrow)) < 1e-3 * error([])


def test_two_runs_give_the_same_bytes(data: Path) -> None:
    files = sorted((data / "quantize").rglob("*.*"))
    before = [file.read_bytes() for file in files]
    quantize.run(PARAMS, data)
    assert [file.read_bytes() for file in files] == before


def test_signal_to_noise_ratio() -> None:
    signal = np.array([3.0, 4.0], np.float32)
    assert quantize.sqnr(signal, signal + np.array([0.3, 0.4], np.float32)) == pytest.approx(20, abs=1e-4)
    assert quantize.sqnr(signal, signal) is None


def test_without_calibration_photographs(data: Path, tmp_path: Path) -> None:
    for name in ("prune", "distill"):
        (tmp_path / name).symlink_to(data / name)
    sizes = read_json(data / "shard" / "sizes.json")
    write_json(tmp_path / "shard" / "sizes.json", {k: n for k, n in sizes.items() if not k.startswith("calibration")})
    with pytest.raises(UserError, match=r"calibration"):
        quantize.run(PARAMS, tmp_path)
    assert not (tmp_path / "quantize").exists()
