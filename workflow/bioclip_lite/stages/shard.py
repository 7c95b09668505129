"""Stage shard: the photographs as WebDataset tars, a fixed number per split.

A manifest per shard lists what the shard holds, file contents included. It is all that writing the shard depends on, so
a photograph that is added, removed or changed rewrites its own shard and no other.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bioclip_lite import taxonomy
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_table, write_json, write_table
from bioclip_lite.images import to_jpeg
from bioclip_lite.progress import progress
from bioclip_lite.randomness import digest
from bioclip_lite.shards import open_shard, write_shard
from bioclip_lite.sources import SPLITS, find_source

_DESCRIPTION = ("taxon_id", "common_name", "group", "licence", "attribution")
_MANIFEST = ("key", "locator", "md5", *_DESCRIPTION, *taxonomy.RANKS)


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """``job``: "manifests" first, then a shard name such as "train-00000", last "sizes"; None: all of them."""
    counts = params["counts"]
    if job == "manifests":
        _write_manifests(data, counts)
    elif job == "sizes":
        _write_sizes(data, counts)
    elif job is not None:
        _write_shard(data, job, counts)
    else:
        _write_manifests(data, counts)
        for name in names(counts):
            _write_shard(data, name, counts)
        _write_sizes(data, counts)


def names(counts: dict[str, int]) -> list[str]:
    """The shards that parameter ``counts`` asks for."""
    return [f"{split}-{i:05d}" for split in SPLITS for i in range(counts.get(split, 0))]


def _check(images: Counter[str], counts: dict[str, int]) -> None:
    for split in counts:
        if split not in SPLITS:
            raise UserError(f"params.yaml, shard.counts: unknown split {split!r}; splits: {', '.join(SPLITS)}")
    for split in SPLITS:
        number, shards = images[split], counts.get(split, 0)
        if number and not shards:
            raise UserError(f"params.yaml, shard.counts.{split} is 0, but the index has {number} photographs in it")
        if shards and not number:
            raise UserError(f"params.yaml, shard.counts.{split} is {shards}, but the index has no photograph in it")


def shard_number(group: str, count: int) -> int:
    """Which of ``count`` shards an observation belongs to.

    Linear hashing (Litwin, VLDB 1980): one shard more takes half of the samples of one other and leaves the rest alone.
    Shards are of even size where ``count`` is a power of two; otherwise some are twice as large as others.
    """
    size = 1 << (count - 1).bit_length()
    number = digest("shard", group) % size
    return number if number < count else number - size // 2


def _write_manifests(data: Path, counts: dict[str, int]) -> None:
    samples = read_table(data / "index" / "samples.parquet")
    _check(Counter(samples["split"].to_pylist()), counts)
    for split in counts:
        here = samples.filter(pc.equal(samples["split"], split)).select(_MANIFEST)
        numbers = pa.array([shard_number(group, counts[split]) for group in here["group"].to_pylist()], pa.int32())
        for number in range(counts[split]):
            mine = here.filter(pc.equal(numbers, number))
            name = f"{split}-{number:05d}"
            if not mine.num_rows:
                raise UserError(
                    f"shard {name} would be empty; lower shard.counts.{split} in params.yaml (now {counts[split]})"
                )
            write_table(manifest(data, name), mine)
    print(f"shard: {len(names(counts))} manifests, {samples.num_rows} photographs")


def manifest(data: Path, name: str) -> Path:
    return data / "shard" / "manifest" / f"{name}.parquet"


def _write_shard(data: Path, name: str, counts: dict[str, int]) -> None:
    if name not in names(counts):
        raise UserError(f"shard: there is no {name!r}; params.yaml, shard.counts asks for {', '.join(names(counts))}")
    listed = read_table(manifest(data, name))
    origin = json.loads(listed.schema.metadata[b"source"])
    rows = progress(_rows(listed), listed.num_rows, f"shard {name}: photographs")
    written = write_shard(data / "shard" / f"{name}.tar", (_sample(row, origin) for row in rows))
    print(f"shard: {name}.tar, {written} photographs")


def _rows(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _sample(row: dict[str, Any], origin: dict[str, Any]) -> tuple[str, bytes, dict[str, Any]]:
    again = "the source has changed since it was indexed; run stage index again"
    try:
        content = find_source(origin["source"]).read(origin, row["locator"])
    except OSError as error:
        raise UserError(f"shard: {row['locator']} cannot be read ({error}); {again}") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != row["md5"]:
        raise UserError(f"shard: {row['locator']} is not the file that was indexed; {again}")
    description = {name: row[name] for name in _DESCRIPTION}
    description["ranks"] = [row[rank] for rank in taxonomy.RANKS]
    return row["key"], to_jpeg(content), description


def _write_sizes(data: Path, counts: dict[str, int]) -> None:
    """Count the samples of each shard, and remove the tars of an earlier, larger number of shards."""
    out = data / "shard"
    sizes = {f"{name}.tar": len(open_shard(out / f"{name}.tar")) for name in names(counts)}
    write_json(out / "sizes.json", sizes)
    for stale in [*out.glob("*.tar"), *(out / "manifest").glob("*.parquet")]:
        if f"{stale.stem}.tar" not in sizes:
            stale.unlink()
    print(f"shard: {len(sizes)} shards, {sum(sizes.values())} photographs")
