"""Measure how honest answers are where the promise of back-off does not reach: ``python benchmarks/honest.py``.

    PYTHONPATH=workflow python benchmarks/honest.py [--samples FOLDER] [--kept FOLDER]

FOLDER of --samples holds real_species/ (photographs and metadata.csv) and weights/ (timm's, in safetensors). Each
section of benchmarks/honest.md comes from the function of its name; a run whose logits are in the folder of --kept is
not repeated.

off_list: the list holds animals. In each draw it lacks one species of every genus that has several, and GENERA genera;
plants and fungi are another group, and patterns of random pixels show nothing. A LiT teacher on the insects' tower
learns from half of the other animals' photographs.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from list import read_csv, write_csv
from memory_format import processor
from PIL import Image
from safetensors.numpy import load_file
from scipy.special import logsumexp
from scipy.stats import rankdata

from bioclip_lite import params
from bioclip_lite.evaluation import variants
from bioclip_lite.evaluation.fitting import photographs_of
from bioclip_lite.metrics import calibration
from bioclip_lite.metrics import off_list as others
from bioclip_lite.metrics.ranks import softmax
from bioclip_lite.metrics.temperature import fit_temperature
from bioclip_lite.photographs.images import decode
from bioclip_lite.photographs.preprocess import preprocess
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.stages import caption, index, logits, shard, teacher
from bioclip_lite.taxa.label_space import Labels, read_labels
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, replacing, require
from bioclip_lite.utils.randomness import drawn, uniform
from bioclip_lite.utils.tensors import write_tensors

OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# Honest answers"
DRAWS = (0, 1, 2, 3)  # of what the list lacks; off_list.HIDDEN was chosen on the first three
SPLITS = {"train": 0.45, "val": 0.5, "calibration": 0.75, "test": 1.0}  # upper ends of the shares
GENERA = 10  # that the list lacks
RESAMPLES = 20  # of what is hidden of the calibration photographs
UNKNOWN = ("species", "genus", "group")  # as many photographs of each, in the mean
NOTHING = "nothing"  # no organism
LESS = (0.2, 0.4)  # hidden, in place of off_list.HIDDEN
RIGHT, ANSWERED, NAMED = "answers right", "on the list: answered", "on the list: answered to the species"
SCORES = ("largest softmax", "energy", "largest logit", "nearest class mean")
PARAMS = """
index: {{source: folder, path: {photos}, min_side: 64}}
shard: {{counts: {{pretrain: 0}}}}
caption: {{}}
teacher:
  kind: lit
  seed: {seed}
  allow_weak: true
  lit: {{weights: inat_insect_mobilenetv2_100.safetensors, epochs: 30}}
logits: {{views: 1, logit_scale: given}}
distill: {{text_tower: null}}
prune: {{}}
quantize: {{}}
convert: {{taxa_bytes: null, over_budget: refuse}}
evaluate: {{also: []}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, default=Path("samples"), help="(default: samples)")
    parser.add_argument("--kept", type=Path, help="folder for logits of finished runs")
    options = parser.parse_args()
    try:
        check_file(OUTPUT, TITLE)
        text = "\n\n".join([TITLE, *(section(options) for section in SECTIONS)]) + "\n"
    except UserError as error:
        print(f"honest: {error}", file=sys.stderr)
        return 1
    print(text)
    with replacing(OUTPUT) as scratch:
        scratch.write_text(text)
    return 0


# ---- photographs of what is not on the list


class Draw(NamedTuple):
    """Hold what a teacher says of photographs whose taxa are on its list, and of others."""

    nodes: np.ndarray  # int64 [7, C], as in ``metrics.calibration``
    arrays: Mapping[str, np.ndarray]  # "<split>_logits", "_embeddings", "_truth", "_leaf"; of "off" also "kind"


def off_list(options: argparse.Namespace) -> str:
    """Compare scores that tell photographs off the list apart, and measure answers that allow for them."""
    draws = [kept(options, draw) for draw in DRAWS]
    rows = [of_scores(draw) for draw in draws]
    lines = [
        "## off_list",
        "",
        f"Real photographs: {len(draws[0].nodes[0])} taxa of animals in the list, LiT teacher; mean of {len(draws)} "
        f"draws of what the list lacks, and their range in brackets, in %. {processor()}.",
        "",
        "Area under the ROC curve between photographs on the list and others:",
        "",
        f"| score | {' | '.join((*UNKNOWN, NOTHING))} | mean of the first three |",
        "|---" * (len(UNKNOWN) + 3) + "|",
    ]
    for score in SCORES:
        cells = [spread([row[score][kind] for row in rows]) for kind in (*UNKNOWN, NOTHING, "mean")]
        lines.append(f"| {score} | {' | '.join(cells)} |")
    measured = [of_answers(draw) for draw in draws]
    lines += [
        "",
        NOTES_BEFORE,
        "",
        "| | " + " | ".join(f"draw {draw}" for draw in DRAWS) + " | mean |",
        "|---" * (len(DRAWS) + 2) + "|",
    ]
    for name in measured[0]:
        values = [row[name] for row in measured]
        cells = [f"{100 * value:.1f}" for value in (*values, statistics.mean(values))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", NOTES_OFF_LIST])


NOTES_BEFORE = (
    f"Answers with `--off-list` (`metrics/off_list.py`), calibrated without any photograph off the list, on "
    f"{RESAMPLES} draws of what is hidden; 20 % off the list, a third of them of each of the three kinds:"
)
NOTES_OFF_LIST = """Read with it:

- Group: plants and fungi. Nothing: random pixels, coarse and fine, which stand for no organism at all; no photographs
  of objects were at hand.
- Any answer to a photograph of another group is wrong, the kingdom included. Told: said to be probably not on the
  list.
- How many are hidden while it is fitted, 50 % (`off_list.HIDDEN`), was chosen on draws 0 to 2, since what is hidden is
  easier to notice than what was never learned. Draw 3 came afterwards. Of single fits on some 190 photographs more
  break 95 % than the 10 % that would be promised of photographs like those hidden.
- No genus of these lists has two species once one of each pair is left out, so nothing tells an unknown species from an
  unknown genus, and none was given its genus.
- The largest logit ships: the largest cosine to the text of a taxon, times a constant."""


def kept(options: argparse.Namespace, draw: int) -> Draw:
    """A draw, from the folder of finished runs if it is there."""
    file = options.kept / f"off_list-{draw}.safetensors" if options.kept else None
    if file and file.is_file():
        arrays = load_file(file)
    else:
        arrays = trained(options.samples, draw)
        if file:
            whole = {name: values.astype("<i4") for name, values in arrays.items() if values.dtype.kind == "i"}
            write_tensors(file, {**arrays, **whole}, {})
    return Draw(arrays["nodes"], arrays)


def trained(samples: Path, draw: int) -> dict[str, np.ndarray]:
    """Train a teacher on what the list has, and ask it for all photographs."""
    rows = read_csv(require(samples / "real_species" / "metadata.csv"))
    lacking = lacks(rows, draw)
    kinds = [kind_of(row, lacking) for row in rows]
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data")
        photos = data / "photos"
        photos.mkdir(parents=True)
        (photos / "images").symlink_to((samples / "real_species" / "images").resolve())
        (data / "weights").symlink_to((samples / "weights").resolve())
        listed = [row | {"split": split(row)} for row, kind in zip(rows, kinds, strict=True) if kind is None]
        write_csv(photos / "metadata.csv", listed)
        file = Path(scratch, "params.yaml")
        file.write_text(PARAMS.format(photos=photos, seed=draw))
        sections = params.load(file)
        stages: dict[str, Any] = {
            "index": index, "shard": shard, "caption": caption, "teacher": teacher, "logits": logits
        }  # fmt: skip
        for name, stage in stages.items():
            stage.run(params.of_job(sections, name, None), data)
        labels = read_labels(data)
        found = {"nodes": labels.node_of_leaf}
        for name in ("train", "calibration", "test"):
            found |= of_split(data, name, labels)
        off = [(row, kind) for row, kind in zip(rows, kinds, strict=True) if kind is not None]
        return found | of_others(data, samples / "real_species", off, labels, draw)


def split(row: Mapping[str, str]) -> str:
    place = uniform("honest", "split", row["file"])
    return next(name for name, end in SPLITS.items() if place < end)


def lacks(rows: list[dict[str, str]], draw: int) -> dict[tuple[str, str], int]:
    """(genus, epithet) of what the list lacks: SPECIES or GENUS."""
    genera: dict[str, set[str]] = {}
    for row in rows:
        if row["kingdom"] == "Animalia" and row["species"]:
            genera.setdefault(row["genus"], set()).add(row["species"])
    several = {genus: sorted(names) for genus, names in sorted(genera.items()) if len(names) > 1}
    alone = sorted(genus for genus, names in genera.items() if len(names) == 1)
    found = {
        (genus, names[int(uniform("honest", draw, genus) * len(names))]): others.SPECIES
        for genus, names in several.items()
    }
    gone = [alone[place] for place in drawn(alone, GENERA, "honest", draw)]
    return found | {(genus, next(iter(genera[genus]))): others.GENUS for genus in gone}


def kind_of(row: Mapping[str, str], lacking: Mapping[tuple[str, str], int]) -> int | None:
    """Name what the list lacks of a photograph; None: nothing."""
    if row["kingdom"] != "Animalia":
        return others.GROUP
    genera = {genus for (genus, _), kind in lacking.items() if kind == others.GENUS}
    return others.GENUS if row["genus"] in genera else lacking.get((row["genus"], row["species"]))


def of_split(data: Path, name: str, labels: Labels) -> dict[str, np.ndarray]:
    """Arrays of the photographs of a split, by their keys."""
    shards = shard_names(data, name)
    photographs = photographs_of(data, shards, labels)
    said = variants.answers("teacher", {"latency_runs": 1}, data, shards, labels)
    blocks = list(said.blocks)
    order = np.argsort(said.keys)
    assert [said.keys[row] for row in order] == photographs.keys
    return {
        f"{name}_logits": np.concatenate([block.logits for block in blocks])[order],
        f"{name}_embeddings": np.concatenate([block.embeddings for block in blocks if block.embeddings is not None])[
            order
        ],
        f"{name}_truth": photographs.truth.nodes,
        f"{name}_leaf": photographs.truth.leaf,
    }


def of_others(
    data: Path, folder: Path, rows: list[tuple[dict[str, str], int]], labels: Labels, draw: int
) -> dict[str, np.ndarray]:
    """Arrays of the photographs off the list, and of those of nothing."""
    images = [decode((folder / row["file"]).read_bytes()) for row, _ in rows] + [*pixels(draw)]
    prepared, answer = variants.load(data, "teacher", labels)
    blocks = [
        answer(torch.from_numpy(np.stack([preprocess(image, prepared) for image in images[start : start + 32]])))
        for start in range(0, len(images), 32)
    ]
    paths = [tuple(row[rank] or None for rank in RANKS) for row, _ in rows] + [(None,) * 7] * (len(images) - len(rows))
    kinds = [kind for _, kind in rows] + [0] * (len(images) - len(rows))
    return {
        "off_logits": np.concatenate([block.logits for block in blocks]),
        "off_embeddings": np.concatenate([block.embeddings for block in blocks if block.embeddings is not None]),
        "off_truth": calibration.place(paths, labels.leaves),
        "off_kind": np.array(kinds),
    }


def pixels(draw: int) -> list[Image.Image]:
    """60 images of random pixels, 1 to 240 to a side."""
    random = np.random.default_rng(draw)
    sides = (4, 8, 16, 64, 240, 1) * 10
    noise = (random.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in sides)
    return [Image.fromarray(values).resize((240, 240), Image.Resampling.BICUBIC) for values in noise]


def of_scores(draw: Draw) -> dict[str, dict[str, float]]:
    """Area under the ROC curve by score and kind."""
    of = draw.arrays
    temperature = fit_temperature(of["calibration_logits"], of["calibration_truth"], draw.nodes)
    leaf = of["train_leaf"]
    means = np.stack([of["train_embeddings"][leaf == one].mean(axis=0) for one in np.unique(leaf[leaf >= 0])])
    means /= np.linalg.norm(means, axis=1, keepdims=True)

    def scored(name: str) -> list[np.ndarray]:
        values, embeddings = of[f"{name}_logits"], of[f"{name}_embeddings"]
        return [
            softmax(values / temperature).max(axis=1),
            logsumexp(values / temperature, axis=1),
            values.max(axis=1),
            (embeddings @ means.T).max(axis=1),
        ]

    found = {}
    for name, listed, off in zip(SCORES, scored("test"), scored("off"), strict=True):
        by_kind = {kind: area(listed, off[of["off_kind"] == number]) for kind, number in others.KINDS.items()}
        found[name] = {
            **by_kind,
            "mean": statistics.mean(by_kind.values()),
            NOTHING: area(listed, off[of["off_kind"] == others.LISTED]),
        }
    return found


def area(listed: np.ndarray, off: np.ndarray) -> float:
    """Probability that a photograph on the list scores higher than another (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([listed, off]))[: len(listed)]
    return float((ranks.mean() - (len(listed) + 1) / 2) / len(off))


def of_answers(draw: Draw) -> dict[str, float]:
    """Shares, means over RESAMPLES of what is hidden of the calibration photographs."""
    of, nodes = draw.arrays, draw.nodes
    logits, truth = of["calibration_logits"], of["calibration_truth"]
    temperature = fit_temperature(logits, truth, nodes)

    def fitted(hidden: float) -> tuple[dict[str, float], float]:
        rows = []
        for resample in range(RESAMPLES):
            taken = others.hidden([f"{resample}-{row}" for row in range(len(logits))], truth, nodes, hidden)
            found = others.calibrate(logits, taken, truth, nodes, nodes, temperature)
            assert found
            rows.append(shares(draw, found, temperature))
        means = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
        return means, statistics.mean(float(row[RIGHT] < calibration.LEVEL) for row in rows)

    means, broken = fitted(others.HIDDEN)
    means["fits that break 95 %"] = broken
    for hidden in LESS:
        fewer, broken = fitted(hidden)
        means |= {f"{100 * hidden:.0f} % hidden: {name}": fewer[name] for name in (RIGHT, ANSWERED, NAMED)}
        means[f"{100 * hidden:.0f} % hidden: fits that break 95 %"] = broken
    return means | without(draw, temperature)


def shares(draw: Draw, fitted: dict[str, Any], temperature: float) -> dict[str, float]:
    def answers(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = draw.arrays[f"{name}_logits"]
        best = others.Best(*calibration.best_nodes(softmax(values / temperature), draw.nodes), values.max(axis=1))
        rank, node, known = others.answer(best, fitted)
        return rank, calibration.judge(rank, node, draw.arrays[f"{name}_truth"], draw.nodes), known[:, -1]

    rank, right, _ = answers("test")
    off, off_right, known = answers("off")
    kind, genus, species = draw.arrays["off_kind"], RANKS.index("genus"), RANKS.index("species")
    sister = kind == others.SPECIES
    return {
        RIGHT: mixed(right, off_right, kind),
        ANSWERED: float(np.mean(rank >= 0)),
        NAMED: float(np.mean(rank == species)),
        **{f"unknown {name}: told": float(np.mean(known[kind == one] < 0.5)) for name, one in others.KINDS.items()},
        "nothing: told": float(np.mean(known[kind == others.LISTED] < 0.5)),
        "unknown species: the genus given": float(np.mean((off == genus)[sister] & (off_right == 1)[sister])),
        "unknown species: a higher rank given, rightly": float(
            np.mean((off < genus)[sister] & (off_right == 1)[sister])
        ),
        "unknown species: named wrongly": float(np.mean(off_right[sister] == 0)),
    }


def mixed(listed: np.ndarray, off: np.ndarray, kind: np.ndarray) -> float:
    """Share of right answers where SHARE of the photographs are off the list, as many of each kind."""
    parts = [(1 - others.SHARE, listed)]
    parts += [(others.SHARE / len(UNKNOWN), off[kind == number]) for number in others.KINDS.values()]
    given = sum(weight * np.mean(~np.isnan(right)) for weight, right in parts)
    return float(sum(weight * np.nansum(right) / len(right) for weight, right in parts) / given)


def without(draw: Draw, temperature: float) -> dict[str, float]:
    """The same of plain back-off, which does not allow for others."""
    of, nodes = draw.arrays, draw.nodes
    probabilities = softmax(of["calibration_logits"] / temperature)
    thresholds = calibration.fit_thresholds(probabilities, of["calibration_truth"], nodes, calibration.LEVEL)

    def answers(name: str) -> tuple[np.ndarray, np.ndarray]:
        rank, node = calibration.back_off(softmax(of[f"{name}_logits"] / temperature), nodes, thresholds)
        return rank, calibration.judge(rank, node, of[f"{name}_truth"], nodes)

    (rank, right), (_, off) = answers("test"), answers("off")
    return {
        "plain back-off: answers right": mixed(right, off, of["off_kind"]),
        "plain back-off, on the list: answers right": float(np.nanmean(right)),
        "plain back-off, on the list: answered to the species": float(np.mean(rank == RANKS.index("species"))),
    }


def spread(values: list[float]) -> str:
    """Mean and range in percent."""
    return f"{100 * statistics.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


SECTIONS: tuple[Callable[[argparse.Namespace], str], ...] = (off_list,)

if __name__ == "__main__":
    raise SystemExit(main())
