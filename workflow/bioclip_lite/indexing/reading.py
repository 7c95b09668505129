"""Read every photograph once, on all processors: size, MD5 and perceptual hashes."""

import hashlib
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from bioclip_lite.indexing import duplicates, parts
from bioclip_lite.indexing.database import BATCH, add_reject, count
from bioclip_lite.indexing.parts import Result, Seen
from bioclip_lite.photographs.images import BadImage, inspect
from bioclip_lite.sources.sample import Reject
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.progress import progress

_WHAT = "index: photographs read"
_CHUNK = 32  # photographs handed to a worker at a time
_WORTH_WORKERS = 256  # photographs; fewer are read in this process

# Endings of what cameras and albums write beside photographs: settings, places, captions.
_SIDECARS = (".aae", ".xmp", ".xml", ".json", ".txt", ".pp3", ".ini")

Batch = list[tuple[int, str]]  # number and locator of photographs


def read_photographs(
    database: sqlite3.Connection,
    read: Callable[[str], bytes],
    prepare: Callable[[Iterable[str]], None] | None,
    state: Callable[[str], str | None],
    min_side: int,
    folder: Path,
) -> None:
    """Read all photographs into the database, and leave out those that are damaged or too small.

    Args:
        read: returns the file at a locator; is sent to other processes.
        prepare: downloads the files at some locators; None if the source needs no download.
        state: tells whether the file at a locator is still the same, see ``places.state``; is sent to others, too.
        min_side: least length of the shorter side in pixels.
        folder: of the parts, see ``parts.folder_of``. What a run that was ended has left there is not read again.

    Raises:
        UserError: a worker was killed.
    """
    total = count(database)
    see = partial(_see, read, state, min_side)
    for number, found in progress(_results(database, see, prepare, state, folder, total), total, _WHAT):
        if isinstance(found, Reject):
            add_reject(database, found)
            database.execute("DELETE FROM photograph WHERE id = ?", (number,))
        else:
            database.execute(
                "UPDATE photograph SET md5 = ?, width = ?, height = ?, clean = ?, truncated = ?, phash = ?, dhash = ? "
                "WHERE id = ?",
                (*found, number),
            )


def _results(
    database: sqlite3.Connection,
    see: Callable[[str], Result],
    prepare: Callable[[Iterable[str]], None] | None,
    state: Callable[[str], str | None],
    folder: Path,
    total: int,
) -> Iterator[tuple[int, Seen | Reject]]:
    """Number of each photograph, and what was found: in this run, or before it was ended."""
    affinity = getattr(os, "sched_getaffinity", None)
    workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    begun: deque[tuple[Batch, Path, dict[int, Result]]] = deque()

    def lacking() -> Iterator[list[str]]:
        for batch in _batches(database):
            locators = [locator for _, locator in batch]
            path = parts.path_of(folder, locators)
            begun.append((batch, path, known := parts.kept(path, locators, state)))
            yield [locator for place, locator in enumerate(locators) if place not in known]

    here = workers == 1 or total < _WORTH_WORKERS
    known_before = 0
    for new in _in_this_process(lacking(), see, prepare) if here else _in_workers(lacking(), see, prepare, workers):
        batch, path, known = begun.popleft()
        rest = iter(new)
        results = [known[place] if place in known else next(rest) for place in range(len(batch))]
        if new:
            parts.keep(path, results)
        known_before += len(known)
        yield from ((number, found) for (number, _), (found, _) in zip(batch, results, strict=True))
    if known_before:
        print(f"index: {known_before} of {total} photographs were read by a run before this one, which was ended")


def _see(read: Callable[[str], bytes], state: Callable[[str], str | None], min_side: int, locator: str) -> Result:
    before = state(locator)  # so that a change while it is read is one
    try:
        content = read(locator)
        found = inspect(content, min_side)
    except BadImage as bad:
        if bad.reason == "not an image" and locator.lower().endswith(_SIDECARS):
            return Result(Reject(locator, "sidecar", "no photograph, but a file with data about one"), before)
        return Result(Reject(locator, bad.reason, bad.detail), before)
    except FileNotFoundError as error:
        return Result(Reject(locator, "missing file", str(error)), None)
    except (OSError, ValueError) as error:  # ValueError: a locator that no file can have
        return Result(Reject(locator, "unreadable", str(error)), None)
    hashes = duplicates.fingerprint(found.small)
    phash, dhash = map(_signed, hashes) if hashes else (None, None)
    md5 = hashlib.md5(content, usedforsecurity=False).digest()
    return Result(Seen(md5, found.width, found.height, found.clean, found.truncated, phash, dhash), before)


def _signed(number: int) -> int:
    """The signed integer with the bits of an unsigned 64-bit one; SQLite has no unsigned integers."""
    return number - (1 << 64) if number >> 63 else number


def _see_all(see: Callable[[str], Result], locators: Sequence[str]) -> list[Result]:
    return [see(locator) for locator in locators]


def _in_this_process(
    batches: Iterable[list[str]], see: Callable[[str], Result], prepare: Callable[[Iterable[str]], None] | None
) -> Iterator[list[Result]]:
    """Yield what is seen at the locators of each batch."""
    for batch in batches:
        if prepare:
            prepare(iter(batch))
        yield _see_all(see, batch)


def _in_workers(
    batches: Iterable[list[str]],
    see: Callable[[str], Result],
    prepare: Callable[[Iterable[str]], None] | None,
    workers: int,
) -> Iterator[list[Result]]:
    """As ``_in_this_process``. While the workers read one batch, this process downloads the next."""
    waiting: list[Future[list[Result]]] | None = None
    try:
        with ProcessPoolExecutor(workers) as pool:
            pool.submit(int).result()  # starts all workers, before a download starts threads
            for batch in batches:
                if prepare:
                    prepare(iter(batch))
                chunks = [batch[i : i + _CHUNK] for i in range(0, len(batch), _CHUNK)]
                futures = [pool.submit(_see_all, see, chunk) for chunk in chunks]
                if waiting is not None:
                    yield [result for future in waiting for result in future.result()]
                waiting = futures
            if waiting is not None:
                yield [result for future in waiting for result in future.result()]
    except BrokenProcessPool:
        raise UserError("index: a process that reads photographs was killed; usually memory ran out") from None


def _batches(database: sqlite3.Connection) -> Iterator[Batch]:
    last = 0
    query = "SELECT id, locator FROM photograph WHERE id > ? ORDER BY id LIMIT ?"
    while batch := database.execute(query, (last, BATCH)).fetchall():
        yield batch
        last = batch[-1][0]
