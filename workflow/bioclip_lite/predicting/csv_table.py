"""CSV with the columns of pybioclip first, then what training and species list say, and where the answer comes from."""

import csv
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from bioclip_lite.metrics import off_list
from bioclip_lite.predicting.answers import Answer
from bioclip_lite.predicting.origin import Origin
from bioclip_lite.predicting.records import Record
from bioclip_lite.taxa.taxonomy import RANKS

COLUMNS = ("file_name", *RANKS[:-1], "species_epithet", "species", "common_name", "score", "zero_shot", "note")
_ORIGIN = ("rank", "threshold", "on_list", "off_list", "model", "model_sha256", "error")
_EXIF = ("time", "latitude", "longitude")
_PRIOR = "not_expected_here"
CONFIRM = ("best", "best_scores", "confirmed")
BETWEEN = " > "  # the names of a path


def write(file: TextIO, records: Iterable[Record], origin: Origin, exif: bool, prior: bool, confirm: bool) -> None:
    """Write a row for each answer, and one for each photograph without any.

    Args:
        exif: add when and where a photograph was taken; the time is ISO 8601, with its offset from UTC if known.
        confirm: add the best path, and an empty column for what a person says (``commands.recalibrate``).
        prior: add whether the prior of place and month does not expect the taxon.
    """
    more = (*(_EXIF if exif else ()), *([_PRIOR] if prior else ()), *(CONFIRM if confirm else ()))
    writer = csv.DictWriter(file, (*COLUMNS, *_ORIGIN, *more), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerows(_rows(record, origin, exif, prior, confirm))


def _rows(record: Record, origin: Origin, exif: bool, prior: bool, confirm: bool) -> Iterator[dict[str, Any]]:
    row: dict[str, Any] = {
        "file_name": record["file_name"],
        "model": origin.model,
        "model_sha256": origin.sha256,
        "error": record["error"],
    }
    if (on_list := record["on_list"]) is not None:
        row |= {"on_list": f"{on_list:.6g}", "off_list": "yes" if on_list < off_list.PROBABLY else ""}
    if exif:
        time = f"{record['time']}{record['offset'] or ''}" if record["time"] else None
        row |= {"time": time, "latitude": record["latitude"], "longitude": record["longitude"]}
    if confirm:
        row |= {"best": BETWEEN.join(name or "" for name in record["best"]), "confirmed": None}
        row["best_scores"] = " ".join(f"{score:.6g}" for score in record["best_scores"])
    for answer in record["answers"]:
        yield row | of_answer(answer) | ({_PRIOR: "yes" if answer["unexpected"] else ""} if prior else {})
    if not record["answers"]:
        yield row


def of_answer(answer: Answer) -> dict[str, Any]:
    """Columns of an answer; those that do not apply are missing or empty."""
    species = {"species_epithet": answer["path"][-1], "species": answer["scientific_name"]}
    return {
        **dict(zip(RANKS[:-1], answer["path"], strict=False)),
        **(species if answer["path"][-1] else {}),
        "common_name": answer["common_name"],
        "score": f"{answer['score']:.6g}",
        "zero_shot": "yes" if answer["zero_shot"] else "",
        "note": answer["note"],
        "rank": answer["rank"],
        "threshold": answer["threshold"],
    }
