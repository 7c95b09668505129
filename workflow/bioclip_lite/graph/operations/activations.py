"""Activations: each value by itself. One operation; ``function`` names one of ``ACTIVATIONS``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bioclip_lite.graph.channel_groups import ChannelGroups
from bioclip_lite.graph.nodes import Node
from bioclip_lite.graph.operations.operation import Operation, fixed_channels, no_macs, same_channels

if TYPE_CHECKING:
    import torch

    from bioclip_lite.graph.onnx_file import OnnxFile

_TANH = 2 * (2 / np.pi) ** 0.5


@dataclass(frozen=True)
class Activation:
    """One function: ``pytorch(x)``, ``tensorflow(tf, x)``, ``onnx(file, name, x)``.

    homogeneous: f(s x) = s f(x) for every s > 0.
    """

    pytorch: Callable[["torch.Tensor"], "torch.Tensor"]
    tensorflow: Callable[[Any, Any], Any]
    onnx: Callable[["OnnxFile", str, str], str]
    homogeneous: bool = False


def _functional(name: str, **options: Any) -> Callable[["torch.Tensor"], "torch.Tensor"]:
    """A function of torch.nn.functional, looked up when it is called."""

    def compute(x: "torch.Tensor") -> "torch.Tensor":
        import torch.nn.functional as F

        values: torch.Tensor = getattr(F, name)(x, **options)
        return values

    return compute


def _gelu_onnx(file: "OnnxFile", name: str, x: str) -> str:
    erf = file.add("Erf", [file.add("Mul", [x, file.number(0.5**0.5)], f"{name} scaled")], f"{name} erf")
    return _times_one_plus(file, name, file.add("Mul", [x, file.number(0.5)], f"{name} half"), erf)


def _gelu_tanh_onnx(file: "OnnxFile", name: str, x: str) -> str:
    cube = file.add("Mul", [file.add("Mul", [x, x], f"{name} square"), x], f"{name} cube")
    inner = file.add("Add", [x, file.add("Mul", [cube, file.number(0.044715)], f"{name} small")], f"{name} sum")
    scaled = file.add("Mul", [inner, file.number((2 / np.pi) ** 0.5)], f"{name} scaled")
    half = file.add("Mul", [x, file.number(0.5)], f"{name} half")
    return _times_one_plus(file, name, half, file.add("Tanh", [scaled], f"{name} tanh"))


def _times_one_plus(file: "OnnxFile", name: str, x: str, factor: str) -> str:
    """x (1 + factor), the form of all GELUs."""
    return file.add("Mul", [x, file.add("Add", [factor, file.number(1.0)], f"{name} above")], name)


ACTIVATIONS = {
    "relu": Activation(
        pytorch=_functional("relu"),
        tensorflow=lambda tf, x: tf.nn.relu(x),
        onnx=lambda file, name, x: file.add("Relu", [x], name),
        homogeneous=True,
    ),
    "relu6": Activation(
        pytorch=_functional("relu6"),
        tensorflow=lambda tf, x: tf.nn.relu6(x),
        onnx=lambda file, name, x: file.add("Clip", [x, file.number(0.0), file.number(6.0)], name),
    ),
    "gelu": Activation(
        pytorch=_functional("gelu"),
        # tf.nn.gelu becomes Erfc, which TensorFlow.js lacks
        tensorflow=lambda tf, x: (0.5 * x) * (1.0 + tf.math.erf(x * np.float32(0.5**0.5))),
        onnx=_gelu_onnx,
    ),
    "gelu_tanh": Activation(
        pytorch=_functional("gelu", approximate="tanh"),
        # the sum of 1 and a tanh is twice a sigmoid
        tensorflow=lambda tf, x: x * tf.sigmoid(x * (np.float32(_TANH) + np.float32(0.044715 * _TANH) * tf.square(x))),
        onnx=_gelu_tanh_onnx,
    ),
    "scaled_gelu": Activation(  # GELU of x = sqrt(2) u, times sqrt(2): u (1 + erf u)
        pytorch=lambda u: u * (1 + u.erf()),
        tensorflow=lambda tf, u: u * (1.0 + tf.math.erf(u)),
        onnx=lambda file, name, u: _times_one_plus(file, name, u, file.add("Erf", [u], f"{name} erf")),
    ),
    "silu": Activation(
        pytorch=_functional("silu"),
        tensorflow=lambda tf, x: x * tf.sigmoid(x),
        onnx=lambda file, name, x: file.add("Mul", [x, file.add("Sigmoid", [x], f"{name} gate")], name),
    ),
    "sigmoid": Activation(
        pytorch=_functional("sigmoid"),
        tensorflow=lambda tf, x: tf.sigmoid(x),
        onnx=lambda file, name, x: file.add("Sigmoid", [x], name),
    ),
    "hard_swish": Activation(
        pytorch=_functional("hardswish"),
        tensorflow=lambda tf, x: x * (tf.nn.relu6(x + 3.0) * np.float32(1 / 6)),
        onnx=lambda file, name, x: file.add("HardSwish", [x], name),
    ),
    "hard_sigmoid": Activation(
        pytorch=_functional("hardsigmoid"),
        tensorflow=lambda tf, x: tf.nn.relu6(x + 3.0) * np.float32(1 / 6),
        onnx=lambda file, name, x: file.add("HardSigmoid", [x], name, alpha=1 / 6, beta=0.5),
    ),
}


def _channels(groups: ChannelGroups, node: Node, channels: list[int]) -> list[int]:
    rule = same_channels if ACTIVATIONS[node["function"]].homogeneous else fixed_channels
    return rule(groups, node, channels)


OPERATIONS = {
    "activation": Operation(
        pytorch=lambda node, arrays, x: ACTIVATIONS[node["function"]].pytorch(x),
        tensorflow=lambda tf, node, arrays, x: ACTIVATIONS[node["function"]].tensorflow(tf, x),
        onnx=lambda file, node, arrays, shapes, x: ACTIVATIONS[node["function"]].onnx(file, node["name"], x),
        macs=no_macs,
        channels=_channels,
    )
}
