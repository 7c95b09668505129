"""The figures of the report with their captions, and in words for readers who cannot see them."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from bioclip_lite.report.elements import render
from bioclip_lite.report.text import SHIPPED, milliseconds, named, percent, size, stored


def figures(variants: Mapping[str, Any], files: Mapping[str, bytes], names: Sequence[str]) -> Markup:
    """Render the figures ``names`` side by side, without those that ``files`` (PNG by name) lacks."""
    return render(
        "report/figures.html.j2",
        shown=[(name, files[name], _in_words(name, variants)) for name in names if name in files],
        top1=variants[SHIPPED]["top1"],
    )


def _in_words(figure: str, variants: Mapping[str, Any]) -> str:
    """Text alternative of a figure; "" if a table beside it gives the same numbers."""

    def listed(costs: Mapping[str, str]) -> str:
        shown = [f"{named(v)[0]} {percent(variants[v]['top1']['value'])} % at {costs[v]}" for v in costs]
        return "Species accuracy: " + ", ".join(shown)

    if figure == "accuracy_by_size":
        return listed({v: size(stored(m)) for v, m in variants.items() if stored(m)})
    if figure == "accuracy_by_time":
        timed = {v: m["latency_ms"]["median"] for v, m in variants.items() if m.get("latency_ms")}
        return listed({v: f"{milliseconds(median)} ms" for v, median in timed.items()})
    if figure == "back_off":
        levels = variants[SHIPPED]["back_off"]["levels"].items()
        shares = [f"{percent(point['species'])} % at {100 * float(level):g} % guaranteed" for level, point in levels]
        return f"Answered with the species: {', '.join(shares)}" if shares else ""
    return ""
