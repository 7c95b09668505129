"""iNaturalist's iconic groups: the supercategory of a taxon in the competition sets ("Birds", "Insects", "Plants").

The names are those of the set of 2021, which has no photographs of Chromista and Protozoa; these two are named as in
the earlier ones.
"""

from bioclip_lite.taxa.taxonomy import RANKS, Path

# By the lowest rank first: an animal outside the classes and phyla named here is of group Animalia.
_GROUPS = {
    "class": {
        "Actinopterygii": "Ray-finned Fishes",
        "Amphibia": "Amphibians",
        "Arachnida": "Arachnids",
        "Aves": "Birds",
        "Insecta": "Insects",
        "Mammalia": "Mammals",
        "Reptilia": "Reptiles",
    },
    "phylum": {"Mollusca": "Mollusks"},
    "kingdom": {
        "Animalia": "Animalia",
        "Chromista": "Chromista",
        "Fungi": "Fungi",
        "Plantae": "Plants",
        "Protozoa": "Protozoa",
    },
}
_PHYLA = {"Arachnids": "Arthropoda", "Insects": "Arthropoda"}  # of the groups that are classes; the others: Chordata
NAMES = tuple(sorted({group for groups in _GROUPS.values() for group in groups.values()}))


def supercategory(path: Path) -> str | None:
    """The iconic group of a taxon; None for a kingdom that has none, such as Bacteria."""
    for rank, groups in _GROUPS.items():
        if group := groups.get(path[RANKS.index(rank)] or ""):
            return group
    return None


def ranks_of(group: str) -> dict[str, str]:
    """The names that an iconic group gives a taxon of it, by rank; nothing for a name that is no group."""
    for rank, groups in _GROUPS.items():
        for name, its_group in groups.items():
            if its_group == group and rank == "kingdom":
                return {"kingdom": name}
            if its_group == group:
                phylum = name if rank == "phylum" else _PHYLA.get(group, "Chordata")
                return {"kingdom": "Animalia", "phylum": phylum, rank: name}
    return {}
