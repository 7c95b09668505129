"""Index a source: leave out copies and damaged photographs, deal the rest to splits, and write the tables."""

import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bioclip_lite.indexing import batches, labels, listed_taxa, names, parts, reading, teacher_saw
from bioclip_lite.indexing.checks import check
from bioclip_lite.indexing.copies import join_look_alikes, leave_out_copies
from bioclip_lite.indexing.database import add_reject, count, scratch_database
from bioclip_lite.indexing.listing import list_photographs, listed
from bioclip_lite.indexing.page import Facts
from bioclip_lite.indexing.splits import deal_all
from bioclip_lite.indexing.tables import write
from bioclip_lite.indexing.taxonomies.settle import HOW, Settled
from bioclip_lite.sources.sample import SPLITS, Reject
from bioclip_lite.taxa import taxonomy

if TYPE_CHECKING:
    from bioclip_lite.utils.sections import Index

Found = Iterable[tuple[int, batches.Seen | Reject]]  # number of each photograph, and what reading it has shown


def index_source(params: "Index", data: Path) -> None:
    """Write data/index; every photograph is read here."""
    folder = batches.folder_of(data / "index", params)
    _index(
        params,
        data,
        lambda database: reading.read_photographs(params, listed(database), count(database), folder),
    )


def index_parts(params: "Index", data: Path) -> None:
    """Write the same tables by what the jobs of parts have read."""
    _index(params, data, lambda database: parts.found(listed(database), data / "index", params["parts"]))


def _index(params: "Index", data: Path, read: Callable[[sqlite3.Connection], Found]) -> None:
    out = data / "index"
    catalogue = data / "lists" / params["teacher_saw"] if params["teacher_saw"] else None
    with scratch_database(out) as database:
        resolved, matches = list_photographs(database, params, data, teacher_saw.add_identifiers if catalogue else None)
        _enter(database, read(database))
        leave_out_copies(database, resolved.paths)
        join_look_alikes(database, params["near_duplicates"])
        if catalogue:
            teacher_saw.mark(database, catalogue)
        lacking = _without_photographs(database, resolved.paths, matches, params["where"])
        unmatched = labels.unmatched(matches)
        check(database, resolved.paths, lacking, unmatched, params["source"], params["reject_budget"])
        deal_all(database, resolved.paths, params["split"], params["seed"])
        facts = write(database, resolved, matches, lacking, params, out)
    shutil.rmtree(out / batches.FOLDER, ignore_errors=True)
    _summarize(facts, unmatched)
    if facts.taxonomy:
        _tell(facts.taxonomy)


def _enter(database: sqlite3.Connection, found: Found) -> None:
    """Enter what was found, and leave out the photographs that are damaged or too small."""
    for number, one in found:
        if isinstance(one, Reject):
            add_reject(database, one)
            database.execute("DELETE FROM photograph WHERE id = ?", (number,))
        else:
            database.execute(
                "UPDATE photograph SET md5 = ?, width = ?, height = ?, clean = ?, truncated = ?, phash = ?, dhash = ? "
                "WHERE id = ?",
                (*one, number),
            )


def _without_photographs(
    database: sqlite3.Connection,
    paths: Sequence[taxonomy.Path],
    matches: Sequence[names.Match],
    where: Mapping[str, Sequence[str]],
) -> list[taxonomy.Path]:
    used = database.execute("SELECT DISTINCT taxon FROM photograph WHERE NOT gone AND taxon NOT NULL")
    return listed_taxa.without_photographs(matches, {paths[taxon] for (taxon,) in used}, where)


def _summarize(facts: Facts, unmatched: str | None) -> None:
    """Print photographs per split, taxa without training photographs, and what was left out."""
    leaves = facts.taxa.filter(facts.taxa["leaf"])
    shares = ", ".join(f"{split} {facts.splits[split]}" for split in SPLITS if facts.splits.get(split))
    print(f"index: {sum(facts.splits.values())} photographs of {leaves.num_rows} taxa to tell apart ({shares})")
    if facts.truncated:
        print(f"index: {facts.truncated} of these files lack their last bytes; at least 95 % of each picture is there")
    untrained = sum(not count for count in np.add(leaves["train"].to_numpy(), leaves["pretrain"].to_numpy()))
    if untrained:
        print(f"index: {untrained} of these taxa have no training photograph")
    if facts.listed:
        print(f"index: {facts.listed.sentence()}")
        for warning in facts.listed.warnings():
            print(f"index: {warning}")
    if unmatched:
        print(f"index: the species list has names that name no taxon, {unmatched}")
    if facts.unlabelled:
        print(
            f"index: {facts.unlabelled} photographs have no label; index.unlabelled: keep lets students learn the "
            "teacher's answers to them"
        )
    if "test" in facts.teacher_saw:
        seen, unseen, unknown = facts.teacher_saw["test"]
        print(
            f"index: the teacher was trained on {seen} of {seen + unseen + unknown} test photographs"
            + (f"; of {unknown} that cannot be told" if unknown else "")
        )
    for reason, number in facts.rejects.items():
        print(f"index: {number} left out: {reason} (rejects.parquet)")


def _tell(settled: Settled) -> None:
    """Print what the taxonomy did with the names of the source and of the species list."""
    for origin, counts in settled.counts.items():
        found = ", ".join(f"{counts[how]} {said}" for how, said in HOW.items() if counts.get(how))
        if found:
            print(f"index: names of the {origin} by {settled.description.place}: {found} (names.parquet)")
