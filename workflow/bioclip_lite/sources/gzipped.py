"""Photographs in gzipped tars, read at random without unpacking them.

gzip can be read from its start alone. While an archive is listed, indexed_gzip notes the state of the decompressor
every 16 MiB; these seek points are written to a file of their own, so that any process reads a photograph from the
point before it. They take about 1/500 of the archive: 60 MB for one of TreeOfLife-10M's image sets of 30 GB.
"""

import functools
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from indexed_gzip import IndexedGzipFile, NoHandleError, ZranError

from bioclip_lite.utils.files import replacing
from bioclip_lite.utils.randomness import digest

ENDINGS = (".tar.gz", ".tgz")
_SPACING = 1 << 24  # bytes of content between seek points: on average half as much is read for nothing
_OPEN = 2  # archives whose seek points a process keeps in memory
_PART = re.compile(r"(.+\.(?:tar\.gz|tgz)):(\d+):(\d+)", re.DOTALL | re.IGNORECASE)


@contextmanager
def opened_for_listing(archive: Path, folder: Path) -> Iterator[BinaryIO]:
    """Open the content of ``archive`` to be read once, from start to end; its seek points go to ``folder``.

    Raises OSError for a damaged archive.
    """
    with IndexedGzipFile(archive, spacing=_SPACING) as file:
        yield file
        _export(file, _seek_points(archive, folder))


def listing(archive: Path, folder: Path) -> Path:
    """The file for a list of what is in this version of an archive. Raises OSError if there is no archive."""
    points = _seek_points(archive, folder)
    return points.with_name(f"{points.name}.parquet")


def part(locator: str) -> tuple[str, int, int] | None:
    """Archive, offset and size in bytes that the locator of a part of a gzipped tar names; None for any other."""
    found = _PART.fullmatch(locator)
    return (found[1], int(found[2]), int(found[3])) if found else None


@contextmanager
def in_order(read: Callable[[str], bytes], locators: Iterable[str], folder: Path) -> Iterator[Callable[[str], bytes]]:
    """Yield a function that gives in any order what ``read`` gives at these locators.

    Parts of gzipped tars are read first, archive by archive in its order, into a nameless scratch file in ``folder``,
    so that no archive is opened twice. Where ``read`` fails, so does the function.
    """
    parts = sorted((found, locator) for locator in locators if (found := part(locator)))
    with tempfile.TemporaryFile(dir=folder) as scratch:
        kept: dict[str, tuple[int, int]] = {}
        for _, locator in parts:
            with suppress(OSError):
                content = read(locator)
                kept[locator] = scratch.tell(), scratch.write(content)

        def again(locator: str) -> bytes:
            if locator not in kept:
                return read(locator)
            offset, size = kept[locator]
            scratch.seek(offset)
            return scratch.read(size)

        yield again


def read(archive: Path, folder: Path, offset: int, size: int) -> bytes:
    """The ``size`` bytes from ``offset`` of the content of ``archive``, whose seek points lie in ``folder``.

    Where they are missing, on another machine, the archive is read once to find them. Raises OSError with a plain
    reason.
    """
    try:
        file = _opened(archive, _seek_points(archive, folder))
        file.seek(offset)
        content: bytes = file.read(size)
    except (ZranError, NoHandleError) as error:
        raise OSError(f"{archive} is damaged ({error}); download it again") from None
    if len(content) != size:
        raise OSError(f"{archive} ends before byte {offset + size} of its content; download it again")
    return content


@functools.lru_cache(_OPEN)
def _opened(archive: Path, seek_points: Path) -> IndexedGzipFile:
    """An archive with its seek points. It is reopened for each read: forked processes share no position in it."""
    if seek_points.is_file():
        return IndexedGzipFile(archive, index_file=seek_points, spacing=_SPACING)
    file = IndexedGzipFile(archive, spacing=_SPACING)
    file.build_full_index()
    _export(file, seek_points)
    return file


def _export(file: IndexedGzipFile, seek_points: Path) -> None:
    if not seek_points.is_file():
        with replacing(seek_points) as scratch:
            file.export_index(scratch)


def _seek_points(archive: Path, folder: Path) -> Path:
    """The file of the seek points of this version of an archive."""
    state = archive.stat()
    version = digest("seek points", str(archive.resolve()), state.st_size, state.st_mtime_ns)
    return folder / "seek_points" / f"{archive.name}-{version:016x}"
