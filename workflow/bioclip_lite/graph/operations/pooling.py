"""Pooling: one value from those of a window.

max_pool: kernel, strides, pads.
average_pool: kernel, strides; a window over the edge averages what is inside.
mean: over height and width, which stay as 1 x 1.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from bioclip_lite.graph.nodes import Node
from bioclip_lite.graph.operations.operation import Arrays, Operation, Shapes, no_macs, onnx_pads, same_channels

if TYPE_CHECKING:
    import torch

    from bioclip_lite.graph.onnx_file import OnnxFile


def _max_pool_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    top, bottom, left, right = node["pads"]
    x = F.pad(x, (left, right, top, bottom), value=float("-inf"))
    return F.max_pool2d(x, node["kernel"], node["strides"])


def _max_pool_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    if any(node["pads"]):
        top, bottom, left, right = node["pads"]
        x = tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]], constant_values=np.finfo(np.float32).min)
    return tf.raw_ops.MaxPool(input=x, ksize=[1, *node["kernel"], 1], strides=[1, *node["strides"], 1], padding="VALID")


def _max_pool_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    geometry = {"kernel_shape": node["kernel"], "strides": node["strides"], "pads": onnx_pads(node)}
    return file.add("MaxPool", [x], node["name"], **geometry)


def _average_pool_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.avg_pool2d(x, node["kernel"], node["strides"], ceil_mode=True, count_include_pad=False)


def _average_pool_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    """ "SAME" averages what is inside the image where a window hangs over the edge."""
    return tf.raw_ops.AvgPool(value=x, ksize=[1, *node["kernel"], 1], strides=[1, *node["strides"], 1], padding="SAME")


def _average_pool_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    geometry = {"kernel_shape": node["kernel"], "strides": node["strides"]}
    return file.add("AveragePool", [x], node["name"], **geometry, ceil_mode=1)


OPERATIONS = {
    "max_pool": Operation(
        pytorch=_max_pool_pytorch,
        tensorflow=_max_pool_tensorflow,
        onnx=_max_pool_onnx,
        macs=no_macs,
        channels=same_channels,
    ),
    "average_pool": Operation(
        pytorch=_average_pool_pytorch,
        tensorflow=_average_pool_tensorflow,
        onnx=_average_pool_onnx,
        macs=no_macs,
        channels=same_channels,
    ),
    "mean": Operation(
        pytorch=lambda node, arrays, x: x.mean((2, 3), keepdim=True),
        tensorflow=lambda tf, node, arrays, x: tf.reduce_mean(x, [1, 2], keepdims=True),
        onnx=lambda file, node, arrays, shapes, x: file.add("GlobalAveragePool", [x], node["name"]),
        macs=no_macs,
        channels=same_channels,
    ),
}
