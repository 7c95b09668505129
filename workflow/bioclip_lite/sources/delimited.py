"""Delimited text (CSV, TSV and their dialects), read row by row with the numbers of its lines."""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

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
            first = file.readline()
            if "\0" in first:
                raise UserError(f"{table} is UTF-16 text, not UTF-8; save it again as CSV UTF-8")
            hint = _EXCEL_HINT.fullmatch(first)
            separator = hint[1] if hint else separator_of(first)
            if not hint:
                file.seek(0)
            header = True
            for line, values in parse(file, str(table), separator, '"', start=2 if hint else 1):
                if header or any(value.strip() for value in values):
                    yield line, values
                header = False
            if header:
                yield 1, []
    except UnicodeDecodeError as error:
        raise UserError(f"{table} is not UTF-8 text ({error}); save it again as CSV UTF-8") from None


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
