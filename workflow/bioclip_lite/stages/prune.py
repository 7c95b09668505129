"""Stage prune: cut the student's channels to a budget, in one or more steps, and teach it again after each."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bioclip_lite.compression import pruning
from bioclip_lite.models import costs
from bioclip_lite.models.students import load_student, reparameterize, save_student
from bioclip_lite.photographs.preprocess import preprocess as preprocessed
from bioclip_lite.teacher_cache import reader
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.training import checkpoint, distillation, distributed, trainer
from bioclip_lite.utils import job_names
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_json
from bioclip_lite.utils.randomness import drawn

if TYPE_CHECKING:
    from bioclip_lite.utils import sections

_IMAGES = 128  # photographs to score the channels on
_RUNS = 30  # inferences, of whose latency the median is taken


def run(params: "sections.Prune", data: Path, job: str | None = None) -> None:
    """Read data/distill/model and the teacher cache, write data/prune/model and data/prune/report.json.

    The recovery learns from the caches of the teachers that taught the student.
    """
    if job is not None:
        job_names.parse("prune", job, ())
    student, spec, preprocess = load_student(data / "distill" / "model")
    if not spec["reparameterized"]:
        student = reparameterize(student)
    size = preprocess["size"]
    teachers = spec.get("teachers") or [FIRST]
    train = reader.CachedSplit(data, "train", teachers)
    photographs, taught = _photographs(train, preprocess)
    before = _costs(student, size)
    quantity, most = pruning.limit(student, size, params["budget"], before["latency_ms"]["median"])
    whole = before["latency_ms"]["median"] if quantity == "ms" else before[quantity]

    pruned, after, race, history = student, before, None, []
    steps = params["steps"] if most < whole else 0
    for step in range(1, steps + 1):
        pruned = pruning.prune(
            pruned,
            photographs,
            quantity,
            whole * (most / whole) ** (step / steps),  # each step leaves the same share
            round_to=params["round_to"],
            importance=params["importance"],
            ranking=params["ranking"],
            taught=taught,
            milliseconds=lambda model: before["latency_ms"]["median"] * _race(student, model, size)["ratio"],
        )
        if step == steps:  # before the last epochs are spent
            after, race = _costs(pruned, size), _race(student, pruned, size)
            _judge(before, after, race)
        epochs = params["epochs"] * step // steps - params["epochs"] * (step - 1) // steps
        history += _recovered(pruned, params, data, preprocess, train, teachers, step, epochs)
    if not distributed.first():
        return
    save_student(data / "prune" / "model", pruned, {**spec, "reparameterized": True}, preprocess)
    report = {**after, **{f"{name}_before": value for name, value in before.items()}, "history": history}
    write_json(data / "prune" / "report.json", {**report, "race": race})
    for step in range(1, steps + 1):
        checkpoint.remove(checkpoint.path(data, "prune", f"student-{step}"))
        checkpoint.remove(_finished_file(data, step))


def _costs(model: nn.Module, size: int) -> dict[str, Any]:
    """Multiply-accumulates and latency of one image, parameters and bytes of the model."""
    image = torch.zeros(1, 3, size, size)
    sizes = {"macs": costs.macs(model.eval(), image), "params": costs.parameters(model)}
    sizes |= {"bytes": costs.int8_bytes(model)}
    distributed.wait()  # no other process works while the first one takes the time
    latency = costs.latency(model, image, _RUNS) if distributed.first() else {"median": math.nan}
    median = torch.tensor(latency["median"], dtype=torch.float64)
    distributed.share([median])  # a budget of milliseconds is the same for all
    return {**sizes, "latency_ms": {**latency, "median": median.item()}}


def _race(before: nn.Module, after: nn.Module, size: int) -> dict[str, Any]:
    """``costs.race``, with the ratio of the first process in all of them."""
    distributed.wait()
    image = torch.zeros(1, 3, size, size)
    result = costs.race(before.eval(), after.eval(), image, _RUNS) if distributed.first() else {"ratio": math.nan}
    ratio = torch.tensor(result["ratio"], dtype=torch.float64)
    distributed.share([ratio])
    return {**result, "ratio": ratio.item()}


def _judge(before: dict[str, Any], after: dict[str, Any], race: dict[str, Any]) -> None:
    """Print the savings; raise UserError if the pruned model is not faster."""
    milliseconds = before["latency_ms"]["median"]
    if distributed.first():
        print(
            f"prune: {after['macs'] / 1e6:.1f} of {before['macs'] / 1e6:.1f} M multiply-accumulates "
            f"({after['macs'] / before['macs']:.3f}), {after['params'] / 1e6:.2f} of {before['params'] / 1e6:.2f} M "
            f"parameters, about {after['bytes'] / 1e6:.2f} of {before['bytes'] / 1e6:.2f} MB with INT8 weights; "
            f"{race['ratio']:.3f} of the time ({race['low']:.3f} to {race['high']:.3f}, n = {race['n']}), "
            f"{milliseconds * race['ratio']:.2f} of {milliseconds:.2f} ms an image",
            flush=True,
        )
    if race["ratio"] >= 1:
        raise UserError(
            f"prune.budget: the pruned student is not faster: {race['ratio']:.3f} of the time of the student, which "
            f"takes {milliseconds:.2f} ms an image (PyTorch, one thread), so what it would lose in accuracy buys "
            f"nothing. Lower the budget, set prune.round_to to 8 or 16, or ship the student as it is (prune.budget: "
            f"{{macs: 1}})"
        )


def _photographs(train: reader.CachedSplit, preprocess: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Photographs of split train chosen by a hash of their keys, float32 (n, 3, size, size), and the first teacher's
    embeddings of them, float32 (n, D)."""
    shards = train.images
    chosen = drawn(shards.each_key(), _IMAGES, "prune")
    pixels = np.stack([preprocessed(shards.image(i), preprocess) for i in chosen])
    return torch.from_numpy(pixels), torch.from_numpy(np.stack([train.target(i, 0) for i in chosen]))


# Recovery


def _finished_file(data: Path, step: int) -> Path:
    """The model that a finished step ended with, for a run that was stopped in a later one."""
    return checkpoint.path(data, "prune", f"finished-{step}")


def _recovered(
    model: nn.Module,
    params: "sections.Prune",
    data: Path,
    preprocess: dict[str, Any],
    train: reader.CachedSplit,
    teachers: Sequence[str],
    step: int,
    epochs: int,
) -> trainer.History:
    """Teach ``model`` again, in place; the history, whose epochs are counted from the first step on."""
    options = distillation.Options(
        stage="prune",
        job=f"student-{step}",
        preprocess=preprocess,
        seed=params["seed"],
        teachers=tuple(teachers),
        **trainer.chosen({**params, "epochs": epochs}),
    )
    student = distillation.Distillation(model, data, options, train)
    rows = _trained(student, _finished_file(data, step), last=step == params["steps"])
    first = params["epochs"] * (step - 1) // params["steps"]
    return [{**row, "step": step, "epoch": first + row["epoch"]} for row in rows]


def _trained(student: distillation.Student, finished: Path, *, last: bool) -> trainer.History:
    """Train a student. What a step ends with stays in a file unless it is the ``last``, and is not trained twice."""
    checkpoint_file = checkpoint.path(student.data, student.options.stage, student.options.job)
    if last:
        return distillation.train(student, checkpoint_file=checkpoint_file)
    identity = trainer.training_identity(student) if distributed.first() else {}
    state = checkpoint.State(student.model, trainer.optimizer(student.model, student.options))
    if distributed.agree(distributed.first() and checkpoint.usable(finished, identity)):
        rows = checkpoint.read(finished, state).history
        student.model.to("cpu").eval()
        return rows
    rows = distillation.train(student, checkpoint_file=checkpoint_file)
    if distributed.first():
        checkpoint.write(finished, identity, state, checkpoint.Position(history=rows))
    return rows
