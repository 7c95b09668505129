"""Read and write the folder of a quantized student: ``graph.json`` (nodes and grids) and ``weights.safetensors``.

Quantized tensors are stored as the integers of their grid, others (today there are none) as float32. The main
environment and the converter's import this module, so it needs NumPy and safetensors only::

    graph, weights = quantized.load("data/quantize/model")
    embeddings = bioclip_lite.graph.execution.run(graph, weights, images)  # main environment
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from bioclip_lite.compression import grid
from bioclip_lite.compression.grid import Grid

GRAPH_FILE = "graph.json"
WEIGHTS_FILE = "weights.safetensors"


def save(
    folder: str | os.PathLike[str], graph: dict[str, Any], weights: Mapping[str, np.ndarray], grids: Mapping[str, Grid]
) -> None:
    """Write both files to an existing folder. ``weights`` are float32; those named in ``grids`` become integers.

    Equal arguments give equal bytes.
    """
    tensors = {
        name: grid.encode(array, grids[name]) if name in grids else array.astype(np.float32)
        for name, array in weights.items()
    }
    described = {
        name: {"scale": used.scale, "minimum": used.minimum, "bits": used.bits} for name, used in grids.items()
    }
    text = json.dumps({**graph, "grids": described}, indent=1, sort_keys=True, ensure_ascii=False)
    (Path(folder) / GRAPH_FILE).write_text(text + "\n", encoding="utf-8")
    save_file(tensors, Path(folder) / WEIGHTS_FILE)


def load_integers(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Grid]]:
    """Read (graph, tensors as stored, grid of each quantized tensor)."""
    graph = json.loads((Path(folder) / GRAPH_FILE).read_text(encoding="utf-8"))
    grids = {name: Grid(**described) for name, described in graph["grids"].items()}
    return graph, load_file(Path(folder) / WEIGHTS_FILE), grids


def decode(tensors: Mapping[str, np.ndarray], grids: Mapping[str, Grid]) -> dict[str, np.ndarray]:
    """Decode stored tensors to float32 weights."""
    return {name: grid.decode(array, grids[name]) if name in grids else array for name, array in tensors.items()}


def load(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read (graph, float32 weights) for ``graph.execution.run``."""
    graph, tensors, grids = load_integers(folder)
    return graph, decode(tensors, grids)
