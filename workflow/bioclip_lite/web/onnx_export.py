"""A quantised graph as ONNX (opset 17, channels first), in float32 or for runtimes that compute in integers.

``fp32`` holds the weights that TensorFlow.js decodes. ``qdq`` rounds these once more, to INT8 per output channel, and
wraps every value at a layer's ends into QuantizeLinear and DequantizeLinear (uint8 per tensor, over the range that
stage quantize saw on its calibration photographs), which onnxruntime turns into integer kernels. The layers that stage
quantize gave 16 bits stay float32: small and sensitive ones, which would make more than half of the error.

Both map "image", float32 (batch, 3, size, size), preprocessed, to "embedding", float32 (batch, D), not normalised.
Equal folders give equal bytes.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bioclip_lite import __version__
from bioclip_lite.compression import quantized
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing, require

KINDS = ("fp32", "qdq")
_OPSET = 17
_IR_VERSION = 8  # the one of this opset: older runtimes refuse newer files
_LAYERS = ("conv", "depthwise", "linear")
_CUT = ("relu", "relu6")  # a range from 0 does what they do, so onnxruntime drops them

Node = dict[str, Any]


def write(folder: str | os.PathLike[str], path: str | os.PathLike[str], kind: str) -> None:
    """Write the model folder of stage quantize to the file ``path``; ``kind`` is one of KINDS.

    Raises UserError if the folder has no ranges of activations, ValueError for other kinds and unknown nodes.
    """
    if kind not in KINDS:
        raise ValueError(f"an ONNX file is one of {', '.join(KINDS)}, not {kind}")
    require(Path(folder) / quantized.GRAPH_FILE)
    graph, tensors, grids = quantized.load_integers(folder)
    if "ranges" not in graph:
        raise UserError(f"{folder} has no ranges of activations: an older version made it; run stage quantize again")
    narrow = {name for name, used in grids.items() if used.bits == 8}
    model = build(graph, quantized.decode(tensors, grids), narrow if kind == "qdq" else set())
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as scratch:
        scratch.write_bytes(model.SerializeToString(deterministic=True))


def run(path: str | os.PathLike[str], images: np.ndarray) -> np.ndarray:
    """float32 (n, D): what onnxruntime answers to preprocessed images, float32 (n, 3, size, size), on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": images[i : i + 32]})[0] for i in range(0, len(images), 32)])


def build(graph: dict[str, Any], weights: dict[str, np.ndarray], narrow: set[str]) -> onnx.ModelProto:
    """The model in memory; layers whose weight is in ``narrow`` compute in INT8."""
    file = _File()
    source, target = graph["input"], graph["output"]
    shapes = {node["name"]: node["shape"] for node in [source, *graph["nodes"]]}
    integer = {node["name"] for node in graph["nodes"] if node["op"] in _LAYERS and node["weight"] in narrow}
    scales: dict[str, float] = {}
    values = {source["name"]: "image"}

    def hand_on(name: str) -> None:
        """Through the 256 steps of its range, for a value that a layer in INT8 writes or reads."""
        readers = [node for node in graph["nodes"] if name in node["inputs"]]
        stepped = name in integer or any(node["name"] in integer for node in readers)
        cut = len(readers) == 1 and readers[0]["op"] == "activation" and readers[0]["function"] in _CUT
        if stepped and not cut and name != target:
            values[name], scales[name] = _steps(file, name, values[name], *graph["ranges"][name])

    hand_on(source["name"])
    for node in graph["nodes"]:
        inputs = [values[name] for name in node["inputs"]]
        if node["op"] in _LAYERS:
            scale = scales[node["inputs"][0]] if node["name"] in integer else None
            values[node["name"]] = _layer(file, node, inputs[0], weights, shapes[node["inputs"][0]][0], scale)
        else:
            values[node["name"]] = _plain(file, node, inputs, weights, shapes)
        hand_on(node["name"])
    file.add("Identity", [values[target]], "embedding")

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *source["shape"]])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", *shapes[target]])
    body = helper.make_graph(file.nodes, "student", [image], [embedding], list(file.constants.values()))
    return helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="bioclip-lite",
        producer_version=__version__,
    )


@dataclass
class _File:
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """One node with one output, both called ``name``."""
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        array = np.ascontiguousarray(values, dtype=dtype)
        self.constants[name] = numpy_helper.from_array(array.reshape(np.shape(values)), name)
        return name

    def number(self, value: float) -> str:
        return self.constant(f"number {value!r}", np.float32(value))

    def shape(self, *sizes: int) -> str:
        return self.constant(f"shape {json.dumps(sizes)}", list(sizes), np.int64)


def _steps(file: _File, name: str, value: str, low: float, high: float) -> tuple[str, float]:
    """(``value`` rounded to 256 steps that span the range and zero, the size of a step)."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = float(np.float32((high - low) / 255)) or 1.0
    parameters = [
        file.constant(f"{name} step", np.float32(step)),
        file.constant(f"{name} zero", np.uint8(round(-low / step)), np.uint8),
    ]
    q = file.add("QuantizeLinear", [value, *parameters], f"{name} integers")
    return file.add("DequantizeLinear", [q, *parameters], f"{name} steps"), step


def _layer(file: _File, node: Node, x: str, weights: dict[str, np.ndarray], channels: int, step: float | None) -> str:
    """conv, depthwise, linear; in INT8 if the ``step`` of its input is given."""
    weight, bias = weights[node["weight"]], weights[node["bias"]]
    if step is None:
        parameters = [file.constant(node["weight"], weight), file.constant(node["bias"], bias)]
    else:
        largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
        # A bias is counted in steps of weight times input, in 32 bits: a channel of tiny weights needs larger ones.
        least = np.abs(bias) / (step * 2.0**30)
        scale = np.maximum(np.where(largest > 0, largest / 127, 1.0), least).astype(np.float32)
        rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
        integers = np.clip(np.rint(weight / rows), -127, 127)
        products = scale * np.float32(step)
        parameters = [
            _dequantised(file, node["weight"], integers, scale, np.int8),
            _dequantised(file, node["bias"], np.rint(bias.astype(np.float64) / products), products, np.int32),
        ]
    if node["op"] == "linear":
        return file.add("Gemm", [x, *parameters], node["name"], transB=1)
    return file.add(
        "Conv",
        [x, *parameters],
        node["name"],
        kernel_shape=weight.shape[2:],
        strides=node["strides"],
        dilations=node["dilations"],
        pads=_pads(node),
        group=channels if node["op"] == "depthwise" else 1,
    )


def _dequantised(file: _File, name: str, integers: np.ndarray, scale: np.ndarray, dtype: Any) -> str:
    inputs = [
        file.constant(f"{name} integers", integers, dtype),
        file.constant(f"{name} step", scale),
        file.constant(f"{name} zero", np.zeros(len(scale)), dtype),
    ]
    return file.add("DequantizeLinear", inputs, name, axis=0)


def _pads(node: Node) -> list[int]:
    """ONNX lists the beginnings of all axes before the ends."""
    top, bottom, left, right = node["pads"]
    return [top, left, bottom, right]


def _plain(
    file: _File, node: Node, inputs: list[str], weights: dict[str, np.ndarray], shapes: dict[str, list[int]]
) -> str:
    """All nodes that are no layers, in float32."""
    op, name = node["op"], node["name"]
    if op == "activation":
        return _ACTIVATIONS[node["function"]](file, name, inputs[0])
    if op in ("add", "multiply"):
        return file.add("Add" if op == "add" else "Mul", inputs, name)
    if op == "shift":
        return file.add("Add", [*inputs, file.constant(node["shift"], weights[node["shift"]][None])], name)
    if op == "normalize":
        centred = file.add(
            "Sub", [inputs[0], file.add("ReduceMean", inputs, f"{name} mean", axes=[1])], f"{name} centred"
        )
        squares = file.add("Mul", [centred, centred], f"{name} squares")
        variance = file.add("ReduceMean", [squares], f"{name} variance", axes=[1])
        deviation = file.add(
            "Sqrt", [file.add("Add", [variance, file.number(node["eps"])], f"{name} eps")], f"{name} deviation"
        )
        return file.add("Div", [centred, deviation], name)
    if op == "attention":
        return _attention(file, node, inputs[0], weights)
    if op == "multi_query":
        return _multi_query(file, node, inputs, [shapes[source] for source in node["inputs"]])
    if op == "max_pool":
        return file.add("MaxPool", inputs, name, kernel_shape=node["kernel"], strides=node["strides"], pads=_pads(node))
    if op == "average_pool":
        return file.add("AveragePool", inputs, name, kernel_shape=node["kernel"], strides=node["strides"], ceil_mode=1)
    if op == "pad":
        top, left, bottom, right = _pads(node)
        return file.add("Pad", [*inputs, file.shape(0, 0, top, left, 0, 0, bottom, right)], name)
    if op == "crop":
        (top, left), (_, height, width) = node["start"], node["shape"]
        return file.add(
            "Slice", [*inputs, file.shape(top, left), file.shape(top + height, left + width), file.shape(2, 3)], name
        )
    if op == "reshape":
        return file.add("Reshape", [*inputs, file.shape(-1, *node["shape"])], name)
    if op == "mean":
        return file.add("GlobalAveragePool", inputs, name)
    if op == "flatten":
        return file.add("Flatten", inputs, name)
    raise ValueError(f"graph node {name} has unknown operation {op}")


def _attention(file: _File, node: Node, x: str, weights: dict[str, np.ndarray]) -> str:
    """As in graph.execute: windows first, then heads; queries, keys and values are (windows, heads, d, places)."""
    name, heads, (inner, height, width) = node["name"], node["heads"], node["shape"]
    down, across = node.get("window", height), node.get("window", width)
    rows, columns, d = height // down, width // across, inner // heads

    def reshape(value: str, what: str, *sizes: int) -> str:
        return file.add("Reshape", [value, file.shape(*sizes)], f"{name} {what}")

    x = reshape(x, "squares", -1, 3 * inner, rows, down, columns, across)
    x = file.add("Transpose", [x], f"{name} windows", perm=[0, 2, 4, 1, 3, 5])
    x = reshape(x, "heads", -1, 3 * heads, d, down * across)
    q, k, v = (
        file.add(
            "Slice",
            [x, file.shape(i * heads), file.shape((i + 1) * heads), file.shape(1)],
            f"{name} {what}",
        )
        for i, what in enumerate(("queries", "keys", "values"))
    )
    scores = file.add("MatMul", [file.add("Transpose", [q], f"{name} asked", perm=[0, 1, 3, 2]), k], f"{name} scores")
    if "positions" in node:
        positions = file.constant(node["positions"], weights[node["positions"]][None])
        scores = file.add("Add", [scores, positions], f"{name} placed")
    shares = file.add("Softmax", [scores], f"{name} shares", axis=-1)
    shares = file.add("Transpose", [shares], f"{name} given", perm=[0, 1, 3, 2])
    x = file.add("MatMul", [v, shares], f"{name} mixed")
    x = reshape(x, "parted", -1, rows, columns, inner, down, across)
    x = file.add("Transpose", [x], f"{name} joined", perm=[0, 3, 1, 4, 2, 5])
    return file.add("Reshape", [x, file.shape(-1, *node["shape"])], name)


def _multi_query(file: _File, node: Node, inputs: list[str], shapes: list[list[int]]) -> str:
    """As in graph.execute: q (batch, heads, places, d); k (batch, 1, d, keys); v (batch, 1, keys, d')."""
    name, heads = node["name"], node["heads"]
    (asking, height, width), (d, *sides), (valued, *_) = shapes
    keys = int(np.prod(sides))
    q = file.add("Reshape", [inputs[0], file.shape(-1, heads, asking // heads, height * width)], f"{name} queries")
    q = file.add("Transpose", [q], f"{name} asked", perm=[0, 1, 3, 2])
    k = file.add("Reshape", [inputs[1], file.shape(-1, 1, d, keys)], f"{name} keys")
    v = file.add("Reshape", [inputs[2], file.shape(-1, 1, valued, keys)], f"{name} values")
    v = file.add("Transpose", [v], f"{name} given", perm=[0, 1, 3, 2])
    shares = file.add("Softmax", [file.add("MatMul", [q, k], f"{name} scores")], f"{name} shares", axis=-1)
    mixed = file.add("MatMul", [shares, v], f"{name} mixed")
    mixed = file.add("Transpose", [mixed], f"{name} joined", perm=[0, 1, 3, 2])
    return file.add("Reshape", [mixed, file.shape(-1, *node["shape"])], name)


def _times_one_plus(file: _File, name: str, x: str, factor: str) -> str:
    """x (1 + factor), the form of all GELUs."""
    return file.add("Mul", [x, file.add("Add", [factor, file.number(1.0)], f"{name} above")], name)


def _gelu(file: _File, name: str, x: str) -> str:
    erf = file.add("Erf", [file.add("Mul", [x, file.number(0.5**0.5)], f"{name} scaled")], f"{name} erf")
    return _times_one_plus(file, name, file.add("Mul", [x, file.number(0.5)], f"{name} half"), erf)


def _gelu_tanh(file: _File, name: str, x: str) -> str:
    cube = file.add("Mul", [file.add("Mul", [x, x], f"{name} square"), x], f"{name} cube")
    inner = file.add("Add", [x, file.add("Mul", [cube, file.number(0.044715)], f"{name} small")], f"{name} sum")
    scaled = file.add("Mul", [inner, file.number((2 / np.pi) ** 0.5)], f"{name} scaled")
    half = file.add("Mul", [x, file.number(0.5)], f"{name} half")
    return _times_one_plus(file, name, half, file.add("Tanh", [scaled], f"{name} tanh"))


_ACTIVATIONS: dict[str, Callable[[_File, str, str], str]] = {
    "relu": lambda file, name, x: file.add("Relu", [x], name),
    "relu6": lambda file, name, x: file.add("Clip", [x, file.number(0.0), file.number(6.0)], name),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "scaled_gelu": lambda file, name, x: _times_one_plus(file, name, x, file.add("Erf", [x], f"{name} erf")),
    "silu": lambda file, name, x: file.add("Mul", [x, file.add("Sigmoid", [x], f"{name} gate")], name),
    "sigmoid": lambda file, name, x: file.add("Sigmoid", [x], name),
    "hard_swish": lambda file, name, x: file.add("HardSwish", [x], name),
    "hard_sigmoid": lambda file, name, x: file.add("HardSigmoid", [x], name, alpha=1 / 6, beta=0.5),
}
