"""Embeddings that are not numbers, or all the same, are named where they arise: later stages would learn from them."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bioclip_lite.utils.errors import UserError

_SAME = 1e-5  # greatest difference of any number of two unit embeddings that are called the same
_CAUSES = (
    "its weights hold NaN or infinity, or are too large for the precision that they are computed in. Make it again, or "
    "take other weights"
)


def check_finite(embeddings: np.ndarray, names: Sequence[str], maker: str) -> None:
    """Raise UserError unless each embedding is finite and not zero.

    Args:
        embeddings: float (n, D), normalised where that was possible.
        names: what was embedded, n keys or captions.
        maker: the model and its place, for the message.
    """
    bad = ~np.isfinite(embeddings).all(axis=1) | ~embeddings.any(axis=1)
    if bad.any():
        first = int(np.argmax(bad))
        kind = "zero" if np.isfinite(embeddings[first]).all() else "no number (NaN or infinite)"
        raise UserError(
            f"{maker}: {int(bad.sum())} of {len(names)} embeddings are {kind}, the first that of {names[first]!r}: "
            f"{_CAUSES}"
        )


def check_varied(embeddings: np.ndarray, what: str, maker: str) -> None:
    """Raise UserError if all embeddings, float (n, D) with n > 1, are the same; ``what`` was embedded."""
    if len(embeddings) > 1 and np.abs(embeddings - embeddings[0]).max() <= _SAME:
        raise UserError(
            f"{maker}: all {len(embeddings)} {what} have the same embedding, so it tells nothing apart: its training "
            "failed, or its weights are incomplete. Make it again, or take other weights"
        )


def same_rows(embeddings: np.ndarray) -> list[list[int]]:
    """The sets of rows of float (n, D) that are the same to 4 decimals, each in order."""
    sets: dict[bytes, list[int]] = defaultdict(list)
    for number, row in enumerate(embeddings):
        rounded = (np.round(row, 4) + 0).tobytes()  # + 0: minus zero is zero
        sets[hashlib.blake2b(rounded, digest_size=16).digest()].append(number)
    return [rows for rows in sets.values() if len(rows) > 1]
