"""Delimited text (CSV, TSV and their dialects), read row by row with the numbers of its lines."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TextIO

from bioclip_lite.utils.errors import UserError

_EXCEL_HINT = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # a first line by which Excel is told the separator
_END = "end"  # a line that is read after the last one


def rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values) of the header, which may be empty, and of each row that is not blank.

    The separator is the one that a first line ``sep=;`` names, or the comma, semicolon or tab that the header has most
    of.

    Raises:
        UserError: the file is not UTF-8 text or not CSV, or a quotation mark that is not closed swallows rows; the line
            is named.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if "\0" in file.readline():
                raise UserError(f"{table} is UTF-16 text, not UTF-8; save it again as CSV UTF-8")
            file.seek(0)
            yield from rows_in(file, str(table))
    except UnicodeDecodeError as error:
        raise UserError(f"{table} is not UTF-8 text ({error}); save it again as CSV UTF-8") from None


def rows_in(text: TextIO, name: str, start: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield what ``rows`` yields of text; its first line has the number ``start``, ``name`` is for messages."""
    begin = text.tell()
    hint = _EXCEL_HINT.fullmatch(first := text.readline())
    separator = hint[1] if hint else separator_of(first)
    if not hint:
        text.seek(begin)
    header = True
    for line, values in parse(text, name, separator, '"', start=start + 1 if hint else start):
        if header or any(value.strip() for value in values):
            yield line, values
        header = False
    if header:
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
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(f"{file} is a workbook of a spreadsheet program, not text; save its sheet as CSV UTF-8")
    try:
        return content.decode(_unicode(content))
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        line = content.split(b"\n")[number - 1].decode("cp1252", "replace").strip()
        raise UserError(
            f"{file}, line {number} is not UTF-8 text; if it should say {line!r}, the file "
            f"is in Windows-1252: save it again as CSV UTF-8"
        ) from None


def _unicode(content: bytes) -> str:
    """The Unicode encoding of text, by its mark or, in UTF-16 without one, by the zeros beside ASCII letters."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    head = content[:1000]
    if head[1::2].count(0) > len(head) // 4:
        return "utf-16-le"
    return "utf-16-be" if head[::2].count(0) > len(head) // 4 else "utf-8-sig"


def separator_of(header: str) -> str:
    """The comma, semicolon or tab: the one that a header line has most of."""
    return max(",;\t", key=header.count)


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
