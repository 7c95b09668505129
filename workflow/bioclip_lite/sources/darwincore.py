"""Source darwincore: a Darwin Core archive as GBIF gives it for download, packed (.zip) or unpacked.

meta.xml says which files there are, what their columns mean, how they are separated and which values hold for all rows.
The core lists occurrences, an extension (Multimedia, Image) their photographs, another one (VernacularName), if there,
common names by language. Rows that are no still images are left out. All photographs of one occurrence are one
observation. Photographs are web addresses, or files that lie beside the archive under the name in ``identifier``.

Archives are joined through temporary files, so memory does not grow with them.
"""

import codecs
import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from bioclip_lite.sources import delimited, fields, identifiers, places
from bioclip_lite.sources.lookup import lookup
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

_MEDIA = ("gbif.org/terms/1.0/multimedia", "gbif.org/terms/1.0/image", "tdwg.org/ac/terms/multimedia")
_VERNACULAR = "gbif.org/terms/1.0/vernacularname"
_OCCURRENCE = "dwc/terms/occurrence"
_TERMS = {  # those that are read, of the some 200 columns of an archive
    *taxonomy.RANKS,
    *("specificepithet", "scientificname", "acceptedscientificname", "taxonrank", "vernacularname", "language"),
    *("license", "rights", "usageterms", "rightsholder", "recordedby", "creator", "owner"),
    *("type", "format", "identifier", "accessuri"),
}
_LANGUAGES = {  # ISO 639-2 and the names in use -> ISO 639-1
    **{
        "eng": "en",
        "english": "en",
        "deu": "de",
        "ger": "de",
        "german": "de",
        "fra": "fr",
        "fre": "fr",
        "french": "fr",
    },
    **{"spa": "es", "spanish": "es", "ita": "it", "italian": "it", "por": "pt", "portuguese": "pt", "nld": "nl"},
    **{"dut": "nl", "dutch": "nl", "swe": "sv", "dan": "da", "nor": "no", "fin": "fi", "pol": "pl", "rus": "ru"},
    **{"zho": "zh", "chi": "zh", "jpn": "ja", "ces": "cs", "cze": "cs", "hun": "hu", "tur": "tr", "ukr": "uk"},
}

Row = dict[str, str | None]  # by term, without its namespace, in lower case
Open = Callable[[str], IO[bytes]]


class _Table(NamedTuple):
    """A file of the archive, as meta.xml describes it."""

    files: list[str]
    kind: str  # rowType in lower case
    identity: int  # column of the occurrence's id
    columns: dict[str, int]  # by term
    defaults: dict[str, str]  # by term, for all rows
    separator: str
    end: str  # of a line
    quote: str  # "": none
    skipped: int  # header lines
    encoding: str


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    with _archive(Path(params["path"])) as (open_file, names):
        core, extensions = _described(params["path"], open_file, names)
        media = next((table for table in extensions if table.kind.endswith(_MEDIA)), None)
        if not core.kind.endswith(_OCCURRENCE) or media is None:
            kinds = ", ".join(table.kind.rsplit("/", 1)[-1] for table in (core, *extensions))
            raise UserError(
                f"{params['path']} has no occurrences with multimedia (its tables: {kinds}); download a Darwin Core "
                "archive of occurrences that have images"
            )
        vernacular = [table for table in extensions if table.kind.endswith(_VERNACULAR)]
        with (
            lookup((i, row) for i, row in _rows(open_file, core) if i) as occurrences,
            lookup((i, row) for table in vernacular for i, row in _rows(open_file, table) if i) as vernaculars,
        ):
            yield from _photographs(open_file, media, occurrences, vernaculars)


def prepare(params: "Origin", locators: Iterable[str]) -> None:
    places.prepare(params, locators)


def read(params: "Origin", locator: str) -> bytes:
    path = Path(params["path"])
    return places.read(params, path if path.is_dir() else path.parent, locator)


_understand = lru_cache(maxsize=64)(fields.understand)  # the occurrences of an archive have the same columns
Get = Callable[[str], list[Any]]


def _photographs(open_file: Open, media: _Table, occurrences: Get, vernaculars: Get) -> Iterator[Sample | Reject]:
    identity: str | None = None
    seen: set[str] = set()  # photographs of this occurrence, which archives sometimes list twice
    for number, (i, row) in enumerate(_rows(open_file, media), 1):
        if not _still_image(row, media.kind):
            continue
        place = f"{media.files[0]}, row {number}"
        locator = row.get("accessuri") or row.get("identifier")
        occurrence: Row | None = next(iter(occurrences(i)), None) if i else None
        if i != identity:
            identity, seen, shared = i, set(), _of_occurrence(occurrence or {}, vernaculars(i or ""))
        if occurrence is None:
            yield Reject(place, "bad row", f"there is no occurrence {i}")
        elif locator is None:
            yield Reject(place, "missing file", f"occurrence {i}: the identifier is empty")
        elif locator not in seen:
            seen.add(locator)
            yield _sample(str(i), locator, row, *shared)


def _of_occurrence(occurrence: Row, vernaculars: list[Row]) -> tuple[fields.Row, tuple[tuple[str, str], ...]]:
    """The fields and common names by language that all photographs of an occurrence share."""
    row = fields.row_of(_understand(tuple(occurrence)), [*occurrence.values()])
    row["attribution"] = occurrence.get("rightsholder") or occurrence.get("recordedby")
    row["licence"] = occurrence.get("license")
    row["gbifid"] = occurrence.get("gbifid")
    names: dict[str, str] = {}
    for entry in vernaculars:
        name, language = entry.get("vernacularname"), _language(entry.get("language"))
        if name and language:
            names.setdefault(language, name)
        elif name:
            row["common_name"] = row.get("common_name") or name
    row["common_name"] = row.get("common_name") or names.get("en")
    return row, tuple(sorted(names.items()))


def _language(text: str | None) -> str | None:
    """The two-letter code (three where there is none) of "de", "deu", "de-AT" or "German"; None for anything else."""
    code = (text or "").lower().replace("_", "-").partition("-")[0].strip()
    code = _LANGUAGES.get(code, code)
    return code if code.isascii() and code.isalpha() and len(code) in (2, 3) else None


def _sample(identity: str, locator: str, media: Row, shared: fields.Row, names: tuple[tuple[str, str], ...]) -> Sample:
    row = dict(shared)
    row["observation"] = identity
    row["licence"] = media.get("license") or media.get("rights") or media.get("usageterms") or shared["licence"]
    row["attribution"] = (
        media.get("rightsholder") or media.get("creator") or media.get("owner") or shared["attribution"]
    )
    row["split"] = None
    if not places.is_address(locator):
        locator = locator.replace("\\", "/")
    known = tuple(identifiers.of_record({"gbifID": row["gbifid"]}))
    return fields.to_sample(row, key_of(f"{identity}/{locator}"), locator, names, known)


def _still_image(row: Row, kind: str) -> bool:
    """By its type, or where that is missing by its format; the Image extension holds nothing else."""
    stated = row.get("type")
    if stated is None:
        return kind.endswith("1.0/image") or "image" in (row.get("format") or "").lower()
    return stated.lower().rsplit("/", 1)[-1] in ("stillimage", "image")


# ---------------------------------------------------------------------------------------------------------- the archive


@contextmanager
def _archive(path: Path) -> Iterator[tuple[Open, list[str]]]:
    """Return a function that opens a file of the archive, and the names of its files."""
    if path.is_dir():
        yield lambda name: (path / name).open("rb"), [p.name for p in path.iterdir()]
        return
    try:
        with zipfile.ZipFile(path) as archive:
            # Some are packed with the folder around them.
            inside = min((n for n in archive.namelist() if PurePosixPath(n).name == "meta.xml"), key=len, default="")
            prefix = inside.removesuffix("meta.xml")
            if any(info.flag_bits & 1 for info in archive.infolist()):
                raise UserError(f"{path} is encrypted; unpack it and set index.path to the folder")
            yield lambda name: archive.open(prefix + name), [n.removeprefix(prefix) for n in archive.namelist()]
    except FileNotFoundError:
        raise UserError(f"params.yaml, index.path: {path} does not exist; it must be a Darwin Core archive") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is no complete zip file ({error}); download the archive again") from None


def _described(path: str, open_file: Open, names: list[str]) -> tuple[_Table, list[_Table]]:
    """The core and the extensions. Raises UserError where meta.xml is missing or does not describe the archive."""
    if "meta.xml" not in names:
        raise UserError(f"{path} has no meta.xml; download the occurrences as Darwin Core archive, not as simple table")
    try:
        with open_file("meta.xml") as file:
            root = ElementTree.parse(file).getroot()
        core = [_table(element, "id") for element in root if element.tag.endswith("core")]
        extensions = [_table(element, "coreid") for element in root if element.tag.endswith("extension")]
        for table in (*core, *extensions):
            for name in table.files:
                if name not in names:
                    raise ValueError(f"there is no {name}")
        return core[0], extensions
    except (ElementTree.ParseError, ValueError, KeyError, LookupError, TypeError) as error:
        raise UserError(f"{path}: meta.xml does not describe the archive ({error}); download it again") from None


def _table(element: ElementTree.Element, identity: str) -> _Table:
    inside = {tag: [e for e in element if e.tag.rpartition("}")[2] == tag] for tag in ("files", identity, "field")}
    terms = {field.attrib["term"].rsplit("/", 1)[-1].lower(): field for field in inside["field"]}
    terms = {term: field for term, field in terms.items() if term in _TERMS}
    table = _Table(
        files=[(location.text or "").strip() for location in inside["files"][0]],
        kind=element.attrib["rowType"].lower(),
        identity=int(inside[identity][0].attrib["index"]),
        columns={term: int(field.attrib["index"]) for term, field in terms.items() if "index" in field.attrib},
        defaults={term: field.attrib["default"] for term, field in terms.items() if field.get("default")},
        separator=_unescaped(element.get("fieldsTerminatedBy", ",")),
        end=_unescaped(element.get("linesTerminatedBy", "\n")),
        quote=_unescaped(element.get("fieldsEnclosedBy", '"')),
        skipped=int(element.get("ignoreHeaderLines") or 0),
        encoding=element.get("encoding") or "UTF-8",
    )
    codecs.lookup(table.encoding)
    if not table.separator or table.end not in ("\n", "\r", "\r\n") or (table.quote and len(table.separator) != 1):
        raise ValueError(f"rows ending with {table.end!r} and fields with {table.separator!r} cannot be read")
    return table


def _unescaped(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r")


def _rows(open_file: Open, table: _Table) -> Iterator[tuple[str | None, Row]]:
    """(id of the occurrence, values by term) of each row."""
    for name in table.files:
        with open_file(name) as file:
            # Bytes that are not what the encoding says spoil a name, not the archive.
            text = io.TextIOWrapper(file, table.encoding, "replace", newline="" if table.quote else table.end)
            for number, values in enumerate(_split(text, table)):
                if number >= table.skipped and any(values):
                    row = {term: taxonomy.clean(values[i]) for term, i in table.columns.items() if i < len(values)}
                    for term, default in table.defaults.items():
                        row[term] = row.get(term) or default
                    yield taxonomy.clean(values[table.identity]) if table.identity < len(values) else None, row


def _split(text: io.TextIOWrapper, table: _Table) -> Iterator[list[str]]:
    if table.quote:
        name = f"{table.files[0]} of the archive"
        yield from (values for _, values in delimited.parse(text, name, table.separator, table.quote))
        return
    for line in text:  # quotation marks are part of the names
        yield line.removesuffix(table.end).split(table.separator)
