"""Score a block of logits: one value per image and metric."""

import numpy as np

from bioclip_lite.metrics.calibration import best_nodes, surprise
from bioclip_lite.metrics.ranks import capped, softmax
from bioclip_lite.metrics.topk import places
from bioclip_lite.metrics.tree import heights
from bioclip_lite.taxa.taxonomy import RANKS


def score(
    logits: np.ndarray,
    truth: np.ndarray,
    truth_nodes: np.ndarray,
    node_of_leaf: np.ndarray,
    temperature: float = 1.0,
    finest_rank: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """One value per image and metric; 1 correct, 0 wrong, NaN if the image's label cannot tell.

    Args:
        logits: float [n, C], finite.
        truth: int [n], the leaf of an image known to species; -1 otherwise.
        truth_nodes: int [n, 7], the node of the image's label at each rank; -1 where it has no name.
        node_of_leaf: int [7, C], the node above each leaf at each rank (``taxonomy.nodes_at``).
        temperature: of the model; it says how likely an answer is, and so decides what is best above the species.
        finest_rank: int [C], index of the lowest rank that an answer with back-off may have for each leaf; None: any.
            Accuracies ("top1" to the ranks) are those of the best leaf and nodes, whether they may be named or not.

    Returns:
        Float64 [n]: "top1", "top5" and the seven ranks; "height" and "height5", how far the best leaf and the mean of
        the five best is from the truth (``tree.heights``); "probability" of the best leaf and "nll" of the label in
        nats, both also "_raw", at temperature 1. Int64 [n]: "answer", the best leaf. [n, 7]: "best", the best node
        at each rank, and "share" and "node", the best one that may be named (``calibration.best_nodes``).
    """
    place = places(logits, truth)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    raw, probabilities = softmax(logits), softmax(logits / temperature)
    named = node_of_leaf if finest_rank is None else capped(node_of_leaf, finest_rank)
    share, best_node = best_nodes(probabilities, node_of_leaf)
    share, node = (share, best_node) if named is node_of_leaf else best_nodes(probabilities, named)
    far = heights(best, truth, node_of_leaf)
    columns = {
        "answer": best[:, 0],
        "top1": np.where(place < 0, np.nan, place < 1),
        "top5": np.where(place < 0, np.nan, place < 5),
        "height": far[:, 0],
        "height5": far.mean(axis=1),
        "probability": np.take_along_axis(probabilities, best[:, :1], axis=1)[:, 0],
        "probability_raw": np.take_along_axis(raw, best[:, :1], axis=1)[:, 0],
        "nll": surprise(logits, truth_nodes, node_of_leaf, temperature),
        "nll_raw": surprise(logits, truth_nodes, node_of_leaf),
        "share": share,
        "node": node,
        "best": best_node,
    }
    for rank, name in enumerate(RANKS):
        wanted = truth_nodes[:, rank]
        columns[name] = np.where(wanted < 0, np.nan, best_node[:, rank] == wanted)
    return columns
