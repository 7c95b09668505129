"""Building blocks of the report: cells, rows and sections, and the function that renders its templates."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from bioclip_lite.report import text
from bioclip_lite.report.text import SHIPPED, interval, named, percent
from bioclip_lite.utils import pages


def unbroken(html: str) -> Markup:
    """HTML whose numbers stay on one line with their units."""
    return Markup(re.sub(r"(?<=\d) (?=%|[kMG]?B\b|ms\b|[kMG]\b)", "&nbsp;", html))


render = pages.renderer(
    {
        "decimal": text.decimal,
        "interval": interval,
        "milliseconds": text.milliseconds,
        "percent": percent,
        "points": text.points,
        "points_interval": text.points_interval,
        "quantity": text.quantity,
        "size": text.size,
        "unbroken": unbroken,
    }
)


class Section(NamedTuple):
    """A part of the page that its table of contents lists."""

    title: str
    body: Markup


class Cell(NamedTuple):
    """A value, and lines in small print below it."""

    value: str
    small: tuple[str, ...] = ()


class Row(NamedTuple):
    """A row of a table: its heading and its cells. ``style`` names a class of page.css."""

    name: Cell
    cells: Sequence[Cell]
    style: str = ""


def cell(value: str, *small: str) -> Cell:
    """A cell without those lines that are empty."""
    return Cell(value, tuple(filter(None, small)))


def share(row: Mapping[str, Any], *small: str) -> Cell:
    """A share of metrics.json in percent, above its 95 % interval."""
    return cell(percent(row["value"]), interval(row), *small)


def shipped_style(variant: str) -> str:
    """The class of page.css that marks the web model."""
    return "shipped" if variant == SHIPPED else ""


def variant_row(variant: str, cells: Sequence[Cell]) -> Row:
    """A row under a variant's name."""
    return Row(cell(named(variant)[0]), cells, shipped_style(variant))
