"""Read taxa from the names of the folders that photographs lie in.

A folder is called "Genus epithet", "Genus_epithet", "Genus", by another rank that shows in its ending ("Asteraceae"),
or by seven ranks as in iNaturalist 2021 ("00012_Animalia_..._Genus_epithet"). A number before it ("001.Morus alba")
does not count. Folders may be nested: below a kingdom each is the next rank, and elsewhere those count whose rank shows
("birds/Sulidae/Morus bassanus/2024"). If most names of several words are no binomials ("Laysan_Albatross"), then all
names are common names.
"""

import re
from collections.abc import Collection, Sequence

from bioclip_lite.sources import fields
from bioclip_lite.taxa import taxonomy

Folders = tuple[str, ...]  # from the outermost to the one that holds photographs

_NUMBER = re.compile(r"\d+ ?[._-] ?(?=\D)|\d+ (?=\D)")
# A genus and an epithet, with what may stand behind: more epithets, and an author or a remark, which has a sign in it.
_BINOMIAL = re.compile("[A-Z][a-z-]+ ([x\N{MULTIPLICATION SIGN}] ?)?[a-z][a-z.-]+( [a-z.-]+)*( .*[.&,()'0-9].*)?")
_LATIN = re.compile(r"([a-z-]+ )?[a-z-]*(a|us|um|is|i|ae|ens|ans)")  # without capitals, endings must tell
_STAGES = {"larva", "larvae", "pupa", "pupae", "imagines", "ova", "habitus"}  # no epithets, but endings of them


def spoken(folder: str) -> str:
    """The name of a folder with spaces in place of underscores, and without the number before it."""
    return _NUMBER.sub("", " ".join(folder.replace("_", " ").split()), count=1)


def are_scientific(chains: Collection[Folders]) -> bool:
    """Whether the names are scientific: in most of the chains that have a name of several words, or else in most."""
    spoken_chains = [[spoken(name) for name in chain] for chain in chains]
    several = [[name for name in chain if " " in name] for chain in spoken_chains]
    judged = [chain for chain in several if chain] or spoken_chains
    return 2 * sum(any(map(_is_scientific, chain)) for chain in judged) >= len(judged)


def _is_scientific(name: str) -> bool:
    capital = " " not in name and name[:1].isupper()
    return capital or bool(fields.seven_ranks(name) or _BINOMIAL.fullmatch(name) or _LATIN.fullmatch(name))


def path_of(chain: Folders) -> taxonomy.Path:
    """The taxon that scientific names of nested folders spell."""
    names = [spoken(name) for name in chain]
    species = next((i for i, name in enumerate(names) if " " in name and _is_scientific(name)), None)
    if species is not None and (path := fields.seven_ranks(names[species])):
        return path
    ranks = _ranks(names[:species])
    if species is not None:
        ranks |= {"genus": None, "species": names[species]}
    elif not ranks:  # "cf. Bellis", "Bellis sp. 2"
        ranks["genus"], _, ranks["species"] = names[0].partition(" ")
    return taxonomy.make_path(ranks)


def _ranks(names: Sequence[str]) -> dict[str, str | None]:
    """Names by rank: by its ending, or else the one after that of the folder above, from a kingdom or genus on."""
    ranks: dict[str, str | None] = {}
    place = -1  # of the rank of the folder above; -1: it has none
    for name in names:
        rank = fields.rank_by_ending(name)
        if rank and taxonomy.RANKS.index(rank) > place:  # Squamata is a class to some, below Reptilia an order
            place = taxonomy.RANKS.index(rank)
        elif "kingdom" in ranks and place < 5:
            place += 1
        elif "genus" not in ranks and " " not in name and name[:1].isupper() and (ranks or name == names[0]):
            place = 5
        elif place == 5 and _LATIN.fullmatch(name) and " " not in name and name not in _STAGES:
            place = 6
        else:
            continue
        ranks[taxonomy.RANKS[place]] = name
    return ranks
