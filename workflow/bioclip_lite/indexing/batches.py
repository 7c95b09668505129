"""Keep what was read of photographs, batch by batch, beyond the end of a killed job, until its outputs are complete.

Of each batch there is a table with what was found out about each photograph, and the state that its file was in. It
lies in a folder named after all else that decides the result, in a file named after the photographs, so that it is
found only by a run that would find out the same. A job that is killed loses the batches that it was reading.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from bioclip_lite.sources.sample import Reject
from bioclip_lite.utils.code_fingerprint import PACKAGE, closure, file_meaning
from bioclip_lite.utils.files import PARTIAL, read_table, write_table

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import ReadPart

FOLDER = f"{PARTIAL}read"  # in data/index; no engine tracks it, and the ledger job of a complete stage removes it
_DECIDE = ("source", "path", "seed", "synthetic", "min_side")  # parameters


class Seen(NamedTuple):
    """Properties of a photograph's file."""

    md5: bytes
    width: int  # pixels
    height: int
    clean: bool  # stage shard can take the file as it is
    truncated: bool  # lacks its last bytes
    phash: int | None  # signed, as SQLite stores it; None for a plain image
    dhash: int | None


class Result(NamedTuple):
    """A photograph as it was read."""

    found: Seen | Reject
    state: str | None  # of its file, see ``places.state``; None: it is to be read again


FOUND = (  # columns of what was found: those of a Reject, and else those of Seen
    *(("reason", pa.string()), ("detail", pa.string()), ("md5", pa.binary(16))),
    *(("width", pa.int32()), ("height", pa.int32()), ("clean", pa.bool_()), ("truncated", pa.bool_())),
    *(("phash", pa.int64()), ("dhash", pa.int64())),
)
_SCHEMA = pa.schema([("place", pa.int32()), ("state", pa.string()), *FOUND])


def folder_of(out: Path, params: "ReadPart") -> Path:
    """The folder in ``out``, data/index, of the batches read with these parameters, this code and these libraries."""
    code = [file_meaning(PACKAGE.parents[1] / file) for file in closure("indexing.reading", "sources.registry")]
    libraries = [version(library) for library in ("pillow", "pillow-heif", "numpy", "scipy")]
    decided = [[params[name] for name in _DECIDE], code, libraries]  # type: ignore[literal-required]
    return out / FOLDER / hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:16]


def path_of(folder: Path, locators: Iterable[str]) -> Path:
    """The file of the batch of the photographs at ``locators``."""
    return folder / f"{hashlib.sha256(json.dumps([*locators]).encode()).hexdigest()}.parquet"


def kept(path: Path, locators: Sequence[str], state: Callable[[str], str | None]) -> dict[int, Result]:
    """Read the batch at ``path``: results by place in ``locators``, of photographs whose files are as they were."""
    try:
        rows = read_table(path).to_pylist() if path.exists() else []
    except pa.ArrowInvalid:  # the computer itself stopped before all was on its disk
        return {}
    same = (row for row in rows if state(locators[row["place"]]) == row["state"])
    return {row["place"]: Result(found(row, locators[row["place"]]), row["state"]) for row in same}


def found(row: Mapping[str, Any], locator: str) -> Seen | Reject:
    """Read the columns FOUND of a row, which is of the photograph at a locator."""
    if row["reason"] is not None:
        return Reject(locator, row["reason"], row["detail"])
    return Seen(*(row[name] for name in Seen._fields))


def columns(found: Seen | Reject) -> dict[str, Any]:
    """The columns FOUND of what was found; those that it lacks are null."""
    known = {"reason": found.reason, "detail": found.detail} if isinstance(found, Reject) else found._asdict()
    return {name: known.get(name) for name, _ in FOUND}


def keep(path: Path, results: Sequence[Result]) -> None:
    """Write what came of a batch's photographs, in their order, but for those that are to be read again."""
    rows = [
        {"place": place, "state": state, **columns(found)}
        for place, (found, state) in enumerate(results)
        if state is not None
    ]
    write_table(path, pa.Table.from_pylist(rows, _SCHEMA))
