"""Files of predictions: what is kept of a variant's answers, and its costs.

A variant is <variant>.json with its costs and its calibration, <variant>.safetensors with its answers to the
photographs that it was calibrated on, and <variant>/<shard>.safetensors with those to each shard of split test. What is
kept of a photograph does not grow with the number of taxa:

- of split test the columns of ``scoring.reduce_logits``, at the fitted temperature;
- of split calibration "share" and "node" (``calibration.best_nodes``), of the first photograph of each observation;
  "fitted", int32, says which of the keys these are;
- "embeddings" float16 [n, D], unit vectors, of a variant that answers in the teacher's space.

Metadata are JSON: ``keys`` of the n photographs, in the order of the rows; ``taxa``, ``identity_of`` the label space;
and ``about``, which says of each further tensor in <variant>.safetensors, float32, what its rows are.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json
from bioclip_lite.utils.tensors import write_tensors

SPLIT, FITTED_ON = "test", "calibration"  # temperatures and thresholds are fitted on a split of their own
SPEED_FILE = "speed.json"  # beside the predictions, in a folder that exists whether anything is timed or not


class Block(NamedTuple):
    """Answers of a variant to some photographs."""

    logits: np.ndarray  # float32 [rows, C]
    embeddings: np.ndarray | None = None  # float [rows, D], unit vectors in the teacher's space, if it answers there


@dataclass(frozen=True)
class Answers:
    """Answers of a variant as they are computed, and its costs as they are measured."""

    keys: list[str]
    blocks: Iterator[Block]  # in the order of ``keys``
    costs: Callable[[], dict[str, Any]]  # content of <variant>.json


class Extra(NamedTuple):
    """A further tensor, and a description of its rows that fits into JSON."""

    values: np.ndarray  # float32
    about: Any


@dataclass(frozen=True)
class Predictions:
    """The answers of one variant on disk; keys and columns are read when they are asked for."""

    path: Path  # <variant>.safetensors
    shards: list[Path]  # of split test
    costs: dict[str, Any]
    about: dict[str, Any]  # further tensors
    taxa: str  # ``identity_of`` the label space
    has_embeddings: bool

    def keys(self) -> list[str]:
        """Keys of the test photographs, shard by shard."""
        return [key for _, keys in self.keys_by_shard() for key in keys]

    def keys_by_shard(self) -> Iterator[tuple[Path, list[str]]]:
        for path in self.shards:
            yield path, _keys(path)

    def calibration_keys(self) -> list[str]:
        return _keys(self.path)

    def best(self) -> tuple[list[str], dict[str, np.ndarray]]:
        """(keys of the photographs that thresholds were fitted on, their "share" and "node")."""
        keys = self.calibration_keys()
        with safe_open(self.path, framework="np") as file:
            share, node, rows = (file.get_tensor(name) for name in ("share", "node", "fitted"))
        return [keys[row] for row in rows.tolist()], {"share": share, "node": node.astype(np.int64)}

    def columns(self) -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
        """Keys and columns of the test photographs, shard by shard."""
        for path in self.shards:
            with safe_open(path, framework="np") as file:
                names = [name for name in file.keys() if name != "embeddings"]  # noqa: SIM118
                yield _keys(path), {name: file.get_tensor(name) for name in names}

    def embeddings(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Keys and embeddings, float32 [rows, D], file by file; nothing where there are none."""
        for path in [self.path, *self.shards] if self.has_embeddings else []:
            with safe_open(path, framework="np") as file:
                yield _keys(path), file.get_tensor("embeddings").astype(np.float32)

    def extra(self, name: str) -> Extra | None:
        """Read a further tensor; None if there is none of this name."""
        if name not in self.about:
            return None
        with safe_open(self.path, framework="np") as file:
            return Extra(file.get_tensor(name), self.about[name])


def _keys(path: Path) -> list[str]:
    with safe_open(path, framework="np") as file:
        keys: list[str] = json.loads(file.metadata()["keys"])
    return keys


def placed(keys: list[str], blocks: Iterable[tuple[list[str], np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of ``blocks`` that belong to ``keys``: (positions in ``keys``, the rows), block by block."""
    place_of = {key: place for place, key in enumerate(keys)}
    for names, block in blocks:
        places = np.array([place_of.get(key, -1) for key in names], dtype=np.int64)
        if (places >= 0).any():
            yield places[places >= 0], block[places >= 0]


def identity_of(labels: Labels) -> str:
    """The label space in few bytes: the leaves, and how finely they may be named. Each file says which it is of."""
    leaves = zip(labels.ids, labels.finest_rank.tolist(), strict=True)
    return hashlib.sha256("\n".join(f"{taxon} {rank}" for taxon, rank in leaves).encode()).hexdigest()


def write(
    path: Path,
    keys: list[str],
    taxa: str,
    columns: Mapping[str, np.ndarray],
    extras: Mapping[str, Extra] | None = None,
) -> None:
    """Write one file of predictions.

    Args:
        taxa: ``identity_of`` the label space.
        columns: rows in the order of ``keys``; see the module.
    """
    extras = extras or {}
    tensors = {**columns, **{name: extra.values.astype("<f4") for name, extra in extras.items()}}
    widest_first = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)  # all are aligned
    about = {
        "keys": keys,
        "taxa": taxa,
        "about": {name: extra.about for name, extra in extras.items()},
    }
    metadata = {name: json.dumps(value) for name, value in about.items()}
    write_tensors(path, {name: tensors[name] for name in widest_first}, metadata)


def read(folder: str | os.PathLike[str], variants: Iterable[str], shards: Sequence[str]) -> dict[str, Predictions]:
    """Open the predictions of all variants of a report.

    Args:
        shards: names of those of split test.

    Raises:
        UserError: predictions are missing or unreadable; all of them are named.
    """
    folder, variants = Path(folder), list(variants)
    files = [f"{{}}/{shard}.safetensors" for shard in shards]
    wanted = {v: [form.format(v) for form in ("{}.json", "{}.safetensors", *files)] for v in variants}
    missing = [v for v, names in wanted.items() if not all((folder / name).exists() for name in names)]
    if missing:
        raise UserError(
            f"{folder} lacks the predictions of {', '.join(missing)}; a report needs every variant: "
            f"run evaluate {missing[0]} (snakemake --cores all evaluate runs what is missing)"
        )
    return {variant: _open(folder, variant, shards) for variant in variants}


def _open(folder: Path, variant: str, shards: Sequence[str]) -> Predictions:
    path = folder / f"{variant}.safetensors"
    paths = [folder / variant / f"{shard}.safetensors" for shard in shards]
    headers = [_header(one, variant) for one in [path, *paths]]
    if len({(taxa, has_embeddings) for taxa, _, has_embeddings in headers}) != 1:
        raise UserError(
            f"{folder}: the files of {variant} are answers among different lists of taxa; delete {folder / variant} "
            f"and run evaluate {variant}"
        )
    taxa, about, has_embeddings = headers[0]
    return Predictions(path, paths, read_json(folder / f"{variant}.json"), about, taxa, has_embeddings)


def _header(path: Path, variant: str) -> tuple[str, dict[str, Any], bool]:
    """(identity of the taxa, about, whether there are embeddings) of a file."""
    try:
        with safe_open(path, framework="np") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            rows = {file.get_slice(name).get_shape()[0] for name in names & {"embeddings", "place"}}
        keys, taxa, about = json.loads(metadata["keys"]), json.loads(metadata["taxa"]), json.loads(metadata["about"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is no file of predictions, or one of an earlier version ({error}); delete it and run evaluate "
            f"{variant}"
        ) from None
    if rows - {len(keys)} or len(set(keys)) != len(keys):
        raise UserError(f"{path}: {rows} rows for {len(set(keys))} keys; delete it and run evaluate {variant}")
    return taxa, about, "embeddings" in names
