"""Attention. Queries are scaled already.

attention: the input (batch, 3 * heads * d, height, width) holds queries, keys and values. With ``window`` each square
    of that side attends to itself alone. ``positions``, an array (heads, n, n) for n positions (query, key), is added
    before the softmax; where it is (windows, heads, n, n), the batch holds that many windows of each image in turn.
    A second input, without windows, is (batch, 1, height, width): nothing looks at the positions where it is 0, not 1.
multi_query: inputs queries (batch, heads * d, height, width), keys (batch, d, ...), values (batch, d', ...): all heads
    share the keys and values.
cross_attention: inputs queries (batch, heads * d, height, width), keys (batch, heads * d, ...), values
    (batch, heads * d', ...), head by head; ``positions`` (heads, queries, keys) is added before the softmax.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from bioclip_lite.graph.channel_groups import ChannelGroups
from bioclip_lite.graph.nodes import Node
from bioclip_lite.graph.operations.operation import Arrays, Operation, Shapes

if TYPE_CHECKING:
    import torch

    from bioclip_lite.graph.onnx_file import OnnxFile

_HIDDEN = 1e4  # taken from a score before the softmax: the share becomes 0


def _attention_pytorch(
    node: Node, arrays: Arrays, x: "torch.Tensor", seen: "torch.Tensor | None" = None
) -> "torch.Tensor":
    import torch

    b, c, h, w = x.shape
    heads, down, across = node["heads"], node.get("window", h), node.get("window", w)
    # (batch, rows of windows, columns of windows, channels, height of a window, its width)
    windows = x.reshape(b, c, h // down, down, w // across, across).permute(0, 2, 4, 1, 3, 5)
    q, k, v = windows.reshape(-1, 3, heads, c // (3 * heads), down * across).unbind(1)  # (windows, heads, d, positions)
    scores = q.transpose(-2, -1) @ k
    if "positions" in arrays:
        positions = torch.from_numpy(arrays["positions"])
        scores = (scores.unflatten(0, (-1, *positions.shape[:-3])) + positions).reshape(scores.shape)
    if seen is not None:
        scores = scores + (seen.flatten(2)[:, None] - 1) * _HIDDEN
    mixed = (v @ scores.softmax(dim=-1).transpose(-2, -1)).reshape(b, h // down, w // across, c // 3, down, across)
    return mixed.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 3, h, w)


def _attention_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any, seen: Any = None) -> Any:
    inner, height, width = node["shape"]
    heads, side = node["heads"], node.get("window")
    positions = side * side if side else height * width
    if side:  # windows become neighbours, in four dimensions: WebGL and WebAssembly transpose no more
        x = tf.reshape(x, [-1, side, width // side, side * 3 * inner])
        x = tf.transpose(x, [0, 2, 1, 3])
    x = tf.transpose(tf.reshape(x, [-1, positions, 3 * heads, inner // heads]), [0, 2, 1, 3])
    q, k, v = tf.split(x, 3, axis=1)
    scores = tf.matmul(q, k, transpose_b=True)
    if "positions" in arrays:
        scores = _placed_tensorflow(tf, scores, arrays["positions"])
    if seen is not None:
        scores = scores + (tf.reshape(seen, [-1, 1, 1, positions]) - 1.0) * _HIDDEN
    mixed = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), [0, 2, 1, 3])
    if side:
        mixed = tf.transpose(tf.reshape(mixed, [-1, width // side, side, side * inner]), [0, 2, 1, 3])
    return tf.reshape(mixed, [-1, height, width, inner])


def _placed_tensorflow(tf: Any, scores: Any, positions: np.ndarray) -> Any:
    """Add ``positions`` to (batch, heads, n, n); those of the windows of an image lie beside the heads."""
    if positions.ndim == 3:
        return scores + tf.constant(positions)
    heads, *sides = positions.shape[1:]
    placed = tf.reshape(scores, [-1, len(positions) * heads, *sides]) + tf.constant(positions.reshape(-1, *sides))
    return tf.reshape(placed, [-1, heads, *sides])


def _attention_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str, *seen: str) -> str:
    """As in PyTorch: windows first, then heads; queries, keys and values are (windows, heads, d, positions)."""
    name, heads, (inner, height, width) = node["name"], node["heads"], node["shape"]
    down, across = node.get("window", height), node.get("window", width)
    rows, columns, d = height // down, width // across, inner // heads

    def reshape(value: str, label: str, *sizes: int) -> str:
        return file.add("Reshape", [value, file.shape(*sizes)], f"{name} {label}")

    x = reshape(x, "squares", -1, 3 * inner, rows, down, columns, across)
    x = file.add("Transpose", [x], f"{name} windows", perm=[0, 2, 4, 1, 3, 5])
    x = reshape(x, "heads", -1, 3 * heads, d, down * across)
    q, k, v = (
        file.add("Slice", [x, file.shape(i * heads), file.shape((i + 1) * heads), file.shape(1)], f"{name} {label}")
        for i, label in enumerate(("queries", "keys", "values"))
    )
    scores = file.add("MatMul", [file.add("Transpose", [q], f"{name} asked", perm=[0, 1, 3, 2]), k], f"{name} scores")
    if "positions" in arrays:
        scores = _placed_onnx(file, node, scores, arrays["positions"])
    for positions in seen:
        hidden = file.add(
            "Sub", [reshape(positions, "seen", -1, 1, 1, height * width), file.number(1.0)], f"{name} not"
        )
        less = file.add("Mul", [hidden, file.number(_HIDDEN)], f"{name} less")
        scores = file.add("Add", [scores, less], f"{name} looked at")
    shares = file.add("Softmax", [scores], f"{name} shares", axis=-1)
    shares = file.add("Transpose", [shares], f"{name} given", perm=[0, 1, 3, 2])
    x = file.add("MatMul", [v, shares], f"{name} mixed")
    x = reshape(x, "parted", -1, rows, columns, inner, down, across)
    x = file.add("Transpose", [x], f"{name} joined", perm=[0, 3, 1, 4, 2, 5])
    return file.add("Reshape", [x, file.shape(-1, *node["shape"])], name)


def _placed_onnx(file: "OnnxFile", node: Node, scores: str, positions: np.ndarray) -> str:
    name, (heads, *sides) = node["name"], positions.shape[-3:]
    constant = file.constant(node["positions"], positions.reshape(1, -1, *sides))
    if positions.ndim == 3:
        return file.add("Add", [scores, constant], f"{name} placed")
    beside = file.add("Reshape", [scores, file.shape(-1, len(positions) * heads, *sides)], f"{name} beside")
    placed = file.add("Add", [beside, constant], f"{name} placed")
    return file.add("Reshape", [placed, file.shape(-1, heads, *sides)], f"{name} by window")


def _attention_macs(node: Node, arrays: Arrays, shapes: Shapes) -> int:
    """Queries times keys, and shares times values."""
    channels, height, width = node["shape"]
    keys = node["window"] ** 2 if "window" in node else height * width
    return int(2 * channels * height * width * keys)


def _attention_channels(groups: ChannelGroups, node: Node, channels: list[int], *seen: list[int]) -> list[int]:
    """The factors of values pass; queries and keys go through a softmax."""
    inner = node["shape"][0]
    for fixed in (channels[: 2 * inner], *seen):
        groups.fix(fixed)
    return channels[2 * inner :]


def _multi_query_pytorch(
    node: Node, arrays: Arrays, x: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor"
) -> "torch.Tensor":
    (b, c, h, w), heads = x.shape, node["heads"]
    q = x.reshape(b, heads, c // heads, h * w).transpose(2, 3)
    shares = (q @ k.flatten(2)[:, None]).softmax(dim=-1)
    return (shares @ v.flatten(2).transpose(1, 2)[:, None]).transpose(2, 3).reshape(b, -1, h, w)


def _multi_query_tensorflow(tf: Any, node: Node, arrays: Arrays, q: Any, k: Any, v: Any) -> Any:
    """All heads of all positions are rows of one matrix, for their keys are the same: nothing is transposed."""
    channels, height, width = node["shape"]
    rows = height * width * node["heads"]
    q = tf.reshape(q, [-1, rows, q.shape[3] // node["heads"]])
    k = tf.reshape(k, [-1, k.shape[1] * k.shape[2], k.shape[3]])
    v = tf.reshape(v, [-1, v.shape[1] * v.shape[2], v.shape[3]])
    mixed = tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), v)
    return tf.reshape(mixed, [-1, height, width, channels])


def _multi_query_onnx(
    file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, queries: str, keys: str, values: str
) -> str:
    """As in PyTorch: q (batch, heads, positions, d); k (batch, 1, d, keys); v (batch, 1, keys, d')."""
    name, heads = node["name"], node["heads"]
    (asking, height, width), (d, *sides), (valued, *_) = shapes
    count = int(np.prod(sides))
    q = file.add("Reshape", [queries, file.shape(-1, heads, asking // heads, height * width)], f"{name} queries")
    q = file.add("Transpose", [q], f"{name} asked", perm=[0, 1, 3, 2])
    k = file.add("Reshape", [keys, file.shape(-1, 1, d, count)], f"{name} keys")
    v = file.add("Reshape", [values, file.shape(-1, 1, valued, count)], f"{name} values")
    v = file.add("Transpose", [v], f"{name} given", perm=[0, 1, 3, 2])
    shares = file.add("Softmax", [file.add("MatMul", [q, k], f"{name} scores")], f"{name} shares", axis=-1)
    mixed = file.add("MatMul", [shares, v], f"{name} mixed")
    mixed = file.add("Transpose", [mixed], f"{name} joined", perm=[0, 1, 3, 2])
    return file.add("Reshape", [mixed, file.shape(-1, *node["shape"])], name)


def _multi_query_macs(node: Node, arrays: Arrays, shapes: Shapes) -> int:
    (asking, *_), (_, *sides), _ = shapes
    channels, height, width = node["shape"]
    return int(height * width * np.prod(sides, dtype=int) * (asking + channels))


def _multi_query_channels(
    groups: ChannelGroups, node: Node, queries: list[int], keys: list[int], values: list[int]
) -> list[int]:
    """The factors of values pass, once for every head."""
    groups.fix(queries + keys)
    return values * (node["shape"][0] // len(values))


def _cross_pytorch(
    node: Node, arrays: Arrays, q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor"
) -> "torch.Tensor":
    import torch

    q, k, v = (x.flatten(2).unflatten(1, (node["heads"], -1)) for x in (q, k, v))  # (batch, heads, d, positions)
    scores = q.transpose(2, 3) @ k
    if "positions" in arrays:
        scores = scores + torch.from_numpy(arrays["positions"])
    return (v @ scores.softmax(dim=-1).transpose(2, 3)).reshape(-1, *node["shape"])


def _cross_tensorflow(tf: Any, node: Node, arrays: Arrays, *inputs: Any) -> Any:
    channels, height, width = node["shape"]
    q, k, v = (_by_head(tf, x, node["heads"]) for x in inputs)
    scores = tf.matmul(q, k, transpose_b=True)
    if "positions" in arrays:
        scores = scores + tf.constant(arrays["positions"])
    mixed = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), [0, 2, 1, 3])
    return tf.reshape(mixed, [-1, height, width, channels])


def _by_head(tf: Any, x: Any, heads: int) -> Any:
    """(batch, heads, positions, d)."""
    return tf.transpose(tf.reshape(x, [-1, x.shape[1] * x.shape[2], heads, x.shape[3] // heads]), [0, 2, 1, 3])


def _cross_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, *inputs: str) -> str:
    name, heads = node["name"], node["heads"]
    q, k, v = (
        file.add("Reshape", [x, file.shape(-1, heads, shape[0] // heads, int(np.prod(shape[1:])))], f"{name} {label}")
        for x, shape, label in zip(inputs, shapes, ("queries", "keys", "values"), strict=True)
    )
    scores = file.add("MatMul", [file.add("Transpose", [q], f"{name} asked", perm=[0, 1, 3, 2]), k], f"{name} scores")
    if "positions" in arrays:
        scores = _placed_onnx(file, node, scores, arrays["positions"])
    shares = file.add("Softmax", [scores], f"{name} shares", axis=-1)
    shares = file.add("Transpose", [shares], f"{name} given", perm=[0, 1, 3, 2])
    return file.add("Reshape", [file.add("MatMul", [v, shares], f"{name} mixed"), file.shape(-1, *node["shape"])], name)


def _cross_macs(node: Node, arrays: Arrays, shapes: Shapes) -> int:
    (asking, height, width), (_, *sides), (answering, *_) = shapes
    return int(height * width * np.prod(sides, dtype=int) * (asking + answering))


def _cross_channels(
    groups: ChannelGroups, node: Node, queries: list[int], keys: list[int], values: list[int]
) -> list[int]:
    """The factors of values pass."""
    groups.fix(queries + keys)
    return values


OPERATIONS = {
    "attention": Operation(
        pytorch=_attention_pytorch,
        tensorflow=_attention_tensorflow,
        onnx=_attention_onnx,
        macs=_attention_macs,
        channels=_attention_channels,
    ),
    "multi_query": Operation(
        pytorch=_multi_query_pytorch,
        tensorflow=_multi_query_tensorflow,
        onnx=_multi_query_onnx,
        macs=_multi_query_macs,
        channels=_multi_query_channels,
    ),
    "cross_attention": Operation(
        pytorch=_cross_pytorch,
        tensorflow=_cross_tensorflow,
        onnx=_cross_onnx,
        macs=_cross_macs,
        channels=_cross_channels,
    ),
}
