"""A table of rows by key that is too large for memory: catalogues of millions of photographs, joined by their id."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

_BATCH = 10_000


@contextmanager
def lookup(rows: Iterable[tuple[str, Any]]) -> Iterator[Callable[[str], list[Any]]]:
    """Yield a function that gives the values of a key, in the order of ``rows``; values are what JSON can hold.

    The rows lie in a temporary file of SQLite, which is gone afterwards, also if the process is killed.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as table:
        table.execute("PRAGMA journal_mode = OFF")
        table.execute("PRAGMA synchronous = OFF")
        table.execute("CREATE TABLE found (key TEXT, value TEXT)")
        waiting = ((_text(key), json.dumps(value)) for key, value in rows)
        while batch := list(islice(waiting, _BATCH)):
            table.execute("BEGIN")
            table.executemany("INSERT INTO found VALUES (?, ?)", batch)
            table.execute("COMMIT")
        table.execute("CREATE INDEX by_key ON found (key)")  # sorts once; an index that grows with the rows does not

        def get(key: str) -> list[Any]:
            answer = table.execute("SELECT value FROM found WHERE key = ? ORDER BY rowid", (_text(key),))
            return [json.loads(value) for (value,) in answer]

        yield get


def _text(key: str) -> str:
    return key.encode("utf-8", "backslashreplace").decode()
