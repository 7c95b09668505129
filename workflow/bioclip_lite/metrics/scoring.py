"""Score answers: reduce logits to a few columns of each photograph, and say what of it is right."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from bioclip_lite.metrics.calibration import best_of_groups
from bioclip_lite.metrics.ranks import Grouping, capped, grouping
from bioclip_lite.metrics.temperature import leaves_under
from bioclip_lite.metrics.topk import places, top
from bioclip_lite.metrics.tree import heights
from bioclip_lite.taxa.taxonomy import RANKS

TOP = 5
_AT_ONCE = 4_000_000  # logits in float64: 32 MB


@dataclass(frozen=True)
class Tree:
    """The leaves, grouped by their nodes at each rank, and by those that may name them."""

    nodes: list[Grouping]
    named: list[Grouping]  # the same, where every node may


def tree_of(node_of_leaf: np.ndarray, finest_rank: np.ndarray | None = None) -> Tree:
    """Group the leaves once for all blocks of logits.

    Args:
        node_of_leaf: int [7, C], the node above each leaf at each rank (``taxonomy.nodes_at``).
        finest_rank: int [C], index of the lowest rank that an answer with back-off may have for each leaf; None: any.
    """
    nodes = [grouping(names) for names in node_of_leaf]
    named = node_of_leaf if finest_rank is None else capped(node_of_leaf, finest_rank)
    return Tree(nodes, nodes if named is node_of_leaf else [grouping(names) for names in named])


def reduce_logits(
    logits: np.ndarray, truth: np.ndarray, truth_nodes: np.ndarray, tree: Tree, temperature: float
) -> dict[str, np.ndarray]:
    """Reduce logits to columns that ``judge_columns`` needs: 172 bytes a photograph, whatever C.

    Takes some rows at a time, so that memory beyond the logits does not grow with them.

    Args:
        logits: float [n, C], finite.
        truth: int [n], the leaf of an image known to species; -1 otherwise.
        truth_nodes: int [n, 7], the node of the image's label at each rank; -1 where it has no name.
        temperature: of the model; it says how likely an answer is, and so decides what is best above the species.

    Returns:
        Int32: "top" [n, 5], the best leaves; "place" [n], that of the true leaf among all, -1 where there is none;
        "best" [n, 7], the best node at each rank; "node" [n, 7], the best one that may be named. Float64: "share"
        [n, 7], its probability; "probability" [n] of the best leaf and "nll" [n] of the label in nats, both also
        "_raw", at temperature 1.
    """
    rows = max(1, _AT_ONCE // max(1, logits.shape[1]))
    parts = []
    for start in range(0, max(1, len(logits)), rows):
        here = slice(start, start + rows)
        parts.append(_reduced(logits[here], truth[here], truth_nodes[here], tree, temperature))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _reduced(
    logits: np.ndarray, truth: np.ndarray, truth_nodes: np.ndarray, tree: Tree, temperature: float
) -> dict[str, np.ndarray]:
    best = top(logits, TOP)
    highest = np.take_along_axis(logits, best[:, :1], axis=1).astype(np.float64)
    probability, nll = {}, {}
    for name, divisor in (("_raw", 1.0), ("", temperature)):  # the probabilities of the last one are used below
        probabilities = np.subtract(logits, highest, dtype=np.float64)
        probabilities /= divisor
        np.exp(probabilities, out=probabilities)
        total = probabilities.sum(axis=1)
        probability[name] = 1 / total
        nll[name] = np.log(total) - _of_labels(logits, highest, truth, truth_nodes, tree, divisor)
    probabilities /= total[:, None]
    share, best_node = best_of_groups(probabilities, tree.nodes)
    share, node = (share, best_node) if tree.named is tree.nodes else best_of_groups(probabilities, tree.named)
    return {
        "share": share,
        **{f"probability{name}": values for name, values in probability.items()},
        **{f"nll{name}": values for name, values in nll.items()},
        "top": best.astype(np.int32),
        "place": places(logits, truth).astype(np.int32),
        "best": best_node.astype(np.int32),
        "node": node.astype(np.int32),
    }


def _of_labels(
    logits: np.ndarray, highest: np.ndarray, truth: np.ndarray, truth_nodes: np.ndarray, tree: Tree, temperature: float
) -> np.ndarray:
    """Logarithm of the summed exponentials of the leaves under each label, float64 [n]; NaN without a label."""
    value = np.take_along_axis(logits, np.maximum(truth, 0)[:, None], axis=1)
    found = np.where(truth < 0, np.nan, (value - highest)[:, 0] / temperature)
    for row in np.flatnonzero((truth < 0) & (truth_nodes >= 0).any(axis=1)):
        own = logits[row, leaves_under(truth_nodes[row], tree.nodes)] - highest[row]
        found[row] = logsumexp(own / temperature)
    return found


def judge_columns(
    columns: dict[str, np.ndarray], truth: np.ndarray, truth_nodes: np.ndarray, node_of_leaf: np.ndarray
) -> dict[str, np.ndarray]:
    """One value per image and metric; 1 correct, 0 wrong, NaN if the image's label cannot tell.

    Args:
        columns: of ``reduce_logits``.
        truth, truth_nodes: as there.
        node_of_leaf: int [7, C].

    Returns:
        Float64 [n]: "top1", "top5" and the seven ranks; "height" and "height5", how far the best leaf and the mean of
        the five best is from the truth (``tree.heights``). Int [n]: "answer", the best leaf. And all of ``columns``
        but "top" and "place". Accuracies ("top1" to the ranks) are those of the best leaf and nodes, whether they may
        be named or not.
    """
    place, best = columns["place"], columns["best"]
    far = heights(columns["top"], truth, node_of_leaf)
    right = {
        name: np.where(truth_nodes[:, rank] < 0, np.nan, best[:, rank] == truth_nodes[:, rank])
        for rank, name in enumerate(RANKS)
    }
    return {
        **{name: values for name, values in columns.items() if name not in ("top", "place")},
        "answer": columns["top"][:, 0],
        "top1": np.where(place < 0, np.nan, place < 1),
        "top5": np.where(place < 0, np.nan, place < TOP),
        "height": far[:, 0],
        "height5": far.mean(axis=1),
        **right,
    }


def score(
    logits: np.ndarray,
    truth: np.ndarray,
    truth_nodes: np.ndarray,
    node_of_leaf: np.ndarray,
    temperature: float = 1.0,
    finest_rank: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """``judge_columns`` of logits in memory; arguments as of ``reduce_logits`` and ``tree_of``."""
    columns = reduce_logits(logits, truth, truth_nodes, tree_of(node_of_leaf, finest_rank), temperature)
    return judge_columns(columns, truth, truth_nodes, node_of_leaf)
