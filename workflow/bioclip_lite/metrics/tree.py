"""Distance of answers from the truth in the tree. ``node_of_leaf`` and ``truth_nodes`` are those of ``labels``."""

import numpy as np

from bioclip_lite.taxa.taxonomy import RANKS


def heights(answers: np.ndarray, truth: np.ndarray, node_of_leaf: np.ndarray) -> np.ndarray:
    """Height of the lowest common ancestor of answer and truth (Bertinetto et al., arXiv 1912.09393, section 3).

    Args:
        answers: int [n, k], leaves.
        truth: int [n], the true leaf of an image known to species; -1 otherwise.
        node_of_leaf: int [7, C].

    Returns:
        float64 [n, k]: 0 the same species, 1 the same genus ... 6 the same kingdom, 7 nothing in common; NaN where
        ``truth`` is -1. Ranks at which either has no name are passed over.
    """
    own = node_of_leaf[:, np.maximum(truth, 0)][:, :, None]
    shared = (node_of_leaf[:, answers] == own) & (own >= 0)
    depth = np.where(shared, np.arange(len(RANKS))[:, None, None], -1).max(axis=0)
    return np.where(truth[:, None] < 0, np.nan, len(RANKS) - 1.0 - depth)


def depth_of(leaves: np.ndarray, node_of_leaf: np.ndarray) -> np.ndarray:
    """Index of the lowest rank at which each of ``leaves`` has a name, int64 [n]."""
    named = node_of_leaf[:, leaves] >= 0
    return np.where(named, np.arange(len(RANKS))[:, None], -1).max(axis=0)


def overlap(
    rank: np.ndarray, node: np.ndarray, truth_nodes: np.ndarray, node_of_leaf: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Named nodes on the way to the answer and to the truth, for hierarchical precision and recall.

    Their sums over images give hP = common / answered and hR = common / true (Kiritchenko et al. 2006, section 3). An
    answer below the rank of the label is cut there, since the label cannot judge it.

    Args:
        rank, node: int [n], an answer as from ``calibration.back_off``; -1: none, which shares nothing.
        truth_nodes: int [n, 7].
        node_of_leaf: int [7, C].

    Returns:
        (common, answered, true), each float64 [n].
    """
    path = paths(rank, node, node_of_leaf)
    known = truth_nodes != -1
    depth = np.where(known, np.arange(len(RANKS)), -1).max(axis=1)
    asked = np.arange(len(RANKS)) <= depth[:, None]
    named = (path >= 0) & asked
    common = (named & (path == truth_nodes)).sum(axis=1)
    return common.astype(np.float64), named.sum(axis=1).astype(np.float64), known.sum(axis=1).astype(np.float64)


def paths(rank: np.ndarray, node: np.ndarray, node_of_leaf: np.ndarray) -> np.ndarray:
    """Nodes from the kingdom down to each answer, int64 [n, 7]; -1 below it and where a rank has no name."""
    path = np.full((len(rank), len(RANKS)), -1, dtype=np.int64)
    for at in range(len(RANKS)):
        here = np.flatnonzero(rank == at)
        if len(here):
            leaf = _leaf_of_node(node_of_leaf[at])
            path[here, : at + 1] = node_of_leaf[: at + 1, leaf[node[here]]].T
    return path


def _leaf_of_node(names: np.ndarray) -> np.ndarray:
    """A leaf under each node of a rank, int64 [C], by the number of the node; without a sort of the leaves."""
    leaves = np.flatnonzero((names >= 0) & (names < len(names)))  # others are names of ``ranks.capped``
    found = np.zeros(len(names), dtype=np.int64)
    found[names[leaves]] = leaves
    return found


def specificity(rank: np.ndarray, node: np.ndarray, node_of_leaf: np.ndarray) -> np.ndarray:
    """1 - log2(leaves under the answer) / log2(all leaves), float64 [n]: 1 for a leaf, 0 for no answer.

    The coverage of hierarchical selective classification (Goren et al., arXiv 2405.11533, section 3).
    """
    leaves = node_of_leaf.shape[1]
    found = np.zeros(len(rank))
    for at in range(len(RANKS)):
        here = rank == at
        under = np.bincount(node_of_leaf[at][node_of_leaf[at] >= 0], minlength=1)
        found[here] = 1 - np.log(under[node[here]]) / np.log(max(2, leaves))
    return found
