"""How certain the answers of a bundle are: its calibration photographs, and the promise that they allow.

``calibration.safetensors`` keeps the photographs as the shipped model embeds them, so that the promise can be made anew
for another list of taxa without the photographs: "embeddings" float16 (n, D), unit vectors; "labels" uint64 (n,),
places in ``taxa``. Its metadata are JSON: ``keys`` and ``observations`` of the photographs, ``taxa``, the paths of
their labels, and ``weights_sha256``, as provenance in bundle.json has it, which says whose embeddings they are.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bioclip_lite.metrics import calibration, off_list
from bioclip_lite.metrics.ranks import capped
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.taxa.taxonomy import lineage
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import drawn
from bioclip_lite.utils.tensors import Tensors, map_tensors, write_tensors
from bioclip_lite.web import parts
from bioclip_lite.web.bundle import Table

FILE = "calibration.safetensors"
_LOGITS = 1 << 27  # in memory at a time while thresholds are fitted; more photographs would not move them
_KEPT = 50_000  # photographs at most, in the file: 51 MB at 512 numbers each


@dataclass(frozen=True)
class Photographs:
    """n photographs of split calibration."""

    keys: list[str]
    observations: list[str | None]
    taxa: list[TaxonPath]  # of their labels
    embeddings: np.ndarray  # float (n, D), unit vectors by the shipped model


def write(path: Path, photographs: Photographs, weights_sha256: str) -> None:
    """Write the photographs, or 50,000 of them, drawn by a hash of their keys."""
    kept = chosen(photographs, sorted(drawn(photographs.keys, _KEPT, FILE)))
    taxa = {taxon: place for place, taxon in enumerate(dict.fromkeys(kept.taxa))}
    tensors = {
        "labels": np.array([taxa[taxon] for taxon in kept.taxa], "<u8"),
        "embeddings": kept.embeddings.astype("<f2"),
    }
    described = {
        "keys": kept.keys,
        "observations": kept.observations,
        "taxa": [*taxa],
        "weights_sha256": weights_sha256,
    }
    write_tensors(path, tensors, {name: json.dumps(value) for name, value in described.items()})


def read(path: Path, weights_sha256: str, width: int) -> Photographs:
    """Read what ``write`` wrote; ``width``: D of the bundle.

    Raises:
        UserError: it is something else, or of another model.
    """
    arrays, metadata = _tensors(path)
    try:
        described = {name: json.loads(metadata[name]) for name in ("keys", "observations", "taxa", "weights_sha256")}
        labels, embeddings = arrays["labels"].tolist(), np.array(arrays["embeddings"], np.float32)
        taxa = [tuple(described["taxa"][place]) for place in labels]
        keys, observations = described["keys"], described["observations"]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path} is no {FILE} of stage convert ({error})") from None
    if described["weights_sha256"] != weights_sha256 or embeddings.shape != (len(keys), width):
        raise UserError(
            f"{path} holds photographs as another model sees them, not that of the bundle; take the file that stage "
            "convert wrote with it (data/convert), or do without: the new bundle then has no thresholds"
        )
    if not len(keys) == len(observations) == len(taxa):
        raise UserError(f"{path}: {len(keys)} keys, {len(observations)} observations, {len(taxa)} labels do not fit")
    return Photographs(keys, observations, taxa, embeddings)


def _tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path} is missing; stage convert writes it to data/convert/{FILE}")
    try:
        return map_tensors(path)
    except ValueError:
        raise UserError(f"{path} is no {FILE} of stage convert, or is not complete; copy it again") from None


def fit(
    table: Table, logit_scale: float, photographs: Photographs, divided: parts.Split | None = None
) -> dict[str, Any]:
    """``temperature``, ``thresholds`` and ``off_list`` of bundle.json, as fitted for the INT8 table as it ships."""
    answering, leaves, finest = answered(table, logit_scale, divided)
    logits = answering(photographs.embeddings)
    fitted = calibration.calibrate(logits, photographs.taxa, leaves, photographs.observations, finest)
    first = calibration.first_of_each(photographs.observations)
    keys, taxa = [photographs.keys[row] for row in first], [photographs.taxa[row] for row in first]
    nodes, truth = calibration.nodes_of(leaves), calibration.place(taxa, leaves)
    drawn_off, named = off_list.hidden(keys, truth, nodes, off_list.HIDDEN), capped(nodes, finest)
    others = off_list.calibrate(logits[first], drawn_off, truth, nodes, named, fitted["temperature"])
    return fitted | {"off_list": others}


class Answered(NamedTuple):
    """Answers of a table, among the C taxa that its rows stand for."""

    logits: parts.Answering  # float32 (n, C)
    leaves: list[TaxonPath]  # a genus once for each species that its representative replaces
    finest_rank: np.ndarray  # int8 (C,)


def answered(table: Table, logit_scale: float, divided: parts.Split | None) -> Answered:
    """The answers of a table as it ships, in parts or in one file."""
    ask = parts.answering(table.text, divided, logit_scale)
    if not table.representatives:
        return Answered(ask, table.paths, table.finest_rank)
    rows = np.repeat(np.arange(len(table.paths)), table.stands_for)
    return Answered(lambda units: ask(units)[:, rows], [table.paths[row] for row in rows], table.finest_rank[rows])


def affordable(photographs: Photographs, taxa: int) -> Photographs:
    """Those, drawn by a hash of their keys, whose logits among ``taxa`` fit into memory."""
    return chosen(photographs, drawn_for(photographs.keys, taxa))


def drawn_for(keys: Iterable[str], taxa: int) -> list[int]:
    """Rows, rising, of the photographs that thresholds among ``taxa`` are fitted on."""
    return sorted(drawn(keys, max(256, _LOGITS // taxa), "calibration"))


def chosen(photographs: Photographs, rows: Sequence[int]) -> Photographs:
    """Some of the photographs."""
    return Photographs(
        [photographs.keys[row] for row in rows],
        [photographs.observations[row] for row in rows],
        [photographs.taxa[row] for row in rows],
        photographs.embeddings[list(rows)],
    )


def under(labels: Sequence[TaxonPath], leaves: Iterable[TaxonPath], others: Iterable[TaxonPath]) -> list[int]:
    """Rows of the labels that certainly are one of ``leaves``.

    That is a leaf or a taxon below it; and a taxon above leaves, such as a genus, if none of ``others``, the taxa of
    the model that are no leaves of this list, lies below it: the photograph could be one of them.
    """
    leaves = list(leaves)
    listed = {next(lineage(leaf)) for leaf in leaves}
    above, elsewhere = nodes_of(leaves), nodes_of(others)

    def certain(label: TaxonPath) -> bool:
        own = next(lineage(label), ())
        return any(node in listed for node in lineage(label)) or (own in above and own not in elsewhere)

    certain_of = {label: certain(label) for label in set(labels)}
    return [row for row, label in enumerate(labels) if certain_of[label]]


def nodes_of(paths: Iterable[TaxonPath]) -> set[TaxonPath]:
    """All nodes that the paths are or lie below, each down to its own rank."""
    return {node for path in paths for node in lineage(path)}


def too_few(observations: int) -> bool:
    """Whether so few independent photographs could not show the promise, even if all answers to them were right."""
    return calibration.LEVEL**observations > 1 - calibration.CONFIDENCE
