"""Compare ways to round students to INT8: distance to float32, bytes, and the effect of each correction.

    python benchmarks/int8.py [--data data] [--students FOLDER] [--samples FOLDER] [--only NAME ...]

Students: the distilled and the pruned one of a data folder; one of each other family, distilled from the same teacher
cache for EPOCHS into --students, where the next run finds them; and a MobileNetV2 with published weights, where
--samples has it. Everything is repaired on calibration photographs and measured on test photographs; the numbers of
photographs are in the table. Writes benchmarks/int8.md.
"""

import argparse
import csv
import gzip
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from bioclip_lite import params
from bioclip_lite.compression import grid, mixed_precision, rounding
from bioclip_lite.compression.equalize import equalize
from bioclip_lite.compression.grid import Grid
from bioclip_lite.graph import folding
from bioclip_lite.graph.nodes import Graph, Weights
from bioclip_lite.models import students
from bioclip_lite.photographs.preprocess import preprocess, preprocessing
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import distill
from bioclip_lite.taxa.label_space import read_labels, truth_of
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, replacing
from bioclip_lite.utils.randomness import digest, drawn
from bioclip_lite.web import onnx_export

OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# INT8 by way of rounding"
BUDGET = 1.05
CALIBRATION, TEST = 64, 640  # photographs
EPOCHS, LEARNING_RATE = 20, 0.001
SLOW = {"mobileone_s0": {"epochs": 40, "learning_rate": 0.004}}  # learns next to nothing with the others' settings
FAMILIES = (
    "mobilenetv4_conv_small",
    "mobileone_s0",
    "mobilenetv3_large_100",
    "repvit_m0_9",
    "vit_tiny_patch16_224",
    "tiny_vit_5m_224",
    "resnet18",
    "fastvit_t8",
    "fastvit_mci0",
)
SHIPPED = "**uint8 and uint16, all repairs (ships)**"
GOAL = (0.9995, 0.999)


@dataclass(frozen=True)
class Case:
    """A folded student and photographs: preprocessed, float32 (n, 3, size, size)."""

    name: str
    folded: Graph
    weights: Weights
    calibration: torch.Tensor
    test: torch.Tensor
    right: Callable[[np.ndarray], np.ndarray] | None = None  # unit embeddings of test to bool (labelled photographs,)


@dataclass(frozen=True)
class Row:
    way: str
    cosines: np.ndarray
    right: float | None
    bytes: float  # per parameter
    gzipped: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="data folder with a pruned student")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="of the training (default: params.yaml)"
    )
    parser.add_argument("--students", type=Path, help="folder for students of the other families")
    parser.add_argument("--samples", type=Path, help="folder with real_species/ and weights/")
    parser.add_argument("--only", nargs="*", help="some students only")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="(default: benchmarks/int8.md)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        check_file(options.out, TITLE)
        tables = []
        for name, make in cases(options).items():
            if options.only and name not in options.only:
                continue
            began = time.process_time()
            case = make()
            rows = list(ways(case))
            tables.append((case, rows, layers(case)))
            print(f"{name}: {time.process_time() - began:.0f} CPU s", flush=True)
            with replacing(options.out) as scratch:  # after each student, so that a run cut short leaves a page
                scratch.write_text(page(tables))
            for row in rows:
                print(f"  {row.way:45s} {row.cosines.mean():.6f} {row.cosines.min():.6f} {row.bytes:.3f}", flush=True)
    except UserError as error:
        print(f"int8: {error}", file=sys.stderr)
        return 1
    return 0


# Students


def cases(options: argparse.Namespace) -> dict[str, Callable[[], Case]]:
    data = options.data
    found: dict[str, Callable[[], Case]] = {
        "distilled": lambda: from_folder("distilled", data / "distill" / "model", data),
        "distilled and pruned": lambda: from_folder("distilled and pruned", data / "prune" / "model", data),
    }
    if options.students:
        section = params.load(options.params)["distill"]

        def family(name: str) -> Case:
            return from_folder(name, trained(section, data, name, options.students), data)

        for name in FAMILIES:
            found[name] = partial(family, name)
    if options.samples:
        found["mobilenetv2_100, published weights"] = lambda: insects(options.samples)
    return found


def trained(section: dict[str, Any], data: Path, name: str, students: Path) -> Path:
    """The folder of a student of this family; trained now if it is not there, from where it was stopped."""
    inner = students / name
    if not (inner / "distill" / "model").exists():
        inner.mkdir(parents=True, exist_ok=True)
        for part in ("index", "shard", "logits"):
            if not (inner / part).exists():
                (inner / part).symlink_to((data / part).resolve())
        plain = {"student": name, "student_options": {}, "finetune": {"epochs": 0}}
        pace = {"epochs": EPOCHS, "learning_rate": LEARNING_RATE, **SLOW.get(name, {})}
        distill.run({**section, **plain, **pace}, inner, "student")
    return inner / "distill" / "model"


def photographs(data: Path, split: str, count: int, spec: dict[str, Any]) -> torch.Tensor:
    shards = ShardSet(data, split)
    return torch.from_numpy(np.stack([preprocess(shards.image(i), spec) for i in chosen(shards, split, count)]))


def chosen(shards: ShardSet, split: str, count: int) -> list[int]:
    return drawn(shards.keys, count, split)


def from_folder(name: str, folder: Path, data: Path) -> Case:
    model, spec, prepared = students.load_student(folder)
    folded, weights = folding.fold(
        model if spec["reparameterized"] else students.reparameterize(model), prepared["size"]
    )
    taxa, test = store.read_taxa(data / "logits" / "taxa.safetensors"), ShardSet(data, "test")
    truth = truth_of([test.taxon_ids[i] for i in chosen(test, "test", TEST)], labels := read_labels(data))
    species = labels.node_of_leaf[6]
    known = truth.nodes[:, 6] >= 0

    def right(embeddings: np.ndarray) -> np.ndarray:
        return (species[(embeddings @ taxa.text.T).argmax(axis=1)] == truth.nodes[:, 6])[known]

    return Case(
        name,
        folded,
        weights,
        photographs(data, "calibration", CALIBRATION, prepared),
        photographs(data, "test", TEST, prepared),
        right if spec["trained_on"] == taxa.teacher else None,
    )


def insects(samples: Path, size: int = 128, calibration: int = 32, test: int = 160) -> Case:
    """A classifier of 1,021 insects; its embedding here are its logits."""
    model = timm.create_model("mobilenetv2_100", pad_type="same", num_classes=1022)
    model.load_state_dict(load_file(samples / "weights" / "inat_insect_mobilenetv2_100.safetensors"))
    names = (samples / "weights" / "inat_insect_labels.txt").read_text().splitlines()
    classes = {name.partition(" (")[0]: number for number, name in enumerate(names)}
    with (samples / "real_species" / "metadata.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if f"{row['genus']} {row['species']}" in classes]
    rows = sorted(rows, key=lambda row: digest("int8", row["file"]))[: calibration + test]
    pixels = torch.from_numpy(
        np.stack([preprocess(Image.open(samples / "real_species" / row["file"]), preprocessing(size)) for row in rows])
    )
    truth = np.array([classes[f"{row['genus']} {row['species']}"] for row in rows[calibration:]])
    return Case(
        f"mobilenetv2_100 at {size} px, published weights",
        *folding.fold(model.eval(), size),
        pixels[:calibration],
        pixels[calibration:],
        lambda embeddings: embeddings.argmax(axis=1) == truth,
    )


# Ways of rounding


def ways(case: Case) -> Iterator[Row]:
    """Float32 first, then each way; the grids of all mixed ways are chosen by the stage's own rule."""
    exact = mixed_precision.embed(case.folded, case.weights, case.test)
    names = rounding.arrays(case.folded)
    parameters = sum(array.size for array in case.weights.values())
    stored = gzip.compress(b"".join(array.tobytes() for array in case.weights.values()), 9, mtime=0)
    yield _row("float32", case, exact, exact, 4, len(stored) / parameters)

    def measured(way: str, rounded: rounding.Rounded, scales: bool = False) -> Row:
        integers = {name: grid.encode(rounded.weights[name], used) for name, used in rounded.grids.items()}
        files = [array.tobytes() for array in integers.values()]
        files += [np.float32(used.scale).tobytes() for used in rounded.grids.values() if scales]
        size, packed = sum(map(len, files)), len(gzip.compress(b"".join(files), 9, mtime=0))
        found = mixed_precision.embed(case.folded, rounded.weights, case.test)
        return _row(way, case, exact, found, size / parameters, packed / parameters)

    narrow = {name: grid.fit(case.weights[name], 8) for name in names}
    mixed, _ = mixed_precision.choose_grids(
        case.folded, case.weights, case.calibration[: mixed_precision.RANKING], BUDGET
    )
    by_row = {name: rows_of(case.weights[name]) for name in names}

    def rounded(grids: dict[str, Grid], method: str, bias: bool, weights: Weights = case.weights) -> Any:
        return rounding.onto_grids(case.folded, weights, grids, case.calibration, method, bias)

    yield measured("uint8 per tensor", rounded(narrow, "nearest", False))
    yield measured("uint8 per tensor, GPTQ, bias", rounded(narrow, "gptq", True))
    yield measured("uint8 and uint16 per tensor", rounded(mixed, "nearest", False))
    yield measured("uint8 and uint16, bias", rounded(mixed, "nearest", True))
    yield measured("uint8 and uint16, GPTQ", rounded(mixed, "gptq", False))
    yield measured("uint8 and uint16, GPTQ, bias", plain := rounded(mixed, "gptq", True))
    scaled = equalize(case.folded, case.weights)
    widened, _ = mixed_precision.choose_grids(case.folded, scaled, case.calibration[: mixed_precision.RANKING], BUDGET)
    yield measured("uint8 and uint16, equalized", rounded(widened, "nearest", False, scaled))
    yield measured("uint8 and uint16, equalized, GPTQ, bias", both := rounded(widened, "gptq", True, scaled))
    seen = mixed_precision.embed(case.folded, case.weights, case.calibration)

    def error(candidate: rounding.Rounded) -> float:
        return -float((mixed_precision.embed(case.folded, candidate.weights, case.calibration) * seen).sum())

    ships = min(plain, both, key=error)  # the stage's own choice: by calibration photographs
    yield measured(f"{SHIPPED[:-2]}: {'equalized' if ships is both else 'not equalized'}**", ships)
    yield measured("int8 per output channel", rounded(by_row, "nearest", False), True)
    by_row_mixed = widen(case, by_row)
    with mock.patch.object(rounding, "gptq", by_rows):
        yield measured("int8 per output channel, GPTQ, bias", rounded(by_row, "gptq", True), True)
        yield measured("int8 per output channel and uint16, GPTQ, bias", rounded(by_row_mixed, "gptq", True), True)
    with tempfile.TemporaryDirectory() as folder:
        graph = {**case.folded, "ranges": ships.ranges}
        onnx_export.write(graph, ships.weights, ships.grids, file := Path(folder) / "qdq.onnx", "qdq")
        found = onnx_export.run(file, case.test.numpy())
        content = file.read_bytes()
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    packed = len(gzip.compress(content, 9, mtime=0)) / parameters
    yield _row(
        "QDQ ONNX: int8 per channel, activations uint8; its 16-bit layers float32",
        case,
        exact,
        unit,
        len(content) / parameters,
        packed,
    )


def _row(way: str, case: Case, exact: np.ndarray, found: np.ndarray, size: float, gzipped: float) -> Row:
    cosines = (exact.astype(np.float64) * found).sum(axis=1)
    return Row(way, cosines, None if case.right is None else float(case.right(found).mean()), size, gzipped)


def rows_of(weight: np.ndarray) -> Grid:
    """A symmetric grid of 8 bits for each output channel; scales of the shape (channels, 1, ...)."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1).reshape(-1, *[1] * (weight.ndim - 1))
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32).astype(np.float64) / 127
    return Grid(scale, -128 * scale, 8)  # type: ignore[arg-type]


def widen(case: Case, grids: dict[str, Grid]) -> dict[str, Grid]:
    """The stage's rule for grids per channel: what their scales leave of the budget goes to 16 bits per tensor."""
    sizes = {name: array.size for name, array in case.weights.items()}
    scales = sum(4 * np.size(used.scale) for used in grids.values()) + 4 * (len(sizes) - len(grids))
    spent = sum(size if name in grids else 2 * size for name, size in sizes.items()) + scales
    photographs = case.calibration[: mixed_precision.RANKING]
    exact = mixed_precision.embed(case.folded, case.weights, photographs)
    shifts = mixed_precision.sensitivity(case.folded, case.weights, grids, photographs, exact)
    wide = mixed_precision.most_worth(shifts, sizes, int(BUDGET * sum(sizes.values())) - spent)
    return {name: grid.fit(case.weights[name], 16) if name in wide else used for name, used in grids.items()}


def by_rows(weight: np.ndarray, used: Grid, moments: np.ndarray, gptq: Any = rounding.gptq) -> np.ndarray:
    """GPTQ on a grid per row: its rows do not see each other, so each may be measured in its own unit."""
    if np.ndim(used.scale) == 0:  # one of the wide ones
        return gptq(weight, used, moments)
    return gptq(weight / used.scale, Grid(1.0, -128.0, 8), moments)


# Page


def layers(case: Case) -> list[dict[str, Any]]:
    """The report of the stage for its most sensitive layers, of the students of --data only."""
    if not case.name.startswith("distilled"):
        return []
    repair = {"equalise": True, "rounding": "gptq", "bias": True}
    result = mixed_precision.quantize(case.folded, case.weights, case.calibration, BUDGET, repair)
    report = mixed_precision.report(case.folded, case.weights, case.calibration, result)
    return sorted(report["layers"], key=lambda layer: -layer["sensitivity"])[:8]


def page(tables: list[tuple[Case, list[Row], list[dict[str, Any]]]]) -> str:
    lines = [
        TITLE,
        "",
        "`python benchmarks/int8.py`: cosine of unit embeddings to float32 over test photographs, top-1 in points "
        "(labelled photographs only), bytes of weights and biases per parameter, as stored and gzipped. Biases are "
        "uint16 everywhere but in float32 and QDQ. Repairs saw the calibration photographs only. QDQ bytes are those "
        f"of the whole ONNX file. Other families than the first two were distilled for {EPOCHS} epochs, "
        f"{', '.join(SLOW)} for more.",
    ]
    short = []
    for case, rows, sensitive in tables:
        spread = mixed_precision.embed(case.folded, case.weights, case.test)
        among = (float(np.square(spread.sum(axis=0)).sum()) - len(spread)) / (len(spread) * (len(spread) - 1))
        lines += [
            "",
            f"## {case.name}",
            "",
            f"{sum(array.size for array in case.weights.values()) / 1e6:.2f} M parameters, "
            f"{len(rounding.arrays(case.folded))} weights, {case.folded['input']['shape'][1]} px; "
            f"{len(case.calibration)} photographs for calibration, {len(case.test)} for test. Mean cosine between "
            f"different test photographs: {among:.3f}.",
            "",
            "| | cosine, mean | worst | top-1 | change | bytes / parameter | gzipped |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            mean, worst = row.cosines.mean(), row.cosines.min()
            top1 = ["", ""]
            if row.right is not None and rows[0].right is not None:
                top1 = [f"{100 * row.right:.2f}", f"{100 * (row.right - rows[0].right):+.2f}"]
            lines.append(
                f"| {row.way} | {mean:.6f} | {worst:.6f} | {' | '.join(top1)} | {row.bytes:.3f} | {row.gzipped:.3f} |"
            )
            if row.way.startswith(SHIPPED[:-2]) and (mean < GOAL[0] or worst < GOAL[1] or row.bytes > BUDGET):
                short.append(f"{case.name} ({mean:.5f}, {worst:.5f})")
        if sensitive:
            lines += [
                "",
                "Its most sensitive layers (distance that 8 bits in it alone move the embedding; SQNR of its output in "
                "dB, with the layers before rounded too, without and with repairs):",
                "",
                "| weight | parameters | bits | sensitivity | SQNR, nearest | repaired |",
                "|---|---|---|---|---|---|",
            ]
            for layer in sensitive:
                before, after = layer["output_sqnr_db"]["nearest"], layer["output_sqnr_db"]["repaired"]
                lines.append(
                    f"| {layer['weight'].removesuffix('.weight')} | {np.prod(layer['shape'])} | {layer['bits']} | "
                    f"{layer['sensitivity']:.5f} | {before:.1f} | {after:.1f} |"
                )
    lines += [
        "",
        f"Goal of the shipped way: mean {GOAL[0]}, worst {GOAL[1]}, {BUDGET} bytes a parameter. Missed by: "
        + ("; ".join(short) or "none")
        + ".",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
