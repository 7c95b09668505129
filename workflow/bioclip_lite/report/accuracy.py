"""Sections on accuracy: by rank, by what the student was trained on, and against the costs of each model."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from bioclip_lite.evaluation.comparison import NOT_SEEN
from bioclip_lite.report.elements import Cell, Row, Section, cell, render, share, shipped_style, variant_row
from bioclip_lite.report.text import (
    DASH,
    SHIPPED,
    milliseconds,
    named,
    points,
    points_interval,
    quantity,
    size,
)
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.pages import count_of

_LEARNED = {"trained": "trained on", "pretrain_only": "never trained on", "zero_shot": "zero-shot"}


def by_rank(variants: Mapping[str, Any], protocol: Mapping[str, Any], figures: Markup) -> Section:
    """Accuracy of every model at every rank, and the ``figures`` that belong to it."""
    first, shipped = next(iter(variants.values())), variants[SHIPPED]
    rows = [Row(_rank(rank, first), [share(row["per_rank"][rank]) for row in variants.values()]) for rank in RANKS]
    macro = [share(row["per_rank"]["species"]["macro"]) for row in variants.values()]
    return Section(
        "Accuracy at each rank, %",
        render(
            "report/accuracy.by_rank.html.j2",
            head=[cell("Rank"), *(cell(named(variant)[0]) for variant in variants)],
            rows=[*rows, Row(cell("Species, macro", "every species has equal weight"), macro, "rule")],
            shipped=list(variants).index(SHIPPED),
            # If the label space has taxa above the species, species accuracy has two definitions.
            top1=None if shipped["top1"]["value"] == shipped["per_rank"]["species"]["value"] else shipped["top1"],
            capped=protocol["capped"],
            figures=figures,
        ),
    )


def _rank(rank: str, metrics: Mapping[str, Any]) -> Cell:
    row = metrics["per_rank"][rank]
    taxa = f"{row['n_classes']:,} of {count_of(row['label_space'], 'taxon', 'taxa')}"
    return cell(rank.capitalize(), f"n = {row['n_images']:,}; {taxa}")


def by_training(variants: Mapping[str, Any], protocol: Mapping[str, Any]) -> Section:
    """Accuracy on species that the student was trained on, that only the teacher may have been, and that none was."""
    first = next(iter(variants.values()))["strata"]
    shown = {stratum: first[stratum]["species"] for stratum in _LEARNED if first[stratum]["species"]["n_images"]}
    columns = [(stratum, rank) for stratum in shown for rank in ("species", "family")]
    rows = [
        variant_row(variant, [share(row["strata"][stratum][rank]) for stratum, rank in columns])
        for variant, row in variants.items()
    ]
    return Section(
        "Accuracy on species with and without training photographs, %",
        render(
            "report/accuracy.by_training.html.j2",
            head=[cell("Model"), *(cell(rank.capitalize(), _LEARNED[stratum]) for stratum, rank in columns)],
            rows=rows,
            shown=[(_LEARNED[stratum], row) for stratum, row in shown.items()],
            protocol=protocol,
        ),
    )


def not_seen_by_teacher(variants: Mapping[str, Any], protocol: Mapping[str, Any]) -> Section | None:
    """Accuracy on the photographs that the teacher was not trained on, beside that on all; None if it is not known."""
    counts = protocol["teacher_saw"]
    if counts is None:
        return None
    rows = [variant_row(variant, [share(number) for number in _twice(row)]) for variant, row in variants.items()]
    return Section(
        "Accuracy on photographs that the teacher was not trained on, %",
        render("report/accuracy.not_seen_by_teacher.html.j2", rows=rows, counts=counts, n_images=protocol["n_images"]),
    )


def _twice(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Species, family and answers with back-off, on all photographs and on those that the teacher did not see."""
    back_off = metrics["back_off"]
    unseen, answered = metrics["strata"][NOT_SEEN], back_off["strata"][NOT_SEEN]
    everywhere = metrics["top1"], metrics["per_rank"]["family"], back_off["right"]
    return [*everywhere, unseen["species"], unseen["family"], answered["right"]]


def by_cost(variants: Mapping[str, Any]) -> Section:
    """Accuracy, size, operations and time of every model."""
    runs = {row["latency_ms"]["n"] for row in variants.values() if row.get("latency_ms")}
    return Section(
        "Models and their costs",
        render(
            "report/accuracy.by_cost.html.j2",
            rows=[Row(cell(*named(v)), _costs(row), shipped_style(v)) for v, row in variants.items()],
            top1=next(iter(variants.values()))["top1"],
            runs=" or ".join(map(str, sorted(runs))),
        ),
    )


def _costs(metrics: Mapping[str, Any]) -> list[Cell]:
    difference = metrics.get("difference_to", {}).get("teacher", {}).get("top1")
    agreement = metrics.get("agreement_with_teacher")
    return [
        share(metrics["top1"]),
        share(metrics["top5"]),
        cell(points(difference["value"]), points_interval(difference)) if difference else cell(DASH),
        share(agreement) if agreement else cell(DASH),
        _stored(metrics),
        cell(
            quantity(metrics.get("macs")), f"{quantity(metrics['params'])} parameters" if metrics.get("params") else ""
        ),
        _timed(metrics.get("latency_ms")),
    ]


def _stored(metrics: Mapping[str, Any]) -> Cell:
    table = metrics.get("table_bytes")
    gzipped = metrics.get("gzipped") and metrics["gzipped"] + (metrics.get("table_gzipped") or 0)
    return cell(
        size(metrics.get("bytes")),
        f"+ {size(table)} taxa" if table else "",
        f"{size(gzipped)} gzipped" if gzipped else "",
    )


def _timed(latency: Mapping[str, Any] | None) -> Cell:
    if not latency:
        return cell(DASH)
    return cell(milliseconds(latency["median"]), f"minimum {milliseconds(latency['min'])}", latency["runtime"])
