"""Resolve the labels of the source to taxa, and restrict them to a species list."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bioclip_lite.indexing import names
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

WITHOUT_LABEL = "it has no label; index.unlabelled: keep gives it to students, who learn the teacher's answer to it"


class Labels(NamedTuple):
    """The distinct labels of a source by number, and the taxa that they mean."""

    given: list[names.Label]
    meanings: list[names.Meaning]
    paths: list[taxonomy.Path]  # taxa by number


def resolve(
    database: sqlite3.Connection, given: list[names.Label], species_list: Path | None, synonyms: Path | None
) -> tuple[Labels, list[names.Match]]:
    """Find the taxon of each label, and the reason to leave it out if a species list lacks it.

    Fills table ``label``.

    Returns:
        The labels, and for each line of the species list the taxa that it matches.

    Raises:
        UserError: the species list matches nothing in the source.
    """
    entries = names.read_species_list(species_list) if species_list else []
    accepted = names.read_synonyms(synonyms) if synonyms else {}
    resolver = names.Resolver(accepted, entries)
    source = names.Index()
    for label in given:
        source.add(label.path)
    meanings = [resolver.meaning(label, source) for label in given]
    matches = _match(database, entries, meanings, accepted)
    nodes = {node for match in matches for node in match.nodes}
    if entries and not nodes:
        raise UserError(f"{species_list}: nothing in the source has a name of it. {unmatched(matches)}")

    numbers: dict[taxonomy.Path, int] = {}
    for number, meaning in enumerate(meanings):
        reason, detail = _why_not(given[number], meaning, nodes if entries else None)
        taxon = numbers.setdefault(meaning.path, len(numbers))
        database.execute("INSERT INTO label VALUES (?, ?, ?, ?, 0)", (number, taxon, reason, detail))
    database.execute(
        "UPDATE label SET photographs = n FROM (SELECT label AS one, count(*) AS n FROM photograph GROUP BY label) "
        "WHERE id = one"
    )
    return Labels(given, meanings, list(numbers)), matches


def _match(
    database: sqlite3.Connection,
    entries: Sequence[names.Entry],
    meanings: Sequence[names.Meaning],
    synonyms: dict[str, tuple[str, ...]],
) -> list[names.Match]:
    """Match a species list against the taxa of the source, by scientific names and by common names in any language."""
    known = names.Index()
    common_names: list[set[str]] = [set() for _ in meanings]
    if entries:
        query = "SELECT DISTINCT label, common_name, common_names FROM photograph WHERE label NOT NULL"
        for label, name, others in database.execute(query):
            common_names[label].update(filter(None, (name, *(name for _, name in json.loads(others or "[]")))))
        for meaning, its_names in zip(meanings, common_names, strict=True):
            known.add(meaning.path, its_names)
    return names.match(entries, known, synonyms)


def _why_not(
    label: names.Label, meaning: names.Meaning, listed: set[taxonomy.Path] | None
) -> tuple[str | None, str | None]:
    """Reason and detail if a label is left out; ``listed``: nodes of the species list, None without a list."""
    if taxonomy.label_rank(meaning.path) < 0:
        if meaning.candidates:
            return "no taxon", f"the common name may mean {', '.join(meaning.candidates)}"
        if not (label.verbatim or label.common_name):
            return "no taxon" if listed is None else "not listed", WITHOUT_LABEL
        return ("no taxon", "no rank is known") if listed is None else ("not listed", "no name of the list")
    if listed is not None and not names.is_listed(meaning.path, listed):
        return "not listed", taxonomy.scientific_name(meaning.path)
    return None, None


def unmatched(matches: Sequence[names.Match]) -> str:
    """Names of a species list that match nothing, for a message."""
    parts = []
    missing = [match for match in matches if not match.nodes]
    for match in missing[:10]:
        if match.candidates:
            hint = f"may mean {', '.join(match.candidates)}"
        else:
            hint = f"nearest: {', '.join(match.nearest)}" if match.nearest else "nothing like it"
        parts.append(f"{match.entry.text!r} ({hint})")
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    return f"{len(missing)} of {len(matches)} names: {'; '.join(parts)}{more}"
