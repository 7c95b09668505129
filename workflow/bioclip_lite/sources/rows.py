"""Rows of tables, streamed: CSV in its dialects, and Parquet."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip_lite.sources import fields, places
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

_BATCH = 8192  # rows of Parquet in memory at a time


def photographs(table: Path) -> Iterator[Sample | Reject]:
    """The photographs that a CSV table lists: column ``file`` and whatever else ``fields`` knows.

    Raises UserError for a file that is no such table. A row that cannot be understood is a Reject.
    """
    lines = csv_rows(table)
    _, header = next(lines)
    columns = fields.understand(header)
    _check(table, header, columns)
    labels = fields.label_paths(_labels(table, columns))
    for number, values in lines:
        yield _photograph(f"{table.name}, line {number}", columns, header, values, labels)


def csv_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, values) of the header, which may be empty, and of each row that is not blank.

    The separator is the comma, semicolon or tab that the header has most of.
    """
    line = 0
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(",;\t", key=first.count))
            yield 1, next(rows, [])
            for values in rows:
                line = rows.line_num
                if any(value.strip() for value in values):
                    yield line, values
    except UnicodeDecodeError as error:
        raise UserError(f"{table} is not UTF-8 text ({error}); save it again as CSV UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{table}, after line {line}: {error}; save it again as CSV") from None


def parquet_rows(table: Path, wanted: Sequence[str] | None = None) -> Iterator[tuple[list[str], list[object]]]:
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


def _labels(table: Path, columns: fields.Columns) -> set[str]:
    """The distinct class names; whether they are scientific shows in all of them together."""
    if "label" not in columns.places:
        return set()
    (place,) = columns.places["label"]
    values = (values for _, values in islice(csv_rows(table), 1, None))
    return {name for row in values if place < len(row) and (name := taxonomy.clean(row[place]))}


def _photograph(
    place: str, columns: fields.Columns, header: list[str], values: list[str], labels: dict[str, taxonomy.Path]
) -> Sample | Reject:
    if len(values) != len(header):
        return Reject(place, "bad row", f"{len(values)} fields, the header has {len(header)}; quote text with commas")
    row = fields.row_of(columns, values)
    file = row["file"]
    if file is None:
        return Reject(place, "missing file", "column 'file' is empty")
    locator = file if places.is_address(file) else file.replace("\\", "/")
    sample = fields.to_sample(row, key_of(locator), locator, fields.languages_of(columns, values))
    label = row.get("label")
    if label is None or taxonomy.label_rank(sample.path) >= 0:
        return sample
    if label in labels:
        return replace(sample, path=labels[label], verbatim=label)
    return replace(sample, common_name=sample.common_name or label)
