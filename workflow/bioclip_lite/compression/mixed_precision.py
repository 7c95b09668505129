"""A folded graph in 8-bit weights, biases and the most sensitive weights in 16 bits, within a budget of bytes.

The error of each array is the distance that quantizing it alone moves the unit embeddings of calibration inputs; 16
bits go where a further byte removes most squared error, until the budget is spent. Then the weights are rounded so that
the layers' outputs suffer least (``rounding``), before that, where it helps, with channels scaled to like size
(``equalise``).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bioclip_lite import graph
from bioclip_lite.compression import grid, rounding
from bioclip_lite.compression.equalise import equalise
from bioclip_lite.compression.grid import Grid
from bioclip_lite.compression.rounding import Rounded, onto_grids
from bioclip_lite.graph import Graph, Weights
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.progress import progress

RANKING = 32  # inputs that rank the layers; all of them measure the result
_BATCH = 32
_RANKED = 8  # of these at once, with the values of all nodes in memory


@dataclass(frozen=True)
class Quantized:
    rounded: Rounded
    equalised: bool
    exact: np.ndarray  # unit embeddings of the calibration inputs in float32
    cosines: dict[str, float]  # "mean" and "min", to these
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
    """The rounded graph, within a budget of bytes.

    ``images``: preprocessed, float32 (n, 3, size, size), or what else the graph takes. ``repair``: section
    quantize.repair of params.yaml. Raises UserError if 8 bits for the weights and 16 for the biases already exceed the
    budget.
    """
    exact = embed(folded, weights, images)
    candidates = []
    for equalised in (False, True) if repair["equalise"] else (False,):
        start = equalise(folded, weights) if equalised else weights
        grids, shifts = choose_grids(folded, start, images[:RANKING], bytes_per_parameter)
        rounded = onto_grids(folded, start, grids, images, repair["rounding"], repair["bias"])
        cosines = _cosines(exact, embed(folded, rounded.weights, images))
        candidates.append(Quantized(rounded, equalised, exact, cosines, shifts))
    return max(candidates, key=lambda candidate: candidate.cosines["mean"])


def report(folded: Graph, weights: Weights, images: torch.Tensor, found: Quantized) -> dict[str, Any]:
    """The content of report.json for a quantized graph, layer by layer; arguments as of ``quantize``."""
    rounded, shifts, sizes = found.rounded, found.sensitivity, found.sizes
    # Equalised or not, the function is the same, so the layers' outputs before repair are those of the plain weights.
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
        "cosine": found.cosines,
        "equalised": found.equalised,
        "cosine_unrepaired": _cosines(found.exact, embed(folded, plain.weights, images)),
        "images": len(images),
        "parameters": parameters,
        "bytes_per_parameter": found.bytes_per_parameter,
        "bytes_float32": 4 * parameters,
        "macs": graph.macs(folded, weights),
        "layers": layers,
    }


def choose_grids(
    folded: Graph, weights: Weights, images: torch.Tensor, bytes_per_parameter: float
) -> tuple[dict[str, Grid], dict[str, float]]:
    """(grid of each array but the biases, its sensitivity) such that all arrays together keep the budget."""
    names = rounding.arrays(folded)
    narrow = {name: grid.fit(weights[name], 8) for name in names}
    sizes = {name: array.size for name, array in weights.items()}
    least = _least(names, sizes)
    budget = int(bytes_per_parameter * sum(sizes.values()))
    if least > budget:
        raise UserError(
            f"quantize.bytes_per_parameter is {bytes_per_parameter}: with 8 bits for weights and {rounding.BIAS_BITS} "
            f"for biases this student takes {least / sum(sizes.values()):.4f}, as it is thin. Set it to at least "
            f"{least_bytes_per_parameter(folded, weights)}, or prune less"
        )
    shifts = sensitivity(folded, weights, narrow, images, embed(folded, weights, images))
    wide = most_worth(shifts, sizes, budget - least)
    return {name: grid.fit(weights[name], 16) if name in wide else narrow[name] for name in names}, shifts


def least_bytes_per_parameter(folded: Graph, weights: Weights) -> float:
    """What a budget must allow, rounded up to a thousandth."""
    sizes = {name: array.size for name, array in weights.items()}
    return float(np.ceil(1000 * _least(rounding.arrays(folded), sizes) / sum(sizes.values())) / 1000)


def _least(names: Collection[str], sizes: Mapping[str, int]) -> int:
    """Bytes with 8 bits for the weights in ``names`` and more for the biases."""
    return sum(size if name in names else size * rounding.BIAS_BITS // 8 for name, size in sizes.items())


def embed(folded: Graph, weights: Mapping[str, np.ndarray], images: torch.Tensor) -> np.ndarray:
    """Unit embeddings, float32 (n, D), of preprocessed images (n, 3, size, size); (n, D, ...) where there are many."""
    outputs = torch.cat([graph.run(folded, weights, batch) for batch in images.split(_BATCH)])
    return torch.nn.functional.normalize(outputs, dim=1).numpy()


def _cosines(exact: np.ndarray, found: np.ndarray) -> dict[str, float]:
    cosines = (exact.astype(np.float64) * found).sum(axis=1)
    return {"mean": float(cosines.mean()), "min": float(cosines.min())}


def sensitivity(
    folded: Graph, weights: Weights, grids: Mapping[str, Grid], images: torch.Tensor, exact: np.ndarray
) -> dict[str, float]:
    """For each weight of ``grids``: root mean square distance of unit embeddings when only it is quantized."""
    total = dict.fromkeys(grids, 0.0)
    batches = list(zip(images.split(_RANKED), torch.from_numpy(exact).split(_RANKED), strict=True))
    steps = ((batch, name) for batch in batches for name in grids)
    known: dict[str, torch.Tensor] = {}
    for (pixels, unit), name in progress(steps, len(batches) * len(grids), "quantize: layers measured"):
        if known.get(folded["input"]["name"]) is not pixels:
            known = _values(folded, weights, {folded["input"]["name"]: pixels})
        alone = {**weights, name: grid.decode(grid.encode(weights[name], grids[name]), grids[name])}
        first = next(i for i, node in enumerate(folded["nodes"]) if name in node.values())
        before = {node["name"] for node in [folded["input"], *folded["nodes"][:first]]}
        found = _values(folded, alone, {key: value for key, value in known.items() if key in before})[folded["output"]]
        moved = torch.nn.functional.normalize(found, dim=1) - unit
        total[name] += float(moved.square().sum(dtype=torch.float64))
    return {name: float(np.sqrt(squares / len(images))) for name, squares in total.items()}


@torch.inference_mode()
def _values(folded: Graph, weights: Weights, known: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The values of all nodes by name, of which ``known`` need not be computed again."""
    values = dict(known)
    for node in folded["nodes"]:
        if node["name"] not in values:
            values[node["name"]] = graph.execute(node, weights, *[values[name] for name in node["inputs"]])
    return values


def most_worth(shifts: Mapping[str, float], sizes: Mapping[str, int], budget: int) -> list[str]:
    """The weights to take a further byte per value: largest squared shift per byte first, while ``budget`` lasts.

    One that does not fit is passed over for smaller ones.
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
