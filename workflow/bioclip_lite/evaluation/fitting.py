"""Fit the temperature and the back-off thresholds of a variant, and score its answers with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bioclip_lite.evaluation.predictions import Predictions
from bioclip_lite.metrics import calibration
from bioclip_lite.metrics.ranks import capped, softmax
from bioclip_lite.metrics.scoring import score
from bioclip_lite.taxa.label_space import Labels, Truth
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.randomness import drawn

_FITTED_ON_AT_MOST = 10_000  # photographs for a temperature: their mean is good to a hundredth


@dataclass(frozen=True)
class Fit:
    """The calibration of a variant, and the answers that it was fitted on."""

    source: str  # "fitted", or "shipped" in the bundle
    temperature: float
    thresholds: calibration.Thresholds
    best: dict[str, np.ndarray]  # "share" and "node" (calibration.best_nodes) of one photograph per observation
    truth_nodes: np.ndarray  # int64 [m, 7], their labels


def fit(
    prediction: Predictions,
    keys: list[str],
    observations: Sequence[str | None],
    truth_nodes: np.ndarray,
    labels: Labels,
) -> Fit:
    """Fit temperature and thresholds on the calibration split, unless the variant ships with its own.

    Args:
        keys, observations, truth_nodes (int64 [n, 7]): photographs of the calibration split.
    """
    shipped = prediction.costs.get("calibration")
    if shipped:
        temperature = float(shipped["temperature"])
    else:
        rows = drawn(keys, _FITTED_ON_AT_MOST, "temperature")
        logits = np.empty((len(rows), len(labels.ids)), dtype=np.float32)
        for here, block in prediction.placed([keys[row] for row in rows], prediction.blocks()):
            logits[here] = block
        temperature = calibration.fit_temperature(logits, truth_nodes[rows], labels.node_of_leaf)
    first = calibration.first_of_each(observations)
    named = capped(labels.node_of_leaf, labels.finest_rank)
    share = np.empty((len(first), len(RANKS)))
    node = np.empty((len(first), len(RANKS)), dtype=np.int64)
    for here, block in prediction.placed([keys[row] for row in first], prediction.blocks()):
        share[here], node[here] = calibration.best_nodes(softmax(block / temperature), named)
    if shipped:
        thresholds = shipped["thresholds"]["ranks"]
    else:
        thresholds = calibration.fit_reduced(share, node, truth_nodes[first], named, calibration.LEVEL)
    best = {"share": share, "node": node}
    return Fit("shipped" if shipped else "fitted", temperature, thresholds, best, truth_nodes[first])


def scored(
    prediction: Predictions, keys: list[str], truth: Truth, labels: Labels, temperature: float
) -> dict[str, np.ndarray]:
    """``scoring.score`` of all photographs, rows in the order of ``keys``."""
    columns: dict[str, np.ndarray] = {}
    for here, logits in prediction.placed(keys, prediction.blocks()):
        scores = score(
            logits, truth.leaf[here], truth.nodes[here], labels.node_of_leaf, temperature, labels.finest_rank
        )
        for name, values in scores.items():
            columns.setdefault(name, np.empty((len(keys), *values.shape[1:]), dtype=values.dtype))[here] = values
    return columns
