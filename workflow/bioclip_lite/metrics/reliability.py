"""Calibration of probabilities: expected calibration error (Guo et al., arXiv 1706.04599, section 2)."""

from collections.abc import Iterable

import numpy as np

BINS = 15  # of equal width


def expected_error(
    confidence: np.ndarray, right: np.ndarray, group: np.ndarray, counts: Iterable[np.ndarray]
) -> np.ndarray:
    """Mean over the images of |accuracy - mean confidence| of their bin, in every resample.

    Args:
        confidence: float [n, columns], probabilities of the same answers.
        right: float [n], 1 or 0; NaN where an image does not count.
        group: int [n], the group of each image, 0 to groups - 1.
        counts: ``bootstrap.draws``.

    Returns:
        float64 [resamples, columns]; NaN where a resample has no image that counts.
    """
    counted = ~np.isnan(right)
    groups = int(group.max()) + 1 if len(group) else 0
    columns = confidence.shape[1]
    place = np.minimum((confidence[counted] * BINS).astype(np.int64), BINS - 1)
    gaps, sizes = np.zeros((groups, columns, BINS)), np.zeros(groups)
    np.add.at(gaps, (group[counted, None], np.arange(columns), place), right[counted, None] - confidence[counted])
    np.add.at(sizes, group[counted], 1)
    with np.errstate(invalid="ignore"):
        errors = [np.abs(np.tensordot(count, gaps, 1)).sum(axis=1) / np.float64(count @ sizes) for count in counts]
    return np.array(errors).reshape(-1, columns)
