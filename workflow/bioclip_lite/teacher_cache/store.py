"""The teacher cache: the teacher's embeddings of every view of every photograph, and of every taxon.

``<shard>.safetensors`` holds "images" uint64 (n,), a digest of each photograph's bytes; "views" float32 (n, K, P), the
rows of ``views``; and "embeddings" (n, K, D), L2-normalised, either float16, or int8 with "scales" float32 (n, K). Its
metadata are the sample keys and an *identity*: the teacher, the views and the precision. ``taxa.safetensors`` holds
"text" float32 (C, D), ``texts.safetensors`` the taxa in every text type. Files of different identities never mix: a
student trained on another teacher's targets fails silently otherwise.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.utils import tensors
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import require
from bioclip_lite.utils.tensors import Tensors, write_tensors

_REMEDY = "make the cache again: snakemake --cores all logits --forcerun embed_shard embed_taxa"


@dataclass(frozen=True)
class Shard:
    """The cache of one shard of n photographs; its tensors are mapped from the file when they are read."""

    path: Path
    tensors: Mapping[str, np.ndarray]
    identity: dict[str, str]

    @cached_property
    def keys(self) -> list[str]:
        """The key of each photograph, read from the file when first asked for."""
        return read_keys(self.path)

    @property
    def images(self) -> np.ndarray:
        """uint64 (n,), see ``image_digest``."""
        return self.tensors["images"]

    @property
    def views(self) -> np.ndarray:
        """float32 (n, K, P)."""
        return self.tensors["views"]

    @property
    def embeddings(self) -> np.ndarray:
        """float16 or int8 (n, K, D), as stored; ``target`` gives their values."""
        return self.tensors["embeddings"]

    @property
    def scales(self) -> np.ndarray | None:
        """Of int8 embeddings: float32 (n, K)."""
        return self.tensors.get("scales")

    def target(self, i: int | slice, k: int | slice) -> np.ndarray:
        """The teacher's embedding of view k of photograph i, or of several: float32 (..., D).

        Its length is 1 to the precision of the cache.
        """
        return decode(self.embeddings[i, k], None if self.scales is None else self.scales[i, k])


@dataclass(frozen=True)
class Taxa:
    """The text side of the teacher: one row per leaf of the label space."""

    taxon_ids: list[str]
    text: np.ndarray  # float32 (C, D), L2-normalised
    logit_scale: float  # logits = logit_scale * embedding @ text.T
    teacher: str
    prompt: str
    lit_columns: list[str] | None = None  # of prompt "lit", what its sentence lists


@dataclass(frozen=True)
class Texts:
    """Every taxon, inner nodes too, in every text type."""

    types: list[str]
    taxon_ids: list[str]
    text: np.ndarray  # float16 (T, C', D), L2-normalised; mapped from the file
    teacher: str


def folder(data: Path, teacher: str = FIRST) -> Path:
    """data/logits for the first teacher, data/logits/NAME for the others."""
    return data / "logits" if teacher == FIRST else data / "logits" / teacher


def teachers(data: Path) -> list[str]:
    """The teachers that have a cache in a data folder, the first one first."""
    return [FIRST, *sorted(path.parent.name for path in (data / "logits").glob("*/taxa.safetensors"))]


def image_digest(jpeg: bytes) -> int:
    """The first 64 bits of the SHA-256 of a photograph's file."""
    return int.from_bytes(hashlib.sha256(jpeg).digest()[:8], "big")


def encode(embeddings: np.ndarray, precision: str) -> dict[str, np.ndarray]:
    """The tensors that hold ``embeddings`` (..., D) in a precision.

    "float16" takes 2 bytes a number, "int8" one and a float32 scale per embedding: value = scale * int8.
    """
    if precision == "float16":
        return {"embeddings": embeddings.astype("<f2")}
    if precision != "int8":
        raise ValueError(f"precision {precision!r}; there are float16 and int8")
    scales = np.abs(embeddings).max(-1, initial=1e-12).astype("<f4") / np.float32(127)
    return {"scales": scales, "embeddings": np.rint(embeddings / scales[..., None]).astype("|i1")}


def decode(embeddings: np.ndarray, scales: np.ndarray | None = None) -> np.ndarray:
    """What ``encode`` was given, to its precision: float32 (..., D)."""
    values = np.asarray(embeddings, np.float32)
    return values if scales is None else values * np.asarray(scales)[..., None]


def map_tensors(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, str]]:
    """(the tensors of a file of the teacher cache, its metadata); UserError if the file is not complete."""
    path = require(path)
    try:
        return tensors.map_tensors(path)
    except ValueError as error:
        raise UserError(f"{path} is not a complete file of the teacher cache ({error}); {_REMEDY}") from error


def write_shard(
    path: str | os.PathLike[str],
    keys: Sequence[str],
    images: np.ndarray,
    views: np.ndarray,
    encoded: dict[str, np.ndarray],
    identity: dict[str, str],
) -> None:
    """Write the cache of one shard: ``images`` (n,), ``views`` (n, K, P) and ``encoded`` in the order of ``keys``.

    ``encoded`` is what ``encode`` made of the embeddings (n, K, D). ``identity`` must say everything they depend on
    besides the photographs: teacher, its preprocessing, the version of the views, the precision.
    """
    arrays = {"images": images.astype("<u8"), "views": views.astype("<f4"), **encoded}  # widest first: all are aligned
    if {len(array) for array in arrays.values()} != {len(keys)}:
        counts = ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
        raise ValueError(f"{len(keys)} keys, {counts}")
    write_tensors(path, arrays, {**identity, "keys": json.dumps(list(keys))})


def read_shard(path: str | os.PathLike[str]) -> Shard:
    """The cache of one shard; UserError if its parts do not fit each other."""
    arrays, metadata = map_tensors(path)
    try:
        keys = json.loads(metadata.pop("keys"))
        images, views, embeddings = arrays["images"], arrays["views"], arrays["embeddings"]
        scales = arrays["scales"] if embeddings.dtype == np.int8 else None
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a shard of the teacher cache (no {error}); {_REMEDY}") from error
    if embeddings.ndim != 3 or views.ndim != 3 or not (embeddings.shape[:2] == views.shape[:2]):
        raise UserError(f"{path}: embeddings {embeddings.shape} and views {views.shape} do not fit; {_REMEDY}")
    if scales is not None and scales.shape != embeddings.shape[:2]:
        raise UserError(f"{path}: embeddings {embeddings.shape} and scales {scales.shape} do not fit; {_REMEDY}")
    if not len(keys) == len(images) == len(embeddings):
        raise UserError(f"{path}: {len(keys)} keys for {len(embeddings)} rows of {len(images)} photographs; {_REMEDY}")
    return Shard(Path(path), arrays, dict(sorted(metadata.items())))


def read_keys(path: str | os.PathLike[str]) -> list[str]:
    """The keys of the photographs in a cache that ``read_shard`` has read."""
    keys: list[str] = json.loads(tensors.read_metadata(Path(path))["keys"])
    return keys


def write_taxa(
    path: str | os.PathLike[str],
    taxon_ids: Sequence[str],
    text: np.ndarray,
    logit_scale: float,
    teacher: str,
    prompt: str,
    given_logit_scale: float | None = None,
    lit_columns: Sequence[str] | None = None,
) -> None:
    """Write the taxon text matrix ``text`` (C, D), rows in the order of ``taxon_ids``.

    ``given_logit_scale``: the teacher's own, where ``logit_scale`` is another. ``lit_columns``: of prompt "lit".
    """
    given = logit_scale if given_logit_scale is None else given_logit_scale
    metadata = {
        "taxon_ids": json.dumps(list(taxon_ids)),
        "logit_scale": repr(float(logit_scale)),
        "given_logit_scale": repr(float(given)),
        "teacher": teacher,
        "prompt": prompt,
        **({"lit_columns": json.dumps(list(lit_columns))} if lit_columns else {}),
    }
    write_tensors(path, {"text": text.astype("<f4")}, metadata)


def read_taxa(path: str | os.PathLike[str]) -> Taxa:
    """The taxon text matrix; UserError if it is not one or does not have one row per taxon."""
    arrays, metadata = map_tensors(path)
    try:
        text, ids = np.array(arrays["text"]), json.loads(metadata["taxon_ids"])
        columns = json.loads(metadata.get("lit_columns", "null"))
        taxa = Taxa(ids, text, float(metadata["logit_scale"]), metadata["teacher"], metadata["prompt"], columns)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a taxon text matrix (no {error}); {_REMEDY}") from error
    if text.ndim != 2 or len(text) != len(ids):
        raise UserError(f"{path}: {len(ids)} taxa for a matrix of shape {text.shape}; {_REMEDY}")
    if not np.isfinite(text).all():
        raise UserError(f"{path} holds NaN or infinity: an earlier version took it from a broken teacher; {_REMEDY}")
    return taxa


def write_texts(
    path: str | os.PathLike[str], types: Sequence[str], taxon_ids: Sequence[str], text: np.ndarray, teacher: str
) -> None:
    """Write ``text`` (T, C', D), the embeddings of every taxon in every text type, as float16."""
    if text.shape[:2] != (len(types), len(taxon_ids)):
        raise ValueError(f"{len(types)} text types and {len(taxon_ids)} taxa for embeddings of shape {text.shape}")
    metadata = {"types": json.dumps(list(types)), "taxon_ids": json.dumps(list(taxon_ids)), "teacher": teacher}
    write_tensors(path, {"texts": text.astype("<f2")}, metadata)


def read_texts(path: str | os.PathLike[str]) -> Texts:
    """What ``write_texts`` wrote; UserError if it is something else."""
    arrays, metadata = map_tensors(path)
    try:
        types, ids, text = json.loads(metadata["types"]), json.loads(metadata["taxon_ids"]), arrays["texts"]
        teacher = metadata["teacher"]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} does not hold the texts of the taxa (no {error}); {_REMEDY}") from error
    if text.ndim != 3 or text.shape[:2] != (len(types), len(ids)):
        raise UserError(f"{path}: {len(types)} text types and {len(ids)} taxa for shape {text.shape}; {_REMEDY}")
    return Texts(types, ids, text, teacher)


def check_same(shards: Sequence[Shard], taxa: Taxa) -> None:
    """Raise UserError unless all shards and the taxa come from one teacher, one preprocessing, one kind of view.

    ``shards`` may belong to different splits: the number of views may differ between splits, not within one.
    """
    first, first_of = shards[0], {_split(shard): shard for shard in reversed(shards)}
    for shard in shards:
        if shard.identity.get("teacher") != taxa.teacher:
            raise UserError(
                f"{shard.path} was embedded by teacher {str(shard.identity.get('teacher'))[:12]}, but the taxa by "
                f"{taxa.teacher[:12]}; a student cannot learn from two; {_REMEDY}"
            )
        if shard.identity != first.identity:
            entries = sorted({*shard.identity, *first.identity})
            other = [entry for entry in entries if shard.identity.get(entry) != first.identity.get(entry)]
            raise UserError(f"{shard.path} and {first.path} differ in {', '.join(other)}; {_REMEDY}")
        if shard.embeddings.shape[2] != taxa.text.shape[1]:
            raise UserError(
                f"{shard.path} has embeddings of {shard.embeddings.shape[2]} numbers, the taxa of "
                f"{taxa.text.shape[1]}; {_REMEDY}"
            )
        same = first_of[_split(shard)]
        if (shard.embeddings.shape[1], shard.views.shape[2]) != (same.embeddings.shape[1], same.views.shape[2]):
            raise UserError(
                f"{shard.path} has {shard.embeddings.shape[1]} views of {shard.views.shape[2]} numbers, {same.path} "
                f"has {same.embeddings.shape[1]} of {same.views.shape[2]}; {_REMEDY}"
            )


def _split(shard: Shard) -> str:
    return shard.path.name.split("-")[0]
