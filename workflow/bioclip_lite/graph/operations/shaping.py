"""Changes of shape, which compute nothing.

pad: pads, with zeros.
crop: ``start`` (row, column) of the part that stays; ``shape`` gives its size.
reshape: the same positions, row by row, in another height and width.
flatten: (batch, channels, 1, 1) to (batch, channels).
slice: the channels from ``start`` on; ``shape`` gives their number.
concat: the channels of all inputs, one after the other.
"""

from typing import TYPE_CHECKING, Any

from bioclip_lite.graph.channel_groups import ChannelGroups
from bioclip_lite.graph.nodes import Node
from bioclip_lite.graph.operations.operation import Arrays, Operation, Shapes, no_macs, onnx_pads, same_channels

if TYPE_CHECKING:
    import torch

    from bioclip_lite.graph.onnx_file import OnnxFile


def _pad_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    top, bottom, left, right = node["pads"]
    return F.pad(x, (left, right, top, bottom))


def _pad_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    top, bottom, left, right = node["pads"]
    return tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]])


def _pad_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    top, left, bottom, right = onnx_pads(node)
    return file.add("Pad", [x, file.shape(0, 0, top, left, 0, 0, bottom, right)], node["name"])


def _crop_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    (top, left), (_, height, width) = node["start"], node["shape"]
    return x[:, :, top : top + height, left : left + width]


def _crop_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    (top, left), (_, height, width) = node["start"], node["shape"]
    return tf.slice(x, [0, top, left, 0], [-1, height, width, -1])


def _crop_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    (top, left), (_, height, width) = node["start"], node["shape"]
    start, end, axes = file.shape(top, left), file.shape(top + height, left + width), file.shape(2, 3)
    return file.add("Slice", [x, start, end, axes], node["name"])


def _reshape_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    channels, height, width = node["shape"]
    return tf.reshape(x, [-1, height, width, channels])


def _reshape_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    return file.add("Reshape", [x, file.shape(-1, *node["shape"])], node["name"])


def _slice_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    before = [0] * len(node["shape"])
    return tf.slice(x, [*before, node["start"]], [-1] * len(before) + [node["shape"][0]])


def _slice_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    start, end = file.shape(node["start"]), file.shape(node["start"] + node["shape"][0])
    return file.add("Slice", [x, start, end, file.shape(1)], node["name"])


def _slice_channels(groups: ChannelGroups, node: Node, channels: list[int]) -> list[int]:
    return channels[node["start"] : node["start"] + node["shape"][0]]


def _concat_pytorch(node: Node, arrays: Arrays, *inputs: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.cat(inputs, dim=1)


OPERATIONS = {
    "pad": Operation(
        pytorch=_pad_pytorch,
        tensorflow=_pad_tensorflow,
        onnx=_pad_onnx,
        macs=no_macs,
        channels=same_channels,
    ),
    "crop": Operation(
        pytorch=_crop_pytorch,
        tensorflow=_crop_tensorflow,
        onnx=_crop_onnx,
        macs=no_macs,
        channels=same_channels,
    ),
    "reshape": Operation(
        pytorch=lambda node, arrays, x: x.reshape(len(x), *node["shape"]),
        tensorflow=_reshape_tensorflow,
        onnx=_reshape_onnx,
        macs=no_macs,
        channels=same_channels,
    ),
    "flatten": Operation(
        pytorch=lambda node, arrays, x: x.flatten(1),
        tensorflow=lambda tf, node, arrays, x: tf.reshape(x, [-1, *node["shape"]]),
        onnx=lambda file, node, arrays, shapes, x: file.add("Flatten", [x], node["name"]),
        macs=no_macs,
        channels=same_channels,
    ),
    "slice": Operation(
        pytorch=lambda node, arrays, x: x[:, node["start"] : node["start"] + node["shape"][0]],
        tensorflow=_slice_tensorflow,
        onnx=_slice_onnx,
        macs=no_macs,
        channels=_slice_channels,
    ),
    "concat": Operation(
        pytorch=_concat_pytorch,
        tensorflow=lambda tf, node, arrays, *inputs: tf.concat(inputs, -1),
        onnx=lambda file, node, arrays, shapes, *inputs: file.add("Concat", list(inputs), node["name"], axis=1),
        macs=no_macs,
        channels=lambda groups, node, *inputs: [channel for channels in inputs for channel in channels],
    ),
}
