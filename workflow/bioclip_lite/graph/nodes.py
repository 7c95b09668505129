"""The graph as data: nodes that JSON can hold, and their arrays by name.

A graph has "input" (name, shape), "nodes" in the order in which they are computed, and "output", the name of the node
that answers. Each node has "op", "name", "inputs" (names), "shape" without the batch, the attributes of its operation,
and under the keys ``ARRAYS`` the names of its arrays.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

Graph = dict[str, Any]
Node = dict[str, Any]
Weights = dict[str, np.ndarray]

ARRAYS = ("weight", "bias", "shift", "positions")  # keys of nodes


def arrays_of(node: Node, weights: Mapping[str, np.ndarray]) -> Weights:
    """The arrays of one node by key."""
    return {key: weights[node[key]] for key in ARRAYS if key in node}


def shapes_of(graph: Graph) -> dict[str, list[int]]:
    """Shape of the input and of each node's output by name, without the batch."""
    return {node["name"]: node["shape"] for node in [graph["input"], *graph["nodes"]]}


def is_layer(node: Node) -> bool:
    """Whether a node multiplies its input with a weight: conv, depthwise, linear.

    The "affine" nodes that exist while ``folding`` works have a weight too, but are no layers.
    """
    return "weight" in node and node["op"] != "affine"
