import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bioclip_lite.compression import coupling, pruning
from bioclip_lite.models import costs
from bioclip_lite.models.students import load_student, save_student, student_spec
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.stages import prune
from bioclip_lite.training import checkpoint, distillation
from bioclip_lite.utils import sections
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, write_json
from support.fake_data import FASTVIT, STUDENTS, images, largest_relative_difference, make_data, student

TINY_VIT: dict[str, Any] = {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 64), "num_heads": (1, 1, 2, 2)}
FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    **STUDENTS,
    "vit": ("vit_tiny_patch16_224", {"depth": 2, "embed_dim": 96, "num_heads": 3}, 32),
    "tiny_vit": ("tiny_vit_5m_224", TINY_VIT, 64),
    "mobileone": ("mobileone_s0", {}, 32),
    "repvit": ("repvit_m0_9", {"embed_dim": (16, 24, 32, 48), "depth": (2, 2, 2, 1)}, 64),
}
SOME = ["fastvit with attention", "mobilenetv4", "mobilenetv2, asymmetric padding", "vit", "tiny_vit"]
PARAMS: sections.Prune = {
    "budget": {"macs": 0.5},
    "importance": "embedding",
    "ranking": "global",
    "steps": 1,
    "round_to": 8,
    "epochs": 1,
    "batch_size": 8,
    "accumulation": 1,
    "shuffle_buffer": 100_000,
    "learning_rate": 0.001,
    "warm_up": 0.1,
    "weight_decay": 0.05,
    "betas": [0.9, 0.98],
    "eps": 1e-8,
    "precision": "auto",
    "seed": 0,
}


@cache
def made(which: str) -> tuple[nn.Module, int]:
    """A student, not to be changed, with heads that do not all look alike at everything, and its image size."""
    name, options, size = FAMILIES[which]
    model = student(name, options, size)
    with torch.no_grad():
        for layer, parameter in model.named_parameters():
            if layer.endswith("qkv.weight"):
                parameter.mul_(6)
            if layer.endswith(("attn.proj.weight", "attention_biases")):
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(layer)))
    return model, size


@cache
def coupled(which: str) -> tuple[list[coupling.Group], list[str]]:
    model, size = made(which)
    return coupling.coupled(model, images(2, size))


def pruned_to(model: nn.Module, size: int, budget: dict[str, float], round_to: int = 8, **how: Any) -> nn.Module:
    return pruning.prune(model, images(4, size), *pruning.limit(model, size, budget), round_to=round_to, **how)


def some_of(groups: list[coupling.Group]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [np.sort(random.choice(g.units, max(1, g.units * 2 // 3), replace=False)) for g in groups]


# What hangs together


@pytest.mark.parametrize("which", FAMILIES)
def test_cutting_is_silencing(which: str) -> None:
    model, size = made(which)
    pixels = images(2, size)
    groups, _ = coupled(which)
    keep = some_of(groups)
    with torch.no_grad():
        full = model(pixels)
        found, expected = coupling.cut(model, groups, keep)(pixels), coupling.silenced(model, groups, keep)(pixels)
    assert largest_relative_difference(full, expected) > 1e-3  # the units mattered
    assert largest_relative_difference(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("which", "kinds"),
    [
        ("vit", {"heads", "head_dim", "channels"}),
        ("tiny_vit", {"heads", "key_dim", "val_dim", "channels"}),
        ("fastvit with attention", {"heads", "head_dim", "channels"}),
    ],
)
def test_attention_loses_whole_heads_or_dimensions_of_each(which: str, kinds: set[str]) -> None:
    model, size = made(which)
    pixels = images(2, size)
    groups, _ = coupled(which)
    assert {group.kind for group in groups} == kinds
    for kind in kinds - {"channels"}:  # each kind alone
        chosen = [group for group in groups if group.kind == kind]
        keep = some_of(chosen)
        with torch.no_grad():
            full, found = model(pixels), coupling.cut(model, chosen, keep)(pixels)
            expected = coupling.silenced(model, chosen, keep)(pixels)
        assert largest_relative_difference(full, expected) > 1e-4, kind
        assert largest_relative_difference(found, expected) < 1e-5, kind


def test_the_hidden_channels_of_all_mlps_have_one_role_and_the_residual_stream_of_a_vit_keeps_its_width() -> None:
    groups, whole = coupled("vit")
    hidden = [group for group in groups if "mlp.fc1" in group.name]
    assert len(hidden) == 2 and len({group.role for group in hidden}) == 1
    assert len({group.role for group in groups}) == 3
    assert len(whole) == 1 and "LayerNorm at norm" in whole[0]


class Shuffling(nn.Module):
    """Between its convolutions the channels change places, which a dependency graph does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 16, 3, 2)
        self.head = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).relu().roll(1, dims=1)).relu().mean((2, 3)))


def test_channels_that_an_unknown_operation_mixes_keep_their_width() -> None:
    torch.manual_seed(0)
    model = Shuffling()
    groups, whole = coupling.coupled(model, images(2, 32))
    assert [group.name for group in groups] == ["channels of second"]
    assert len(whole) == 1 and whole[0].startswith("channels of first")
    with pytest.raises(UserError, match=r"cannot be reached.*keep their width: channels of first.*Raise the budget"):
        pruned_to(model, 32, {"macs": 0.2})


class Camera(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no camera is connected")


def test_a_model_that_cannot_be_followed_says_where() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Camera(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(UserError, match=r"cannot be followed through Camera at 1 \(no camera is connected\).*macs: 1"):
        coupling.coupled(model, images(2, 32))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.GroupNorm(4, 16), "GroupNorm at between"),
        (nn.Conv2d(16, 16, 1, groups=4), "Conv2d with 4 groups at between"),
        (nn.PReLU(16), "PReLU at between"),
    ],
)
def test_layers_that_are_not_understood_are_named(layer: nn.Module, why: str) -> None:
    names = ("first", "between", "second", "pool", "flat", "head")
    rest = (nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    model = nn.Sequential(OrderedDict(zip(names, (nn.Conv2d(3, 16, 3), layer, *rest), strict=True)))
    groups, whole = coupling.coupled(model, images(2, 32))
    assert "channels of second" in [group.name for group in groups]
    assert f"channels of first ({why})" in whole


# What it costs, and the budget


@pytest.mark.parametrize("which", FAMILIES)
def test_the_cost_of_a_choice_is_what_the_cut_model_costs(which: str) -> None:
    model, size = made(which)
    groups, _ = coupled(which)
    keep = some_of(groups)
    smaller, counts = coupling.cut(model, groups, keep), [len(kept) for kept in keep]
    fewer = [counts[0] - 1, *counts[1:]]
    for quantity in ("macs", "params", "bytes"):
        cost = pruning.Cost(model, size, groups, quantity)
        assert cost.total(counts) == pruning._total(smaller, size, quantity)
        assert cost.total(cost.units) == pruning._total(model, size, quantity)
        assert cost.total(fewer) - cost.total(counts) == cost.change(counts, 0, counts[0] - 1)


@pytest.mark.parametrize(
    ("which", "ranking"), [*((which, "global") for which in FAMILIES), *((which, "isomorphic") for which in SOME)]
)
def test_the_budget_is_used_and_never_exceeded(which: str, ranking: str) -> None:
    model, size = made(which)
    pruned = pruned_to(model, size, {"macs": 0.5}, round_to=4, ranking=ranking)
    pixels = torch.zeros(1, 3, size, size)
    assert 0.97 * 0.5 < costs.macs(pruned, pixels) / costs.macs(model, pixels) <= 0.5
    with torch.no_grad():
        assert pruned(images(1, size)).shape == (1, 16)


@pytest.mark.parametrize("budget", [{"params": 0.6}, {"bytes": 0.6}, {"params": 300_000}, {"bytes": 200_000}])
def test_budgets_of_parameters_and_bytes_as_shares_and_numbers(budget: dict[str, float]) -> None:
    model, size = made("mobilenetv4")
    ((quantity, amount),) = budget.items()
    count: Callable[[nn.Module], int] = costs.parameters if quantity == "params" else costs.int8_bytes
    most = amount if amount > 1 else amount * count(model)
    assert 0.97 * most < count(pruned_to(model, size, budget)) <= most


def test_a_budget_of_milliseconds_is_searched_by_measuring() -> None:
    model, size = made("fastvit_t8")
    pixels = torch.zeros(1, 3, size, size)
    asked = []

    def milliseconds(candidate: nn.Module) -> float:  # of a computer where calls cost time too
        asked.append(candidate)
        return 2 + costs.macs(candidate, pixels) / 1e6

    whole = milliseconds(model)
    quantity, most = pruning.limit(model, size, {"ms": 0.6}, whole)
    pruned = pruning.prune(model, images(4, size), quantity, most, round_to=4, milliseconds=milliseconds)
    assert 0.95 * 0.6 * whole < milliseconds(pruned) <= 0.6 * whole
    assert len(asked) < 12
    with pytest.raises(UserError, match=r"prune\.budget\.ms: no choice of channels takes at most 1\.5 ms"):
        pruning.prune(model, images(4, size), "ms", 1.5, round_to=4, milliseconds=milliseconds)


def test_channels_come_in_multiples_and_heads_one_by_one() -> None:
    model, size = made("mobilenetv4")
    before: dict[str, Any] = dict(model.named_modules())
    pruned = pruned_to(model, size, {"macs": 0.6})
    for layer, module in pruned.named_modules():
        if isinstance(module, nn.Conv2d) and module.out_channels != before[layer].out_channels:
            assert module.out_channels % 8 == 0
    model, size = made("vit")
    groups, _ = coupled("vit")
    cost = pruning.Cost(model, size, groups, "macs")
    scores = [np.full(g.units, 1e-9 if g.kind == "heads" else 1.0) for g in groups]
    keep = pruning.plan(scores, cost, 0.9 * cost.total(cost.units), 8, "global")
    heads = [count for group, count in zip(groups, keep, strict=True) if group.kind == "heads"]
    assert sum(heads) in (3, 4, 5)
    assert all(count == g.units for g, count in zip(groups, keep, strict=True) if g.kind == "head_dim")


def test_the_plan_spares_what_is_worth_most() -> None:
    model, size = made("mobilenetv4")
    groups, _ = coupled("mobilenetv4")
    cost = pruning.Cost(model, size, groups, "macs")
    scores = [np.full(g.units, 1.0 if i == 3 else 1e-3) for i, g in enumerate(groups)]
    most = 0.6 * cost.total(cost.units)
    keep = pruning.plan(scores, cost, most, 8, "global")
    assert keep[3] == groups[3].units
    assert cost.total(keep) <= most


def test_isomorphic_ranking_compares_groups_of_one_role_only() -> None:
    """Scores of one role on another scale change the global plan and leave the isomorphic one as it is."""
    model, size = made("vit")
    groups, _ = coupled("vit")
    cost = pruning.Cost(model, size, groups, "macs")
    random = np.random.default_rng(0)
    scores = [random.random(g.units) for g in groups]
    scaled = [s * (1e-6 if g.kind == "channels" else 1) for s, g in zip(scores, groups, strict=True)]
    most = 0.6 * cost.total(cost.units)
    plans = {how: [pruning.plan(s, cost, most, 1, how) for s in (scores, scaled)] for how in ("global", "isomorphic")}
    assert plans["global"][0] != plans["global"][1]
    hidden = [i for i, g in enumerate(groups) if g.kind == "channels"]
    a, b = ([keep[i] for i in hidden] for keep in plans["isomorphic"])
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < 0.1 * groups[hidden[0]].units  # but for the last steps


def test_all_of_the_budget_cuts_nothing() -> None:
    model, size = made("mobilenetv4")
    same = pruned_to(model, size, {"macs": 1.0})
    assert {n: p.shape for n, p in same.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}


def test_a_budget_out_of_reach() -> None:
    model, size = made("mobilenetv4")
    with pytest.raises(UserError, match=r"prune\.budget\.macs.*keeps 0\.\d+ of its.*Raise the budget"):
        pruned_to(model, size, {"macs": 0.01})


# What a unit is worth


@pytest.mark.parametrize("which", SOME)
def test_worth_is_the_part_in_the_embedding(which: str) -> None:
    """Against the embedding without the unit, for units small enough for a first order."""
    name, options, size = FAMILIES[which]
    model, pixels = student(name, options, size), images(16, size)
    groups, _ = coupling.coupled(model, pixels[:2])
    scores = pruning.worth(model, groups, pixels, "embedding")
    pairs = [(g, s) for g, s in zip(groups, scores, strict=True) if g.kind != "heads"]  # a head is no small thing
    for group, score in pairs[:: max(1, len(pairs) // 3)]:
        measured = []
        for unit in (int(score.argmin()), int(score.argmax())):
            kept = [np.delete(np.arange(g.units), unit) if g is group else np.arange(g.units) for g in groups]
            with torch.no_grad():
                moved = [nn.functional.normalize(m(pixels), dim=1) for m in (model, coupling.cut(model, groups, kept))]
            measured.append(float((moved[0] - moved[1]).square().sum(1).mean()))
        assert measured[0] <= measured[1]
        assert measured[0] < 30 * score.min() + 1e-6


def test_other_measures_are_what_they_say() -> None:
    torch.manual_seed(0)
    conv, last = nn.Conv2d(3, 6, 4, 4), nn.Linear(6 * 4, 5)
    model = nn.Sequential(conv, nn.Flatten(), last).eval()
    pixels, taught = images(3, 8), nn.functional.normalize(torch.randn(3, 5), dim=1)
    groups, _ = coupling.coupled(model, pixels)
    measures = ("magnitude", "taylor", "hessian")
    found = {how: pruning.worth(model, groups, pixels, how, taught)[0] for how in measures}
    weights = [conv.weight.square().sum((1, 2, 3)), last.weight.square().reshape(5, 6, 4).sum((0, 2))]
    assert conv.bias is not None
    magnitude = (weights[0] + weights[1] + conv.bias.square()).detach().numpy()
    np.testing.assert_allclose(found["magnitude"], magnitude, rtol=1e-5)

    expected = np.zeros(6)
    for image, target in zip(pixels.split(1), taught.split(1), strict=True):
        factors = torch.ones(6, requires_grad=True)
        out = last((conv(image) * factors[:, None, None]).flatten(1))
        (part,) = torch.autograd.grad(nn.functional.cosine_similarity(out, target).sum(), factors)
        expected += part.numpy() ** 2 / 3
    np.testing.assert_allclose(found["taylor"], expected, rtol=1e-4)

    expected = np.zeros(6)
    random = torch.Generator().manual_seed(0)
    for image in pixels.split(1):
        weight = last.weight.detach().clone().requires_grad_(True)
        out = nn.functional.normalize(nn.functional.linear(conv(image).flatten(1), weight, last.bias), dim=1)
        (gradient,) = torch.autograd.grad((out * torch.randn(1, 5, generator=random)).sum(), weight)
        expected += 0.5 * (weight * gradient).square().detach().reshape(5, 6, 4).sum((0, 2)).numpy() / 3
    np.testing.assert_allclose(found["hessian"], expected, rtol=1e-4)


@pytest.mark.parametrize("importance", ["embedding", "taylor", "hessian"])
def test_what_nothing_reads_is_worth_nothing_and_goes_first(importance: str) -> None:
    model, size = copy.deepcopy(made("resnet")[0]), 72
    reader: Any = model.get_submodule("layer1.0.conv2")
    with torch.no_grad():
        reader.weight[:, [1, 9]] = 0
    groups, _ = coupling.coupled(model, images(2, size))
    scores = pruning.worth(model, groups, images(4, size), importance, torch.eye(4, 16))
    (number,) = [i for i, g in enumerate(groups) if g.members[0].layer == "layer1.0.conv1"]
    assert np.flatnonzero(scores[number] == 0).tolist() == [1, 9]
    assert not {1, 9} & set(pruning.best(scores[number], 60).tolist())


# The result is a plain model


@pytest.mark.parametrize("which", FAMILIES)
def test_a_pruned_student_reloads_bit_for_bit(which: str, tmp_path: Path) -> None:
    name, options, size = FAMILIES[which]
    model, _ = made(which)
    pruned = pruned_to(model, size, {"macs": 0.5})
    spec = {**student_spec(name, options, 16, size), "reparameterized": True}
    written = save_student(tmp_path / "model", pruned, spec, preprocessing(size))
    assert written["shapes"]
    loaded, _, _ = load_student(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(images(2, size)), pruned(images(2, size)))
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "model.safetensors",
        "preprocess.json",
        "student.json",
    }
    if which in SOME:  # in steps, what is pruned is pruned again
        assert pruned_to(loaded, size, {"macs": 0.7})(images(1, size)).shape == (1, 16)


# Time


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.layer(x)


def test_a_race_tells_twice_the_work_from_the_work() -> None:
    once = nn.Conv2d(3, 32, 7)
    image = torch.zeros(1, 3, 96, 96)
    slower, faster = costs.race(once, Twice(once), image, 20), costs.race(Twice(once), once, image, 20)
    assert slower["low"] > 1.3 and not slower["faster"] and slower["n"] == 20
    assert faster["high"] < 0.77 and faster["faster"]
    assert costs.race(once, nn.Sequential(once), image, 10)["n"] in (10, 20, 30, 40, 50)


def test_the_interval_of_a_median_holds_it_95_times_in_100() -> None:
    random = np.random.default_rng(0)
    found = [costs._median(random.normal(size=30).tolist()) for _ in range(1000)]
    held = np.mean([row["low"] <= 0 <= row["high"] for row in found])
    assert 0.94 <= held <= 0.985


# The stage


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 32 pixels calls cost more time than arithmetic, so a test of it would be one of chance."""

    def race(before: nn.Module, after: nn.Module, image: torch.Tensor, rounds: int) -> dict[str, Any]:
        ratio = costs.macs(after, image) / costs.macs(before, image)
        return {"ratio": ratio, "low": ratio, "high": ratio, "n": rounds, "faster": ratio < 1}

    monkeypatch.setattr(costs, "race", race)


def test_the_stage(tmp_path: Path, fast: None) -> None:
    data = make_data(tmp_path, *FASTVIT)
    prune.run(PARAMS, data)
    model, spec, preprocess = load_student(data / "prune" / "model")
    assert preprocess == preprocessing(32)
    assert spec["reparameterized"] and spec["shapes"] and spec["trained_on"] == "teacher-a"
    report = read_json(data / "prune" / "report.json")
    assert 0.97 * 0.5 < report["macs"] / report["macs_before"] <= 0.5
    assert report["macs"] == costs.macs(model, torch.zeros(1, 3, 32, 32))
    assert report["params"] == costs.parameters(model) < report["params_before"]
    assert report["bytes"] == costs.int8_bytes(model) < report["bytes_before"]
    assert report["latency_ms"]["n"] == report["latency_ms_before"]["n"] == 30
    assert report["race"]["faster"] and report["race"]["ratio"] <= 0.5
    assert len(report["history"]) == 1 and report["history"][0]["loss"] > 0

    weights = (data / "prune" / "model" / "model.safetensors").read_bytes()
    prune.run(PARAMS, data)
    assert (data / "prune" / "model" / "model.safetensors").read_bytes() == weights
    assert {path.name for path in (data / "prune").iterdir()} == {"model", "report.json"}


def test_whoever_has_the_folder_loads_it_in_three_lines(tmp_path: Path, fast: None) -> None:
    data = make_data(tmp_path, *FASTVIT)
    prune.run({**PARAMS, "epochs": 0}, data)
    scope = {"folder": data / "prune" / "model", "pixels": images(1, 32)}
    lines = (
        "from bioclip_lite.models.students import load_student\n"
        "model, spec, preprocess = load_student(folder)\n"
        "embedding = model(pixels)\n"
    )
    exec(lines, scope)
    assert scope["embedding"].shape == (1, 16)  # type: ignore[attr-defined]


@pytest.mark.parametrize("budget", [{"params": 0.5}, {"bytes": 0.5}, {"ms": 0.6}])
def test_every_budget_in_the_stage(tmp_path: Path, fast: None, budget: dict[str, float]) -> None:
    data = make_data(tmp_path, *FASTVIT)
    prune.run({**PARAMS, "budget": budget, "epochs": 0}, data)
    report = read_json(data / "prune" / "report.json")
    ((quantity, share),) = budget.items()
    found = report["race"]["ratio"] if quantity == "ms" else report[quantity] / report[f"{quantity}_before"]
    assert 0.9 * share < found <= share


def test_all_of_the_budget_ships_the_student(tmp_path: Path) -> None:
    data = make_data(tmp_path, *FASTVIT)
    prune.run({**PARAMS, "budget": {"macs": 1}}, data)
    ours, given = (load_student(data / stage / "model")[0].state_dict() for stage in ("prune", "distill"))
    assert ours.keys() == given.keys() and all(torch.equal(ours[name], given[name]) for name in given)
    assert read_json(data / "prune" / "report.json")["history"] == []


def test_steps_share_the_epochs_and_recover_in_between(tmp_path: Path, fast: None) -> None:
    data = make_data(tmp_path, *FASTVIT)
    params: sections.Prune = {**PARAMS, "steps": 2, "epochs": 3}
    seen = []
    original = distillation.train

    def train(student: distillation.Student, **how: Any) -> Any:
        macs = costs.macs(student.model.eval(), torch.zeros(1, 3, 32, 32))
        seen.append((macs, student.options.epochs))
        return original(student, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "train", train)
        prune.run(params, data)
    report = read_json(data / "prune" / "report.json")
    assert [epochs for _, epochs in seen] == [1, 2]
    first, second = (macs / report["macs_before"] for macs, _ in seen)
    assert 0.95 * math.sqrt(0.5) < first <= math.sqrt(0.5) and 0.97 * 0.5 < second <= 0.5
    assert [(row["step"], row["epoch"]) for row in report["history"]] == [(1, 1), (2, 2), (2, 3)]
    expected = (data / "prune" / "model" / "model.safetensors").read_bytes()

    # Stopped in the second step, it does not repeat the first one, and ends with the same bytes.
    def stopped(student: distillation.Student, **how: Any) -> Any:
        if student.options.job == "student-2":
            raise checkpoint.Stopped("stopped")
        return original(student, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "train", stopped)
        with pytest.raises(checkpoint.Stopped):
            prune.run(params, data)
    seen.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "train", train)
        prune.run(params, data)
    assert [epochs for _, epochs in seen] == [2]
    assert (data / "prune" / "model" / "model.safetensors").read_bytes() == expected
    assert read_json(data / "prune" / "report.json")["history"] == report["history"]


def test_recovery_learns_from_all_teachers_that_taught(tmp_path: Path, fast: None) -> None:
    data = make_data(tmp_path, *FASTVIT)
    second = data / "logits" / "second"
    second.mkdir()
    for path in (data / "logits").glob("*.safetensors"):
        (second / path.name).write_bytes(path.read_bytes())
    spec = read_json(data / "distill" / "model" / "student.json")
    write_json(data / "distill" / "model" / "student.json", {**spec, "teachers": ["model", "second"]})
    seen = []

    def train(student: distillation.Student, **_: Any) -> list[dict[str, float]]:
        seen.append((student.options.teachers, len(student.taxa)))
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "train", train)
        prune.run(PARAMS, data)
    assert seen == [(("model", "second"), 2)]
    (second / "taxa.safetensors").unlink()
    with pytest.raises(UserError, match="second"):
        prune.run(PARAMS, data)


def test_a_student_that_gains_no_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path, *FASTVIT)
    slow = {"ratio": 1.01, "low": 1.0, "high": 1.02, "n": 90, "faster": False}
    monkeypatch.setattr(costs, "race", lambda *_: slow)
    monkeypatch.setattr(distillation, "train", None)  # before anything is taught
    with pytest.raises(UserError, match=r"is not faster: 1\.010 of the time.*Lower the budget"):
        prune.run(PARAMS, data)
    assert not (data / "prune" / "model").exists()


def test_an_unknown_job(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no job 'x'"):
        prune.run(PARAMS, tmp_path, "x")
