import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioclip_lite.taxa import taxonomy

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
        ("amanita excelsa", "amanita", "excelsa"),
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


@pytest.mark.parametrize(
    ("species", "genus", "expected"),
    [
        # subgenus
        ("Aedes (Stegomyia) aegypti (Linnaeus, 1762)", None, ("Aedes", "aegypti")),
        ("(Stegomyia) aegypti", "Aedes", ("Aedes", "aegypti")),
        ("aegypti", "Aedes (Stegomyia)", ("Aedes", "aegypti")),
        ("Rosa subg. Rosa canina", "Rosa", ("Rosa", "canina")),
        # authors
        ("Amanita excelsa Gonn. & Rabenh.", "Amanita", ("Amanita", "excelsa")),
        ("Pinus abies (L.) Karst., 1881", None, ("Pinus", "abies")),
        ("Bellis perennis Linnaeus 1758", None, ("Bellis", "perennis")),
        ("Alba Miller", "Salix", ("Salix", "alba")),
        # below the species
        ("Corvus corone cornix L.", None, ("Corvus", "corone")),
        ("alba subsp. nivea", "Salix", ("Salix", "alba")),
        ("excelsa var. alba Fr.", "Amanita", ("Amanita", "excelsa")),
        ("Adalia bipunctata f. typica", None, ("Adalia", "bipunctata")),
        ("vulgare nothosubsp. mantoniae", "Polypodium", ("Polypodium", "vulgare")),
        ("bison bison", "Bison", ("Bison", "bison")),
        ("alba s.l.", "Salix", ("Salix", "alba")),
        # hybrids
        ("Viola \N{MULTIPLICATION SIGN} media", "Viola", ("Viola", "\N{MULTIPLICATION SIGN} media")),
        ("Viola \N{MULTIPLICATION SIGN}media", "Viola", ("Viola", "\N{MULTIPLICATION SIGN} media")),
        ("Viola X media", "Viola", ("Viola", "\N{MULTIPLICATION SIGN} media")),
        ("Mentha nothosp. piperita", "Mentha", ("Mentha", "\N{MULTIPLICATION SIGN} piperita")),
        ("x Cupressocyparis leylandii", None, ("\N{MULTIPLICATION SIGN} Cupressocyparis", "leylandii")),
        (
            "\N{MULTIPLICATION SIGN} Cupressocyparis leylandii",
            "\N{MULTIPLICATION SIGN}Cupressocyparis",
            ("\N{MULTIPLICATION SIGN} Cupressocyparis", "leylandii"),
        ),
        ("Salix alba \N{MULTIPLICATION SIGN} S. fragilis", "Salix", ("Salix", "alba \N{MULTIPLICATION SIGN} fragilis")),
        ("Salix alba x Salix fragilis", None, ("Salix", "alba \N{MULTIPLICATION SIGN} fragilis")),
        (
            "Anas platyrhynchos \N{MULTIPLICATION SIGN} Mareca strepera",
            None,
            ("Anas", "platyrhynchos \N{MULTIPLICATION SIGN} Mareca strepera"),
        ),
        # not determined
        ("Apis sp. BOLD:AAB1234", None, ("Apis", None)),
        ("BOLD:AAB1234", "Apis", ("Apis", None)),
        ("Salix cf. alba", "Salix", ("Salix", None)),
        ("Salix aff. alba L.", None, ("Salix", None)),
        ("cf. Salix alba", None, (None, None)),
        ("alba?", "Salix", ("Salix", None)),
        ("alba agg.", "Rubus", ("Rubus", None)),
        ("Larus argentatus/fuscus", "Larus", ("Larus", None)),
        ("Salix hybrid", "Salix", ("Salix", None)),
        ("incertae sedis", "Bellis", ("Bellis", None)),
        # case
        ("MORUS ALBA L.", None, ("Morus", "alba")),
        ("MORUS ALBA", "MORUS", ("Morus", "alba")),
        ("morus alba", None, ("Morus", "alba")),
        # letters and marks
        ("Isoëtes lacustris", None, ("Isoetes", "lacustris")),
        ("Aloë vera", None, ("Aloe", "vera")),
        ("Müllerella bücheri", None, ("Muellerella", "buecheri")),
        ("d'urvillei", "Cyanea", ("Cyanea", "durvillei")),
        ("10-punctata", "Adalia", ("Adalia", "10-punctata")),
        ("<i>Bellis perennis</i>", None, ("Bellis", "perennis")),
        ("Bellis_perennis", None, ("Bellis", "perennis")),
        ("Bellis\N{NO-BREAK SPACE}perennis\N{ZERO WIDTH SPACE}", None, ("Bellis", "perennis")),
        # the name stands in the column of genera
        (None, "Bellis perennis L.", ("Bellis", "perennis")),
        ("Agaricus excelsus", "Amanita", ("Amanita", "excelsus")),
    ],
)
def test_full_names_and_epithets(
    species: str | None, genus: str | None, expected: tuple[str | None, str | None]
) -> None:
    path = taxonomy.make_path({"genus": genus, "species": species})
    assert path[5:] == expected
    again = taxonomy.make_path({"genus": path[5], "species": path[6]})
    assert again == path


def test_a_small_letter_may_be_an_epithet_that_repeats_the_genus() -> None:
    names = {"kingdom": "Animalia", "genus": "Rattus", "species": "rattus alexandrinus"}
    assert taxonomy.make_path(names)[5:] == ("Rattus", "rattus")
    names = {"kingdom": "Plantae", "genus": "Quercus", "species": "quercus robur"}  # not so among plants
    assert taxonomy.make_path(names)[5:] == ("Quercus", "robur")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        *(("Rosaceae Juss.", "Rosaceae"), ("Formicidae Latreille, 1809", "Formicidae"), ("ROSALES", "Rosales")),
        *(("Incertae sedis", None), ("incertae_sedis", None), ("Hymenoptera incertae sedis", None)),
        *(("not assigned", None), ("Fungi unassigned", None), ("unplaced", None), ("-", None), ("nan", None)),
        ("True bugs", "True bugs"),
    ],
)
def test_names_of_higher_ranks(written: str, expected: str | None) -> None:
    assert taxonomy.make_path({"order": written, "genus": "Aa"})[3] == expected


@given(st.fixed_dictionaries({rank: st.none() | st.text(max_size=30) for rank in taxonomy.RANKS}))
def test_any_text_gives_a_path(names: dict[str, str | None]) -> None:
    path = taxonomy.make_path(names)
    assert len(path) == 7
    assert all(name is None or name.strip() for name in path)
    "".join(filter(None, path)).encode()
    again = taxonomy.make_path(dict(zip(taxonomy.RANKS, path, strict=True)))
    assert again == taxonomy.make_path(dict(zip(taxonomy.RANKS, again, strict=True)))


WORDS = [
    *("Salix", "alba", "x", "\N{MULTIPLICATION SIGN}", "cf.", "sp.", "(L.)", "L.", "var.", "f.", "(Salix)", "SALIX"),
    *("subg.", "1881", "&", "et", "agg.", "?", "fragilis", "'", "-", "s.l."),
]


@given(st.lists(st.sampled_from(WORDS), max_size=6))
def test_any_order_of_words(words: list[str]) -> None:
    for genus in (None, "Salix"):
        path = taxonomy.make_path({"genus": genus, "species": " ".join(words)})
        assert path[5] in (None, "Salix", "Alba", "Fragilis", "\N{MULTIPLICATION SIGN} Salix", "Et")
        assert genus is None or path[5] == genus
        assert taxonomy.make_path(dict(zip(taxonomy.RANKS, path, strict=True))) == path


def test_parsing_names() -> None:
    assert taxonomy.parse_name("Corvus corone subsp. cornix L.")[:3] == ("Corvus", "corone", ("cornix",))
    assert taxonomy.parse_name("MORUS")[:3] == ("Morus", None, ())
    assert taxonomy.parse_name("  ")[:2] == (None, None)


HOMONYMS = [
    *("Ammophila", "Scoparia", "Brunia", "Anticlea", "Dysphania", "Colocasia", "Baileya", "Dryas", "Amorpha", "Iris"),
    *("Arenaria", "Chloris", "Linaria", "Oenanthe", "Prunella", "Morus"),
]


@pytest.mark.parametrize("genus", HOMONYMS)
def test_the_homonyms_of_inaturalist_2021(genus: str) -> None:
    animal, plant = (taxonomy.make_path({"kingdom": k, "genus": genus}) for k in ("Animalia", "PLANTAE"))
    assert taxonomy.taxon_id(animal) != taxonomy.taxon_id(plant)
    assert taxonomy.conflict(animal, plant) and not taxonomy.conflict(animal, with_ranks(genus=genus))
    assert len(taxonomy.label_space([animal, plant])) == 2


def test_a_genus_and_an_order_of_one_name() -> None:
    mammals = taxonomy.make_path({"kingdom": "Animalia", "order": "Proboscidea"})
    unicorn_plant = taxonomy.make_path({"kingdom": "Plantae", "genus": "Proboscidea"})
    assert len({taxonomy.taxon_id(mammals), taxonomy.taxon_id(unicorn_plant)}) == 2


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
