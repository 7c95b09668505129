"""Detection metrics: area under the precision-recall curve, and a baseline score of anomalies."""

from collections.abc import Iterable

import numpy as np

from bioclip_lite.metrics.ranks import softmax


def anomaly(logits: np.ndarray) -> np.ndarray:
    """Anomaly score of each image: minus the largest class probability, float64 [n].

    The baseline of Hendrycks and Gimpel (arXiv 1610.02136); a larger score means more of an anomaly.
    """
    return -softmax(logits).max(axis=1)


def average_precision(
    score: np.ndarray, positive: np.ndarray, group: np.ndarray, counts: Iterable[np.ndarray]
) -> np.ndarray:
    """Sum over thresholds of (gain of recall) x precision, in every resample; images of equal score come together.

    Args:
        score: float [n], larger where an image is thought to be positive.
        positive: bool [n].
        group: int [n], the group of each image, 0 to groups - 1.
        counts: ``bootstrap.draws``.

    Returns:
        float64 [resamples]; NaN where a resample has no positive image.
    """
    order = np.argsort(-score, kind="stable")
    group, positive = group[order], positive[order]
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # of each run of equal scores
    found = []
    for count in counts:
        weight = count[group].astype(np.int64)
        hits, drawn = np.cumsum(weight * positive)[last], np.cumsum(weight)[last]
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(drawn > 0, hits / drawn, 0.0)
            found.append((np.diff(hits, prepend=0) * precision).sum() / np.float64(hits[-1]))
    return np.array(found, dtype=np.float64)
