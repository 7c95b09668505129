"""The label space as arrays: leaves, nodes above them, and where a photograph's label stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from bioclip_lite.errors import UserError
from bioclip_lite.files import read_table
from bioclip_lite.taxonomy import RANKS, label_rank, nodes_at
from bioclip_lite.taxonomy import Path as TaxonPath


@dataclass(frozen=True)
class Labels:
    """The C leaves that models choose among, in the order of data/index/taxa.parquet."""

    taxa: pa.Table  # all taxa, inner ones too
    ids: list[str]
    leaves: list[TaxonPath]
    common_names: list[str | None]
    node_of_leaf: np.ndarray  # int64 [7, C]; -1 where a leaf has no name at a rank
    nodes: list[list[TaxonPath]]  # per rank, what node_of_leaf points to


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
    )


def truth_of(taxon_ids: Sequence[str], labels: Labels) -> Truth:
    """Where the labels of photographs stand in the label space.

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
    """A name for the observation of each photograph of samples.parquet; a photograph without one stands alone."""
    pairs = zip(test["key"].to_pylist(), test["group"].to_pylist(), strict=True)
    return [f"photograph {key}" if group is None else f"observation {group}" for key, group in pairs]


def _paths(taxa: pa.Table) -> list[TaxonPath]:
    return list(zip(*(taxa[rank].to_pylist() for rank in RANKS), strict=True))
