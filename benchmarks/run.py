"""What `snakemake --cores all evaluate` costs in a fresh clone, job by job.

    python benchmarks/run.py [--cores all]

Writes benchmarks/run.md. The commit that is checked out is cloned into a temporary folder, which borrows the
environments of this checkout, and run there once. Every job says at the end of its log how long it took, how much
processor time it and its children used, and how much of that until its stage was imported. The rest of the run's
processor time is Snakemake, the ledgers, and the server that imports the libraries for all jobs.
"""

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTPUT = Path(__file__).with_suffix(".md")
ENVIRONMENTS = (".venv", ".venv-convert", "packages/react-bio-clip/node_modules", "packages/react-bio-clip/dist")
TOOK = re.compile(r"^\w+: took ([\d.]+) s, ([\d.]+) s of processor time, ([\d.]+) s of them to start$", re.MULTILINE)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", default="all")
    cores = parser.parse_args().cores
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-run-") as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        for name in ENVIRONMENTS:
            (clone / name).symlink_to(ROOT / name)
        began, used = time.monotonic(), _children()
        command = [Path(sys.executable).with_name("snakemake"), "--cores", cores, "evaluate"]
        subprocess.run(command, cwd=clone, check=True)
        wall, processor = time.monotonic() - began, _children() - used
        jobs = read(clone / "logs")
    OUTPUT.write_text(page(jobs, cores, wall, processor), encoding="utf-8")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read(logs: Path) -> dict[str, list[tuple[float, float, float]]]:
    """Seconds, processor seconds and those to start of each job, by what it does: jobs of shards are one."""
    jobs = defaultdict(list)
    for log in sorted(logs.glob("*/*.log"), key=lambda log: log.stat().st_mtime):
        for took in TOOK.findall(log.read_text(encoding="utf-8")):
            job = re.sub(r"\w+-\d{5}$", "<shard>", log.relative_to(logs).with_suffix("").as_posix())
            jobs[job].append(tuple(map(float, took)))
    return dict(jobs)


def page(jobs: dict[str, list[tuple[float, float, float]]], cores: str, wall: float, processor: float) -> str:
    machine = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    commit = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], text=True).strip()
    lines = [
        "# What a run costs",
        "",
        f"`python benchmarks/run.py`: the default run, `snakemake --cores {cores} evaluate`, at commit {commit} on "
        f"{time.strftime('%Y-%m-%d')}, {machine[1] if machine else 'unknown processor'}.",
        "",
        f"{wall / 60:.1f} minutes, {processor / 60:.1f} minutes of processor time. The table has seconds of processor "
        f"time, of a job and its children; start-up is what it uses until its stage is imported.",
        "",
        "| job | n | before | now | start-up before, of one | now, of one |",
        "|---|---|---|---|---|---|",
    ]
    for job, runs in jobs.items():
        before, before_start = (f"{seconds:.1f}" for seconds in BEFORE[job]) if job in BEFORE else ("", "")
        used, start = sum(run[1] for run in runs), statistics.median(run[2] for run in runs)
        lines.append(f"| {job} | {len(runs)} | {before} | {used:.1f} | {before_start} | {start:.1f} |")
    rest = processor - sum(run[1] for runs in jobs.values() for run in runs)
    lines.append(f"| Snakemake, ledgers, imports for all | | | {rest:.1f} | | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
