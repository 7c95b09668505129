"""Time `snakemake --cores all evaluate` in a fresh clone, job by job.

    python benchmarks/run.py [--cores all]

Writes benchmarks/run.md. The commit that is checked out is cloned into a temporary folder, which borrows the
environments of this checkout, and run there; then again with oneDNN kept to AVX2. Every job says at the end of its log
how long it took, how much processor time it and its children used, and how much of that until its stage was imported.
The rest of the run's processor time is Snakemake, the ledgers, and the server that imports the libraries for all jobs.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
OUTPUT = Path(__file__).with_suffix(".md")
ENVIRONMENTS = (".venv", ".venv-convert", "packages/react-bio-clip/node_modules", "packages/react-bio-clip/dist")
COMPARED = ("teacher", "student", "control", "pruned", "int8", "tfjs")  # variants
TOOK = re.compile(
    r"^\w+: took ([\d.]+) s, ([\d.]+) s of processor time, ([\d.]+) s of them to start, (\d+) MB at most$", re.MULTILINE
)
# The jobs at commit 00d6606, each a process that imported all it needed: processor seconds of all of its kind, start-up
# of one. Measured once with bash's `times` and --cores 1 on 2026-11-30, AMD EPYC (family 26) with AVX-512, beside other
# work; start-up is the import of the stage in a new process.
BEFORE = {
    "index/index": (15.9, 0.4),
    "shard/manifests": (0.7, 0.2),
    "shard/<shard>": (12.1, 0.2),
    "shard/sizes": (0.3, 0.2),
    "caption/<shard>": (4.5, 0.2),
    "teacher/teacher": (169.3, 4.5),
    "logits/<shard>": (34.4, 3.9),
    "logits/taxa": (5.7, 3.9),
    "distill/student": (153.9, 4.0),
    "distill/control": (144.7, 4.0),
    "distill/finetune": (17.3, 4.0),
    "prune/prune": (18.4, 3.9),
    "quantize/quantize": (7.6, 3.7),
    "convert/convert": (13.3, 4.0),
    "evaluate/teacher": (31.2, 3.9),
    "evaluate/table": (5.6, 3.9),
    "evaluate/first": (6.3, 3.9),
    "evaluate/student": (6.0, 3.9),
    "evaluate/pruned": (6.1, 3.9),
    "evaluate/int8": (5.8, 3.9),
    "evaluate/tfjs": (8.9, 3.9),
    "evaluate/control": (5.8, 3.9),
    "evaluate/majority": (5.3, 3.9),
    "evaluate/random": (5.3, 3.9),
    "evaluate/speed": (33.7, 4.0),
    "evaluate/report": (5.7, 0.5),
}


class Took(NamedTuple):
    """Figures at the end of a job's log."""

    seconds: float
    processor: float  # seconds
    start: float  # seconds of those, until the stage is imported
    memory: float  # MB, of its largest process


@dataclass(frozen=True)
class Run:
    wall: float  # seconds
    processor: float  # seconds of all processes
    jobs: dict[str, list[Took]]  # by what they do
    right: dict[str, float]  # % of the test photographs known to species, by variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", default="all")
    cores = parser.parse_args().cores
    own, avx2 = run(cores, {}), run(cores, {"ONEDNN_MAX_CPU_ISA": "AVX2"})
    OUTPUT.write_text(page(own, avx2, cores), encoding="utf-8")


def run(cores: str, environment: dict[str, str]) -> Run:
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-run-") as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        for name in ENVIRONMENTS:
            (clone / name).symlink_to(ROOT / name)
        began, used = time.monotonic(), children_seconds()
        command = [str(Path(sys.executable).with_name("snakemake")), "--cores", cores, "evaluate"]
        subprocess.run(command, cwd=clone, env=os.environ | environment, check=True)
        wall, processor = time.monotonic() - began, children_seconds() - used
        variants = json.loads((clone / "data/evaluate/metrics.json").read_text())["variants"]
        right = {variant: 100 * row["top1"]["value"] for variant, row in variants.items()}
        return Run(wall, processor, read(clone / "logs"), right)


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read(logs: Path) -> dict[str, list[Took]]:
    """Times from the logs of the jobs, in the order in which they ended; jobs of shards count as one."""
    jobs: dict[str, list[Took]] = defaultdict(list)
    for log in sorted(logs.rglob("*.log"), key=lambda log: log.stat().st_mtime):
        for took in TOOK.findall(log.read_text(encoding="utf-8")):
            job = re.sub(r"\w+-\d{5}$", "<shard>", log.relative_to(logs).with_suffix("").as_posix())
            jobs[job].append(Took(*map(float, took)))
    return dict(jobs)


def circumstances() -> str:
    """Name commit, day and machine."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    commit = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], text=True).strip()
    day = time.strftime("%Y-%m-%d")
    return f"commit {commit} on {day}, {os.cpu_count()} cores of {model[1] if model else 'a processor'}"


def page(own: Run, avx2: Run, cores: str) -> str:
    lines = [
        "# What a run costs",
        "",
        f"`python benchmarks/run.py`: the default run, `snakemake --cores {cores} evaluate`, in a fresh clone of "
        f"{circumstances()}.",
        "",
        "| | minutes | of processor time | right, %: " + " | ".join(COMPARED) + " |",
        "|---" * (3 + len(COMPARED)) + "|",
        *(
            f"| {name} | {run.wall / 60:.1f} | {run.processor / 60:.1f} | "
            + " | ".join(f"{run.right[variant]:.1f}" for variant in COMPARED)
            + " |"
            for name, run in (("all that the processor has", own), ("`ONEDNN_MAX_CPU_ISA=AVX2`", avx2))
        ),
        "",
        "Seconds of processor time, of a job and its children; start-up is what it uses until its stage is imported. "
        "Before: commit 00d6606, where each job imported all it needed, on one core, beside other work. Now the "
        "teacher has two cores, which wait for each other; the student and its control have one each.",
        "",
        "| job | n | before | now | now, AVX2 | start-up before | start-up now |",
        "|---" * 7 + "|",
    ]
    for job, runs in own.jobs.items():
        before, before_start = BEFORE[job]
        start = statistics.median(took.start for took in runs)
        lines.append(
            f"| {job} | {len(runs)} | {before:.1f} | {_used(runs):.1f} | {_used(avx2.jobs[job]):.1f} | "
            f"{before_start:.1f} | {start:.1f} |"
        )
    rest, rest_avx2 = (run.processor - sum(map(_used, run.jobs.values())) for run in (own, avx2))
    lines.append(f"| Snakemake, ledgers, imports for all | | | {rest:.1f} | {rest_avx2:.1f} | | |")
    return "\n".join(lines) + "\n"


def _used(runs: list[Took]) -> float:
    return sum(took.processor for took in runs)


if __name__ == "__main__":
    main()
