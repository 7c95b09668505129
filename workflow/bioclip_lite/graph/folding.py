"""Fold linear operations into adjacent layers, in float64."""

import copy

import numpy as np
from torch import nn

from bioclip_lite.graph.nodes import ARRAYS, Graph, Node, Weights, is_layer
from bioclip_lite.graph.tracing import Untraceable, traced
from bioclip_lite.graph.translation.modules import LEAVES
from bioclip_lite.graph.translation.translate import SUPPORTED, translate
from bioclip_lite.utils.errors import UserError

_COMMUTING = (
    "crop",
    "reshape",
    "mean",
    "flatten",
    "partition",
    "merge",
    "roll",
)  # with a scale and a shift per channel
_GELU = 0.5**0.5


def fold(model: nn.Module, size: int) -> tuple[Graph, Weights]:
    """The graph of ``model`` for images of ``size`` x ``size`` pixels, and its float32 weights by name.

    ``model`` maps (batch, 3, size, size) to (batch, outputs); it is left unchanged and used in evaluation mode.
    Raises UserError that lists every operation without a node in the graph, and the module it stands in.
    """
    model = copy.deepcopy(model).cpu().eval().double()
    try:
        trace = traced(model, size, LEAVES)
    except Untraceable as error:
        raise UserError(f"the student cannot be traced: {error}; take another student ({SUPPORTED})") from error
    nodes, weights = translate(model, trace)
    output = str(nodes.pop()["inputs"][0])
    _drop_unused(nodes, output)
    return merge(nodes, weights, output)


def merge(nodes: list[Node], weights: Weights, output: str) -> tuple[Graph, Weights]:
    """Merge what is linear in ``nodes``, the input first; returns the graph and its float32 weights by name.

    ``weights`` are float64; besides the nodes of the graph there may be "affine", scale * x + shift per channel, whose
    arrays are called weight and bias. Changes both arguments in place. ``output`` names the node that answers.
    """
    for node in [node for node in nodes if node["op"] == "affine"]:
        output = _fold_affine(node, nodes, weights, output)
    _merge_shifts(nodes, weights)
    _scale_gelus(nodes, weights)
    used = {node[key] for node in nodes for key in ARRAYS if key in node}
    graph = {"input": {"name": nodes[0]["name"], "shape": nodes[0]["shape"]}, "output": output, "nodes": nodes[1:]}
    return graph, {name: np.ascontiguousarray(weights[name], dtype=np.float32) for name in sorted(used)}


def _drop_unused(nodes: list[Node], output: str) -> None:
    """Remove, in place, the nodes that the output does not need; keep the input, the first."""
    needed = {output}
    for node in reversed(nodes):
        if node["name"] in needed:
            needed.update(node["inputs"])
    nodes[:] = [node for node in nodes if node["name"] in needed or node is nodes[0]]


def _consumers(nodes: list[Node], name: str) -> list[Node]:
    return [node for node in nodes if name in node["inputs"]]


def _rename(nodes: list[Node], old: str, new: str) -> None:
    for node in nodes:
        node["inputs"] = [new if name == old else name for name in node["inputs"]]


def _fold_affine(node: Node, nodes: list[Node], weights: Weights, output: str) -> str:
    """Merge y = scale * x + shift into the layers before it or after it; returns the output's name.

    Where neither is exact it becomes a 1 x 1 depthwise convolution.
    """
    (source,) = node["inputs"]
    scale, shift = weights[node["weight"]], weights[node["bias"]]
    before = _layers_before(source, nodes)
    if before and source != output:
        for layers, channels in before:
            _fold_into_outputs(layers, weights, scale[channels], shift[channels])
    else:
        output = _push_down(node, nodes, output)
        (source,) = node["inputs"]
        consumers = _consumers(nodes, node["name"])
        if not consumers or node["name"] == output or not all(_takes_affine(after, shift) for after in consumers):
            _make_layer(node, nodes, weights)
            return output
        for consumer in consumers:
            _fold_into_input(consumer, weights, scale, shift)
    nodes.remove(node)
    _rename(nodes, node["name"], source)
    return source if output == node["name"] else output


def _layers_before(name: str, nodes: list[Node]) -> list[tuple[list[Node], slice]]:
    """The layers whose sum ``name`` is, or those of each part that it is concatenated from, and the part's channels.

    [] if it is anything else or has several readers.
    """
    producer = next(node for node in nodes if node["name"] == name)
    if producer["op"] != "concat" or sum(node["inputs"].count(name) for node in nodes) != 1:
        layers = _sum_of_layers(name, nodes)
        return [(layers, slice(None))] if layers else []
    parts: list[tuple[list[Node], slice]] = []
    start = 0
    for part in producer["inputs"]:
        count = next(node["shape"][0] for node in nodes if node["name"] == part)
        parts.append((_sum_of_layers(part, nodes), slice(start, start + count)))
        start += count
    return parts if all(layers for layers, _ in parts) else []


def _sum_of_layers(name: str, nodes: list[Node]) -> list[Node]:
    """The layers that ``name`` is the sum of; [] if it is anything else or has several readers."""
    producer = next(node for node in nodes if node["name"] == name)
    if sum(node["inputs"].count(name) for node in nodes) != 1:
        return []
    if is_layer(producer):
        return [producer]
    if producer["op"] != "add":
        return []
    parts = [_sum_of_layers(part, nodes) for part in producer["inputs"]]
    return [layer for part in parts for layer in part] if all(parts) else []


def _fold_into_outputs(layers: list[Node], weights: Weights, scale: np.ndarray, shift: np.ndarray) -> None:
    """Make the sum of ``layers`` come out as scale * sum + shift; both (output channels,)."""
    for number, layer in enumerate(layers):
        weight = weights[layer["weight"]]
        weights[layer["weight"]] = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        weights[layer["bias"]] = weights[layer["bias"]] * scale + (shift if number == 0 else 0)


def _push_down(node: Node, nodes: list[Node], output: str) -> str:
    """Swap an affine node with its only reader while that commutes with it; returns the output's name."""
    while node["name"] != output:
        consumers = _consumers(nodes, node["name"])
        if len(consumers) != 1 or consumers[0]["op"] not in _COMMUTING:
            break
        (after,) = consumers
        _rename(nodes, after["name"], node["name"])
        after["inputs"], node["inputs"], node["shape"] = node["inputs"], [after["name"]], after["shape"]
        nodes.remove(node)
        nodes.insert(nodes.index(after) + 1, node)
        output = node["name"] if output == after["name"] else output
    return output


def _takes_affine(consumer: Node, shift: np.ndarray) -> bool:
    """Whether a layer can absorb scale and shift of its input.

    A shift is constant over the image only where no zeros are padded.
    """
    return is_layer(consumer) and (not any(consumer.get("pads", [])) or not shift.any())


def _fold_into_input(layer: Node, weights: Weights, scale: np.ndarray, shift: np.ndarray) -> None:
    """Make a layer compute of x what it computed of scale * x + shift; both (input channels,)."""
    weight = weights[layer["weight"]]
    if layer["op"] == "depthwise":
        per_input = len(weight) // len(scale)
        scale, shift = np.repeat(scale, per_input)[:, None], np.repeat(shift, per_input)[:, None]
    else:
        scale, shift = scale[None], shift[None]
    form = (*scale.shape, *[1] * (weight.ndim - 2))
    moved = weight * shift.reshape(form)
    weights[layer["bias"]] = weights[layer["bias"]] + moved.reshape(len(weight), -1).sum(axis=1)
    weights[layer["weight"]] = weight * scale.reshape(form)


def _make_layer(node: Node, nodes: list[Node], weights: Weights) -> None:
    """Turn an affine node into a layer of its own, in place: a 1 x 1 depthwise convolution."""
    weights[node["weight"]] = weights[node["weight"]].reshape(-1, 1, 1, 1)
    layer = {**node, "op": "depthwise", "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
    if len(node["shape"]) > 1:
        node.update(layer)
        return
    name, shape = node["name"], [*node["shape"], 1, 1]
    image = {"op": "reshape", "name": f"{name}_image", "inputs": node["inputs"], "shape": shape}
    layer |= {"name": f"{name}_layer", "inputs": [image["name"]], "shape": shape}
    flat = {"op": "flatten", "name": name, "inputs": [layer["name"]], "shape": node["shape"]}
    at = nodes.index(node)
    nodes[at : at + 1] = [image, layer, flat]


def _merge_shifts(nodes: list[Node], weights: Weights) -> None:
    """Merge a class token and the position embedding that is added to it into one array, in place."""
    for node in [node for node in nodes if node["op"] == "shift"]:
        producer = next(other for other in nodes if other["name"] == node["inputs"][0])
        if producer["op"] == "shift" and len(_consumers(nodes, producer["name"])) == 1:
            weights[node["shift"]] = weights[node["shift"]] + weights[producer["shift"]]
            node["inputs"] = producer["inputs"]
            nodes.remove(producer)


def _scale_gelus(nodes: list[Node], weights: Weights) -> None:
    """Spare GELU two multiplications: x = sqrt(2) u gives gelu(x) = u (1 + erf u) / sqrt(2).

    Both factors move into the layers before and after it, where there are only layers.
    """
    for node in nodes:
        if node.get("function") != "gelu":
            continue
        before, after = _sum_of_layers(node["inputs"][0], nodes), _consumers(nodes, node["name"])
        if before and after and all(_takes_affine(layer, np.zeros(1)) for layer in after):
            _fold_into_outputs(before, weights, np.array([_GELU]), np.zeros(1))
            for layer in after:
                weights[layer["weight"]] = weights[layer["weight"]] * _GELU
            node["function"] = "scaled_gelu"
