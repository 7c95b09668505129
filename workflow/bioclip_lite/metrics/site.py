"""Fit thresholds again for a site, from answers that a person has confirmed there.

As in ``calibration``, whose promise it is, but for photographs like those of the site. What is known of an answer is
the best path of the model down the ranks, with a probability at each, and the taxon that a person gave, at any rank.
packages/react-bio-clip/src/core/site.ts computes the same.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import betaincinv

from bioclip_lite.metrics import calibration
from bioclip_lite.taxa.taxonomy import RANKS, Path

LEAST = 0.5  # probability below which no rank is answered, whatever the threshold


class Confirmed(NamedTuple):
    """A photograph whose answer a person has looked at."""

    best: Sequence[str | None]  # names from the kingdom down, as far as the model sees one in LEAST of the probability
    scores: Sequence[float]  # probability of each of them, 0 where the rank has none
    answered: int  # index of the rank that was answered, -1 without an answer
    label: Path | None  # what the person says; None: nothing that the list has


def recalibrate(confirmed: Sequence[Confirmed]) -> dict[str, Any]:
    """Fit thresholds again.

    Returns:
        "level", "confidence"; "threshold", of all ranks, or None; "too_few", whether so few answers could show nothing
        even if all were right; "before" and "now", each {"right", "of", "interval"}: of the answers whose rightness the
        label can tell, "interval" being of 95 % (Clopper and Pearson, Biometrika 26, 1934), None without an answer.
    """
    share = np.zeros((len(confirmed), len(RANKS)))
    right = np.full(share.shape, np.nan)
    for row, one in enumerate(confirmed):
        share[row, : len(one.scores)] = one.scores
        right[row, : len(one.best)] = [judge(one, rank) for rank in range(len(one.best))]

    def at(rank: np.ndarray) -> np.ndarray:
        found = np.take_along_axis(right, np.maximum(rank, 0)[:, None], axis=1)[:, 0]
        return np.where(rank < 0, np.nan, found)

    threshold = calibration.lowest_kept(share, at, calibration.LEVEL)
    everything = at(calibration.lowest(share, dict.fromkeys(RANKS, LEAST)))
    now = at(calibration.lowest(share, dict.fromkeys(RANKS, threshold)))
    before = at(np.array([one.answered for one in confirmed], dtype=np.int64))
    return {
        "level": calibration.LEVEL,
        "confidence": calibration.CONFIDENCE,
        "threshold": threshold,
        "too_few": bool(calibration.LEVEL ** int((~np.isnan(everything)).sum()) > 1 - calibration.CONFIDENCE),
        "before": counted(before),
        "now": counted(now),
    }


def judge(one: Confirmed, rank: int) -> float:
    """Whether the answer at a rank would be right: 1, 0, or NaN where the label cannot tell."""
    if one.label is None:
        return 0.0
    depth = max((r for r, name in enumerate(one.label) if name), default=-1)
    compared = min(rank, depth) + 1
    if tuple(one.best[:compared]) != tuple(one.label[:compared]):
        return 0.0
    return 1.0 if depth >= rank else np.nan


def counted(right: np.ndarray) -> dict[str, Any]:
    """How many answers are right, of those that can be judged."""
    judged = right[~np.isnan(right)]
    good, of = int(judged.sum()), len(judged)
    low = float(betaincinv(good, of - good + 1, 0.025)) if good else 0.0
    high = float(betaincinv(good + 1, of - good, 0.975)) if good < of else 1.0
    return {"right": good, "of": of, "interval": [low, high] if of else None}
