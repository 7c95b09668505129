"""Summarize the matches of a species list, for the report and the log of the index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bioclip_lite.indexing.names import Match
from bioclip_lite.sources.sample import LABELLED
from bioclip_lite.taxa import taxonomy

_EXAMPLES = 10  # names in a message


@dataclass(frozen=True)
class Summary:
    """The lines of a species list and the taxa that they gave."""

    lines: int
    lost: int  # lines that give no taxon
    photographed: int  # leaves
    without: Sequence[dict[str, Any]]  # leaves without photographs, as rows of taxa.parquet
    doubtful: Sequence[Match]  # lines without photographs that may mean a photographed taxon

    def sentence(self) -> str:
        """Say how many taxa of the list have photographs."""
        told = f"the species list has {self.lines} names: {self.photographed} taxa have photographs"
        return f"{told}, {len(self.without)} have none and are named by the teacher's text tower alone"

    def warnings(self) -> list[str]:
        """Say what may be wrong with taxa without photographs, and what to do."""
        found = [
            f"line {match.entry.line} of the list, {match.entry.text!r}, has no photographs, and its name is nearly, "
            f"or its common name is, that of {', '.join(match.resembles)}, which the list lacks; correct the line if "
            f"it is misspelt or outdated"
            for match in self.doubtful
        ]
        bare = [name_of(row) for row in self.without if not any(row[rank] for rank in taxonomy.RANKS[:5])]
        if bare:
            more = f" and {len(bare) - _EXAMPLES} more" if len(bare) > _EXAMPLES else ""
            found.append(
                f"{len(bare)} listed taxa without photographs have no rank above the genus, so that no answer can be "
                f"their family: {', '.join(bare[:_EXAMPLES])}{more}; add columns of ranks to the list, or set "
                f"index.taxonomy"
            )
        return found


def summarize(taxa: pa.Table, matches: Sequence[Match]) -> Summary | None:
    """Summarize a list by the rows of taxa.parquet; None without a list."""
    if not matches:
        return None
    leaves = [row for row in taxa.filter(taxa["leaf"]).to_pylist() if row["listed"]]
    without = [row for row in leaves if not any(row[split] for split in LABELLED)]
    return Summary(
        lines=len(matches),
        lost=sum(not match.nodes and not match.added for match in matches),
        photographed=len(leaves) - len(without),
        without=without,
        doubtful=[match for match in matches if match.resembles],
    )


def name_of(row: dict[str, Any]) -> str:
    """The scientific name of a row of taxa.parquet."""
    return taxonomy.scientific_name(tuple(row[rank] for rank in taxonomy.RANKS))
