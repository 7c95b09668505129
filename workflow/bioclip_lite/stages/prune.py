"""The student with fewer channels: cut to a budget of multiply-accumulates, then taught again from the cache."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bioclip_lite import checkpoint, costs, distillation, distributed, graph, pruning
from bioclip_lite.errors import UserError
from bioclip_lite.files import write_json
from bioclip_lite.models import load_student, reparameterize, save_student
from bioclip_lite.preprocess import preprocess as preprocessed
from bioclip_lite.randomness import digest
from bioclip_lite.shards import ShardSet

_IMAGES = 128  # photographs that tell what a channel is worth
_RUNS = 30  # inferences that the latency is the median of


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """Read data/distill/model and the teacher cache, write data/prune/model and data/prune/report.json."""
    if job is not None:
        raise UserError(f"stage prune is one job; it has no job {job!r}")
    student, spec, preprocess = load_student(data / "distill" / "model")
    if not spec["reparameterized"]:
        student = reparameterize(student)
    size = preprocess["size"]
    before = _costs(student, size)  # fails here, before any work, if the student cannot be shipped

    pruned = pruning.prune(student, _photographs(data, preprocess), params["macs"], params["round_to"])
    after = _costs(pruned, size)
    if distributed.first():
        print(
            f"prune: {after['macs'] / 1e6:.1f} of {before['macs'] / 1e6:.1f} M multiply-accumulates "
            f"({after['macs'] / before['macs']:.3f}, budget {params['macs']}), {after['params'] / 1e6:.2f} of "
            f"{before['params'] / 1e6:.2f} M parameters, {after['latency_ms']['median']:.2f} of "
            f"{before['latency_ms']['median']:.2f} ms an image",
            flush=True,
        )
    history = []
    keep = checkpoint.path(data, "prune", "student")
    if after["macs"] < before["macs"]:
        history = distillation.distill(
            pruned,
            data,
            preprocess,
            stage="prune",
            job="student",
            seed=params["seed"],
            epochs=params["epochs"],
            batch_size=params["batch_size"],
            learning_rate=params["learning_rate"],
            keep=keep,
        )
    if not distributed.first():
        return
    save_student(data / "prune" / "model", pruned, {**spec, "reparameterized": True}, preprocess)
    report = {**after, **{f"{name}_before": value for name, value in before.items()}, "history": history}
    write_json(data / "prune" / "report.json", report)
    checkpoint.remove(keep)


def _costs(model: nn.Module, size: int) -> dict[str, Any]:
    """What one image costs; UserError if the model has an operation that cannot be shipped."""
    facts = {"macs": graph.macs(*graph.fold(model, size)), "params": costs.parameters(model)}
    distributed.wait()  # no other process works while the first one takes the time
    image = torch.zeros(1, 3, size, size)
    latency = costs.latency(model.eval(), image, _RUNS) if distributed.first() else None
    distributed.wait()
    return {**facts, "latency_ms": latency}


def _photographs(data: Path, preprocess: dict[str, Any]) -> torch.Tensor:
    """Photographs of the training split chosen by a hash of their keys, float32 (n, 3, size, size)."""
    shards = ShardSet(data, "train")
    chosen = sorted(range(len(shards)), key=lambda i: digest("prune", shards.keys[i]))[:_IMAGES]
    return torch.from_numpy(np.stack([preprocessed(shards.image(i), preprocess) for i in chosen]))
