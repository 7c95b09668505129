"""Figures of answers among photographs of which some show what is not on the list."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from bioclip_lite.metrics import calibration, off_list
from bioclip_lite.metrics.summary import Columns, Question, estimate, label_numbers
from bioclip_lite.taxa.taxonomy import RANKS


def summarise(
    score: Columns, drawn: off_list.Hidden, covered: np.ndarray, node_of_leaf: np.ndarray,
    group: np.ndarray, resamples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """How answers do among photographs of which some are off the list.

    Args:
        score: "open_rank", "open_node" and "listed" of n test photographs (``fitting.reduce_answers``).
        drawn: ``hidden`` of them.
        covered: bool [n], the photographs that count: of species in the calibration split.
        node_of_leaf, group, resamples, seed: as in ``backoff.summarise``.

    Returns:
        Numbers as in ``summary.summarise``: "right", of all answers; of the photographs on the list "answered",
        "species" and "told", the shares that have an answer, have it at the species, and are probably not on the list;
        "hidden": for each of off_list.KINDS "answered", "right" and "told", and "genus", that it has the right genus.
    """
    rank, node = score["open_rank"].astype(np.int64), score["open_node"].astype(np.int64)
    right = calibration.judge(rank, node, drawn.truth_nodes, node_of_leaf)
    labels = label_numbers(drawn.truth_nodes)
    told, species, genus = score["listed"] < off_list.PROBABLY, RANKS.index("species"), RANKS.index("genus")

    def asked() -> Iterator[Question]:
        yield ("right",), np.where(covered, right, np.nan), labels
        listed = covered & (drawn.kind == off_list.LISTED)
        for name, values in (("answered", rank >= 0), ("species", rank == species), ("told", told)):
            yield (name,), np.where(listed, values, np.nan), labels
        for name, kind in off_list.KINDS.items():
            inside = covered & (drawn.kind == kind)
            has_genus = (rank == genus) & (right == 1)
            yield ("hidden", name, "right"), np.where(inside, right, np.nan), labels
            for what, values in (("answered", rank >= 0), ("told", told), ("genus", has_genus)):
                yield ("hidden", name, what), np.where(inside, values, np.nan), labels

    return estimate(asked(), group, resamples, seed)
