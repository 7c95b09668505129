"""Settle the names of a source and of a species list by a taxonomy: what stage index does with it.

With a taxonomy all taxa get its ranks, so that one family has one place in the tree; what it changes is told for each
name. A name that it lacks is placed under its genus, or the lowest of its ranks that the taxonomy has.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from bioclip_lite.indexing.names import Entry, Label, Meaning, entry_path
from bioclip_lite.indexing.taxonomies import usages
from bioclip_lite.indexing.taxonomies.forms import Description, tables_of
from bioclip_lite.indexing.taxonomies.lookup import Find, Found, Query, find_all, finder, unknown_genera
from bioclip_lite.sources.languages import language_code
from bioclip_lite.taxa import taxonomy

HOW: dict[str, str] = {
    "accepted": "accepted",
    "synonym": "synonyms",
    "misspelt": "misspelt",
    "ambiguous": "ambiguous",
    "unknown": "not in it",
}
CommonNames = dict[taxonomy.Path, dict[str, str]]  # by taxon and language
_CACHE = 1 << 16  # KiB of the database in memory
_NOTHING: taxonomy.Path = (None,) * len(taxonomy.RANKS)


class Taxonomy(NamedTuple):
    """A taxonomy, read as far as the names asked for need it."""

    find: Find
    common_names: Callable[[Iterable[Found]], CommonNames]
    description: Description
    rows: int
    passed_over: int  # rows with another number of columns than the first


class Settled(NamedTuple):
    """What a taxonomy did, for the report."""

    description: Description
    rows: int
    passed_over: int
    counts: Mapping[str, Mapping[str, int]]  # names of the source and of the list by what was found


@contextmanager
def opened(path: Path, names: Iterable[taxonomy.Path]) -> Iterator[Taxonomy]:
    """Read a taxonomy for the taxa ``names``; what is kept lies in a temporary file of SQLite until the end.

    Raises:
        UserError: ``path`` is not there, or is not a taxonomy in a form that is known.
    """
    genera = {name.rpartition(" ")[2] for path_ in names if (name := path_[5])}
    with tables_of(path) as (table, vernaculars, description), closing(sqlite3.connect("")) as database:
        database.isolation_level = None
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f"PRAGMA cache_size = -{_CACHE}")
        usages.create(database)
        rows, passed_over = usages.read(database, table, genera)
        usages.read_further(database, table, unknown_genera(database, genera))

        def common_names(found: Iterable[Found]) -> CommonNames:
            taxa = {one.taxon: one.path for one in found if one.taxon}
            return _common_names(vernaculars, taxa)

        yield Taxonomy(finder(database), common_names, description, rows, passed_over)


def settle_entries(book: Taxonomy, entries: Sequence[Entry]) -> tuple[list[Entry], Counter[str]]:
    """Give the lines of a species list the ranks and common names of the taxonomy.

    Returns:
        The lines, and how many of them were found how. A line that may mean several taxa stays as it is.
    """
    queries = [_query(entry_path(entry), entry.name) for entry in entries]
    found = find_all(book.find, [query for query in queries if taxonomy.label_rank(query.path) >= 0])
    meant = [found.get(query) or _of_one_word(book.find, entry) for entry, query in zip(entries, queries, strict=True)]
    called = book.common_names(one for one in meant if one)
    counts: Counter[str] = Counter(one.how for one in meant if one)
    return [_settled(entry, one, called) if one else entry for entry, one in zip(entries, meant, strict=True)], counts


def _of_one_word(find: Find, entry: Entry) -> Found | None:
    """The taxon above the species that a line names without its rank; None if there is none, or several."""
    if not entry.name or len(entry.name.split()) > 1:
        return None
    name = entry.name.capitalize()
    ranked = [find(Query((*_NOTHING[:rank], name, *_NOTHING[rank + 1 :]))) for rank in range(6)]
    found = [one for one in ranked if one.how in ("accepted", "synonym")]
    return found[0] if len(found) == 1 else None


def _settled(entry: Entry, one: Found, called: CommonNames) -> Entry:
    if one.how == "ambiguous" or (one.how == "unknown" and entry.name):  # it may be a common name
        return entry
    further = {"" if language == "en" else language: name for language, name in called.get(one.path, {}).items()}
    languages = further | dict(entry.languages)  # the list's own names first
    return entry._replace(
        path=one.path,
        name=None,
        common_names=tuple(dict.fromkeys((*entry.common_names, *languages.values()))),
        languages=tuple(sorted(languages.items())),
        change=one.change,
    )


def settle_labels(
    book: Taxonomy, labels: Sequence[Label], meanings: Sequence[Meaning]
) -> tuple[list[Meaning], CommonNames, Counter[str]]:
    """Give the taxa of labels the ranks of the taxonomy, after the user's synonyms and the list.

    Returns:
        The meanings, common names by taxon, and how many labels were found how.
    """
    queries = [_query(meaning.path, label.verbatim) for label, meaning in zip(labels, meanings, strict=True)]
    found = find_all(book.find, [query for query in queries if taxonomy.label_rank(query.path) >= 0])
    counts: Counter[str] = Counter()
    settled = []
    for query, meaning in zip(queries, meanings, strict=True):
        one = found.get(query)
        if one is not None:
            counts[one.how] += 1
            change = "; ".join(filter(None, (meaning.change, one.change))) or None
            # What the taxonomy tells apart is no homonym any more.
            candidates = meaning.candidates if one.how == "unknown" else one.candidates
            meaning = Meaning(one.path, change, candidates)
        settled.append(meaning)
    return settled, book.common_names(found.values()), counts


def add_common_names(database: sqlite3.Connection, names: Sequence[dict[str, str]]) -> None:
    """Add common names to the photographs of the scratch database; those of the source stay where it has them.

    Args:
        names: for each label, by its number, common names by language.
    """

    def merged(label: int, own: str | None) -> str | None:
        both = {**names[label], **dict(json.loads(own or "[]"))}
        return json.dumps(sorted(both.items())) if both else None

    database.create_function("merged", 2, merged, deterministic=True)
    database.create_function("english", 1, lambda label: names[label].get("en"), deterministic=True)
    database.execute(
        "UPDATE photograph SET common_names = merged(label, common_names), "
        "common_name = coalesce(common_name, english(label))"
    )


def _query(path: taxonomy.Path, written: str | None) -> Query:
    """The query for a taxon; ``written`` may have the name of a subspecies, which a path does not have."""
    name = taxonomy.parse_name(written or "")
    same = name.below and (name.genus, name.epithet) == (path[5], path[6])
    return Query(path, name.below[-1] if same else None)


def _common_names(tables: Sequence[usages.Table], taxa: Mapping[str, taxonomy.Path]) -> CommonNames:
    """By taxon and language the name that is preferred, or else the most frequent, or else the first."""
    seen: dict[tuple[taxonomy.Path, str], Counter[tuple[bool, str]]] = {}
    for table in tables:
        for taxon, name, language, preferred in usages.common_names(table, taxa):
            if code := language_code(language):
                seen.setdefault((taxa[taxon], code), Counter())[preferred, name] += 1
    chosen: CommonNames = {}
    for (path, code), counts in sorted(seen.items(), key=lambda item: item[0][1]):
        (_, name), _ = max(counts.items(), key=lambda item: (item[0][0], item[1]))  # the first of equals
        chosen.setdefault(path, {})[code] = name
    return chosen
