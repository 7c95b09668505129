"""Source inaturalist: observations as iNaturalist exports them (https://www.inaturalist.org/observations/export).

``index.path`` is the CSV file, or a folder with several: an export is cut at 200,000 observations. A row is an
observation and brings the address of its first photograph. Needed are the columns id, image_url and scientific_name;
worth ticking as well: quality_grade, license, user_login, user_name, common_name and the taxon's ranks
(taxon_kingdom_name, ..., taxon_species_name), without which only genus and species are known. A blank licence means
that all rights are reserved. ``index.quality_grades`` keeps only observations of these grades, e.g. [research].
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.sources import delimited, fields, places
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Listing, Origin

_NEEDED = ("id", "image_url", "scientific_name")
_RESERVED = "all rights reserved"


def samples(params: "Listing") -> Iterator[Sample | Reject]:
    grades = {grade.lower() for grade in params["quality_grades"]}
    for table in _tables(Path(params["path"])):
        lines = delimited.rows(table)
        _, header = next(lines)
        header = [name.strip().lower() for name in header]
        needed = (*_NEEDED, *(["quality_grade"] if grades else []))
        if missing := [name for name in needed if name not in header]:
            raise UserError(
                f"{table} has no column {', '.join(missing)}; tick {'it' if len(missing) == 1 else 'them'} on "
                f"iNaturalist's export page, and export again. Its columns: {', '.join(header) or 'none'}"
            )
        for line, values in lines:
            if len(values) != len(header):
                detail = f"{len(values)} values where the header has {len(header)} columns; export the table again"
                yield Reject(f"{table.name}, line {line}", "bad row", detail)
                continue
            row = {name: taxonomy.clean(value) for name, value in zip(header, values, strict=True)}
            if not grades or (row["quality_grade"] or "").lower() in grades:
                yield _sample(row, f"{table.name}, line {line}")


def prepare(params: "Origin", locators: Iterable[str]) -> None:
    places.prepare(params, locators)


def read(params: "Origin", locator: str) -> bytes:
    return places.read(params, Path(params["path"]).parent, locator)


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    tables = sorted(path.glob("*.csv")) if path.is_dir() else []
    if not tables:
        problem = "holds no .csv" if path.is_dir() else "does not exist"
        packed = "; unpack the .zip first" if path.is_dir() and any(path.glob("*.zip")) else ""
        raise UserError(f"params.yaml, index.path: {path} {problem}; it must be the export of iNaturalist{packed}")
    return tables


def _sample(row: dict[str, str | None], place: str) -> Sample | Reject:
    identity, address = row["id"], row["image_url"]
    fields.refuse_rounded(place, identity)
    if identity is None:
        return Reject(place, "bad row", "column id is empty")
    if address is None:
        return Reject(place, "missing file", f"observation {identity} has no photograph")
    names = {rank: row.get(f"taxon_{rank}_name") for rank in taxonomy.RANKS}
    known: fields.Row = {**names, "scientific_name": row["scientific_name"]}
    return Sample(
        key=key_of(address),
        locator=address,
        group=f"inaturalist-{identity}",
        path=fields.path_of(known),
        common_name=row.get("common_name"),
        licence=row.get("license") or (_RESERVED if "license" in row else None),
        attribution=row.get("user_name") or row.get("user_login"),
        verbatim=row["scientific_name"],
    )
