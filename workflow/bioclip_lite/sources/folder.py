"""Your own photographs: a folder with metadata.csv, or with one subfolder per taxon.

metadata.csv has a header line. ``file`` is a path in the folder, or a web address; of kingdom, phylum, class, order,
family, genus and species (the epithet or the full name) those that are known, or scientific_name; common_name,
common_name_de and the like, licence, source, split and observation (the same for all photographs of one individual) are
optional. Columns with other names are ignored.

Without metadata.csv each subfolder is a taxon: "Genus epithet", "Genus_epithet", "Genus", or the seven ranks as in
iNaturalist 2021 ("00012_Animalia_..._Genus_epithet"). Photographs beside the subfolders, in folders that cameras name
("DCIM", "100CANON"), and those that metadata.csv does not list have no label.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.photographs.images import READ
from bioclip_lite.photographs.shards import UNLABELLED
from bioclip_lite.sources import places, rows
from bioclip_lite.sources.sample import NOTHING, Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

METADATA = "metadata.csv"
# Of folders that cameras and telephones make: DCIM, its 100CANON and 101APPLE (DCF, JEITA CP-3461), albums, dates.
_OF_CAMERAS = re.compile(r"dcim|\d{3}[0-9a-z_]{5}|camera([ _](roll|uploads))?|[\d _.-]+", re.IGNORECASE)
_TABLES = (".csv", ".tsv", ".csv.txt", ".xlsx", ".xls", ".ods", ".parquet")


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    folder = Path(params["path"])
    if not folder.is_dir():
        raise UserError(f"params.yaml, index.path: there is no folder {folder}; put photographs and {METADATA} there")
    yield from rows.photographs(folder / METADATA) if (folder / METADATA).exists() else _by_subfolder(folder)


def unlisted(params: "Origin") -> Iterator[Sample]:
    """All photographs of a folder with a table, those that the table lists too."""
    folder = Path(params["path"])
    if (folder / METADATA).exists():
        yield from _photographs_in(folder, "", UNLABELLED)


def prepare(params: "Origin", locators: Iterable[str]) -> None:
    places.prepare(params, locators)


def read(params: "Origin", locator: str) -> bytes:
    return places.read(params, Path(params["path"]), locator)


def _by_subfolder(folder: Path) -> Iterator[Sample | Reject]:
    found = False
    for name in sorted(os.listdir(folder)):
        if places.hidden(name):
            continue
        found = True
        if not (folder / name).is_dir():
            _refuse_table(folder / name)
            if name.lower().endswith(READ) and places.writable(name):
                yield _unlabelled(name)
            else:
                yield Reject(
                    places.shown(name), "no taxon", f"lies beside the subfolders of taxa, and there is no {METADATA}"
                )
            continue
        if _OF_CAMERAS.fullmatch(name):
            yield from _photographs_in(folder, name)
            continue
        yield from in_folder(folder, name, taxon_of(name))
    if not found:
        raise UserError(f"{folder} is empty; put photographs and {METADATA} there, or one subfolder per taxon")


def _photographs_in(root: Path, name: str, split: str | None = None) -> Iterator[Sample]:
    """What the endings of their names call photographs below ``root/name``, without labels."""
    for file in places.files_in(root / name):
        if file.lower().endswith(READ) and places.writable(file):
            yield _unlabelled(f"{name}/{file}" if name else file, split)


def _unlabelled(locator: str, split: str | None = None) -> Sample:
    key = key_of(locator)
    return Sample(key=key, locator=locator, group=key, path=NOTHING, split=split)


def in_folder(root: Path, name: str, path: taxonomy.Path, split: str | None = None) -> Iterator[Sample | Reject]:
    """The files below ``root/name`` as photographs of one taxon."""
    files = [f"{name}/{file}" for file in places.files_in(root / name)]
    if not files:
        yield Reject(places.shown(name), "empty folder", "a taxon without photographs")
    for file in sorted(files):
        if places.writable(file):
            key = key_of(file)
            yield Sample(key=key, locator=file, group=key, path=path, split=split)
        else:
            yield Reject(places.shown(file), "bad name", "the file's name is no UTF-8 text; rename it")


def _refuse_table(file: Path) -> None:
    """Raise UserError for a table beside the subfolders, whose labels would be ignored without a word."""
    name = file.name.lower()
    if name.endswith(_TABLES) or name.startswith("metadata."):
        raise UserError(
            f"{file} lies beside the subfolders and would not be read. If it has the labels, save it as CSV UTF-8 "
            f"under the name {METADATA}; if not, move it out of {file.parent}"
        )


def taxon_of(name: str) -> taxonomy.Path:
    """The path that a folder's name spells."""
    parts = name.split("_")
    if len(parts) == 8 and parts[0].isdigit():  # iNaturalist 2021
        return taxonomy.make_path(dict(zip(taxonomy.RANKS, parts[1:], strict=True)))
    genus, _, epithet = name.replace("_", " ").partition(" ")
    return taxonomy.make_path({"genus": genus, "species": epithet})
