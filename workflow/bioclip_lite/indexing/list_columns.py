"""Meanings of the columns of species lists.

Case, accents, spaces, underscores, hyphens and brackets in a column's name do not count, and words may be run together
("vernacularName"). A column is read only if its meaning is certain: "common_name_alt" is not in the language Altai.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from bioclip_lite.sources.languages import CODES
from bioclip_lite.taxa.taxonomy import RANKS

ENGLISH = ""  # language of the column "common_name" in all tables

_FIELDS = {
    **{rank: (rank, f"taxon {rank} name") for rank in RANKS},  # the latter as iNaturalist's exports have it
    "class": ("class", "cls", "taxon class name"),
    "species": (
        *("species", "species epithet", "specific epithet", "epithet", "taxon species name"),
        *("species name", "binomial", "binomial name"),  # a full name may stand in the column of species
    ),
    "scientific_name": (
        *("scientific name", "scientific", "accepted scientific name", "accepted name", "accepted taxon"),
        *("latin name", "latin", "taxon", "taxon name", "canonical name"),
        *("wissenschaftlicher name", "lateinischer name", "nom scientifique", "nom latin", "nombre cientifico"),
        *("nome scientifico", "nome cientifico", "wetenschappelijke naam", "vetenskapligt namn", "nazwa naukowa"),
    ),
    "name": ("name",),
    "rank": ("rank", "taxon rank"),  # of the name
    "finest_rank": ("finest rank",),
    "synonyms": ("synonyms", "synonym"),
    "note": ("note",),  # not "notes" or "remarks", which may be for the owner's eyes only: pages show this text
}
_FIELD_OF = {spelling: field for field, spellings in _FIELDS.items() for spelling in spellings}
NAMING = (*RANKS, "scientific_name", "name")

_COMMON = {"common", "vernacular", "trivial", "popular", "colloquial"}
_NAME = {"name", "names", "naam", "namn", "navn", "nom", "noms", "nome", "nombre", "nazwa"}
_PHRASES = {
    **dict.fromkeys(("nom vernaculaire", "nom commun", "noms vernaculaires"), "fr"),
    **dict.fromkeys(("nombre comun", "nombre vernaculo", "nombres comunes"), "es"),
    **dict.fromkeys(("nome comum", "nome popular", "nome vulgar"), "pt"),
    **dict.fromkeys(("nome comune", "nome volgare"), "it"),
}
_NO_CODES = {"id", "nr"}  # two letters that rather mean a number


class Columns(NamedTuple):
    """Which columns of a list hold what, by position."""

    fields: dict[str, int]  # keys of _FIELDS
    languages: dict[str, int]  # of common names; ENGLISH for the column without a language
    unread: list[str]  # names of columns whose meaning is not certain
    twice: str | None  # the first column that is there twice


def understand(header: Sequence[str]) -> Columns:
    """Interpret the columns of a species list by their names."""
    fields: dict[str, int] = {}
    languages: dict[str, int] = {}
    unread: list[str] = []
    twice = None
    for place, written in enumerate(header):
        words = _words(written)
        field, language = _FIELD_OF.get(" ".join(words)), _language(words)
        if field in fields or (field is None and language in languages):
            twice = twice or written.strip()
        elif field is not None:
            fields[field] = place
        elif language is not None:
            languages[language] = place
        elif written.strip():
            unread.append(written.strip())
    return Columns(fields, languages, unread, twice)


def names_taxa(columns: Columns) -> bool:
    """Whether the columns say which taxa the rows are; without that the first line is no header.

    A line that says "German" and nothing else names no column.
    """
    others = len(columns.fields) + len(columns.languages) + len(columns.unread) > 1
    return (
        any(field in columns.fields for field in NAMING)
        or ENGLISH in columns.languages
        or (others and bool(columns.languages))
    )


def _words(written: str) -> list[str]:
    """The words of a column's name, lower-case, without accents: "Vernacular_Name (fr)" is vernacular, name, fr."""
    parted = re.sub("([a-z])([A-Z])", r"\1 \2", written.strip().removeprefix("dwc:").removeprefix("dwc_"))
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", parted) if not unicodedata.combining(letter))
    joined = re.sub("(common|vernacular|scientific|taxon)(names?)", r"\1 \2", plain.lower())
    joined = re.sub("specificepithet", "specific epithet", joined)
    return re.sub(r"[\W_]+", " ", joined).split()


def _language(words: Sequence[str]) -> str | None:
    """The language of a column of common names; None for any other column."""
    if " ".join(words) in _PHRASES:
        return _PHRASES[" ".join(words)]
    rest = [word for word in words if word not in _COMMON and word not in _NAME]
    said = len(rest) < len(words) and any(word in _COMMON for word in words)  # that they are common names
    if not rest:
        return ENGLISH if said else None
    code = CODES.get(rest[0]) or (rest[0] if said and re.fullmatch("[a-z]{2}", rest[0]) else None)
    region = len(rest) == 2 and said and re.fullmatch("[a-z]{2}|hans|hant", rest[1])  # "common_name_pt_BR"
    alone = len(rest[0]) > 3 or said  # "German name"; "cat name" is no language
    return code if code and code not in _NO_CODES and alone and (len(rest) == 1 or region) else None
