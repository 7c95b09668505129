"""Your own photographs: a folder with metadata.csv, or with one subfolder per taxon.

metadata.csv has a header line. ``file`` is a path in the folder, or a web address; of kingdom, phylum, class, order,
family, genus and species (the epithet or the full name) those that are known, or scientific_name; common_name,
common_name_de and the like, licence, source, split and observation (the same for all photographs of one individual) are
optional. Columns with other names are ignored.

Without metadata.csv each subfolder is a taxon, as ``folder_names`` reads their names. Folders train, val and test
around them are splits, as in inat2021: photographs of train are dealt, and val is for tests if there is no test.
Photographs beside the subfolders, in folders that cameras name ("DCIM", "100CANON"), and those that metadata.csv does
not list have no label.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.photographs.images import READ
from bioclip_lite.photographs.shards import UNLABELLED
from bioclip_lite.sources import folder_names, places, rows
from bioclip_lite.sources.sample import NOTHING, Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

METADATA = "metadata.csv"
_SPLITS = {"train": None, "training": None, "val": "val", "valid": "val", "validation": "val", "test": "test"}
# Of folders that cameras and telephones make: DCIM, its 100CANON and 101APPLE (DCF, JEITA CP-3461), albums, dates.
_OF_CAMERAS = re.compile(r"dcim|\d{3}[0-9a-z_]{5}|camera([ _](roll|uploads))?|[\d _.-]+", re.IGNORECASE)
_TABLES = (".csv", ".tsv", ".csv.txt", ".xlsx", ".xls", ".ods", ".parquet")


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    folder = places.require_folder(params["path"], f"a folder with photographs and {METADATA} (unpack an archive)")
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
    names = [name for name in sorted(os.listdir(folder)) if not places.hidden(name)]
    if not names:
        raise UserError(f"{folder} is empty; put photographs and {METADATA} there, or one subfolder per taxon")
    inside = [name for name in names if (folder / name).is_dir()]
    for name in names:
        if name not in inside:
            _refuse_table(folder / name)
            if name.lower().endswith(READ) and places.writable(name):
                yield _unlabelled(name)
            else:
                yield Reject(
                    places.shown(name), "no taxon", f"lies beside the subfolders of taxa, and there is no {METADATA}"
                )
    cameras = [name for name in inside if _OF_CAMERAS.fullmatch(name)]
    for name in cameras:
        yield from _photographs_in(folder, name)
    inside = [name for name in inside if name not in cameras]
    if inside and all(name.lower() in _SPLITS for name in inside):
        splits = {name: _SPLITS[name.lower()] for name in inside}
        if "test" not in splits.values():
            splits = {name: "test" if split == "val" else split for name, split in splits.items()}
        taken = ", ".join(f"{name}: {split or 'to be dealt'}" for name, split in splits.items())
        print(f"{folder}: its folders are taken for splits ({taken})")
        taxa = [f"{part}/{name}" for part in inside for name in sorted(os.listdir(folder / part))]
        taxa = [name for name in taxa if not places.hidden(name) and (folder / name).is_dir()]
    else:
        splits, taxa = {}, inside
    yield from _of_taxa(folder, taxa, splits)


def _of_taxa(folder: Path, taxa: list[str], splits: dict[str, str | None]) -> Iterator[Sample | Reject]:
    """The photographs of each taxon, labelled by the folders that they lie in, past those of ``splits``."""

    def chain(file: str) -> folder_names.Folders:
        return tuple(file.split("/")[bool(splits) : -1])

    chains = {chain(f"{taxon}/{file}") for taxon in taxa for file in places.files_in(folder / taxon)}
    scientific = folder_names.are_scientific(chains)
    paths = {one: folder_names.path_of(one) for one in chains} if scientific else {}
    _tell(folder, chains, paths)
    for taxon in taxa:
        for item in in_folder(folder, taxon, NOTHING, splits.get(taxon.split("/")[0])):
            if isinstance(item, Reject):
                yield item
            elif scientific:
                yield replace(item, path=paths[chain(item.locator)])
            else:
                yield replace(item, common_name=folder_names.spoken(chain(item.locator)[0]))


def _tell(
    folder: Path, chains: Collection[folder_names.Folders], paths: dict[folder_names.Folders, taxonomy.Path]
) -> None:
    """Say how the names of folders are read, unless each is a species."""
    if chains and not paths:
        name = folder_names.spoken(min(chains)[0])
        print(
            f"{folder}: names of folders such as {name!r} are read as common names; a species list that has them "
            "(index.species_list) must say which taxa they mean"
        )
    ranks = {one: taxonomy.label_rank(path) for one, path in paths.items()}
    for rank, kind in enumerate(taxonomy.RANKS[:6]):
        if found := sorted({str(paths[one][rank]) for one in chains if ranks.get(one) == rank}):
            print(f"{folder}: {len(found)} names of folders are read as {kind}, e.g. {', '.join(found[:3])}")


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
