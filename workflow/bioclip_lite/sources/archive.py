"""Darwin Core archives: their tables and rows as meta.xml describes them, packed (.zip) or unpacked.

Darwin Core Text Guide, https://dwc.tdwg.org/text/. Where a file shows that its encoding, separator, ends of lines or
header are otherwise than meta.xml says, the file is believed, and a line says so.
"""

import codecs
import errno
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple
from xml.etree import ElementTree

from bioclip_lite.sources import delimited, places
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

Row = dict[str, str | None]  # by term, without its namespace, in lower case
Open = Callable[[str], IO[bytes]]

_LOOKED_AT = 1 << 18  # bytes of a file that tell its dialect
_LONGEST_META = 10_000_000  # bytes of meta.xml; those of GBIF have some 20,000


class Table(NamedTuple):
    """A file of the archive, as meta.xml describes it."""

    files: list[str]
    kind: str  # rowType in lower case
    identity: int  # column of the id of the core's row
    columns: dict[str, int]  # by term
    defaults: dict[str, str]  # by term, for all rows
    separator: str
    end: str  # of a line
    quote: str  # "": none
    skipped: int  # header lines
    encoding: str


@contextmanager
def opened(path: Path) -> Iterator[tuple[Open, list[str]]]:
    """Return a function that opens a file of the archive, and the names of its files."""
    if path.is_dir():
        inside = min((p for place in (".", "*") for p in path.glob(f"{place}/meta.xml")), default=path / "meta.xml")
        yield lambda name: (inside.parent / name).open("rb"), [p.name for p in inside.parent.iterdir()]
        return
    try:
        with zipfile.ZipFile(path) as archive:
            # Some are packed with the folder around them.
            shown = [name for name in archive.namelist() if not places.hidden(name)]
            meta = min((name for name in shown if PurePosixPath(name).name == "meta.xml"), key=len, default="")
            prefix = meta.removesuffix("meta.xml")
            if any(info.flag_bits & 1 for info in archive.infolist()):
                raise UserError(f"{path} is encrypted; unpack it and set index.path to the folder")
            yield lambda name: archive.open(prefix + name), [name.removeprefix(prefix) for name in shown]
    except FileNotFoundError:
        raise UserError(f"params.yaml, index.path: {path} does not exist; it must be a Darwin Core archive") from None
    except NotImplementedError as error:  # Deflate64, in which Windows packs large files
        raise UserError(f"{path}: {error}; unpack it with another program and set index.path to the folder") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # bz2, or a place before the start
            raise
        what = f"is no complete zip file ({error}); download the archive again"
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            what = "is a table; download the occurrences as Darwin Core archive, or read it as source csv"
        raise UserError(f"{path} {what}") from None


def described(path: str, open_file: Open, names: Collection[str], terms: Collection[str]) -> tuple[Table, list[Table]]:
    """The core and the extensions, with those columns that ``terms`` names.

    Raises UserError where meta.xml is missing or does not describe the archive.
    """
    if "meta.xml" not in names:
        raise UserError(f"{path} has no meta.xml; download the occurrences as Darwin Core archive, not as simple table")
    try:
        with open_file("meta.xml") as file:
            text = file.read(_LONGEST_META + 1)
        if len(text) > _LONGEST_META:
            raise ValueError(f"it has more than {_LONGEST_META:,} bytes")
        root = ElementTree.fromstring(text)
        core = [_table(element, "id", terms) for element in root if element.tag.endswith("core")]
        extensions = [_table(element, "coreid", terms) for element in root if element.tag.endswith("extension")]
        for table in (*core, *extensions):
            for name in table.files:
                if name not in names:
                    raise ValueError(f"there is no {name}")
        return _as_it_is(open_file, core[0]), [_as_it_is(open_file, table) for table in extensions]
    except (ElementTree.ParseError, ValueError, KeyError, LookupError, TypeError) as error:
        raise UserError(f"{path}: meta.xml does not describe the archive ({error}); download it again") from None


def _table(element: ElementTree.Element, identity: str, terms: Collection[str]) -> Table:
    inside = {tag: [e for e in element if e.tag.rpartition("}")[2] == tag] for tag in ("files", identity, "field")}
    if not inside[identity]:
        raise ValueError(f"a table has no <{identity}>")
    named = {re.split("[/:#]", field.attrib["term"].strip())[-1].lower(): field for field in inside["field"]}
    named = {term: field for term, field in named.items() if term in terms}
    table = Table(
        files=[(location.text or "").strip().removeprefix("./") for location in inside["files"][0]],
        kind=element.attrib["rowType"].lower(),
        identity=int(inside[identity][0].attrib["index"]),
        columns={term: int(field.attrib["index"]) for term, field in named.items() if "index" in field.attrib},
        defaults={term: field.attrib["default"] for term, field in named.items() if field.get("default")},
        separator=_unescaped(element.get("fieldsTerminatedBy", ",")),
        end=_unescaped(element.get("linesTerminatedBy", "\n")),
        quote=_unescaped(element.get("fieldsEnclosedBy", '"')),
        skipped=int(element.get("ignoreHeaderLines") or 0),
        encoding=(element.get("encoding") or "UTF-8").strip(),
    )
    codecs.lookup(table.encoding)
    return table


def _unescaped(text: str) -> str:
    return re.sub(r"\\+([tnr])", lambda match: {"t": "\t", "n": "\n", "r": "\r"}[match[1]], text)


def _as_it_is(open_file: Open, table: Table) -> Table:
    """The table with the dialect that its file shows, where meta.xml says otherwise, which is told."""
    with open_file(table.files[0]) as file:
        start = file.read(_LOOKED_AT)
    encoding = _encoding(start, table.encoding)
    text = start.decode(encoding, "replace")
    end = next((end for end in (table.end, "\n", "\r") if end in text), table.end)
    first = text.split(end, 1)[0].removesuffix("\r")
    separator = table.separator
    if (not separator or separator not in first) and max(table.identity, *table.columns.values(), 0) > 0:
        other = delimited.separator_of(first)
        separator = other if other in first else separator
    values = [value.strip(f"{table.quote}\ufeff ").lower() for value in first.split(separator)]
    names = [re.split("[/:#]", values[i])[-1] == term for term, i in table.columns.items() if i < len(values)]
    skipped = table.skipped or int(2 * sum(names) > len(names))
    found = table._replace(separator=separator, end="\n" if end == "\r\n" else end, skipped=skipped, encoding=encoding)
    if not separator or found.end not in ("\n", "\r") or (table.quote and len(separator) != 1):
        raise ValueError(f"rows ending with {table.end!r} and fields with {table.separator!r} cannot be read")
    _tell(table, found)
    return found


def _encoding(start: bytes, stated: str) -> str:
    """The encoding of a file: UTF-16 by its mark, UTF-8 if its beginning is that and more than ASCII, or as stated."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if codecs.lookup(stated).name in ("utf-8", "ascii"):
        return "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return stated
    return stated if text.isascii() else "utf-8-sig"


def _tell(stated: Table, found: Table) -> None:
    said = {
        "fields end with": (stated.separator, found.separator),
        "lines end with": (stated.end.replace("\r\n", "\n"), found.end),
        "lines of header": (stated.skipped, found.skipped),
        "encoding": (codecs.lookup(stated.encoding).name, codecs.lookup(found.encoding).name.removesuffix("-sig")),
    }
    others = [f"{what} {here!r}, not {there!r}" for what, (there, here) in said.items() if here != there]
    if others:
        print(f"{found.files[0]} of the archive is otherwise than meta.xml says: {'; '.join(others)}")


def rows(open_file: Open, table: Table) -> Iterator[tuple[str | None, Row]]:
    """Yield (id of the core's row, values by term) of each row."""
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


def _split(text: io.TextIOWrapper, table: Table) -> Iterator[list[str]]:
    if table.quote:
        name = f"{table.files[0]} of the archive"
        yield from (
            values for _, values in delimited.parse(delimited.lines_of(text, name), name, table.separator, table.quote)
        )
        return
    for line in delimited.lines_of(text, f"{table.files[0]} of the archive"):  # quotation marks are part of the names
        yield line.removesuffix(table.end).split(table.separator)
