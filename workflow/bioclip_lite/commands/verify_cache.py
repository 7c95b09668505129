"""``python -m bioclip_lite verify-cache``: check that the teacher cache holds the embeddings of these photographs.

Views drawn at random from all shards are replayed, embedded again and compared with the cache. The command detects a
cache of another teacher, of other photographs or of another version of the code, which training cannot see.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bioclip_lite.commands.common import command
from bioclip_lite.models import teachers
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.shards import ShardSet, shard_names, split_of
from bioclip_lite.teacher_cache import store
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.utils import machine
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import digest

LEAST = 0.9999  # cosine: equality up to rounding and the order of additions
_BATCH = 64


class Finding(NamedTuple):
    """One view of the cache, and the cosine between its stored and its recomputed embedding."""

    shard: str  # e.g. "train-00000", of a further teacher "second/train-00000"
    key: str
    view: int
    cosine: float


def verify(data: Path, count: int) -> list[Finding]:
    """Embed ``count`` views of each teacher again, spread over all shards by hash; or all of them. Worst first.

    Raises:
        UserError: a part of the cache is missing or damaged, belongs to another teacher, or is of other photographs.
    """
    findings = [finding for teacher_name in store.teachers(data) for finding in _verify(data, count, teacher_name)]
    return sorted(findings, key=lambda finding: finding.cosine)


def _verify(data: Path, count: int, teacher_name: str) -> list[Finding]:
    teacher, folder = teachers.load_teacher(data / "teacher" / teacher_name), store.folder(data, teacher_name)
    names = [name for name in shard_names(data) if split_of(name) != "pretrain"]
    shards = {name: store.read_shard(folder / f"{name}.safetensors") for name in names}
    store.check_same(list(shards.values()), store.read_taxa(folder / "taxa.safetensors"))
    for name, shard in shards.items():
        if shard.identity["teacher"] != teacher.identity:
            raise UserError(
                f"{shard.path} was not made by the teacher in data/teacher/{teacher_name}; run stage logits again"
            )
        if shard.keys != ShardSet.of(data / "shard" / f"{name}.tar").keys:
            raise UserError(f"{shard.path} lists other photographs than data/shard/{name}.tar; run stage logits again")
    cells = [
        (name, i, view)
        for name, shard in shards.items()
        for i in range(len(shard.keys))
        for view in range(shard.views.shape[1])
    ]
    cells.sort(key=lambda cell: digest("verify-cache", cell[0], shards[cell[0]].keys[cell[1]], cell[2]))
    chosen = sorted(cells[:count])
    teacher.model.to(machine.device())
    findings: list[Finding] = []
    for name in dict.fromkeys(name for name, _, _ in chosen):
        shard, mine = shards[name], [(i, view) for other, i, view in chosen if other == name]
        images = ShardSet.of(data / "shard" / f"{name}.tar")
        for i, _ in mine:
            if store.image_digest(images.jpeg(i)) != shard.images[i]:
                raise UserError(
                    f"{shard.path} was made from another photograph {shard.keys[i]} than data/shard/{name}.tar has "
                    f"under this key; run stage logits again"
                )
        plan = [
            [(i, shard.views[i, view]) for i, view in mine[start : start + _BATCH]]
            for start in range(0, len(mine), _BATCH)
        ]
        pixels = loading.Views(images, teacher.preprocess).batches(plan)
        now = torch.cat([teachers.embed_images(teacher.model, x).cpu() for x in pixels])
        # Compare in the precision of the cache: int8 loses more if one number of an embedding is large.
        expected = store.decode(**store.encode(now.numpy(), "float16" if shard.scales is None else "int8"))
        place = name if teacher_name == FIRST else f"{teacher_name}/{name}"
        for (i, view), embedding in zip(mine, expected, strict=True):
            stored = shard.target(i, view)
            cosine = float(stored @ embedding / (np.linalg.norm(stored) * np.linalg.norm(embedding)))
            findings.append(Finding(place, shard.keys[i], view, cosine))
    return findings


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "verify-cache",
        "Embed views drawn at random from all shards again and compare them with the teacher cache. Reveals a cache of "
        "another teacher, of other photographs or of another version of the code.",
    )
    parser.add_argument("--views", type=int, default=256, help="views to embed per teacher (default: 256)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    return parser


@command("verify-cache")
def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    findings = verify(options.data, options.views)
    wrong = [finding for finding in findings if not finding.cosine >= LEAST]
    for finding in wrong[:10]:
        print(f"{finding.shard} {finding.key} view {finding.view}: cosine {finding.cosine:.6f}", file=sys.stderr)
    if wrong:
        print(
            f"verify-cache: {len(wrong)} of {len(findings)} views differ from the embeddings of the teacher (cosine "
            f"below {LEAST}); make the cache again: snakemake --cores all logits --forcerun embed_shard",
            file=sys.stderr,
        )
        return 1
    print(f"verify-cache: {len(findings)} views embedded again, lowest cosine {findings[0].cosine:.6f}")
    return 0
