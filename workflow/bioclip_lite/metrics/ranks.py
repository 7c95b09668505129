"""Answers above the species: probabilities summed up the tree."""

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of the leaves, float64 [n, C], rows summing to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def sum_up(probabilities: np.ndarray, node_of_leaf: np.ndarray) -> np.ndarray:
    """Probability of every node at one rank: the sum over the leaves under it.

    Args:
        probabilities: float [n, C].
        node_of_leaf: integers [C], the node above each leaf (``taxonomy.nodes_at``); -1 for a leaf without a name at
            this rank, whose probability belongs to no node.

    Returns:
        float64 [n, nodes].
    """
    named = node_of_leaf >= 0
    if not named.any():
        return np.zeros((len(probabilities), 0))
    order = np.flatnonzero(named)[np.argsort(node_of_leaf[named], kind="stable")]
    starts = np.flatnonzero(np.diff(node_of_leaf[order], prepend=-1))
    return np.add.reduceat(probabilities[:, order], starts, axis=1, dtype=np.float64)


def answers(probabilities: np.ndarray, node_of_leaf: np.ndarray) -> np.ndarray:
    """The most probable node at one rank, int64 [n]; -1 if no leaf has a name at this rank."""
    nodes = sum_up(probabilities, node_of_leaf)
    return nodes.argmax(axis=1) if nodes.shape[1] else np.full(len(probabilities), -1, dtype=np.int64)
