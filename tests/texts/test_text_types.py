import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioclip_lite.taxa import taxonomy
from bioclip_lite.texts.text_types import TYPES, caption, draw_type

BEE = ("Animalia", "Arthropoda", "Insecta", "Hymenoptera", "Apidae", "Apis", "mellifera")
NAME = st.text("abcdefghij", min_size=3, max_size=8)
PATHS = st.tuples(*[st.none() | NAME.map(str.capitalize)] * 6, st.none() | NAME).filter(any)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sci", "a photo of Apis mellifera."),
        ("com", "a photo of Western honey bee."),
        ("taxon", "a photo of Animalia Arthropoda Insecta Hymenoptera Apidae Apis mellifera."),
        (
            "taxonTag",
            "a photo of kingdom Animalia phylum Arthropoda class Insecta order Hymenoptera family Apidae "
            "genus Apis species mellifera.",
        ),
        ("sci_com", "a photo of Apis mellifera with common name Western honey bee."),
        (
            "taxon_com",
            "a photo of Animalia Arthropoda Insecta Hymenoptera Apidae Apis mellifera with common name "
            "Western honey bee.",
        ),
        (
            "taxonTag_com",
            "a photo of kingdom Animalia phylum Arthropoda class Insecta order Hymenoptera family Apidae "
            "genus Apis species mellifera with common name Western honey bee.",
        ),
        ("lit", "A photo of a Western honey bee Animalia Arthropoda Insecta Hymenoptera Apidae Apis mellifera"),
    ],
)
def test_the_text_types(kind: str, expected: str) -> None:
    assert caption(BEE, "Western honey bee", kind) == expected


def test_without_a_common_name_the_scientific_name_stands_in() -> None:
    assert caption(BEE, None, "com") == "a photo of Apis mellifera."
    assert caption(BEE, None, "sci_com") == "a photo of Apis mellifera with common name Apis mellifera."


def test_a_genus_without_species() -> None:
    genus = (*BEE[:6], None)
    assert caption(genus, None, "sci") == "a photo of Apis."
    assert caption(genus, None, "com") == "a photo of Animalia Arthropoda Insecta Hymenoptera Apidae Apis."
    assert "species" not in caption(genus, "bee", "taxonTag_com")


def test_lit_columns_choose_and_order() -> None:
    assert caption(BEE, "honey bee", "lit", ["family", "common_name"]) == "A photo of a Apidae honey bee"
    assert caption(BEE, None, "lit", ["common_name"]) == "A photo of a Apis mellifera"


@given(PATHS, st.none() | NAME, st.sampled_from(TYPES))
def test_captions_say_only_what_is_known(path: taxonomy.Path, common_name: str | None, kind: str) -> None:
    text = caption(path, common_name, kind)
    assert "None" not in text and "nan" not in text.split() and "  " not in text
    known = {name for name in path if name} | ({common_name} if common_name else set())
    tags = {rank for rank, name in zip(taxonomy.RANKS, path, strict=True) if name} if "Tag" in kind else set()
    frame = {"A", "a", "photo", "of", "with", "common", "name"}
    assert set(text.removesuffix(".").split()) <= known | tags | frame
    for rank, name in zip(taxonomy.RANKS, path, strict=True):
        if kind.startswith("taxonTag"):
            assert (f" {rank} {name}" in text) == bool(name)
        elif kind.startswith("taxon") and name:
            assert name in text


def test_every_type_is_drawn_and_each_draw_repeats() -> None:
    draws = [draw_type(TYPES, 0, 1, f"key-{i}") for i in range(400)]
    assert set(draws) == set(TYPES)
    assert draws == [draw_type(TYPES, 0, 1, f"key-{i}") for i in range(400)]
    assert draws != [draw_type(TYPES, 0, 2, f"key-{i}") for i in range(400)]
