"""What a model says of a photograph, as the taxa that it names."""

from collections.abc import Iterator
from typing import TypedDict

import numpy as np

from bioclip_lite.metrics import calibration, site
from bioclip_lite.metrics.ranks import capped, sum_up, uncapped
from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.taxa.taxonomy import RANKS, label_rank, scientific_name

ANIMALS = "Animalia"


class Answer(TypedDict):
    """A taxon that a photograph may show."""

    rank: str
    path: list[str | None]  # of 7 ranks, None below ``rank``
    scientific_name: str
    common_name: str | None  # of a species
    score: float  # probability of all leaves at or below the taxon
    threshold: float | None  # that the score had to reach; None without back-off
    zero_shot: bool  # no photograph of any of these leaves was learned from
    note: str  # what the species list says of it
    unexpected: bool  # the prior of place and month has all of these leaves, but not there or not then


def answers(
    probabilities: np.ndarray,
    labels: Labels,
    rank: str,
    k: int,
    thresholds: calibration.Thresholds | None,
    unexpected: np.ndarray | None = None,
) -> Iterator[list[Answer]]:
    """Yield the answers to each photograph, the best first.

    Args:
        probabilities: float64 [n, C], rows summing to 1.
        labels: taxa of the columns.
        rank, k: the k most probable nodes at this rank. Taxa whose ``finest_rank`` is higher give way to their node at
            that one; its score is the probability of all taxa below it, as everywhere.
        thresholds: instead of those the one answer with back-off, or none.
        unexpected: bool [n, C], of leaves that the prior does not expect; None without a prior.
    """
    strange = np.zeros(probabilities.shape, dtype=bool) if unexpected is None else unexpected
    named = capped(labels.node_of_leaf, labels.finest_rank)
    if thresholds is not None:
        share, node = calibration.best_nodes(probabilities, named)
        where = calibration.lowest(share, thresholds)
        for row, at in zip(range(len(probabilities)), where.tolist(), strict=True):
            number = int(node[row, at])
            limit = thresholds[RANKS[at]]
            leaves = probabilities[row]
            yield [_answer(at, number, named[at], leaves, labels, limit, strange[row])] if at >= 0 else []
        return
    at = RANKS.index(rank)
    numbers = np.unique(named[at][named[at] >= 0])
    for leaves, summed, odd in zip(probabilities, sum_up(probabilities, named[at]), strange, strict=True):
        best = np.argsort(-summed, kind="stable")[:k]
        yield [_answer(at, int(numbers[place]), named[at], leaves, labels, None, odd) for place in best]


def best_path(probabilities: np.ndarray, labels: Labels) -> tuple[list[str | None], list[float]]:
    """(names, probabilities) of the best taxon at each rank, as far down as one has half of the probability or more.

    Those lie on one path. A rank at which there is no name, or none that the list allows, has the probability 0.

    Args:
        probabilities: float64 [C], of one photograph.
    """
    share, node = calibration.best_nodes(probabilities[None], capped(labels.node_of_leaf, labels.finest_rank))
    lowest = int(calibration.lowest(share, dict.fromkeys(RANKS, site.LEAST))[0])
    path = labels.nodes[lowest][node[0, lowest]] if lowest >= 0 else ()
    scores = share[0, : lowest + 1]
    return list(path), np.where(scores >= site.LEAST, scores, 0).tolist()


def is_animal(answer: Answer) -> bool:
    """Whether an answer says that there is an animal other than a human."""
    return answer["path"][0] == ANIMALS and not is_human(answer)


def is_human(answer: Answer) -> bool:
    """Whether an answer says that there is a human."""
    return answer["scientific_name"] == "Homo sapiens"


def _answer(
    at: int,
    number: int,
    named: np.ndarray,
    probabilities: np.ndarray,
    labels: Labels,
    threshold: float | None,
    unexpected: np.ndarray,
) -> Answer:
    """Describe a node: the one of this number among the names of the leaves at a rank, int [C] (``capped``).

    Args:
        probabilities: float64 [C], of one photograph.
        unexpected: bool [C], of that photograph.
    """
    rank, node = uncapped(number, at, len(labels.ids))
    path = (*labels.nodes[rank][node], *[None] * (len(RANKS) - rank - 1))
    below = np.flatnonzero(labels.node_of_leaf[rank] == node)
    best = int(np.where(named == number, probabilities, -1).argmax())
    return {
        "rank": RANKS[rank],
        "path": list(path),
        "scientific_name": scientific_name(path),
        "common_name": labels.common_names[below[0]] if path[-1] else None,
        "score": float(probabilities[below].sum()),
        "threshold": threshold,
        "zero_shot": bool(labels.zero_shot[below].all()),
        "note": _note(rank, best, labels),
        "unexpected": bool(unexpected[below].all()),
    }


def _note(rank: int, leaf: int, labels: Labels) -> str:
    """What the list says of the most probable leaf of an answer, if the answer is as fine as it may be."""
    taxon, note = labels.leaves[leaf], labels.notes[leaf]
    if rank != label_rank(taxon[: labels.finest_rank[leaf] + 1]):
        return ""
    capped_at = f"not told apart below the {RANKS[rank]}" if rank < label_rank(taxon) else ""
    return ": ".join(part for part in (capped_at, note) if part)
