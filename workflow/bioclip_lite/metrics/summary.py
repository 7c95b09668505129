"""From one value per image to one number with its interval, for every variant, rank and stratum."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bioclip_lite.metrics import bootstrap
from bioclip_lite.taxonomy import RANKS

Columns = Mapping[str, np.ndarray]
COMPARED = ("top1", *RANKS[:-1])


def summarise(
    scores: Mapping[str, Columns],
    truth_nodes: np.ndarray,
    group: np.ndarray,
    seen: np.ndarray,
    references: tuple[str, ...],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Accuracies of all variants on the same images and the same resamples.

    Args:
        scores: ``scoring.score`` of each variant, rows in one order.
        truth_nodes: int [n, 7], the node of each image's label at each rank; -1 where it has no name.
        group: int [n], images with one number are resampled together.
        seen: bool [n], whether the species of an image has training images; only images known to species are asked.
        references: the variants that others are compared with; agreement is with the first.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Returns:
        For every variant: "top1", "top5", "per_rank", "strata", "difference_to" and "agreement_with_<reference>". Each
        number is {"value", "ci95", "n_images", "n_classes"}, a per-rank one with a "macro" average over classes;
        "value" is None where no image counts, "ci95" where fewer than two groups do.
    """
    species = truth_nodes[:, RANKS.index("species")]
    columns: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}  # name -> values, classes
    for variant, score in scores.items():
        for question in ("top1", "top5"):
            columns[variant, question] = score[question], species
        for rank, name in enumerate(RANKS):
            columns[variant, "per_rank", name] = score[name], truth_nodes[:, rank]
        for stratum, members in (("seen", seen), ("unseen", ~seen)):
            for question in ("species", "family"):
                inside = np.where(members & ~np.isnan(score["top1"]), score[question], np.nan)
                columns[variant, "strata", stratum, question] = inside, species
        for reference in references:
            if reference != variant:
                for question in COMPARED:
                    difference = score[question] - scores[reference][question]
                    rank = RANKS.index(question) if question in RANKS else RANKS.index("species")
                    columns[variant, "difference_to", reference, question] = difference, truth_nodes[:, rank]
        if variant != references[0]:
            same = (score["answer"] == scores[references[0]]["answer"]).astype(np.float64)
            columns[variant, f"agreement_with_{references[0]}"] = same, species
    groups = int(group.max()) + 1
    values = np.stack([values for values, _ in columns.values()], axis=1)
    resampled = bootstrap.means(values, group, bootstrap.draws(groups, resamples, seed, "bootstrap"))
    summary: dict[str, dict[str, Any]] = {}
    for column, (path, (value, classes)) in enumerate(columns.items()):
        _place(summary, path, _estimate(value, classes, group, resampled[:, column]))
    for rank, name in enumerate(RANKS):
        _macro(
            summary, scores, name, truth_nodes[:, rank], group, bootstrap.draws(groups, resamples, seed, "bootstrap")
        )
    return summary


def _macro(
    summary: dict[str, dict[str, Any]],
    scores: Mapping[str, Columns],
    rank: str,
    classes: np.ndarray,
    group: np.ndarray,
    counts: Any,
) -> None:
    """Add the macro average at one rank to every variant."""
    values = np.stack([score[rank] for score in scores.values()], axis=1)
    resampled = bootstrap.class_means(values, classes, group, counts)
    for column, variant in enumerate(scores):
        value = bootstrap.class_mean(values[:, column], classes)
        known = group[classes >= 0]
        summary[variant]["per_rank"][rank]["macro"] = {
            "value": _number(value),
            "ci95": _interval(resampled[:, column], known),
        }


def _estimate(values: np.ndarray, classes: np.ndarray, group: np.ndarray, resampled: np.ndarray) -> dict[str, Any]:
    counted = ~np.isnan(values)
    return {
        "value": _number(values[counted].mean() if counted.any() else np.nan),
        "ci95": _interval(resampled, group[counted]),
        "n_images": int(counted.sum()),
        "n_classes": len(np.unique(classes[counted & (classes >= 0)])),
    }


def _interval(resampled: np.ndarray, group: np.ndarray) -> list[float] | None:
    """One group says nothing about how groups differ."""
    found = bootstrap.interval(resampled) if len(np.unique(group)) > 1 else None
    return None if found is None else [round(found[0], 6), round(found[1], 6)]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _place(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
