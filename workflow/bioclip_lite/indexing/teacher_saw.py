"""Which photographs the teacher was trained on, by the catalogue of its training set.

A photograph is found by an identifier that it and a row of the catalogue share, by the MD5 of its file, or by the same
perceptual hash. Rows that the catalogue holds out of training (split val, for example) do not count, nor do rows of
its other tables about the same photographs. The catalogue is streamed, so memory does not grow with it.
"""

import re
import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bioclip_lite.sources import catalogues, identifiers, places
from bioclip_lite.sources.sample import Sample
from bioclip_lite.utils.errors import UserError

_BATCH = 10_000  # identifiers looked up at a time
_TRAINED_ON = ("train", "train_small", "pretrain")  # splits of a catalogue
_MD5, _PHASH = ("md5", "hashsum_original"), "phash"
_WANTED = (*identifiers.COLUMNS, *_MD5, _PHASH, "split")
_TABLES = (".csv", ".tsv", ".parquet")
_BY_HASH = {kind: f"SELECT id FROM photograph WHERE {kind} = ?" for kind in ("md5", "phash")}
_BY_IDENTIFIER = "SELECT photograph FROM identifier WHERE value = ?"

Value = str | bytes | int  # an identifier, an MD5, or a perceptual hash with the sign that SQLite gives it


def add_identifiers(database: sqlite3.Connection, photograph: int, sample: Sample) -> None:
    """Remember the identifiers of a photograph, to be looked for by ``mark``."""
    found = {*sample.identifiers, *identifiers.of_locator(sample.locator)}
    rows = ((photograph, identifier.partition(":")[0], identifier) for identifier in sorted(found))
    database.executemany("INSERT INTO identifier VALUES (?, ?, ?)", rows)


def mark(database: sqlite3.Connection, catalogue: Path) -> None:
    """Fill column ``teacher_saw`` of table photograph: 1, 0, or NULL where nothing can be compared.

    Args:
        catalogue: a table, CSV or Parquet, or a folder with several.

    Raises:
        UserError: there is no table, or none with an identifier or a hash.
    """
    database.execute("CREATE INDEX of_value ON identifier (value)")
    database.execute("CREATE INDEX of_phash ON photograph (phash)")
    compared: set[str] = set()
    trained_on = _trained_on(database, _tables(catalogue))
    while batch := list(islice(trained_on, _BATCH)):
        kinds = {kind for kind, _ in batch}
        compared |= kinds
        for kind in kinds:
            found = _BY_HASH.get(kind, _BY_IDENTIFIER)
            values = ((value,) for its_kind, value in batch if its_kind == kind)
            database.executemany(f"INSERT OR IGNORE INTO seen {found}", values)
    if not compared:
        raise UserError(
            f"params.yaml, index.teacher_saw: {catalogue} names no photograph of training; it needs one of the columns "
            f"{', '.join((*identifiers.COLUMNS, *_MD5, _PHASH))}, and rows whose split, if there is one, is train"
        )
    database.execute("UPDATE photograph SET teacher_saw = 1 WHERE id IN (SELECT id FROM seen)")
    unseen = "UPDATE photograph SET teacher_saw = 0 WHERE teacher_saw IS NULL"
    if compared & _BY_HASH.keys():
        database.execute(unseen)
    by_kind = f"{unseen} AND id IN (SELECT photograph FROM identifier WHERE kind = ?)"
    database.executemany(by_kind, ((kind,) for kind in sorted(compared)))


def counts(database: sqlite3.Connection, kept: str) -> dict[str, tuple[int, int, int]]:
    """Photographs by split: trained on, not found, not comparable; ``kept``: the clause that selects the kept ones."""
    rows = database.execute(
        "SELECT dealt.split, coalesce(sum(teacher_saw), 0), count(teacher_saw), count(*) " + kept + " GROUP BY 1"
    )
    return {split: (seen, known - seen, number - known) for split, seen, known, number in rows}


def _tables(catalogue: Path) -> list[Path]:
    """The tables of a catalogue, those that tell splits first."""
    if catalogue.is_dir():
        found = [catalogue / name for name in places.files_in(catalogue) if name.lower().endswith(_TABLES)]
    else:
        found = [catalogue] if catalogue.is_file() else []
    if not found:
        problem = f"holds no {', '.join(_TABLES)}" if catalogue.is_dir() else "does not exist"
        raise UserError(
            f"params.yaml, index.teacher_saw: {catalogue} {problem}; put the catalogue of the teacher's training set "
            "there"
        )
    return sorted(found, key=lambda table: "split" not in next(catalogues.records(table, _WANTED), {}))


def _trained_on(database: sqlite3.Connection, tables: list[Path]) -> Iterator[tuple[str, Value]]:
    """(kind, value) of each identifier and hash of the photographs of training."""
    any_held_out = False
    for table in tables:
        for record in catalogues.records(table, _WANTED):
            named, split = [*identifiers.of_record(record)], record.get("split")
            if split and split not in _TRAINED_ON:
                any_held_out = True
                database.executemany("INSERT OR IGNORE INTO held_out VALUES (?)", ((value,) for value in named))
            elif split or not (any_held_out and _is_held_out(database, named)):
                yield from ((value.partition(":")[0], value) for value in named)
                yield from _hashes(record)


def _is_held_out(database: sqlite3.Connection, named: list[str]) -> bool:
    query = "SELECT 1 FROM held_out WHERE value = ?"
    return any(database.execute(query, (value,)).fetchone() for value in named)


def _hashes(record: catalogues.Record) -> Iterator[tuple[str, Value]]:
    for column in _MD5:
        if (value := record.get(column)) and re.fullmatch("[0-9a-fA-F]{32}", value):
            yield "md5", bytes.fromhex(value)
    if (value := record.get(_PHASH)) and value.isdecimal():
        number = int(value)
        yield "phash", number - (1 << 64) if number >> 63 else number
