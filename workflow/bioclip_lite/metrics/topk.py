"""The best answers, and the rank of the truth among all."""

import numpy as np


def places(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Place of the true leaf among all leaves, 0 for the highest logit; an image is right in the top k if it is < k.

    Equal logits are ordered by column, so that a model which answers everything alike is not called right.

    Args:
        logits: float [n, C], finite.
        truth: integers [n], the column of the true leaf; -1 where there is none.

    Returns:
        int64 [n]; -1 where ``truth`` is -1.
    """
    known = truth >= 0
    column = np.where(known, truth, 0)[:, None]
    value = np.take_along_axis(logits, column, axis=1)
    before = (logits == value) & (np.arange(logits.shape[1]) < column)
    return np.where(known, ((logits > value) | before).sum(axis=1), -1)


def top(logits: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k highest logits, the highest first; equal ones in the order of columns.

    Partitions and does not sort: a sort of 450,000 columns takes as long as everything else that is asked of a row.

    Args:
        logits: float [n, C], finite.

    Returns:
        int64 [n, min(k, C)].
    """
    classes = logits.shape[1]
    k = min(k, classes)
    if not logits.size:
        return np.zeros((len(logits), k), dtype=np.int64)
    least = np.partition(logits, classes - k, axis=1)[:, classes - k, None]
    found = np.empty((len(logits), k), dtype=np.int64)
    for row, (values, last) in enumerate(zip(logits, least, strict=True)):
        higher = np.flatnonzero(values > last)
        columns = np.sort(np.concatenate([higher, np.flatnonzero(values == last)[: k - len(higher)]]))
        found[row] = columns[np.argsort(-values[columns], kind="stable")]
    return found
