"""Stage shard: the photographs as WebDataset tars, a fixed number per split."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from bioclip_lite import taxonomy
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_table, write_json
from bioclip_lite.images import to_jpeg
from bioclip_lite.progress import progress
from bioclip_lite.randomness import digest
from bioclip_lite.shards import open_shard, split_of, write_shard
from bioclip_lite.sources import SPLITS, find_source


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """``job``: a shard name such as "train-00000", or "sizes" when all shards are there; None: all of them."""
    samples = read_table(data / "index" / "samples.parquet")
    counts = params["counts"]
    _check(Counter(samples["split"].to_pylist()), counts)
    if job == "sizes":
        _write_sizes(data, counts)
    elif job is not None:
        _write_shard(samples, data, job, counts)
    else:
        for name in names(counts):
            _write_shard(samples, data, name, counts)
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


def _write_shard(samples: Any, data: Path, name: str, counts: dict[str, int]) -> None:
    if name not in names(counts):
        raise UserError(f"shard: there is no {name!r}; params.yaml, shard.counts asks for {', '.join(names(counts))}")
    split, number = split_of(name), int(name.rpartition("-")[2])
    here = samples.filter(pc.equal(samples["split"], split))
    mine = [int(digest("shard", group) % counts[split]) == number for group in here["group"].to_pylist()]
    here = here.filter(mine)
    if not here.num_rows:
        raise UserError(f"shard {name} would be empty; lower shard.counts.{split} in params.yaml (now {counts[split]})")
    origin = json.loads(samples.schema.metadata[b"source"])
    rows = progress(_rows(here), here.num_rows, f"shard {name}: photographs")
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
    description = {name: row[name] for name in ("taxon_id", "common_name", "group", "licence", "attribution")}
    description["ranks"] = [row[rank] for rank in taxonomy.RANKS]
    return row["key"], to_jpeg(content), description


def _write_sizes(data: Path, counts: dict[str, int]) -> None:
    """Count the samples of each shard, and remove the tars of an earlier, larger number of shards."""
    out = data / "shard"
    sizes = {f"{name}.tar": len(open_shard(out / f"{name}.tar")) for name in names(counts)}
    write_json(out / "sizes.json", sizes)
    for stale in out.glob("*.tar"):
        if stale.name not in sizes:
            stale.unlink()
    print(f"shard: {len(sizes)} shards, {sum(sizes.values())} photographs")
