"""Read a large source by parts, each in a job of its own, and hand what was found to the job that writes the tables.

data/index/manifest/<part>.parquet lists the photographs of a part, data/index/read/<part>.parquet what was found out
about each of them, in the same order. Parts follow the order of the source and are of even size.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip_lite.indexing import batches, reading
from bioclip_lite.indexing.database import BATCH
from bioclip_lite.sources.sample import Reject
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import require, write_json, write_rows
from bioclip_lite.utils.job_names import part_name

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin, ReadPart

_LOCATOR = ("locator", pa.string())
_MANIFEST = pa.schema([_LOCATOR])
_READ = pa.schema([_LOCATOR, *batches.FOUND])


def write_manifests(out: Path, locators: Iterator[str], total: int, count: int) -> None:
    """Divide ``total`` photographs among ``count`` parts."""
    for part in range(count):
        size = total * (part + 1) // count - total * part // count
        rows = ((locator,) for locator in islice(locators, size))
        write_rows(out / "manifest" / f"{part_name(part)}.parquet", _MANIFEST, rows, BATCH)


def download(params: "Origin", out: Path, part: str) -> None:
    """Download the photographs of a part that are not here; what cannot be had is left to ``read`` to tell."""
    listed = _manifest(out, part)
    if prepare := reading.access(params).prepare:
        prepare(chain.from_iterable(_locators(listed)))
    write_json(out / "downloads" / f"{part}.json", {"photographs": listed.metadata.num_rows})


def read(params: "ReadPart", out: Path, part: str) -> None:
    """Read the photographs of a part; raises as ``reading.read_photographs``."""
    listed = _manifest(out, part)
    folder = batches.folder_of(out, params)
    numbered = ([*enumerate(locators)] for locators in _locators(listed))
    found = reading.read_photographs(params, numbered, listed.metadata.num_rows, folder)
    pairs = zip(chain.from_iterable(_locators(listed)), found, strict=True)
    rows = ((locator, *batches.columns(one).values()) for locator, (_, one) in pairs)
    write_rows(out / "read" / f"{part}.parquet", _READ, rows, BATCH)
    for locators in _locators(listed):
        batches.path_of(folder, locators).unlink(missing_ok=True)
    print(f"index: part {part}, {listed.metadata.num_rows} photographs")


def found(listed: Iterable[reading.Batch], out: Path, count: int) -> Iterator[tuple[int, batches.Seen | Reject]]:
    """Yield the number of each photograph in ``listed``, and what the jobs of ``count`` parts have found.

    Raises:
        UserError: they have read other photographs.
    """
    rows = chain.from_iterable(_rows(out, part_name(part)) for part in range(count))
    for photograph, row in zip_longest(chain.from_iterable(listed), rows):
        if photograph is None or row is None or photograph[1] != row["locator"]:
            raise UserError(
                f"{out / 'read'} holds other photographs than the source lists now; read it again: "
                "snakemake --cores all index"
            )
        yield photograph[0], batches.found(row, row["locator"])


def _manifest(out: Path, part: str) -> pq.ParquetFile:
    return pq.ParquetFile(require(out / "manifest" / f"{part}.parquet"))


def _locators(listed: pq.ParquetFile) -> Iterator[list[str]]:
    """Yield the locators of a manifest in batches, the same ones at any time."""
    return (batch["locator"].to_pylist() for batch in listed.iter_batches(BATCH))


def _rows(out: Path, part: str) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(require(out / "read" / f"{part}.parquet")).iter_batches(BATCH):
        yield from batch.to_pylist()
