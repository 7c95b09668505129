"""Near duplicates: photographs that look the same after scaling, re-encoding or slight retouching.

Two photographs are near duplicates if their perceptual hashes (pHash, 64 bits) differ in at most a given number of bits
and their difference hashes (dHash) agree roughly. The second hash separates photographs of one kind: in the built-in
sample of 5,200 drawings, 26 pairs are at most 4 bits of pHash apart, and all of these at least 13 bits of dHash. Both
hashes are from Krawetz, "Looks Like It" (2011), as implemented by ImageHash.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations, pairwise
from math import comb, log2
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image

_DIFFERENCE = 6  # bits that two dHashes may differ in, beyond those of the pHashes
_CONTRAST = 2.0  # grey levels; below this standard deviation a hash is made of noise
_NEIGHBOURS = 512  # at most so many photographs of one bucket are compared with each
# Of equal photographs the first of these stays; None: the index deals it.
PRECEDENCE = ("test", "calibration", "val", "train", "pretrain", None, "unlabelled")


def fingerprint(image: Image.Image) -> tuple[int, int] | None:
    """pHash and dHash of an RGB or grey image, 64 bits each; None for a plain image, whose hashes are noise."""
    grey = image.convert("L").resize((32, 32), Image.Resampling.BILINEAR)
    if np.asarray(grey).std() < _CONTRAST:
        return None
    phash, dhash = packed(imagehash.phash(grey).hash), packed(imagehash.dhash(grey).hash)
    # pHash has a bit for what lies above the median: half of them, unless many values are equal (a plain gradient)
    return (phash, dhash) if phash.bit_count() == 32 else None


def packed(bits: np.ndarray) -> int:
    """8 x 8 booleans as one integer, the first bit highest."""
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def look_alikes(phash: np.ndarray, dhash: np.ndarray, bits: int) -> np.ndarray:
    """Group near duplicates, including chains of them.

    Args:
        phash, dhash: uint64 [n].
        bits: greatest number of bits of pHash that may differ.

    Returns:
        int64 [n]: for each photograph the lowest index in its group.

    The search is by blocks of bits (pigeonhole): of m blocks, two hashes with ``bits`` differences agree in m - bits.
    In a bucket that holds more than 512 different photographs, which happens with plain backgrounds, each is compared
    with its 512 neighbours in the order of the hashes, so that the time stays linear.
    """
    order = np.lexsort((dhash, phash))
    first = np.ones(len(order), bool)  # equal hashes are one node, however many photographs have them
    first[1:] = (phash[order][1:] != phash[order][:-1]) | (dhash[order][1:] != dhash[order][:-1])
    node = np.empty(len(order), np.int64)
    node[order] = np.cumsum(first) - 1
    p, d = phash[order][first], dhash[order][first]
    parent = list(range(len(p)))
    for mask in _masks(bits, len(p)):
        key = p & mask
        rank = np.argsort(key, kind="stable")
        key, here = key[rank], rank
        for step in range(1, _NEIGHBOURS + 1):
            left = np.flatnonzero(key[step:] == key[:-step]) if len(key) > step else np.empty(0, np.int64)
            if not len(left):
                break
            a, b = here[left], here[left + step]
            alike = np.bitwise_count(p[a] ^ p[b]) <= bits
            alike[alike] = np.bitwise_count(d[a[alike]] ^ d[b[alike]]) <= bits + _DIFFERENCE
            for one, other in zip(a[alike].tolist(), b[alike].tolist(), strict=True):
                _join(parent, one, other)
    root = np.array([_root(parent, i) for i in range(len(p))], np.int64)[node] if len(p) else node
    lowest = np.full(len(p), len(order), np.int64)
    np.minimum.at(lowest, root, np.arange(len(order)))
    return lowest[root]


def _masks(bits: int, nodes: int) -> list[np.uint64]:
    """Masks of the bits that two hashes must share, one for each choice of blocks.

    The number of blocks is the one that makes the least work.
    """

    def work(blocks: int) -> float:
        shared = 64 * (blocks - bits) // blocks
        return comb(blocks, bits) * nodes * (log2(nodes + 2) + nodes / 2 ** min(shared + 1, 60))

    blocks = min(range(bits + 1, min(bits + 6, 65)), key=work)
    edges = [64 * i // blocks for i in range(blocks + 1)]
    parts = [((1 << high) - 1) ^ ((1 << low) - 1) for low, high in pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in combinations(parts, blocks - bits)]


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _join(parent: list[int], a: int, b: int) -> None:
    a, b = _root(parent, a), _root(parent, b)
    parent[max(a, b)] = min(a, b)


class Twin(NamedTuple):
    """A photograph that has near duplicates."""

    photograph: int  # its number
    alike: int  # its group of near duplicates
    observation: str


def settle(twins: Iterable[Twin], stated: Mapping[str, str]) -> tuple[dict[str, str], dict[int, int]]:
    """Join observations that share near duplicates, so that they are dealt to one split.

    Splits are settled in the order of PRECEDENCE. So a photograph that is held out stays, and its near duplicate in
    train goes; one without a label goes if it looks like any that has one.

    Args:
        twins: photographs with near duplicates.
        stated: the splits that the source states, by observation.

    Returns:
        ``joined``: by observation, the name that its joined observations share, which is the first of theirs.
        ``left_out``: by number of each photograph that must go, the number of its near duplicate in another split.
    """
    alike: dict[int, list[Twin]] = defaultdict(list)
    photographs: dict[str, list[Twin]] = defaultdict(list)
    for twin in sorted(twins):
        alike[twin.alike].append(twin)
        photographs[twin.observation].append(twin)
    joined: dict[str, str] = {}
    left_out: dict[int, int] = {}
    for split in PRECEDENCE:
        for start in sorted(name for name in photographs if stated.get(name) == split):
            if start not in joined:
                reached = _reach(start, split, photographs, alike, stated, joined, left_out)
                name = min(reached, key=lambda name: (stated.get(name) is None, name))
                joined.update(dict.fromkeys(reached, name))
    return joined, left_out


def _reach(
    start: str,
    split: str | None,
    photographs: Mapping[str, list[Twin]],
    alike: Mapping[int, list[Twin]],
    stated: Mapping[str, str],
    joined: dict[str, str],
    left_out: dict[int, int],
) -> list[str]:
    """Observations that near duplicates join to ``start``, itself included.

    They are marked in ``joined``, and near duplicates in other splits are added to ``left_out``.
    """
    joined[start] = start
    reached = [start]
    todo = [start]
    while todo:
        for twin in photographs[todo.pop()]:
            others = [] if twin.photograph in left_out else alike[twin.alike]
            for other in others:
                if stated.get(other.observation) not in (None, split):
                    left_out.setdefault(other.photograph, twin.photograph)
                elif other.photograph not in left_out and other.observation not in joined:
                    joined[other.observation] = start
                    todo.append(other.observation)
                    reached.append(other.observation)
    return reached
