"""Random numbers that depend on names, not on the order of calls or the number of workers."""

import hashlib
import heapq
from collections.abc import Sequence

import numpy as np


def digest(*names: object) -> int:
    """A 64-bit integer from any printable names, the same on every machine and run."""
    text = "\x1f".join(map(str, names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def generator(*names: object) -> np.random.Generator:
    """A NumPy generator seeded by names, e.g. ``generator(seed, "logits", key, view)``."""
    return np.random.Generator(np.random.PCG64(digest(*names)))


def uniform(*names: object) -> float:
    """One number in [0, 1) from names."""
    return digest(*names) / 2**64


def drawn(keys: Sequence[str], count: int, *names: object) -> list[int]:
    """Places of ``count`` keys, or of all if there are fewer, drawn by hash and in the order drawn.

    What is drawn depends on ``names`` and the keys alone, so that a further key changes one place at most.
    """
    return heapq.nsmallest(count, range(len(keys)), key=lambda i: digest(*names, keys[i]))
