"""Which files hold photographs that may not be published, by the licences in the index."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import NamedTuple

import pyarrow.parquet as pq

from bioclip_lite.photographs.licences import may_be_published
from bioclip_lite.photographs.members import open_shard

SAMPLES = "data/index/samples.parquet"
CHARTS = "data/evaluate/plots/"
# Every other kind of file may hold photographs.
TABLES_AND_MODELS = {
    ".json",
    ".parquet",
    ".csv",
    ".tsv",
    ".txt",
    ".md",
    ".yaml",
    ".safetensors",
    ".bin",
    ".sig",
    ".pt",
    ".onnx",
}
# Collections whose terms forbid to hand photographs on, whatever the licence of each.
TERMS = {"inat2021": "terms of iNaturalist 2021: not to be distributed"}
_LISTED = 10  # refused files in a message


class Samples(NamedTuple):
    """Licences, owners and splits of the photographs, from the index."""

    licences: dict[str, str | None]
    attributions: dict[str, str | None]
    test: list[str]  # keys
    keys: dict[str, str]  # by path, where the source is a folder


class Refused(NamedTuple):
    path: str
    photographs: int  # that the file holds or may hold
    licences: Counter[str]  # of those that may not be published
    example: str


def may_hold_photographs(path: str) -> bool:
    return PurePath(path).suffix.lower() not in TABLES_AND_MODELS and not path.startswith(CHARTS)


def refuse(path: str, content: Path, samples: Samples) -> Refused | None:
    keys = _photographs(path, content, samples)
    kept = [key for key in keys if not may_be_published(samples.licences.get(key))]
    if not kept:
        return None
    counts = Counter(_licence(key, samples) for key in kept)
    owner = samples.attributions.get(kept[0])
    return Refused(path, len(keys), counts, f"{kept[0]} by {owner}" if owner else kept[0])


def _licence(key: str, samples: Samples) -> str:
    if key not in samples.licences:
        return "unknown to the index"
    licence = (samples.licences[key] or "").strip()
    return f'"{licence}"' if licence else "without a licence"


def _photographs(path: str, content: Path, samples: Samples) -> list[str]:
    """Keys of the photographs that a file holds or may hold; a file that the index does not know stands for itself."""
    if path in samples.keys:
        return [samples.keys[path]]
    if not may_hold_photographs(path):
        return []
    if path.startswith("data/shard/") and path.endswith(".tar"):
        return [entry.key for entry in open_shard(content)]
    if path == "data/index/contact_sheet.png":  # some of all photographs
        return list(samples.licences)
    if path == "data/index/report.html":  # some of all photographs, and examples of those that were left out
        return [*samples.licences, *([path] if b'class="example"' in content.read_bytes() else [])]
    if path == "data/evaluate/report.html":  # some of the test photographs
        return samples.test
    return [path]


def read_samples(path: Path) -> Samples:
    """Read what data/index/samples.parquet says of the photographs, and of the terms of their collection."""
    table = pq.read_table(path, columns=["key", "locator", "split", "licence", "attribution"])
    origin = json.loads(table.schema.metadata[b"source"])
    key, locator, split, licence, attribution = (table[name].to_pylist() for name in table.column_names)
    in_folder = origin["source"] == "folder"
    if origin["source"] in TERMS:
        licence = [TERMS[origin["source"]]] * len(key)
    return Samples(
        licences=dict(zip(key, licence, strict=True)),
        attributions=dict(zip(key, attribution, strict=True)),
        test=[k for k, s in zip(key, split, strict=True) if s == "test"],
        keys={f"{PurePath(origin['path'])}/{where}": k for where, k in zip(locator, key, strict=True)}
        if in_folder
        else {},
    )


def lines(refused: Iterable[Refused]) -> list[str]:
    """Describe refused files for a message, one a line: how many photographs, under which licences, and an example."""
    refused = list(refused)
    described = []
    for file in refused[:_LISTED]:
        kinds = ", ".join(f"{count} {licence}" for licence, count in file.licences.most_common(3))
        described.append(f"  {file.path}: {file.licences.total()} of {file.photographs}: {kinds}; e.g. {file.example}")
    return [*described, *([f"  and {len(refused) - _LISTED} more files"] if len(refused) > _LISTED else [])]


MAY_GO = "Public domain, CC0 and CC BY licences may be published, also -NC, -ND and -SA."
