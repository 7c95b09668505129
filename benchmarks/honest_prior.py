"""Measure a prior of place and month, thresholds of a site, and observations: ``python benchmarks/honest_prior.py``.

    PYTHONPATH=workflow python benchmarks/honest_prior.py [--data data] [--draws 200]

Reads a finished run of the built-in sample and writes benchmarks/honest_prior.md. Its photographs are drawn and have no
place, so ranges are made up: each species lives in a square of 6 degrees, the species of a genus by turns in the same
square and in one of their own, and is seen for four months. Test photographs are lent places by occurrences that the
prior has not counted.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from memory_format import processor

from bioclip_lite.evaluation import predictions
from bioclip_lite.metrics import calibration, site
from bioclip_lite.metrics.ranks import capped, softmax
from bioclip_lite.photographs.shards import descriptions, shard_names
from bioclip_lite.sources.occurrences import Occurrence
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, replacing
from bioclip_lite.utils.randomness import generator
from bioclip_lite.web import confidence, prior_fitting
from bioclip_lite.web import prior as place_prior
from bioclip_lite.web.parent import Parent, read_parent
from bioclip_lite.web.prior_fitting import Counted, Seen

OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# Honest answers: place, month, site and observations"
SEEDS = (0, 1, 2)  # of the ranges
EACH = 150  # occurrences of a species


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--draws", type=int, default=200, help="of calibration photographs (default: 200)")
    options = parser.parse_args()
    try:
        check_file(OUTPUT, TITLE)
        text = "\n\n".join([TITLE, prior(options), recalibration(options), observations(options), NOTES])
    except UserError as error:
        print(f"honest_prior: {error}", file=sys.stderr)
        return 1
    print(text)
    with replacing(OUTPUT) as scratch:
        scratch.write_text(text)
    return 0


def prior(options: argparse.Namespace) -> str:
    """The table, a row for each seed of the ranges, and how often the promise is broken."""
    parent = read_parent(options.data / "convert" / "tfjs")
    calibrated = confidence.read(
        options.data / "convert" / confidence.FILE, parent.weights_sha256, parent.width
    )  # fmt: skip
    tested = test_photographs(options.data)
    rows, broken = [], []
    for seed in SEEDS:
        counted = prior_fitting.count(occurrences(list(parent.entries), seed), list(parent.entries), Counter())
        some, test = (prior_fitting.place_photographs(parent, one, counted, "") for one in (calibrated, tested))
        about, content, _ = prior_fitting.fit(parent, some, counted)
        rows.append(row_of(seed, parent, test, about, content))
        broken.append(broken_promises(parent, some, test, counted, options.draws if seed == SEEDS[0] else 0))
    return "\n".join(
        [
            f"Built-in sample, web model, {len(parent.entries)} taxa, {len(calibrated.keys)} calibration and "
            f"{len(tested.keys)} test photographs; made-up ranges. In %. {processor()}.",
            "",
            "| ranges | cells | weight | floor | bytes | species right: without, with | out of range: without, with | "
            "answers right: without, with, out of range | answered: without, with |",
            "|---" * 9 + "|",
            *rows,
            "",
            f"In {broken[0]} of {options.draws} draws of calibration photographs, weight and thresholds fitted anew on "
            f"each, fewer than {calibration.LEVEL:.0%} of the answers to all photographs with a place were right. The "
            "promise allows 10 % of the draws.",
        ]
    )


def recalibration(options: argparse.Namespace) -> str:
    """Count how often thresholds that are fitted again on few confirmed answers break the promise."""
    parent = read_parent(options.data / "convert" / "tfjs")
    tested, leaves = test_photographs(options.data), list(parent.entries)
    logits = parent.about["logit_scale"] * tested.embeddings @ store.decode(parent.integers, parent.scales).T
    nodes = calibration.nodes_of(leaves)
    share, node = calibration.best_nodes(softmax(logits / parent.about["temperature"]), nodes)
    lowest, answered = (
        calibration.lowest(share, limits)
        for limits in (dict.fromkeys(RANKS, site.LEAST), parent.about["thresholds"]["ranks"])
    )
    everything = [
        site.Confirmed(
            leaves[int((nodes[at] == node[row, at]).argmax())][: at + 1], share[row, : at + 1].tolist(), own, label
        )
        for row, (at, own, label) in enumerate(zip(lowest.tolist(), answered.tolist(), tested.taxa, strict=True))
    ]
    first = calibration.first_of_each(tested.observations)
    lines = ["| confirmed | promise broken | no thresholds | answered with them, median |", "|---" * 4 + "|"]
    for size in (60, 100, 200):
        found = [
            site.recalibrate(
                [everything[row] for row in first[generator("site", size, draw).integers(len(first), size=size)]]
            )
            for draw in range(options.draws)
        ]
        limits = [one["threshold"] for one in found if one["threshold"] is not None]
        given = [calibration.lowest(share[first], dict.fromkeys(RANKS, limit)) for limit in limits]
        rows = [everything[row] for row in first]
        right = [
            site.counted(
                np.array([site.judge(one, rank) if rank >= 0 else np.nan for one, rank in zip(rows, at, strict=True)])
            )
            for at in given
        ]
        broken = sum(one["right"] < calibration.LEVEL * one["of"] for one in right)
        share_of = np.median([(at >= 0).mean() for at in given]) if given else np.nan
        lines.append(
            f"| {size} | {100 * broken / options.draws:.1f} | {100 * (1 - len(limits) / options.draws):.1f} | "
            f"{100 * share_of:.1f} |"
        )
    return (
        f"Thresholds of a site: confirmed answers drawn from {len(first)} observations of the test photographs, "
        f"{options.draws} draws each. In %.\n\n" + "\n".join(lines)
    )


def observations(options: argparse.Namespace) -> str:
    """Compare answers to photographs alone with one answer to all photographs of an observation."""
    parent = read_parent(options.data / "convert" / "tfjs")
    calibrated = confidence.read(options.data / "convert" / confidence.FILE, parent.weights_sha256, parent.width)
    tested, leaves = test_photographs(options.data), list(parent.entries)
    members: dict[str | None, list[int]] = {}
    for row, observation in enumerate(tested.observations):
        members.setdefault(observation, []).append(row)
    several = [rows for rows in members.values() if len(rows) > 1]
    alone = np.concatenate(several)
    logits, known = (
        parent.about["logit_scale"] * some.embeddings @ store.decode(parent.integers, parent.scales).T
        for some in (tested, calibrated)
    )
    asked = {
        "each photograph alone": (logits[alone], [tested.taxa[row] for row in alone]),
        "all of an observation": (
            np.stack([logits[rows].mean(axis=0) for rows in several]),
            [tested.taxa[rows[0]] for rows in several],
        ),
    }
    nodes, truth_known = calibration.nodes_of(leaves), calibration.place(calibrated.taxa, leaves)
    first = calibration.first_of_each(calibrated.observations)
    lines = [
        "| asked | answers | species right | answered | answers right | answered to the species | promise broken |",
        "|---" * 7 + "|",
    ]
    for name, (scores, taxa) in asked.items():
        probabilities = softmax(scores / parent.about["temperature"])
        truth = calibration.place(taxa, leaves)
        share, node = calibration.best_nodes(probabilities, nodes)
        lowest = calibration.lowest(share, parent.about["thresholds"]["ranks"])
        right = calibration.judge(lowest, calibration.chosen(node, lowest), truth, nodes)
        broken = 0
        for draw in range(options.draws):
            rows = first[generator("observations", draw).integers(len(first), size=len(first))]
            own = calibration.best_nodes(softmax(known[rows] / parent.about["temperature"]), nodes)
            limits = calibration.fit_reduced(*own, truth_known[rows], nodes, calibration.LEVEL)
            at = calibration.lowest(share, limits)
            judged = calibration.judge(at, calibration.chosen(node, at), truth, nodes)
            broken += bool((~np.isnan(judged)).any() and np.nanmean(judged) < calibration.LEVEL)
        named = node[:, -1] == truth[:, -1]
        figures = (named, lowest >= 0, right[lowest >= 0], lowest == len(RANKS) - 1)
        lines.append(
            f"| {name} | {len(taxa)} | {' | '.join(f'{100 * np.nanmean(of):.1f}' for of in figures)} | "
            f"{100 * broken / options.draws:.1f} |"
        )
    return (
        f"Several photographs: {len(several)} observations of split test with {len(alone)} photographs, thresholds of "
        f"single calibration photographs; {options.draws} draws of these for the promise. In %.\n\n" + "\n".join(lines)
    )


def occurrences(leaves: Sequence[TaxonPath], seed: int) -> list[Occurrence]:
    """EACH occurrences of every species."""
    found = []
    for number, leaf in enumerate(leaves):
        own = generator("range", seed, leaf[5] if number % 2 else leaf)
        south, west, first = own.uniform(-40, 40), own.uniform(-60, 60), int(own.integers(12))
        random = generator("occurrences", seed, leaf)
        for down, right, month in zip(
            random.random(EACH), random.random(EACH), random.integers(4, size=EACH), strict=True
        ):
            place = float(south + 6 * down), float(west + 6 * right)
            found.append(Occurrence(leaf, *place, int(first + month) % 12 + 1))
    return found


def test_photographs(data: Path) -> confidence.Photographs:
    """The photographs of split test as the web model sees them."""
    labels, shards = read_labels(data), shard_names(data, "test")
    made = predictions.read(data / "evaluate" / "predictions", ["tfjs"], shards)["tfjs"]
    about = {key: one for shard in shards for key, one in descriptions(data / "shard" / f"{shard}.tar")}
    seen = {key: row for keys, rows in made.embeddings() for key, row in zip(keys, rows, strict=True) if key in about}
    rows = labels.taxa.to_pylist()
    path_of: dict[str, TaxonPath] = {row["taxon_id"]: tuple(row[rank] for rank in RANKS) for row in rows}
    keys = sorted(seen)
    groups = [about[key]["group"] for key in keys]
    return confidence.Photographs(
        keys, groups, [path_of[about[key]["taxon_id"]] for key in keys], np.stack([seen[key] for key in keys])
    )


def row_of(seed: int, parent: Parent, test: Seen, about: dict[str, Any], content: bytes) -> str:
    leaves, temperature = list(parent.entries), parent.about["temperature"]
    nodes, truth = calibration.nodes_of(leaves), calibration.place(test.taxa, leaves)
    made = place_prior.decode(content, {"file": "", **about}, len(leaves))
    nothing = [None] * len(truth)
    plain = place_prior.combine(test.logits, temperature, nothing, 0.0)
    inside = place_prior.combine(test.logits, temperature, expected(made, test.inside), made.weight)
    outside = place_prior.combine(test.logits[test.away], temperature, expected(made, test.outside), made.weight)
    right = prior_fitting.right
    answers = [
        answered(plain, truth, parent, parent.about["thresholds"]["ranks"]),
        answered(inside, truth, parent, about["thresholds"]["ranks"]),
        answered(outside, truth[test.away], parent, about["thresholds"]["ranks"]),
    ]
    shares = [
        [right(plain, truth, nodes), right(inside, truth, nodes)],
        [right(plain, truth, nodes)[test.away], right(outside, truth[test.away], nodes)],
    ]
    cells = [
        *(str(seed), f"{about['cell']:g}", f"{about['weight']:g}", f"{about['floor']:g}", str(len(content))),
        *(" ".join(f"{100 * one.mean():.1f}" for one in pair) for pair in shares),
        " ".join(f"{100 * np.nanmean(one):.1f}" for one in answers),
        " ".join(f"{100 * (~np.isnan(one)).mean():.1f}" for one in answers[:2]),
    ]
    return f"| {' | '.join(cells)} |"


def expected(made: place_prior.Prior, some: Sequence[Occurrence]) -> list[place_prior.Expectation | None]:
    return [prior_fitting.expected(made, one) for one in some]


def answered(
    probabilities: np.ndarray, truth: np.ndarray, parent: Parent, thresholds: dict[str, float | None]
) -> np.ndarray:
    """Whether each answer is right, float [n]; NaN without an answer."""
    finest = [RANKS.index(entry.get("finest_rank", RANKS[-1])) for entry in parent.entries.values()]
    named = capped(calibration.nodes_of(list(parent.entries)), np.array(finest))
    rank, node = calibration.back_off(probabilities, named, thresholds)
    return calibration.judge(rank, node, truth, named)


def broken_promises(parent: Parent, some: Seen, test: Seen, counted: Counted, draws: int) -> int:
    """Draws with replacement of as many of all photographs as the split has, on which the promise is broken."""
    logits = np.concatenate([some.logits, test.logits])
    taxa, inside = [*some.taxa, *test.taxa], [*some.inside, *test.inside]
    away = np.concatenate([some.away, len(some.taxa) + test.away])
    outside = [*some.outside, *test.outside]
    first = calibration.first_of_each([*some.observations, *test.observations])
    truth, broken = calibration.place(taxa, list(parent.entries)), 0
    for draw in range(draws):
        rows = first[generator("draw", draw).integers(len(first), size=len(some.taxa))]
        far = [(n, at) for n, row in enumerate(rows) for at in np.flatnonzero(away == row)]
        one = Seen(
            logits[rows],
            [taxa[row] for row in rows],
            [None] * len(rows),
            [inside[row] for row in rows],
            np.array([n for n, _ in far], int),
            [outside[at] for _, at in far],
        )
        about, content, _ = prior_fitting.fit(parent, one, counted)
        made = place_prior.decode(content, {"file": "", **about}, len(parent.entries))
        places = [inside[row] for row in first]
        found = place_prior.combine(logits[first], about["temperature"], expected(made, places), made.weight)
        right = answered(found, truth[first], parent, about["thresholds"]["ranks"])
        broken += bool((~np.isnan(right)).any() and np.nanmean(right) < calibration.LEVEL)
    return broken


NOTES = """Read with it:

- Ranges are made up, for the drawn photographs of the sample have no place, and the real ones at hand state none. What
  a prior gains depends on how much the ranges of similar species overlap.
- Out of range: each photograph is lent up to four places at which the table has other species and not its own.
- The guarantee of the thresholds is for photographs in range; the share of right answers out of range is beside it.
- Observations: those with several photographs; none of the sample has more than two. They are not independent of the
  first table's photographs. Their thresholds are those of single photographs.
- A draw for the guarantee is with replacement from calibration and test photographs, and the share is counted on all.
"""


if __name__ == "__main__":
    sys.exit(main())
