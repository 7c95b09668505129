"""From one value per image to one number with its interval, for every variant, rank and stratum."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bioclip_lite.metrics import bootstrap
from bioclip_lite.metrics.reliability import expected_error
from bioclip_lite.taxa.taxonomy import RANKS

Columns = Mapping[str, np.ndarray]
Asked = dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]]  # name -> values, classes
Question = tuple[tuple[str, ...], np.ndarray, np.ndarray]  # name, values, classes
Strata = Mapping[tuple[str, ...], np.ndarray]  # name -> bool [n]
COMPARED = ("top1", *RANKS[:-1])
HEIGHTS = range(1, len(RANKS) + 1)
_AT_ONCE = 8  # questions


def summarise(
    scores: Mapping[str, Columns],
    truth_nodes: np.ndarray,
    group: np.ndarray,
    strata: Strata,
    references: tuple[str, ...],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Accuracies of all variants on the same images and the same resamples.

    Args:
        scores: ``scoring.judge_columns`` of each variant, rows in one order. They are asked for one by one, so that a
            mapping may read them as they are wanted.
        truth_nodes: int [n, 7], the node of each image's label at each rank; -1 where it has no name.
        group: int [n], images with one number are resampled together.
        strata: images that are also looked at on their own; of them, those known to species are asked.
        references: the variants that others are compared with; agreement is with the first.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Returns:
        For every variant: "top1", "top5", "per_rank", "strata", "hierarchy", "calibration", "difference_to",
        "flips_to" and "agreement_with_<reference>". Each number is {"value", "ci95", "n_images", "n_classes"}, a
        per-rank one with a "macro" average over classes; "value" is None where no image counts, "ci95" where fewer
        than two groups do.
    """
    compared = {name: _compared(scores[name]) for name in references}
    summary: dict[str, dict[str, Any]] = {}
    for variant in scores:
        score = scores[variant]
        others = {name: compared[name] for name in references if name != variant}
        asked = _asked(score, others, truth_nodes, strata)
        if variant != references[0]:
            same = (f"agreement_with_{references[0]}",), _same(score, compared[references[0]]), truth_nodes[:, -1]
            asked = itertools.chain(asked, [same])
        summary[variant] = estimate(asked, group, resamples, seed)
        _calibration(summary[variant], score, truth_nodes, group, resamples, seed)
        compared.setdefault(variant, _compared(score))
    for rank, name in enumerate(RANKS):
        values, classes = [compared[variant][name] for variant in summary], truth_nodes[:, rank]
        macros = macro_averages(values, classes, group, resamples, seed)
        for row, macro in zip(summary.values(), macros, strict=True):
            row["per_rank"][name]["macro"] = macro
    return summary


def _compared(score: Columns) -> dict[str, np.ndarray]:
    """What other variants are compared with, in fewer bytes: all variants are held at once."""
    right = {name: score[name].astype(np.float32) for name in (*COMPARED, RANKS[-1])}
    return {**right, "answer": score["answer"].astype(np.int32)}


def agreement(
    scores: Mapping[str, Columns],
    variant: str,
    others: Sequence[str],
    truth_nodes: np.ndarray,
    group: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The share of images to which a variant and each of ``others`` give the same answer, right or wrong.

    Arguments and numbers as of ``summarise``; the names are "agreement_with_<other>".
    """
    own = scores[variant]
    asked: Asked = {(f"agreement_with_{other}",): (_same(own, scores[other]), truth_nodes[:, -1]) for other in others}
    return estimate(asked, group, resamples, seed)


def _same(score: Columns, other: Columns) -> np.ndarray:
    return (score["answer"] == other["answer"]).astype(np.float64)


def _asked(
    score: Columns, others: Mapping[str, Columns], truth_nodes: np.ndarray, strata: Strata
) -> Iterator[Question]:
    """The questions to one variant, one by one."""
    species = truth_nodes[:, RANKS.index("species")]
    wrong = score["top1"] == 0
    yield ("top1",), score["top1"], species
    yield ("top5",), score["top5"], species
    yield ("hierarchy", "ahd_at_1"), score["height"], species
    yield ("hierarchy", "ahd_at_5"), score["height5"], species
    yield ("hierarchy", "severity"), np.where(wrong, score["height"], np.nan), species
    for rank, name in enumerate(RANKS):
        yield ("per_rank", name), score[name], truth_nodes[:, rank]
    for stratum, members in strata.items():
        for question in ("species", "family"):
            inside = np.where(members & ~np.isnan(score["top1"]), score[question], np.nan)
            yield ("strata", *stratum, question), inside, species
    for reference, other in others.items():
        for question in COMPARED:
            rank = RANKS.index(question) if question in RANKS else RANKS.index("species")
            yield ("difference_to", reference, question), score[question] - other[question], truth_nodes[:, rank]
        for flip, lost in _flips(score, other):
            yield ("flips_to", reference, *flip), lost, species


def _flips(score: Columns, other: Columns) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Images where only the reference is right (negative), by height of the error, or only the variant (positive)."""
    known = ~np.isnan(score["top1"])
    negative = (other["top1"] == 1) & (score["top1"] == 0)
    yield ("negative",), np.where(known, negative, np.nan)
    yield ("positive",), np.where(known, (other["top1"] == 0) & (score["top1"] == 1), np.nan)
    for height in HEIGHTS:
        yield ("negative_by_height", str(height)), np.where(known, negative & (score["height"] == height), np.nan)


def label_numbers(truth_nodes: np.ndarray) -> np.ndarray:
    """A number of each label, int64 [n], from its nodes [n, 7]: equal where labels are; -1 without one."""
    named = truth_nodes >= 0
    rank = len(RANKS) - 1 - named[:, ::-1].argmax(axis=1)
    lowest = np.take_along_axis(truth_nodes, rank[:, None], axis=1)[:, 0]
    return np.where(named.any(axis=1), lowest * len(RANKS) + rank, -1)


def estimate(asked: Asked | Iterable[Question], group: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """The mean of each question's values over the images that count, as a tree of names.

    Questions may come from an iterator: some are answered at a time, so that their values are not all in memory.
    """
    draws = bootstrap.draws(int(group.max()) + 1, resamples, seed, "bootstrap")
    questions = ((name, *of) for name, of in asked.items()) if isinstance(asked, dict) else iter(asked)
    tree: dict[str, Any] = {}
    while some := list(itertools.islice(questions, _AT_ONCE)):
        values = np.stack([values for _, values, _ in some], axis=1, dtype=np.float64)
        resampled = bootstrap.means(values, group, draws)
        for column, (path, value, classes) in enumerate(some):
            counted = ~np.isnan(value)
            row = {
                "value": number(values[counted, column].mean() if counted.any() else np.nan),
                "ci95": interval(resampled[:, column], group[counted]),
                "n_images": int(counted.sum()),
                "n_classes": _classes(classes, counted),
            }
            _place(tree, path, row)
    return tree


def ratios(
    common: np.ndarray, answered: np.ndarray, true: np.ndarray, classes: np.ndarray, group: np.ndarray,
    resamples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Hierarchical precision, recall and their harmonic mean from ``tree.overlap``, each float [n]."""
    sums = np.stack([common, answered, true], axis=1)
    counts = bootstrap.draws(int(group.max()) + 1, resamples, seed, "bootstrap")
    rows = {}
    whole, resampled = _ratios(sums.mean(axis=0)[None]), _ratios(bootstrap.means(sums, group, counts))
    for column, name in enumerate(("precision", "recall", "f")):
        rows[name] = {
            "value": number(whole[0, column]),
            "ci95": interval(resampled[:, column], group),
            "n_images": len(group),
            "n_classes": _classes(classes, np.ones(len(group), dtype=bool)),
        }
    return rows


def _ratios(means: np.ndarray) -> np.ndarray:
    """hP, hR, hF [rows, 3] of mean overlaps [rows, 3]; NaN for the precision of no answer."""
    with np.errstate(invalid="ignore", divide="ignore"):
        common, answered, true = means.T
        return np.stack([common / answered, common / true, 2 * common / (answered + true)], axis=1)


def _calibration(
    row: dict[str, Any], score: Columns, truth_nodes: np.ndarray, group: np.ndarray, resamples: int, seed: int
) -> None:
    """Add NLL and ECE before and after the temperature."""
    labels = label_numbers(truth_nodes)
    asked: Asked = {("before",): (score["nll_raw"], labels), ("after",): (score["nll"], labels)}
    confidence = np.stack([score["probability_raw"], score["probability"]], axis=1)
    whole = expected_error(confidence, score["top1"], np.zeros_like(group), np.ones((1, 1), dtype=np.int64))[0]
    draws = bootstrap.draws(int(group.max()) + 1, resamples, seed, "bootstrap")
    resampled = expected_error(confidence, score["top1"], group, draws)
    counted = ~np.isnan(score["top1"])
    row["calibration"] = {
        "nll": estimate(asked, group, resamples, seed),
        "ece": {
            when: {
                "value": number(whole[column]),
                "ci95": interval(resampled[:, column], group[counted]),
                "n_images": int(counted.sum()),
                "n_classes": _classes(truth_nodes[:, -1], counted),
            }
            for column, when in enumerate(("before", "after"))
        },
    }


def macro_averages(
    values: list[np.ndarray], classes: np.ndarray, group: np.ndarray, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """The macro average of each of several variants at one rank: every class weighs the same."""
    counts = bootstrap.draws(int(group.max()) + 1, resamples, seed, "bootstrap")
    resampled = bootstrap.class_means(np.stack(values, axis=1), classes, group, counts)
    known = group[classes >= 0]
    return [
        {"value": number(bootstrap.class_mean(value, classes)), "ci95": interval(resampled[:, column], known)}
        for column, value in enumerate(values)
    ]


def _classes(classes: np.ndarray, counted: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(classes[counted & (classes >= 0)])))  # faster than sorting them


def interval(resampled: np.ndarray, group: np.ndarray) -> list[float] | None:
    """The central 95 % of ``resampled``, rounded; None for a single group, which has no variance."""
    several = len(group) > 0 and group.min() != group.max()
    found = bootstrap.interval(resampled) if several else None
    return None if found is None else [round(found[0], 6), round(found[1], 6)]


def number(value: float) -> float | None:
    """A value as metrics.json holds it."""
    return None if np.isnan(value) else round(float(value), 6)


def _place(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
