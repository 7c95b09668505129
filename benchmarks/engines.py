"""Measure a run that has nothing to do, by number of shards: Snakemake, DVC, and the sync between them.

    python benchmarks/engines.py [--shards 10 1000 10000] [--runs 5 3 1]

Writes benchmarks/engines.md. For each number of shards an up-to-date tree is made in a temporary folder, pushed, cloned
and pulled. There it times `snakemake --dry-run evaluate`, the same without `sync()` (bare Snakemake on the
same graph), sync alone, `dvc repro`, `dvc status`, and the commands `why` and `status`.

The tree is that of tests/thin.py with one training shard. Further shards are written, not made: files that hold their
own names, and ledgers that say the jobs of the first shard made them. What is measured reads no photographs or models.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "workflow")]
OUTPUT = Path(__file__).with_suffix(".md")

from bioclip_lite.utils.files import replacing  # noqa: E402
from bioclip_lite.utils.stage_names import STAGES  # noqa: E402
from support import checkout, thin  # noqa: E402  (tests/ is no package)

FIRST = "train-00000"
COMMON = "workflow/rules/common.smk"
SYNC = """
import time
from bioclip_lite.engines.sync import sync
import dvc.repo  # imported by a sync that finds news; the other runs below do not need it
started = time.process_time(), time.perf_counter()
sync()
print(time.process_time() - started[0], time.perf_counter() - started[1])
"""
DRY_RUN = "snakemake --dry-run -- evaluate"
BARE = "the same without sync"
ROWS = {  # name in the table -> shell command
    "`snakemake -n evaluate`": DRY_RUN,
    BARE: DRY_RUN,
    "`dvc repro`": "dvc repro",
    "`dvc status`": "dvc status",
    "`why` of one shard's logits": f"python -m bioclip_lite why data/logits/{FIRST}.safetensors",
    "`why` of the report": "python -m bioclip_lite why data/evaluate/report.html",
    "`status`": "python -m bioclip_lite status",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 1000, 10000], help="training shards")
    parser.add_argument("--runs", type=int, nargs="+", default=[5, 3, 1], help="for each of them; the median counts")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = "workflow"  # of the checkout that is measured
    checkout.ENVIRONMENT["PYTHONPATH"] = "workflow"
    with tempfile.TemporaryDirectory(prefix="engines-") as scratch:
        small = _small(Path(scratch) / "small")
        results = {
            shards: measure(small, Path(scratch), shards, runs)
            for shards, runs in zip(arguments.shards, arguments.runs, strict=True)
        }
    write(results)
    return 0


def _small(folder: Path) -> Path:
    """The thinned pipeline, made, with one training shard."""
    thin.new(folder)
    checkout.set_parameter(folder, "shard.counts", thin.COUNTS | {"train": 1})
    checkout.snakemake(folder)
    return folder


def measure(small: Path, scratch: Path, shards: int, runs: int) -> dict[str, Any]:
    """Time every command in a clone with ``shards`` training shards: {"seconds": {name: (cpu, wall)}, ...}."""
    origin = scratch / f"origin-{shards}"
    shutil.copytree(small, origin, symlinks=True)
    grow(origin, shards)
    checkout.sh(f"dvc remote add -q -d colleagues '{scratch}/remote-{shards}' && dvc push -q", origin)
    checkout.sh("git add -A && git commit -q -m grown", origin)
    clone = checkout.clone(origin, scratch / f"clone-{shards}", pull=False)
    once = {"`dvc pull` into a clone": timed("dvc pull -q", clone)}
    once["`snakemake -n evaluate` after it"] = timed(DRY_RUN, clone)
    assert checkout.changed(clone) == [], "the tree that was written is not what dvc.lock says"
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in [*ROWS, "sync alone"]}
    for _ in range(runs):  # in turns, so that what else the machine does falls on all alike
        for name, command in ROWS.items():
            samples[name].append(without_sync(clone, command) if name == BARE else timed(command, clone))
        samples["sync alone"].append(sync_alone(clone))
    medians = {
        name: tuple(statistics.median(each) for each in zip(*rows, strict=True)) for name, rows in samples.items()
    }
    outputs = sum(
        len(json.loads((clone / f"data/provenance/{stage}.json").read_text())["jobs"]) + 1 for stage in STAGES
    )
    return {"outputs": outputs, "runs": runs, "seconds": once | medians}


def timed(command: str, folder: Path) -> tuple[float, float]:
    """CPU (user + system) and wall seconds of processes of its own, which import what they need."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    output = checkout.sh(f"{checkout.COLD} {command}", folder)
    assert "--dry-run" not in command or "Nothing to be done" in output, "the tree that was written is not up to date"
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def without_sync(folder: Path, command: str) -> tuple[float, float]:
    path = folder / COMMON
    text = path.read_text()
    call = "SYNCED = sync()"
    assert call in text
    try:
        path.write_text(text.replace(call, "SYNCED = None"))
        return timed(command, folder)
    finally:
        path.write_text(text)


def sync_alone(folder: Path) -> tuple[float, float]:
    cpu, wall = map(float, checkout.sh(f"{sys.executable} -c '{SYNC}'", folder).splitlines()[-1].split())
    return cpu, wall


def grow(folder: Path, shards: int) -> None:
    """Turn a tree with one training shard into an up-to-date tree with ``shards``."""
    checkout.set_parameter(folder, "shard.counts", thin.COUNTS | {"train": shards})
    names = [f"train-{n:05d}" for n in range(shards)]
    hashes: dict[str, tuple[str, str]] = {}  # of the files written here: MD5, SHA-256
    for stage in STAGES:
        path = folder / f"data/provenance/{stage}.json"
        ledger = json.loads(path.read_text())
        if stage == "shard":
            for job in ledger["definitions"]:
                job["params"] = [text.replace('"train": 1', f'"train": {shards}') for text in job["params"]]
        copies = {(out, name): out.replace(FIRST, name) for out in ledger["jobs"] if FIRST in out for name in names[1:]}
        for copy in copies.values():
            content = f"{copy}\n".encode()
            (folder / copy).write_bytes(content)
            hashes[copy] = hashlib.md5(content).hexdigest(), f"sha256:{hashlib.sha256(content).hexdigest()}"
        if stage == "shard":
            _grow_manifests(folder, ledger["jobs"]["data/shard/manifest"], names, hashes)
        jobs = {out: job if FIRST in out else expanded(job, names, hashes) for out, job in ledger["jobs"].items()}
        for (out, name), copy in copies.items():
            jobs[copy] = renamed(ledger["jobs"][out], name, hashes) | {"md5": hashes[copy][0]}
        ledger["jobs"] = jobs
        path.write_text(json.dumps(ledger, sort_keys=True, separators=(",", ":")))
    shutil.rmtree(folder / ".snakemake")
    checkout.sh("dvc commit --quiet --force", folder)


def _grow_manifests(folder: Path, job: dict[str, Any], names: list[str], hashes: dict[str, tuple[str, str]]) -> None:
    """A manifest for each shard, in the one folder that a job makes."""
    for name in names[1:]:
        path = f"data/shard/manifest/{name}.parquet"
        (folder / path).write_text(f"{path}\n")
        content = f"{path}\n".encode()
        hashes[path] = hashlib.md5(content).hexdigest(), f"sha256:{hashlib.sha256(content).hexdigest()}"
        job["files"][f"{name}.parquet"] = hashes[path][0]
    job["md5"] = hashlib.md5(json.dumps(sorted(job["files"].items())).encode()).hexdigest() + ".dir"
    hashes["data/shard/manifest"] = job["md5"], ""  # Snakemake has no checksum of a folder


def expanded(job: dict[str, Any], names: list[str], hashes: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """A job that reads the first training shard, reading them all."""
    return _with_inputs(job, lambda path: [path.replace(FIRST, name) for name in names], hashes)


def renamed(job: dict[str, Any], name: str, hashes: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """The job of the first training shard, for another one."""
    return _with_inputs(job, lambda path: [path.replace(FIRST, name)], hashes)


def _with_inputs(
    job: dict[str, Any], paths: Callable[[str], list[str]], hashes: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    job = dict(job)
    for field, which in (("in", 0), ("sha256", 1)):
        new = {}
        for path, value in job[field].items():
            for copy in paths(path) if FIRST in path else [path]:
                new[copy] = hashes[copy][which] if copy in hashes else value
        job[field] = new
    return job


def write(results: dict[int, dict[str, Any]]) -> None:
    """The tables, in Markdown, on standard output and in OUTPUT."""
    seconds = {shards: result["seconds"] for shards, result in results.items()}
    columns = [f"{shards:,} shards, {result['runs']} runs" for shards, result in results.items()]
    outputs = ", ".join(f"{result['outputs']:,}" for result in results.values())
    lines = [
        "# What a run costs that has nothing to do",
        "",
        f"`python benchmarks/engines.py`, {os.cpu_count()} cores. CPU seconds (user + system), in brackets wall "
        "seconds; medians of runs in turns, the first two rows once. A training shard is a manifest, tar, captions and "
        f"logits; the trees have {outputs} outputs.",
        "",
        f"| | {' | '.join(columns)} |",
        "|---" * (len(results) + 1) + "|",
    ]
    for name in next(iter(seconds.values())):
        cells = [f"{row[name][0]:.2f} ({row[name][1]:.2f})" if name in row else "" for row in seconds.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    shares = [f"{100 * row['sync alone'][0] / row[BARE][0]:.0f} %" for row in seconds.values()]
    lines += [f"| **sync alone, of bare Snakemake** | {' | '.join(shares)} |", ""]
    text = "\n".join(lines)
    print(text)
    with replacing(OUTPUT) as scratch:
        scratch.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
