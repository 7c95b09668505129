"""Metrics of back-off: how far down the tree a model answers, and how often its answers are correct."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from bioclip_lite.metrics import bootstrap
from bioclip_lite.metrics.calibration import LEVEL, Thresholds, chosen, fit_reduced, judge, lowest
from bioclip_lite.metrics.summary import (
    Columns,
    Question,
    Strata,
    estimate,
    interval,
    label_numbers,
    number,
    ratios,
)
from bioclip_lite.metrics.tree import overlap, specificity
from bioclip_lite.taxa.taxonomy import RANKS

# Of the operating curve: what could be promised instead.
LEVELS = (0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
# A taxon counts as mostly right if this share of its answers is, of this number or more.
MOSTLY, LEAST_ANSWERS = 0.9, 5
GRID = np.linspace(0, 1, 51)  # coverages at which a risk-coverage curve is written down
POINTS = 2**14  # of a risk-coverage curve that is resampled


def summarise(
    score: Columns,
    thresholds: Thresholds,
    truth_nodes: np.ndarray,
    node_of_leaf: np.ndarray,
    group: np.ndarray,
    strata: Strata,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The answers with given thresholds.

    Args:
        score: ``scoring.score`` of n images: "share" and "node".
        thresholds: as from ``calibration.fit_thresholds``.
        truth_nodes, node_of_leaf, group, resamples, seed: as in ``summary.summarise``.
        strata: images that are also looked at on their own.

    Returns:
        Numbers as in ``summary.summarise``: "right", of the answers whose rightness the label can tell; "answered",
        "specificity" and "answered_at" each rank, of all images; "right_at" each rank; "strata"; "hierarchy":
        precision, recall and f over the tree; "macro": as of ``macro``.
    """
    rank, node, right = _answers(score, thresholds, truth_nodes, node_of_leaf)
    labels = label_numbers(truth_nodes)
    answered = (rank >= 0).astype(np.float64)

    def asked() -> Iterator[Question]:
        yield ("right",), right, labels
        yield ("answered",), answered, labels
        yield ("specificity",), specificity(rank, node, node_of_leaf), labels
        for at, name in enumerate(RANKS):
            yield ("answered_at", name), (rank == at).astype(np.float64), labels
            yield ("right_at", name), np.where(rank == at, right, np.nan), labels
        for stratum, members in strata.items():
            yield ("strata", *stratum, "right"), np.where(members, right, np.nan), labels
            yield ("strata", *stratum, "answered"), np.where(members, answered, np.nan), labels

    found = estimate(asked(), group, resamples, seed)
    found["hierarchy"] = ratios(*overlap(rank, node, truth_nodes, node_of_leaf), labels, group, resamples, seed)
    found["macro"] = macro(right, truth_nodes, resamples, seed)
    return found


def macro(right: np.ndarray, truth_nodes: np.ndarray, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Figures in which every taxon counts alike, by rank: of species, and of genera.

    Asks taxa with LEAST_ANSWERS answers or more whose rightness the label can tell. An answer of any rank is right as
    in ``calibration.judge``, so a species may be mostly right by answers that stop at its genus.

    Args:
        right: float [n], 1 or 0; NaN where there is no answer or the label cannot tell.
        truth_nodes: as in ``summarise``.
        resamples, seed: of the bootstrap, which resamples taxa.

    Returns:
        "species" and "genus", each: "mostly_right", the share of the taxa for which MOSTLY or more of the answers are
        right; "mean", the mean over taxa of the share of right answers (the macro coverage of Ding et al., arXiv
        2507.06867); both as in ``summarise``; "n_left_out", the taxa with fewer answers.
    """
    found = {}
    for name in ("species", "genus"):
        share, answers, left_out = _shares(right, truth_nodes[:, RANKS.index(name)])
        values = np.stack([np.where(share >= MOSTLY, 1.0, 0.0), share], axis=1)
        each = np.arange(len(share))
        times = range(resamples if len(share) else 0)
        means = [bootstrap.draw(len(share), seed, "macro", name, time) @ values / len(share) for time in times]
        resampled = np.reshape(means, (-1, 2))
        numbers = {
            what: {
                "value": number(values[:, column].mean() if len(share) else np.nan),
                "ci95": interval(resampled[:, column], each),
                "n_images": answers,
                "n_classes": len(share),
            }
            for column, what in enumerate(("mostly_right", "mean"))
        }
        found[name] = {**numbers, "n_left_out": left_out}
    return found


def _shares(right: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, int, int]:
    """(share of right answers of each taxon with LEAST_ANSWERS, float [taxa]; number of their answers; other taxa)."""
    judged = ~np.isnan(right) & (classes >= 0)
    number_of = np.bincount(classes[judged])
    asked = number_of >= LEAST_ANSWERS
    share = np.bincount(classes[judged], right[judged])[asked] / number_of[asked]
    return share, int(number_of[asked].sum()), len(np.unique(classes[classes >= 0])) - int(asked.sum())


def operating_curve(
    fitted_on: Columns, fitted_truth: np.ndarray, score: Columns, truth_nodes: np.ndarray, node_of_leaf: np.ndarray
) -> dict[str, dict[str, Any]]:
    """The answers at each of LEVELS: thresholds fitted on one set of images, applied to the other.

    Args:
        fitted_on: "share" and "node" of the calibration images, one of each observation.
        fitted_truth: int [m, 7], their labels.
        score, truth_nodes, node_of_leaf: of the test images, as in ``summarise``.

    Returns:
        By level "0.95": shares of the test images: "answered", "specificity", one for each rank; "right", of the
        answers; "species_mostly_right" and "genus_mostly_right", of the taxa (``macro``). Without a level that no
        thresholds hold.
    """
    curve = {}
    for level in LEVELS:
        thresholds = fit_reduced(fitted_on["share"], fitted_on["node"], fitted_truth, node_of_leaf, level)
        if not promised(thresholds):
            continue
        rank, node, right = _answers(score, thresholds, truth_nodes, node_of_leaf)
        judged, taxa = right[~np.isnan(right)], macro(right, truth_nodes, 0, 0)
        curve[f"{level:.3f}".rstrip("0")] = {
            "right": round(float(judged.mean()), 6) if len(judged) else None,
            "answered": round(float((rank >= 0).mean()), 6),
            "specificity": round(float(specificity(rank, node, node_of_leaf).mean()), 6),
            **{name: round(float((rank == at).mean()), 6) for at, name in enumerate(RANKS)},
            **{f"{name}_mostly_right": row["mostly_right"]["value"] for name, row in taxa.items()},
        }
    return curve


@dataclass(frozen=True)
class RiskCoverage:
    """Every answer that n images get while one threshold for all ranks falls from above 1 to 0.

    Each event is one image's answer going one rank or more down the tree. Events are sorted by threshold, those of one
    threshold happen together.
    """

    image: np.ndarray  # int [events], the row of the image
    covered: np.ndarray  # float [events], by how much the image's coverage (``tree.specificity``) rises
    wronged: np.ndarray  # float [events], 1 if the answer becomes wrong, -1 if it becomes right, 0 if it stays
    last: np.ndarray  # int [points], the last event of each threshold

    def points(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coverage and risk, each float [1 + points], from no answer at all on; ``weight`` [n]: of each image."""
        weights = weight[self.image] / weight.sum()
        sums = (np.cumsum(change * weights)[self.last] for change in (self.covered, self.wronged))
        coverage, risk = (np.concatenate([[0.0], values]) for values in sums)
        return coverage, risk

    def area(self, weight: np.ndarray) -> float:
        """hAURC, by trapezoids."""
        coverage, risk = self.points(weight)
        return float(np.trapezoid(risk, coverage))

    def areas(self, group: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """hAURC in every resample, float64 [resamples]; NaN where a resample has none of the images.

        The curve is linear in the weights of the images, so its steps are a matrix product. A curve of more than POINTS
        thresholds is drawn through every n-th of them, which changes the seventh digit.

        Args:
            group: int [n], the group of each image.
            counts: ``bootstrap.draws``.
        """
        step = -(-len(self.last) // POINTS)
        point = np.searchsorted(self.last, np.arange(len(self.image))) // max(1, step)
        shape = (counts.shape[1], int(point.max(initial=-1)) + 1)
        place = group[self.image], point
        rises = (bootstrap.sparse_sums(csr_array((of, place), shape), counts) for of in (self.covered, self.wronged))
        weight = bootstrap.resampled_sums(np.bincount(group, minlength=shape[0])[:, None], counts)
        with np.errstate(invalid="ignore"):
            coverage, risk = (np.cumsum(rise, axis=1) / weight for rise in rises)
        start = np.zeros((len(counts), 1))
        found: np.ndarray = np.trapezoid(np.hstack([start, risk]), np.hstack([start, coverage]), axis=1)
        return found


def risk_coverage(score: Columns, truth_nodes: np.ndarray, node_of_leaf: np.ndarray) -> RiskCoverage:
    """The hierarchical risk-coverage curve (Goren et al., arXiv 2405.11533, section 3) of images known to species.

    Coverage is the mean specificity of the answers, risk the share of the images whose answer is wrong; no answer is
    the root of the tree, which is never wrong. The answers are those of ``calibration.lowest``, which above a threshold
    of one half are those of the paper's climbing rule.

    Args:
        score: ``scoring.score`` of n images known to species: "share" and "node".
        truth_nodes, node_of_leaf: as in ``summarise``.
    """
    share, node = score["share"], score["node"]
    n = len(share)
    # of each image: what its answer covers, and whether it is wrong, before the next event
    covers, wrong = np.zeros(n), np.zeros(n)
    events = []
    for rank in range(len(RANKS)):
        deeper = share[:, rank + 1 :].max(axis=1, initial=0.0)
        image = np.flatnonzero(share[:, rank] > deeper)  # else a lower rank is reached first, or at once
        at = np.full(len(image), rank)
        covered = specificity(at, node[image, rank], node_of_leaf)
        judged = 1 - judge(at, node[image, rank], truth_nodes[image], node_of_leaf)
        events.append((share[image, rank], image, covered - covers[image], judged - wrong[image]))
        covers[image], wrong[image] = covered, judged
    threshold, image, covered, wronged = (np.concatenate(column) for column in zip(*events, strict=True))
    order = np.argsort(-threshold, kind="stable")
    last = np.flatnonzero(np.diff(threshold[order], append=-1.0))
    return RiskCoverage(image[order], covered[order], wronged[order], last)


def area(
    score: Columns, truth_nodes: np.ndarray, node_of_leaf: np.ndarray, group: np.ndarray, resamples: int, seed: int
) -> dict[str, Any]:
    """hAURC, the area under ``risk_coverage``: 0 is best; a model that is never sure in vain comes close.

    Returns:
        "value", "ci95", "n_images", "n_classes", of images known to species; "risk": at each coverage of GRID.
    """
    known = ~np.isnan(score["top1"])
    if not known.any():
        return {"value": None, "ci95": None, "n_images": 0, "n_classes": 0, "risk": None}
    inside: Columns = {name: score[name][known] for name in ("share", "node")}
    curve = risk_coverage(inside, truth_nodes[known], node_of_leaf)
    once = np.ones(int(known.sum()))
    coverage, risk = curve.points(once)
    order = np.argsort(coverage, kind="stable")  # below one half an answer further down may cover less
    draws = bootstrap.draws(int(group.max()) + 1, resamples, seed, "bootstrap")
    resampled = curve.areas(group[known], draws)
    return {
        "value": number(curve.area(once)),
        "ci95": interval(resampled, group[known]),
        "n_images": len(once),
        "n_classes": len(np.unique(truth_nodes[known, -1])),
        "risk": [round(float(value), 6) for value in np.interp(GRID, coverage[order], risk[order])],
    }


def promised(thresholds: Thresholds) -> bool:
    """Whether there is a threshold at all."""
    return any(threshold is not None for threshold in thresholds.values())


def kept(right: Mapping[str, Any], level: float = LEVEL) -> bool | None:
    """Whether the answers to test images are consistent with the guarantee; None without an answer.

    Broken if even the upper end of the 95 % interval lies below ``level``: the promise is about all photographs, and
    a test set is a few of them.
    """
    if right["value"] is None:
        return None
    return bool(max(right["value"], right["ci95"][1] if right["ci95"] else 0.0) >= level)


def _answers(
    score: Columns, thresholds: Thresholds, truth_nodes: np.ndarray, node_of_leaf: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rank = lowest(score["share"], thresholds)
    node = chosen(score["node"], rank)
    return rank, node, judge(rank, node, truth_nodes, node_of_leaf)
