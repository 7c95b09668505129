"""Batches of the photographs that a student learns from, under the views that the teacher cache has of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioclip_lite.photographs import loading
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.taxa import label_space
from bioclip_lite.teacher_cache import store
from bioclip_lite.teacher_cache.reader import CachedSplit
from bioclip_lite.training import distributed
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import digest

Views = list[tuple[int, int]]  # photograph i of the split, in its view k


@dataclass(frozen=True)
class Batch:
    """A batch as one process gets it."""

    epoch: int
    views: Views  # of the whole batch, b in all
    part: slice  # of them, this process's
    pixels: torch.Tensor  # float32, of the part only

    @property
    def own(self) -> Views:
        return self.views[self.part]


class CachedBatches:
    """What a student learns from in batches, with the teachers' embeddings and the labels of each.

    Each epoch shows every photograph once, under one of its cached views, which is replayed at the student's size; from
    epoch to epoch a photograph walks through its views, from a first one of its own.
    """

    def __init__(
        self,
        data: Path,
        train: CachedSplit,
        preprocess: dict[str, Any],
        batch_size: int,
        names: tuple[object, ...],
    ) -> None:
        """``names``: the seed and the stage, of the random numbers; ``preprocess``: the student's."""
        if len(train.images) < 2:
            raise UserError(f"split train has {len(train.images)} photographs; training needs at least 2")
        self.data, self.train, self.batch_size, self.names = data, train, batch_size, names
        self.size = min(batch_size, len(train.images))
        self.steps = len(loading.batches(len(train.images), batch_size))
        self.leaves, below = label_space.leaves_below(data)
        # What has no label may be any leaf, so that it adds nothing to a loss over labels: -log(1).
        self.below: dict[Any, np.ndarray] = {**below, None: np.arange(len(self.leaves))}
        self._first_view = [digest(*names, "view", key) for key in train.images.keys]
        self._replays = loading.Replays(train.images, preprocess, train.view)

    def batches(self, epoch: int, step: int) -> Iterator[Batch]:
        """The batches of an epoch from a step on, in an order of the epoch's own."""
        part = distributed.part(self.size)
        order = loading.batches(len(self.train.images), self.batch_size, *self.names, "order", epoch)
        plan = [[(int(i), self._view(i, epoch)) for i in rows] for rows in order[step:]]
        for views, pixels in zip(plan, self._replays.batches([views[part] for views in plan]), strict=True):
            yield Batch(epoch, views, part, pixels)

    def _view(self, i: int, epoch: int) -> int:
        return (self._first_view[i] + epoch) % self.train.view_count

    def targets(self, views: Views, teacher: int = 0) -> torch.Tensor:
        """(b, D): a teacher's embeddings, by its number."""
        return torch.from_numpy(np.stack([self.train.target(i, k, teacher) for i, k in views])).to(machine.device())

    def under(self, views: Views) -> torch.Tensor:
        """bool (b, C): the leaves under each photograph's taxon."""
        taxa = [self.train.images.taxon_ids[i] for i, _ in views]
        return torch.from_numpy(label_space.under(taxa, self.below, len(self.leaves))).to(machine.device())


def files_read(data: Path, splits: Sequence[str], teachers: Sequence[str]) -> list[Path]:
    """All that a student learns from: photographs, the caches of its teachers, and the taxa."""
    names = [name for split in (*splits, "val") for name in shard_names(data, split)]
    folders = [store.folder(data, teacher) for teacher in teachers]
    return [
        *(data / "shard" / f"{name}.tar" for name in names),
        *(folder / f"{name}.safetensors" for folder in folders for name in (*names, "taxa")),
        data / "index" / "taxa.parquet",
    ]


def check_caches(data: Path, train: CachedSplit, val: CachedSplit, teachers: Sequence[str]) -> None:
    """Raise UserError unless the caches of both splits and the taxa are of the same teachers and label space."""
    leaves, _ = label_space.leaves_below(data)
    for teacher, taxa, *shards in zip(teachers, train.taxa, train.shards, val.shards, strict=True):
        store.check_same([shard for split in shards for shard in split], taxa)
        if leaves != taxa.taxon_ids:
            raise UserError(
                f"{store.folder(data, teacher)}/taxa.safetensors and index/taxa.parquet list different taxa; make the "
                f"cache again: snakemake --cores all logits"
            )
