"""Place the taxa of a species list in the tree of a model, for a new list that the model is to tell apart.

A line that names a taxon of the model means it and all below it. Any other line must be a scientific name; it takes the
ranks that it does not give from its relatives in the model. Nothing is guessed: a line that may mean two taxa, or is
only a common name that the model does not know, is left out and told.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rapidfuzz import fuzz, process

from bioclip_lite.indexing import names
from bioclip_lite.taxa import taxonomy
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError

Names = Mapping[str, str]  # common names of a taxon by language
_GENUS = RANKS.index("genus")
_SPECIES = RANKS.index("species")
_VERY_LIKE = 92  # of 100: two names of which one may be a misspelling of the other
_TOLD = 10  # lines or taxa of a kind, in a message


@dataclass
class Placed:
    """The taxa of a list, and what the lines had that is worth telling."""

    entries: dict[taxonomy.Path, names.Entry] = field(default_factory=dict)  # by taxon, the first line that names it
    leaves: list[taxonomy.Path] = field(default_factory=list)  # to tell apart, in tree order
    unplaced: list[names.Match] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)  # lines that name a taxon of an earlier line
    nearly: dict[str, str] = field(default_factory=dict)  # new names -> names of the model that they are very like
    without_relatives: list[str] = field(default_factory=list)  # names whose higher ranks nobody gives


def read(file: Path, known: Mapping[taxonomy.Path, Names]) -> Placed:
    """Find or place the taxa of a species list.

    Raises:
        UserError: the list is missing or empty, or names fewer than two taxa that can be told apart.
    """
    if not file.is_file():
        raise UserError(f"there is no species list {file}")
    placed = place(names.read_species_list(file, where=""), known)
    if len(placed.leaves) < 2:
        lost = f" No taxon was found for {_lines(placed.unplaced)}" if placed.unplaced else ""
        raise UserError(
            f"{file} names fewer than two taxa that a model could tell apart: give scientific names, or columns of "
            f"ranks.{lost}"
        )
    return placed


def place(entries: Sequence[names.Entry], known: Mapping[taxonomy.Path, Names]) -> Placed:
    """Find the taxon of each line among the leaves of a model, ``known``, or place it beside them."""
    index, below = names.Index(), _below(known)
    for path, common_names in known.items():
        index.add(path, common_names.values())
    written = [_written(entry, index) for entry in entries]
    placed, found = Placed(), set[taxonomy.Path]()
    for entry, spelled, match in zip(entries, written, _matches(entries, written, index), strict=True):
        nodes = match.nodes
        if not nodes and not match.candidates:
            nodes, candidates = _beside(spelled, index)
            match = match._replace(candidates=candidates)
        if not nodes:
            placed.unplaced.append(match)
        elif set(nodes) <= placed.entries.keys():
            placed.repeated.append(entry.text)
        for node in nodes:
            placed.entries.setdefault(node, entry)
        found.update(leaf for node in nodes for leaf in below.get(node, [node]))
    placed.unplaced = names.suggest(placed.unplaced, index)
    placed.leaves = taxonomy.label_space(found)
    placed.nearly = _nearly([path for path in placed.leaves if path[_SPECIES] and path not in known], index)
    placed.without_relatives = [taxonomy.scientific_name(path) for path in placed.leaves if not any(path[:_GENUS])]
    return placed


def _matches(
    entries: Sequence[names.Entry], written: Sequence[taxonomy.Path | None], index: names.Index
) -> list[names.Match]:
    """The match of each line in the model.

    A scientific name is not to match another taxon that has the same common name, and one that the model lacks need
    not be compared with all names.
    """
    asked = [entry._replace(common_names=()) if path else entry for entry, path in zip(entries, written, strict=True)]
    new = [path is not None and _is_new(entry, path, index) for entry, path in zip(entries, written, strict=True)]
    found = iter(names.match([entry for entry, is_new in zip(asked, new, strict=True) if not is_new], index, {}))
    return [names.Match(entry, (), (), ()) if is_new else next(found) for entry, is_new in zip(asked, new, strict=True)]


def _is_new(entry: names.Entry, path: taxonomy.Path, index: names.Index) -> bool:
    name = taxonomy.scientific_name(path).lower()
    return not (name in index.species or name in index.nodes or names.common(entry.name or "") in index.common)


def _nearly(paths: Sequence[taxonomy.Path], index: names.Index) -> dict[str, str]:
    """New species -> the species of the model, of the same first letter, whose name differs by a letter or two."""
    by_letter = defaultdict(list)
    for name in sorted(index.species):
        by_letter[name[0]].append(name)
    found = {}
    for name in map(taxonomy.scientific_name, paths):
        lower = name.lower()
        hit = process.extractOne(lower, by_letter[lower[0]], scorer=fuzz.ratio, score_cutoff=_VERY_LIKE)
        if hit:
            found[name] = hit[0].capitalize()
    return found


def _below(leaves: Iterable[taxonomy.Path]) -> dict[taxonomy.Path, list[taxonomy.Path]]:
    """Node at any rank -> the leaves that it is or that lie below it."""
    below = defaultdict(list)
    for leaf in leaves:
        for rank, name in enumerate(leaf):
            if name:
                below[names.padded(leaf, rank)].append(leaf)
    return below


def _written(entry: names.Entry, index: names.Index) -> taxonomy.Path | None:
    """The path that a line spells out: its columns of ranks, or genus and epithet; None for anything else.

    Two words are a scientific name if the genus is in the model, or if they are written like one: "Upupa epops", not
    "Common Kingfisher".
    """
    if entry.name is None:
        return entry.path if taxonomy.label_rank(entry.path) >= 0 else None
    name = taxonomy.parse_name(entry.name)
    if not name.genus or not name.epithet:
        return None
    rest = entry.name.removeprefix(f"{name.genus} ")
    written_like_one = rest != entry.name and rest[0].islower()
    if not entry.scientific and not _genera(name.genus, index) and not written_like_one:
        return None
    return (*entry.path[:_GENUS], name.genus, name.epithet)


def _genera(genus: str, index: names.Index) -> list[taxonomy.Path]:
    return [path for path in index.nodes.get(genus.lower(), ()) if taxonomy.label_rank(path) == _GENUS]


def _beside(path: taxonomy.Path | None, index: names.Index) -> tuple[tuple[taxonomy.Path, ...], tuple[str, ...]]:
    """A path with higher ranks as its nearest relatives in the model have them, or candidates for the relatives."""
    if path is None:
        return (), ()
    for rank in reversed(range(len(RANKS) - 1)):
        name = path[rank]
        if name is None:
            continue
        same = [node for node in index.nodes.get(name.lower(), ()) if _agrees(node, path, rank)]
        relatives = names.one_taxon(same)
        if same and not relatives:
            return (), tuple(sorted(map(names.full_name, same)))
        if relatives:
            fullest = max(relatives, key=lambda node: sum(part is not None for part in node))
            above = [mine or theirs for mine, theirs in zip(path[:rank], fullest[:rank], strict=True)]
            return ((*above, *path[rank:]),), ()
    return (path,), ()


def _agrees(node: taxonomy.Path, path: taxonomy.Path, rank: int) -> bool:
    return taxonomy.label_rank(node) == rank and not taxonomy.conflict(node, path)


# Messages


def warnings(placed: Placed) -> list[str]:
    """What the user should look at in the list, a sentence each."""
    told = []
    if placed.unplaced:
        told.append(
            f"{_are(placed.unplaced, 'line')} left out, as neither the name of a taxon of the model nor a scientific "
            f"name that can only mean one: {_lines(placed.unplaced)}. Give columns of ranks (family, genus, species)"
        )
    if placed.nearly:
        told.append(
            f"{_are(list(placed.nearly), 'new name')} very like one of the model; correct the list if it is misspelt: "
            f"{_some([f'{name} ({near}?)' for name, near in placed.nearly.items()])}"
        )
    if placed.without_relatives:
        told.append(
            f"{_are(placed.without_relatives, 'taxon', 'taxa')} apart in the tree, as the model has no relative and "
            f"the list no higher rank: {_some(placed.without_relatives)}. Check the spelling, and give columns of "
            "ranks (family, order ...)"
        )
    if placed.repeated:
        one = len(placed.repeated) == 1
        told.append(
            f"{'1 line names' if one else f'{len(placed.repeated)} lines name'} a taxon of an earlier line: "
            f"{_some(placed.repeated)}"
        )
    return told


def _are(things: Sequence[object], one: str, many: str | None = None) -> str:
    return f"1 {one} is" if len(things) == 1 else f"{len(things)} {many or f'{one}s'} are"


def _lines(matches: list[names.Match]) -> str:
    return _some([f"{match.entry.text!r}{_hint(match)}" for match in matches])


def _hint(match: names.Match) -> str:
    if match.candidates:
        return f" (may mean {', '.join(match.candidates)})"
    return f" (nearest: {', '.join(match.nearest)})" if match.nearest else ""


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _TOLD} more" if len(texts) > _TOLD else ""
    return "; ".join(texts[:_TOLD]) + more
