"""Section on running the web model: time, start, memory, and whether every runtime gives the same answers."""

from collections.abc import Mapping
from typing import Any

from bioclip_lite.report.elements import Cell, Row, Section, cell, render, shipped_style
from bioclip_lite.report.text import DASH, SHIPPED, milliseconds, quantity, size

_SOFTWARE = "SwiftShader"  # in the name of a WebGL renderer that computes on the processor


def section(metrics: Mapping[str, Any]) -> Section | None:
    """Agreement of browser, Node and PyTorch, and a table of times; None if neither was measured."""
    variants, speed = metrics["variants"], metrics.get("speed") or {}
    browser = variants.get("chromium")
    if not browser and not speed.get("rows"):
        return None
    body = render(
        "report/speed.html.j2",
        browser=browser,
        node=variants.get(SHIPPED),
        times=_times(speed) if speed.get("rows") else None,
    )
    return Section("Speed and memory of the web model", body)


def _times(speed: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the template's table: a row for each size of the image, a column for each runtime."""
    rows = speed["rows"]
    runtimes = list(dict.fromkeys(_runtime(row) for row in rows))
    measured = {(row["size"], _runtime(row)): row for row in rows}
    return {
        "head": ["Side of the image", *(cell(runtime, "ms") for runtime in runtimes)],
        "rows": [
            Row(
                cell(f"{side} px", f"{quantity(macs)} operations", "as shipped" if side == speed["size"] else ""),
                [_time(measured.get((side, runtime))) for runtime in runtimes],
                shipped_style(SHIPPED) if side == speed["size"] else "",
            )
            for side, macs in {row["size"]: row["macs"] for row in rows}.items()
        ],
        "runs": rows[0]["latency_ms"]["n"],
        "processor": rows[0]["processor"],
        "trained_for": speed["size"],
        "software": _SOFTWARE if any(_SOFTWARE in (row["renderer"] or "") for row in rows) else "",
        "left_out": speed["left_out"],
    }


def _runtime(row: Mapping[str, Any]) -> str:
    name: str = row["latency_ms"]["runtime"]
    return name.removeprefix("TensorFlow.js ")


def _time(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return cell(DASH)
    latency = row["latency_ms"]
    return cell(
        milliseconds(latency["median"]),
        f"minimum {milliseconds(latency['min'])}",
        f"first answer {row['first_ms'] / 1000:.2g} s",
        f"memory {size(row['peak_bytes'])}" if row["peak_bytes"] else "",
    )
