"""Answers above the species: probabilities summed up the tree, and taxa that are not named below a rank."""

from typing import NamedTuple

import numpy as np


class Grouping(NamedTuple):
    """The nodes of one rank, and the leaves under each."""

    names: np.ndarray  # int64 [nodes], rising
    order: np.ndarray | None  # int64 [named leaves], by node; None where they lie by node already, each with a name
    starts: np.ndarray  # int64 [nodes], where the leaves of each node begin in ``order``

    def under(self, name: int) -> np.ndarray | slice:
        """The leaves under a node, as an index."""
        place = int(np.searchsorted(self.names, name))
        stop = self.starts[place + 1] if place + 1 < len(self.starts) else None
        return slice(self.starts[place], stop) if self.order is None else self.order[self.starts[place] : stop]


def grouping(node_of_leaf: np.ndarray) -> Grouping:
    """Group the leaves by their node at one rank.

    Args:
        node_of_leaf: integers [C], the node above each leaf (``taxonomy.nodes_at``); -1 for a leaf without a name at
            this rank, which belongs to no node.
    """
    named = node_of_leaf >= 0
    order = np.flatnonzero(named)[np.argsort(node_of_leaf[named], kind="stable")]
    starts = np.flatnonzero(np.diff(node_of_leaf[order], prepend=-1))
    in_order = named.all() and bool((np.diff(order) > 0).all())
    return Grouping(node_of_leaf[order][starts], None if in_order else order, starts)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of the leaves, float64 [n, C], rows summing to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def sum_up(probabilities: np.ndarray, node_of_leaf: np.ndarray) -> np.ndarray:
    """Probability of every node at one rank: the sum over the leaves under it.

    Args:
        probabilities: float [n, C].
        node_of_leaf: as for ``grouping``.

    Returns:
        float64 [n, nodes].
    """
    return sum_groups(probabilities, grouping(node_of_leaf))


def sum_groups(probabilities: np.ndarray, nodes: Grouping) -> np.ndarray:
    """``sum_up`` for callers that ask for one rank again and again."""
    if not len(nodes.names):
        return np.zeros((len(probabilities), 0))
    ordered = probabilities if nodes.order is None else probabilities[:, nodes.order]
    return np.add.reduceat(ordered, nodes.starts, axis=1, dtype=np.float64)


def capped(node_of_leaf: np.ndarray, finest_rank: np.ndarray) -> np.ndarray:
    """What names each leaf at each rank, where a leaf may have a rank below which it is never named.

    Below that rank its probability belongs to the lowest node above it that may name it, so that the species which
    are not told apart count together, and none of them beats the others.

    Args:
        node_of_leaf: int [7, C], the node above each leaf at each rank; -1 where it has no name.
        finest_rank: int [C], index of the lowest rank that may name the leaf.

    Returns:
        int64 [7, C]: the node at the rank itself, as in ``node_of_leaf``; below the finest rank C * (1 + r) + the node
        at the higher rank r (``uncapped`` takes it apart); -1 where the leaf has no name, or none that it may have.
    """
    ranks, leaves = node_of_leaf.shape
    below = (np.arange(ranks)[:, None] > finest_rank) & (node_of_leaf >= 0)
    if not below.any():
        return node_of_leaf
    may_name = (node_of_leaf >= 0) & (np.arange(ranks)[:, None] <= finest_rank)
    highest = np.where(may_name, np.arange(ranks)[:, None], -1).max(axis=0)
    node = np.take_along_axis(node_of_leaf, np.maximum(highest, 0)[None], axis=0)[0]
    return np.where(below, np.where(highest < 0, -1, leaves * (1 + highest) + node), node_of_leaf)


def uncapped(name: int, rank: int, leaves: int) -> tuple[int, int]:
    """(index of the rank, number of the node) that a ``name`` of ``capped`` at a rank stands for."""
    return (rank, name) if name < leaves else (name // leaves - 1, name % leaves)


def answers(probabilities: np.ndarray, node_of_leaf: np.ndarray) -> np.ndarray:
    """The most probable node at one rank, int64 [n]; -1 if no leaf has a name at this rank."""
    nodes = sum_up(probabilities, node_of_leaf)
    return nodes.argmax(axis=1) if nodes.shape[1] else np.full(len(probabilities), -1, dtype=np.int64)
