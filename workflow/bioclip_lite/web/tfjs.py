"""Convert a quantized graph to TensorFlow.js: ``python -m bioclip_lite.web.tfjs MODEL_FOLDER OUTPUT_FOLDER``.

Runs in the converter's own environment (TensorFlow, tensorflowjs, NumPy, safetensors; .venv-convert), so it imports
only modules of the package that need no PyTorch. It builds the graph channels-last from ``graph.operations`` and has
tensorflowjs convert it without quantization. Then it looks up each float32 weight by its bits and replaces it by the
integers, scale and minimum that were measured in PyTorch. It fails if the converter changed a single weight.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_lite.compression import grid, quantized
from bioclip_lite.graph.nodes import Graph, Node, Weights, arrays_of, shapes_of
from bioclip_lite.graph.operations.table import operation_of

MODEL_FILE = "model.json"
FREE = ("Const", "Placeholder", "Identity", "NoOp")  # node types of a graph model that compute nothing
_UNREAD = {  # attributes of nodes that TensorFlow.js ignores
    *("T", "TArgs", "Tidx", "Tshape", "Tperm", "Tpaddings", "Index"),
    *("filter_format", "num_host_args", "host_args", "use_cudnn_on_gpu", "_output_shapes"),
}
FILE_BYTES = 4 * 1024 * 1024  # small files: browsers load them in parallel and cache each


def main(model_folder: str, output_folder: str) -> None:
    quiet_tensorflow()
    graph, tensors, grids = quantized.load_integers(model_folder)
    arrays = {name: _stand_in(array) for name, array in to_tensorflow(graph, quantized.decode(tensors, grids)).items()}
    with tempfile.TemporaryDirectory() as scratch:
        _save_model(graph, arrays, scratch)
        _convert(scratch, output_folder)
    _replace_weights(Path(output_folder), arrays, to_tensorflow(graph, tensors), grids)


def quiet_tensorflow() -> None:
    """Set what TensorFlow reads when it is imported: it computes on the CPU and logs no more than errors."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # oneDNN aborts on depthwise + explicit padding + bias
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def _stand_in(array: np.ndarray) -> np.ndarray:
    """Replace an array of zeros by other values during the conversion.

    TensorFlow drops a bias of zeros and fuses the next sum as the bias, which TensorFlow.js then refuses to load.
    """
    return array if array.any() else np.arange(1, 1 + array.size, dtype=np.float32).reshape(array.shape)


def to_tensorflow(graph: Graph, tensors: Mapping[str, np.ndarray]) -> Weights:
    """The arrays of a graph, or their integers, in TensorFlow's layout (``layouts`` of graph.operations)."""
    shapes = shapes_of(graph)
    arrays = {}
    for node in graph["nodes"]:
        layouts, channels = operation_of(node).layouts, shapes[node["inputs"][0]][0]
        for key, array in arrays_of(node, tensors).items():
            array = layouts[key](array, channels) if key in layouts else array
            arrays[node[key]] = np.ascontiguousarray(array)
    return arrays


def _save_model(graph: Graph, arrays: Weights, folder: str) -> None:
    import tensorflow as tf

    student = network(graph, arrays, None, _compute)
    tf.saved_model.save(student, folder, signatures=student.serve)


def _compute(tf: Any, node: Node, arrays: Weights, *inputs: Any) -> Any:
    return operation_of(node).tensorflow(tf, node, arrays, *inputs)


def network(graph: Graph, arrays: Weights, batch: int | None, compute: Callable[..., Any]) -> Any:
    """The graph as a ``tf.Module``: its function ``serve`` maps images (batch, size, size, 3) to {"embedding"}.

    Args:
        arrays: in TensorFlow's layout, as of ``to_tensorflow``.
        batch: None: of any length.
        compute: ``(tf, node, arrays of the node, *inputs)`` to the symbolic output of a node.
    """
    import tensorflow as tf

    channels, height, width = graph["input"]["shape"]

    class Student(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([batch, height, width, channels], tf.float32, name="image")])
        def serve(self, image: Any) -> dict[str, Any]:
            values = {graph["input"]["name"]: image}
            for node in graph["nodes"]:
                inputs = [values[name] for name in node["inputs"]]
                values[node["name"]] = compute(tf, node, arrays_of(node, arrays), *inputs)
            return {"embedding": values[graph["output"]]}

    return Student()


def _convert(saved_model: str, folder: str) -> None:
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    from tensorflowjs.converters.tf_saved_model_conversion_v2 import convert_tf_saved_model

    convert_tf_saved_model(saved_model, folder, weight_shard_size_bytes=FILE_BYTES)


def _replace_weights(
    folder: Path, converted: dict[str, np.ndarray], tensors: dict[str, np.ndarray], grids: dict[str, grid.Grid]
) -> None:
    """Rewrite the weight files with ``tensors`` as stored; exit if an array of ``converted`` is missing or altered."""
    from tensorflowjs import read_weights, write_weights

    names = {grid.fingerprint(array): name for name, array in converted.items()}  # equal arrays share a name
    model = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    entries, unaltered = [], set()
    for entry in [e for group in read_weights.read_weights(model["weightsManifest"], str(folder)) for e in group]:
        values = entry["data"]
        name = names.get(grid.fingerprint(values)) if values.dtype == np.float32 else None
        if name is not None:
            unaltered.add(name)
            entry = {"name": entry["name"], "data": tensors[name].reshape(values.shape)}
            if name in grids:
                used = grids[name]
                entry["quantization"] = {"scale": used.scale, "min": used.minimum, "original_dtype": "float32"}
        entries.append(entry)
    altered = sorted(set(names.values()) - unaltered)
    if altered:
        sys.exit(f"tensorflowjs altered {len(altered)} weights, so they are not the measured ones: {altered}")

    for path in folder.glob("*.bin"):
        path.unlink()
    model["weightsManifest"] = write_weights.write_weights(
        [entries], str(folder), shard_size_bytes=FILE_BYTES, write_manifest=False
    )
    _shorten(model)
    (folder / MODEL_FILE).write_text(json.dumps(model, sort_keys=True) + "\n", encoding="utf-8")


def _shorten(model: dict[str, Any]) -> None:
    """Remove, in place, what TensorFlow.js ignores, and shorten node names: saves half of the file."""
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
