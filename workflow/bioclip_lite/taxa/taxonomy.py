"""Taxa, keyed by their full path from kingdom to species.

A *path* is a 7-tuple of names, ``None`` where a rank is unknown or absent. Species are stored as the epithet alone
("alba", not "Morus alba"). Bare names are never keys: 16 genus names of iNaturalist 2021 stand in both Animalia and
Plantae, and 10,000 species share 6,485 epithets.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
Path = tuple[str | None, ...]
_MISSING = {
    *("", "nan", "none", "null", "na", "n/a", "#n/a", "<na>", "\\n", "-", "--", "\N{EN DASH}", "unknown"),
    "incertae sedis",
}
_TIMES = "\N{MULTIPLICATION SIGN}"  # marks hybrids

# Ranks that are filled in with words that name nothing.
_NO_TAXON = re.compile(
    r"incertae?[ ._-]?sedis|\b(un(placed|assigned|classified|ranked|known|determined|identified|described|named)"
    r"|not (assigned|known|applicable|placed|identified)|indet(erminate|erminata)?\b|genus novum)",
    re.IGNORECASE,
)
_UNDETERMINED = {
    *("sp", "spp", "species", "cf", "aff", "nr", "near", "indet", "undet", "?", "gen", "hybrid", "hyb", "gr", "group"),
    *("agg", "aggr", "complex", "ssp", "subsp", "var", "f", "forma", "sect", "ser", "subg", "subgen", "subgenus"),
}
_DOUBTFUL = {"cf", "aff", "nr", "near", "?", "gr"}  # what follows is a guess
_WIDER = {"agg", "aggr", "complex", "group"}  # after an epithet: several species
_BELOW_SPECIES = {
    *(
        "subsp",
        "ssp",
        "subspecies",
        "var",
        "variety",
        "varietas",
        "subvar",
        "f",
        "fo",
        "form",
        "forma",
        "subf",
        "morph",
    ),
    *("nothosubsp", "nothossp", "nothovar", "nothof", "nothoforma", "cv", "ab", "race", "morph"),
}
_ABOVE_SPECIES = {"subg", "subgen", "subgenus", "sect", "section", "ser", "series", "subsect", "nothosect", "nothosubg"}
_HYBRID = {"x", "X", _TIMES, "nothosp", "nothospec", "nothospecies"}
_EPITHET = re.compile(r"(\d+-)?[^\W\d_]{2,}(-[^\W\d_]+)*|[^\W\d_](-[^\W\d_]+)+")
# How Latin names write other letters (ICN Art. 60.7); a mark over a second vowel only parts the two.
_LETTERS = {"\u00e6": "ae", "\u0153": "oe", "\u00f8": "oe", "\u00e5": "ao", "\u00df": "ss", "\u00f0": "d"}
_LETTERS |= {letter.upper(): text.capitalize() for letter, text in _LETTERS.items() if len(letter.upper()) == 1}
_UMLAUTS = {"a": "ae", "o": "oe", "u": "ue"}


class Name(NamedTuple):
    """A scientific name taken apart. Genus capitalised, epithet lower-case; None where unknown."""

    genus: str | None
    epithet: str | None
    below: tuple[str, ...] = ()  # epithets of subspecies, variety, form
    notes: tuple[str, ...] = ()  # what of the text is not in the name


def clean(name: object) -> str | None:
    """A name without surrounding or double spaces, or None for the many ways of writing "missing"."""
    text = " ".join(str(name).split()) if name is not None else ""
    return None if text.lower() in _MISSING else text


def make_path(names: Mapping[str, object]) -> Path:
    """The path from names by rank as they are written in the wild; other keys are ignored.

    Ranks down to genus are capitalised, epithets lower-cased, letters that Latin lacks written as the codes of
    nomenclature say. A species may be given as epithet or full name, with subgenus, author, year, subspecies, variety
    or form, which are left out: "Aedes (Stegomyia) aegypti (L., 1762)" gives "aegypti". Hybrids keep their sign. An
    undetermined species ("sp.", "cf. alba", "sp. BOLD:AAB1234") is unknown, and so is a rank "incertae sedis".
    """
    return _path(tuple(None if (name := names.get(rank)) is None else str(name) for rank in RANKS))


def parse_name(text: str) -> Name:
    """A scientific name as people write it, in any case: "MORUS ALBA L.", "morus alba", "Morus", "x Festulolium".

    Without a capital anywhere the first word is still taken for the genus.
    """
    words, notes = _words(text)
    genus, words, more = _split_genus(words, None, None)
    epithet, below, rest = _epithet(words, genus)
    return Name(genus, epithet, below, (*notes, *more, *rest))


def conflict(a: Path, b: Path) -> bool:
    """Whether two taxa of one name are homonyms: they differ at the highest rank, down to order, that both have."""
    for mine, other in zip(a[:4], b[:4], strict=True):
        if mine and other:
            return mine != other
    return False


@lru_cache(maxsize=1 << 16)  # photographs of one taxon come in a row, or by thousands
def _path(raw: tuple[str | None, ...]) -> Path:
    higher = [_higher(clean(name)) for name in raw[:5]]
    kingdom = higher[0]
    in_genus, _ = _words(clean(raw[5]) or "")
    lowered = bool(in_genus) and in_genus[0].islower() and in_genus[0] not in _HYBRID
    genus, words, _ = _split_genus([in_genus[0].capitalize(), *in_genus[1:]] if lowered else in_genus, None, None)
    in_species, _ = _words(clean(raw[6]) or "")
    if in_species:  # otherwise the whole name may stand in the genus' place
        found, words, _ = _split_genus(in_species, genus, kingdom, lowered)
        genus = genus or found
    epithet, _, _ = _epithet(words, genus)
    return (*higher, genus, epithet)


def _plain(text: str) -> str:
    """Without markup, accents, ligatures and invisible characters; a name in another script stays as it is."""
    text = re.sub(r"<[^<>]*>", " ", text)
    if text.isascii() and text.isprintable():  # most names; the rest takes a hundred times as long
        return text
    out: list[str] = []
    for letter in unicodedata.normalize("NFC", text):
        base, *marks = list(unicodedata.normalize("NFD", letter))
        if letter in _LETTERS:
            out.append(_LETTERS[letter])
        elif unicodedata.category(letter) in ("Cf", "Cc", "Cs"):
            out.append(" " if letter.isspace() else "")
        elif marks and base.isascii():
            umlaut = marks == ["\u0308"] and not (out and out[-1][-1:].lower() in ("a", "e", "i", "o", "u", "y"))
            latin = _UMLAUTS.get(base.lower(), base) if umlaut else base
            out.append(latin.capitalize() if base.isupper() else latin)
        elif unicodedata.category(letter) != "Mn":
            out.append(letter)
    return "".join(out)


@lru_cache(maxsize=1 << 16)
def _words(text: str) -> tuple[list[str], list[str]]:
    """The words of a name, with the hybrid sign as a word of its own, and notes."""
    if not text:
        return [], []
    plain = _plain(text)
    notes = ["letters"] if plain != text and not plain.isspace() else []
    plain = re.sub('["\u201c\u201d\u2020\\[\\]_]', " ", plain).replace(_TIMES, f" {_TIMES} ")
    if _NO_TAXON.search(plain):
        plain = _NO_TAXON.split(plain)[0]
        notes.append("not a name")
        if len(plain.split()) == 1 and plain.strip().istitle():  # "Hymenoptera incertae sedis"
            plain = ""
    return [word.replace("'", "").replace("\u2019", "") for word in plain.split() if word.strip("'\u2019")], notes


def _bare(word: str) -> str:
    return word.lower().rstrip(".,;:")


def _higher(name: str | None) -> str | None:
    """A name from kingdom to family, without an author."""
    words, _ = _words(name or "")
    text = " ".join(words)
    if not words or _bare(words[0]) in _UNDETERMINED or not any(map(str.isalpha, text)):
        return None
    rest = " ".join(words[1:])
    of_a_code = re.search("(idae|inae|aceae|ales|ineae|oidea|mycetes|opsida|phyta)$", words[0].lower())
    if rest and (re.search(r"[.&(,\d]", rest) or (of_a_code and rest[0].isupper())):
        text = words[0].rstrip(",;:")
    return text.capitalize()


def _split_genus(
    words: list[str], genus: str | None, kingdom: str | None, lowered: bool = False
) -> tuple[str | None, list[str], list[str]]:
    """Split a name into its genus, the words after genus and subgenus, and notes; the genus may be None.

    Args:
        genus: the name in the column of genera, if any; ``words`` may then be an epithet with an author.
        lowered: that column is written without capitals, so a small letter does not mark an epithet.
    """
    if not words:
        return genus, [], []
    if genus is None:
        genus, words, notes = _leading_genus(words)
    else:
        words, notes = _without_genus(words, genus, kingdom, lowered)
    while genus and words and (re.fullmatch(r"\(\w+\)", words[0]) or _bare(words[0]) in _ABOVE_SPECIES):
        notes.append("subgenus left out")
        if len(words) == 1 or (words[0][0] != "(" and len(words) < 3):
            return genus, [], notes
        words = words[1:] if words[0][0] == "(" else words[2:]
    return genus, words, notes


def _leading_genus(words: list[str]) -> tuple[str | None, list[str], list[str]]:
    """The genus at the start of a full name, the words after it, and notes. An epithet alone has no genus."""
    sign = ""
    if words[0] in _HYBRID and len(words) > 1 and words[1][:1].isupper():
        sign, words = f"{_TIMES} ", words[1:]
    is_name = _EPITHET.fullmatch(words[0].rstrip(".,;:?").replace("(", ""))
    doubted = words[0].endswith("?") or (len(words) > 1 and _bare(words[1]) == "?")
    if _bare(words[0]) in _UNDETERMINED or not is_name or doubted:
        return None, [], ["undetermined"]
    if words[0].islower() and (len(words) == 1 or _after_an_epithet(words[1:])):
        return None, words, []
    return sign + words[0].rstrip(".,;:").capitalize(), words[1:], []


def _without_genus(words: list[str], genus: str, kingdom: str | None, lowered: bool) -> tuple[list[str], list[str]]:
    """The words of a column of species after the genus, where it repeats one, and notes."""
    name = genus.removeprefix(f"{_TIMES} ")
    start = 1 if words[0] in _HYBRID and len(words) > 1 and words[1].capitalize() == name else 0
    first, rest = words[start], words[start + 1 :]
    tautonyms = kingdom in (None, "Animalia", "Metazoa")  # only in zoology may an epithet repeat the genus
    if first.capitalize() == name or (re.fullmatch(r"[A-Z]\.", first) and first[0] == name[0]):
        if rest:  # "Rattus" "rattus alexandrinus": a small letter marks the epithet
            return (words if tautonyms and first.islower() and not lowered else rest), []
        return (words if tautonyms or not first[:1].isupper() else []), []
    names_follow = bool(rest) and (rest[0][:1].islower() or rest[0] in _HYBRID)
    if first[:1].isupper() and names_follow and not _after_an_epithet(rest):
        return rest, [f"genus {first.capitalize()} in the full name"]
    in_capitals = first.isupper() and len(first) > 2 and bool(rest) and rest[0].isupper()
    if in_capitals and _EPITHET.fullmatch(rest[0]) and len(rest[0]) > 2:
        return rest, []
    return words, []


def _after_an_epithet(words: list[str]) -> bool:
    """Whether ``words`` can only follow an epithet: a rank below species, a hybrid sign, an author."""
    first = _bare(words[0])
    return (
        (first in _BELOW_SPECIES and len(words) > 1)
        or first in {"agg", "aggr", "ex", "et", "de", "van", "von"}
        or words[0][:1] in "(&"
        or bool(re.match(r"[A-Z]", words[0]) and not words[0].isupper())
        or (words[0].endswith(".") and first not in _UNDETERMINED and first not in _HYBRID)
    )


def _epithet(words: list[str], genus: str | None) -> tuple[str | None, tuple[str, ...], list[str]]:
    """The epithet that ``words`` begin with, those of lower ranks, and notes."""
    if not words:
        return None, (), []
    hybrid = words[0].rstrip(".") in _HYBRID
    if hybrid:
        words = words[1:]
    if not words or _bare(words[0]) in _UNDETERMINED or words[0].endswith("?"):
        return None, (), ["undetermined"]
    first = words[0].rstrip(".,;:")
    if not _EPITHET.fullmatch(first) or (len(words) > 1 and _bare(words[1]) in _WIDER | {"?"}):
        return None, (), ["undetermined"]
    epithet, rest = first.lower(), words[1:]
    if hybrid:
        epithet = f"{_TIMES} {epithet}"
    elif rest and rest[0] in _HYBRID and len(rest) > 1:
        other = _other_parent(rest[1:], genus)
        if other is None:
            return None, (), ["undetermined"]
        return f"{epithet} {_TIMES} {other}", (), []
    below = _below(rest)
    notes = ["subspecies, variety or form left out"] if below else []
    if any(word[:1].isupper() or word[:1] in "(&" for word in rest):
        notes.append("author left out")
    return epithet, below, notes


def _other_parent(words: list[str], genus: str | None) -> str | None:
    """The second half of "alba x fragilis", "alba x S. fragilis" or "platyrhynchos x Mareca strepera"."""
    if len(words) > 1 and words[0][:1].isupper() and words[1][:1].islower() and _EPITHET.fullmatch(words[1]):
        if words[0].endswith(".") or words[0].capitalize() == genus:
            return words[1].lower()
        if _EPITHET.fullmatch(words[0]):
            return f"{words[0].capitalize()} {words[1].lower()}"
    first = words[0].rstrip(".,;:")
    return first.lower() if _EPITHET.fullmatch(first) and _bare(first) not in _UNDETERMINED else None


def _below(words: list[str]) -> tuple[str, ...]:
    found: list[str] = []
    for number, word in enumerate(words):
        marked = number > 0 and _bare(words[number - 1]) in _BELOW_SPECIES
        if _bare(word) in _BELOW_SPECIES or not _EPITHET.fullmatch(word) or not word.islower():
            continue
        if marked or number == 0 or (found and number == 1):
            found.append(word)
    return tuple(found)


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
    """Whether ``above`` ends at a higher rank than ``below`` and lies on its path."""
    r = label_rank(above)
    return r < label_rank(below) and below[: r + 1] == above[: r + 1]


def lineage(path: Path) -> Iterator[Path]:
    """The path down to each of its ranks: its own first, the kingdom last. Nothing for a path without names."""
    return (path[:length] for length in range(label_rank(path) + 1, 0, -1))


def label_space(paths: Iterable[Path]) -> list[Path]:
    """The leaves: the distinct paths that are not an ancestor of another one, in tree order.

    A photograph known only to a genus is answered by the species of that genus where there are any; a genus without
    a species in the list is a leaf of its own.
    """
    distinct = set(paths)
    inner = {p[: r + 1] for p in distinct for r in range(label_rank(p)) if p[r]}
    leaves = [p for p in distinct if next(lineage(p), ()) not in inner]
    return sorted(leaves, key=lambda p: tuple(name or "" for name in p))


def nodes_at(leaves: Sequence[Path], rank: int) -> tuple[np.ndarray, list[Path]]:
    """The node above each leaf at one rank.

    Returns ``(index, nodes)``: ``index`` int64 of shape (len(leaves),), -1 where the leaf has no name at this rank;
    ``nodes`` the distinct path prefixes of length rank + 1 that ``index`` points to.
    """
    nodes: dict[Path, int] = {}
    index = [nodes.setdefault(p[: rank + 1], len(nodes)) if p[rank] else -1 for p in leaves]
    return np.array(index, dtype=np.int64), list(nodes)
