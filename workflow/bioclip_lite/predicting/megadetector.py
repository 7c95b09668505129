"""The JSON format of MegaDetector's results, version 1.6 (https://lila.science/megadetector-output-format).

Timelapse and other tools read it. Nothing is detected here: each photograph has one box of its whole area, with a
confidence of 1, and the answers are its classifications.
"""

import json
from collections.abc import Iterable
from typing import Any, TextIO

from bioclip_lite.predicting import answers
from bioclip_lite.predicting.origin import Origin, below
from bioclip_lite.predicting.records import Record, path_of

_VERSION = "1.6"
_NO_DETECTOR = "none: the box is the whole photograph"
BEGINNING = f'{{"info": {{"format_version": "{_VERSION}", "detector": "{_NO_DETECTOR}", "classifier": "bioclip-lite '
_BOXES = {"1": "animal", "2": "person", "4": "unknown"}  # 3 is "vehicle" everywhere
_WHOLE = (0.0, 0.0, 1.0, 1.0)


def write(file: TextIO, records: Iterable[Record], origin: Origin) -> None:
    """Write the results, photograph by photograph; classifications are named after them, when all are known."""
    info = {
        "format_version": _VERSION,
        "detector": _NO_DETECTOR,
        "classifier": origin.named,
        "classification_completion_time": origin.began[:19].replace("T", " "),
        "classifier_metadata": {"model_sha256": origin.sha256, "thresholds": origin.thresholds},
    }
    file.write(f'{{"info": {json.dumps(info)},\n"detection_categories": {json.dumps(_BOXES)},\n"images": [')
    taxa: dict[tuple[str | None, ...], str] = {}
    for number, record in enumerate(records):
        image = _image(record, below(path_of(record), origin.root), taxa)
        file.write((",\n" if number else "\n") + json.dumps(image, ensure_ascii=False))
    names = _names(taxa)
    descriptions = {number: ";".join(name or "" for name in path).lower() for path, number in taxa.items()}
    file.write(f'],\n"classification_categories": {json.dumps(names, ensure_ascii=False)},\n')
    file.write(f'"classification_category_descriptions": {json.dumps(descriptions, ensure_ascii=False)}}}\n')


def _image(record: Record, name: str, taxa: dict[tuple[str | None, ...], str]) -> dict[str, Any]:
    """Entry of a photograph; its taxa get numbers in ``taxa``."""
    if record["error"] is not None:
        return {"file": name, "failure": record["error"], "detections": None}
    found = record["answers"]
    box: dict[str, Any] = {"category": _box(found), "conf": 1.0, "bbox": _WHOLE}
    if found:
        box["classifications"] = [
            [taxa.setdefault(tuple(answer["path"]), str(len(taxa))), round(answer["score"], 4)] for answer in found
        ]
    image = {"file": name, "detections": [box]}
    return image if record["time"] is None else image | {"datetime": record["time"].replace("T", " ")}


def _box(found: list[answers.Answer]) -> str:
    """The category of the box of a photograph, by its first answer."""
    if found and answers.is_human(found[0]):
        return "2"
    return "1" if found and answers.is_animal(found[0]) else "4"


def _names(taxa: dict[tuple[str | None, ...], str]) -> dict[str, str]:
    """Scientific names by number, each once: homonyms are told apart by their kingdoms and what else stands above."""
    names: dict[str, str] = {}
    for path, number in taxa.items():
        known = [name for name in path if name]
        name = " ".join(known[-2:]) if path[-1] else known[-1]
        names[number] = name if name not in names.values() else f"{name} ({', '.join(known)})"
    return names
