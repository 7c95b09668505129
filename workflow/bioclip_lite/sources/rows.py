"""Photographs as tables list them, streamed: delimited text and Parquet."""

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip_lite.sources import delimited, fields, places
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")  # 1.25E+08, as spreadsheets show long numbers
_BATCH = 8192  # rows of Parquet in memory at a time


def photographs(table: Path) -> Iterator[Sample | Reject]:
    """Yield the photographs that a CSV table lists: column ``file`` and the columns that ``fields`` interprets.

    Raises UserError for a file that is no such table. A row that cannot be understood is a Reject.
    """
    lines = delimited.rows(table)
    _, header = next(lines)
    columns = fields.understand(header)
    _check(table, header, columns)
    labels = fields.label_paths(_labels(table, columns))
    first = list(islice(lines, 2))
    if _numbered(first, len(header) + 1):
        raise UserError(
            f"{table}: each row has one value more than the header, as R's write.table writes them; write the table "
            f"again with row.names = FALSE"
        )
    for number, values in chain(first, lines):
        yield _photograph(f"{table.name}, line {number}", columns, header, values, labels)


def parquet_rows(table: Path, wanted: Collection[str] | None = None) -> Iterator[tuple[list[str], list[object]]]:
    """(column names, values) of each row of a Parquet file; ``wanted`` limits the columns to these, if present."""
    try:
        with pq.ParquetFile(table) as file:
            names = [name for name in file.schema_arrow.names if wanted is None or name in wanted]
            for batch in file.iter_batches(_BATCH, columns=names):
                columns = [column.to_pylist() for column in batch.columns]
                for values in zip(*columns, strict=True):
                    yield names, list(values)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table} is no readable Parquet file ({error}); download it again") from None


def _check(table: Path, header: list[str], columns: fields.Columns) -> None:
    found = f"its columns: {', '.join(name.strip() for name in header) or 'none'}"
    if "file" not in columns.places:
        raise UserError(f"{table} has no column 'file' with a path or an address; {found}")
    if not any(field in columns.places for field in fields.NAMING):
        ranks = ", ".join(taxonomy.RANKS)
        raise UserError(f"{table} has no column of a rank ({ranks}), nor scientific_name or common_name; {found}")
    if twice := fields.repeated(header):
        raise UserError(f"{table} has two columns {twice.strip()!r}; {found}")


def _numbered(rows: list[tuple[int, list[str]]], length: int) -> bool:
    """Whether the first two rows have ``length`` values, of which the first numbers the rows."""
    numbers = [int(values[0]) for _, values in rows if len(values) == length and values[0].isdecimal()]
    return len(numbers) == 2 and numbers[1] == numbers[0] + 1


def _wrong_length(values: int, columns: int) -> str:
    mend = "fill in the last ones, or their separators" if values < columns else "quote text that contains separators"
    return f"{values} values where the header has {columns} columns; {mend}"


def _labels(table: Path, columns: fields.Columns) -> set[str]:
    """The distinct class names; whether they are scientific shows in all of them together."""
    if "label" not in columns.places:
        return set()
    (place,) = columns.places["label"]
    values = (values for _, values in islice(delimited.rows(table), 1, None))
    return {name for row in values if place < len(row) and (name := taxonomy.clean(row[place]))}


def _photograph(
    place: str, columns: fields.Columns, header: list[str], values: list[str], labels: dict[str, taxonomy.Path]
) -> Sample | Reject:
    if len(values) != len(header):
        return Reject(place, "bad row", _wrong_length(len(values), len(header)))
    row = fields.row_of(columns, values)
    file = row["file"]
    if file is None:
        return Reject(place, "missing file", "column 'file' is empty")
    if (observation := row.get("observation")) and _ROUNDED.fullmatch(observation):
        raise UserError(
            f"{place}: observation {observation} is a number that a spreadsheet has rounded, so different observations "
            f"have become one; give that column the format text, and export the table again"
        )
    locator = file if places.is_address(file) else file.replace("\\", "/")
    sample = fields.to_sample(row, key_of(locator), locator, fields.languages_of(columns, values))
    genus, species = sample.path[5:]
    if row.get("species") and species and not genus:
        return Reject(place, "bad row", f"species {row['species']!r} is an epithet without a genus; fill in the genus")
    label = row.get("label")
    if label is None or taxonomy.label_rank(sample.path) >= 0:
        return sample
    if label in labels:
        return replace(sample, path=labels[label], verbatim=label)
    return replace(sample, common_name=sample.common_name or label)
