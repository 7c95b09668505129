"""Train every family of students and every kind of teacher for two steps, in a process of its own, for test_processors.

``python processors.py FOLDER`` announces each case on stdout before it starts, so that the last line names the one that
crashed, and writes FOLDER/found.safetensors: the gradients that ``trainer.fit`` has in each step, as "case/step
1/parameter", and what inference answers, as "case/answers". With REFERENCE set everything is computed in float32 and in
contiguous memory.
"""

import copy
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from bioclip_lite.graph import execution, folding
from bioclip_lite.models import students, teachers
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import teacher
from bioclip_lite.training import distillation, memory_format, trainer
from bioclip_lite.utils import machine
from models import test_hub
from models.test_students import FAMILIES, FASTVIT
from stages import test_teacher
from support import fake_data, lessons

Tensors = dict[str, torch.Tensor]

# With AVX-512 the fault of FastViT's stem shows at some sizes only.
STUDENTS = [(name, options, 64) for name, options, _ in FAMILIES] + [("fastvit_t8", FASTVIT, 160)]
TOWERS = ["resnet10t", "mobilenetv4_conv_small_035"]  # the first trains in bfloat16 where the processor has it
GRAPHS = ["fastvit with attention", "mobilenetv4"]


def main(folder: Path) -> None:
    if os.environ.get("REFERENCE"):
        memory_format.channels_last = contiguous
        machine.autocast_helps = lambda _: False  # type: ignore[assignment]
    lessons.IMAGES |= {"pretrain": 0, "train": 4, "val": 1}
    data = lessons.make_cache(lessons.make_data(folder / "data"))
    found: Tensors = {}
    for name, case in cases(data):
        print(f"case {name}", flush=True)
        found |= {f"{name}/{key}": tensor.clone().contiguous() for key, tensor in case().items()}
    save_file(found, folder / "found.safetensors")
    print("done", flush=True)


@contextmanager
def contiguous(model: nn.Module) -> Iterator[None]:
    """In place of ``channels_last``."""
    yield


def cases(data: Path) -> Iterator[tuple[str, Callable[[], Tensors]]]:
    for name, options, size in STUDENTS:
        yield f"student {name} {size} px", partial(student, name, options, size, data)
    for tower in TOWERS:
        yield f"teacher train {tower}", partial(trained, tower, data)
    yield "teacher lit", lambda: tuned(data)
    yield "teacher pretrained", lambda: published(data)
    for kind in GRAPHS:
        yield f"graph {kind}", partial(executed, kind)


def student(name: str, options: dict[str, Any], size: int, data: Path) -> Tensors:
    torch.manual_seed(0)
    model = students.build_student(students.student_spec(name, options, lessons.D, size))
    with gradients() as found:
        settings = distillation.Options(
            stage="distill",
            job="student",
            preprocess=preprocessing(size),
            seed=0,
            **trainer.chosen({**lessons.DISTILL, "epochs": 1, "batch_size": 12, "learning_rate": 1e-6}),
        )
        distillation.train(distillation.Distillation(model, data, settings))
    return found


def trained(tower: str, data: Path) -> Tensors:
    section = section_of(
        "train", image_tower=tower, image_size=64, splits=["train"], batch_size=12, epochs=1, learning_rate=1e-6
    )
    with gradients() as found:
        teacher.run(section, data, "model")
    return found | answers(data)


def tuned(data: Path) -> Tensors:
    test_teacher.save_tower(data)
    with gradients() as found:
        teacher.run(section_of("lit", batch_size=12, epochs=1, learning_rate=1e-6), data)
    return found | answers(data)


def published(data: Path) -> Tensors:
    test_hub.publish(data / "weights" / "published", "open_clip_model.safetensors")
    chosen = {"model": "local-dir:published", "weights": None, "revision": None, "preprocess": None}
    teacher.run(section_of("pretrained", **chosen), data, "model")
    return answers(data)


def section_of(kind: str, **changes: Any) -> Any:
    section = copy.deepcopy(lessons.TEACHER) | {"kind": kind, "allow_research_only": False}
    section[kind] = section.get(kind, {}) | changes
    return section


def answers(data: Path) -> Tensors:
    made = teachers.load_teacher(data / "teacher" / "model")
    images = ShardSet(data, "train")
    pixels = torch.cat(list(loading.plain_pixels(images, made.preprocess)))
    return {"answers": teachers.embed_images(made.model, pixels)}


def executed(kind: str) -> Tensors:
    """The graph that is quantised and shipped."""
    name, options, size = fake_data.STUDENTS[kind]
    folded, weights = folding.fold(fake_data.student(name, options, size), size)
    return {"answers": execution.run(folded, weights, fake_data.images(8, size))}


@contextmanager
def gradients() -> Iterator[Tensors]:
    """Collect the gradients of each step, before they are clipped."""
    found: Tensors = {}
    clip, step = nn.utils.clip_grad_norm_, 0

    def record(parameters: list[nn.Parameter], largest: float) -> torch.Tensor:
        nonlocal step
        step += 1
        for number, parameter in enumerate(parameters):
            if parameter.grad is not None:
                found[f"step {step}/{number}"] = parameter.grad.clone()
        return clip(parameters, largest)

    nn.utils.clip_grad_norm_ = record  # type: ignore[assignment]
    try:
        yield found
    finally:
        nn.utils.clip_grad_norm_ = clip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
