"""Read the photographs of a split with the teachers' embeddings of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bioclip_lite.photographs.shards import ShardSet, shard_names
from bioclip_lite.teacher_cache import store
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.utils.errors import UserError


class CachedSplit:
    """The photographs of a split, or of several in a row, with the caches of some teachers, checked to belong together.

    ``images`` the photographs; row i of every cache is photograph i. ``taxa`` the text matrix of each teacher.
    """

    def __init__(self, data: Path, split: str | Sequence[str], teachers: Sequence[str] = (FIRST,)) -> None:
        splits = [split] if isinstance(split, str) else split
        which = " and ".join(splits)
        self.images = ShardSet(data, *splits)
        self.taxa = [store.read_taxa(store.folder(data, name) / "taxa.safetensors") for name in teachers]
        names = [name for one in splits for name in shard_names(data, one)]
        self.shards = [
            [store.read_shard(store.folder(data, teacher) / f"{name}.safetensors") for name in names]
            for teacher in teachers
        ]
        for teacher, shards in zip(teachers, self.shards, strict=True):
            # One shard at a time: the keys of all photographs are never in memory together.
            pairs = zip(shards, self.images.shards, strict=True)
            if any(store.read_keys(shard.path) != photographs.list_keys() for shard, photographs in pairs):
                cached_keys = [key for shard in shards for key in shard.keys]
                missing = len(set(self.images.keys) - set(cached_keys))
                raise UserError(
                    f"{store.folder(data, teacher)}: the cache of split {which} has {len(cached_keys)} photographs, "
                    f"the shards have {len(self.images)}, {missing} of them not in the cache; make the cache "
                    f"again: snakemake --cores all logits"
                )
            if len({shard.views.shape[1] for shard in shards}) > 1:
                raise UserError(
                    f"{store.folder(data, teacher)}: the shards of split {which} have different numbers of views; make "
                    f"the cache again: snakemake --cores all logits"
                )
            for shard, first in zip(shards, self.shards[0], strict=True):
                if shard is not first and not np.array_equal(shard.views, first.views):
                    raise UserError(
                        f"{shard.path} and {first.path} hold different views, so their answers cannot be averaged; "
                        f"make the cache again: snakemake --cores all logits"
                    )

    def files(self) -> list[list[Path]]:
        """What is read of each shard: its tar, and the cache of each teacher."""
        caches = zip(*self.shards, strict=True)
        return [[of.tar, *(one.path for one in cached)] for of, cached in zip(self.images.shards, caches, strict=True)]

    @property
    def view_count(self) -> int:
        return int(self.shards[0][0].views.shape[1])

    def view(self, i: int, k: int) -> np.ndarray:
        """Row of ``views`` for view k of photograph i: float32 (P,)."""
        number, row = self.images.locate(i)
        return np.array(self.shards[0][number].views[row, k])

    def target(self, i: int, k: int, teacher: int = 0) -> np.ndarray:
        """A teacher's embedding of view k of photograph i: float32 (D,)."""
        number, row = self.images.locate(i)
        return self.shards[teacher][number].target(row, k)
