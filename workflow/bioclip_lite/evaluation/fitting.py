"""Calibrate a variant, and reduce its answers to what is kept of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_lite.evaluation.predictions import FITTED_ON, Answers, Block, Predictions
from bioclip_lite.metrics import calibration, off_list
from bioclip_lite.metrics.ranks import capped, softmax
from bioclip_lite.metrics.scoring import Tree, judge_columns, reduce_logits, tree_of
from bioclip_lite.metrics.temperature import Evidence, best_temperature, evidence, join
from bioclip_lite.photographs.shards import descriptions, shard_names
from bioclip_lite.taxa.label_space import Labels, Truth, truth_of
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, require
from bioclip_lite.utils.randomness import drawn

# Photographs for a temperature: their mean is good to a hundredth. And for thresholds: the bound on the share of wrong
# answers, 5 %, is then met to a quarter of a percent.
FITTED_ON_AT_MOST = 10_000
_HELD = 64_000_000  # logits that are held for a second look: 256 MB


@dataclass(frozen=True)
class Photographs:
    """The photographs of some shards, in the order of their keys."""

    keys: list[str]
    observations: list[str | None]
    truth: Truth


@dataclass(frozen=True)
class Fit:
    """The calibration of a variant, and the answers that its thresholds were fitted on."""

    source: str  # "fitted", or "shipped" in the bundle
    temperature: float
    thresholds: calibration.Thresholds
    off_list: dict[str, Any] | None  # of ``off_list.fit``
    best: dict[str, np.ndarray]  # "share" and "node" (calibration.best_nodes) of one photograph per observation
    truth_nodes: np.ndarray  # int64 [m, 7], their labels


def calibration_shards(data: Path) -> list[str]:
    """The first shards of split calibration that hold FITTED_ON_AT_MOST photographs, or all of them.

    Photographs come to shards by hash, so that the first ones are a draw.
    """
    sizes = read_json(require(data / "shard" / "sizes.json"))
    names, photographs = [], 0
    for name in shard_names(data, FITTED_ON):
        if photographs < FITTED_ON_AT_MOST:
            names.append(name)
        photographs += sizes[f"{name}.tar"]
    if not names:
        raise UserError(
            f"{data / 'shard' / 'sizes.json'} lists no shard of split {FITTED_ON}; set shard.counts.{FITTED_ON}"
        )
    return names


def photographs_of(data: Path, shards: Sequence[str], labels: Labels) -> Photographs:
    """Read the labels of the photographs of some shards."""
    found = dict(pair for shard in shards for pair in descriptions(data / "shard" / f"{shard}.tar"))
    keys = sorted(found)
    truth = truth_of([found[key]["taxon_id"] for key in keys], labels)
    return Photographs(keys, [found[key]["group"] for key in keys], truth)


def calibrate(
    ask: Callable[[], Answers], photographs: Photographs, labels: Labels
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fit temperature and thresholds on the calibration split, unless the variant ships with its own.

    Args:
        ask: computes the answers; it is called once more where their logits are too many to be held.
        photographs: those of the shards that are answered.

    Returns:
        (costs, with "calibration": {"temperature", "thresholds", "off_list", "source"}; columns for
        ``predictions.write``, in the order of the keys of ``photographs``).
    """
    tree, answers = tree_of(labels.node_of_leaf, labels.finest_rank), ask()
    place = _places(answers, photographs)
    costs = answers.costs()
    shipped = costs.get("calibration")
    held: list[Block] | None = None
    if shipped:
        temperature, blocks = float(shipped["temperature"]), answers.blocks
    else:
        temperature, held = _fit_temperature(answers, place, photographs, tree)
        blocks = iter(held) if held is not None else ask().blocks
    first = calibration.first_of_each(photographs.observations)
    drawn_off = off_list.hidden(photographs.keys, photographs.truth.nodes, labels.node_of_leaf, off_list.HIDDEN)
    columns, best = _best_nodes(blocks, place, tree, temperature, drawn_off.rank, photographs.truth.nodes)
    columns |= {"share": columns["share"][first], "node": columns["node"][first], "fitted": first.astype(np.int32)}
    fitted = {
        "temperature": temperature,
        "thresholds": shipped["thresholds"]
        if shipped
        else _thresholds(columns, photographs.truth.nodes[first], labels),
        "off_list": shipped["off_list"] if shipped else _off_list(best, drawn_off, first, labels),
        "source": "shipped" if shipped else "fitted",
    }
    return costs | {"calibration": fitted}, columns


def _places(answers: Answers, photographs: Photographs) -> np.ndarray:
    """Position of each answer in ``photographs.keys``, int64 [n].

    Raises:
        UserError: other photographs were answered.
    """
    place_of = {key: place for place, key in enumerate(photographs.keys)}
    places = np.array([place_of.get(key, -1) for key in answers.keys], dtype=np.int64)
    if len(places) != len(place_of) or set(places.tolist()) != set(range(len(place_of))):
        lacking = sorted(place_of.keys() - set(answers.keys))
        raise UserError(
            f"{len(answers.keys)} answers for {len(place_of)} photographs of data/shard"
            f"{', without ' + lacking[0] if lacking else ''}: a stage before evaluate saw other photographs; run it "
            "again (snakemake --cores all evaluate does)"
        )
    return places


def _checked(block: Block, keys: Sequence[str]) -> Block:
    """A block of answers whose numbers are all finite."""
    for name, values in (("logits", block.logits), ("embeddings", block.embeddings)):
        if values is not None and not np.isfinite(values).all():
            bad = keys[int(np.argmin(np.isfinite(values).all(axis=1)))]
            raise UserError(
                f"the {name} of {bad} are not finite numbers, so they cannot be compared; the model of this variant is "
                "broken, look at the log of the stage that made it"
            )
    return block


def _fit_temperature(
    answers: Answers, place: np.ndarray, photographs: Photographs, tree: Tree
) -> tuple[float, list[Block] | None]:
    """(the temperature; the answers, if they are few enough to be held)."""
    asked = np.zeros(len(place), dtype=bool)
    asked[drawn(photographs.keys, FITTED_ON_AT_MOST, "temperature")] = True
    parts: list[Evidence] = []
    held: list[Block] | None = []
    start = values = 0
    for block in answers.blocks:
        here = place[start : start + len(block.logits)]
        _checked(block, [photographs.keys[row] for row in here])
        start, values = start + len(here), values + block.logits.size
        inside = asked[here]
        parts.append(evidence(block.logits[inside], photographs.truth.nodes[here[inside]], tree.nodes))
        held = [*held, block] if held is not None and values <= _HELD else None
    return (best_temperature(join(parts)) if parts else 1.0), held


def _best_nodes(
    blocks: Iterable[Block],
    place: np.ndarray,
    tree: Tree,
    temperature: float,
    hidden_rank: np.ndarray,
    truth_nodes: np.ndarray,
) -> tuple[dict[str, np.ndarray], off_list.Best]:
    """("share" and "node" of all photographs, and "embeddings"; the same with taxa hidden (``off_list``)).

    ``hidden_rank``, ``truth_nodes``: of all photographs.
    """
    columns: dict[str, np.ndarray] = {
        "share": np.empty((len(place), len(RANKS))),
        "node": np.empty((len(place), len(RANKS)), dtype=np.int32),
    }
    others = off_list.Best(columns["share"].copy(), np.empty_like(columns["node"], np.int64), np.empty(len(place)))
    start = 0
    for block in blocks:
        here = place[start : start + len(block.logits)]
        start += len(here)
        rows = max(1, _HELD // 16 // block.logits.shape[1])
        for low in range(0, len(here), rows):
            at, logits = here[low : low + rows], block.logits[low : low + rows]
            probabilities = softmax(logits.astype(np.float64) / temperature)
            best = off_list.Best(*calibration.best_of_groups(probabilities, tree.named), logits.max(axis=1))
            columns["share"][at], columns["node"][at] = best.share, best.node
            left = _hidden(best, logits, truth_nodes[at], hidden_rank[at], tree, temperature)
            for values, of_rows in zip(others, left, strict=True):
                values[at] = of_rows
        _keep_embeddings(columns, block, here, len(place))
    return columns, others


def _hidden(
    best: off_list.Best,
    logits: np.ndarray,
    truth_nodes: np.ndarray,
    rank: np.ndarray,
    tree: Tree,
    temperature: float,
) -> off_list.Best:
    return off_list.among_others(best, logits, truth_nodes, rank, tree.nodes, tree.named, temperature)


def _keep_embeddings(columns: dict[str, np.ndarray], block: Block, here: np.ndarray, rows: int) -> None:
    if block.embeddings is not None:
        shape = rows, block.embeddings.shape[1]
        columns.setdefault("embeddings", np.empty(shape, dtype=np.float16))[here] = block.embeddings


def _thresholds(columns: Mapping[str, np.ndarray], truth_nodes: np.ndarray, labels: Labels) -> dict[str, Any]:
    level, node = calibration.LEVEL, columns["node"].astype(np.int64)
    named = capped(labels.node_of_leaf, labels.finest_rank)
    ranks = calibration.fit_reduced(columns["share"], node, truth_nodes, named, level)
    return {"level": level, "confidence": calibration.CONFIDENCE, "ranks": ranks}


def _off_list(
    best: off_list.Best, drawn_off: off_list.Hidden, first: np.ndarray, labels: Labels
) -> dict[str, Any] | None:
    independent = off_list.Best(*(values[first] for values in best))
    return off_list.fit(independent, drawn_off.truth_nodes[first], capped(labels.node_of_leaf, labels.finest_rank))


def reduce_answers(
    answers: Answers, photographs: Photographs, labels: Labels, fitted: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Reduce the answers to one shard to columns for ``predictions.write``, in the order of the photographs' keys.

    Args:
        fitted: "calibration" of the costs that ``calibrate`` returns.

    Raises:
        UserError: other photographs were answered, or a number is not finite.
    """
    tree, place = tree_of(labels.node_of_leaf, labels.finest_rank), _places(answers, photographs)
    columns: dict[str, np.ndarray] = {}
    truth, start, temperature = photographs.truth, 0, fitted["temperature"]
    drawn_off = off_list.hidden(photographs.keys, truth.nodes, labels.node_of_leaf, off_list.SHARE)
    for block in answers.blocks:
        here = place[start : start + len(block.logits)]
        start += len(here)
        _checked(block, [photographs.keys[row] for row in here])
        reduced = reduce_logits(block.logits, truth.leaf[here], truth.nodes[here], tree, temperature)
        if fitted["off_list"]:
            best = off_list.Best(reduced["share"], reduced["node"], block.logits.max(axis=1))
            left = _hidden(best, block.logits, truth.nodes[here], drawn_off.rank[here], tree, temperature)
            rank, node, probable = off_list.answer(left, fitted["off_list"])
            reduced |= {
                "open_rank": rank.astype(np.int8),
                "open_node": node.astype(np.int32),
                "listed": probable[:, -1].astype(np.float32),
            }
        for name, values in reduced.items():
            columns.setdefault(name, np.empty((len(place), *values.shape[1:]), dtype=values.dtype))[here] = values
        _keep_embeddings(columns, block, here, len(place))
    return columns


def read_fit(prediction: Predictions, fitted_on: Mapping[str, str], labels: Labels) -> Fit:
    """Read the calibration of a variant.

    Args:
        fitted_on: taxon ids of the photographs of split calibration by key.
    """
    keys, best = prediction.best()
    about = prediction.costs["calibration"]
    truth_nodes = truth_of([fitted_on[key] for key in keys], labels).nodes
    return Fit(
        about["source"], about["temperature"], about["thresholds"]["ranks"], about["off_list"], best, truth_nodes
    )


def read_scores(prediction: Predictions, keys: list[str], truth: Truth, labels: Labels) -> dict[str, np.ndarray]:
    """``scoring.judge_columns`` of all test photographs, rows in the order of ``keys``."""
    columns: dict[str, np.ndarray] = {}
    place_of = {key: place for place, key in enumerate(keys)}
    for names, of_shard in prediction.columns():
        here = np.array([place_of[key] for key in names], dtype=np.int64)
        scores = judge_columns(of_shard, truth.leaf[here], truth.nodes[here], labels.node_of_leaf)
        for name, values in scores.items():
            columns.setdefault(name, np.empty((len(keys), *values.shape[1:]), dtype=values.dtype))[here] = values
    return columns
