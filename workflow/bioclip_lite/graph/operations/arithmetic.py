"""Sums, products and normalisation.

add: two inputs of equal shape.
multiply: two inputs of equal shape, or the second, a gate, (batch, channels, 1, 1) or (batch, 1, height, width).
shift: adds the array ``shift`` (channels, height, width): class token, position embedding.
normalize: (x - mean) / sqrt(variance + ``eps``) over the channels of each position.
normalize_image: the same over all channels and positions.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from bioclip_lite.graph.channel_groups import ChannelGroups
from bioclip_lite.graph.nodes import Node
from bioclip_lite.graph.operations.operation import Arrays, Operation, Shapes, fixed_channels, no_macs

if TYPE_CHECKING:
    import torch

    from bioclip_lite.graph.onnx_file import OnnxFile


def _add_channels(groups: ChannelGroups, node: Node, left: list[int], right: list[int]) -> list[int]:
    """Both terms of a sum have one factor."""
    for one, other in zip(left, right, strict=True):
        groups.join(one, other)
    return left


def _multiply_channels(groups: ChannelGroups, node: Node, channels: list[int], gate: list[int]) -> list[int]:
    """A gate keeps its size."""
    groups.fix(gate)
    return channels


def _shift_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    import torch

    return x + torch.from_numpy(arrays["shift"])


def _shift_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    return file.add("Add", [x, file.constant(node["shift"], arrays["shift"][None])], node["name"])


def _normalize_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    import torch

    centred = x - x.mean(1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(1, keepdim=True) + node["eps"])


def _normalize_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + np.float32(node["eps"]))


def _normalize_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    """Over the channels, or over the whole image."""
    name, axes = node["name"], [1] if node["op"] == "normalize" else [1, 2, 3]
    centred = file.add("Sub", [x, file.add("ReduceMean", [x], f"{name} mean", axes=axes)], f"{name} centred")
    squares = file.add("Mul", [centred, centred], f"{name} squares")
    variance = file.add("ReduceMean", [squares], f"{name} variance", axes=axes)
    above = file.add("Add", [variance, file.number(node["eps"])], f"{name} eps")
    return file.add("Div", [centred, file.add("Sqrt", [above], f"{name} deviation")], name)


def _normalize_image_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.layer_norm(x, x.shape[1:], eps=node["eps"])


def _normalize_image_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    centred = x - tf.reduce_mean(x, [1, 2, 3], keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), [1, 2, 3], keepdims=True)
    return centred * tf.math.rsqrt(variance + np.float32(node["eps"]))


OPERATIONS = {
    "add": Operation(
        pytorch=lambda node, arrays, x, y: x + y,
        tensorflow=lambda tf, node, arrays, x, y: x + y,
        onnx=lambda file, node, arrays, shapes, x, y: file.add("Add", [x, y], node["name"]),
        macs=no_macs,
        channels=_add_channels,
    ),
    "multiply": Operation(
        pytorch=lambda node, arrays, x, y: x * y,
        tensorflow=lambda tf, node, arrays, x, y: x * y,
        onnx=lambda file, node, arrays, shapes, x, y: file.add("Mul", [x, y], node["name"]),
        macs=no_macs,
        channels=_multiply_channels,
    ),
    "shift": Operation(
        pytorch=_shift_pytorch,
        tensorflow=lambda tf, node, arrays, x: x + tf.constant(arrays["shift"]),
        onnx=_shift_onnx,
        macs=no_macs,
        channels=fixed_channels,
        layouts={"shift": lambda shift, _: shift.transpose(1, 2, 0)},
    ),
    "normalize": Operation(
        pytorch=_normalize_pytorch,
        tensorflow=_normalize_tensorflow,
        onnx=_normalize_onnx,
        macs=no_macs,
        channels=fixed_channels,
    ),
    "normalize_image": Operation(
        pytorch=_normalize_image_pytorch,
        tensorflow=_normalize_image_tensorflow,
        onnx=_normalize_onnx,
        macs=no_macs,
        channels=fixed_channels,
    ),
}
