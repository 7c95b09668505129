"""Find what names mean in a taxonomy: accepted names, homonyms, misspelt names. Nothing is guessed.

A name that may mean several taxa has them as candidates. A misspelt name is corrected if one taxon alone has a name
like it, under the rules of ``_allowed``.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from rapidfuzz.distance import OSA

from bioclip_lite.indexing.names import full_name
from bioclip_lite.indexing.taxonomies.usages import Usage, genera_like, usage, usages_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.taxa.taxonomy import RANKS

How = Literal["accepted", "synonym", "misspelt", "ambiguous", "unknown"]

_NOTHING: taxonomy.Path = (None,) * len(RANKS)
_SIGN = "\N{MULTIPLICATION SIGN} "  # of hybrids
_BELOW = ("species", "subspecies", "variety", "subvariety", "form", "subform", "infraspecific name", "hybrid")
_ACCEPTED = ("", "accepted", "valid")
_UNSURE = ("misapplied", "ambiguous synonym", "pro parte synonym", "proparte synonym")
# Of the 10,000 species of iNaturalist 2021, 6 differ in one letter from another species of their genus, and 13 more in
# two letters, so that two wrong letters are a doubt and no correction.
_SHORTEST = {1: 5, 2: 8}  # letters of names in which so many may be wrong
_CACHED_GENERA, _CACHED_PATHS = 1 << 8, 1 << 16


class Query(NamedTuple):
    """A name to be found."""

    path: taxonomy.Path  # what is known of its ranks
    below: str | None = None  # the epithet of a subspecies, variety or form


class Found(NamedTuple):
    """What a name means in a taxonomy."""

    how: How
    path: taxonomy.Path  # by the taxonomy, as far as it knows the name
    taxon: str | None = None  # id of the accepted usage
    change: str | None = None
    candidates: tuple[str, ...] = ()


class _Sense(NamedTuple):
    """A taxon that a usage may mean."""

    standing: int  # 0: accepted, 1: doubtful, 2: synonym, 3: of several taxa, or misapplied
    path: taxonomy.Path
    taxon: str
    status: str


Find = Callable[[Query], Found]


def finder(database: sqlite3.Connection) -> Find:
    """A function that finds names among the usages of a database; names of one genus in a row are found faster."""
    of_first_word = lru_cache(_CACHED_GENERA)(lambda first: usages_of(database, first))
    higher = lru_cache(_CACHED_PATHS)(lambda identity: _higher(database, identity))
    genera = lru_cache(1)(lambda initial: genera_like(database, initial))

    def senses(usages: Iterable[Usage], rank: int) -> list[_Sense]:
        found = (_sense(database, higher, one) for one in usages)
        return [one for one in found if one and taxonomy.label_rank(one.path) == rank]

    def find(query: Query) -> Found:
        rank = taxonomy.label_rank(query.path)
        named = senses(_named(query, of_first_word), rank)
        if not named and rank == 5:  # a checklist may have species alone
            named = [one._replace(path=(*one.path[:6], None)) for one in senses(_species_of(query, of_first_word), 6)]
        if named:
            return _chosen(query, named)
        corrected = _corrected(query, senses(_like(query, of_first_word, genera, 1), rank))
        return corrected or _doubted(_placed(query, find), senses(_like(query, of_first_word, genera, 2), rank))

    return find


def find_all(find: Find, queries: Sequence[Query]) -> dict[Query, Found]:
    """Find many names; homonyms without any higher rank are told apart by the kingdom that all other names share."""
    found = {query: find(query) for query in sorted(set(queries), key=_order)}
    kingdoms = {one.path[0] for one in found.values() if one.how in ("accepted", "synonym", "misspelt")}
    if len(kingdoms) == 1 and (kingdom := kingdoms.pop()):
        for query, one in found.items():
            if one.how == "ambiguous" and not any(query.path[:5]):
                again = find(query._replace(path=(kingdom, *query.path[1:])))
                if again.how in ("accepted", "synonym"):
                    found[query] = again._replace(change=f"in {kingdom}, as all other names")
    return found


def like(name: str, names: Iterable[str], letters: int) -> list[str]:
    """The names that differ from ``name`` in so many letters or fewer; short names have none."""
    long_enough = len(name) >= _SHORTEST[letters]
    return [other for other in names if long_enough and OSA.distance(name, other, score_cutoff=letters) <= letters]


def unknown_genera(database: sqlite3.Connection, genera: Iterable[str]) -> set[str]:
    """Genera that those of ``genera`` which the taxonomy lacks may be misspellings of."""
    lacking: dict[str, list[str]] = {}
    for genus in sorted(genera):
        if genus and not usages_of(database, genus):
            lacking.setdefault(genus[0], []).append(genus)
    near: set[str] = set()
    for initial, names in lacking.items():
        known = genera_like(database, initial)
        near.update(hit for name in names for hit in like(name, known, 1))
    return near


def _order(query: Query) -> tuple[str, ...]:
    """Names of one genus lie side by side."""
    return tuple(name or "" for name in (query.path[5], *query.path, query.below))


# ------------------------------------------------------------------------------------------------------ names to usages

OfFirstWord = Callable[[str], list[Usage]]


def _parsed(usages: Iterable[Usage]) -> list[tuple[taxonomy.Name, Usage]]:
    return [(taxonomy.parse_name(one.name), one) for one in usages]


def _first(path: taxonomy.Path) -> str:
    """The first word of a taxon's name, by which usages are kept."""
    return (path[5] or taxonomy.scientific_name(path)).removeprefix(_SIGN).partition(" ")[0]


def _epithet(name: str | None) -> str:
    return (name or "").removeprefix(_SIGN)


def _named(query: Query, of_first_word: OfFirstWord) -> list[Usage]:
    """The usages of exactly that name; of a subspecies, if the taxonomy has it, and otherwise of its species."""
    rank = taxonomy.label_rank(query.path)
    usages, epithet = of_first_word(_first(query.path)), _epithet(query.path[6])
    if rank < 6:
        return [one for one in usages if one.rank == RANKS[rank]]
    # Taking names apart is slow, so only those are that may have the epithet.
    parsed = _parsed(one for one in usages if epithet in one.name or not one.name.isascii())
    same = [(name, one) for name, one in parsed if _epithet(name.epithet) == epithet]
    below = [one for name, one in same if query.below and name.below[-1:] == (query.below,)]
    species = [(name, one) for name, one in same if not name.below and one.rank in (*_BELOW, "")]
    # "Salix fragilis" and the hybrid of that name are two taxa, and a hybrid may be written without its sign.
    exact = [one for name, one in species if name.epithet == query.path[6]]
    return below or exact or [one for _, one in species]


def _species_of(query: Query, of_first_word: OfFirstWord) -> list[Usage]:
    """The accepted species of a genus."""
    return [one for name, one in _parsed(of_first_word(_first(query.path))) if name.epithet and not one.accepted]


def _like(query: Query, of_first_word: OfFirstWord, genera: Callable[[str], list[str]], letters: int) -> list[Usage]:
    """The usages that may be meant by a name that the taxonomy lacks: like it in the epithet, or in the genus.

    The epithet may differ in ``letters``, the genus in one.
    """
    rank, first = taxonomy.label_rank(query.path), _first(query.path)
    if rank < 5:
        return []
    of_genus = _parsed(of_first_word(first))
    if of_genus:
        epithets = {_epithet(name.epithet) for name, _ in of_genus if name.epithet}
        near = like(_epithet(query.path[6]), sorted(epithets), letters) if rank == 6 else []
        return [one for name, one in of_genus if _epithet(name.epithet) in near and not name.below]
    found: list[Usage] = []
    for genus in like(first, genera(first[0]), 1):
        found += _named(Query((*query.path[:5], genus, query.path[6])), of_first_word)
    return found


# ------------------------------------------------------------------------------------------------------- usages to taxa


def _sense(database: sqlite3.Connection, higher: Callable[[str], taxonomy.Path], one: Usage) -> _Sense | None:
    """The taxon of a usage, under its accepted name; None where the taxonomy does not lead to one."""
    accepted, seen = one, {one.id}
    while accepted.accepted:
        target = usage(database, accepted.accepted)
        if target is None or target.id in seen:
            return None
        seen.add(target.id)
        accepted = target
    if accepted is one and "synonym" in one.status:
        return None
    standing = 3 if one.status in _UNSURE else 2 if accepted is not one else 0 if one.status in _ACCEPTED else 1
    return _Sense(standing, _path(accepted, higher), accepted.id, one.status)


def _path(one: Usage, higher: Callable[[str], taxonomy.Path]) -> taxonomy.Path:
    """The path of an accepted usage; of a subspecies, that of its species."""
    above = higher(one.parent) if one.parent else taxonomy.make_path(dict(zip(RANKS, one.higher, strict=False)))
    name = taxonomy.parse_name(one.name)
    if one.rank in RANKS[:6]:
        rank = RANKS.index(one.rank)
        return (*above[:rank], name.genus, *_NOTHING[rank + 1 :])
    return (*above[:5], name.genus, name.epithet)


def _higher(database: sqlite3.Connection, identity: str) -> taxonomy.Path:
    """The ranks above a name, from its parent on upwards."""
    path, seen = list(_NOTHING), set()
    one = usage(database, identity)
    while one and one.id not in seen:
        seen.add(one.id)
        if one.rank in RANKS[:6]:
            path[RANKS.index(one.rank)] = taxonomy.parse_name(one.name).genus
        stated = taxonomy.make_path(dict(zip(RANKS, one.higher, strict=False)))
        path = [mine or other for mine, other in zip(path, stated, strict=True)]
        next_one = one.accepted or one.parent
        one = usage(database, next_one) if next_one else None
    return tuple(path)


# --------------------------------------------------------------------------------------------------------------- choice


def _chosen(query: Query, named: Sequence[_Sense]) -> Found:
    """The taxon that a name means; the candidates if there are several, or if it is another taxon's name."""
    agreeing = [sense for sense in named if _agree(sense.path, query.path)]
    best = min((sense.standing for sense in agreeing), default=3)
    left = [sense for sense in agreeing if sense.standing == best]
    if len({sense.path for sense in left}) > 1:
        left = _nearest(left, query.path)
    paths = {sense.path for sense in left}
    if len(paths) != 1 or best == 3:
        candidates = {full_name(sense.path) for sense in (left or named)}
        return Found("ambiguous", query.path, candidates=tuple(sorted(candidates)))
    sense = left[0]
    how: How = "synonym" if best == 2 and not _same_name(sense.path, query.path) else "accepted"
    return Found(how, sense.path, sense.taxon, _change(query, sense, how))


def _agree(path: taxonomy.Path, given: taxonomy.Path) -> bool:
    """Whether two taxa of one name are one: they share a rank above the genus, or nothing is known of one of them."""
    r = min(taxonomy.label_rank(given), 5)
    both = [(mine, other) for mine, other in zip(path[:r], given[:r], strict=True) if mine and other]
    return not both or any(mine == other for mine, other in both)


def _nearest(senses: Sequence[_Sense], given: taxonomy.Path) -> list[_Sense]:
    """Those that share the lowest of the given ranks that any shares; all if none does."""
    for rank in reversed(range(min(taxonomy.label_rank(given), 5))):
        sharing = [sense for sense in senses if given[rank] and sense.path[rank] == given[rank]]
        if sharing:
            return sharing
    return list(senses)


def _same_name(path: taxonomy.Path, other: taxonomy.Path) -> bool:
    return taxonomy.scientific_name(path) == taxonomy.scientific_name(other)


def _change(query: Query, sense: _Sense, how: How) -> str | None:
    if how == "synonym":
        return f"synonym of {taxonomy.scientific_name(sense.path)}"
    doubt = f"{sense.status} in the taxonomy" if sense.standing == 1 else None
    moved = "ranks from the taxonomy" if sense.path != query.path else None
    return "; ".join(filter(None, (moved, doubt))) or None


def _corrected(query: Query, near: Sequence[_Sense]) -> Found | None:
    """The only taxon that a name with a wrong letter may mean; None if there is none, or several."""
    meant = [sense for sense in near if sense.standing < 3 and _close(sense.path, query.path)]
    if len({sense.path for sense in meant}) != 1:
        return None
    return Found("misspelt", meant[0].path, meant[0].taxon, f"misspelt: {taxonomy.scientific_name(query.path)}")


def _close(path: taxonomy.Path, given: taxonomy.Path) -> bool:
    """Whether the lowest rank above the genus that both paths have is the same, or there is none."""
    both = [(mine, other) for mine, other in zip(path[:5], given[:5], strict=True) if mine and other]
    return not both or both[-1][0] == both[-1][1]


def _doubted(placed: Found, near: Sequence[_Sense]) -> Found:
    """The place of a name that the taxonomy lacks, with the taxa that it may be a misspelling of."""
    paths = {sense.path for sense in near if _close(sense.path, placed.path)}
    if not paths:
        return placed
    return placed._replace(how="ambiguous", candidates=tuple(sorted(map(full_name, paths))))


def _placed(query: Query, find: Find) -> Found:
    """A name that the taxonomy lacks, under the lowest of its ranks that the taxonomy has."""
    for rank in reversed(range(taxonomy.label_rank(query.path))):
        if not query.path[rank]:
            continue
        above = find(Query((*query.path[: rank + 1], *_NOTHING[rank + 1 :])))
        if above.how in ("accepted", "synonym"):
            kept = rank + 1 if above.how == "accepted" else rank  # a name stays in the genus that it is written with
            path = (*above.path[:kept], *query.path[kept:])
            return Found("unknown", path, change="ranks from the taxonomy" if path != query.path else None)
        if above.how == "ambiguous":
            break
    return Found("unknown", query.path)
