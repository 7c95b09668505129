"""Distillation against hard labels: the same student, photographs, views and steps, with and without the teacher.

    PYTHONPATH=workflow python benchmarks/hard_labels.py [--data data] [--params params.yaml] [--seeds 3]

Trains the student and the control of stage distill once per seed, from the shards and the teacher cache of an existing
data folder, scores both on split test and writes benchmarks/hard_labels.md. The seed changes initial weights, order of
the photographs and order of the views; the photographs, the teacher and its cache stay the same. Nothing is selected:
the last epoch of every run counts.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioclip_lite import cache, models, params, training
from bioclip_lite.errors import UserError
from bioclip_lite.files import replacing
from bioclip_lite.labels import Labels, read_labels, truth_of
from bioclip_lite.metrics.ranks import answers, softmax
from bioclip_lite.shards import ShardSet
from bioclip_lite.stages import distill

RANKS = {"species": 6, "genus": 5, "family": 4}
OUTPUT = Path(__file__).with_suffix(".md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    arguments = parser.parse_args()
    try:
        section = params.load(arguments.params)["distill"]
        write(measure(arguments.data, section, arguments.seeds), section)
    except UserError as error:
        print(f"hard_labels: {error}", file=sys.stderr)
        return 1
    return 0


def measure(data: Path, section: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Accuracies {"teacher": [row], "student": [row per seed], "control": [...]} and what they were measured on."""
    labels, test = read_labels(data), ShardSet(data, "test")
    taxa = cache.read_taxa(data / "logits" / "taxa.safetensors")
    trained_on = set(ShardSet(data, "train").taxon_ids)
    seen = np.array([taxon in trained_on for taxon in test.taxon_ids])
    nodes = truth_of(test.taxon_ids, labels).nodes
    cached = training.Cached(data, "test")
    taught = np.stack([cached.target(i, 0) for i in range(len(test))])
    scale = taxa.logit_scale
    rows: dict[str, list[dict[str, float]]] = {"student": [], "control": []}
    rows["teacher"] = [score(scale * taught @ taxa.text.T, labels, nodes, seen)]
    for seed in range(seeds):
        for job, folder in (("student", "model"), ("control", "control")):
            with tempfile.TemporaryDirectory() as scratch:
                for part in ("index", "shard", "logits", "weights"):
                    Path(scratch, part).symlink_to((data / part).resolve())
                began = time.process_time()
                distill.run({**section, "seed": seed}, Path(scratch), job)
                seconds = time.process_time() - began
                out = outputs(Path(scratch, "distill", folder), test)
            logits = out if job == "control" else scale * out / np.linalg.norm(out, axis=1, keepdims=True) @ taxa.text.T
            rows[job].append({**score(logits, labels, nodes, seen), "CPU seconds": seconds})
            print(f"seed {seed}, {job}: {rows[job][-1]}", flush=True)
    return {**rows, "photographs": len(test), "seen": int(seen.sum()), "taxa": len(labels.ids)}


@torch.inference_mode()
def outputs(folder: Path, test: ShardSet) -> np.ndarray:
    """What a saved model says of the photographs, float32 (n, outputs)."""
    model, _, preprocess = models.load_student(folder)
    return torch.cat([model(pixels) for pixels in training.plain_pixels(test, preprocess)]).numpy()


def score(logits: np.ndarray, labels: Labels, nodes: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """Share of right answers over all taxa of the label space, by rank; ``nodes`` int64 (n, 7) is the truth."""
    probabilities = softmax(logits)
    right = {
        rank: answers(probabilities, labels.node_of_leaf[number]) == nodes[:, number] for rank, number in RANKS.items()
    }
    return {
        "species": float(right["species"][seen].mean()),
        "species, unseen ones too": float(right["species"].mean()),
        "genus": float(right["genus"].mean()),
        "family": float(right["family"].mean()),
    }


def write(result: dict[str, Any], section: dict[str, Any]) -> None:
    """The table, in Markdown, on standard output and in OUTPUT."""
    seeds = len(result["student"])
    columns = list(result["teacher"][0])
    lines = [
        "# Distilled against hard labels",
        "",
        f"`python benchmarks/hard_labels.py`: {section['student']} {section['student_options'] or ''} at "
        f"{section['image_size']} px, {section['epochs']} epochs, {seeds} seeds. Top-1 accuracy in % (mean, standard "
        f"deviation over seeds) on {result['photographs']} test photographs, {result['seen']} of them of species with "
        f"training photographs, among {result['taxa']} taxa.",
        "",
        "| | n | " + " | ".join(columns) + " | CPU seconds |",
        "|---" * (len(columns) + 3) + "|",
    ]
    teacher = " | ".join(f"{100 * result['teacher'][0][column]:.1f}" for column in columns)
    lines.append(f"| teacher | 1 | {teacher} | |")
    for job, name in (("student", "student, distilled"), ("control", "control, hard labels")):
        cells = [spread([100 * row[column] for row in result[job]]) for column in columns]
        seconds = statistics.mean(row["CPU seconds"] for row in result[job])
        lines.append(f"| {name} | {seeds} | {' | '.join(cells)} | {seconds:.0f} |")
    pairs = list(zip(result["student"], result["control"], strict=True))
    gains = [spread([100 * (student[column] - control[column]) for student, control in pairs]) for column in columns]
    lines.append(f"| student - control, same seed | {seeds} | {' | '.join(gains)} | |")
    lines += ["", "By seed, species (with training photographs): " + by_seed(pairs) + ".", ""]
    text = "\n".join(lines)
    print(text)
    with replacing(OUTPUT) as scratch:
        scratch.write_text(text)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def by_seed(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> str:
    return ", ".join(f"{100 * student['species']:.1f} / {100 * control['species']:.1f}" for student, control in pairs)


if __name__ == "__main__":
    sys.exit(main())
