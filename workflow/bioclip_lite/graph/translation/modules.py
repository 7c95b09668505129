"""Handlers of modules that are one operation, or a few.

A handler takes (builder, fx node, module), the first argument of the node being a traced value, and returns the value
of the module, or None where the graph has nothing for its options.
"""

from collections.abc import Callable
from typing import Any

from timm.layers import (
    BatchNormAct2d,
    Conv2dSame,
    DropPath,
    GroupNorm1,
    LayerNorm,
    LayerNorm2d,
    LayerNorm2dFp32,
    LayerNormFp32,
)
from timm.layers import Linear as TimmLinear
from timm.layers.activations import GELU as TimmGELU
from timm.layers.activations import GELUTanh, HardSigmoid, HardSwish, QuickGELU, Sigmoid, Swish
from timm.layers.padding import get_same_padding
from timm.models.metaformer import LayerNorm2dNoBias
from torch import fx, nn

from bioclip_lite.graph import tracing
from bioclip_lite.graph.translation.builder import Builder, Value, traced_shape
from bioclip_lite.graph.translation.calls import concatenated, reshaped, sliced

Handler = Callable[[Builder, fx.Node, Any], Value | None]

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.GELU: "gelu",
    TimmGELU: "gelu",
    GELUTanh: "gelu_tanh",
    QuickGELU: "quick_gelu",
    nn.SiLU: "silu",
    Swish: "silu",
    nn.Sigmoid: "sigmoid",
    Sigmoid: "sigmoid",
    nn.Hardswish: "hard_swish",
    HardSwish: "hard_swish",
    nn.Hardsigmoid: "hard_sigmoid",
    HardSigmoid: "hard_sigmoid",
}
LEAVES = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm2d,
    nn.BatchNorm1d,
    nn.LayerNorm,
    nn.GroupNorm,
    *_ACTIVATIONS,
)  # not traced into
_PASS_THROUGH = (nn.Identity, nn.Dropout, DropPath)


def translate_module(builder: Builder, node: fx.Node) -> Value | None:
    """The value of a module; None if no handler takes its class and options on a value of this layout."""
    module, value = builder.modules[str(node.target)], builder.values[node.args[0]]
    if isinstance(module, _PASS_THROUGH):
        return value
    if isinstance(module, tracing.LAYER_SCALES):
        return builder.affine(node.name, value, module.gamma)
    handler, layouts = MODULES.get(type(module), (None, ()))
    return handler(builder, node, module) if handler and value.layout in layouts else None


def _activation(builder: Builder, node: fx.Node, module: nn.Module) -> Value | None:
    return _activated(builder, node.name, builder.values[node.args[0]], module)


def _activated(builder: Builder, name: str, value: Value, module: nn.Module) -> Value | None:
    approximate = getattr(module, "approximate", "none")
    if type(module) not in _ACTIVATIONS or approximate not in ("none", "tanh"):
        return None
    return builder.activation(name, value, "gelu_tanh" if approximate == "tanh" else _ACTIVATIONS[type(module)])


def _linear(builder: Builder, node: fx.Node, module: nn.Linear) -> Value:
    return builder.linear(str(node.target), node, module.weight, module.bias)


def _convolution(builder: Builder, node: fx.Node, module: nn.Conv2d) -> Value | None:
    if module.padding_mode != "zeros":
        return None
    sizes = traced_shape(node.args[0])[1:]
    geometry = {
        "strides": list(module.stride),
        "pads": [pad for side in range(2) for pad in _pads(module, side, sizes[side])],
        "dilations": list(module.dilation),
    }
    if module.groups not in (1, module.in_channels):
        return _grouped(builder, node, module, geometry)
    arrays = builder.store_layer(str(node.target), module.weight, module.bias)
    op = "conv" if module.groups == 1 else "depthwise"
    name = builder.values[node.args[0]].name
    return Value(builder.emit(op, node.name, [name], traced_shape(node), **geometry, **arrays), "CHW")


def _grouped(builder: Builder, node: fx.Node, module: nn.Conv2d, geometry: dict[str, Any]) -> Value:
    """One convolution per group: TensorFlow.js has none with groups."""
    value, sizes = builder.values[node.args[0]], traced_shape(node)[1:]
    biases = [None] * module.groups if module.bias is None else module.bias.chunk(module.groups)
    parts = []
    for group, (weight, bias) in enumerate(zip(module.weight.chunk(module.groups), biases, strict=True)):
        inputs = weight.shape[1]
        source = sliced(builder, f"{node.name}_of_{group}", value, group * inputs, inputs)
        arrays = builder.store_layer(f"{node.target}.group{group}", weight, bias)
        shape = [len(weight), *sizes]
        part = builder.emit("conv", f"{node.name}_group_{group}", [source.name], shape, **geometry, **arrays)
        parts.append(Value(part, "CHW"))
    return concatenated(builder, node.name, parts)


def _pads(module: nn.Conv2d, side: int, size: int) -> list[int]:
    """Zeros before and after axis ``side`` (0 height, 1 width) of an image of ``size`` there."""
    kernel, stride, dilation = module.kernel_size[side], module.stride[side], module.dilation[side]
    if isinstance(module, Conv2dSame):
        total = get_same_padding(size, kernel, stride, dilation)
        return [total // 2, total - total // 2]
    if module.padding == "same":
        total = dilation * (kernel - 1)
        return [total // 2, total - total // 2]
    if isinstance(module.padding, str):
        return [0, 0]
    return [int(module.padding[side])] * 2


def _batch_norm(builder: Builder, node: fx.Node, module: nn.BatchNorm2d) -> Value | None:
    if module.running_mean is None or module.running_var is None:
        return None
    scale = (module.running_var + module.eps).rsqrt() * (1.0 if module.weight is None else module.weight)
    shift = (0.0 if module.bias is None else module.bias) - module.running_mean * scale
    normal = builder.affine(node.name, builder.values[node.args[0]], scale, shift)
    if isinstance(module, BatchNormAct2d) and not isinstance(module.act, nn.Identity):
        return _activated(builder, f"{node.name}_act", normal, module.act)
    return normal


def _layer_norm(builder: Builder, node: fx.Node, module: nn.LayerNorm) -> Value | None:
    value = builder.values[node.args[0]]
    shape = builder.shape_of(value)
    if list(module.normalized_shape) != shape[:1]:
        return None
    name = f"{node.name}_plain" if module.elementwise_affine else node.name
    plain = Value(builder.emit("normalize", name, [value.name], shape, eps=module.eps), value.layout)
    return builder.affine(node.name, plain, module.weight, module.bias) if module.elementwise_affine else plain


def _group_norm(builder: Builder, node: fx.Node, module: nn.GroupNorm) -> Value | None:
    value = builder.values[node.args[0]]
    if module.num_groups != 1:
        return None
    shape = builder.shape_of(value)
    plain = Value(builder.emit("normalize_image", f"{node.name}_plain", [value.name], shape, eps=module.eps), "CHW")
    return builder.affine(node.name, plain, module.weight, module.bias) if module.affine else plain


def _flatten(builder: Builder, node: fx.Node, module: nn.Flatten) -> Value | None:
    return reshaped(builder, node) if module.start_dim == 1 else None


def _global_pool(builder: Builder, node: fx.Node, module: nn.AdaptiveAvgPool2d) -> Value | None:
    if module.output_size not in (1, (1, 1)):
        return None
    return Value(builder.emit("mean", node.name, [builder.values[node.args[0]].name], traced_shape(node)), "CHW")


def _max_pool(builder: Builder, node: fx.Node, module: nn.MaxPool2d) -> Value | None:
    kernel, strides, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
    if _pair(module.dilation) != [1, 1]:
        return None
    before, after = traced_shape(node.args[0])[1:], traced_shape(node)[1:]
    pads: list[int] = []
    for k, s, p, n, out in zip(kernel, strides, padding, before, after, strict=True):
        pads += [p, max(p, (out - 1) * s + k - n - p) if module.ceil_mode else p]
    geometry = {"kernel": kernel, "strides": strides, "pads": pads}
    name = builder.values[node.args[0]].name
    return Value(builder.emit("max_pool", node.name, [name], traced_shape(node), **geometry), "CHW")


def _average_pool(builder: Builder, node: fx.Node, module: nn.AvgPool2d) -> Value | None:
    # Padding is not translated: PyTorch counts its zeros, TensorFlow does not.
    if _pair(module.padding) != [0, 0] or module.divisor_override:
        return None
    kernel, strides = _pair(module.kernel_size), _pair(module.stride)
    before, after = traced_shape(node.args[0])[1:], traced_shape(node)[1:]
    overhang = [(out - 1) * s + k > n for k, s, n, out in zip(kernel, strides, before, after, strict=True)]
    # TensorFlow centres a window that is too large; for 2 x 2 windows side by side that is PyTorch's ceil_mode
    centred = kernel + strides == [2] * 4 and all(o or n % 2 == 0 for o, n in zip(overhang, before, strict=True))
    if any(overhang) and not centred:
        return None
    geometry = {"kernel": kernel, "strides": strides}
    name = builder.values[node.args[0]].name
    return Value(builder.emit("average_pool", node.name, [name], traced_shape(node), **geometry), "CHW")


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


_ANY = ("CHW", "HWC", "NC", "CN", "C")
_IMAGE = ("CHW",)
_CHANNELS_LAST = ("NC", "HWC", "C")

# class: (handler, layouts of the input that it takes). A subclass may compute anything else, so it needs an own entry.
MODULES: dict[type[nn.Module], tuple[Handler, tuple[str, ...]]] = {
    **dict.fromkeys(_ACTIVATIONS, (_activation, _ANY)),
    nn.Linear: (_linear, _CHANNELS_LAST),
    TimmLinear: (_linear, _CHANNELS_LAST),
    nn.LayerNorm: (_layer_norm, _CHANNELS_LAST),
    LayerNorm: (_layer_norm, _CHANNELS_LAST),
    LayerNormFp32: (_layer_norm, _CHANNELS_LAST),
    LayerNorm2d: (_layer_norm, _IMAGE),
    LayerNorm2dFp32: (_layer_norm, _IMAGE),
    nn.GroupNorm: (_group_norm, _IMAGE),
    GroupNorm1: (_group_norm, _IMAGE),
    LayerNorm2dNoBias: (_layer_norm, _IMAGE),
    nn.BatchNorm1d: (_batch_norm, ("C", "CHW")),
    nn.BatchNorm2d: (_batch_norm, ("C", "CHW")),
    BatchNormAct2d: (_batch_norm, ("C", "CHW")),
    nn.Flatten: (_flatten, _ANY),
    nn.Conv2d: (_convolution, _IMAGE),
    Conv2dSame: (_convolution, _IMAGE),
    nn.AdaptiveAvgPool2d: (_global_pool, _IMAGE),
    nn.MaxPool2d: (_max_pool, _IMAGE),
    nn.AvgPool2d: (_average_pool, _IMAGE),
}
