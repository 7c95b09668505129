"""The page's exports of many photographs, against those of Python for the same answers."""

import json
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bioclip_lite.photographs.images import capture
from bioclip_lite.predicting import camtrap, csv_table, darwin_core
from bioclip_lite.predicting.answers import Answer
from bioclip_lite.predicting.origin import Origin
from bioclip_lite.predicting.records import Record
from bioclip_lite.predicting.sites import read_confirmed
from bioclip_lite.taxa.taxonomy import RANKS, label_rank, scientific_name

PACKAGE = Path(__file__).parents[2] / "packages" / "react-bio-clip"
FOLDER = Path("/trip")
BEGAN = "2026-05-01T10:00:00+00:00"
LIMITS = dict.fromkeys(RANKS, 0.8) | {"kingdom": None, "genus": 0.00001234567}
ORIGIN = Origin("react-bio-clip 0.2.0 tfjs", "0123456789abcdef" * 4, LIMITS, BEGAN, FOLDER)
FOX = ("Animalia", "Chordata", "Mammalia", "Carnivora", "Canidae", "Vulpes", "vulpes")
HUMAN = ("Animalia", "Chordata", "Mammalia", "Primates", "Hominidae", "Homo", "sapiens")
OAK = ("Plantae", None, "Magnoliopsida", "Fagales", "Fagaceae", "Quercus", None)
UNLIKELY = 3.14159265e-05


def answer(path: tuple[str | None, ...], score: float, **more: Any) -> Answer:
    rank = RANKS[label_rank(path)]
    base = {"rank": rank, "path": list(path), "scientific_name": scientific_name(path), "common_name": None}
    return base | {"score": score, "threshold": LIMITS[rank], "zero_shot": False, "note": ""} | more  # type: ignore[return-value]


def record(name: str, *answers: Answer, **more: Any) -> Record:
    base: dict[str, Any] = {"file": str(FOLDER / name).encode(), "file_name": name, "sha256": f"{len(name):064x}"}
    exif: dict[str, Any] = {"time": "2026-04-01T06:30:00", "offset": None, "latitude": 47.0, "longitude": 1e-05}
    best: dict[str, Any] = {"best": list(FOX[:2]), "best_scores": [1.0, 0.123456789]}
    told = {"error": None, "media_type": "image/jpeg", "answers": list(answers), "on_list": 0.9}
    return base | told | exif | best | more  # type: ignore[return-value]


RECORDS = [
    record("north/1.jpg", answer(FOX, 0.987654321, common_name='the "red" fox, <male> & old')),
    record("north/2 3.jpg", time="2026-04-03T21:00:00", offset="+01:00", on_list=0.25, best=[], best_scores=[]),
    record("south/a, b.jpg", answer(HUMAN, 1.0), latitude=-1.2345678, longitude=-70.25, on_list=None),
    record("south/4.jpg", answer(OAK, 0.85, zero_shot=True, note="needs\tfruit"), latitude=-1.2345, longitude=-70.25),
    record("south/5.jpg", answer((*FOX[:4], None, None, None), UNLIKELY), latitude=None, longitude=None, on_list=1e-5),
]  # fmt: skip


def again() -> Iterator[Record]:
    return iter(RECORDS)


def of_page(number: int, one: Record) -> dict[str, Any]:
    """The record that the page makes of the same answer."""
    found = one["answers"][0] if one["answers"] else None
    named = found and {
        **{name: found[name] for name in ("rank", "path", "score", "threshold", "note")},
        **{"name": found["scientific_name"], "commonName": found["common_name"], "zeroShot": found["zero_shot"]},
    }
    model = {"name": ORIGIN.model, "sha256": ORIGIN.sha256, "thresholds": ORIGIN.thresholds, "began": BEGAN}
    return {
        **{name: one[name] for name in ("sha256", "time", "offset", "latitude", "longitude", "best")},
        **{"file": one["file_name"], "mediaType": one["media_type"], "answer": named, "onList": one["on_list"]},
        **{"bestScores": one["best_scores"], "origin": model, "observation": number},
    }


def node(*arguments: object) -> str:
    command = ["node", "e2e/exports.mjs", *map(str, arguments)]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def exported(folder: Path, records: Sequence[dict[str, Any]]) -> Path:
    places = {
        "north": {"latitude": "47.0", "longitude": "1e-05"},
        "south": {"latitude": "-1.234534", "longitude": "-70.25"},
    }
    given = {"records": records, "offset": "+02:00", "places": places}
    (folder / "given.json").write_text(json.dumps(given), encoding="utf-8")
    node(folder / "given.json", folder / "page")
    return folder / "page"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("field"), [of_page(i, one) for i, one in enumerate(RECORDS, 1)])


def test_csv_is_that_of_predict_with_the_observation(page: Path, tmp_path: Path) -> None:
    with (tmp_path / "predict.csv").open("w", encoding="utf-8", newline="") as file:
        csv_table.write(file, again(), ORIGIN, exif=True, prior=False, confirm=True)
    header, *rows = (tmp_path / "predict.csv").read_text("utf-8").splitlines()
    found = (page / "notes.csv").read_text("utf-8").splitlines()
    assert found == [f"{header},observation", *(f"{row},{i}" for i, row in enumerate(rows, 1))]


def test_the_darwin_core_archive_is_that_of_predict(page: Path, tmp_path: Path) -> None:
    darwin_core.write(tmp_path / "predict.zip", again, ORIGIN)
    with zipfile.ZipFile(tmp_path / "predict.zip") as one, zipfile.ZipFile(page / "dwca.zip") as other:
        assert one.namelist() == other.namelist()
        for name in one.namelist():
            assert one.read(name).decode() == other.read(name).decode(), name


def test_the_camtrap_package_is_that_of_predict(page: Path, tmp_path: Path) -> None:
    camtrap.write(tmp_path / "predict", again, ORIGIN, camtrap.Camera("+02:00", {}, {}))
    for name in ("media.csv", "observations.csv", "deployments.csv"):
        assert (page / "camtrap-dp" / name).read_text("utf-8") == (tmp_path / "predict" / name).read_text("utf-8")
    one, other = (json.loads((folder / "datapackage.json").read_text("utf-8"))
                  for folder in (tmp_path / "predict", page / "camtrap-dp"))  # fmt: skip
    said = " media.filePath is relative to the folder "
    assert one.pop("description").split(said)[0] == other.pop("description").split(said)[0]
    assert one == other


def test_what_a_person_says_is_in_all_exports_and_recalibrate_reads_it(tmp_path: Path) -> None:
    """Of two photographs of one observation with one name the first counts; another name in it counts too."""
    fox = {"rank": "species", "path": FOX, "name": "Vulpes vulpes", "commonName": "red fox"}
    said = {"taxon": fox, "label": "Vulpes vulpes", "at": "2026-05-02T08:00:00+00:00", "by": "A. Person"}
    nothing = {**said, "taxon": None, "label": "none"}
    confirmed = [said, said, nothing, said, None]
    records = [
        of_page(number, one) | ({"confirmed": answer} if answer else {})
        for number, one, answer in zip((1, 1, 1, 2, 3), RECORDS, confirmed, strict=True)
    ]
    folder = exported(tmp_path, records)
    rows, model, sha256 = read_confirmed(folder / "notes.csv", [FOX, HUMAN, OAK])
    assert [row.label for row in rows] == [FOX, None, FOX]
    assert (model, sha256) == (ORIGIN.model, ORIGIN.sha256)
    with zipfile.ZipFile(folder / "dwca.zip") as archive:
        header, *lines = (line.split("\t") for line in archive.read("occurrence.txt").decode().splitlines())
    status, by, name = (
        header.index(term) for term in ("identificationVerificationStatus", "identifiedBy", "scientificName")
    )
    assert [line[status] for line in lines] == ["verified"] * 4 + ["unverified"]
    assert [line[name] for line in lines] == ["Vulpes vulpes", "Vulpes vulpes", "", "Vulpes vulpes", "Carnivora"]
    assert lines[0][by] == "A. Person" and ORIGIN.sha256 in lines[4][by]
    observations = (folder / "camtrap-dp" / "observations.csv").read_text("utf-8").splitlines()[1:]
    assert [",human,A. Person," in line for line in observations] == [True] * 4 + [False]


def test_time_and_place_are_read_as_in_python(tmp_path: Path) -> None:
    whole = {2: (47.0, 22.0, 36.84), 1: "N", 4: (8.0, 32.0, 30.12), 3: "W"}
    cases: list[tuple[dict[int, Any], dict[int, Any]]] = [
        ({0x9003: "2026:05:01 10:00:00", 0x9011: "+02:00"}, whole),
        ({0x9004: "2026:05:01 10:00:00", 0x9011: "CEST"}, whole | {1: "s"}),
        ({0x9003: "0000:00:00 00:00:00"}, {2: (47.0, 22.0, 36.84), 1: "N"}),
        ({0x9003: "2026:02:30 10:00:00"}, whole | {2: (97.0, 0.0, 0.0)}),
        ({}, {}),
    ]
    files = []
    for number, (about, place) in enumerate(cases):
        exif = Image.Exif()
        exif.get_ifd(0x8769).update(about)
        exif.get_ifd(0x8825).update(place)
        exif[0x0132] = "2026:06:06 06:06:06"  # when the file was changed
        files.append(tmp_path / f"{number}.jpg")
        Image.new("RGB", (8, 8)).save(files[-1], exif=exif)
    fields = ("time", "offset", "latitude", "longitude")
    wanted = [{name: getattr(capture(file.read_bytes()), name) for name in fields} for file in files]
    assert [json.loads(line) for line in node("--capture", *files).splitlines()] == wanted
    assert wanted[0]["latitude"] == pytest.approx(47.3769) and wanted[1]["time"] == "2026-05-01T10:00:00"
