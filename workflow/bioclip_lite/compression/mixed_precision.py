"""Quantize a folded graph to 8-bit weights, biases and the most sensitive weights to 16 bits, within a budget of bytes.

The sensitivity of an array is the distance by which quantizing it alone moves the unit embeddings of calibration
inputs. 16 bits go where a further byte removes most squared error, until the budget is spent. ``rounding`` then rounds
the weights with the least error of the layers' outputs. Where it helps, ``equalize`` scales channels to like size
before.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bioclip_lite.compression import grid, rounding
from bioclip_lite.compression.equalize import equalize
from bioclip_lite.compression.grid import Grid
from bioclip_lite.compression.rounding import Rounded, onto_grids
from bioclip_lite.graph import execution
from bioclip_lite.graph.nodes import Graph, Weights
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.progress import progress

RANKING = 32  # inputs that rank the layers; all of them measure the result
_BATCH = 32
_RANKED = 8  # of these at once, with the outputs of all nodes in memory


@dataclass(frozen=True)
class Quantized:
    rounded: Rounded
    equalized: bool
    exact: np.ndarray  # unit embeddings of the calibration inputs in float32
    cosines: dict[str, float]  # "mean" and "min" between these and the rounded graph's
    sensitivity: dict[str, float]  # of each weight, see ``sensitivity``

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each array."""
        return {name: self.rounded.weights[name].size * used.bits // 8 for name, used in self.rounded.grids.items()}

    @property
    def bytes_per_parameter(self) -> float:
        return sum(self.sizes.values()) / sum(array.size for array in self.rounded.weights.values())


def quantize(
    folded: Graph, weights: Weights, images: torch.Tensor, bytes_per_parameter: float, repair: Mapping[str, Any]
) -> Quantized:
    """Round the graph within a budget of bytes.

    ``images``: preprocessed, float32 (n, 3, size, size), or other inputs of the graph. ``repair``: section
    quantize.repair of params.yaml. Raises UserError if 8 bits for the weights and 16 for the biases already exceed the
    budget.
    """
    exact = embed(folded, weights, images)
    candidates = []
    for equalized in (False, True) if repair["equalise"] else (False,):
        start = equalize(folded, weights) if equalized else weights
        grids, shifts = choose_grids(folded, start, images[:RANKING], bytes_per_parameter)
        rounded = onto_grids(folded, start, grids, images, repair["rounding"], repair["bias"])
        cosines = _cosines(exact, embed(folded, rounded.weights, images))
        candidates.append(Quantized(rounded, equalized, exact, cosines, shifts))
    return max(candidates, key=lambda candidate: candidate.cosines["mean"])


def report(folded: Graph, weights: Weights, images: torch.Tensor, result: Quantized) -> dict[str, Any]:
    """The content of report.json, layer by layer: arguments and result of ``quantize``."""
    rounded, shifts, sizes = result.rounded, result.sensitivity, result.sizes
    # Equalization changes no function, so the layers' outputs before repair are those of the plain weights.
    plain_grids = {name: grid.fit(weights[name], rounded.grids[name].bits) for name in shifts}
    plain = onto_grids(folded, weights, plain_grids, images, "nearest", False)
    parameters = sum(array.size for array in weights.values())
    layers = [
        {
            "weight": name,
            "shape": list(weights[name].shape),
            "bits": rounded.grids[name].bits,
            "bytes": sizes[name],
            "sensitivity": shifts[name],
            "sqnr_db": sqnr(weights[name], plain.weights[name]),
            "output_sqnr_db": {"nearest": plain.sqnr.get(name), "repaired": rounded.sqnr.get(name)},
        }
        for name in shifts
    ]
    return {
        "cosine": result.cosines,
        "equalized": result.equalized,
        "cosine_unrepaired": _cosines(result.exact, embed(folded, plain.weights, images)),
        "images": len(images),
        "parameters": parameters,
        "bytes_per_parameter": result.bytes_per_parameter,
        "bytes_float32": 4 * parameters,
        "macs": execution.macs(folded, weights),
        "layers": layers,
    }


def choose_grids(
    folded: Graph, weights: Weights, images: torch.Tensor, bytes_per_parameter: float
) -> tuple[dict[str, Grid], dict[str, float]]:
    """(grid by name of every array but the biases, sensitivity by name), within the budget."""
    names = rounding.arrays(folded)
    narrow = {name: grid.fit(weights[name], 8) for name in names}
    sizes = {name: array.size for name, array in weights.items()}
    least = _least(names, sizes)
    budget = int(bytes_per_parameter * sum(sizes.values()))
    if least > budget:
        raise UserError(
            f"quantize.bytes_per_parameter is {bytes_per_parameter}, but this thin student needs "
            f"{least / sum(sizes.values()):.4f} with 8 bits for weights and {rounding.BIAS_BITS} for biases. Set it to "
            f"at least {least_bytes_per_parameter(folded, weights)}, or prune less"
        )
    shifts = sensitivity(folded, weights, narrow, images, embed(folded, weights, images))
    wide = most_worth(shifts, sizes, budget - least)
    return {name: grid.fit(weights[name], 16) if name in wide else narrow[name] for name in names}, shifts


def least_bytes_per_parameter(folded: Graph, weights: Weights) -> float:
    """The least budget in bytes per parameter, rounded up to a thousandth."""
    sizes = {name: array.size for name, array in weights.items()}
    return float(np.ceil(1000 * _least(rounding.arrays(folded), sizes) / sum(sizes.values())) / 1000)


def _least(names: Collection[str], sizes: Mapping[str, int]) -> int:
    """Bytes with 8 bits for the arrays in ``names`` and ``BIAS_BITS`` for the biases."""
    return sum(size if name in names else size * rounding.BIAS_BITS // 8 for name, size in sizes.items())


def embed(folded: Graph, weights: Mapping[str, np.ndarray], images: torch.Tensor) -> np.ndarray:
    """Unit embeddings, float32 (n, D) or (n, D, positions...), of the graph's inputs, e.g. (n, 3, size, size)."""
    outputs = torch.cat([execution.run(folded, weights, batch) for batch in images.split(_BATCH)])
    return torch.nn.functional.normalize(outputs, dim=1).numpy()


def _cosines(exact: np.ndarray, found: np.ndarray) -> dict[str, float]:
    cosines = (exact.astype(np.float64) * found).sum(axis=1)
    return {"mean": float(cosines.mean()), "min": float(cosines.min())}


def sensitivity(
    folded: Graph, weights: Weights, grids: Mapping[str, Grid], images: torch.Tensor, exact: np.ndarray
) -> dict[str, float]:
    """Root mean square distance of unit embeddings when only one array is quantized, by name of the array."""
    total = dict.fromkeys(grids, 0.0)
    batches = list(zip(images.split(_RANKED), torch.from_numpy(exact).split(_RANKED), strict=True))
    steps = ((batch, name) for batch in batches for name in grids)
    unrounded: dict[str, torch.Tensor] = {}
    for (pixels, unit), name in progress(steps, len(batches) * len(grids), "quantize: layers measured"):
        if unrounded.get(folded["input"]["name"]) is not pixels:
            unrounded = _values(folded, weights, {folded["input"]["name"]: pixels})
        alone = {**weights, name: grid.decode(grid.encode(weights[name], grids[name]), grids[name])}
        first = next(i for i, node in enumerate(folded["nodes"]) if name in node.values())
        before = {node["name"] for node in [folded["input"], *folded["nodes"][:first]]}
        start = {key: value for key, value in unrounded.items() if key in before}
        outputs = _values(folded, alone, start)[folded["output"]]
        moved = torch.nn.functional.normalize(outputs, dim=1) - unit
        total[name] += float(moved.square().sum(dtype=torch.float64))
    return {name: float(np.sqrt(squares / len(images))) for name, squares in total.items()}


@torch.inference_mode()
def _values(folded: Graph, weights: Weights, computed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Outputs of all nodes by name; ``computed`` holds those that are available already."""
    values = dict(computed)
    for node in folded["nodes"]:
        if node["name"] not in values:
            values[node["name"]] = execution.execute(node, weights, *[values[name] for name in node["inputs"]])
    return values


def most_worth(shifts: Mapping[str, float], sizes: Mapping[str, int], budget: int) -> list[str]:
    """Choose the arrays that get a further byte per value: largest squared shift per byte first, within ``budget``.

    Skips an array that does not fit in favour of smaller ones.
    """
    chosen = []
    for name in sorted(shifts, key=lambda name: (-(shifts[name] ** 2) / sizes[name], name)):
        if sizes[name] <= budget:
            chosen.append(name)
            budget -= sizes[name]
    return chosen


def sqnr(exact: np.ndarray, rounded: np.ndarray) -> float | None:
    """Signal to quantization noise ratio, 10 log10(sum w^2 / sum (w - w')^2), in dB; None if there is no noise."""
    signal = np.square(exact, dtype=np.float64).sum()
    noise = np.square(exact.astype(np.float64) - rounded).sum()
    return float(10 * np.log10(signal / noise)) if noise > 0 and signal > 0 else None
