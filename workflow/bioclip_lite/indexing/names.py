"""Resolve names to taxa, by synonyms, species lists and common names.

Nothing is guessed: a name that may mean two taxa keeps the ranks that are certain and is listed with its candidates.
"""

import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rapidfuzz import fuzz, process
from rapidfuzz.utils import default_process

from bioclip_lite.indexing import list_columns
from bioclip_lite.sources import delimited
from bioclip_lite.taxa import taxonomy
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError

_NOTHING: taxonomy.Path = (None,) * len(RANKS)
_NEAREST, _SIMILAR = 3, 70  # candidates shown for a name that nothing matches, and how alike they must be, of 100
ALIKE = 90  # of 100: so alike are a name and its misspelling


class Entry(NamedTuple):
    """One line of a species list."""

    text: str  # as it is written
    path: taxonomy.Path  # from its columns of ranks; all None where it has none
    name: str | None  # a scientific or a common name, if ``path`` does not end in it; ``path`` may then be above it
    common_names: tuple[str, ...]  # in all languages
    languages: tuple[tuple[str, str], ...] = ()  # the first common name of each language; "" where none is stated
    scientific: bool = False  # whether ``name`` is scientific by its column; otherwise it may be a common name
    synonyms: tuple[str, ...] = ()  # scientific names
    finest_rank: str | None = None  # one of RANKS
    note: str | None = None
    line: int = 0  # where it stands in the list, from 1
    change: str | None = None  # by a taxonomy


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
    """What a line of a species list matches: nodes, or candidates, or a taxon that it adds, or the nearest names."""

    entry: Entry
    nodes: tuple[taxonomy.Path, ...]
    candidates: tuple[str, ...]  # several taxa of that name
    nearest: tuple[str, ...]  # similar names, if nothing has that name
    added: taxonomy.Path | None = None  # a taxon that nothing in the source has
    change: str | None = None  # what was done to find ``added``
    resembles: tuple[str, ...] = ()  # taxa of the source that the list lacks and ``added`` may be a misspelling of


def common(name: str) -> str:
    """Normalize a common name: "Grey-headed Woodpecker" becomes "grey headed woodpecker"."""
    return " ".join(default_process(name).split())


def full_name(path: taxonomy.Path) -> str:
    """Name a taxon for a message: "Morus alba (Plantae, Moraceae)"."""
    name = taxonomy.scientific_name(path)
    above = [part for part in (path[0], path[4]) if part and part != name]
    return f"{name} ({', '.join(above)})" if above else name


# ----------------------------------------------------------------------------------------------------------- user files


def read_synonyms(file: Path | None, entries: Sequence[Entry] = ()) -> dict[str, tuple[str, ...]]:
    """Read a table with columns ``name`` and ``accepted``, and the synonyms of a species list; chains are followed.

    Returns:
        Accepted names by normalized name. A name with two accepted names is ambiguous and has both.

    Raises:
        UserError: no such file, no such columns, synonyms that lead back to themselves, or a synonym that is listed
            as a taxon of its own.
    """
    given: dict[str, set[str]] = defaultdict(set)
    written: dict[str, str] = {}
    for name, accepted in (*(_pairs(file) if file else ()), *_listed_pairs(entries)):
        if key_of(name) and key_of(accepted):
            written[key_of(accepted)] = accepted
            if key_of(name) != key_of(accepted):
                given[key_of(name)].add(key_of(accepted))
    place = " and ".join(filter(None, (str(file) if file else "", "the species list" if entries else "")))
    return {name: tuple(sorted(written[end] for end in _ends(name, given, place))) for name in given}


def _pairs(file: Path) -> Iterator[tuple[str, str]]:
    """Name and accepted name of each row of a table of synonyms."""
    start, lines = _lines(file)
    columns = [column.strip().lower() for column in delimited.header_in(lines)] if lines else []
    if not {"name", "accepted"} <= {*columns}:
        raise UserError(
            f"{file} (params.yaml, index.synonyms) has no line with the columns 'name' and 'accepted'; add it"
        )
    places = columns.index("name"), columns.index("accepted")
    for _, values in _rows(file, start, lines, len(columns)):
        name, accepted = (taxonomy.clean(values[place]) for place in places)
        if name and accepted:
            yield name, accepted


def _listed_pairs(entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """Synonym and listed name, of the lines of a species list that have both."""
    named = [(entry, entry.name or taxonomy.scientific_name(entry.path)) for entry in entries]
    lines = {key_of(name): entry.line for entry, name in named}
    for entry, name in named:
        for synonym in entry.synonyms if key_of(name) else ():
            if key_of(synonym) != key_of(name) and key_of(synonym) in lines:
                raise UserError(
                    f"the species list has {synonym!r} in line {lines[key_of(synonym)]}, and as a synonym of {name!r} "
                    f"in line {entry.line}; take out one of them"
                )
            yield synonym, name


def _ends(name: str, given: Mapping[str, set[str]], place: str) -> set[str]:
    """The names at the ends of the chains of synonyms that begin at ``name``."""
    ends, todo, seen = set(), [name], {name}
    while todo:
        for accepted in given[todo.pop()]:
            if accepted == name:
                raise UserError(f"{place}: the synonyms of {name!r} lead back to it; take out one of them")
            if accepted not in given:
                ends.add(accepted)
            elif accepted not in seen:
                todo.append(accepted)
            seen.add(accepted)
    return ends


def read_species_list(file: Path, where: str = " (params.yaml, index.species_list)") -> list[Entry]:
    """Read the lines of a species list; ``where``, in messages, says who names the file.

    Plain text has one name per line, scientific in any spelling or common. A table (CSV, TSV) has a header with columns
    that ``list_columns`` interprets; other columns are named in the log. Lines that begin with # are left out.

    Raises:
        UserError: no such file, no Unicode text, or nothing in it; a column is there twice; a line has more values
            than columns, several names, or a finest_rank that is no rank.
    """
    start, lines = _lines(file)
    header = delimited.header_in(lines) if lines else []
    columns = list_columns.understand(header)
    if list_columns.names_taxa(columns):
        _check_columns(file, columns)
        rows = _rows(file, start, lines, len(header))
        entries = [_entry_of_row(file, line, columns, values) for line, values in rows]
    else:
        entries = [_entry_of_line(file, line, text) for line, text in enumerate(lines, start)]
    named = [entry for entry in entries if entry is not None]
    if not named:
        raise UserError(f"{file}{where} lists no name; write one per line")
    return named


def _lines(file: Path) -> tuple[int, list[str]]:
    """The number of the first line that is neither blank nor a comment, and the lines from there on."""
    if not file.is_file():
        raise UserError(f"there is no file {file}; put it there, or set its parameter in params.yaml to null")
    lines = io.StringIO(delimited.whole_text(file), newline="").readlines()
    start = next((n for n, line in enumerate(lines) if line.strip() and line.lstrip()[0] != "#"), len(lines))
    return start + 1, lines[start:]


def _rows(file: Path, start: int, lines: Sequence[str], width: int) -> Iterator[tuple[int, list[str]]]:
    """Number and ``width`` values of each row below the header; cells that are left out at its end are empty."""
    rows = delimited.rows_in(io.StringIO("".join(lines), newline=""), str(file), start)
    for line, values in islice(rows, 1, None):
        if values[0].lstrip().startswith("#"):
            continue
        if any(map(str.strip, values[width:])):
            raise UserError(
                f"{file}, line {line}: {len(values)} values where the header has {width} columns; quote text that "
                f"contains separators"
            )
        yield line, (values + [""] * width)[:width]


def _check_columns(file: Path, columns: list_columns.Columns) -> None:
    if columns.twice:
        raise UserError(f"{file} has two columns that mean the same, the second is {columns.twice!r}; remove one")
    if columns.unread:
        print(
            f"index: {file.name}: not read: {', '.join(map(repr, columns.unread))}; docs/sources.md lists the columns"
        )


_OF_AN_AUTHOR = re.compile(r"\d{4}|&|\bex\b|\.$|^f\.")  # what follows the comma in "Rehder & Wilson, 1913"


def _entry_of_line(file: Path, line: int, written: str) -> Entry | None:
    name = taxonomy.clean(written)
    if not name or name.startswith("#"):
        return None
    outside = re.sub(r"\([^)]*\)", "", written.strip())
    values = re.split("[;\t]", outside)
    by_comma = outside.split(",")
    if len(by_comma) > 1 and not any(_OF_AN_AUTHOR.search(part.strip()) for part in by_comma[1:]):
        values = by_comma
    if len(values) > 1:
        raise UserError(
            f"{file}, line {line}: {name!r} has several values, and no line above names their columns. Write one name "
            f"per line, or begin with a line of columns, such as scientific_name,common_name"
        )
    return Entry(name, _NOTHING, name, (), line=line)


def _entry_of_row(file: Path, line: int, columns: list_columns.Columns, values: Sequence[str]) -> Entry | None:
    row = {field: taxonomy.clean(values[place]) for field, place in columns.fields.items()}
    called = {language: _several(values[place]) for language, place in columns.languages.items()}
    common_names = tuple(dict.fromkeys(name for names in called.values() for name in names))
    if not called.get(list_columns.ENGLISH):
        called[list_columns.ENGLISH] = called.pop("en", [])
    written = row.get("scientific_name") or row.get("name")
    text = written or " ".join(value for value in (*map(row.get, RANKS), *common_names) if value)
    if not text:
        return None
    path, name = _path_and_name(row, written)
    return Entry(
        text=text,
        path=path,
        name=name,
        common_names=common_names,
        languages=tuple((language, names[0]) for language, names in sorted(called.items()) if names),
        # Beside a column of ranks or of common names, "name" holds scientific ones.
        scientific=bool(columns.languages or columns.fields.keys() & {*RANKS, "rank", "scientific_name"}),
        synonyms=tuple(_several(row.get("synonyms"))),
        finest_rank=_finest_rank(file, line, row.get("finest_rank")),
        note=row.get("note"),
        line=line,
    )


_BETWEEN_RANKS = re.compile("(inae|ini|oidea|oideae|idae|aceae|ales)$")  # of names beside a family that are no genus


def _path_and_name(row: Mapping[str, str | None], name: str | None) -> tuple[taxonomy.Path, str | None]:
    """The path of a row; if it does not end in the row's name, whose rank is not certain, the name as well."""
    ranks = {rank: row.get(rank) for rank in RANKS}
    given, stated = taxonomy.make_path(ranks), (row.get("rank") or "").lower()
    if name is None or taxonomy.label_rank(given) == 6 or key_of(name) == taxonomy.scientific_name(given).lower():
        return given, None if taxonomy.label_rank(given) >= 0 else name
    parsed = taxonomy.parse_name(name)
    if any(given) and parsed.epithet and (parsed.genus or given[5]):
        return taxonomy.make_path({**ranks, "species": name}), None
    if given[4] and not given[5] and not stated and not _BETWEEN_RANKS.search(name.lower()):
        stated = "genus"
    if stated in RANKS[:6] and ranks[stated] is None:
        return taxonomy.make_path({**ranks, stated: name}), None
    return given, name if given[5] is None else None


def _several(cell: str | None) -> list[str]:
    """The names in a cell, which ; or | separates."""
    return [name for part in re.split("[;|]", cell or "") if (name := taxonomy.clean(part))]


def _finest_rank(file: Path, line: int, written: str | None) -> str | None:
    if written is None or written.lower() in RANKS:
        return written and written.lower()
    raise UserError(f"{file}, line {line}: finest_rank {written!r} is no rank; write one of {', '.join(RANKS)}")


def key_of(text: str) -> str:
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
                self.nodes[name.lower()].add(padded(path, rank))
        if path[6]:
            self.species[taxonomy.scientific_name(path).lower()].add(path)
        for name in common_names:
            if r >= 0 and (folded := common(name)):
                self.common[folded].add(path)
                self.written.setdefault(folded, name)


def padded(path: taxonomy.Path, rank: int) -> taxonomy.Path:
    """The node above ``path`` at a rank, or the path itself at its own."""
    return (*path[: rank + 1], *_NOTHING[rank + 1 :])


def one_taxon(paths: Collection[taxonomy.Path]) -> list[taxonomy.Path]:
    """The paths, sorted, if all are one taxon with more or fewer of its ranks given; otherwise an empty list.

    Taxa below one of the others count as that one.
    """
    nodes = {p[: taxonomy.label_rank(p) + 1] for p in paths}
    tops = [p for p in paths if not any(p[:length] in nodes for length in range(taxonomy.label_rank(p) + 1))]
    ranks = {taxonomy.label_rank(p) for p in tops}
    names = {taxonomy.scientific_name(p) for p in tops}
    # Comparing all pairs would be slow and is not needed: a homonym differs from the first or from a path like it.
    agree = not any(taxonomy.conflict(a, b) for a in tops[:50] for b in tops)
    return sorted(tops, key=order) if len(ranks) == len(names) == 1 and agree else []


def order(path: taxonomy.Path) -> tuple[str, ...]:
    """A key that sorts paths in the order of the tree."""
    return tuple(name or "" for name in path)


class Resolver:
    """Resolves labels of a source with the user's synonyms and species list.

    Synonyms are applied to full names. A label without a rank takes the path of the entry with its common name. Ranks
    that a label leaves open are filled in from the list if the name is there once, or else from ``relatives``.
    """

    def __init__(self, synonyms: dict[str, tuple[str, ...]], entries: Sequence[Entry], relatives: bool = True) -> None:
        self.synonyms = synonyms
        self.relatives = relatives
        self.listed = Index()
        for entry in entries:
            self.listed.add(entry_path(entry), entry.common_names)

    def meaning(self, label: Label, known: Index) -> Meaning:
        """The taxon of a label; ``known``: the taxa of the source, among which homonyms are looked up."""
        if taxonomy.label_rank(label.path) < 0:
            return self._from_common_name(label, known)
        path, change, candidates = self._accepted(label)
        if not candidates:
            path, filled = self._completed(path)
            change = "; ".join(filter(None, (change, filled))) or None
            candidates = _homonyms(path, known)
        return Meaning(path, change, candidates)

    def _from_common_name(self, label: Label, known: Index) -> Meaning:
        if not label.common_name:
            return Meaning(_NOTHING, None, ())
        wanted = self.listed.common.get(common(label.common_name), set())
        wanted = wanted or self.listed.species.get(key_of(label.common_name), set())
        found = one_taxon(wanted)
        if found:
            path = fullest(found)
            return Meaning(filled(path, ranks_above(path, known)), "from the common name", ())
        return Meaning(_NOTHING, None, tuple(sorted(map(full_name, wanted))))

    def _accepted(self, label: Label) -> tuple[taxonomy.Path, str | None, tuple[str, ...]]:
        """The path under its accepted name, the change, and candidates if there are several accepted names.

        A synonym may name a subspecies, which a path does not have.
        """
        change = _change(label)
        if not self.synonyms:
            return label.path, change, ()
        binomial = taxonomy.scientific_name(label.path).lower()
        written = key_of(label.verbatim or "")
        accepted = self.synonyms.get(written if written.startswith(binomial) else binomial)
        accepted = accepted or self.synonyms.get(binomial)
        if accepted is None:
            return label.path, change, ()
        if len(accepted) > 1:
            return label.path, change, accepted
        name = taxonomy.parse_name(accepted[0])
        listed = one_taxon(self.listed.species.get(key_of(accepted[0]), set()))
        if listed and taxonomy.label_rank(label.path) == 6 and any(listed[0][:5]):
            path = fullest(listed)
        else:  # a synonym stays in its family, if the label has one
            path = (*label.path[:5], name.genus, name.epithet)
        return path, f"synonym of {taxonomy.scientific_name(path)}", ()

    def _completed(self, path: taxonomy.Path) -> tuple[taxonomy.Path, str | None]:
        rank = taxonomy.label_rank(path)
        if rank < 5 or None not in path[:rank]:
            return path, None
        listed = self.listed.species.get(taxonomy.scientific_name(path).lower(), set()) if rank == 6 else set()
        found = one_taxon([p for p in listed if any(p[:5]) and not taxonomy.conflict(p, path)])
        if not found and not self.relatives:
            return path, None
        full = filled(path, fullest(found)[:5] if found else ranks_above(path, self.listed))
        return full, "ranks from the list" if full != path else None


def filled(path: taxonomy.Path, above: taxonomy.Path) -> taxonomy.Path:
    """The path with the ranks that it leaves open above the genus taken from ``above``, five names."""
    return (*(mine or theirs for mine, theirs in zip(path[:5], above, strict=True)), *path[5:])


def ranks_above(path: taxonomy.Path, known: Index) -> taxonomy.Path:
    """The five ranks above the genus as ``known`` has them above the lowest name of ``path`` that is certain there.

    A name that may mean two taxa is not certain, unless a rank of ``path`` settles it. Ranks may be None.
    """
    for rank in range(min(taxonomy.label_rank(path), 5), -1, -1):
        nodes = known.nodes.get((path[rank] or "").lower(), set())
        found = one_taxon([p for p in nodes if p[rank] and any(p[:rank]) and not taxonomy.conflict(p, path)])
        if found:
            return (*fullest(found)[:rank], *path[rank:5]) if rank < 5 else fullest(found)[:5]
    return path[:5]


def fullest(paths: Sequence[taxonomy.Path]) -> taxonomy.Path:
    """The path with most names, of several for one taxon."""
    return max(sorted(paths, key=order), key=lambda p: sum(name is not None for name in p))


def entry_path(entry: Entry) -> taxonomy.Path:
    """The path that a line states by its ranks, or by a name of two words; nothing for any other name."""
    if entry.name is None:
        return entry.path
    name = taxonomy.parse_name(entry.name)
    return (*entry.path[:5], name.genus, name.epithet) if name.epithet and name.genus else _NOTHING


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
    return [_match(entry, known, synonyms) for entry in entries]


def suggest(matches: Sequence[Match], known: Index) -> list[Match]:
    """Give each line that matches and adds nothing the names of the source that are most like it."""
    lost = [match.entry for match in matches if not (match.nodes or match.candidates or match.added)]
    near = nearest([entry.name or taxonomy.scientific_name(entry.path) or entry.text for entry in lost], known)
    suggestions = dict(zip(lost, near, strict=True))
    return [match._replace(nearest=suggestions.get(match.entry, ())) for match in matches]


def _match(entry: Entry, known: Index, synonyms: dict[str, tuple[str, ...]]) -> Match:
    rank = taxonomy.label_rank(entry.path)
    text = entry.name or taxonomy.scientific_name(entry.path)
    wanted = {p for p in named(text, known, synonyms) if not taxonomy.conflict(p, entry.path)} if text else set()
    if entry.name:
        wanted = wanted or known.common.get(common(entry.name), set())
    else:
        wanted = {p for p in wanted if _at(p, rank)}
    family = {p for p in wanted if p[4] and p[4] == entry.path[4]}
    wanted = family if not one_taxon(wanted) and family else wanted  # a family tells homonyms apart, too
    for name in entry.synonyms:  # labels that have them were renamed, unless the line has a common name only
        wanted = wanted or named(name, known, synonyms)
    if not wanted:
        wanted = _called(entry, known)
    nodes = one_taxon(wanted)
    candidates = () if nodes else tuple(sorted(map(full_name, wanted)))
    return Match(entry, tuple(nodes), candidates, ())


def _called(entry: Entry, known: Index) -> set[taxonomy.Path]:
    """Taxa with the first common name of a line that any has.

    Species share common names, so a scientific name beside it must be a misspelt or an outdated one of the same taxon.
    """
    called = next((taxa for name in entry.common_names if (taxa := known.common.get(common(name)))), set())
    text = entry.name or taxonomy.scientific_name(entry.path)
    if not text:
        return called
    return {p for p in called if not taxonomy.conflict(p, entry.path) and _renamed(text, taxonomy.scientific_name(p))}


_GENDER = re.compile("(us|um|a|is|e|er|ra|rum|i|ii)$")  # in which an epithet agrees with its genus


def _renamed(one: str, other: str) -> bool:
    """Whether two names are alike, or have one epithet in two genera: "Sula bassana" and "Morus bassanus"."""
    names = taxonomy.parse_name(one), taxonomy.parse_name(other)
    stems = {_GENDER.sub("", name.epithet or "") for name in names}
    return (len(stems) == 1 and stems != {""}) or fuzz.ratio(key_of(one), key_of(other)) >= ALIKE


def _at(path: taxonomy.Path, rank: int) -> bool:
    return taxonomy.label_rank(path) == rank


def named(text: str, known: Index, synonyms: dict[str, tuple[str, ...]]) -> set[taxonomy.Path]:
    """Taxa with a scientific name, under the name given or an accepted one."""
    names = [key_of(text)]
    names += [key_of(name) for name in synonyms.get(names[0], ())]
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
            default_process(name), choices, scorer=fuzz.ratio, limit=_NEAREST, score_cutoff=_SIMILAR, processor=None
        )
        shown = [known.written.get(hit) or scientific[hit].capitalize() for hit, _, _ in hits]
        found.append(tuple(dict.fromkeys(shown)))
    return found


def is_listed(path: taxonomy.Path, nodes: Collection[taxonomy.Path]) -> bool:
    """Whether a taxon, or one above it, is among the nodes of a list."""
    return any(path[rank] and padded(path, rank) in nodes for rank in range(len(RANKS)))
