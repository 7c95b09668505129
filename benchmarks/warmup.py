"""Compare three lengths of warm-up for teachers that are trained here, of kinds train and lit.

    PYTHONPATH=workflow python benchmarks/warmup.py [--data data] [--params params.yaml] [--seeds 3] [--rows FILE]

Repeats the warm-up study of LiT (arXiv 2111.07991) at the size of a data folder whose stages shard, caption and teacher
are done: `train` trains both towers, `lit` tunes a text tower to the locked image tower of data/teacher/model, which
kind `train` made. Each is trained once per seed with every warm-up of WARM_UPS, at every learning rate of RATES, and
measured on split val after each epoch. Writes benchmarks/warmup.md, and the curves to warmup.png beside it. The seed
changes initial weights, order, views and captions of the photographs; within a seed only warm-up and learning rate
differ. As many runs at once as there are cores, with one thread each. A run that is in FILE is not repeated.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bioclip_lite import params
from bioclip_lite.metrics import guessing
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import teacher
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, finished_rows, read_json, read_table, replacing, require

OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# Warm-up of teachers"
KINDS = ("train", "lit")
WARM_UPS = {0.0: "#D55E00", 0.1: "#0072B2", 0.5: "#009E73"}  # shares of all steps, and the colours of their curves
RATES = (1, 10)  # times the learning rate of params.yaml; warm-up matters where a rate is nearly too high
METRICS = {"val_top1": "top-1", "val_top5": "top-5"}
Key = tuple[str, int, float, int]  # kind, times the learning rate, warm-up, seed
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--rows", type=Path, help="finished runs, one JSON object per line; new ones are added")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="(default: benchmarks/warmup.md)")
    options = parser.parse_args()
    try:
        check_outputs(options.out)
        known = finished_rows(options.rows)
        section = params.load(options.params)["teacher"]
        rows = sorted(finished(options, section, known), key=key)
        write(options, section, rows)
    except UserError as error:
        print(f"warmup: {error}", file=sys.stderr)
        return 1
    return 0


def check_outputs(out: Path) -> None:
    """Raise UserError unless the page can be written, and the curves beside it are those of an earlier page."""
    check_file(out, TITLE)
    curves = out.with_suffix(".png")
    if curves.exists() and not out.exists():
        raise UserError(f"{curves} is there already, and {out} is not, whose curves it might be; name another file")


# Training


def finished(options: argparse.Namespace, section: dict[str, Any], known: list[Row]) -> Iterator[Row]:
    """One row per run: what it was, the history of its training, and why it ended early if it did."""
    wanted: list[Key] = list(product(KINDS, RATES, WARM_UPS, range(options.seeds)))
    have = {key(row): row for row in known}
    yield from (have[run] for run in wanted if run in have)
    check_tower(options.data, section)
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn, max_tasks_per_child=1) as pool:
        runs = [pool.submit(one, options.data.resolve(), section, run) for run in wanted if run not in have]
        for done in as_completed(runs):
            row = done.result()
            print(*key(row), row["stopped"] or row["history"][-1], flush=True)
            if options.rows:
                with options.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            yield row


def key(row: Row) -> Key:
    return row["kind"], row["rate"], row["warm_up"], row["seed"]


def check_tower(data: Path, section: dict[str, Any]) -> None:
    """Raise UserError unless data/teacher/model has the image tower that ``lit`` is to lock."""
    about = read_json(require(data / "teacher" / FIRST / "teacher.json"))
    if section["kind"] != "train" or about["kind"] != "train":
        raise UserError(
            f"{data}/teacher/model is a teacher of kind {about['kind']} and teacher.kind is {section['kind']}; both "
            f"must be train, whose image tower kind lit locks here"
        )


def one(data: Path, section: dict[str, Any], run: Key) -> Row:
    """Train one teacher in a temporary folder."""
    kind, rate, warm_up, seed = run
    with tempfile.TemporaryDirectory() as scratch:
        inner = Path(scratch, "data")
        (inner / "weights").mkdir(parents=True)
        for part in ("index", "shard", "caption"):
            (inner / part).symlink_to(data / part)
        trained = data / "teacher" / FIRST
        (inner / "weights" / "tower.safetensors").symlink_to(trained / "open_clip_model.safetensors")
        own = of_kind(section, kind, read_json(trained / "preprocess.json"))
        own[kind] |= {"learning_rate": rate * section[kind]["learning_rate"], "warm_up": warm_up}
        stopped = ""
        try:
            teacher.run({**own, "seed": seed}, inner)
        except UserError as error:  # it diverged
            stopped = str(error)
        file = inner / "teacher" / "history.parquet"
        history = [] if stopped else read_table(file).to_pylist()
    return {"kind": kind, "rate": rate, "warm_up": warm_up, "seed": seed, "stopped": stopped, "history": history}


def of_kind(section: dict[str, Any], kind: str, preprocess: dict[str, Any]) -> dict[str, Any]:
    """Section ``teacher`` for one teacher of this kind; ``lit`` locks the image tower that ``train`` trained."""
    tower = {
        "image_tower": section["train"]["image_tower"],
        "image_tower_options": {},
        "weights": "tower.safetensors",
        "image_size": preprocess["size"],
        "mean": preprocess["mean"],
        "std": preprocess["std"],
    }
    own = {"kind": kind, "ensemble": [], "allow_weak": True}
    return {**section, **own, "train": {**section["train"]}, "lit": {**section["lit"], **tower}}


# The page


def write(options: argparse.Namespace, section: dict[str, Any], rows: list[Row]) -> None:
    """The tables, in Markdown, on standard output and in a file, and the curves."""
    val = ShardSet(options.data, "val")
    commonest = max(map(val.taxon_ids.count, set(val.taxon_ids))) / len(val)
    pages = [line for kind in KINDS for line in table(kind, section, rows, len(val), commonest)]
    lines = [
        TITLE,
        "",
        f"`python benchmarks/warmup.py`: {options.seeds} seeds, {processor()}. Top-1 and top-5 in % (mean, standard "
        f"deviation over seeds) on {len(val)} photographs of split val with {len(set(val.taxon_ids))} taxa, of which "
        f"guessing names {100 * commonest:.1f} % right. The warm-up is a share of all steps; half a cosine follows. A "
        f"run has not converged if its loss became infinite, or if it hardly knows the taxa in the end "
        f"(metrics/guessing.py).",
        "",
        f"![Top-1 and top-5 on split val after each epoch]({options.out.with_suffix('.png').name})",
        *pages,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    with replacing(options.out.with_suffix(".png")) as scratch:
        draw(rows, section).savefig(scratch, format="png", dpi=150, metadata={"Software": None})
    with replacing(options.out) as scratch:
        scratch.write_text(text)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(": ")[1] for line in lines if line.startswith("model name"))


def table(kind: str, section: dict[str, Any], rows: list[Row], photographs: int, commonest: float) -> Iterator[str]:
    chosen = section[kind]
    yield from ("", f"## {kind}", "")
    yield (
        f"{section['train']['image_tower']}, {chosen['epochs']} epochs, batches of {chosen['batch_size']}, weight "
        f"decay {chosen['weight_decay']:g}, betas {chosen['betas']}, eps {chosen['eps']:g}, {chosen['precision']}."
    )
    third = max(1, chosen["epochs"] // 3)
    yield from (
        "",
        f"| learning rate | warm-up | top-1 after {third} | top-1 | top-5 | not converged |",
        "|---" * 6 + "|",
    )
    for rate, warm_up in product(RATES, WARM_UPS):
        runs = [row for row in rows if key(row)[:3] == (kind, rate, warm_up)]
        ends = [history for row in runs if (history := row["history"])]
        last = [spread([100 * history[-1][metric] for history in ends]) for metric in METRICS]
        early = spread([100 * history[third - 1]["val_top1"] for history in ends])
        failed = sum(not converged(row, photographs, commonest) for row in runs)
        cells = [f"{rate * chosen['learning_rate']:g}", f"{warm_up:g}", early, *last, f"{failed} of {len(runs)}"]
        yield f"| {' | '.join(cells)} |"
    for row in rows:
        if row["kind"] == kind and row["stopped"]:
            yield from (
                "",
                f"Warm-up {row['warm_up']:g}, {row['rate']} x the rate, seed {row['seed']}: {row['stopped']}",
            )


def converged(row: Row, photographs: int, commonest: float) -> bool:
    if row["stopped"]:
        return False
    return not guessing.is_weak(round(row["history"][-1]["val_top1"] * photographs), photographs, commonest)


def spread(values: Sequence[float]) -> str:
    if len(values) > 1:
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    return f"{values[0]:.1f}" if values else ""


def draw(rows: list[Row], section: dict[str, Any]) -> Figure:
    """A row of curves for each kind and learning rate, a column for each metric."""
    panels = list(product(KINDS, RATES))
    figure = Figure(figsize=(9, 2.8 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), len(METRICS), squeeze=False)
    for line, (kind, rate) in zip(grid, panels, strict=True):
        for axes, (metric, name) in zip(line, METRICS.items(), strict=True):
            axes.set_title(f"{kind}, learning rate {rate * section[kind]['learning_rate']:g}", fontsize=10)
            axes.set(xlabel="epoch", ylabel=f"{name}, %", ylim=(0, 100))
            for warm_up, colour in WARM_UPS.items():
                histories = [row["history"] for row in rows if key(row)[:3] == (kind, rate, warm_up) and row["history"]]
                curve(axes, histories, metric, f"warm-up {warm_up:g}", colour)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(
        *grid[0][0].get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=len(WARM_UPS)
    )
    return figure


def curve(axes: Axes, histories: list[list[Row]], metric: str, label: str, colour: str) -> None:
    """The mean over seeds, and the range that they span."""
    each = [[100 * row[metric] for row in epoch] for epoch in zip(*histories, strict=True)]
    epochs = range(1, len(each) + 1)
    means = [statistics.mean(values) for values in each] or [math.nan]
    axes.plot(epochs or [1], means, color=colour, label=label, marker="." if len(means) < 20 else "")
    axes.fill_between(epochs, [*map(min, each)], [*map(max, each)], color=colour, alpha=0.15, linewidth=0)


if __name__ == "__main__":
    sys.exit(main())
