"""Taxa that a species list names and nobody has photographed, and what the list says of its taxa.

A line that matches nothing in the source adds a taxon if it is certain to be a scientific name. Whether a line of plain
text is one can only be told from the list as a whole, since "House sparrow" has the form of a binomial: no line that
matches something may do so by a common name.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

from bioclip_lite.indexing import names
from bioclip_lite.indexing.names import Entry, Index, Match
from bioclip_lite.sources import fields
from bioclip_lite.taxa import taxonomy
from bioclip_lite.taxa.taxonomy import RANKS

_GENUS = RANKS.index("genus")
# Of the binomials of iNaturalist 2021, 99.6 % have two words that end so; of common names of two words, 26 %.
_LATIN = re.compile("[aeimnorsux]$")


class Said(NamedTuple):
    """What a species list says of a taxon."""

    common_names: Mapping[str, str]  # by language; "" where none is stated
    finest_rank: str | None = None
    note: str | None = None
    synonyms: tuple[str, ...] = ()


class _Source(NamedTuple):
    """The species of the source, for looking up those with nearly the same name."""

    by_genus: dict[str, list[taxonomy.Path]]  # in lower case
    by_initials: dict[tuple[str, str], list[str]]  # scientific names


# --------------------------------------------------------------------------------------------------- taxa of the list


def add_taxa(
    matches: Sequence[Match],
    known: Index,
    synonyms: dict[str, tuple[str, ...]],
    photographs: Mapping[taxonomy.Path, int],
) -> list[Match]:
    """Give each line that matches nothing the taxon that it adds, if it certainly names one.

    Args:
        known: the taxa of the source, listed or not.
        synonyms: accepted names by normalized name.
        photographs: how many each taxon of the source has, for messages.
    """
    given = Index()
    for match in matches:
        for path in match.nodes or (names.entry_path(match.entry),):
            given.add(path)
    votes = _votes(matches, known, synonyms)
    source = _species_of(known)
    listed = {node for match in matches for node in match.nodes}

    def lacked(taxa: Iterable[taxonomy.Path]) -> list[taxonomy.Path]:
        return sorted((taxon for taxon in {*taxa} if not names.is_listed(taxon, listed)), key=names.order)

    def added(match: Match) -> Match:
        path = None if match.nodes or match.candidates else _scientific(match.entry, votes, source, given)
        if path is None:
            return match
        path, change, candidates = _accepted(path, synonyms)
        if candidates:
            return match._replace(candidates=candidates)
        alike = lacked(_alike(path, source))
        if alike and not any(path[:_GENUS]) and (path[_GENUS] or "").lower() not in source.by_genus:
            return match  # a genus that nothing else has, and ranks that nothing gives: misspelt
        called = (taxon for name in match.entry.common_names for taxon in known.common.get(names.common(name), ()))
        placed = _placed(path, known, given)
        return match._replace(
            added=placed,
            change="; ".join(filter(None, (change, "ranks of its relatives" if placed != path else None))) or None,
            resembles=tuple(
                f"{taxonomy.scientific_name(taxon)} ({photographs.get(taxon, 0)} photographs)"
                for taxon in lacked([*alike, *called])
            ),
        )

    return [added(match) for match in matches]


def _votes(matches: Sequence[Match], known: Index, synonyms: dict[str, tuple[str, ...]]) -> tuple[int, int]:
    """How many lines of plain names match by a scientific name, and how many by a common one."""
    plain = [match.entry.name for match in matches if match.nodes and match.entry.name and not match.entry.scientific]
    scientific = sum(bool(names.named(name, known, synonyms)) for name in plain)
    return scientific, len(plain) - scientific


def _species_of(known: Index) -> _Source:
    source = _Source(defaultdict(list), defaultdict(list))
    for name, paths in sorted(known.species.items()):
        genus, epithet = name.split(" ", 1) if " " in name else ("", name)
        source.by_genus[genus] += sorted(paths, key=names.order)
        source.by_initials[genus[:1], epithet[:1]].append(name)
    return source


def _scientific(entry: Entry, votes: tuple[int, int], source: _Source, given: Index) -> taxonomy.Path | None:
    """The taxon that a line certainly names, as it writes it; None if the name, or its rank, may be another.

    ``given``: the taxa of the list. A word alone has no certain rank, unless it ends as families do or is the genus of
    a listed species.
    """
    if entry.name is None:  # an epithet alone names nothing
        return entry.path if taxonomy.label_rank(entry.path) in range(6) or entry.path[_GENUS] else None
    path = fields.path_of({"scientific_name": entry.name})
    genus, words = (path[_GENUS] or "").lower(), entry.name.split()
    if taxonomy.label_rank(path) < 0 or (path[_GENUS] and len(words) == 1 and genus not in given.nodes):
        return None
    path = names.filled(path, entry.path[:5])
    scientific, common = votes
    if entry.scientific:
        return path
    if genus in source.by_genus and scientific >= common and _LATIN.search(path[6] or "a"):
        return path
    small = [word for word in words[1:] if word.isalpha() and word.islower()]
    latin = path[_GENUS] is None or all(_LATIN.search(word) for word in (words[0].lower(), *small))
    return path if scientific and not common and latin and words[0].istitle() else None


def _accepted(
    path: taxonomy.Path, synonyms: Mapping[str, tuple[str, ...]]
) -> tuple[taxonomy.Path, str | None, tuple[str, ...]]:
    """The path under its accepted name, the change, and candidates if there are several accepted names."""
    accepted = synonyms.get(taxonomy.scientific_name(path).lower(), ())
    if len(accepted) != 1:
        return path, None, accepted
    name = taxonomy.parse_name(accepted[0])
    path = (*path[:_GENUS], name.genus, name.epithet)
    return path, f"synonym of {taxonomy.scientific_name(path)}", ()


def _alike(path: taxonomy.Path, source: _Source) -> list[taxonomy.Path]:
    """Species of the source that a species may be a misspelling of.

    Within a genus, one letter may be wrong, or two of a longer epithet: so alike are 33 pairs of the 10,000 species of
    iNaturalist 2021 ("Parus major" and "Parus minor"). In another genus the whole names are compared.
    """
    genus, epithet = (path[_GENUS] or "").lower(), path[6]
    if not epithet:
        return []
    if genus in source.by_genus:
        wrong = 1 if len(epithet) < 6 else 2
        return [taxon for taxon in source.by_genus[genus] if OSA.distance(taxon[6] or "", epithet) <= wrong]
    others = source.by_initials.get((genus[:1], epithet[:1]), [])
    found = process.extractOne(f"{genus} {epithet}", others, scorer=fuzz.ratio, score_cutoff=names.ALIKE)
    if found is None:
        return []
    return [taxon for taxon in source.by_genus[found[0].split(" ", 1)[0]] if found[0].endswith(f" {taxon[6]}")]


def _placed(path: taxonomy.Path, known: Index, given: Index) -> taxonomy.Path:
    """The path with the higher ranks of its relatives, photographed ones first.

    Theirs replace those that the list gives, so that the tree has each genus once.
    """
    own = min(taxonomy.label_rank(path), _GENUS)
    for index in (given, known):
        above = names.ranks_above(path, index)
        path = (*(theirs or mine for theirs, mine in zip(above[:own], path[:own], strict=True)), *path[own:])
    return path


# ---------------------------------------------------------------------------------------------- what becomes of them


def of_list(match: Match) -> tuple[taxonomy.Path, ...]:
    """The taxa of a line: those of the source, or the one that it adds."""
    return match.nodes or ((match.added,) if match.added else ())


def without_photographs(
    matches: Sequence[Match], photographed: Collection[taxonomy.Path], where: Mapping[str, Sequence[str]]
) -> list[taxonomy.Path]:
    """The listed taxa to add to those with photographs: leaves, and nodes above photographed taxa.

    Args:
        photographed: the taxa of the photographs that are left.
        where: by rank, the names of the taxa to keep, as in index.where.
    """
    inner = {
        names.padded(path, rank) for path in photographed for rank in range(taxonomy.label_rank(path)) if path[rank]
    }
    found: set[taxonomy.Path] = set()
    for match in matches:
        nodes = of_list(match)
        shown = [node for node in nodes if node in photographed or node in inner]
        found.update(shown or ([names.fullest(nodes)] if nodes else []))
    wanted = (
        path
        for path in found.difference(photographed)
        if all(path[RANKS.index(rank)] in kept for rank, kept in where.items())
    )
    return sorted(wanted, key=names.order)


def said_of(matches: Sequence[Match]) -> Callable[[taxonomy.Path], Said]:
    """A function that gives what the list says of a taxon: ``finest_rank`` and ``note`` also of a taxon above it.

    Of two lines for one taxon the first counts, and the coarser finest rank.
    """
    lines: dict[taxonomy.Path, list[Entry]] = defaultdict(list)
    for match in matches:
        for path in of_list(match):
            lines[path].append(match.entry)
    own = {path: _combined(entries) for path, entries in lines.items()}

    def said(path: taxonomy.Path) -> Said:
        ranks = range(taxonomy.label_rank(path), -1, -1)
        line = [own[node] for rank in ranks if path[rank] and (node := names.padded(path, rank)) in own]
        mine = own.get(path, Said({}))
        return mine._replace(
            finest_rank=next((one.finest_rank for one in line if one.finest_rank), None),
            note=next((one.note for one in line if one.note), None),
        )

    return said


def _combined(entries: Sequence[Entry]) -> Said:
    ranks = [RANKS.index(entry.finest_rank) for entry in entries if entry.finest_rank]
    return Said(
        common_names=dict(pair for entry in reversed(entries) for pair in entry.languages),
        finest_rank=RANKS[min(ranks)] if ranks else None,
        note=next((entry.note for entry in entries if entry.note), None),
        synonyms=tuple(dict.fromkeys(name for entry in entries for name in entry.synonyms)),
    )
