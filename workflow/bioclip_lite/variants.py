"""How each variant answers to the photographs of a split, and at what cost.

The teacher's answers come from its cache; student, pruned, INT8 and control run in PyTorch; the web model runs as it
ships, in Node on the JPEG files of the shards.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioclip_lite import cache, costs, graph, models
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, require
from bioclip_lite.labels import Labels
from bioclip_lite.preprocess import preprocess, read_preprocess
from bioclip_lite.progress import progress
from bioclip_lite.randomness import generator
from bioclip_lite.shards import ShardSet

_BATCH = 64
_CLASSIFY = Path("packages/react-bio-clip/bin/classify.mjs")


@dataclass(frozen=True)
class Answers:
    """Logits of a variant, as they come, and what one answer costs."""

    keys: list[str]
    blocks: Iterator[np.ndarray]  # float32 [rows, C], in the order of ``keys``
    costs: dict[str, Any]  # content of <variant>.json


def teacher(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The cached plain view of every photograph against the taxon text matrix."""
    taxa = _taxa(data, labels)
    shards = [cache.read_shard(require(path)) for path in _shard_files(data, split, "logits", ".safetensors")]
    cache.check_same(shards, taxa)
    folder = data / "teacher" / "model"
    loaded = models.load_teacher(folder)
    if loaded.identity != taxa.teacher:
        raise UserError(
            f"data/logits was made by teacher {taxa.teacher[:12]}, but {folder} holds {loaded.identity[:12]}; "
            f"its costs would be those of another model: run stage logits"
        )
    size = loaded.preprocess["size"]
    encode_image: Callable[[torch.Tensor], Any] = loaded.model.encode_image  # type: ignore[assignment]
    return Answers(
        keys=[key for shard in shards for key in shard.keys],
        blocks=(
            _logits(np.asarray(shard.embeddings[start : start + _BATCH, 0], dtype=np.float32), taxa)
            for shard in shards
            for start in range(0, len(shard.keys), _BATCH)
        ),
        costs={
            "params": costs.parameters(loaded.model.visual),  # type: ignore[arg-type]
            "bytes": costs.stored_tensors(folder / models.TEACHER_WEIGHTS, "visual."),
            "table_bytes": taxa.text.nbytes,
            **_speed(encode_image, size, params),
        },
    )


def student(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    return _in_teachers_space(params, data, split, labels, data / "distill" / "model")


def pruned(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    return _in_teachers_space(params, data, split, labels, data / "prune" / "model")


def control(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The same network with one output per leaf, trained on labels alone."""
    folder = data / "distill" / "control"
    model, spec, prepared = models.load_student(folder)
    if spec["outputs"] != len(labels.ids):
        raise UserError(
            f"{folder} has {spec['outputs']} outputs, data/index/taxa.parquet {len(labels.ids)} leaves; run stage distill"
        )
    return _in_torch(data, split, model, prepared, lambda outputs: outputs, _costs_of(params, model, prepared, folder))


def int8(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The folded graph with the weights that the 8-bit grid gives back, computed in PyTorch."""
    raise NotImplementedError


def tfjs(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The bundle that ships, run in Node on the JPEG files: another decoder, another resampler, another runtime."""
    raise NotImplementedError


def random(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The leaves in an order drawn for each photograph.

    One place is worth 10 nats, so that the first leaf has nearly all probability and decides every rank: with flat
    logits the largest family would always win, which is no random answer.
    """
    keys = list(ShardSet(data, split).keys)

    def block(names: list[str]) -> np.ndarray:
        orders = [generator(params["seed"], "evaluate", "random", name).permutation(len(labels.ids)) for name in names]
        return -10.0 * np.array(orders, dtype=np.float32)

    return Answers(keys, (block(keys[start : start + _BATCH]) for start in range(0, len(keys), _BATCH)), {})


ANSWERS: dict[str, Callable[[dict[str, Any], Path, str, Labels], Answers]] = {
    function.__name__: function for function in (teacher, student, pruned, int8, tfjs, control, random)
}
