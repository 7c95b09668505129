"""Calibration of probabilities: expected calibration error (Guo et al., arXiv 1706.04599, section 2)."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from bioclip_lite.metrics import bootstrap

BINS = 15  # of equal width


def expected_error(
    confidence: np.ndarray, right: np.ndarray, group: np.ndarray, counts: np.ndarray | Sequence[np.ndarray]
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
    counts = np.asarray(counts)
    counted = ~np.isnan(right)
    columns = confidence.shape[1]
    place = np.minimum((confidence[counted] * BINS).astype(np.int64), BINS - 1) + BINS * np.arange(columns)
    gaps = (right[counted, None] - confidence[counted]).reshape(-1)
    groups = np.repeat(group[counted], columns)
    shape = (counts.shape[1], columns * BINS)
    found = bootstrap.sparse_sums(csr_array((gaps, (groups, place.reshape(-1))), shape), counts)
    sizes = bootstrap.resampled_sums(np.bincount(group[counted], minlength=shape[0])[:, None], counts)
    with np.errstate(invalid="ignore"):
        errors: np.ndarray = np.abs(found.reshape(len(counts), columns, BINS)).sum(axis=2) / sizes
    return errors
