"""Sources treeoflife10m and treeoflife200m: the training sets of BioCLIP (Stevens et al. 2024) and BioCLIP 2 (2025).

``index.path`` is a folder with any of these anywhere below it:
    shards      tars with images and texts, e.g. 224x224/{train,val,train_small}/shard-000000.tar
    image sets  dataset/EOL/image_set_01.tar.gz as the hub has them, <treeoflife_id>.jpg without texts; read where they
                lie, gzipped or not
    BIOSCAN-1M  part<number>/<filename>.jpg
    iNat21      <class number>_<class name>/<filename>.jpg, in train.tar.gz or unpacked

Names come from catalog.csv or catalog.parquet, if one lies in the folder, otherwise from the texts; it also says which
file of BIOSCAN-1M or iNat21 a row is. provenance.parquet or licenses.csv give licences and owners. Photographs that
the catalogue or a folder puts into val are test photographs. train_small repeats a part of train: its shards are left
out beside those of train. Photographs of one GBIF occurrence, where the catalogue names it, are one observation. Pages
of EOL are taxa, not observations.

The catalogue is joined through a temporary file, so memory does not grow with it.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bioclip_lite.sources import catalogues, fields, identifiers, places, tars, texts
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
_BIOSCAN, _INAT21 = ("bioscan_part", "bioscan_filename"), ("inat21_cls_num", "inat21_filename")
_SPLITS = {"val": "test"}  # by folder, and in the catalogue; photographs of train are dealt
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BIOSCAN_FOLDER, _INAT21_FOLDER = re.compile(r"part(\d{1,3})"), re.compile(r"(\d{5})_\w+")

Get = Callable[[str], list[Any]]


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    folder = places.require_folder(params["path"], "a folder with the data set's tars")
    shards = _shards(folder)
    found = bool(shards)
    listed = [
        folder / name for name in places.files_in(folder) if name.rsplit("/", 1)[-1] in (*CATALOGUES, *PROVENANCE)
    ]
    names = {PurePosixPath(shard).name for shard in shards}
    with (
        lookup(_catalogued([table for table in listed if table.name in CATALOGUES], names)) as catalogue,
        lookup(_provenance([table for table in listed if table.name in PROVENANCE])) as provenance,
    ):
        for shard in shards:
            split = _split_of(shard)
            for group in tars.groups(folder, shard, places.seek_points(params)):
                yield group if isinstance(group, Reject) else _of_group(group, split, catalogue, provenance)
        for file in places.files_in(folder):
            if (identity := _identity(file)) and places.writable(file):
                found = True
                row, known = _known(identity, catalogue, provenance)
                yield _sample(row, known, _split_of(file), file, file)
    if not found:
        raise UserError(
            f"params.yaml, index.path: no .tar or .tar.gz below {folder}, nor folders of BIOSCAN-1M or iNat21; put the "
            "files of the data set there"
        )


def read(params: "Origin", locator: str) -> bytes:
    return places.read(params, Path(params["path"]), locator)


def _shards(folder: Path) -> list[str]:
    shards = tars.find(folder, tars.WITH_GZIPPED)
    if any("train" in PurePosixPath(shard).parts for shard in shards):
        shards = [shard for shard in shards if "train_small" not in PurePosixPath(shard).parts]
    return shards


def _split_of(file: str) -> str | None:
    return next((_SPLITS[part] for part in PurePosixPath(file).parts[:-1] if part in _SPLITS), None)


def _identity(file: str) -> str | None:
    """The key in the catalogue of an image file, from its folder and name as published; None for other files."""
    path = PurePosixPath(file)
    if path.suffix.lower().lstrip(".") not in tars.IMAGES:
        return None
    if bioscan := _BIOSCAN_FOLDER.fullmatch(path.parent.name):
        return _key(_BIOSCAN, bioscan[1], path.name)
    if inat21 := _INAT21_FOLDER.fullmatch(path.parent.name):
        return _key(_INAT21, inat21[1], path.name)
    return path.stem if _ID.fullmatch(path.stem) else None


def _key(columns: tuple[str, str], number: str, file: str) -> str:
    return f"{columns[1]}/{int(number)}/{file}"


def _of_group(group: tars.Group, split: str | None, catalogue: Get, provenance: Get) -> Sample | Reject:
    if group.image is None:
        return Reject(group.name, "missing file", f"no image among its parts: {', '.join(sorted(group.parts))}")
    identity = _identity(f"{group.key}.{group.extension}") or group.key.rsplit("/", 1)[-1]
    row, known = _known(identity, catalogue, provenance)
    if not any(row.get(name) for name in _NAMES[:-1]):
        row = texts.row_of(group.texts) | {name: value for name, value in row.items() if value}
    return _sample(row, known, split, group.name, group.image)


def _known(identity: str, catalogue: Get, provenance: Get) -> tuple[fields.Row, tuple[str, ...]]:
    """What the catalogue, in whichever of its rows, and the tables of licences say of a photograph; its identifiers.

    The catalogue lists photographs of train_small twice.
    """
    found = catalogue(identity)
    if found and isinstance(found[0], str):  # it is listed under another id
        identity = found[0]
        found = catalogue(identity)
    row, known = next(iter(found), ({}, identifiers.of_record({"uuid": identity} if _ID.fullmatch(identity) else {})))
    row = row | next(iter(provenance(identity)), {})
    if any(other.get("split") for other, _ in found):
        row["split"] = "test"
    return row, tuple(known)


def _sample(row: fields.Row, known: tuple[str, ...], split: str | None, name: str, locator: str) -> Sample:
    """A sample whose key depends on ``name``; ``known``: its identifiers; ``split``: that of its folder."""
    path = fields.path_of(row)
    common_name = texts.genuine(row.get("common_name"), path, row.get("scientific_name"))
    row = {**row, "common_name": common_name, "split": split or row.get("split")}
    return fields.to_sample(row, key_of(name), locator, identifiers=known)


def _catalogued(tables: list[Path], shards: set[str]) -> Iterator[tuple[str, Any]]:
    """Names, split and observation, and the identifiers, of each photograph that the catalogue lists.

    Where it says in which shard a photograph is, only those in one of ``shards`` are taken. A photograph of BIOSCAN-1M
    or iNat21 has another key besides, whose value is the first one.
    """
    wanted = {*_IDS, *_NAMES, *_BIOSCAN, *_INAT21, *identifiers.COLUMNS, "split", "shard_filename"}
    for table in tables:
        for row in catalogues.records(table, wanted):
            shard, identity = row.get("shard_filename"), row.get("uuid") or row.get("treeoflife_id")
            if not identity or (shard and PurePosixPath(shard).name not in shards):
                continue
            found: fields.Row = {name: row.get(name) for name in _NAMES[:-1]}
            found |= {"common_name": row.get("common"), "split": _SPLITS.get(row.get("split") or "")}
            if (row.get("data_source") or "").lower() == "gbif" and row.get("source_id"):
                found["observation"] = f"gbif-{row['source_id']}"
            yield identity, ({name: value for name, value in found.items() if value}, [*identifiers.of_record(row)])
            for columns in (_BIOSCAN, _INAT21):
                number, file = (row.get(column) for column in columns)
                if number and file:
                    yield _key(columns, catalogues.whole(number) or "", file), identity


def _provenance(tables: list[Path]) -> Iterator[tuple[str, fields.Row]]:
    for table in tables:
        for row in catalogues.records(table, (*_IDS, "license_name", "license_link", "copyright_owner")):
            licence = fields.stated(row.get("license_name")) or fields.stated(row.get("license_link"))
            found = {"licence": licence, "attribution": fields.stated(row.get("copyright_owner"))}
            if identity := row.get("uuid") or row.get("treeoflife_id"):
                yield identity, {name: value for name, value in found.items() if value}
