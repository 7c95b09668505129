"""Choosing among names where several may be right, or among a few of them; and what guessing would give."""

import math
from collections.abc import Sequence

import numpy as np

from bioclip_lite.metrics.topk import places


def best_places(logits: np.ndarray, right: Sequence[Sequence[int]]) -> np.ndarray:
    """Place of the best of the right classes among all classes, 0 for the highest logit (``topk.places``).

    Args:
        logits: float [n, C], finite.
        right: for each image the columns that count as right, one at least.

    Returns:
        int64 [n].
    """
    most = max(map(len, right), default=1)
    # the last one again where an image has fewer
    columns = np.array([[*one, *[one[-1]] * (most - len(one))] for one in right], dtype=np.int64).reshape(-1, most)
    return np.min([places(logits, column) for column in columns.T], axis=0)


def choice(logits: np.ndarray, among: Sequence[Sequence[int]]) -> np.ndarray:
    """Float64 [n]: 1 where the first of some columns has the highest logit of them, 0 where not, a share of a draw.

    Args:
        logits: float [n, C], finite.
        among: for each image the columns that it is a choice among, the right one first.
    """
    most = max(map(len, among), default=1)
    columns = np.array([[*one, *[one[0]] * (most - len(one))] for one in among], dtype=np.int64).reshape(-1, most)
    asked = np.arange(most) < np.array([len(one) for one in among], dtype=np.int64)[:, None]
    values = np.where(asked, np.take_along_axis(logits, columns, axis=1), -np.inf)
    best = values == values.max(axis=1, keepdims=True)
    return best[:, 0] / best.sum(axis=1)


def chance(right: int, classes: int, k: int) -> float:
    """Probability that k of the classes, drawn without replacement, hold one of the right ones."""
    k = min(k, classes)
    return 1 - math.comb(classes - right, k) / math.comb(classes, k)
