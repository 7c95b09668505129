"""Stage shard: the photographs as WebDataset tars, a fixed number per split.

A manifest per shard lists what the shard holds, file contents included. It is all that writing the shard depends on, so
a photograph that is added, removed or changed rewrites its own shard and no other.
"""

import hashlib
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bioclip_lite.photographs import members
from bioclip_lite.photographs.images import to_jpeg
from bioclip_lite.photographs.shards import split_of, write_shard
from bioclip_lite.sources import gzipped
from bioclip_lite.sources.registry import find_source
from bioclip_lite.sources.sample import SPLITS
from bioclip_lite.taxa import taxonomy
from bioclip_lite.texts.text_types import caption
from bioclip_lite.utils import job_names, tensors
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import require, write_json, write_table
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import digest

if TYPE_CHECKING:
    from bioclip_lite.utils import sections

_DESCRIPTION = ("taxon_id", "common_name", "common_names", "group", "licence", "attribution")
JOBS = ("manifests", "sizes", "{shard}")  # job_names
_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}")
_BATCH, _BLOCK = 131_072, 100_000  # rows in memory at a time: while they are read, and while manifests are written
_FILES = 512  # scratch files open at a time; most systems allow a process 1,024
_OF_SOME = ("supercategory", "caption")  # in the description of a photograph whose source states them
_MANIFEST = ("key", "locator", "md5", "width", "height", "clean", *_DESCRIPTION, *_OF_SOME, *taxonomy.RANKS)


def run(params: "sections.Shard", data: Path, job: str | None = None) -> None:
    """``job``: "manifests" first, then a shard name such as "train-00000", last "sizes"; None: all of them."""
    if job is not None:
        job_names.parse("shard", job, JOBS)
    if job in (None, "manifests"):
        _write_manifests(data, params["counts"])
    for name in names(params["counts"]) if job is None else {job} - {"manifests", "sizes"}:
        _write_shard(data, name, params["max_side"])
    if job in (None, "sizes"):
        _write_sizes(data, params["counts"])


def names(counts: Mapping[str, int]) -> list[str]:
    """The shards that parameter ``counts`` asks for."""
    return [f"{split}-{i:05d}" for split in SPLITS for i in range(counts.get(split, 0))]


def _check(images: Counter[str], counts: Mapping[str, int]) -> None:
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


def _write_manifests(data: Path, counts: Mapping[str, int]) -> None:
    """Deal the samples to shards, through scratch files of some shards each, so that memory does not grow with them."""
    path = require(data / "index" / "samples.parquet")
    images: Counter[str] = Counter()
    for batch in pq.ParquetFile(path).iter_batches(columns=["split"]):
        images.update(batch["split"].to_pylist())
    _check(images, counts)
    wanted = {name: number for number, name in enumerate(names(counts))}
    blocks = min(len(wanted), 1 + images.total() // _BLOCK, _FILES)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(block)) for block in range(blocks)]
        _deal(path, files, wanted, counts)
        for block, file in enumerate(files):
            table = pq.read_table(file)
            for name, number in wanted.items():
                if number % blocks == block:
                    _write_manifest(data, name, table.filter(pc.equal(table["shard"], number)), counts)
    print(f"shard: {len(wanted)} manifests, {images.total()} photographs")


def _deal(path: Path, files: list[Path], wanted: Mapping[str, int], counts: Mapping[str, int]) -> None:
    """Append each row of the table ``path`` to the scratch file of its shard, with the shard's number."""
    schema = pq.read_schema(path)
    schema = pa.schema([*map(schema.field, _MANIFEST), pa.field("shard", pa.int32())], schema.metadata)
    with ExitStack() as stack:
        writers = [stack.enter_context(pq.ParquetWriter(file, schema)) for file in files]
        for batch in pq.ParquetFile(path).iter_batches(_BATCH):
            rows = zip(batch["split"].to_pylist(), batch["group"].to_pylist(), strict=True)
            numbers = [wanted[f"{split}-{shard_number(group, counts[split]):05d}"] for split, group in rows]
            batch = batch.select(_MANIFEST).append_column("shard", pa.array(numbers, pa.int32())).cast(schema)
            file_of = np.array(numbers) % len(files)
            order = np.argsort(file_of, kind="stable")
            ends = np.cumsum(np.bincount(file_of, minlength=len(files)))
            for writer, part in zip(writers, np.split(order, ends[:-1]), strict=True):
                if len(part):
                    writer.write_batch(batch.take(pa.array(part)))


def _write_manifest(data: Path, name: str, listed: pa.Table, counts: Mapping[str, int]) -> None:
    split = split_of(name)
    if not listed.num_rows:
        raise UserError(f"shard {name} would be empty; lower shard.counts.{split} in params.yaml (now {counts[split]})")
    # What a teacher's cache of the shard says before its numbers; a quote or a comma takes up to six bytes a key.
    header = pc.sum(pc.binary_length(listed["key"])).as_py() + 6 * listed.num_rows
    if header > tensors.HEADER_BYTES:
        raise UserError(
            f"shard {name} would have {listed.num_rows} photographs, whose keys take {header} bytes; readers of the "
            f"teacher's cache allow {tensors.HEADER_BYTES}; raise shard.counts.{split} in params.yaml (now "
            f"{counts[split]})"
        )
    # In one piece: how the table came together must not show in the file, which decides whether a shard is current.
    write_table(manifest(data, name), listed.drop_columns(["shard"]).combine_chunks())


def manifest(data: Path, name: str) -> Path:
    return data / "shard" / "manifest" / f"{name}.parquet"


def _write_shard(data: Path, name: str, max_side: int | None) -> None:
    listed = pq.ParquetFile(require(manifest(data, name)))
    origin = json.loads(listed.schema_arrow.metadata[b"source"])
    prepare = getattr(find_source(origin["source"]), "prepare", None)
    if prepare is not None:  # what stage index has downloaded may have been on another machine
        prepare(origin, (row["locator"] for row in _rows(listed, ["locator"])))
    read = partial(find_source(origin["source"]).read, origin)
    rows = progress(_rows(listed), listed.metadata.num_rows, f"shard {name}: photographs")
    locators = (row["locator"] for row in _rows(listed, ["locator"]))
    with gzipped.in_order(read, locators, data / "shard") as content:
        samples = (_sample(row, content, max_side) for row in rows)
        written = write_shard(tar := data / "shard" / f"{name}.tar", samples, _text)
    members.write(tar)
    print(f"shard: {name}.tar, {written} photographs")


def _rows(table: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    for batch in table.iter_batches(1024, columns=columns):
        yield from batch.to_pylist()


def _sample(
    row: dict[str, Any], read: Callable[[str], bytes], max_side: int | None
) -> tuple[str, bytes, dict[str, Any]]:
    again = "the source has changed since it was indexed; run stage index again"
    try:
        content = read(row["locator"])
    except OSError as error:
        raise UserError(f"shard: {row['locator']} cannot be read ({error}); {again}") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != row["md5"]:
        raise UserError(f"shard: {row['locator']} is not the file that was indexed; {again}")
    description = {name: row[name] for name in _DESCRIPTION}
    description["common_names"] = dict(description["common_names"] or ())  # Arrow gives a map as pairs
    description |= {name: row[name] for name in _OF_SOME if row[name] is not None}
    description["ranks"] = [row[rank] for rank in taxonomy.RANKS]
    as_it_is = row["clean"] and max(row["width"], row["height"]) <= (max_side or math.inf)
    return row["key"], content if as_it_is else to_jpeg(content, max_side), description


def _text(description: dict[str, Any]) -> str:
    """What open_clip trains on if it is given a shard; data/caption has this and every other text type."""
    if description["taxon_id"] is None:  # of split unlabelled
        return ""
    return caption(tuple(description["ranks"]), description["common_name"], "taxon_com")


def _write_sizes(data: Path, counts: Mapping[str, int]) -> None:
    """Write how many samples each shard has, and remove those of an earlier, larger number of shards.

    Shards are known by their manifests: a tar without one came from elsewhere, and stays.
    """
    out = data / "shard"
    sizes = {}
    for name in names(counts):
        require(out / f"{name}.tar")  # it is complete or absent, and holds all that its manifest lists
        sizes[f"{name}.tar"] = pq.read_metadata(manifest(data, name)).num_rows
    write_json(out / "sizes.json", sizes)
    for listed in (out / "manifest").glob("*.parquet"):
        if f"{listed.stem}.tar" not in sizes and _NAME.fullmatch(listed.stem):
            tar = out / f"{listed.stem}.tar"
            tar.unlink(missing_ok=True)
            members.path_of(tar).unlink(missing_ok=True)
            listed.unlink()
    print(f"shard: {len(sizes)} shards, {sum(sizes.values())} photographs")
