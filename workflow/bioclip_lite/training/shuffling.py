"""The order in which a training sees the photographs of its shards: at random, and of few shards at a time.

Photographs that are read at random from all tars cost a disk or a network a seek each. Where there are more than a
buffer of them, the shards come in a random order, and photographs are mixed within a window of neighbouring ones. Stage
shard deals observations to shards by hash, so each window is a random sample of its split. While a window is learned
from, the files of the next one are read from end to end, which leaves them in the page cache of the operating system.

The order follows from names and the lengths of the shards alone: any number of processes and of workers sees the same,
and a training goes on at any step without what came before.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import numpy as np

from bioclip_lite.utils.randomness import generator

_CHUNK = 2**22  # bytes read ahead at a time


def batch_count(photographs: int, batch_size: int) -> int:
    """The full batches of an epoch; the remainder is left out, and fewer photographs than a batch make one of all."""
    return max(1, photographs // batch_size)


def batches(
    lengths: Sequence[int],
    batch_size: int,
    buffer: int,
    *names: object,
    start: int = 0,
    files: Sequence[Sequence[Path]] = (),
) -> Iterator[np.ndarray]:
    """Yield the numbers of the photographs of each full batch, int64 (b,), in a random order that ``names`` give.

    Photographs are numbered 0 ... from shard to shard; none comes twice. The numbers of one window are in memory.

    Args:
        lengths: photographs of each shard.
        buffer: photographs of a window, to within a shard. If it takes all, they are mixed as if they lay in one shard.
        start: the batch to begin with, 0 ....
        files: what is read of each shard; read ahead where there are several windows.
    """
    sizes, ends = np.asarray(lengths), np.cumsum(lengths)
    size = min(batch_size, int(ends[-1]))
    skipped, rest = start * size, np.empty(0, np.int64)
    order = windows(lengths, buffer, *names)
    with _reading_ahead(order, files) as enter:
        for number, shards in enumerate(order):
            count = int(sizes[shards].sum())
            if skipped >= count:
                skipped -= count
                continue
            enter(number)
            rows = np.concatenate([np.arange(ends[shard] - sizes[shard], ends[shard]) for shard in shards])
            generator(*names, *([number] if number else [])).shuffle(rows)
            rest, skipped = np.concatenate([rest, rows[skipped:]]), 0
            del rows
            while len(rest) >= size:
                yield rest[:size]
                rest = rest[size:]


def windows(lengths: Sequence[int], buffer: int, *names: object) -> list[np.ndarray]:
    """The numbers of the shards of each window: all in their order if ``buffer`` takes them, else in one by ``names``.

    Windows have about as many photographs each, ``buffer`` or less, to within a shard.
    """
    sizes = np.asarray(lengths)
    total = int(sizes.sum())
    if total <= buffer:
        return [np.arange(len(sizes))]
    order = generator(*names, "shards").permutation(len(sizes))
    sizes = sizes[order]
    window = (np.cumsum(sizes) - sizes) * -(-total // buffer) // total  # of each shard, by where it begins
    return np.split(order, np.flatnonzero(np.diff(window)) + 1)


@contextmanager
def _reading_ahead(order: Sequence[np.ndarray], files: Sequence[Sequence[Path]]) -> Iterator[Callable[[int], None]]:
    """Yield a function to be told of each window that is begun: a thread reads its files, and those of the next one."""
    if len(order) == 1 or not files or os.environ.get("LOCAL_RANK", "0") != "0":  # a page cache serves all processes
        yield lambda number: None
        return
    waiting: SimpleQueue[Path | None] = SimpleQueue()
    Thread(target=_read_all, args=(waiting,), daemon=True).start()
    asked = 0  # windows before this one are read, or left out

    def enter(number: int) -> None:
        nonlocal asked
        for shards in order[max(asked, number) : number + 2]:
            for shard in shards:
                for file in files[shard]:
                    waiting.put(file)
        asked = number + 2

    try:
        yield enter
    finally:
        waiting.put(None)


def _read_all(waiting: "SimpleQueue[Path | None]") -> None:
    content = bytearray(_CHUNK)
    while (path := waiting.get()) is not None:
        with suppress(OSError), path.open("rb", buffering=0) as file:  # who needs the file says what is wrong with it
            while file.readinto(content):
                pass
