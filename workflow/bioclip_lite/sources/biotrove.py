"""Source biotrove: BioTrove, at first called Arboretum (Yang et al. 2024), 162 M photographs of iNaturalist.

``index.path`` is a folder with one of
    tars      <chunk>.tar, as the data set's own tool writes them: <chunk>/<photo_id>.jpg with texts beside it
    parquet   tables with photo_id, ranks, common_name and photo_url; photographs that lie in the folder, as
              <chunk>/<photo_id>.jpg, are taken from there, all others are downloaded
    both      photographs from the tars, names from the tables

The data set states neither licences nor observations, so a filter by licence leaves nothing of it.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bioclip_lite.sources import fields, identifiers, places, rows, tars, texts
from bioclip_lite.sources.lookup import lookup
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

Get = Callable[[str], list[Any]]


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    folder = places.require_folder(params["path"], "a folder with the data set's tars or parquet tables")
    shards = tars.find(folder, tars.WITH_GZIPPED)
    tables = [name for name in places.files_in(folder) if name.endswith(".parquet")]
    if shards:
        yield from _from_tars(folder, shards, tables, places.seek_points(params))
    elif tables:
        yield from _from_tables(folder, tables)
    else:
        raise UserError(
            f"params.yaml, index.path: neither .tar nor .parquet below {folder}; put BioTrove's files there"
        )


def prepare(params: "Origin", locators: Iterable[str]) -> None:
    places.prepare(params, locators)


def read(params: "Origin", locator: str) -> bytes:
    return places.read(params, Path(params["path"]), locator)


def _from_tars(folder: Path, shards: list[str], tables: list[str], seek_points: Path) -> Iterator[Sample | Reject]:
    known = ((identity, row) for table in tables for _, identity, row in _listed(folder / table) if identity)
    with lookup(known) as by_id:
        for shard in shards:
            for group in tars.groups(folder, shard, seek_points):
                if isinstance(group, Reject):
                    yield group
                elif group.image is None:
                    parts = ", ".join(sorted(group.parts))
                    yield Reject(group.name, "missing file", f"no image among its parts: {parts}")
                else:
                    row = next(iter(by_id(group.key.rsplit("/", 1)[-1])), None)
                    row = row or texts.row_of(group.texts)
                    yield _sample(row, group.name, group.image, group.key.rsplit("/", 1)[-1])


def _from_tables(folder: Path, tables: list[str]) -> Iterator[Sample | Reject]:
    with lookup(_local(folder)) as by_id:
        for table in tables:
            for number, identity, row in _listed(folder / table):
                place = f"{table}, row {number}"
                local, address = next(iter(by_id(identity or "")), None), row.get("file")
                if identity is None:
                    yield Reject(place, "bad row", "no photo_id")
                elif local:
                    yield _sample(row, f"photo/{identity}", local, identity)
                elif address and places.is_address(address):
                    yield _sample(row, f"photo/{identity}", address, identity)
                else:
                    yield Reject(place, "missing file", f"photo_id {identity}: not in the folder, and no photo_url")


def _local(folder: Path) -> Iterator[tuple[str, str]]:
    """photo_id and place of each photograph in the folder."""
    for name in places.files_in(folder):
        path = PurePosixPath(name)
        if path.suffix.lower().lstrip(".") in tars.IMAGES and places.writable(name):
            yield path.stem, name


def _sample(row: fields.Row, name: str, locator: str, photo_id: str) -> Sample:
    """A sample whose key depends on ``name``, not on where the photograph lies."""
    path = fields.path_of(row)
    common_name = texts.genuine(row.get("common_name"), path, row.get("scientific_name"))
    known = tuple(identifiers.of_record({"photo_id": photo_id}))
    return fields.to_sample({**row, "common_name": common_name}, key_of(name), locator, identifiers=known)


def _listed(table: Path) -> Iterator[tuple[int, str | None, fields.Row]]:
    """Row number from 1, photo_id and fields of each row of a table."""
    columns: fields.Columns | None = None
    for number, (names, values) in enumerate(rows.parquet_rows(table), 1):
        if columns is None:
            columns = fields.understand(names)
            if "photo_id" not in names or not any(field in columns.places for field in fields.NAMING):
                raise UserError(
                    f"{table} is no table of BioTrove, which has photo_id and ranks; columns: {', '.join(names)}"
                )
            place = names.index("photo_id")
        yield number, _identity(values[place]), fields.row_of(columns, values)


def _identity(value: object) -> str | None:
    """A photo_id as text; tables that have passed through pandas hold it as a floating-point number."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return taxonomy.clean(value)
