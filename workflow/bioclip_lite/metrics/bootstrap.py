"""95 % intervals by resampling groups of images that belong together.

Photographs of one observation are not independent: the clustered bootstrap draws whole groups with replacement
(Davison and Hinkley 1997, section 3.8). Every statistic of a report is computed on the same draws, so that the
difference of two variants is a paired one.
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import csr_array

from bioclip_lite.utils.randomness import generator

_NUMBERS = 2_000_000  # in memory at a time: 16 MB


@functools.lru_cache(maxsize=1)
def draws(groups: int, resamples: int, *names: object) -> np.ndarray:
    """Draw groups with replacement: the count of each in every resample.

    The last matrix is kept, since all figures of a report rest on the same draws.

    Returns:
        uint8 [resamples, groups], read-only, rows summing to ``groups``. (That one group of many is drawn more than
        255 times does not happen: its probability is below 1e-500.)
    """
    counts = np.empty((resamples, groups), dtype=np.uint8)
    for resample in range(resamples):
        counts[resample] = draw(groups, *names, resample)
    counts.flags.writeable = False
    return counts


def draw(groups: int, *names: object) -> np.ndarray:
    """One row of ``draws``, int64 [groups]; the number of the resample is the last of ``names``."""
    return np.bincount(generator(*names).integers(groups, size=groups), minlength=groups)


def resampled_sums(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The sum over groups of every column in every resample: a matrix product, some groups at a time.

    Args:
        totals: float [groups, columns].
        counts: integers [resamples, groups].

    Returns:
        float64 [resamples, columns].
    """
    found = np.zeros((len(counts), totals.shape[1]))
    step = max(1, _NUMBERS // max(1, len(counts)))
    for start in range(0, len(totals), step):
        found += counts[:, start : start + step].astype(np.float64) @ totals[start : start + step]
    return found


def means(values: np.ndarray, group: np.ndarray, counts: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """The mean of every column in every resample.

    Args:
        values: float [n, columns]; NaN where an image does not count in a column.
        group: int [n], the group of each image, 0 to groups - 1.
        counts: ``draws``.

    Returns:
        float64 [resamples, columns]; NaN where a resample has no image that counts.
    """
    counts = np.asarray(counts)
    groups = counts.shape[1] if counts.ndim == 2 else 0
    totals = np.empty((groups, 2 * values.shape[1]))
    for column, of_column in enumerate(values.T):
        counted = ~np.isnan(of_column)
        totals[:, 2 * column] = np.bincount(group[counted], of_column[counted], groups)
        totals[:, 2 * column + 1] = np.bincount(group[counted], minlength=groups)
    sums = resampled_sums(totals, counts)
    with np.errstate(invalid="ignore"):
        found: np.ndarray = sums[:, ::2] / sums[:, 1::2]
    return found


def class_means(
    values: np.ndarray, classes: np.ndarray, group: np.ndarray, counts: np.ndarray | Sequence[np.ndarray]
) -> np.ndarray:
    """The mean over classes of the mean within each class (macro average) of every column in every resample.

    Args:
        values: float [n, columns], without NaN where the image has a class.
        classes: int [n]; -1 where an image does not count.
        group, counts: as for ``means``.

    Returns:
        float64 [resamples, columns]; classes that a resample misses are left out of its mean.
    """
    counts = np.asarray(counts)
    kept = classes >= 0
    own = np.unique(classes[kept], return_inverse=True)[1].reshape(-1)
    shape = (int(own.max(initial=-1)) + 1, counts.shape[1])
    place = own, group[kept]
    sizes, *sums = (csr_array((column[kept], place), shape) for column in (np.ones(len(values)), *values.T))
    found = np.empty((len(counts), values.shape[1]))
    for rows, weights in _weights(counts, shape[0]):
        size = sizes @ weights
        present = size > 0
        for column, of_column in enumerate(sums):
            mean = np.divide(of_column @ weights, size, out=np.zeros_like(size), where=present)
            with np.errstate(invalid="ignore"):
                found[rows, column] = mean.sum(axis=0) / present.sum(axis=0)
    return found


def sparse_sums(totals: csr_array, counts: np.ndarray) -> np.ndarray:
    """``resampled_sums`` of a sparse matrix [groups, columns] with many columns, float64 [resamples, columns]."""
    transposed = csr_array(totals.T)
    found = np.zeros((len(counts), totals.shape[1]))
    for rows, weights in _weights(counts, totals.shape[1]):
        found[rows] = (transposed @ weights).T
    return found


def _weights(counts: np.ndarray, columns: int) -> Iterable[tuple[slice, np.ndarray]]:
    """Some resamples at a time: (their rows, float64 [groups, rows])."""
    step = max(1, _NUMBERS // max(1, counts.shape[1], columns))
    for start in range(0, len(counts), step):
        rows = slice(start, start + step)
        yield rows, np.ascontiguousarray(counts[rows].T, dtype=np.float64)


def class_mean(values: np.ndarray, classes: np.ndarray) -> float:
    """The mean over classes of the mean within each class; NaN without a class. Arguments as for ``class_means``."""
    each = np.arange(len(values))
    return float(class_means(values[:, None], classes, each, [np.ones(len(values), dtype=np.int64)])[0, 0])


def interval(samples: np.ndarray) -> tuple[float, float] | None:
    """The central 95 % of the finite samples (percentile method); None if there are none."""
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return None
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
