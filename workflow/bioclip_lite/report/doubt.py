"""Sections of the report: how far down the tree models answer, how wrong their errors are, how sure they were."""

from collections.abc import Mapping
from html import escape
from typing import Any

from bioclip_lite.report.text import DASH, SHIPPED, bracket, cell, count_of, interval, named, percent
from bioclip_lite.taxa.taxonomy import RANKS

_NAMED = ("species", "genus", "family")  # what is answered above them is told in one number
_GUESSES = ("majority", "random")


def headline(shipped: Mapping[str, Any]) -> list[str]:
    """What the web model answers if it only says what it is sure of, as HTML sentences; none without a promise."""
    found = shipped["back_off"]
    level = f"{100 * found['level']:.0f} %"
    if found["right"]["value"] is None:
        return [
            f"It cannot promise to be right in {level} of its answers: too few photographs to calibrate on "
            f"({count_of(found['n_fitted_on'], 'observation')}), or too many errors."
        ]
    at = {rank: found["answered_at"][rank]["value"] for rank in RANKS}
    above = sum(share for rank, share in at.items() if rank not in _NAMED)
    none = 1 - found["answered"]["value"]
    sentences = [
        f"<b>At {level} right</b> it names the species in <b>{percent(at['species'])} %</b> of the photographs, the "
        f"genus in {percent(at['genus'])} %, the family in {percent(at['family'])} %, something higher in "
        f"{percent(above)} %, and nothing in {percent(none)} %. Of these answers {percent(found['right']['value'])} % "
        f"are right{bracket('95 % interval ', interval(found['right']))}."
    ]
    strata = found["strata"]
    new, known = strata["not_in_calibration"]["right"], strata["in_calibration"]["right"]
    if new["value"] is not None and known["value"] is not None:
        sentences.append(
            f"The promise is about species like those that it was calibrated on, where {percent(known['value'])} % of "
            f"its answers are right{bracket('', interval(known))}; for other species it is {percent(new['value'])} %"
            f"{bracket('', interval(new))}."
        )
    return sentences


def back_off(variants: Mapping[str, Any], figure: str) -> str:
    """The table of answers with back-off; ``figure`` is the HTML of the operating curve."""
    shown = {variant: found for variant, found in variants.items() if variant not in _GUESSES}
    head = ("Right, %", "Species, %", "Genus, %", "Family, %", "Higher, %", "Nothing, %", "Known species right, %",
            "hAURC")  # fmt: skip
    rows = []
    for variant, metrics in shown.items():
        found = metrics["back_off"]
        if found["right"]["value"] is None:
            cells = [cell(DASH)] * (len(head) - 1)
        else:
            at = found["answered_at"]
            above = sum(at[rank]["value"] for rank in RANKS if rank not in _NAMED)
            known = found["strata"]["in_calibration"]["right"]
            kept = {True: "promise kept", False: "promise broken", None: ""}[found["kept"]]
            cells = [
                cell(percent(found["right"]["value"]), interval(found["right"])),
                *(cell(percent(at[rank]["value"]), _right(found["right_at"][rank])) for rank in _NAMED),
                cell(percent(above)),
                cell(percent(1 - found["answered"]["value"])),
                cell(percent(known["value"]), interval(known), kept),
            ]
        area = found["haurc"]
        shown_area = DASH if area["value"] is None else f"{area['value']:.3f}"
        bounds = DASH.join(f"{bound:.3f}" for bound in area["ci95"] or ())
        rows.append(_row(variant, [*cells, cell(shown_area, bounds)]))
    found = variants[SHIPPED]["back_off"]
    limits = {f"{value:.2f}" for value in found["thresholds"].values() if value is not None}
    return (
        f"<section><h2>When it is not sure: answers that are {100 * found['level']:.0f} % right</h2>"
        f'{_table(head, rows)}<p class="caption">The answer is the lowest rank whose best taxon is probable enough. '
        f"How probable, is fitted on split calibration so that, with {100 * found['confidence']:.0f} % confidence, at "
        f"least {100 * found['level']:.0f} % of all answers are right. Small print: 95 % intervals; share of the "
        f"answers at that rank that are right. Known species: those that split calibration has, for which the promise "
        f"is made; it is called broken where even the upper end of the interval lies below it. hAURC: area under the "
        "curve of wrong answers over coverage below, over all thresholds; 0 is best. "
        f"{f'Least probability of the web model: {DASH.join(sorted(limits))}.' if limits else ''}</p>{figure}</section>"
    )


def errors(variants: Mapping[str, Any]) -> str:
    """How far wrong answers are from the truth, what is lost and won against the teacher, and how honest the odds."""
    head = ("Distance of an answer", "Distance of an error", "Lost, %", "Won, %", "Odds off by, points",
            "Surprise, nats", "Temperature")  # fmt: skip
    rows = []
    for variant, metrics in variants.items():
        tree, sure = metrics["hierarchy"], metrics["calibration"]
        flips = metrics.get("flips_to", {}).get("teacher")
        negative = _kinds(flips) if flips else ()
        rows.append(
            _row(
                variant,
                [
                    cell(_decimal(tree["ahd_at_1"]["value"]), _decimals(tree["ahd_at_1"])),
                    cell(_decimal(tree["severity"]["value"]), _decimals(tree["severity"])),
                    cell(percent(flips["negative"]["value"]), *negative) if flips else cell(DASH),
                    cell(percent(flips["positive"]["value"])) if flips else cell(DASH),
                    cell(percent(sure["ece"]["after"]["value"]), f"before {percent(sure['ece']['before']['value'])}"),
                    cell(_decimal(sure["nll"]["after"]["value"]), f"before {_decimal(sure['nll']['before']['value'])}"),
                    cell(f"{sure['temperature']:.2f}", sure["source"]),
                ],
            )
        )
    return (
        "<section><h2>How wrong, and how sure</h2>"
        f'{_table(head, rows)}<p class="caption">Distance: 0 the same species, 1 another of the same genus ... 6 only '
        "the kingdom in common, 7 not even that; over all photographs, and over wrong answers alone (a model with few "
        "errors may look worse in these). Lost: the teacher names the species, this model does not; small print: how "
        "many of these stay within the genus, within the family. Won: the other way. Odds: expected calibration error, "
        "how far the probability of an answer is from the share of such answers that are right; surprise: mean "
        "negative log likelihood of the labels. Both after dividing logits by a temperature fitted on split "
        "calibration, and before.</p></section>"
    )


def _kinds(flips: Mapping[str, Any]) -> tuple[str, ...]:
    """How many of the negative flips stay in the genus and in the family."""
    total = flips["negative"]["value"]
    if not total:
        return ()
    by_height = [flips["negative_by_height"][str(h)]["value"] for h in range(1, 8)]
    return f"{100 * by_height[0] / total:.0f} % in genus", f"{100 * sum(by_height[:2]) / total:.0f} % in family"


def _right(row: Mapping[str, Any]) -> str:
    return "" if row["value"] is None else f"{percent(row['value'])} right"


def _decimal(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


def _decimals(row: Mapping[str, Any]) -> str:
    return "" if row["ci95"] is None else DASH.join(map(_decimal, row["ci95"]))


def _row(variant: str, cells: list[str]) -> str:
    shipped = ' class="shipped"' if variant == SHIPPED else ""
    tds = "".join(f"<td>{content}</td>" for content in cells)
    return f'<tr{shipped}><th scope="row">{escape(named(variant)[0])}</th>{tds}</tr>'


def _table(head: tuple[str, ...], rows: list[str]) -> str:
    titles = "".join(f"<th scope=col>{title}</th>" for title in ("Model", *head))
    return (
        f'<div class="scroll"><table class="ranks doubt"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody>'
        '</table></div><p class="caption phone">Scroll sideways for more.</p>'
    )
