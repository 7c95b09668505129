"""Files of predictions: logits and embeddings of a variant by sample key, and its costs.

A variant is two files: ``<variant>.safetensors`` and ``<variant>.json`` with its costs. The former holds "logits"
float32 [n, C] and, of a variant that answers in the teacher's space, "embeddings" float16 [n, D], unit vectors. Its
metadata are JSON: ``keys`` of the n samples, ``taxon_ids`` of the C taxa, both in the order of rows and columns, and
``about``, which says of each further tensor, float32, what its rows are.
"""

import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, replacing, write_json

SPLIT, FITTED_ON = "test", "calibration"  # temperatures and thresholds are fitted on a split of their own
SPEED_FILE = "speed.json"  # beside the predictions, in a folder that exists whether anything is timed or not

# Numbers in memory at a time; a block has at least one row.
_BLOCK_VALUES = 4_000_000
_NAMES = {"<f4": "F32", "<f2": "F16"}  # of types, in a safetensors header


class Block(NamedTuple):
    """Answers of a variant to some photographs."""

    logits: np.ndarray  # float32 [rows, C]
    embeddings: np.ndarray | None = None  # float [rows, D], unit vectors in the teacher's space, if it answers there


@dataclass(frozen=True)
class Answers:
    """Answers of a variant as they are computed, and their costs."""

    keys: list[str]
    blocks: Iterator[Block]  # in the order of ``keys``
    costs: dict[str, Any]  # content of <variant>.json


class Extra(NamedTuple):
    """A further tensor, and a description of its rows that fits into JSON."""

    values: np.ndarray  # float32
    about: Any


@dataclass(frozen=True)
class Predictions:
    """The answers of one variant on disk."""

    path: Path
    keys: list[str]
    taxon_ids: list[str]
    costs: dict[str, Any]
    width: int | None  # length of an embedding; None where there are none
    about: dict[str, Any]  # further tensors

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and their logits, float32 [rows, C], in the order of ``keys``.

        Raises:
            UserError: a logit is not finite.
        """
        return self._blocks("logits", len(self.taxon_ids))

    def embeddings(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and their embeddings, float32 [rows, D], in the order of ``keys``; nothing where there are none.

        Raises:
            UserError: a number is not finite.
        """
        return iter(()) if self.width is None else self._blocks("embeddings", self.width)

    def placed(
        self, keys: list[str], blocks: Iterator[tuple[slice, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows of ``blocks`` that belong to ``keys``: (positions in ``keys``, the rows), block by block."""
        place_of = {key: place for place, key in enumerate(keys)}
        places = np.array([place_of.get(key, -1) for key in self.keys], dtype=np.int64)
        for rows, block in blocks:
            wanted = places[rows] >= 0
            if wanted.any():
                yield places[rows][wanted], block[wanted]

    def extra(self, name: str) -> Extra | None:
        """Read a further tensor; None if there is none of this name."""
        if name not in self.about:
            return None
        with safe_open(self.path, framework="np") as file:
            return Extra(file.get_tensor(name), self.about[name])

    def _blocks(self, name: str, columns: int) -> Iterator[tuple[slice, np.ndarray]]:
        rows = max(1, _BLOCK_VALUES // max(1, columns))
        with safe_open(self.path, framework="np") as file:
            tensor = file.get_slice(name)
            for start in range(0, len(self.keys), rows):
                block = tensor[start : min(start + rows, len(self.keys))].astype(np.float32, copy=False)
                if not np.isfinite(block).all():
                    bad = self.keys[start + int(np.argmin(np.isfinite(block).all(axis=1)))]
                    raise UserError(
                        f"{self.path}: the {name} of {bad} are not finite numbers, so they cannot be compared; "
                        f"the model of variant {self.path.stem} is broken, look at the log of the stage that made it"
                    )
                yield slice(start, start + len(block)), block


def write(
    folder: Path,
    variant: str,
    keys: list[str],
    taxon_ids: list[str],
    blocks: Iterable[Block],
    costs: dict[str, Any],
    extras: Mapping[str, Extra] | None = None,
) -> None:
    """Write a variant block by block: ``blocks`` in the order of ``keys``.

    Raises:
        UserError: the blocks do not have one row per key and one column per taxon.
    """
    extras = extras or {}
    blocks = iter(blocks)
    first = next(blocks, None)
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {"logits": ("<f4", (len(keys), len(taxon_ids)))}
    shapes |= {name: ("<f4", extra.values.shape) for name, extra in extras.items()}
    if first is not None and first.embeddings is not None:
        shapes["embeddings"] = "<f2", (len(keys), first.embeddings.shape[1])  # last: wider numbers stay aligned
    about = {name: extra.about for name, extra in extras.items()}
    header, at = _header(shapes, {"keys": keys, "taxon_ids": taxon_ids, "about": about})
    with replacing(folder / f"{variant}.safetensors") as scratch, scratch.open("wb") as file:
        file.write(header)

        def add(name: str, values: np.ndarray) -> None:
            file.seek(at[name])
            at[name] += file.write(np.ascontiguousarray(values, dtype=shapes[name][0]).tobytes())

        for name, extra in extras.items():
            add(name, extra.values)
        rows = 0
        for block in itertools.chain([first] if first else [], blocks):
            if block.logits.shape[1] != len(taxon_ids):
                raise UserError(
                    f"variant {variant} gives {block.logits.shape[1]} logits for a list of {len(taxon_ids)} taxa"
                )
            rows += len(block.logits)
            add("logits", block.logits)
            if block.embeddings is not None:
                add("embeddings", block.embeddings)
        if rows != len(keys):
            raise UserError(f"variant {variant} answered {rows} of {len(keys)} test photographs")
    write_json(folder / f"{variant}.json", costs)


def _header(
    shapes: Mapping[str, tuple[str, tuple[int, ...]]], about: Mapping[str, Any]
) -> tuple[bytes, dict[str, int]]:
    """The beginning of a safetensors file with tensors of these types and shapes, and where each of them begins.

    The library writes whole tensors only. The format: the length of the header as 8 little-endian bytes, the header as
    JSON padded to a multiple of 8, the values.
    """
    header: dict[str, Any] = {"__metadata__": {name: json.dumps(value) for name, value in about.items()}}
    begins, end = {}, 0
    for name, (code, shape) in shapes.items():
        begins[name], end = end, end + np.dtype(code).itemsize * math.prod(shape)
        header[name] = {"dtype": _NAMES[code], "shape": list(shape), "data_offsets": [begins[name], end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, {name: 8 + len(text) + begin for name, begin in begins.items()}


def read(folder: str | os.PathLike[str], variants: Iterable[str]) -> dict[str, Predictions]:
    """Open the predictions of all variants of a report.

    Raises:
        UserError: predictions are missing or unreadable; all of them are named.
    """
    folder, variants = Path(folder), list(variants)
    missing = [v for v in variants if not all((folder / f"{v}{end}").exists() for end in (".safetensors", ".json"))]
    if missing:
        raise UserError(
            f"{folder} lacks the predictions of {', '.join(missing)}; a report needs every variant: "
            f"run evaluate {missing[0]} (snakemake --cores all evaluate runs what is missing)"
        )
    return {variant: _open(folder, variant) for variant in variants}


def _open(folder: Path, variant: str) -> Predictions:
    path = folder / f"{variant}.safetensors"
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        keys, taxon_ids = json.loads(metadata["keys"]), json.loads(metadata["taxon_ids"])
        about, logits = json.loads(metadata.get("about", "{}")), shapes["logits"]
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is no file of predictions ({error}); delete it and run evaluate {variant}") from None
    embeddings = shapes.get("embeddings", [len(keys), None])
    if logits != [len(keys), len(taxon_ids)] or embeddings[0] != len(keys) or len(set(keys)) != len(keys):
        raise UserError(
            f"{path}: {logits} logits and {embeddings[0]} embeddings for {len(set(keys))} keys; delete it and run "
            f"evaluate {variant}"
        )
    return Predictions(path, keys, taxon_ids, read_json(folder / f"{variant}.json"), embeddings[1], about)
