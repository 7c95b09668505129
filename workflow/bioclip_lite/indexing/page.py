"""data/index/report.html: what the index holds and what was left out, on one page that requests no other file."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bioclip_lite.indexing import list_summary
from bioclip_lite.indexing.taxonomies.settle import HOW, Settled
from bioclip_lite.indexing.thumbnails import thumbnail
from bioclip_lite.photographs import licences
from bioclip_lite.photographs.shards import UNLABELLED
from bioclip_lite.sources.sample import LABELLED, SPLITS
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.pages import renderer

EXAMPLES, PAIRS = 6, 12  # thumbnails per reason, and pairs of near duplicates
_THUMBNAILS = 36  # of rejects, over all reasons
_TAXA, _NAMES, _LICENCES = 2000, 300, 30  # rows shown of long tables; the tables themselves have all
_CURVE_POINTS = 300
# Reasons to leave out that are no fault of the photograph.
_INTENDED = ("not listed", "licence", "video", "sidecar", UNLABELLED)


@dataclass(frozen=True)
class Facts:
    """The content of the page."""

    splits: Mapping[str, int]  # photographs
    observations: int
    unlabelled: int  # photographs without a label that were left out and need not have been
    truncated: int  # photographs whose files lack their last bytes
    taxa: pa.Table  # as taxa.parquet
    rejects: Mapping[str, int]  # by reason, the most frequent first
    examples: Mapping[str, Sequence[tuple[str, str]]]  # by reason: locator, detail
    look_alikes: tuple[int, int, int]  # photographs with near duplicates, sets of them, photographs labelled otherwise
    pairs: Sequence[tuple[str, str, str, str]]  # locator and taxon of one, locator and taxon of the other
    licences: Mapping[str, int]  # as written; "" where there is none
    names: Sequence[tuple[Any, ...]]  # the rows of names.parquet
    listed: list_summary.Summary | None  # None without a species list
    taxonomy: Settled | None  # None without one
    # By split, photographs that the teacher was trained on, that its catalogue lacks, and that cannot be compared;
    # empty without a catalogue of its training set.
    teacher_saw: Mapping[str, tuple[int, int, int]]


def shortened(text: object, most: int = 90) -> str:
    """The text, cut to ``most`` characters with an ellipsis at its end."""
    shown = str(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


_render = renderer({"shortened": shortened})


def page(facts: Facts, read: Callable[[str], bytes]) -> str:
    """The whole page as HTML; ``read`` returns the file of a photograph by its locator."""
    return _render(
        "indexing/page.html.j2",
        facts=facts,
        totals=_totals(facts),
        splits=_splits(facts),
        curve=_curve(facts.taxa),
        without=_without(facts.listed),
        taxa=_taxa(facts.taxa),
        rejected=_rejected(facts, read),
        pairs=_pairs(facts, read),
        licences=_licences(facts.licences),
        names=_names(facts.names),
        taxonomy=_taxonomy(facts.taxonomy) if facts.taxonomy else None,
    )


def _totals(facts: Facts) -> dict[str, int]:
    """The figures at the head of the page."""
    leaves = facts.taxa.filter(facts.taxa["leaf"])
    return {
        "photographs": sum(facts.splits.values()),
        "left_out": sum(facts.rejects.values()),
        "taxa": leaves.num_rows,
        "species": leaves["rank"].to_pylist().count("species"),
        "untrained": leaves.num_rows - int(np.count_nonzero(_photographs(leaves, ("pretrain", "train")))),
    }


def _photographs(taxa: pa.Table, splits: Sequence[str] = LABELLED) -> np.ndarray:
    """Photographs of each taxon in some splits, int64 [n]."""
    return np.sum([taxa[split].to_numpy().astype(np.int64) for split in splits], axis=0)


def _splits(facts: Facts) -> list[tuple[str, int, float, int]]:
    """Name, photographs, share of all, and taxa of each split that is not empty."""
    total = sum(facts.splits.values())
    taxa = {split: int(np.count_nonzero(facts.taxa[split].to_numpy())) for split in LABELLED}
    return [
        (split, number, number / total, taxa.get(split, 0))
        for split in SPLITS
        if (number := facts.splits.get(split, 0))
    ]


def _curve(taxa: pa.Table) -> dict[str, Any] | None:
    """Photographs per taxon, the most frequent taxon first, as coordinates from 0 to 1; None for a single taxon."""
    counts = np.sort(_photographs(taxa.filter(taxa["leaf"])))[::-1]
    counts = counts[counts > 0]
    if len(counts) < 2:
        return None
    last = len(counts) - 1
    decades = max(1.0, math.log10(int(counts[0])))

    def height(number: float) -> float:
        return math.log10(max(1.0, number)) / decades

    places = np.unique(np.linspace(0, last, _CURVE_POINTS).astype(int)).tolist()
    steps = (1, 2, 5) if decades < 2 else (1,)
    marks = [step * 10**exponent for exponent in range(8) for step in steps if step * 10**exponent <= counts[0]]
    return {
        "points": [(place / last, height(int(counts[place]))) for place in places],
        "marks": [(mark, height(mark)) for mark in marks],
        "ends": [(place + 1, place / last) for place in (0, last // 2, last)],
        "taxa": len(counts),
        "half": int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1,
        "few": int(np.count_nonzero(counts < 10)),
        "most": int(counts[0]),
        "median": int(np.median(counts)),
        "fewest": int(counts[-1]),
    }


def _without(listed: list_summary.Summary | None) -> list[dict[str, Any]]:
    """The first listed taxa without photographs, in tree order."""
    return [
        {
            "name": list_summary.name_of(row),
            "italic": row["genus"] is not None,
            "texts": (
                row["common_name"] or "",
                " ".join(filter(None, (row["class"], row["order"], row["family"]))),
                row["finest_rank"] or "",
                row["note"] or "",
            ),
        }
        for row in (listed.without[:_TAXA] if listed else ())
    ]


def _taxa(taxa: pa.Table) -> dict[str, Any]:
    """The most frequent taxa with their photographs in each split that is not empty."""
    order = np.argsort(-_photographs(taxa), kind="stable")
    splits = [split for split in LABELLED if pc.sum(taxa[split]).as_py()]
    rows = []
    for row in taxa.take(order[:_TAXA]).to_pylist():
        path = tuple(row[rank] for rank in taxonomy.RANKS)
        rows.append(
            {
                "name": taxonomy.scientific_name(path),
                "italic": path[taxonomy.RANKS.index("genus")] is not None,
                "common_name": row["common_name"],
                "above": " ".join(filter(None, path[2:5])),
                "leaf": row["leaf"],
                "counts": [row[split] for split in splits],
            }
        )
    return {"splits": splits, "rows": rows, "total": taxa.num_rows}


def _rejected(facts: Facts, read: Callable[[str], bytes]) -> dict[str, list[tuple[str, str, bytes | None]]]:
    """Locator, detail and thumbnail of examples, by the reason they were left out for."""
    groups = {}
    left = _THUMBNAILS
    for reason, examples in facts.examples.items():
        if reason in _INTENDED:
            continue
        shown = [thumbnail(locator, read) if place < left else None for place, (locator, _) in enumerate(examples)]
        left -= sum(jpeg is not None for jpeg in shown)
        groups[reason] = [(*example, jpeg) for example, jpeg in zip(examples, shown, strict=True)]
    return groups


def _pairs(facts: Facts, read: Callable[[str], bytes]) -> list[dict[str, Any]]:
    """Pairs of near duplicates, the first of each set in front."""
    return [
        {
            "locators": (first, second),
            "taxa": list(dict.fromkeys((its, taxon))),
            "thumbnails": [thumbnail(locator, read) for locator in (first, second)],
        }
        for second, taxon, first, its in facts.pairs
    ]


def _licences(counts: Mapping[str, int]) -> dict[str, Any]:
    return {
        "rows": [(text, licences.code(text), number) for text, number in list(counts.items())[:_LICENCES]],
        "total": len(counts),
        "free": sum(number for text, number in counts.items() if licences.may_be_published(text)),
        "photographs": sum(counts.values()),
    }


_NO_TAXON = (
    "Similar: names of the source. A name that may be a common one, or whose rank is not certain, adds no taxon: put "
    "scientific names into a column scientific_name, others into columns of ranks."
)
_CASES = (
    ("species list", "unmatched", "Names of the list that give no taxon", _NO_TAXON),
    ("species list", "ambiguous", "Names of the list that may mean several taxa", "None was chosen; add a kingdom."),
    ("source", "ambiguous", "Names of the source that may mean several taxa", "They are used as written."),
    ("source", "unmatched", "Names of the source that give no taxon", "Their photographs were left out."),
    ("source", "changed", "Names of the source that were changed", "names.parquet has the name as written."),
    ("species list", "changed", "Names of the list that are written differently", "They were matched as shown."),
)
_HEADINGS = {
    "changed": ("Written", "Taxon", "Change"),
    "ambiguous": ("Written", "May mean"),
    "unmatched": ("Written", "Similar"),
}


def _names(rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Names that were changed, are ambiguous, or match nothing, in groups; the most frequent first."""
    groups = []
    for origin, status, title, explained in _CASES:
        cases = sorted((row for row in rows if row[0] == origin and row[4] == status), key=lambda row: -(row[7] or 0))
        shown = [
            (verbatim, *((name or "", change or "") if status == "changed" else ("; ".join(candidates),)), number)
            for _, verbatim, name, _, _, change, candidates, number in cases[:_NAMES]
        ]
        if cases:
            head = (*_HEADINGS[status], "Photographs")
            groups.append({"title": title, "explained": explained, "head": head, "rows": shown, "total": len(cases)})
    return groups


def _taxonomy(settled: Settled) -> dict[str, Any]:
    """What the taxonomy is, and how the names of the source and of the list were found in it."""
    shown = {origin: counts for origin, counts in settled.counts.items() if counts}
    return {
        "settled": settled,
        "origins": list(shown),
        "rows": [(said, [counts.get(how, 0) for counts in shown.values()]) for how, said in HOW.items()],
    }
