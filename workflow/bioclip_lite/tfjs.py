"""A quantised graph as a TensorFlow.js graph model: ``python -m bioclip_lite.tfjs MODEL_FOLDER OUTPUT_FOLDER``.

Runs in the converter's own environment (TensorFlow, tensorflowjs, NumPy, safetensors; .venv-convert), so it imports
nothing of the package but ``grid`` and ``quantized``. The graph is built channels-last from raw TensorFlow operations,
converted by tensorflowjs without quantisation, and then each float32 weight is looked up by its bits and replaced by
the integers, scale and minimum that were measured in PyTorch. If the converter changed a single weight, this fails.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_lite import grid, quantized

MODEL_FILE = "model.json"
_SHARD_BYTES = 4 * 1024 * 1024  # small files: browsers load them in parallel and cache each


def main(model_folder: str, output_folder: str) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # oneDNN aborts on depthwise + explicit padding + bias
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    graph, tensors, grids = quantized.load_integers(model_folder)
    with tempfile.TemporaryDirectory() as scratch:
        _save_model(graph, quantized.decode(tensors, grids), scratch)
        _convert(scratch, output_folder)
    _replace_weights(Path(output_folder), tensors, grids, graph)


def to_tensorflow(weight: np.ndarray, op: str, in_channels: int) -> np.ndarray:
    """A weight in TensorFlow's layout.

    conv (out, in, h, w) to (h, w, in, out); depthwise (in * m, 1, h, w) to (h, w, in, m); linear is transposed.
    """
    if op == "conv":
        return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    if op == "depthwise":
        grouped = weight.reshape(in_channels, len(weight) // in_channels, *weight.shape[2:])
        return np.ascontiguousarray(grouped.transpose(2, 3, 0, 1))
    return np.ascontiguousarray(weight.T)


def _in_channels(graph: dict[str, Any]) -> dict[str, int]:
    """Channels that each node reads, by node name."""
    channels = {node["name"]: node["shape"][0] for node in [graph["input"], *graph["nodes"]]}
    return {node["name"]: channels[node["inputs"][0]] for node in graph["nodes"]}


def weighted(graph: dict[str, Any]) -> list[tuple[str, str, int]]:
    """(name of the weight, operation, input channels) of each node that has a weight: what ``to_tensorflow`` needs."""
    read = _in_channels(graph)
    return [(node["weight"], node["op"], read[node["name"]]) for node in graph["nodes"] if "weight" in node]


def _save_model(graph: dict[str, Any], weights: dict[str, np.ndarray], folder: str) -> None:
    import tensorflow as tf

    channels, height, width = graph["input"]["shape"]
    read = _in_channels(graph)

    class Student(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, height, width, channels], tf.float32, name="image")])
        def serve(self, image: Any) -> dict[str, Any]:
            values = {graph["input"]["name"]: image}
            for node in graph["nodes"]:
                inputs = [values[name] for name in node["inputs"]]
                values[node["name"]] = _node(tf, node, weights, read[node["name"]], *inputs)
            return {"embedding": values[graph["output"]]}

    student = Student()
    tf.saved_model.save(student, folder, signatures=student.serve)


def _node(tf: Any, node: dict[str, Any], weights: dict[str, np.ndarray], channels: int, x: Any, *others: Any) -> Any:
    op = node["op"]
    if op in ("conv", "depthwise"):
        weight = to_tensorflow(weights[node["weight"]], op, channels)
        function = tf.raw_ops.Conv2D if op == "conv" else tf.raw_ops.DepthwiseConv2dNative
        top, bottom, left, right = node["pads"]
        explicit = [0, 0, top, bottom, left, right, 0, 0] if any(node["pads"]) else []
        x = function(
            input=x,
            filter=tf.constant(weight),
            strides=[1, *node["strides"], 1],
            dilations=[1, *node["dilations"], 1],
            padding="EXPLICIT" if explicit else "VALID",
            explicit_paddings=explicit,
        )
        return tf.nn.bias_add(x, tf.constant(weights[node["bias"]]))
    if op == "linear":
        weight = to_tensorflow(weights[node["weight"]], op, channels)
        return tf.nn.bias_add(tf.matmul(x, tf.constant(weight)), tf.constant(weights[node["bias"]]))
    if op == "activation":
        return _activation(tf, node["function"], x)
    if op == "add":
        return x + others[0]
    if op == "multiply":
        return x * others[0]
    if op == "attention":
        return _attention(tf, node, x)
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
    if function == "silu":
        return x * tf.sigmoid(x)
    if function == "hard_swish":
        return x * (tf.nn.relu6(x + 3.0) * np.float32(1 / 6))
    if function == "hard_sigmoid":
        return tf.nn.relu6(x + 3.0) * np.float32(1 / 6)
    return {"relu": tf.nn.relu, "relu6": tf.nn.relu6, "sigmoid": tf.sigmoid}[function](x)


def _attention(tf: Any, node: dict[str, Any], x: Any) -> Any:
    inner, height, width = node["shape"]
    heads, tokens = node["heads"], height * width
    x = tf.transpose(tf.reshape(x, [-1, tokens, 3 * heads, inner // heads]), [0, 2, 1, 3])
    q, k, v = tf.split(x, 3, axis=1)
    mixed = tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), v)
    return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, height, width, inner])


def _convert(saved_model: str, folder: str) -> None:
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    from tensorflowjs.converters.tf_saved_model_conversion_v2 import convert_tf_saved_model

    convert_tf_saved_model(saved_model, folder, weight_shard_size_bytes=_SHARD_BYTES)


def _replace_weights(
    folder: Path, tensors: dict[str, np.ndarray], grids: dict[str, grid.Grid], graph: dict[str, Any]
) -> None:
    """Rewrite the weight files with the integers of the grid; every quantised tensor must be found unaltered."""
    from tensorflowjs import read_weights, write_weights

    integers = {}
    for name, op, channels in weighted(graph):
        if name in grids:
            q = to_tensorflow(tensors[name], op, channels)
            integers[grid.fingerprint(grid.decode(q, grids[name]))] = (name, q)

    model = json.loads((folder / MODEL_FILE).read_text())
    entries, found = [], set()
    for entry in [e for group in read_weights.read_weights(model["weightsManifest"], str(folder)) for e in group]:
        values = entry["data"]
        match = integers.get(grid.fingerprint(values)) if values.dtype == np.float32 else None
        if match is None:
            entries.append(entry)
            continue
        name, q = match
        found.add(name)
        meaning = {"scale": grids[name].scale, "min": grids[name].minimum, "original_dtype": "float32"}
        entries.append({"name": entry["name"], "data": q.reshape(values.shape), "quantization": meaning})
    altered = sorted({name for name, _ in integers.values()} - found)
    if altered:
        sys.exit(f"tensorflowjs altered {len(altered)} weights, which would not be the measured ones: {altered}")

    for path in folder.glob("*.bin"):
        path.unlink()
    model["weightsManifest"] = write_weights.write_weights(
        [entries], str(folder), shard_size_bytes=_SHARD_BYTES, write_manifest=False
    )
    (folder / MODEL_FILE).write_text(json.dumps(model, sort_keys=True) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bioclip_lite.tfjs MODEL_FOLDER OUTPUT_FOLDER")
    main(sys.argv[1], sys.argv[2])
