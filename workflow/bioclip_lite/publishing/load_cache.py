"""Read a teacher cache that `bioclip-lite export-cache` wrote; README.md beside this file has the format.

Needs numpy and pyarrow, nothing else.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def read_shard(path: str) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """(table of the photographs, views float32 (n, K, P), embeddings float32 (n, K, D)) of one file."""
    table = pq.read_table(path)
    integers, scales, views = (np.stack(table[name].to_numpy()) for name in ("embeddings", "scales", "views"))
    n, k = scales.shape
    return table, views.reshape(n, k, -1), integers.reshape(n, k, -1).astype(np.float32) * scales[..., None]


def read_taxa(folder: str) -> tuple[pa.Table, np.ndarray, float]:
    """(table of C taxa, their unit text embeddings float32 (C, D), the logit scale)."""
    table = pq.read_table(Path(folder) / "taxa.parquet")
    about = json.loads((Path(folder) / "cache.json").read_text(encoding="utf-8"))
    return table, np.stack(table["text"].to_numpy()), about["logit_scale"]


def logits(embeddings: np.ndarray, text: np.ndarray, scale: float) -> np.ndarray:
    """What the teacher says of views: float32 (..., C); softmax gives its probabilities."""
    said: np.ndarray = scale * embeddings @ text.T
    return said
