"""Delimited text (CSV, TSV and their dialects), read row by row with the numbers of its lines."""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, TextIO

from bioclip_lite.utils.errors import UserError

_EXCEL_HINT = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # a first line by which Excel is told the separator
_SAVE, _UNPACK = "save its sheet as CSV UTF-8", "unpack it"
_NO_TEXT = {  # by how the file begins, in small letters
    b"pk\x03\x04": ("a workbook (.xlsx, .ods) or a zip archive", f"{_SAVE}, or {_UNPACK}"),
    b"\xd0\xcf\x11\xe0": ("a workbook (.xls)", _SAVE),
    b"\x1f\x8b": ("packed (gzip)", _UNPACK),
    b"par1": ("a Parquet file", "write it as CSV UTF-8"),
    **dict.fromkeys((b"<!doctype html", b"<html"), ("a web page", "download the table itself, not the page about it")),
}
_END = "end"  # a line that is read after the last one
_LONGEST = 131_072  # characters of a value; more is a quotation mark that is not closed
_LONGEST_LINE = 1_000_000  # characters; more is no table, and would fill the memory


def rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values) of the header, which may be empty, and of each row that is not blank.

    A header that stands there again, as in tables that were put together, is none. Text is UTF-8 or UTF-16, with or
    without a mark that says so. The separator is the one that a first line ``sep=;``
    names, or else ``separator_of`` the header.

    Raises:
        UserError: the file is a workbook, archive or web page, is in another encoding, is not CSV, or has a quotation
            mark that is not closed and swallows rows; the line is named.
    """
    with table.open(encoding=encoding_of(table), newline="") as file:
        yield from rows_in(_decoded(file, table), str(table))


def _decoded(file: TextIO, table: Path) -> Iterator[str]:
    """The lines of a file. Raises UserError where its bytes are not what its encoding has."""
    number = 0
    try:
        for number, line in enumerate(lines_of(file, str(table)), 1):  # noqa: B007
            yield line
    except UnicodeError as error:
        raise UserError(
            f"{table} is not UTF-8 text ({error}, behind line {number}); save it again as CSV UTF-8"
        ) from None


def lines_of(file: TextIO, name: str) -> Iterator[str]:
    """Yield the lines of a file. Raises UserError for one that is longer than those of any table."""
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise UserError(
                f"{name} has a line of {_LONGEST_LINE:,} characters or more, so it is no table; save it again"
            )
        yield line


def encoding_of(table: Path) -> str:
    """The encoding of a text file: UTF-16 if it begins with its mark or with two letters of ASCII in it, else UTF-8.

    Raises UserError for what is no text but often given in place of a table.
    """
    with table.open("rb") as file:
        start = file.read(512)
    for sign, (what, mend) in _NO_TEXT.items():
        if start.lstrip().lower().startswith(sign):
            raise UserError(f"{table} is {what}, not a table in text; {mend}")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = [not byte for byte in start[:4]]
    if zeros in ([False, True, False, True], [True, False, True, False]):
        return "utf-16-be" if zeros[0] else "utf-16-le"
    return "utf-8-sig"


def rows_in(lines: Iterable[str], name: str, start: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield what ``rows`` yields, of lines with their ends.

    ``start`` is the number of the first line, ``name`` the file's for messages.
    """
    lines = iter(lines)
    first = next(lines, "")
    hint = _EXCEL_HINT.fullmatch(first)
    separator = hint[1] if hint else separator_of(first)
    header: list[str] | None = None
    and_first = lines if hint else chain([first], lines)
    for line, values in parse(and_first, name, separator, '"', start=start + 1 if hint else start):
        if header is None or (values != header and any(value.strip() for value in values)):
            yield line, values
        header = header or values
    if header is None:
        yield start, []


def header_in(lines: Sequence[str]) -> list[str]:
    """The values of the first of some lines, past a line ``sep=;``, as if it were the header of a table."""
    hint = _EXCEL_HINT.fullmatch(lines[0])
    first = lines[1] if hint and len(lines) > 1 else lines[0]
    try:
        return next(csv.reader([first], delimiter=hint[1] if hint else separator_of(first)), [])
    except csv.Error:
        return [first]


def whole_text(file: Path) -> str:
    """Read a short file of text, UTF-8 or UTF-16, as spreadsheets and editors save it.

    Raises:
        UserError: the file is a workbook, or text in another encoding; the line is named, and what it would say in
            Windows-1252, which older programs write.
    """
    content = file.read_bytes()
    try:
        return content.decode(encoding_of(file))
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        line = content.split(b"\n")[number - 1].decode("cp1252", "replace").strip()
        raise UserError(
            f"{file}, line {number} is not UTF-8 text; if it should say {line!r}, the file "
            f"is in Windows-1252: save it again as CSV UTF-8"
        ) from None


def separator_of(header: str) -> str:
    """The comma, semicolon, tab or bar: the one that a header line has most of outside quotation marks."""
    bare = re.sub('"[^"]*"', "", header)
    return max(",;\t|", key=bare.count)


def parse(
    lines: Iterable[str], name: str, separator: str, quote: str | None, start: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, values) of each row of ``lines``, the first of which has the number ``start``.

    Args:
        name: the file, as messages name it.
        quote: the quotation mark; None if the format has none.

    Raises:
        UserError: a row is not CSV, or a quotation mark that is not closed swallows rows; the line is named. Text may
            span lines, unless these look like rows of the table.
    """
    ended = False

    def and_end() -> Iterator[str]:
        nonlocal ended
        yield from lines
        ended = True  # a row that is still open takes in the line below
        yield _END

    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    csv.field_size_limit(_LONGEST)  # of the whole process: another library may have set it
    reader = csv.reader(and_end(), delimiter=separator, quotechar=quote, quoting=quoting)
    width = None
    while True:
        first = start + reader.line_num
        try:
            values = next(reader)
        except csv.Error as error:
            raise UserError(f"{name}, line {first}: {error}; save it again as CSV") from None
        if ended and values == [_END]:
            return
        last = start + reader.line_num - (2 if ended else 1)
        width = width or len(values)
        if ended or (last > first and _hides_rows(values, separator, width)):
            swallowed = f"the {last - first} lines after it are" if last > first else "the rest of it is"
            raise UserError(
                f"{name}, line {first}: a quotation mark opens and is not closed in this line, so {swallowed} read as "
                f"one text; close it, remove it, or double it if it belongs to the text"
            )
        yield first, values


def _hides_rows(values: list[str], separator: str, width: int) -> bool:
    """Whether a text of several lines looks like rows of the table that two stray quotation marks enclose."""
    if len(values) != width:
        return any(separator in line for value in values for line in value.splitlines()[1:])
    inner = [line for value in values for line in value.splitlines()[1:-1]]
    return bool(inner) and all(line.count(separator) == width - 1 for line in inner)
