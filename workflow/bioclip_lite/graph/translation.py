"""From fx's operations on tensors, in any order of axes, to nodes on (channels, height, width)."""

import operator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, DropPath, LayerNorm, LayerNorm2d, LayerNorm2dFp32, LayerNormFp32
from timm.layers import Linear as TimmLinear
from timm.layers.activations import GELU as TimmGELU
from timm.layers.activations import GELUTanh, HardSigmoid, HardSwish, QuickGELU, Sigmoid, Swish
from timm.layers.padding import get_same_padding
from torch import fx, nn

from bioclip_lite.graph import tracing
from bioclip_lite.graph.execution import ACTIVATIONS, Node, Weights
from bioclip_lite.utils.errors import UserError

SUPPORTED = (
    "fastvit_* and MobileCLIP's towers, mobilenetv4_*, mobilenetv2_*, mobilenetv3_*, efficientnet_*, repvit_*, "
    "mobileone_*, tiny_vit_*, vit_* and deit_*, convnext*, resnet*"
)

_ACTIVATION_MODULES: dict[type[nn.Module], str] = {
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
_ACTIVATION_CALLS: dict[Any, str] = {
    **{function: name for name, function in ACTIVATIONS.items()},
    torch.relu: "relu",
    "relu": "relu",
    "sigmoid": "sigmoid",
}
_PASS_THROUGH = (nn.Identity, nn.Dropout, DropPath)
_PASSING_CALLS = ("contiguous", "clone", F.dropout)
_OF_PARAMETERS = ("expand", "reshape", "view")
_LAYER_NORMS = (nn.LayerNorm, LayerNorm, LayerNormFp32)
_LAYER_NORMS_2D = (LayerNorm2d, LayerNorm2dFp32)
_ADD = (operator.add, operator.iadd, torch.add, "add", "add_")
_MULTIPLY = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_DIVIDE = (operator.truediv, torch.div, "div")
LOST = "lost"  # the layout of what comes out of an operation that is not known
_SHOWN = 3  # places of an operation that a message names
_QUICK = 1.702  # x sigmoid(1.702 x)
LEAVES = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d, nn.LayerNorm, *_ACTIVATION_MODULES)

# How PyTorch lays a value out, without the batch: C channels, H height, W width, N positions in a row.
_POSITIONS = {"CHW": (1, 2), "HWC": (0, 1), "NC": (0,), "CN": (1,), "C": ()}


class Value(NamedTuple):
    """A traced value: the node that holds it, and the order of the axes that PyTorch gave it."""

    name: str
    layout: str


def translate(model: nn.Module, trace: fx.Graph) -> tuple[list[Node], Weights]:
    """Nodes in order, the input first and an "output" last, "affine" ones still unfolded; and float64 weights.

    Raises UserError with every operation that the graph has no node for, and the module it stands in.
    """
    translation = _Translation(model)
    for node in trace.nodes:
        translation.add(node)
    if translation.unsupported:
        raise UserError(
            "the student has operations that cannot be shipped: "
            + "; ".join(f"{what} in {_few(list(where))}" for what, where in translation.unsupported.items())
            + f". Take another student ({SUPPORTED}) or add them to workflow/bioclip_lite/graph and web/tfjs.py"
        )
    return translation.nodes, translation.weights


def _shape(node: fx.Node) -> list[int]:
    """As PyTorch has it, without the batch; [] for a value that is not one tensor."""
    return list(getattr(node.meta.get("tensor_meta"), "shape", [0])[1:])


def _own(shape: list[int], layout: str) -> list[int]:
    """The same in the graph's order: (channels, height, width) or (channels,)."""
    if layout == "HWC":
        return [shape[2], shape[0], shape[1]]
    if layout in ("NC", "CN"):
        return [shape[layout.index("C")], shape[layout.index("N")], 1]
    return shape


def _guess(node: fx.Node, sources: list[Value]) -> str:
    """The layout of a value whose operation is unknown, so that what follows can be looked at, too."""
    if len(_shape(node)) == 3:
        return "HWC" if sources and sources[0].layout in ("NC", "HWC", LOST) else "CHW"
    return {1: "C", 2: "NC"}.get(len(_shape(node)), LOST)


class _Translation:
    """One pass over the trace: fx nodes to ours, parameters to float64 arrays."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.nodes: list[Node] = []
        self.weights: Weights = {}
        self.value: dict[fx.Node, Value] = {}
        self.known: dict[fx.Node, torch.Tensor] = {}  # parameters, and what is made of them alone
        self.parameters = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.unsupported: dict[str, dict[str, None]] = {}  # operation to the modules it stands in

    def add(self, node: fx.Node) -> None:
        """Translate one fx node; note it if the graph has none for it."""
        if node.op == "placeholder":
            # a further argument of forward is None when it is called: whatever uses it is reported
            if not self.nodes:
                self.value[node] = Value(self._emit("input", node.name, [], _shape(node)), "CHW")
            return
        if node.op == "get_attr" and str(node.target) in self.parameters:
            self.known[node] = self.parameters[str(node.target)].detach()
            return
        if not _shape(node) and node.op != "output":  # Python's own: sizes, comparisons, assertions
            return
        if node.op == "call_method" and node.args[0] in self.known and node.target in _OF_PARAMETERS:
            self.known[node] = self._of_parameter(node)
            return
        sources = [self.value[source] for source in node.all_input_nodes if source in self.value]
        lost = any(source.layout == LOST for source in sources)
        value = None if lost else self._translate(node)
        if value is None and not lost:
            what, where = self._describe(node)
            self.unsupported.setdefault(what, {})[where] = None
        if value is None:
            layout = _guess(node, sources)
            shape = [] if layout == LOST else _own(_shape(node), layout)
            value = Value(self._emit(LOST, node.name, [], shape), layout)
        self.value[node] = value

    def _of_parameter(self, node: fx.Node) -> torch.Tensor:
        """A parameter in another form; expanding over the batch, which is traced with one image, changes nothing."""
        parameter = self.known[node.args[0]]  # type: ignore[index]
        if node.target == "expand":
            return parameter
        sizes = _flat(node.args[1:])
        return parameter.reshape(sizes) if all(isinstance(size, int) for size in sizes) else parameter

    def _describe(self, node: fx.Node) -> tuple[str, str]:
        """(operation, module it stands in)."""
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            groups = f" with {module.groups} groups" if isinstance(module, nn.Conv2d) and module.groups > 1 else ""
            return f"{type(module).__name__}{groups}", str(node.target)
        stack = [name for name in node.meta.get("nn_module_stack", {}) if name]
        called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return f"{called}()", stack[-1] if stack else "the model itself"

    def _emit(self, op: str, name: str, inputs: list[str], shape: list[int], **attributes: Any) -> str:
        self.nodes.append({"op": op, "name": name, "inputs": inputs, "shape": shape, **attributes})
        return name

    def _shape_of(self, value: Value) -> list[int]:
        """In the graph's order."""
        return next(node["shape"] for node in reversed(self.nodes) if node["name"] == value.name)

    def _keep(self, layer: str, weight: torch.Tensor, bias: torch.Tensor | None) -> dict[str, str]:
        """Keep the arrays under the layer's name; every layer gets a bias, which folding may need."""
        unique = self._free(layer, "weight")
        array = weight.detach().numpy().copy()
        self.weights[f"{unique}.weight"] = array
        self.weights[f"{unique}.bias"] = np.zeros(len(array)) if bias is None else bias.detach().numpy().copy()
        return {"weight": f"{unique}.weight", "bias": f"{unique}.bias"}

    def _free(self, layer: str, kind: str) -> str:
        """A module that is called twice is folded twice, so it needs two copies of its arrays."""
        names = (layer, *(f"{layer}.{count}" for count in range(1, 1 + len(self.weights))))
        return next(name for name in names if f"{name}.{kind}" not in self.weights)

    def _affine(self, name: str, source: Value, scale: torch.Tensor, shift: torch.Tensor | None = None) -> Value:
        """scale * x + shift, both per channel."""
        kept = self._keep(name, scale.flatten(), None if shift is None else shift.flatten())
        return Value(self._emit("affine", name, [source.name], self._shape_of(source), **kept), source.layout)

    def _scaled(self, name: str, source: Value, factor: float) -> Value:
        return self._affine(name, source, torch.full((self._shape_of(source)[0],), factor, dtype=torch.float64))

    def _translate(self, node: fx.Node) -> Value | None:
        """What ``node`` is in our graph; None if there is nothing for it."""
        source = node.args[0] if node.args else None
        if node.op == "output":
            if source not in self.value or self.value[source].layout != "C":  # type: ignore[index]
                return None
            return Value(self._emit("output", node.name, [self.value[source].name], _shape(source)), "C")  # type: ignore
        if node.target in (torch.cat, torch.concat) and isinstance(source, list | tuple):
            return self._prepended(node, list(source))
        if node.target in (*_ADD, *_MULTIPLY, *_DIVIDE):
            return self._arithmetic(node)
        if not isinstance(source, fx.Node) or source not in self.value:
            return None
        if node.op == "call_module":
            return self._module(node, source, self.modules[str(node.target)])
        return self._call(node, source, self.value[source])

    # Modules

    def _module(self, node: fx.Node, source: fx.Node, module: nn.Module) -> Value | None:
        value, kind = self.value[source], type(module)
        if isinstance(module, _PASS_THROUGH):
            return value
        if kind in _ACTIVATION_MODULES:
            return self._activation(node.name, value, module)
        if kind in (nn.Linear, TimmLinear):
            return self._linear(node, value, module)  # type: ignore[arg-type]
        if kind in _LAYER_NORMS and value.layout in ("NC", "HWC", "C"):
            return self._layer_norm(node, value, module)  # type: ignore[arg-type]
        if isinstance(module, tracing.LAYER_SCALES):
            return self._affine(node.name, value, module.gamma)
        if kind in (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d) and value.layout in ("C", "CHW"):
            return self._batch_norm(node, value, module)  # type: ignore[arg-type]
        if kind is nn.Flatten and module.start_dim == 1:
            return self._reshaped(node, value)
        if value.layout != "CHW":
            return None
        if kind in (nn.Conv2d, Conv2dSame):
            return self._convolution(node, source, module)  # type: ignore[arg-type]
        if kind in _LAYER_NORMS_2D:
            return self._layer_norm(node, value, module)  # type: ignore[arg-type]
        if kind is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
            return Value(self._emit("mean", node.name, [value.name], _shape(node)), "CHW")
        if kind is nn.MaxPool2d:
            return self._max_pool(node, source, module)  # type: ignore[arg-type]
        if kind is nn.AvgPool2d:
            return self._average_pool(node, source, module)  # type: ignore[arg-type]
        return None

    def _linear(self, node: fx.Node, value: Value, module: nn.Linear) -> Value:
        """On the channels of positions a linear layer is a 1 x 1 convolution."""
        if value.layout == "C":
            kept = self._keep(str(node.target), module.weight, module.bias)
            return Value(self._emit("linear", node.name, [value.name], _shape(node), **kept), "C")
        kept = self._keep(str(node.target), module.weight[:, :, None, None], module.bias)
        geometry = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
        shape = _own(_shape(node), value.layout)
        return Value(self._emit("conv", node.name, [value.name], shape, **geometry, **kept), value.layout)

    def _convolution(self, node: fx.Node, source: fx.Node, module: nn.Conv2d) -> Value | None:
        if module.groups not in (1, module.in_channels) or module.padding_mode != "zeros":
            return None
        pads: list[int] = []
        for side in range(2):
            kernel, stride, dilation = module.kernel_size[side], module.stride[side], module.dilation[side]
            if isinstance(module, Conv2dSame):
                total = get_same_padding(_shape(source)[1 + side], kernel, stride, dilation)
                pads += [total // 2, total - total // 2]
            elif module.padding == "same":
                total = dilation * (kernel - 1)
                pads += [total // 2, total - total // 2]
            elif isinstance(module.padding, str):
                pads += [0, 0]
            else:
                pads += [int(module.padding[side])] * 2
        op = "conv" if module.groups == 1 else "depthwise"
        kept = self._keep(str(node.target), module.weight, module.bias)
        geometry = {"strides": list(module.stride), "pads": pads, "dilations": list(module.dilation)}
        name = self._emit(op, node.name, [self.value[source].name], _shape(node), **geometry, **kept)
        return Value(name, "CHW")

    def _batch_norm(self, node: fx.Node, value: Value, module: nn.BatchNorm2d) -> Value | None:
        if module.running_mean is None or module.running_var is None:
            return None
        scale = (module.running_var + module.eps).rsqrt() * (1.0 if module.weight is None else module.weight)
        shift = (0.0 if module.bias is None else module.bias) - module.running_mean * scale
        normal = self._affine(node.name, value, scale, shift)
        if isinstance(module, BatchNormAct2d) and not isinstance(module.act, nn.Identity):
            return self._activation(f"{node.name}_act", normal, module.act)
        return normal

    def _layer_norm(self, node: fx.Node, value: Value, module: nn.LayerNorm) -> Value | None:
        shape = self._shape_of(value)
        if list(module.normalized_shape) != shape[:1]:
            return None
        name = f"{node.name}_plain" if module.elementwise_affine else node.name
        plain = Value(self._emit("normalize", name, [value.name], shape, eps=module.eps), value.layout)
        return self._affine(node.name, plain, module.weight, module.bias) if module.elementwise_affine else plain

    def _activation(self, name: str, value: Value, module: nn.Module) -> Value | None:
        if type(module) not in _ACTIVATION_MODULES or getattr(module, "approximate", "none") not in ("none", "tanh"):
            return None
        function = _ACTIVATION_MODULES[type(module)]
        return self._function(name, value, "gelu_tanh" if getattr(module, "approximate", "") == "tanh" else function)

    def _function(self, name: str, value: Value, function: str) -> Value:
        if function == "quick_gelu":
            silu = self._function(f"{name}_silu", self._scaled(f"{name}_in", value, _QUICK), "silu")
            return self._scaled(name, silu, 1 / _QUICK)
        shape = self._shape_of(value)
        return Value(self._emit("activation", name, [value.name], shape, function=function), value.layout)

    def _max_pool(self, node: fx.Node, source: fx.Node, module: nn.MaxPool2d) -> Value | None:
        kernel, strides, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
        if _pair(module.dilation) != [1, 1]:
            return None
        pads: list[int] = []
        for k, s, p, n, out in zip(kernel, strides, padding, _shape(source)[1:], _shape(node)[1:], strict=True):
            pads += [p, max(p, (out - 1) * s + k - n - p) if module.ceil_mode else p]
        geometry = {"kernel": kernel, "strides": strides, "pads": pads}
        return Value(self._emit("max_pool", node.name, [self.value[source].name], _shape(node), **geometry), "CHW")

    def _average_pool(self, node: fx.Node, source: fx.Node, module: nn.AvgPool2d) -> Value | None:
        kernel, strides = _pair(module.kernel_size), _pair(module.stride)
        overhang = [
            (out - 1) * s + k > n
            for k, s, n, out in zip(kernel, strides, _shape(source)[1:], _shape(node)[1:], strict=True)
        ]
        # TensorFlow centres a window that is too large; for 2 x 2 windows side by side that is PyTorch's ceil_mode
        if (
            _pair(module.padding) != [0, 0]
            or module.divisor_override
            or (any(overhang) and kernel + strides != [2] * 4)
        ):
            return None
        if any(overhang) and not all(o or n % 2 == 0 for o, n in zip(overhang, _shape(source)[1:], strict=True)):
            return None
        geometry = {"kernel": kernel, "strides": strides}
        return Value(self._emit("average_pool", node.name, [self.value[source].name], _shape(node), **geometry), "CHW")

    # Functions and methods

    def _call(self, node: fx.Node, source: fx.Node, value: Value) -> Value | None:
        """A function or method whose first argument is a traced value."""
        target = node.target
        if target in _PASSING_CALLS:
            return value
        if target in _ACTIVATION_CALLS:
            approximate = node.kwargs.get("approximate", "none")
            function = "gelu_tanh" if approximate == "tanh" else _ACTIVATION_CALLS[target]
            return self._function(node.name, value, function)
        if target in ("permute", "transpose", torch.permute, torch.transpose):
            return self._reordered(node, value)
        if target in ("reshape", "view", "flatten", torch.flatten, torch.reshape):
            return self._reshaped(node, value)
        if target in ("mean", torch.mean):
            return self._mean(node, source, value)
        if target is operator.getitem:
            return self._part(node, value)
        if target is tracing.mixed_heads:
            return self._attention(node, value)
        if target is tracing.mixed_queries:
            return self._multi_query(node)
        if target is tracing.padded:
            below, right = (-n % int(node.args[1]) for n in _shape(source)[:2])  # type: ignore[arg-type]
            if not below and not right:
                return value
            shape = _own(_shape(node), "HWC")
            return Value(self._emit("pad", node.name, [value.name], shape, pads=[0, below, 0, right]), "HWC")
        if target is tracing.cropped:
            if _shape(node) == _shape(source):
                return value
            shape = _own(_shape(node), "HWC")
            return Value(self._emit("crop", node.name, [value.name], shape, start=[0, 0]), "HWC")
        return None

    def _reordered(self, node: fx.Node, value: Value) -> Value | None:
        """A change of PyTorch's order of axes changes nothing in ours."""
        axes = list(range(1 + len(value.layout)))
        given = [a % len(axes) for a in _flat(node.args[1:])]
        if node.target in ("transpose", torch.transpose):
            axes[given[0]], axes[given[1]] = given[1], given[0]
        else:
            axes = given
        layout = "".join(value.layout[a - 1] for a in axes[1:])
        return Value(value.name, layout) if axes[0] == 0 and layout in _POSITIONS else None

    def _reshaped(self, node: fx.Node, value: Value) -> Value | None:
        """Positions in another form; the axis of channels stays whole, and first or last as it was."""
        before, after = self._shape_of(value), _shape(node)
        if value.layout == "C" or (before[1:] == [1, 1] and len(after) == 1):
            flat = value.layout == "C" or len(before) == 1
            if after != before[:1]:
                return None
            return value if flat else Value(self._emit("flatten", node.name, [value.name], after), "C")
        last = value.layout[-1] == "C"
        layout = {2: "NC" if last else "CN", 3: "HWC" if last else "CHW"}.get(len(after))
        if layout is None or after[layout.index("C")] != before[0]:
            return None
        shape = _own(after, layout)
        if shape == before:
            return Value(value.name, layout)
        return Value(self._emit("reshape", node.name, [value.name], shape), layout)

    def _mean(self, node: fx.Node, source: fx.Node, value: Value) -> Value | None:
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        over = {d % (1 + len(value.layout)) - 1 for d in _flat([dims])}
        if value.layout == "C" or over != set(_POSITIONS[value.layout]):
            return None
        channels = self._shape_of(value)[0]
        pooled = self._emit("mean", f"{node.name}_mean", [value.name], [channels, 1, 1])
        if keep:
            return Value(pooled, value.layout)
        return Value(self._emit("flatten", node.name, [pooled], [channels]), "C")

    def _part(self, node: fx.Node, value: Value) -> Value | None:
        """x[:, i], x[:, i:j] of tokens."""
        index = node.args[1]
        whole = isinstance(index, tuple) and index and index[0] == slice(None)
        if not whole or value.layout != "NC" or len(index) != 2:  # type: ignore[arg-type]
            return None
        chosen, (channels, count, _) = index[1], self._shape_of(value)  # type: ignore[index]
        if isinstance(chosen, int):
            start = chosen % count
            name = self._emit("crop", f"{node.name}_token", [value.name], [channels, 1, 1], start=[start, 0])
            return Value(self._emit("flatten", node.name, [name], [channels]), "C")
        if not isinstance(chosen, slice) or not all(n is None or type(n) is int for n in (chosen.start, chosen.stop)):
            return None
        start, stop, step = chosen.indices(count)
        if step != 1:
            return None
        return Value(self._emit("crop", node.name, [value.name], [channels, stop - start, 1], start=[start, 0]), "NC")

    def _prepended(self, node: fx.Node, parts: list[Any]) -> Value | None:
        """Class token and registers before the tokens: zeros before them, and the sum with the tokens' values."""
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        *before, last = parts
        if last not in self.value or self.value[last].layout != "NC" or axis not in (1, -2):
            return None
        if not before or any(part not in self.known for part in before):
            return None
        value, shape = self.value[last], _own(_shape(node), "NC")
        tokens = torch.cat([self.known[part].reshape(-1, shape[0]) for part in before]).T  # (channels, tokens)
        padded = self._emit("pad", f"{node.name}_room", [value.name], shape, pads=[tokens.shape[1], 0, 0, 0])
        array = torch.zeros(shape, dtype=torch.float64)
        array[:, : tokens.shape[1], 0] = tokens
        return self._shifted(node.name, Value(padded, "NC"), array)

    def _shifted(self, name: str, value: Value, array: torch.Tensor) -> Value:
        """The sum with an array in the graph's order."""
        kept = f"{self._free(name, 'shift')}.shift"
        self.weights[kept] = array.numpy().copy()
        return Value(self._emit("shift", name, [value.name], self._shape_of(value), shift=kept), value.layout)

    def _attention(self, node: fx.Node, value: Value) -> Value | None:
        _, heads, window, positions = node.args
        channels, height, width = self._shape_of(value)
        if value.layout not in ("NC", "HWC"):
            return None
        attributes: dict[str, Any] = {"heads": heads}
        if window and window != height:
            attributes["window"] = window
        if positions in self.known:  # an absent mask is not
            attributes["positions"] = f"{self._free(node.name, 'positions')}.positions"
            self.weights[attributes["positions"]] = self.known[positions].numpy().copy()  # type: ignore[index]
        shape = [channels // 3, height, width]
        return Value(self._emit("attention", node.name, [value.name], shape, **attributes), value.layout)

    def _multi_query(self, node: fx.Node) -> Value | None:
        *inputs, heads = node.args
        if any(self.value[source].layout != "CHW" for source in inputs):  # type: ignore[index]
            return None
        names = [self.value[source].name for source in inputs]  # type: ignore[index]
        return Value(self._emit("multi_query", node.name, names, _shape(node), heads=heads), "CHW")

    def _arithmetic(self, node: fx.Node) -> Value | None:
        """Sums and products of two values, or of a value and a number or a parameter."""
        if len(node.args) != 2 or node.kwargs:
            return None
        left, right = node.args
        if node.target in _DIVIDE:
            divides = left in self.value and isinstance(right, int | float) and right
            return self._scaled(node.name, self.value[left], 1 / right) if divides else None  # type: ignore
        adds = node.target in _ADD
        if left not in self.value:
            left, right = right, left
        if left not in self.value:
            return None
        value = self.value[left]  # type: ignore[index]
        if isinstance(right, int | float):
            if right == (0 if adds else 1):
                return value
            return None if adds else self._scaled(node.name, value, float(right))
        if right in self.known:
            return self._with_parameter(node, value, self.known[right], adds)  # type: ignore[index]
        if right not in self.value:
            return None
        other = self.value[right]  # type: ignore[index]
        mine, others = self._shape_of(value), self._shape_of(other)
        if mine != others:
            value, other = (other, value) if mine[1:] == [1, 1] else (value, other)
            mine, others = self._shape_of(value), self._shape_of(other)
            if adds or others != [mine[0], 1, 1]:
                return None
        if value.layout != other.layout:
            return None
        op = "add" if adds else "multiply"
        return Value(self._emit(op, node.name, [value.name, other.name], mine), value.layout)

    def _with_parameter(self, node: fx.Node, value: Value, parameter: torch.Tensor, adds: bool) -> Value | None:
        shape = self._shape_of(value)
        if adds and value.layout == "NC" and list(parameter.shape) == [1, shape[1], shape[0]]:
            return self._shifted(node.name, value, parameter[0].T[:, :, None])
        per_channel = parameter.numel() == shape[0] and (
            parameter.shape[-1] == shape[0] if value.layout[-1] == "C" else parameter.shape[-2:] == (1, 1)
        )
        return self._affine(node.name, value, parameter) if per_channel and not adds else None


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _flat(values: Any) -> list[int]:
    """Axes, however they are given: (0, 2, 1), ((0, 2, 1),) or an int."""
    return [n for value in values for n in (_flat(value) if isinstance(value, list | tuple) else [value])]


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
