"""Answers that allow for photographs of what is not on the list: an unknown species, another group, no organism.

A model shares out all probability among the taxa of its list. Here the share of a node is multiplied by the probability
that the photograph shows something below a node of the list at this rank at all. A logistic function of the largest
logit gives it, one for each rank (Platt 1999, Probabilistic Outputs for Support Vector Machines, section 2): how near
the photograph is to any taxon. That tells photographs off the list apart better than the largest probability, the
energy of the logits and the distance to the mean of a class do (benchmarks/honest.md). Back-off then goes on as ever,
with thresholds of its own, so that an unknown species may get its genus or family. What is left over at a node is
another taxon below it, or none of these.

No photograph off the list is needed to fit this. The own taxon of some calibration photographs is hidden from the
model, as if the list lacked it: of a third of them the species, of a third the genus, and of a third all of their
group, the highest node that is not the whole list; to these last any name is wrong. A taxon that is hidden is easier to
miss than one that was never learned, because the photograph lies near its text and away from all others. So HIDDEN of
the photographs are hidden, though SHARE are expected. Trees are given as in ``calibration``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from bioclip_lite.metrics import calibration
from bioclip_lite.metrics.ranks import Grouping, grouping, softmax
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.randomness import uniform

SHARE = 0.2  # of the photographs are expected to show what is not on the list
HIDDEN = 0.5  # of the photographs while it is fitted
LISTED, SPECIES, GENUS, GROUP = range(4)  # what is hidden of a photograph: nothing, its species, genus or group
KINDS = {"species": SPECIES, "genus": GENUS, "group": GROUP}
PROBABLY = 0.5  # less than this at the lowest rank: probably not on the list
_SURE = (0.0, 20.0)  # slope and offset at a rank where nothing was off the list

Known = Mapping[str, Sequence[float]]  # slope and offset by rank


class Hidden(NamedTuple):
    """Photographs some of whose taxa the list is taken to lack."""

    kind: np.ndarray  # int8 [n], LISTED to GROUP
    rank: np.ndarray  # int64 [n], index of the rank of the node that is hidden; -1: none
    truth_nodes: np.ndarray  # int64 [n, 7], UNLISTED where no leaf of the node is left


def hidden(keys: Sequence[str], truth_nodes: np.ndarray, node_of_leaf: np.ndarray, share: float) -> Hidden:
    """Draw, by a hash of its key, what is hidden of each photograph.

    A photograph whose label does not reach the rank, or whose node is the whole list, keeps its taxon.

    Args:
        keys: n keys of photographs.
        truth_nodes: int [n, 7], their labels.
        node_of_leaf: int [7, C].
        share: of the photographs, HIDDEN or SHARE.
    """
    place = np.array([uniform("off_list", key) for key in keys]).reshape(-1)
    third = np.minimum(len(KINDS) * place, len(KINDS) * share) / max(share, 1e-9)
    kind = np.where(place < share, 1 + third.astype(np.int64), LISTED)
    species, genus = RANKS.index("species"), RANKS.index("genus")
    rank = np.select([kind == SPECIES, kind == GENUS, kind == GROUP], [species, genus, _group(node_of_leaf)], -1)
    sizes = [np.bincount(names[names >= 0], minlength=node_of_leaf.shape[1]) for names in node_of_leaf]
    under = np.stack([np.where(truth_nodes[:, r] < 0, 0, sizes[r][truth_nodes[:, r]]) for r in range(len(RANKS))], 1)
    own = np.take_along_axis(under, np.maximum(rank, 0)[:, None], axis=1)
    left = (rank >= 0) & (own[:, 0] > 0) & (own[:, 0] < node_of_leaf.shape[1])
    kind, rank = np.where(left, kind, LISTED).astype(np.int8), np.where(left, rank, -1)
    gone = (under <= own) & (truth_nodes != calibration.UNNAMED) & left[:, None] | (kind == GROUP)[:, None]
    return Hidden(kind, rank, np.where(gone, calibration.UNLISTED, truth_nodes))


def _group(node_of_leaf: np.ndarray) -> int:
    """Index of the highest rank with several nodes."""
    several = [len(np.unique(names[names >= 0])) > 1 for names in node_of_leaf]
    return several.index(True) if any(several) else len(RANKS) - 1


class Best(NamedTuple):
    """``calibration.best_nodes`` of n photographs, and their largest logit."""

    share: np.ndarray  # float64 [n, 7]
    node: np.ndarray  # int64 [n, 7]
    largest: np.ndarray  # float64 [n]


def among_others(
    best: Best,
    logits: np.ndarray,
    truth_nodes: np.ndarray,
    rank: np.ndarray,
    nodes: Sequence[Grouping],
    named: Sequence[Grouping],
    temperature: float,
) -> Best:
    """The best nodes without the leaves that are hidden.

    Args:
        best: with all leaves.
        logits: float [n, C].
        truth_nodes: int [n, 7], the labels as they are.
        rank: int [n], of ``hidden``.
        nodes, named: the leaves grouped by their nodes, and by what may name them (``scoring.Tree``).
    """
    rows = np.flatnonzero(rank >= 0)
    left = logits[rows].astype(np.float64)
    for row, at, label in zip(left, rank[rows], truth_nodes[rows], strict=True):
        row[nodes[at].under(label[at])] = -np.inf
    share, node, largest = (values.copy() for values in best)
    if len(rows):
        probabilities = softmax(left / temperature)
        share[rows], node[rows] = calibration.best_of_groups(probabilities, named)
        largest[rows] = left.max(axis=1)
    return Best(share, node, largest)


def known(function: Known, largest: np.ndarray) -> np.ndarray:
    """Probability that a photograph shows something below a node of the list at each rank, float64 [n, 7].

    Falls from the kingdom down, so that nodes stay at least as probable as those below them together.

    Args:
        function: slope and offset by rank, of ``fit``.
        largest: float [n], the largest logit.
    """
    each = np.stack([expit(slope * largest + offset) for slope, offset in (function[rank] for rank in RANKS)], axis=1)
    found: np.ndarray = np.minimum.accumulate(each, axis=1)
    return found


def fit(best: Best, truth_nodes: np.ndarray, named: np.ndarray) -> dict[str, Any] | None:
    """The functions of ``known`` and the thresholds of back-off among photographs some of which are off the list.

    Args:
        best: of n independent photographs, of ``among_others``.
        truth_nodes: int [n, 7], of ``hidden``.
        named: int [7, C], see ``calibration``.

    Returns:
        {"share", "level", "confidence", "known": {rank: [slope, offset]}, "ranks": {rank: threshold or None}}; None if
        no photograph is off the list, or all are.
    """
    off = np.maximum.accumulate(truth_nodes == calibration.UNLISTED, axis=1)
    if not 0 < off[:, -1].sum() < len(off):
        return None
    function = {rank: _logistic(best.largest, ~off[:, at]) for at, rank in enumerate(RANKS)}
    share = best.share * known(function, best.largest)
    ranks = calibration.fit_reduced(share, best.node, truth_nodes, named, calibration.LEVEL)
    promise = {"share": SHARE, "level": calibration.LEVEL, "confidence": calibration.CONFIDENCE}
    return {**promise, "known": function, "ranks": ranks}


def _logistic(score: np.ndarray, positive: np.ndarray) -> list[float]:
    """[slope, offset] to five digits, with Platt's targets, so that they are finite; the slope is not negative."""
    if positive.all():
        return [*_SURE]
    counts = positive.sum(), (~positive).sum()
    target = np.where(positive, (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2))
    mean, spread = score.mean(), max(score.std(), 1e-6)
    scaled = (score - mean) / spread

    def loss(values: np.ndarray) -> float:
        odds = values[0] * scaled + values[1]
        return float(np.mean(np.logaddexp(0, odds) - target * odds))

    start = np.array([1.0, np.log((counts[0] + 1) / (counts[1] + 1))])
    found = minimize(loss, start, method="L-BFGS-B", bounds=[(0, 20), (-20, 20)], options={"ftol": 1e-12})
    slope = found.x[0] / spread
    return [float(f"{value:.5g}") for value in (slope, found.x[1] - slope * mean)]


def calibrate(
    logits: np.ndarray,
    drawn: Hidden,
    truth_nodes: np.ndarray,
    node_of_leaf: np.ndarray,
    named: np.ndarray,
    temperature: float,
) -> dict[str, Any] | None:
    """``fit`` from the logits of independent calibration photographs, float [n, C]; ``drawn``: ``hidden`` of them."""
    nodes, may_name = ([grouping(names) for names in tree] for tree in (node_of_leaf, named))
    blocks = []
    for rows in calibration.in_blocks(np.arange(len(logits)), logits.shape[1]):
        some = logits[rows]
        best = Best(*calibration.best_of_groups(softmax(some / temperature), may_name), some.max(axis=1))
        blocks.append(among_others(best, some, truth_nodes[rows], drawn.rank[rows], nodes, may_name, temperature))
    return fit(Best(*map(np.concatenate, zip(*blocks, strict=True))), drawn.truth_nodes, named)


def answer(best: Best, fitted: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The answers of back-off: (index of the rank, -1: none; number of the node, -1: none; ``known``).

    Args:
        best: of n photographs.
        fitted: of ``fit``.
    """
    probable = known(fitted["known"], best.largest)
    rank = calibration.lowest(best.share * probable, fitted["ranks"])
    return rank, calibration.chosen(best.node, rank), probable
