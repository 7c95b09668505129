"""Rank of the truth among the answers."""

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
