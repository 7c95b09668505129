"""Read every photograph once, on all processors: size, MD5 and perceptual hashes."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bioclip_lite.indexing import batches, duplicates
from bioclip_lite.indexing.batches import Result, Seen
from bioclip_lite.photographs.images import BadImage, inspect
from bioclip_lite.sources import places
from bioclip_lite.sources.registry import find_source
from bioclip_lite.sources.sample import Reject
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.progress import progress

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin, ReadPart

_WHAT = "index: photographs read"
_CHUNK = 32  # photographs handed to a worker at a time
_WORTH_WORKERS = 256  # photographs; fewer are read in this process

# Endings of what cameras and albums write beside photographs: settings, places, captions.
_SIDECARS = (".aae", ".xmp", ".xml", ".json", ".txt", ".pp3", ".ini")

Batch = list[tuple[int, str]]  # number and locator of photographs


class Access(NamedTuple):
    """The functions that give the files of a source."""

    read: Callable[[str], bytes]  # the file at a locator; is sent to other processes
    prepare: Callable[[Iterable[str]], None] | None  # downloads the files at some locators; None: nothing to download
    # Tells whether the file at a locator is still the same, see ``places.state``; is sent to others, too.
    state: Callable[[str], str | None]


def access(params: "Origin") -> Access:
    """Give access to the files of the source that the parameters name."""
    source = find_source(params["source"])
    return Access(
        partial(source.read, params),
        partial(source.prepare, params) if hasattr(source, "prepare") else None,
        partial(getattr(source, "state", places.state), params),
    )


def read_photographs(
    params: "ReadPart", listed: Iterable[Batch], total: int, folder: Path
) -> Iterator[tuple[int, Seen | Reject]]:
    """Read photographs batch by batch, and tell which are damaged or too small.

    Args:
        params: of the source, and the least length of the shorter side in pixels.
        total: the number of photographs.
        folder: of batches, see ``batches.folder_of``. What a run that was ended has left there is not read again.

    Yields:
        The number of each photograph, in the order of ``listed``, and what was found.

    Raises:
        UserError: a worker was killed.
    """
    files = access(params)
    see = partial(_see, files.read, files.state, params["min_side"])
    yield from progress(_results(listed, see, files, folder, total), total, _WHAT)


def _results(
    listed: Iterable[Batch], see: Callable[[str], Result], files: Access, folder: Path, total: int
) -> Iterator[tuple[int, Seen | Reject]]:
    """Number of each photograph, and what was found: in this run, or before it was ended."""
    affinity = getattr(os, "sched_getaffinity", None)
    workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    begun: deque[tuple[Batch, Path, dict[int, Result]]] = deque()

    def lacking() -> Iterator[list[str]]:
        for batch in listed:
            locators = [locator for _, locator in batch]
            path = batches.path_of(folder, locators)
            begun.append((batch, path, known := batches.kept(path, locators, files.state)))
            yield [locator for place, locator in enumerate(locators) if place not in known]

    if workers == 1 or total < _WORTH_WORKERS:
        seen = _in_this_process(lacking(), see, files.prepare)
    else:
        seen = _in_workers(lacking(), see, files.prepare, workers)
    known_before = 0
    for new in seen:
        batch, path, known = begun.popleft()
        rest = iter(new)
        results = [known[place] if place in known else next(rest) for place in range(len(batch))]
        if new:
            batches.keep(path, results)
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
    locators: Iterable[list[str]], see: Callable[[str], Result], prepare: Callable[[Iterable[str]], None] | None
) -> Iterator[list[Result]]:
    """Yield what is seen at the locators of each batch."""
    for batch in locators:
        if prepare:
            prepare(iter(batch))
        yield _see_all(see, batch)


def _in_workers(
    locators: Iterable[list[str]],
    see: Callable[[str], Result],
    prepare: Callable[[Iterable[str]], None] | None,
    workers: int,
) -> Iterator[list[Result]]:
    """As ``_in_this_process``. While the workers read one batch, this process downloads the next."""
    waiting: list[Future[list[Result]]] | None = None
    try:
        with ProcessPoolExecutor(workers) as pool:
            pool.submit(int).result()  # starts all workers, before a download starts threads
            for batch in locators:
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
