"""Stage logits: what the teacher answers to K replayable views of each photograph, and to each taxon."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioclip_lite import cache, captions, models, training, views
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, read_table, require
from bioclip_lite.progress import progress
from bioclip_lite.randomness import generator
from bioclip_lite.shards import ShardSet
from bioclip_lite.taxonomy import RANKS

_BATCH = 64  # views the teacher embeds at a time


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """Embed the taxa (job "taxa") or the photographs of one shard (e.g. job "train-00000"); None does all."""
    if job is None:
        sizes = read_json(require(data / "shard" / "sizes.json"))
        names = [name.removesuffix(".tar") for name in sorted(sizes)]
        jobs = ["taxa", *(name for name in names if not name.startswith("pretrain-"))]
    else:
        jobs = [job]
    teacher = models.load_teacher(data / "teacher" / "model")
    teacher.model.to(training.device())
    torch.set_num_threads(training.cores())
    for name in jobs:
        if name == "taxa":
            _embed_taxa(params, data, teacher)
        else:
            _embed_shard(params, data, teacher, name)


def _embed_taxa(params: dict[str, Any], data: Path, teacher: models.Teacher) -> None:
    taxa = read_table(data / "index" / "taxa.parquet", columns=["taxon_id", *RANKS, "common_name", "leaf"]).to_pylist()
    leaves = [row for row in taxa if row["leaf"]]
    if not leaves:
        raise UserError(f"{data / 'index' / 'taxa.parquet'} lists no leaf taxon; is the index empty?")
    prompts = [captions.caption(tuple(row[r] for r in RANKS), row["common_name"], params["prompt"]) for row in leaves]
    text = models.embed_texts(teacher, prompts)
    cache.write_taxa(
        data / "logits" / "taxa.safetensors",
        [row["taxon_id"] for row in leaves],
        text,
        teacher.logit_scale,
        teacher.identity,
        params["prompt"],
    )
    print(f"taxa: {len(leaves)} x {text.shape[1]} numbers, e.g. {prompts[0]!r}; logit scale {teacher.logit_scale:.1f}")


def _embed_shard(params: dict[str, Any], data: Path, teacher: models.Teacher, name: str) -> None:
    began = time.monotonic()
    images = ShardSet.of(data / "shard" / f"{name}.tar")
    count = params["views"] if name.startswith("train-") else 1
    rows = np.stack([_rows(params, key, count) for key in images.keys])
    plan = [(i, rows[i, k]) for i in range(len(images)) for k in range(count)]
    batches = [plan[start : start + _BATCH] for start in range(0, len(plan), _BATCH)]
    pixels = training.load(training.Views(images, teacher.preprocess), batches)
    parts = progress(_embed(teacher, pixels), len(batches), f"{name}, batches of {_BATCH} views")
    embeddings = np.concatenate(list(parts)).reshape(len(images), count, -1)
    identity = {"teacher": teacher.identity, "preprocess": teacher.preprocess, "views": views.VERSION}
    path = data / "logits" / f"{name}.safetensors"
    cache.write_shard(path, images.keys, embeddings, rows, identity)
    seconds = time.monotonic() - began
    print(
        f"{name}: {len(images)} photographs x {count} views x {embeddings.shape[2]} numbers, "
        f"{path.stat().st_size / 1e6:.1f} MB, {seconds:.1f} s ({1000 * seconds / len(plan):.1f} ms a view)"
    )


def _rows(params: dict[str, Any], key: str, count: int) -> np.ndarray:
    """Views of one photograph, the plain one first: float32 (count, P)."""
    drawn = [views.draw(generator(params["seed"], "logits", key, k), params) for k in range(1, count)]
    return np.stack([views.plain_view(params["operations"]), *drawn])


def _embed(teacher: models.Teacher, batches: Iterator[torch.Tensor]) -> Iterator[np.ndarray]:
    machine = training.device()
    for pixels in batches:
        yield models.embed_images(teacher.model, pixels.to(machine)).half().cpu().numpy()
