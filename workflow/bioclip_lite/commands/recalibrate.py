"""``python -m bioclip_lite recalibrate TABLE --output FILE``: fit thresholds again for a site, from confirmed answers.

``metrics.site`` has the work.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bioclip_lite.commands.common import command
from bioclip_lite.metrics import site
from bioclip_lite.predicting import sites
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_output, write_json


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "recalibrate",
        "Fit thresholds again for your site, from about 100 answers that you have confirmed: fill in the column "
        "confirmed of a table that `predict --confirm` wrote, one photograph of each observation, with the right name "
        "at any rank, or 'none' for what is not in the list. Rows without a name do not count. Says whether the "
        "promise held before, and what holds now.",
    )
    parser.add_argument("table", type=Path, help="CSV of `predict --confirm` with names in the column confirmed")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, for `predict --calibration`")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    return parser


@command("recalibrate")
def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    check_output(options.output, sites.is_site)
    confirmed, model, sha256 = sites.read_confirmed(options.table, read_labels(options.data).leaves)
    found = site.recalibrate(confirmed)
    print(f"recalibrate: {sentence(found)}")
    if found["threshold"] is None:
        raise UserError(why_not(found))
    ranks = dict.fromkeys(reversed(RANKS), found["threshold"])
    write_json(options.output, {"kind": sites.KIND, **found, "ranks": ranks, "model": model, "model_sha256": sha256})
    return 0


def sentence(found: dict[str, Any]) -> str:
    """Whether the promise held, and what holds now."""
    before, now = found["before"], found["now"]
    if not before["of"]:
        told = "none of the confirmed photographs had an answer that their names can judge"
    else:
        held = "held" if before["interval"][1] >= found["level"] else "did not hold"
        told = f"{found['level']:.0%} {held} before: {_shares(before)}"
    if found["threshold"] is None:
        return told
    promise = f"with {found['confidence']:.0%} confidence at least {found['level']:.0%} of the answers here are right"
    return f"{told}; with the threshold {found['threshold']} {_shares(now)}, and {promise}"


def _shares(of: dict[str, Any]) -> str:
    low, high = of["interval"]
    interval = f"95 % interval {low:.1%} to {high:.1%}"
    return f"{of['right']} of {of['of']} answers are right ({of['right'] / of['of']:.1%}; {interval})"


def why_not(found: dict[str, Any]) -> str:
    """Why there are no thresholds."""
    if found["too_few"]:
        return (
            "too few confirmed answers: 45 that the model is sure of, all right, are the least that can show that 95 % "
            "hold; confirm more, about 100"
        )
    return "at no threshold are the answers right often enough at this site; nothing was written"
