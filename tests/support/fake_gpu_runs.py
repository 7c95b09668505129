"""Run every training and embedding path on a made-up GPU (fake_gpu.py), in a process of its own, for test_gpu.

``python fake_gpu_runs.py FOLDER`` writes FOLDER/found.json: for each case "error", what it raised, or None, and
"waits", how often the process waited for the GPU, by file, line and function.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from bioclip_lite.evaluation import prompts, variants
from bioclip_lite.models import students, teachers
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import distill, logits
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.teacher_cache import locked_tower, logit_scale, reader, store
from bioclip_lite.training import losses, trainer, warm_start
from bioclip_lite.utils import machine
from stages import test_teacher
from support import fake_data, fake_gpu, lessons
from training import test_accumulation as objectives

BATCH, STEPS_UNREAD = 12, 2  # an epoch of the 36 photographs of split train has 3 steps, and is read twice
EVERY_LOSS = losses.Weights(ranks=1.0, labels=1.0, batch_affinity=1.0)
STUDENT = "mobilenetv4_conv_small_035"

Work = Callable[[], object]


def main(folder: Path) -> None:
    data = lessons.make_cache(lessons.make_data(folder / "data"))
    lessons.write_texts(data)
    fake_data.save_teacher(data)
    test_teacher.save_tower(data)
    objectives.tuned(data)  # writes features
    spec = students.student_spec(STUDENT, {}, lessons.D, 32, "teacher-a")
    students.save_student(data / "distill" / "model", students.build_student(spec), spec, preprocessing(32))
    save_file(students.build_student(spec).state_dict(), data / "weights" / "student.safetensors")
    fake_gpu.install()
    trainer._STEPS_UNREAD = STEPS_UNREAD
    found = {name: observed(prepare) for name, prepare in cases(data).items()}
    (folder / "found.json").write_text(json.dumps(found))


def observed(prepare: Callable[[], Work]) -> dict[str, Any]:
    """What the work that ``prepare`` makes does."""
    with fake_gpu.fake_gpu() as waits:
        try:
            work = prepare()
            waits.clear()
            work()
        except Exception:
            return {"error": traceback.format_exc(), "waits": waits}
    return {"error": None, "waits": waits}


def cases(data: Path) -> dict[str, Callable[[], Work]]:
    every: Any = {"weights": EVERY_LOSS, "ema": 0.9, "accumulation": 2, "stage": "prune", "job": "student-1"}
    return {
        "self: two devices": lambda: lambda: torch.ones(2, device=machine.device()) + torch.ones(2),
        "self: waits": lambda: partial(wait, torch.ones(2, device=machine.device())),
        "train: distill": partial(fitted, objectives.distilled, data, precision="float16"),
        "train: prune, every loss": partial(fitted, objectives.distilled, data, **every),
        "train: control": partial(fitted, objectives.controlled, data),
        "train: two towers": partial(fitted, objectives.two_towers, data, weights=EVERY_LOSS),
        "train: teacher": partial(fitted, objectives.trained, data, accumulation=2, precision="bfloat16"),
        "train: lit": partial(fitted, objectives.tuned, data),
        "embed: warm start": partial(warm_started, data, lessons.D, warm_start.embeddings),
        "embed: warm start of the control": partial(warm_started, data, 5, partial(warm_start.leaves, data)),
        "embed: warm start by texts": partial(warm_started, data, lessons.D, partial(warm_start.texts, data)),
        "embed: photographs": partial(photographs, data, "tf32"),
        "embed: photographs in float16": partial(photographs, data, "float16"),
        "embed: texts": partial(texts, data),
        "embed: features": partial(features, data),
        "embed: logit scale": partial(swept, data),
        "embed: prompts": partial(prompted, data),
        "embed: variants": partial(evaluated, data),
    }


def wait(values: torch.Tensor) -> None:
    """In each of the ways that are counted."""
    values.sum().item()
    values.tolist()
    values.copy_(torch.ones(2))


def fitted(build: Callable[..., trainer.Objective], data: Path, **changes: Any) -> Work:
    """An epoch of training."""
    objective = build(data, **{"epochs": 1, "batch_size": BATCH, "learning_rate": 1e-3, **changes})
    return partial(trainer.fit, objective)


def warm_started(data: Path, outputs: int, targets_of: Callable[[reader.CachedSplit], warm_start.Targets]) -> Work:
    model = students.build_student(students.student_spec(STUDENT, {}, outputs, 32))
    train, weights = reader.CachedSplit(data, "train"), data / "weights" / "student.safetensors"

    def start() -> None:
        distill._start_from(model, weights, preprocessing(32), train, targets_of(train))
        warm_start.fit_head(model, preprocessing(32), train, targets_of(train))

    return start


def on_gpu(data: Path) -> teachers.Teacher:
    teacher = teachers.load_teacher(data / "teacher" / "model")
    teacher.model.to(machine.device())
    return teacher


def photographs(data: Path, precision: str) -> Work:
    teacher, images, view = on_gpu(data), ShardSet(data, "train"), views.plain_view(0)
    plan = [[(0, view), (1, view)], [(2, view)]]
    batches = loading.Views(images, teacher.preprocess).batches(plan)
    return lambda: list(logits._embed(teacher, batches, precision))


def texts(data: Path) -> Work:
    return partial(teachers.embed_texts, on_gpu(data), ["a photo of Morus alba."] * 3)


def features(data: Path) -> Work:
    locked = locked_tower.tower(lessons.TEACHER["lit"], data / "weights", "teacher.lit", False)
    return partial(locked_tower.embed, locked, data / "shard" / "val-00000.tar", data / "features.safetensors")


def swept(data: Path) -> Work:
    text = torch.from_numpy(store.read_taxa(data / "logits" / "taxa.safetensors").text).to(machine.device())
    leaves = [np.array([1, 2]), np.array([3])] * 4
    return partial(logit_scale.sweep, torch.randn(8, lessons.D), text, leaves, logit_scale.grid(50.0))


def prompted(data: Path) -> Work:
    prompts.teacher_of = lambda *_: on_gpu(data)
    asked: Any = {"prompts": {"types": ["sci"], "templates": ["plain"], "taxa": 5}, "retrieval": []}
    return partial(prompts.texts_of, asked, data, "train", read_labels(data))


def evaluated(data: Path) -> Work:
    answers = variants.answers("student", {"latency_runs": 1}, data, ("val-00000",), read_labels(data))
    return lambda: list(answers.blocks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # copies of tensors without content are not always taken down in order
