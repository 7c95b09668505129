"""The nodes and arrays of a graph while a trace is translated."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from bioclip_lite.graph.nodes import Node, Weights

# How PyTorch lays a value out, without the batch: C channels, H height, W width, N positions in a row.
POSITIONS = {"CHW": (1, 2), "HWC": (0, 1), "NC": (0,), "CN": (1,), "C": ()}  # layout: axes other than the channels
_QUICK = 1.702  # of OpenAI's GELU, x sigmoid(1.702 x)


class Value(NamedTuple):
    """A traced value: the name of the node that holds it, and the order of the axes that PyTorch gave it."""

    name: str
    layout: str


class Builder:
    """Nodes and float64 arrays so far, and what each fx node has become.

    ``values``: fx node to value. ``parameters``: fx node to a tensor that depends on parameters alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.nodes: list[Node] = []
        self.weights: Weights = {}
        self.values: dict[Any, Value] = {}
        self.parameters: dict[Any, torch.Tensor] = {}

    def emit(self, op: str, name: str, inputs: list[str], shape: list[int], **attributes: Any) -> str:
        """Add a node; returns its name."""
        self.nodes.append({"op": op, "name": name, "inputs": inputs, "shape": shape, **attributes})
        return name

    def shape_of(self, value: Value) -> list[int]:
        """Shape without the batch, in the graph's order."""
        return next(node["shape"] for node in reversed(self.nodes) if node["name"] == value.name)

    def store_layer(self, layer: str, weight: torch.Tensor, bias: torch.Tensor | None) -> dict[str, str]:
        """Store both arrays under the layer's name; every layer gets a bias, which folding may need.

        Returns:
            The attributes of the node: "weight" and "bias", names of arrays.
        """
        unique = self.free_name(layer, "weight")
        array = weight.detach().numpy().copy()
        self.weights[f"{unique}.weight"] = array
        self.weights[f"{unique}.bias"] = np.zeros(len(array)) if bias is None else bias.detach().numpy().copy()
        return {"weight": f"{unique}.weight", "bias": f"{unique}.bias"}

    def store_positions(self, name: str, positions: torch.Tensor) -> str:
        """Store what attention adds to its scores, or multiplies them with; returns the name of the array."""
        key = f"{self.free_name(name, 'positions')}.positions"
        self.weights[key] = positions.numpy().copy()
        return key

    def free_name(self, layer: str, key: str) -> str:
        """A name without an array ``key`` yet: a module that is called twice is folded twice, so it needs two."""
        names = (layer, *(f"{layer}.{count}" for count in range(1, 1 + len(self.weights))))
        return next(name for name in names if f"{name}.{key}" not in self.weights)

    def linear(self, layer: str, node: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> Value:
        """The linear layer of a traced call; on the channels of positions it is a 1 x 1 convolution."""
        value = self.values[node.args[0]]
        if value.layout == "C":
            arrays = self.store_layer(layer, weight, bias)
            return Value(self.emit("linear", node.name, [value.name], traced_shape(node), **arrays), "C")
        arrays = self.store_layer(layer, weight[:, :, None, None], bias)
        geometry = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
        shape = graph_shape(traced_shape(node), value.layout)
        return Value(self.emit("conv", node.name, [value.name], shape, **geometry, **arrays), value.layout)

    def affine(self, name: str, source: Value, scale: torch.Tensor, shift: torch.Tensor | None = None) -> Value:
        """scale * x + shift, both per channel."""
        arrays = self.store_layer(name, scale.flatten(), None if shift is None else shift.flatten())
        return Value(self.emit("affine", name, [source.name], self.shape_of(source), **arrays), source.layout)

    def scaled(self, name: str, source: Value, factor: float) -> Value:
        """factor * x."""
        return self.affine(name, source, torch.full((self.shape_of(source)[0],), factor, dtype=torch.float64))

    def moved(self, name: str, source: Value, amount: torch.Tensor) -> Value:
        """x + amount, one number."""
        ones = torch.ones(self.shape_of(source)[0], dtype=torch.float64)
        return self.affine(name, source, ones, ones * amount.flatten())

    def shifted(self, name: str, source: Value, array: torch.Tensor) -> Value:
        """The sum with an array in the graph's order, float64 (channels, height, width)."""
        key = f"{self.free_name(name, 'shift')}.shift"
        self.weights[key] = array.numpy().copy()
        return Value(self.emit("shift", name, [source.name], self.shape_of(source), shift=key), source.layout)

    def activation(self, name: str, source: Value, function: str) -> Value:
        """An activation by its name in graph.operations, or "quick_gelu"."""
        if function == "quick_gelu":
            silu = self.activation(f"{name}_silu", self.scaled(f"{name}_in", source, _QUICK), "silu")
            return self.scaled(name, silu, 1 / _QUICK)
        shape = self.shape_of(source)
        return Value(self.emit("activation", name, [source.name], shape, function=function), source.layout)


def traced_shape(node: Any) -> list[int]:
    """Shape of an fx node in PyTorch's order, without the batch; [] for a value that is not one tensor."""
    return list(node.meta.get("shape", [0])[1:])


def graph_shape(shape: list[int], layout: str) -> list[int]:
    """A shape in PyTorch's order as (channels, height, width) or (channels,)."""
    if layout == "HWC":
        return [shape[2], shape[0], shape[1]]
    if layout in ("NC", "CN"):
        return [shape[layout.index("C")], shape[layout.index("N")], 1]
    return shape


def flat(values: Any) -> list[int]:
    """Axes, however they are given: (0, 2, 1), ((0, 2, 1),) or an int."""
    return [n for value in values for n in (flat(value) if isinstance(value, list | tuple) else [value])]
