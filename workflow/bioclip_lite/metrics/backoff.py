"""What a model that says when it does not know answers: how far down the tree, and how often it is right."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bioclip_lite.calibration import LEVEL, Thresholds, chosen, fit_reduced, judge, lowest
from bioclip_lite.metrics.summary import Asked, Columns, Strata, estimate, ratios
from bioclip_lite.metrics.tree import overlap, specificity
from bioclip_lite.taxonomy import RANKS

# Of the operating curve: what could be promised instead.
LEVELS = (0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)


def summarise(
    score: Columns,
    thresholds: Thresholds,
    truth_nodes: np.ndarray,
    node_of_leaf: np.ndarray,
    group: np.ndarray,
    strata: Strata,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The answers with given thresholds.

    Args:
        score: ``scoring.score`` of n images: "share" and "node".
        thresholds: as from ``calibration.fit_thresholds``.
        truth_nodes, node_of_leaf, group, resamples, seed: as in ``summary.summarise``.
        strata: images that are also looked at on their own.

    Returns:
        Numbers as in ``summary.summarise``: "right", of the answers whose rightness the label can tell; "answered",
        "specificity" and "answered_at" each rank, of all images; "right_at" each rank; "strata"; "hierarchy":
        precision, recall and f over the tree.
    """
    rank, node, right = _answers(score, thresholds, truth_nodes, node_of_leaf)
    labels = np.unique(truth_nodes, axis=0, return_inverse=True)[1].reshape(-1)
    answered = (rank >= 0).astype(np.float64)
    asked: Asked = {
        ("right",): (right, labels),
        ("answered",): (answered, labels),
        ("specificity",): (specificity(rank, node, node_of_leaf), labels),
    }
    for at, name in enumerate(RANKS):
        asked["answered_at", name] = (rank == at).astype(np.float64), labels
        asked["right_at", name] = np.where(rank == at, right, np.nan), labels
    for stratum, members in strata.items():
        asked["strata", *stratum, "right"] = np.where(members, right, np.nan), labels
        asked["strata", *stratum, "answered"] = np.where(members, answered, np.nan), labels
    found = estimate(asked, group, resamples, seed)
    found["hierarchy"] = ratios(*overlap(rank, node, truth_nodes, node_of_leaf), labels, group, resamples, seed)
    return found


def operating_curve(
    fitted_on: Columns, fitted_truth: np.ndarray, score: Columns, truth_nodes: np.ndarray, node_of_leaf: np.ndarray
) -> dict[str, dict[str, Any]]:
    """What each of LEVELS would bring: thresholds from the one set of images, their answers to the other.

    Args:
        fitted_on: "share" and "node" of the calibration images, one of each observation.
        fitted_truth: int [m, 7], their labels.
        score, truth_nodes, node_of_leaf: of the test images, as in ``summarise``.

    Returns:
        By level "0.95": shares of the test images: "answered", "specificity", one for each rank; "right", of the
        answers. Without a level that no thresholds hold.
    """
    curve = {}
    for level in LEVELS:
        thresholds = fit_reduced(fitted_on["share"], fitted_on["node"], fitted_truth, node_of_leaf, level)
        if not promised(thresholds):
            continue
        rank, node, right = _answers(score, thresholds, truth_nodes, node_of_leaf)
        judged = right[~np.isnan(right)]
        curve[f"{level:.3f}".rstrip("0")] = {
            "right": round(float(judged.mean()), 6) if len(judged) else None,
            "answered": round(float((rank >= 0).mean()), 6),
            "specificity": round(float(specificity(rank, node, node_of_leaf).mean()), 6),
            **{name: round(float((rank == at).mean()), 6) for at, name in enumerate(RANKS)},
        }
    return curve


def promised(thresholds: Thresholds) -> bool:
    """Whether there is a threshold at all."""
    return any(threshold is not None for threshold in thresholds.values())


def kept(right: Mapping[str, Any], level: float = LEVEL) -> bool | None:
    """Whether the answers to test images bear out the promise; None without an answer.

    Broken if even the upper end of the 95 % interval lies below ``level``: the promise is about all photographs, and
    a test set is a few of them.
    """
    if right["value"] is None:
        return None
    return bool(max(right["value"], right["ci95"][1] if right["ci95"] else 0.0) >= level)


def _answers(
    score: Columns, thresholds: Thresholds, truth_nodes: np.ndarray, node_of_leaf: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rank = lowest(score["share"], thresholds)
    node = chosen(score["node"], rank)
    return rank, node, judge(rank, node, truth_nodes, node_of_leaf)
