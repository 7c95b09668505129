"""Make a bundle with a prior of place and month from one without, and fit how much the prior counts.

A fifth of the occurrences is kept apart and lends place and month to the calibration photographs of their taxa, for
photographs seldom state theirs: given the taxon, what a photograph looks like and where it was taken are taken to be
independent, as by the prior itself. Size of the cells and floor are those that allow the least mean surprise at the
labels. The weight is then raised in steps until photographs that are given a place where the table does not have their
taxon may lose more than LOSS of right answers, and of the steps before, the one with the least surprise is taken. (This
is a fixed sequence; to choose the floor by the loss as well would find the luckiest of many.) Thresholds are fitted
afterwards, as they are without a prior.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bioclip_lite.metrics import calibration
from bioclip_lite.metrics.ranks import Grouping, capped, grouping
from bioclip_lite.metrics.temperature import evidence, leaves_under
from bioclip_lite.sources import occurrences
from bioclip_lite.sources.occurrences import Occurrence
from bioclip_lite.taxa.taxonomy import RANKS, conflict, label_rank, lineage, scientific_name
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing_folder, write_json
from bioclip_lite.utils.randomness import digest
from bioclip_lite.web import bundle, confidence, manifest, prior
from bioclip_lite.web.parent import Parent, read_parent
from bioclip_lite.web.prior import Expectation, Prior

if TYPE_CHECKING:
    from bioclip_lite.params import jobs

LOSS = 0.005  # of right answers to photographs out of range: half of what other photographs may then lose
_CERTAIN = 1.645  # standard errors: a one-sided bound of 95 %
FLOORS, WEIGHTS = (0.02, 0.1, 0.4), (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_APART = 5  # one in so many occurrences lends its place and month
_LENT = 50  # of each taxon at most
_OFFERED = 20  # places to a photograph, of which those out of its range are taken
_AWAY = 4  # at most
_LOCAL = 2.0  # degrees, of the cells by which a place is out of range
_COMPARED = 4_000_000  # logits at most on which weights are compared
_GENUS = RANKS.index("genus")


@dataclass(frozen=True)
class Counted:
    """A table of occurrences, as far as they are of the C taxa of a bundle."""

    cells: list[dict[int, int]]  # of each taxon, by the number of the smallest cell
    months: np.ndarray  # int64 [C, 12]
    lent: list[list[Occurrence]]  # of each taxon, kept apart
    number: int  # of occurrences, those kept apart included
    left_out: Counter[str]
    elsewhere: Counter[str]  # names of taxa that the bundle does not have


class Seen(NamedTuple):
    """n calibration photographs with a place in the range of their taxon, and m places out of the range of some."""

    logits: np.ndarray  # float32 [n, C]
    taxa: list[TaxonPath]
    observations: list[str | None]
    inside: list[Occurrence]
    away: np.ndarray  # int64 [m], rows of photographs
    outside: list[Occurrence]  # m places


def write(params: "jobs.Prior", data: Path) -> None:
    """Write data/convert/prior, tfjs and report.json, for a table in data/lists, from data/convert/tfjs.

    Raises:
        UserError: the table is none of occurrences, or has too few of the taxa of the bundle.
    """
    key = manifest.read_private_key(params["sign_with"], data)
    table, out = data / "lists" / str(params["prior"]), data / "convert" / "prior"
    parent = read_parent(data / "convert" / "tfjs")
    if "parts" in parent.about["text"]:
        raise UserError(
            f"convert.prior counts place and month of all {len(parent.entries):,} taxa at once, but their table is in "
            "parts; set convert.whole_table to null, or name regions in convert.lists and make their prior from them"
        )
    photographs = confidence.read(data / "convert" / confidence.FILE, parent.weights_sha256, parent.width)
    left_out: Counter[str] = Counter()
    counted = count(occurrences.read(table, left_out), list(parent.entries), left_out)
    seen = place_photographs(parent, photographs, counted, str(table))
    about, content, report = fit(parent, seen, counted)
    with replacing_folder(out / "tfjs", bundle.NAMES) as folder:
        made = write_bundle(folder, parent, about, content, key)
    write_json(out / "report.json", report | {"bytes": made["bytes"]})
    print(f"convert: {summary(report)}")


# ---- the counts


def count(found: Iterable[Occurrence], leaves: Sequence[TaxonPath], left_out: Counter[str]) -> Counted:
    """Count the occurrences of each leaf by cell and month; one known to a higher rank than leaves is left out."""
    places = _Places(leaves)
    cells: list[dict[int, int]] = [defaultdict(int) for _ in leaves]
    months = np.zeros((len(leaves), 12), dtype=np.int64)
    apart: list[list[tuple[int, Occurrence]]] = [[] for _ in leaves]
    elsewhere: Counter[str] = Counter()
    number = 0
    for row, one in enumerate(found):
        leaf = places.leaf_of(one.path)
        if leaf is None:
            elsewhere[scientific_name(one.path)] += 1
            continue
        number += 1
        drawn = digest("prior", row, *one[1:])
        if drawn % _APART == 0:
            (heapq.heappush if len(apart[leaf]) < _LENT else heapq.heappushpop)(apart[leaf], (-drawn, one))
            continue
        cells[leaf][prior.cell_of(one.latitude, one.longitude, prior.CELLS[0])] += 1
        months[leaf, one.month - 1] += 1
    lent = [[one for _, one in sorted(some, key=lambda pair: -pair[0])] for some in apart]
    return Counted([dict(counts) for counts in cells], months, lent, number, left_out, elsewhere)


class _Places:
    """Finds the leaf that an occurrence belongs to by genus and epithet: catalogues differ in the ranks above."""

    def __init__(self, leaves: Sequence[TaxonPath]) -> None:
        self._named: dict[tuple[str | None, ...], list[tuple[int, TaxonPath]]] = defaultdict(list)
        for number, leaf in enumerate(leaves):
            self._named[_key(leaf)].append((number, leaf))
        self._found: dict[TaxonPath, int | None] = {}

    def leaf_of(self, path: TaxonPath) -> int | None:
        if path not in self._found:
            nodes = [(*node, *[None] * (len(RANKS) - len(node))) for node in lineage(path)]
            same = ((number, leaf) for node in nodes for number, leaf in self._named.get(_key(node), ()))
            self._found[path] = next((number for number, leaf in same if not conflict(leaf, path)), None)
        return self._found[path]


def _key(path: TaxonPath) -> tuple[str | None, ...]:
    return path[_GENUS:] if path[_GENUS] else (RANKS[label_rank(path)], path[label_rank(path)])


def coarser(counts: Mapping[int, int], cell: float) -> dict[int, int]:
    """Counts by the smallest cells as counts by cells of another size."""
    fine, times = round(360 / prior.CELLS[0]), round(cell / prior.CELLS[0])
    found: dict[int, int] = defaultdict(int)
    for number, count in counts.items():
        row, column = divmod(number, fine)
        found[row // times * (fine // times) + column // times] += count
    return dict(found)


# ---- the photographs


def place_photographs(parent: Parent, photographs: confidence.Photographs, counted: Counted, table: str) -> Seen:
    """Lend each calibration photograph the place and month of an occurrence of its taxon, and of one out of range.

    Raises:
        UserError: occurrences of too few of their taxa were kept apart.
    """
    leaves = list(parent.entries)
    nodes = [grouping(names) for names in calibration.nodes_of(leaves)]
    usable = confidence.affordable(photographs, len(leaves))
    truth = calibration.place(usable.taxa, leaves)
    everything = [(leaf, one) for leaf, some in enumerate(counted.lent) for one in some]
    rows: list[int] = []
    inside: list[Occurrence] = []
    away: list[tuple[int, Occurrence]] = []
    for row, label in enumerate(truth):
        own = _leaves_of(label, nodes, len(leaves))
        lent = [one for leaf in own for one in counted.lent[leaf]]
        if lent:
            away += [(len(rows), one) for one in _out_of_range(usable.keys[row], own, everything, counted)]
            rows.append(row)
            inside.append(lent[digest("inside", usable.keys[row]) % len(lent)])
    chosen = confidence.chosen(usable, rows)
    if confidence.too_few(observations := len(calibration.first_of_each(chosen.observations))):
        raise UserError(
            f"{table} lends a place to {observations} observations of split calibration, too few to show anything: it "
            f"has {counted.number} occurrences of the {len(leaves)} taxa of the bundle. Take a larger table, or one of "
            "these taxa"
        )
    text = store.decode(parent.integers, parent.scales)
    # A representative of a genus counts as often as the species that it replaces.
    counts = np.array([entry.get("stands_for", 1) for entry in parent.entries.values()], np.float32)
    logits = parent.about["logit_scale"] * (chosen.embeddings @ text.T) + parent.about["temperature"] * np.log(counts)
    outside = [one for _, one in away]
    return Seen(logits, chosen.taxa, chosen.observations, inside, np.array([row for row, _ in away], int), outside)


def _leaves_of(label: np.ndarray, nodes: Sequence[Grouping], taxa: int) -> list[int]:
    """The leaves that a label is, or stands above; none for one that is not in the bundle."""
    known = (label >= 0).any() and (label != calibration.UNLISTED).all()
    return np.arange(taxa)[leaves_under(label, nodes)].tolist() if known else []


def _out_of_range(
    key: str, own: Sequence[int], everything: Sequence[tuple[int, Occurrence]], counted: Counted
) -> list[Occurrence]:
    """Occurrences of other taxa at places where the table has none of the own ones."""
    have = {cell for leaf in own for cell in coarser(counted.cells[leaf], _LOCAL)}
    offered = [everything[digest("outside", key, number) % len(everything)] for number in range(_OFFERED)]
    cells = [prior.cell_of(one.latitude, one.longitude, _LOCAL) for _, one in offered]
    away = [one for (_, one), cell in zip(offered, cells, strict=True) if not have & prior.near(cell, _LOCAL).keys()]
    return away[:_AWAY]


# ---- the fit


class Chosen(NamedTuple):
    """How a prior counts."""

    surprise: float  # nats, mean at the labels
    cell: float
    floor: float
    weight: float


def fit(parent: Parent, seen: Seen, counted: Counted) -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    """(entry ``prior`` of bundle.json but for its file, the content of the file, what is to be told)."""
    leaves, temperature = list(parent.entries), parent.about["temperature"]
    node_of_leaf, truth = calibration.nodes_of(leaves), calibration.place(seen.taxa, leaves)
    contents = dict(_contents(counted))
    chosen = choose(seen, truth, node_of_leaf, temperature, contents)
    content = contents[chosen.cell]
    about = {"cell": chosen.cell, "weight": chosen.weight, "floor": chosen.floor, "temperature": temperature}
    made = prior.decode(content, {"file": "", **about}, len(leaves))
    inside, outside = (
        prior.combine(logits, temperature, [expected(made, one) for one in some], made.weight)
        for logits, some in ((seen.logits, seen.inside), (seen.logits[seen.away], seen.outside))
    )
    finest = np.array([RANKS.index(entry.get("finest_rank", RANKS[-1])) for entry in parent.entries.values()])
    rows = calibration.first_of_each(seen.observations)
    ranks = calibration.fit_thresholds(inside[rows], truth[rows], capped(node_of_leaf, finest), calibration.LEVEL)
    about["thresholds"] = {"level": calibration.LEVEL, "confidence": calibration.CONFIDENCE, "ranks": ranks}
    without = right(seen.logits, truth, node_of_leaf)
    report = {
        **about,
        "occurrences": counted.number,
        "taxa": int((counted.months.sum(axis=1) > 0).sum()),
        "of_taxa": len(leaves),
        "bytes_of_counts": len(content),
        "photographs": len(truth),
        "right": {"without": _share(without), "with": _share(right(inside, truth, node_of_leaf))},
        "out_of_range": {
            "places": len(seen.away),
            "without": _share(without[seen.away]),
            "with": _share(right(outside, truth[seen.away], node_of_leaf)),
        },
        "left_out": dict(sorted(counted.left_out.items())),
        "of_other_taxa": counted.elsewhere.total(),
        "other_taxa": [name for name, _ in counted.elsewhere.most_common(20)],
    }
    return about, content, report


def _contents(counted: Counted) -> Iterator[tuple[float, bytes]]:
    """The file by size of the cells, of those sizes that keep to the budget."""
    for cell in prior.CELLS:
        content = prior.encode([coarser(counts, cell) for counts in counted.cells], counted.months)
        if len(content) <= prior.BYTES * len(counted.cells):
            yield cell, content


def choose(
    seen: Seen, truth: np.ndarray, node_of_leaf: np.ndarray, temperature: float, contents: Mapping[float, bytes]
) -> Chosen:
    """The cells, floor and weight of the least surprise, as the module says.

    Args:
        truth: int64 [n, 7].
        contents: files by size of the cells.
    """
    nodes, compared = [grouping(names) for names in node_of_leaf], max(256, _COMPARED // node_of_leaf.shape[1])
    scaled, truth = seen.logits[:compared].astype(np.float64) / temperature, truth[:compared]
    away = seen.away[seen.away < compared]
    inside, outside = seen.inside[:compared], seen.outside[: len(away)]
    without = right(scaled, truth, node_of_leaf)[away]

    def surprise(scores: np.ndarray) -> float:
        return float(evidence(scores, truth, nodes).surprise(1.0).mean())

    def shares(cell: float, some: Sequence[Occurrence]) -> np.ndarray:
        about = {"file": "", "cell": cell, "weight": 0.0, "floor": 0.0}
        return _shares(prior.decode(contents[cell], about, scaled.shape[1]), some)

    def tried(cell: float, here: np.ndarray) -> Iterator[Chosen]:
        for floor, weight in product(FLOORS, WEIGHTS):
            yield Chosen(surprise(scaled + weight * np.log(prior.mixed(here, floor))), cell, floor, weight)

    candidates = [one for cell in contents for one in tried(cell, shares(cell, inside))]
    likeliest = min(candidates)
    there = np.log(prior.mixed(shares(likeliest.cell, outside), likeliest.floor))
    allowed = [Chosen(surprise(scaled), likeliest.cell, likeliest.floor, 0.0)]
    for found in (one for one in candidates if one[1:3] == likeliest[1:3]):
        moved = right(scaled[away] + found.weight * there, truth[away], node_of_leaf)
        if may_lose(without, moved, away) > LOSS:
            break
        allowed.append(found)
    return min(allowed)


def may_lose(before: np.ndarray, after: np.ndarray, photograph: np.ndarray) -> float:
    """How much of its right answers a model may lose, to all appearance: a bound by the central limit theorem.

    Args:
        before, after: bool [m], whether answers are right.
        photograph: int64 [m], whose answers they are.
    """
    places = np.bincount(photograph)
    lost = (np.bincount(photograph, before) - np.bincount(photograph, after))[places > 0] / places[places > 0]
    return float(lost.mean() + _CERTAIN * lost.std() / np.sqrt(len(lost))) if len(lost) else 0.0


def expected(made: Prior, one: Occurrence) -> Expectation | None:
    """What a prior says of the place and month of an occurrence."""
    return prior.expect(made, one.latitude, one.longitude, one.month)


def _shares(made: Prior, some: Sequence[Occurrence]) -> np.ndarray:
    """What a prior says of places and months, float64 [n, C]; the same of each taxon where it says nothing."""
    taxa = len(made.everywhere)
    found = [prior.likelihood(made, one.latitude, one.longitude, one.month) for one in some]
    return np.stack([np.full(taxa, 1 / taxa) if one is None else one.share for one in found] or [np.zeros(taxa)])[
        : len(some)
    ]


def right(scores: np.ndarray, truth: np.ndarray, node_of_leaf: np.ndarray) -> np.ndarray:
    """Whether the best taxon is the label or below it, bool [n].

    Args:
        scores: float [n, C].
        truth: int64 [n, 7], of labels that stand in the tree.
    """
    rank = np.where(truth >= 0, np.arange(len(RANKS)), -1).max(axis=1)
    return node_of_leaf[rank, scores.argmax(axis=1)] == truth[np.arange(len(truth)), rank]


def _share(rows: np.ndarray) -> float | None:
    return round(float(rows.mean()), 6) if len(rows) else None


def summary(report: Mapping[str, Any]) -> str:
    """The prior in three sentences: what it rests on, what it gains, what it may cost."""
    inside, outside = report["right"], report["out_of_range"]
    said = (
        f"{report['occurrences']} occurrences of {report['taxa']} of {report['of_taxa']} taxa, in cells of "
        f"{report['cell']:g} degrees. "
    )
    if not report["weight"]:
        return said + "At no weight do place and month help, so the bundle answers as without them"
    said += (
        f"With weight {report['weight']:g} {inside['with']:.1%} of {report['photographs']} calibration photographs are "
        f"named right, {inside['without']:.1%} without place and month. "
    )
    if not outside["places"]:
        return said + "The table has no place that is out of range of a taxon"
    return said + f"Out of range: {outside['with']:.1%}, {outside['without']:.1%} without"


# ---- the files


def write_bundle(
    folder: Path, parent: Parent, about: Mapping[str, Any], content: bytes, key: manifest.PrivateKey | None
) -> dict[str, Any]:
    """Write the files of the bundle and the prior, signed by ``key``, to an empty folder; returns its bundle.json."""
    for name in parent.about["files"]:
        (folder / name).write_bytes((parent.folder / name).read_bytes())
    described = {"file": bundle.add(folder, "prior", ".bin", content), **about}
    files = bundle.listed(folder)
    new = {
        **parent.about,
        "prior": described,
        "files": files,
        "bytes": sum(file["bytes"] for file in files.values()),
        "provenance": manifest.signed_anew(parent.about["provenance"], key),
    }
    bundle.write_manifest(folder, new, key)
    return new
