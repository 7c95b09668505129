"""``python -m bioclip_lite plan``: what a larger collection would take: shards, jobs, bytes and hours.

Rates are those of the run in this folder: the duration of each job from Snakemake's records, less the time that its
program takes to start, per photograph that it worked on; and the sizes of its outputs. Machine and parameters are taken
to be the same, so first run the pipeline on some thousand of your own photographs. ``planning.growth`` counts what a
longer list adds.
"""

import argparse
import math
import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bioclip_lite import params
from bioclip_lite.commands.common import command
from bioclip_lite.commands.status import bytes_text
from bioclip_lite.engines import snakemake_records
from bioclip_lite.engines.dvc_yaml import dvc_stages, files_in, within
from bioclip_lite.engines.ledger import load_ledgers
from bioclip_lite.photographs.shards import split_of
from bioclip_lite.planning import growth as growth_of
from bioclip_lite.sources.sample import SPLITS
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, require
from bioclip_lite.utils.stage_names import STAGES
from bioclip_lite.web import budget, bundle

SPLITS_OF = {  # the splits whose photographs a job works on; jobs that are not here grow with something else
    **dict.fromkeys(("list_parts", "download_part", "read_part", "make_index"), SPLITS),
    "list_shards": SPLITS,
    "write_sizes": SPLITS,
    "make_teacher": ("pretrain", "train"),
    "make_further_teacher": ("pretrain", "train"),
    "train_student": ("train",),
    "finetune_student": ("train",),
    "train_control": ("train",),
    "prune_student": ("train",),
    "predict": ("test",),
    "predict_shard": ("test",),
    "write_report": ("test",),
}


OF_TAXA = ("embed_taxa", "embed_texts")  # rules whose jobs work on the taxa alone
EPOCHS = {  # where the epochs of jobs stand that train on split train, against all taxa
    "train_student": "distill.epochs",
    "finetune_student": "distill.finetune.epochs",
    "train_control": "distill.epochs",
    "prune_student": "prune.epochs",
}


class Collection(NamedTuple):
    """What is asked about."""

    images: int
    taxa: int
    per_shard: int  # photographs in a shard
    jobs: int  # that run at once


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


class Run(NamedTuple):
    """The run in this folder."""

    sizes: dict[str, int]  # photographs in each shard
    photographs: Counter[str]  # in each split
    taxa: int
    width: int  # D, of embeddings
    names: float  # bytes of a taxon in bundle.json


def read_run() -> Run:
    """Read what plan needs of the run in this folder. Raises UserError if stage index, shard or logits has not run."""
    sizes = {name.removesuffix(".tar"): n for name, n in read_json(require(Path("data/shard/sizes.json"))).items()}
    photographs: Counter[str] = Counter()
    for name, n in sizes.items():
        photographs[split_of(name)] += n
    rows = [row for row in read_table(Path("data/index/taxa.parquet")).to_pylist() if row["leaf"]]
    text = store.map_tensors(store.folder(Path("data")) / "taxa.safetensors")[0]["text"]
    return Run(sizes, photographs, len(rows), text.shape[1], bundle.names_bytes(rows) / max(1, len(rows)))


def plan(run: Run, asked: Collection) -> tuple[dict[str, int], list[Row]]:
    """Shards per split, and a row for each stage that has been made here.

    The photographs' shares of the splits are those of the present run. Numbers of shards are powers of two, which gives
    shards of even size.

    Raises:
        UserError: nothing has been made here yet.
    """
    growth = asked.images / run.photographs.total()
    shards = {
        split: 2 ** max(0, round(math.log2(run.photographs[split] * growth / asked.per_shard)))
        if run.photographs[split]
        else 0
        for split in SPLITS
    }
    made = _jobs()
    if not made:
        raise UserError(
            "data/provenance is empty: there are no rates to plan with; run: snakemake --cores all evaluate"
        )
    rows = [_row(stage, done, run, asked, shards) for stage, done in made.items()]
    return shards, [_with_taxa(row, made[row.stage], run, asked) for row in rows]


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


def _row(stage: str, done: list[Job], run: Run, asked: Collection, shards: dict[str, int]) -> Row:
    count, hours, wall, size = 0, 0.0, 0.0, 0.0
    growth, sizes = asked.images / run.photographs.total(), run.sizes
    for rule in dict.fromkeys(job.rule for job in done):
        here = [job for job in done if job.rule == rule]
        per_shard = [(job.seconds, sizes[job.shard]) for job in here if job.shard in sizes]
        number, grown = len(here), growth if per_shard or rule in SPLITS_OF else 1.0
        grown = asked.taxa / run.taxa if rule in OF_TAXA else grown
        seconds = sum(job.seconds for job in here) * grown
        if per_shard:  # jobs of the same kind in any number; those that ran elsewhere cost what the others did
            splits = {split_of(job.shard) for job in here if job.shard}
            number = sum(shards[split] for split in splits)
            ran = [(taken, images) for taken, images in per_shard if not math.isnan(taken)]
            rate = sum(taken for taken, _ in ran) / sum(images for _, images in ran) if ran else math.nan
            seconds = rate * sum(run.photographs[split] for split in splits) * growth
        count += number
        hours += seconds / 3600
        wall += seconds / 3600 / (min(number, asked.jobs) if per_shard else 1)
        size += sum(job.size for job in here) * grown
    return Row(stage, count, hours, wall, size)


def _with_taxa(row: Row, done: list[Job], run: Run, asked: Collection) -> Row:
    """A row of a list of the present length, with what the taxa of another length add."""
    rules = Counter(job.rule for job in done)
    growth, width = asked.images / run.photographs.total(), run.width
    each = growth_of.loss_seconds(asked.taxa, width) - growth_of.loss_seconds(run.taxa, width)
    trained = sum(_epochs(rule) for rule in rules if rule in EPOCHS) * run.photographs["train"] * growth * each
    tested = run.photographs["test"] * growth
    answered = rules["predict"] * (
        growth_of.prediction_seconds(tested, asked.taxa, width) - growth_of.prediction_seconds(tested, run.taxa, width)
    )
    added = budget.row_bytes(width) + run.names if row.stage == "convert" else 0.0
    return row._replace(
        hours=row.hours + (trained + answered) / 3600,
        at_once=row.at_once + (trained + answered / asked.jobs) / 3600,
        size=row.size + added * (asked.taxa - run.taxa),
    )


def _epochs(rule: str) -> int:
    value: Any = params.load(Path("params.yaml"))
    for name in EPOCHS[rule].split("."):
        value = value[name]
    return int(value)


def remarks(rows: list[Row], run: Run, asked: Collection, teraflops: float) -> Iterator[str]:
    """Lines about disk, memory, start-up, GPUs and the web bundle."""
    sizes = {row.stage: row.size for row in rows}
    cache = sizes.get("logits", 0.0)
    yield (
        f"disk       teacher cache {bytes_text(cache)}, all else {bytes_text(sum(sizes.values()) - cache)}; "
        f"predictions take {growth_of.PREDICTION_BYTES / 1000:.1f} kB a photograph and variant, whatever the taxa"
    )
    yield (
        f"memory     losses over {asked.taxa:,} taxa {bytes_text(growth_of.loss_memory(asked.taxa, run.width))} beside "
        f"the networks, a job of evaluate {bytes_text(growth_of.evaluation_memory(asked.taxa, run.width))}"
    )
    grown = {split: n * asked.images / run.photographs.total() for split, n in run.photographs.items()}
    start = growth_of.start_seconds(grown["train"])
    yield f"start-up   of a training {start:.2g} s beside imports, {growth_of.START_MEMORY} MB, most of it PyTorch's"
    section = params.load(Path("params.yaml"))["logits"]
    views = grown["train"] * section["views"] + sum(grown.values()) - grown["train"] - grown.get("pretrain", 0)
    hours = (
        f"{name} {_hours(growth_of.gpu_hours(views, macs, teraflops))} h" for name, macs in growth_of.TEACHERS.items()
    )
    yield f"GPU        that sustains {teraflops:g} teraflops, for {views:,.0f} views: {', '.join(hours)}"
    yield from _bundle(run, asked)


def _bundle(run: Run, asked: Collection) -> Iterator[str]:
    section, size = params.load(Path("params.yaml"))["convert"], budget.table_bytes(asked.taxa, run.width)
    yield (
        f"web bundle table of {asked.taxa:,} taxa {bytes_text(size)}, their names about "
        f"{bytes_text(run.names * asked.taxa)}, besides the model"
    )
    try:
        budget.check(asked.taxa, run.width, section["taxa_bytes"], section["over_budget"])
    except UserError as error:
        yield textwrap.fill(f"refused: {error}", 110, initial_indent=" " * 11, subsequent_indent=" " * 11)


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
    parser.add_argument("--taxa", type=_number, help="taxa of its list (default: as many as here)")
    parser.add_argument(
        "--teraflops",
        type=float,
        default=100.0,
        help="10^12 operations a second that your GPU sustains in half precision, for the hours of teachers "
        "(default: 100; benchmarks/gpu.py measures it)",
    )
    parser.add_argument("--per-shard", type=int, default=10_000, help="photographs per shard (default: 10000)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="jobs that run at once (default: the number of cores)"
    )
    return parser


@command("plan")
def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    if min(options.images, options.per_shard, options.jobs, 1 if options.taxa is None else options.taxa) < 1:
        raise UserError("images, --taxa, --per-shard and --jobs must be 1 or more")
    if not 0 < options.teraflops < math.inf:
        raise UserError(f"--teraflops is {options.teraflops}; it must be a number above 0")
    run = read_run()
    asked = Collection(options.images, options.taxa or run.taxa, options.per_shard, options.jobs)
    shards, rows = plan(run, asked)
    counts = yaml.safe_dump({"counts": shards}, default_flow_style=True, sort_keys=False, width=200).strip()
    print(
        f"{asked.images:,} photographs of {asked.taxa:,} taxa, {sum(shards.values()):,} shards of about "
        f"{asked.per_shard:,}\n"
    )
    print(table(rows, asked.jobs), "", *remarks(rows, run, asked, options.teraflops), sep="\n")
    print(f"\nparams.yaml, shard: {counts}")
    if any(math.isnan(row.hours) for row in rows):
        print("?: a job of this stage ran elsewhere (dvc pull), so its rate here cannot be measured")
    return 0
