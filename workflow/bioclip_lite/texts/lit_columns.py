"""Which columns of metadata the sentence of LiT should list: those that tell classes apart best.

LiT on iNaturalist (Nakkab, Feuer and Hegde 2022) captions a photograph "A photo of a {CONCAT_METADATA}" and chooses the
columns so that the difference between classes is as large as possible. Here that is a search over all subsets of the
columns, 511 of them. The caption of a class is the multiset of its word pieces, each belonging to its column. The
distance of two captions is Jaccard's: the share of the pieces of both that are not common to both, 0 for equal
captions, 1 for captions with nothing in common. What counts is the distance of a class to its *nearest*, averaged over
the classes; the nearest is sought among the neighbours in the tree and as many classes drawn by hash. Of the subsets
whose longest caption fits the text tower, those that leave the fewest classes with equal captions are considered, and
the one with the largest distance wins. A rank that relatives share makes them more alike, so it stays out unless it is
needed to keep two classes apart.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from bioclip_lite.taxa import taxonomy
from bioclip_lite.texts.text_types import ALL_COLUMNS, caption
from bioclip_lite.utils.randomness import generator

BUDGET = 64  # tokens with start and end: the context of the text towers that stage teacher makes
_NEIGHBOURS = 4  # on either side in the order of the tree

Class = tuple[taxonomy.Path, str | None, str | None]  # path, common name and supercategory
Pieces = Callable[[str], Sequence[int]]  # the word pieces of a text, without start and end


def choose_columns(classes: Sequence[Class], pieces: Pieces, budget: int = BUDGET) -> tuple[tuple[str, ...], float]:
    """(columns in the order of ALL_COLUMNS, mean distance of a class to its nearest) for classes in tree order.

    If no caption fits into ``budget`` tokens, the columns with the shortest captions are taken as if they did.
    """
    rows_of_classes = [
        {**dict(zip(taxonomy.RANKS, path, strict=True)), "common_name": name, "supercategory": group}
        for path, name, group in classes
    ]
    lengths, common, left, right = _compare(rows_of_classes, pieces)
    frame = len(pieces("A photo of a")) + 2
    subsets = [s for size in range(1, len(ALL_COLUMNS) + 1) for s in combinations(range(len(ALL_COLUMNS)), size)]
    longest = [frame + int(lengths[:, s].sum(1).max()) for s in subsets]
    within = [s for s, length in zip(subsets, longest, strict=True) if length <= max(budget, min(longest))]
    distances = {s: _nearest(lengths[:, s].sum(1), common[:, s].sum(1), left, right) for s in within}

    def equal(subset: Sequence[int]) -> int:
        columns = [ALL_COLUMNS[c] for c in subset]
        return len(classes) - len({caption(path, name, "lit", columns, group).lower() for path, name, group in classes})

    # Of all sentences the longest tells most apart.
    fewest = equal(range(len(ALL_COLUMNS)))
    order = sorted(within, key=lambda s: (-round(distances[s], 9), len(s), s))
    best = next((s for s in order if equal(s) <= fewest), None)
    if best is None:  # only sentences above the budget keep them apart
        best = min(order, key=equal)
    return tuple(ALL_COLUMNS[c] for c in best), distances[best]


def _compare(
    rows_of_classes: Sequence[dict[str, str | None]], pieces: Pieces
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(lengths (n, columns), pieces common to each pair (pairs, columns), the pairs' classes: two of (pairs,)).

    Each class is once on the left of each of its pairs; int64.
    """
    n = len(rows_of_classes)
    bag_of: dict[str, Counter[int]] = {}
    for row in rows_of_classes:
        for value in row.values():
            if value and value not in bag_of:
                bag_of[value] = Counter(pieces(value))
    nothing: Counter[int] = Counter()
    bags = [[bag_of[value] if (value := row[column]) else nothing for column in ALL_COLUMNS] for row in rows_of_classes]
    lengths = np.array([[bag.total() for bag in row] for row in bags])

    steps = [step for step in range(-_NEIGHBOURS, _NEIGHBOURS + 1) if step]
    near = np.arange(n)[:, None] + np.array(steps)[None]
    far = generator("lit", n).integers(0, n, (n, len(steps)))
    right = np.concatenate([near, far], 1)
    left = np.broadcast_to(np.arange(n)[:, None], right.shape)
    pairs = (right >= 0) & (right < n) & (right != left)
    left, right = left[pairs], right[pairs]
    common = np.array(
        [
            [_common(a, b) for a, b in zip(bags[i], bags[j], strict=True)]
            for i, j in zip(left.tolist(), right.tolist(), strict=True)
        ]
    ).reshape(-1, len(ALL_COLUMNS))
    return lengths, common, left, right


def _common(a: Counter[int], b: Counter[int]) -> int:
    if a is b:
        return a.total()
    if not (a.keys() & b.keys()):
        return 0
    return (a & b).total()


def _nearest(lengths: np.ndarray, common: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """Mean over the classes of the distance to the nearest of its pairs; captions of no pieces are equal."""
    together = lengths[left] + lengths[right] - common
    distance = 1 - common / np.maximum(together, 1)
    distance[together == 0] = 0.0
    nearest = np.ones(len(lengths))
    np.minimum.at(nearest, left, distance)
    return float(nearest.mean())
