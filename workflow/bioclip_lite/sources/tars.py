"""WebDataset tars as they come: listed by their headers, read at random, never unpacked."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bioclip_lite.photographs.images import READ
from bioclip_lite.sources import places
from bioclip_lite.sources.sample import Reject
from bioclip_lite.utils.errors import UserError

IMAGES = tuple(ending[1:] for ending in READ)
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Group(NamedTuple):
    """The neighbouring members of one sample: their name up to the first dot, and where each extension lies."""

    tar: str  # relative to the folder of the source
    key: str  # with the folders inside the tar
    parts: dict[str, tuple[int, int]]  # extension in lower case -> offset and size in bytes

    @property
    def image(self) -> str | None:
        """The locator of the image, if there is one."""
        for extension in IMAGES:
            if extension in self.parts:
                return places.part(self.tar, *self.parts[extension])
        return None

    @property
    def name(self) -> str:
        """The place of the sample, readable, and the basis of its key."""
        return f"{self.tar}/{self.key}"


def find(folder: Path) -> list[str]:
    """The tars below a folder, as relative paths. Raises UserError for compressed ones that are not unpacked beside."""
    files = [name for name in places.files_in(folder) if name.endswith((".tar", *_PACKED))]
    tars = [name for name in files if name.endswith(".tar")]
    for name in files:
        for ending in _PACKED:
            if name.endswith(ending) and f"{name.removesuffix(ending)}.tar" not in tars:
                raise UserError(_compressed(folder / name))
    return tars


def groups(folder: Path, tar: str) -> Iterator[Group | Reject]:
    """The samples of one tar in its order; members that belong together stand together.

    Raises UserError for a compressed tar. What is damaged is a Reject.
    """
    seen: set[str] = set()
    group = Group(tar, "", {})
    try:
        with (folder / tar).open("rb") as file:
            for path, offset, size in _members(file):
                place, slash, name = path.removeprefix("./").rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{place}{slash}{stem}"
                if key != group.key and group.parts:
                    yield _checked(group, seen)
                    group = Group(tar, key, {})
                group = group._replace(key=key)
                group.parts[extension.lower()] = (offset, size)
        if group.parts:
            yield _checked(group, seen)
    except (tarfile.TarError, ValueError) as error:
        with (folder / tar).open("rb") as file:
            if file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
                raise UserError(_compressed(folder / tar)) from None
        yield Reject(tar, "damaged tar", f"{error}; {len(seen)} samples before; copy or download it again")
    except OSError as error:
        yield Reject(tar, "unreadable", str(error))


def _members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of each file in a tar. Raises tarfile.TarError where the tar is damaged or breaks off."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            if member.isreg() and not places.hidden(member.name):  # ._NAME is what a Mac adds to each file
                yield member.name, member.offset_data, member.size
            tar.members = []  # type: ignore[attr-defined]  # tarfile remembers them all
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a spoilt header for the end
            raise tarfile.ReadError("it breaks off")


def _checked(group: Group, seen: set[str]) -> Group | Reject:
    if not places.writable(group.key):
        return Reject(places.shown(group.name), "bad name", "the name in the tar is no UTF-8 text")
    if group.key in seen:
        return Reject(group.name, "bad row", "the tar has this name twice, or its parts stand apart")
    seen.add(group.key)
    return group


def texts(folder: Path, group: Group) -> dict[str, str]:
    """Text members of a sample by extension; bytes that are not UTF-8 become replacement characters."""
    found = {}
    with (folder / group.tar).open("rb") as file:
        for extension, (offset, size) in sorted(group.parts.items()):
            if extension.endswith("txt") and size < 10_000:
                file.seek(offset)
                found[extension] = file.read(size).decode("utf-8", "replace")
    return found


def content(folder: Path, group: Group, extension: str) -> bytes:
    offset, size = group.parts[extension]
    with (folder / group.tar).open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _compressed(path: Path) -> str:
    return (
        f"{path} is a compressed tar, in which single photographs cannot be found; unpack the compression and keep the "
        f"tar, e.g. gzip -d {path}"
    )
