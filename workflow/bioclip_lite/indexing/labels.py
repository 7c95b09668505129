"""Resolve the labels of the source to taxa, and restrict them to a species list."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from bioclip_lite.indexing import listed_taxa, names
from bioclip_lite.indexing.taxonomies import settle
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

WITHOUT_LABEL = "it has no label; index.unlabelled: keep gives it to students, who learn the teacher's answer to it"


class Labels(NamedTuple):
    """The distinct labels of a source by number, and the taxa that they mean."""

    given: list[names.Label]
    meanings: list[names.Meaning]
    paths: list[taxonomy.Path]  # taxa by number
    settled: settle.Settled | None  # what a taxonomy did; None without one


def resolve(
    database: sqlite3.Connection,
    given: list[names.Label],
    species_list: Path | None,
    synonyms: Path | None,
    taxonomy_file: Path | None,
    unlisted: Literal["leave_out", "keep"],
) -> tuple[Labels, list[names.Match]]:
    """Find the taxon of each label, and the reason to leave it out if a species list lacks it.

    Fills table ``label``, and adds the common names of a taxonomy to the photographs. ``unlisted``: whether to
    "leave_out" or "keep" the photographs of taxa that the list lacks.

    Returns:
        The labels, and for each line of the species list the taxa that it matches or adds.

    Raises:
        UserError: the species list matches nothing in the source, and the rest is left out.
    """
    entries = names.read_species_list(species_list) if species_list else []
    accepted = names.read_synonyms(synonyms, entries) if synonyms or entries else {}
    if taxonomy_file:
        entries, meanings, settled = _by_taxonomy(database, given, entries, accepted, taxonomy_file)
    else:
        meanings, settled = _meanings(given, entries, accepted, relatives=True), None
    matches = _match(database, entries, meanings, accepted) if entries else []
    nodes = {node for match in matches for node in match.nodes}
    if entries and not nodes and unlisted == "leave_out":
        lost = [match._replace(added=None, nearest=match.nearest or match.resembles) for match in matches]
        raise UserError(
            f"{species_list}: nothing in the source has a name of it, and index.unlisted leaves out what the list "
            f"lacks. {unmatched(lost)}"
        )

    numbers: dict[taxonomy.Path, int] = {}
    for number, meaning in enumerate(meanings):
        lacking = nodes if entries and unlisted == "leave_out" else None
        reason, detail = _why_not(given[number], meaning, lacking)
        taxon = numbers.setdefault(meaning.path, len(numbers))
        database.execute("INSERT INTO label VALUES (?, ?, ?, ?, 0)", (number, taxon, reason, detail))
    database.execute(
        "UPDATE label SET photographs = n FROM (SELECT label AS one, count(*) AS n FROM photograph GROUP BY label) "
        "WHERE id = one"
    )
    return Labels(given, meanings, list(numbers), settled), matches


def _meanings(
    given: Sequence[names.Label], entries: Sequence[names.Entry], accepted: dict[str, tuple[str, ...]], relatives: bool
) -> list[names.Meaning]:
    """The taxa of labels by the user's synonyms and species list; ``relatives`` as of ``names.Resolver``."""
    resolver = names.Resolver(accepted, entries, relatives)
    source = names.Index()
    for label in given:
        source.add(label.path)
    return [resolver.meaning(label, source) for label in given]


def _by_taxonomy(
    database: sqlite3.Connection,
    given: Sequence[names.Label],
    entries: Sequence[names.Entry],
    accepted: dict[str, tuple[str, ...]],
    file: Path,
) -> tuple[list[names.Entry], list[names.Meaning], settle.Settled]:
    """Settle a species list and labels by a taxonomy; the user's synonyms go before those of the taxonomy."""
    with settle.opened(file, _asked(given, entries, accepted)) as book:
        entries, of_list = settle.settle_entries(book, entries)
        meanings = _meanings(given, entries, accepted, relatives=False)  # which the taxonomy knows better
        meanings, common_names, of_source = settle.settle_labels(book, given, meanings)
    settle.add_common_names(database, [common_names.get(meaning.path, {}) for meaning in meanings])
    counts = {"source": of_source, "species list": of_list}
    return entries, meanings, settle.Settled(book.description, book.rows, book.passed_over, counts)


def _asked(
    given: Sequence[names.Label], entries: Sequence[names.Entry], accepted: Mapping[str, Sequence[str]]
) -> Iterator[taxonomy.Path]:
    """The taxa that a taxonomy may be asked for."""
    yield from (label.path for label in given)
    yield from map(names.entry_path, entries)
    for several in accepted.values():
        yield from (taxonomy.make_path({"species": name}) for name in several)


def _match(
    database: sqlite3.Connection,
    entries: Sequence[names.Entry],
    meanings: Sequence[names.Meaning],
    synonyms: dict[str, tuple[str, ...]],
) -> list[names.Match]:
    """Match a species list against the taxa of the source, by scientific names and by common names in any language.

    A line that matches nothing adds its taxon, or has the names that are nearest.
    """
    known = names.Index()
    common_names: list[set[str]] = [set() for _ in meanings]
    photographs: Counter[taxonomy.Path] = Counter()
    rows = database.execute(
        "SELECT label, common_name, common_names, count(*) FROM photograph WHERE label NOT NULL GROUP BY 1, 2, 3"
    )
    for label, name, others, number in rows:
        common_names[label].update(filter(None, (name, *(name for _, name in json.loads(others or "[]")))))
        photographs[meanings[label].path] += number
    for meaning, its_names in zip(meanings, common_names, strict=True):
        known.add(meaning.path, its_names)
    matches = names.match(entries, known, synonyms)
    return names.suggest(listed_taxa.add_taxa(matches, known, synonyms, photographs), known)


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


def unmatched(matches: Sequence[names.Match]) -> str | None:
    """The names of a species list that match nothing and add no taxon, for a message; None if there are none."""
    missing = [match for match in matches if not match.nodes and not match.added]
    if not missing:
        return None
    parts = []
    for match in missing[:10]:
        if match.candidates:
            hint = f"may mean {', '.join(match.candidates)}"
        else:
            hint = f"nearest: {', '.join(match.nearest)}" if match.nearest else "nothing like it"
        parts.append(f"{match.entry.text!r} ({hint})")
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    return f"{len(missing)} of {len(matches)} names: {'; '.join(parts)}{more}"
