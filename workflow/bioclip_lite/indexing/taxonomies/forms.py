"""Find the tables of a taxonomy and what their columns mean, by their content; names of files do not count.

Understood are Darwin Core taxon files (GBIF's backbone, the Catalogue of Life and checklists in general), ColDP's table
NameUsage, GBIF's simple backbone, which has no header, and the two forms in which iNaturalist gives its taxa. A table
lies alone, in a folder, or in a zip archive, packed with gzip or not, and is read where it lies.
"""

import gzip
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple
from xml.etree import ElementTree

import yaml

from bioclip_lite.sources import delimited
from bioclip_lite.taxa.taxonomy import RANKS, clean
from bioclip_lite.utils import files
from bioclip_lite.utils.errors import UserError

Open = Callable[[], IO[bytes]]
Meaning = dict[str, tuple[str, ...]]  # names of columns by field

_HEAD = 1 << 16  # bytes, in which a header has to end
_GZIP = b"\x1f\x8b"
_HIGHER = RANKS[:6]
# Names of columns, without the prefix of their vocabulary, in the order of preference.
_COLUMNS: Meaning = {
    "id": ("taxonid", "id"),
    "parent": ("parentnameusageid", "parentid"),
    "accepted": ("acceptednameusageid",),
    "status": ("taxonomicstatus", "status"),
    "active": ("active",),
    "rank": ("taxonrank", "rank"),
    "name": ("scientificname", "name"),
    "ancestry": ("ancestry",),
    **{rank: (rank,) for rank in _HIGHER},
}
_COMMON_NAMES: Meaning = {
    "id": ("taxonid", "id"),
    "name": ("vernacularname", "name"),
    "language": ("language", "lexicon"),
    "preferred": ("preferred", "ispreferredname"),
}
# https://github.com/gbif/checklistbank, backbone-ddl.sql: the parent of a synonym is its accepted name.
_SIMPLE_WIDTH = 30
_SIMPLE = {"id": 0, "parent": 1, "status": 4, "rank": 5, "name": 18}


class Table(NamedTuple):
    """A table of names, or of common names, and where its columns are."""

    place: str  # for messages
    open: Open
    columns: dict[str, int]  # position by field: the keys of _COLUMNS or _COMMON_NAMES
    separator: str
    quote: str  # "": none
    skipped: int  # lines before the first row
    encoding: str
    parent_of_synonym: bool  # whether the parent of a synonym is its accepted name


class Description(NamedTuple):
    """What a taxonomy says about itself, for the report."""

    place: str
    title: str | None
    version: str | None
    size: int  # bytes of all its files
    sha256: str  # of its files, one after the other in the order of their names


@contextmanager
def tables_of(path: Path) -> Iterator[tuple[Table, list[Table], Description]]:
    """Yield the table of names, those of common names, and what the taxonomy says about itself.

    Raises:
        UserError: there is no such file, or no table of names in it, or several.
    """
    if not path.exists():
        raise UserError(f"there is no {path} (params.yaml, index.taxonomy); put the taxonomy there")
    try:
        with _files(path) as found:
            names, common_names = _described(found, path) or _recognized(found, path)
            title, version = _version(found)
            yield names, common_names, Description(path.name, title, version, *_hash(path))
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is no complete archive ({error}); download the taxonomy again") from None


@contextmanager
def _files(path: Path) -> Iterator[dict[str, Open]]:
    """Functions that open the files of a taxonomy by their names, those of hidden files left out."""
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name[0] != "."]
        yield {file.relative_to(path).as_posix(): _opener(partial(io.FileIO, file)) for file in inside}
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            if any(info.flag_bits & 1 for info in members):
                raise UserError(f"{path} (params.yaml, index.taxonomy) is encrypted; unpack it into a folder")
            seen = [info.filename for info in members if PurePosixPath(info.filename).name[0] != "."]
            yield {name: _opener(partial(archive.open, name)) for name in sorted(seen)}
    else:
        yield {path.name: _opener(partial(io.FileIO, path))}


def _opener(open_file: Open) -> Open:
    """The function for a file as it is, or for what gzip has packed."""
    with open_file() as file:
        packed = file.read(2) == _GZIP
    return (lambda: gzip.open(open_file())) if packed else open_file  # type: ignore[return-value]


def _hash(path: Path) -> tuple[int, str]:
    inside = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in inside:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return sum(file.stat().st_size for file in inside), digest.hexdigest()


# ----------------------------------------------------------------------------------------------------------- by content


def _recognized(found: dict[str, Open], path: Path) -> tuple[Table, list[Table]]:
    """The tables whose first line is the header of one, or a row of GBIF's simple backbone."""
    names, common_names, headers = [], [], []
    for place, open_file in found.items():
        line = _first_line(open_file)
        separator = delimited.separator_of(line)
        header = [_column(name) for name in line.split(separator)]
        headers += [header]
        quote = "" if separator == "\t" else '"'
        layout = (separator, quote, 1, "utf-8")
        if columns := _common_name_columns(header):
            common_names.append(Table(place, open_file, columns, *layout, False))
        elif columns := _name_columns(header):
            names.append(Table(place, open_file, columns, *layout, "parentid" in header))
        elif _is_simple(line.split("\t")):
            names.append(Table(place, open_file, _SIMPLE, "\t", "", 0, "utf-8", True))
    if len(names) == 1:
        return names[0], common_names
    if names:
        both = ", ".join(table.place for table in names)
        raise UserError(
            f"{path} (params.yaml, index.taxonomy) holds {len(names)} taxonomies ({both}); name one of them"
        )
    hint = "set index.taxonomy to a table with taxonID, scientificName, taxonRank and parentNameUsageID or ranks"
    if any("nameid" in header and "parentid" in header for header in headers):
        hint = "names and taxa lie in separate tables; download it again with the table NameUsage (ColDP, extended)"
    raise UserError(f"{path} (params.yaml, index.taxonomy) has no table of names in a form that is known; {hint}")


def _first_line(open_file: Open) -> str:
    with open_file() as file:
        head = file.read(_HEAD).removeprefix(b"\xef\xbb\xbf")
    return head.splitlines()[0].decode("utf-8", "replace") if head.strip() else ""


def _column(name: str) -> str:
    """ "dwc:taxonID", "col:ID" and "taxon_id" without what they differ in."""
    return re.sub(r"[\W_]+", "", name.rpartition(":")[2].lower())


def _places(header: list[str], meaning: Meaning) -> dict[str, int]:
    first = {field: next((name for name in names if name in header), None) for field, names in meaning.items()}
    return {field: header.index(name) for field, name in first.items() if name}


def _name_columns(header: list[str]) -> dict[str, int]:
    columns = _places(header, _COLUMNS)
    placed = {"parent", "ancestry", *_HIGHER[:5]} & columns.keys()  # a genus is in tables of names alone, too
    return columns if {"id", "name"} <= columns.keys() and placed else {}


def _common_name_columns(header: list[str]) -> dict[str, int]:
    columns = _places(header, _COMMON_NAMES)
    named = "vernacularname" in header or {"taxonid", "name", "language"} <= {*header}
    return columns if named and {"id", "name"} <= columns.keys() and "scientificname" not in header else {}


def _is_simple(values: list[str]) -> bool:
    return len(values) == _SIMPLE_WIDTH and values[0].isdecimal() and values[3] in ("t", "f")


# ---------------------------------------------------------------------------------------------------------- by meta.xml


def _described(found: dict[str, Open], path: Path) -> tuple[Table, list[Table]] | None:
    """The tables of a Darwin Core archive whose meta.xml describes a core of taxa; None if there is none."""
    meta = min((name for name in found if PurePosixPath(name).name == "meta.xml"), key=len, default=None)
    if meta is None:
        return None
    folder = meta.removesuffix("meta.xml")
    try:
        with found[meta]() as file:
            parts = [part for part in ElementTree.parse(file).getroot() if "rowType" in part.attrib]
        core = [part for part in parts if part.tag.endswith("core") and part.attrib["rowType"].endswith("/Taxon")]
        named = [part for part in parts if part.attrib["rowType"].endswith("/VernacularName")]
        if not core:
            return None
        (names,) = _tables(core[0], found, folder, "id", _COLUMNS)
        common = [table for part in named for table in _tables(part, found, folder, "coreid", _COMMON_NAMES)]
        return names, common
    except (ElementTree.ParseError, KeyError, ValueError, LookupError) as error:
        raise UserError(f"{path}: meta.xml does not describe the archive ({error!r}); download it again") from None


def _tables(
    part: ElementTree.Element, found: dict[str, Open], folder: str, identity: str, meaning: Meaning
) -> Iterator[Table]:
    inside: dict[str, list[ElementTree.Element]] = {}
    for element in part.iter():
        inside.setdefault(element.tag.rpartition("}")[2], []).append(element)
    terms = {_column(e.attrib["term"].rpartition("/")[2]): e for e in inside["field"] if "index" in e.attrib}
    first = {field: next((name for name in names if name in terms), None) for field, names in meaning.items()}
    columns = {field: int(terms[name].attrib["index"]) for field, name in first.items() if name}
    columns.setdefault("id", int(inside[identity][0].attrib["index"]))
    for location in inside["location"]:
        place = folder + (location.text or "").strip()
        yield Table(
            place,
            found[place],
            columns,
            _unescaped(part.get("fieldsTerminatedBy", ",")),
            _unescaped(part.get("fieldsEnclosedBy", '"')),
            int(part.get("ignoreHeaderLines") or 0),
            part.get("encoding") or "utf-8",
            False,
        )


def _unescaped(text: str) -> str:
    return text.replace("\\t", "\t")


def _version(found: dict[str, Open]) -> tuple[str | None, str | None]:
    """Title and version, or date, from metadata.yaml (ColDP) or eml.xml (Darwin Core), where there is one."""
    for name, open_file in found.items():
        if PurePosixPath(name).name not in ("metadata.yaml", "eml.xml"):
            continue
        with open_file() as file:
            text = file.read()
        try:
            return _of_yaml(text) if name.endswith(".yaml") else _of_eml(text)
        except (yaml.YAMLError, ElementTree.ParseError, AttributeError):
            continue  # the names count, not what is said about them
    return None, None


def _of_yaml(text: bytes) -> tuple[str | None, str | None]:
    stated = files.parse_yaml(text.decode("utf-8", "replace"))
    return clean(stated.get("title")), clean(stated.get("version")) or clean(stated.get("issued"))


def _of_eml(text: bytes) -> tuple[str | None, str | None]:
    dataset = ElementTree.parse(io.BytesIO(text)).getroot().find("dataset")
    return (None, None) if dataset is None else (clean(dataset.findtext("title")), clean(dataset.findtext("pubDate")))
