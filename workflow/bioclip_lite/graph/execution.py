"""The graph in PyTorch, and its multiply-accumulates."""

from collections.abc import Mapping
from math import prod

import numpy as np
import torch

from bioclip_lite.graph.nodes import Graph, Node, arrays_of, shapes_of
from bioclip_lite.graph.operations.table import operation_of


@torch.inference_mode()
def run(graph: Graph, weights: Mapping[str, np.ndarray], images: torch.Tensor) -> torch.Tensor:
    """Un-normalised embeddings, float32 (batch, outputs), of preprocessed images, float32 (batch, 3, size, size)."""
    values = {graph["input"]["name"]: images}
    last_use = {name: i for i, node in enumerate(graph["nodes"]) for name in node["inputs"]}
    for i, node in enumerate(graph["nodes"]):
        values[node["name"]] = execute(node, weights, *[values[name] for name in node["inputs"]])
        for name in node["inputs"]:
            if last_use[name] == i:
                values.pop(name, None)
    return values[graph["output"]]


def execute(node: Node, weights: Mapping[str, np.ndarray], *inputs: torch.Tensor) -> torch.Tensor:
    """The output of one node, float32 (batch, *shape). Raises ValueError for an unknown operation."""
    return operation_of(node).pytorch(node, arrays_of(node, weights), *inputs)


def macs(graph: Graph, weights: Mapping[str, np.ndarray]) -> int:
    """Multiply-accumulates of one image: convolutions, linear layers and attention's two products."""
    shapes = shapes_of(graph)
    windows = {graph["input"]["name"]: 1}  # of one image, which are computed as images
    total = 0
    for node in graph["nodes"]:
        sizes = [shapes[name] for name in node["inputs"]]
        windows[node["name"]] = windows[node["inputs"][0]]
        if node["op"] in ("partition", "merge"):
            windows[node["name"]] = windows[node["name"]] * prod(sizes[0]) // prod(node["shape"])
        total += windows[node["name"]] * operation_of(node).macs(node, arrays_of(node, weights), sizes)
    return total
