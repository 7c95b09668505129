"""Compare three lengths of warm-up for teachers that are trained here, of kinds train and lit.

    PYTHONPATH=workflow python benchmarks/warmup.py [--studies train lit insects] [--data data] [--params params.yaml]
        [--samples FOLDER] [--seeds 3] [--rows FILE]

Repeats the warm-up study of LiT (arXiv 2111.07991) at the size of a data folder whose stages shard, caption and teacher
are done: `train` trains both towers, `lit` tunes a text tower to the locked image tower of data/teacher/model, which
kind `train` made. `insects` tunes one to the tower of the preset of that name, from FOLDER, which holds real_species/
(photographs and metadata.csv) and weights/ (timm's, in safetensors). Each is trained once per seed for EPOCHS with
every warm-up of WARM_UPS, at every learning rate of RATES, and measured on split val after each epoch. Writes
benchmarks/warmup.md, and the curves to warmup.png beside it. The seed changes initial weights, order, views and
captions of the photographs; within a seed only warm-up and learning rate differ. As many runs at once as there are
cores, with one thread each. A run that is in FILE is not repeated.
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
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from memory_format import processor

from bioclip_lite import params
from bioclip_lite.metrics import guessing
from bioclip_lite.photographs.shards import ShardSet, shard_names
from bioclip_lite.stages import caption, index, shard, teacher
from bioclip_lite.teacher_cache.ensemble import FIRST, own_parameters
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, finished_rows, read_json, read_table, replacing, require

OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# Warm-up of teachers"
PRESET = Path(__file__).parents[1] / "workflow" / "presets" / "insects.yaml"
EPOCHS = {"train": 3, "lit": 8, "insects": 20}  # fewer than by default: all runs take half an hour of one core
WARM_UPS = {0.0: "#D55E00", 0.1: "#0072B2", 0.5: "#009E73"}  # shares of all steps, and the colours of their curves
RATES = (1, 10)  # times the learning rate of params.yaml; warm-up matters where a rate is nearly too high
METRICS = {"val_top1": "top-1", "val_top5": "top-5"}
Key = tuple[str, int, float, int]  # name of the study, times the learning rate, warm-up, seed
Row = dict[str, Any]


class Study(NamedTuple):
    """A teacher to train again and again."""

    name: str
    section: dict[str, Any]  # one teacher's
    data: Path  # stages index, shard and caption are done; weights and features of a locked tower are there


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", choices=EPOCHS, default=list(EPOCHS), help="(default: all)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")
    parser.add_argument("--samples", type=Path, default=Path("samples"), help="of the insects (default: samples)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--rows", type=Path, help="finished runs, one JSON object per line; new ones are added")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="(default: benchmarks/warmup.md)")
    options = parser.parse_args()
    try:
        check_outputs(options.out)
        known = finished_rows(options.rows)
        with tempfile.TemporaryDirectory() as scratch:
            studies = [MAKERS[name](options, Path(scratch)) for name in options.studies]
            rows = sorted(finished(options, studies, known), key=key)
            write(options, studies, rows)
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


# The teachers


def both_towers(options: argparse.Namespace, scratch: Path) -> Study:
    """Kind ``train`` as params.yaml has it."""
    section = params.load(options.params)["teacher"]
    return Study("train", of_kind(section, "train", EPOCHS["train"]), options.data.resolve())


def own_tower(options: argparse.Namespace, scratch: Path) -> Study:
    """Kind ``lit`` with the image tower that ``train`` trained."""
    section = params.load(options.params)["teacher"]
    trained = options.data.resolve() / "teacher" / FIRST
    check_tower(trained, section)
    preprocess = read_json(trained / "preprocess.json")
    tower = {
        "image_tower": section["train"]["image_tower"],
        "image_tower_options": {},
        "weights": "tower.safetensors",
        "image_size": preprocess["size"],
        "mean": preprocess["mean"],
        "std": preprocess["std"],
    }
    data = folder_with(scratch / "lit" / "data", options.data.resolve())
    (data / "weights").mkdir()
    (data / "weights" / "tower.safetensors").symlink_to(trained / "open_clip_model.safetensors")
    locked = of_kind({**section, "lit": {**section["lit"], **tower}}, "lit", EPOCHS["lit"])
    return with_features(Study("lit", locked, data))


def check_tower(trained: Path, section: dict[str, Any]) -> None:
    """Raise UserError unless the folder ``trained`` has the image tower that ``lit`` is to lock."""
    about = read_json(require(trained / "teacher.json"))
    if section["kind"] != "train" or about["kind"] != "train":
        raise UserError(
            f"{trained} is a teacher of kind {about['kind']} and teacher.kind is {section['kind']}; both must be "
            f"train, whose image tower kind lit locks here"
        )


def insects(options: argparse.Namespace, scratch: Path) -> Study:
    """The preset's photographs and teacher."""
    samples = options.samples.resolve()
    chosen: dict[str, Any] = params.load(PRESET)
    data = scratch / "insects" / "data"
    data.mkdir(parents=True)
    (data / "photos").symlink_to(require(samples / "real_species"))
    (data / "weights").symlink_to(require(samples / "weights"))
    chosen["index"]["path"] = str(data / "photos")
    index.run(chosen["index"], data)
    shard.run(chosen["shard"], data)
    caption.run(chosen["caption"], data)
    return with_features(Study("insects", of_kind(chosen["teacher"], "lit", EPOCHS["insects"]), data))


MAKERS = {"train": both_towers, "lit": own_tower, "insects": insects}


def of_kind(section: dict[str, Any], kind: str, epochs: int) -> dict[str, Any]:
    """Section ``teacher`` for one teacher of this kind, which may stay weak."""
    own = {"kind": kind, "ensemble": [], "allow_weak": True, kind: {**section[kind], "epochs": epochs}}
    one: dict[str, Any] = own_parameters({**section, **own})
    return one


def with_features(study: Study) -> Study:
    """Embed the photographs with the locked tower, once for all runs."""
    for split in ("train", "val"):
        for name in shard_names(study.data, split):
            teacher.run(study.section, study.data, f"features/{FIRST}/{name}")
    return study


def folder_with(folder: Path, data: Path) -> Path:
    """A new data folder with links to what is made before the teacher."""
    folder.mkdir(parents=True)
    for part in ("index", "shard", "caption"):
        (folder / part).symlink_to(require(data / part))
    return folder


# Training


def finished(options: argparse.Namespace, studies: Sequence[Study], known: list[Row]) -> Iterator[Row]:
    """One row per run: what it was, the history of its training, and why it ended early if it did."""
    of_name = {study.name: study for study in studies}
    wanted: list[Key] = list(product(of_name, RATES, WARM_UPS, range(options.seeds)))
    have = {key(row): row for row in known}
    yield from (have[run] for run in wanted if run in have)
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn, max_tasks_per_child=1) as pool:
        runs = [pool.submit(one, of_name[run[0]], run) for run in wanted if run not in have]
        for done in as_completed(runs):
            row = done.result()
            print(*key(row), row["stopped"] or row["history"][-1], flush=True)
            if options.rows:
                with options.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            yield row


def key(row: Row) -> Key:
    return row["study"], row["rate"], row["warm_up"], row["seed"]


def one(study: Study, run: Key) -> Row:
    """Train one teacher in a temporary folder."""
    name, rate, warm_up, seed = run
    kind = study.section["kind"]
    chosen = study.section[kind]
    changed = {**chosen, "learning_rate": rate * chosen["learning_rate"], "warm_up": warm_up}
    with tempfile.TemporaryDirectory() as scratch:
        inner = folder_with(Path(scratch, "data"), study.data)
        if kind == "lit":
            (inner / "teacher").mkdir()
            (inner / "teacher" / "features").symlink_to(study.data / "teacher" / "features")
            (inner / "weights").symlink_to(study.data / "weights")
        stopped = ""
        try:
            teacher.run({**study.section, "seed": seed, kind: changed}, inner, FIRST)
        except UserError as error:  # it diverged
            stopped = str(error)
        history = [] if stopped else read_table(inner / "teacher" / "history.parquet").to_pylist()
    return {"study": name, "rate": rate, "warm_up": warm_up, "seed": seed, "stopped": stopped, "history": history}


# The page


def write(options: argparse.Namespace, studies: Sequence[Study], rows: list[Row]) -> None:
    """The tables, in Markdown, on standard output and in a file, and the curves."""
    lines = [
        TITLE,
        "",
        f"`python benchmarks/warmup.py --studies {' '.join(options.studies)}`: {options.seeds} seeds, "
        f"{processor()}, one thread a run. Top-1 and top-5 in % on split val (mean, standard deviation over seeds). "
        f"The warm-up is a share of all steps; half a cosine follows. A run has not converged if its loss became "
        f"infinite, or if it hardly knows the taxa in the end (metrics/guessing.py).",
        "",
        f"![Top-1 and top-5 on split val after each epoch]({options.out.with_suffix('.png').name})",
        *(line for study in studies for line in table(study, [row for row in rows if row["study"] == study.name])),
    ]
    text = "\n".join(lines) + "\n" + (NOTES if options.studies == list(EPOCHS) else "")
    print(text)
    with replacing(options.out.with_suffix(".png")) as scratch:
        draw(rows, studies).savefig(scratch, format="png", dpi=110, metadata={"Software": None})
    with replacing(options.out) as scratch:
        scratch.write_text(text)


NOTES = """
Read with it:

- At the default rates a warm-up hardly matters: in the end top-1 is 68, 72 and 74 % without one, with a tenth and with
  half of the steps for train, and within the spread of the seeds for lit and insects. A long one delays: insects know
  37 % after 3 epochs with half of the steps, 72 % without one.
- At ten times the rate it decides. Trained from random weights, no run without a warm-up converges (3 %, where guessing
  gives 2 %), a tenth of the steps ends at 20 %, and half of them at 71 %. Tuned to a locked tower of the sample, 34, 42
  and 82 %; to the insects' tower, whose features are better, 88, 92 and 91 %.
- Without a warm-up the loss of train stays near the logarithm of the batch size, that of guessing. The likely reason is
  that AdamW's averages of squared gradients rest on few batches when the largest steps are taken.
- So the tenth of the default is on the safe side of today's rates; who raises a rate should raise `warm_up` too.
- These are some dozens to some hundreds of steps. LiT's study has thousands of steps on millions of photographs.
"""


def table(study: Study, rows: list[Row]) -> Iterator[str]:
    chosen, (train, val) = study.section[study.section["kind"]], photographs(study)
    commonest = max(map(val.taxon_ids.count, set(val.taxon_ids))) / len(val)
    yield from ("", f"## {study.name}", "")
    yield (
        f"{chosen['image_tower']}{', locked' * (study.section['kind'] == 'lit')}; {len(train)} photographs of "
        f"{len(set(train.taxon_ids))} taxa, {chosen['epochs']} epochs, batches of {chosen['batch_size']}, weight decay "
        f"{chosen['weight_decay']:g}, betas {chosen['betas']}, eps {chosen['eps']:g}, {chosen['precision']}. Split "
        f"val has {len(val)} photographs of {len(set(val.taxon_ids))} taxa, of which guessing names "
        f"{100 * commonest:.1f} % right."
    )
    third = max(1, chosen["epochs"] // 3)
    yield from (
        "",
        f"| learning rate | warm-up | top-1 after {third} | top-1 | top-5 | not converged |",
        "|---" * 6 + "|",
    )
    for rate, warm_up in product(RATES, WARM_UPS):
        runs = [row for row in rows if key(row)[1:3] == (rate, warm_up)]
        ends = [history for row in runs if (history := row["history"])]
        last = [spread([100 * history[-1][metric] for history in ends]) for metric in METRICS]
        early = spread([100 * history[third - 1]["val_top1"] for history in ends])
        failed = sum(not converged(row, len(val), commonest) for row in runs)
        cells = [f"{rate * chosen['learning_rate']:g}", f"{warm_up:g}", early, *last, f"{failed} of {len(runs)}"]
        yield f"| {' | '.join(cells)} |"
    for row in rows:
        if row["stopped"]:
            yield from (
                "",
                f"Warm-up {row['warm_up']:g}, {row['rate']} x the rate, seed {row['seed']}: {row['stopped']}",
            )


def photographs(study: Study) -> tuple[ShardSet, ShardSet]:
    """The photographs of a study's training, and those of split val."""
    chosen = study.section[study.section["kind"]]
    names = [name for split in chosen.get("splits", ["train"]) for name in shard_names(study.data, split)]
    return ShardSet.of(*(study.data / "shard" / f"{name}.tar" for name in names)), ShardSet(study.data, "val")


def converged(row: Row, photographs: int, commonest: float) -> bool:
    if row["stopped"]:
        return False
    return not guessing.is_weak(round(row["history"][-1]["val_top1"] * photographs), photographs, commonest)


def spread(values: Sequence[float]) -> str:
    if len(values) > 1:
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    return f"{values[0]:.1f}" if values else ""


def draw(rows: list[Row], studies: Sequence[Study]) -> Figure:
    """A row of curves for each study and learning rate, a column for each metric."""
    panels = list(product(studies, RATES))
    figure = Figure(figsize=(9, 2.6 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), len(METRICS), squeeze=False)
    for line, (study, rate) in zip(grid, panels, strict=True):
        peak = rate * study.section[study.section["kind"]]["learning_rate"]
        for axes, (metric, name) in zip(line, METRICS.items(), strict=True):
            axes.set_title(f"{study.name}, learning rate {peak:g}", fontsize=10)
            axes.set(xlabel="epoch", ylabel=f"{name}, %", ylim=(0, 100))
            for warm_up, colour in WARM_UPS.items():
                found = [row["history"] for row in rows if key(row)[:3] == (study.name, rate, warm_up)]
                curve(axes, [history for history in found if history], metric, f"warm-up {warm_up:g}", colour)
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
