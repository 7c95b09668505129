"""The label space as arrays: leaves, the nodes above them, and the node of each photograph's label."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from bioclip_lite.taxa.taxonomy import RANKS, label_rank, lineage, nodes_at
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table

LEARNED = ("pretrain", "train")  # splits whose photographs a teacher or a student learns from


@dataclass(frozen=True)
class Labels:
    """The C leaves that models choose among, in the order of data/index/taxa.parquet."""

    taxa: pa.Table  # all taxa, inner ones too
    ids: list[str]
    leaves: list[TaxonPath]
    common_names: list[str | None]
    node_of_leaf: np.ndarray  # int64 [7, C]; -1 where a leaf has no name at a rank
    nodes: list[list[TaxonPath]]  # per rank, what node_of_leaf points to
    zero_shot: np.ndarray  # bool [C]: no photograph was learned from, the teacher's text tower alone names it
    finest_rank: np.ndarray  # int8 [C], index into RANKS of the lowest rank that an answer may have; 6: not capped
    notes: list[str | None]  # what the species list says of it


@dataclass(frozen=True)
class Truth:
    """Labels of n photographs."""

    leaf: np.ndarray  # int64 [n], of photographs known to species; -1 otherwise
    nodes: np.ndarray  # int64 [n, 7], node at each rank; -1 where the label has no name


def read_labels(data: Path) -> Labels:
    """The label space of data/index/taxa.parquet."""
    taxa = read_table(data / "index" / "taxa.parquet")
    leaves = taxa.filter(taxa["leaf"])
    if not leaves.num_rows:
        raise UserError(
            "data/index/taxa.parquet lists no taxon to choose among; run stage index on a source with labels"
        )
    paths = _paths(leaves)
    at_rank = [nodes_at(paths, rank) for rank in range(len(RANKS))]
    return Labels(
        taxa=taxa,
        ids=leaves["taxon_id"].to_pylist(),
        leaves=paths,
        common_names=leaves["common_name"].to_pylist(),
        node_of_leaf=np.stack([index for index, _ in at_rank]),
        nodes=[nodes for _, nodes in at_rank],
        zero_shot=np.all([leaves[split].to_numpy() == 0 for split in LEARNED], axis=0),
        finest_rank=_finest_ranks(taxa, paths),
        notes=_notes(taxa, paths),
    )


def _finest_ranks(taxa: pa.Table, leaves: Sequence[TaxonPath]) -> np.ndarray:
    """``finest_rank`` of the leaves: the highest that the list gives for the leaf or for a taxon above it."""
    stated = {end: RANKS.index(rank) for end, rank in _stated(taxa, "finest_rank").items()}
    lowest = len(RANKS) - 1
    return np.array([min(stated.get(end, lowest) for end in lineage(path)) for path in leaves], dtype=np.int8)


def _notes(taxa: pa.Table, leaves: Sequence[TaxonPath]) -> list[str | None]:
    """``notes`` of the leaves: that of the leaf itself, or of the lowest taxon above it that has one."""
    stated = _stated(taxa, "note")
    return [next((stated[end] for end in lineage(path) if end in stated), None) for path in leaves]


def _stated(taxa: pa.Table, column: str) -> dict[TaxonPath, str]:
    """What a column says, by the path down to the taxon's own rank; nothing in a table of a run without a list."""
    values = taxa[column].to_pylist() if column in taxa.column_names else [None] * taxa.num_rows
    return {next(lineage(path)): value for path, value in zip(_paths(taxa), values, strict=True) if value}


def truth_of(taxon_ids: Sequence[str], labels: Labels) -> Truth:
    """Find the labels of photographs in the label space.

    Raises:
        UserError: a label is not in the list of taxa.
    """
    path_of = dict(zip(labels.taxa["taxon_id"].to_pylist(), _paths(labels.taxa), strict=True))
    unknown = sorted(set(taxon_ids) - set(path_of))
    if unknown:
        raise UserError(
            f"data/index/samples.parquet names {len(unknown)} taxa that data/index/taxa.parquet lacks "
            f"({', '.join(unknown[:3])}); run stage index again"
        )
    node_number = [{path: number for number, path in enumerate(nodes)} for nodes in labels.nodes]
    leaf_number = {path: number for number, path in enumerate(labels.leaves)}
    species = RANKS.index("species")
    at: dict[str, tuple[int, list[int]]] = {}
    for taxon in sorted(set(taxon_ids)):
        path = path_of[taxon]
        leaf = leaf_number[path] if label_rank(path) == species else -1
        at[taxon] = leaf, [node_number[r][path[: r + 1]] if path[r] else -1 for r in range(len(RANKS))]
    return Truth(
        leaf=np.array([at[taxon][0] for taxon in taxon_ids], dtype=np.int64),
        nodes=np.array([at[taxon][1] for taxon in taxon_ids], dtype=np.int64).reshape(-1, len(RANKS)),
    )


def observations(test: pa.Table) -> list[str]:
    """An id of the observation of each photograph in samples.parquet; without one, the photograph is its own."""
    pairs = zip(test["key"].to_pylist(), test["group"].to_pylist(), strict=True)
    return [f"photograph {key}" if group is None else f"observation {group}" for key, group in pairs]


def _paths(taxa: pa.Table) -> list[TaxonPath]:
    return list(zip(*(taxa[rank].to_pylist() for rank in RANKS), strict=True))


def leaves_below(data: Path) -> tuple[list[str], dict[str, range]]:
    """(ids of the leaves in order, {id of any taxon: the numbers of the leaves that are it or lie under it}).

    Raises:
        UserError: the leaves under a taxon do not follow each other.
    """
    table = read_table(data / "index" / "taxa.parquet", columns=["taxon_id", *RANKS, "leaf"])
    ids, paths = table["taxon_id"].to_pylist(), _paths(table)
    leaves: list[str] = []
    below: dict[TaxonPath, range] = {}
    for taxon, path, leaf in zip(ids, paths, table["leaf"].to_pylist(), strict=True):
        if not leaf:
            continue
        number = len(leaves)
        for node in lineage(path):
            before = below.get(node, range(number, number))
            if before.stop != number:
                raise UserError(
                    f"data/index/taxa.parquet is not in the order of the tree: leaves of "
                    f"{' '.join(filter(None, node))} stand apart; run stage index again"
                )
            below[node] = range(before.start, number + 1)
        leaves.append(taxon)
    return leaves, {taxon: below[next(lineage(path))] for taxon, path in zip(ids, paths, strict=True)}


def rank_nodes(data: Path) -> np.ndarray:
    """int64 (6, C): the number of each leaf's node at the ranks kingdom to genus; a node is all leaves of one path."""
    table = read_table(data / "index" / "taxa.parquet", columns=[*RANKS, "leaf"]).to_pylist()
    paths = [tuple(row[rank] for rank in RANKS) for row in table if row["leaf"]]
    rows = []
    for length in range(1, len(RANKS)):
        number: dict[tuple[str | None, ...], int] = {}
        rows.append([number.setdefault(path[:length], len(number)) for path in paths])
    return np.array(rows, np.int64)
