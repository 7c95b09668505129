"""What the logits of a block of images say about each image."""

import numpy as np

from bioclip_lite.metrics.ranks import answers, softmax
from bioclip_lite.metrics.topk import places
from bioclip_lite.taxonomy import RANKS


def score(
    logits: np.ndarray, truth: np.ndarray, truth_nodes: np.ndarray, node_of_leaf: np.ndarray
) -> dict[str, np.ndarray]:
    """One value per image and question; 1 right, 0 wrong, NaN where the image's label does not answer the question.

    Args:
        logits: float [n, C], finite.
        truth: int [n], the leaf of an image known to species; -1 otherwise.
        truth_nodes: int [n, 7], the node of the image's label at each rank; -1 where it has no name.
        node_of_leaf: int [7, C], the node above each leaf at each rank (``taxonomy.nodes_at``).

    Returns:
        "top1", "top5" and the seven ranks, float64 [n]; "answer", int64 [n], the most probable leaf; "probability",
        float64 [n], what the model gives it.
    """
    place = places(logits, truth)
    probabilities = softmax(logits)
    answer = logits.argmax(axis=1)
    columns = {
        "answer": answer,
        "probability": np.take_along_axis(probabilities, answer[:, None], axis=1)[:, 0],
        "top1": np.where(place < 0, np.nan, place < 1),
        "top5": np.where(place < 0, np.nan, place < 5),
    }
    for rank, name in enumerate(RANKS):
        wanted = truth_nodes[:, rank]
        columns[name] = np.where(wanted < 0, np.nan, answers(probabilities, node_of_leaf[rank]) == wanted)
    return columns
