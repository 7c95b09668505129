"""Cross-layer equalisation: the same function with channels of like size, so that one grid per tensor suits them all.

A layer's output channel may be multiplied by s and whatever reads it divided by s, as long as nothing in between tells
the difference: ReLU, pooling, sums of equally scaled branches. The graph shows which channels must share a factor: all
branches of a residual stream, a channel before and after its pooling, attention's values and its output. Channels that
enter or leave anything else (GELU, SiLU, softmax, the image, the embedding) keep their factor of 1. What remains is
chosen so that every row of a weight and the columns that read it span the same range (Nagel et al. 2019,
Data-free quantization, section 4.1), here by sweeping over the channels until nothing moves.
"""

from collections.abc import Mapping

import numpy as np

from bioclip_lite.graph import Graph, Weights

_SWEEPS = 30  # the largest move is far below a grid step by then
_LARGEST = 1e4  # of a factor: a channel that nothing reads must not go to infinity
_HOMOGENEOUS = {"relu"}
_SAME_CHANNELS = {"max_pool", "average_pool", "mean", "flatten", "pad", "crop", "reshape"}
_LAYERS = {"conv", "depthwise", "linear"}


def equalise(graph: Graph, weights: Mapping[str, np.ndarray]) -> Weights:
    """Weights by name, float32, for the same graph and the same outputs (up to rounding to float32)."""
    channels = _Channels(graph)
    scaled = {name: array.astype(np.float64) for name, array in weights.items()}
    layers = [node for node in graph["nodes"] if node["op"] in _LAYERS]
    reads = {node["name"]: channels.of[node["inputs"][0]] for node in layers}
    writes = {node["name"]: channels.of[node["name"]] for node in layers}
    logs = np.zeros(channels.count)
    for _ in range(_SWEEPS):
        # mean logarithm of the ranges on the two sides of each channel: what writes it, and what reads it
        sides = []
        for entries in (writes, reads):
            total, number = np.zeros(channels.count), np.zeros(channels.count)
            for node in layers:
                ids = entries[node["name"]]
                weight = _scaled(node["op"], scaled[node["weight"]], logs, writes[node["name"]], reads[node["name"]])
                sizes = _ranges(node["op"], weight, entries is writes, len(ids))
                seen = sizes > 0
                np.add.at(total, ids[seen], np.log(sizes[seen]))
                np.add.at(number, ids[seen], 1)
            sides.append((total, number))
        (written, writers), (read, readers) = sides
        free = (writers > 0) & (readers > 0)
        free[channels.fixed] = False
        step = np.zeros(channels.count)
        step[free] = 0.5 * (read[free] / readers[free] - written[free] / writers[free])
        logs = np.clip(logs + step, -np.log(_LARGEST), np.log(_LARGEST))
    for node in layers:
        scaled[node["weight"]] = _scaled(
            node["op"], scaled[node["weight"]], logs, writes[node["name"]], reads[node["name"]]
        )
        scaled[node["bias"]] = scaled[node["bias"]] * np.exp(logs[writes[node["name"]]])
    return {name: array.astype(np.float32) for name, array in scaled.items()}


def _scaled(op: str, weight: np.ndarray, logs: np.ndarray, written: np.ndarray, read: np.ndarray) -> np.ndarray:
    rows = np.exp(logs[written]).reshape(-1, *[1] * (weight.ndim - 1))
    if op == "depthwise":
        return weight * rows / np.exp(logs[np.repeat(read, len(weight) // len(read))]).reshape(rows.shape)
    return weight * rows / np.exp(logs[read]).reshape(1, -1, *[1] * (weight.ndim - 2))


def _ranges(op: str, weight: np.ndarray, rows: bool, count: int) -> np.ndarray:
    """Largest absolute value of each row, or of all that reads each of ``count`` input channels."""
    size = np.abs(weight).reshape(*weight.shape[:2], -1).max(axis=2)
    if rows:
        return size.max(axis=1)
    return size.reshape(count, -1).max(axis=1) if op == "depthwise" else size.max(axis=0)


class _Channels:
    """Which channels of the graph's values share a factor.

    ``of``: value name to int64 (channels,), the number of each channel's class; ``count`` classes; ``fixed`` is the
    class of those whose factor is 1.
    """

    def __init__(self, graph: Graph) -> None:
        self._parents = [0]  # class 0 is fixed
        raw: dict[str, list[int]] = {graph["input"]["name"]: [0] * graph["input"]["shape"][0]}
        for node in graph["nodes"]:
            raw[node["name"]] = self._after(node, [raw[name] for name in node["inputs"]])
        self._fix(raw[graph["output"]])
        roots = {name: [self._root(i) for i in ids] for name, ids in raw.items()}
        numbers = {root: number for number, root in enumerate(sorted({0, *(i for ids in roots.values() for i in ids)}))}
        self.of = {name: np.array([numbers[i] for i in ids], np.int64) for name, ids in roots.items()}
        self.count, self.fixed = len(numbers), numbers[self._root(0)]

    def _after(self, node: dict, inputs: list[list[int]]) -> list[int]:
        """The classes of a node's output channels; joins classes of its inputs where the node demands it."""
        op, first = node["op"], inputs[0]
        if op in _LAYERS:
            fresh = range(len(self._parents), len(self._parents) + node["shape"][0])
            self._parents += fresh
            return list(fresh)
        if op in _SAME_CHANNELS or (op == "activation" and node["function"] in _HOMOGENEOUS):
            return first
        if op == "add":
            for left, right in zip(first, inputs[1], strict=True):
                self._join(left, right)
            return first
        if op == "multiply":  # by a gate, which keeps its size
            self._fix(inputs[1])
            return first
        if op == "attention":
            inner = node["shape"][0]
            self._fix(first[: 2 * inner])
            return first[2 * inner :]
        if op == "multi_query":  # every head mixes the same values
            self._fix(first + inputs[1])
            return inputs[2] * (node["shape"][0] // len(inputs[2]))
        for ids in inputs:
            self._fix(ids)
        return [0] * node["shape"][0]

    def _root(self, i: int) -> int:
        while self._parents[i] != i:
            self._parents[i] = self._parents[self._parents[i]]
            i = self._parents[i]
        return i

    def _join(self, left: int, right: int) -> None:
        low, high = sorted((self._root(left), self._root(right)))
        self._parents[high] = low

    def _fix(self, ids: list[int]) -> None:
        for i in ids:
            self._join(0, i)
