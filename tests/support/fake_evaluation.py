"""A data folder as the stages before `report` would leave it, in the formats they promise, without their work."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from bioclip_lite.evaluation import predictions
from bioclip_lite.evaluation.fitting import Photographs, calibrate, reduce_answers
from bioclip_lite.evaluation.predictions import Answers, Block
from bioclip_lite.evaluation.variant_names import IN_BROWSER, ON_PHONES, VARIANTS
from bioclip_lite.taxa.label_space import Labels, read_labels, truth_of
from bioclip_lite.taxa.taxonomy import RANKS, is_ancestor, label_rank, label_space, taxon_id
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.utils.files import read_table, write_json, write_table

if TYPE_CHECKING:
    from bioclip_lite.params import jobs

SPLITS = ("pretrain", "train", "val", "calibration", "test")
PARAMS: "jobs.Evaluate" = {
    "bootstrap": 200,
    "latency_runs": 3,
    "also": [],
    "chromium": False,
    "control": True,
    "tflite": False,
    "speed": {"sizes": []},
    "examples": 4,
    "prompts": {"types": ["sci", "com"], "templates": ["plain"], "taxa": 100},
    "retrieval": ["sci"],
    "suites": [],
    "seed": 0,
}
# how well a variant tells species apart, and what it costs
QUALITY = {"teacher": 1.0, "table": 1.0, "student": 0.88, "pruned": 0.84, "int8": 0.83, "tfjs": 0.83, "control": 0.62}
COSTS = {
    "teacher": (5_210_000, 61_000_000, 20_900_000, "PyTorch, CPU", 6.42),
    "table": (5_210_000, 61_000_000, 20_900_000, "PyTorch, CPU", 6.42),
    "student": (3_410_000, 24_000_000, 13_700_000, "PyTorch, CPU", 5.31),
    "pruned": (1_340_000, 12_100_000, 5_390_000, "PyTorch, CPU", 3.88),
    "int8": (1_340_000, 12_100_000, 1_420_000, "PyTorch, CPU", 4.05),
    "tfjs": (1_340_000, 12_100_000, 1_450_000, "TensorFlow.js WASM, Node", 4.91),
    "control": (3_410_000, 24_000_000, 13_700_000, "PyTorch, CPU", 5.29),
}
_SYLLABLES = ("ra", "lu", "mi", "tho", "ve", "ka", "so", "di", "pe", "xa", "no", "qui", "bre", "fla")


def tree(species: int) -> list[TaxonPath]:
    """Paths of ``species`` species in an unbalanced tree with names that look like names."""

    def name(number: int, ending: str) -> str:
        n = len(_SYLLABLES)
        return (_SYLLABLES[number % n] + _SYLLABLES[(number // n + 3 * number) % n] + ending).capitalize()

    paths: list[TaxonPath] = []
    for number in range(species):
        genus, family = number // 2, number // 5
        order, group, phylum = number // 9, number // 16, number // 24
        paths.append(
            (
                "Animalia" if number < 0.6 * species else "Plantae",
                name(phylum, "poda"),
                name(group + 7, "ia"),
                name(order + 17, "ales"),
                name(family + 29, "idae"),
                name(genus + 41, "us"),
                name(number + 77, "is").lower(),
            )
        )
    return paths


def write_data(
    data: Path,
    species: int = 12,
    images: int = 5,
    unseen: int = 2,
    known_to_genus: int = 2,
    common_names: bool = True,
    variants: tuple[str, ...] = VARIANTS,
    paths: list[TaxonPath] | None = None,
) -> dict[str, TaxonPath]:
    """Write the folder; returns the label of every test photograph by key.

    Split calibration has four times as many, each an observation of its own, of the species that are seen.
    """
    known = paths or tree(species)
    coarse = [(*path[:6], None) for path in known[:known_to_genus]]
    labels = {}
    groups: dict[str, str | None] = {}
    for number, path in enumerate([*known * images, *coarse]):
        key = f"photo-{(number * 7919) % 100003:06d}"
        labels[key] = path
        groups[key] = f"observation-{number // 2}" if number % 5 else None
    labels = dict(sorted(labels.items()))
    untrained = set(known[::5][:unseen])
    taxa = _taxa(known, coarse, untrained, images, common_names)
    write_table(data / "index" / "taxa.parquet", taxa)
    common = dict(zip(taxa["taxon_id"].to_pylist(), taxa["common_name"].to_pylist(), strict=True))
    calibration = {
        f"{key}-calibration{i}": path for i in range(4) for key, path in labels.items() if path not in untrained
    }
    groups |= dict.fromkeys(calibration)
    write_table(data / "index" / "samples.parquet", _samples(labels, calibration, groups, common))
    write_json(
        data / "shard" / "sizes.json", {"calibration-00000.tar": len(calibration), "test-00000.tar": len(labels)}
    )
    for split, photographs in (("calibration", calibration), ("test", labels)):
        _shard(data / "shard" / f"{split}-00000.tar", photographs, groups)
    history = {"epoch": [1, 2], "loss": [2.5, 1.25], "learning_rate": [0.001, 0.0005], "val_top1": [0.5, 0.75]}
    write_table(data / "distill" / "history.parquet", pa.table(history))
    leaves = label_space([*known, *coarse])
    for variant in variants:
        write_prediction(data, variant, list(labels), leaves, plausible(variant, labels, leaves))
    return labels


def write_list(
    data: Path, finest_rank: dict[TaxonPath, str], notes: dict[TaxonPath, str], zero_shot: list[TaxonPath]
) -> None:
    """Add to the folder what a species list says of its taxa, and take away what was learned from of ``zero_shot``."""
    taxa = read_table(data / "index" / "taxa.parquet").to_pylist()
    for row in taxa:
        path = tuple(row[rank] for rank in RANKS)
        row |= {"listed": True, "finest_rank": finest_rank.get(path), "note": notes.get(path), "synonyms": []}
        row |= dict.fromkeys(SPLITS[:-1], 0) if path in zero_shot else {}
    write_table(data / "index" / "taxa.parquet", pa.Table.from_pylist(taxa))


def plausible(variant: str, labels: dict[str, TaxonPath], leaves: list[TaxonPath]) -> np.ndarray:
    """Logits float32 [n, C] that are higher for the truth and its relatives, with noise that the variants share."""
    shared = np.random.default_rng(1).normal(size=(len(labels), len(leaves)))
    own = np.random.default_rng((*VARIANTS, IN_BROWSER, ON_PHONES).index(variant) + 2).normal(size=shared.shape)
    logits = 2.0 * shared + 0.5 * own if variant in QUALITY else 3.0 * own
    for row, truth in enumerate(labels.values()):
        for column, leaf in enumerate(leaves):
            together = next((r for r in range(7) if truth[r] != leaf[r]), 7)
            logits[row, column] += QUALITY.get(variant, 0.0) * 1.1 * together
    return logits.astype(np.float32)


def write_prediction(
    data: Path,
    variant: str,
    keys: list[str],
    leaves: list[TaxonPath],
    logits: np.ndarray,
    embeddings: np.ndarray | None = None,
    **costs: Any,
) -> None:
    """Predictions from logits for these test photographs, and plausible ones for split calibration.

    ``embeddings``: of both, test first. ``leaves`` other than those of the data are answered in their order.
    """
    samples = read_table(data / "index" / "samples.parquet").to_pylist()
    calibration = {row["key"]: tuple(row[r] for r in RANKS) for row in samples if row["split"] == "calibration"}
    labels, costs = read_labels(data), _costs(variant, len(leaves)) | costs
    both = np.concatenate([logits, plausible(variant, calibration, leaves)])
    write_answers(data, variant, [*keys, *calibration], both, embeddings, costs, taxa=_identity(labels, leaves))


def write_answers(
    data: Path,
    variant: str,
    keys: list[str],
    logits: np.ndarray,
    embeddings: np.ndarray | None,
    costs: dict[str, Any],
    taxa: str | None = None,
) -> None:
    """Write what stage evaluate would for a variant that gives these logits [n, C] to photographs of both splits."""
    labels = read_labels(data)
    samples = read_table(data / "index" / "samples.parquet").to_pylist()
    rows = {row["key"]: row for row in samples if row["split"] in ("test", "calibration")}
    folder, taxa = data / "evaluate" / "predictions", taxa or predictions.identity_of(labels)
    place = {key: number for number, key in enumerate(keys)}

    def of(split: str) -> tuple[Callable[[], Answers], Photographs]:
        own = sorted(key for key in keys if rows.get(key, {"split": "test"})["split"] == split)
        at = [place[key] for key in own]
        block = Block(logits[at], None if embeddings is None else embeddings[at])
        some = next(row["taxon_id"] for row in samples if row["split"] == split)  # of a photograph that is a stranger
        truth = truth_of([rows[key]["taxon_id"] if key in rows else some for key in own], labels)
        groups = [rows[key]["group"] if key in rows else None for key in own]
        return lambda: Answers(own, iter([block]), lambda: costs), Photographs(own, groups, truth)

    ask, photographs = of("calibration")
    found, columns = calibrate(ask, photographs, labels)
    predictions.write(folder / f"{variant}.safetensors", photographs.keys, taxa, columns)
    write_json(folder / f"{variant}.json", found)
    ask, photographs = of("test")
    reduced = reduce_answers(ask(), photographs, labels, found["calibration"])
    predictions.write(folder / variant / "test-00000.safetensors", photographs.keys, taxa, reduced)


def _identity(labels: Labels, leaves: list[TaxonPath]) -> str:
    return predictions.identity_of(replace(labels, ids=[*map(taxon_id, leaves)]))


def write_all(data: Path, labels: dict[str, TaxonPath]) -> None:
    """Predictions of every variant, for the list of taxa as it is now."""
    leaves = read_labels(data).leaves
    for variant in VARIANTS:
        write_prediction(data, variant, list(labels), leaves, plausible(variant, labels, leaves))


def _costs(variant: str, leaves: int) -> dict[str, Any]:
    costs: dict[str, Any] = {}
    if variant in COSTS:
        params, macs, size, runtime, median = COSTS[variant]
        latency = {"runtime": runtime, "median": median, "min": 0.8 * median, "n": 30, "threads": 1, "batch": 1}
        table = 0 if variant == "control" else leaves * 128 * 4
        costs = {"params": params, "macs": macs, "bytes": size, "table_bytes": table, "latency_ms": latency}
    if variant == "teacher":
        costs["about"] = {"kind": "train", "name": "resnet10t", "licence": "CC0-1.0", "identity": "0" * 64}
    return costs


def _taxa(
    known: list[TaxonPath], coarse: list[TaxonPath], untrained: set[TaxonPath], images: int, common_names: bool
) -> pa.Table:
    leaves = label_space([*known, *coarse])
    inner = sorted({path for path in coarse if path not in leaves}, key=lambda path: tuple(name or "" for name in path))
    everything = [*leaves, *inner]
    columns: dict[str, Any] = {
        "taxon_id": [taxon_id(path) for path in everything],
        **{rank: pa.array([path[r] for path in everything], pa.string()) for r, rank in enumerate(RANKS)},
        "common_name": pa.array(
            [f"{path[5]}'s {path[6]}".lower() if common_names and path[6] else None for path in everything], pa.string()
        ),
        "rank": [RANKS[label_rank(path)] for path in everything],
        "leaf": [not any(is_ancestor(path, other) for other in everything) for path in everything],
    }
    for split in SPLITS:
        unseen = untrained if split in ("train", "val", "calibration") else set()
        counts = [0 if path in unseen else images for path in everything]
        columns[split] = pa.array(counts, pa.int32())
    return pa.table(columns)


def _samples(
    labels: dict[str, TaxonPath],
    calibration: dict[str, TaxonPath],
    groups: dict[str, str | None],
    common: dict[str, str | None],
) -> pa.Table:
    rows = [(key, "test", path) for key, path in labels.items()]
    rows += [(key, "calibration", path) for key, path in calibration.items()]
    rows += [(f"{key}-{split}", split, path) for key, path in list(labels.items())[:4] for split in SPLITS[:3]]
    rows.sort()
    return pa.table(
        {
            "key": [key for key, _, _ in rows],
            "split": [split for _, split, _ in rows],
            "taxon_id": [taxon_id(path) for _, _, path in rows],
            "group": pa.array([groups.get(key) for key, _, _ in rows], pa.string()),
            **{rank: pa.array([path[r] for _, _, path in rows], pa.string()) for r, rank in enumerate(RANKS)},
            "common_name": pa.array([common[taxon_id(path)] for _, _, path in rows], pa.string()),
            "licence": ["CC-BY-4.0" if len(key) % 2 else "CC0-1.0" for key, _, _ in rows],
            "teacher_saw": pa.nulls(len(rows), pa.bool_()),
            "attribution": [f"photographer {sum(map(ord, key)) % 5}" for key, _, _ in rows],
        }
    )


def _shard(path: Path, labels: dict[str, TaxonPath], groups: dict[str, str | None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, taxon in labels.items():
            about = {
                "taxon_id": taxon_id(taxon),
                "ranks": list(taxon),
                "common_name": None,
                "group": groups[key],
                "licence": "CC0-1.0",
                "attribution": None,
            }
            for ending, content in ((".jpg", _picture(key)), (".json", json.dumps(about).encode())):
                member = tarfile.TarInfo(key + ending)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _picture(key: str) -> bytes:
    random = np.random.default_rng(sum(map(ord, key)))
    ground, body = (tuple(int(v) for v in random.integers(*bounds, size=3)) for bounds in ((120, 220), (20, 160)))
    image = Image.new("RGB", (80, 80), ground)
    draw = ImageDraw.Draw(image)
    x, y = random.integers(8, 30, size=2).tolist()
    draw.ellipse((x, y + 8, x + 42, y + 32), fill=body)
    draw.ellipse((x + 30, y, x + 48, y + 18), fill=body)
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()
