"""The student with fewer channels: cut to a budget, in one or more steps, and taught again after each."""

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

_IMAGES = 128  # photographs that tell what a channel is worth
_RUNS = 30  # inferences that the latency is the median of


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
        checkpoint.remove(_keep(data, step))
        checkpoint.remove(_kept(data, step))


def _costs(model: nn.Module, size: int) -> dict[str, Any]:
    """What one image costs."""
    image = torch.zeros(1, 3, size, size)
    facts = {"macs": costs.macs(model.eval(), image), "params": costs.parameters(model)}
    facts |= {"bytes": costs.int8_bytes(model)}
    distributed.wait()  # no other process works while the first one takes the time
    latency = costs.latency(model, image, _RUNS) if distributed.first() else {"median": math.nan}
    median = torch.tensor(latency["median"], dtype=torch.float64)
    distributed.share([median])  # a budget of milliseconds is the same for all
    return {**facts, "latency_ms": {**latency, "median": median.item()}}


def _race(before: nn.Module, after: nn.Module, size: int) -> dict[str, Any]:
    """costs.race, whose ratio is the same in all processes."""
    distributed.wait()
    image = torch.zeros(1, 3, size, size)
    result = costs.race(before.eval(), after.eval(), image, _RUNS) if distributed.first() else {"ratio": math.nan}
    ratio = torch.tensor(result["ratio"], dtype=torch.float64)
    distributed.share([ratio])
    return {**result, "ratio": ratio.item()}


def _judge(before: dict[str, Any], after: dict[str, Any], race: dict[str, Any]) -> None:
    """Say what was won; UserError if it is no time."""
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
    chosen = drawn(shards.keys, _IMAGES, "prune")
    pixels = np.stack([preprocessed(shards.image(i), preprocess) for i in chosen])
    return torch.from_numpy(pixels), torch.from_numpy(np.stack([train.target(i, 0) for i in chosen]))


# Recovery


def _keep(data: Path, step: int) -> Path:
    """The checkpoint of the training of a step."""
    return checkpoint.path(data, "prune", f"student-{step}")


def _kept(data: Path, step: int) -> Path:
    """What a finished step ended with, for a run that was stopped in a later one."""
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
) -> list[dict[str, float]]:
    """Teach ``model`` again, in place; the history, whose epochs are counted from the first step on."""
    last = step == params["steps"]
    known = {}
    if not last and distributed.first():
        known = checkpoint.recipe(model, ["stages.prune"], distillation.files_read(data, teachers), params)
    optimizer = trainer.optimizer(model, params["learning_rate"], 0.0)
    if not last and distributed.agree(distributed.first() and checkpoint.usable(_kept(data, step), known)):
        rows = checkpoint.read(_kept(data, step), model, optimizer, {}).history
        model.eval()
    else:
        rows = distillation.distill(
            model,
            data,
            preprocess,
            stage="prune",
            job=f"student-{step}",
            seed=params["seed"],
            epochs=epochs,
            batch_size=params["batch_size"],
            learning_rate=params["learning_rate"],
            teachers=teachers,
            train=train,
            keep=_keep(data, step),
        )
        if not last and distributed.first():
            checkpoint.write(_kept(data, step), known, model, optimizer, checkpoint.Position(history=rows), {})
    first = params["epochs"] * (step - 1) // params["steps"]
    return [{**row, "step": step, "epoch": first + row["epoch"]} for row in rows]
