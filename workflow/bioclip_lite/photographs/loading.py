"""Batches of photographs under their views, decoded in parallel."""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bioclip_lite.photographs import views
from bioclip_lite.photographs.preprocess import to_array
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.utils.machine import workers
from bioclip_lite.utils.randomness import generator

_EVAL_BATCH = 128
_BYTES_KEPT = 2**28  # of 8-bit pixels that are made once and not in every epoch


def batches(count: int, batch_size: int, *names: object) -> list[np.ndarray]:
    """Row numbers 0 to count - 1 in a random order given by ``names``, in full batches; the remainder is left out.

    Fewer rows than a batch make one batch of all.
    """
    order = generator(*names).permutation(count)
    full = max(1, count // batch_size)
    return [order[i * batch_size : (i + 1) * batch_size] for i in range(full)]


class Photographs(Protocol):
    """What ``Views`` shows: a ``ShardSet``, or photographs that lie elsewhere. Worker processes get copies of it."""

    def __len__(self) -> int: ...

    def image(self, i: int) -> Image.Image:
        """Photograph ``i``, mode RGB."""
        ...


class Kept(dict[Any, Any]):
    """Pictures that are needed in every epoch, as many as fit into so many bytes; the others are made again."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def keep(self, name: Any, picture: Any, size: int) -> None:
        """Keep one of ``size`` bytes, if there is room for it."""
        if size <= self.room:
            self.room -= size
            self[name] = picture


class Views(Dataset[torch.Tensor]):
    """Photographs under views: item (i, row) is photograph i seen as ``row`` of ``views``."""

    def __init__(self, images: Photographs, preprocess: dict[str, Any]) -> None:
        self.images, self.preprocess = images, preprocess
        self.decoded = Kept(0 if workers() else _BYTES_KEPT)  # workers end with the epoch, and all that they keep

    def __getitem__(self, item: tuple[int, np.ndarray]) -> torch.Tensor:
        i, row = item
        image = self.decoded.get(i)
        if image is None:
            image = self.images.image(i)
            self.decoded.keep(i, image, 3 * image.width * image.height)
        return torch.from_numpy(views.reapply(image, row, self.preprocess))


class Replays(Dataset[np.ndarray]):
    """Photographs under views that come again in later epochs: item (i, k) is photograph i in its view number k.

    ``row`` gives the row of ``views`` for i and k. What an epoch has shown is not decoded and replayed again.
    """

    def __init__(self, images: ShardSet, preprocess: dict[str, Any], row: Callable[[int, int], np.ndarray]) -> None:
        self.images, self.preprocess, self.row = images, preprocess, row
        self.kept = Kept(_BYTES_KEPT)

    def __getitem__(self, item: tuple[int, int]) -> np.ndarray:
        """8-bit RGB, (size, size, 3)."""
        i, k = item
        return np.array(views.replay(self.images.image(i), self.row(i, k), self.preprocess))

    def batches(self, plan: Sequence[Sequence[tuple[int, int]]]) -> Iterator[torch.Tensor]:
        """float32 (b, 3, size, size) for each list of items in ``plan``."""
        lacking = [[item for item in batch if item not in self.kept] for batch in plan]
        made = load(self, [items for items in lacking if items])
        for batch, items in zip(plan, lacking, strict=True):
            new = dict(zip(items, next(made).numpy(), strict=True)) if items else {}
            for item, picture in new.items():
                self.kept.keep(item, picture, picture.nbytes)
            pictures = (new[item] if item in new else self.kept[item] for item in batch)
            yield torch.from_numpy(np.stack([to_array(picture, self.preprocess) for picture in pictures]))


def load(dataset: Dataset[Any], plan: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """Batches of a dataset, in the order of ``plan`` (one list of items per batch), decoded by ``workers()``."""
    own = torch.Generator()  # the loader would otherwise draw from torch's, which belongs to the model
    return iter(
        DataLoader(dataset, batch_sampler=plan, num_workers=workers(), generator=own, worker_init_fn=_deaf)  # type: ignore[arg-type]
    )


def _deaf(_: int) -> None:
    """A cluster sends its signals to every process of a job; the one that trains decides when to stop."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def plain_pixels(
    images: Photographs, preprocess: dict[str, Any], batch_size: int = _EVAL_BATCH, rows: slice = slice(None)
) -> Iterator[torch.Tensor]:
    """Photographs, all or ``rows``, in order, without augmentation: float32 (b, 3, size, size)."""
    row = views.plain_view(0)
    plan = [[(i, row) for i in some] for some in chunks(range(len(images))[rows], batch_size)]
    return load(Views(images, preprocess), plan)


def plain_row(i: int, k: int) -> np.ndarray:
    """The plain view as every view of every photograph, for ``Replays``."""
    return views.plain_view(0)


def chunks(rows: range, batch_size: int = _EVAL_BATCH) -> list[range]:
    """``rows`` in their order, in batches; the last one may be smaller."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
