"""Run every stage once on the shape of iNaturalist 2021: 10,000 species and 100,000 photographs.

    python benchmarks/shape.py [--species 10000] [--cores 2]

Writes benchmarks/shape.md. The commit that is checked out is cloned into a temporary folder and run there with the
parameters below: drawings of 64 pixels, ten of each species, and one epoch of small models, which learn little. Every
job says at the end of its log what it used. The disk is looked at once in two seconds, without the environments that
the clone borrows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from run import ENVIRONMENTS, ROOT, Took, children_seconds, circumstances, read

OUTPUT = Path(__file__).with_suffix(".md")
STAGES = ("index", "shard", "caption", "teacher", "logits", "distill", "prune", "quantize", "convert", "evaluate")
IMAGES = {"pretrain": 0, "train": 6, "val": 1, "calibration": 1, "test": 2}  # of each species
SHARDS = {"pretrain": 0, "train": 4, "val": 1, "calibration": 1, "test": 2}
LEARNING = {"epochs": 1, "batch_size": 128}
REPORTED = ("teacher", "student", "control", "pruned", "int8", "tfjs")  # variants


def parameters(species: int) -> dict[str, Any]:
    """Make the content of params.yaml."""
    tower = {"image_tower": "resnet10t", "image_size": 48, "embed_dim": 64, "text_width": 64, "text_layers": 1}
    return {
        "index": {
            "path": "data/source",
            "synthetic": {"species": species, "unseen_species": 0, "image_size": 64, "images": IMAGES},
        },
        "shard": {"counts": SHARDS},
        "caption": {},
        "teacher": {"allow_weak": True, "train": {"splits": ["train"], **tower, **LEARNING}},
        "logits": {"views": 2},
        "distill": {
            "student": "mobilenetv4_conv_small_050",
            "student_options": {},
            "image_size": 48,
            "text_tower": None,
            **LEARNING,
            "finetune": {"epochs": 0},
        },
        "prune": LEARNING,
        "quantize": {"bytes_per_parameter": 1.2},
        "convert": {"taxa_bytes": 40_000_000, "over_budget": "refuse"},
        "evaluate": {"also": [], "speed": {"sizes": []}},
    }


@dataclass(frozen=True)
class Run:
    wall: float  # seconds
    processor: float  # seconds of all processes
    jobs: dict[str, list[Took]]  # by what they do
    stages: dict[str, tuple[int, int]]  # -> files and bytes in its folder
    cache: int  # bytes of DVC's cache that data/ does not share with it
    peak: int  # bytes of all of it together, at most
    splits: Counter[str]  # photographs
    taxa: int
    right: dict[str, float]  # % of the test photographs known to species, by variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--species", type=int, default=10_000)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-shape-") as temporary:
        found = run(Path(temporary, "clone"), options.species, options.cores)
        OUTPUT.write_text(page(found, options.cores), encoding="utf-8")


def run(folder: Path, species: int, cores: int) -> Run:
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    for name in ENVIRONMENTS:
        (folder / name).symlink_to(ROOT / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters(species), sort_keys=False))
    began, used = time.monotonic(), children_seconds()
    with Disk(folder) as disk:
        command = [str(Path(sys.executable).with_name("snakemake")), "--cores", str(cores), "evaluate"]
        subprocess.run(command, cwd=folder, check=True)
    wall, used = time.monotonic() - began, children_seconds() - used
    variants = json.loads((folder / "data/evaluate/metrics.json").read_text())["variants"]
    return Run(
        wall=wall,
        processor=used,
        jobs=read(folder / "logs"),
        stages={stage: measure(folder / "data" / stage) for stage in STAGES},
        cache=size([folder / "data", folder / ".dvc"]) - size([folder / "data"]),
        peak=disk.peak,
        splits=Counter(pq.read_table(folder / "data/index/samples.parquet", columns=["split"])["split"].to_pylist()),
        taxa=sum(pq.read_table(folder / "data/index/taxa.parquet", columns=["leaf"])["leaf"].to_pylist()),
        right={variant: 100 * variants[variant]["top1"]["value"] for variant in REPORTED},
    )


class Disk:
    """Look at the size of a folder again and again, in a thread, for its ``peak`` in bytes."""

    def __init__(self, folder: Path) -> None:
        self.peak, self._folder, self._ended = 0, folder, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Disk":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        ended = False
        while not ended:  # the last look is at what is left
            ended = self._ended.wait(2)
            self.peak = max(self.peak, size([self._folder / name for name in ("data", ".dvc", ".snakemake", "logs")]))


def measure(folder: Path) -> tuple[int, int]:
    """(files, bytes) in a folder."""
    return sum(1 for _ in files(folder)), size([folder])


def size(folders: list[Path]) -> int:
    """Bytes of the files in some folders; a file that stands in two places counts once."""
    return sum({(found.st_dev, found.st_ino): found.st_size for folder in folders for found in files(folder)}.values())


def files(folder: Path) -> Iterator[os.stat_result]:
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.stat(Path(place, name), follow_symlinks=False)
            except FileNotFoundError:  # a temporary file that has been renamed
                continue


def page(run: Run, cores: int) -> str:
    counts = ", ".join(f"{split} {count:,}" for split, count in run.splits.items())
    photographs = run.splits.total()
    cached = sum(run.splits[split] * (2 if split == "train" else 1) for split in run.splits)
    lines = [
        "# A run on the shape of iNaturalist 2021",
        "",
        f"`python benchmarks/shape.py --cores {cores}`: every stage in a fresh clone of {circumstances()}: "
        f"{run.taxa:,} species, {photographs:,} drawings of 64 pixels "
        f"({counts}). A resnet10t as teacher and a mobilenetv4_conv_small_050 as student see 48 pixels, for one "
        "epoch each: what grows with taxa and photographs is all there, and the models are nearly untaught.",
        "",
        f"**{run.wall / 60:.1f} minutes, {run.processor / 60:.1f} of processor time; at most "
        f"{max(took.memory for jobs in run.jobs.values() for took in jobs):,.0f} MB in a process; at most "
        f"{run.peak / 1e6:,.0f} MB on the disk.**",
        "",
        "Of each kind of job: how many, their seconds together, and the memory of the largest process. A job is a fork "
        "of a process that has imported all libraries, which count in its memory.",
        "",
        "| job | n | s | s of processor time | MB |",
        "|---|---|---|---|---|",
        *(
            f"| {job} | {len(found)} | {sum(took.seconds for took in found):.1f} | "
            f"{sum(took.processor for took in found):.1f} | {max(took.memory for took in found):,.0f} |"
            for job, found in run.jobs.items()
        ),
        "| Snakemake, ledgers, imports for all | | | "
        f"{run.processor - sum(took.processor for found in run.jobs.values() for took in found):.1f} | |",
        "",
        "Left on the disk:",
        "",
        "| folder | files | MB | bytes a photograph |",
        "|---|---|---|---|",
        *(
            f"| data/{stage} | {number:,} | {found / 1e6:,.1f} | {found / photographs:,.0f} |"
            for stage, (number, found) in run.stages.items()
        ),
        f"| DVC's cache, what it does not share with these | | {run.cache / 1e6:,.1f} | |",
        "",
        f"data/logits has {run.stages['logits'][1] / cached:,.0f} bytes for each of {cached:,} views.",
        "",
        "Test photographs known to species, %, where a guess is right in "
        f"{100 / run.taxa:.2g}: " + ", ".join(f"{variant} {share:.2f}" for variant, share in run.right.items()) + ".",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
