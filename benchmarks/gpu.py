"""Measure this package on a GPU, in less than 10 minutes: ``python benchmarks/gpu.py`` prints two tables.

``rates``: photographs a second of each part of the work, and the share of the GPU's matrix products that they are. The
peak is measured, not looked up: a product of two large matrices in float16. ``--tiny`` takes networks and
numbers so small that a CPU does it in a minute, to try the script. ``cosines``: how near embeddings in
each number format are to those in float32; needs no GPU.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from bioclip_lite.models import costs, students, teachers
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.preprocess import preprocess, preprocessing
from bioclip_lite.photographs.shards import ShardSet, write_shard
from bioclip_lite.training import losses, memory_format, trainer
from bioclip_lite.utils import machine

FORMATS = ("float32", "tf32", "bfloat16", "float16")
FULL: dict[str, Any] = {
    **{"matrix": 8192, "teacher": "ViT-B-16", "student": "fastvit_t8", "pixels": 224, "batch": 128, "seconds": 8.0},
    **{"taxa": 10_000, "photographs": 2048, "side": (500, 375), "captions": 4096},
}
TINY: dict[str, Any] = {
    **{"matrix": 128, "teacher": "ViT-B-32", "student": "mobilenetv4_conv_small_035", "pixels": 32, "batch": 4},
    **{"seconds": 0.2, "taxa": 10, "photographs": 8, "side": (50, 37), "captions": 8},
}
OPTIONS = trainer.Options(
    seed=0,
    epochs=1,
    batch_size=1,
    accumulation=1,
    shuffle_buffer=1,
    learning_rate=1e-3,
    warm_up=0.1,
    weight_decay=0.05,
    betas=(0.9, 0.98),
    eps=1e-8,
    precision="auto",
)
Row = tuple[str, str, float, float]  # what, number format, rows a second, multiply-accumulates of a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command")
    rates_of = commands.add_parser("rates")
    rates_of.add_argument("--tiny", action="store_true")
    cosines_of = commands.add_parser("cosines")
    cosines_of.add_argument("weights", nargs="*", type=Path, help="safetensors of mobilenetv2_100, pad_type same")
    cosines_of.add_argument("--photographs", type=Path, required=True, help="folder of JPEG files")
    chosen = parser.parse_args()
    if chosen.command == "cosines":
        print_cosines(chosen.weights, sorted(chosen.photographs.rglob("*.jpg")))
    else:
        print_rates(TINY if getattr(chosen, "tiny", False) else FULL)


# Rates


def print_rates(size: dict[str, Any]) -> None:
    gpu = torch.cuda.is_available()
    print(f"{torch.cuda.get_device_name() if gpu else 'CPU'}, torch {torch.__version__}, {machine.cores()} cores")
    matrix = torch.randn(size["matrix"], size["matrix"], device=machine.device(), dtype=torch.float16)
    peak = rate(lambda: matrix @ matrix, 1, size["seconds"]) * size["matrix"] ** 3
    print(f"peak, measured in float16: {2 * peak / 1e12:.3g} TFLOP/s\n")
    print("| work | number format | a second | share of the peak |\n|---|---|---|---|")
    for what, form, per_second, macs in rows(size):
        share = f"{100 * per_second * macs / peak:.1f} %" if macs else ""
        print(f"| {what} | {form} | {per_second:.0f} | {share} |", flush=True)


def rows(size: dict[str, Any]) -> Iterator[Row]:
    model = open_clip.create_model(size["teacher"], force_image_size=size["pixels"]).to(machine.device()).eval()
    yield from embedding(model, size)
    yield from captions(model, size)
    del model
    yield from distilling(size)
    yield from feeding(size)


def rate(work: Callable[[], object], count: int, seconds: float) -> float:
    """Return a rate per second, of a function whose every call does ``count``."""
    for _ in range(3):
        work()
    waited()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            work()
        waited()
        calls += 10
    return calls * count / (time.perf_counter() - began)


def waited() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def embedding(model: teachers.Clip, size: dict[str, Any]) -> Iterator[Row]:
    """Stage logits, photographs."""
    pixels = torch.randn(size["batch"], 3, size["pixels"], size["pixels"], device=machine.device())
    macs = costs.macs(model.encode_image, pixels[:1])
    for form in FORMATS:
        with machine.embedding_in(form):
            found = rate(lambda: teachers.embed_images(model, pixels), len(pixels), size["seconds"])
        yield f"logits: photographs, {size['teacher']}", form, found, macs


def captions(model: teachers.Clip, size: dict[str, Any]) -> Iterator[Row]:
    """Stage logits, taxa."""
    teacher = teachers.Teacher(model, open_clip.get_tokenizer(size["teacher"]), {}, 1.0, {})
    texts = [f"a photo of Animalia Chordata Aves Suliformes Sulidae Morus number {n}." for n in range(size["captions"])]
    found = rate(lambda: teachers.embed_texts(teacher, texts), len(texts), size["seconds"])
    yield f"logits: captions, {size['teacher']}", "float32", found, 0.0


def distilling(size: dict[str, Any]) -> Iterator[Row]:
    """Stages distill and prune: a step with pixels, targets and taxa on the device."""
    device, width, pixels = machine.device(), 512, size["pixels"]
    generator = torch.Generator().manual_seed(0)
    text, target = (
        F.normalize(torch.randn(n, width, generator=generator), dim=-1).to(device)
        for n in (size["taxa"], size["batch"])
    )
    x = torch.randn(size["batch"], 3, pixels, pixels, generator=generator).to(device)
    model = students.build_student(students.student_spec(size["student"], {}, width, pixels))
    macs = costs.macs(model.eval(), torch.zeros(1, 3, pixels, pixels))
    model.to(device).train()
    optim = trainer.optimizer(model, OPTIONS)
    dtype = machine.number_format("auto", model)

    def step() -> None:
        with machine.autocast(dtype):
            out = model(x).float()
        taught = losses.agreed([losses.taxon_logits(target, text, 50.0)])
        loss = losses.cosine(out, target) + losses.affinity(losses.taxon_logits(out, text, 50.0), taught)
        optim.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()

    with memory_format.channels_last(model):
        found = rate(step, len(x), size["seconds"])
    yield f"distill: steps, {size['student']}, {size['taxa']} taxa", str(dtype).removeprefix("torch."), found, 3 * macs


def feeding(size: dict[str, Any]) -> Iterator[Row]:
    """Decode, replay and move photographs to the device, where a GPU has nothing else to do."""
    noise = np.random.default_rng(0)
    width, height = size["side"]
    blurred = Image.fromarray(noise.integers(0, 256, (12, 16, 3), np.uint8)).resize((width, height))
    jpeg = io.BytesIO()
    blurred.save(jpeg, "JPEG", quality=90)
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder, "train-00000.tar")
        write_shard(tar, [(f"{n:06d}", jpeg.getvalue(), {"taxon_id": "x"}) for n in range(size["photographs"])])
        images = ShardSet.of(tar)
        drawn = views.draw(noise, {"crop_scale": [0.4, 1.0], "operations": 2, "magnitude": 0.5})
        plan = [[(i, drawn) for i in some] for some in loading.chunks(range(len(images)), size["batch"])]
        began = time.perf_counter()
        exhaust(loading.Views(images, preprocessing(size["pixels"])).batches(plan))
        waited()
        found = len(images) / (time.perf_counter() - began)
    yield f"loader: {width} x {height} JPEG to {size['pixels']} px, {machine.workers()} workers", "", found, 0.0


def exhaust(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


# Cosines


@torch.inference_mode()
def print_cosines(weights: Sequence[Path], photographs: Sequence[Path]) -> None:
    spec = preprocessing(224)
    chosen = photographs[:: max(1, len(photographs) // 128)][:128]
    pixels = torch.from_numpy(np.stack([preprocess(Image.open(path), spec) for path in chosen]))
    print("| tower | photographs | number format | mean cosine | smallest | mean cosine, centred | smallest |")
    print("|---|---|---|---|---|---|---|")
    for name, model, count in towers(weights):
        exact = embedded(model, pixels[:count], "float32")
        for form in ("bfloat16", "float16"):
            found = embedded(model, pixels[:count], form)
            plain = F.cosine_similarity(found, exact)
            centred = F.cosine_similarity(found - exact.mean(0), exact - exact.mean(0))
            figures = " | ".join(f"{value:.6f}" for x in (plain, centred) for value in (x.mean(), x.min()))
            print(f"| {name} | {len(exact)} | {form} | {figures} |", flush=True)


def towers(weights: Sequence[Path]) -> Iterator[tuple[str, nn.Module, int]]:
    for path in weights:
        model = timm.create_model("mobilenetv2_100", num_classes=0, pad_type="same")
        students.load_initial_weights(model, path)
        yield path.stem, model.eval(), 128
    torch.manual_seed(0)
    yield "ViT-B-16, random", open_clip.create_model("ViT-B-16").visual.eval(), 48


def embedded(model: nn.Module, pixels: torch.Tensor, form: str) -> torch.Tensor:
    with machine.embedding_in(form):
        return torch.cat([F.normalize(model(part).float(), dim=-1) for part in pixels.split(16)]).double()


if __name__ == "__main__":
    main()
