"""A Camtrap DP 1.0.2 data package (https://camtrap-dp.tdwg.org): what camera traps saw, photograph by photograph.

A deployment is a folder of photographs. Its place is that of a table of deployments, or of the photographs' EXIF data;
its period is stated in the table, or that of its photographs.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bioclip_lite.predicting import answers
from bioclip_lite.predicting.darwin_core import remarks, rule
from bioclip_lite.predicting.origin import Origin, below
from bioclip_lite.predicting.records import Record, path_of
from bioclip_lite.sources import delimited
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, replacing_folder, write_json

FILES = ("datapackage.json", "deployments.csv", "media.csv", "observations.csv")
_SCHEMAS = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2"
_PATH = re.compile(r"(?=[^./~])((?!\.{2}).)*")  # of a file, as the table schema of media allows it
_AGREE = 0.001  # degrees, about 100 m: photographs of one deployment are not farther apart
# All columns of the standard, in its order: a table that lacks one does not validate.
_DEPLOYMENT = (
    *("deploymentID", "locationID", "locationName", "latitude", "longitude", "coordinateUncertainty"),
    *("deploymentStart", "deploymentEnd", "setupBy", "cameraID", "cameraModel", "cameraDelay", "cameraHeight"),
    *("cameraDepth", "cameraTilt", "cameraHeading", "detectionDistance", "timestampIssues", "baitUse", "featureType"),
    *("habitat", "deploymentGroups", "deploymentTags", "deploymentComments"),
)
_MEDIUM = (
    *("mediaID", "deploymentID", "captureMethod", "timestamp", "filePath", "filePublic", "fileName"),
    *("fileMediatype", "exifData", "favorite", "mediaComments"),
)
_OBSERVATION = (
    *("observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd", "observationLevel"),
    *("observationType", "cameraSetupType", "scientificName", "count", "lifeStage", "sex", "behavior"),
    *("individualID", "individualPositionRadius", "individualPositionAngle", "individualSpeed"),
    *("bboxX", "bboxY", "bboxWidth", "bboxHeight", "classificationMethod", "classifiedBy"),
    *("classificationTimestamp", "classificationProbability", "observationTags", "observationComments"),
)
_PROJECT = {  # the least specific values; those who ran the cameras know better
    "title": "Photographs named by bioclip-lite",
    "samplingDesign": "opportunistic",
    "captureMethod": ["activityDetection"],
    "individualAnimals": False,
    "observationLevel": ["media"],
}


class Camera(NamedTuple):
    """What a user says of camera traps beside their photographs."""

    offset: str  # of the cameras' clocks from UTC, "+02:00", where EXIF does not state it
    deployments: Mapping[str, dict[str, str]]  # rows of a table by deploymentID; none: EXIF data
    package: dict[str, Any]  # entries of datapackage.json


@dataclass
class _Seen:
    """What the photographs of a deployment say of it."""

    start: str
    end: str
    places: tuple[float, float, float, float] | None = None  # least and largest latitude, longitude

    def add(self, time: str, latitude: float | None, longitude: float | None) -> None:
        self.start, self.end = min(self.start, time), max(self.end, time)
        if latitude is not None and longitude is not None:
            south, north, west, east = self.places or (latitude, latitude, longitude, longitude)
            self.places = min(south, latitude), max(north, latitude), min(west, longitude), max(east, longitude)


def read_camera(offset: str, deployments: Path | None, package: Path | None, folders: Iterable[str]) -> Camera:
    """Read what a user says of the cameras.

    Args:
        offset: as in ``Camera``.
        deployments: a table with the columns of deployments.csv, at least deploymentID, latitude and longitude.
        package: JSON with entries of datapackage.json, such as project, contributors and licenses.
        folders: that hold photographs, by ``deployment_of``.

    Raises:
        UserError: a file is missing or no such table, or the table lacks a folder.
    """
    rows = {row["deploymentID"]: row for row in _rows(deployments)} if deployments else {}
    if deployments and (lacking := sorted(set(folders) - set(rows))):
        raise UserError(
            f"{deployments} lacks {len(lacking)} folders of photographs: {', '.join(lacking[:5])}; give each a row "
            "whose deploymentID is the folder as it is spelt here"
        )
    try:
        said = read_json(package) if package else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{package} is no readable JSON file ({error})") from None
    if not isinstance(said, dict):
        raise UserError(f"{package} must hold one JSON object with entries of datapackage.json, such as project")
    return Camera(offset, rows, said)


def _rows(table: Path) -> Iterator[dict[str, str]]:
    if not table.is_file():
        raise UserError(f"{table} is no file; --deployments names a table with the columns of Camtrap DP's deployments")
    lines = delimited.rows(table)
    _, header = next(lines)
    if lacking := {"deploymentID", "latitude", "longitude"} - set(header):
        raise UserError(f"{table} has no column {', '.join(sorted(lacking))}, which Camtrap DP requires of deployments")
    if unknown := [name for name in header if name not in _DEPLOYMENT]:
        raise UserError(
            f"{table} has columns that Camtrap DP does not know of deployments: {', '.join(unknown)}; rename them, or "
            f"leave them out; it knows {', '.join(_DEPLOYMENT)}"
        )
    for number, values in lines:
        row = dict(zip(header, values, strict=False))
        try:
            right = abs(float(row["latitude"])) <= 90 and abs(float(row["longitude"])) <= 180
        except (KeyError, ValueError):
            right = False
        if not right:
            raise UserError(f"{table}, line {number}: latitude and longitude must be degrees, such as 47.3769")
        yield row


def deployment_of(path: str, root: Path) -> str:
    """The deployment of a photograph: its folder below the root, or the root itself."""
    folder = path.rpartition("/")[0]
    return folder or root.name or "root"


def write(output: Path, records: Callable[[], Iterable[Record]], origin: Origin, camera: Camera) -> dict[str, str]:
    """Write the package; returns the photographs that it cannot hold, with the reasons.

    ``records`` is called several times, once for each table. A photograph is unknown where no taxon is certain enough,
    and where the taxon is neither an animal nor a human, which the standard has no type for.

    Raises:
        UserError: a deployment has no place, or several.
    """
    left_out: dict[str, str] = {}
    seen: dict[str, _Seen] = {}
    taxa: dict[str, dict[str, Any]] = {}
    for record in records():
        path = below(path_of(record), origin.root)
        if reason := _unfit(record, path):
            left_out[record["file_name"]] = reason
        elif record["error"] is None:
            time, folder = _moment(record, camera.offset), deployment_of(path, origin.root)
            seen.setdefault(folder, _Seen(time, time)).add(time, record["latitude"], record["longitude"])
            for answer in record["answers"]:
                taxa[answer["scientific_name"]] = _taxon(answer)
    if not seen:
        raise UserError("there is no photograph that a Camtrap DP package can hold: it needs the time of each (EXIF)")
    deployments = [_deployment(folder, seen[folder], camera) for folder in sorted(seen)]
    with replacing_folder(output, FILES) as scratch:
        _write_table(scratch / "deployments.csv", _DEPLOYMENT, deployments)
        for name, header, row in (("media.csv", _MEDIUM, _medium), ("observations.csv", _OBSERVATION, _observation)):
            _write_table(scratch / name, header, _fit(records(), origin, camera, row))
        write_json(scratch / FILES[0], _package(deployments, [taxa[name] for name in sorted(taxa)], origin, camera))
    return left_out


def _unfit(record: Record, path: str) -> str | None:
    """Why a photograph that was read cannot be in a package."""
    if record["error"] is not None:
        return None
    if record["time"] is None:
        return "Camtrap DP needs the time when a photograph was taken, and its EXIF data have none"
    return None if _PATH.fullmatch(path) else "Camtrap DP allows no '..' in the name of a file, and no '~' before it"


def _fit(
    records: Iterable[Record],
    origin: Origin,
    camera: Camera,
    row: Callable[[Record, str, Origin, Camera], dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    for record in records:
        path = below(path_of(record), origin.root)
        if record["error"] is None and _unfit(record, path) is None:
            yield row(record, path, origin, camera)


def _moment(record: Record, offset: str) -> str:
    """When a photograph was taken, with the offset of its clock."""
    return f"{record['time']}{record['offset'] or offset}"


def _deployment(folder: str, seen: _Seen, camera: Camera) -> dict[str, Any]:
    period = {"deploymentStart": seen.start, "deploymentEnd": seen.end}
    if camera.deployments:
        stated = {name: value for name, value in camera.deployments[folder].items() if value}
        return period | stated
    if seen.places is None:
        raise UserError(
            f"the photographs of {folder} do not say where they were taken (EXIF), and Camtrap DP needs the place of "
            "each deployment: give --deployments a table with deploymentID, latitude and longitude; the answers so "
            "far are kept, and the same command with it goes on from there"
        )
    south, north, west, east = seen.places
    if north - south > _AGREE or east - west > _AGREE:
        raise UserError(
            f"the photographs of {folder} were taken at several places ({south} to {north}, {west} to {east}), and a "
            "deployment has one: put those of each camera into a folder of their own, or give --deployments a table"
        )
    place = {"latitude": round((south + north) / 2, 6), "longitude": round((west + east) / 2, 6)}
    return {"deploymentID": folder, **place, **period}


def _medium(record: Record, path: str, origin: Origin, camera: Camera) -> dict[str, Any]:
    return {
        "mediaID": path,
        "deploymentID": deployment_of(path, origin.root),
        "timestamp": _moment(record, camera.offset),
        "filePath": path,
        "filePublic": "false",
        "fileName": path.rpartition("/")[2],
        "fileMediatype": record["media_type"],
    }


def _observation(record: Record, path: str, origin: Origin, camera: Camera) -> dict[str, Any]:
    time = _moment(record, camera.offset)
    answer = record["answers"][0] if record["answers"] else None
    return {
        "observationID": f"{path}#1",
        "deploymentID": deployment_of(path, origin.root),
        "mediaID": path,
        "eventStart": time,
        "eventEnd": time,
        "observationLevel": "media",
        "observationType": _type(answer),
        "scientificName": answer["scientific_name"] if answer else None,
        "classificationMethod": "machine",
        "classifiedBy": origin.named,
        "classificationTimestamp": origin.began,
        "classificationProbability": f"{answer['score']:.6f}" if answer else None,
        "observationComments": remarks(record, origin),
    }


def _type(answer: answers.Answer | None) -> str:
    if answer and answers.is_human(answer):
        return "human"
    return "animal" if answer and answers.is_animal(answer) else "unknown"


def _taxon(answer: answers.Answer) -> dict[str, Any]:
    above = {rank: name for rank, name in zip(RANKS[:-1], answer["path"], strict=False) if name}
    return {"scientificName": answer["scientific_name"], "taxonRank": answer["rank"], **above}


def _write_table(file: Path, header: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _package(
    deployments: Sequence[dict[str, Any]], taxa: Sequence[dict[str, Any]], origin: Origin, camera: Camera
) -> dict[str, Any]:
    return {
        "profile": f"{_SCHEMAS}/camtrap-dp-profile.json",
        "created": origin.began,
        "contributors": [{"title": origin.model, "role": "contributor"}],
        "description": f"Photographs named by a machine: {origin.named}. {rule(origin)} media.filePath is relative to "
        f"the folder {origin.root.name!r}.",
        "project": _PROJECT,
        "spatial": _area(deployments),
        "temporal": {
            "start": min(row["deploymentStart"] for row in deployments)[:10],
            "end": max(row["deploymentEnd"] for row in deployments)[:10],
        },
        "taxonomic": list(taxa),
        "bioclip_lite": {"model": origin.model, "sha256": origin.sha256, "thresholds": origin.thresholds},
        **camera.package,
        "resources": [
            {
                "name": name,
                "path": f"{name}.csv",
                "profile": "tabular-data-resource",
                "format": "csv",
                "mediatype": "text/csv",
                "encoding": "utf-8",
                "schema": f"{_SCHEMAS}/{name}-table-schema.json",
            }
            for name in ("deployments", "media", "observations")
        ],
    }


def _area(deployments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rectangle of all deployments, as GeoJSON; its corners counter-clockwise."""
    north, south = (most(float(row["latitude"]) for row in deployments) for most in (max, min))
    east, west = (most(float(row["longitude"]) for row in deployments) for most in (max, min))
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}
