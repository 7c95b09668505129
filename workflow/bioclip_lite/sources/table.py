"""Source csv: any table (.csv, .tsv) of photographs with paths or web addresses.

``index.path`` is the table. Column ``file`` (or filepath, url ...) holds a path relative to the table's folder or an
address; the other columns are those of metadata.csv in source folder, in the spellings of ``fields``. The engines watch
the table, not the photographs: a changed photograph shows when stage shard finds that it no longer fits the index.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.sources import places, rows
from bioclip_lite.sources.sample import Reject, Sample
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    table = Path(params["path"])
    if not table.is_file():
        problem = "is a folder" if table.is_dir() else "does not exist"
        raise UserError(f"params.yaml, index.path: {table} {problem}; source csv needs a table, e.g. data/photos.csv")
    yield from rows.photographs(table)


def prepare(params: "Origin", locators: Iterable[str]) -> None:
    places.prepare(params, locators)


def read(params: "Origin", locator: str) -> bytes:
    return places.read(params, Path(params["path"]).parent, locator)
