"""Test whether one model is better than another on the same photographs, class by class."""

import numpy as np
from scipy.stats import binomtest, false_discovery_control

AT_LEAST = 6  # changed observations; with fewer, even all one way is no more than chance at 5 %: 2 / 2 ** 5 > 0.05
ALPHA = 0.05


def sign_test(change: np.ndarray, group: np.ndarray) -> tuple[int, int, float]:
    """Exact two-sided sign test over groups of photographs that belong together.

    Where each photograph is a group of its own, it is McNemar's exact test. Photographs of one group are not
    independent; groups are, and without a difference each is as likely to get better as worse.

    Args:
        change: float [n], 1 where an answer became right, -1 where it became wrong, 0 where neither.
        group: int [n], from 0 on.

    Returns:
        (groups that got better, groups that got worse, probability of at least such a difference by chance).
    """
    net = np.bincount(group, change) if len(group) else np.zeros(0)
    better, worse = int((net > 0).sum()), int((net < 0).sum())
    return better, worse, float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def corrected(p: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """The false discovery rate at which each class would be called changed (Benjamini and Hochberg 1995).

    Classes with fewer than AT_LEAST changed groups are not tested and do not count in the correction: whether a class
    has enough does not depend on which way its groups changed.

    Args:
        p: float [classes], from ``sign_test``.
        changed: int [classes], groups that got better or worse.

    Returns:
        float [classes]; NaN where not tested.
    """
    found = np.full(len(p), np.nan)
    tested = changed >= AT_LEAST
    if tested.any():
        found[tested] = false_discovery_control(p[tested], method="bh")
    return found
