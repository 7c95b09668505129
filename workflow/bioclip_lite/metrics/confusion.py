"""Which groups are taken for which."""

import numpy as np

MOST = 14  # groups that a page has room for


def rank_to_show(truth_nodes: np.ndarray) -> int | None:
    """Index of the lowest rank at which the images show 2 to MOST nodes; None if there is none."""
    shown = [len(np.unique(nodes[nodes >= 0])) for nodes in truth_nodes.T]
    return max((rank for rank, count in enumerate(shown) if 2 <= count <= MOST), default=None)


def counts(truth: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the answers for each true node of one rank.

    Args:
        truth: int [n], the node of each image's label at one rank; -1 where it has no name.
        answers: int [n], the node answered.

    Returns:
        (nodes [m] that the images show, rising; int64 [m, m + 1]: rows truth, columns answers in the order of
        ``nodes``, the last one every other node).
    """
    named = truth >= 0
    truth, answers = truth[named], answers[named]
    nodes = np.unique(truth)
    row = np.searchsorted(nodes, truth)
    place = np.minimum(np.searchsorted(nodes, answers), len(nodes) - 1)
    column = np.where(nodes[place] == answers, place, len(nodes))
    table = np.zeros((len(nodes), len(nodes) + 1), dtype=np.int64)
    np.add.at(table, (row, column), 1)
    return nodes, table
