"""Ranks and common names from the texts that BioCLIP's data sets keep beside each photograph.

TreeOfLife-10M and -200M (Stevens et al. 2024, Gu et al. 2025) and BioTrove (Yang et al. 2024) write the same kinds of
text, each a subset and each with quirks: bare names may end with a full stop, missing names are "nan" or "None" or
leave two spaces, and a common name that is not known is replaced by the scientific name or the known ranks.
"""

import re
from collections.abc import Mapping

from bioclip_lite.sources.fields import Row
from bioclip_lite.taxa import taxonomy

_TAG = re.compile(rf"\b({'|'.join(taxonomy.RANKS)})\b")
_COMMON = " with common name "


def row_of(texts: Mapping[str, str]) -> Row:
    """Ranks, scientific_name and common_name from texts by extension, e.g. "taxontag.txt" (lower case)."""
    tagged = _first(texts, "taxontag.txt", "taxontag_com.txt")
    taxonomic = _first(texts, "taxonomic_name.txt", "taxon.txt", "taxon_com.txt")
    scientific = _first(texts, "scientific_name.txt", "sci.txt", "sci_com.txt")
    row: Row = dict.fromkeys(taxonomy.RANKS)
    if tagged:
        row |= _by_tags(tagged)
    elif taxonomic:
        row |= _by_place(taxonomic)
    row["scientific_name"] = taxonomy.clean(scientific)
    row["common_name"] = _common_name(texts)
    return row


def genuine(common_name: str | None, path: taxonomy.Path, scientific_name: str | None) -> str | None:
    """The common name, or None where it only repeats names of the taxon."""
    if common_name is None:
        return None
    words = {word for name in (*path, scientific_name) if name for word in name.lower().split()}
    return None if set(common_name.lower().split()) <= words else common_name


def _first(texts: Mapping[str, str], *extensions: str) -> str | None:
    """The first of these texts, without what captions say around the name."""
    for extension in extensions:
        if extension in texts:
            text = texts[extension].strip()
            text = text.partition(_COMMON)[0]
            return text.removeprefix("a photo of ").removesuffix(".")
    return None


def _by_tags(text: str) -> Row:
    """Names from "kingdom Animalia phylum Chordata ..."."""
    _, *parts = _TAG.split(text)
    return {rank: taxonomy.clean(name) for rank, name in zip(parts[::2], parts[1::2], strict=True)}


def _by_place(text: str) -> Row:
    """Names from "Animalia Chordata ... bassanus".

    Every rank has its place if none is missing, or if missing ones leave two spaces. Otherwise only the kingdom is
    sure; the species is left to the scientific name.
    """
    names = [taxonomy.clean(name) for name in text.split(" ")]
    *higher, species = names
    # An epithet of two words must not push the ranks above it up.
    if len(higher) == 6 and all(n is None or n[0].isupper() for n in higher) and not (species and species[0].isupper()):
        return dict(zip(taxonomy.RANKS, names, strict=True))
    return {"kingdom": names[0]} if names[0] in _KINGDOMS else {}


_KINGDOMS = {"Animalia", "Plantae", "Fungi", "Chromista", "Protozoa", "Bacteria", "Archaea", "Viruses"}


def _common_name(texts: Mapping[str, str]) -> str | None:
    for extension, before in (("common_name.txt", ""), ("com.txt", "a photo of ")):
        if extension in texts:
            return taxonomy.clean(texts[extension].strip().removeprefix(before).removesuffix("."))
    for extension in ("sci_com.txt", "taxon_com.txt", "taxontag_com.txt"):
        if _COMMON in texts.get(extension, ""):
            return taxonomy.clean(texts[extension].partition(_COMMON)[2].strip().removesuffix("."))
    return None
