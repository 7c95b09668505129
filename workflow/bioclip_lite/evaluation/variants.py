"""Compute the answers of each variant to the photographs of some splits, and their cost.

The teacher's answers come from its cache; student, pruned, INT8 and control run in PyTorch; the web model runs as it
ships, in Node on the JPEG files of the shards, and its copy for phones in LiteRT.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import logsumexp
from torch import nn

from bioclip_lite.compression import quantized
from bioclip_lite.evaluation.predictions import Answers, Block
from bioclip_lite.evaluation.variant_names import further_teacher, members
from bioclip_lite.evaluation.web_variants import check_weights, chromium, columns, tfjs
from bioclip_lite.graph import execution
from bioclip_lite.models import costs, students, teachers
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.preprocess import read_preprocess
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.teacher_cache import store
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, require
from bioclip_lite.utils.progress import progress
from bioclip_lite.web import litert, parts
from bioclip_lite.web.bundle import FILE as BUNDLE_FILE

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import EnsembleVariant, Latency

IN_PYTORCH = ("teacher", "first", "student", "pruned", "int8", "control")
_FOLDERS = {  # of networks
    "first": "distill/first",
    "student": "distill/model",
    "pruned": "prune/model",
    "control": "distill/control",
}
_BATCH = 64


def teacher(params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The cached plain view of every photograph against the taxon text matrix."""
    return _taught(params, data, shards, _taxa(data, labels))


def further(name: str, params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """A teacher of teacher.ensemble, in its own space, of which the students know nothing: so no embeddings."""
    found = _taught(params, data, shards, _taxa(data, labels, name), name)
    return replace(found, blocks=(Block(block.logits) for block in found.blocks))


def ensemble(params: "EnsembleVariant", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The mean of the probabilities that the teachers give, each in its own space, as students learn it."""
    names = members(params["also"])
    if len(names) == 1:
        raise UserError(
            "evaluate.also lists ensemble but no further teacher; add teacher-NAME for each teacher of teacher.ensemble"
        )
    found = [_taught(params, data, shards, _taxa(data, labels, name), name) for name in names]
    if any(one.keys != found[0].keys for one in found):
        raise UserError(f"data/logits of teachers {', '.join(names)} hold other photographs; run stage logits again")

    def measured() -> dict[str, Any]:
        costs_of = [one.costs() for one in found]
        summed = ("params", "macs", "bytes", "gzipped", "table_bytes", "table_gzipped")
        return {name: sum(one[name] for one in costs_of) for name in summed}

    blocks = (
        _mean([block.logits for block in several]) for several in zip(*(one.blocks for one in found), strict=True)
    )
    return Answers(found[0].keys, blocks, measured)


def _mean(logits: Sequence[np.ndarray]) -> Block:
    """Logarithms of the mean of several models' probabilities."""
    logs = np.stack([one - logsumexp(one, axis=1, keepdims=True) for one in logits])
    return Block((logsumexp(logs, axis=0) - np.log(len(logs))).astype(np.float32))


def table(params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The teacher against the table that ships: 8 bits, and representatives of genera where it has no room.

    Of a table in parts all are loaded.
    """
    bundle = data / "convert" / "tfjs"
    about = read_json(require(bundle / BUNDLE_FILE))
    files = [require(bundle / name) for name in parts.files(about)]
    found = parts.read(bundle, about)
    text = store.decode(found.integers, found.scales)[columns(bundle, found.entries, labels)]
    taught = _taught(params, data, shards, replace(_taxa(data, labels), text=text))
    # No embeddings: they are the teacher's own.
    blocks = (Block(block.logits) for block in taught.blocks)
    return Answers(taught.keys, blocks, lambda: taught.costs() | costs.of_table(costs.files(files)))


def _taught(params: "Latency", data: Path, shards: Sequence[str], taxa: store.Taxa, who: str = FIRST) -> Answers:
    caches = [store.read_shard(store.folder(data, who) / f"{shard}.safetensors") for shard in shards]
    store.check_same(caches, taxa)

    def measured() -> dict[str, Any]:
        loaded = teacher_of(data, taxa, who)
        image = _blank(loaded.preprocess)
        encode_image: Callable[[torch.Tensor], Any] = loaded.model.encode_image
        return {
            "params": costs.parameters(loaded.model.visual),
            **costs.tensors(data / "teacher" / who / teachers.TEACHER_WEIGHTS, "visual."),
            **costs.of_table(costs.array(taxa.text)),
            "about": {key: loaded.about[key] for key in ("name", "kind", "licence", "identity")},
            "macs": costs.macs(encode_image, image),
            "latency_ms": costs.latency(encode_image, image, params["latency_runs"]),
        }

    return Answers(
        keys=[key for cache in caches for key in cache.keys],
        blocks=(
            _answer(cache.target(slice(start, start + _BATCH), 0), taxa)
            for cache in caches
            for start in range(0, len(cache.keys), _BATCH)
        ),
        costs=measured,
    )


def teacher_of(data: Path, taxa: store.Taxa, who: str = FIRST) -> teachers.Teacher:
    """A teacher, on the CPU. Raises UserError if it is not the one that its cache is of."""
    loaded = teachers.load_teacher(data / "teacher" / who)
    if loaded.identity != taxa.teacher:
        raise UserError(
            f"{store.folder(Path('data'), who)} was made by teacher {taxa.teacher[:12]}, but data/teacher/{who} holds "
            f"{loaded.identity[:12]}, which is another model: run stage logits"
        )
    return loaded


def student(params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The distilled network, float32, in PyTorch."""
    return _distilled(params, data, shards, labels, "student")


def first(params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The distilled network before it was fine-tuned with labels."""
    return _distilled(params, data, shards, labels, "first")


def pruned(params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The pruned network, float32, in PyTorch."""
    return _distilled(params, data, shards, labels, "pruned")


def _distilled(params: "Latency", data: Path, shards: Sequence[str], labels: Labels, variant: str) -> Answers:
    folder, taxa = data / _FOLDERS[variant], _taxa(data, labels)
    model, spec, prepared = _student(folder)
    _check_teacher(folder, spec, taxa)

    def measured() -> dict[str, Any]:
        own = _costs(params, model, prepared, folder / students.WEIGHTS_FILE)
        return own | costs.of_table(costs.array(taxa.text))

    return _run(data, shards, model, prepared, lambda outputs: _answer(outputs, taxa), measured)


def _check_teacher(folder: Path, spec: dict[str, Any], taxa: store.Taxa) -> None:
    if spec["trained_on"] != taxa.teacher:
        raise UserError(
            f"{folder} was distilled from teacher {str(spec['trained_on'])[:12]}, but data/logits/taxa.safetensors is "
            f"by {taxa.teacher[:12]}: its embeddings mean nothing there; run stage {folder.parent.name} again"
        )


def control(params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The same network trained on labels alone: with one output per leaf, or with the teacher's texts as classifier."""
    folder = data / _FOLDERS["control"]
    model, spec, prepared = _student(folder)
    if spec["trained_on"]:
        found = _distilled(params, data, shards, labels, "control")
        # No embeddings: it has seen none of the teacher's, so how near they are says nothing.
        blocks = (Block(block.logits) for block in found.blocks)
        return Answers(found.keys, blocks, lambda: found.costs() | {"fixed_classifier": spec["fixed_classifier"]})
    if spec["outputs"] != len(labels.ids):
        raise UserError(
            f"{folder} has {spec['outputs']} outputs for the {len(labels.ids)} leaves of data/index/taxa.parquet; "
            "run stage distill again"
        )
    weights = folder / students.WEIGHTS_FILE
    return _run(data, shards, model, prepared, Block, lambda: _costs(params, model, prepared, weights))


def int8(params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The folded graph with the weights that the grid gives back, computed in PyTorch."""
    taxa = _taxa(data, labels)
    folder = data / "quantize" / "model"
    files = [require(folder / name) for name in (quantized.GRAPH_FILE, quantized.WEIGHTS_FILE)]
    nodes, weights = quantized.load(folder)
    prepared = read_preprocess(folder)

    def forward(images: torch.Tensor) -> torch.Tensor:
        return execution.run(nodes, weights, images.cpu())  # its weights are read anew at each node: a GPU would wait

    def measured() -> dict[str, Any]:
        return {
            "params": sum(array.size for array in weights.values()),
            "macs": execution.macs(nodes, weights),
            **costs.files(files),
            **costs.of_table(costs.array(taxa.text)),
            "latency_ms": costs.latency(forward, _blank(prepared), params["latency_runs"]),
        }

    return _run(data, shards, forward, prepared, lambda outputs: _answer(outputs, taxa), measured)


def tflite(params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The bundle for phones, in LiteRT: its model, its table and its thresholds, on pixels prepared as in PyTorch."""
    bundle = data / "convert" / "tflite"
    about = read_json(require(bundle / BUNDLE_FILE))
    check_weights(data, bundle, about)
    model, *files = (require(bundle / name) for name in (about["model"]["file"], BUNDLE_FILE, *parts.files(about)))
    found = parts.read(bundle, about)
    column, scale = columns(bundle, found.entries, labels), _taxa(data, labels).logit_scale
    logits = parts.answering(store.decode(found.integers, found.scales), found.split, scale)
    compute = litert.load(model)

    def answer(embeddings: np.ndarray) -> Block:
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        return Block(logits(unit)[:, column], unit)

    def measured() -> dict[str, Any]:
        return {
            **{"params": about["model"]["parameters"], "macs": about["model"]["macs"]},
            **costs.files([model]),
            **costs.of_table(costs.files(files)),
            "calibration": {name: about.get(name) for name in ("temperature", "thresholds", "off_list")},
            "latency_ms": litert.latency(compute, about["preprocess"]["size"], params["latency_runs"]),
        }

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(compute(images.cpu().numpy()).embeddings)

    return _run(data, shards, forward, about["preprocess"], answer, measured)


_ANSWERS: dict[str, Callable[[Any, Path, Sequence[str], Labels], Answers]] = {
    function.__name__: function
    for function in (teacher, ensemble, table, first, student, pruned, int8, tfjs, chromium, tflite, control)
}


def answers(variant: str, params: "Latency", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """What a variant of ``variant_names.variants`` says of the photographs of some shards.

    Args:
        params: "latency_runs" is read when costs are measured.
        shards: their names, e.g. "test-00000".

    Raises:
        UserError: a part of it is missing, or does not fit the others.
    """
    name = further_teacher(variant)
    return further(name, params, data, shards, labels) if name else _ANSWERS[variant](params, data, shards, labels)


def load(data: Path, variant: str, labels: Labels) -> tuple[dict[str, Any], Callable[[torch.Tensor], Block]]:
    """A variant that runs in PyTorch, for photographs of the user's own.

    Returns:
        (its preprocessing; a function from pixels (b, 3, size, size) to its answers, logits in the order of
        ``labels``; a control with a classifier of its own has no embeddings).

    Raises:
        UserError: the variant is not one of IN_PYTORCH, or a part of it is missing or does not fit.
    """
    if variant not in IN_PYTORCH:
        raise UserError(f"{variant} is no variant that runs here; those are {', '.join(IN_PYTORCH)}")
    if not reads_texts(data, variant):
        model, _, prepared = _student(data / _FOLDERS[variant])
        return prepared, lambda pixels: Block(_inferred(model, pixels))
    taxa = _taxa(data, labels)
    prepared, embed = embedder(data, variant, taxa)
    return prepared, lambda pixels: _answer(embed(pixels), taxa)


def reads_texts(data: Path, variant: str) -> bool:
    """Whether a variant of IN_PYTORCH answers in the teacher's space: all do but a control with its own classifier.

    Raises UserError if the control is missing.
    """
    return variant != "control" or bool(read_json(require(data / _FOLDERS[variant] / students.SPEC_FILE))["trained_on"])


def weights_file(data: Path, variant: str) -> Path:
    """The file whose bytes a variant of IN_PYTORCH computes with. Raises UserError if it is missing."""
    if variant == "teacher":
        return require(data / "teacher" / FIRST / teachers.TEACHER_WEIGHTS)
    if variant == "int8":
        return require(data / "quantize" / "model" / quantized.WEIGHTS_FILE)
    return require(data / _FOLDERS[variant] / students.WEIGHTS_FILE)


def embedder(data: Path, variant: str, taxa: store.Taxa) -> tuple[dict[str, Any], Callable[[torch.Tensor], np.ndarray]]:
    """A variant that runs in PyTorch and answers in the teacher's space, see ``reads_texts``.

    Returns:
        (its preprocessing; a function from pixels (b, 3, size, size) to embeddings float32 [b, D] of any length).

    Raises:
        UserError: a part of it is missing, or it was distilled from another teacher than that of ``taxa``.
    """
    if variant == "teacher":
        loaded = teachers.load_teacher(data / "teacher" / "model")
        return loaded.preprocess, lambda pixels: teachers.embed_images(loaded.model, pixels).numpy()
    if variant == "int8":
        nodes, weights = quantized.load(data / "quantize" / "model")
        prepared = read_preprocess(data / "quantize" / "model")
        return prepared, lambda pixels: _inferred(lambda x: execution.run(nodes, weights, x), pixels)
    folder = data / _FOLDERS[variant]
    model, spec, prepared = _student(folder)
    _check_teacher(folder, spec, taxa)
    return prepared, lambda pixels: _inferred(model, pixels)


def _inferred(forward: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return forward(pixels).numpy()


def _taxa(data: Path, labels: Labels, who: str = FIRST) -> store.Taxa:
    path = store.folder(data, who) / "taxa.safetensors"
    taxa = store.read_taxa(path)
    if taxa.taxon_ids != labels.ids:
        raise UserError(
            f"{path} has {len(taxa.taxon_ids)} taxa, data/index/taxa.parquet {len(labels.ids)} leaves, and they "
            "differ; run stage logits again"
        )
    return taxa


def _student(folder: Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """A student as it is deployed: with training-time branches merged."""
    model, spec, prepared = students.load_student(folder)
    return model if spec["reparameterized"] else students.reparameterize(model), spec, prepared


def _costs(params: "Latency", model: nn.Module, prepared: dict[str, Any], weights: Path) -> dict[str, Any]:
    image = _blank(prepared)
    return {
        "params": costs.parameters(model),
        "macs": costs.macs(model, image),
        **costs.files([weights]),
        "latency_ms": costs.latency(model, image, params["latency_runs"]),
    }


def _blank(prepared: dict[str, Any]) -> torch.Tensor:
    return torch.zeros(1, 3, prepared["size"], prepared["size"])


def _run(
    data: Path,
    shards: Sequence[str],
    forward: Callable[[torch.Tensor], torch.Tensor],
    prepared: dict[str, Any],
    answer: Callable[[np.ndarray], Block],
    measured: Callable[[], dict[str, Any]],
) -> Answers:
    """Run the model on all photographs batch by batch; ``answer`` is given its outputs [rows, D].

    A network runs on a GPU where there is one, from the first block on; it is timed on the CPU before. Other functions
    are given photographs on ``machine.device()``.
    """
    photographs = ShardSet.of(*(data / "shard" / f"{shard}.tar" for shard in shards))

    def blocks() -> Iterator[Block]:
        if isinstance(forward, nn.Module):
            forward.to(machine.device())
        batches = loading.plain_pixels(photographs, prepared, _BATCH)
        for images in progress(batches, -(-len(photographs) // _BATCH), f"evaluate: batches of {_BATCH} photographs"):
            with torch.inference_mode(), machine.embedding_in("float32"):  # as it ships
                outputs = forward(images)
            yield answer(outputs.cpu().numpy())

    return Answers(photographs.keys, blocks(), measured)


def _answer(embeddings: np.ndarray, taxa: store.Taxa) -> Block:
    """Unit embeddings, and logits: logit scale x unit embedding x taxon text."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Block(np.float32(taxa.logit_scale) * (unit @ taxa.text.T), unit)
