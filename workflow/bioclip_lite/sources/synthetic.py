"""The built-in sample: photographs of a tree of life that never was.

A phylogeny grows by a Yule process (pure birth; Yule 1925), is cut into seven ranks at fixed numbers of lineages, and
carries traits: continuous ones by Brownian motion with a jump at each split (Felsenstein 1985; punctuated), pattern and
habitat by Markov jumps. So related species look alike, as in nature, and a model can be right about the genus of a
species it has never seen. Each photograph depends on the seed and the specimen's name alone.
"""

import functools
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bioclip_lite.sources.sample import SPLITS, Sample
from bioclip_lite.sources.specimens import HABITATS, PATTERNS, Traits, photograph
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import digest, generator, uniform

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

_ROOT_SPREAD = 1.2  # standard deviation of the traits at the root, on their logit scale
_DRIFT = 2.0  # of Brownian motion from root to tips
_KICK = 0.5  # of the jump at each split
_JUMPS = {"pattern": 2.0, "habitat": 4.0}  # expected number of Markov jumps from root to tip
_PAIRED = 0.3  # share of individuals photographed twice

# Nomenclature differs by kingdom: its body plans, and the endings from kingdom to family.
_CODES = (
    (("beetle", "fish", "worm"), ("ozoa", "opoda", "omorpha", "iformes", "idae")),
    (("flower", "leaf"), ("oviridia", "ophyta", "opsida", "ales", "aceae")),
    (("mushroom",), ("ofungi", "omycota", "omycetes", "ales", "aceae")),
)
_ONSETS = (*"bcdfglmnprstvbcdlmnprst", "br", "cl", "cr", "dr", "gl", "pl", "st", "tr", "ph", "th")
_CODAS = "bdlmnprstv"
_VOWELS = "aaaeeeiioou"
_GENUS_ENDINGS = ("us", "a", "is", "on", "ella", "ia")
_EPITHET_ENDINGS = ("ensis", "ata", "osa", "ifera", "ula", "ica", "ina", "oides", "ii", "ana")
_NOUNS = {
    "beetle": ("beetle", "chafer", "weevil", "ladybird", "borer", "skipjack"),
    "fish": ("perch", "gudgeon", "wrasse", "dace", "bream", "darter"),
    "worm": ("worm", "ragworm", "bristleworm", "fanworm", "lugworm"),
    "flower": ("daisy", "aster", "campion", "windflower", "marigold", "pink"),
    "leaf": ("fern", "maple", "clover", "bramble", "ivy", "sorrel"),
    "mushroom": ("bonnet", "waxcap", "parasol", "brittlegill", "webcap"),
}
_COLOURS = ("red", "orange", "yellow", "lime", "green", "teal", "azure", "blue", "violet", "magenta")


@dataclass(frozen=True)
class Species:
    path: taxonomy.Path
    common_name: str | None
    plan: str
    pattern: str
    habitat: str
    traits: np.ndarray  # float64 [16], logit scale, in the order of Traits
    seen: bool  # has training photographs

    @property
    def name(self) -> str:
        return f"{self.path[5]}_{self.path[6]}".lower()


@dataclass
class _Lineage:
    parent: int  # index of the lineage it split from, -1 for the root
    birth: float
    death: float = math.inf


# ----------------------------------------------------------------------------------------------------------- phylogeny


def yule_tree(species: int, rng: np.random.Generator) -> tuple[list[_Lineage], list[int]]:
    """A pure-birth tree, conditioned on its number of species, scaled to unit height.

    Returns the lineages, parents before children, and the indices of those alive at time 1.
    """
    lineages, alive, time = [_Lineage(-1, 0.0)], [0], 0.0
    while len(alive) < species:
        time += rng.exponential(1 / len(alive))
        parent = alive.pop(int(rng.integers(len(alive))))
        lineages[parent].death = time
        for _ in range(2):
            lineages.append(_Lineage(parent, time))
            alive.append(len(lineages) - 1)
    time += rng.exponential(1 / len(alive))
    for lineage in lineages:
        lineage.birth /= time
        lineage.death = min(lineage.death / time, 1.0)
    return lineages, alive


def rank_sizes(species: int) -> list[int]:
    """Numbers of taxa wanted from kingdom to genus: up to 3 kingdoms and 6 phyla, then growing by a constant factor."""
    phyla = min(max(round(species**0.43), 2), 6)
    growth = (species / phyla) ** (1 / 5)
    return [max(2, phyla // 2), *(round(phyla * growth**i) for i in range(5))]


def _ancestor(lineages: list[_Lineage], lineage: int, time: float) -> int:
    while lineages[lineage].birth > time:
        lineage = lineages[lineage].parent
    return lineage


def _ranked_tree(species: int, rng: np.random.Generator) -> tuple[list[_Lineage], list[tuple[int, ...]]]:
    """A tree, and for each species the seven lineages, kingdom to species, that are its taxa."""
    lineages, alive = yule_tree(species, rng)
    splits = sorted({lineage.birth for lineage in lineages})  # at the k-th birth time (from 0) live k + 1 lineages
    cuts = [splits[n - 1] for n in rank_sizes(species)]
    return lineages, [(*(_ancestor(lineages, tip, time) for time in cuts), tip) for tip in alive]


def _evolve(lineages: list[_Lineage], rng: np.random.Generator) -> tuple[list[np.ndarray], list[dict[str, str]]]:
    """Continuous traits and discrete characters at the end of each lineage."""
    states = {"pattern": PATTERNS, "habitat": tuple(HABITATS)}
    n = len(Traits._fields)
    traits: list[np.ndarray] = []
    characters: list[dict[str, str]] = []
    for lineage in lineages:
        span = lineage.death - lineage.birth
        drift = rng.normal(0.0, _DRIFT * math.sqrt(span), n)
        if lineage.parent < 0:
            traits.append(rng.normal(0.0, _ROOT_SPREAD, n) + drift)
            inherited = {name: _pick(rng, values) for name, values in states.items()}
        else:
            traits.append(traits[lineage.parent] + rng.normal(0.0, _KICK, n) + drift)
            inherited = characters[lineage.parent]
        now = {}
        for name, values in states.items():
            jumps = rng.random() < 1.0 - math.exp(-_JUMPS[name] * span)
            now[name] = _pick(rng, values) if jumps else inherited[name]
        characters.append(now)
    return traits, characters


# --------------------------------------------------------------------------------------------------------------- names


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _paths(
    clades: list[tuple[int, ...]], endings: dict[int, tuple[str, ...]], rng: np.random.Generator
) -> dict[int, taxonomy.Path]:
    """The seven names of each species, by its tip.

    A family and an order bear the stem of their first genus. As among real names, epithets are shared by species of
    different genera, and one genus name stands in every kingdom.
    """
    used: set[str] = set()

    def stem(syllables: int) -> str:
        tries = 0
        while True:
            length = syllables + tries // 20  # one syllable makes 1,450 words, fewer than a large tree has epithets
            word = "".join(_pick(rng, _ONSETS) + _pick(rng, _VOWELS) for _ in range(length)) + _pick(rng, _CODAS)
            if word not in used:
                used.add(word)
                return word
            tries += 1

    epithets = [stem(1 + int(rng.random() < 0.6)) + _pick(rng, _EPITHET_ENDINGS) for _ in clades]
    names: dict[tuple[int, ...], str] = {}
    paths: dict[int, taxonomy.Path] = {}
    taken: set[tuple[str, str]] = set()
    first_genus = ""
    for clade in sorted(clades):
        if clade[:6] not in names:
            root = stem(2 + int(rng.random() < 0.35))
            genus = (root + _pick(rng, _GENUS_ENDINGS)).capitalize()
            first_genus = first_genus or genus
            names[clade[:6]] = genus if clade[:1] in names else first_genus
            for rank in range(5):
                if clade[: rank + 1] not in names:
                    word = root if rank > 2 else stem(1 + rank % 2)
                    names[clade[: rank + 1]] = (word + endings[clade[0]][rank]).capitalize()
        genus = names[clade[:6]]
        while (genus, epithet := _pick(rng, epithets)) in taken:
            pass
        taken.add((genus, epithet))
        paths[clade[6]] = (*(names[clade[: rank + 1]] for rank in range(6)), epithet)
    return paths


def _common_name(noun: str, pattern: str, traits: np.ndarray, rng: np.random.Generator) -> str | None:
    """ "Striped dark red beetle"; none for one species in ten, as for many real ones."""
    hue = int(_shown(traits).hue % 1.0 * len(_COLOURS) + 0.5) % len(_COLOURS)
    tone = "dark " if traits[3] < -1.5 else "pale " if traits[2] < -1.5 else ""
    spoken = rng.random() >= 0.1
    return f"{pattern} {tone}{_COLOURS[hue]} {noun}".capitalize() if spoken else None


# ------------------------------------------------------------------------------------------------------------ the tree


def _shown(traits: np.ndarray) -> Traits:
    """Traits as drawn: the logistic function of each, but for the hues, which go round the colour circle."""
    logit = traits.tolist()
    return Traits(0.16 * logit[0], 0.22 * logit[1], *(1.0 / (1.0 + math.exp(-value)) for value in logit[2:]))


@functools.lru_cache(maxsize=4)
def tree_of_life(seed: int, species: int, unseen: int) -> dict[str, Species]:
    """The species of the sample by name, in the order of the tree."""
    # Yule trees are often lopsided: of a few, take the one with the most even phyla, hence body plans.
    trees = [_ranked_tree(species, generator(seed, "synthetic", "tree", i)) for i in range(24)]
    lineages, clades = min(trees, key=lambda tree: sum(n * n for n in Counter(c[1] for c in tree[1]).values()))
    rng = generator(seed, "synthetic", "traits")
    traits, characters = _evolve(lineages, rng)
    plans, endings = _body_plans(clades)
    unseen_tips = _choose_unseen(clades, unseen, seed)

    paths = _paths(clades, endings, generator(seed, "synthetic", "names"))
    found = []
    for clade in sorted(clades):
        plan, tip = plans[clade[1]], clade[6]
        pattern, habitat = characters[tip]["pattern"], characters[tip]["habitat"]
        path = paths[tip]
        noun = _pick(generator(seed, "synthetic", "noun", *path[:5]), _NOUNS[plan])  # one per family
        common_name = _common_name(noun, pattern, traits[tip], rng)
        found.append(Species(path, common_name, plan, pattern, habitat, traits[tip], tip not in unseen_tips))
    return {species.name: species for species in found}


def _body_plans(clades: list[tuple[int, ...]]) -> tuple[dict[int, str], dict[int, tuple[str, ...]]]:
    """A body plan for each phylum and name endings for each kingdom.

    The kingdom with most phyla is that of animals, the next of plants, the last of fungi.
    """
    phyla: dict[int, list[int]] = {}
    for kingdom, phylum, *_ in sorted(clades):
        members = phyla.setdefault(kingdom, [])
        if phylum not in members:
            members.append(phylum)
    plans: dict[int, str] = {}
    endings: dict[int, tuple[str, ...]] = {}
    for place, kingdom in enumerate(sorted(phyla, key=lambda k: (-len(phyla[k]), k))):
        forms, endings[kingdom] = _CODES[place % len(_CODES)]
        for i, phylum in enumerate(phyla[kingdom]):
            plans[phylum] = forms[i % len(forms)]
    return plans, endings


def _choose_unseen(clades: list[tuple[int, ...]], number: int, seed: int) -> set[int]:
    """Tips whose species get no training photographs; each leaves a seen species in its genus.

    Like the species that somebody adds to a list: a published CLIP has seen them, and its student has not.
    """
    left: dict[int, int] = {}
    for clade in clades:
        left[clade[5]] = left.get(clade[5], 0) + 1
    chosen: set[int] = set()
    for clade in sorted(clades, key=lambda c: digest(seed, "synthetic", "unseen", c[-1])):
        if len(chosen) < number and left[clade[5]] > 1:
            left[clade[5]] -= 1
            chosen.add(clade[-1])
    if len(chosen) < number:
        raise UserError(
            f"params.yaml, index.synthetic: unseen_species is {number}, but in a tree of {len(clades)} species only "
            f"{len(chosen)} can go unseen and leave a relative in their genus; lower it or raise species"
        )
    return chosen


# ---------------------------------------------------------------------------------------------------------- the source


def _tree(params: "Origin") -> dict[str, Species]:
    settings = params["synthetic"]
    return tree_of_life(params["seed"], settings["species"], settings["unseen_species"])


def samples(params: "Origin") -> Iterator[Sample]:
    """All photographs, by species and split. Locators are "<genus_epithet>/<split>/<individual>/<photograph>"."""
    images = params["synthetic"]["images"]
    for species in _tree(params).values():
        for split in SPLITS if species.seen else ("pretrain", "test"):
            for individual, photo in _photographs(params["seed"], species.name, split, images.get(split, 0)):
                group = f"{species.name}-{split}-{individual:04d}"
                yield Sample(
                    key=f"{group}-{photo}",
                    locator=f"{species.name}/{split}/{individual:04d}/{photo}",
                    group=group,
                    path=species.path,
                    common_name=species.common_name,
                    split=split,
                    licence="CC0-1.0",
                    attribution="bioclip-lite synthetic sample",
                )


def _photographs(seed: int, species: str, split: str, number: int) -> Iterator[tuple[int, str]]:
    """(individual, photograph) pairs; more of them leave the earlier ones as they are."""
    individual = 0
    while number > 0:
        twice = uniform(seed, "synthetic", "photographs", species, split, individual) < _PAIRED
        for photo in "ab"[: min(1 + twice, number)]:
            yield individual, photo
            number -= 1
        individual += 1


def state(params: "Origin", locator: str) -> str:
    """Photographs are drawn from the parameters and nothing else."""
    return "drawn"


def read(params: "Origin", locator: str) -> bytes:
    """The JPEG file of one photograph. Raises FileNotFoundError for a locator of another tree."""
    settings = params["synthetic"]
    name = locator.split("/", 1)[0]
    try:
        species = _tree(params)[name]
    except KeyError:
        raise FileNotFoundError(f"no species {name} in this tree") from None
    specimen = locator.rsplit("/", 1)[0]
    traits = species.traits + settings["within_species"] * generator(
        params["seed"], "synthetic", "specimen", specimen
    ).standard_normal(len(Traits._fields))
    rng = generator(params["seed"], "synthetic", "photograph", locator)
    size, nuisance = settings["image_size"], settings["nuisance"]
    pixels = photograph(species.plan, species.pattern, species.habitat, _shown(traits), rng, size, nuisance)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(75, 96)))
    return file.getvalue()
