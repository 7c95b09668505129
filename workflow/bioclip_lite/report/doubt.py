"""Sections on uncertainty: answers with back-off, the severity of errors, and the calibration of probabilities."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from bioclip_lite.metrics.backoff import LEAST_ANSWERS, MOSTLY
from bioclip_lite.report.elements import Cell, Section, cell, render, share, variant_row
from bioclip_lite.report.text import DASH, SHIPPED, decimal, decimal_interval, percent
from bioclip_lite.taxa.taxonomy import RANKS

_NAMED = ("species", "genus", "family")  # ranks with a column of their own; those above share one
_GUESSES = ("majority", "random")
_GUARANTEE = {True: "guarantee holds", False: "guarantee broken", None: ""}


def answered(back_off: Mapping[str, Any]) -> dict[str, float]:
    """Share of photographs by the rank of the answer: the three lowest ranks, "higher", and "nothing"; sums to 1.

    Empty if the model guarantees no level, and so gives no answers with back-off.
    """
    if back_off["right"]["value"] is None:
        return {}
    at = {rank: back_off["answered_at"][rank]["value"] for rank in RANKS}
    higher = sum(value for rank, value in at.items() if rank not in _NAMED)
    return {rank: at[rank] for rank in _NAMED} | {"higher": higher, "nothing": 1 - back_off["answered"]["value"]}


def back_off(variants: Mapping[str, Any], figures: Markup) -> Section:
    """The answers with back-off of every model, and the ``figures`` that belong to them."""
    shipped = variants[SHIPPED]["back_off"]
    return Section(
        f"Back-off: answers that are correct {100 * shipped['level']:.0f} % of the time",
        render(
            "report/doubt.back_off.html.j2",
            rows=[
                variant_row(variant, _back_off(metrics["back_off"]))
                for variant, metrics in variants.items()
                if variant not in _GUESSES
            ],
            level=shipped["level"],
            confidence=shipped["confidence"],
            thresholds=sorted({f"{value:.2f}" for value in shipped["thresholds"].values() if value is not None}),
            figures=figures,
        ),
    )


def _back_off(found: Mapping[str, Any]) -> list[Cell]:
    area = cell(decimal(found["haurc"]["value"], 3), decimal_interval(found["haurc"], 3))
    shares = answered(found)
    if not shares:
        return [*[cell(DASH)] * 7, area]
    return [
        share(found["right"]),
        *(cell(percent(shares[rank]), _correct(found["right_at"][rank])) for rank in _NAMED),
        cell(percent(shares["higher"])),
        cell(percent(shares["nothing"])),
        share(found["strata"]["in_calibration"]["right"], _GUARANTEE[found["kept"]]),
        area,
    ]


def _correct(row: Mapping[str, Any]) -> str:
    return "" if row["value"] is None else f"{percent(row['value'])} correct"


def off_list(variants: Mapping[str, Any]) -> Section | None:
    """The answers with back-off that allow for photographs of what is not on the list; None if none were fitted."""
    found = {variant: metrics["off_list"] for variant, metrics in variants.items() if variant not in _GUESSES}
    fitted = {variant: row for variant, row in found.items() if row}
    if not fitted:
        return None
    rows = [variant_row(variant, _off_list(row)) for variant, row in fitted.items()]
    first = next(iter(fitted.values()))
    return Section(
        "Photographs of what is not on the list",
        render("report/doubt.off_list.html.j2", rows=rows, share=first["share"], level=first["level"]),
    )


def _off_list(found: Mapping[str, Any]) -> list[Cell]:
    unknown = found["hidden"]
    return [
        *(share(found[what]) for what in ("right", "answered", "species", "told")),
        *(share(unknown[kind]["told"], f"{percent(unknown[kind]['answered']['value'])} answered") for kind in unknown),
    ]


def by_taxon(variants: Mapping[str, Any]) -> Section:
    """Of how many species and genera nearly all answers with back-off are right: every taxon counts alike."""
    rows = [
        variant_row(variant, [share(of_rank[what]) for what in ("mostly_right", "mean") for of_rank in _macro(metrics)])
        for variant, metrics in variants.items()
        if variant not in _GUESSES
    ]
    species, genera = _macro(variants[SHIPPED])
    return Section(
        "Back-off, taxon by taxon",
        render(
            "report/doubt.by_taxon.html.j2",
            rows=rows,
            species=species,
            genera=genera,
            mostly=MOSTLY,
            least=LEAST_ANSWERS,
        ),
    )


def _macro(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [metrics["back_off"]["macro"][rank] for rank in ("species", "genus")]


def errors(variants: Mapping[str, Any]) -> Section:
    """Taxonomic distance of answers, answers lost and gained against the teacher, and calibration."""
    rows = [variant_row(variant, _errors(metrics)) for variant, metrics in variants.items()]
    return Section("Severity of errors and calibration", render("report/doubt.errors.html.j2", rows=rows))


def _errors(metrics: Mapping[str, Any]) -> list[Cell]:
    tree, fit = metrics["hierarchy"], metrics["calibration"]
    return [
        cell(decimal(tree["ahd_at_1"]["value"]), decimal_interval(tree["ahd_at_1"])),
        cell(decimal(tree["severity"]["value"]), decimal_interval(tree["severity"])),
        *_flips(metrics.get("flips_to", {}).get("teacher")),
        cell(percent(fit["ece"]["after"]["value"]), f"before {percent(fit['ece']['before']['value'])}"),
        cell(decimal(fit["nll"]["after"]["value"]), f"before {decimal(fit['nll']['before']['value'])}"),
        cell(decimal(fit["temperature"]), fit["source"]),
    ]


def _flips(flips: Mapping[str, Any] | None) -> tuple[Cell, Cell]:
    """Answers lost and gained against the teacher; of those lost, how many stay in the genus and in the family."""
    if not flips:
        return cell(DASH), cell(DASH)
    lost, gained = flips["negative"]["value"], cell(percent(flips["positive"]["value"]))
    if not lost:
        return cell(percent(lost)), gained
    genus, family = (flips["negative_by_height"][height]["value"] for height in ("1", "2"))
    stayed = f"{100 * genus / lost:.0f} % in genus", f"{100 * (genus + family) / lost:.0f} % in family"
    return cell(percent(lost), *stayed), gained
