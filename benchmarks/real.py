"""Measure on real photographs what distillation is worth: ``python benchmarks/real.py --samples FOLDER``.

    PYTHONPATH=workflow python benchmarks/real.py [--samples FOLDER] [--seeds 3] [--rows FILE] [--only TABLE ...]

FOLDER holds real_species/ (photographs and metadata.csv) and weights/ (timm's, in safetensors). A LiT teacher is tuned
to the image tower of a published insect classifier; student and control start from ImageNet weights, which the teacher
has nothing of, and take equally many steps. A collection keeps the labels of some photographs per species; the others
of split train have none and only teach the student that sees split unlabelled. Each way is trained once per seed and
measured on split test; differences are paired over photographs, their intervals by bootstrap over photographs. Writes
benchmarks/real.md. A run that is in FILE is not repeated.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from distill import outputs, spread
from list import WEIGHTS, read_csv, split_of, write_csv
from memory_format import processor

from bioclip_lite import params
from bioclip_lite.metrics import bootstrap
from bioclip_lite.metrics.ranks import answers, softmax
from bioclip_lite.models import costs, teachers
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import caption, distill, index, logits, shard, teacher
from bioclip_lite.taxa.label_space import read_labels, truth_of
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import reader, store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, finished_rows, replacing, require
from bioclip_lite.utils.randomness import uniform

OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# Distillation on real photographs"
INSECTS, IMAGENET = WEIGHTS
RESAMPLES = 10_000
STEPS = 330  # of each training, unless a way says otherwise: 15 epochs of all photographs
BATCH = 16
PARAMS = """
index: {{source: folder, path: {photos}, min_side: 64, unlabelled: {unlabelled}}}
shard: {{counts: {{pretrain: 0, unlabelled: {shards}}}}}
caption: {{}}
teacher: {{kind: lit, allow_weak: true, lit: {{weights: {teacher}.safetensors}}}}
logits: {{views: 8, logit_scale: given}}
distill:
  student: mobilenetv2_100
  student_options: {{pad_type: same}}
  weights: {student}.safetensors
  text_tower: null
  image_size: 128
  batch_size: {batch}
  learning_rate: 0.001
  temperature: 1.0
  finetune: {{epochs: 0}}
prune: {{}}
quantize: {{}}
convert: {{taxa_bytes: null, over_budget: refuse}}
evaluate: {{also: []}}
"""


class Collection(NamedTuple):
    """Photographs that are labelled, and photographs that are not."""

    labelled: int | None  # photographs of a species in split train that keep their label; None: all
    unlabelled: float | None = None  # times as many as labelled ones that stay, without label; None: all others
    teacher: str = INSECTS


class Way(NamedTuple):
    """A network to train on a collection."""

    job: str  # of stage distill
    changes: tuple[tuple[str, Any], ...] = ()  # of section distill
    steps: int = STEPS


CONTROL, STUDENT = Way("control"), Way("student")
UNLABELLED = Way("student", (("splits", ("train", "unlabelled")),))
LABELS = (None, 5, 1)  # per species
SIZES = (96, 160)
LONGER = 3 * STEPS
Run = tuple[Collection, Way]
TABLES: dict[str, list[Run]] = {
    "labels": [(Collection(n, 0), way) for n in LABELS for way in (CONTROL, STUDENT)],
    "unlabelled": [
        *((Collection(5, 0), STUDENT), (Collection(5), UNLABELLED)),
        *((Collection(1, 0), STUDENT), *((Collection(1, times), UNLABELLED) for times in (1, 4))),
    ],
    "steps": [(Collection(None, 0), Way(way.job, steps=LONGER)) for way in (CONTROL, STUDENT)],
    "sizes": [
        (Collection(None, 0), Way(way.job, (("image_size", size),))) for size in SIZES for way in (CONTROL, STUDENT)
    ],
    "teachers": [(Collection(n, 0, IMAGENET), STUDENT) for n in (5, None)],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, default=Path("samples"), help="(default: samples)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--rows", type=Path, help="finished runs, one JSON object per line; new ones are added")
    parser.add_argument("--only", nargs="*", choices=TABLES, default=list(TABLES), help="some tables only")
    options = parser.parse_args()
    try:
        check_file(OUTPUT, TITLE)
        known = finished_rows(options.rows)
        require(options.samples / "real_species" / "metadata.csv")
        with tempfile.TemporaryDirectory() as scratch:
            rows = finished(options, Path(scratch), known)
    except UserError as error:
        print(f"real: {error}", file=sys.stderr)
        return 1
    text = page(options, rows)
    print(text)
    with replacing(OUTPUT) as scratch_file:
        scratch_file.write_text(text)
    return 0


# ---- the runs


def finished(options: argparse.Namespace, scratch: Path, known: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name of each run -> its row; a collection's teacher is a run without a seed."""
    rows = {row["run"]: row for row in known}
    made = cache(lambda collection: make(options, collection, scratch / f"{len(list(scratch.iterdir()))}"))
    runs = [run for table in options.only for run in TABLES[table]]
    for collection in dict.fromkeys(collection for collection, _ in runs):
        ways = [way for of, way in runs if of == collection]
        for way, seed in [(None, 0), *product(ways, range(options.seeds))]:
            name = name_of(collection, way, seed)
            if name not in rows:
                data = made(collection)
                rows[name] = {"run": name, **(one(data, way, seed) if way else taught(data))}
                print({key: value for key, value in rows[name].items() if key != "right"}, flush=True)
                if options.rows:
                    with options.rows.open("a") as file:
                        file.write(json.dumps(rows[name]) + "\n")
    return rows


def name_of(collection: Collection, way: Way | None, seed: int) -> str:
    return json.dumps([*collection, *([*way, seed] if way else ["teacher"])])


def make(options: argparse.Namespace, collection: Collection, folder: Path) -> Path:
    """Index, shards, teacher and teacher cache of a collection, in a new folder."""
    data, samples = folder / "data", options.samples.resolve()
    photos = data / "photos"
    photos.mkdir(parents=True)
    (data / "weights").symlink_to(samples / "weights")
    photographs = [row for row in read_csv(samples / "real_species" / "metadata.csv") if row["class"] == "Insecta"]
    rows = list(without_labels(photographs, collection))
    write_csv(photos / "metadata.csv", rows)
    for row in rows:  # no others: a photograph in the folder that the table does not list would be unlabelled
        (photos / row["file"]).parent.mkdir(parents=True, exist_ok=True)
        (photos / row["file"]).symlink_to(samples / "real_species" / row["file"])
    some = any(not row["split"] for row in rows)
    file = folder / "params.yaml"
    chosen = {"unlabelled": "keep" if some else "leave_out", "shards": int(some), "batch": BATCH}
    file.write_text(PARAMS.format(photos=photos, teacher=collection.teacher, student=IMAGENET, **chosen))
    section = params.load(file)
    for name, stage in (("index", index), ("shard", shard), ("caption", caption), ("teacher", teacher)):
        stage.run(section[name], data)
    of_logits: Any = params.of_job(section, "logits", None)
    logits.run(of_logits, data)
    return data


def without_labels(rows: list[dict[str, str]], collection: Collection) -> Iterator[dict[str, str]]:
    """The rows of metadata.csv with their split, of which some lose all names and the split, and some are left out."""
    by_species: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    known, others = 0, []
    for row in sorted(rows, key=lambda row: uniform("benchmark", "real", row["file"])):
        row = row | {"split": split_of(row)}
        if row["split"] != "train":
            yield row
        elif collection.labelled is None or len(by_species[row["genus"] + row["species"]]) < collection.labelled:
            by_species[row["genus"] + row["species"]].append(row)
            known += 1
            yield row
        else:
            others.append(row | dict.fromkeys([*RANKS, "common_name", "label_rank", "split"], ""))
    yield from others if collection.unlabelled is None else others[: round(known * collection.unlabelled)]


def taught(data: Path) -> dict[str, Any]:
    """Count what the teacher names right on splits val and test."""
    found: dict[str, Any] = {"photographs": len(ShardSet(data, "train").keys)}
    for split in ("val", "test"):
        cached = reader.CachedSplit(data, split)
        embeddings = np.stack([cached.target(number, 0) for number in range(len(cached.images))])
        right = judged(data, cached.taxa[0].logit_scale * embeddings @ cached.taxa[0].text.T, cached.images)
        found[split] = 100 * right.mean()
    tower = teachers.load_teacher(data / "teacher" / "model").model.visual
    return found | {"right": bits(right), "parameters": costs.parameters(tower)}


def one(data: Path, way: Way, seed: int) -> dict[str, Any]:
    """Train one network in a temporary folder, and measure it on splits val and test."""
    section = {**params.load(data.parent / "params.yaml")["distill"], **dict(way.changes), "seed": seed}
    seen = sum(len(ShardSet(data, split).keys) for split in section["splits"])
    section["epochs"] = math.ceil(way.steps / math.ceil(seen / BATCH))
    control = way.job == "control"
    with tempfile.TemporaryDirectory() as scratch:
        inner = Path(scratch, "data")
        inner.mkdir()
        for part in ("index", "shard", "weights", "logits"):
            Path(inner, part).symlink_to(data / part)
        began = time.process_time()
        distill.run(section, inner, way.job)
        found: dict[str, Any] = {"photographs": seen, "epochs": section["epochs"], "CPU s": time.process_time() - began}
        taxa = store.read_taxa(inner / "logits" / "taxa.safetensors")
        for split in ("val", "test"):
            photographs = ShardSet(data, split)
            out, found["parameters"] = outputs(inner / "distill" / ("control" if control else "model"), photographs)
            unit = out / np.linalg.norm(out, axis=1, keepdims=True)
            right = judged(data, out if control else taxa.logit_scale * unit @ taxa.text.T, photographs)
            found[split] = 100 * right.mean()
    return found | {"right": bits(right)}


def bits(right: np.ndarray) -> str:
    """The answers to the photographs of split test, in their order, as text of 0 and 1."""
    return "".join(map(str, right.astype(int)))


def judged(data: Path, outputs: np.ndarray, photographs: ShardSet) -> np.ndarray:
    """Whether each photograph known to species is named right, bool [n]."""
    labels = read_labels(data)
    species = RANKS.index("species")
    truth = truth_of(photographs.taxon_ids, labels).nodes[:, species]
    found = answers(softmax(outputs), labels.node_of_leaf[species]) == truth
    right: np.ndarray = found[truth >= 0]
    return right


# ---- the page


def page(options: argparse.Namespace, rows: dict[str, dict[str, Any]]) -> str:
    first = rows[name_of(TABLES[options.only[0]][0][0], None, 0)]
    lines = [
        TITLE,
        "",
        f"`python benchmarks/real.py --only {' '.join(options.only)}`: species named right, in % of "
        f"{len(first['right'])} test photographs of insects; "
        f"mean and standard deviation of {options.seeds} seeds. Differences are in points, with 95 % intervals by "
        "bootstrap over the photographs, each counted with its mean over the seeds. Each training takes "
        f"{STEPS} steps of {BATCH} photographs at 128 pixels unless its row says otherwise. {processor()}, one thread.",
    ]
    for table in options.only:
        lines += ["", *PAGES[table](options.seeds, rows)]
    return "\n".join([*lines, "", NOTES])


def by_labels(seeds: int, rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield from ("## Labels per species", "")
    yield from table(
        *("labels per species", "photographs", "teacher", "control", "student"),
        *("student less control", "student less teacher", "of the teacher's, %"),
    )
    for n in LABELS:
        collection = Collection(n, 0)
        control, student = (trained(rows, collection, way, seeds) for way in (CONTROL, STUDENT))
        taught = rows[name_of(collection, None, 0)]
        accuracies = [[row["test"] for row in runs] for runs in (control, student)]
        share = 100 * statistics.mean(accuracies[1]) / taught["test"]
        cells = f"{taught['test']:.1f}", *map(spread, accuracies), difference(student, control)
        yield line(n or "all", taught["photographs"], *cells, difference(student, [taught] * seeds), f"{share:.1f}")


def by_unlabelled(seeds: int, rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield from ("## Unlabelled photographs", "")
    columns = "labels per species", "labelled", "unlabelled", "student", "student less the one without", "less control"
    yield from table(*columns)
    for collection, way in TABLES["unlabelled"]:
        plain = Collection(collection.labelled, 0)
        runs, without = trained(rows, collection, way, seeds), trained(rows, plain, STUDENT, seeds)
        known = without[0]["photographs"]
        cells = spread([row["test"] for row in runs]), difference(runs, without) if way == UNLABELLED else ""
        against = difference(runs, trained(rows, plain, CONTROL, seeds))
        yield line(collection.labelled, known, runs[0]["photographs"] - known, *cells, against)


def by_change(title: str, name: str, changed: dict[str, dict[str, Run]], seeds: int, rows: Any) -> Iterator[str]:
    """A table of one control and one student for each value of ``name``."""
    yield from (f"## {title}", "")
    yield from table(name, "control", "student", "student less control", "parameters, M", "CPU s of the student")
    for value, runs in changed.items():
        control, student = (trained(rows, *runs[job], seeds) for job in ("control", "student"))
        seconds = statistics.mean(row["CPU s"] for row in student)
        cells = [spread([row["test"] for row in of]) for of in (control, student)]
        yield line(
            value, *cells, difference(student, control), f"{student[0]['parameters'] / 1e6:.2f}", f"{seconds:.0f}"
        )


def by_teacher(seeds: int, rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield from ("## Teachers", "")
    yield from table("labels per species", "image tower", "teacher", "student", "less the control")
    for (collection, _), tower in product(TABLES["teachers"], (INSECTS, IMAGENET)):
        of = collection._replace(teacher=tower)
        control = trained(rows, Collection(collection.labelled, 0), CONTROL, seeds)
        student = trained(rows, of, STUDENT, seeds)
        cells = f"{rows[name_of(of, None, 0)]['test']:.1f}", spread([row["test"] for row in student])
        yield line(of.labelled or "all", tower, *cells, difference(student, control))


def pairs(table: str, *fixed: tuple[str, dict[str, Run]], value: Any) -> dict[str, dict[str, Run]]:
    """Value of what is changed -> job -> run."""
    changed: dict[str, dict[str, Run]] = dict(fixed)
    for run in TABLES[table]:
        changed.setdefault(str(value(run[1])), {})[run[1].job] = run
    return changed


SAME = {way.job: (Collection(None, 0), way) for way in (CONTROL, STUDENT)}
PAGES: dict[str, Callable[[int, dict[str, dict[str, Any]]], Iterator[str]]] = {
    "labels": by_labels,
    "unlabelled": by_unlabelled,
    "steps": partial(
        by_change, "Longer training", "steps", pairs("steps", (str(STEPS), SAME), value=lambda way: way.steps)
    ),
    "sizes": partial(
        by_change,
        "Input size",
        "pixels",
        pairs("sizes", ("128", SAME), value=lambda way: dict(way.changes)["image_size"]),
    ),
    "teachers": by_teacher,
}


def trained(rows: dict[str, dict[str, Any]], collection: Collection, way: Way, seeds: int) -> list[dict[str, Any]]:
    return [rows[name_of(collection, way, seed)] for seed in range(seeds)]


def difference(ours: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """Compare two ways: how much more is right, in points, with its interval; paired over photographs and seeds."""
    change = np.mean(
        [
            [int(a) - int(b) for a, b in zip(x["right"], y["right"], strict=True)]
            for x, y in zip(ours, others, strict=True)
        ],
        0,
    )
    everyone = np.arange(len(change))
    sampled = bootstrap.means(change[:, None], everyone, bootstrap.draws(len(change), RESAMPLES, "benchmark", "real"))
    low, high = bootstrap.interval(100 * sampled) or (math.nan, math.nan)
    return f"{100 * change.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def table(*columns: str) -> tuple[str, str]:
    return line(*columns), "|---" * len(columns) + "|"


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


NOTES = """Read with it:

- Distillation pays where labels are few: the teacher's image tower knows insects from many more photographs than are
  here, and its answers to a photograph say more than the label does.
- Photographs without a name are worth most where names are fewest: with one label a species, four times as many
  unlabelled photographs of the same species bring more than distillation alone does. With five labels a species half as
  many change nothing that can be measured.
- A seed changes the order of photographs and views, and the last layer. The photographs that keep their label are the
  same for all seeds, and so is the teacher, which is tuned once for each number of labels.
- The student ends below the teacher. It is no smaller than the teacher's image tower: 2.2 M of its 3.9 M parameters are
  the same network, and the others lead to the teacher's 1,280 numbers. At 128 pixels it computes a third of what the
  teacher does at 224.
- The tables that --only leaves out were not measured.
"""

if __name__ == "__main__":
    sys.exit(main())
