"""Layers, which multiply with a learned weight and add a bias.

conv: weight (out, in, kh, kw), bias (out,); strides, pads, dilations.
depthwise: weight (in * multiplier, 1, kh, kw), bias (in * multiplier,); strides, pads, dilations.
linear: weight (out, in), bias (out,), on (batch, in).
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from bioclip_lite.graph.channel_groups import ChannelGroups
from bioclip_lite.graph.nodes import Node
from bioclip_lite.graph.operations.operation import Arrays, Operation, Shapes, onnx_pads

if TYPE_CHECKING:
    import torch

    from bioclip_lite.graph.onnx_file import OnnxFile


def _macs(node: Node, arrays: Arrays, shapes: Shapes) -> int:
    """Each number of the weight once per position."""
    return int(arrays["weight"].size * np.prod(node["shape"][1:], dtype=int))


def _channels(groups: ChannelGroups, node: Node, channels: list[int]) -> list[int]:
    """Rows and columns of the weight take up any factors."""
    return groups.new(node["shape"][0])


def _convolve_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    import torch
    import torch.nn.functional as F

    top, bottom, left, right = node["pads"]
    padding: tuple[int, int] = (top, left)
    if (top, left) != (bottom, right):
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    weight, bias = torch.from_numpy(arrays["weight"]), torch.from_numpy(arrays["bias"])
    groups = 1 if node["op"] == "conv" else x.shape[1]
    return F.conv2d(x, weight, bias, tuple(node["strides"]), padding, tuple(node["dilations"]), groups)


def _convolve_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    function = tf.raw_ops.Conv2D if node["op"] == "conv" else tf.raw_ops.DepthwiseConv2dNative
    top, bottom, left, right = node["pads"]
    explicit = [0, 0, top, bottom, left, right, 0, 0] if any(node["pads"]) else []
    x = function(
        input=x,
        filter=tf.constant(arrays["weight"]),
        strides=[1, *node["strides"], 1],
        dilations=[1, *node["dilations"], 1],
        padding="EXPLICIT" if explicit else "VALID",
        explicit_paddings=explicit,
    )
    return tf.nn.bias_add(x, tf.constant(arrays["bias"]))


def _convolve_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    return file.add(
        "Conv",
        [x, node["weight"], node["bias"]],
        node["name"],
        kernel_shape=arrays["weight"].shape[2:],
        strides=node["strides"],
        dilations=node["dilations"],
        pads=onnx_pads(node),
        group=shapes[0][0] if node["op"] == "depthwise" else 1,
    )


def _linear_pytorch(node: Node, arrays: Arrays, x: "torch.Tensor") -> "torch.Tensor":
    import torch
    import torch.nn.functional as F

    return F.linear(x, torch.from_numpy(arrays["weight"]), torch.from_numpy(arrays["bias"]))


def _linear_tensorflow(tf: Any, node: Node, arrays: Arrays, x: Any) -> Any:
    return tf.nn.bias_add(tf.matmul(x, tf.constant(arrays["weight"])), tf.constant(arrays["bias"]))


def _linear_onnx(file: "OnnxFile", node: Node, arrays: Arrays, shapes: Shapes, x: str) -> str:
    return file.add("Gemm", [x, node["weight"], node["bias"]], node["name"], transB=1)


def _depthwise_layout(weight: np.ndarray, channels: int) -> np.ndarray:
    """(in * multiplier, 1, h, w) to (h, w, in, multiplier)."""
    return weight.reshape(channels, len(weight) // channels, *weight.shape[2:]).transpose(2, 3, 0, 1)


OPERATIONS = {
    "conv": Operation(
        pytorch=_convolve_pytorch,
        tensorflow=_convolve_tensorflow,
        onnx=_convolve_onnx,
        macs=_macs,
        channels=_channels,
        layouts={"weight": lambda weight, _: weight.transpose(2, 3, 1, 0)},
    ),
    "depthwise": Operation(
        pytorch=_convolve_pytorch,
        tensorflow=_convolve_tensorflow,
        onnx=_convolve_onnx,
        macs=_macs,
        channels=_channels,
        layouts={"weight": _depthwise_layout},
    ),
    "linear": Operation(
        pytorch=_linear_pytorch,
        tensorflow=_linear_tensorflow,
        onnx=_linear_onnx,
        macs=_macs,
        channels=_channels,
        layouts={"weight": lambda weight, _: weight.transpose(1, 0)},
    ),
}
