"""How probable it is that photographs show what is on the list, and the answers that allow for those that do not."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bioclip_lite.metrics import off_list
from bioclip_lite.metrics.ranks import softmax
from bioclip_lite.predicting.answers import Answer, answers
from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.taxa.taxonomy import RANKS


class OffList(NamedTuple):
    """What stage evaluate fitted for a variant, and what is asked of it."""

    fitted: dict[str, Any]  # of ``off_list.fit``
    answers: bool  # whether answers allow for photographs off the list


def on_list(logits: np.ndarray, question: OffList) -> np.ndarray:
    """Probability that each photograph shows something below a node of the list at each rank, float64 [n, 7].

    ``logits``: float [n, C].
    """
    return off_list.known(question.fitted["known"], logits.max(axis=1))


def allowing(
    logits: np.ndarray, temperature: float, labels: Labels, probable: np.ndarray, question: OffList
) -> Sequence[list[Answer]]:
    """The answers with back-off, one or none to each photograph; scores are those of the list times ``on_list``.

    ``probable``: float [n, 7], of ``on_list``.
    """
    found = []
    limits: dict[str, float | None] = question.fitted["ranks"]
    for leaves, known in zip(softmax(logits / temperature), probable, strict=True):
        needed = {r: None if limits[r] is None else limits[r] / max(p, 1e-9) for r, p in zip(RANKS, known, strict=True)}
        (best,) = answers(leaves[None], labels, RANKS[-1], 1, needed)
        for answer in best:
            answer["score"] *= float(known[RANKS.index(answer["rank"])])
            answer["threshold"] = limits[answer["rank"]]
        found.append(best)
    return found
