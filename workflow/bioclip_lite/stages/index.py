"""Stage index: list the photographs of a source, resolve their taxa and divide them into splits."""

import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bioclip_lite.indexing import labels, listed_taxa, names, parts, teacher_saw
from bioclip_lite.indexing.checks import check
from bioclip_lite.indexing.copies import join_look_alikes, leave_out_copies
from bioclip_lite.indexing.database import scratch_database
from bioclip_lite.indexing.filters import leave_out_unwanted
from bioclip_lite.indexing.gathering import gather
from bioclip_lite.indexing.page import Facts
from bioclip_lite.indexing.reading import read_photographs
from bioclip_lite.indexing.splits import deal_all
from bioclip_lite.indexing.tables import write
from bioclip_lite.indexing.taxonomies.settle import HOW, Settled
from bioclip_lite.sources import places
from bioclip_lite.sources.registry import find_source
from bioclip_lite.sources.sample import SPLITS
from bioclip_lite.taxa import taxonomy

if TYPE_CHECKING:
    from bioclip_lite.utils.sections import Index


def run(params: "Index", data: Path, job: str | None = None) -> None:
    """Write data/index; ``params``: section index of params.yaml."""
    source = find_source(params["source"])
    read = partial(source.read, params)
    prepare = partial(source.prepare, params) if hasattr(source, "prepare") else None
    state = partial(getattr(source, "state", places.state), params)
    species_list, synonyms, taxonomy_file = (
        data / "lists" / file if file else None
        for file in (params["species_list"], params["synonyms"], params["taxonomy"])
    )
    out = data / "index"
    out.mkdir(parents=True, exist_ok=True)
    with scratch_database(out) as database:
        catalogue = data / "lists" / params["teacher_saw"] if params["teacher_saw"] else None
        given = gather(
            database,
            chain(source.samples(params), source.unlisted(params) if hasattr(source, "unlisted") else ()),
            params["unlabelled"] == "keep",
            teacher_saw.add_identifiers if catalogue else None,
        )
        resolved, matches = labels.resolve(database, given, species_list, synonyms, taxonomy_file, params["unlisted"])
        leave_out_unwanted(database, resolved.paths, params["where"], params["licences"])
        read_photographs(database, read, prepare, state, params["min_side"], parts.folder_of(out, params))
        leave_out_copies(database, resolved.paths)
        join_look_alikes(database, params["near_duplicates"])
        if catalogue:
            teacher_saw.mark(database, catalogue)
        listed = _without_photographs(database, resolved.paths, matches, params["where"])
        unmatched = labels.unmatched(matches)
        check(database, resolved.paths, listed, unmatched, params["source"], params["reject_budget"])
        deal_all(database, resolved.paths, params["split"], params["seed"])
        facts = write(database, resolved, matches, listed, params, out)
    shutil.rmtree(out / parts.FOLDER, ignore_errors=True)
    _summarize(facts, unmatched)
    if facts.taxonomy:
        _tell(facts.taxonomy)


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
