"""Confirmed answers in tables of predict, and the thresholds of a site that come out of them."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bioclip_lite.metrics.site import Confirmed
from bioclip_lite.predicting.csv_table import BETWEEN, CONFIRM
from bioclip_lite.taxa.taxonomy import RANKS, lineage, scientific_name
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, require

OBSERVATION = "observation"  # column of the page's field notes
NOTHING = "none"  # what a person writes where a photograph shows nothing of the list
KIND = "bioclip-lite thresholds of a site"


def read_site(path: Path) -> dict[str, Any]:
    """Read a file of ``recalibrate``. Raises UserError for another one."""
    if not is_site(path):
        raise UserError(f"{path} is no file of recalibrate")
    about: dict[str, Any] = read_json(path)
    return about


def is_site(path: Path) -> bool:
    """Whether a file is one of ``recalibrate``."""
    try:
        about = read_json(require(path))
    except ValueError:
        return False
    return isinstance(about, dict) and about.get("kind") == KIND


def read_confirmed(table: Path, leaves: Sequence[TaxonPath]) -> tuple[list[Confirmed], str, str]:
    """(the rows with a name in column confirmed, the model, its SHA-256) of a table of predict.

    A table of the page's field notes also says which photographs are of one observation: a name counts once in it.

    Raises:
        UserError: the table was written without --confirm, a name is not in the list, or the models differ.
    """
    names = _names(leaves)
    confirmed, models, counted = [], set(), set()
    for number, row in _rows(table):
        models.add((row["model"], row["model_sha256"]))
        text = (row["confirmed"] or "").strip()
        one = row.get(OBSERVATION) and (row[OBSERVATION], text.lower())
        if text and not row["error"] and one not in counted:
            counted |= {one} if one else set()
            label = _label(text, names, f"{table}, row {number}")
            best = [name or None for name in row["best"].split(BETWEEN)] if row["best"] else []
            scores = [float(score) for score in row["best_scores"].split()]
            answered = RANKS.index(row["rank"]) if row["rank"] else -1
            confirmed.append(Confirmed(best, scores, answered, label))
    if len(models) != 1:
        raise UserError(f"{table} has answers of {len(models)} models; give answers of one")
    return confirmed, *models.pop()


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with require(table).open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        lacking = [name for name in (*CONFIRM, "rank", "model", "model_sha256") if name not in (rows.fieldnames or ())]
        if lacking:
            raise UserError(
                f"{table} has no column {', '.join(lacking)}; write it with `predict --confirm`, and fill in confirmed"
            )
        yield from enumerate(rows, 2)


def _names(leaves: Sequence[TaxonPath]) -> Mapping[str, list[TaxonPath]]:
    """The paths of all taxa of the list by scientific name in small letters."""
    found: dict[str, list[TaxonPath]] = defaultdict(list)
    for path in sorted(
        {node for leaf in leaves for node in lineage(leaf)}, key=lambda node: [name or "" for name in node]
    ):
        found[scientific_name((*path, *[None] * (len(RANKS) - len(path)))).lower()].append(path)
    return found


def _label(text: str, names: Mapping[str, list[TaxonPath]], where: str) -> TaxonPath | None:
    """The taxon that a person names: "Morus alba", "Moraceae", or "Plantae > Morus" where two share a name."""
    *above, name = (part.strip().lower() for part in text.split(BETWEEN.strip()))
    if name == NOTHING:
        return None
    found = [path for path in names.get(name, ()) if set(above) <= {(part or "").lower() for part in path}]
    if not found and " " in name and (genera := names.get(name.split()[0])):  # a species that the list does not have
        found = [(*genus, name.split(maxsplit=1)[1]) for genus in genera if len(genus) == len(RANKS) - 1]
    if len(found) != 1:
        what = (
            f"may be {' or '.join(BETWEEN.join(filter(None, path)) for path in found)}"
            if found
            else "is not in the list"
        )
        raise UserError(
            f"{where}: {text!r} {what}; write the scientific name of a taxon of the list, with one above it where two "
            f"share it (Plantae > Morus), or {NOTHING!r} for what belongs to none of its kingdoms"
        )
    return found[0]
