"""A quantised graph as a TensorFlow.js graph model: ``python -m bioclip_lite.web.tfjs MODEL_FOLDER OUTPUT_FOLDER``.

Runs in the converter's own environment (TensorFlow, tensorflowjs, NumPy, safetensors; .venv-convert), so it imports
nothing of the package but ``grid`` and ``quantized``. The graph is built channels-last from raw TensorFlow operations,
converted by tensorflowjs without quantisation, and then each float32 weight is looked up by its bits and replaced by
the integers, scale and minimum that were measured in PyTorch. If the converter changed a single weight, this fails.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_lite.compression import grid, quantized

MODEL_FILE = "model.json"
FREE = ("Const", "Placeholder", "Identity", "NoOp")  # nodes of a graph model that compute nothing
_TANH = 2 * (2 / np.pi) ** 0.5
_AXES = {  # of TensorFlow's arrays, as axes of ours
    ("weight", "conv"): (2, 3, 1, 0),
    ("weight", "depthwise"): (2, 3, 0, 1),
    ("weight", "linear"): (1, 0),
    ("shift", "shift"): (1, 2, 0),
}
_UNREAD = {  # attributes of nodes that are for TensorFlow alone
    *("T", "TArgs", "Tidx", "Tshape", "Tperm", "Tpaddings", "Index"),
    *("filter_format", "num_host_args", "host_args", "use_cudnn_on_gpu", "_output_shapes"),
}
FILE_BYTES = 4 * 1024 * 1024  # small files: browsers load them in parallel and cache each


def main(model_folder: str, output_folder: str) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # oneDNN aborts on depthwise + explicit padding + bias
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    graph, tensors, grids = quantized.load_integers(model_folder)
    arrays = {name: _stand_in(array) for name, array in to_tensorflow(graph, quantized.decode(tensors, grids)).items()}
    with tempfile.TemporaryDirectory() as scratch:
        _save_model(graph, arrays, scratch)
        _convert(scratch, output_folder)
    _replace_weights(Path(output_folder), arrays, to_tensorflow(graph, tensors), grids)


def _stand_in(array: np.ndarray) -> np.ndarray:
    """What is converted in place of zeros.

    TensorFlow would leave out a bias of zeros, and then takes the sum that follows for the bias, which TensorFlow.js
    refuses to load.
    """
    return array if array.any() else np.arange(1, 1 + array.size, dtype=np.float32).reshape(array.shape)


def to_tensorflow(graph: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a graph, or their integers, in TensorFlow's layout.

    conv (out, in, h, w) to (h, w, in, out); depthwise (in * m, 1, h, w) to (h, w, in, m); linear is transposed; a
    shift (channels, height, width) gets its channels last; biases and positions stay.
    """
    read = _in_channels(graph)
    arrays = {}
    for node in graph["nodes"]:
        for kind in ("weight", "bias", "shift", "positions"):
            if kind in node:
                array = tensors[node[kind]]
                if kind == "weight" and node["op"] == "depthwise":
                    channels = read[node["name"]]
                    array = array.reshape(channels, len(array) // channels, *array.shape[2:])
                axes = _AXES.get((kind, node["op"]), tuple(range(array.ndim)))
                arrays[node[kind]] = np.ascontiguousarray(array.transpose(axes))
    return arrays


def _in_channels(graph: dict[str, Any]) -> dict[str, int]:
    """Channels that each node reads, by node name."""
    channels = {node["name"]: node["shape"][0] for node in [graph["input"], *graph["nodes"]]}
    return {node["name"]: channels[node["inputs"][0]] for node in graph["nodes"]}


def _save_model(graph: dict[str, Any], arrays: dict[str, np.ndarray], folder: str) -> None:
    import tensorflow as tf

    channels, height, width = graph["input"]["shape"]

    class Student(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, height, width, channels], tf.float32, name="image")])
        def serve(self, image: Any) -> dict[str, Any]:
            values = {graph["input"]["name"]: image}
            for node in graph["nodes"]:
                inputs = [values[name] for name in node["inputs"]]
                values[node["name"]] = _node(tf, node, arrays, *inputs)
            return {"embedding": values[graph["output"]]}

    student = Student()
    tf.saved_model.save(student, folder, signatures=student.serve)


def _node(tf: Any, node: dict[str, Any], arrays: dict[str, np.ndarray], x: Any, *others: Any) -> Any:
    op = node["op"]
    if op in ("conv", "depthwise"):
        function = tf.raw_ops.Conv2D if op == "conv" else tf.raw_ops.DepthwiseConv2dNative
        top, bottom, left, right = node["pads"]
        explicit = [0, 0, top, bottom, left, right, 0, 0] if any(node["pads"]) else []
        x = function(
            input=x,
            filter=tf.constant(arrays[node["weight"]]),
            strides=[1, *node["strides"], 1],
            dilations=[1, *node["dilations"], 1],
            padding="EXPLICIT" if explicit else "VALID",
            explicit_paddings=explicit,
        )
        return tf.nn.bias_add(x, tf.constant(arrays[node["bias"]]))
    if op == "linear":
        return tf.nn.bias_add(tf.matmul(x, tf.constant(arrays[node["weight"]])), tf.constant(arrays[node["bias"]]))
    if op == "activation":
        return _activation(tf, node["function"], x)
    if op == "add":
        return x + others[0]
    if op == "multiply":
        return x * others[0]
    if op == "shift":
        return x + tf.constant(arrays[node["shift"]])
    if op == "normalize":
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
        return centred * tf.math.rsqrt(variance + np.float32(node["eps"]))
    if op == "attention":
        return _attention(tf, node, arrays, x)
    if op == "multi_query":
        return _multi_query(tf, node, x, *others)
    if op == "pad":
        top, bottom, left, right = node["pads"]
        return tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]])
    if op == "crop":
        (top, left), (_, height, width) = node["start"], node["shape"]
        return tf.slice(x, [0, top, left, 0], [-1, height, width, -1])
    if op == "reshape":
        channels, height, width = node["shape"]
        return tf.reshape(x, [-1, height, width, channels])
    if op == "max_pool":
        if any(node["pads"]):
            top, bottom, left, right = node["pads"]
            x = tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]], constant_values=np.finfo(np.float32).min)
        return tf.raw_ops.MaxPool(
            input=x, ksize=[1, *node["kernel"], 1], strides=[1, *node["strides"], 1], padding="VALID"
        )
    if op == "average_pool":  # "SAME" averages what is inside the image where a window hangs over the edge
        return tf.raw_ops.AvgPool(
            value=x, ksize=[1, *node["kernel"], 1], strides=[1, *node["strides"], 1], padding="SAME"
        )
    if op == "mean":
        return tf.reduce_mean(x, [1, 2], keepdims=True)
    if op == "flatten":
        return tf.reshape(x, [-1, *node["shape"]])
    raise ValueError(f"graph node {node['name']} has unknown operation {op}")


def _activation(tf: Any, function: str, x: Any) -> Any:
    if function == "gelu":  # tf.nn.gelu becomes Erfc, which TensorFlow.js lacks
        return (0.5 * x) * (1.0 + tf.math.erf(x * np.float32(0.5**0.5)))
    if function == "scaled_gelu":
        return x * (1.0 + tf.math.erf(x))
    if function == "gelu_tanh":  # the sum of 1 and a tanh is twice a sigmoid
        return x * tf.sigmoid(x * (np.float32(_TANH) + np.float32(0.044715 * _TANH) * tf.square(x)))
    if function == "silu":
        return x * tf.sigmoid(x)
    if function == "hard_swish":
        return x * (tf.nn.relu6(x + 3.0) * np.float32(1 / 6))
    if function == "hard_sigmoid":
        return tf.nn.relu6(x + 3.0) * np.float32(1 / 6)
    return {"relu": tf.nn.relu, "relu6": tf.nn.relu6, "sigmoid": tf.sigmoid}[function](x)


def _attention(tf: Any, node: dict[str, Any], arrays: dict[str, np.ndarray], x: Any) -> Any:
    inner, height, width = node["shape"]
    heads, side = node["heads"], node.get("window")
    positions = side * side if side else height * width
    if side:  # windows become neighbours, in four dimensions: WebGL and WebAssembly transpose no more
        x = tf.reshape(x, [-1, side, width // side, side * 3 * inner])
        x = tf.transpose(x, [0, 2, 1, 3])
    x = tf.transpose(tf.reshape(x, [-1, positions, 3 * heads, inner // heads]), [0, 2, 1, 3])
    q, k, v = tf.split(x, 3, axis=1)
    scores = tf.matmul(q, k, transpose_b=True)
    if "positions" in node:
        scores = scores + tf.constant(arrays[node["positions"]])
    mixed = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), [0, 2, 1, 3])
    if side:
        mixed = tf.transpose(tf.reshape(mixed, [-1, width // side, side, side * inner]), [0, 2, 1, 3])
    return tf.reshape(mixed, [-1, height, width, inner])


def _multi_query(tf: Any, node: dict[str, Any], q: Any, k: Any, v: Any) -> Any:
    """All heads of all positions are rows of one matrix, for their keys are the same: nothing is transposed."""
    channels, height, width = node["shape"]
    rows = height * width * node["heads"]
    q = tf.reshape(q, [-1, rows, q.shape[3] // node["heads"]])
    k = tf.reshape(k, [-1, k.shape[1] * k.shape[2], k.shape[3]])
    v = tf.reshape(v, [-1, v.shape[1] * v.shape[2], v.shape[3]])
    mixed = tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), v)
    return tf.reshape(mixed, [-1, height, width, channels])


def _convert(saved_model: str, folder: str) -> None:
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    from tensorflowjs.converters.tf_saved_model_conversion_v2 import convert_tf_saved_model

    convert_tf_saved_model(saved_model, folder, weight_shard_size_bytes=FILE_BYTES)


def _replace_weights(
    folder: Path, converted: dict[str, np.ndarray], tensors: dict[str, np.ndarray], grids: dict[str, grid.Grid]
) -> None:
    """Rewrite the weight files with ``tensors`` as stored; all that was ``converted`` must be found unaltered."""
    from tensorflowjs import read_weights, write_weights

    names = {grid.fingerprint(array): name for name, array in converted.items()}  # equal arrays need one name
    model = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    entries, found = [], set()
    for entry in [e for group in read_weights.read_weights(model["weightsManifest"], str(folder)) for e in group]:
        values = entry["data"]
        name = names.get(grid.fingerprint(values)) if values.dtype == np.float32 else None
        if name is not None:
            found.add(name)
            entry = {"name": entry["name"], "data": tensors[name].reshape(values.shape)}
            if name in grids:
                used = grids[name]
                entry["quantization"] = {"scale": used.scale, "min": used.minimum, "original_dtype": "float32"}
        entries.append(entry)
    altered = sorted(set(names.values()) - found)
    if altered:
        sys.exit(f"tensorflowjs altered {len(altered)} weights, which would not be the measured ones: {altered}")

    for path in folder.glob("*.bin"):
        path.unlink()
    model["weightsManifest"] = write_weights.write_weights(
        [entries], str(folder), shard_size_bytes=FILE_BYTES, write_manifest=False
    )
    _shorten(model)
    (folder / MODEL_FILE).write_text(json.dumps(model, sort_keys=True) + "\n", encoding="utf-8")


def _shorten(model: dict[str, Any]) -> None:
    """Leave out, in place, what TensorFlow.js does not read, and give nodes short names: half of the file."""
    nodes = model["modelTopology"]["node"]
    # The names of inputs and outputs are part of the signature.
    kept = ("Placeholder", "Identity")
    short = {node["name"]: node["name"] if node["op"] in kept else f"n{number}" for number, node in enumerate(nodes)}
    for node in nodes:
        node["name"] = short[node["name"]]
        sources = [source.partition(":") for source in node.get("input", [])]
        if sources:
            node["input"] = [short[name] + colon + port for name, colon, port in sources]
        node.pop("device", None)
        attributes = {} if node["op"] == "Const" else node.pop("attr", {})
        node["attr"] = {name: value for name, value in attributes.items() if name not in _UNREAD}
    for group in model["weightsManifest"]:
        for entry in group["weights"]:
            entry["name"] = short[entry["name"]]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bioclip_lite.web.tfjs MODEL_FOLDER OUTPUT_FOLDER")
    main(sys.argv[1], sys.argv[2])
