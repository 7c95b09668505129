"""Cross-layer equalization: the same function with channels of like size, so that one grid per tensor suits them all.

A layer's output channel may be multiplied by s and every column that reads it divided by s, as long as all in between
commutes with s: ReLU, pooling, sums of equally scaled branches. The graph determines which channels must share a factor
(``channels`` of graph.operations): all branches of a residual stream, a channel before and after its pooling,
attention's values and its output. Channels that enter or leave anything else (GELU, SiLU, softmax, the image, the
embedding) have the factor 1. The other factors are chosen so that every row of a weight and the columns that read it
span the same range (Nagel et al. 2019, Data-free quantization, section 4.1), by sweeping over the channels until
nothing moves.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from bioclip_lite.graph.channel_groups import ChannelGroups
from bioclip_lite.graph.nodes import Graph, Weights, is_layer
from bioclip_lite.graph.operations.table import operation_of

_SWEEPS = 30  # the largest move is far below a grid step by then
_LARGEST = 1e4  # of a factor: a channel that nothing reads must not go to infinity


def equalize(graph: Graph, weights: Mapping[str, np.ndarray]) -> Weights:
    """Weights by name, float32, for the same graph and the same outputs (up to rounding to float32)."""
    groups, count = scale_groups(graph)
    layers = [node for node in graph["nodes"] if is_layer(node)]
    written, read = [groups[node["name"]] for node in layers], [groups[node["inputs"][0]] for node in layers]
    exact = [weights[node["weight"]].astype(np.float64) for node in layers]

    def scaled(logs: np.ndarray) -> list[np.ndarray]:
        factors = np.exp(logs)
        return [
            scale_layer(node["op"], weight, factors[rows], factors[columns])
            for node, weight, rows, columns in zip(layers, exact, written, read, strict=True)
        ]

    logs = np.zeros(count)
    for _ in range(_SWEEPS):
        current = scaled(logs)
        row_logs, writers = _sums(zip(written, map(_row_ranges, current), strict=True), count)
        columns = [
            _column_ranges(node["op"], weight, len(ids))
            for node, weight, ids in zip(layers, current, read, strict=True)
        ]
        column_logs, readers = _sums(zip(read, columns, strict=True), count)
        free = (writers > 0) & (readers > 0)
        free[ChannelGroups.FIXED] = False
        step = np.zeros(count)
        step[free] = 0.5 * (column_logs[free] / readers[free] - row_logs[free] / writers[free])
        logs = np.clip(logs + step, -np.log(_LARGEST), np.log(_LARGEST))

    changed: dict[str, np.ndarray] = {}
    for node, weight, rows in zip(layers, scaled(logs), written, strict=True):
        changed[node["weight"]] = weight
        changed[node["bias"]] = weights[node["bias"]].astype(np.float64) * np.exp(logs[rows])
    return {name: changed.get(name, array).astype(np.float32) for name, array in weights.items()}


def scale_groups(graph: Graph) -> tuple[dict[str, np.ndarray], int]:
    """Which channels of the graph's values share a factor.

    Returns:
        (value name to int64 (channels,), the number of each channel's group; count of groups). The factor of group
        ``ChannelGroups.FIXED`` is 1.
    """
    groups = ChannelGroups()
    raw: dict[str, list[int]] = {graph["input"]["name"]: [groups.FIXED] * graph["input"]["shape"][0]}
    for node in graph["nodes"]:
        raw[node["name"]] = operation_of(node).channels(groups, node, *[raw[name] for name in node["inputs"]])
    groups.fix(raw[graph["output"]])
    roots = {name: [groups.root(channel) for channel in channels] for name, channels in raw.items()}
    used = sorted({groups.FIXED, *(root for each in roots.values() for root in each)})
    numbers = {root: number for number, root in enumerate(used)}
    return {name: np.array([numbers[root] for root in each], np.int64) for name, each in roots.items()}, len(numbers)


def scale_layer(op: str, weight: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``weight`` for inputs multiplied by ``columns`` (in,) and outputs multiplied by ``rows`` (out,)."""
    weight = weight * rows.reshape(-1, *[1] * (weight.ndim - 1))
    if op == "depthwise":
        return weight / np.repeat(columns, len(weight) // len(columns)).reshape(-1, *[1] * (weight.ndim - 1))
    return weight / columns.reshape(1, -1, *[1] * (weight.ndim - 2))


def _row_ranges(weight: np.ndarray) -> np.ndarray:
    """Largest absolute value of each output channel."""
    return np.abs(weight).reshape(len(weight), -1).max(axis=1)


def _column_ranges(op: str, weight: np.ndarray, channels: int) -> np.ndarray:
    """Largest absolute value of all that reads each of ``channels`` input channels."""
    if op == "depthwise":
        return _row_ranges(weight).reshape(channels, -1).max(axis=1)
    return np.abs(weight).reshape(*weight.shape[:2], -1).max(axis=(0, 2))


def _sums(ranges: Iterable[tuple[np.ndarray, np.ndarray]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the logarithms of each group's ranges, zeros left out, and their number; float64 (count,) each.

    ``ranges``: per layer (group of each channel, range of each channel).
    """
    total, number = np.zeros(count), np.zeros(count)
    for groups, sizes in ranges:
        seen = sizes > 0
        np.add.at(total, groups[seen], np.log(sizes[seen]))
        np.add.at(number, groups[seen], 1)
    return total, number
