"""Shards: WebDataset tars, written so that equal samples give equal bytes and read at random without unpacking.

A sample is neighbouring members, ``<key>.jpg``, ``<key>.json`` and ``<key>.txt`` (webdataset: the key is the file name
up to its first dot); the last is for readers that look for one caption, as open_clip does. Needs neither torch nor
webdataset.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from bioclip_lite.photographs.images import decode
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, replacing, require

UNLABELLED = "unlabelled"  # the split of photographs without any name


def write_shard(
    path: str | os.PathLike[str],
    samples: Iterable[tuple[str, bytes, dict[str, Any]]],
    text: Callable[[dict[str, Any]], str] | None = None,
) -> int:
    """Write (key, JPEG file, description) triples in the order given and return their number.

    ``text`` gives a sample's caption from its description; None: without captions.
    """
    count = 0
    with replacing(path) as scratch, tarfile.open(scratch, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, jpeg, description in samples:
            add_member(tar, f"{key}.jpg", jpeg)
            add_member(tar, f"{key}.json", json.dumps(description, sort_keys=True, ensure_ascii=False).encode())
            if text is not None:
                add_member(tar, f"{key}.txt", text(description).encode())
            count += 1
    return count


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Write a file to a tar, which then holds nothing of it in memory; equal contents give equal bytes."""
    member = tarfile.TarInfo(name)  # time, user and group 0, mode 0644
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
    tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all


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


class ShardSet:
    """All samples of one split in key order per shard, shard by shard; images are decoded one at a time.

    ``keys`` and ``taxon_ids`` are lists of equal length; photographs of split unlabelled have None for a taxon. Holds
    no open file, so it may be sent to worker processes.
    """

    def __init__(self, data: Path, *splits: str) -> None:
        """``splits``: one, or several whose photographs follow each other."""
        self._open([path for split in splits for path in shard_paths(data, split)])

    @classmethod
    def of(cls, *paths: Path) -> "ShardSet":
        """The samples of given tars, for a job that has one shard and not the whole split."""
        images = cls.__new__(cls)
        images._open(list(paths))
        return images

    def _open(self, paths: list[Path]) -> None:
        self._places: list[tuple[Path, Entry]] = []
        self.keys: list[str] = []
        self.taxon_ids: list[str] = []
        for path in paths:
            with require(path).open("rb") as file:
                for entry in open_shard(path):
                    self._places.append((path, entry))
                    self.keys.append(entry.key)
                    self.taxon_ids.append(_description(file, entry)["taxon_id"])

    def __len__(self) -> int:
        return len(self.keys)

    def jpeg(self, i: int) -> bytes:
        path, entry = self._places[i]
        with path.open("rb") as file:
            return _part(file, entry.image)

    def image(self, i: int) -> Image.Image:
        """The photograph, mode RGB."""
        return decode(self.jpeg(i))

    def description(self, i: int) -> dict[str, Any]:
        """Keys taxon_id, ranks (7), common_name, common_names (by language), group, licence, attribution.

        Where the source states them, also supercategory and caption.
        """
        path, entry = self._places[i]
        with path.open("rb") as file:
            return _description(file, entry)


def descriptions(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, description) of each sample of a shard, without its images."""
    with require(path).open("rb") as file:
        for entry in open_shard(path):
            yield entry.key, _description(file, entry)


def _description(file: BinaryIO, entry: Entry) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(_part(file, entry.description))
    return description


def _part(file: BinaryIO, place: tuple[int, int]) -> bytes:
    offset, size = place
    file.seek(offset)
    return file.read(size)


def shard_names(data: Path, split: str | None = None) -> list[str]:
    """Names such as "train-00000" of all shards, or of one split, from data/shard/sizes.json."""
    sizes = read_json(require(data / "shard" / "sizes.json"))
    names = sorted(name.removesuffix(".tar") for name in sizes)
    return [name for name in names if split is None or split_of(name) == split]


def shard_paths(data: Path, split: str) -> list[Path]:
    """The tars of one split. Raises UserError where there are none."""
    names = shard_names(data, split)
    if not names:
        raise UserError(f"{data / 'shard' / 'sizes.json'} lists no shard of split {split!r}; set shard.counts.{split}")
    return [data / "shard" / f"{name}.tar" for name in names]


def split_of(name: str) -> str:
    """ "train" of "train-00000"."""
    return name.rpartition("-")[0]
