"""Metrics of embedding geometry: correlation with the taxonomy, and retrieval by text."""

from collections.abc import Iterable, Sequence

import numpy as np

from bioclip_lite.metrics.tree import heights
from bioclip_lite.utils.randomness import digest


def pairs(leaves: np.ndarray, names: Sequence[str], node_of_leaf: np.ndarray, most: int) -> tuple[np.ndarray, ...]:
    """Pairs of different leaves, at most ``most`` for each height of their lowest common ancestor.

    Args:
        leaves: int [m], different leaves.
        names: [m], what decides who is drawn: the same pairs whatever the order, and a further leaf changes few.
        node_of_leaf: int [7, C].
        most: pairs of a height.

    Returns:
        (first, second, height, there are): int64 [p] places in ``leaves``, float64 [p] (``tree.heights``), and int64
        [8], how many pairs of each height there are.
    """
    # The product of two odd numbers drawn by lot is one drawn by lot, and does not ask which comes first.
    lots = np.array([digest("pair", name) | 1 for name in names], dtype=np.uint64)
    first, second = (places.astype(np.int32) for places in np.triu_indices(len(leaves), 1))
    height = np.empty(len(first), dtype=np.int8)
    start = 0
    for place in range(len(leaves) - 1):
        stop = start + len(leaves) - 1 - place
        height[start:stop] = heights(leaves[None, place + 1 :], leaves[place : place + 1], node_of_leaf)[0]
        start = stop
    drawn = []
    for at in range(8):
        here = np.flatnonzero(height == at)
        drawn.append(here[np.argsort(lots[first[here]] * lots[second[here]], kind="stable")[:most]])
    kept = np.concatenate(drawn)
    there_are = np.bincount(height, minlength=8)
    return first[kept].astype(np.int64), second[kept].astype(np.int64), height[kept].astype(np.float64), there_are


def rank_correlation(a: np.ndarray, b: np.ndarray, weights: Iterable[np.ndarray]) -> np.ndarray:
    """Spearman's correlation, as if each pair of values stood there as often as it weighs; ties share their ranks.

    Args:
        a, b: float [p].
        weights: some of [p] each, not negative.

    Returns:
        float64, one for each of ``weights``; NaN where a or b does not vary.
    """
    found = []
    ties = [np.unique(values, return_inverse=True)[1].reshape(-1) for values in (a, b)]
    for weight in weights:
        centred = []
        for tie in ties:
            mass = np.bincount(tie, weight)
            centred.append((np.cumsum(mass) - mass / 2 - mass.sum() / 2)[tie])  # mean rank, less the mean of all ranks
        x, y = centred
        spread = np.sqrt((weight * x * x).sum() * (weight * y * y).sum())
        found.append((weight * x * y).sum() / spread if spread > 0 else np.nan)
    return np.array(found, dtype=np.float64)


def places_of_own(similarity: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Place of the nearest of what belongs to each query, 0 for the nearest of all.

    What does not belong to it and is as near comes first, so that embeddings that are all alike find nothing.

    Args:
        similarity: float [queries, answers].
        own: bool of the same shape; each query has at least one.

    Returns:
        int64 [queries]. The share of them below k is recall at k.
    """
    best = np.where(own, similarity, -np.inf).max(axis=1, keepdims=True)
    found: np.ndarray = (~own & (similarity >= best)).sum(axis=1)
    return found


def chance(own: np.ndarray, answers: int, k: int) -> float:
    """Recall at k of answers in an order drawn by lot; ``own``: int [queries], how many of them belong to each."""
    missed = np.ones(len(own))
    for place in range(min(k, answers)):
        missed *= np.maximum(answers - own - place, 0) / (answers - place)
    return float(1 - missed.mean())
