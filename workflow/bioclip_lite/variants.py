"""How each variant answers to the photographs of a split, and at what cost.

The teacher's answers come from its cache; student, pruned, INT8 and control run in PyTorch; the web model runs as it
ships, in Node on the JPEG files of the shards.
"""

import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

_BATCH = 64
_PACKAGE = Path(__file__).resolve().parents[2] / "packages" / "react-bio-clip"


@dataclass(frozen=True)
class Answers:
    """Logits of a variant, as they come, and what one answer costs."""

    keys: list[str]
    blocks: Iterator[np.ndarray]  # float32 [rows, C], in the order of ``keys``
    costs: dict[str, Any]  # content of <variant>.json


def teacher(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The cached plain view of every photograph against the taxon text matrix."""
    taxa = _taxa(data, labels)
    shards = [cache.read_shard(data / "logits" / f"{name}.safetensors") for name in shard_names(data, split)]
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


def student(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The distilled network, float32, in PyTorch."""
    return _distilled(params, data, split, labels, data / "distill" / "model")


def pruned(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The pruned network, float32, in PyTorch."""
    return _distilled(params, data, split, labels, data / "prune" / "model")


def _distilled(params: dict[str, Any], data: Path, split: str, labels: Labels, folder: Path) -> Answers:
    taxa = _taxa(data, labels)
    model, spec, prepared = _student(folder)
    if spec["trained_on"] != taxa.teacher:
        raise UserError(
            f"{folder} was distilled from teacher {str(spec['trained_on'])[:12]}, but data/logits/taxa.safetensors is "
            f"by {taxa.teacher[:12]}: its embeddings mean nothing there; run stage {folder.parent.name} again"
        )
    known = _costs(params, model, prepared, folder / models.WEIGHTS_FILE, taxa.text.nbytes)
    return _run(data, split, model, prepared, lambda outputs: _logits(outputs, taxa), known)


def control(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The same network with one output per leaf, trained on labels alone."""
    folder = data / "distill" / "control"
    model, spec, prepared = _student(folder)
    if spec["outputs"] != len(labels.ids):
        raise UserError(
            f"{folder} has {spec['outputs']} outputs for the {len(labels.ids)} leaves of data/index/taxa.parquet; "
            "run stage distill again"
        )
    known = _costs(params, model, prepared, folder / models.WEIGHTS_FILE, 0)
    return _run(data, split, model, prepared, lambda outputs: outputs, known)


def int8(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
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
    return _run(data, split, forward, prepared, lambda outputs: _logits(outputs, taxa), known)


def tfjs(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The bundle that ships, run in Node on the JPEG files: another decoder, another resampler, another runtime."""
    bundle = data / "convert" / "tfjs"
    about = read_json(require(bundle / "bundle.json"))
    if [taxon["id"] for taxon in about["taxa"]] != labels.ids:
        raise UserError(
            f"{bundle} answers among other taxa than data/index/taxa.parquet lists; run stage convert again"
        )
    folder = data / "quantize" / "model"
    if about["provenance"]["weights_sha256"] != _sha256(require(folder / quantized.WEIGHTS_FILE)):
        raise UserError(f"{bundle} was not made from the weights in {folder}; run stage convert again")
    nodes, weights = quantized.load(folder)
    scratch = tempfile.TemporaryDirectory(prefix="bioclip-lite-")  # removed when the blocks are consumed
    prefix = Path(scratch.name) / "node"
    images = [str(path) for path in shard_paths(data, split)]
    _node([str(bundle), *images, "--raw", str(prefix), "--latency", str(params["latency_runs"])])
    found = read_json(f"{prefix}.json")
    table = [bundle / "bundle.json", bundle / about["text"]["file"]]
    model = [path for path in bundle.iterdir() if path not in table]

    def blocks() -> Iterator[np.ndarray]:
        with scratch:
            logits = np.memmap(f"{prefix}.logits.f32", "<f4", "r", shape=(found["rows"], found["taxa"]))
            for start in range(0, len(logits), _BATCH):
                yield np.array(logits[start : start + _BATCH])

    latency = found["latency_ms"]
    return Answers(
        keys=found["keys"],
        blocks=blocks(),
        costs={
            "params": sum(array.size for array in weights.values()),
            "macs": graph.macs(nodes, weights),
            "bytes": costs.stored(model),
            "table_bytes": costs.stored(table),
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


def random(params: dict[str, Any], data: Path, split: str, labels: Labels) -> Answers:
    """The leaves in an order drawn for each photograph.

    One place is worth 10 nats, so that the first leaf has nearly all probability and decides every rank: with flat
    logits the largest family would always win, which is no random answer.
    """
    keys = ShardSet(data, split).keys

    def block(names: list[str]) -> np.ndarray:
        orders = [generator(params["seed"], "evaluate", "random", name).permutation(len(labels.ids)) for name in names]
        return -10 * np.array(orders, dtype=np.float32)

    return Answers(keys, (block(keys[start : start + _BATCH]) for start in range(0, len(keys), _BATCH)), {})


ANSWERS: dict[str, Callable[[dict[str, Any], Path, str, Labels], Answers]] = {
    function.__name__: function for function in (teacher, student, pruned, int8, tfjs, control, random)
}


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
    split: str,
    forward: Callable[[torch.Tensor], torch.Tensor],
    prepared: dict[str, Any],
    logits: Callable[[np.ndarray], np.ndarray],
    known_costs: dict[str, Any],
) -> Answers:
    """Embed all photographs of a split batch by batch; ``logits`` turns outputs [rows, D] into [rows, C]."""
    shards = ShardSet(data, split)

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
            "node is not installed, and the web model is evaluated in it; install Node 20.9 or newer"
        ) from None
    if done.returncode:
        said = "\n".join((done.stderr + done.stdout).strip().splitlines()[-15:])
        raise UserError(f"the web model failed in Node with status {done.returncode}:\n{said}")
