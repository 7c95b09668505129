"""Batches of photographs under their views, decoded in parallel."""

import functools
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bioclip_lite.photographs import views
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.utils import machine

Rows = TypeVar("Rows", range, list[int])  # numbers of photographs

_EVAL_BATCH = 128
_BYTES_KEPT = 2**28  # of 8-bit pixels that are made once and not in every epoch


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


def normalised(pictures: torch.Tensor, preprocess: dict[str, Any]) -> torch.Tensor:
    """``to_array`` of 8-bit RGB ``pictures`` (b, size, size, 3), computed on ``machine.device()``: the same numbers.

    They travel there as bytes, a quarter of what float32 takes.
    """
    device = machine.device()
    values = machine.moved(pictures, device).permute(0, 3, 1, 2).contiguous().float()
    white, mean, std = _colours(tuple(preprocess["mean"]), tuple(preprocess["std"]), device)
    return values.div_(white).sub_(mean).div_(std)


@functools.lru_cache(maxsize=8)
def _colours(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[torch.Tensor, ...]:
    """255, mean and std as float32 tensors: by a number, a GPU would multiply with its inverse, which is rounded."""
    white = torch.full((1, 1, 1), 255.0)
    columns = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))
    return tuple(machine.moved(values, device) for values in (white, *columns))


class Views(Dataset[torch.Tensor]):
    """Photographs under views: item (i, row) is photograph i seen as ``row`` of ``views``."""

    def __init__(self, images: Photographs, preprocess: dict[str, Any]) -> None:
        self.images, self.preprocess = images, preprocess
        self.decoded = Kept(0 if machine.workers() else _BYTES_KEPT)  # each of the workers would keep as much

    def __getitem__(self, item: tuple[int, np.ndarray]) -> torch.Tensor:
        """8-bit RGB, (size, size, 3)."""
        i, row = item
        image = self.decoded.get(i)
        if image is None:
            image = self.images.image(i)
            self.decoded.keep(i, image, 3 * image.width * image.height)
        return torch.from_numpy(np.array(views.replay(image, row, self.preprocess)))

    def batches(self, plan: Sequence[Sequence[tuple[int, np.ndarray]]]) -> Iterator[torch.Tensor]:
        """float32 (b, 3, size, size) on ``machine.device()`` for each list of items in ``plan``."""
        return (normalised(pictures, self.preprocess) for pictures in load(self, plan))


class WithBeside(Dataset[tuple[torch.Tensor, Any]]):
    """Pictures of a batch, and what it needs beside them: item (items, about) is both, from the items and ``about``."""

    def __init__(self, pictures: Dataset[torch.Tensor], beside: Callable[[Any], Any]) -> None:
        self.pictures, self.beside = pictures, beside

    def __getitem__(self, asked: tuple[Sequence[Any], Any]) -> tuple[torch.Tensor, Any]:
        items, about = asked
        made = [self.pictures[item] for item in items]
        return torch.stack(made) if made else torch.empty(0), self.beside(about)


class Replays(Dataset[torch.Tensor]):
    """Photographs under views that come again in later epochs: item (i, k) is photograph i in its view number k.

    ``row`` gives the row of ``views`` for i and k.
    """

    def __init__(self, images: ShardSet, preprocess: dict[str, Any], row: Callable[[int, int], np.ndarray]) -> None:
        self.images, self.preprocess, self.row = images, preprocess, row

    def __getitem__(self, item: tuple[int, int]) -> torch.Tensor:
        """8-bit RGB, (size, size, 3)."""
        i, k = item
        return torch.from_numpy(np.array(views.replay(self.images.image(i), self.row(i, k), self.preprocess)))


class Lessons:
    """Batches of ``Replays`` with what each needs beside its pixels. What was shown before is not decoded again."""

    def __init__(self, replays: Replays, beside: Callable[[Any], Any]) -> None:
        """``beside`` makes tensors, in any tuples, of what ``batches`` is told about a batch."""
        self.replays, self.kept = replays, Kept(_BYTES_KEPT)
        self._loader = Loader(WithBeside(replays, beside))

    def batches(self, asked: Iterable[tuple[Sequence[tuple[int, int]], Any]]) -> Iterator[tuple[torch.Tensor, Any]]:
        """(float32 (b, 3, size, size) on ``machine.device()``, what is beside it) for each list of items.

        ``asked``: the items of each batch, and what ``beside`` is told about it.
        """
        plan, shown = tee((batch, [item for item in batch if item not in self.kept], about) for batch, about in asked)
        made = self._loader.batches((lacking, about) for _, lacking, about in plan)
        for (batch, items, _), (pictures, beside) in zip(shown, made, strict=True):
            new = dict(zip(items, pictures, strict=True))
            for item, picture in new.items():
                self.kept.keep(item, picture, picture.nbytes)
            if len(items) < len(batch):
                pictures = torch.stack([new[item] if item in new else self.kept[item] for item in batch])
            yield normalised(pictures, self.replays.preprocess), beside


class Loader:
    """Loads batches, each of which is one item of a dataset, by ``workers()`` that live as long as this object."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._plan = _Plan()
        self._loader = _loader(dataset, sampler=self._plan, batch_size=None, persistent_workers=machine.workers() > 0)

    def batches(self, plan: Iterable[Any]) -> Iterator[Any]:
        """The items of the dataset that ``plan`` names, in its order; it is gone through as they are loaded."""
        self._plan.items = plan
        return iter(self._loader)


class _Plan:
    """What a loader with lasting workers loads next: it goes through the same object in every epoch."""

    def __init__(self) -> None:
        self.items: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def load(dataset: Dataset[Any], plan: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """Batches of a dataset, in the order of ``plan`` (one list of items per batch), decoded by ``workers()``."""
    return iter(_loader(dataset, batch_sampler=plan))


def _loader(dataset: Dataset[Any], **how: Any) -> DataLoader[Any]:
    own = torch.Generator()  # the loader would otherwise draw from torch's, which belongs to the model
    pinned = machine.device().type == "cuda"
    return DataLoader(
        dataset, num_workers=machine.workers(), generator=own, worker_init_fn=_deaf, pin_memory=pinned, **how
    )


def _deaf(_: int) -> None:
    """A cluster sends its signals to every process of a job; the one that trains decides when to stop."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def plain_pixels(
    images: Photographs, preprocess: dict[str, Any], batch_size: int = _EVAL_BATCH, rows: slice = slice(None)
) -> Iterator[torch.Tensor]:
    """Photographs, all or ``rows``, in order, plain: float32 (b, 3, size, size) on ``machine.device()``."""
    row = views.plain_view(0)
    plan = [[(i, row) for i in some] for some in chunks(range(len(images))[rows], batch_size)]
    return Views(images, preprocess).batches(plan)


def plain_row(i: int, k: int) -> np.ndarray:
    """The plain view as every view of every photograph, for ``Replays``."""
    return views.plain_view(0)


def chunks(rows: Rows, batch_size: int = _EVAL_BATCH) -> list[Rows]:
    """``rows`` in their order, in batches; the last one may be smaller."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
