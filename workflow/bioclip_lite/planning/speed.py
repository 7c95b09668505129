"""Measure the seconds that this machine takes for a photograph, on networks with random weights.

On a CPU these are seconds of one processor, whatever else the machine is doing; on a GPU they are what the clock says.
"""

import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from open_clip.transformer import TextTransformer
from PIL import Image

from bioclip_lite.models.students import build_student, student_spec
from bioclip_lite.photographs import views
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.training import memory_format
from bioclip_lite.utils import machine
from bioclip_lite.utils.randomness import generator

_SECONDS, _LEAST = 1.5, 3  # for each measurement, and repetitions at least
_BATCH = 8  # photographs that a teacher embeds together here, as on a CPU no larger batch is faster
_BATCH_ON_A_GPU = 64
_DRAWS: Any = {"crop_scale": [0.4, 1.0], "operations": 2, "magnitude": 0.5}
_WIDTH = 512  # of embeddings


class Machine(NamedTuple):
    """What the pipeline may use."""

    cores: int
    memory: float  # bytes
    free: float  # bytes of disk in this folder
    gpu: str | None


def here() -> Machine:
    """The machine of this process."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpu = torch.cuda.get_device_name() if machine.has_gpu() else None
    return Machine(len(os.sched_getaffinity(0)), memory, shutil.disk_usage(Path.cwd()).free, gpu)


def view_seconds(photograph: bytes) -> float:
    """Of one processor: to decode a photograph from its shard and show it as a random view of 224 pixels."""
    spec, number = preprocessing(224), iter(range(10**6))

    def view() -> None:
        image = Image.open(io.BytesIO(photograph))
        image.load()
        views.reapply(image, views.draw(generator("init", next(number)), _DRAWS), spec)

    return _seconds(view)


def embedding_seconds(tower: str) -> float:
    """To embed a photograph of 224 pixels with a timm image tower, on the GPU if there is one."""
    torch.set_num_threads(1)
    device, batch = machine.device(), _BATCH_ON_A_GPU if machine.has_gpu() else _BATCH
    model = timm.create_model(tower, pretrained=False, num_classes=0).eval().to(device)
    pixels = torch.randn(batch, 3, 224, 224, device=device)

    @torch.inference_mode()
    def embed() -> None:
        model(pixels).sum().item()

    return _seconds(embed) / batch


def text_seconds() -> float:
    """To embed a caption with the text tower of BioCLIP."""
    torch.set_num_threads(1)
    device = machine.device()
    model = TextTransformer(context_length=77, width=512, heads=8, layers=12, output_dim=_WIDTH).eval().to(device)
    tokens = torch.randint(1, 49000, (_BATCH, 40), device=device)  # captions fill half of the context
    model.attn_mask = model.attn_mask[:40, :40]

    @torch.inference_mode()
    def embed() -> None:
        model(tokens).sum().item()

    return _seconds(embed) / _BATCH


def step_seconds(student: str, options: dict[str, Any], image_size: int, batch: int) -> float:
    """To train a student on a photograph, in batches of ``batch``, as stage distill does but for the pixels."""
    torch.set_num_threads(1)
    device = machine.device()
    model = build_student(student_spec(student, options, _WIDTH, image_size)).to(device).train()
    optim = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    pixels = torch.randn(batch, 3, image_size, image_size, device=device)
    dtype = machine.number_format("auto", model)

    def step() -> None:
        with machine.autocast(dtype):
            loss = model(pixels).float().square().mean()
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
        loss.item()

    with memory_format.channels_last(model):
        return _seconds(step) / batch


def _seconds(work: Callable[[], None]) -> float:
    """The median of repetitions after a first one, which is slower."""
    clock = time.perf_counter if machine.has_gpu() else time.process_time
    work()
    took: list[float] = []
    while len(took) < _LEAST or sum(took) < _SECONDS:
        began = clock()
        work()
        took.append(clock() - began)
    return float(median(took))


def noise(sides: tuple[int, int]) -> bytes:
    """A JPEG file to measure on where no photograph could be opened."""
    pixels = generator("init", "noise").integers(0, 256, (sides[1] // 8, sides[0] // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(sides).save(file, "JPEG", quality=95)
    return file.getvalue()
