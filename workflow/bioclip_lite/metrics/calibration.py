"""Calibration: a temperature that makes probabilities honest, and thresholds that say how far down the tree to answer.

The answer to a photograph is the lowest rank whose best node has at least that rank's threshold of probability; if no
rank has, there is no answer. Both are fitted on split calibration, which nothing else has seen.

The promise of ``fit_thresholds``: with CONFIDENCE in the draw of the calibration photographs, at least LEVEL of all
answers, at whatever rank, are right. It is the fixed-sequence test of Learn then Test (Angelopoulos et al., arXiv
2110.01052, section 3) with an exact binomial tail, along thresholds that were laid out beforehand, careful ones first.
So it holds at any number of photographs and for any model, good or bad, for new photographs that are drawn like those
of the split: of the same species, by other observers. (It takes the temperature as given, which is one number fitted
on the same labels; benchmarks/backoff.md counts with it.) Conformal risk control (Angelopoulos et al., arXiv
2208.02814) would bound another thing, the share of wrong answers among all photographs, answered or not.

Trees are given as in ``labels``: ``node_of_leaf`` int [7, C], the number of the node above each leaf at each rank, -1
where a leaf has no name; ``truth_nodes`` int [n, 7] in the same numbers, -1 where a label has no name, -2 where it has
one that no leaf has. Where some taxa are never named below a rank of their own, ``named`` is ``ranks.capped`` of the
tree and stands in for ``node_of_leaf``. Such a taxon is answered at its finest rank by the threshold of that rank, with
the probability of all that are named by this node. Thresholds are fitted on the answers that are then given, so the
promise holds for them as for any others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import bdtr

from bioclip_lite.metrics.ranks import Grouping, capped, grouping, softmax, sum_groups
from bioclip_lite.metrics.temperature import fit_temperature
from bioclip_lite.metrics.tree import paths
from bioclip_lite.taxa.taxonomy import RANKS, Path, nodes_at

LEVEL = 0.95  # share of the answers that are right
CONFIDENCE = 0.9  # share of the draws of calibration photographs for which LEVEL holds
UNNAMED, UNLISTED = -1, -2  # in ``truth_nodes``

_AT_ONCE = 1_000_000  # probabilities in float64, several times over
Thresholds = Mapping[str, float | None]

# Careful ones first. One for all ranks: a threshold for each, from the model's own mean probabilities, answers no
# further down the tree (benchmarks/backoff.md). A node below the last, 0.5, is no answer; above it, those of all ranks
# lie on one path.
_CANDIDATES = np.round(1 - np.geomspace(1e-4, 0.5, 70), 4)


def calibrate(
    logits: np.ndarray,
    taxa: Sequence[Path],
    leaves: Sequence[Path],
    observations: Sequence[str | None],
    finest_rank: np.ndarray,
) -> dict[str, Any]:
    """Temperature and thresholds of one model as bundle.json lists them.

    Args:
        logits: float [n, C] of the calibration photographs.
        taxa: n paths, the photographs' labels.
        leaves: C paths, what the columns stand for.
        observations: n names; photographs of one observation are not independent, so the thresholds rest on the first
            of each. None stands alone.
        finest_rank: int [C], index of the lowest rank that an answer may have for each leaf.

    Returns:
        {"temperature": T, "thresholds": {"level", "confidence", "ranks": {rank: threshold or None}}}.
    """
    node_of_leaf, truth = nodes_of(leaves), place(taxa, leaves)
    temperature = fit_temperature(logits, truth, node_of_leaf)
    rows = first_of_each(observations)
    named = capped(node_of_leaf, finest_rank)
    best = [best_nodes(softmax(logits[some] / temperature), named) for some in in_blocks(rows, logits.shape[1])]
    share, node = (np.concatenate(part) for part in zip(*best, strict=True))
    ranks = fit_reduced(share, node, truth[rows], named, LEVEL)
    return {"temperature": temperature, "thresholds": {"level": LEVEL, "confidence": CONFIDENCE, "ranks": ranks}}


def nodes_of(leaves: Sequence[Path]) -> np.ndarray:
    """``node_of_leaf`` of a list of leaves, int64 [7, C]."""
    return np.stack([nodes_at(leaves, rank)[0] for rank in range(len(RANKS))])


def place(taxa: Sequence[Path], leaves: Sequence[Path]) -> np.ndarray:
    """``truth_nodes`` of labels among a list of leaves, int64 [n, 7]."""
    numbers = [{path: n for n, path in enumerate(nodes_at(leaves, rank)[1])} for rank in range(len(RANKS))]
    places = {
        path: [numbers[r].get(path[: r + 1], UNLISTED) if path[r] else UNNAMED for r in range(len(RANKS))]
        for path in set(taxa)
    }
    return np.array([places[path] for path in taxa], dtype=np.int64).reshape(-1, len(RANKS))


def first_of_each(observations: Sequence[str | None]) -> np.ndarray:
    """Rows of the first photograph of each observation, int64, rising."""
    first: dict[Any, int] = {}
    for row, name in enumerate(observations):
        first.setdefault(row if name is None else name, row)
    return np.array(list(first.values()), dtype=np.int64)


def in_blocks(rows: np.ndarray, taxa: int) -> list[np.ndarray]:
    """Rows, int64 [n], in blocks whose probabilities among ``taxa`` take 8 MB; one empty block where there are none."""
    step = max(1, _AT_ONCE // max(1, taxa))
    return [rows[start : start + step] for start in range(0, max(1, len(rows)), step)]


# ---- back-off


def best_nodes(probabilities: np.ndarray, named: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most probable node at each rank.

    Args:
        probabilities: float [n, C], rows summing to 1.
        named: see the module.

    Returns:
        (its summed probability, float64 [n, 7]; its number, int64 [n, 7]); 0 and -1 at a rank without a node, and
        where taxa that are not named at this rank are more probable than any node that is.
    """
    return best_of_groups(probabilities, [grouping(names) for names in named])


def best_of_groups(probabilities: np.ndarray, named: Sequence[Grouping]) -> tuple[np.ndarray, np.ndarray]:
    """``best_nodes`` for callers that ask again and again: ``named`` are its leaves, grouped rank by rank."""
    share = np.zeros((len(probabilities), len(RANKS)))
    node = np.full(share.shape, -1, dtype=np.int64)
    for rank, nodes in enumerate(named):
        summed = sum_groups(probabilities, nodes)
        if summed.shape[1]:
            best = nodes.names[summed.argmax(axis=1)]
            own = best < probabilities.shape[1]
            share[:, rank], node[:, rank] = np.where(own, summed.max(axis=1), 0), np.where(own, best, -1)
    return share, node


def back_off(probabilities: np.ndarray, named: np.ndarray, thresholds: Thresholds) -> tuple[np.ndarray, np.ndarray]:
    """The answer to each photograph: (index of its rank in RANKS, number of its node), int64 [n] each; -1: no answer.

    Arguments as for ``best_nodes``; ``thresholds`` as from ``fit_thresholds``.
    """
    share, node = best_nodes(probabilities, named)
    rank = lowest(share, thresholds)
    return rank, chosen(node, rank)


def lowest(share: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Index of the lowest rank whose ``share`` [n, 7] reaches its threshold, int64 [n]; -1: none does."""
    return _lowest(share, np.array([np.inf if t is None else t for t in (thresholds[rank] for rank in RANKS)]))


def _lowest(share: np.ndarray, limits: np.ndarray) -> np.ndarray:
    reached = share >= limits
    return np.where(reached.any(axis=1), len(RANKS) - 1 - reached[:, ::-1].argmax(axis=1), -1)


def chosen(node: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """The column ``rank`` [n] of each row of ``node`` [n, 7]; -1 where there is no answer."""
    return np.where(rank < 0, -1, np.take_along_axis(node, np.maximum(rank, 0)[:, None], axis=1)[:, 0])


def judge(rank: np.ndarray, node: np.ndarray, truth_nodes: np.ndarray, node_of_leaf: np.ndarray) -> np.ndarray:
    """Whether each answer is right, float64 [n]: 1, 0, or NaN without an answer or where the label cannot tell.

    An answer is right if the label is that node or lies below it. A label known to a family only cannot tell whether a
    species of that family is right, but one of another family is wrong.
    """
    depth = np.where(truth_nodes != UNNAMED, np.arange(len(RANKS)), -1).max(axis=1)
    path = paths(rank, node, node_of_leaf)
    compared = np.arange(len(RANKS)) <= np.minimum(rank, depth)[:, None]
    wrong = (compared & (path != truth_nodes)).any(axis=1)
    return np.where(rank < 0, np.nan, np.where(wrong, 0.0, np.where(depth >= rank, 1.0, np.nan)))


def fit_thresholds(
    probabilities: np.ndarray, truth_nodes: np.ndarray, named: np.ndarray, level: float
) -> dict[str, float | None]:
    """The threshold of each rank with which at least ``level`` of the answers are right (see the module).

    Rows are independent: one photograph per observation. Deterministic, whatever the order of rows; a higher level
    never gives a lower threshold.

    Args:
        probabilities: float [n, C] of the calibration photographs, at the fitted temperature.
        truth_nodes, named: see the module.
        level: between 0 and 1.

    Returns:
        By rank, the same number from 0.5 to 1; None where no taxon is named at the rank. All None if no candidate holds
        the promise: the model is bad, or there are too few photographs (with a level of 0.95, fewer than 45).
    """
    return fit_reduced(*best_nodes(probabilities, named), truth_nodes, named, level)


def lowest_kept(share: np.ndarray, right: Callable[[np.ndarray], np.ndarray], level: float) -> float | None:
    """The lowest threshold for all ranks with which the promise holds; None: none, or too few answers.

    Args:
        share: float [n, 7], probability of the best node at each rank.
        right: gives 1, 0 or NaN for each row's answer at its rank, int [n]; -1 is no answer.
    """
    found: float | None = None
    for candidate in _CANDIDATES.tolist():
        judged = right(_lowest(share, np.full(len(RANKS), candidate)))
        judged = judged[~np.isnan(judged)]
        # too few answers to show anything, even if all are right: that looks at no label, so the sequence stays fixed
        if level ** len(judged) > 1 - CONFIDENCE:
            continue
        if bdtr(float((judged == 0).sum()), len(judged), 1 - level) > 1 - CONFIDENCE:
            break
        found = candidate
    return found


def fit_reduced(
    share: np.ndarray, node: np.ndarray, truth_nodes: np.ndarray, named: np.ndarray, level: float
) -> dict[str, float | None]:
    """``fit_thresholds`` from ``best_nodes``, for callers that never hold all probabilities."""

    def right(rank: np.ndarray) -> np.ndarray:
        return judge(rank, chosen(node, rank), truth_nodes, named)

    found = lowest_kept(share, right, level)
    answerable = ((named >= 0) & (named < named.shape[1])).any(axis=1)
    return {RANKS[rank]: found if answerable[rank] else None for rank in reversed(range(len(RANKS)))}
