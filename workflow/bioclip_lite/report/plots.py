"""Draw the figures of the report. Colours: Okabe and Ito's palette, safe for colour-blind readers."""

import io
from collections.abc import Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bioclip_lite.metrics.backoff import GRID
from bioclip_lite.report.text import CONTROLS, stored
from bioclip_lite.taxa.taxonomy import RANKS

# variant -> colour, marker, line; shape and line tell the variants apart in black and white too
_LOOK = {
    "teacher": ("#000000", "s", "-"),
    "table": ("#777777", "s", ":"),
    "student": ("#0072B2", "o", "-"),
    "ensemble": ("#000000", "o", "-"),
    "pruned": ("#56B4E9", "^", "-"),
    "int8": ("#E69F00", "v", "-"),
    "tfjs": ("#D55E00", "D", "-"),
    "chromium": ("#CC79A7", "d", ":"),
    "tflite": ("#8C6BB1", "p", "--"),
    "control": ("#009E73", "P", "--"),
    "majority": ("#b0a060", "*", ":"),
    "random": ("#8a8a8a", "X", ":"),
}
_OTHER = ("#F0E442", "h", "-")  # further teachers
_CURVES = ("teacher", "student", "tfjs", "control")
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_SIZE = (5.4, 4.2)  # inches: small, so that text stays readable on a phone


def per_rank(variants: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> bytes:
    """Plot the accuracy of every variant from kingdom to species, with 95 % intervals; returns a PNG file."""
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE)
        axes = figure.add_subplot()
        for place, (variant, metrics) in enumerate(variants.items()):
            colour, marker, line = _LOOK.get(variant, _OTHER)
            # side by side, so that intervals do not hide each other
            shift = 0.09 * (place - (len(variants) - 1) / 2)
            found = [(x, metrics["per_rank"][rank]) for x, rank in enumerate(RANKS)]
            found = [(x, row) for x, row in found if row["value"] is not None]
            axes.errorbar(
                [x + shift for x, _ in found],
                [100 * row["value"] for _, row in found],
                yerr=_whiskers([row for _, row in found]),
                color=colour,
                marker=marker,
                linestyle=line,
                markersize=4.5,
                linewidth=1,
                elinewidth=1,
                label=labels.get(variant, variant),
            )
        axes.set_xticks(range(len(RANKS)), RANKS, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(RANKS) - 0.5)
        axes.set_ylim(0, 102)
        axes.set_ylabel("accuracy (%)")
        figure.legend(loc="outside upper center", ncols=4, fontsize=9, columnspacing=1.2, handletextpad=0.5)
        return _png(figure)


def accuracy_by_size(variants: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> bytes:
    """Plot species accuracy against stored bytes (``_pareto``); returns a PNG file."""
    costs = {variant: stored(metrics) for variant, metrics in variants.items()}
    megabytes = {variant: cost / 1e6 for variant, cost in costs.items() if cost}
    return _pareto(variants, megabytes, labels, "model and taxon table (MB, log scale)")


def accuracy_by_time(variants: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> bytes:
    """Plot species accuracy against the median time per photograph (``_pareto``); returns a PNG file."""
    times = {variant: metrics["latency_ms"]["median"] for variant, metrics in variants.items() if _timed(metrics)}
    return _pareto(variants, times, labels, "one photograph, one thread (ms, log scale)")


def _timed(metrics: Mapping[str, Any]) -> bool:
    return bool(metrics.get("latency_ms"))


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, accuracy) on the Pareto front, which no other point beats in both, by rising cost."""
    best = [
        name
        for name, (cost, right) in points.items()
        if not any(c <= cost and r >= right and (c, r) != (cost, right) for c, r in points.values())
    ]
    return sorted(best, key=lambda name: points[name])


def _pareto(
    variants: Mapping[str, Mapping[str, Any]], costs: Mapping[str, float], labels: Mapping[str, str], axis: str
) -> bytes:
    """Plot accuracy against cost: the Pareto front as a line, controls as hollow markers.

    Baselines without a cost are listed as text, since an axis that reached down to them would hide the differences.
    """
    right = {variant: m["top1"] for variant, m in variants.items() if m["top1"]["value"] is not None}
    points = {variant: (cost, 100 * right[variant]["value"]) for variant, cost in costs.items() if variant in right}
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE)
        axes = figure.add_subplot()
        joined = [points[variant] for variant in front(points)]
        axes.plot([cost for cost, _ in joined], [percent for _, percent in joined], color="#bbbbbb", linewidth=1.5)
        for variant, (cost, percent) in points.items():
            colour, marker, _ = _LOOK.get(variant, _OTHER)
            axes.errorbar(
                cost,
                percent,
                yerr=_whiskers([right[variant]]),
                color=colour,
                marker=marker,
                markerfacecolor="#ffffff" if variant in CONTROLS else colour,
                markersize=11 if variant == "int8" else 7,  # the web model may lie on it and must not hide it
                elinewidth=1,
                linestyle="none",
                label=labels.get(variant, variant),
            )
        if points:
            axes.set_xscale("log")
            low, high = min(c for c, _ in points.values()) / 1.6, max(c for c, _ in points.values()) * 1.6
            axes.set_xlim(low, high)
            ticks = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
            axes.set_xticks(ticks)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            figure.legend(loc="outside upper center", ncols=4, fontsize=9, columnspacing=1.2, handletextpad=0.3)
            bounds = [
                100 * bound for variant in points for bound in right[variant]["ci95"] or [right[variant]["value"]]
            ]
            axes.set_ylim(max(0, 5 * (min(bounds) // 5) - 5), min(102, max(bounds) + 3))
        baselines = [
            f"{labels.get(variant, variant)} {100 * row['value']:.1f} %"
            for variant, row in right.items()
            if variant not in points
        ]
        axes.text(0.98, 0.02, ", ".join(baselines), transform=axes.transAxes, ha="right", fontsize=9, color="#555555")
        axes.set_xlabel(axis)
        axes.set_ylabel("species accuracy (%)")
        return _png(figure)


def risk_coverage(variants: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> bytes:
    """Plot wrong answers against coverage, as one threshold falls (``backoff.area``); returns a PNG file."""
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE)
        axes = figure.add_subplot()
        for variant in filter(variants.__contains__, _CURVES):
            found = variants[variant]["back_off"]["haurc"]
            if found["risk"] is None:
                continue
            colour, marker, line = _LOOK[variant]
            axes.plot(
                100 * GRID,
                [100 * risk for risk in found["risk"]],
                color=colour,
                linestyle=line,
                marker=marker,
                markevery=10,
                markersize=4.5,
                linewidth=1.2,
                label=f"{labels.get(variant, variant)} {found['value']:.3f}",
            )
        axes.set_xlim(0, 102)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("coverage: how much of the tree the answers decide (%)")
        axes.set_ylabel("photographs with a wrong answer (%)")
        if axes.lines:
            figure.legend(
                loc="outside upper center", ncols=3, fontsize=9, columnspacing=1.2, title="area", title_fontsize=9
            )
        return _png(figure)


def back_off(levels: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Plot the ranks of answers at each guaranteed level (``backoff.operating_curve``); returns a PNG file."""
    parts = (("species", "#0072B2", ""), ("genus", "#56B4E9", "//"), ("family", "#E69F00", ".."),
             ("higher", "#c9c9c9", ""), ("no answer", "#ffffff", ""))  # fmt: skip
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE)
        axes = figure.add_subplot()
        places = range(len(levels))
        below = [0.0] * len(levels)
        for part, colour, hatch in parts:
            shares = [100 * _share(point, part) for point in levels.values()]
            axes.bar(
                places, shares, 0.7, below, label=part, color=colour, hatch=hatch, edgecolor="#555555", linewidth=0.6
            )
            below = [low + share for low, share in zip(below, shares, strict=True)]
        for place, point in zip(places, levels.values(), strict=True):
            if point["right"] is not None:
                axes.text(place, 101.5, f"{100 * point['right']:.1f}", ha="center", fontsize=9, color="#555555")
        if not levels:
            axes.text(0.5, 0.5, "no level can be guaranteed", ha="center", transform=axes.transAxes)
        axes.set_xticks(places, [f"{100 * float(level):g}" for level in levels])
        axes.set_ylim(0, 108)
        axes.set_xlabel("guaranteed share of correct answers (%)")
        axes.set_ylabel("photographs (%)")
        figure.legend(loc="outside upper center", ncols=5, fontsize=9, columnspacing=1.2, handletextpad=0.5)
        return _png(figure)


def _share(point: Mapping[str, Any], part: str) -> float:
    if part == "no answer":
        return 1 - float(point["answered"])
    if part == "higher":
        return sum(float(point[rank]) for rank in RANKS[:-3])
    return float(point[part])


def _whiskers(rows: list[Mapping[str, Any]]) -> list[list[float]]:
    """Lengths of the error bars below and above each value, in percent."""
    bounds = [row["ci95"] or [row["value"]] * 2 for row in rows]
    # a percentile interval need not hold the value; a negative length would stop matplotlib
    below = [100 * max(0.0, row["value"] - low) for row, (low, _) in zip(rows, bounds, strict=True)]
    above = [100 * max(0.0, high - row["value"]) for row, (_, high) in zip(rows, bounds, strict=True)]
    return [below, above]


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    # without the version of matplotlib in the file, equal figures are equal bytes
    figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()
