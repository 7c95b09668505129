"""A student as a small graph of plain operations: what is quantised, measured and shipped.

``fold`` traces a re-parameterised timm model and merges everything that is linear into its neighbours, in float64:
batch normalisation, layer scale, the normalisation before attention and attention's 1/sqrt(d). What remains is a list
of nodes as JSON and their weights as NumPy arrays in PyTorch's layout. ``run`` executes it in PyTorch;
``bioclip_lite.tfjs`` builds the same nodes in TensorFlow. The normalisation of the pixels stays outside, in
preprocessing: convolutions pad the normalised image with zeros, so a mean cannot be folded exactly.

Nodes (tensors are (batch, channels, height, width) or (batch, channels); ``pads`` are top, bottom, left, right):

==============  ====================================================================================================
conv            weight (out, in, kh, kw), bias; strides, pads, dilations
depthwise       weight (in * multiplier, 1, kh, kw), bias; strides, pads, dilations
linear          weight (out, in), bias
activation      function: one of ACTIVATIONS
add, multiply   two inputs of equal shape, or the second (batch, channels, 1, 1)
attention       input (batch, 3 * heads * d, height, width) holds queries, keys, values; queries are scaled already
max_pool        kernel, strides, pads
average_pool    kernel, strides; a window over the edge averages what is inside
mean            over height and width; keeps them as 1 x 1
flatten         (batch, channels, 1, 1) to (batch, channels)
==============  ====================================================================================================
"""

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, DropPath
from timm.layers import Linear as TimmLinear
from timm.layers.activations import GELU as TimmGELU
from timm.layers.activations import HardSigmoid, HardSwish, Sigmoid, Swish
from timm.layers.padding import get_same_padding
from timm.models.fastvit import Attention, LayerScale2d
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from bioclip_lite.errors import UserError

Graph = dict[str, Any]
Weights = dict[str, np.ndarray]
Node = dict[str, Any]

SUPPORTED = (
    "fastvit_*, mobilenetv4_conv_*, mobilenetv2_*, mobilenetv3_*, efficientnet_*, repvit_*, mobileone_*, resnet*"
)

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
}
_ACTIVATION_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.GELU: "gelu",
    TimmGELU: "gelu",
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
_ADD = (operator.add, operator.iadd, torch.add, "add", "add_")
_MULTIPLY = (operator.mul, operator.imul, torch.mul, "mul", "mul_")


def fold(model: nn.Module, size: int) -> tuple[Graph, Weights]:
    """The graph of ``model`` for images of ``size`` x ``size`` pixels, and its float32 weights by name.

    ``model`` maps (batch, 3, size, size) to (batch, outputs); it is left unchanged and used in evaluation mode.
    Raises UserError with every operation that the graph has no node for, and the module it stands in.
    """
    model = copy.deepcopy(model).cpu().eval().double()
    trace = _trace(model, size)
    nodes, weights = _Translation(model, trace).result()
    output = _fold_affine(nodes, weights)
    _drop_unused(nodes, output)
    used = {node[kind] for node in nodes for kind in ("weight", "bias") if kind in node}
    graph = {"input": {"name": nodes[0]["name"], "shape": nodes[0]["shape"]}, "output": output, "nodes": nodes[1:]}
    return graph, {name: np.ascontiguousarray(weights[name], dtype=np.float32) for name in sorted(used)}


# Tracing


class _Tracer(fx.Tracer):
    """Stops at the modules that a node stands for, and remembers which module stopped it."""

    failed_in = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d | Attention | LayerScale2d | DropPath)
            or type(m) in _ACTIVATION_MODULES
            or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or f"{self.path_of_module(m)} ({type(m).__name__})"
            raise


def _trace(model: nn.Module, size: int) -> fx.Graph:
    tracer = _Tracer()
    try:
        traced = fx.GraphModule(model, tracer.trace(model))
    except Exception as error:  # timm's forward may raise anything when its arguments are symbols
        where = tracer.failed_in or type(model).__name__
        raise UserError(
            f"the student cannot be traced: {where} chooses its operations while it runs "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}); take another student ({SUPPORTED})"
        ) from error
    traced.graph.eliminate_dead_code()
    with torch.no_grad():
        ShapeProp(traced).propagate(torch.zeros(1, 3, size, size, dtype=torch.float64))
    return traced.graph


def _shape(node: fx.Node) -> list[int]:
    """Without the batch; [] for a value that is not one tensor."""
    return list(getattr(node.meta.get("tensor_meta"), "shape", [0])[1:])


class _Translation:
    """One pass over the trace: fx nodes to ours, parameters to float64 arrays, "affine" nodes still unfolded."""

    def __init__(self, model: nn.Module, trace: fx.Graph) -> None:
        self.modules = dict(model.named_modules())
        self.trace = trace
        self.nodes: list[Node] = []
        self.weights: Weights = {}
        self.value: dict[fx.Node, str] = {}  # the name under which each traced value is known
        self.shapes: dict[str, list[int]] = {}
        self.constants = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.unsupported: dict[str, dict[str, None]] = {}  # operation to the modules it stands in

    def result(self) -> tuple[list[Node], Weights]:
        """The nodes in order, the input first and an "output" last; and the weights."""
        for node in self.trace.nodes:
            name = self._translate(node)
            if name is None:
                if _shape(node) or node.op == "output":  # not for Python's own: shapes, comparisons, assertions
                    what, where = self._describe(node)
                    self.unsupported.setdefault(what, {})[where] = None
                name = self._emit("unsupported", node.name, [], _shape(node))
            self.value[node] = name
        if self.unsupported:
            raise UserError(
                "the student has operations that cannot be shipped: "
                + "; ".join(f"{what} in {', '.join(where)}" for what, where in self.unsupported.items())
                + f". Take another "
                f"student ({SUPPORTED}) or add them to workflow/bioclip_lite/graph.py and tfjs.py"
            )
        return self.nodes, self.weights

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
        self.shapes[name] = shape
        return name

    def _parameters(self, layer: str, weight: torch.Tensor, bias: torch.Tensor | None) -> dict[str, str]:
        """Keep the arrays under the layer's name; every layer gets a bias, which folding may need."""
        unique = layer
        for count in range(1, 1 + len(self.weights)):
            if f"{unique}.weight" not in self.weights:
                break
            unique = f"{layer}.{count}"  # a module that is called twice is folded twice, so it needs two copies
        array = weight.detach().numpy().copy()
        self.weights[f"{unique}.weight"] = array
        self.weights[f"{unique}.bias"] = np.zeros(len(array)) if bias is None else bias.detach().numpy().copy()
        return {"weight": f"{unique}.weight", "bias": f"{unique}.bias"}

    def _affine(self, node: fx.Node, source: str, scale: torch.Tensor, shift: torch.Tensor | None = None) -> str:
        parameters = self._parameters(node.name, scale.flatten(), None if shift is None else shift.flatten())
        return self._emit("affine", node.name, [source], _shape(node), **parameters)

    def _translate(self, node: fx.Node) -> str | None:
        """The name of the value of ``node`` in our graph; None if there is no node for it."""
        if node.op == "placeholder":
            # a further argument of forward, None when it is called: whatever uses it is reported
            return self._emit("absent" if self.nodes else "input", node.name, [], _shape(node))
        if node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node) or len(_shape(result)) != 1:
                return None
            return self._emit("output", node.name, [self.value[result]], _shape(result))
        if node.op == "get_attr":
            return node.name if str(node.target) in self.constants else None
        source = node.args[0] if node.args else None
        if not _shape(node):
            return None
        if not isinstance(source, fx.Node):
            return self._arithmetic(node)
        if node.op == "call_module":
            return self._module(node, source, self.modules[str(node.target)])
        return self._call(node, source)

    def _module(self, node: fx.Node, source: fx.Node, module: nn.Module) -> str | None:
        value, kind = self.value[source], type(module)
        if isinstance(module, _PASS_THROUGH):
            return value
        if kind in (nn.Conv2d, Conv2dSame):
            return self._convolution(node, source, module)  # type: ignore[arg-type]
        if kind in (nn.Linear, TimmLinear) and len(_shape(source)) == 1:
            parameters = self._parameters(str(node.target), module.weight, module.bias)  # type: ignore[arg-type]
            return self._emit("linear", node.name, [value], _shape(node), **parameters)
        if kind in (nn.BatchNorm2d, nn.BatchNorm1d, BatchNormAct2d):
            return self._batch_norm(node, value, module)  # type: ignore[arg-type]
        if kind is LayerScale2d:
            return self._affine(node, value, module.gamma)  # type: ignore[arg-type]
        if kind in _ACTIVATION_MODULES:
            return self._activation(node.name, value, module, _shape(node))
        if isinstance(module, Attention):
            return self._attention(node, value, module)
        if kind is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
            return self._emit("mean", node.name, [value], _shape(node))
        if kind is nn.Flatten and module.start_dim == 1:
            return self._flatten(node, source)
        if kind is nn.MaxPool2d:
            return self._max_pool(node, source, module)  # type: ignore[arg-type]
        if kind is nn.AvgPool2d:
            return self._average_pool(node, source, module)  # type: ignore[arg-type]
        return None

    def _convolution(self, node: fx.Node, source: fx.Node, module: nn.Conv2d) -> str | None:
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
        parameters = self._parameters(str(node.target), module.weight, module.bias)
        geometry = {"strides": list(module.stride), "pads": pads, "dilations": list(module.dilation)}
        return self._emit(op, node.name, [self.value[source]], _shape(node), **geometry, **parameters)

    def _pointwise(self, name: str, source: str, layer: str, module: nn.Linear, shape: list[int], scale: float) -> str:
        """A linear layer on the channels of an image: a 1 x 1 convolution. ``scale`` is for its first third of rows."""
        parameters = self._parameters(layer, module.weight[:, :, None, None], module.bias)
        for key in parameters.values():
            self.weights[key][: len(self.weights[key]) // 3] *= scale
        geometry = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
        return self._emit("conv", name, [source], shape, **geometry, **parameters)

    def _attention(self, node: fx.Node, value: str, module: Attention) -> str:
        side, layer = _shape(node)[1:], str(node.target)
        inner = module.num_heads * module.head_dim
        # 1/sqrt(d) of the architecture: a pruned head keeps the scale that it was trained with
        qkv = self._pointwise(f"{node.name}_qkv", value, f"{layer}.qkv", module.qkv, [3 * inner, *side], module.scale)
        mixed = self._emit("attention", f"{node.name}_heads", [qkv], [inner, *side], heads=module.num_heads)
        return self._pointwise(node.name, mixed, f"{layer}.proj", module.proj, _shape(node), 1.0)

    def _batch_norm(self, node: fx.Node, value: str, module: nn.BatchNorm2d) -> str | None:
        if module.running_mean is None or module.running_var is None:
            return None
        scale = (module.running_var + module.eps).rsqrt() * (1.0 if module.weight is None else module.weight)
        shift = (0.0 if module.bias is None else module.bias) - module.running_mean * scale
        name = self._affine(node, value, scale, shift)
        if isinstance(module, BatchNormAct2d) and not isinstance(module.act, nn.Identity):
            return self._activation(f"{node.name}_act", name, module.act, _shape(node))
        return name

    def _activation(self, name: str, value: str, module: nn.Module, shape: list[int]) -> str | None:
        if type(module) not in _ACTIVATION_MODULES or getattr(module, "approximate", "none") != "none":
            return None
        return self._emit("activation", name, [value], shape, function=_ACTIVATION_MODULES[type(module)])

    def _flatten(self, node: fx.Node, source: fx.Node) -> str | None:
        shape = _shape(source)
        if len(shape) == 1:
            return self.value[source]
        if shape[1:] != [1, 1]:
            return None
        return self._emit("flatten", node.name, [self.value[source]], _shape(node))

    def _max_pool(self, node: fx.Node, source: fx.Node, module: nn.MaxPool2d) -> str | None:
        kernel, strides, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
        if _pair(module.dilation) != [1, 1]:
            return None
        pads: list[int] = []
        for k, s, p, n, out in zip(kernel, strides, padding, _shape(source)[1:], _shape(node)[1:], strict=True):
            pads += [p, max(p, (out - 1) * s + k - n - p) if module.ceil_mode else p]
        geometry = {"kernel": kernel, "strides": strides, "pads": pads}
        return self._emit("max_pool", node.name, [self.value[source]], _shape(node), **geometry)

    def _average_pool(self, node: fx.Node, source: fx.Node, module: nn.AvgPool2d) -> str | None:
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
        return self._emit("average_pool", node.name, [self.value[source]], _shape(node), kernel=kernel, strides=strides)

    def _call(self, node: fx.Node, source: fx.Node) -> str | None:
        """A function or method whose first argument is a traced value."""
        if node.target in _ACTIVATION_CALLS:
            if node.kwargs.get("approximate", "none") != "none":
                return None
            function = _ACTIVATION_CALLS[node.target]
            return self._emit("activation", node.name, [self.value[source]], _shape(node), function=function)
        if node.target in ("mean", torch.mean):
            dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
            if len(_shape(source)) != 3 or not isinstance(dims, list | tuple) or {d % 4 for d in dims} != {2, 3}:
                return None
            pooled = self._emit("mean", f"{node.name}_mean", [self.value[source]], [_shape(source)[0], 1, 1])
            return pooled if keep else self._emit("flatten", node.name, [pooled], _shape(node))
        if node.target in ("flatten", torch.flatten):
            start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
            return self._flatten(node, source) if start == 1 else None
        return self._arithmetic(node)

    def _arithmetic(self, node: fx.Node) -> str | None:
        """Sums and products of two values, or of a value and a number or a parameter per channel."""
        adds, multiplies = node.target in _ADD, node.target in _MULTIPLY
        if not (adds or multiplies) or len(node.args) != 2 or node.kwargs:
            return None
        if any(isinstance(arg, int | float) and arg == (0 if adds else 1) for arg in node.args):
            return next(self.value[arg] for arg in node.args if isinstance(arg, fx.Node))
        if not all(isinstance(arg, fx.Node) for arg in node.args):
            return None
        left, right = (arg for arg in node.args if isinstance(arg, fx.Node))
        if left.op == "get_attr":
            left, right = right, left
        if right.op == "get_attr":
            constant = self.constants[str(right.target)]
            if left.op == "get_attr" or not multiplies or constant.shape[-2:] != (1, 1):
                return None
            return self._affine(node, self.value[left], constant)
        if _shape(left) != _shape(right):
            left, right = (right, left) if _shape(left)[1:] == [1, 1] else (left, right)
            if adds or _shape(right) != [_shape(left)[0], 1, 1]:
                return None
        op = "add" if adds else "multiply"
        return self._emit(op, node.name, [self.value[left], self.value[right]], _shape(node))


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


# Folding


def _fold_affine(nodes: list[Node], weights: Weights) -> str:
    """Merge each y = scale * x + shift into the layer before it or the layers after it; returns the output's name.

    Where neither is exact it becomes a 1 x 1 depthwise convolution. Arrays are float64.
    """
    for node in [node for node in nodes if node["op"] == "affine"]:
        (source,) = node["inputs"]
        producer = next(other for other in nodes if other["name"] == source)
        consumers = [other for other in nodes if node["name"] in other["inputs"]]
        scale, shift = weights[node["weight"]], weights[node["bias"]]
        if "weight" in producer and sum(source in other["inputs"] for other in nodes) == 1:
            weight = weights[producer["weight"]]
            weights[producer["weight"]] = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
            weights[producer["bias"]] = weights[producer["bias"]] * scale + shift
        elif consumers and all(_takes_affine(consumer, shift) for consumer in consumers):
            for consumer in consumers:
                _fold_into_input(consumer, weights, scale, shift)
        else:
            weights[node["weight"]] = scale.reshape(-1, 1, 1, 1)
            node.update(op="depthwise", strides=[1, 1], pads=[0] * 4, dilations=[1, 1])
            continue
        nodes.remove(node)
        for consumer in consumers:
            consumer["inputs"] = [source if name == node["name"] else name for name in consumer["inputs"]]
    output = nodes.pop()
    return str(output["inputs"][0])


def _takes_affine(consumer: Node, shift: np.ndarray) -> bool:
    """A shift of the input is constant over the image only where no zeros are padded."""
    return consumer["op"] in ("conv", "depthwise", "linear") and (not any(consumer.get("pads", [])) or not shift.any())


def _fold_into_input(consumer: Node, weights: Weights, scale: np.ndarray, shift: np.ndarray) -> None:
    weight = weights[consumer["weight"]]
    if consumer["op"] == "depthwise":
        per_output = len(weight) // len(scale)
        scale, shift = np.repeat(scale, per_output)[:, None], np.repeat(shift, per_output)[:, None]
    broadcast = (-1, len(scale)) if consumer["op"] != "depthwise" else (len(scale), 1)
    form = [1 if n == -1 else n for n in broadcast] + [1] * (weight.ndim - 2)
    moved = weight * np.reshape(shift, form)
    weights[consumer["bias"]] = weights[consumer["bias"]] + moved.reshape(len(weight), -1).sum(axis=1)
    weights[consumer["weight"]] = weight * np.reshape(scale, form)


def _drop_unused(nodes: list[Node], output: str) -> None:
    """Remove, in place, the nodes that the output does not need; the input (first) stays."""
    needed = {output}
    for node in reversed(nodes):
        if node["name"] in needed:
            needed.update(node["inputs"])
    nodes[:] = [node for node in nodes if node["name"] in needed or node is nodes[0]]


# Execution


@torch.inference_mode()
def run(graph: Graph, weights: Mapping[str, np.ndarray], images: torch.Tensor) -> torch.Tensor:
    """Un-normalised embeddings, float32 (batch, outputs), of preprocessed images, float32 (batch, 3, size, size)."""
    values = {graph["input"]["name"]: images}
    last_use = {name: i for i, node in enumerate(graph["nodes"]) for name in node["inputs"]}
    for i, node in enumerate(graph["nodes"]):
        values[node["name"]] = _execute(node, weights, *[values[name] for name in node["inputs"]])
        for name in node["inputs"]:
            if last_use[name] == i:
                values.pop(name, None)
    return values[graph["output"]]


def _execute(node: Node, weights: Mapping[str, np.ndarray], x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    op = node["op"]
    if op in ("conv", "depthwise"):
        weight, bias = torch.from_numpy(weights[node["weight"]]), torch.from_numpy(weights[node["bias"]])
        top, bottom, left, right = node["pads"]
        padding: tuple[int, int] = (top, left)
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        groups = 1 if op == "conv" else x.shape[1]
        return F.conv2d(x, weight, bias, tuple(node["strides"]), padding, tuple(node["dilations"]), groups)
    if op == "linear":
        return F.linear(x, torch.from_numpy(weights[node["weight"]]), torch.from_numpy(weights[node["bias"]]))
    if op == "activation":
        return ACTIVATIONS[node["function"]](x)
    if op == "add":
        return x + others[0]
    if op == "multiply":
        return x * others[0]
    if op == "attention":
        b, c, h, w = x.shape
        heads = node["heads"]
        q, k, v = x.reshape(b, 3, heads, c // (3 * heads), h * w).unbind(1)  # each (batch, heads, d, tokens)
        attention = (q.transpose(-2, -1) @ k).softmax(dim=-1)
        return (v @ attention.transpose(-2, -1)).reshape(b, c // 3, h, w)
    if op == "max_pool":
        top, bottom, left, right = node["pads"]
        x = F.pad(x, (left, right, top, bottom), value=float("-inf"))
        return F.max_pool2d(x, node["kernel"], node["strides"])
    if op == "average_pool":
        return F.avg_pool2d(x, node["kernel"], node["strides"], ceil_mode=True, count_include_pad=False)
    if op == "mean":
        return x.mean((2, 3), keepdim=True)
    if op == "flatten":
        return x.flatten(1)
    raise ValueError(f"graph node {node['name']} has unknown operation {op}")


def macs(graph: Graph, weights: Mapping[str, np.ndarray]) -> int:
    """Multiply-accumulates of one image: convolutions, linear layers and attention's two products."""
    total = 0
    for node in graph["nodes"]:
        positions = int(np.prod(node["shape"][1:]))
        if "weight" in node:
            total += weights[node["weight"]].size * positions
        elif node["op"] == "attention":
            total += 2 * node["shape"][0] * positions**2
    return total
