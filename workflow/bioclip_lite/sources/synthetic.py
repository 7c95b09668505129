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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bioclip_lite import taxonomy
from bioclip_lite.errors import UserError
from bioclip_lite.randomness import digest, generator, uniform
from bioclip_lite.sources.sample import SPLITS, Sample
from bioclip_lite.sources.specimens import HABITATS, PATTERNS, PLANS, Traits, photograph

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
_ONSETS = "b c d f g l m n p r s t v b c d l m n p r s t br cl cr dr gl pl st tr ph th".split()
_VOWELS = "aaaeeeiioou"
_GENUS_ENDINGS = "us a is on ella ia".split()
_EPITHETS = "ensis ata osa ifera ula ica ina oides ii ana".split()
_NOUNS = {
    "beetle": "beetle chafer weevil ladybird borer skipjack".split(),
    "fish": "perch gudgeon wrasse dace bream darter".split(),
    "worm": "worm ragworm bristleworm fanworm lugworm".split(),
    "flower": "daisy aster campion windflower marigold pink".split(),
    "leaf": "fern maple clover bramble ivy sorrel".split(),
    "mushroom": "bonnet waxcap parasol brittlegill webcap".split(),
}
_COLOURS = "red orange yellow lime green teal azure blue violet magenta".split()


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
    """Numbers of taxa wanted from kingdom to genus: 3 kingdoms, 6 phyla, then by a constant factor down to species."""
    growth = max(species / 6, 1.0) ** (1 / 5)
    return [min(species, n) for n in (3, *(round(6 * growth**i) for i in range(5)))]


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
            inherited = {name: values[int(rng.integers(len(values)))] for name, values in states.items()}
        else:
            traits.append(traits[lineage.parent] + rng.normal(0.0, _KICK, n) + drift)
            inherited = characters[lineage.parent]
        now = {}
        for name, values in states.items():
            jumps = rng.random() < 1.0 - math.exp(-_JUMPS[name] * span)
            now[name] = values[int(rng.integers(len(values)))] if jumps else inherited[name]
        characters.append(now)
    return traits, characters


# --------------------------------------------------------------------------------------------------------------- names


def _stem(rng: np.random.Generator, syllables: int) -> str:
    parts = [_ONSETS[int(rng.integers(len(_ONSETS)))] + _VOWELS[int(rng.integers(len(_VOWELS)))] for _ in range(syllables)]
    return "".join(parts) + "bdlmnprstv"[int(rng.integers(10))]


class _Namer:
    """Gives each taxon a name when it is first met; a family and an order are named after their first genus."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.names: dict[tuple[int, ...], str] = {}
        self.stems: dict[tuple[int, ...], str] = {}
        self.used: set[str] = set()

    def _fresh_stem(self, syllables: int) -> str:
        while (stem := _stem(self.rng, syllables)) in self.used:
            pass
        self.used.add(stem)
        return stem

    def path(self, clade: tuple[int, ...], endings: tuple[str, ...]) -> taxonomy.Path:
        """The names of a species from the lineages that are its taxa, kingdom to species."""
        genus_stem = self.stems.setdefault(clade[:6], self._fresh_stem(2 + int(self.rng.random() < 0.35)))
        for rank in range(7):
            taxon = clade[: rank + 1]
            if taxon in self.names:
                continue
            if rank < 3:
                name = (self._fresh_stem(1 + rank % 2) + endings[rank]).capitalize()
            elif rank < 5:
                name = (genus_stem + endings[rank]).capitalize()
            elif rank == 5:
                name = (genus_stem + _GENUS_ENDINGS[int(self.rng.integers(len(_GENUS_ENDINGS)))]).capitalize()
            else:
                name = self._fresh_stem(1 + int(self.rng.random() < 0.6)) + _EPITHETS[int(self.rng.integers(10))]
            self.names[taxon] = name
        return tuple(self.names[clade[: rank + 1]] for rank in range(7))


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
def tree_of_life(seed: int, species: int, unseen: int) -> tuple[Species, ...]:
    """The species of the sample, in the order of the tree."""
    # Yule trees are often lopsided: of a few, take the one with the most even phyla, hence body plans.
    trees = [_ranked_tree(species, generator(seed, "synthetic", "tree", i)) for i in range(24)]
    lineages, clades = min(trees, key=lambda tree: sum(n * n for n in Counter(c[1] for c in tree[1]).values()))
    rng = generator(seed, "synthetic", "traits")
    traits, characters = _evolve(lineages, rng)
    plans, codes = _body_plans(clades)
    unseen_tips = _choose_unseen(clades, unseen, seed)

    namer, found = _Namer(rng), []
    nouns: dict[int, str] = {}
    for clade in sorted(clades):
        plan = plans[clade[1]]
        choice = _NOUNS[plan]
        noun = nouns.setdefault(clade[4], choice[int(rng.integers(len(choice)))])  # one noun per family
        tip = clade[-1]
        pattern, habitat = characters[tip]["pattern"], characters[tip]["habitat"]
        path = namer.path(clade, codes[clade[0]])
        common_name = _common_name(noun, pattern, traits[tip], rng)
        found.append(Species(path, common_name, plan, pattern, habitat, traits[tip], tip not in unseen_tips))
    return tuple(found)


def _body_plans(clades: list[tuple[int, ...]]) -> tuple[dict[int, str], dict[int, tuple[str, ...]]]:
    """A body plan for each phylum and name endings for each kingdom.

    The kingdom with most phyla is that of animals, the next of plants, the last of fungi.
    """
    phyla: dict[int, list[int]] = {}
    for kingdom, phylum, *_ in sorted(clades):
        members = phyla.setdefault(kingdom, [])
        if phylum not in members:
            members.append(phylum)
    plans, endings = {}, {}
    for place, kingdom in enumerate(sorted(phyla, key=lambda k: (-len(phyla[k]), k))):
        forms, endings[kingdom] = _CODES[place % len(_CODES)]
        for i, phylum in enumerate(phyla[kingdom]):
            plans[phylum] = forms[i % len(forms)]
    return plans, endings


def _choose_unseen(clades: list[tuple[int, ...]], number: int, seed: int) -> set[int]:
    """Tips whose species get no training photographs; each leaves a seen species in its genus."""
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


def _species(params: dict[str, Any]) -> tuple[Species, ...]:
    settings = params["synthetic"]
    return tree_of_life(params["seed"], settings["species"], settings["unseen_species"])


def samples(params: dict[str, Any]) -> Iterator[Sample]:
    """All photographs, by species and split. Locators are "<genus_epithet>/<split>/<individual>/<photograph>"."""
    images = params["synthetic"]["images"]
    for species in _species(params):
        for split in SPLITS if species.seen else ("test",):
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


def read(params: dict[str, Any], locator: str) -> bytes:
    """The JPEG file of one photograph. Raises FileNotFoundError for a locator of another tree."""
    settings = params["synthetic"]
    name = locator.split("/", 1)[0]
    species = next((s for s in _species(params) if s.name == name), None)
    if species is None:
        raise FileNotFoundError(f"no species {name} in this tree")
    specimen = locator.rsplit("/", 1)[0]
    traits = species.traits + settings["within_species"] * generator(
        params["seed"], "synthetic", "specimen", specimen
    ).standard_normal(len(Traits._fields))
    rng = generator(params["seed"], "synthetic", "photograph", locator)
    pixels = photograph(
        species.plan, species.pattern, species.habitat, _shown(traits), rng, settings["image_size"], settings["nuisance"]
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(75, 96)))
    return file.getvalue()
