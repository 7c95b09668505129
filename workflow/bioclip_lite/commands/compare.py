"""``python -m bioclip_lite compare A [B]``: list the species that B identifies better or worse than A.

A and B are git revisions (a tag, a branch, HEAD~1, a commit); without B, A is compared with data/. Nothing is checked
out and nothing runs: the command reads the answers that stage evaluate stored, from DVC's cache or its remote.
"""

import argparse
import csv
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from bioclip_lite.commands.common import command
from bioclip_lite.engines import remotes, revisions
from bioclip_lite.evaluation import predictions
from bioclip_lite.evaluation.fitting import read_scores
from bioclip_lite.metrics import paired
from bioclip_lite.metrics.summary import Asked, estimate
from bioclip_lite.report.text import LABELS, bracket, percent, points, points_interval
from bioclip_lite.taxa.label_space import observations, read_labels, truth_of
from bioclip_lite.taxa.taxonomy import RANKS, scientific_name
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, read_json, read_table, replacing, require
from bioclip_lite.utils.pages import count_of

HERE = "the working tree"
_COUNTS = ("photographs", "observations", "before", "after", "lost", "won")
COLUMNS = (*RANKS, "common_name", *_COUNTS, "p", "q", "appeared")
_SHOWN = 20  # taxa of each kind on the screen; a file has all
_MISTAKES = 3  # of a taxon, on the screen


@dataclass(frozen=True)
class Side:
    """The answers of one revision to its n test photographs, at one rank."""

    name: str  # the revision, as it was asked for
    commit: str | None  # its hash; None of the working tree
    keys: list[str]
    groups: list[str]  # observations
    taxa: list[TaxonPath | None]  # of the labels, at the rank; None where a label does not reach down to it
    answers: list[TaxonPath | None]
    right: np.ndarray  # float [n]; NaN where the label cannot tell
    leaves: set[TaxonPath]  # label space of the model
    common: dict[TaxonPath, str | None]
    resampling: tuple[int, int]  # of its metrics.json: resamples and seed


@dataclass(frozen=True)
class Row:
    """One taxon, in the photographs that both sides have."""

    taxon: TaxonPath
    common: str | None
    photographs: int
    observations: int
    before: int  # right
    after: int
    lost: int  # right before, wrong after
    won: int
    changed: int  # observations that got better or worse
    p: float
    appeared: list[tuple[TaxonPath, int]]  # answers that are given more often than before, and by how much
    q: float  # NaN where it was not tested


@dataclass(frozen=True)
class Comparison:
    """Two sides on the photographs that both have, with one label in both."""

    before: Side
    after: Side
    overall: dict[str, Any]  # "before", "after", "difference", "lost", "won": as in metrics.json
    p: float
    rows: list[Row]
    only: tuple[int, int]  # photographs that one side alone has
    relabelled: int
    new: tuple[float, int, int] | None  # of photographs that only the second has: right, photographs, taxa


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "compare",
        "List the species that revision B names better or worse than revision A, with the mistakes that appeared. "
        "Reads the predictions stored by stage evaluate, from data/, DVC's cache or its remote; checks nothing out.",
    )
    parser.add_argument("before", metavar="A", help="git revision: a tag, branch or commit")
    parser.add_argument("after", metavar="B", nargs="?", help=f"another git revision (default: {HERE})")
    parser.add_argument(
        "--variant", default="tfjs", help="model to compare: teacher, student, int8 ... (default: tfjs, the web model)"
    )
    parser.add_argument("--rank", choices=RANKS, default="species", help="rank of the answers (default: species)")
    parser.add_argument("--csv", type=Path, help="also write all taxa to this file")
    return parser


@command("compare")
def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.csv:
        check_file(options.csv, ",".join(COLUMNS))
    sides = []
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as scratch, remotes.repository() as repo:
        for number, revision in enumerate((options.before, options.after)):
            folder, commit = Path(), None
            if revision is not None:
                folder = Path(scratch) / str(number)
                commit = revisions.link(repo, revision, _needed(options.variant), folder)
            sides.append(read_side(revision or HERE, commit, folder / "data", options.variant, options.rank))
    comparison = compare(sides[0], sides[1], options.rank)
    print(summary(comparison, options.variant, options.rank, options.csv), end="")
    if options.csv:
        _write(options.csv, comparison.rows)
    return 0


def _needed(variant: str) -> list[str]:
    answers = (f"evaluate/predictions/{variant}{ending}" for ending in (".safetensors", ".json", ""))
    others = ("index/samples.parquet", "index/taxa.parquet", "evaluate/metrics.json")
    return [f"data/{path}" for path in (*others, *answers)]


def read_side(name: str, commit: str | None, data: Path, variant: str, rank: str) -> Side:
    """Read one side of the comparison from a folder of stage outputs.

    Raises:
        UserError: a part is missing, or the variant's answers are to other photographs than the index lists.
    """
    labels = read_labels(data)
    samples = read_table(data / "index" / "samples.parquet", ["key", "split", "taxon_id", "group"])
    test = samples.filter(pc.equal(samples["split"], "test")).sort_by("key")
    folder = data / "evaluate" / "predictions"
    shards = sorted(path.stem for path in (folder / variant).glob("*.safetensors"))
    stored = predictions.read(folder, [variant], shards)[variant]
    metrics = read_json(require(data / "evaluate" / "metrics.json"))
    try:
        bootstrap = metrics["protocol"]["bootstrap"]
    except KeyError as missing:
        raise UserError(
            f"data/evaluate/metrics.json of {name} has no {missing} of {variant}: an earlier version of this program "
            "wrote it, or without this variant; run stage evaluate again there"
        ) from None
    keys, answered = test["key"].to_pylist(), set(stored.keys())
    absent = [key for key in keys if key not in answered]
    if absent or answered - set(keys) or stored.taxa != predictions.identity_of(labels):
        why = f"{len(absent)} test photographs have no answer" if absent else "the lists of taxa or photographs differ"
        raise UserError(
            f"the answers of {variant} in {name} do not belong to its index: {why}; run stage evaluate again"
        )
    truth, at = truth_of(test["taxon_id"].to_pylist(), labels), RANKS.index(rank)
    scores = read_scores(stored, keys, truth, labels)
    right = scores["top1" if rank == "species" else rank]
    answer = scores["answer"] if rank == "species" else scores["best"][:, at]
    nodes = [_whole(path) for path in labels.nodes[at]]
    answers = [_whole(leaf) for leaf in labels.leaves] if rank == "species" else nodes
    return Side(
        name=name,
        commit=commit,
        keys=keys,
        groups=observations(test),
        taxa=[nodes[node] if node >= 0 else None for node in truth.nodes[:, at].tolist()],
        answers=[answers[number] if number >= 0 else None for number in answer.tolist()],
        right=right,
        leaves=set(labels.leaves),
        common=dict(zip(labels.leaves, labels.common_names, strict=True)),
        resampling=(bootstrap["resamples"], bootstrap["seed"]),
    )


def _whole(path: TaxonPath) -> TaxonPath:
    return (*path, *[None] * (len(RANKS) - len(path)))


def compare(before: Side, after: Side, rank: str) -> Comparison:
    """The two on the photographs that both have.

    Raises:
        UserError: there are none that can be compared at this rank.
    """
    first, second = ({key: row for row, key in enumerate(side.keys)} for side in (before, after))
    both = sorted(first.keys() & second.keys())
    pairs = [(first[key], second[key]) for key in both]
    same = [(i, j) for i, j in pairs if before.taxa[i] == after.taxa[j]]
    judged = [(i, j) for i, j in same if before.taxa[i] is not None]
    if not judged:
        raise UserError(
            f"{before.name} and {after.name} have {count_of(len(both), 'test photograph')} in common, and none of them "
            f"has a label at rank {rank} that is the same in both: there is nothing to compare. Photographs are the "
            "same if their keys are: did index.source or the names of the files change?"
        )
    old, new = (np.array(rows) for rows in zip(*judged, strict=True))
    was, now = before.right[old], after.right[new]
    taxa = [after.taxa[j] for j in new]
    numbers = {taxon: number for number, taxon in enumerate(dict.fromkeys(taxa))}
    classes = np.array([numbers[taxon] for taxon in taxa])
    group = np.unique([after.groups[j] for j in new], return_inverse=True)[1]
    asked = {"before": was, "after": now, "difference": now - was, "lost": was > now, "won": now > was}
    questions: Asked = {(name,): (values.astype(np.float64), classes) for name, values in asked.items()}
    rows = [
        _row(taxon, np.flatnonzero(classes == number), before, after, old, new, group)
        for taxon, number in numbers.items()
        if taxon is not None
    ]
    false = paired.corrected(np.array([row.p for row in rows]), np.array([row.changed for row in rows]))
    added = [row for key, row in second.items() if key not in first and not np.isnan(after.right[row])]
    return Comparison(
        before=before,
        after=after,
        overall=estimate(questions, group, *after.resampling),
        p=paired.sign_test(now - was, group)[2],
        rows=[replace(row, q=float(q)) for row, q in zip(rows, false, strict=True)],
        only=(len(first) - len(both), len(second) - len(both)),
        relabelled=len(pairs) - len(same),
        new=(float(after.right[added].mean()), len(added), len({after.taxa[row] for row in added})) if added else None,
    )


def _row(
    taxon: TaxonPath, mine: np.ndarray, before: Side, after: Side, old: np.ndarray, new: np.ndarray, group: np.ndarray
) -> Row:
    """One taxon; ``mine``: places of its photographs in ``old`` and ``new``, which are rows of the two sides."""
    was, now = before.right[old[mine]], after.right[new[mine]]
    better, worse, p = paired.sign_test(now - was, np.unique(group[mine], return_inverse=True)[1])
    gave, gives = (Counter(side.answers[row] for row in rows[mine]) for side, rows in ((before, old), (after, new)))
    more = {answer: n - gave[answer] for answer, n in gives.items() if answer and answer != taxon and n > gave[answer]}
    return Row(
        taxon=taxon,
        common=after.common.get(taxon),
        photographs=len(mine),
        observations=len(np.unique(group[mine])),
        before=int(was.sum()),
        after=int(now.sum()),
        lost=int((was > now).sum()),
        won=int((now > was).sum()),
        changed=better + worse,
        p=p,
        appeared=sorted(more.items(), key=lambda item: (-item[1], scientific_name(item[0]))),
        q=np.nan,
    )


# ---- in words


def summary(comparison: Comparison, variant: str, rank: str, file: Path | None) -> str:
    """The text that the command prints."""
    before, after, overall = comparison.before, comparison.after, comparison.overall
    p_value = f"{comparison.p:.2g}"
    n = count_of(overall["difference"]["n_images"], "photograph")
    kinds = count_of(overall["difference"]["n_classes"], rank, "species" if rank == "species" else "taxa")
    lines = [
        f"{LABELS.get(variant, variant)}, {rank}: {_in_full(before)} -> {_in_full(after)}",
        "",
        f"compared on {n} of {kinds} that both have (only {before.name}: {comparison.only[0]:,}; only {after.name}: "
        f"{comparison.only[1]:,})",
    ]
    if comparison.relabelled:
        lines.append(f"left out, because their label has changed: {count_of(comparison.relabelled, 'photograph')}")
    if before.leaves != after.leaves:
        lines.append(
            f"the lists of taxa differ: {len(before.leaves):,} -> {len(after.leaves):,} to choose among "
            f"({len(after.leaves - before.leaves):,} new, {len(before.leaves - after.leaves):,} gone): the same "
            "photographs, but not the same question"
        )
    difference = overall["difference"]
    lines += [
        f"right: {percent(overall['before']['value'])} % -> {percent(overall['after']['value'])} %, "
        f"{points(difference['value'])} points"
        + bracket("95 % interval ", points_interval(difference), f"; sign test over observations p = {p_value}"),
        f"right before and wrong now: {percent(overall['lost']['value'])} %; the other way: "
        f"{percent(overall['won']['value'])} %",
    ]
    if comparison.new:
        right, images, taxa = comparison.new
        lines.append(
            f"of {count_of(images, 'photograph')} of {count_of(taxa, 'taxon', 'taxa')} that only {after.name} has, "
            f"{percent(right)} % are right"
        )
    better = sorted((row for row in comparison.rows if row.won > row.lost), key=_by_weight)
    worse = sorted((row for row in comparison.rows if row.lost > row.won), key=_by_weight)
    for title, rows in (("worse", worse), ("better", better)):
        lines += ["", f"{title}: {len(rows):,} of {kinds}", *_table(rows)]
        if len(rows) > _SHOWN:
            lines.append(f"and {len(rows) - _SHOWN} more" + ("" if file else "; --csv FILE writes all of them"))
    lines += [
        "",
        "q: share of false alarms among taxa at least as sure (exact sign test over observations, Benjamini and",
        f"Hochberg's correction); * up to {paired.ALPHA:g}; - fewer than {paired.AT_LEAST} observations changed, too "
        "few to tell",
    ]
    return "\n".join(lines) + "\n"


def _in_full(side: Side) -> str:
    known = side.commit is None or side.commit.startswith(side.name)
    return side.name if known else f"{side.name} ({str(side.commit)[:7]})"


def _by_weight(row: Row) -> tuple[Any, ...]:
    return not _sure(row), -abs(row.won - row.lost), row.p, scientific_name(row.taxon)


def _sure(row: Row) -> bool:
    return row.q <= paired.ALPHA


def _table(rows: Sequence[Row]) -> list[str]:
    """Lines of columns. The taxa that a taxon is now mistaken for stand last, since they may be long."""
    if not rows:
        return []
    cells: list[tuple[str, ...]] = [("", "n", "right", "lost", "won", "q", "mistakes that appeared")]
    for row in rows[:_SHOWN]:
        more = [f"{scientific_name(taxon)} ({n})" for taxon, n in row.appeared[:_MISTAKES]]
        doubt = "-" if np.isnan(row.q) else f"{row.q:.2g}{'*' if _sure(row) else ''}"
        counts = (row.photographs, f"{row.before} -> {row.after}", row.lost, row.won, doubt)
        cells.append((_name(row), *map(str, counts), ", ".join(more)))
    widths = [max(len(line[column]) for line in cells) for column in range(6)]
    return [
        "  ".join(
            [
                f"{line[0]:{widths[0]}}",
                *(f"{value:>{width}}" for value, width in zip(line[1:6], widths[1:], strict=True)),
                line[6],
            ]
        ).rstrip()
        for line in cells
    ]


def _name(row: Row) -> str:
    return scientific_name(row.taxon) + (f" ({row.common})" if row.common else "")


def _write(path: Path, rows: Sequence[Row]) -> None:
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in sorted(rows, key=lambda row: tuple(name or "" for name in row.taxon)):
            numbers = [getattr(row, name) for name in _COUNTS]
            appeared = "; ".join(f"{scientific_name(taxon)} ({n})" for taxon, n in row.appeared)
            q = "" if np.isnan(row.q) else f"{row.q:.6g}"
            names = [name or "" for name in row.taxon]
            writer.writerow((*names, row.common or "", *numbers, f"{row.p:.6g}", q, appeared))
