"""95 % intervals by resampling groups of images that belong together.

Photographs of one observation are not independent: the clustered bootstrap draws whole groups with replacement
(Davison and Hinkley 1997, section 3.8). Every statistic of a report is computed on the same draws, so that the
difference of two variants is a paired one.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from bioclip_lite.utils.randomness import generator


def draws(groups: int, resamples: int, *names: object) -> Iterator[np.ndarray]:
    """Draw groups with replacement: the count of each in every resample, int64 [groups], summing to ``groups``."""
    for resample in range(resamples):
        drawn = generator(*names, resample).integers(groups, size=groups)
        yield np.bincount(drawn, minlength=groups)


def means(values: np.ndarray, group: np.ndarray, counts: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of every column in every resample.

    Args:
        values: float [n, columns]; NaN where an image does not count in a column.
        group: int [n], the group of each image, 0 to groups - 1.
        counts: ``draws``.

    Returns:
        float64 [resamples, columns]; NaN where a resample has no image that counts.
    """
    counted = ~np.isnan(values)
    groups = int(group.max()) + 1 if len(group) else 0
    totals = np.zeros((groups, values.shape[1]))
    sizes = np.zeros_like(totals)
    np.add.at(totals, group, np.where(counted, values, 0.0))
    np.add.at(sizes, group, counted)
    with np.errstate(invalid="ignore"):
        return np.array([(count @ totals) / (count @ sizes) for count in counts]).reshape(-1, values.shape[1])


def class_means(values: np.ndarray, classes: np.ndarray, group: np.ndarray, counts: Iterable[np.ndarray]) -> np.ndarray:
    """The mean over classes of the mean within each class (macro average) of every column in every resample.

    Args:
        values: float [n, columns], without NaN where the image has a class.
        classes: int [n]; -1 where an image does not count.
        group, counts: as for ``means``.

    Returns:
        float64 [resamples, columns]; classes that a resample misses are left out of its mean.
    """
    kept = classes >= 0
    values, classes, group = values[kept], classes[kept], group[kept]
    resampled = []
    for count in counts:
        weight = count[group]
        size = np.bincount(classes, weight)
        present = size > 0
        sums = (np.bincount(classes, weight * column)[present] for column in values.T)
        resampled.append([np.mean(s / size[present]) if present.any() else np.nan for s in sums])
    return np.array(resampled, dtype=np.float64).reshape(-1, values.shape[1])


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
