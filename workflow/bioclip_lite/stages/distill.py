"""Stage distill: the student learns from the teacher cache; its control from labels, everything else being equal.

If ``finetune.epochs`` is not 0, a second stage follows (WiSE-FT, arXiv 2109.01903): the student goes on with the
labels, the text matrix staying as it is, and what counts is the mix of its weights before and after that does best on
split val.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import nn

from bioclip_lite import graph
from bioclip_lite.models import hub, students, text_towers
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.teacher_cache import reader, store
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.training import checkpoint, distillation, distributed, text_distillation, warm_start
from bioclip_lite.utils import job_names, machine
from bioclip_lite.utils.files import write_json, write_table

if TYPE_CHECKING:
    from bioclip_lite.params import jobs

JOBS = ("student", "finetune", "control")
_MIXES = [n / 10 for n in range(11)]  # shares of the fine-tuned weights


def run(params: Any, data: Path, job: str | None = None) -> None:
    """Train "student" (data/distill/model), "control" (data/distill/control); None trains all.

    With a second stage "student" makes data/distill/first, and "finetune" data/distill/model from it.

    Args:
        params: ``sections.Distill`` for None, else ``jobs.Student``, ``jobs.FinetunedStudent`` or ``jobs.Control``.
    """
    if job not in (None, "student", "control"):  # parameters of the control do not say whether there is a second stage
        job_names.parse("distill", job, JOBS if params["finetune"]["epochs"] else ("student", "control"))
    if job in (None, "student"):
        _train(params, data, params)
    if job == "finetune" or (job is None and params["finetune"]["epochs"]):
        _finetune(params, data)
    if job in (None, "control"):
        _train(params, data, None)


def _train(params: "jobs.Control", data: Path, student: "jobs.Student | None") -> None:
    """Train the student, or with None for its own parameters the control."""
    control, job = student is None, "student" if student else "control"
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    outputs = len(taxa.taxon_ids) if control else taxa.text.shape[1]
    start = None
    if params["weights"]:
        allowed = params["allow_research_only"]
        start = hub.find_weights(params["weights"], params["student"], data / "weights", allowed)
    spec = students.student_spec(
        params["student"],
        params["student_options"],
        outputs,
        params["image_size"],
        None if control else taxa.teacher,
        start.about() if start else None,
        student["teachers"] if student else [],
    )
    # Published weights expect the pixels that they were trained on.
    colours = (start.mean, start.std) if start and start.mean and start.std else ()
    preprocess = preprocessing(params["image_size"], *colours)
    machine.deterministic(params["seed"], "distill", "weights")
    model = students.build_student(spec)
    if not control:  # a student that cannot be shipped is refused now, not after its training
        graph.fold(students.reparameterize(model), params["image_size"])
    teachers = student["teachers"] if student else (FIRST,)
    train = reader.CachedSplit(data, "train", teachers)
    if start and distributed.first():  # several processes start from the weights of the first
        _start_from(model, start.path, data, train, preprocess, control)
    tower, text_student = student["text_tower"] if student else None, None
    if tower:
        arguments: dict[str, Any] = {"kind": tower["kind"], "width": tower["width"], "layers": tower["layers"]}
        arguments |= {"outputs": outputs, "context": text_towers.CONTEXT, "student": params["student"]}
        text_student = text_distillation.TextStudent(
            text_towers.build(**arguments), text_towers.tokenizer(arguments), tower["batch_affinity"]
        )
    size = sum(p.numel() for p in model.parameters())
    print(f"{job}: {params['student']}, {size / 1e6:.2f} M parameters, {params['image_size']} px, {outputs} outputs")
    history = distillation.distill(
        model,
        data,
        preprocess,
        stage="distill",
        job=job,
        seed=params["seed"],
        epochs=params["epochs"],
        batch_size=params["batch_size"],
        learning_rate=params["learning_rate"],
        weight_decay=params["weight_decay"],
        teachers=teachers,
        **(_loss_weights(student) if student else {}),
        ema=params["ema"],
        control=control,
        text_student=text_student,
        train=train,
        keep=(keep := checkpoint.path(data, "distill", job)),
    )
    if not distributed.first():
        return
    # Branches that only help training are merged: what is pruned, quantised and measured is what is deployed.
    folder = data / "distill" / (("first" if student["finetune"]["epochs"] else "model") if student else "control")
    students.save_student(folder, students.reparameterize(model), {**spec, "reparameterized": True}, preprocess)
    if text_student:
        text = students.reparameterize(text_student.tower)
        text_towers.save_text(data / "distill" / "text", text, arguments, taxa.teacher)
    write_table((folder if control else folder.parent) / "history.parquet", pa.Table.from_pylist(history))
    checkpoint.remove(keep)
    print(f"{job}: written to {folder}")


def _loss_weights(student: "jobs.Student") -> dict[str, float]:
    return {
        "affinity": student["affinity"],
        "temperature": student["temperature"],
        "cosine": student["cosine"],
        "ranks": student["ranks"],
        "labels": student["labels"],
    }


def _start_from(
    model: nn.Module,
    path: Path,
    data: Path,
    train: reader.CachedSplit,
    preprocess: dict[str, Any],
    control: bool,
) -> None:
    """Weights of a file, in place; a last layer that they do not bring is fitted to the features that they do bring."""
    left = students.load_initial_weights(model, path)
    print(f"initial weights from {path}; random: {', '.join(left) or 'none'}")
    warm_start.measure_batch_norms(model, loading.plain_pixels(train.images, preprocess))
    if {f"{head}.{part}" for head in warm_start.heads(model) for part in ("weight", "bias")} & set(left):
        warm_start.fit_head(model, data, preprocess, train, control=control)


def _finetune(params: "jobs.FinetunedStudent", data: Path) -> None:
    model, spec, preprocess = students.load_student(data / "distill" / "first")
    before = copy.deepcopy(model.state_dict())
    chosen = params["finetune"]
    history = distillation.distill(
        model,
        data,
        preprocess,
        stage="distill",
        job="finetune",
        seed=params["seed"],
        epochs=chosen["epochs"],
        batch_size=params["batch_size"],
        learning_rate=chosen["learning_rate"],
        weight_decay=params["weight_decay"],
        affinity=0.0,
        cosine=0.0,
        labels=1.0,
        keep=(keep := checkpoint.path(data, "distill", "finetune")),
    )
    model.to(machine.device())
    after = copy.deepcopy(model.state_dict())
    measure = distillation.validation(model, data, reader.CachedSplit(data, "val"), preprocess)
    curve = []
    for share in _MIXES:
        model.load_state_dict(mixed(before, after, share))
        curve.append({"share": share, **measure()})
    best = max(curve, key=lambda row: (row["val_top1"], -row["val_nll"]))
    model.load_state_dict(mixed(before, after, best["share"]))
    if not distributed.first():
        return
    students.save_student(data / "distill" / "model", model, spec, preprocess)
    write_table(data / "distill" / "finetune.parquet", pa.Table.from_pylist(history))
    write_json(data / "distill" / "interpolation.json", {"share": best["share"], "curve": curve})
    checkpoint.remove(keep)
    print(f"finetune: {best['share']:.1f} of the fine-tuned weights, right on val {100 * best['val_top1']:.1f} %")


def mixed(before: dict[str, Any], after: dict[str, Any], share: float) -> dict[str, torch.Tensor]:
    """(1 - share) x ``before`` + share x ``after``, tensor by tensor; counters are those of ``after``."""
    return {name: torch.lerp(before[name].to(x), x, share) if x.is_floating_point() else x for name, x in after.items()}
