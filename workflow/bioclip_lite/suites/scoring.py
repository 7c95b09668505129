"""Score the answers to a suite: one value per photograph, and the rows of metrics.json."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bioclip_lite.metrics import bootstrap, detection
from bioclip_lite.metrics.choices import best_places, chance, choice
from bioclip_lite.metrics.summary import Asked, estimate, interval, macro_averages, number
from bioclip_lite.suites.suite import HEADLINES, Photograph, Suite

# Part of a suite's protocol id. Raise it when a definition changes.
_DEFINITIONS = 1


def observe(question: str, logits: np.ndarray, photographs: Sequence[Photograph]) -> np.ndarray:
    """Reduce the answers to some photographs to one value each, float64 [n].

    Args:
        question: of the suite, see ``suites.HEADLINES``.
        logits: float32 [n, C], finite.
        photographs: n of them.

    Returns:
        "class": the place of the best right class; "choice": 1 right, 0 wrong, a share of a draw; "anomaly": a score.
    """
    if question == "class":
        return best_places(logits, [photograph.right for photograph in photographs]).astype(np.float64)
    if question == "choice":
        return choice(logits, [photograph.among or () for photograph in photographs])
    return detection.anomaly(logits)


def summarise(
    suite: Suite, photographs: Sequence[Photograph], observed: Mapping[str, np.ndarray], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The numbers of every variant, on the same photographs and the same resamples.

    Args:
        suite: which the ``photographs`` are of: those that could be read.
        observed: of each variant, the first being the reference, ``observe`` of all photographs.
        resamples, seed: of the bootstrap over groups.

    Returns:
        By variant: "top1", "top5" and "macro", or "choice" and "macro", or "aupr"; and "difference_to_<reference>"
        of the first of them. Each is {"value", "ci95", "chance", "n_images", "n_classes", "label_space"}.
    """
    own = np.array([photograph.own for photograph in photographs], dtype=np.int64)
    group = np.unique([photograph.group for photograph in photographs], return_inverse=True)[1].astype(np.int64)
    guessed = _chances(suite, photographs)
    if suite.question == "anomaly":
        positive = np.array([not photograph.right for photograph in photographs])
        found = _detected(positive, observed, own, group, resamples, seed)
    else:
        found = _answered(suite.question, observed, own, group, resamples, seed)
    space = max((len(one.among) for one in photographs if one.among), default=len(suite.classes))
    for row in found.values():
        for name, one in row.items():
            one |= {"label_space": space, "chance": guessed.get(name)}
    return found


def _chances(suite: Suite, photographs: Sequence[Photograph]) -> dict[str, float]:
    """Expected value of guessing for each figure."""
    if suite.question == "anomaly":
        return {"aupr": round(float(np.mean([not photograph.right for photograph in photographs])), 6)}
    own = np.array([photograph.own for photograph in photographs])
    space = len(suite.classes)
    if suite.question == "choice":
        first = np.array([1 / len(one.among or ()) for one in photographs])
        found = {"choice": first.mean()}
    else:
        first, fifth = (np.array([chance(len(one.right), space, k) for one in photographs]) for k in (1, 5))
        found = {"top1": first.mean(), "top5": fifth.mean()}
    found["macro"] = bootstrap.class_mean(first, own)
    return {name: round(float(value), 6) for name, value in found.items()}


def _answered(
    question: str,
    observed: Mapping[str, np.ndarray],
    own: np.ndarray,
    group: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    headline = HEADLINES[question]
    columns = {variant: _columns(question, values) for variant, values in observed.items()}
    reference, *_ = columns
    found = {}
    for variant, values in columns.items():
        asked: Asked = {(name,): (column, own) for name, column in values.items()}
        if variant != reference:
            asked[f"difference_to_{reference}",] = values[headline] - columns[reference][headline], own
        found[variant] = estimate(asked, group, resamples, seed)
    averages = macro_averages([values[headline] for values in columns.values()], own, group, resamples, seed)
    for row, average in zip(found.values(), averages, strict=True):
        counts = {name: row[headline][name] for name in ("n_images", "n_classes")}
        row["macro"] = {**average, **counts}
    return found


def _columns(question: str, observed: np.ndarray) -> dict[str, np.ndarray]:
    """1 right, 0 wrong, by number."""
    if question == "choice":
        return {"choice": observed}
    return {"top1": (observed < 1).astype(np.float64), "top5": (observed < 5).astype(np.float64)}


def _detected(
    positive: np.ndarray,
    observed: Mapping[str, np.ndarray],
    own: np.ndarray,
    group: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    counts = {"n_images": len(positive), "n_classes": len(np.unique(own))}
    each, once = np.arange(len(own)), [np.ones(len(own), dtype=np.int64)]
    areas = {}
    for variant, score in observed.items():
        draws = bootstrap.draws(int(group.max()) + 1, resamples, seed, "bootstrap")
        whole = detection.average_precision(score, positive, each, once)[0]
        areas[variant] = whole, detection.average_precision(score, positive, group, draws)
    reference, *_ = areas
    found: dict[str, dict[str, Any]] = {}
    for variant, (whole, resampled) in areas.items():
        found[variant] = {"aupr": {"value": number(whole), "ci95": interval(resampled, group), **counts}}
        if variant != reference:
            value, samples = whole - areas[reference][0], resampled - areas[reference][1]
            difference = {"value": number(value), "ci95": interval(samples, group), **counts}
            found[variant][f"difference_to_{reference}"] = difference
    return found


def protocol(name: str, suite: Suite, photographs: Sequence[Photograph], sentences: Sequence[str]) -> str:
    """An id that two suites share if their figures may be compared: the same photographs, names and rules."""
    identity = [_DEFINITIONS, suite.question, suite.rules, suite.border, suite.cluster, sentences]
    identity.append([[one.locator, one.right, one.own, one.group, one.among] for one in photographs])
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return f"{name}-{digest}"
