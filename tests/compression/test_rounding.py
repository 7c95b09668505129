from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bioclip_lite.compression import grid, rounding
from bioclip_lite.graph import execution, folding
from bioclip_lite.graph.nodes import Graph, Weights
from support.fake_data import FASTVIT, images, lively, student


def moments_of(groups: int, columns: int, seed: int, places: int = 400) -> np.ndarray:
    """Second moments (groups, columns, columns) of inputs that are strongly correlated."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(groups, columns, columns)) + 2
    x = random.normal(size=(groups, places, columns)) @ mixing
    return x.transpose(0, 2, 1) @ x / places


@pytest.mark.parametrize(("groups", "rows", "columns"), [(1, 4, 150), (1, 1, 64), (3, 2, 9), (2, 5, 65), (4, 1, 2)])
def test_gptq_disturbs_products_less_than_the_nearest_points(groups: int, rows: int, columns: int) -> None:
    """On average: column by column is greedy, so that a single small weight may come out worse."""
    nearest: list[float] = []
    learnt: list[float] = []
    for seed in range(20):
        moments = moments_of(groups, columns, seed)
        weight = np.random.default_rng(seed + 1).normal(size=(groups * rows, columns)).astype(np.float32)
        used, before = grid.fit(weight, 8), moments.copy()
        q = rounding.gptq(weight, used, moments)
        assert q.shape == weight.shape and q.dtype == np.uint8
        assert (moments == before).all()
        for found, errors in ((grid.encode(weight, used), nearest), (q, learnt)):
            wrong = (grid.decode(found, used).astype(np.float64) - weight).reshape(groups, rows, columns)
            errors.append(float(np.einsum("grc,gcd,grd->", wrong, moments, wrong)))
    assert np.mean(learnt) < 0.7 * np.mean(nearest)


def test_without_correlations_gptq_is_the_nearest_point() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    used = grid.fit(weight, 8)
    moments = np.diag([3.0, 1.0, 0.0, 5.0, 2.0])[None]
    assert (rounding.gptq(weight, used, moments) == grid.encode(weight, used)).all()
    assert (rounding.gptq(weight, used, np.zeros((1, 5, 5))) == grid.encode(weight, used)).all()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 8, (3, 1), groups=4, dilation=2, padding=(1, 0)),
        nn.Linear(4, 6),
    ],
)
def test_moments_are_those_of_the_layers_inputs(layer: nn.Conv2d | nn.Linear) -> None:
    """The mean square of every output follows from them: w' M w."""
    torch.manual_seed(0)
    x = torch.randn(300, 4) if isinstance(layer, nn.Linear) else torch.randn(40, 4, 7, 7)
    assert layer.bias is not None
    layer.bias.data.zero_()
    with torch.no_grad():
        y = layer(x)
    node: dict[str, Any] = {"op": "linear", "shape": list(y.shape[1:])}
    if isinstance(layer, nn.Conv2d):
        assert isinstance(layer.padding, tuple)
        op, (top, left) = "conv" if layer.groups == 1 else "depthwise", layer.padding
        node |= {"op": op, "strides": layer.stride, "dilations": layer.dilation, "pads": [top, top, left, left]}
    weight = layer.weight.detach().numpy()
    moments = rounding.correlations(node, weight, x)
    count = y.numel() // y.shape[1]
    columns = moments.shape[1]
    diagonal = np.einsum("gcc->gc", moments)[:, :, None] * np.eye(columns)
    moments = diagonal + (moments - diagonal) * (count + columns) / count  # undo the shrinking
    rows = weight.astype(np.float64).reshape(len(moments), -1, columns)
    found = np.einsum("grc,gcd,grd->gr", rows, moments, rows).reshape(-1)
    dims = [dim for dim in range(y.ndim) if dim != 1]
    assert found == pytest.approx(y.double().square().mean(dims).numpy(), rel=1e-4)


def rounded(method: str, correct: bool, folded: Graph, weights: Weights, pixels: torch.Tensor) -> rounding.Rounded:
    grids = {name: grid.fit(weights[name], 8) for name in rounding.arrays(folded)}
    return rounding.onto_grids(folded, weights, grids, pixels, method, correct)


def test_the_nearest_points_without_repair() -> None:
    folded, weights = folding.fold(student(*FASTVIT, 32), 32)
    found = rounded("nearest", False, folded, weights, images(2, 32))
    assert set(found.grids) == set(found.weights) == set(weights)
    for name, array in weights.items():
        used = grid.fit(array, 8 if name in rounding.arrays(folded) else 16)
        assert found.grids[name] == used
        assert (found.weights[name] == grid.decode(grid.encode(array, used), used)).all()


def test_the_means_of_the_outputs_are_kept() -> None:
    torch.manual_seed(0)
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 16)
    folded, weights = folding.fold(model, 16)
    pixels = images(12, 16)
    exact = execution.run(folded, weights, pixels).mean(0)

    def off(correct: bool) -> float:
        found = rounded("nearest", correct, folded, weights, pixels)
        return float((execution.run(folded, found.weights, pixels).mean(0) - exact).abs().max())

    assert off(True) < 0.1 * off(False)


def test_what_a_relu_cuts_off_does_not_move_what_it_leaves() -> None:
    """One channel: error only where the activation is off. The bias must not follow it."""
    error, value = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), -1.0)
    error[..., :2], value[..., 2:] = 1.0, 1.0
    folded: dict[str, Any] = {
        "input": {"name": "x", "shape": [1, 4, 4]},
        "nodes": [
            {"op": "conv", "name": "c", "inputs": ["x"]},
            {"op": "activation", "function": "relu", "name": "a", "inputs": ["c"]},
        ],
    }
    slope = rounding._slope(folded, folded["nodes"][0], value)
    assert rounding._shift(error, slope)[0] == 0
    assert rounding._shift(error, torch.ones_like(error))[0] == pytest.approx(0.5, rel=0.02)
    assert rounding._shift(torch.ones_like(error), slope)[0] == pytest.approx(1, rel=0.03)
    assert rounding._shift(torch.ones_like(error), torch.zeros_like(error))[0] == 0
