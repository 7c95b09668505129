"""Measure the answers for listed species of which no photograph was learned from.

    PYTHONPATH=workflow python benchmarks/list.py [--samples FOLDER] [--weights NAME ...] [--draws 3] [--rows FILE]
        [--epochs 4]

FOLDER holds real_species/ (photographs and metadata.csv), weights/ (timm's, in safetensors) and
inat2021-categories.csv. The species list has the photographed species and is filled up to LISTED with others of the
same orders. In each draw the photographs of LEFT_OUT species are taken from splits train, val and calibration: the
species stay in the list, and their test photographs stay. A LiT teacher and a student are trained once per draw.
Everything is measured on the same test photographs, and written to benchmarks/list.md. A run that is in FILE (--rows)
is not repeated. What listed taxa without photographs cost the others is the difference to the answers of the same model
among the photographed taxa alone.
"""

import argparse
import csv
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from memory_format import processor

from bioclip_lite import params
from bioclip_lite.evaluation import predictions, variants
from bioclip_lite.evaluation.fitting import calibrate, photographs_of, reduce_answers
from bioclip_lite.metrics import calibration
from bioclip_lite.metrics.ranks import answers, softmax
from bioclip_lite.metrics.scoring import judge_columns
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.stages import caption, distill, index, logits, shard, teacher
from bioclip_lite.taxa.label_space import Labels, Truth, read_labels, truth_of
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, finished_rows, read_table, replacing, require
from bioclip_lite.utils.pages import count_of
from bioclip_lite.utils.randomness import drawn as some
from bioclip_lite.utils.randomness import uniform

OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# A list of more species than were photographed"
LISTED, LEFT_OUT = 200, 20
MODELS = ("teacher", "student")
ASKED = ("species", "genus", "family")
SPLITS = {"train": 0.5, "val": 0.6, "calibration": 0.7, "test": 1.0}  # upper ends of the shares
WEIGHTS = ("inat_insect_mobilenetv2_100", "imagenet_mobilenetv2_100")
PARAMS = """
index: {{source: folder, path: {photos}, species_list: list.csv, min_side: 64}}
shard: {{counts: {{pretrain: 0}}}}
caption: {{}}
prune: {{}}
quantize: {{}}
convert: {{taxa_bytes: null, over_budget: refuse}}
evaluate: {{also: []}}
teacher: {{kind: lit, lit: {{weights: {weights}, epochs: 30}}}}
logits: {{views: 2, logit_scale: given}}
distill:
  student: mobilenetv2_100
  student_options: {{pad_type: same}}
  weights: {weights}
  text_tower: null
  image_size: 128
  epochs: {epochs}
  batch_size: 16
  learning_rate: 0.0002
  temperature: 1.0
  finetune: {{epochs: 0}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, default=Path("samples"), help="(default: samples)")
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS), help="(default: both)")
    parser.add_argument("--draws", type=int, default=3, help="number of draws of species (default: 3)")
    parser.add_argument("--epochs", type=int, default=4, help="of the student (default: 4)")
    parser.add_argument("--rows", type=Path, help="finished runs, one JSON object per line; new ones are added")
    options = parser.parse_args()
    try:
        check_file(OUTPUT, TITLE)
        known = finished_rows(options.rows)
        require(options.samples / "real_species" / "metadata.csv")
        rows = list(finished(options, known))
    except UserError as error:
        print(f"list: {error}", file=sys.stderr)
        return 1
    text = page(options, rows)
    print(text)
    with replacing(OUTPUT) as scratch:
        scratch.write_text(text)
    return 0


def finished(options: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row per run: weights, draw and its figures."""
    for weights in options.weights:
        for draw in range(options.draws):
            row = next((row for row in known if (row["weights"], row["draw"]) == (weights, draw)), None)
            if row is None:
                row = one(options, weights, draw)
                print(json.dumps(row), flush=True)
                if options.rows:
                    with options.rows.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            yield row


def one(options: argparse.Namespace, weights: str, draw: int) -> dict[str, Any]:
    """Train teacher and student in a temporary folder, and measure them on the photographs of split test."""
    photographs = read_csv(options.samples / "real_species" / "metadata.csv")
    left_out = drawn(photographs, draw)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data")
        photos = data / "photos"
        photos.mkdir(parents=True)
        (photos / "images").symlink_to((options.samples / "real_species" / "images").resolve())
        (data / "weights").symlink_to((options.samples / "weights").resolve())
        kept = [row | {"split": split_of(row)} for row in photographs]
        kept = [row for row in kept if row["split"] == "test" or binomial(row) not in left_out]
        write_csv(photos / "metadata.csv", kept)
        write_csv(data / "lists" / "list.csv", species_list(photographs, options.samples))
        file = Path(scratch, "params.yaml")
        file.write_text(PARAMS.format(photos=photos, weights=f"{weights}.safetensors", epochs=options.epochs))
        train(params.load(file), data)
        figures = measure(data, left_out)
    return {"weights": weights, "draw": draw, **figures, "CPU s": time.process_time() - began}


def train(section: dict[str, Any], data: Path) -> None:
    """All stages up to the student."""
    index.run(section["index"], data)
    shard.run(section["shard"], data)
    caption.run(section["caption"], data)
    teacher.run(section["teacher"], data)
    of_logits: Any = params.of_job(section, "logits", None)
    logits.run(of_logits, data)
    distill.run(section["distill"], data, "student")


# ---- the species


def binomial(row: Mapping[str, str]) -> str | None:
    return f"{row['genus']} {row['species']}" if row["species"] else None


def split_of(row: Mapping[str, str]) -> str:
    """The split of a photograph, by a hash of its name: the same in every draw."""
    place = uniform("benchmark", "list", row["file"])
    return next(split for split, end in SPLITS.items() if place < end)


def drawn(photographs: list[dict[str, str]], draw: int) -> set[str]:
    """LEFT_OUT of the photographed species."""
    names = sorted({name for name in map(binomial, photographs) if name})
    return {names[place] for place in some(names, LEFT_OUT, "benchmark", "list", draw)}


def species_list(photographs: list[dict[str, str]], samples: Path) -> list[dict[str, str]]:
    """The photographed species, and others of the same orders up to LISTED."""
    own = {name: row for row in photographs if (name := binomial(row))}
    orders = {row["order"] for row in own.values()}
    others = {
        f"{row['genus']} {row['specific_epithet']}": row | {"species": row["specific_epithet"]}
        for row in read_csv(samples / "inat2021-categories.csv")
        if row["order"] in orders
    }
    names = sorted(set(others) - set(own))
    more = [names[place] for place in some(names, LISTED - len(own), "benchmark", "list", "others")]
    listed = [*own.values(), *(others[name] for name in more)]
    return [{column: row[column] for column in ("common_name", *RANKS)} for row in listed]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# ---- the figures


def measure(data: Path, asked: set[str]) -> dict[str, Any]:
    """Figures by model, of the test photographs of the species ``asked`` and of the others."""
    labels = read_labels(data)
    samples = read_table(data / "index" / "samples.parquet").sort_by("key")
    test = samples.filter(pc.equal(samples["split"], "test"))
    truth = truth_of(test["taxon_id"].to_pylist(), labels)
    names = [binomial(row) for row in test.select(["genus", "species"]).to_pylist()]
    inside = np.array([name in asked for name in names])
    known = np.array([name is not None for name in names])
    found: dict[str, Any] = {"taxa": len(labels.ids), "zero-shot": int(labels.zero_shot.sum())}
    for model in MODELS:
        ask = functools.partial(variants.answers, model, {"latency_runs": 1}, data)
        shards = shard_names(data, "calibration")
        costs, _ = calibrate(lambda: ask(shards, labels), photographs_of(data, shards, labels), labels)  # noqa: B023
        fitted, shards = costs["calibration"], shard_names(data, "test")
        columns = judge_columns(
            reduce_answers(ask(shards, labels), photographs_of(data, shards, labels), labels, fitted),
            truth.leaf,
            truth.nodes,
            labels.node_of_leaf,
        )
        rank = calibration.lowest(columns["share"], fitted["thresholds"]["ranks"])
        right = calibration.judge(rank, calibration.chosen(columns["node"], rank), truth.nodes, labels.node_of_leaf)
        alone = among_trained(ask(shards, labels), test["key"].to_pylist(), truth, labels, fitted["temperature"])
        found[model] = {
            group: {
                "photographs": int(members.sum()),
                **{name: float(np.mean(columns[name][members])) for name in ASKED},
                **{f"{name}, photographed only": float(np.mean(alone[name][members])) for name in ASKED},
                "answered": float(np.mean(rank[members] >= 0)),
                "to species": float(np.mean(rank[members] == RANKS.index("species"))),
                "right": float(np.nanmean(right[members])) if (rank[members] >= 0).any() else None,
            }
            for group, members in (("left out", known & inside), ("others", known & ~inside))
        }
    return found


def among_trained(
    found: predictions.Answers, keys: list[str], truth: Truth, labels: Labels, temperature: float
) -> dict[str, np.ndarray]:
    """By rank, float [n]: 1 where the answer is right if only the taxa that were learned from may be answered."""
    rows, place_of = np.concatenate([block.logits for block in found.blocks]), {key: i for i, key in enumerate(keys)}
    order = np.array([place_of[key] for key in found.keys])
    probabilities = softmax(np.where(labels.zero_shot, -np.inf, rows) / temperature)
    right = {}
    for name in ASKED:
        at = RANKS.index(name)
        right[name] = np.empty(len(keys))
        right[name][order] = answers(probabilities, labels.node_of_leaf[at]) == truth.nodes[order, at]
    return right


# ---- the page


def page(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    """The tables, in Markdown."""
    first = rows[0]
    count = first["teacher"]["others"]["photographs"] + first["teacher"]["left out"]["photographs"]
    lines = [
        TITLE,
        "",
        f"`python benchmarks/list.py`: real photographs, {count} for the test; {LEFT_OUT} photographed species are "
        f"left out of training, drawn {count_of(options.draws, 'time')}, and stay in the list and in the test. LiT "
        f"teacher; student mobilenetv2_100 at 128 px, {options.epochs} epochs, from the weights of the teacher's "
        f"tower. Mean over the draws, in %, and the range of the draws in brackets. {processor()}, one thread, "
        f"{statistics.mean(row['CPU s'] for row in rows):.0f} s of processor time per draw.",
    ]
    for weights in options.weights:
        draws = [row for row in rows if row["weights"] == weights]
        lines += [
            "",
            f"## {weights}",
            "",
            f"{draws[0]['taxa']} taxa compete; {draws[0]['zero-shot']} are zero-shot.",
            "",
        ]
        names = [*ASKED, "answered", "to species", "right"]
        lines += ["| | photographs | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
        for model in MODELS:
            for group in ("left out", "others"):
                cells = [spread([row[model][group][name] for row in draws]) for name in names]
                shown = statistics.mean(row[model][group]["photographs"] for row in draws)
                lines.append(f"| {model}, {group} | {shown:.0f} | {' | '.join(cells)} |")
                cells = [spread([row[model][group][f"{name}, photographed only"] for row in draws]) for name in ASKED]
                lines.append(f"| the same among the photographed taxa only | | {' | '.join(cells)} | | | |")
    return "\n".join(lines) + "\n" + NOTES


NOTES = """
Read with it:

- Species, genus and family: share of the photographs whose best answer at that rank is right. Answered, to species and
  right are of back-off, whose promise covers the taxa of the calibration split: none of those left out.
- What listed taxa without photographs cost the others is the step from the second row of a pair to the first.
- The text tower was tuned on these few photographs, so it has met no word of a species that was left out but those it
  shares with relatives. A published CLIP model has read of far more species; it was not measured here.
"""


def spread(values: list[float | None]) -> str:
    """Mean and range in percent, of the draws that have a value."""
    given = [100 * value for value in values if value is not None]
    return f"{statistics.mean(given):.1f} ({min(given):.1f}\u2013{max(given):.1f})" if given else "\u2013"


if __name__ == "__main__":
    sys.exit(main())
