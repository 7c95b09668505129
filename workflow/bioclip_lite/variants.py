"""How each variant answers to the photographs of some splits, and at what cost.

The teacher's answers come from its cache; student, pruned, INT8 and control run in PyTorch; the web model runs as it
ships, in Node on the JPEG files of the shards.
"""

import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bioclip_lite import cache, costs, graph, models, quantized
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, require
from bioclip_lite.labels import Labels
from bioclip_lite.preprocess import preprocess, read_preprocess
from bioclip_lite.progress import progress
from bioclip_lite.randomness import generator
from bioclip_lite.shards import ShardSet, shard_names, shard_paths

Splits = tuple[str, ...]
IN_PYTORCH = ("teacher", "student", "pruned", "int8", "control")

_BATCH = 64
_PACKAGE = Path(__file__).resolve().parents[2] / "packages" / "react-bio-clip"


@dataclass(frozen=True)
class Answers:
    """Logits of a variant, as they come, and what one answer costs."""

    keys: list[str]
    blocks: Iterator[np.ndarray]  # float32 [rows, C], in the order of ``keys``
    costs: dict[str, Any]  # content of <variant>.json


def teacher(params: dict[str, Any], data: Path, splits: Splits, labels: Labels) -> Answers:
    """The cached plain view of every photograph against the taxon text matrix."""
    return _taught(params, data, splits, _taxa(data, labels))


def table(params: dict[str, Any], data: Path, splits: Splits, labels: Labels) -> Answers:
    """The teacher against the table that ships: 8 bits, and representatives of genera where it has no room."""
    bundle = data / "convert" / "tfjs"
    about = read_json(require(bundle / "bundle.json"))
    column, share = _columns(bundle, about["taxa"], labels)
    content = require(bundle / about["text"]["file"]).read_bytes()
    rows = about["text"]["rows"]
    scales = np.frombuffer(content, "<f4", rows)
    text = cache.decode(np.frombuffer(content, np.int8, offset=scales.nbytes).reshape(rows, -1), scales)
    shipped = replace(_taxa(data, labels), text=text[column])
    found = _taught(params, data, splits, shipped)
    blocks = (block + share for block in found.blocks)
    return Answers(found.keys, blocks, {**found.costs, "table_bytes": len(content)})


def _taught(params: dict[str, Any], data: Path, splits: Splits, taxa: cache.Taxa) -> Answers:
    shards = [
        cache.read_shard(data / "logits" / f"{name}.safetensors")
        for split in splits
        for name in shard_names(data, split)
    ]
    cache.check_same(shards, taxa)
    folder = data / "teacher" / "model"
    loaded = models.load_teacher(folder)
    if loaded.identity != taxa.teacher:
        raise UserError(
            f"data/logits was made by teacher {taxa.teacher[:12]}, but {folder} holds {loaded.identity[:12]}; "
            f"its costs would be those of another model: run stage logits"
        )
    image = _blank(loaded.preprocess)
    encode_image: Callable[[torch.Tensor], Any] = loaded.model.encode_image
    return Answers(
        keys=[key for shard in shards for key in shard.keys],
        blocks=(
            _logits(shard.target(slice(start, start + _BATCH), 0), taxa)
            for shard in shards
            for start in range(0, len(shard.keys), _BATCH)
        ),
        costs={
            "params": costs.parameters(loaded.model.visual),
            "bytes": costs.stored_tensors(folder / models.TEACHER_WEIGHTS, "visual."),
            "table_bytes": taxa.text.nbytes,
            "about": {key: loaded.about[key] for key in ("name", "kind", "licence", "identity")},
            "macs": costs.macs(encode_image, image),
            "latency_ms": costs.latency(encode_image, image, params["latency_runs"]),
        },
    )


def student(params: dict[str, Any], data: Path, splits: Splits, labels: Labels) -> Answers:
    """The distilled network, float32, in PyTorch."""
    return _distilled(params, data, splits, labels, data / "distill" / "model")


def pruned(params: dict[str, Any], data: Path, splits: Splits, labels: Labels) -> Answers:
    """The pruned network, float32, in PyTorch."""
    return _distilled(params, data, splits, labels, data / "prune" / "model")


def _distilled(params: dict[str, Any], data: Path, splits: Splits, labels: Labels, folder: Path) -> Answers:
    taxa = _taxa(data, labels)
    model, spec, prepared = _student(folder)
    _check_teacher(folder, spec, taxa)
    known = _costs(params, model, prepared, folder / models.WEIGHTS_FILE, taxa.text.nbytes)
    return _run(data, splits, model, prepared, lambda outputs: _logits(outputs, taxa), known)


def _check_teacher(folder: Path, spec: dict[str, Any], taxa: cache.Taxa) -> None:
    if spec["trained_on"] != taxa.teacher:
        raise UserError(
            f"{folder} was distilled from teacher {str(spec['trained_on'])[:12]}, but data/logits/taxa.safetensors is "
            f"by {taxa.teacher[:12]}: its embeddings mean nothing there; run stage {folder.parent.name} again"
        )


def control(params: dict[str, Any], data: Path, splits: Splits, labels: Labels) -> Answers:
    """The same network with one output per leaf, trained on labels alone."""
    folder = data / "distill" / "control"
    model, spec, prepared = _student(folder)
    if spec["outputs"] != len(labels.ids):
        raise UserError(
            f"{folder} has {spec['outputs']} outputs for the {len(labels.ids)} leaves of data/index/taxa.parquet; "
            "run stage distill again"
        )
    known = _costs(params, model, prepared, folder / models.WEIGHTS_FILE, 0)
    return _run(data, splits, model, prepared, lambda outputs: outputs, known)


def int8(params: dict[str, Any], data: Path, splits: Splits, labels: Labels) -> Answers:
    """The folded graph with the weights that the grid gives back, computed in PyTorch."""
    taxa = _taxa(data, labels)
    folder = data / "quantize" / "model"
    files = [require(folder / name) for name in (quantized.GRAPH_FILE, quantized.WEIGHTS_FILE)]
    nodes, weights = quantized.load(folder)
    prepared = read_preprocess(folder)

    def forward(images: torch.Tensor) -> torch.Tensor:
        return graph.run(nodes, weights, images)

    known = {
        "params": sum(array.size for array in weights.values()),
        "macs": graph.macs(nodes, weights),
        "bytes": costs.stored(files),
        "table_bytes": taxa.text.nbytes,
        "latency_ms": costs.latency(forward, _blank(prepared), params["latency_runs"]),
    }
    return _run(data, splits, forward, prepared, lambda outputs: _logits(outputs, taxa), known)


def tfjs(params: dict[str, Any], data: Path, splits: Splits, labels: Labels) -> Answers:
    """The bundle that ships, run in Node on the JPEG files: another decoder, another resampler, another runtime."""
    bundle = data / "convert" / "tfjs"
    about = read_json(require(bundle / "bundle.json"))
    column, share = _columns(bundle, about["taxa"], labels)
    folder = data / "quantize" / "model"
    if about["provenance"]["weights_sha256"] != _sha256(require(folder / quantized.WEIGHTS_FILE)):
        raise UserError(f"{bundle} was not made from the weights in {folder}; run stage convert again")
    nodes, weights = quantized.load(folder)
    scratch = tempfile.TemporaryDirectory(prefix="bioclip-lite-")  # removed when the blocks are consumed
    prefix = Path(scratch.name) / "node"
    images = [str(path) for path in _paths(data, splits)]
    _node([str(bundle), *images, "--raw", str(prefix), "--latency", str(params["latency_runs"])])
    found = read_json(f"{prefix}.json")
    table = [bundle / "bundle.json", bundle / about["text"]["file"]]
    model = [path for path in bundle.iterdir() if path not in table]

    def blocks() -> Iterator[np.ndarray]:
        with scratch:
            logits = np.memmap(f"{prefix}.logits.f32", "<f4", "r", shape=(found["rows"], found["taxa"]))
            for start in range(0, len(logits), _BATCH):
                yield logits[start : start + _BATCH][:, column] + share

    latency = found["latency_ms"]
    return Answers(
        keys=found["keys"],
        blocks=blocks(),
        costs={
            "params": sum(array.size for array in weights.values()),
            "macs": graph.macs(nodes, weights),
            "bytes": costs.stored(model),
            "table_bytes": costs.stored(table),
            "calibration": {"temperature": about["temperature"], "thresholds": about["thresholds"]},
            "latency_ms": {
                "runtime": f"TensorFlow.js {found['backend'].upper()}, Node",
                "median": latency["median"],
                "min": latency["min"],
                "n": latency["runs"],
                "threads": 1,
                "batch": 1,
            },
        },
    )


def _columns(bundle: Path, taxa: list[dict[str, Any]], labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Where the logit of each leaf stands among those of a bundle, int64 (C,), and what is to be added, float32 (C,).

    A species that the bundle has no room for gets the logit of its genus' representative less the logarithm of their
    number: together they are as probable as it.
    """
    place = {taxon["id"]: number for number, taxon in enumerate(taxa)}
    genera = {tuple(taxon["ranks"][:6]): number for number, taxon in enumerate(taxa) if taxon["rank"] == "genus"}
    column = [place.get(leaf, genera.get(path[:6], -1)) for leaf, path in zip(labels.ids, labels.leaves, strict=True)]
    count = np.bincount(np.maximum(column, 0), minlength=len(taxa))
    if min(column, default=0) < 0 or not count.all():
        raise UserError(
            f"{bundle} answers among other taxa than data/index/taxa.parquet lists; run stage convert again"
        )
    return np.array(column), -np.log(count[column]).astype(np.float32)


def random(params: dict[str, Any], data: Path, splits: Splits, labels: Labels) -> Answers:
    """The leaves in an order drawn for each photograph.

    One place is worth 10 nats, so that the first leaf has nearly all probability and decides every rank: with flat
    logits the largest family would always win, which is no random answer.
    """
    keys = ShardSet.of(*_paths(data, splits)).keys

    def block(names: list[str]) -> np.ndarray:
        orders = [generator(params["seed"], "evaluate", "random", name).permutation(len(labels.ids)) for name in names]
        return -10 * np.array(orders, dtype=np.float32)

    return Answers(keys, (block(keys[start : start + _BATCH]) for start in range(0, len(keys), _BATCH)), {})


def majority(params: dict[str, Any], data: Path, splits: Splits, labels: Labels) -> Answers:
    """The leaf with most training photographs, whatever the photograph: logits are logarithms of their numbers."""
    keys = ShardSet.of(*_paths(data, splits)).keys
    training = dict(zip(labels.taxa["taxon_id"].to_pylist(), labels.taxa["train"].to_pylist(), strict=True))
    row = np.log([training[leaf] + 0.5 for leaf in labels.ids]).astype(np.float32)  # half a photograph: never zero
    blocks = (np.tile(row, (len(keys[start : start + _BATCH]), 1)) for start in range(0, len(keys), _BATCH))
    return Answers(keys, blocks, {})


ANSWERS: dict[str, Callable[[dict[str, Any], Path, Splits, Labels], Answers]] = {
    function.__name__: function for function in (teacher, table, student, pruned, int8, tfjs, control, majority, random)
}


def load(data: Path, variant: str, labels: Labels) -> tuple[dict[str, Any], Callable[[torch.Tensor], np.ndarray]]:
    """A variant that runs in PyTorch, for photographs of the user's own.

    Returns:
        (its preprocessing; a function from pixels (b, 3, size, size) to logits float32 [b, C], in the order of
        ``labels``).

    Raises:
        UserError: the variant is not one of IN_PYTORCH, or a part of it is missing or does not fit.
    """
    if variant not in IN_PYTORCH:
        raise UserError(f"{variant} is no variant that runs here; those are {', '.join(IN_PYTORCH)}")
    if variant == "control":
        model, _, prepared = _student(data / "distill" / "control")
        return prepared, lambda pixels: _inferred(model, pixels)
    taxa = _taxa(data, labels)
    if variant == "teacher":
        loaded = models.load_teacher(data / "teacher" / "model")
        return loaded.preprocess, lambda pixels: _logits(models.embed_images(loaded.model, pixels).numpy(), taxa)
    if variant == "int8":
        nodes, weights = quantized.load(data / "quantize" / "model")
        return (
            read_preprocess(data / "quantize" / "model"),
            lambda pixels: _logits(_inferred(lambda x: graph.run(nodes, weights, x), pixels), taxa),
        )
    folder = data / {"student": "distill", "pruned": "prune"}[variant] / "model"
    model, spec, prepared = _student(folder)
    _check_teacher(folder, spec, taxa)
    return prepared, lambda pixels: _logits(_inferred(model, pixels), taxa)


def _inferred(forward: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return forward(pixels).numpy()


def _paths(data: Path, splits: Splits) -> list[Path]:
    return [path for split in splits for path in shard_paths(data, split)]


def _taxa(data: Path, labels: Labels) -> cache.Taxa:
    path = data / "logits" / "taxa.safetensors"
    taxa = cache.read_taxa(path)
    if taxa.taxon_ids != labels.ids:
        raise UserError(
            f"{path} has {len(taxa.taxon_ids)} taxa, data/index/taxa.parquet {len(labels.ids)} leaves, and they "
            "differ; run stage logits again"
        )
    return taxa


def _student(folder: Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """A student as it is deployed: with training-time branches merged."""
    model, spec, prepared = models.load_student(folder)
    return model if spec["reparameterized"] else models.reparameterize(model), spec, prepared


def _costs(
    params: dict[str, Any], model: nn.Module, prepared: dict[str, Any], weights: Path, table_bytes: int
) -> dict[str, Any]:
    image = _blank(prepared)
    return {
        "params": costs.parameters(model),
        "macs": costs.macs(model, image),
        "bytes": costs.stored([weights]),
        "table_bytes": table_bytes,
        "latency_ms": costs.latency(model, image, params["latency_runs"]),
    }


def _blank(prepared: dict[str, Any]) -> torch.Tensor:
    return torch.zeros(1, 3, prepared["size"], prepared["size"])


def _run(
    data: Path,
    splits: Splits,
    forward: Callable[[torch.Tensor], torch.Tensor],
    prepared: dict[str, Any],
    logits: Callable[[np.ndarray], np.ndarray],
    known_costs: dict[str, Any],
) -> Answers:
    """Embed all photographs batch by batch; ``logits`` turns outputs [rows, D] into [rows, C]."""
    shards = ShardSet.of(*_paths(data, splits))

    def blocks() -> Iterator[np.ndarray]:
        starts = range(0, len(shards), _BATCH)
        for start in progress(starts, len(starts), f"evaluate: batches of {_BATCH} photographs"):
            rows = range(start, min(start + _BATCH, len(shards)))
            images = torch.from_numpy(np.stack([preprocess(shards.image(row), prepared) for row in rows]))
            with torch.inference_mode():
                outputs = forward(images)
            yield logits(outputs.numpy())

    return Answers(shards.keys, blocks(), known_costs)


def _logits(embeddings: np.ndarray, taxa: cache.Taxa) -> np.ndarray:
    """logit scale x unit embedding x taxon text, float32 [rows, C]."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.float32(taxa.logit_scale) * (unit @ taxa.text.T)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _node(arguments: list[str]) -> None:
    """Run the package's classify.mjs; UserError with the end of what it said if it fails."""
    script = _PACKAGE / "bin" / "classify.mjs"
    if not (_PACKAGE / "node_modules" / "sharp").exists():
        raise UserError(
            f"{_PACKAGE / 'node_modules'} is missing or incomplete, and the web model is evaluated in Node; run "
            "`make setup` (it runs npm ci there)"
        )
    try:
        done = subprocess.run(["node", str(script), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            "node is not installed, and the web model is evaluated in it; install Node 20.19 or newer"
        ) from None
    if done.returncode:
        said = "\n".join((done.stderr + done.stdout).strip().splitlines()[-15:])
        raise UserError(f"the web model failed in Node with status {done.returncode}:\n{said}")
