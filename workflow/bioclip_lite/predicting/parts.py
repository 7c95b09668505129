"""A run that goes on where it was ended: its records are kept in parts beside the output until that is complete.

A part is written under its name when it is complete, so an end at any moment loses the photographs of one batch at the
most, and those are answered again.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip_lite.predicting.records import SCHEMA, Record, state
from bioclip_lite.utils.files import PARTIAL, check_folder, read_json, replacing_folder, write_json, write_table

_SETTINGS = "settings.json"
_NAMES = (_SETTINGS, "part-*.parquet")
_KNOWN_BY = ["file", "size", "modified"]


def folder_of(output: Path) -> Path:
    """The folder of the parts of an output."""
    return output.with_name(f"{output.name}.unfinished")


def begin(folder: Path, settings: dict[str, Any], files: Sequence[Path]) -> list[Path]:
    """Make the folder, or take what an earlier run with the same settings left there; returns the files yet to answer.

    Answers to files that have changed since, or are no longer asked for, are removed.

    Args:
        settings: all that answers depend on, as JSON gives it back.

    Raises:
        UserError: the folder is there and holds something else.
    """
    if (folder / _SETTINGS).is_file():
        for left in folder.glob(f"{PARTIAL}*"):  # an end while a part was written
            shutil.rmtree(left, ignore_errors=True)
    check_folder(folder, _NAMES)
    known = folder / _SETTINGS
    before = read_json(known) if known.exists() else settings
    if before != settings:
        changed = sorted(name for name in before.keys() | settings.keys() if before.get(name) != settings.get(name))
        print(f"{folder} is of a run with another {', '.join(changed)}: it begins anew", file=sys.stderr)
    if not known.exists() or before != settings:
        with replacing_folder(folder, _NAMES) as scratch:
            write_json(scratch / _SETTINGS, settings)
        return list(files)
    wanted = {_digest(os.fsencode(file), *state(file)) for file in files}
    done: set[int] = set()
    for part in _parts(folder):
        rows = zip(*(pq.read_table(part, columns=[name])[name].to_pylist() for name in _KNOWN_BY), strict=True)
        digests = [_digest(*row) for row in rows]
        keep = [digest in wanted and digest not in done for digest in digests]
        done.update(digest for digest, kept in zip(digests, keep, strict=True) if kept)
        if not all(keep):
            write_table(part, pq.read_table(part).filter(pa.array(keep)))
    return [file for file in files if _digest(os.fsencode(file), *state(file)) not in done]


def _digest(file: bytes, size: int, modified: int) -> int:
    return hash((file, size, modified))


def add(folder: Path, records: Sequence[Record]) -> None:
    """Add the records of a batch to the folder."""
    last = max((int(part.stem.removeprefix("part-")) for part in _parts(folder)), default=0)
    write_table(folder / f"part-{last + 1:07d}.parquet", table(records))


def read(folder: Path) -> Iterator[Record]:
    """Yield all records, in the order in which they were added."""
    for part in _parts(folder):
        yield from cast(Iterable[Record], pq.read_table(part).to_pylist())


def counts(folder: Path) -> tuple[int, int]:
    """(number of records, number of those without an answer for an error)."""
    errors = [pq.read_table(part, columns=["error"])["error"] for part in _parts(folder)]
    return sum(len(some) for some in errors), sum(len(some) - some.null_count for some in errors)


def remove(folder: Path) -> None:
    """Remove the folder, when its output is complete."""
    check_folder(folder, _NAMES)
    shutil.rmtree(folder)


def table(records: Sequence[Record]) -> pa.Table:
    """The records as a table."""
    return pa.Table.from_pylist(cast(list[dict[str, Any]], list(records)), SCHEMA)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))
