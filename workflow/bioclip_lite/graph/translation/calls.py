"""Handlers of functions and methods.

A handler takes (builder, fx node) and returns the value of the call, or None where the graph has nothing for its
arguments. The first argument of a call in ``CALLS`` is a traced value; a call in ``MIXED`` may have a parameter, a
number or a list there.
"""

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import fx

from bioclip_lite.graph import twins
from bioclip_lite.graph.translation.builder import POSITIONS, Builder, Value, flat, graph_shape, traced_shape

Handler = Callable[[Builder, fx.Node], Value | None]

SPLITS = (torch.split, torch.chunk, "split", "chunk")  # give several tensors

_ACTIVATIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    "relu": "relu",
    F.relu6: "relu6",
    F.gelu: "gelu",
    F.silu: "silu",
    torch.sigmoid: "sigmoid",
    "sigmoid": "sigmoid",
    F.hardswish: "hard_swish",
    F.hardsigmoid: "hard_sigmoid",
}


def translate_call(builder: Builder, node: fx.Node) -> Value | None:
    """The value of a function or method; None if no handler takes it with these arguments."""
    if node.target in MIXED:
        return MIXED[node.target](builder, node)
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source not in builder.values or node.target not in CALLS:
        return None
    return CALLS[node.target](builder, node)


# Calls on one value


def _same(builder: Builder, node: fx.Node) -> Value:
    return builder.values[node.args[0]]


def _activation(builder: Builder, node: fx.Node) -> Value:
    tanh = node.kwargs.get("approximate", "none") == "tanh"
    function = "gelu_tanh" if tanh else _ACTIVATIONS[node.target]
    return builder.activation(node.name, builder.values[node.args[0]], function)


def _transposed(builder: Builder, node: fx.Node) -> Value | None:
    value = builder.values[node.args[0]]
    axes = list(range(1 + len(value.layout)))
    given = [axis % len(axes) for axis in flat(node.args[1:])]
    if len(given) != 2:
        return None
    axes[given[0]], axes[given[1]] = given[1], given[0]
    return _reordered(value, axes)


def _permuted(builder: Builder, node: fx.Node) -> Value | None:
    value = builder.values[node.args[0]]
    return _reordered(value, [axis % (1 + len(value.layout)) for axis in flat(node.args[1:])])


def _reordered(value: Value, axes: list[int]) -> Value | None:
    """Another order of PyTorch's axes changes nothing in ours."""
    layout = "".join(value.layout[axis - 1] for axis in axes[1:])
    return Value(value.name, layout) if axes[:1] == [0] and layout in POSITIONS else None


def reshaped(builder: Builder, node: fx.Node) -> Value | None:
    """Positions in another form; the axis of channels must stay whole, and first or last as it was."""
    value = builder.values[node.args[0]]
    before, after = builder.shape_of(value), traced_shape(node)
    if value.layout == "C" or (before[1:] == [1, 1] and len(after) == 1):
        return _flattened(builder, node, value) if after == before[:1] else None
    last = value.layout[-1] == "C"
    layout = {2: "NC" if last else "CN", 3: "HWC" if last else "CHW"}.get(len(after))
    if layout is None or after[layout.index("C")] != before[0]:
        return None
    shape = graph_shape(after, layout)
    if shape == before:
        return Value(value.name, layout)
    return Value(builder.emit("reshape", node.name, [value.name], shape), layout)


def _flattened(builder: Builder, node: fx.Node, value: Value) -> Value:
    """(channels, 1, 1) or (channels,) as (channels,)."""
    if value.layout == "C":
        return value
    return Value(builder.emit("flatten", node.name, [value.name], builder.shape_of(value)[:1]), "C")


def _mean(builder: Builder, node: fx.Node) -> Value | None:
    value = builder.values[node.args[0]]
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keeps = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    over = {d % (1 + len(value.layout)) - 1 for d in flat([dims])}
    if value.layout == "C" or over != set(POSITIONS[value.layout]):
        return None
    channels = builder.shape_of(value)[0]
    pooled = builder.emit("mean", f"{node.name}_mean", [value.name], [channels, 1, 1])
    if keeps:
        return Value(pooled, value.layout)
    return Value(builder.emit("flatten", node.name, [pooled], [channels]), "C")


def _item(builder: Builder, node: fx.Node) -> Value | None:
    """A part of several, or of the channels or tokens of one."""
    source, index = node.args
    if not isinstance(source, fx.Node) or source not in builder.values:
        return None
    if "shapes" in source.meta:
        return _part(builder, node, source, cast(int, index))
    value = builder.values[source]
    places = _expanded(index, 1 + len(value.layout))
    if places is None:
        return None
    chosen = {axis: place for axis, place in enumerate(places) if place != slice(None)}
    if not chosen:
        return value
    (axis, place), *others = chosen.items()
    if others or axis == 0:
        return None
    if value.layout[axis - 1] == "C":
        return _of_channels(builder, node, value, place)
    return _of_tokens(builder, node, value, place) if value.layout == "NC" else None


def _expanded(index: Any, axes: int) -> list[Any] | None:
    """One place per axis for an index with or without an ellipsis; None if it adds axes."""
    places = list(index) if isinstance(index, tuple) else [index]
    if any(place is None or isinstance(place, fx.Node) for place in places):
        return None
    at = places.index(...) if ... in places else len(places)
    rest = places[at + 1 :]
    return [*places[:at], *[slice(None)] * (axes - at - len(rest)), *rest]


def _part(builder: Builder, node: fx.Node, source: fx.Node, number: int) -> Value | None:
    """One part of a split along the channels."""
    value = builder.values[source]
    axis = _argument(source, 2, "dim") or 0
    if type(axis) is not int or type(number) is not int or value.layout[axis % (1 + len(value.layout)) - 1] != "C":
        return None
    sizes = [shape[axis] for shape in source.meta["shapes"]]
    number %= len(sizes)
    return sliced(builder, node.name, value, sum(sizes[:number]), sizes[number])


def sliced(builder: Builder, name: str, value: Value, start: int, count: int) -> Value:
    """``count`` channels from ``start`` on."""
    shape = builder.shape_of(value)
    if count == shape[0]:
        return value
    return Value(builder.emit("slice", name, [value.name], [count, *shape[1:]], start=start), value.layout)


def _of_channels(builder: Builder, node: fx.Node, value: Value, place: Any) -> Value | None:
    chosen = _contiguous(place, builder.shape_of(value)[0])
    return sliced(builder, node.name, value, chosen[0], len(chosen)) if chosen else None


def _contiguous(place: Any, count: int) -> range | None:
    """What a slice selects of ``count``; None if it is no slice, or one with gaps or with nothing in it."""
    chosen = range(count)[place] if isinstance(place, slice) else None
    return chosen if chosen and chosen.step == 1 else None


def _of_tokens(builder: Builder, node: fx.Node, value: Value, place: Any) -> Value | None:
    """x[:, i] and x[:, i:j] of tokens."""
    channels, count, _ = builder.shape_of(value)
    if isinstance(place, int):
        start = [place % count, 0]
        name = builder.emit("crop", f"{node.name}_token", [value.name], [channels, 1, 1], start=start)
        return Value(builder.emit("flatten", node.name, [name], [channels]), "C")
    chosen = _contiguous(place, count)
    if chosen is None:
        return None
    return Value(builder.emit("crop", node.name, [value.name], [channels, len(chosen), 1], start=[chosen[0], 0]), "NC")


def _attention(builder: Builder, node: fx.Node) -> Value | None:
    source, heads, window, positions = node.args
    value = builder.values[source]
    channels, height, width = builder.shape_of(value)
    if value.layout not in ("NC", "HWC"):
        return None
    attributes: dict[str, Any] = {"heads": heads}
    if window and window != height:
        attributes["window"] = window
    if positions in builder.parameters:  # an absent mask is not
        attributes["positions"] = builder.store_positions(node.name, builder.parameters[positions])
    shape = [channels // 3, height, width]
    return Value(builder.emit("attention", node.name, [value.name], shape, **attributes), value.layout)


def _multi_query(builder: Builder, node: fx.Node) -> Value | None:
    *sources, heads = node.args
    values = [builder.values[source] for source in sources]
    if any(value.layout != "CHW" for value in values):
        return None
    names = [value.name for value in values]
    return Value(builder.emit("multi_query", node.name, names, traced_shape(node), heads=heads), "CHW")


def _cross_attention(builder: Builder, node: fx.Node) -> Value | None:
    *sources, heads, positions = node.args
    if any(source not in builder.values for source in sources):
        return None
    values = [builder.values[source] for source in sources]
    if any(value.layout not in ("NC", "CHW") or value.layout != values[0].layout for value in values):
        return None
    layout = values[0].layout
    attributes: dict[str, Any] = {"heads": heads}
    if positions in builder.parameters:
        attributes["positions"] = builder.store_positions(node.name, builder.parameters[positions])
    names, shape = [value.name for value in values], graph_shape(traced_shape(node), layout)
    return Value(builder.emit("cross_attention", node.name, names, shape, **attributes), layout)


def _linear_attention(builder: Builder, node: fx.Node) -> Value:
    source, heads, eps = node.args
    attributes = {"heads": heads, "eps": eps}
    names = [builder.values[source].name]
    return Value(builder.emit("linear_attention", node.name, names, traced_shape(node), **attributes), "CHW")


def _channel_attention(builder: Builder, node: fx.Node) -> Value:
    source, heads, temperature = node.args
    attributes: dict[str, Any] = {"heads": heads}
    if (builder.parameters[temperature] != 1).any():  # the converter drops a product with ones
        attributes["positions"] = builder.store_positions(node.name, builder.parameters[temperature])
    names, shape = [builder.values[source].name], graph_shape(traced_shape(node), "NC")
    return Value(builder.emit("channel_attention", node.name, names, shape, **attributes), "NC")


def _weighted_sum(builder: Builder, node: fx.Node) -> Value | None:
    values, scores = (builder.values[source] for source in node.args[:2])
    if values.layout != scores.layout or values.layout not in ("NC", "CHW"):
        return None
    shape = [builder.shape_of(values)[0], 1, 1]
    name = builder.emit("weighted_sum", node.name, [values.name, scores.name], shape)
    return Value(name, values.layout)


def _partitioned(builder: Builder, node: fx.Node) -> Value:
    source, side, strided = node.args
    value, shape = builder.values[source], traced_shape(node)
    if shape == builder.shape_of(value):
        return value
    return Value(
        builder.emit("partition", node.name, [value.name], shape, side=list(cast(Any, side)), strided=strided), "CHW"
    )


def _merged(builder: Builder, node: fx.Node) -> Value:
    source, _, side, strided = node.args
    value, shape = builder.values[source], traced_shape(node)
    if shape == builder.shape_of(value):
        return value
    return Value(
        builder.emit("merge", node.name, [value.name], shape, side=list(cast(Any, side)), strided=strided), "CHW"
    )


def _argument(node: fx.Node, place: int, name: str) -> Any:
    """An argument that may be given by its place or by its name; None if it is not given."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


def _rolled(builder: Builder, node: fx.Node) -> Value | None:
    value, shifts, axes = builder.values[node.args[0]], _argument(node, 1, "shifts"), _argument(node, 2, "dims")
    if value.layout != "HWC" or axes != (1, 2):
        return None
    shape = builder.shape_of(value)
    return Value(builder.emit("roll", node.name, [value.name], shape, shifts=list(shifts)), "HWC")


def _space_to_depth(builder: Builder, node: fx.Node) -> Value:
    shape = graph_shape(traced_shape(node), "HWC")
    return Value(builder.emit("space_to_depth", node.name, [builder.values[node.args[0]].name], shape), "HWC")


def _linear(builder: Builder, node: fx.Node) -> Value | None:
    weight, bias = _argument(node, 1, "weight"), _argument(node, 2, "bias")
    if weight not in builder.parameters or bias is not None or builder.values[node.args[0]].layout[-1] != "C":
        return None
    return builder.linear(node.name, node, builder.parameters[weight], None)


def _zeros_around(builder: Builder, node: fx.Node) -> Value | None:
    """F.pad of height and width."""
    value, amounts = builder.values[node.args[0]], cast(list[int], node.args[1])
    mode, filling = _argument(node, 2, "mode") or "constant", _argument(node, 3, "value")
    if value.layout != "CHW" or len(amounts) != 4 or mode != "constant" or filling:
        return None
    left, right, above, below = amounts
    if min(amounts) < 0:
        return None
    pads = [above, below, left, right]
    return Value(builder.emit("pad", node.name, [value.name], traced_shape(node), pads=pads), "CHW")


def _padded(builder: Builder, node: fx.Node) -> Value:
    source, side = node.args[0], cast(int, node.args[1])
    value = builder.values[source]
    below, right = (-size % side for size in traced_shape(source)[:2])
    if not below and not right:
        return value
    shape = graph_shape(traced_shape(node), "HWC")
    return Value(builder.emit("pad", node.name, [value.name], shape, pads=[0, below, 0, right]), "HWC")


def _cropped(builder: Builder, node: fx.Node) -> Value:
    value, source = builder.values[node.args[0]], node.args[0]
    if traced_shape(node) == traced_shape(source):
        return value
    shape = graph_shape(traced_shape(node), "HWC")
    return Value(builder.emit("crop", node.name, [value.name], shape, start=[0, 0]), "HWC")


CALLS: dict[Any, Handler] = {
    **dict.fromkeys(("contiguous", "clone", "float", "type_as", F.dropout), _same),
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **dict.fromkeys(("transpose", torch.transpose), _transposed),
    **dict.fromkeys(("permute", torch.permute), _permuted),
    **dict.fromkeys(("reshape", "view", "flatten", torch.flatten, torch.reshape), reshaped),
    **dict.fromkeys(("mean", torch.mean), _mean),
    twins.mixed_heads: _attention,
    twins.mixed_queries: _multi_query,
    twins.linear_attention: _linear_attention,
    twins.channel_attention: _channel_attention,
    twins.weighted_sum: _weighted_sum,
    twins.partitioned: _partitioned,
    twins.merged: _merged,
    twins.space_to_depth: _space_to_depth,
    torch.roll: _rolled,
    F.linear: _linear,
    F.pad: _zeros_around,
    twins.padded: _padded,
    twins.cropped: _cropped,
}


# Calls on several values, parameters and numbers


def _concatenated(builder: Builder, node: fx.Node) -> Value | None:
    """Channels beside channels; or class token and registers before the tokens.

    The latter are zeros before the tokens, and the sum with the values of class token and registers.
    """
    if not node.args or not isinstance(node.args[0], list | tuple):
        return None
    *before, last = node.args[0]
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if all(part in builder.values for part in node.args[0]):
        return _joined(builder, node, [builder.values[part] for part in node.args[0]], cast(int, axis))
    if last not in builder.values or builder.values[last].layout != "NC" or axis not in (1, -2):
        return None
    if not before or any(part not in builder.parameters for part in before):
        return None
    value, shape = builder.values[last], graph_shape(traced_shape(node), "NC")
    tokens = torch.cat([builder.parameters[part].reshape(-1, shape[0]) for part in before]).T  # (channels, tokens)
    padded = builder.emit("pad", f"{node.name}_room", [value.name], shape, pads=[tokens.shape[1], 0, 0, 0])
    array = torch.zeros(shape, dtype=torch.float64)
    array[:, : tokens.shape[1], 0] = tokens
    return builder.shifted(node.name, Value(padded, "NC"), array)


def _joined(builder: Builder, node: fx.Node, values: list[Value], axis: int) -> Value | None:
    layout = values[0].layout
    if any(value.layout != layout for value in values) or layout[axis % (1 + len(layout)) - 1] != "C":
        return None
    return concatenated(builder, node.name, values)


def concatenated(builder: Builder, name: str, values: list[Value]) -> Value:
    """The channels of all ``values``, which have one layout and one size."""
    shapes = [builder.shape_of(value) for value in values]
    shape = [sum(channels for channels, *_ in shapes), *shapes[0][1:]]
    return Value(builder.emit("concat", name, [value.name for value in values], shape), values[0].layout)


def _sum(builder: Builder, node: fx.Node) -> Value | None:
    value, other = _operands(builder, node)
    if value is None:
        return None
    if isinstance(other, int | float):
        return value if other == 0 else builder.moved(node.name, value, torch.tensor(float(other)))
    if other in builder.parameters:
        return _sum_with_parameter(builder, node, value, builder.parameters[other])
    if other not in builder.values:
        return None
    second = builder.values[other]
    if builder.shape_of(value) != builder.shape_of(second):
        return None
    return _combined(builder, "add", node, value, second)


def _sum_with_parameter(builder: Builder, node: fx.Node, value: Value, parameter: torch.Tensor) -> Value | None:
    """A position embedding, (1, tokens, channels), or one number."""
    shape = builder.shape_of(value)
    if parameter.numel() == 1:
        return builder.moved(node.name, value, parameter)
    if value.layout != "NC" or list(parameter.shape) != [1, shape[1], shape[0]]:
        return None
    return builder.shifted(node.name, value, parameter[0].T[:, :, None])


def _difference(builder: Builder, node: fx.Node) -> Value | None:
    values = [builder.values.get(argument) for argument in node.args if isinstance(argument, fx.Node)]
    if len(values) != 2 or node.kwargs or any(value is None for value in values):
        return None
    first, second = cast(list[Value], values)
    if builder.shape_of(first) != builder.shape_of(second):
        return None
    return _combined(builder, "add", node, first, builder.scaled(f"{node.name}_minus", second, -1.0))


def _product(builder: Builder, node: fx.Node) -> Value | None:
    value, other = _operands(builder, node)
    if value is None:
        return None
    if isinstance(other, int | float):
        return value if other == 1 else builder.scaled(node.name, value, float(other))
    if other in builder.parameters:
        return _product_with_parameter(builder, node, value, builder.parameters[other])
    if other not in builder.values:
        return None
    return _gated(builder, node, value, builder.values[other])


def _product_with_parameter(builder: Builder, node: fx.Node, value: Value, parameter: torch.Tensor) -> Value | None:
    """One factor per channel, or one for all."""
    channels = builder.shape_of(value)[0]
    if parameter.numel() == 1:
        return builder.scaled(node.name, value, float(parameter))
    if parameter.numel() != channels:
        return None
    along_channels = parameter.shape[-1] == channels if value.layout[-1] == "C" else parameter.shape[-2:] == (1, 1)
    return builder.affine(node.name, value, parameter) if along_channels else None


def _gated(builder: Builder, node: fx.Node, value: Value, gate: Value) -> Value | None:
    """The product of two values of one shape, or with a gate (channels, 1, 1), which may be either of them."""
    if builder.shape_of(value) != builder.shape_of(gate):
        if builder.shape_of(value)[1:] == [1, 1]:
            value, gate = gate, value
        if builder.shape_of(gate) != [builder.shape_of(value)[0], 1, 1]:
            return None
    return _combined(builder, "multiply", node, value, gate)


def _quotient(builder: Builder, node: fx.Node) -> Value | None:
    if len(node.args) != 2 or node.kwargs:
        return None
    value, divisor = node.args
    if value not in builder.values or not isinstance(divisor, int | float) or not divisor:
        return None
    return builder.scaled(node.name, builder.values[value], 1 / divisor)


def _operands(builder: Builder, node: fx.Node) -> tuple[Value | None, Any]:
    """(the first argument that is a traced value, or None; the other argument)."""
    if len(node.args) != 2 or node.kwargs:
        return None, None
    left, right = node.args
    if left not in builder.values:
        left, right = right, left
    return builder.values.get(left), right


def _combined(builder: Builder, op: str, node: fx.Node, value: Value, other: Value) -> Value | None:
    """The sum or product of two values that PyTorch lays out alike."""
    if value.layout != other.layout:
        return None
    shape = builder.shape_of(value)
    return Value(builder.emit(op, node.name, [value.name, other.name], shape), value.layout)


MIXED: dict[Any, Handler] = {
    operator.getitem: _item,
    twins.cross_attention: _cross_attention,
    **dict.fromkeys((torch.cat, torch.concat), _concatenated),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _sum),
    **dict.fromkeys((operator.sub, torch.sub, "sub"), _difference),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _product),
    **dict.fromkeys((operator.truediv, torch.div, "div"), _quotient),
}
