"""The graph in PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Graph = dict[str, Any]
Weights = dict[str, np.ndarray]
Node = dict[str, Any]


def _scaled_gelu(u: torch.Tensor) -> torch.Tensor:
    """GELU of x = sqrt(2) u, times sqrt(2): u (1 + erf u)."""
    return u * (1 + torch.erf(u))


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "scaled_gelu": _scaled_gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
}


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


def execute(node: Node, weights: Mapping[str, np.ndarray], x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """The value of one node from those of its inputs."""
    op = node["op"]
    if op in ("conv", "depthwise"):
        weight, bias = torch.from_numpy(weights[node["weight"]]), torch.from_numpy(weights[node["bias"]])
        top, bottom, left, right = node["pads"]
        padding: tuple[int, int] = (top, left)
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        groups = 1 if op == "conv" else x.shape[1]
        return F.conv2d(x, weight, bias, tuple(node["strides"]), padding, tuple(node["dilations"]), groups)
    if op == "linear":
        return F.linear(x, torch.from_numpy(weights[node["weight"]]), torch.from_numpy(weights[node["bias"]]))
    if op == "activation":
        return ACTIVATIONS[node["function"]](x)
    if op == "add":
        return x + others[0]
    if op == "multiply":
        return x * others[0]
    if op == "shift":
        return x + torch.from_numpy(weights[node["shift"]])
    if op == "normalize":
        centred = x - x.mean(1, keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean(1, keepdim=True) + node["eps"])
    if op == "attention":
        return _attention(node, weights, x)
    if op == "multi_query":
        (b, c, h, w), heads, (k, v) = x.shape, node["heads"], others
        q = x.reshape(b, heads, c // heads, h * w).transpose(2, 3)
        shared = (q @ k.flatten(2)[:, None]).softmax(dim=-1)
        return (shared @ v.flatten(2).transpose(1, 2)[:, None]).transpose(2, 3).reshape(b, -1, h, w)
    if op == "max_pool":
        top, bottom, left, right = node["pads"]
        x = F.pad(x, (left, right, top, bottom), value=float("-inf"))
        return F.max_pool2d(x, node["kernel"], node["strides"])
    if op == "average_pool":
        return F.avg_pool2d(x, node["kernel"], node["strides"], ceil_mode=True, count_include_pad=False)
    if op == "pad":
        top, bottom, left, right = node["pads"]
        return F.pad(x, (left, right, top, bottom))
    if op == "crop":
        (top, left), (_, height, width) = node["start"], node["shape"]
        return x[:, :, top : top + height, left : left + width]
    if op == "reshape":
        return x.reshape(len(x), *node["shape"])
    if op == "mean":
        return x.mean((2, 3), keepdim=True)
    if op == "flatten":
        return x.flatten(1)
    raise ValueError(f"graph node {node['name']} has unknown operation {op}")


def _attention(node: Node, weights: Mapping[str, np.ndarray], x: torch.Tensor) -> torch.Tensor:
    b, c, h, w = x.shape
    heads, down, across = node["heads"], node.get("window", h), node.get("window", w)
    # (batch, rows of windows, columns of windows, channels, height of a window, its width)
    windows = x.reshape(b, c, h // down, down, w // across, across).permute(0, 2, 4, 1, 3, 5)
    q, k, v = windows.reshape(-1, 3, heads, c // (3 * heads), down * across).unbind(1)  # (windows, heads, d, positions)
    scores = q.transpose(-2, -1) @ k
    if "positions" in node:
        scores = scores + torch.from_numpy(weights[node["positions"]])
    mixed = (v @ scores.softmax(dim=-1).transpose(-2, -1)).reshape(b, h // down, w // across, c // 3, down, across)
    return mixed.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 3, h, w)


def macs(graph: Graph, weights: Mapping[str, np.ndarray]) -> int:
    """Multiply-accumulates of one image: convolutions, linear layers and attention's two products."""
    shapes = {node["name"]: node["shape"] for node in [graph["input"], *graph["nodes"]]}
    total = 0
    for node in graph["nodes"]:
        positions = int(np.prod(node["shape"][1:]))
        if "weight" in node:
            total += weights[node["weight"]].size * positions
        elif node["op"] == "attention":
            total += 2 * node["shape"][0] * positions * (node["window"] ** 2 if "window" in node else positions)
        elif node["op"] == "multi_query":
            queries, keys = (shapes[name] for name in node["inputs"][:2])
            total += positions * int(np.prod(keys[1:])) * (queries[0] + node["shape"][0])
    return total
