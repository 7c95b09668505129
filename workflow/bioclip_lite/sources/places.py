"""Locators of photographs: a file in the folder of the source, a part of a tar, or a web address.

Locators are ``plants/1.jpg``, ``train/shard-000000.tar:<offset>:<size>`` (bytes) and ``https://...``. Offsets in a
gzipped tar are those in its content.
"""

import os
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.sources import gzipped
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

# Files and folders that systems, not people, put among photographs (lower case).
_OF_SYSTEMS = {
    *(
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "picasa.ini",
        "@recycle",
        "@eadir",
        "#recycle",
        "#snapshot",
        "__macosx",
        "lost+found",
    ),
    *("$recycle.bin", "system volume information"),
}
_PART = re.compile(r"(.+\.tar):(\d+):(\d+)", re.DOTALL | re.IGNORECASE)
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_DRIVE = re.compile(r"[a-zA-Z]:/")  # of Windows
_ABSOLUTE = re.compile(rf"/|{_DRIVE.pattern}")


def read(params: "Origin", folder: Path, locator: str) -> bytes:
    """The bytes at ``locator``. Raises OSError with a plain reason."""
    if is_address(locator):
        from bioclip_lite.sources import downloads  # takes longer to import than many a shard to write

        return downloads.read(locator, params["downloads"])
    if found := gzipped.part(locator):
        archive, offset, size = found
        return gzipped.read(folder / archive, seek_points(params), offset, size)
    return read_below(folder, locator)


def seek_points(params: "Origin") -> Path:
    """The folder in which the seek points of gzipped tars are kept."""
    return Path(params["downloads"]["folder"])


def read_below(folder: Path, locator: str) -> bytes:
    """The bytes of a file in ``folder``, or of a part of a tar there. Raises OSError with a plain reason."""
    try:
        if part := _PART.fullmatch(locator):
            return _read_part(folder / part[1], int(part[2]), int(part[3]))
        if scheme := _SCHEME.match(locator):
            raise OSError(f"addresses that begin with {scheme[0]} are not read; download the files, or use https://")
        return _spelt_as_on_disk(folder, locator).read_bytes()
    except ValueError as error:  # a name with a zero byte
        raise OSError(f"{locator!r} is no file name ({error})") from None


def state(params: "Origin", locator: str) -> str | None:
    """What differs where the file at ``locator`` was changed: its size and time, or the SHA-256 of a download.

    None if there is no file. Locators are relative to the source's folder, or to that of its table.
    """
    if is_address(locator):
        from bioclip_lite.sources import downloads

        return downloads.content_hash(locator, params["downloads"])
    path = Path(params["path"])
    try:
        found = _file_of(path if path.is_dir() else path.parent, locator).stat()
    except (OSError, ValueError):
        return None
    return f"{found.st_size} {found.st_mtime_ns}"


def _file_of(folder: Path, locator: str) -> Path:
    """The file at a locator, or the tar that it is a part of."""
    if of_gzipped := gzipped.part(locator):
        return folder / of_gzipped[0]
    if of_tar := _PART.fullmatch(locator):
        return folder / of_tar[1]
    return _spelt_as_on_disk(folder, locator)


def prepare(params: "Origin", locators: Iterable[str]) -> None:
    addresses = (locator for locator in locators if is_address(locator))
    if (first := next(addresses, None)) is not None:
        from bioclip_lite.sources import downloads

        downloads.fetch(chain([first], addresses), params["downloads"])


def _spelt_as_on_disk(folder: Path, name: str) -> Path:
    """The file ``name`` as the disk spells it.

    Tables compose letters with accents (NFC) that disks decompose (NFD), write %20 for spaces, or differ in capitals.
    Raises OSError if only capitals would tell which of several files is meant.
    """
    for spelling in (name, urllib.parse.unquote(name)):
        for form in (spelling, *(unicodedata.normalize(form, spelling) for form in ("NFC", "NFD"))):
            if (path := folder / form).exists():
                return path
    found = [folder]
    for part in Path(urllib.parse.unquote(name)).parts:
        found = [above / other for above in found for other in _entries(above).get(_folded(part), ())]
    if len(found) > 1:
        raise OSError(f"{len(found)} files differ from {name!r} in capitals only; write the name as the file has it")
    return found[0] if found else folder / name


def _entries(folder: Path) -> dict[str, list[str]]:
    """The names in a folder by what they are but for capitals; none if it cannot be read."""
    try:
        return _entries_at(folder, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=2)  # rows of one folder stand together
def _entries_at(folder: Path, changed: int) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        names.setdefault(_folded(name), []).append(name)
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def locator_in(folder: Path) -> Callable[[str], str]:
    """Return a function that gives the locator of what a table in ``folder`` names: a path or an address.

    Tables may name files by their places on the computer where they were written: C:\\photos\\a.jpg, /scratch/a.jpg,
    file:///home/ann/a.jpg. Such a name that is no file here is looked for in ``folder``, by as many of its last parts
    as lead to a file; what stands before them is left out of all others, too, and told.
    """
    elsewhere: str | None = None

    def locate(name: str) -> str:
        nonlocal elsewhere
        if is_address(name):
            return name
        path = _path_of(name)
        if not _ABSOLUTE.match(path) or Path(path).exists():
            return path
        if elsewhere is None and (inside := _longest_end(folder, path)):
            elsewhere = path.removesuffix(inside)
            print(f"{folder}: files that the table has in {elsewhere} are looked for here")
        return path.removeprefix(elsewhere) if elsewhere else path

    return locate


def _path_of(name: str) -> str:
    """A POSIX path from a path of Windows or an address file://."""
    if name.lower().startswith("file://"):
        path = urllib.parse.unquote(urllib.parse.urlsplit(name).path)
        return path.lstrip("/") if _DRIVE.match(path.lstrip("/")) else path
    return name if _SCHEME.match(name) else name.replace("\\", "/")


def _longest_end(folder: Path, path: str) -> str | None:
    """The longest end of a path that is a file in ``folder``."""
    starts = (match.end() for match in re.finditer("/+", path))
    return next((path[start:] for start in starts if _spelt_as_on_disk(folder, path[start:]).is_file()), None)


def is_address(locator: str) -> bool:
    return locator.lower().startswith(("http://", "https://"))


def _read_part(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) != size:
        raise OSError(f"{path} ends before byte {offset + size}; copy or download it again")
    return content


def part(tar: str, offset: int, size: int) -> str:
    """The locator of a part of a tar."""
    return f"{tar}:{offset}:{size}"


def require_folder(path: str, what: str) -> Path:
    """Return the folder of a source; UserError if there is none. ``what``: its content, for the message."""
    folder = Path(path)
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"params.yaml, index.path: {folder} {problem}; it must be {what}")
    return folder


def files_in(folder: Path) -> Iterator[str]:
    """Yield the files below a folder that are not ``hidden``, as POSIX paths relative to it, in a fixed order.

    Links to folders are followed, each folder once, so that a link to a folder above does no harm.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=_refused, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not hidden(name))
        inside = Path(place).relative_to(folder)
        yield from ((inside / name).as_posix() for name in sorted(files) if not hidden(name))


def _refused(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read ({error.strerror}); give yourself the right to, or move it away")


def hidden(path: str) -> bool:
    """Whether a part of a POSIX path is a hidden file or folder, or one that an operating system made."""
    parts = (part for part in path.split("/") if part not in ("", ".", ".."))
    return any(part.startswith(".") or part.lower() in _OF_SYSTEMS for part in parts)


def writable(name: str) -> bool:
    """Whether a file name is Unicode text, which tables can hold; halves of surrogate pairs are not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    """``name`` with escapes in place of bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
