"""Batches of the photographs that a student learns from, under the views that the teacher cache has of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioclip_lite.photographs import loading
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.taxa import label_space
from bioclip_lite.teacher_cache import store
from bioclip_lite.teacher_cache.reader import CachedSplit
from bioclip_lite.training import distributed, shuffling
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import digest

Captions = tuple[torch.Tensor, torch.Tensor]  # distinct ones: tokens, int64 (t, context); embeddings, float32 (t, D)
Views = list[tuple[int, int]]  # photograph i of the split, in its view k


@dataclass(frozen=True)
class Batch:
    """A batch as one process gets it."""

    views: Views  # of the whole batch, b in all
    part: slice  # of them, this process's
    pixels: torch.Tensor  # float32, of the part only, as ``targets`` and ``ranges`` on ``machine.device()``
    targets: Sequence[torch.Tensor]  # (b, D), the embeddings of each teacher; of the part only without ``captions``
    ranges: torch.Tensor | None  # int64 (part, 2), the leaves under each taxon, see ``Taught.ranges``, if labels count
    captions: Captions | None  # of the whole batch, if they are asked for and any photograph has a label

    @property
    def own_targets(self) -> list[torch.Tensor]:
        """(part, D): the embeddings of each teacher of this process's part."""
        return [target[self.part] if len(target) == len(self.views) else target for target in self.targets]


class Taught:
    """What photographs are taught beside their pixels, in tensors that the workers of a loader make."""

    def __init__(self, split: CachedSplit, data: Path, *, labels: bool) -> None:
        """``labels``: whether the ranges of labels are asked for."""
        self.split, self.labels = split, labels
        self.leaves, self.below = label_space.leaves_below(data)
        self.captions: Callable[[int, Views], Captions | None] | None = None  # of the photographs of an epoch

    def __call__(self, asked: tuple[int, Views, slice]) -> tuple[list[torch.Tensor], torch.Tensor | None, Any]:
        """As in ``Batch``: targets, ranges, captions; of an epoch, the views of a batch and this process's part."""
        epoch, views, part = asked
        shown = views if self.captions else views[part]
        targets = [self.targets(shown, teacher) for teacher in range(len(self.split.taxa))]
        ranges = self.ranges(views[part]) if self.labels else None
        return targets, ranges, self.captions(epoch, views) if self.captions else None

    def targets(self, views: Views, teacher: int = 0) -> torch.Tensor:
        """(b, D): a teacher's embeddings, by its number."""
        return torch.from_numpy(np.stack([self.split.target(i, k, teacher) for i, k in views]))

    def ranges(self, views: Views) -> torch.Tensor:
        """int64 (b, 2): first of the leaves under each photograph's taxon, and the one after the last."""
        # What has no label may be any leaf, so that it adds nothing to a loss over labels: -log(1).
        every, taxa = range(len(self.leaves)), (self.split.images.taxon_id(i) for i, _ in views)
        below = (every if taxon is None else self.below[taxon] for taxon in taxa)
        return torch.tensor([(leaves.start, leaves.stop) for leaves in below], dtype=torch.int64)


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
        shuffle_buffer: int,
        names: tuple[object, ...],
        *,
        labels: bool,
    ) -> None:
        """``names``: the seed and the stage, of the random numbers; ``preprocess``: the student's; see ``Taught``."""
        if len(train.images) < 2:
            raise UserError(f"split train has {len(train.images)} photographs; training needs at least 2")
        self.data, self.train, self.names = data, train, names
        self.batch_size, self.shuffle_buffer = batch_size, shuffle_buffer
        self.size = min(batch_size, len(train.images))
        self.steps = shuffling.batch_count(len(train.images), batch_size)
        self.taught = Taught(train, data, labels=labels)
        self._lessons = loading.Lessons(loading.Replays(train.images, preprocess, train.view), self.taught)

    def batches(self, epoch: int, step: int) -> Iterator[Batch]:
        """The batches of an epoch from a step on, in an order of the epoch's own."""
        part = distributed.part(self.size)
        plan, shown = tee(self.asked(epoch, step))
        made = self._lessons.batches((views[part], (epoch, views, part)) for views in plan)
        for views, (pixels, (targets, ranges, captions)) in zip(shown, made, strict=True):
            moved = [machine.moved(target) for target in targets]
            yield Batch(views, part, pixels, moved, None if ranges is None else machine.moved(ranges), captions)

    def asked(self, epoch: int, step: int) -> Iterator[Views]:
        """The photographs and views of each batch, made as they are asked for: all of an epoch would be large."""
        lengths, names = [len(shard) for shard in self.train.images.shards], (*self.names, "order", epoch)
        files = self.train.files()
        order = shuffling.batches(lengths, self.batch_size, self.shuffle_buffer, *names, start=step, files=files)
        return ([(i, self._view(i, epoch)) for i in rows.tolist()] for rows in order)

    def _view(self, i: int, epoch: int) -> int:
        first = digest(*self.names, "view", self.train.images.key(i))
        return (first + epoch) % self.train.view_count


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
