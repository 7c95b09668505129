"""Attention whose cost grows with the number of positions, not with its square.

linear_attention: the input (batch, heads * 3 * d, height, width) holds queries, keys and values of each head in turn.
    With q and k after ReLU the answer is q (k^T v) / (q sum(k) + ``eps``) (EfficientViT, Cai et al., arXiv 2205.14756).
channel_attention: the input (batch, 3 * heads * d, ...) holds queries, keys and values; each channel attends to those
    of its head. Queries and keys have unit length over the positions; their products are multiplied by ``positions``
    (heads, 1, 1), the temperature, before the softmax (XCiT, El-Nouby et al., arXiv 2106.09681).
weighted_sum: inputs values (batch, channels, height, width) and scores (batch, 1, ...): the sum over the positions,
    1 x 1, with the softmax of the scores as weights (MobileViTv2, Mehta et al., arXiv 2206.02680).
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from bioclip_lite.graph.channel_groups import ChannelGroups
from bioclip_lite.graph.nodes import Node
from bioclip_lite.graph.operations.operation import Arrays, Operation, Shapes, no_macs

if TYPE_CHECKING:
    import torch

    from bioclip_lite.graph.onnx_file import OnnxFile

_SHORTEST = 1e-12  # length that is divided by, as in torch.nn.functional.normalize
_LEAST = np.float32(_SHORTEST**2)  # of a sum of squares


def _linear_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    heads, (channels, height, width) = node["heads"], node["shape"]
    q, k, v = x.reshape(-1, heads, 3, channels // heads, height * width).unbind(2)  # (batch, heads, d, positions)
    q, k = q.relu(), k.relu()
    mixed = (v @ k.transpose(-2, -1)) @ q
    return (mixed / (k.sum(-1)[:, :, None] @ q + node["eps"])).reshape(-1, *node["shape"])


def _linear_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    heads, (channels, height, width) = node["heads"], node["shape"]
    x = tf.transpose(tf.reshape(x, [-1, height * width, heads, 3 * channels // heads]), [0, 2, 1, 3])
    q, k, v = tf.split(x, 3, axis=-1)  # (batch, heads, positions, d)
    q, k = tf.nn.relu(q), tf.nn.relu(k)
    mixed = tf.matmul(q, tf.matmul(k, v, transpose_a=True))
    total = tf.matmul(q, tf.reduce_sum(k, 2, keepdims=True), transpose_b=True)
    mixed = tf.transpose(mixed / (total + np.float32(node["eps"])), [0, 2, 1, 3])
    return tf.reshape(mixed, [-1, height, width, channels])


def _linear_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    """As in PyTorch: queries, keys and values are (batch, heads, d, positions)."""
    name, heads, (channels, height, width) = node["name"], node["heads"], node["shape"]
    d = channels // heads
    x = file.add("Reshape", [x, file.shape(-1, heads, 3 * d, height * width)], f"{name} heads")
    q, k, v = _thirds(file, name, x, d)
    q, k = file.add("Relu", [q], f"{name} asked"), file.add("Relu", [k], f"{name} keyed")
    turned = file.add("Transpose", [k], f"{name} turned", perm=[0, 1, 3, 2])
    mixed = file.add("MatMul", [file.add("MatMul", [v, turned], f"{name} memory"), q], f"{name} mixed")
    total = file.add("ReduceSum", [turned, file.shape(2)], f"{name} sums")
    total = file.add("MatMul", [total, q], f"{name} total")
    total = file.add("Add", [total, file.number(node["eps"])], f"{name} above")
    x = file.add("Div", [mixed, total], f"{name} shares")
    return file.add("Reshape", [x, file.shape(-1, *node["shape"])], name)


def _thirds(file: "OnnxFile", name: str, x: str, size: int, axis: int = 2) -> list[str]:
    """Queries, keys and values, ``size`` each along an axis."""
    return [
        file.add("Slice", [x, file.shape(i * size), file.shape((i + 1) * size), file.shape(axis)], f"{name} {label}")
        for i, label in enumerate(("queries", "keys", "values"))
    ]


def _linear_macs(node: Node, arrays: Arrays, shapes: Shapes) -> int:
    """Values times keys, that times queries, and the sum of the keys times queries."""
    channels, height, width = node["shape"]
    return int(channels * height * width * (2 * channels // node["heads"] + 1))


def _linear_channels(groups: ChannelGroups, node: Node, channels: list[int]) -> list[int]:
    """The factors of values pass."""
    by_head = np.array(channels).reshape(node["heads"], 3, -1)
    groups.fix(by_head[:, :2].reshape(-1).tolist())
    values: list[int] = by_head[:, 2].reshape(-1).tolist()
    return values


def _channel_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    import torch
    import torch.nn.functional as F

    heads, (channels, height, width) = node["heads"], node["shape"]
    q, k, v = x.reshape(-1, 3, heads, channels // heads, height * width).unbind(1)  # (batch, heads, d, positions)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    if "positions" in arrays:
        scores = scores * torch.from_numpy(arrays["positions"])
    return (scores.softmax(dim=-1) @ v).reshape(-1, *node["shape"])


def _channel_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    heads, (channels, height, width) = node["heads"], node["shape"]
    x = tf.transpose(tf.reshape(x, [-1, height * width, 3 * heads, channels // heads]), [0, 2, 1, 3])
    q, k, v = tf.split(x, 3, axis=1)  # (batch, heads, positions, d)
    q, k = (y * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(y), 2, keepdims=True), _LEAST)) for y in (q, k))
    scores = tf.matmul(q, k, transpose_a=True)
    if "positions" in arrays:
        scores = scores * tf.constant(arrays["positions"])
    mixed = tf.transpose(tf.matmul(v, tf.nn.softmax(scores), transpose_b=True), [0, 2, 1, 3])
    return tf.reshape(mixed, [-1, height, width, channels])


def _channel_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    """As in PyTorch: queries, keys and values are (batch, heads, d, positions)."""
    name, heads, (channels, height, width) = node["name"], node["heads"], node["shape"]
    x = file.add("Reshape", [x, file.shape(-1, 3 * heads, channels // heads, height * width)], f"{name} heads")
    q, k, v = _thirds(file, name, x, heads, axis=1)
    q, k = _unit_onnx(file, f"{name} asked", q, -1), _unit_onnx(file, f"{name} keyed", k, -1)
    scores = file.add("MatMul", [q, file.add("Transpose", [k], f"{name} turned", perm=[0, 1, 3, 2])], f"{name} scores")
    if "positions" in arrays:
        scores = file.add("Mul", [scores, file.constant(node["positions"], arrays["positions"])], f"{name} tempered")
    x = file.add("MatMul", [file.add("Softmax", [scores], f"{name} shares", axis=-1), v], f"{name} mixed")
    return file.add("Reshape", [x, file.shape(-1, *node["shape"])], name)


def _unit_onnx(file: "OnnxFile", name: str, x: str, axis: int) -> str:
    length = file.add("ReduceL2", [x], f"{name} length", axes=[axis])
    return file.add("Div", [x, file.add("Max", [length, file.number(_SHORTEST)], f"{name} divisor")], name)


def _channel_macs(node: Node, arrays: Arrays, shapes: Shapes) -> int:
    """Queries times keys, and shares times values."""
    channels, height, width = node["shape"]
    return int(2 * channels * (channels // node["heads"]) * height * width)


def _channel_channels(groups: ChannelGroups, node: Node, channels: list[int]) -> list[int]:
    """All values of a head are mixed, so they have one factor."""
    inner = node["shape"][0]
    groups.fix(channels[: 2 * inner])
    values = channels[2 * inner :]
    for first in range(0, inner, inner // node["heads"]):
        for other in values[first : first + inner // node["heads"]]:
            groups.join(values[first], other)
    return values


def _weighted_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
    return (x.flatten(2) * scores.flatten(2).softmax(dim=-1)).sum(-1)[:, :, None, None]


def _weighted_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any, scores: Any) -> Any:
    positions = x.shape[1] * x.shape[2]
    weights = tf.nn.softmax(tf.reshape(scores, [-1, 1, positions]))
    total = tf.matmul(weights, tf.reshape(x, [-1, positions, x.shape[3]]))
    return tf.reshape(total, [-1, 1, 1, x.shape[3]])


def _weighted_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str, scores: str) -> str:
    name, (channels, *_) = node["name"], node["shape"]
    scores = file.add("Reshape", [scores, file.shape(-1, 1, int(np.prod(shapes[0][1:])))], f"{name} row")
    weights = file.add("Softmax", [scores], f"{name} weights", axis=-1)
    x = file.add("Reshape", [x, file.shape(-1, channels, int(np.prod(shapes[0][1:])))], f"{name} rows")
    total = file.add("ReduceSum", [file.add("Mul", [x, weights], f"{name} parts"), file.shape(2)], f"{name} total")
    return file.add("Reshape", [total, file.shape(-1, channels, 1, 1)], name)


def _weighted_channels(groups: ChannelGroups, node: Node, values: list[int], scores: list[int]) -> list[int]:
    """The factors of values pass."""
    groups.fix(scores)
    return values


OPERATIONS = {
    "linear_attention": Operation(
        pytorch=_linear_pytorch,
        tensorflow=_linear_tensorflow,
        onnx=_linear_onnx,
        macs=_linear_macs,
        channels=_linear_channels,
    ),
    "channel_attention": Operation(
        pytorch=_channel_pytorch,
        tensorflow=_channel_tensorflow,
        onnx=_channel_onnx,
        macs=_channel_macs,
        channels=_channel_channels,
    ),
    "weighted_sum": Operation(
        pytorch=_weighted_pytorch,
        tensorflow=_weighted_tensorflow,
        onnx=_weighted_onnx,
        macs=no_macs,
        channels=_weighted_channels,
    ),
}
