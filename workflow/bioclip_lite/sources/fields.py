"""Meanings of columns in published tables, and a photograph from one row.

The same thing has many names: ``license`` and ``licence``, ``scientificName`` and ``scientific_name``. Case, spaces and
underscores in a column's name do not count. Where several columns mean the same, the first that is not empty is taken,
in the order of ``_NAMES``; columns with other names are ignored.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from bioclip_lite.sources.sample import Sample
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

Row = dict[str, str | None]  # by field, the keys of _NAMES and "label"; None: empty or one of the ways to say so

_NAMES = {
    "file": (
        *("file", "filepath", "path", "imagepath", "photopath", "filename", "imagefile", "photofile", "imagename"),
        *("image", "photo", "picture"),
        *("imageurl", "photourl", "mediaurl", "url"),  # beside the others, url is the address of a page
    ),
    **{rank: (rank,) for rank in taxonomy.RANKS[:6]},
    "class": ("class", "cls"),
    "species": ("species", "speciesepithet", "specificepithet", "epithet"),
    "scientific_name": ("scientificname", "acceptedscientificname", "taxonname", "sciname", "latinname", "binomial"),
    "rank": ("taxonrank",),
    "common_name": ("commonname", "vernacularname", "common"),
    "licence": ("licence", "license", "licensename", "licensecode", "licenselink"),
    "attribution": (
        *("attribution", "rightsholder", "copyrightowner", "photographer", "creator"),
        *("source", "recordedby"),
    ),
    "observation": ("observation", "group", "observationid", "observationuuid", "gbifid", "occurrenceid"),
    "split": ("split",),
}
NAMING = (*taxonomy.RANKS, "scientific_name", "common_name", "label")  # fields of which one at least says the taxon
_LANGUAGE = re.compile(r"(?:common|vernacular)[ _]?name[ _-]([a-z]{2,3})", re.IGNORECASE)
_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")
_SAID = {"not provided", "notprovided", "unspecified"}  # by catalogues, where they know no owner or licence
_BELOW_SPECIES = {"subspecies", "variety", "form", "cultivar", "infraspecific_name", "subvariety", "subform"}


class Columns(NamedTuple):
    """Which columns of a table hold which field, by position, best first."""

    places: dict[str, list[int]]
    languages: dict[str, int]  # of common names


def understand(header: Sequence[str], class_is_label: bool = False) -> Columns:
    """Interpret the columns of a table by their names; ``class_is_label`` as the function of that name says."""
    names = [_plain(name) for name in header]
    meaning = {name: field for field, spellings in _NAMES.items() for name in spellings}
    if class_is_label:
        meaning["class"] = "label"
    places: dict[str, list[int]] = {}
    for field in (*_NAMES, "label"):
        spellings = [name for name, meant in meaning.items() if meant == field]
        found = [names.index(name) for name in spellings if name in names]
        if found:
            places[field] = found
    matches = {i: _LANGUAGE.fullmatch(name.strip()) for i, name in enumerate(header)}
    return Columns(places, {match[1].lower(): i for i, match in matches.items() if match})


# Classes of animals, whose names have no common ending, and the endings that the codes give to those of plants, fungi
# and algae (ICN Art. 16.3), with the commonest of protists and bacteria.
_CLASSES = (
    "actinopterygii|teleostei|chondrichthyes|elasmobranchii|holocephali|sarcopterygii|myxini|petromyzonti|cephalaspidomorphi"
    "|amphibia|reptilia|squamata|testudines|crocodylia|aves|mammalia|ascidiacea|thaliacea|leptocardii|insecta|collembola"
    "|diplura|protura|entognatha|arachnida|merostomata|pycnogonida|malacostraca|copepoda|thecostraca|ostracoda"
    "|maxillopoda|hexanauplia|chilopoda|diplopoda|pauropoda|symphyla|gastropoda|bivalvia|cephalopoda|polyplacophora"
    "|scaphopoda|polychaeta|clitellata|oligochaeta|hirudinea|anthozoa|scyphozoa|hydrozoa|cubozoa|staurozoa|myxozoa"
    "|asteroidea|echinoidea|holothuroidea|ophiuroidea|crinoidea|demospongiae|calcarea|hexactinellida|trematoda|cestoda"
    "|turbellaria|chromadorea|enoplea|bdelloidea|bacilli|clostridia|\\w+(opsida|mycetes|phyceae|proteobacteria|branchiopoda)"
)
_CLASS = re.compile(_CLASSES, re.IGNORECASE)


def class_is_label(header: Sequence[str], values: Collection[str]) -> bool:
    """Whether column ``class`` says what a photograph shows, as in BioCLIP's evaluation sets, and is not the rank.

    A column ``cls`` beside it is the rank. Without one the distinct ``values`` of the column decide. It is a rank if
    most are names of classes ("Insecta"), a label if most have several words ("Danaus plexippus"). Other single words
    are classes beside a phylum or order; elsewhere they are labels if they begin with a small letter or digit ("dog"),
    or if the table has an unnamed index or ``filepath`` and no column that names a taxon.
    """
    names = [_plain(name) for name in header]
    if "class" not in names or "cls" in names:
        return "class" in names
    if _most(values, lambda value: _CLASS.fullmatch(value) is not None):
        return False
    if _most(values, lambda value: "_" in value or " " in value):
        return True
    if {"phylum", "order"} & set(names):
        return False
    meaning = {name: field for field, spellings in _NAMES.items() for name in spellings}
    named = any(meaning.get(name) in NAMING for name in names if name not in ("class", "commonname"))
    of_bioclip = bool({"", "unnamed0", "filepath"} & set(names)) and not named
    return of_bioclip or _most(values, lambda value: not value[0].isupper())


# Genera end in -ptera, too: Phaneroptera is a bush-cricket.
_INSECT_ORDERS = (
    "(Coleo|Derma|Di|Ephemero|Hemi|Hymeno|Lepido|Meco|Megalo|Neuro|Ortho|Pleco|Psoco|Raphidio|Siphona|Strepsi|Thysano"
    "|Tricho|Zora)ptera"
)
_ENDINGS = {
    "kingdom": re.compile("animalia|plantae|fungi|chromista|protozoa|bacteria|archaea|viruses", re.IGNORECASE),
    "class": _CLASS,
    "order": re.compile(f"[A-Z][a-z]{{2,}}(ales|iformes)|{_INSECT_ORDERS}"),
    "family": re.compile("[A-Z][a-z]+(aceae|idae)"),
}


def rank_by_ending(name: str) -> str | None:
    """The rank that shows in a name of one word: of kingdoms and classes the word, of orders and families the ending.

    ICN Art. 17 and 18, ICZN Art. 29.2; orders of animals as it is custom.
    """
    return next((rank for rank, ending in _ENDINGS.items() if ending.fullmatch(name)), None)


def _most(values: Collection[str], such: Callable[[str], bool]) -> bool:
    return 2 * sum(map(such, values)) > len(values)


def repeated(header: Sequence[str]) -> str | None:
    """A column that ``header`` has twice and that would be read, or None."""
    names = [_plain(name) for name in header]
    known = {name for spellings in _NAMES.values() for name in spellings}
    return next(
        (written for written, name in zip(header, names, strict=True) if name in known and names.count(name) > 1), None
    )


def row_of(columns: Columns, values: Sequence[object]) -> Row:
    """The fields of one row; those that the table has no column for are absent."""
    return {
        field: next((text for i in places if (text := _text(field, values[i])) is not None), None)
        for field, places in columns.places.items()
    }


def _text(field: str, value: object) -> str | None:
    """A value without superfluous spaces; those in the name of a file belong to it, and are kept."""
    text = taxonomy.clean(value)
    return text if text is None or field != "file" else str(value).strip(" \t\r\n")


def languages_of(columns: Columns, values: Sequence[object]) -> tuple[tuple[str, str], ...]:
    """The common names of one row by language."""
    found = ((language, taxonomy.clean(values[i])) for language, i in columns.languages.items())
    return tuple((language, name) for language, name in sorted(found) if name)


def to_sample(
    row: Row,
    key: str,
    locator: str,
    languages: tuple[tuple[str, str], ...] = (),
    identifiers: tuple[str, ...] = (),
) -> Sample:
    """The sample that a row describes; without an observation the photograph is one of its own."""
    path, common_name = path_of(row), row.get("common_name")
    split = row.get("split")
    return Sample(
        key=key,
        locator=locator,
        group=row.get("observation") or key,
        path=path,
        common_name=common_name,
        common_names=languages,
        split=split.lower() if split else None,
        licence=stated(row.get("licence")),
        attribution=stated(row.get("attribution")),
        verbatim=verbatim(row),
        identifiers=identifiers,
    )


def stated(text: str | None) -> str | None:
    """A licence or an owner; None if a catalogue marks it as unknown."""
    return None if text is None or text.lower() in _SAID else text


def refuse_rounded(place: str, observation: str | None) -> None:
    """Raise UserError for 1.25E+08, as spreadsheets show and save long numbers."""
    if observation and _ROUNDED.fullmatch(observation):
        raise UserError(
            f"{place}: observation {observation} is a number that a spreadsheet has rounded, so different observations "
            "have become one; give that column the format text, and export the table again"
        )


def verbatim(row: Mapping[str, str | None]) -> str | None:
    """The scientific name as it is written, put together from genus and epithet where it stands in two columns."""
    if row.get("scientific_name"):
        return row["scientific_name"]
    genus, species = row.get("genus"), row.get("species")
    return f"{genus} {species}" if genus and species and not species[0].isupper() else species


_EPITHET = re.compile("(\\([^)]*\\) )?[a-z\N{MULTIPLICATION SIGN}]")  # what follows the genus, past a subgenus


def path_of(row: Mapping[str, str | None]) -> taxonomy.Path:
    """The path from ranks and, for what they leave open, the scientific name.

    A scientific name of one word is put at the rank that ``rank`` states, or else that of ``rank_by_ending``; any other
    single word is a genus, and only if no rank is given at all.
    """
    names: dict[str, str | None] = {rank: row.get(rank) for rank in taxonomy.RANKS}
    scientific, rank = row.get("scientific_name"), (row.get("rank") or "").lower()
    if scientific is None or names["species"] is not None:
        return taxonomy.make_path(names)
    first, _, more = scientific.partition(" ")
    if rank in taxonomy.RANKS[:6]:
        if names[rank] is None:
            names[rank] = first
    elif rank == "species" or rank in _BELOW_SPECIES or (not rank and _EPITHET.match(more)):
        names["species"] = scientific
    elif not rank and not any(names.values()):
        names[rank_by_ending(first) or "genus"] = first
    return taxonomy.make_path(names)


_RANK_PATH = re.compile(r"(\d+ )?((?:[A-Z][\w-]* ){6})([a-z][\w-]*)")
_TIMES = r"\N{MULTIPLICATION SIGN}"
_BINOMIAL = re.compile(rf"[A-Z][a-z]+(-[a-z]+)?( [x{_TIMES}])?( {_TIMES}?[a-z][a-z-]+){{1,2}}")


def label_paths(labels: Collection[str]) -> dict[str, taxonomy.Path]:
    """The paths of those class names that spell one out; the rest are common names.

    Understood are seven ranks, with or without a number before them and with spaces or underscores between them
    ("00012_Animalia_..._Morus_bassanus"), and binomials. "American robin" looks like a binomial as well, so binomials
    count only if they are more than half of the list.
    """
    words = {label: " ".join(label.replace("_", " ").split()) for label in labels}
    paths = {label: path for label, text in words.items() if (path := seven_ranks(text))}
    binomials = [label for label, text in words.items() if _BINOMIAL.fullmatch(text)]
    if 2 * len(binomials) > len(words) - len(paths):
        paths |= {label: taxonomy.make_path({"species": words[label]}) for label in binomials}
    return paths


def seven_ranks(text: str) -> taxonomy.Path | None:
    """The path that a name of all seven ranks spells, "00012 Animalia ... Morus bassanus"; None for another name."""
    match = _RANK_PATH.fullmatch(text)
    return taxonomy.make_path(dict(zip(taxonomy.RANKS, (*match[2].split(), match[3]), strict=True))) if match else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())
