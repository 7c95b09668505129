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
from bioclip_lite.teacher_cache.ensemble import FIRST, own_parameters, teacher_sections
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
convert: {{taxa_bytes: null, over_budget: refuse}}
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
        with tempfile.TemporaryDirectory() as scratch:
            embedded = embed(options, Path(scratch))
            rows = [one(options, embedded, Path(scratch, f"seed-{seed}"), seed) for seed in range(options.seeds)]
    except UserError as error:
        print(f"ensembles: {error}", file=sys.stderr)
        return 1
    text = page(options, rows)
    print(text)
    with replacing(OUTPUT) as scratch:
        scratch.write_text(text)
    return 0


def embed(options: argparse.Namespace, scratch: Path) -> Path:
    """A data folder with the features of both locked image towers, which no seed changes."""
    data = scratch / "data"
    photos = data / "photos"
    photos.mkdir(parents=True)
    (photos / "images").symlink_to((options.samples / "real_species" / "images").resolve())
    (data / "weights").symlink_to((options.samples / "weights").resolve())
    photographs = read_csv(options.samples / "real_species" / "metadata.csv")
    write_csv(photos / "metadata.csv", [row | {"split": split_of(row)} for row in photographs])
    section = read_params(options, data, 0)
    for stage, of_stage in (("index", index), ("shard", shard), ("caption", caption)):
        of_stage.run(section[stage], data)
    for name, one_teacher in teacher_sections(section["teacher"]).items():
        for split in ("train", "val"):
            for tar in shard_names(data, split):
                teacher.run(own_parameters(one_teacher), data, f"features/{name}/{tar}")
    return data


def one(options: argparse.Namespace, embedded: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Tune both teachers with one seed, and embed the photographs of splits calibration and test; figures by model."""
    began = time.process_time()
    data = folder / "data"
    (data / "teacher").mkdir(parents=True)
    for part in ("index", "shard", "caption", "weights", "teacher/features"):
        (data / part).symlink_to(embedded / part)
    section = read_params(options, embedded, seed)
    of_logits: Any = params.of_job(section, "logits", None)
    for name, one_teacher in teacher_sections(section["teacher"]).items():
        teacher.run(own_parameters(one_teacher), data, name)
        shards = [*shard_names(data, "calibration"), *shard_names(data, "test")]
        for job in ("taxa", *shards):
            logits.run(of_logits, data, job if name == FIRST else f"{name}/{job}")
    return {**measure(data), "CPU s": time.process_time() - began}


def read_params(options: argparse.Namespace, data: Path, seed: int) -> dict[str, Any]:
    """The parameters of all stages, for the photographs in ``data``."""
    file, (first, second) = data / f"params-{seed}.yaml", WEIGHTS
    chosen = {"photos": data / "photos", "seed": seed, "first": first, "second": second, "epochs": options.epochs}
    file.write_text(PARAMS.format(**chosen))
    return params.load(file)


def measure(data: Path) -> dict[str, Any]:
    """Figures of each of MODELS on split test, at a temperature fitted on split calibration."""
    labels = read_labels(data)
    fitted_on, tested = (shard_names(data, split) for split in ("calibration", "test"))
    photographs, test = photographs_of(data, fitted_on, labels), photographs_of(data, tested, labels)
    found: dict[str, Any] = {"photographs": len(test.keys), "taxa": len(labels.ids)}
    for model in MODELS:
        ask = functools.partial(variants.answers, model, PART, data)
        costs, _ = calibrate(lambda: ask(fitted_on, labels), photographs, labels)  # noqa: B023
        columns = reduce_answers(ask(tested, labels), test, labels, costs["calibration"])
        scores = judge_columns(columns, test.truth.leaf, test.truth.nodes, labels.node_of_leaf)
        found[model] = {name: float(np.nanmean(scores[name])) for name in FIGURES}
    return found


def page(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    first, seconds = rows[0], statistics.mean(row["CPU s"] for row in rows)
    lines = [
        TITLE,
        "",
        f"`python benchmarks/ensembles.py`: {first['photographs']} real test photographs, {first['taxa']} taxa; LiT "
        f"teachers, {options.epochs} epochs; mean of {len(rows)} seeds, and their range in brackets. {processor()}, "
        f"one thread, {seconds:.0f} s of processor time per seed beside the features of the locked towers.",
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
