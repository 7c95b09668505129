import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioclip_lite import taxonomy

NAMES = st.sampled_from(["Aa", "Ba", "Ca"])
PATHS = st.tuples(*[st.none() | NAMES] * 6, st.none() | st.sampled_from(["alba", "nigra"])).filter(any)


def with_ranks(**names: str) -> taxonomy.Path:
    return tuple(names.get(rank) for rank in taxonomy.RANKS)


@pytest.mark.parametrize("word", ["", "  ", "nan", "None", "NULL", "n/a", "unknown", "Incertae  sedis", None])
def test_the_many_ways_of_writing_missing(word: str | None) -> None:
    assert taxonomy.clean(word) is None


@pytest.mark.parametrize(
    ("species", "genus", "expected"),
    [
        ("excelsa", "Amanita", "excelsa"),
        ("Amanita excelsa", "Amanita", "excelsa"),
        ("amanita excelsa", "amanita", "amanita"),  # no capital: taken for an epithet with something after it
        ("excelsa Gonn. & Rabenh.", "Amanita", "excelsa"),
        ("Amanita excelsa (Fr.) Bertill., 1866", "Amanita", "excelsa"),
        ("alba subsp. nivea", "Salix", "alba"),
        ("x media", "Viola", "\N{MULTIPLICATION SIGN} media"),
        ("alba x nigra", "Salix", "alba \N{MULTIPLICATION SIGN} nigra"),
        ("c-album", "Polygonia", "c-album"),
        ("sp. BOLD:AAB1234", "Apis", None),
        ("cf. alba", "Salix", None),
        ("spp.", "Salix", None),
        ("", "Salix", None),
        ("Bellis perennis", None, "perennis"),
    ],
)
def test_species_as_they_are_written_in_the_wild(species: str, genus: str | None, expected: str | None) -> None:
    path = taxonomy.make_path({"genus": genus, "species": species})
    assert path[6] == expected
    assert path[5] == (genus.capitalize() if genus else "Bellis")


@given(PATHS)
def test_make_path_leaves_a_clean_path_as_it_is(path: taxonomy.Path) -> None:
    assert taxonomy.make_path(dict(zip(taxonomy.RANKS, path, strict=True))) == path


def test_an_empty_middle_rank_survives() -> None:
    goldfish = taxonomy.make_path({"phylum": "CHORDATA", "class": "", "genus": "carassius", "species": "Auratus"})
    assert goldfish == with_ranks(phylum="Chordata", genus="Carassius", species="auratus")
    assert taxonomy.label_rank(goldfish) == 6
    assert taxonomy.scientific_name(goldfish) == "Carassius auratus"


def test_homonyms_are_different_taxa() -> None:
    bird, tree = (with_ranks(kingdom=k, genus="Morus", species="alba") for k in ("Animalia", "Plantae"))
    assert taxonomy.taxon_id(bird) != taxonomy.taxon_id(tree)
    _, genera = taxonomy.nodes_at([bird, tree], 5)
    assert len(genera) == 2


def test_a_name_at_another_rank_is_another_taxon() -> None:
    assert taxonomy.taxon_id(with_ranks(order="Aa")) != taxonomy.taxon_id(with_ranks(family="Aa"))


@given(PATHS, PATHS)
def test_ids_are_equal_only_for_equal_paths(a: taxonomy.Path, b: taxonomy.Path) -> None:
    assert (taxonomy.taxon_id(a) == taxonomy.taxon_id(b)) == (a == b)


@given(st.sets(PATHS, min_size=1))
def test_every_path_is_a_leaf_or_above_one(paths: set[taxonomy.Path]) -> None:
    leaves = taxonomy.label_space(paths)
    assert set(leaves) <= paths
    for leaf in leaves:
        assert not any(taxonomy.is_ancestor(leaf, other) for other in leaves)
    for path in paths - set(leaves):
        assert any(taxonomy.is_ancestor(path, leaf) for leaf in leaves)


@given(st.sets(PATHS, min_size=1), st.integers(0, 6))
def test_the_node_of_a_leaf_is_its_prefix(paths: set[taxonomy.Path], rank: int) -> None:
    leaves = taxonomy.label_space(paths)
    index, nodes = taxonomy.nodes_at(leaves, rank)
    assert len(set(nodes)) == len(nodes)
    for leaf, i in zip(leaves, index, strict=True):
        assert (i == -1 and leaf[rank] is None) or nodes[i] == leaf[: rank + 1]


def test_inaturalist_2021_has_ten_thousand_distinct_taxa() -> None:
    if "BIOCLIP_LITE_SAMPLES" not in os.environ:
        pytest.skip("BIOCLIP_LITE_SAMPLES is not set")
    with Path(os.environ["BIOCLIP_LITE_SAMPLES"], "inat2021-categories.csv").open(newline="") as table:
        paths = [taxonomy.make_path({**row, "species": row["specific_epithet"]}) for row in csv.DictReader(table)]
    assert len(paths) == 10_000
    assert len({taxonomy.taxon_id(path) for path in paths}) == 10_000
    assert len(taxonomy.label_space(paths)) == 10_000
    index, genera = taxonomy.nodes_at(paths, 5)
    shared = {p[5] for p in paths if p[0] == "Animalia"} & {p[5] for p in paths if p[0] == "Plantae"}
    assert len(shared) == 16
    assert len(genera) > len({p[5] for p in paths}) and np.all(index >= 0)
