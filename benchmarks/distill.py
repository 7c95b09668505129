"""Compare students distilled with each loss to a control with the same network, photographs, views and steps.

    PYTHONPATH=workflow python benchmarks/distill.py [--data data] [--params params.yaml] [--seeds 3] [--rows FILE]
        [--only NAME ...]

Trains each way of WAYS once per seed, from the shards and the teacher cache of an existing data folder, scores it on
split test and writes benchmarks/distill.md. The seed changes initial weights, order of the photographs and order of the
views; the photographs, the teachers and their caches stay the same. Nothing is selected: the last epoch of every run
counts. As many runs at once as there are cores, with one thread each. A run that is in FILE is not repeated.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioclip_lite import params
from bioclip_lite.metrics.ranks import answers, softmax
from bioclip_lite.models import costs, students, teachers
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import distill
from bioclip_lite.taxa.label_space import Labels, read_labels, truth_of
from bioclip_lite.teacher_cache import reader, store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, finished_rows, replacing

OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# Distilled students by loss"
RANKS = {"species": 6, "genus": 5, "family": 4}
CONTROL = "hard labels (the control)"
GIVEN = {"logit_scale": "given"}
TWO = ["model", "second"]
FINETUNE = {"finetune": {"epochs": 10, "learning_rate": 0.0005}}
BOTH = {"affinity": 1.0, "cosine": 1.0, "ranks": 0.0, "labels": 0.0, "ema": 0.0, "teachers": ["model"]}
WAYS: dict[str, dict[str, Any]] = {  # changes of section distill
    CONTROL: BOTH,
    "affinity and cosine": BOTH,
    "both, temperature 1": BOTH | {"temperature": 1.0},
    "both, temperature 1, the teacher's own logit scale": BOTH | {"temperature": 1.0} | GIVEN,
    "affinity alone": BOTH | {"cosine": 0.0},
    "cosine alone": BOTH | {"affinity": 0.0},
    "both and ranks": BOTH | {"ranks": 1.0},
    "both and labels": BOTH | {"labels": 0.5},
    "both, two teachers": BOTH | {"teachers": TWO},
    "both, moving average of weights": BOTH | {"ema": 0.998},
    "both, then fine-tuned and mixed": BOTH | FINETUNE,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--rows", type=Path, help="finished runs, one JSON object per line; new ones are added")
    parser.add_argument("--only", nargs="*", choices=WAYS, default=list(WAYS), help="some ways only")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="(default: benchmarks/distill.md)")
    options = parser.parse_args()
    try:
        check_file(options.out, TITLE)
        section = params.load(options.params)["distill"]
        rows = list(finished(options, section, finished_rows(options.rows)))
        write(options, section, rows)
    except UserError as error:
        print(f"distill: {error}", file=sys.stderr)
        return 1
    return 0


def finished(
    options: argparse.Namespace, section: dict[str, Any], known: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """One row per run: way, seed and figures; the teacher's has no seed."""
    yield {"way": "teacher", "seed": None, **of_teacher(options.data)}
    wanted = [(way, seed) for seed in range(options.seeds) for way in options.only]
    todo = []
    for way, seed in wanted:
        row = next((row for row in known if (row["way"], row["seed"]) == (way, seed)), None)
        if row:
            yield row
        else:
            todo.append((way, seed))
    os.environ["OMP_NUM_THREADS"] = "1"
    have = set(store.teachers(options.data))
    for way, seed in [entry for entry in todo if not set(WAYS[entry[0]].get("teachers", [])) <= have]:
        print(f"left out: {way}, seed {seed}: {options.data} has the caches of {', '.join(sorted(have))} only")
        todo.remove((way, seed))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn, max_tasks_per_child=1) as pool:
        runs = [pool.submit(one, options.data.resolve(), {**section, **WAYS[way]}, way, seed) for way, seed in todo]
        for done in as_completed(runs):
            row = done.result()
            print(json.dumps(row), flush=True)
            if options.rows:
                with options.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            yield row


def one(data: Path, section: dict[str, Any], way: str, seed: int) -> dict[str, Any]:
    """Train one student in a temporary folder and score it on split test."""
    test = ShardSet(data, "test")
    control = way == CONTROL
    with tempfile.TemporaryDirectory() as scratch:
        inner = Path(scratch, "data")
        inner.mkdir()
        for part in ("index", "shard", "weights"):
            Path(inner, part).symlink_to(data / part)
        shutil.copytree(data / "logits", inner / "logits", copy_function=os.symlink)
        if section.get("logit_scale") == "given":
            with_own_scale(inner / "logits" / "taxa.safetensors")
        taxa = store.read_taxa(inner / "logits" / "taxa.safetensors")
        began = time.process_time()
        for job in ("control",) if control else ("student", "finetune")[: 1 + bool(section["finetune"]["epochs"])]:
            distill.run({**section, "seed": seed}, inner, job)
        seconds = time.process_time() - began
        out, size = outputs(inner / "distill" / ("control" if control else "model"), test)
    unit = out / np.linalg.norm(out, axis=1, keepdims=True)
    logits = out if control else taxa.logit_scale * unit @ taxa.text.T
    return {"way": way, "seed": seed, **score(data, logits, test), "CPU s": seconds, "parameters": size}


def with_own_scale(path: Path) -> None:
    """Replace the logit scale of the taxa by the teacher's own."""
    taxa, given = store.read_taxa(path), float(store.map_tensors(path)[1]["given_logit_scale"])
    path.unlink()
    store.write_taxa(path, taxa.taxon_ids, taxa.text, given, taxa.teacher, taxa.prompt)


@torch.inference_mode()
def outputs(folder: Path, test: ShardSet) -> tuple[np.ndarray, int]:
    """Outputs of a saved model for the photographs, float32 (n, outputs), and its number of parameters."""
    model, _, preprocess = students.load_student(folder)
    pixels = loading.plain_pixels(test, preprocess)
    return torch.cat([model(x) for x in pixels]).numpy(), costs.parameters(model)


def of_teacher(data: Path) -> dict[str, Any]:
    cached = reader.CachedSplit(data, "test")
    taught = np.stack([cached.target(i, 0) for i in range(len(cached.images))])
    logits = cached.taxa[0].logit_scale * taught @ cached.taxa[0].text.T
    tower = teachers.load_teacher(data / "teacher" / "model").model.visual
    return {**score(data, logits, cached.images), "parameters": costs.parameters(tower)}


def score(data: Path, logits: np.ndarray, test: ShardSet) -> dict[str, float]:
    """Share of correct answers among all taxa of the label space, by rank, of seen and of unseen species."""
    labels: Labels = read_labels(data)
    nodes = truth_of(test.taxon_ids, labels).nodes
    trained_on = set(ShardSet(data, "train").taxon_ids)
    seen = np.array([taxon in trained_on for taxon in test.taxon_ids])
    probabilities = softmax(logits)
    right = {}
    for rank, number in RANKS.items():
        known = nodes[:, number] >= 0
        found = answers(probabilities, labels.node_of_leaf[number]) == nodes[:, number]
        right[f"{rank}, seen"] = float(found[seen & known].mean())
        if rank != "species" and not seen.all():
            right[f"{rank}, unseen"] = float(found[~seen & known].mean())
    species = nodes[:, RANKS["species"]] >= 0
    counts = {"n seen": int((seen & species).sum()), "n unseen": int((~seen & species).sum()), "taxa": len(labels.ids)}
    return right | counts


def write(options: argparse.Namespace, section: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The tables, in Markdown, on standard output and in a file."""
    teacher, control = rows[0], [row for row in rows if row["way"] == CONTROL]
    columns = [name for name in teacher if name.endswith("seen")][:-2]
    size = next(row["parameters"] for row in rows[1:] if row["way"] != CONTROL)
    lines = [
        TITLE,
        "",
        f"`python benchmarks/distill.py`: {section['student']} {section['student_options'] or ''} at "
        f"{section['image_size']} px, {section['epochs']} epochs, {options.seeds} seeds. Accuracy in % (mean, standard "
        f"deviation over seeds) on {teacher['n seen']} test photographs of species with training photographs and "
        f"{teacher['n unseen']} of species without any, among {teacher['taxa']} taxa. The student has "
        f"{size / 1e6:.2f} M parameters, {100 * size / teacher['parameters']:.1f} % of the teacher's image tower "
        f"({teacher['parameters'] / 1e6:.2f} M); the control has a last layer for the taxa instead.",
        "",
        "| | " + " | ".join(columns) + " | of the teacher's species, seen | CPU s |",
        "|---" * (len(columns) + 3) + "|",
        "| teacher | " + " | ".join(f"{100 * teacher[column]:.1f}" for column in columns) + " | | |",
    ]
    ways = [way for way in options.only if any(row["way"] == way for row in rows)]
    for way in ways:
        runs = [row for row in rows if row["way"] == way]
        share = spread([100 * row["species, seen"] / teacher["species, seen"] for row in runs])
        seconds = statistics.mean(row["CPU s"] for row in runs)
        cells = [spread([100 * row[column] for row in runs]) for column in columns]
        lines.append(f"| {way} | {' | '.join(cells)} | {share} | {seconds:.0f} |")
    lines += ["", "The same less the control of the same seed, in points:", ""]
    lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for way in ways:
        if way != CONTROL and control:
            pairs = [
                (row, other) for row in rows for other in control if row["way"] == way if row["seed"] == other["seed"]
            ]
            cells = [spread([100 * (row[column] - other[column]) for row, other in pairs]) for column in columns]
            lines.append(f"| {way} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    with replacing(options.out) as scratch:
        scratch.write_text(text)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())
