"""Write what `dvc metrics diff` and `dvc plots` read: the headline numbers of metrics.json, and its curves.

metrics.json has thousands of numbers, and DVC would list each that changed.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from bioclip_lite.evaluation.comparison import NOT_SEEN
from bioclip_lite.metrics.backoff import GRID
from bioclip_lite.report.text import SHIPPED, stored
from bioclip_lite.taxa.taxonomy import RANKS

_RANKS = ("species", "genus", "family")
_POINT = ("right", "answered", *_RANKS, "species_mostly_right", "genus_mostly_right")  # of the operating curve
_HISTORY = ("loss", "val_top1", "val_agreement", "val_cosine")


def headline(metrics: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Headline numbers by variant, as in metrics.json.

    Accuracy at three ranks, coverage and accuracy with back-off, the share of taxa that are mostly right, hAURC, bytes
    and milliseconds; accuracy on the photographs that the teacher was not trained on, where that is known.
    """
    found: dict[str, dict[str, float | None]] = {}
    for variant, row in metrics["variants"].items():
        sure = row["back_off"]
        found[variant] = {
            "species_right": row["top1"]["value"],
            **{f"{rank}_right": row["per_rank"][rank]["value"] for rank in _RANKS[1:]},
            "species_answered_with_back_off": sure["answered_at"]["species"]["value"],
            "right_with_back_off": sure["right"]["value"],
            **{
                f"{rank}_mostly_right_with_back_off": row["mostly_right"]["value"]
                for rank, row in sure["macro"].items()
            },
            "haurc": sure["haurc"]["value"],
            "bytes": stored(row),
            "milliseconds": (row.get("latency_ms") or {}).get("median"),
        }
        if NOT_SEEN in row["strata"]:
            right = {**row["strata"][NOT_SEEN], "with_back_off": sure["strata"][NOT_SEEN]["right"]}
            for name in ("species", "family", "with_back_off"):
                found[variant][f"{name}_right_{NOT_SEEN}"] = right[name]["value"]
    return found


def curves(metrics: Mapping[str, Any], history: pa.Table) -> dict[str, str]:
    """CSV files by name: "per_rank", "risk_coverage", "back_off" of the web model, and "training"; shares in percent.

    Args:
        metrics: the content of metrics.json.
        history: of the student's training, data/distill/history.parquet.
    """
    variants, levels = metrics["variants"], metrics["variants"][SHIPPED]["back_off"]["levels"]
    risks = {v: row["back_off"]["haurc"]["risk"] or [None] * len(GRID) for v, row in variants.items()}
    without = [] if "control" in variants else ["control"]
    blank = [""] * len(without)
    absent = [None] * history.num_rows  # `dvc plots` wants every column that dvc.yaml names
    shown = {name: history[name].to_pylist() if name in history.column_names else absent for name in _HISTORY}
    return {
        "per_rank": _csv(
            ("depth", "rank", *variants, *without),  # the templates of DVC want a number on the horizontal axis
            (
                (depth, rank, *(_percent(row["per_rank"][rank]["value"]) for row in variants.values()), *blank)
                for depth, rank in enumerate(RANKS, 1)
            ),
        ),
        "risk_coverage": _csv(
            ("coverage", *variants, *without),
            ((_percent(at), *(_percent(risk[i]) for risk in risks.values()), *blank) for i, at in enumerate(GRID)),
        ),
        "back_off": _csv(
            ("promised", *_POINT),
            ((_percent(float(level)), *(_percent(point[name]) for name in _POINT)) for level, point in levels.items()),
        ),
        "training": _csv(
            ("epoch", *shown),
            zip(history["epoch"].to_pylist(), *shown.values(), strict=True),
        ),
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue()
