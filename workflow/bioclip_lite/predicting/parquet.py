"""Parquet with all that is known of each photograph: answers, embedding, probabilities of all leaves."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from bioclip_lite.predicting import parts
from bioclip_lite.predicting.origin import Origin
from bioclip_lite.predicting.records import SCHEMA, Record
from bioclip_lite.utils.files import replacing

MOST_TAXA = 2000  # of which probabilities are written: 8 kB a photograph
_KEY = "bioclip-lite"
_INTERNAL = ("file", "size", "modified")
_ROWS = 1024  # of a row group


def is_ours(path: Path) -> bool:
    """Whether a file was written by ``write``."""
    try:
        return _KEY.encode() in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError):  # no Parquet file; pyarrow's errors are among these
        return False


def write(output: Path, records: Iterable[Record], origin: Origin, taxon_ids: list[str]) -> None:
    """Write a row for each photograph, some at a time.

    The metadata of the schema name the model, its hash and thresholds ("bioclip-lite"), and the taxa of column
    ``probabilities`` in order ("taxon_ids").
    """
    about = origin._asdict() | {"root": None}
    metadata = {_KEY: json.dumps(about), "taxon_ids": json.dumps(taxon_ids)}
    columns = [name for name in SCHEMA.names if name not in _INTERNAL]
    schema = parts.table([]).select(columns).schema.with_metadata(metadata)
    with replacing(output) as scratch, pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
        for some in _some(records):
            writer.write_table(parts.table(some).select(columns).cast(schema))


def _some(records: Iterable[Record]) -> Iterator[list[Record]]:
    records = iter(records)
    while some := list(islice(records, _ROWS)):
        yield some
