"""Occurrences with place and month from a table of the user's own: what GBIF gives, or any with the same columns.

A Darwin Core archive (occurrence.txt in a zip, as meta.xml describes it, or unpacked), GBIF's simple download (one
table with tabs in a zip, or unpacked), CSV. Columns are named as in Darwin Core, in any case. Rows are read one by one.
"""

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from bioclip_lite.sources import archive, delimited, fields, places
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

_LATITUDE, _LONGITUDE, _VAGUENESS = "decimallatitude", "decimallongitude", "coordinateuncertaintyinmeters"
_READ = {
    *taxonomy.RANKS,
    *("specificepithet", "scientificname", "acceptedscientificname", "taxonrank"),
    *(_LATITUDE, _LONGITUDE, _VAGUENESS, "month", "eventdate", "occurrencestatus", "basisofrecord"),
}
_NOT_WILD = {"fossilspecimen", "livingspecimen"}  # basisOfRecord of what does not live where it was found
_VAGUEST = 100_000  # metres
_DATE = re.compile(r"\d{4}-(\d{2})")

Row = Mapping[str, str | None]  # by term in lower case


class Occurrence(NamedTuple):
    """One individual or more of a taxon, at a place in a month."""

    path: taxonomy.Path
    latitude: float  # degrees, WGS 84
    longitude: float
    month: int  # 1 to 12


def read(table: Path, left_out: Counter[str]) -> Iterator[Occurrence]:
    """Yield the occurrences of a table.

    Args:
        left_out: counts the rows that are no such occurrences, by reason.

    Raises:
        UserError: the file is none of the forms, or has no columns for a place and a month.
    """
    with _rows(table) as rows:
        for row in rows:
            found = _occurrence(row)
            if isinstance(found, str):
                left_out[found] += 1
            else:
                yield found


@contextmanager
def _rows(table: Path) -> Iterator[Iterator[Row]]:
    """Open a table; gives its rows."""
    if table.is_dir() or _is_archive(table):
        with archive.opened(table) as (open_file, names):
            core, _ = archive.described(str(table), open_file, names, _READ)
            _check(table, {*core.columns, *core.defaults})
            yield (row for _, row in archive.rows(open_file, core))
    elif zipfile.is_zipfile(table):
        with zipfile.ZipFile(table) as packed:
            inside = [name for name in packed.namelist() if not places.hidden(name) and not name.endswith("/")]
            if len(inside) != 1:
                raise UserError(f"{table} has no meta.xml and {len(inside)} files; give the table of occurrences alone")
            with packed.open(inside[0]) as file:
                yield _plain(table, io.TextIOWrapper(file, "utf-8-sig", "replace", newline=""))
    else:
        with table.open(encoding=delimited.encoding_of(table), errors="replace", newline="") as text:
            yield _plain(table, text)


def _is_archive(table: Path) -> bool:
    if not zipfile.is_zipfile(table):
        return False
    with zipfile.ZipFile(table) as packed:
        return any(name.rsplit("/", 1)[-1] == "meta.xml" for name in packed.namelist() if not places.hidden(name))


def _plain(table: Path, text: io.TextIOBase) -> Iterator[Row]:
    first = text.readline()
    separator = delimited.separator_of(first)
    # GBIF encloses nothing in quotation marks between tabs: they are part of the text
    quote = None if separator == "\t" else '"'
    header = [name.strip().lower() for name in next(delimited.parse([first], str(table), separator, quote))[1]]
    _check(table, set(header))
    for _, values in delimited.parse(text, str(table), separator, quote, start=2):
        yield {name: taxonomy.clean(value) for name, value in zip(header, values, strict=False) if name in _READ}


def _check(table: Path, columns: set[str]) -> None:
    lacking = [name for name in ("decimalLatitude", "decimalLongitude") if name.lower() not in columns]
    lacking += [] if columns & {"month", "eventdate"} else ["month or eventDate"]
    lacking += [] if columns & {"species", "scientificname", "specificepithet"} else ["species or scientificName"]
    if lacking:
        raise UserError(
            f"{table} has no column {', '.join(lacking)}; download occurrences from GBIF as Darwin Core archive or as "
            "simple table, or name the columns of yours so"
        )


def _occurrence(row: Row) -> Occurrence | str:
    """The occurrence that a row describes, or why there is none."""
    if (row.get("occurrencestatus") or "").lower() == "absent":
        return "absent"
    if re.sub("[^a-z]", "", (row.get("basisofrecord") or "").lower()) in _NOT_WILD:
        return "fossil, or kept by people"
    place, month = _place(row), _month(row)
    if place is None:
        return "no place, or a vague one"
    if month is None:
        return "no month"
    described = _understand(tuple(row))
    return Occurrence(fields.path_of(fields.row_of(described, [*row.values()])), *place, month)


_understand = lru_cache(maxsize=64)(fields.understand)  # the rows of a table have the same columns


def _place(row: Row) -> tuple[float, float] | None:
    try:
        latitude, longitude = float(row.get(_LATITUDE) or ""), float(row.get(_LONGITUDE) or "")
        vagueness = float(row.get(_VAGUENESS) or 0)
    except ValueError:
        return None
    possible = abs(latitude) <= 90 and abs(longitude) <= 180 and (latitude, longitude) != (0, 0)  # 0, 0: not known
    return (latitude, longitude) if possible and vagueness <= _VAGUEST else None


def _month(row: Row) -> int | None:
    """The month; None for a time that spans several."""
    months = {int(month) for month in _DATE.findall(row.get("eventdate") or "")}
    if not months and (stated := (row.get("month") or "")).isdecimal():
        months = {int(stated)}
    return next(iter(months)) if len(months) == 1 and months <= set(range(1, 13)) else None
