"""Where a photograph lies: a file in the folder of the source, a part of a tar, or a web address.

Locators are ``plants/1.jpg``, ``train/shard-000000.tar:<offset>:<size>`` (bytes) and ``https://...``.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

_PART = re.compile(r"(.+\.tar):(\d+):(\d+)", re.DOTALL)


def read(params: "Origin", folder: Path, locator: str) -> bytes:
    """The bytes at ``locator``. Raises OSError with a plain reason."""
    if is_address(locator):
        from bioclip_lite.sources import downloads  # takes longer to import than many a shard to write

        return downloads.read(locator, params["downloads"])
    return read_below(folder, locator)


def read_below(folder: Path, locator: str) -> bytes:
    """The bytes of a file in ``folder``, or of a part of a tar there. Raises OSError with a plain reason."""
    try:
        if part := _PART.fullmatch(locator):
            return _read_part(folder / part[1], int(part[2]), int(part[3]))
        return Path(folder, locator).read_bytes()
    except ValueError as error:  # a name with a zero byte
        raise OSError(f"{locator!r} is no file name ({error})") from None


def prepare(params: "Origin", locators: Iterable[str]) -> None:
    addresses = (locator for locator in locators if is_address(locator))
    if (first := next(addresses, None)) is not None:
        from bioclip_lite.sources import downloads

        downloads.fetch(chain([first], addresses), params["downloads"])


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
    """The folder of a source; ``what`` says what belongs there."""
    folder = Path(path)
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"params.yaml, index.path: {folder} {problem}; it must be {what}")
    return folder


def files_in(folder: Path) -> Iterator[str]:
    """All files below a folder, as POSIX paths relative to it, in a fixed order.

    Links to folders are followed, each folder once, so that a link to a folder above does no harm.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        inside = Path(place).relative_to(folder)
        yield from ((inside / name).as_posix() for name in sorted(files))


def writable(name: str) -> bool:
    """False for a file name that is no Unicode text (halves of surrogate pairs), and so cannot stand in a table."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    """``name`` with what is no Unicode text written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
