"""The forms of the output: each is read back by what reads it in the field, and carries model, hash and thresholds."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import frictionless
import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from dwca.read import DwCAReader

from bioclip_lite.predicting import camtrap, csv_table, darwin_core, megadetector, parquet
from bioclip_lite.predicting.answers import Answer
from bioclip_lite.predicting.origin import Origin, root_of
from bioclip_lite.predicting.records import Record
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError
from support import camtrap_dp

HASH = "0123456789abcdef" * 4
ROOT = Path("/photos/trip")
ORIGIN = Origin(
    "bioclip-lite 1.2.3 int8", HASH, dict.fromkeys(RANKS, 0.8) | {"kingdom": None}, "2026-05-01T10:00:00+00:00", ROOT
)
FOX = ("Animalia", "Chordata", "Mammalia", "Carnivora", "Canidae", "Vulpes", "vulpes")
HUMAN = ("Animalia", "Chordata", "Mammalia", "Primates", "Hominidae", "Homo", "sapiens")
OAK = ("Plantae", "Tracheophyta", "Magnoliopsida", "Fagales", "Fagaceae", "Quercus", "robur")


def answer(path: tuple[str | None, ...], score: float = 0.9, **more: Any) -> Answer:
    rank = max(number for number, name in enumerate(path) if name)
    path = (*path[: rank + 1], *[None] * (6 - rank))
    name = f"{path[5]} {path[6]}" if path[6] else str(path[rank])
    base = {"rank": RANKS[rank], "path": list(path), "scientific_name": name, "common_name": None, "score": score}
    return base | {"threshold": 0.8, "zero_shot": False, "note": ""} | more  # type: ignore[return-value]


def record(name: str, *answers: Answer, **more: Any) -> Record:
    base = {
        "file": str(ROOT / name).encode(),
        "file_name": str(ROOT / name),
        "size": 5,
        "modified": 7,
        "sha256": f"{sum(name.encode()):064x}",
        "error": None,
        "media_type": "image/jpeg",
        "time": "2026-04-01T06:30:00",
        "offset": None,
        "latitude": 47.3769,
        "longitude": 8.5417,
        "answers": list(answers),
        "on_list": 0.9,
        "embedding": None,
        "probabilities": None,
    }
    return base | more  # type: ignore[return-value]


RECORDS = [
    record("north/1.jpg", answer(FOX, common_name="red fox")),
    record("north/2.jpg", time="2026-04-03T21:00:00", offset="+01:00", on_list=0.25),
    record("south/a, b\t\"c\".jpg", answer(HUMAN), latitude=-1.5, longitude=-70.25),
    record("south/4.jpg", answer(OAK[:6], 0.85, zero_shot=True, note="needs fruit"), latitude=-1.5, longitude=-70.25),
    record("south/broken.jpg", error="truncated: 40 % is missing", sha256=None, media_type=None, time=None,
           latitude=None, longitude=None),
]  # fmt: skip
ALPS = camtrap.Camera("+02:00", {}, {})


def again() -> Iterator[Record]:
    return iter(RECORDS)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_the_folder_that_holds_all_photographs() -> None:
    assert root_of([ROOT / "a" / "1.jpg", ROOT / "b" / "2.jpg", ROOT / "b" / "3.jpg"]) == ROOT


# ---- Camtrap DP


def check_camtrap(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Validate a package by frictionless with the schemas of the standard in place of their addresses."""
    assert {file.name for file in folder.iterdir()} == set(camtrap.FILES)
    package = json.loads((folder / "datapackage.json").read_text("utf-8"))
    jsonschema.validate(package, camtrap_dp.PACKAGE)
    resources = [{**resource, "schema": camtrap_dp.table_schema(resource["name"])} for resource in package["resources"]]
    described = {"name": "package", "resources": resources}
    report = frictionless.Package.from_descriptor(described, basepath=str(folder)).validate()
    assert report.valid, report.to_summary()
    return {resource["name"]: table(folder / resource["path"]) for resource in resources}


def test_a_camtrap_package_with_places_of_the_photographs(tmp_path: Path) -> None:
    assert camtrap.write(tmp_path / "package", again, ORIGIN, ALPS) == {}
    tables = check_camtrap(tmp_path / "package")
    north, south = tables["deployments"]
    assert (north["deploymentID"], north["latitude"], north["longitude"]) == ("north", "47.3769", "8.5417")
    assert (south["latitude"], south["longitude"]) == ("-1.5", "-70.25")
    assert (north["deploymentStart"], north["deploymentEnd"]) == (
        "2026-04-01T06:30:00+02:00",  # --utc-offset
        "2026-04-03T21:00:00+01:00",  # of the photograph
    )
    assert [row["filePath"] for row in tables["media"]] == [
        "north/1.jpg", "north/2.jpg", 'south/a, b\t"c".jpg', "south/4.jpg"
    ]  # fmt: skip
    fox, unsure, human, oak = tables["observations"]
    assert [row["observationType"] for row in (fox, unsure, human, oak)] == ["animal", "unknown", "human", "unknown"]
    assert (fox["scientificName"], fox["classificationProbability"]) == ("Vulpes vulpes", "0.900000")
    assert (
        fox["classificationMethod"] == "machine" and fox["classifiedBy"] == f"bioclip-lite 1.2.3 int8 (SHA-256 {HASH})"
    )
    assert "at the rank of species" in fox["observationComments"] and "threshold 0.8" in fox["observationComments"]
    assert not unsure["scientificName"] and not unsure["classificationProbability"]
    assert "species 0.8" in unsure["observationComments"]
    assert oak["scientificName"] == "Quercus" and oak["observationComments"].endswith("learned from; needs fruit")
    package = json.loads((tmp_path / "package" / "datapackage.json").read_text("utf-8"))
    assert package["bioclip_lite"] == {"model": ORIGIN.model, "sha256": HASH, "thresholds": ORIGIN.thresholds}
    assert package["temporal"] == {"start": "2026-04-01", "end": "2026-04-03"}
    assert [taxon["scientificName"] for taxon in package["taxonomic"]] == ["Homo sapiens", "Quercus", "Vulpes vulpes"]


def test_a_camtrap_package_with_a_table_of_deployments(tmp_path: Path) -> None:
    places = tmp_path / "places.csv"
    places.write_text(
        "deploymentID;latitude;longitude;habitat;deploymentStart\nnorth;47.5;8;forest;2026-03-01T00:00:00+02:00\n"
        "south;-1;-70;;\n"
    )
    about = tmp_path / "about.json"
    about.write_text('{"title": "Foxes", "resources": "never", "contributors": [{"title": "Ann"}]}')
    camera = camtrap.read_camera("+02:00", places, about, ["north", "south"])
    camtrap.write(tmp_path / "package", again, ORIGIN, camera)
    north, south = check_camtrap(tmp_path / "package")["deployments"]
    assert (north["latitude"], north["habitat"], north["deploymentStart"]) == (
        "47.5",
        "forest",
        "2026-03-01T00:00:00+02:00",
    )
    assert south["deploymentStart"] == "2026-04-01T06:30:00+02:00"
    package = json.loads((tmp_path / "package" / "datapackage.json").read_text("utf-8"))
    assert (package["title"], package["contributors"]) == ("Foxes", [{"title": "Ann"}])


def test_what_camtrap_needs_and_does_not_get(tmp_path: Path) -> None:
    places = tmp_path / "places.csv"
    places.write_text("deploymentID,latitude,longitude\nnorth,47.5,8\n")
    with pytest.raises(UserError, match="lacks 1 folders of photographs: south"):
        camtrap.read_camera("+02:00", places, None, ["north", "south"])
    places.write_text("deploymentID,latitude,longitude\nnorth,95,8\n")
    with pytest.raises(UserError, match=r"places.csv, line 2: latitude and longitude must be degrees"):
        camtrap.read_camera("+02:00", places, None, ["north"])
    places.write_text("deploymentID,latitude\nnorth,95\n")
    with pytest.raises(UserError, match="has no column longitude"):
        camtrap.read_camera("+02:00", places, None, ["north"])
    without = [record("north/1.jpg", latitude=None, longitude=None)]
    with pytest.raises(UserError, match="photographs of north do not say where"):
        camtrap.write(tmp_path / "package", lambda: without, ORIGIN, ALPS)
    moved = [record("north/1.jpg"), record("north/2.jpg", latitude=47.38)]
    with pytest.raises(UserError, match="photographs of north were taken at several places"):
        camtrap.write(tmp_path / "package", lambda: moved, ORIGIN, ALPS)
    with pytest.raises(UserError, match="no photograph that a Camtrap DP package can hold"):
        camtrap.write(tmp_path / "package", lambda: [record("1.jpg", time=None)], ORIGIN, ALPS)
    assert not (tmp_path / "package").exists()
    timeless = [record("1.jpg"), record("2.jpg", time=None), record("3..jpg")]
    left_out = camtrap.write(tmp_path / "package", lambda: timeless, ORIGIN, ALPS)
    assert [Path(name).name for name in left_out] == ["2.jpg", "3..jpg"]
    assert [row["deploymentID"] for row in check_camtrap(tmp_path / "package")["media"]] == ["trip"]


# ---- Darwin Core


def test_a_darwin_core_archive(tmp_path: Path) -> None:
    output = tmp_path / "names.zip"
    darwin_core.write(output, again, ORIGIN)
    dwc = "http://rs.tdwg.org/dwc/terms/"
    with DwCAReader(str(output)) as archive:
        assert archive.descriptor.core.type == f"{dwc}Occurrence"
        rows = [{name.removeprefix(dwc): value for name, value in row.data.items()} for row in archive]
        media = [[(one.rowtype, one.data) for one in row.extensions] for row in archive]
    assert len(rows) == 4 and len({row["occurrenceID"] for row in rows}) == 4
    fox, unsure, human, oak = rows
    assert (fox["scientificName"], fox["taxonRank"], fox["family"]) == ("Vulpes vulpes", "species", "Canidae")
    assert (fox["specificEpithet"], fox["vernacularName"]) == ("vulpes", "red fox")
    assert (fox["eventDate"], fox["decimalLatitude"], fox["geodeticDatum"]) == (
        "2026-04-01T06:30:00", "47.3769", "EPSG:4326"
    )  # fmt: skip
    assert fox["identifiedBy"].endswith(f"{HASH})") and fox["identificationVerificationStatus"] == "unverified"
    assert fox["identificationRemarks"] == (
        "classified by a machine at the rank of species with a probability of 0.9000, threshold 0.8"
    )
    assert not unsure["scientificName"] and unsure["identificationRemarks"].startswith("unknown: ")
    assert unsure["eventDate"] == "2026-04-03T21:00:00+01:00"
    assert human["scientificName"] == "Homo sapiens"
    assert (oak["scientificName"], oak["taxonRank"], oak["specificEpithet"]) == ("Quercus", "genus", "")
    ((kind, shown),) = media[2]
    assert kind.endswith("Multimedia") and shown["http://purl.org/dc/terms/identifier"] == 'south/a, b "c".jpg'
    assert darwin_core.is_ours(output) and not darwin_core.is_ours(Path(__file__))
    before = output.read_bytes()
    darwin_core.write(output, again, ORIGIN)
    assert output.read_bytes() == before


# ---- MegaDetector


def check_megadetector(found: dict[str, Any]) -> None:
    """The rules of https://lila.science/megadetector-output-format, version 1.6, for photographs."""
    assert found.keys() <= {
        "info", "detection_categories", "classification_categories", "classification_category_descriptions", "images"
    }  # fmt: skip
    assert found["info"]["format_version"] == "1.6"
    categories = [found["detection_categories"], found["classification_categories"]]
    for category in categories:
        assert all(key.isdecimal() and name for key, name in category.items())
        assert len(set(category.values())) == len(category)
    assert found["classification_category_descriptions"].keys() == categories[1].keys()
    assert len({image["file"] for image in found["images"]}) == len(found["images"])
    for image in found["images"]:
        if image.get("failure") is not None:
            assert isinstance(image["failure"], str) and image["detections"] is None
            continue
        assert not image["file"].startswith("/") and "\\" not in image["file"]
        for box in image["detections"]:
            assert box["category"] in categories[0] and 0 <= box["conf"] <= 1
            assert len(box["bbox"]) == 4 and all(0 <= side <= 1 for side in box["bbox"])
            scores = [score for _, score in box.get("classifications", [])]
            assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
            assert all(number in categories[1] for number, _ in box.get("classifications", []))


def test_the_results_of_megadetector() -> None:
    text = io.StringIO()
    iris = [("Plantae", *["x"] * 4, "Iris", None), ("Animalia", *["y"] * 4, "Iris", None)]
    more = record("5.jpg", answer(iris[0], 0.6), answer(iris[1], 0.3))
    megadetector.write(text, [*RECORDS, more], ORIGIN)
    assert text.getvalue().startswith(megadetector.BEGINNING)
    found = json.loads(text.getvalue())
    check_megadetector(found)
    assert found["info"]["classifier"].endswith(f"{HASH})")
    assert found["info"]["classifier_metadata"]["thresholds"]["species"] == 0.8
    names, boxes = found["classification_categories"], found["detection_categories"]
    shown = {image["file"]: image for image in found["images"]}
    fox, unsure, broken = shown["north/1.jpg"], shown["north/2.jpg"], shown["south/broken.jpg"]
    (box,) = fox["detections"]
    assert (
        boxes[box["category"]] == "animal" and box["bbox"] == [0, 0, 1, 1] and fox["datetime"] == "2026-04-01 06:30:00"
    )
    assert [(names[number], score) for number, score in box["classifications"]] == [("Vulpes vulpes", 0.9)]
    assert boxes[unsure["detections"][0]["category"]] == "unknown" and "classifications" not in unsure["detections"][0]
    assert broken["failure"] == "truncated: 40 % is missing"
    assert "Iris" in names.values() and "Iris (Animalia, y, y, y, y, Iris)" in names.values()
    assert "animalia;chordata;mammalia;carnivora;canidae;vulpes;vulpes" in found[
        "classification_category_descriptions"
    ].values()  # fmt: skip


# ---- Parquet


def test_parquet_with_embeddings_and_all_probabilities(tmp_path: Path) -> None:
    output = tmp_path / "names.parquet"
    known = [{**one, "embedding": [0.6, 0.8], "probabilities": [0.9, 0.1]} for one in RECORDS[:2]]
    parquet.write(output, [*known, RECORDS[4]], ORIGIN, ["fox", "oak"])  # type: ignore[list-item]
    rows = pq.read_table(output)
    about = json.loads(rows.schema.metadata[b"bioclip-lite"])
    assert about["sha256"] == HASH and about["thresholds"]["genus"] == 0.8
    assert json.loads(rows.schema.metadata[b"taxon_ids"]) == ["fox", "oak"]
    fox, unsure, broken = rows.to_pylist()
    assert fox["answers"][0]["scientific_name"] == "Vulpes vulpes" and fox["answers"][0]["rank"] == "species"
    assert fox["probabilities"] == pytest.approx([0.9, 0.1]) and fox["embedding"] == pytest.approx([0.6, 0.8])
    assert unsure["answers"] == [] and broken["error"] and broken["embedding"] is None
    assert parquet.is_ours(output) and not parquet.is_ours(Path(__file__))


# ---- CSV


def test_csv_with_time_and_place() -> None:
    text = io.StringIO()
    csv_table.write(text, RECORDS, ORIGIN, exif=True, prior=False, confirm=False)
    fox, unsure, human, oak, broken = csv.DictReader(io.StringIO(text.getvalue()))
    assert (fox["time"], fox["latitude"], fox["longitude"]) == ("2026-04-01T06:30:00", "47.3769", "8.5417")
    assert (fox["rank"], fox["threshold"], fox["model_sha256"]) == ("species", "0.8", HASH)
    assert (fox["on_list"], fox["off_list"], unsure["on_list"], unsure["off_list"]) == ("0.9", "", "0.25", "yes")
    assert unsure["time"].endswith("+01:00") and not unsure["rank"] and not unsure["score"]
    assert (oak["genus"], oak["species"], oak["zero_shot"], oak["note"]) == ("Quercus", "", "yes", "needs fruit")
    assert human["species"] == "Homo sapiens"
    assert broken["error"] == "truncated: 40 % is missing" and not broken["time"]
    without = io.StringIO()
    csv_table.write(without, RECORDS, ORIGIN, exif=False, prior=False, confirm=False)
    assert "latitude" not in without.getvalue() and np.all(
        [len(row) == 20 for row in csv.reader(io.StringIO(without.getvalue()))]
    )
