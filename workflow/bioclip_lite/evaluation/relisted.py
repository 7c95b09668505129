"""How right the web model is among the taxa of another list, from its embeddings of the test photographs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_lite.evaluation import predictions
from bioclip_lite.metrics import calibration
from bioclip_lite.metrics.ranks import softmax
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.utils.files import read_table
from bioclip_lite.web import confidence, relisting
from bioclip_lite.web.parent import Parent

VARIANT = "tfjs"
_LOGITS = 4_000_000  # in memory at a time
_SAME = 0.99  # cosine, at least, of two embeddings of one photograph by one model, in Node and in PyTorch


def accuracy(
    data: Path, parent: Parent, relisted: relisting.Relisted, photographs: confidence.Photographs
) -> dict[str, Any] | None:
    """Shares of right answers to the test photographs whose labels are in the list.

    Args:
        photographs: of split calibration, as the model of the bundle sees them; the answers must be of that model.

    Returns:
        {"photographs": n, "species" and "genus": {"right": share, "of": photographs known to it}, "answers": {"given":
        share of n, "right": share of those that the label can judge, "of": their number}}, shares being None of
        nothing; None if data/evaluate has no answers of this model, or n is 0.
    """
    folder, samples = data / "evaluate" / "predictions", data / "index" / "samples.parquet"
    sizes = data / "shard" / "sizes.json"
    if not all(
        path.exists() for path in (samples, sizes, folder / f"{VARIANT}.safetensors", folder / f"{VARIANT}.json")
    ):
        return None
    found = predictions.read(folder, [VARIANT], shard_names(data, predictions.SPLIT))[VARIANT]
    keys, labels = _test(samples)
    rows = confidence.under(labels, relisted.leaves, parent.entries.keys() - set(relisted.leaves))
    if not rows or not _of_the_model(found, photographs):
        return None
    scale, temperature = parent.about["logit_scale"], relisted.certainty["temperature"]
    logits, paths, _ = confidence.answered(relisted.table, scale, relisted.split)
    node_of_leaf, truth = calibration.nodes_of(paths), calibration.place([labels[row] for row in rows], paths)
    right = np.full((len(rows), len(RANKS)), np.nan)
    answered, judged = np.zeros(len(rows), bool), np.full(len(rows), np.nan)
    blocks = predictions.placed([keys[row] for row in rows], found.embeddings())
    for places, embeddings in _smaller(blocks, len(paths)):
        share, node = calibration.best_nodes(softmax(logits(embeddings) / temperature), node_of_leaf)
        own = truth[places]
        right[places] = np.where(own == calibration.UNNAMED, np.nan, node == own)
        if thresholds := relisted.certainty["thresholds"]:
            rank = calibration.lowest(share, thresholds["ranks"])
            answered[places] = rank >= 0
            judged[places] = calibration.judge(rank, calibration.chosen(node, rank), own, node_of_leaf)
    return {
        "photographs": len(rows),
        **{rank: _share(right[:, RANKS.index(rank)]) for rank in ("species", "genus")},
        "answers": {"given": float(answered.mean()), **_share(judged)},
    }


def _smaller(blocks: Iterator[tuple[np.ndarray, np.ndarray]], taxa: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same rows in blocks whose logits among ``taxa`` are few."""
    rows = max(1, _LOGITS // taxa)
    for places, embeddings in blocks:
        for start in range(0, len(places), rows):
            yield places[start : start + rows], embeddings[start : start + rows]


def _test(samples: Path) -> tuple[list[str], list[TaxonPath]]:
    """Keys and labels of the test photographs."""
    table = read_table(samples, ["key", "split", *RANKS]).to_pylist()
    rows = [row for row in table if row["split"] == predictions.SPLIT]
    return [row["key"] for row in rows], [tuple(row[rank] for rank in RANKS) for row in rows]


def _of_the_model(found: predictions.Predictions, photographs: confidence.Photographs) -> bool:
    """Whether the predictions see the calibration photographs as the model of the bundle does."""
    cosines = [
        (embeddings * photographs.embeddings[places]).sum(axis=1)
        for places, embeddings in predictions.placed(photographs.keys, found.embeddings())
    ]
    return bool(cosines) and float(np.median(np.concatenate(cosines))) > _SAME


def _share(right: np.ndarray) -> dict[str, Any]:
    known = right[~np.isnan(right)]
    return {"right": float(known.mean()) if len(known) else None, "of": len(known)}
