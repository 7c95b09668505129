"""Stage caption: every text type for every sample, one table per shard."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from bioclip_lite.captions import TYPES, caption
from bioclip_lite.files import write_table
from bioclip_lite.shards import descriptions, shard_names

SCHEMA = pa.schema([(name, pa.string()) for name in ("key", *TYPES)])


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """``job``: the name of a shard; None: all shards."""
    for name in [job] if job else shard_names(data):
        rows = [
            {"key": key, **_captions(tuple(sample["ranks"]), sample["common_name"], params["lit_columns"])}
            for key, sample in descriptions(data / "shard" / f"{name}.tar")
        ]
        write_table(data / "caption" / f"{name}.parquet", pa.Table.from_pylist(rows, SCHEMA))
        print(f"caption: {name}, {len(rows)} photographs with {len(TYPES)} captions each")


def _captions(path: tuple[str | None, ...], common_name: str | None, lit_columns: list[str]) -> dict[str, str]:
    return {kind: caption(path, common_name, kind, lit_columns) for kind in TYPES}
