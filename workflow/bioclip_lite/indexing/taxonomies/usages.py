"""Stream the rows of a taxonomy and keep those that are needed in a scratch database, whatever the taxonomy's length.

A *usage* is a row: a name as one taxonomy uses it, accepted or a synonym. Kept are all usages above the species, those
of the genera that are asked for, and by further passes what these refer to: accepted names and ranks between. So the
database grows with the names of the source, and memory with neither.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from bioclip_lite.indexing.taxonomies.forms import Table
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

_BLOCK = 1 << 21  # bytes read at a time
_ROWS = 8192  # rows that become Python objects at a time
_ADDRESS = "https://www.inaturalist.org/taxa/"  # before the numbers in some columns of iNaturalist, not in others
_FIRST_WORD = r"^(?:[xX] )?[^\pL]*(?P<first>[\pL-]+)"
_ABOVE_SPECIES = [
    *("domain", "superkingdom", "kingdom", "subkingdom", "infrakingdom", "superphylum", "phylum", "subphylum"),
    *("infraphylum", "superclass", "class", "subclass", "infraclass", "subterclass", "superorder", "order", "suborder"),
    *("infraorder", "parvorder", "zoosection", "superfamily", "epifamily", "family", "subfamily", "supertribe"),
    *("tribe", "subtribe", "genus"),
]
_FIELDS = ("id", "parent", "accepted", "status", "active", "rank", "name", "ancestry", *taxonomy.RANKS[:6])
_TABLE = """
CREATE TABLE usage (
    id TEXT PRIMARY KEY, parent TEXT, accepted TEXT, status TEXT, rank TEXT, first TEXT, name TEXT, higher TEXT
) WITHOUT ROWID;
CREATE TABLE asked (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_LACKING = (
    "SELECT accepted FROM usage WHERE accepted IS NOT NULL UNION SELECT parent FROM usage WHERE parent IS NOT NULL "
    "EXCEPT SELECT id FROM usage EXCEPT SELECT id FROM asked"
)


class Usage(NamedTuple):
    """A row of a taxonomy."""

    id: str
    parent: str | None
    accepted: str | None  # id of the accepted name, for synonyms
    status: str  # in lower case; "" where none is given
    rank: str
    name: str  # with its author, if the taxonomy writes them together
    higher: tuple[str | None, ...]  # from kingdom to genus, if the row has no parent but columns of ranks


def create(database: sqlite3.Connection) -> None:
    """Create the empty tables of usages."""
    database.executescript(f"{_TABLE} BEGIN;")


def read(database: sqlite3.Connection, table: Table, genera: Iterable[str]) -> tuple[int, int]:
    """Keep all usages above the species, and those whose first word is one of ``genera``, capitalized.

    Returns:
        The number of rows, and of rows that were passed over because they have another number of columns.
    """
    wanted = pa.array(sorted(genera), pa.string())
    total, skipped = 0, [0]
    for batch in _batches(table, skipped):
        total += batch.num_rows
        rank = pc.utf8_lower(batch["rank"])
        keep = [
            pc.is_in(rank, pa.array(_ABOVE_SPECIES)),
            pc.is_null(rank),  # may be anything
            pc.is_in(batch["first"], wanted),
            pc.invert(pc.string_is_ascii(batch["first"])),  # "Isoëtes", which labels write "Isoetes"
        ]
        _add(database, table, batch, keep)
    database.execute("CREATE INDEX IF NOT EXISTS by_first_word ON usage (first)")
    return total, skipped[0]


def read_further(database: sqlite3.Connection, table: Table, genera: Iterable[str]) -> None:
    """Keep the usages of more genera, and all that kept usages refer to; a pass for each step of a chain."""
    wanted = pa.array(sorted(genera), pa.string())
    while (ids := [row[0] for row in database.execute(_LACKING)]) or len(wanted):
        database.executemany("INSERT INTO asked VALUES (?)", zip(ids, strict=True))
        lacking = pa.array(ids, pa.string())
        for batch in _batches(table, [0]):
            _add(database, table, batch, [pc.is_in(batch["id"], lacking), pc.is_in(batch["first"], wanted)])
        wanted = wanted[:0]


def usages_of(database: sqlite3.Connection, first: str) -> list[Usage]:
    """The usages whose name begins with a word, capitalized."""
    rows = database.execute("SELECT * FROM usage WHERE first = ? ORDER BY id", (first,))
    return [_usage(row) for row in rows]


def usage(database: sqlite3.Connection, identity: str) -> Usage | None:
    """The usage with an id, or None if the taxonomy has none."""
    row = database.execute("SELECT * FROM usage WHERE id = ?", (identity,)).fetchone()
    return _usage(row) if row else None


def genera_like(database: sqlite3.Connection, initial: str) -> list[str]:
    """The names of all genera that begin with a letter."""
    query = "SELECT DISTINCT first FROM usage WHERE rank = 'genus' AND first >= ? AND first < ? ORDER BY first"
    return [row[0] for row in database.execute(query, (initial, chr(ord(initial) + 1)))]


def common_names(table: Table, ids: Iterable[str]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield (id of a usage, name, language as written, whether it is preferred) of the usages ``ids``."""
    wanted = pa.array(sorted(ids), pa.string())
    for batch in _batches(table, [0]):
        found = batch.filter(pc.is_in(batch["id"], wanted)).select(["id", "name", "language", "preferred"])
        for row in found.to_pylist():
            name = taxonomy.clean(row["name"])
            if name:
                preferred = (row["preferred"] or "").lower() in ("1", "t", "true", "yes")
                yield row["id"], name, row["language"] or "", preferred


def _usage(row: tuple[str, ...]) -> Usage:
    identity, parent, accepted, status, rank, _, name, higher = row
    names = tuple(taxonomy.clean(part) for part in higher.split("\t")) if higher else ()
    return Usage(identity, parent, accepted, status, rank, name, names)


# ------------------------------------------------------------------------------------------------------------ streaming


def _batches(table: Table, skipped: list[int]) -> Iterator[pa.Table]:
    """Batches with a column of text for each field, null where it is empty, and the first word of the name."""

    def pass_over(row: csv.InvalidRow) -> str:
        skipped[0] += 1
        return "skip"

    kinds = {f"f{place}": pa.string() for place in table.columns.values()}
    try:
        with table.open() as file:
            reader = csv.open_csv(
                file,
                csv.ReadOptions(
                    block_size=_BLOCK,
                    skip_rows=table.skipped,
                    autogenerate_column_names=True,
                    encoding=table.encoding,
                    use_threads=False,
                ),
                csv.ParseOptions(
                    delimiter=table.separator,
                    quote_char=table.quote or False,
                    newlines_in_values=bool(table.quote),
                    invalid_row_handler=pass_over,
                ),
                csv.ConvertOptions(
                    column_types=kinds,
                    include_columns=sorted(kinds),
                    include_missing_columns=True,
                    null_values=["", "\\N"],
                    strings_can_be_null=True,
                ),
            )
            for batch in reader:
                yield _named(batch, table)
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise UserError(
                f"{table.place} of the taxonomy cannot be read ({error}); download it again, or save it as UTF-8"
            ) from None


def _named(batch: pa.RecordBatch, table: Table) -> pa.Table:
    """The batch with the names of fields, and ids as all columns write them."""
    nothing = pa.nulls(batch.num_rows, pa.string())
    fields = (*_FIELDS, "language", "preferred")
    columns = {field: batch[f"f{table.columns[field]}"] if field in table.columns else nothing for field in fields}
    for field in ("id", "parent", "accepted"):
        columns[field] = pc.replace_substring(columns[field], _ADDRESS, "")
    columns["first"] = pc.struct_field(pc.extract_regex(columns["name"], _FIRST_WORD), "first")
    return pa.table(columns)


def _add(database: sqlite3.Connection, table: Table, batch: pa.Table, conditions: list[pa.Array]) -> None:
    keep = conditions[0]
    for condition in conditions[1:]:
        keep = pc.or_(pc.fill_null(keep, False), pc.fill_null(condition, False))
    # A row without an id or a name is of no use, and nothing refers to it.
    kept = batch.filter(pc.and_(keep, pc.and_(pc.is_valid(batch["id"]), pc.is_valid(batch["first"]))))
    for part in kept.to_batches(_ROWS):
        rows = zip(*(part[field].to_pylist() for field in (*_FIELDS, "first")), strict=True)
        database.executemany(
            "INSERT OR IGNORE INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [_row(table, *row) for row in rows]
        )


def _row(
    table: Table,
    identity: str,
    parent: str | None,
    accepted: str | None,
    status: str | None,
    active: str | None,
    rank: str | None,
    name: str,
    ancestry: str | None,
    *more: str | None,
) -> tuple[str | None, ...]:
    """The row of the database for a row of the file."""
    *higher, first = more
    parent = ancestry.rpartition("/")[2] if ancestry else parent
    standing = (status or "").lower().replace("_", " ")
    if active and active.lower() in ("false", "f", "0"):
        standing = "inactive"
    if table.parent_of_synonym and ("synonym" in standing or standing == "misapplied"):
        parent, accepted = None, parent
    linked = accepted if accepted != identity else None
    ranks = None if parent or linked else "\t".join(part or "" for part in higher)
    plain = taxonomy.parse_name(first).genus if first and not first.isascii() else first
    return identity, parent, linked, standing, (rank or "").lower().replace("_", " "), plain, name, ranks
