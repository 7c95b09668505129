"""Measure stages index and shard: speed against a lower bound of the same work, and memory by number of images.

    python benchmarks/data.py --photographs FOLDER [--images 4000] [--side 500] [--runs 3] [--memory 10000 100000]
        [--img2dataset PYTHON]

Writes benchmarks/data.md. Speed: JPEG files cut at random from the photographs in FOLDER, brought to --side pixels, as
a source `folder`. In turns, on all cores: index and shard; Pillow (libjpeg-turbo) that decodes every file and tarfile
that writes it, in as many processes as there are cores; a plain loop around webdataset.ShardWriter, which decodes
nothing; and, with a resize to half the side, shard alone beside img2dataset (PYTHON: one that has it installed).
Memory: the highest sum over the processes of index and of shard, on small images of noise.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "workflow")]
OUTPUT = Path(__file__).with_suffix(".md")
CORES = len(os.sched_getaffinity(0))

from bioclip_lite import params as parameters  # noqa: E402
from bioclip_lite.stages.shard import names  # noqa: E402
from bioclip_lite.utils.files import replacing  # noqa: E402

EPITHETS = [f"{a}{b}icola" for a in "bcdfghjk" for b in "aeiou"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--img2dataset", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="data-") as scratch:
        speed = measure_speed(options, Path(scratch))
        memory = {images: measure_memory(images, Path(scratch)) for images in options.memory}
    write(options, speed, memory)
    return 0


# --------------------------------------------------------------------------------------------------------------- speed


def measure_speed(options: argparse.Namespace, scratch: Path) -> dict[str, list[float]]:
    """Seconds of each run, by measurement."""
    source = cut(options.photographs, scratch / "source", options.images, options.side)
    files = sorted((source / "photographs").iterdir())
    ours, resized = workspace(scratch / "ours", source), workspace(scratch / "resized", source, options.side // 2)
    run(resized, "index")
    ways: dict[str, Callable[[], None]] = {
        "index": lambda: run(ours, "index"),
        "shard": lambda: shard(ours),
        "bare": lambda: bare(files, scratch / "bare"),
        "ShardWriter": lambda: shard_writer(files, scratch / "webdataset"),
        "shard, resized": lambda: shard(resized),
    }
    if options.img2dataset:
        ways["img2dataset"] = lambda: img2dataset(
            options.img2dataset, files, scratch / "img2dataset", options.side // 2
        )
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.runs):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - began)
    return taken


def cut(photographs: Path, folder: Path, images: int, side: int) -> Path:
    """``images`` different JPEG files, their longer side ``side`` pixels, cut at random from given photographs."""
    originals = [Image.open(path).convert("RGB") for path in sorted(photographs.rglob("*.jp*g"))[:200]]
    chance = random.Random(0)
    (folder / "photographs").mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["file", "family", "genus", "species"])
        for i in range(images):
            image = chance.choice(originals)
            share = chance.uniform(0.5, 0.9)
            width, height = round(image.width * share), round(image.height * share)
            left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
            scale = side / max(width, height)
            piece = image.crop((left, top, left + width, top + height))
            piece.resize((round(width * scale), round(height * scale))).save(
                folder / f"photographs/{i:07d}.jpg", quality=90
            )
            rows.writerow([f"photographs/{i:07d}.jpg", "Testaceae", "Testa", EPITHETS[i % len(EPITHETS)]])
    return folder


def workspace(folder: Path, source: Path, max_side: int | None = None) -> Path:
    """A folder in which the stages run on ``source``."""
    params = parameters.load(ROOT / "params.yaml")
    params["index"] |= {"source": "folder", "path": str(source)}
    params["shard"] = {
        "counts": {"pretrain": 0, "train": 4, "val": 1, "calibration": 1, "test": 2},
        "max_side": max_side,
    }
    folder.mkdir()
    (folder / "params.yaml").write_text(json.dumps(params))
    return folder


def run(folder: Path, *job: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    done = subprocess.run(
        [sys.executable, "-m", "bioclip_lite", *job], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def shard(folder: Path) -> None:
    """The jobs of stage shard as Snakemake runs them: one per shard, as many at once as there are cores."""
    counts = json.loads((folder / "params.yaml").read_text())["shard"]["counts"]
    run(folder, "shard", "manifests")
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(lambda name: run(folder, "shard", name), names(counts)))
    run(folder, "shard", "sizes")


def bare(files: list[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    parts = [(files[i::CORES], folder / f"{i}.tar") for i in range(CORES)]
    workers = [multiprocessing.Process(target=_decode_and_tar, args=part) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def _decode_and_tar(files: list[Path], path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for file in files:
            with Image.open(file) as image:
                image.load()
            tar.add(file, file.name)


def shard_writer(files: list[Path], folder: Path) -> None:
    import webdataset

    folder.mkdir(exist_ok=True)
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=1000, verbose=0) as writer:
        for file in files:
            writer.write({"__key__": file.stem, "jpg": file.read_bytes(), "json": {"file": file.name}})


def img2dataset(python: Path, files: list[Path], folder: Path, side: int) -> None:
    """Time the resizing of img2dataset alone: its "downloads" are local files."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = folder.with_suffix(".txt")
    listed.write_text("".join(f"file://{file}\n" for file in files))
    options = {
        "url_list": listed,
        "output_folder": folder,
        "output_format": "webdataset",
        "processes_count": CORES,
        "thread_count": 8,
        "image_size": side,
        "resize_mode": "keep_ratio_largest",
        "resize_only_if_bigger": True,
        "encode_quality": 95,
        "number_sample_per_shard": 1000,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [python, "-c", "from img2dataset.main import main; main()", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = sum(json.loads(path.read_text())["successes"] for path in folder.glob("*_stats.json"))
    assert written == len(files), f"img2dataset wrote {written} of {len(files)}"


# -------------------------------------------------------------------------------------------------------------- memory


def measure_memory(images: int, scratch: Path) -> dict[str, float]:
    """Highest sum of the resident memory of all processes, in MB, of index, of listing manifests, and of a shard."""
    source = noise(scratch / f"noise-{images}", images)
    folder = workspace(scratch / f"memory-{images}", source)
    peaks = {}
    for job in (["index"], ["shard", "manifests"], ["shard", "train-00000"]):
        process = psutil.Popen(
            [sys.executable, "-m", "bioclip_lite", *job],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        peaks[" ".join(job)] = _peak(process) / 1e6
        assert process.wait() == 0
    shutil.rmtree(source)
    shutil.rmtree(folder)
    return peaks


def _peak(process: psutil.Popen) -> float:
    highest = 0.0
    while process.poll() is None:
        total = 0
        for each in [process, *_children(process)]:
            try:
                total += each.memory_info().rss
            except psutil.Error:  # it has just ended
                continue
        highest = max(highest, total)
        time.sleep(0.05)
    return highest


def _children(process: psutil.Popen) -> list[Any]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def noise(folder: Path, images: int) -> Path:
    (folder / "photographs").mkdir(parents=True)
    chance = np.random.default_rng(0)
    with (folder / "metadata.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["file", "family", "genus", "species"])
        for i in range(images):
            pixels = chance.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST)
            image.save(folder / f"photographs/{i:07d}.jpg", quality=80)
            rows.writerow([f"photographs/{i:07d}.jpg", "Testaceae", "Testa", EPITHETS[i % len(EPITHETS)]])
    return folder


# --------------------------------------------------------------------------------------------------------------- table


def write(options: argparse.Namespace, speed: dict[str, list[float]], memory: dict[int, dict[str, float]]) -> None:
    median = {name: statistics.median(seconds) for name, seconds in speed.items()}
    together = statistics.median(map(sum, zip(speed["index"], speed["shard"], strict=True)))
    said = {
        "index": "stage index: decode, hashes, splits, report",
        "shard": "stage shard: files passed through",
        "bare": f"Pillow decodes, tarfile writes, {CORES} processes",
        "ShardWriter": "loop around webdataset.ShardWriter, no decode",
        "shard, resized": f"stage shard with max_side {options.side // 2}",
        "img2dataset": f"img2dataset, keep_ratio_largest {options.side // 2}",
    }
    lines = [
        "# Speed and memory of index and shard",
        "",
        f"`python benchmarks/data.py`: {options.images:,} JPEG files of {options.side} pixels, {CORES} cores, medians "
        f"of {options.runs} runs in turns; wall seconds.",
        "",
        "| | seconds | images/s |",
        "|---|---|---|",
        *(f"| {said[name]} | {seconds:.1f} | {options.images / seconds:,.0f} |" for name, seconds in median.items()),
        f"| **index + shard** | {together:.1f} | {options.images / together:,.0f} |",
        "",
        f"index + shard reach {100 * median['bare'] / together:.0f} % of the bare decode and tar.",
        "",
        "Highest resident memory of all processes together, MB, on images of 48 pixels:",
        "",
        f"| images | {' | '.join(next(iter(memory.values()), {}))} |",
        "|---" * (1 + len(next(iter(memory.values()), {}))) + "|",
        *(f"| {n:,} | {' | '.join(f'{peak:.0f}' for peak in peaks.values())} |" for n, peaks in memory.items()),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    with replacing(OUTPUT) as path:
        path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
