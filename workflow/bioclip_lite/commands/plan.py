"""``python -m bioclip_lite plan``: what a larger collection would take: shards, jobs, bytes and hours.

Rates are those of the run in this folder: the duration of each job from Snakemake's records, less the time that its
program takes to start, per photograph that it worked on; and the sizes of its outputs. Machine and parameters are taken
to be the same, so first run the pipeline on some thousand of your own photographs.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bioclip_lite.commands.common import command
from bioclip_lite.commands.status import bytes_text
from bioclip_lite.engines import snakemake_records
from bioclip_lite.engines.dvc_yaml import dvc_stages, files_in, within
from bioclip_lite.engines.ledger import load_ledgers
from bioclip_lite.photographs.shards import split_of
from bioclip_lite.sources.sample import SPLITS
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, require
from bioclip_lite.utils.stage_names import STAGES

SPLITS_OF = {  # the splits whose photographs a job works on; jobs that are not here grow with something else
    "make_index": SPLITS,
    "list_shards": SPLITS,
    "write_sizes": SPLITS,
    "make_teacher": ("pretrain", "train"),
    "make_further_teacher": ("pretrain", "train"),
    "train_student": ("train",),
    "train_control": ("train",),
    "prune_student": ("train",),
    "predict": ("test",),
    "predict_shard": ("test",),
    "write_report": ("test",),
}


class Job(NamedTuple):
    """A job that ran in this folder: what it worked on, and what it made."""

    rule: str
    shard: str | None
    seconds: float  # of its own work; nan if it ran elsewhere
    size: int  # bytes


class Row(NamedTuple):
    """One stage of the larger run."""

    stage: str
    jobs: int
    hours: float  # one job after another; nan if a rate is missing
    at_once: float  # hours with as many jobs at once as asked for
    size: float  # bytes


def plan(images: int, per_shard: int, jobs: int) -> tuple[dict[str, int], list[Row]]:
    """Shards per split, and a row for each stage that has been made here.

    Args:
        images: photographs of the larger collection; their shares of the splits are those of the present one.
        per_shard: photographs in a shard; numbers of shards are powers of two, which gives shards of even size.
        jobs: that run at once.

    Raises:
        UserError: nothing has been made here yet.
    """
    sizes = {name.removesuffix(".tar"): n for name, n in read_json(require(Path("data/shard/sizes.json"))).items()}
    now: Counter[str] = Counter()
    for name, n in sizes.items():
        now[split_of(name)] += n
    growth = images / now.total()
    shards = {
        split: 2 ** max(0, round(math.log2(now[split] * growth / per_shard))) if now[split] else 0 for split in SPLITS
    }
    made = _jobs()
    if not made:
        raise UserError(
            "data/provenance is empty: there are no rates to plan with; run: snakemake --cores all evaluate"
        )
    return shards, [_row(stage, done, sizes, now, growth, shards, jobs) for stage, done in made.items()]


def _jobs() -> dict[str, list[Job]]:
    """Stage -> the jobs in its ledger."""
    jobs = load_ledgers()
    by_stage: dict[str, list[Job]] = {}
    for stage in STAGES:
        outs = dvc_stages()[stage]["outs"]
        together: dict[tuple[Any, ...], list[str]] = {}  # the outputs of one job: made alike from the same
        for out in (path for path in jobs if within(path, outs)):
            job = jobs[out]
            together.setdefault((job["rule"], _shard(out), job["definition"], *sorted(job["in"])), []).append(out)
        taken = {key: max(map(_taken, paths)) for key, paths in together.items()}
        start = _seconds_to_start(stage) if any(taken.values()) else 0.0
        for key, paths in together.items():
            rule, shard, took = *key[:2], taken[key]
            seconds = max(took - start, 0.1 * took) if took else math.nan
            size = sum(os.path.getsize(file) for path in paths for file in files_in(path))
            by_stage.setdefault(stage, []).append(Job(rule, shard, seconds, size))
    return by_stage


def _taken(out: str) -> float:
    """Seconds of the job that made a file; 0 without a record, and with one learned from a ledger: it ran elsewhere."""
    record = snakemake_records.read(out)
    return float(record["endtime"] - record["starttime"]) if record.get("endtime") else 0.0


def _shard(path: str) -> str | None:
    name = Path(path).stem
    split, _, number = name.rpartition("-")
    return name if split and number.isdigit() and len(number) == 5 else None


def _seconds_to_start(stage: str) -> float:
    """Python, and the imports of a stage."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", f"import bioclip_lite.stages.{stage}"], check=True)
    return time.monotonic() - began


def _row(
    stage: str,
    done: list[Job],
    sizes: dict[str, int],
    now: Counter[str],
    growth: float,
    shards: dict[str, int],
    at_once: int,
) -> Row:
    count, hours, wall, size = 0, 0.0, 0.0, 0.0
    for rule in dict.fromkeys(job.rule for job in done):
        here = [job for job in done if job.rule == rule]
        per_shard = [(job.seconds, sizes[job.shard]) for job in here if job.shard in sizes]
        number, grown = len(here), growth if per_shard or rule in SPLITS_OF else 1.0
        seconds = sum(job.seconds for job in here) * grown
        if per_shard:  # jobs of the same kind in any number; those that ran elsewhere cost what the others did
            splits = {split_of(job.shard) for job in here if job.shard}
            number = sum(shards[split] for split in splits)
            ran = [(taken, images) for taken, images in per_shard if not math.isnan(taken)]
            rate = sum(taken for taken, _ in ran) / sum(images for _, images in ran) if ran else math.nan
            seconds = rate * sum(now[split] for split in splits) * growth
        count += number
        hours += seconds / 3600
        wall += seconds / 3600 / (min(number, at_once) if per_shard else 1)
        size += sum(job.size for job in here) * grown
    return Row(stage, count, hours, wall, size)


def table(rows: list[Row], at_once: int) -> str:
    """The rows as text, with their sums."""
    total = Row("all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True)))
    lines = [f"{'stage':10} {'jobs':>8} {'hours':>10} {f'{at_once} at once':>12} {'on disk':>10}"]
    lines += [
        f"{row.stage:10} {row.jobs:>8,} {_hours(row.hours):>10} {_hours(row.at_once):>12} {bytes_text(row.size):>10}"
        for row in [*rows, total]
    ]
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return "?" if math.isnan(hours) else f"{hours:,.1f}" if hours >= 1 else f"{hours:.2f}"


def _number(text: str) -> int:
    """A whole number as people write large ones: 10000000, 10_000_000 or 1e7."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; write 10000000, 10_000_000 or 1e7")
    return int(number)


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "plan",
        "Estimate shards, jobs, bytes and hours for a larger collection, from the rates of the run in this folder. Run "
        "the pipeline on some thousand of your own photographs first.",
    )
    parser.add_argument("images", type=_number, help="photographs of the larger collection, e.g. 10000000")
    parser.add_argument("--per-shard", type=int, default=10_000, help="photographs per shard (default: 10000)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="jobs that run at once (default: the number of cores)"
    )
    return parser


@command("plan")
def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    if min(options.images, options.per_shard, options.jobs) < 1:
        raise UserError("images, --per-shard and --jobs must be 1 or more")
    shards, rows = plan(options.images, options.per_shard, options.jobs)
    counts = yaml.safe_dump({"counts": shards}, default_flow_style=True, sort_keys=False, width=200).strip()
    print(f"{options.images:,} photographs, {sum(shards.values()):,} shards of about {options.per_shard:,}\n")
    print(table(rows, options.jobs))
    print(f"\nparams.yaml, shard: {counts}")
    if any(math.isnan(row.hours) for row in rows):
        print("?: a job of this stage ran elsewhere (dvc pull), so its rate here cannot be measured")
    return 0
