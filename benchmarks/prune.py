"""Compare pruned students by importance measure, ranking and number of steps, and the savings in each family.

    PYTHONPATH=workflow python benchmarks/prune.py [--data data] [--params params.yaml] [--seeds 3] [--epochs 6]
        [--rows FILE]

Prunes data/distill/model of a finished run to the budget of WAYS, in all ways of WAYS, scores it on splits val (by
which the default was chosen) and test before and after a short recovery, and writes benchmarks/prune.md. The seed
changes the order of the photographs and of their views; what is cut is the same for all seeds in one step. Then models
of several families with random weights are pruned at 224 pixels and timed. A run that is in FILE is not repeated.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distill import score
from torch import nn

from bioclip_lite import params
from bioclip_lite.compression import coupling, pruning
from bioclip_lite.models import costs, students
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import prune
from bioclip_lite.teacher_cache import reader
from bioclip_lite.training import distillation
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, finished_rows, replacing

OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# Pruned students"
BUDGET = {"macs": 0.35}
MEASURES = ("embedding", "taylor", "hessian", "magnitude")
WAYS: dict[str, dict[str, Any]] = {
    **{
        f"{importance}, {ranking}": {"importance": importance, "ranking": ranking, "steps": 1}
        for importance in MEASURES
        for ranking in ("global", "isomorphic")
    },
    "embedding, global, 3 steps": {"importance": "embedding", "ranking": "global", "steps": 3},
    "embedding, isomorphic, 3 steps": {"importance": "embedding", "ranking": "isomorphic", "steps": 3},
    **{
        f"embedding, global, {steps} step{'s' * (steps > 1)}, budget 0.25": {"budget": {"macs": 0.25}, "steps": steps}
        for steps in (1, 3)
    },
    "embedding, global, learning rate 0.002": {"importance": "embedding", "ranking": "global", "learning_rate": 0.002},
}
FAMILIES = (
    "fastvit_t8",
    "fastvit_sa12",
    "mobilenetv4_conv_small",
    "mobileone_s0",
    "repvit_m0_9",
    "vit_tiny_patch16_224",
    "tiny_vit_5m_224",
)
HOPELESS = (*(f"{importance}, isomorphic" for importance in MEASURES), "magnitude")
SHARES = (0.5, 0.35, 0.25, 0.15)
SIZE, SHARE, ROUNDS = 224, 0.5, 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, 1 for HOPELESS ways (default: 3)")
    parser.add_argument("--epochs", type=int, default=6, help="of recovery (default: 6)")
    parser.add_argument("--rows", type=Path, help="finished runs, one JSON object per line; new ones are added")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="(default: benchmarks/prune.md)")
    options = parser.parse_args()
    try:
        check_file(options.out, TITLE)
        section = params.load(options.params)["prune"] | {"budget": BUDGET, "epochs": options.epochs}
        rows = list(finished(options, section, finished_rows(options.rows)))
        write(options, rows)
    except UserError as error:
        print(f"prune: {error}", file=sys.stderr)
        return 1
    return 0


def finished(
    options: argparse.Namespace, section: dict[str, Any], known: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """One row per run, as it ends."""
    todo = [
        ("student", None),
        *((f"cut by {importance}", None) for importance in MEASURES),
        *((way, 0) for way in WAYS),
        *((family, None) for family in FAMILIES),
    ]
    todo += [(way, seed) for seed in range(1, options.seeds) for way in WAYS if not way.startswith(HOPELESS)]
    for way, seed in todo:
        row = next((row for row in known if (row["way"], row["seed"]) == (way, seed)), None)
        if row is None:
            if way == "student":
                figures = of_student(options.data)
            elif way in WAYS:
                figures = one(options.data, {**section, **WAYS[way], "seed": seed})
            elif way.startswith("cut by "):
                figures = untaught(options.data, way.removeprefix("cut by "))
            else:
                figures = of_family(way)
            row = {"way": way, "seed": seed, **figures}
            print(json.dumps(row), flush=True)
            if options.rows:
                with options.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        yield row


def of_student(data: Path) -> dict[str, Any]:
    model, _, preprocess = students.load_student(data / "distill" / "model")
    return scores(model, data, preprocess)


def untaught(data: Path, importance: str) -> dict[str, Any]:
    """Scores without recovery, by ranking and share of the multiply-accumulates."""
    model, _, preprocess = students.load_student(data / "distill" / "model")
    photographs, taught = prune._photographs(reader.CachedSplit(data, "train"), preprocess)
    groups, _ = coupling.coupled(model, photographs[:2])
    worth = pruning.worth(model, groups, photographs, importance, taught)
    cost = pruning.Cost(model, preprocess["size"], groups, "macs")
    found = {}
    for ranking in ("global", "isomorphic"):
        for share in SHARES:
            keep = pruning.plan(worth, cost, share * cost.total(cost.units), 8, ranking)
            kept = [pruning.best(score, count) for score, count in zip(worth, keep, strict=True)]
            found[f"{ranking} {share}"] = scores(coupling.cut(model, groups, kept), data, preprocess, ("val",))
    return found


def one(data: Path, section: Any) -> dict[str, Any]:
    """Prune and recover in a temporary folder."""
    untaught: dict[str, Any] = {}
    original = distillation.train

    def train(student: distillation.Student, **named: Any) -> Any:
        if section["steps"] == 1:
            untaught.update(scores(student.model, data, student.options.preprocess))
        return original(student, **named)

    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        inner = Path(scratch, "data")
        inner.mkdir()
        for part in ("index", "shard", "logits", "distill"):
            Path(inner, part).symlink_to((data / part).resolve())
        distillation.train = train
        try:
            prune.run(section, inner)
        finally:
            distillation.train = original
        report = json.loads(Path(inner, "prune", "report.json").read_text())
        model, _, preprocess = students.load_student(inner / "prune" / "model")
        found = scores(model, data, preprocess)
    return {
        **found,
        "before recovery": untaught,
        "macs": report["macs"] / report["macs_before"],
        "params": report["params"] / report["params_before"],
        "time": report["race"]["ratio"],
        "CPU s": time.process_time() - began,
    }


@torch.inference_mode()
def scores(
    model: nn.Module, data: Path, preprocess: dict[str, Any], splits: Sequence[str] = ("val", "test")
) -> dict[str, float]:
    """Species accuracy on some splits, and the mean cosine to the teacher's embeddings of split val."""
    found: dict[str, float] = {}
    model.eval()
    for split in splits:
        images = ShardSet(data, split)
        cached = reader.CachedSplit(data, split)
        out = torch.cat([model(x) for x in loading.plain_pixels(images, preprocess)]).numpy()
        unit = out / np.linalg.norm(out, axis=1, keepdims=True)
        logits = cached.taxa[0].logit_scale * unit @ cached.taxa[0].text.T
        row = score(data, logits, images)
        found |= {f"{split} species": row["species, seen"], f"{split} n": row["n seen"]}
        if split == "val":
            taught = np.stack([cached.target(i, 0) for i in range(len(images))])
            found["cosine"] = float((unit * taught / np.linalg.norm(taught, axis=1, keepdims=True)).sum(1).mean())
    return found


def of_family(name: str) -> dict[str, Any]:
    """Savings of pruning to half the multiply-accumulates; weights are random, so accuracy is not measured."""
    torch.manual_seed(0)
    model = students.reparameterize(students.build_student(students.student_spec(name, {}, 512, SIZE)))
    quantity, most = pruning.limit(model, SIZE, {"macs": SHARE})
    noise = torch.randn(2, 3, SIZE, SIZE)
    pruned = pruning.prune(model, noise, quantity, most, round_to=8, importance="magnitude", ranking="isomorphic")
    image = torch.zeros(1, 3, SIZE, SIZE)
    race = costs.race(model, pruned, image, ROUNDS)
    sizes = [(costs.macs(m, image), costs.parameters(m)) for m in (model, pruned)]
    return {
        "macs": [macs for macs, _ in sizes],
        "params": [count for _, count in sizes],
        **{key: race[key] for key in ("before_ms", "after_ms", "ratio", "low", "high", "n")},
    }


def write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """The tables, in Markdown, on standard output and in a file."""
    student = rows[0]
    lines = [
        TITLE,
        "",
        f"`python benchmarks/prune.py`: the distilled student of the built-in sample, pruned to {BUDGET['macs']} of "
        f"its multiply-accumulates (round_to 8, 128 photographs), then {options.epochs} epochs of recovery from the "
        f"teacher cache; {options.seeds} seeds (one for ways that lose nearly everything when they cut). Right species "
        f"in % (mean, standard deviation) of "
        f"{student['val n']} photographs of split val, by which the default is chosen, and {student['test n']} of "
        "split test; cosine to the teacher's embeddings of split val. What is cut in one step is the same for all "
        "seeds.",
        "",
        "| | val before recovery | cosine before | val | test | cosine | parameters | time |",
        "|---" * 8 + "|",
        f"| the student, not pruned | {100 * student['val species']:.1f} | {student['cosine']:.3f} | "
        f"{100 * student['val species']:.1f} | {100 * student['test species']:.1f} | {student['cosine']:.3f} | 1 | 1 |",
    ]
    for way in WAYS:
        runs = [row for row in rows if row["way"] == way]
        if not runs:
            continue
        before = runs[0]["before recovery"]
        cells = [f"{100 * before['val species']:.1f}", f"{before['cosine']:.3f}"] if before else ["", ""]
        cells += [spread([100 * row[f"{split} species"] for row in runs]) for split in ("val", "test")]
        cells += [f"{statistics.mean(row[key] for row in runs):.3f}" for key in ("cosine", "params")]
        cells += [f"{statistics.median(row['time'] for row in runs):.2f}"]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## What is left before recovery",
        "",
        "Right species of split val in %, in brackets the cosine to the teacher's embeddings, by the share of the "
        "multiply-accumulates that is left.",
        "",
        "| | " + " | ".join(str(share) for share in SHARES) + " |",
        "|---" * (1 + len(SHARES)) + "|",
    ]
    for row in (row for row in rows if row["way"].startswith("cut by ")):
        for ranking in ("global", "isomorphic"):
            of_shares = [row[f"{ranking} {share}"] for share in SHARES]
            cells = [f"{100 * found['val species']:.1f} ({found['cosine']:.3f})" for found in of_shares]
            lines.append(f"| {row['way'].removeprefix('cut by ')}, {ranking} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Families",
        "",
        f"Random weights, cut by magnitude and isomorphic, which is not the default: with trained weights other widths "
        f"are left. {SIZE} pixels, budget {{macs: {SHARE}}}. One thread, PyTorch; the two models take turns, and "
        f"what counts is the time that the thread had the processor ({ROUNDS} rounds or more; 95 % interval of the "
        "median ratio). Others used the machine, too, and its caches: compare the milliseconds within a row only.",
        "",
        "| | M multiply-accumulates | M parameters | ms | time after / before |",
        "|---" * 5 + "|",
    ]
    for row in (row for row in rows if row["way"] in FAMILIES):
        macs, count = (
            [f"{value / 1e6:.{digits}f}" for value in row[key]] for key, digits in (("macs", 0), ("params", 2))
        )
        lines.append(
            f"| {row['way']} | {' to '.join(macs)} | {' to '.join(count)} | "
            f"{row['before_ms']:.1f} to {row['after_ms']:.1f} | "
            f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f}) |"
        )
    lines.append("")
    text = "\n".join(lines)
    print(text)
    with replacing(options.out) as scratch:
        scratch.write_text(text + (notes(options.out)))


def notes(path: Path) -> str:
    """The hand-written notes below the tables of the previous page."""
    old = path.read_text() if path.exists() else ""
    return old[old.index("\n## What it says") :] if "\n## What it says" in old else ""


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    sys.exit(main())
