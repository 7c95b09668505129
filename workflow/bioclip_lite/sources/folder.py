"""Your own photographs: a folder with metadata.csv, or with one subfolder per taxon.

metadata.csv has a header line. ``file`` is a path in the folder; of kingdom, phylum, class, order, family, genus and
species (the epithet or the full name) those that are known; common_name, licence, source, split and observation (the
same for all photographs of one individual) are optional. Columns with other names are ignored.

Without metadata.csv each subfolder is a taxon: "Genus epithet", "Genus_epithet", "Genus", or the seven ranks as in
iNaturalist 2021 ("00012_Animalia_..._Genus_epithet").
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bioclip_lite import taxonomy
from bioclip_lite.errors import UserError
from bioclip_lite.sources.sample import Reject, Sample, key_of

METADATA = "metadata.csv"
_ALSO = {"license": "licence", "group": "observation", "attribution": "source"}
_NO_PHOTOGRAPHS = {"thumbs.db", "desktop.ini"}  # files that systems leave in folders of photographs


def samples(params: dict[str, Any]) -> Iterator[Sample | Reject]:
    folder = Path(params["path"])
    if not folder.is_dir():
        raise UserError(f"params.yaml, index.path: there is no folder {folder}; put photographs and {METADATA} there")
    yield from _listed(folder / METADATA) if (folder / METADATA).exists() else _by_subfolder(folder)


def read(params: dict[str, Any], locator: str) -> bytes:
    return Path(params["path"], locator).read_bytes()


def _listed(table: Path) -> Iterator[Sample | Reject]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(",;\t", key=first.count))
            names = [name.strip().lower() for name in next(rows, [])]
            columns = [_ALSO.get(name, name) for name in names]
            _check_columns(table, columns)
            for values in rows:
                if any(value.strip() for value in values):
                    yield _from_row(f"{METADATA}, line {rows.line_num}", columns, values)
    except UnicodeDecodeError as error:
        raise UserError(f"{table} is not UTF-8 text ({error}); save it again as CSV UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{table}, line {rows.line_num}: {error}; save it again as CSV") from None


def _check_columns(table: Path, columns: list[str]) -> None:
    found = f"its columns: {', '.join(columns) or 'none'}"
    if "file" not in columns:
        raise UserError(f"{table} has no column 'file'; {found}")
    if not set(columns) & set(taxonomy.RANKS):
        raise UserError(f"{table} has no column of a rank ({', '.join(taxonomy.RANKS)}); {found}")
    for name in columns:
        if name and columns.count(name) > 1:
            raise UserError(f"{table} has two columns {name!r}; {found}")


def _from_row(line: str, columns: list[str], values: list[str]) -> Sample | Reject:
    if len(values) != len(columns):
        return Reject(line, "bad row", f"{len(values)} fields, the header has {len(columns)}; quote text with commas")
    row = {column: taxonomy.clean(value) for column, value in zip(columns, values, strict=True)}
    if row["file"] is None:
        return Reject(line, "missing file", "column 'file' is empty")
    locator = row["file"].replace("\\", "/")
    key = key_of(locator)
    split = row.get("split")
    return Sample(
        key=key,
        locator=locator,
        group=row.get("observation") or key,
        path=taxonomy.make_path(row),
        common_name=row.get("common_name"),
        split=split.lower() if split else None,
        licence=row.get("licence"),
        attribution=row.get("source"),
    )


def _by_subfolder(folder: Path) -> Iterator[Sample | Reject]:
    found = False
    for name in sorted(os.listdir(folder)):
        if _hidden(name):
            continue
        found = True
        if not (folder / name).is_dir():
            yield Reject(name, "no taxon", f"lies beside the subfolders of taxa, and there is no {METADATA}")
            continue
        files = [
            Path(place, file).relative_to(folder).as_posix()
            for place, _, here in os.walk(folder / name)
            for file in here
            if not _hidden(file)
        ]
        if not files:
            yield Reject(name, "empty folder", "a taxon without photographs")
        path = _from_folder_name(name)
        for file in sorted(files):
            key = key_of(file)
            yield Sample(key=key, locator=file, group=key, path=path)
    if not found:
        raise UserError(f"{folder} is empty; put photographs and {METADATA} there, or one subfolder per taxon")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NO_PHOTOGRAPHS


def _from_folder_name(name: str) -> taxonomy.Path:
    parts = name.split("_")
    if len(parts) == 8 and parts[0].isdigit():  # iNaturalist 2021
        return taxonomy.make_path(dict(zip(taxonomy.RANKS, parts[1:], strict=True)))
    genus, _, epithet = name.replace("_", " ").partition(" ")
    return taxonomy.make_path({"genus": genus, "species": epithet})
