"""Section of the report: the suites, each with its own rules, so each in a table of its own."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bioclip_lite.report.text import LABELS, SHIPPED, cell, count_of, interval, named, percent, points, points_interval
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json

TITLES = {
    "two_way": "Right of two, %",
    "aupr": "Area under precision over recall, %",
    "top1": "Right, %",
    "top5": "Right among five, %",
    "macro": "Right, every class alike, %",
}


def read(data: Path, names: Sequence[str]) -> dict[str, Any]:
    """What the jobs of the suites wrote, by name. Raises UserError for one that is missing."""
    folder = data / "evaluate" / "predictions" / "suites"
    missing = [name for name in names if not (folder / f"{name}.json").exists()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}, which evaluate.suites asks for: run evaluate suites/{missing[0]} "
            "(snakemake --cores all evaluate runs what is missing)"
        )
    return {name: read_json(folder / f"{name}.json") for name in names}


def section(metrics: Mapping[str, Any]) -> str:
    """A table for each suite; empty where there is none."""
    suites = metrics.get("suites") or {}
    if not suites:
        return ""
    return (
        "<section><h2>Other test sets</h2>"
        + "".join(_suite(name, suite) for name, suite in suites.items())
        + '<p class="caption"><span class="phone">Scroll sideways for more. </span>Names are read by the text tower of '
        "the teacher, in whose space all these models answer. Small print: 95 % intervals; of Against teacher, paired "
        "ones. Figures with another protocol id must not be compared.</p></section>"
    )


def _suite(name: str, suite: Mapping[str, Any]) -> str:
    headline = suite["headline"]
    variants = {variant: suite["variants"][variant] for variant in LABELS if variant in suite["variants"]}
    first = next(iter(variants.values()))
    shown = [title for title in TITLES if title in first]
    head = (*(TITLES[number] for number in shown), "Against teacher, points")
    rows = [_row(variant, row, shown) for variant, row in variants.items()]
    rows.append(
        '<tr class="rule"><th scope="row">Guessing</th>'
        + "".join(f"<td>{percent(first[number]['chance'])}</td>" for number in shown)
        + "<td></td></tr>"
    )
    titles = "".join(f"<th scope=col>{title}</th>" for title in ("Model", *head))
    return (
        f"<h3>{escape(name)}</h3>"
        f'<div class="scroll"><table class="ranks doubt"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody>'
        f'</table></div><p class="caption">{escape(_caption(suite, first[headline]))}</p>'
    )


def _row(variant: str, row: Mapping[str, Any], shown: Sequence[str]) -> str:
    cells = [cell(percent(row[number]["value"]), interval(row[number])) for number in shown]
    difference = row.get("difference_to_teacher")
    cells.append(cell(points(difference["value"]), points_interval(difference)) if difference else "")
    marked = ' class="shipped"' if variant == SHIPPED else ""
    tds = "".join(f"<td>{content}</td>" for content in cells)
    return f'<tr{marked}><th scope="row">{escape(named(variant)[0])}</th>{tds}</tr>'


def _caption(suite: Mapping[str, Any], number: Mapping[str, Any]) -> str:
    facts = [
        f"{count_of(number['n_images'], 'photograph')} of {count_of(number['n_classes'], 'class', 'classes')}; the "
        f"question: {suite['rules']}",
        f'said as "{suite["example"]}"'
        + (f", in {count_of(suite['n_templates'], 'template')}" if suite["n_templates"] > 1 else ""),
        f"intervals by resampling {'observations' if suite['cluster'] == 'observation' else 'classes'}",
    ]
    if suite["left_out"]:
        facts.append(f"{count_of(suite['left_out'], 'photograph')} left out by the rules")
    if suite["rejected"]["count"]:
        facts.append(f"{count_of(suite['rejected']['count'], 'photograph')} of no use")
    return f"{'; '.join(facts)}. Protocol {suite['protocol']}."
