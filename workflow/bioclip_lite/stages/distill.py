"""Stage distill: the student learns from the teacher cache; its control from labels, everything else being equal.

If ``finetune.epochs`` is not 0, a second stage follows (WiSE-FT, arXiv 2109.01903): the student is trained further on
the labels, against the unchanged taxon matrix, and its weights before and after are mixed in the proportion that does
best on split val.
"""

import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from bioclip_lite import graph
from bioclip_lite.models import hub, students, text_towers
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.teacher_cache import reader, store
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.training import checkpoint, distillation, distributed, trainer, warm_start
from bioclip_lite.training.losses import Weights
from bioclip_lite.training.text_distillation import TwoTowerDistillation
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_json, write_table

JOBS = ("student", "finetune", "control")
_MIXES = [n / 10 for n in range(11)]  # shares of the fine-tuned weights


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """Train "student" (data/distill/model), "control" (data/distill/control); None trains all.

    With a second stage "student" makes data/distill/first, and "finetune" data/distill/model from it.
    """
    jobs = [name for name in JOBS if name != "finetune" or params["finetune"]["epochs"]]
    if job is not None and job not in jobs:
        raise UserError(f"distill has no job {job!r}; its jobs are {', '.join(jobs)}")
    for name in [job] if job else jobs:
        if name == "finetune":
            _finetune(params, data)
        else:
            _train(params, data, name)


def _train(params: dict[str, Any], data: Path, job: str) -> None:
    control = job == "control"
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    weights = _weights(params, data)
    spec = students.student_spec(
        params["student"],
        params["student_options"],
        len(taxa.taxon_ids) if control else taxa.text.shape[1],
        params["image_size"],
        None if control else taxa.teacher,
        weights.about() if weights else None,
        [] if control else params["teachers"],
    )
    # Published weights expect the pixels that they were trained on.
    colours = (weights.mean, weights.std) if weights and weights.mean and weights.std else ()
    preprocess = preprocessing(params["image_size"], *colours)
    machine.deterministic(params["seed"], "distill", "weights")
    model = students.build_student(spec)
    if not control:  # a student that cannot be shipped is refused now, not after its training
        graph.fold(students.reparameterize(model), params["image_size"])
    options = _options(params, job, preprocess)
    train = reader.CachedSplit(data, "train", options.teachers)
    if weights and distributed.first():  # several processes start from the weights of the first
        _start_from(model, weights.path, data, train, preprocess, control)
    student = _objective(params, model, data, options, train)
    size = sum(p.numel() for p in model.parameters())
    pixels, outputs = spec["image_size"], spec["outputs"]
    print(f"{job}: {params['student']}, {size / 1e6:.2f} M parameters, {pixels} px, {outputs} outputs")
    checkpoint_file = checkpoint.path(data, "distill", job)
    history = distillation.train(student, checkpoint_file=checkpoint_file)
    if distributed.first():
        _save(params, data, student, spec, history)
        checkpoint.remove(checkpoint_file)


def _weights(params: dict[str, Any], data: Path) -> hub.Weights | None:
    """The weights that the student starts from; None for random ones."""
    if not params["weights"]:
        return None
    return hub.find_weights(params["weights"], params["student"], data / "weights", params["allow_research_only"])


def _objective(
    params: dict[str, Any], model: nn.Module, data: Path, options: distillation.Options, train: reader.CachedSplit
) -> distillation.Student:
    if options.job == "control":
        return distillation.Control(model, data, options, train)
    if not params["text_tower"]:
        return distillation.Distillation(model, data, options, train)
    arguments = _text_tower(params, train.taxa[0].text.shape[1])
    tower, tokenizer = text_towers.build(**arguments), text_towers.tokenizer(arguments)
    return TwoTowerDistillation(model, tower, tokenizer, data, options, train)


def _text_tower(params: dict[str, Any], outputs: int) -> dict[str, Any]:
    """The arguments of ``text_towers.build``."""
    chosen = {name: params["text_tower"][name] for name in ("kind", "width", "layers")}
    return {**chosen, "outputs": outputs, "context": text_towers.CONTEXT, "student": params["student"]}


def _save(
    params: dict[str, Any], data: Path, student: distillation.Student, spec: dict[str, Any], history: trainer.History
) -> None:
    """Write student, history and, if there is one, text tower.

    Branches that only help training are merged: what is pruned, quantized and measured is what is deployed.
    """
    job, preprocess = student.options.job, student.options.preprocess
    control = job == "control"
    folder = data / "distill" / ("control" if control else "first" if params["finetune"]["epochs"] else "model")
    model = students.reparameterize(student.image_tower)
    students.save_student(folder, model, {**spec, "reparameterized": True}, preprocess)
    if isinstance(student, TwoTowerDistillation):
        text = students.reparameterize(student.text_tower)
        text_towers.save_text(data / "distill" / "text", text, _text_tower(params, spec["outputs"]), spec["trained_on"])
    write_table((folder if control else folder.parent) / "history.parquet", pa.Table.from_pylist(history))
    print(f"{job}: written to {folder}")


def _options(params: dict[str, Any], job: str, preprocess: dict[str, Any]) -> distillation.Options:
    return distillation.Options(
        stage="distill",
        job=job,
        preprocess=preprocess,
        seed=params["seed"],
        epochs=params["epochs"],
        batch_size=params["batch_size"],
        learning_rate=params["learning_rate"],
        weight_decay=params["weight_decay"],
        ema=params["ema"],
        teachers=(FIRST,) if job == "control" else tuple(params["teachers"]),
        temperature=params["temperature"],
        weights=Weights.of(params),
    )


def _start_from(
    model: nn.Module,
    path: Path,
    data: Path,
    train: reader.CachedSplit,
    preprocess: dict[str, Any],
    control: bool,
) -> None:
    """Load weights from a file, in place; fit a last layer that the file lacks to the features of the others."""
    random = students.load_initial_weights(model, path)
    print(f"initial weights from {path}; random: {', '.join(random) or 'none'}")
    warm_start.measure_batch_norms(model, loading.plain_pixels(train.images, preprocess))
    if {f"{head}.{part}" for head in warm_start.heads(model) for part in ("weight", "bias")} & set(random):
        warm_start.fit_head(model, data, preprocess, train, control=control)


def _finetune(params: dict[str, Any], data: Path) -> None:
    model, spec, preprocess = students.load_student(data / "distill" / "first")
    before = copy.deepcopy(model.state_dict())
    options = distillation.Options(
        stage="distill",
        job="finetune",
        preprocess=preprocess,
        seed=params["seed"],
        epochs=params["finetune"]["epochs"],
        batch_size=params["batch_size"],
        learning_rate=params["finetune"]["learning_rate"],
        weight_decay=params["weight_decay"],
        weights=Weights(affinity=0.0, cosine=0.0, labels=1.0),
    )
    checkpoint_file = checkpoint.path(data, "distill", "finetune")
    student = distillation.Distillation(model, data, options)
    history = distillation.train(student, checkpoint_file=checkpoint_file)
    model.to(machine.device())
    after = copy.deepcopy(model.state_dict())
    curve = []
    for share in _MIXES:
        model.load_state_dict(mixed(before, after, share))
        curve.append({"share": share, **student.measure()})
    best = max(curve, key=lambda row: (row["val_top1"], -row["val_nll"]))
    model.load_state_dict(mixed(before, after, best["share"]))
    if not distributed.first():
        return
    students.save_student(data / "distill" / "model", model, spec, preprocess)
    write_table(data / "distill" / "finetune.parquet", pa.Table.from_pylist(history))
    write_json(data / "distill" / "interpolation.json", {"share": best["share"], "curve": curve})
    checkpoint.remove(checkpoint_file)
    print(f"finetune: {best['share']:.1f} of the fine-tuned weights, right on val {100 * best['val_top1']:.1f} %")


def mixed(before: dict[str, Any], after: dict[str, Any], share: float) -> dict[str, torch.Tensor]:
    """(1 - share) x ``before`` + share x ``after``, tensor by tensor; counters are those of ``after``."""
    return {name: torch.lerp(before[name].to(x), x, share) if x.is_floating_point() else x for name, x in after.items()}
