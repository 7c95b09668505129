"""The scratch database of stage index. Photographs are its rows, so that memory grows with the number of taxa only."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bioclip_lite.sources.sample import Reject
from bioclip_lite.utils.files import PARTIAL

BATCH = 4096  # rows read or written at a time

_TABLES = """
CREATE TABLE photograph (
    id INTEGER PRIMARY KEY, key TEXT, locator TEXT, observation INTEGER, label INTEGER, taxon INTEGER, common_name TEXT,
    common_names TEXT, licence TEXT, attribution TEXT, supercategory TEXT, caption TEXT, md5 BLOB, width INTEGER,
    height INTEGER, clean INTEGER, truncated INTEGER, teacher_saw INTEGER, phash INTEGER, dhash INTEGER,
    looks_like TEXT, gone INTEGER DEFAULT 0
);
CREATE TABLE observation (id INTEGER PRIMARY KEY, name TEXT UNIQUE, split TEXT, joined TEXT);
CREATE TABLE label (id INTEGER PRIMARY KEY, taxon INTEGER, reason TEXT, detail TEXT, photographs INTEGER);
CREATE TABLE reject (locator TEXT, reason TEXT, detail TEXT);
CREATE TABLE dealt (observation TEXT PRIMARY KEY, split TEXT);
CREATE TABLE left_out (id INTEGER PRIMARY KEY);
CREATE TABLE joins (first TEXT PRIMARY KEY, second TEXT);
CREATE TABLE deals (observation TEXT, split TEXT);
CREATE TABLE identifier (photograph INTEGER, kind TEXT, value TEXT);
CREATE TABLE seen (id INTEGER PRIMARY KEY);
CREATE TABLE held_out (value TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE twin (photograph INTEGER, alike INTEGER, observation INTEGER, circle INTEGER);
"""


@contextmanager
def scratch_database(out: Path) -> Iterator[sqlite3.Connection]:
    """Create an empty database with the tables of the stage in ``out``, and remove it at the end.

    What a killed job has left is removed first: it may be as large as all that is listed.
    """
    folder = out / f"{PARTIAL}database"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    database = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
    try:
        # The file does not outlive the run, so a crash may corrupt it.
        database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_TABLES} BEGIN;")
        yield database
    finally:
        database.close()
        shutil.rmtree(folder, ignore_errors=True)


def count(database: sqlite3.Connection) -> int:
    """Number of photographs that have not been left out."""
    return int(database.execute("SELECT count(*) FROM photograph WHERE NOT gone").fetchone()[0])


def add_reject(database: sqlite3.Connection, reject: Reject) -> None:
    """Record that a photograph is left out, and why."""
    row = (encodable(reject.locator), encodable(reject.reason), encodable(reject.detail))
    database.execute("INSERT INTO reject VALUES (?, ?, ?)", row)


def encodable(text: str | None) -> str | None:
    """The text with "?" for what UTF-8 cannot encode (lone surrogates); None stays None."""
    return None if text is None else text.encode(errors="replace").decode()
