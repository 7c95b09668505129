"""Taxa, keyed by their full path from kingdom to species.

A *path* is a 7-tuple of names, ``None`` where a rank is unknown or absent. Species are stored as the epithet alone
("alba", not "Morus alba"). Bare names are never keys: 16 genus names of iNaturalist 2021 stand in both Animalia and
Plantae, and 10,000 species share 6,485 epithets.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
Path = tuple[str | None, ...]
_MISSING = {"", "nan", "none", "null", "na", "n/a", "unknown", "incertae sedis"}
_TIMES = "\N{MULTIPLICATION SIGN}"  # marks hybrids
_UNDETERMINED = {"sp", "spp", "cf", "aff", "nr", "indet", "?"}


def clean(name: object) -> str | None:
    """A name without surrounding or double spaces, or None for the many ways of writing "missing"."""
    text = " ".join(str(name).split()) if name is not None else ""
    return None if text.lower() in _MISSING else text


def make_path(names: Mapping[str, object]) -> Path:
    """The path from names by rank as they are written in the wild; other keys are ignored.

    Ranks down to genus are capitalised, epithets lower-cased. A species may be given as epithet or full name, with
    author, year or subspecies, which are cut off: "Amanita excelsa Gonn. & Rabenh." gives "excelsa". An undetermined
    species ("sp.", "cf. alba") is unknown.
    """
    ranks = [clean(names.get(rank)) for rank in RANKS]
    higher = [name and name.capitalize() for name in ranks[:6]]
    words = (ranks[6] or "").split()
    if len(words) > 1 and words[0][0].isupper():  # the genus is repeated, or stands here alone
        if higher[5] is None:
            higher[5] = words[0].capitalize()
        if words[0].capitalize() == higher[5]:
            words = words[1:]
    return (*higher, _epithet(words))


def _epithet(words: list[str]) -> str | None:
    if not words or words[0].lower().rstrip(".") in _UNDETERMINED:
        return None
    if words[0] in ("x", _TIMES) and len(words) > 1:
        return f"{_TIMES} {words[1].lower()}"
    if len(words) > 2 and words[1] in ("x", _TIMES):
        return f"{words[0].lower()} {_TIMES} {words[2].lower()}"
    return words[0].lower()


def taxon_id(path: Path) -> str:
    """16 hexadecimal digits that identify a path."""
    return hashlib.sha256(json.dumps(list(path), ensure_ascii=False).encode()).hexdigest()[:16]


def label_rank(path: Path) -> int:
    """Index in RANKS of the lowest known rank; -1 if nothing is known."""
    return max((r for r, name in enumerate(path) if name), default=-1)


def scientific_name(path: Path) -> str:
    """ "Genus epithet" for a species, otherwise the name at the lowest known rank."""
    if path[6] and path[5]:
        return f"{path[5]} {path[6]}"
    return path[label_rank(path)] or ""


def is_ancestor(above: Path, below: Path) -> bool:
    """True if ``above`` is known to a higher rank than ``below`` and lies on its path."""
    r = label_rank(above)
    return r < label_rank(below) and below[: r + 1] == above[: r + 1]


def label_space(paths: Iterable[Path]) -> list[Path]:
    """The leaves: the distinct paths that are not an ancestor of another one, in tree order.

    A photograph known only to a genus is answered by the species of that genus where there are any; a genus without
    a species in the list is a leaf of its own.
    """
    distinct = set(paths)
    inner = {p[: r + 1] for p in distinct for r in range(label_rank(p)) if p[r]}
    leaves = [p for p in distinct if p[: label_rank(p) + 1] not in inner]
    return sorted(leaves, key=lambda p: tuple(name or "" for name in p))


def nodes_at(leaves: Sequence[Path], rank: int) -> tuple[np.ndarray, list[Path]]:
    """The node above each leaf at one rank.

    Returns ``(index, nodes)``: ``index`` int64 of shape (len(leaves),), -1 where the leaf has no name at this rank;
    ``nodes`` the distinct path prefixes of length rank + 1 that ``index`` points to.
    """
    nodes: dict[Path, int] = {}
    index = [nodes.setdefault(p[: rank + 1], len(nodes)) if p[rank] else -1 for p in leaves]
    return np.array(index, dtype=np.int64), list(nodes)
