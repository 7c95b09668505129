"""Sources treeoflife10m and treeoflife200m: the training sets of BioCLIP (Stevens et al. 2024) and BioCLIP 2 (2025).

``index.path`` is a folder with tars anywhere below it, e.g. 224x224/{train,val,train_small}/shard-000000.tar. A sample
is an id with an image and any of the texts; ranks come from catalog.csv or catalog.parquet, if one lies in the folder,
otherwise from the texts. provenance.parquet or licenses.csv give licences and owners. train_small repeats a part of
train and is left out beside it; photographs of val are test photographs. Photographs of one GBIF occurrence, where the
catalogue names it, are one observation.

The catalogue is joined through a temporary file, so memory does not grow with it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bioclip_lite.sources import delimited, fields, places, rows, tars, texts
from bioclip_lite.sources.lookup import lookup
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

CATALOGUES = ("catalog.parquet", "catalog.csv")
PROVENANCE = ("provenance.parquet", "licenses.csv", "licences.csv")
_IDS = ("uuid", "treeoflife_id")
_NAMES = (*taxonomy.RANKS, "scientific_name", "common")
_SPLITS = {"val": "test"}  # by folder; photographs of train are dealt

Get = Callable[[str], list[Any]]


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    folder = places.require_folder(params["path"], "a folder with the data set's tars")
    shards = _shards(folder)
    catalogues = [folder / name for name in places.files_in(folder) if name.rsplit("/", 1)[-1] in CATALOGUES]
    provenances = [folder / name for name in places.files_in(folder) if name.rsplit("/", 1)[-1] in PROVENANCE]
    with (
        lookup(_catalogued(catalogues, {PurePosixPath(shard).name for shard in shards})) as catalogue,
        lookup(_provenance(provenances)) as provenance,
    ):
        for shard in shards:
            split = next((_SPLITS[part] for part in PurePosixPath(shard).parts[:-1] if part in _SPLITS), None)
            for group in tars.groups(folder, shard):
                yield group if isinstance(group, Reject) else _sample(folder, group, split, catalogue, provenance)


def read(params: "Origin", locator: str) -> bytes:
    return places.read(params, Path(params["path"]), locator)


def _shards(folder: Path) -> list[str]:
    shards = tars.find(folder)
    if not shards:
        raise UserError(f"params.yaml, index.path: no .tar below {folder}; put the shards of the data set there")
    if any("train" in PurePosixPath(shard).parts for shard in shards):
        shards = [shard for shard in shards if "train_small" not in PurePosixPath(shard).parts]
    return shards


def _sample(folder: Path, group: tars.Group, split: str | None, catalogue: Get, provenance: Get) -> Sample | Reject:
    if group.image is None:
        return Reject(group.name, "missing file", f"no image among its parts: {', '.join(sorted(group.parts))}")
    identity = group.key.rsplit("/", 1)[-1]
    row: fields.Row = next(iter(catalogue(identity)), {})
    if not any(row.get(name) for name in _NAMES[:-1]):
        row = row | texts.row_of(tars.texts(folder, group))
    row |= next(iter(provenance(identity)), {})
    path = fields.path_of(row)
    row["common_name"] = texts.genuine(row.get("common_name"), path, row.get("scientific_name"))
    row["split"] = split
    return fields.to_sample(row, key_of(group.name), group.image)


def _catalogued(tables: list[Path], shards: set[str]) -> Iterator[tuple[str, fields.Row]]:
    """Names and the observation of each photograph in one of these shards, where the catalogue says in which it is."""
    wanted = (*_IDS, *_NAMES, "data_source", "source_id", "shard_filename")
    for table in tables:
        for row in _records(table, wanted):
            shard = row.get("shard_filename")
            if shard and PurePosixPath(shard).name not in shards:
                continue
            found: fields.Row = {name: row.get(name) for name in _NAMES[:-1]}
            found["common_name"] = row.get("common")
            if (row.get("data_source") or "").lower() == "gbif" and row.get("source_id"):
                found["observation"] = f"gbif-{row['source_id']}"
            yield from _by_id(row, found)


def _provenance(tables: list[Path]) -> Iterator[tuple[str, fields.Row]]:
    for table in tables:
        for row in _records(table, (*_IDS, "license_name", "license_link", "copyright_owner")):
            licence = fields.stated(row.get("license_name")) or fields.stated(row.get("license_link"))
            yield from _by_id(row, {"licence": licence, "attribution": fields.stated(row.get("copyright_owner"))})


def _by_id(row: fields.Row, found: fields.Row) -> Iterator[tuple[str, fields.Row]]:
    identity = row.get("uuid") or row.get("treeoflife_id")
    if identity:
        yield identity, {name: value for name, value in found.items() if value}


def _records(table: Path, wanted: tuple[str, ...]) -> Iterator[fields.Row]:
    """The rows of a catalogue as dictionaries of what is known."""
    if table.suffix == ".parquet":
        for names, values in rows.parquet_rows(table, wanted):
            yield {name: taxonomy.clean(value) for name, value in zip(names, values, strict=True)}
        return
    lines = delimited.rows(table)
    _, header = next(lines)
    places_of = [(i, name.strip()) for i, name in enumerate(header) if name.strip() in wanted]
    for _, line in lines:
        yield {name: taxonomy.clean(line[i]) for i, name in places_of if i < len(line)}
