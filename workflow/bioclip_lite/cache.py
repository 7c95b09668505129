"""The teacher cache: what the teacher answered to every view of every photograph, and to every taxon.

``<shard>.safetensors`` holds "embeddings" float16 (n, K, D), L2-normalised, and "views" float32 (n, K, P), the rows of
``views``; its metadata the sample keys and an *identity* (who embedded what, and how). ``taxa.safetensors`` holds
"text" float32 (C, D). Files of different identities never mix: a student trained on another teacher's targets fails
silently otherwise.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_lite.errors import UserError
from bioclip_lite.files import replacing, require

_TYPES = {"F16": "<f2", "F32": "<f4"}
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}
_REMEDY = "make the cache again: snakemake --cores all logits --forcerun embed_shard embed_taxa"


@dataclass(frozen=True)
class Shard:
    """The cache of one shard; arrays are mapped from the file, not in memory."""

    path: Path
    keys: list[str]
    embeddings: np.ndarray  # float16 (n, K, D)
    views: np.ndarray  # float32 (n, K, P)
    identity: dict[str, Any]


@dataclass(frozen=True)
class Taxa:
    """The text side of the teacher: one row per leaf of the label space."""

    taxon_ids: list[str]
    text: np.ndarray  # float32 (C, D), L2-normalised
    logit_scale: float  # logits = logit_scale * embedding @ text.T
    teacher: str
    prompt: str


def write_tensors(path: str | os.PathLike[str], tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file whose bytes depend on the content alone.

    The safetensors library writes metadata in random order. The format: the length of the header as 8 little-endian
    bytes, the header as JSON padded to a multiple of 8, the values.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as scratch, scratch.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).data)


def map_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(read-only arrays mapped from a safetensors file, metadata); UserError if the file is not complete."""
    path = require(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= path.stat().st_size else {}
        metadata = header.pop("__metadata__")
        arrays = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            shape, dtype = tuple(entry["shape"]), _TYPES[entry["dtype"]]
            if end == begin:
                arrays[name] = np.empty(shape, dtype)
                continue
            arrays[name] = np.memmap(path, dtype, "r", offset=8 + length + begin, shape=shape)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a complete file of the teacher cache ({error}); {_REMEDY}") from error
    return arrays, metadata


def write_shard(
    path: str | os.PathLike[str],
    keys: Sequence[str],
    embeddings: np.ndarray,
    views: np.ndarray,
    identity: dict[str, Any],
) -> None:
    """Write the cache of one shard: ``embeddings`` (n, K, D) and ``views`` (n, K, P) in the order of ``keys``.

    ``identity`` must say everything the embeddings depend on besides the photographs: teacher, its preprocessing,
    the version of the views.
    """
    if not len(keys) == len(embeddings) == len(views):
        raise ValueError(f"{len(keys)} keys, {len(embeddings)} embeddings, {len(views)} views")
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in identity.items()}
    tensors = {"embeddings": embeddings.astype("<f2"), "views": views.astype("<f4")}
    write_tensors(path, tensors, {**metadata, "keys": json.dumps(list(keys))})


def read_shard(path: str | os.PathLike[str]) -> Shard:
    """The cache of one shard; UserError if its parts do not fit each other."""
    arrays, metadata = map_tensors(path)
    try:
        keys = json.loads(metadata.pop("keys"))
        embeddings, views = arrays["embeddings"], arrays["views"]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a shard of the teacher cache (no {error}); {_REMEDY}") from error
    if embeddings.ndim != 3 or views.ndim != 3 or not (embeddings.shape[:2] == views.shape[:2]):
        raise UserError(f"{path}: embeddings {embeddings.shape} and views {views.shape} do not fit; {_REMEDY}")
    if len(keys) != len(embeddings):
        raise UserError(f"{path}: {len(keys)} keys for {len(embeddings)} rows; {_REMEDY}")
    return Shard(Path(path), keys, embeddings, views, dict(sorted(metadata.items())))


def write_taxa(
    path: str | os.PathLike[str],
    taxon_ids: Sequence[str],
    text: np.ndarray,
    logit_scale: float,
    teacher: str,
    prompt: str,
) -> None:
    """Write the taxon text matrix ``text`` (C, D), rows in the order of ``taxon_ids``."""
    metadata = {
        "taxon_ids": json.dumps(list(taxon_ids)),
        "logit_scale": repr(float(logit_scale)),
        "teacher": teacher,
        "prompt": prompt,
    }
    write_tensors(path, {"text": text.astype("<f4")}, metadata)


def read_taxa(path: str | os.PathLike[str]) -> Taxa:
    """The taxon text matrix; UserError if it is not one or does not have one row per taxon."""
    arrays, metadata = map_tensors(path)
    try:
        text, ids = np.array(arrays["text"]), json.loads(metadata["taxon_ids"])
        taxa = Taxa(ids, text, float(metadata["logit_scale"]), metadata["teacher"], metadata["prompt"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a taxon text matrix (no {error}); {_REMEDY}") from error
    if text.ndim != 2 or len(text) != len(ids):
        raise UserError(f"{path}: {len(ids)} taxa for a matrix of shape {text.shape}; {_REMEDY}")
    return taxa


def check_same(shards: Sequence[Shard], taxa: Taxa) -> None:
    """Raise UserError unless all shards and the taxa come from one teacher, one preprocessing, one kind of view.

    ``shards`` may belong to different splits: the number of views may differ between splits, not within one.
    """
    first = shards[0]
    for shard in shards:
        if shard.identity.get("teacher") != taxa.teacher:
            raise UserError(
                f"{shard.path} was embedded by teacher {str(shard.identity.get('teacher'))[:12]}, but the taxa by "
                f"{taxa.teacher[:12]}; a student cannot learn from two; {_REMEDY}"
            )
        if shard.identity != first.identity:
            facts = sorted({*shard.identity, *first.identity})
            other = [fact for fact in facts if shard.identity.get(fact) != first.identity.get(fact)]
            raise UserError(f"{shard.path} and {first.path} differ in {', '.join(other)}; {_REMEDY}")
        if shard.embeddings.shape[2] != taxa.text.shape[1]:
            raise UserError(
                f"{shard.path} has embeddings of {shard.embeddings.shape[2]} numbers, the taxa of "
                f"{taxa.text.shape[1]}; {_REMEDY}"
            )
        split = shard.path.name.split("-")[0]
        same = next(other for other in shards if other.path.name.split("-")[0] == split)
        if (shard.embeddings.shape[1], shard.views.shape[2]) != (same.embeddings.shape[1], same.views.shape[2]):
            raise UserError(
                f"{shard.path} has {shard.embeddings.shape[1]} views of {shard.views.shape[2]} numbers, {same.path} "
                f"has {same.embeddings.shape[1]} of {same.views.shape[2]}; {_REMEDY}"
            )
