"""Stage logits: what the teacher answers to K replayable views of each photograph, to each taxon, and to captions."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES

from bioclip_lite import cache, captions, models, training, views
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, read_table, require, write_table
from bioclip_lite.progress import progress
from bioclip_lite.randomness import generator
from bioclip_lite.shards import ShardSet
from bioclip_lite.taxonomy import RANKS

_BATCH = 64  # views the teacher embeds at a time
_MARGIN = 0.1  # of cosine similarity, by which a caption may be nearer to another taxon than to its own
SCORES = pa.schema(
    [
        ("key", pa.string()),
        ("captioner", pa.string()),
        ("n", pa.int32()),
        ("similarity", pa.float32()),
        ("rank", pa.int32()),
        ("other_taxon_id", pa.string()),
        ("other_similarity", pa.float32()),
        ("flag", pa.bool_()),
    ]
)


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """Embed the taxa (job "taxa") or the photographs of one shard (e.g. job "train-00000"); None does all.

    Job "captions/<captioner>/train-00000", after "taxa", scores the captions that a captioner wrote.
    """
    if job is None:
        sizes = read_json(require(data / "shard" / "sizes.json"))
        names = [name.removesuffix(".tar") for name in sorted(sizes)]
        jobs = ["taxa", *(name for name in names if not name.startswith("pretrain-"))]
        described = sorted(path.parent.name for path in (data / "caption").glob(f"*/{names[0]}.parquet"))
        jobs += [f"captions/{captioner}/{name}" for captioner in described for name in names]
    else:
        jobs = [job]
    teacher = models.load_teacher(data / "teacher" / "model")
    teacher.model.to(training.device())
    torch.set_num_threads(training.cores())
    for name in jobs:
        if name == "taxa":
            _embed_taxa(params, data, teacher)
        elif name.startswith("captions/"):
            _score_captions(data, teacher, *name.split("/")[1:])
        else:
            _embed_shard(params, data, teacher, name)


def _embed_taxa(params: dict[str, Any], data: Path, teacher: models.Teacher) -> None:
    taxa = read_table(data / "index" / "taxa.parquet", columns=["taxon_id", *RANKS, "common_name", "leaf"]).to_pylist()
    leaves = [row for row in taxa if row["leaf"]]
    if not leaves:
        raise UserError(f"{data / 'index' / 'taxa.parquet'} lists no leaf taxon; is the index empty?")
    columns = _lit_columns(data) if params["prompt"] == "lit" else captions.LIT_COLUMNS
    prompts = [
        captions.caption(tuple(row[r] for r in RANKS), row["common_name"], params["prompt"], columns) for row in leaves
    ]
    openai = params["templates"] == "openai"
    text = _embed_in_templates(teacher, prompts) if openai else models.embed_texts(teacher, prompts)
    cache.write_taxa(
        data / "logits" / "taxa.safetensors",
        [row["taxon_id"] for row in leaves],
        text,
        teacher.logit_scale,
        teacher.identity,
        params["prompt"] + (f" in {len(OPENAI_IMAGENET_TEMPLATES)} templates" if openai else ""),
    )
    print(f"taxa: {len(leaves)} x {text.shape[1]} numbers, e.g. {prompts[0]!r}; logit scale {teacher.logit_scale:.1f}")


def _lit_columns(data: Path) -> list[str]:
    """What the LiT sentence lists in the captions that the teacher has learned from."""
    metadata = pq.read_schema(require(data / "caption" / "val-00000.parquet")).metadata or {}
    if b"lit_columns" not in metadata:
        raise UserError(f"{data}/caption/val-00000.parquet does not say what its LiT sentence lists; run stage caption")
    columns: list[str] = json.loads(metadata[b"lit_columns"])
    return columns


def _embed_in_templates(teacher: models.Teacher, prompts: list[str]) -> np.ndarray:
    """L2-normalised float32 (C, D): of each prompt the mean over OpenAI's zero-shot templates (arXiv 2103.00020).

    Each template says what the prompt says after "a photo of"; the embeddings are normalised before and after.
    """
    bodies = [prompt[len("a photo of ") :].removesuffix(".") for prompt in prompts]
    total = np.zeros(())
    for template in progress(OPENAI_IMAGENET_TEMPLATES, len(OPENAI_IMAGENET_TEMPLATES), "taxa, templates"):
        total = total + models.embed_texts(teacher, [template(body) for body in bodies]).astype(np.float64)
    return (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)


def _score_captions(data: Path, teacher: models.Teacher, captioner: str, name: str) -> None:
    """Write what the teacher makes of each caption: how near it is to the photograph's taxon, and to others.

    Columns: ``similarity``, the cosine to the own taxon, of an inner node to the nearest leaf under it; ``rank``, 1 if
    no other leaf is nearer; ``other_taxon_id``, the nearest of the others, and ``other_similarity``; ``flag``, whether
    the caption contradicts the label: another taxon is nearer by more than a margin. A caption that names no taxon is
    about as near to many, and not flagged. Captions that say nothing have no row.
    """
    taxa = cache.read_taxa(data / "logits" / "taxa.safetensors")
    if taxa.teacher != teacher.identity:
        raise UserError(f"{data / 'logits'}/taxa.safetensors was embedded by another teacher; run job taxa again")
    _, below = training.leaves_below(data)
    images = ShardSet.of(data / "shard" / f"{name}.tar")
    table = read_table(data / "caption" / captioner / f"{name}.parquet")
    if table["key"].to_pylist() != images.keys:
        raise UserError(
            f"{data / 'caption' / captioner / name}.parquet lists other photographs; run stage caption again"
        )
    rows: list[dict[str, Any]] = []
    for start in progress(range(0, len(images), _BATCH), -(-len(images) // _BATCH), f"{captioner}, {name}"):
        said = [
            (i, n, text)
            for i, row in enumerate(table.slice(start, _BATCH).drop(["key"]).to_pylist(), start)
            for n, text in enumerate(row.values())
            if text
        ]
        if not said:
            continue
        similarity = models.embed_texts(teacher, [text for _, _, text in said]) @ taxa.text.T
        for (i, n, _), to_leaf in zip(said, similarity, strict=True):
            own = to_leaf[below[images.taxon_ids[i]]].max()
            others = to_leaf.copy()
            others[below[images.taxon_ids[i]]] = -np.inf
            best = int(others.argmax())
            rows.append(
                {
                    **{"key": images.keys[i], "captioner": captioner, "n": n},
                    **{"similarity": float(own), "rank": 1 + int((others > own).sum())},
                    **{"other_taxon_id": taxa.taxon_ids[best], "other_similarity": float(others[best])},
                    "flag": bool(others[best] > own + _MARGIN),
                }
            )
    write_table(data / "logits" / "captions" / captioner / f"{name}.parquet", pa.Table.from_pylist(rows, SCORES))
    flagged = sum(row["flag"] for row in rows)
    print(f"{captioner}, {name}: {flagged} of {len(rows)} captions contradict the label of their photograph")


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
