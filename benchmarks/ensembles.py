"""Measure what a second teacher adds: ``python benchmarks/ensembles.py --samples SAMPLES``.

Two teachers are tuned on the same real photographs, each to an image tower of its own: one that saw insects of
iNaturalist, one that saw ImageNet. Each alone and the mean of their probabilities name the same test photographs.
Writes benchmarks/ensembles.md.
"""

import argparse
import functools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from list import WEIGHTS, read_csv, split_of, write_csv
from memory_format import processor

from bioclip_lite import params
from bioclip_lite.evaluation import variants
from bioclip_lite.evaluation.fitting import calibrate, photographs_of, reduce_answers
from bioclip_lite.metrics.scoring import judge_columns
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.stages import caption, index, logits, shard, teacher
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, replacing, require

OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# Two teachers and their ensemble"
MODELS = {"teacher": WEIGHTS[0], "teacher-second": WEIGHTS[1], "ensemble": "both"}
PART: Any = {"latency_runs": 1, "also": ["teacher-second", "ensemble"]}
FIGURES = {"species": "species (%)", "genus": "genus (%)", "family": "family (%)", "nll": "NLL (nats)"}
PARAMS = """
index: {{source: folder, path: {photos}, min_side: 64}}
shard: {{counts: {{pretrain: 0}}}}
caption: {{}}
teacher:
  kind: lit
  allow_weak: true
  seed: {seed}
  lit: {{weights: {first}.safetensors, epochs: {epochs}}}
  ensemble: [{{name: second, lit: {{weights: {second}.safetensors}}}}]
logits: {{views: 1, logit_scale: given}}
distill: {{text_tower: null, teachers: [model, second]}}
prune: {{}}
quantize: {{}}
convert: {{}}
evaluate: {{also: [teacher-second, ensemble]}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, default=Path("samples"), help="(default: samples)")
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings (default: 3)")
    parser.add_argument("--epochs", type=int, default=30, help="of each teacher (default: 30)")
    options = parser.parse_args()
    try:
        check_file(OUTPUT, TITLE)
        require(options.samples / "real_species" / "metadata.csv")
        rows = [one(options, seed) for seed in range(options.seeds)]
    except UserError as error:
        print(f"ensembles: {error}", file=sys.stderr)
        return 1
    text = page(options, rows)
    print(text)
    with replacing(OUTPUT) as scratch:
        scratch.write_text(text)
    return 0


def one(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Tune both teachers in a temporary folder; figures by model."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data")
        photos = data / "photos"
        photos.mkdir(parents=True)
        (photos / "images").symlink_to((options.samples / "real_species" / "images").resolve())
        (data / "weights").symlink_to((options.samples / "weights").resolve())
        photographs = read_csv(options.samples / "real_species" / "metadata.csv")
        write_csv(photos / "metadata.csv", [row | {"split": split_of(row)} for row in photographs])
        file, (first, second) = Path(scratch, "params.yaml"), WEIGHTS
        file.write_text(PARAMS.format(photos=photos, seed=seed, first=first, second=second, epochs=options.epochs))
        section = params.load(file)
        for stage, of_stage in (("index", index), ("shard", shard), ("caption", caption), ("teacher", teacher)):
            of_stage.run(section[stage], data)
        logits.run(section["logits"], data)
        return {**measure(data), "CPU s": time.process_time() - began}


def measure(data: Path) -> dict[str, Any]:
    """Figures of each of MODELS on split test, at a temperature fitted on split calibration."""
    labels = read_labels(data)
    fitted_on, tested = (shard_names(data, split) for split in ("calibration", "test"))
    photographs, test = photographs_of(data, fitted_on, labels), photographs_of(data, tested, labels)
    found: dict[str, Any] = {"photographs": len(test.keys), "taxa": len(labels.ids)}
    for model in MODELS:
        ask = functools.partial(variants.answers, model, PART, data)
        costs, _ = calibrate(lambda: ask(fitted_on, labels), photographs, labels)  # noqa: B023
        columns = reduce_answers(ask(tested, labels), test, labels, costs["calibration"]["temperature"])
        scores = judge_columns(columns, test.truth.leaf, test.truth.nodes, labels.node_of_leaf)
        found[model] = {name: float(np.nanmean(scores[name])) for name in FIGURES}
    return found


def page(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    lines = [
        TITLE,
        "",
        f"`python benchmarks/ensembles.py`: {first['photographs']} real test photographs, {first['taxa']} taxa; LiT "
        f"teachers, {options.epochs} epochs; mean of {len(rows)} seeds, and their range in brackets. {processor()}, "
        f"one thread, {statistics.mean(row['CPU s'] for row in rows):.0f} s of processor time per seed.",
        "",
        "| model | image towers | " + " | ".join(FIGURES.values()) + " |",
        "|---" * (2 + len(FIGURES)) + "|",
    ]
    for model, towers in MODELS.items():
        cells = [_cell([row[model][name] for row in rows], 1 if name == "nll" else 100) for name in FIGURES]
        lines.append(f"| {model} | {towers} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float], scale: int) -> str:
    digits = 1 if scale == 100 else 3
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


if __name__ == "__main__":
    raise SystemExit(main())
