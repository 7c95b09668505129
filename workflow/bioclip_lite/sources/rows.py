"""Photographs as tables list them, streamed: delimited text and Parquet."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip_lite.sources import delimited, fields, places
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

_LOOKED_AT = 10_000  # rows that tell what column class holds
_BATCH = 8192  # rows of Parquet in memory at a time


def photographs(table: Path) -> Iterator[Sample | Reject]:
    """Yield the photographs that a CSV table lists: column ``file`` and the columns that ``fields`` interprets.

    Raises UserError for a file that is no such table. A row that cannot be understood is a Reject.
    """
    lines = delimited.rows(table)
    _, header = next(lines)
    columns = fields.understand(header, _class_is_label(table, header))
    _check(table, header, columns)
    labels = fields.label_paths(_distinct(table, *columns.places["label"]) if "label" in columns.places else ())
    first = list(islice(lines, 2))
    if _numbered(first, len(header) + 1):
        raise UserError(
            f"{table}: each row has one value more than the header, as R's write.table writes them; write the table "
            f"again with row.names = FALSE"
        )
    locate = places.locator_in(table.parent)
    for number, values in chain(first, lines):
        yield _photograph(f"{table.name}, line {number}", columns, header, values, labels, locate)


def _class_is_label(table: Path, header: list[str]) -> bool:
    """``fields.class_is_label`` of a table; tells what it has decided where the header alone does not."""
    names = [name.strip().lower() for name in header]
    if "class" not in names:
        return False
    values = _distinct(table, names.index("class"), _LOOKED_AT)
    found = fields.class_is_label(header, values)
    if "cls" not in names and (found or not {"phylum", "order"} & set(names)):
        what = "what each photograph shows" if found else "the rank"
        print(f"{table}: column 'class' is taken for {what}, for its values: {', '.join(sorted(values)[:3])}")
    return found


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


def _distinct(table: Path, place: int, rows: int | None = None) -> set[str]:
    """The distinct names in a column, of the first ``rows`` rows or of all."""
    values = (values for _, values in islice(delimited.rows(table), 1, rows))
    return {name for row in values if place < len(row) and (name := taxonomy.clean(row[place]))}


def _photograph(
    place: str,
    columns: fields.Columns,
    header: list[str],
    values: list[str],
    labels: dict[str, taxonomy.Path],
    locate: Callable[[str], str],
) -> Sample | Reject:
    if len(values) > len(header) and not any(values[len(header) :]):  # separators at the end of a line
        values = values[: len(header)]
    if len(values) != len(header):
        return Reject(place, "bad row", _wrong_length(len(values), len(header)))
    row = fields.row_of(columns, values)
    file = row["file"]
    if file is None:
        return Reject(place, "missing file", "column 'file' is empty")
    fields.refuse_rounded(place, row.get("observation"))
    locator = locate(file)
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
