"""Stage distill: the student learns from the teacher's cache; its control from labels, everything else being equal."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import nn

from bioclip_lite import cache, checkpoint, distributed, models, training
from bioclip_lite.errors import UserError
from bioclip_lite.files import write_table
from bioclip_lite.preprocess import preprocessing

JOBS = ("student", "control")


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """Train "student" (data/distill/model) or "control" (data/distill/control); None trains both."""
    if job is not None and job not in JOBS:
        raise UserError(f"distill has no job {job!r}; its jobs are {', '.join(JOBS)}")
    for name in [job] if job else JOBS:
        _train(params, data, name)


def _train(params: dict[str, Any], data: Path, job: str) -> None:
    control = job == "control"
    taxa = cache.read_taxa(data / "logits" / "taxa.safetensors")
    outputs = len(taxa.taxon_ids) if control else taxa.text.shape[1]
    spec = models.student_spec(
        params["student"], params["student_options"], outputs, params["image_size"], None if control else taxa.teacher
    )
    preprocess = preprocessing(params["image_size"])
    training.deterministic(params["seed"], "distill", "weights")
    model = models.build_student(spec)
    train = training.Cached(data, "train")
    # Several processes start from the weights of the first.
    if params["weights"] and distributed.first():
        _start_from(model, data / "weights" / params["weights"], data, train, preprocess, control)
    size = sum(p.numel() for p in model.parameters())
    print(f"{job}: {params['student']}, {size / 1e6:.2f} M parameters, {params['image_size']} px, {outputs} outputs")
    history = training.distill(
        model,
        data,
        preprocess,
        stage="distill",
        seed=params["seed"],
        epochs=params["epochs"],
        batch_size=params["batch_size"],
        learning_rate=params["learning_rate"],
        weight_decay=params["weight_decay"],
        affinity=params["affinity"],
        cosine=params["cosine"],
        labels=control,
        train=train,
        keep=(keep := checkpoint.path(data, "distill", job)),
    )
    if not distributed.first():
        return
    # Branches that only help training are merged: what is pruned, quantised and measured is what is deployed.
    folder = data / "distill" / ("control" if control else "model")
    models.save_student(folder, models.reparameterize(model), {**spec, "reparameterized": True}, preprocess)
    write_table((folder if control else folder.parent) / "history.parquet", pa.Table.from_pylist(history))
    checkpoint.remove(keep)
    print(f"{job}: written to {folder}")


def _start_from(
    model: nn.Module, path: Path, data: Path, train: training.Cached, preprocess: dict[str, Any], control: bool
) -> None:
    """Weights of a file, in place; a last layer that they do not bring is fitted to the features that they do bring."""
    if not path.is_file():
        raise UserError(f"distill.weights: {path} does not exist; copy the file there, or set distill.weights to null")
    left = models.load_initial_weights(model, path)
    print(f"initial weights from {path}; random: {', '.join(left) or 'none'}")
    training.measure_batch_norms(model, training.plain_pixels(train.images, preprocess))  # the function stays the same
    head = next((name for name, module in model.named_modules() if module is model.get_classifier()), None)  # type: ignore[operator]
    if {f"{head}.weight", f"{head}.bias"} & set(left):
        training.fit_head(model, data, preprocess, train, labels=control)
