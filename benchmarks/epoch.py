"""Time a training epoch of a student: from the cache, from labels, with the teacher online, and with open_clip.

    PYTHONPATH=workflow python benchmarks/epoch.py [--data data] [--params params.yaml] [--epochs 8]

Takes the shards and the cache of an existing data folder and writes benchmarks/epoch.md. One process and one thread
(open_clip: a second process that decodes); the first epoch of each way is left out, the median of the others counts;
validation is left out. The ways take turns.

cached      the loss of params.yaml, targets from the cache
supervised  the same student, photographs and views, cross entropy with the labels
online      as cached, but each batch is also brought to the teacher's size and the teacher answers on the spot
open_clip   open_clip_train with --distill-model on the same shards: the student's image tower with a text tower of one
            layer, taught by a CLIP with the teacher's image tower (random weights: they cost the same)
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import open_clip
import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset

from bioclip_lite import params
from bioclip_lite.models import students, teachers
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import ShardSet, shard_names, shard_paths
from bioclip_lite.stages import logits
from bioclip_lite.teacher_cache import reader, store
from bioclip_lite.training import distillation, losses, memory_format, shuffling, trainer
from bioclip_lite.utils.files import read_json, replacing

OUTPUT = Path(__file__).with_suffix(".md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    everything = params.load(options.params)
    section, data = everything["distill"], options.data.resolve()
    train = reader.CachedSplit(data, "train")
    ways = {"cached": cached, "supervised": supervised, "online": online, "open_clip": with_open_clip}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for half in range(2):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as scratch:
                taken = way(data, section, train, options.epochs // 2 + 1, Path(scratch))
            seconds[name] += taken[1:]
            print(half, name, [round(value, 2) for value in taken], flush=True)
    write(options, section, train, seconds, made(data, everything["logits"], train))
    return 0


def student(section: dict[str, Any], outputs: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return students.build_student(
        students.student_spec(section["student"], section["student_options"], outputs, section["image_size"])
    )


def epochs(run: Any) -> list[float]:
    """Seconds of each epoch: ``run`` gets a function to call when an epoch ends."""
    ends = [time.perf_counter()]

    def end() -> dict[str, float]:
        ends.append(time.perf_counter())
        return {}

    run(end)
    return [b - a for a, b in itertools.pairwise(ends)]


def cached(data: Path, section: dict[str, Any], train: reader.CachedSplit, count: int, scratch: Path) -> list[float]:
    return ours(data, section, train, count, scratch, control=False)


def supervised(
    data: Path, section: dict[str, Any], train: reader.CachedSplit, count: int, scratch: Path
) -> list[float]:
    return ours(data, section, train, count, scratch, control=True)


def ours(
    data: Path, section: dict[str, Any], train: reader.CachedSplit, count: int, scratch: Path, *, control: bool
) -> list[float]:
    inner = scratch / "data"
    inner.symlink_to(data)  # logs lie beside the data folder
    outputs = len(train.taxa[0].taxon_ids) if control else train.taxa[0].text.shape[1]
    model = student(section, outputs)
    options = distillation.Options(
        stage="distill",
        job="benchmark",
        preprocess=preprocessing(section["image_size"]),
        seed=0,
        ema=section["ema"],
        weights=losses.Weights.of(section),
        **trainer.chosen({**section, "epochs": count}),
    )
    objective = (distillation.Control if control else distillation.Distillation)(model, inner, options, train)

    def run(end: Any) -> None:
        objective.validation = end
        distillation.train(objective)

    return epochs(run)


class Both(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A view as the student sees it and as the teacher sees it."""

    def __init__(self, train: reader.CachedSplit, own: dict[str, Any], teachers: dict[str, Any]) -> None:
        self.train, self.own, self.teachers = train, own, teachers

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        image, row = self.train.images.image(item[0]), self.train.view(*item)
        small, large = (views.reapply(image, row, preprocess) for preprocess in (self.own, self.teachers))
        return torch.from_numpy(small), torch.from_numpy(large)


class Online(trainer.Objective):
    """Distillation with the teacher online: it answers each batch anew."""

    name = "online"
    end: Callable[[], dict[str, float]]  # called after each epoch, in place of a validation

    def __init__(
        self, data: Path, section: dict[str, Any], train: reader.CachedSplit, options: trainer.Options
    ) -> None:
        self.options, self.train = options, train
        self.teacher = teachers.load_teacher(data / "teacher" / "model")
        self.text, self.scale = torch.from_numpy(train.taxa[0].text), train.taxa[0].logit_scale
        self.model = student(section, self.text.shape[1])
        self.both = Both(train, preprocessing(section["image_size"]), self.teacher.preprocess)
        self.size = min(options.batch_size, len(train.images))
        self.steps = shuffling.batch_count(len(train.images), self.size)

    def batches(self, epoch: int, step: int) -> Iterator[Any]:
        count = len(self.train.images)
        plan = shuffling.batches([count], self.size, count, 0, "benchmark", epoch, start=step)
        return loading.load(self.both, [[(int(i), epoch % self.train.view_count) for i in batch] for batch in plan])

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        taught = teachers.embed_images(self.teacher.model, batch[1]).clone()
        out = self.model(batch[0])
        target = losses.agreed([losses.taxon_logits(taught, self.text, self.scale)])
        logits = losses.taxon_logits(out, self.text, self.scale)
        return losses.cosine(out, taught) + losses.affinity(logits, target)

    def measure(self) -> dict[str, float]:
        return self.end()

    def files(self) -> list[Path]:
        return []  # only a checkpoint asks for them


def online(data: Path, section: dict[str, Any], train: reader.CachedSplit, count: int, scratch: Path) -> list[float]:
    options = trainer.Options(seed=0, **trainer.chosen({**section, "epochs": count}))
    objective = Online(data, section, train, options)

    def run(end: Any) -> None:
        objective.end = end
        with memory_format.channels_last(objective.model):
            trainer.fit(objective, log=scratch / "log")

    return epochs(run)


def with_open_clip(
    data: Path, section: dict[str, Any], train: reader.CachedSplit, count: int, scratch: Path
) -> list[float]:
    """Seconds of each epoch, from its log: the time from one epoch's first line to its last, validation left out."""
    config = read_json(data / "teacher" / "model" / teachers.TEACHER_CONFIG)["model_cfg"]
    text = {"context_length": 64, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    tower = {"timm_pool": "avg", "timm_proj": "linear", "timm_model_pretrained": False}
    towers = {
        "pupil": (section["student"], section["image_size"]),
        "master": (config["vision_cfg"]["timm_model_name"], config["vision_cfg"]["image_size"]),
    }
    for name, (timm_name, size) in towers.items():
        vision = {**tower, "timm_model_name": timm_name, "image_size": size}
        model_cfg = {"embed_dim": config["embed_dim"], "vision_cfg": vision, "text_cfg": text}
        (scratch / f"{name}.json").write_text(json.dumps(model_cfg))
    open_clip.add_model_config(scratch / "master.json")
    save_file(open_clip.create_model("master").state_dict(), scratch / "master.safetensors")
    options = section["student_options"]
    program = (
        "import json, sys, timm, open_clip\n"
        "from open_clip import timm_model\n"
        f"options = json.loads({json.dumps(json.dumps(options))})\n"
        "make = timm.create_model\n"
        f"student = {section['student']!r}\n"
        "timm_model.timm.create_model = lambda name, **k: make(name, **(k | (options if name == student else {})))\n"
        "open_clip.add_model_config('pupil.json'); open_clip.add_model_config('master.json')\n"
        "from open_clip_train.main import main\n"
        "main(sys.argv[1:])\n"
    )
    tars = [str(path) for path in shard_paths(data, "train")]
    sizes = read_json(data / "shard" / "sizes.json")
    number = sum(sizes[Path(tar).name] for tar in tars)
    arguments = ["--model", "pupil", "--distill-model", "master", "--distill-pretrained", "master.safetensors"]
    arguments += ["--dataset-type", "webdataset", "--train-data", "::".join(tars), "--train-num-samples", str(number)]
    arguments += ["--batch-size", str(section["batch_size"]), "--workers", "1", "--epochs", str(count)]
    arguments += ["--lr", "0.001", "--warmup", "1", "--logs", "logs", "--name", "t", "--save-frequency", "0"]
    arguments += ["--precision", "fp32"]  # as the others; its default, bfloat16, took twelve times as long here
    done = subprocess.Popen(
        [sys.executable, "-u", "-c", program, *arguments],
        cwd=scratch,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.stdout is not None
    starts: list[float] = []
    lines = []
    for line in done.stdout:
        lines.append(line)
        if "Start epoch" in line:
            starts.append(time.perf_counter())
    assert done.wait() == 0, "".join(lines[-20:])
    end = time.perf_counter()
    shown = re.findall(r"Train Epoch: \d+ \[ *(\d+)/", "".join(lines))
    assert shown, "".join(lines[-20:])
    return [b - a for a, b in zip(starts, [*starts[1:], end], strict=True)][: count - 1]


def made(data: Path, section: Any, train: reader.CachedSplit) -> dict[str, float]:
    """Seconds to make the cache of split "train", and its bytes."""
    photographs, count = len(train.images), train.view_count
    with tempfile.TemporaryDirectory() as scratch:
        inner = Path(scratch, "data")
        inner.mkdir()
        for part in ("index", "shard", "teacher", "caption"):
            (inner / part).symlink_to(data / part)
        began = time.perf_counter()
        for name in shard_names(data, "train"):
            logits.run(section, inner, name)
        seconds = time.perf_counter() - began
        stored = sum((inner / "logits" / f"{name}.safetensors").stat().st_size for name in shard_names(data, "train"))
    files = sum(len(ShardSet(data, "train").jpeg(i)) for i in range(photographs))
    return {"seconds": seconds, "views": count, "bytes": stored / photographs, "jpeg": files / photographs}


def write(
    options: argparse.Namespace,
    section: dict[str, Any],
    train: reader.CachedSplit,
    seconds: dict[str, list[float]],
    cost: dict[str, float],
) -> None:
    base = statistics.median(seconds["supervised"])
    size = store.read_taxa(store.folder(options.data) / "taxa.safetensors").text.shape
    lines = [
        "# What an epoch costs",
        "",
        f"`python benchmarks/epoch.py`: {section['student']} {section['student_options'] or ''} at "
        f"{section['image_size']} px, batches of {section['batch_size']}, {len(train.images)} photographs, {size[0]} "
        f"taxa x {size[1]} numbers; one thread; median of {len(seconds['cached'])} epochs.",
        "",
        "| | s an epoch | of supervised |",
        "|---|---|---|",
    ]
    for name, values in seconds.items():
        lines.append(f"| {name} | {statistics.median(values):.2f} | {statistics.median(values) / base:.2f} |")
    lines += [
        "",
        f"Making the cache of {cost['views']:.0f} views took {cost['seconds']:.0f} s, "
        f"{cost['seconds'] / base:.1f} supervised epochs, once; it has {cost['bytes']:,.0f} bytes a photograph (the "
        f"JPEG file: {cost['jpeg']:,.0f}).",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    with replacing(OUTPUT) as scratch:
        scratch.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
