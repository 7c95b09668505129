"""Shards: WebDataset tars, written so that equal samples give equal bytes and read at random without unpacking.

A sample is neighbouring members, ``<key>.jpg``, ``<key>.json`` and ``<key>.txt`` (webdataset: the key is the file name
up to its first dot); the last is for readers that look for one caption, as open_clip does. Needs neither torch nor
webdataset.
"""

import io
import json
import os
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bioclip_lite.photographs import members
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


class ShardSet:
    """All samples of one split in key order per shard, shard by shard; images are decoded one at a time.

    It holds no open file and nothing about each photograph, so it may be sent to worker processes, however large the
    split. A photograph is asked for by its number, 0 and up.
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
        self.shards = [members.read(path) for path in paths]
        self._starts = [0, *accumulate(map(len, self.shards))]

    def __len__(self) -> int:
        return self._starts[-1]

    def locate(self, i: int) -> tuple[int, int]:
        """(number of its shard, row in it) of photograph i."""
        if not 0 <= i < len(self):
            raise IndexError(f"photograph {i} of {len(self)}")
        number = bisect_right(self._starts, i) - 1
        return number, i - self._starts[number]

    def key(self, i: int) -> str:
        number, row = self.locate(i)
        return self.shards[number].key(row)

    def taxon_id(self, i: int) -> str | None:
        """None for a photograph of split unlabelled."""
        number, row = self.locate(i)
        return self.shards[number].taxon_id(row)

    @cached_property
    def keys(self) -> list[str]:
        """All keys, in memory from when they are first asked for; ``key`` gives one of many."""
        return list(self.each_key())

    def each_key(self) -> Iterator[str]:
        """All keys, of which those of one shard at a time are in memory."""
        return (key for shard in self.shards for key in shard.list_keys())

    @cached_property
    def taxon_ids(self) -> list[Any]:
        """All taxa, in memory from when they are first asked for; ``taxon_id`` gives one of many.

        None for photographs of split unlabelled, and otherwise str.
        """
        return [taxon for shard in self.shards for taxon in shard.list_taxon_ids()]

    def taxon_numbers(self, number: Mapping[str, int]) -> np.ndarray:
        """The number of each photograph's taxon, -1 without one: int64 (n,)."""
        parts = []
        for shard in self.shards:
            numbers = np.array([*(number.get(taxon, -1) for taxon in shard.distinct_taxa()), -1], np.int64)
            parts.append(numbers[shard.columns["taxa"]])
        return np.concatenate(parts)

    def jpeg(self, i: int) -> bytes:
        number, row = self.locate(i)
        return self.shards[number].jpeg(row)

    def image(self, i: int) -> Image.Image:
        """The photograph, mode RGB."""
        return decode(self.jpeg(i))

    def description(self, i: int) -> dict[str, Any]:
        """Keys taxon_id, ranks (7), common_name, common_names (by language), group, licence, attribution.

        Where the source states them, also supercategory and caption.
        """
        number, row = self.locate(i)
        return self.shards[number].description(row)


def descriptions(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, description) of each sample of a shard, without its images."""
    with require(path).open("rb") as file:
        for entry in members.open_shard(path):
            yield entry.key, members.read_description(file, entry)


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
