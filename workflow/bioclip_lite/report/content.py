"""Content of the report beside metrics.json: photographs, species of low accuracy, confusions and sources."""

import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from bioclip_lite.evaluation.predictions import SPLIT, Predictions
from bioclip_lite.metrics import confusion
from bioclip_lite.photographs.shards import UNLABELLED, ShardSet
from bioclip_lite.taxa.label_space import Labels, Truth
from bioclip_lite.taxa.taxonomy import RANKS, label_rank, scientific_name
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import digest

_THUMBNAIL = 240  # pixels, longest side
_WEAKEST = 10
_MISTAKES = 3  # wrong answers listed per species
_HUB = "hf-hub:"


@dataclass(frozen=True)
class Name:
    """A taxon as the page shows it."""

    scientific: str
    common: str | None
    italic: bool = True  # genus and species are set in italics


@dataclass(frozen=True)
class Example:
    """One test photograph and the answer of the web model; ``jpeg`` is the file of a thumbnail."""

    jpeg: bytes
    truth: Name
    answer: Name
    probability: float
    right: bool
    shared: str | None  # the lowest rank that truth and answer share
    credit: str


@dataclass(frozen=True)
class Weak:
    """A species that the web model often gets wrong."""

    name: Name
    images: int
    right: int
    mistaken: Sequence[tuple[Name, int]]  # most frequent wrong answers
    jpeg: bytes  # a thumbnail of a photograph that it gets wrong
    credit: str


@dataclass(frozen=True)
class Confusion:
    """The answers of the web model for the m taxa of one rank."""

    rank: str
    names: Sequence[str]
    counts: Sequence[Sequence[int]]  # m rows of truth; m columns of answers and one for all other groups


@dataclass(frozen=True)
class Sample:
    """The sources of the photographs."""

    images: Mapping[str, int]  # per split
    licences: Mapping[str, int]  # of the test photographs
    sources: Mapping[str, int]
    teacher: str = ""
    base_model: str | None = None  # organisation/name of a teacher from the hub


def sample_of(samples: pa.Table, test: pa.Table, teacher: Mapping[str, Any]) -> Sample:
    """Collect the sources of the photographs.

    Args:
        samples: the photographs of all splits.
        test: those of the test split.
        teacher: "about" of the teacher's costs.
    """
    per_split = Counter(samples["split"].to_pylist())
    order = [split for split in ("pretrain", "train", "val", "calibration", SPLIT, UNLABELLED) if split in per_split]
    return Sample(
        images={split: per_split[split] for split in order},
        licences=Counter(name or "not stated" for name in test["licence"].to_pylist()),
        sources=Counter(name or "not stated" for name in test["attribution"].to_pylist()),
        teacher=", ".join(
            f"{what}{teacher[key]}" for key, what in (("name", ""), ("licence", "licence ")) if teacher.get(key)
        ),
        base_model=_on_the_hub(teacher.get("name") or ""),
    )


def _on_the_hub(teacher: str) -> str | None:
    """Read organisation/name from the name that ``models.hub`` gives a teacher: ``hf-hub:organisation/name (file)``."""
    return teacher.removeprefix(_HUB).split(" ")[0] if teacher.startswith(_HUB) else None


class Pictures:
    """The test photographs that the page shows, by row of ``test``; only shards that hold one of them are opened."""

    def __init__(self, data: Path, test: pa.Table, answered: Predictions) -> None:
        """``answered``: predictions, which say in which shard a photograph is."""
        self._data, self._test, self._answered = data, test, answered
        self._open: dict[str, ShardSet] = {}

    @cached_property
    def _shard_of(self) -> dict[str, str]:
        return {key: path.stem for path, keys in self._answered.keys_by_shard() for key in keys}

    def thumbnail(self, row: int) -> bytes:
        key = self._test["key"][row].as_py()
        shard = self._shard_of[key]
        if shard not in self._open:
            self._open[shard] = ShardSet.of(self._data / "shard" / f"{shard}.tar")
        photographs = self._open[shard]
        if key not in photographs.keys:
            raise UserError(
                f"{self._data / 'shard' / shard}.tar lacks photograph {key} of data/index/samples.parquet; "
                "run stage shard again"
            )
        return _thumbnail(photographs.image(photographs.keys.index(key)))

    def credit(self, row: int) -> str:
        credit = [self._test[column][row].as_py() for column in ("attribution", "licence")]
        return ", ".join(part for part in credit if part)


@dataclass(frozen=True)
class Shown:
    """The test photographs and the answers of the web model, row by row."""

    test: pa.Table  # of data/index/samples.parquet
    truth: Truth
    labels: Labels
    scores: Mapping[str, np.ndarray]  # ``metrics.scoring.score``
    pictures: Pictures
    seed: int

    def drawn(self, rows: Sequence[int], count: int) -> list[int]:
        """``count`` of ``rows``, by hash of the photographs' keys."""
        return sorted(rows, key=lambda row: digest(self.seed, "example", self.test["key"][row].as_py()))[:count]


def examples_of(shown: Shown, count: int) -> list[Example]:
    """Draw ``count`` photographs identified to species by hash, half with correct and half with wrong answers."""
    labels, scores = shown.labels, shown.scores
    examples = []
    for row in (
        r for right in (1, 0) for r in shown.drawn(np.flatnonzero(scores["top1"] == right).tolist(), count // 2)
    ):
        leaf, answer = int(shown.truth.leaf[row]), int(scores["answer"][row])
        shared = _shared(labels.leaves[leaf], labels.leaves[answer])
        examples.append(
            Example(
                jpeg=shown.pictures.thumbnail(row),
                truth=_name(leaf, labels),
                answer=_name(answer, labels),
                probability=float(scores["probability"][row]),
                right=leaf == answer,
                shared=None if shared < 0 else RANKS[shared],
                credit=shown.pictures.credit(row),
            )
        )
    return examples


def weakest_of(shown: Shown) -> list[Weak]:
    """The species with the lowest accuracy, among those with a wrong answer."""
    given: dict[int, Counter[int]] = defaultdict(Counter)
    wrong_rows: dict[int, list[int]] = defaultdict(list)
    for row, (leaf, answer) in enumerate(zip(shown.truth.leaf.tolist(), shown.scores["answer"].tolist(), strict=True)):
        if leaf >= 0:
            given[leaf][answer] += 1
            if answer != leaf:
                wrong_rows[leaf].append(row)
    # of two species that are always wrong, the one with more photographs comes first
    wrong = sorted(wrong_rows, key=lambda leaf: (given[leaf][leaf] / given[leaf].total(), -given[leaf].total(), leaf))
    weakest = []
    for leaf in wrong[:_WEAKEST]:
        mistakes = sorted(
            ((answer, n) for answer, n in given[leaf].items() if answer != leaf), key=lambda item: (-item[1], item[0])
        )
        (pictured,) = shown.drawn(wrong_rows[leaf], 1)
        weakest.append(
            Weak(
                name=_name(leaf, shown.labels),
                images=given[leaf].total(),
                right=given[leaf][leaf],
                mistaken=[(_name(answer, shown.labels), n) for answer, n in mistakes[:_MISTAKES]],
                jpeg=shown.pictures.thumbnail(pictured),
                credit=shown.pictures.credit(pictured),
            )
        )
    return weakest


def confusion_of(shown: Shown) -> Confusion | None:
    """The confusions at the lowest rank whose taxa fit on a page; None if no rank does."""
    rank = confusion.rank_to_show(shown.truth.nodes)
    if rank is None:
        return None
    nodes, counts = confusion.counts(shown.truth.nodes[:, rank], shown.scores["best"][:, rank])
    below = (None,) * (len(RANKS) - rank - 1)
    names = [scientific_name((*shown.labels.nodes[rank][node], *below)) for node in nodes]
    return Confusion(RANKS[rank], names, counts.tolist())


def _name(leaf: int, labels: Labels) -> Name:
    path = labels.leaves[leaf]
    return Name(scientific_name(path), labels.common_names[leaf], italic=label_rank(path) >= RANKS.index("genus"))


def _shared(one: TaxonPath, other: TaxonPath) -> int:
    """Index of the lowest rank down to which two paths are equal and named; -1 if none."""
    shared = -1
    for rank, (a, b) in enumerate(zip(one, other, strict=True)):
        if a != b:
            break
        if a:
            shared = rank
    return shared


def _thumbnail(image: Image.Image) -> bytes:
    """A small JPEG without the metadata of the photograph (place and owner)."""
    small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    clean = Image.new("RGB", small.size)
    clean.paste(small)
    file = io.BytesIO()
    clean.save(file, "JPEG", quality=85)
    return file.getvalue()
