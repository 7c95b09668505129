"""Numbers as the report writes them, and the names of the variants."""

from collections.abc import Mapping
from typing import Any

from bioclip_lite.evaluation.variant_names import further_teacher

# variant -> name and what it is
VARIANTS = {
    "teacher": ("Teacher", "the CLIP model that the others learn from"),
    "ensemble": ("Ensemble", "the mean of the teachers' probabilities"),
    "table": ("Shipped table", "the teacher against the 8-bit taxon table of the web model"),
    "first": ("Before fine-tuning", "the student as distilled, before labels fine-tuned it, float32"),
    "student": ("Student", "the small network, distilled from the teacher, float32"),
    "pruned": ("Pruned", "the student with channels removed and trained on, float32"),
    "int8": ("INT8", "the pruned student on the 8-bit grid, computed in PyTorch"),
    "tfjs": ("Web model", "the files that ship: TensorFlow.js, run in Node on the JPEG files"),
    "chromium": ("In Chromium", "the same files in a browser, with its own JPEG decoder"),
    "tflite": ("Phone model", "the file that ships for phones: LiteRT, run in Python on pixels prepared as in PyTorch"),
    "control": ("Control", "the student's network trained on labels alone, without a teacher"),
    "majority": ("Majority", "always the species with most training photographs"),
    "random": ("Random", "a species drawn by lot"),
}
LABELS = {variant: name for variant, (name, _) in VARIANTS.items()}
SHIPPED = "tfjs"
CONTROLS = ("table", "control", "majority", "random")  # what the others are measured by; no step of the pipeline

DASH = "\u2013"
_MINUS = "\u2212"


def named(variant: str) -> tuple[str, str]:
    """Name of a variant and what it is."""
    if name := further_teacher(variant):
        return f"Teacher {name}", "a further teacher, by itself and in its own space"
    return VARIANTS.get(variant, (variant, ""))


def percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}"


def interval(row: Mapping[str, Any]) -> str:
    return "" if row["ci95"] is None else DASH.join(percent(bound) for bound in row["ci95"])


def points(value: float | None) -> str:
    """A difference in percentage points, with its sign."""
    if value is None:
        return DASH
    text = f"{100 * value:+.1f}"
    return text.replace("-", _MINUS) if float(text) else "0.0"


def points_interval(row: Mapping[str, Any]) -> str:
    return "" if row["ci95"] is None else f"{points(row['ci95'][0])} to {points(row['ci95'][1])}"


def size(count: float | None) -> str:
    """Bytes in decimal units."""
    if not count:
        return DASH
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}" if count < 1000 * scale else f"{count / scale:.0f} {unit}"
    return f"{count:.0f} bytes"


def stored(variant: Mapping[str, Any]) -> int | None:
    """Bytes of model and taxon table; None of what has no files."""
    return variant["bytes"] + (variant.get("table_bytes") or 0) if variant.get("bytes") else None


def quantity(count: float | None) -> str:
    if not count:
        return DASH
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f}"


def milliseconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def decimal(value: float | None, digits: int = 2) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def decimal_interval(row: Mapping[str, Any], digits: int = 2) -> str:
    return "" if row["ci95"] is None else DASH.join(decimal(bound, digits) for bound in row["ci95"])


def bracket(before: str, text: str, after: str = "") -> str:
    return f" ({before}{text}{after})" if text else ""
