import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bioclip_lite import costs, graph, pruning
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json
from bioclip_lite.models import load_student, save_student, student_spec
from bioclip_lite.preprocess import preprocessing
from bioclip_lite.stages import prune
from fake_data import FASTVIT, STUDENTS, images, largest_relative_difference, make_data, student

SOME = ["fastvit with attention", "mobilenetv4", "mobilenetv2, asymmetric padding"]
PARAMS: dict[str, Any] = {
    "macs": 0.5,
    "round_to": 8,
    "epochs": 1,
    "batch_size": 8,
    "learning_rate": 0.001,
    "seed": 0,
}


def silenced(model: nn.Module, groups: list[pruning.Group], keep: list[np.ndarray]) -> nn.Module:
    """``model`` with nothing reading the units that ``keep`` leaves out, in place."""
    modules: dict[str, Any] = dict(model.named_modules())
    with torch.no_grad():
        for group, kept in zip(groups, keep, strict=True):
            gone = np.setdiff1d(np.arange(group.units), kept)
            for member in group.members:
                entries = member.index[gone].reshape(-1)
                if member.side == "in" and modules[member.layer].weight.shape[1] > 1:
                    modules[member.layer].weight[:, entries] = 0
                if member.layer.endswith("qkv") and member.side == "out":
                    modules[member.layer].weight[entries] = 0  # what reads these is the attention itself
    return model


@pytest.mark.parametrize("which", STUDENTS)
def test_cutting_channels_is_silencing_them(which: str) -> None:
    name, options, size = STUDENTS[which]
    model = student(name, options, size)
    groups = pruning.coupled(model, size)
    random = np.random.default_rng(0)
    keep = [np.sort(random.choice(g.units, max(1, g.units * 2 // 3), replace=False)) for g in groups]
    pixels = images(2, size)
    with torch.no_grad():
        full = model(pixels)
        found, expected = pruning.cut(model, groups, keep)(pixels), silenced(model, groups, keep)(pixels)
    assert largest_relative_difference(full, expected) > 1e-3  # the channels mattered
    assert largest_relative_difference(found, expected) < 1e-5


@pytest.mark.parametrize("share", [0.5, 0.3])
@pytest.mark.parametrize("which", STUDENTS)
def test_the_budget_is_used_and_never_exceeded(which: str, share: float) -> None:
    name, options, size = STUDENTS[which]
    model = student(name, options, size)
    pruned = pruning.prune(model, images(4, size), share, round_to=4)
    left = graph.macs(*graph.fold(pruned, size)) / graph.macs(*graph.fold(model, size))
    assert 0.97 * share < left <= share
    assert costs.parameters(pruned) < costs.parameters(model)
    with torch.no_grad():
        assert pruned(images(1, size)).shape == (1, 16)


def test_channels_come_in_multiples() -> None:
    name, options, size = STUDENTS["mobilenetv4"]
    model = student(name, options, size)
    before = dict(model.named_modules())
    pruned = pruning.prune(model, images(4, size), 0.6, round_to=8)
    for layer, module in pruned.named_modules():
        if isinstance(module, nn.Conv2d) and module.out_channels != before[layer].out_channels:  # type: ignore[union-attr]
            assert module.out_channels % 8 == 0


@pytest.mark.parametrize("which", SOME)
def test_worth_is_the_part_in_the_embedding(which: str) -> None:
    """Against the embedding without the unit, for units small enough for a first order."""
    name, options, size = STUDENTS[which]
    model = student(name, options, size)
    groups = pruning.coupled(model, size)
    pixels = images(16, size)
    scores = pruning.worth(model, groups, pixels)
    for group, score in list(zip(groups, scores, strict=True))[:: max(1, len(groups) // 3)]:
        measured = []
        for unit in (int(score.argmin()), int(score.argmax())):
            kept = [np.delete(np.arange(g.units), unit) if g is group else np.arange(g.units) for g in groups]
            with torch.no_grad():
                moved = [nn.functional.normalize(m(pixels), dim=1) for m in (model, pruning.cut(model, groups, kept))]
            measured.append(float((moved[0] - moved[1]).square().sum(1).mean()))
        assert measured[0] <= measured[1]
        assert measured[0] < 30 * score.min() + 1e-6


def test_what_nothing_reads_is_worth_nothing_and_goes_first() -> None:
    model = student(*STUDENTS["resnet"])
    reader: Any = model.layer1[0].conv2  # type: ignore[index]
    with torch.no_grad():
        reader.weight[:, [1, 9]] = 0
    groups = pruning.coupled(model, 72)
    scores = pruning.worth(model, groups, images(4, 72))
    (number,) = [i for i, g in enumerate(groups) if g.members[0].layer == "layer1.0.conv1"]
    assert np.flatnonzero(scores[number] == 0).tolist() == [1, 9]
    assert not {1, 9} & set(pruning.best(scores[number], 60).tolist())


def test_the_plan_spares_what_is_worth_most() -> None:
    model = student(*STUDENTS["mobilenetv4"])
    groups = pruning.coupled(model, 64)
    cost = pruning.Cost(model, 64, groups)
    scores = [np.full(g.units, 1.0 if i == 3 else 1e-3) for i, g in enumerate(groups)]
    keep = pruning.plan(scores, cost, 0.6, round_to=8)
    assert keep[3] == groups[3].units
    assert cost.total(keep) <= 0.6 * cost.total(cost.units)


@pytest.mark.parametrize("which", SOME)
def test_a_pruned_student_reloads_bit_for_bit(which: str, tmp_path: Path) -> None:
    name, options, size = STUDENTS[which]
    pruned = pruning.prune(student(name, options, size), images(4, size), 0.4, round_to=8)
    spec = {**student_spec(name, options, 16, size), "reparameterized": True}
    written = save_student(tmp_path / "model", pruned, spec, preprocessing(size))
    assert written["shapes"]
    loaded, _, _ = load_student(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(images(2, size)), pruned(images(2, size)))
    assert json.dumps(graph.fold(loaded, size)[0]) == json.dumps(graph.fold(pruned, size)[0])


def test_all_of_the_budget_cuts_nothing() -> None:
    model = student(*STUDENTS["mobilenetv4"])
    same = pruning.prune(model, images(4, 64), 1.0, round_to=8)
    assert {n: p.shape for n, p in same.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}


def test_a_budget_out_of_reach() -> None:
    model = student(*STUDENTS["mobilenetv4"])
    with pytest.raises(UserError, match=r"prune\.macs.*keeps 0\.\d+ of its.*Raise prune\.macs"):
        pruning.prune(model, images(4, 64), 0.01, round_to=8)


def test_the_stage(tmp_path: Path) -> None:
    data = make_data(tmp_path, *FASTVIT)
    prune.run(PARAMS, data)
    model, spec, preprocess = load_student(data / "prune" / "model")
    assert preprocess == preprocessing(32)
    assert spec["reparameterized"] and spec["shapes"] and spec["trained_on"] == "teacher-a"
    report = read_json(data / "prune" / "report.json")
    assert 0.97 * 0.5 < report["macs"] / report["macs_before"] <= 0.5
    assert report["macs"] == graph.macs(*graph.fold(model, 32))
    assert report["params"] == costs.parameters(model) < report["params_before"]
    assert report["latency_ms"]["n"] == report["latency_ms_before"]["n"] == 30
    assert len(report["history"]) == 1 and report["history"][0]["loss"] > 0

    weights = (data / "prune" / "model" / "model.safetensors").read_bytes()
    prune.run(PARAMS, data)
    assert (data / "prune" / "model" / "model.safetensors").read_bytes() == weights


def test_a_student_that_cannot_be_shipped_stops_before_training(tmp_path: Path) -> None:
    data = make_data(tmp_path, "resnext26ts", {})
    with pytest.raises(UserError, match="Conv2d with 2 groups in stages"):
        prune.run(PARAMS, data)
    assert not (data / "prune").exists()


def test_an_unknown_job(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no job 'x'"):
        prune.run(PARAMS, tmp_path, "x")
