"""What a variant answered to the test photographs: logits by sample key, and what an answer costs.

A variant is two files: ``<variant>.safetensors`` with "logits" float32 [n, C] and, as metadata, JSON lists of the n
sample ``keys`` and of the C ``taxon_ids`` in the order of rows and columns; and ``<variant>.json`` with its costs.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, replacing, write_json

# Logits in memory at a time; a block has at least one row.
_BLOCK_VALUES = 4_000_000


@dataclass(frozen=True)
class Predictions:
    """The logits of one variant on disk."""

    path: Path
    keys: list[str]
    taxon_ids: list[str]
    costs: dict[str, Any]

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and their logits, float32 [rows, C], in the order of ``keys``.

        Raises:
            UserError: a logit is not finite.
        """
        rows = max(1, _BLOCK_VALUES // max(1, len(self.taxon_ids)))
        with safe_open(self.path, framework="np") as file:
            logits = file.get_slice("logits")
            for start in range(0, len(self.keys), rows):
                block = logits[start : min(start + rows, len(self.keys))]
                if not np.isfinite(block).all():
                    bad = self.keys[start + int(np.argmin(np.isfinite(block).all(axis=1)))]
                    raise UserError(
                        f"{self.path}: the logits of {bad} are not finite numbers, so they cannot be ranked; "
                        f"the model of variant {self.path.stem} is broken, look at the log of the stage that made it"
                    )
                yield slice(start, start + len(block)), block


def write(
    folder: Path,
    variant: str,
    keys: list[str],
    taxon_ids: list[str],
    blocks: Iterable[np.ndarray],
    costs: dict[str, Any],
) -> None:
    """Write a variant block by block: ``blocks`` float [rows, C] in the order of ``keys``.

    Raises:
        UserError: the blocks do not have one row per key and one column per taxon.
    """
    shape = [len(keys), len(taxon_ids)]
    metadata = {"keys": json.dumps(keys), "taxon_ids": json.dumps(taxon_ids)}
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]}
    # The safetensors library writes whole tensors only. The format: the length of the header as 8 little-endian
    # bytes, the header as JSON padded to a multiple of 8, the values.
    header = json.dumps({"__metadata__": metadata, "logits": tensor}, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with replacing(folder / f"{variant}.safetensors") as scratch, scratch.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        rows = 0
        for block in blocks:
            if block.shape[1] != shape[1]:
                raise UserError(f"variant {variant} gives {block.shape[1]} logits for a list of {shape[1]} taxa")
            rows += len(block)
            file.write(np.ascontiguousarray(block, dtype="<f4").tobytes())
        if rows != shape[0]:
            raise UserError(f"variant {variant} answered {rows} of {shape[0]} test photographs")
    write_json(folder / f"{variant}.json", costs)


def read(folder: str | os.PathLike[str], variants: Iterable[str]) -> dict[str, Predictions]:
    """All variants of a report.

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
            metadata, shape = file.metadata() or {}, file.get_slice("logits").get_shape()
        keys, taxon_ids = json.loads(metadata["keys"]), json.loads(metadata["taxon_ids"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is no file of predictions ({error}); delete it and run evaluate {variant}") from None
    if shape != [len(keys), len(taxon_ids)] or len(set(keys)) != len(keys):
        raise UserError(f"{path}: {shape} logits for {len(set(keys))} keys; delete it and run evaluate {variant}")
    return Predictions(path, keys, taxon_ids, read_json(folder / f"{variant}.json"))
