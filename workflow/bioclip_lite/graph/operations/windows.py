"""Windows of an image, which are computed as images of their own, and other moves of positions.

partition: (batch, channels, height, width) to (batch * windows, channels, *``side``), row by row. A window is a
    rectangle of neighbours, or with ``strided`` every n-th position in both directions, n being the size divided by
    ``side``.
merge: the windows of ``partition`` with the same ``side`` and ``strided`` as one image again.
roll: positions moved down and to the right by ``shifts`` (rows, columns); what leaves the image enters on the
    other side.
space_to_depth: squares of 2 x 2 positions as one with four times the channels, first the left column of the square,
    then the right one, each from top to bottom.
"""

from typing import TYPE_CHECKING, Any

from bioclip_lite.graph.channel_groups import ChannelGroups
from bioclip_lite.graph.nodes import Node
from bioclip_lite.graph.operations.operation import Arrays, Operation, Shapes, no_macs, same_channels

if TYPE_CHECKING:
    import torch

    from bioclip_lite.graph.onnx_file import OnnxFile

# Axes of (batch, channels, a, b, c, d), height being a * b and width c * d, in the order of the windows, and back
_WINDOWS = {False: [0, 2, 4, 1, 3, 5], True: [0, 3, 5, 1, 2, 4]}
_IMAGE = {False: [0, 3, 1, 4, 2, 5], True: [0, 3, 4, 1, 5, 2]}


def _split(node: Node, height: int, width: int) -> list[int]:
    """a, b, c, d."""
    (down, across), strided = node["side"], node["strided"]
    return (
        [down, height // down, across, width // across] if strided else [height // down, down, width // across, across]
    )


def _partition_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    b, c, h, w = x.shape
    return x.reshape(b, c, *_split(node, h, w)).permute(_WINDOWS[node["strided"]]).reshape(-1, *node["shape"])


def _partition_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    """In four dimensions, as WebGL and WebAssembly transpose no more."""
    _, height, width, channels = x.shape
    a, b, c, d = _split(node, height, width)
    if node["strided"]:
        x = tf.transpose(tf.reshape(x, [-1, c, d, channels]), [0, 2, 1, 3])  # (batch * a * b, d, c, channels)
        x = tf.transpose(tf.reshape(x, [-1, a, b * d, c * channels]), [0, 2, 1, 3])
    else:
        x = tf.transpose(tf.reshape(x, [-1, b, c, d * channels]), [0, 2, 1, 3])
    return tf.reshape(x, [-1, *node["side"], channels])


def _partition_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    channels, height, width = shapes[0]
    name = node["name"]
    x = file.add("Reshape", [x, file.shape(-1, channels, *_split(node, height, width))], f"{name} parts")
    x = file.add("Transpose", [x], f"{name} windows", perm=_WINDOWS[node["strided"]])
    return file.add("Reshape", [x, file.shape(-1, *node["shape"])], name)


def _merge_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    channels, height, width = node["shape"]
    a, b, c, d = _split(node, height, width)
    windows, inside = ((b, d), (a, c)) if node["strided"] else ((a, c), (b, d))
    return x.reshape(-1, *windows, channels, *inside).permute(_IMAGE[node["strided"]]).reshape(-1, *node["shape"])


def _merge_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    channels, height, width = node["shape"]
    a, b, c, d = _split(node, height, width)
    if node["strided"]:
        x = tf.transpose(tf.reshape(x, [-1, b * d, a, c * channels]), [0, 2, 1, 3])
        x = tf.transpose(tf.reshape(x, [-1, d, c, channels]), [0, 2, 1, 3])
    else:
        x = tf.transpose(tf.reshape(x, [-1, c, b, d * channels]), [0, 2, 1, 3])
    return tf.reshape(x, [-1, height, width, channels])


def _merge_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    name, (channels, height, width) = node["name"], node["shape"]
    a, b, c, d = _split(node, height, width)
    windows, inside = ((b, d), (a, c)) if node["strided"] else ((a, c), (b, d))
    x = file.add("Reshape", [x, file.shape(-1, *windows, channels, *inside)], f"{name} windows")
    x = file.add("Transpose", [x], f"{name} parts", perm=_IMAGE[node["strided"]])
    return file.add("Reshape", [x, file.shape(-1, *node["shape"])], name)


def _roll_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.roll(x, node["shifts"], (2, 3))


def _roll_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    """TensorFlow.js has no Roll."""
    _, height, width = node["shape"]
    down, right = node["shifts"][0] % height, node["shifts"][1] % width
    x = tf.concat([x[:, height - down :], x[:, : height - down]], 1)
    return tf.concat([x[:, :, width - right :], x[:, :, : width - right]], 2)


def _roll_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    name = node["name"]
    for axis, (shift, size) in enumerate(zip(node["shifts"], node["shape"][1:], strict=True), start=2):
        ends = {"last": (size - shift % size, size), "first": (0, size - shift % size)}
        parts = [
            file.add("Slice", [x, file.shape(start), file.shape(end), file.shape(axis)], f"{name} {label} {axis}")
            for label, (start, end) in ends.items()
        ]
        x = file.add("Concat", parts, name if axis == 3 else f"{name} rows", axis=axis)
    return x


def _space_to_depth_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 5, 3, 1, 2, 4).reshape(b, *node["shape"])


def _space_to_depth_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    return tf.concat([x[:, row::2, column::2] for column in range(2) for row in range(2)], -1)


def _space_to_depth_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    name, (channels, height, width) = node["name"], shapes[0]
    x = file.add("Reshape", [x, file.shape(-1, channels, height // 2, 2, width // 2, 2)], f"{name} squares")
    x = file.add("Transpose", [x], f"{name} columns", perm=[0, 5, 3, 1, 2, 4])
    return file.add("Reshape", [x, file.shape(-1, *node["shape"])], name)


def _space_to_depth_channels(groups: ChannelGroups, node: Node, channels: list[int]) -> list[int]:
    return channels * 4


OPERATIONS = {
    "partition": Operation(
        pytorch=_partition_pytorch,
        tensorflow=_partition_tensorflow,
        onnx=_partition_onnx,
        macs=no_macs,
        channels=same_channels,
    ),
    "merge": Operation(
        pytorch=_merge_pytorch,
        tensorflow=_merge_tensorflow,
        onnx=_merge_onnx,
        macs=no_macs,
        channels=same_channels,
    ),
    "roll": Operation(
        pytorch=_roll_pytorch,
        tensorflow=_roll_tensorflow,
        onnx=_roll_onnx,
        macs=no_macs,
        channels=same_channels,
    ),
    "space_to_depth": Operation(
        pytorch=_space_to_depth_pytorch,
        tensorflow=_space_to_depth_tensorflow,
        onnx=_space_to_depth_onnx,
        macs=no_macs,
        channels=_space_to_depth_channels,
    ),
}
