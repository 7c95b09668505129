"""The items that a source yields: usable photographs, and rejects with a reason."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bioclip_lite.photographs.shards import UNLABELLED
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.randomness import digest

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Listing, Origin

LABELLED = ("pretrain", "train", "val", "calibration", "test")
SPLITS = (*LABELLED, UNLABELLED)
NOTHING: taxonomy.Path = (None,) * len(taxonomy.RANKS)


@dataclass(frozen=True)
class Sample:
    """One photograph. ``group`` is the observation: photographs of one individual, which never part into two splits."""

    key: str  # [0-9a-z_-]+, unique and stable
    locator: str  # what ``read`` needs to find the file
    group: str
    path: taxonomy.Path  # seven ranks, None where unknown
    common_name: str | None = None
    common_names: tuple[tuple[str, str], ...] = ()  # (language, name), e.g. ("de", "Maulbeere")
    split: str | None = None  # None: the index deals it; UNLABELLED: its path, names and the like do not count
    licence: str | None = None
    attribution: str | None = None
    verbatim: str | None = None  # the scientific name as the source writes it, with authors and all
    supercategory: str | None = None  # iNaturalist's iconic group, where the source states it
    caption: str | None = None  # of this photograph, where the source has one
    identifiers: tuple[str, ...] = ()  # of this photograph in published data sets (``identifiers``)


@dataclass(frozen=True)
class Reject:
    """A photograph, or a place without one, that cannot be used."""

    locator: str
    reason: str
    detail: str


class Source(Protocol):
    """A source; ``registry`` describes these functions and others, which are optional."""

    def samples(self, params: "Listing") -> Iterator[Sample | Reject]: ...

    def read(self, params: "Origin", locator: str) -> bytes: ...


def key_of(locator: str) -> str:
    """A sample key from a locator: readable from the file's stem, unique from a hash of the whole."""
    stem = locator.replace("\\", "/").rsplit("/", 1)[-1].split(".", 1)[0]
    readable = re.sub(r"[^0-9a-z_]+", "-", stem.lower()).strip("-")[:40]
    return f"{readable or 'image'}-{digest('key', locator) % 16**12:012x}"
