"""Fit a temperature, which makes probabilities honest (Guo et al., arXiv 1706.04599, section 4.2).

Trees are given as in ``calibration``. Logits are seen once, block by block. Where taxa
are many, only a summary of a photograph's logits is kept, whose size does not depend on their number: a fit takes as
much memory with 450,000 taxa as with 3,000.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from bioclip_lite.metrics.ranks import Grouping, grouping

_LOWEST, _HIGHEST = 0.1, 10.0  # temperatures
_AT_ONCE = 4_000_000  # logits in float64: 32 MB
# Bins of distances from the best logit: 64 to an octave, from 2 ** -8 to 2 ** 9. They are the first bits of a float32.
_DROPPED_BITS = 23 - 6
_FIRST, _LAST = (int(np.float32(end).view(np.int32)) >> _DROPPED_BITS for end in (2.0**-8, 2.0**9))
_BINS = _LAST - _FIRST + 1
EXACT = 2 * _BINS  # up to so many logits are kept as they are


class Weighted(NamedTuple):
    """Logits of the leaves under each label, one label after another."""

    values: np.ndarray  # float [sum of sizes]
    log_counts: np.ndarray  # float [sum of sizes], how many logits each value stands for
    sizes: np.ndarray  # int64 [n], values of each label, one at least


@dataclass(frozen=True)
class Evidence:
    """What a temperature is fitted on: n photographs, the logits of each shifted by a number of its own."""

    values: np.ndarray  # float [n, m], logits or a summary of them
    log_counts: np.ndarray | None  # float32 [n, m], how many logits each value stands for; None: one
    own: Weighted

    def surprise(self, temperature: float) -> np.ndarray:
        """Negative log likelihood of each label in nats, float64 [n]; as ``losses.taxon_nll`` without the mean.

        A label above the leaves counts with the sum of its leaves' probabilities, one below the list with that of its
        lowest ancestor in it.
        """
        found = np.empty(len(self.values))
        rows = max(1, _AT_ONCE // max(1, self.values.shape[1]))
        for start in range(0, len(found), rows):
            here = slice(start, start + rows)
            scaled = self.values[here].astype(np.float64) / temperature
            found[here] = logsumexp(scaled if self.log_counts is None else scaled + self.log_counts[here], axis=1)
        own = self.own.values.astype(np.float64) / temperature + self.own.log_counts
        starts = np.cumsum(self.own.sizes) - self.own.sizes
        highest = np.maximum.reduceat(own, starts) if len(starts) else np.zeros(0)
        sums = np.add.reduceat(np.exp(own - np.repeat(highest, self.own.sizes)), starts) if len(starts) else np.ones(0)
        return found - (highest + np.log(sums))


def evidence(logits: np.ndarray, truth_nodes: np.ndarray, nodes: Sequence[Grouping]) -> Evidence:
    """Collect what a block of photographs says of a temperature; photographs without a label are left out.

    Args:
        logits: float [n, C], finite.
        truth_nodes: int [n, 7].
        nodes: ``ranks.grouping`` of each rank of ``node_of_leaf``.
    """
    known = (truth_nodes >= 0).any(axis=1)
    logits = logits[known]
    own = [row[leaves_under(label, nodes)] for row, label in zip(logits, truth_nodes[known], strict=True)]
    if logits.shape[1] <= EXACT:
        return Evidence(logits, None, _weighted([(values, np.zeros(len(values))) for values in own]))
    best = logits.max(axis=1, keepdims=True)
    shifted = [_of_label(highest - values) for highest, values in zip(best, own, strict=True)]
    return Evidence(*_summary(best - logits), _weighted(shifted))


def _of_label(gaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(gaps) <= EXACT:
        return -gaps, np.zeros(len(gaps))
    values, log_counts = _summary(gaps[None])
    return values[0], log_counts[0]


def _weighted(own: Sequence[tuple[np.ndarray, np.ndarray]]) -> Weighted:
    values, log_counts = (np.concatenate([np.zeros(0), *(one[part] for one in own)]) for part in (0, 1))
    return Weighted(values, log_counts, np.array([len(one[0]) for one in own], dtype=np.int64))


def _summary(gaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin distances from the best logit, float [n, C]: (values [n, EXACT], logarithms of their counts).

    The numbers of a bin are replaced by two of half their count each, with their mean and variance. A bin is 1.6 % of
    its distance wide, so that the log likelihood is right to 1e-7 at any temperature between the limits.
    """
    gaps = gaps.astype(np.float32)
    bins = np.clip(gaps.view(np.int32) >> _DROPPED_BITS, _FIRST, _LAST) - _FIRST
    place = (bins + _BINS * np.arange(len(gaps))[:, None]).reshape(-1)
    shape, length = (len(gaps), _BINS), len(gaps) * _BINS
    flat = gaps.reshape(-1).astype(np.float64)
    counts = np.bincount(place, minlength=length).reshape(shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(place, flat, length).reshape(shape) / counts
        variance = np.bincount(place, flat * flat, length).reshape(shape) / counts - mean * mean
        spread = np.sqrt(np.maximum(variance, 0))
        half = np.log(counts / 2)
    values = np.nan_to_num(-np.concatenate([mean - spread, mean + spread], axis=1))
    return values.astype(np.float32), np.concatenate([half, half], axis=1).astype(np.float32)


def leaves_under(label: np.ndarray, nodes: Sequence[Grouping]) -> np.ndarray | slice:
    """The leaves under the lowest node of a label, int [7], one of which is >= 0; as an index."""
    rank = int(np.flatnonzero(label >= 0)[-1])
    return nodes[rank].under(int(label[rank]))


def join(parts: Sequence[Evidence]) -> Evidence:
    """Join the evidence of blocks; at least one."""
    counts = [part.log_counts for part in parts if part.log_counts is not None]
    own = Weighted(*(np.concatenate(arrays) for arrays in zip(*(part.own for part in parts), strict=True)))
    return Evidence(np.concatenate([part.values for part in parts]), np.concatenate(counts) if counts else None, own)


def best_temperature(found: Evidence) -> float:
    """The number that logits are to be divided by: least mean surprise at the labels.

    Returns:
        Between 0.1 and 10, to four digits, so that it does not tell one processor from another; 1 without a label.
    """
    if not len(found.values):
        return 1.0
    least = minimize_scalar(
        lambda t: found.surprise(float(np.exp(t))).mean(),
        bounds=np.log([_LOWEST, _HIGHEST]),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(f"{np.exp(least.x):.4g}")


def fit_temperature(logits: np.ndarray, truth_nodes: np.ndarray, node_of_leaf: np.ndarray) -> float:
    """``best_temperature`` of logits in memory, float [n, C]; truth_nodes int [n, 7], node_of_leaf int [7, C]."""
    nodes = [grouping(names) for names in node_of_leaf]
    rows = max(1, _AT_ONCE // max(1, logits.shape[1]))
    starts = range(0, max(1, len(logits)), rows)
    return best_temperature(
        join([evidence(logits[start : start + rows], truth_nodes[start : start + rows], nodes) for start in starts])
    )
