"""Section on the suites: each has its own rules, so each has a table of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bioclip_lite.report.elements import Row, Section, cell, render, share, variant_row
from bioclip_lite.report.text import LABELS, percent, points, points_interval
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json

TITLES = {
    "choice": "Correct of its options, %",
    "aupr": "Area under precision-recall curve, %",
    "top1": "Correct, %",
    "top5": "Among first 5, %",
    "macro": "Correct, macro, %",
}


def read(data: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read the results of the suites ``names``; raises UserError if a job has not written its own."""
    folder = data / "evaluate" / "predictions" / "suites"
    missing = [name for name in names if not (folder / f"{name}.json").exists()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}, which evaluate.suites asks for: run evaluate suites/{missing[0]} "
            "(snakemake --cores all evaluate runs what is missing)"
        )
    return {name: read_json(folder / f"{name}.json") for name in names}


def section(metrics: Mapping[str, Any]) -> Section | None:
    """A table for each suite; None if there is no suite."""
    if not metrics.get("suites"):
        return None
    suites = [(name, suite, _head(suite), _rows(suite)) for name, suite in metrics["suites"].items()]
    return Section("Other test sets", render("report/suites.html.j2", suites=suites))


def _rows(suite: Mapping[str, Any]) -> list[Row]:
    variants = {variant: suite["variants"][variant] for variant in LABELS if variant in suite["variants"]}
    measures = _measures(suite)
    rows = []
    for variant, row in variants.items():
        difference = row.get("difference_to_teacher")
        against = cell(points(difference["value"]), points_interval(difference)) if difference else cell("")
        rows.append(variant_row(variant, [*(share(row[measure]) for measure in measures), against]))
    first = next(iter(variants.values()))
    chance = [cell(percent(first[measure]["chance"])) for measure in measures]
    return [*rows, Row(cell("Chance"), [*chance, cell("")], "rule")]


def _head(suite: Mapping[str, Any]) -> list[str]:
    return ["Model", *(TITLES[measure] for measure in _measures(suite)), "Against teacher, points"]


def _measures(suite: Mapping[str, Any]) -> list[str]:
    variant = next(variant for variant in LABELS if variant in suite["variants"])
    return [measure for measure in TITLES if measure in suite["variants"][variant]]
