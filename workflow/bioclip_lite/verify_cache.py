"""``python -m bioclip_lite verify-cache``: is the teacher cache what the teacher says of these photographs?

Views drawn at random from all shards are replayed and embedded again, and compared with what the cache holds. It
finds a cache of another teacher, of other photographs or of another version of the code, which training cannot see.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bioclip_lite import cache, models, training
from bioclip_lite.command import command
from bioclip_lite.errors import UserError
from bioclip_lite.randomness import digest
from bioclip_lite.shards import ShardSet, shard_names, split_of

LEAST = 0.9999  # cosine: what float16 and another order of additions leave of equality
_BATCH = 64


class Finding(NamedTuple):
    """One view of the cache, and the cosine between what is stored and what the teacher says now."""

    shard: str
    key: str
    view: int
    cosine: float


def verify(data: Path, count: int) -> list[Finding]:
    """Embed ``count`` views again, spread over all shards by hash; all of them if there are fewer. Worst first.

    Raises:
        UserError: a part of the cache is missing or damaged, belongs to another teacher, or lists other photographs.
    """
    teacher = models.load_teacher(data / "teacher" / "model")
    names = [name for name in shard_names(data) if split_of(name) != "pretrain"]
    shards = {name: cache.read_shard(data / "logits" / f"{name}.safetensors") for name in names}
    cache.check_same(list(shards.values()), cache.read_taxa(data / "logits" / "taxa.safetensors"))
    for name, shard in shards.items():
        if shard.identity["teacher"] != teacher.identity:
            raise UserError(f"{shard.path} was not made by the teacher in data/teacher/model; run stage logits again")
        if shard.keys != ShardSet.of(data / "shard" / f"{name}.tar").keys:
            raise UserError(f"{shard.path} lists other photographs than data/shard/{name}.tar; run stage logits again")
    cells = [
        (name, i, view)
        for name, shard in shards.items()
        for i in range(len(shard.keys))
        for view in range(shard.embeddings.shape[1])
    ]
    cells.sort(key=lambda cell: digest("verify-cache", cell[0], shards[cell[0]].keys[cell[1]], cell[2]))
    chosen = sorted(cells[:count])
    teacher.model.to(training.device())
    found: list[Finding] = []
    for name in dict.fromkeys(name for name, _, _ in chosen):
        shard, mine = shards[name], [(i, view) for other, i, view in chosen if other == name]
        images = ShardSet.of(data / "shard" / f"{name}.tar")
        plan = [
            [(i, shard.views[i, view]) for i, view in mine[start : start + _BATCH]]
            for start in range(0, len(mine), _BATCH)
        ]
        pixels = training.load(training.Views(images, teacher.preprocess), plan)
        now = torch.cat([models.embed_images(teacher.model, x.to(training.device())).float().cpu() for x in pixels])
        for (i, view), embedding in zip(mine, now.numpy(), strict=True):
            stored = shard.embeddings[i, view].astype(np.float32)
            found.append(Finding(name, shard.keys[i], view, float(stored @ embedding / np.linalg.norm(stored))))
    return sorted(found, key=lambda finding: finding.cosine)


@command("verify-cache")
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bioclip_lite verify-cache", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--views", type=int, default=256, help="embedded again (default: 256)")
    parser.add_argument("--data", type=Path, default=Path("data"))
    options = parser.parse_args(arguments)
    found = verify(options.data, options.views)
    wrong = [finding for finding in found if not finding.cosine >= LEAST]
    for finding in wrong[:10]:
        print(f"{finding.shard} {finding.key} view {finding.view}: cosine {finding.cosine:.6f}", file=sys.stderr)
    if wrong:
        print(
            f"verify-cache: {len(wrong)} of {len(found)} views are not what the teacher says (cosine below {LEAST}); "
            "make the cache again: snakemake --cores all logits --forcerun embed_shard",
            file=sys.stderr,
        )
        return 1
    print(f"verify-cache: {len(found)} views embedded again, lowest cosine {found[0].cosine:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
