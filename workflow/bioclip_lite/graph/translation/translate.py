"""One pass over the trace of a model."""

import torch
from torch import fx, nn

from bioclip_lite.graph.nodes import Node, Weights
from bioclip_lite.graph.translation.builder import Builder, Value, graph_shape, traced_shape
from bioclip_lite.graph.translation.calls import SPLITS, translate_call
from bioclip_lite.graph.translation.modules import translate_module
from bioclip_lite.utils.errors import UserError

FAMILIES = (  # of timm.models, those that phones use and the best known others; benchmarks/students.md has all
    *("fastvit", "byobnet", "repvit", "efficientnet", "mobilenetv3", "ghostnet", "mobilevit", "edgenext"),
    *("efficientvit_mit", "efficientvit_msra", "shvit", "tiny_vit", "starnet"),
    *("convnext", "resnet", "regnet", "densenet", "pvt_v2", "vision_transformer", "deit", "swin_transformer"),
)
SUPPORTED = f"of timm's families these work: {', '.join(FAMILIES)}; docs/students.md tells of all"
_LOST = "lost"  # the layout of the value of an operation that has no handler
_SHOWN = 3  # places of an operation that a message names


def translate(model: nn.Module, trace: fx.Graph) -> tuple[list[Node], Weights]:
    """Nodes in order, the input first and an "output" last, "affine" ones still unfolded; and float64 weights.

    Raises UserError that lists every operation without a node in the graph, and the module it stands in.
    """
    builder = Builder(model)
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    unsupported: dict[str, list[str]] = {}  # operation to the modules it stands in
    for node in trace.nodes:
        if node.op == "placeholder":
            _add_input(builder, node)
        elif node.op == "get_attr" and str(node.target) in tensors:
            builder.parameters[node] = tensors[str(node.target)].detach()
        elif node.all_input_nodes and all(source in builder.parameters for source in node.all_input_nodes):
            builder.parameters[node] = _of_parameters(builder, node)
        elif node.target in SPLITS and node.args[0] in builder.values:
            builder.values[node] = builder.values[node.args[0]]  # the parts are taken from it
        else:
            _add(builder, node, unsupported)
    if unsupported:
        raise UserError(
            "the student has operations that cannot be shipped: "
            + "; ".join(f"{name} in {_few(places)}" for name, places in unsupported.items())
            + f". Choose another student ({SUPPORTED}), or add handlers to workflow/bioclip_lite/graph/translation "
            "and operations to workflow/bioclip_lite/graph/operations"
        )
    return builder.nodes, builder.weights


def _add_input(builder: Builder, node: fx.Node) -> None:
    """The image. A further argument of forward is None when it is called: whatever uses it is reported."""
    if not builder.nodes:
        builder.values[node] = Value(builder.emit("input", node.name, [], traced_shape(node)), "CHW")


def _of_parameters(builder: Builder, node: fx.Node) -> torch.Tensor:
    """What a model computes of its parameters alone is a parameter too."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), builder.parameters.__getitem__)
    with torch.no_grad():
        if node.op == "call_module":
            return builder.modules[str(node.target)](*args, **kwargs)
        function = getattr(args[0], node.target) if isinstance(node.target, str) else node.target
        return function(*(args[1:] if isinstance(node.target, str) else args), **kwargs)


def _add(builder: Builder, node: fx.Node, unsupported: dict[str, list[str]]) -> None:
    """Translate one fx node, or note it in ``unsupported`` unless it follows from another that is noted."""
    sources = [builder.values[source] for source in node.all_input_nodes if source in builder.values]
    lost = any(source.layout == _LOST for source in sources)
    value = None if lost else _translated(builder, node)
    if value is None and not lost:
        name, place = _describe(builder, node)
        places = unsupported.setdefault(name, [])
        if place not in places:
            places.append(place)
    if value is None:
        layout = _guess(node, sources)
        shape = [] if layout == _LOST else graph_shape(traced_shape(node), layout)
        value = Value(builder.emit(_LOST, node.name, [], shape), layout)
    builder.values[node] = value


def _translated(builder: Builder, node: fx.Node) -> Value | None:
    """The value of ``node`` in the graph; None if there is nothing for it."""
    if node.op == "output":
        return _output(builder, node)
    if node.op != "call_module":
        return translate_call(builder, node)
    return translate_module(builder, node) if node.args and node.args[0] in builder.values else None


def _output(builder: Builder, node: fx.Node) -> Value | None:
    source = node.args[0]
    if source not in builder.values or builder.values[source].layout != "C":
        return None
    shape = traced_shape(source)
    return Value(builder.emit("output", node.name, [builder.values[source].name], shape), "C")


def _guess(node: fx.Node, sources: list[Value]) -> str:
    """A layout for a value that could not be translated, so that what follows can be checked too."""
    if len(traced_shape(node)) == 3:
        return "HWC" if sources and sources[0].layout in ("NC", "HWC", _LOST) else "CHW"
    return {1: "C", 2: "NC"}.get(len(traced_shape(node)), _LOST)


def _describe(builder: Builder, node: fx.Node) -> tuple[str, str]:
    """(operation, module it stands in)."""
    if node.op == "call_module":
        module = builder.modules[str(node.target)]
        groups = f" with {module.groups} groups" if isinstance(module, nn.Conv2d) and module.groups > 1 else ""
        return f"{type(module).__name__}{groups}", str(node.target)
    stack = [name for name in node.meta.get("nn_module_stack", {}) if name]
    called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"{called}()", stack[-1] if stack else "the model itself"


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
