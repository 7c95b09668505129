"""List the photographs of a source that are wanted, and resolve their labels."""

import sqlite3
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.indexing import database as tables
from bioclip_lite.indexing import labels, names, parts
from bioclip_lite.indexing.filters import leave_out_unwanted
from bioclip_lite.indexing.gathering import gather
from bioclip_lite.indexing.reading import Batch
from bioclip_lite.sources.registry import find_source
from bioclip_lite.sources.sample import Sample

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Listing


def write_manifests(params: "Listing", data: Path) -> None:
    """Write what the job of each part is to read."""
    out = data / "index"
    with tables.scratch_database(out) as database:
        list_photographs(database, params, data)
        total, locators = tables.count(database), (locator for batch in listed(database) for _, locator in batch)
        parts.write_manifests(out, locators, total, params["parts"])
    print(f"index: {total} photographs in {params['parts']} parts")


def list_photographs(
    database: sqlite3.Connection,
    params: "Listing",
    data: Path,
    identify: Callable[[sqlite3.Connection, int, Sample], None] | None = None,
) -> tuple[labels.Labels, list[names.Match]]:
    """Write every photograph of the source that the parameters ask for to the database.

    ``identify`` as for ``gather``.

    Returns:
        The labels of the source, and what each line of the species list matches.

    Raises:
        UserError: nothing is left, or the source or a list is not as it must be.
    """
    source = find_source(params["source"])
    given = gather(
        database,
        chain(source.samples(params), source.unlisted(params) if hasattr(source, "unlisted") else ()),
        params["unlabelled"] == "keep",
        identify,
    )
    species_list, synonyms, taxonomy = (
        data / "lists" / file if file else None
        for file in (params["species_list"], params["synonyms"], params["taxonomy"])
    )
    resolved, matches = labels.resolve(database, given, species_list, synonyms, taxonomy, params["unlisted"])
    leave_out_unwanted(database, resolved.paths, params["where"], params["licences"])
    return resolved, matches


def listed(database: sqlite3.Connection) -> Iterator[Batch]:
    """Yield the photographs in the database in the order of the source; those that were yielded may be removed."""
    last = 0
    query = "SELECT id, locator FROM photograph WHERE id > ? ORDER BY id LIMIT ?"
    while batch := database.execute(query, (last, tables.BATCH)).fetchall():
        yield batch
        last = batch[-1][0]
