"""Find out which source reads a folder, table or archive, by what it holds."""

import csv
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bioclip_lite.sources import delimited, fields, folder, places, tars
from bioclip_lite.utils.errors import UserError

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".avif", ".mpo")
_TABLES = (".csv", ".tsv", ".txt")
_INATURALIST = {"id", "image_url", "scientific_name"}
_COMPETITION = re.compile(r"(train|train_mini|val)(20\d\d)?\.json")
_OF_TREE_OF_LIFE = {"scientific_name.txt", "taxontag.txt", "sci.txt", "taxon.txt", "taxonomic_name.txt", "com.txt"}
_TAXON = re.compile(r"[A-Z][a-z]+(-[a-z]+)?([ _]x)?([ _][a-z][a-z-]+){1,2}")  # "Bellis perennis", "Bellis_perennis"
_GENUS = re.compile(r"[A-Z][a-z]{2,}")
_NOT_GENERA = {"photos", "pictures", "images", "camera", "pictured", "downloads", "unsorted", "new", "old"}
_ENTRIES = 20_000  # of a folder that are looked at


class Form(NamedTuple):
    """How photographs are kept: the source that reads them, and what it is given."""

    source: str  # a name of ``registry.SOURCES``
    path: Path  # ``index.path``
    why: str  # what it was recognised by


def recognise(path: Path) -> Form:
    """Find the source for photographs that are kept in a form which one of the sources reads.

    Raises:
        UserError: ``path`` does not exist, or is nothing that a source reads, and what to do about it.
    """
    if path.is_file():
        return _file(path)
    if not path.is_dir():
        raise UserError(f"{path} does not exist; name the folder of your photographs, or the table that lists them")
    return _published(path) or _tables(path) or _subfolders(path)


def _file(path: Path) -> Form:
    name = path.name.lower()
    if name.endswith(".zip"):
        return _zip(path)
    if name.endswith(_TABLES):
        header = _header(path)
        if header is None or "file" not in fields.understand(header).places:
            raise UserError(f"{path} has no column 'file' with paths or addresses of photographs; see docs/sources.md")
        return _of_table(path, header)
    if name.endswith(_IMAGES):
        raise UserError(f"{path} is one photograph; name the folder of your photographs")
    raise UserError(f"{path} is no folder, table (.csv, .tsv) or Darwin Core archive (.zip); see docs/sources.md")


def _zip(path: Path) -> Form:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is no readable zip file ({error}); download or copy it again") from None
    if any(name.rsplit("/", 1)[-1] == "meta.xml" for name in inside):
        return Form("darwincore", path, "meta.xml, a Darwin Core archive")
    raise UserError(f"{path} is no Darwin Core archive (it has no meta.xml); unpack it and name the folder")


def _published(path: Path) -> Form | None:
    """A folder of a published data set, or of a Darwin Core archive."""
    names = {entry.name for entry in islice(os.scandir(path), _ENTRIES)}
    if "meta.xml" in names:
        return Form("darwincore", path, "meta.xml, a Darwin Core archive")
    if folder.METADATA in names:
        return Form("folder", path, folder.METADATA)
    if "nshards.txt" in names or any((path / part / "nshards.txt").exists() for part in ("train", "test")):
        return Form("clip_benchmark", path, "nshards.txt, an evaluation set of CLIP_benchmark")
    listed = next((name for name in sorted(names) if _COMPETITION.fullmatch(name)), None)
    if listed or any(_has_rank_folders(path / part) for part in ("train", "train_mini", "val")):
        return Form("inat2021", path, f"{listed or 'subfolders that spell out seven ranks'}, a set of iNaturalist 2021")
    files = [*islice(places.files_in(path), _ENTRIES)]
    return _of_tars(path, files) or _of_parquet(path, files)


def _has_rank_folders(path: Path) -> bool:
    names = _subfolder_names(path) if path.is_dir() else []
    return any(len(name.split("_")) == 8 and name.split("_")[0].isdigit() for name in names)


def _of_tars(path: Path, files: list[str]) -> Form | None:
    packed = [name for name in files if name.endswith((".tar", ".tar.gz"))]
    if not packed:
        return None
    large = any(name.rsplit("/", 1)[-1] in ("catalog.parquet", "provenance.parquet") for name in files)
    catalogue = next((name for name in files if name.rsplit("/", 1)[-1] in ("catalog.csv", "catalog.parquet")), None)
    if catalogue:
        return Form("treeoflife200m" if large else "treeoflife10m", path, f"tars and {catalogue}, a TreeOfLife set")
    tar = next((name for name in packed if name.endswith(".tar")), None)
    group = next((group for group in tars.groups(path, tar) if isinstance(group, tars.Group)), None) if tar else None
    if group and _OF_TREE_OF_LIFE & set(group.parts) and not group.key.rsplit("/", 1)[-1].isdecimal():
        return Form("treeoflife10m", path, f"{tar} with texts beside each photograph, a TreeOfLife set")
    if group and group.image and group.key.rsplit("/", 1)[-1].isdecimal():
        return Form("biotrove", path, f"{tar} with photographs by number, a BioTrove set")
    raise UserError(f"{path} holds tars, first {packed[0]}, that no source knows; unpack them and name the folder")


def _of_parquet(path: Path, files: list[str]) -> Form | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in (name for name in files if name.endswith(".parquet")):
        try:
            columns = pq.read_schema(path / name).names
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path / name} is no readable Parquet file ({error}); download it again") from None
        if "photo_id" in columns:
            return Form("biotrove", path, f"{name} with photo_id, a table of BioTrove")
    return None


def _tables(path: Path) -> Form | None:
    """A table in the folder that lists photographs; exports of iNaturalist may be several."""
    found = []
    for name in sorted(entry.name for entry in os.scandir(path) if entry.name.lower().endswith(_TABLES)):
        header = None if places.hidden(name) else _header(path / name)
        if header is not None and "file" in fields.understand(header).places:
            found.append(_of_table(path / name, header))
    exports = [form for form in found if form.source == "inaturalist"]
    if exports and len(exports) == len(found):
        return exports[0] if len(exports) == 1 else exports[0]._replace(path=path)
    if len(found) > 1:
        names = ", ".join(form.path.name for form in found)
        raise UserError(f"{path} has several tables that list photographs ({names}); name the one that counts")
    return found[0] if found else None


def _of_table(path: Path, header: list[str]) -> Form:
    if {name.strip().lower() for name in header} >= _INATURALIST:
        return Form("inaturalist", path, f"{path.name}, an export of observations from iNaturalist")
    return Form("csv", path, f"{path.name}, a table of photographs")


def _header(table: Path) -> list[str] | None:
    """The columns of a table with a name for the taxon; None for other text."""
    try:
        _, header = next(delimited.rows(table))
    except (UserError, csv.Error, OSError):
        return None
    places_of = fields.understand(header).places
    return header if len(header) > 1 and any(field in places_of for field in fields.NAMING) else None


def _subfolders(path: Path) -> Form:
    names = _subfolder_names(path)
    taxa = [name for name in names if _names_a_taxon(name)]
    if taxa and 2 * len(taxa) >= len(names):
        return Form("folder", path, f"{len(names):,} subfolders named by taxa, e.g. {taxa[0]}")
    number = sum(1 for _ in islice(_photographs(path), _ENTRIES))
    if not number:
        raise UserError(f"{path} has no photograph, table or archive in it that a source reads; see docs/sources.md")
    where = f", and its subfolders ({', '.join(names[:3])}) are not named by taxa" if names else ""
    raise UserError(
        f"{path} holds {number:,} photographs{' or more' * (number == _ENTRIES)}, but nothing says what they show: "
        f"there is no table of them{where}. A model learns from photographs with names and is tested on them: move "
        f"them into one subfolder per taxon, such as {path}/Bellis perennis/, or add {folder.METADATA} with the "
        f"columns file and species (docs/sources.md). Some ten photographs per species make a start"
    )


def _subfolder_names(path: Path) -> list[str]:
    return sorted(e.name for e in islice(os.scandir(path), _ENTRIES) if e.is_dir() and not places.hidden(e.name))


def _names_a_taxon(name: str) -> bool:
    parts = name.split("_")
    spelt_out = len(parts) == 8 and parts[0].isdigit()
    genus = bool(_GENUS.fullmatch(name)) and name.lower() not in _NOT_GENERA
    return spelt_out or genus or bool(_TAXON.fullmatch(name))


def _photographs(path: Path) -> Iterator[str]:
    return (name for name in places.files_in(path) if name.lower().endswith(_IMAGES))
