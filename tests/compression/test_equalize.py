import numpy as np
import pytest
import torch
from torch import nn

from bioclip_lite.compression import grid
from bioclip_lite.compression.equalize import equalize
from bioclip_lite.compression.mixed_precision import embed, quantize
from bioclip_lite.graph import execution, folding
from bioclip_lite.graph.nodes import Graph, Weights
from support.fake_data import STUDENTS, images, largest_relative_difference, lively, student


def change(folded: Graph, weights: Weights, scaled: Weights, pixels: torch.Tensor) -> float:
    """Largest difference that other weights make to the outputs, relative to the largest output."""
    return largest_relative_difference(execution.run(folded, scaled, pixels), execution.run(folded, weights, pixels))


@pytest.mark.parametrize("which", STUDENTS)
def test_the_function_stays(which: str) -> None:
    name, options, size = STUDENTS[which]
    folded, weights = folding.fold(student(name, options, size), size)
    scaled = equalize(folded, weights)
    pixels = images(3, size)
    assert {name: array.shape for name, array in scaled.items()} == {name: a.shape for name, a in weights.items()}
    assert change(folded, weights, scaled, pixels) < 1e-4


class Block(nn.Module):
    """A residual stream that two branches write and one reads, with the activation under test in between."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide, self.thin, self.head = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1), nn.Linear(8, 4)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.deep(x)
        x = x + self.thin(self.act(self.wide(x)))
        return self.head(x.mean((2, 3)))


def spread(act: nn.Module) -> tuple[Graph, Weights]:
    torch.manual_seed(0)
    folded, weights = folding.fold(lively(Block(act), 16), 16)
    factors = 10 ** np.random.default_rng(0).uniform(-2, 0, 8).astype(np.float32)
    for writer in ("stem", "thin"):  # channels of the stream as unlike as they come, in the same function
        weights[f"{writer}.weight"] *= factors.reshape(-1, 1, 1, 1)
        weights[f"{writer}.bias"] *= factors
    weights["deep.bias"] *= factors
    weights["wide.weight"] /= factors.reshape(1, -1, 1, 1)
    weights["head.weight"] /= factors
    return folded, weights


def error(folded: Graph, weights: Weights) -> float:
    pixels = images(8, 16)
    on_grid = {
        name: grid.decode(grid.encode(array, grid.fit(array, 8)), grid.fit(array, 8))
        for name, array in weights.items()
        if name.endswith("weight")
    }
    return float(np.square(embed(folded, {**weights, **on_grid}, pixels) - embed(folded, weights, pixels)).sum())


def ratio(rows: np.ndarray) -> float:
    sizes = np.abs(rows).reshape(len(rows), -1).max(axis=1)
    return float(sizes.max() / sizes.min())


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU()])
def test_unlike_channels_become_alike_and_the_grid_suits_them(act: nn.Module) -> None:
    folded, weights = spread(act)
    scaled = equalize(folded, weights)
    pixels = images(8, 16)
    assert change(folded, weights, scaled, pixels) < 1e-4
    assert ratio(weights["head.weight"].T) > 30
    assert ratio(scaled["head.weight"].T) < 5
    assert error(folded, scaled) < 0.1 * error(folded, weights)


@pytest.mark.parametrize(("act", "moves"), [(nn.ReLU(), True), (nn.GELU(), False), (nn.ReLU6(), False)])
def test_channels_pass_only_where_scaling_does(act: nn.Module, moves: bool) -> None:
    folded, weights = spread(act)
    scaled = equalize(folded, weights)
    rows = scaled["wide.bias"] / weights["wide.bias"]  # the factors of the channels that the activation sees
    assert (np.ptp(rows) > 0.01) == moves
    if not moves:
        assert np.allclose(rows, 1, atol=1e-6)


def test_channels_without_weights_stay_finite() -> None:
    folded, weights = spread(nn.ReLU())
    weights["wide.weight"][3] = 0
    weights["thin.weight"][:, 5] = 0
    weights["stem.weight"][1] = 0
    scaled = equalize(folded, weights)
    assert all(np.isfinite(array).all() for array in scaled.values())
    pixels = images(4, 16)
    assert change(folded, weights, scaled, pixels) < 1e-4


def test_the_stage_keeps_it_where_it_helps() -> None:
    pixels = images(12, 16)
    unlike, weights = spread(nn.GELU())
    alike = equalize(unlike, weights)
    found = {}
    for name, start in {"unlike": weights, "alike": alike}.items():
        for tried in (False, True):
            repair = {"equalise": tried, "rounding": "nearest", "bias": False}
            found[name, tried] = quantize(unlike, start, pixels, 1.3, repair)
    assert [found["unlike", tried].equalized for tried in (False, True)] == [False, True]
    lost = {key: 1 - result.cosines["mean"] for key, result in found.items()}
    assert lost["unlike", True] < 0.3 * lost["unlike", False]
    assert lost["unlike", True] == pytest.approx(lost["alike", False], rel=0.2)
    assert lost["alike", True] <= lost["alike", False]
