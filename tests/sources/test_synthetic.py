import io
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__
from PIL import Image

from bioclip_lite.params.jobs import Origin
from bioclip_lite.sources import synthetic
from bioclip_lite.sources.sample import Sample
from bioclip_lite.sources.specimens import HABITATS, PATTERNS, PLANS, Traits, angle, grid, photograph, wave
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import generator
from support.photographs import synthetic_params


def listed(**more: Any) -> list[Sample]:
    return list(synthetic.samples(synthetic_params(**more)))


def pixels(params: Origin, locator: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(synthetic.read(params, locator))))


@pytest.mark.parametrize("species", [8, 13, 64, 300, 4000])
def test_the_tree_is_cut_into_seven_ranks(species: int) -> None:
    found = synthetic.tree_of_life(3, species, 1).values()
    sizes = [len({s.path[: rank + 1] for s in found}) for rank in range(7)]
    assert sizes == [*synthetic.rank_sizes(species), species] == sorted(sizes)
    assert all(all(s.path) for s in found)
    assert len(found) == species
    assert {s.plan for s in found} <= set(PLANS)


def test_kin_look_more_alike_than_strangers() -> None:
    found = [*synthetic.tree_of_life(0, 64, 0).values()]
    distance = defaultdict(list)
    for i, a in enumerate(found):
        for b in found[:i]:
            shared = sum(x == y for x, y in zip(a.path, b.path, strict=True))
            distance[shared].append(float(np.linalg.norm(a.traits - b.traits)))
    means = [np.mean(distance[shared]) for shared in (6, 5, 4, 0)]
    assert means == sorted(means)
    assert all(a.plan == b.plan for a in found for b in found if a.path[:2] == b.path[:2])


def test_an_unseen_species_is_known_to_the_teacher_alone_and_has_a_seen_relative() -> None:
    by_species: dict[taxonomy.Path, Counter[str | None]] = defaultdict(Counter)
    for sample in listed(species=16, unseen_species=3):
        by_species[sample.path][sample.split] += 1
    unseen = [path for path, splits in by_species.items() if set(splits) <= {"pretrain", "test"}]
    assert len(unseen) == 3
    seen_genera = {path[:6] for path in by_species if path not in unseen}
    assert {path[:6] for path in unseen} <= seen_genera
    assert by_species[unseen[0]]["test"] == 2
    others = [splits for path, splits in by_species.items() if path not in unseen]
    assert all(s == {"pretrain": 2, "train": 3, "val": 1, "calibration": 1, "test": 2} for s in others)


def test_too_many_unseen_species_are_refused() -> None:
    with pytest.raises(UserError, match="unseen_species is 9"):
        listed(unseen_species=9)


def test_keys_are_unique_and_individuals_keep_to_one_split() -> None:
    samples = listed(images={"pretrain": 5, "train": 20, "val": 5, "calibration": 5, "test": 5})
    assert len({s.key for s in samples}) == len(samples)
    assert all(re.fullmatch("[0-9a-z_-]+", s.key) for s in samples)
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    assert {len(group) for group in groups.values()} == {1, 2}
    assert all(len({(s.split, s.path) for s in group}) == 1 for group in groups.values())


def test_a_photograph_depends_on_seed_and_name_alone() -> None:
    params = synthetic_params()
    locator = next(iter(synthetic.samples(params))).locator
    once = synthetic.read(params, locator)
    synthetic.tree_of_life.cache_clear()
    grid.cache_clear()
    synthetic.read(params, locator.replace("/a", "/b"))
    assert synthetic.read(params, locator) == once
    assert synthetic.read(params | {"where": {"class": ["x"]}, "min_side": 9}, locator) == once


def test_every_processor_draws_the_same_bytes() -> None:
    """Without NumPy's and libjpeg's vector units a photograph has the same bytes, so shards may be made anywhere."""
    script = (
        "from support.photographs import synthetic_params; from bioclip_lite.sources import synthetic; import hashlib;"
        "p = synthetic_params(); digest = hashlib.md5();"
        "[digest.update(synthetic.read(p, s.locator)) for s in synthetic.samples(p)];"
        "print(digest.hexdigest())"
    )
    plain = {"NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__), "JSIMD_FORCENONE": "1"}
    digests = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for more in ({}, plain)
    }
    assert len(digests) == 1


def test_more_images_leave_the_earlier_ones_as_they_are() -> None:
    images = {"pretrain": 0, "train": 3, "val": 1, "calibration": 1, "test": 1}
    few = {s.key for s in listed(images=images)}
    assert few < {s.key for s in listed(images={**images, "train": 6})}


def test_another_seed_makes_another_world() -> None:
    params = synthetic_params()
    other = params | {"seed": 1}
    assert {s.path for s in synthetic.samples(params)}.isdisjoint(s.path for s in synthetic.samples(other))
    with pytest.raises(FileNotFoundError):
        synthetic.read(other, next(iter(synthetic.samples(params))).locator)


def test_nuisance_is_what_sets_photographs_of_one_individual_apart() -> None:
    def gap(nuisance: float) -> float:
        params = synthetic_params(nuisance=nuisance)
        pairs = [
            [pixels(params, f"{name}/train/0000/{photo}").astype(float)[12:20, 12:20] for photo in "ab"]
            for name in synthetic.tree_of_life(0, 10, 1)
        ]
        return float(np.mean([np.abs(a - b).mean() for a, b in pairs]))

    assert 2 * gap(0.0) < gap(1.0)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("extreme", [0.0, 0.5, 1.0])
def test_every_body_plan_draws_any_traits(plan: str, extreme: float) -> None:
    traits = Traits(*[extreme] * len(Traits._fields))
    x, y = grid(48)
    drawing = PLANS[plan](x, y, traits)
    assert drawing.u.dtype == drawing.v.dtype == np.float32
    for distance, _ in drawing.shapes:
        assert distance.dtype == np.float32 and distance.shape == (48, 48) and np.isfinite(distance).all()
    inside = np.min([distance for distance, _ in drawing.shapes], axis=0) < 0
    assert 0.02 < inside.mean() < 0.9
    for pattern, habitat in zip(PATTERNS, HABITATS, strict=False):
        image = photograph(plan, pattern, habitat, traits, generator(plan, pattern), 48, 0.7)
        assert image.shape == (48, 48, 3) and image.dtype == np.uint8
        assert image.std() > 5


def test_portable_sine_and_angle() -> None:
    turns = np.linspace(-3, 3, 1001, dtype=np.float32)
    assert np.abs(wave(turns) - np.sin(2 * np.pi * turns)).max() < 2e-3
    x, y = grid(33)
    assert np.abs(angle(x, y) - np.arctan2(y, x) / (2 * np.pi))[(x != 0) | (y != 0)].max() < 4e-5


def test_names_are_those_of_species() -> None:
    for species in synthetic.tree_of_life(0, 64, 4).values():
        assert re.fullmatch("([A-Z][a-z]+ ){6}[a-z]+", " ".join(map(str, species.path)))
        assert taxonomy.make_path(dict(zip(taxonomy.RANKS, species.path, strict=True))) == species.path
    found = list(synthetic.tree_of_life(0, 64, 4).values())
    genera = {s.path[:6]: s.path[5] for s in found}
    assert len(set(genera.values())) == len(genera) - 2  # one name stands in each of three kingdoms
    assert len({s.path[6] for s in found}) < len(found)
    assert sum(s.common_name is None for s in found) in range(1, 16)
