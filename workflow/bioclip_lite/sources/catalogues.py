"""Catalogues of published data sets, CSV or Parquet, streamed: ten million rows and more."""

from collections.abc import Collection, Iterator
from pathlib import Path

from bioclip_lite.sources import delimited, rows
from bioclip_lite.taxa import taxonomy

Record = dict[str, str | None]  # by name of the column, as it is written; None: empty, or one of the ways to say so


def records(table: Path, wanted: Collection[str]) -> Iterator[Record]:
    """Yield the rows of a catalogue, reduced to those of the columns ``wanted`` that it has.

    Raises UserError for a file that cannot be read.
    """
    if table.suffix.lower() == ".parquet":
        for names, values in rows.parquet_rows(table, wanted):
            yield {name: taxonomy.clean(value) for name, value in zip(names, values, strict=True)}
        return
    lines = delimited.rows(table)
    _, header = next(lines)
    places = [(i, name.strip()) for i, name in enumerate(header) if name.strip() in wanted]
    for _, line in lines:
        yield {name: taxonomy.clean(line[i]) for i, name in places if i < len(line)}


def whole(number: str | None) -> str | None:
    """A whole number as text: tables that have passed through pandas write 12345.0 where a column has gaps."""
    return number.removesuffix(".0") if number else None
