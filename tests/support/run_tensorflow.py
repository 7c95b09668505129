"""Compute single graph nodes in TensorFlow: ``python run_tensorflow.py FOLDER``, in the converter's environment.

Reads FOLDER/nodes.json, {case: node}, and FOLDER/values.npz with the inputs "case/0", ... (batch, channels, ...) and
the arrays of the nodes by name; writes FOLDER/outputs.npz, {case: output}, channels first.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import tensorflow as tf

from bioclip_lite.graph.nodes import arrays_of
from bioclip_lite.graph.operations.table import operation_of
from bioclip_lite.web.tfjs import to_tensorflow


def main(folder: Path) -> None:
    values = dict(np.load(folder / "values.npz"))
    outputs = {}
    for case, node in json.loads((folder / "nodes.json").read_text(encoding="utf-8")).items():
        inputs = [values[f"{case}/{number}"] for number in range(len(node["inputs"]))]
        first = {"name": node["inputs"][0], "shape": inputs[0].shape[1:]}
        arrays = arrays_of(node, to_tensorflow({"input": first, "nodes": [node]}, values))
        channels_last = [tf.constant(np.moveaxis(x, 1, -1)) for x in inputs]
        output = operation_of(node).tensorflow(tf, node, arrays, *channels_last)
        outputs[case] = np.moveaxis(output.numpy(), -1, 1)
    assert "torch" not in sys.modules
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
