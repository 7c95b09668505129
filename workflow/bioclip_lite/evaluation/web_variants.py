"""Run the web model, the bundle as it ships, on the JPEG files of the shards."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bioclip_lite.compression import quantized
from bioclip_lite.evaluation.predictions import Answers, Block
from bioclip_lite.graph import execution
from bioclip_lite.models import costs
from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, require
from bioclip_lite.web import javascript, parts
from bioclip_lite.web.bundle import FILE as BUNDLE_FILE

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Latency

_BATCH = 64


def tfjs(params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """In Node: another decoder, another resampler and another runtime than PyTorch's variants have."""
    return _shipped("node", params, data, shards, labels)


def chromium(params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """In a headless Chromium of this machine, which decodes the files as well: what a visitor of a page gets."""
    return _shipped("chromium", params, data, shards, labels)


def _shipped(where: str, params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    bundle = data / "convert" / "tfjs"
    about = read_json(require(bundle / BUNDLE_FILE))
    column = columns(bundle, parts.entries(bundle, about), labels)
    check_weights(data, bundle, about)
    nodes, weights = quantized.load(data / "quantize" / "model")
    scratch = tempfile.TemporaryDirectory(prefix="bioclip-lite-")  # removed when the blocks are consumed
    prefix = Path(scratch.name) / where
    tars = [data / "shard" / f"{shard}.tar" for shard in shards]
    found = javascript.answer(where, bundle, tars, prefix, params.get("latency_runs", 0))
    table = [bundle / name for name in (BUNDLE_FILE, *parts.files(about))]
    model = [path for path in bundle.iterdir() if path not in table]

    def blocks() -> Iterator[Block]:
        with scratch:
            logits, embeddings = (
                np.memmap(f"{prefix}.{name}.f32", "<f4", "r", shape=(found["rows"], found[width]))
                for name, width in (("logits", "taxa"), ("embeddings", "embedding"))
            )
            for start in range(0, len(logits), _BATCH):
                rows = slice(start, start + _BATCH)
                yield Block(logits[rows][:, column], embeddings[rows])

    return Answers(
        keys=found["keys"],
        blocks=blocks(),
        costs=lambda: {
            "params": sum(array.size for array in weights.values()),
            "macs": execution.macs(nodes, weights),
            **costs.files(model),
            **costs.of_table(costs.files(table)),
            "calibration": {name: about.get(name) for name in ("temperature", "thresholds", "off_list")},
            "latency_ms": javascript.latency(found),
        },
    )


def for_files(data: Path, labels: Labels) -> Callable[[Sequence[Path]], np.ndarray]:
    """The web model in Node, for photographs of the user's own: a function from n files to logits float32 [n, C].

    Logits are in the order of ``labels``. JPEG, PNG and WebP files are read; one that Node cannot decode is a
    UserError.
    """
    bundle = data / "convert" / "tfjs"
    about = read_json(require(bundle / BUNDLE_FILE))
    column = columns(bundle, parts.entries(bundle, about), labels)

    def logits(files: Sequence[Path]) -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as scratch:
            prefix = Path(scratch) / "node"
            found = javascript.answer("node", bundle, [file.resolve() for file in files], prefix)
            rows = np.fromfile(f"{prefix}.logits.f32", "<f4").reshape(len(files), found["taxa"])
        return rows[:, column]

    return logits


def check_weights(data: Path, bundle: Path, about: dict[str, Any]) -> None:
    """Raise UserError unless a bundle, ``about`` being its bundle.json, was made from the weights in data/quantize."""
    folder = data / "quantize" / "model"
    if about["provenance"]["weights_sha256"] != _sha256(require(folder / quantized.WEIGHTS_FILE)):
        raise UserError(f"{bundle} was not made from the weights in {folder}; run stage convert again")


def columns(bundle: Path, taxa: Sequence[Mapping[str, Any]], labels: Labels) -> np.ndarray:
    """Position of each leaf's logit in the bundle's output, int64 (C,).

    A species that the bundle has no room for has the logit of its genus' representative, which counts as often.

    Args:
        taxa: entries of the bundle's table.
    """
    place = {taxon["id"]: number for number, taxon in enumerate(taxa)}
    genera = {tuple(taxon["ranks"][:6]): number for number, taxon in enumerate(taxa) if taxon["rank"] == "genus"}
    column = [place.get(leaf, genera.get(path[:6], -1)) for leaf, path in zip(labels.ids, labels.leaves, strict=True)]
    count = np.bincount(np.maximum(column, 0), minlength=len(taxa))
    if min(column, default=0) < 0 or count.tolist() != [taxon.get("stands_for", 1) for taxon in taxa]:
        raise UserError(
            f"{bundle} answers among other taxa than data/index/taxa.parquet lists; run stage convert again"
        )
    return np.array(column)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
