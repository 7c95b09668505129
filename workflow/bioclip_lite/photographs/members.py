"""The members of a shard: where its photographs and their descriptions lie in the tar, with their keys and taxa.

Beside ``<shard>.tar`` lies ``<shard>.safetensors``, 32 bytes a photograph and its key, so that a training that reads
millions of photographs neither goes through all tars before its first step nor keeps anything about each in memory. It
holds "offsets" uint64 (n, 2) and "sizes" uint32 (n, 2) of the members ``<key>.jpg`` and ``<key>.json``; "key_ends"
uint32 (n,), where each key ends in "keys" uint8, UTF-8; "taxa" int32 (n,), numbers of taxa, -1 for none; and
"taxon_ends" uint32 (t,) and "taxon_ids" uint8 in the same way. Its metadata are the bytes of the tar. A tar without
this file is gone through instead.
"""

import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bioclip_lite.utils import tensors
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import require

_IMAGE, _DESCRIPTION = range(2)  # columns of "offsets" and "sizes"
_EXTENSIONS = ("jpg", "json")


@dataclass(frozen=True)
class Entry:
    """Byte offset and size of the two members of a sample in a shard."""

    key: str
    image: tuple[int, int]
    description: tuple[int, int]


def open_shard(path: str | os.PathLike[str]) -> list[Entry]:
    """The samples of a shard in file order. Raises UserError for a file that is not a complete shard."""
    path = require(path)
    members: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                members.setdefault(key, {})[extension] = (member.offset_data, member.size)
        return [Entry(key, found["jpg"], found["json"]) for key, found in members.items()]
    except (tarfile.TarError, KeyError) as error:
        raise UserError(f"{path} is not a complete shard ({error}); delete it and run stage shard again") from None


def read_description(file: BinaryIO, entry: Entry) -> dict[str, Any]:
    """The description of a sample, from its open shard."""
    offset, size = entry.description
    file.seek(offset)
    description: dict[str, Any] = json.loads(file.read(size))
    return description


@dataclass(frozen=True)
class Members:
    """The samples of one shard, by their place in it."""

    tar: Path
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["taxa"])

    def key(self, row: int) -> str:
        return _text(self.columns["keys"], self.columns["key_ends"], row)

    def list_keys(self) -> list[str]:
        return _texts(self.columns["keys"], self.columns["key_ends"])

    def taxon_id(self, row: int) -> str | None:
        """None for a photograph without any name."""
        number = int(self.columns["taxa"][row])
        return None if number < 0 else _text(self.columns["taxon_ids"], self.columns["taxon_ends"], number)

    def list_taxon_ids(self) -> list[str | None]:
        names = [*self.distinct_taxa(), None]
        return [names[number] for number in self.columns["taxa"].tolist()]

    def distinct_taxa(self) -> list[str]:
        """The taxa of this shard, by their number in column "taxa"."""
        return _texts(self.columns["taxon_ids"], self.columns["taxon_ends"])

    def jpeg(self, row: int) -> bytes:
        return self._content(row, _IMAGE)

    def description(self, row: int) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(self._content(row, _DESCRIPTION))
        return description

    def _content(self, row: int, column: int) -> bytes:
        offset, size = (int(self.columns[name][row, column]) for name in ("offsets", "sizes"))
        with self.tar.open("rb") as file:
            file.seek(offset - tarfile.BLOCKSIZE)
            content = file.read(tarfile.BLOCKSIZE + size)
        name = f"{self.key(row)}.{_EXTENSIONS[column]}".encode()
        if content[: tarfile.LENGTH_NAME].rstrip(tarfile.NUL) != name or len(content) < tarfile.BLOCKSIZE + size:
            raise _other_tar(self.tar)
        return content[tarfile.BLOCKSIZE :]


def path_of(tar: Path) -> Path:
    """The file that lists the members of a tar."""
    return tar.with_suffix(".safetensors")


def write(tar: Path) -> None:
    """List the members of a tar in the file beside it."""
    tensors.write_tensors(path_of(tar), _columns(tar), {"bytes": str(tar.stat().st_size)})


def read(tar: Path) -> Members:
    """The members of a tar, mapped from the file beside it, or else listed in memory.

    Raises:
        UserError: there is no such tar, it is not a complete shard, or the file beside it lists those of another one.
    """
    require(tar)
    path = path_of(tar)
    if not path.exists():
        return Members(tar, _columns(tar))
    try:
        columns, metadata = tensors.map_tensors(path)
        size = int(metadata["bytes"])
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path} is not a complete list of the members of {tar.name} ({error}); delete it and run stage shard again"
        ) from None
    if size != tar.stat().st_size:
        raise _other_tar(tar)
    return Members(tar, columns)


def _other_tar(tar: Path) -> UserError:
    return UserError(
        f"{path_of(tar)} lists the members of another {tar.name} than the one beside it; delete both and run stage "
        f"shard again: snakemake --cores all shard"
    )


def _columns(tar: Path) -> dict[str, np.ndarray]:
    entries = open_shard(tar)
    with tar.open("rb") as file:
        named = [read_description(file, entry)["taxon_id"] for entry in entries]
    number = {taxon: n for n, taxon in enumerate(dict.fromkeys(taxon for taxon in named if taxon is not None))}
    places = np.array([[entry.image, entry.description] for entry in entries], np.int64).reshape(-1, 2, 2)
    keys, key_ends = _joined([entry.key for entry in entries])
    taxon_ids, taxon_ends = _joined([*number])
    return {  # widest first: all are aligned
        "offsets": places[:, :, 0].astype("<u8"),
        "key_ends": key_ends,
        "taxon_ends": taxon_ends,
        "sizes": places[:, :, 1].astype("<u4"),
        "taxa": np.array([number.get(taxon, -1) for taxon in named], "<i4"),
        "keys": keys,
        "taxon_ids": taxon_ids,
    }


def _joined(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(uint8, ``texts`` one after the other in UTF-8; uint32, where each of them ends)."""
    encoded = [text.encode() for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(text) for text in encoded], dtype="<u4")


def _text(content: np.ndarray, ends: np.ndarray, row: int) -> str:
    start = int(ends[row - 1]) if row else 0
    return content[start : int(ends[row])].tobytes().decode()


def _texts(content: np.ndarray, ends: np.ndarray) -> list[str]:
    whole, stops = content.tobytes(), ends.tolist()
    return [whole[start:stop].decode() for start, stop in zip([0, *stops], stops, strict=False)]
