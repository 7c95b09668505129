"""A quantized graph as ONNX (opset 17, channels first), in float32 or for runtimes that compute in integers.

``fp32`` holds the weights that TensorFlow.js decodes. ``qdq`` rounds these once more, to INT8 per output channel, and
wraps every value at a layer's ends into QuantizeLinear and DequantizeLinear (uint8 per tensor, over the range that
stage quantize saw on its calibration photographs), which onnxruntime turns into integer kernels. The layers that stage
quantize gave 16 bits stay float32: small and sensitive ones, which would make more than half of the error.

Both map "image", float32 (batch, 3, size, size), preprocessed, to "embedding", float32 (batch, D), not normalised.
Equal models give equal bytes.
"""

import os
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from bioclip_lite import __version__
from bioclip_lite.compression.grid import Grid
from bioclip_lite.graph.nodes import Graph, Node, Weights, arrays_of, is_layer, shapes_of
from bioclip_lite.graph.onnx_file import OnnxFile
from bioclip_lite.graph.operations.table import operation_of
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing

KINDS = ("fp32", "qdq")
_OPSET = 17
_IR_VERSION = 8  # the one of this opset: older runtimes refuse newer files
_CUT = ("relu", "relu6")  # a range from 0 does what they do, so onnxruntime drops them


def write(graph: Graph, weights: Weights, grids: Mapping[str, Grid], path: str | os.PathLike[str], kind: str) -> None:
    """Write a model of stage quantize to the file ``path``; ``kind`` is one of KINDS.

    ``weights`` are the float32 values that ``grids`` decode. Raises UserError if the graph has no ranges of
    activations, ValueError for other kinds and unknown nodes.
    """
    if kind not in KINDS:
        raise ValueError(f"an ONNX file is one of {', '.join(KINDS)}, not {kind}")
    if "ranges" not in graph:
        raise UserError(
            f"{path} cannot be written: the quantized model has no ranges of activations, as an older version made it; "
            "run stage quantize again"
        )
    narrow = {name for name, used in grids.items() if used.bits == 8}
    model = build(graph, weights, narrow if kind == "qdq" else set())
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as scratch:
        scratch.write_bytes(model.SerializeToString(deterministic=True))


def run(path: str | os.PathLike[str], images: np.ndarray) -> np.ndarray:
    """Run a file in onnxruntime on the CPU, one thread.

    ``images``: preprocessed, float32 (n, 3, size, size). Returns float32 (n, D), not normalised.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": images[i : i + 32]})[0] for i in range(0, len(images), 32)])


def build(graph: Graph, weights: Weights, narrow: set[str]) -> onnx.ModelProto:
    """The model in memory; layers whose weight is in ``narrow`` compute in INT8."""
    file = OnnxFile()
    source, target = graph["input"], graph["output"]
    shapes = shapes_of(graph)
    integer = {node["name"] for node in graph["nodes"] if is_layer(node) and node["weight"] in narrow}
    steps: dict[str, float] = {}
    values = {source["name"]: "image"}

    def hand_on(name: str) -> None:
        """Round a value that an INT8 layer writes or reads to the 256 steps of its range."""
        readers = [node for node in graph["nodes"] if name in node["inputs"]]
        rounds = name in integer or any(node["name"] in integer for node in readers)
        if rounds and not _is_cut(readers) and name != target:
            values[name], steps[name] = _round_value(file, name, values[name], *graph["ranges"][name])

    hand_on(source["name"])
    for node in graph["nodes"]:
        arrays = arrays_of(node, weights)
        if node["name"] in integer:
            _add_integers(file, node, arrays, steps[node["inputs"][0]])
        elif is_layer(node):
            for key in ("weight", "bias"):
                file.constant(node[key], arrays[key])
        inputs = [values[name] for name in node["inputs"]]
        input_shapes = [shapes[name] for name in node["inputs"]]
        values[node["name"]] = operation_of(node).onnx(file, node, arrays, input_shapes, *inputs)
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


def _is_cut(readers: list[Node]) -> bool:
    """Whether the only reader of a value is an activation that onnxruntime fuses into the rounding after it."""
    return len(readers) == 1 and readers[0].get("function") in _CUT


def _round_value(file: OnnxFile, name: str, value: str, low: float, high: float) -> tuple[str, float]:
    """(``value`` rounded to 256 steps that span the range and zero, the size of a step)."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = float(np.float32((high - low) / 255)) or 1.0
    parameters = [
        file.constant(f"{name} step", np.float32(step)),
        file.constant(f"{name} zero", np.uint8(round(-low / step)), np.uint8),
    ]
    q = file.add("QuantizeLinear", [value, *parameters], f"{name} integers")
    return file.add("DequantizeLinear", [q, *parameters], f"{name} steps"), step


def _add_integers(file: OnnxFile, node: Node, arrays: Weights, step: float) -> None:
    """Add weight and bias of a layer as INT8 and INT32; ``step`` is that of the layer's input."""
    weight, bias = arrays["weight"], arrays["bias"]
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    # A bias is counted in steps of weight times input, in 32 bits: a channel of tiny weights needs larger ones.
    least = np.abs(bias) / (step * 2.0**30)
    scale = np.maximum(np.where(largest > 0, largest / 127, 1.0), least).astype(np.float32)
    rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
    integers = np.clip(np.rint(weight / rows), -127, 127)
    products = scale * np.float32(step)
    _dequantized(file, node["weight"], integers, scale, np.int8)
    _dequantized(file, node["bias"], np.rint(bias.astype(np.float64) / products), products, np.int32)


def _dequantized(file: OnnxFile, name: str, integers: np.ndarray, scale: np.ndarray, dtype: type[np.integer]) -> str:
    """The value ``name``: integers times one scale per output channel."""
    inputs = [
        file.constant(f"{name} integers", integers, dtype),
        file.constant(f"{name} step", scale),
        file.constant(f"{name} zero", np.zeros(len(scale)), dtype),
    ]
    return file.add("DequantizeLinear", inputs, name, axis=0)
