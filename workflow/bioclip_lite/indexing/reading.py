"""Read every photograph once, on all processors: size, MD5 and perceptual hashes."""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import NamedTuple

from bioclip_lite.indexing import duplicates
from bioclip_lite.indexing.database import BATCH, add_reject, count
from bioclip_lite.photographs.images import BadImage, inspect
from bioclip_lite.sources.sample import Reject
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.progress import progress

_CHUNK = 32  # photographs handed to a worker at a time
_WORTH_WORKERS = 256  # photographs; fewer are read in this process

# Endings of what cameras and albums write beside photographs: settings, places, captions.
_SIDECARS = (".aae", ".xmp", ".xml", ".json", ".txt", ".pp3", ".ini")

Batch = list[tuple[int, str]]  # number and locator of photographs


class Seen(NamedTuple):
    """Properties of a photograph's file."""

    md5: bytes
    width: int  # pixels
    height: int
    clean: bool  # stage shard can take the file as it is
    truncated: bool  # lacks its last bytes
    phash: int | None  # signed, as SQLite stores it; None for a plain image
    dhash: int | None


def read_photographs(
    database: sqlite3.Connection,
    read: Callable[[str], bytes],
    prepare: Callable[[Iterable[str]], None] | None,
    min_side: int,
) -> None:
    """Read all photographs into the database, and leave out those that are damaged or too small.

    Args:
        read: returns the file at a locator; is sent to other processes.
        prepare: downloads the files at some locators; None if the source needs no download.
        min_side: least length of the shorter side in pixels.

    Raises:
        UserError: a worker was killed.
    """
    total = count(database)
    see = partial(_see, read, min_side)
    affinity = getattr(os, "sched_getaffinity", None)
    workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    batches = _batches(database)
    if workers == 1 or total < _WORTH_WORKERS:
        results = _in_this_process(batches, see, prepare)
    else:
        results = _in_workers(batches, see, prepare, workers)
    for number, seen in progress(results, total, "index: photographs read"):
        if isinstance(seen, Reject):
            add_reject(database, seen)
            database.execute("DELETE FROM photograph WHERE id = ?", (number,))
        else:
            database.execute(
                "UPDATE photograph SET md5 = ?, width = ?, height = ?, clean = ?, truncated = ?, phash = ?, dhash = ? "
                "WHERE id = ?",
                (*seen, number),
            )


def _see(read: Callable[[str], bytes], min_side: int, locator: str) -> Seen | Reject:
    try:
        content = read(locator)
        found = inspect(content, min_side)
    except BadImage as bad:
        if bad.reason == "not an image" and locator.lower().endswith(_SIDECARS):
            return Reject(locator, "sidecar", "no photograph, but a file with data about one")
        return Reject(locator, bad.reason, bad.detail)
    except FileNotFoundError as error:
        return Reject(locator, "missing file", str(error))
    except (OSError, ValueError) as error:  # ValueError: a locator that no file can have
        return Reject(locator, "unreadable", str(error))
    hashes = duplicates.fingerprint(found.small)
    phash, dhash = map(_signed, hashes) if hashes else (None, None)
    md5 = hashlib.md5(content, usedforsecurity=False).digest()
    return Seen(md5, found.width, found.height, found.clean, found.truncated, phash, dhash)


def _signed(number: int) -> int:
    """The signed integer with the bits of an unsigned 64-bit one; SQLite has no unsigned integers."""
    return number - (1 << 64) if number >> 63 else number


def _see_all(see: Callable[[str], Seen | Reject], locators: Sequence[str]) -> list[Seen | Reject]:
    return [see(locator) for locator in locators]


def _in_this_process(
    batches: Iterable[Batch],
    see: Callable[[str], Seen | Reject],
    prepare: Callable[[Iterable[str]], None] | None,
) -> Iterator[tuple[int, Seen | Reject]]:
    for batch in batches:
        if prepare:
            prepare(locator for _, locator in batch)
        for number, locator in batch:
            yield number, see(locator)


def _in_workers(
    batches: Iterable[Batch],
    see: Callable[[str], Seen | Reject],
    prepare: Callable[[Iterable[str]], None] | None,
    workers: int,
) -> Iterator[tuple[int, Seen | Reject]]:
    """While the workers read one batch, this process downloads the next."""
    waiting: Iterable[tuple[int, Seen | Reject]] = ()
    try:
        with ProcessPoolExecutor(workers) as pool:
            pool.submit(int).result()  # starts all workers, before a download starts threads
            for batch in batches:
                if prepare:
                    prepare(locator for _, locator in batch)
                chunks = [batch[i : i + _CHUNK] for i in range(0, len(batch), _CHUNK)]
                futures = [pool.submit(_see_all, see, [locator for _, locator in chunk]) for chunk in chunks]
                yield from waiting
                waiting = (
                    (number, seen)
                    for chunk, future in zip(chunks, futures, strict=True)
                    for (number, _), seen in zip(chunk, future.result(), strict=True)
                )
            yield from waiting
    except BrokenProcessPool:
        raise UserError("index: a process that reads photographs was killed; usually memory ran out") from None


def _batches(database: sqlite3.Connection) -> Iterator[Batch]:
    last = 0
    query = "SELECT id, locator FROM photograph WHERE id > ? ORDER BY id LIMIT ?"
    while batch := database.execute(query, (last, BATCH)).fetchall():
        yield batch
        last = batch[-1][0]
