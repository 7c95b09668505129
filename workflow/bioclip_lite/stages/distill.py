"""Stage distill: the student learns from the teacher cache; its control from labels, everything else being equal.

If ``finetune.epochs`` is not 0, a second stage follows (WiSE-FT, arXiv 2109.01903): the student is trained further on
the labels, against the unchanged taxon matrix, and its weights before and after are mixed in the proportion that does
best on split val.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import nn

from bioclip_lite.graph import folding
from bioclip_lite.models import embedding_checks, hub, students, text_towers
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.teacher_cache import reader, store
from bioclip_lite.texts.captions import synthetic
from bioclip_lite.training import checkpoint, distillation, distributed, trainer, warm_start
from bioclip_lite.training.losses import Weights
from bioclip_lite.training.text_distillation import TwoTowerDistillation
from bioclip_lite.utils import job_names, machine
from bioclip_lite.utils.files import write_json, write_table

if TYPE_CHECKING:
    from bioclip_lite.params import jobs
    from bioclip_lite.utils import sections

JOBS = ("student", "finetune", "control")
_CHECKED = 32  # photographs whose answers must be numbers
_LABELS = Weights(affinity=0.0, cosine=0.0, labels=1.0)
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
    if job == "control" or (job is None and params["control"]):
        _train(params, data, None)


def _train(params: "jobs.Control", data: Path, student: "jobs.Student | None") -> None:
    """Train the student, or with None for its own parameters the control."""
    control, job = student is None, "student" if student else "control"
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    weights = _weights(params, data)
    spec = students.student_spec(
        params["student"],
        params["student_options"],
        taxa.text.shape[1],
        params["image_size"],
        taxa.teacher,
        weights.about() if weights else None,
        student["teachers"] if student else [],
    )
    if control:
        spec = _spec_of_control(params, spec, len(taxa.taxon_ids))
    # Published weights expect the pixels that they were trained on.
    colours = (weights.mean, weights.std) if weights and weights.mean and weights.std else ()
    preprocess = preprocessing(params["image_size"], *colours)
    machine.deterministic(params["seed"], "distill", "weights")
    model = students.build_student(spec)
    if not control:  # a student that cannot be shipped is refused now, not after its training
        folding.fold(students.reparameterize(model), params["image_size"])
    options = _options(params, student, preprocess)
    train = reader.CachedSplit(data, options.splits, options.teachers)
    if weights and distributed.first():  # several processes start from the weights of the first
        _start_from(model, weights.path, preprocess, train, _targets(spec, data, train, control))
    objective = _objective(student, spec, model, data, options, train)
    size = sum(p.numel() for p in model.parameters())
    pixels, outputs = spec["image_size"], spec["outputs"]
    print(f"{job}: {params['student']}, {size / 1e6:.2f} M parameters, {pixels} px, {outputs} outputs")
    checkpoint_file = checkpoint.path(data, "distill", job)
    history = distillation.train(objective, checkpoint_file=checkpoint_file)
    if distributed.first():
        _save(student, data, objective, spec, history)
        checkpoint.remove(checkpoint_file)


def _spec_of_control(params: "jobs.Control", spec: dict[str, Any], taxa: int) -> dict[str, Any]:
    """The spec of a control beside the student of ``spec``.

    Its last layer is a classifier of its own, with an output for each of the ``taxa``; where ``distill.control`` is
    auto and that classifier would have more parameters than the student, the teacher's text embeddings of the taxa,
    which do not learn: then the control has the student's outputs, and the spec says why.
    """
    own = {**spec, "outputs": taxa, "trained_on": None}
    if params["control"] != "auto":
        return own
    student, each = students.parameters(spec)
    if taxa * each <= student:
        return own
    print(
        f"control: a classifier of {taxa:,} taxa would have {taxa * each / 1e6:.1f} M parameters, the student has "
        f"{student / 1e6:.2f} M: the teacher's text embeddings, fixed, take its place (distill.control: true trains it)"
    )
    return {**spec, "fixed_classifier": {"instead_of_parameters": taxa * each, "student_parameters": student}}


def _weights(params: "jobs.Control", data: Path) -> hub.Weights | None:
    """The weights that the student starts from; None for random ones."""
    if not params["weights"]:
        return None
    return hub.find_weights(params["weights"], params["student"], data / "weights", params["allow_research_only"])


def _objective(
    params: "jobs.Student | None",
    spec: dict[str, Any],
    model: nn.Module,
    data: Path,
    options: distillation.Options,
    train: reader.CachedSplit,
) -> distillation.Student:
    if params is None and not spec["trained_on"]:
        return distillation.Control(model, data, options, train)
    if params is None or not params["text_tower"]:
        return distillation.Distillation(model, data, options, train)
    arguments = _text_tower(params["text_tower"], params["student"], train.taxa[0].text.shape[1])
    tower, tokenizer = text_towers.build(**arguments), text_towers.tokenizer(arguments)
    return TwoTowerDistillation(model, tower, tokenizer, data, options, train)


def _text_tower(tower: "sections.DistillTextTower", student: str, outputs: int) -> dict[str, Any]:
    """The arguments of ``text_towers.build``."""
    chosen = {"kind": tower["kind"], "width": tower["width"], "layers": tower["layers"]}
    return {**chosen, "outputs": outputs, "context": text_towers.CONTEXT, "student": student}


def _save(
    params: "jobs.Student | None",
    data: Path,
    student: distillation.Student,
    spec: dict[str, Any],
    history: trainer.History,
) -> None:
    """Write student, history and, if there is one, text tower.

    Branches that only help training are merged: what is pruned, quantized and measured is what is deployed.
    """
    job, preprocess = student.options.job, student.options.preprocess
    folder = data / "distill" / (("first" if params["finetune"]["epochs"] else "model") if params else "control")
    model = students.reparameterize(student.image_tower)
    _check(model, student)
    students.save_student(folder, model, {**spec, "reparameterized": True}, preprocess)
    if params and params["text_tower"] and isinstance(student, TwoTowerDistillation):
        text = students.reparameterize(student.text_tower)
        text_towers.save_text(
            data / "distill" / "text",
            text,
            _text_tower(params["text_tower"], params["student"], spec["outputs"]),
            spec["trained_on"],
        )
    write_table((folder.parent if params else folder) / "history.parquet", pa.Table.from_pylist(history))
    print(f"{job}: written to {folder}")


def _check(model: nn.Module, student: distillation.Student) -> None:
    """Raise UserError unless the answers to some photographs of split val are numbers, and not all the same."""
    images, maker = student.validation.val.images, f"distill: the {student.options.job}"
    (pixels,) = loading.plain_pixels(images, student.options.preprocess, _CHECKED, slice(_CHECKED))
    with torch.inference_mode():
        answers = model(pixels.cpu()).float().numpy()
    embedding_checks.check_finite(answers, images.keys[:_CHECKED], maker)
    embedding_checks.check_varied(answers, "photographs", maker)


def _options(
    params: "jobs.Control", student: "jobs.Student | None", preprocess: dict[str, Any]
) -> distillation.Options:
    options = distillation.Options(
        stage="distill",
        job="student" if student else "control",
        preprocess=preprocess,
        seed=params["seed"],
        ema=params["ema"],
        **trainer.chosen(params),
    )
    if student is None:
        return replace(options, weights=_LABELS)
    captioners, synthetic_share = synthetic(student["text_tower"])
    return replace(
        options,
        captioners=tuple(captioners),
        synthetic_share=synthetic_share,
        splits=tuple(student["splits"]),
        teachers=tuple(student["teachers"]),
        temperature=student["temperature"],
        weights=Weights.of(student),
    )


def _start_from(
    model: nn.Module,
    path: Path,
    preprocess: dict[str, Any],
    train: reader.CachedSplit,
    targets: warm_start.Targets,
) -> None:
    """Load weights from a file, in place; fit a last layer that the file lacks to the features of the others."""
    random = students.load_initial_weights(model, path)
    model.to(machine.device())
    print(f"initial weights from {path}; random: {', '.join(random) or 'none'}")
    warm_start.measure_batch_norms(model, warm_start.pixels(train.images, preprocess))
    if {f"{head}.{part}" for head in warm_start.heads(model) for part in ("weight", "bias")} & set(random):
        warm_start.fit_head(model, preprocess, train, targets)


def _targets(spec: dict[str, Any], data: Path, train: reader.CachedSplit, control: bool) -> warm_start.Targets:
    """What a last layer that the initial weights lack is fitted to: of a control nothing that a teacher saw."""
    if not control:
        return warm_start.embeddings(train)
    return warm_start.texts(data, train) if spec["trained_on"] else warm_start.leaves(data, train)


def _finetune(params: "jobs.FinetunedStudent", data: Path) -> None:
    model, spec, preprocess = students.load_student(data / "distill" / "first")
    before = copy.deepcopy(model.state_dict())
    options = distillation.Options(
        stage="distill",
        job="finetune",
        preprocess=preprocess,
        seed=params["seed"],
        weights=_LABELS,
        **trainer.chosen({**params, **params["finetune"]}),
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
