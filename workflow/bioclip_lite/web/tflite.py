"""Convert a quantized graph to a .tflite file, and run such a file in LiteRT, TensorFlow's interpreter for phones.

``python -m bioclip_lite.web.tflite convert MODEL_FOLDER FILE``
``python -m bioclip_lite.web.tflite run FILE``: reads images from standard input, float32 (size, size, 3) each, and
writes to standard output the length D of embeddings, int32, then for each image milliseconds and embedding, float32
(1 + D). All little-endian.

Runs in the converter's own environment, as ``web.tfjs`` does, and builds the same graph, for one image at a time.
TensorFlow's converter writes it in float32. Then each weight on a grid of 8 bits is looked up by its bits and replaced
by the integers that were measured in PyTorch, with an operation that decodes them: LiteRT does so once, when it loads
the file, and computes in float32. (Quantization by TensorFlow's converter would round weights to another grid, and
activations too.) Weights on grids of 16 bits, which LiteRT decodes only without a zero point, stay float32.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bioclip_lite.compression import grid, quantized
from bioclip_lite.graph.nodes import Node, Weights
from bioclip_lite.graph.operations.table import operation_of
from bioclip_lite.web import tfjs

_ROOT = np.float32(2**0.5)  # the graph has GELU of x = root * u as root * GELU(root * u)
_MIDDLE = 128  # int8 is uint8 less this
_OF_INT8 = 2  # the version of DEQUANTIZE that takes int8


def convert(model_folder: str, file: str) -> None:
    """Write a model of stage quantize as a .tflite file; equal models give equal bytes."""
    tfjs.quiet_tensorflow()
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    graph, tensors, grids = quantized.load_integers(model_folder)
    arrays = tfjs.to_tensorflow(graph, quantized.decode(tensors, grids))
    network = tfjs.network(graph, arrays, 1, _compute)
    serve = network.serve.get_concrete_function()
    content = tf.lite.TFLiteConverter.from_concrete_functions([serve], network).convert()
    Path(file).write_bytes(_with_integers(content, arrays, tfjs.to_tensorflow(graph, tensors), grids))


def _compute(tf: Any, node: Node, arrays: Weights, *inputs: Any) -> Any:
    """Compute in TensorFlow; LiteRT has no Erf, which TensorFlow.js gets, but GELU."""
    if node.get("function") == "scaled_gelu":
        return _ROOT * tf.nn.gelu(_ROOT * inputs[0])
    return operation_of(node).tensorflow(tf, node, arrays, *inputs)


def _with_integers(content: bytes, arrays: Weights, integers: Weights, grids: dict[str, grid.Grid]) -> bytes:
    """Replace the values of ``arrays`` on 8-bit grids by ``integers``; exit if the converter altered an array."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(content)
    (subgraph,) = model.subgraphs
    narrow = {}  # number of a buffer -> the grid of its values
    for number, held in _find(model.buffers, arrays).items():
        if held.array in grids and grids[held.array].bits == 8:
            values = held.layout(integers[held.array]).astype(np.int16) - _MIDDLE
            model.buffers[number].data = values.astype(np.int8).reshape(-1).view(np.uint8)
            narrow[number] = _times(grids[held.array], held.factor)
    decoders = []
    for number, tensor in enumerate(list(subgraph.tensors)):
        if tensor.buffer in narrow:
            subgraph.tensors.append(_stored(tensor, narrow[tensor.buffer]))
            decoders.append(_decoder(len(model.operatorCodes), len(subgraph.tensors) - 1, number))
            tensor.buffer = 0  # the empty one, of what is computed
    model.operatorCodes.append(_decoding())
    subgraph.operators = [*decoders, *subgraph.operators]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


Layout = Callable[[np.ndarray], np.ndarray]


class _Held(NamedTuple):
    """What a buffer of the file holds: ``layout`` of an array, times ``factor``."""

    array: str  # its name
    layout: Layout
    factor: float


def _find(buffers: list[Any], arrays: Weights) -> dict[int, _Held]:
    """What buffers hold, by their numbers; exit if an array is missing: zeros may, which do nothing."""
    forms = {name: dict(_forms(name, array)) for name, array in sorted(arrays.items())}
    known = {found: held for each in forms.values() for found, held in each.items()}  # equal arrays share a name
    contents = {
        number: grid.fingerprint(np.frombuffer(bytes(buffer.data), "<f4"))
        for number, buffer in enumerate(buffers)
        if buffer.data is not None and len(buffer.data) % 4 == 0
    }
    there = set(contents.values())
    altered = [name for name, each in forms.items() if arrays[name].any() and there.isdisjoint(each)]
    if altered:
        sys.exit(f"TensorFlow altered {len(altered)} weights for LiteRT, so they are not the measured ones: {altered}")
    return {number: known[found] for number, found in contents.items() if found in known}


def _forms(name: str, array: np.ndarray) -> Iterator[tuple[str, _Held]]:
    """Fingerprints of an array as TensorFlow may write it.

    LiteRT has the output channels of convolutions and matrices first, TensorFlow last. And TensorFlow multiplies the
    weights before and after a GELU by the factors of ``_compute``.
    """
    layouts: list[Layout] = [np.asarray, lambda values: np.moveaxis(values, -1, 0)]
    for gelus in range(3):
        for layout in layouts:
            yield grid.fingerprint(layout(array)), _Held(name, layout, float(_ROOT) ** gelus)
        array = array * _ROOT


def _times(used: grid.Grid, factor: float) -> grid.Grid:
    return grid.Grid(used.scale * factor, used.minimum * factor, used.bits)


def _stored(tensor: Any, used: grid.Grid) -> Any:
    """The int8 tensor whose decoded values are ``tensor``: scale * (q - zero point)."""
    from tensorflow.lite.python import schema_py_generated as schema

    zero = round(-used.minimum / used.scale)  # a point of the grid
    found = schema.TensorT()
    found.name, found.shape, found.buffer = tensor.name + b" integers", tensor.shape, tensor.buffer
    found.type = schema.TensorType.INT8
    found.quantization = schema.QuantizationParametersT()
    found.quantization.scale, found.quantization.zeroPoint = [used.scale], [zero - _MIDDLE]
    return found


def _decoder(code: int, integers: int, values: int) -> Any:
    from tensorflow.lite.python import schema_py_generated as schema

    found = schema.OperatorT()
    found.opcodeIndex, found.inputs, found.outputs = code, [integers], [values]
    return found


def _decoding() -> Any:
    from tensorflow.lite.python import schema_py_generated as schema

    found = schema.OperatorCodeT()
    found.builtinCode = found.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    found.version = _OF_INT8
    return found


def run(file: str) -> None:
    """Answer the images of standard input one by one, on one thread, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what TensorFlow prints is no answer
    tfjs.quiet_tensorflow()
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(file, num_threads=1)
    interpreter.allocate_tensors()
    (image,), (embedding,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers.write(np.int32(embedding["shape"][-1]).tobytes())
    answers.flush()
    while pixels := sys.stdin.buffer.read(4 * int(np.prod(image["shape"]))):
        interpreter.set_tensor(image["index"], np.frombuffer(pixels, "<f4").reshape(image["shape"]))
        started = time.perf_counter()
        interpreter.invoke()
        milliseconds = 1000 * (time.perf_counter() - started)
        answers.write(np.float32(milliseconds).tobytes() + interpreter.get_tensor(embedding["index"]).tobytes())
        answers.flush()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["convert", model_folder, file]:
            convert(model_folder, file)
        case ["run", file]:
            run(file)
        case _:
            sys.exit("usage: python -m bioclip_lite.web.tflite (convert MODEL_FOLDER FILE | run FILE)")
