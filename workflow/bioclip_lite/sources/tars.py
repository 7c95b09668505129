"""WebDataset tars as they come, also gzipped: listed by their headers, read at random, never unpacked."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip_lite.photographs.images import READ
from bioclip_lite.sources import gzipped, places
from bioclip_lite.sources.sample import Reject
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing

IMAGES = tuple(ending[1:] for ending in READ)
WITH_GZIPPED = (".tar", *gzipped.ENDINGS)
_PACKED = (*gzipped.ENDINGS, ".tar.bz2", ".tar.xz", ".tar.zst")
_ROWS = 4096  # groups in memory at a time
_TABLE = pa.schema([("group", pa.string())])  # JSON: key, parts, texts
_LONGEST_TEXT = 10_000  # bytes; a longer member is no name or caption
_LONGEST_HEADER = 1_000_000  # bytes of a name or of pax records, which tarfile reads at once


class Group(NamedTuple):
    """The neighbouring members of one sample: their name up to the first dot, where each extension lies, its texts."""

    tar: str  # relative to the folder of the source
    key: str  # with the folders inside the tar
    parts: dict[str, tuple[int, int]]  # extension in lower case -> offset and size in bytes
    texts: dict[str, str]  # extension in lower case -> text; what is not UTF-8 has become replacement characters

    @property
    def extension(self) -> str | None:
        """The extension of the image, if there is one."""
        return next((extension for extension in IMAGES if extension in self.parts), None)

    @property
    def image(self) -> str | None:
        """The locator of the image, if there is one."""
        return places.part(self.tar, *self.parts[self.extension]) if self.extension else None

    @property
    def name(self) -> str:
        """The place of the sample, readable, and the basis of its key."""
        return f"{self.tar}/{self.key}"


def find(folder: Path, readable: Sequence[str] = (".tar",)) -> list[str]:
    """The tars below a folder, as relative paths; an archive that is also there unpacked is left out.

    Raises UserError for one that is compressed and whose ending is not among ``readable``.
    """
    files = [name for name in places.files_in(folder) if name.lower().endswith((".tar", *_PACKED))]
    unpacked = {name for name in files if name.lower().endswith(".tar")}
    found = []
    for name in files:
        ending = next((ending for ending in _PACKED if name.lower().endswith(ending)), None)
        if ending and f"{name[: -len(ending)]}.tar" in unpacked:
            continue
        if ending and ending not in readable:
            raise UserError(_compressed(folder / name))
        found.append(name)
    return found


def groups(folder: Path, tar: str, seek_points: Path | None = None) -> Iterator[Group | Reject]:
    """The samples of one tar in its order; members that belong together stand together.

    Args:
        seek_points: the folder for those of a gzipped tar, and for the list of its samples, so that it is gone through
            once.

    Raises UserError for a compressed tar under a name that does not say so. What is damaged is a Reject.
    """
    seen: set[str] = set()
    beside = seek_points if tar.lower().endswith(gzipped.ENDINGS) else None
    try:
        for group in _listed_once(folder, tar, beside) if beside else _listed(folder, tar, None):
            yield _checked(group, seen)
    except (tarfile.TarError, ValueError) as error:
        if _is_otherwise_compressed(folder / tar):
            raise UserError(_compressed(folder / tar)) from None
        yield Reject(tar, "damaged tar", f"{error}; {len(seen)} samples before; copy or download it again")
    except OSError as error:
        yield Reject(tar, "unreadable", str(error))


def _listed_once(folder: Path, tar: str, seek_points: Path) -> Iterator[Group]:
    """The samples of a gzipped tar, from a table beside its seek points, which is written when it is listed first."""
    table = gzipped.listing(folder / tar, seek_points)
    if table.is_file():
        for batch in pq.ParquetFile(table).iter_batches(_ROWS):
            for key, parts, texts in map(json.loads, batch["group"].to_pylist()):
                yield Group(tar, key, {extension: (offset, size) for extension, (offset, size) in parts.items()}, texts)
        return
    with replacing(table) as scratch, pq.ParquetWriter(scratch, _TABLE, compression="zstd") as writer:
        rows: list[str] = []
        for group in _listed(folder, tar, seek_points):
            yield group
            rows.append(json.dumps(group[1:]))  # of what is no UTF-8 in names, too
            if len(rows) == _ROWS:
                writer.write_table(pa.table({"group": rows}, _TABLE))
                rows.clear()
        writer.write_table(pa.table({"group": rows}, _TABLE))


def _listed(folder: Path, tar: str, seek_points: Path | None) -> Iterator[Group]:
    group = Group(tar, "", {}, {})
    with _opened(folder / tar, seek_points) as file:
        for path, offset, size in _members(file):
            place, slash, name = path.removeprefix("./").rpartition("/")
            stem, _, extension = name.partition(".")
            key = f"{place}{slash}{stem}"
            if key != group.key and group.parts:
                yield group
                group = Group(tar, key, {}, {})
            group = group._replace(key=key)
            group.parts[extension.lower()] = (offset, size)
            if extension.lower().endswith("txt") and size < _LONGEST_TEXT:
                group.texts[extension.lower()] = _content(file, offset, size).decode("utf-8", "replace")
    if group.parts:
        yield group


def _opened(tar: Path, seek_points: Path | None) -> AbstractContextManager[BinaryIO]:
    if seek_points is not None and tar.name.lower().endswith(gzipped.ENDINGS):
        return gzipped.opened_for_listing(tar, seek_points)
    return tar.open("rb")


def _is_otherwise_compressed(tar: Path) -> bool:
    """Whether a file is compressed though its name does not say so, or in a way that is not read."""
    with tar.open("rb") as file:
        magic = file.read(6)
    gzip = magic.startswith(b"\x1f\x8b") and not tar.name.lower().endswith(gzipped.ENDINGS)
    return gzip or magic.startswith((b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def _members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of each file in a tar. Raises tarfile.TarError where the tar is damaged or breaks off."""
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
        while (member := tar.next()) is not None:
            if member.isreg() and not places.hidden(member.name):  # ._NAME is what a Mac adds to each file
                yield member.name, member.offset_data, member.size
            tar.members = []  # type: ignore[attr-defined]  # tarfile remembers them all
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a spoilt header for the end
            raise tarfile.ReadError("it breaks off")


class _Member(tarfile.TarInfo):
    """A member of a tar whose header is of a size that headers have."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if not (self.isreg() or self.isdir()) and self.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


def _checked(group: Group, seen: set[str]) -> Group | Reject:
    if not places.writable(group.key):
        return Reject(places.shown(group.name), "bad name", "the name in the tar is no UTF-8 text")
    if group.key in seen:
        return Reject(group.name, "bad row", "the tar has this name twice, or its parts stand apart")
    seen.add(group.key)
    return group


def content(folder: Path, group: Group, extension: str) -> bytes:
    with (folder / group.tar).open("rb") as file:
        return _content(file, *group.parts[extension])


def _content(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _compressed(path: Path) -> str:
    return (
        f"{path} is a compressed tar, in which single photographs cannot be found; unpack the compression and keep the "
        f"tar, e.g. gzip -d {path}"
    )
