"""Resolve names to taxa, by synonyms, species lists and common names.

Nothing is guessed: a name that may mean two taxa keeps the ranks that are certain and is listed with its candidates.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rapidfuzz import fuzz, process
from rapidfuzz.utils import default_process

from bioclip_lite.sources import delimited
from bioclip_lite.taxa import taxonomy
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError

_NOTHING: taxonomy.Path = (None,) * len(RANKS)
_NAME_COLUMNS = {"name", "scientific_name", "scientificname", "taxon", "accepted_name", "taxon_name"}
_ALSO = {"specific_epithet": "species", "specificepithet": "species", "cls": "class", "vernacularname": "common_name"}
_NEAREST, _ALIKE = 3, 70  # candidates shown for a name that nothing matches, and how alike they must be, of 100


class Entry(NamedTuple):
    """One line of a species list."""

    text: str  # as it is written
    path: taxonomy.Path  # from its columns of ranks; all None where it has none
    name: str | None  # a scientific or a common name
    common_names: tuple[str, ...]
    languages: tuple[str | None, ...] = ()  # of the common names


class Label(NamedTuple):
    """The taxon of a photograph as the source names it."""

    path: taxonomy.Path
    verbatim: str | None
    common_name: str | None


class Meaning(NamedTuple):
    """The taxon of a label, what was changed to find it, and other taxa that the label may mean."""

    path: taxonomy.Path
    change: str | None
    candidates: tuple[str, ...]


class Match(NamedTuple):
    """What a line of a species list matches: nodes, or candidates, or else the nearest names."""

    entry: Entry
    nodes: tuple[taxonomy.Path, ...]
    candidates: tuple[str, ...]  # several taxa of that name
    nearest: tuple[str, ...]  # similar names, if nothing has that name


def common(name: str) -> str:
    """Normalize a common name: "Grey-headed Woodpecker" becomes "grey headed woodpecker"."""
    return " ".join(default_process(name).split())


def full_name(path: taxonomy.Path) -> str:
    """Name a taxon for a message: "Morus alba (Plantae, Moraceae)"."""
    name = taxonomy.scientific_name(path)
    above = [part for part in (path[0], path[4]) if part and part != name]
    return f"{name} ({', '.join(above)})" if above else name


# ----------------------------------------------------------------------------------------------------------- user files


def read_synonyms(file: Path) -> dict[str, tuple[str, ...]]:
    """Read a table with columns ``name`` and ``accepted``; chains of synonyms are followed.

    Returns:
        Accepted names by normalized name. A name with two accepted names is ambiguous and has both.

    Raises:
        UserError: no such file, no such columns, or synonyms that lead back to themselves.
    """
    header, rows = _table(file, {"name", "accepted"})
    if header is None:
        raise UserError(
            f"{file} (params.yaml, index.synonyms) has no line with the columns 'name' and 'accepted'; add it"
        )
    given: dict[str, set[str]] = defaultdict(set)
    written: dict[str, str] = {}
    for values in rows:
        row = dict(zip(header, values, strict=False))
        name, accepted = taxonomy.clean(row.get("name")), taxonomy.clean(row.get("accepted"))
        if name and accepted and _key(name) and _key(accepted):
            written[_key(accepted)] = accepted
            if _key(name) != _key(accepted):
                given[_key(name)].add(_key(accepted))
    return {name: tuple(sorted(written[end] for end in _ends(name, given, file))) for name in given}


def _ends(name: str, given: Mapping[str, set[str]], file: Path) -> set[str]:
    """The names at the ends of the chains of synonyms that begin at ``name``."""
    ends, todo, seen = set(), [name], {name}
    while todo:
        for accepted in given[todo.pop()]:
            if accepted == name:
                raise UserError(f"{file}: the synonyms of {name!r} lead back to it; take out one of them")
            if accepted not in given:
                ends.add(accepted)
            elif accepted not in seen:
                todo.append(accepted)
            seen.add(accepted)
    return ends


def read_species_list(file: Path, where: str = " (params.yaml, index.species_list)") -> list[Entry]:
    """Read the lines of a species list; ``where``, in messages, says who names the file.

    Plain text has one name per line, scientific in any spelling or common; lines that begin with # are left out. A
    table (CSV, TSV) has a header with columns of ranks, ``name`` or ``scientific_name``, ``common_name`` and
    ``common_name_<language>``; other columns are ignored.

    Raises:
        UserError: no such file, or nothing in it.
    """
    header, rows = _table(file, {*RANKS, *_NAME_COLUMNS, *_ALSO, "common_name"})
    entries = [_entry_of_line(values[0]) if header is None else _entry_of_row(header, values) for values in rows]
    named = [entry for entry in entries if entry is not None]
    if not named:
        raise UserError(f"{file}{where} lists no name; write one per line")
    return named


def _entry_of_line(line: str) -> Entry | None:
    name = taxonomy.clean(line)
    return Entry(name, _NOTHING, name, ()) if name and not name.startswith("#") else None


def _entry_of_row(header: Sequence[str], values: Sequence[str]) -> Entry | None:
    row = {column: taxonomy.clean(value) for column, value in zip(header, values, strict=False)}
    name = next((row[column] for column in sorted(_NAME_COLUMNS) if row.get(column)), None)
    ranks = {rank: row.get(rank) for rank in RANKS}
    common = {column: value for column, value in row.items() if value and column.startswith("common_name")}
    common_names, languages = tuple(common.values()), tuple(map(_language, common))
    text = name or " ".join(value for value in (*ranks.values(), *common_names) if value)
    if not text:
        return None
    if name and not any(ranks.values()):
        return Entry(text, _NOTHING, name, common_names, languages)
    path = taxonomy.make_path({**ranks, "species": ranks["species"] or _species(name)})
    return Entry(text, path, name if taxonomy.label_rank(path) < 0 else None, common_names, languages)


def _language(column: str) -> str | None:
    """The language of a column of common names; None where it does not say it. "common_name" is English."""
    if column == "common_name":
        return "en"
    return column.removeprefix("common_name_") if column.startswith("common_name_") else None


def _species(name: str | None) -> str | None:
    """The name if it has an epithet, for the column of species; None for a genus alone."""
    return name if name and taxonomy.parse_name(name).epithet else None


def _table(file: Path, wanted: Collection[str]) -> tuple[list[str] | None, Iterator[list[str]]]:
    """Columns and rows of a table with some of the columns ``wanted``; None and lines of any other text."""
    if not file.is_file():
        raise UserError(f"there is no file {file}; put it there, or set its parameter in params.yaml to null")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error}); save it again as UTF-8") from None
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = delimited.separator_of(first)
    header = [_column(name) for name in first.split(delimiter)]
    if not {_ALSO.get(name, name) for name in header} & {_ALSO.get(name, name) for name in wanted}:
        return None, ([line] for line in lines if line.strip())
    start = lines.index(first) + 1
    rows = [row for _, row in delimited.parse(lines[start:], str(file), delimiter, '"', start=start + 1)]
    return [_ALSO.get(name, name) for name in header], (row for row in rows if any(map(str.strip, row)))


def _column(name: str) -> str:
    return name.strip().strip('"').lower().replace(" ", "_")


def _key(text: str) -> str:
    """Normalize a scientific name: "Corvus corone subsp. cornix L." becomes "corvus corone cornix"."""
    name = taxonomy.parse_name(text)
    return " ".join((name.genus or "", name.epithet or "", *name.below)).strip().lower()


# -------------------------------------------------------------------------------------------------------------- look-up


@dataclass
class Index:
    """Taxa by normalized scientific name, by name of a node above the species, and by common name."""

    species: dict[str, set[taxonomy.Path]] = field(default_factory=lambda: defaultdict(set))
    nodes: dict[str, set[taxonomy.Path]] = field(default_factory=lambda: defaultdict(set))
    common: dict[str, set[taxonomy.Path]] = field(default_factory=lambda: defaultdict(set))
    written: dict[str, str] = field(default_factory=dict)  # common names as they are written

    def add(self, path: taxonomy.Path, common_names: Iterable[str] = ()) -> None:
        r = taxonomy.label_rank(path)
        for rank in range(min(r, 5) + 1):
            if name := path[rank]:
                self.nodes[name.lower()].add(_padded(path, rank))
        if path[6]:
            self.species[taxonomy.scientific_name(path).lower()].add(path)
        for name in common_names:
            if r >= 0 and (folded := common(name)):
                self.common[folded].add(path)
                self.written.setdefault(folded, name)


def _padded(path: taxonomy.Path, rank: int) -> taxonomy.Path:
    return (*path[: rank + 1], *_NOTHING[rank + 1 :])


def one_taxon(paths: Collection[taxonomy.Path]) -> list[taxonomy.Path]:
    """The paths, sorted, if all are one taxon with more or fewer of its ranks given; otherwise an empty list.

    Taxa below one of the others count as that one.
    """
    tops = [p for p in paths if not any(taxonomy.is_ancestor(other, p) for other in paths)]
    ranks = {taxonomy.label_rank(p) for p in tops}
    names = {taxonomy.scientific_name(p) for p in tops}
    # Comparing all pairs would be slow and is not needed: a homonym differs from the first or from a path like it.
    agree = not any(taxonomy.conflict(a, b) for a in tops[:50] for b in tops)
    return sorted(tops, key=_order) if len(ranks) == len(names) == 1 and agree else []


def _order(path: taxonomy.Path) -> tuple[str, ...]:
    return tuple(name or "" for name in path)


def _compatible(path: taxonomy.Path, given: taxonomy.Path) -> bool:
    """Whether no rank that both paths have contradicts the other; False for homonyms."""
    return not taxonomy.conflict(path, given)


class Resolver:
    """Resolves labels of a source with the user's synonyms and species list.

    Synonyms are applied to full names. A label without a rank takes the path of the entry with its common name. Ranks
    that a label leaves open are filled in from the list if the name is there once.
    """

    def __init__(self, synonyms: dict[str, tuple[str, ...]], entries: Sequence[Entry]) -> None:
        self.synonyms = synonyms
        self.listed = Index()
        for entry in entries:
            self.listed.add(_entry_path(entry), entry.common_names)

    def meaning(self, label: Label, known: Index) -> Meaning:
        """The taxon of a label; ``known``: the taxa of the source, among which homonyms are looked up."""
        if taxonomy.label_rank(label.path) < 0:
            return self._from_common_name(label)
        path, change, candidates = self._accepted(label)
        if not candidates:
            path, filled = self._completed(path)
            change = "; ".join(filter(None, (change, filled))) or None
            candidates = _homonyms(path, known)
        return Meaning(path, change, candidates)

    def _from_common_name(self, label: Label) -> Meaning:
        if not label.common_name:
            return Meaning(_NOTHING, None, ())
        wanted = self.listed.common.get(common(label.common_name), set())
        wanted = wanted or self.listed.species.get(_key(label.common_name), set())
        found = one_taxon(wanted)
        if found:
            return Meaning(_fullest(found), "from the common name", ())
        return Meaning(_NOTHING, None, tuple(sorted(map(full_name, wanted))))

    def _accepted(self, label: Label) -> tuple[taxonomy.Path, str | None, tuple[str, ...]]:
        """The path under its accepted name, the change, and candidates if there are several accepted names.

        A synonym may name a subspecies, which a path does not have.
        """
        change = _change(label)
        if not self.synonyms:
            return label.path, change, ()
        binomial = taxonomy.scientific_name(label.path).lower()
        written = _key(label.verbatim or "")
        accepted = self.synonyms.get(written if written.startswith(binomial) else binomial)
        accepted = accepted or self.synonyms.get(binomial)
        if accepted is None:
            return label.path, change, ()
        if len(accepted) > 1:
            return label.path, change, accepted
        name = taxonomy.parse_name(accepted[0])
        listed = one_taxon(self.listed.species.get(_key(accepted[0]), set()))
        if listed and taxonomy.label_rank(label.path) == 6 and any(listed[0][:5]):
            path = _fullest(listed)
        else:  # a synonym stays in its family, if the label has one
            path = (*label.path[:5], name.genus, name.epithet)
        return path, f"synonym of {taxonomy.scientific_name(path)}", ()

    def _completed(self, path: taxonomy.Path) -> tuple[taxonomy.Path, str | None]:
        rank = taxonomy.label_rank(path)
        if rank < 5 or None not in path[:rank]:
            return path, None
        name = taxonomy.scientific_name(path).lower()
        listed = self.listed.species[name] if rank == 6 and name in self.listed.species else set()
        if rank == 5 and name in self.listed.nodes:
            listed = {p for p in self.listed.nodes[name] if p[5]}
        found = one_taxon([p for p in listed if _compatible(p, path)])
        if not found:
            return path, None
        full = _fullest(found)
        filled = tuple(mine or theirs for mine, theirs in zip(path[: rank + 1], full, strict=False))
        return _padded((*filled, *_NOTHING[rank + 1 :]), rank), "ranks from the list" if filled != path[
            : rank + 1
        ] else None


def _fullest(paths: Sequence[taxonomy.Path]) -> taxonomy.Path:
    return max(sorted(paths, key=_order), key=lambda p: sum(name is not None for name in p))


def _entry_path(entry: Entry) -> taxonomy.Path:
    if taxonomy.label_rank(entry.path) >= 0 or entry.name is None:
        return entry.path
    name = taxonomy.parse_name(entry.name)
    return (*_NOTHING[:5], name.genus, name.epithet) if name.epithet and name.genus else _NOTHING


def _change(label: Label) -> str | None:
    if label.verbatim is None or label.verbatim == taxonomy.scientific_name(label.path):
        return None
    return "; ".join(dict.fromkeys(taxonomy.parse_name(label.verbatim).notes)) or "spelling"


def _homonyms(path: taxonomy.Path, known: Index) -> tuple[str, ...]:
    """Homonyms of a path without higher ranks: "Morus" is a bird and a tree."""
    rank = taxonomy.label_rank(path)
    if any(path[:4]) or rank < 4:
        return ()
    name = taxonomy.scientific_name(path).lower()
    same = known.species.get(name, set()) if rank == 6 else known.nodes.get(name, set())
    same = {other for other in same if any(other[:4])}
    if len(same) < 2 or one_taxon(same):
        return ()
    return tuple(sorted(map(full_name, same)))


# -------------------------------------------------------------------------------------------------------- species lists


def match(entries: Sequence[Entry], known: Index, synonyms: dict[str, tuple[str, ...]]) -> list[Match]:
    """Match each line of a species list against the taxa of a source."""
    found = [_match(entry, known, synonyms) for entry in entries]
    unmatched = [f.entry for f in found if not f.nodes and not f.candidates]
    near = nearest([entry.name or taxonomy.scientific_name(entry.path) or entry.text for entry in unmatched], known)
    suggestions = dict(zip(unmatched, near, strict=True))
    return [f._replace(nearest=suggestions.get(f.entry, ())) for f in found]


def _match(entry: Entry, known: Index, synonyms: dict[str, tuple[str, ...]]) -> Match:
    rank = taxonomy.label_rank(entry.path)
    wanted: set[taxonomy.Path] = set()
    if rank >= 0:
        text = taxonomy.scientific_name(entry.path)
        wanted = {p for p in _named(text, known, synonyms) if _compatible(p, entry.path) and _at(p, rank)}
    elif entry.name:
        wanted = _named(entry.name, known, synonyms) or known.common.get(common(entry.name), set())
    for name in entry.common_names:
        wanted = wanted or known.common.get(common(name), set())
    nodes = one_taxon(wanted)
    candidates = () if nodes else tuple(sorted(map(full_name, wanted)))
    return Match(entry, tuple(nodes), candidates, ())


def _at(path: taxonomy.Path, rank: int) -> bool:
    return taxonomy.label_rank(path) == rank


def _named(text: str, known: Index, synonyms: dict[str, tuple[str, ...]]) -> set[taxonomy.Path]:
    """Taxa with a scientific name, under the name given or an accepted one."""
    names = [_key(text)]
    names += [_key(name) for name in synonyms.get(names[0], ())]
    name = taxonomy.parse_name(text)
    if name.below:  # a listed subspecies matches its species, the lowest rank of labels
        names.append(f"{name.genus} {name.epithet}".lower())
    wanted: set[taxonomy.Path] = set()
    for key in names:
        wanted = wanted or known.species.get(key, set()) or known.nodes.get(key, set())
    return wanted


def nearest(names: Sequence[str], known: Index) -> list[tuple[str, ...]]:
    """For each name, the most similar scientific and common names."""
    if not names:
        return []
    scientific = {default_process(name): name for name in sorted((*known.species, *known.nodes))}
    choices = sorted({*scientific, *known.common})
    found = []
    for name in names:
        hits = process.extract(
            default_process(name), choices, scorer=fuzz.ratio, limit=_NEAREST, score_cutoff=_ALIKE, processor=None
        )
        shown = [known.written.get(hit) or scientific[hit].capitalize() for hit, _, _ in hits]
        found.append(tuple(dict.fromkeys(shown)))
    return found


def is_listed(path: taxonomy.Path, nodes: Collection[taxonomy.Path]) -> bool:
    """Whether a taxon, or one above it, is among the nodes of a list."""
    return any(path[rank] and _padded(path, rank) in nodes for rank in range(len(RANKS)))
