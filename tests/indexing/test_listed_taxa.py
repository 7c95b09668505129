"""Taxa that a list adds to what was photographed, and what the list says of its taxa."""

from collections import Counter
from pathlib import Path

import pytest

from bioclip_lite.indexing import listed_taxa, names
from bioclip_lite.indexing.names import Index, Match
from bioclip_lite.taxa import taxonomy
from support.photographs import DAISY, GANNET, MULBERRY

NOTHING = (None,) * 7
SPARROW = ("Animalia", "Chordata", "Aves", "Passeriformes", "Passeridae", "Passer", "domesticus")


def bare(genus: str, epithet: str | None = None) -> taxonomy.Path:
    return (*NOTHING[:5], genus, epithet)


def lines(tmp_path: Path, text: str, *photographed: taxonomy.Path, synonyms: str = "") -> dict[str, Match]:
    """What each line gives, beside photographs of a daisy, a mulberry, a gannet and a sparrow."""
    known = Index()
    common_names: dict[taxonomy.Path, list[str]] = {
        DAISY: ["Daisy"],
        SPARROW: ["House sparrow", "Sparrow"],
        GANNET: ["Northern gannet"],
    }
    for path in photographed or (DAISY, MULBERRY, GANNET, SPARROW):
        known.add(path, common_names.get(path, ()))
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    (tmp_path / "synonyms.csv").write_text(f"name,accepted\n{synonyms}\n", encoding="utf-8")
    entries = names.read_species_list(tmp_path / "list.csv")
    accepted = names.read_synonyms(tmp_path / "synonyms.csv", entries)
    photographs: Counter[taxonomy.Path] = Counter({DAISY: 32})
    matches = listed_taxa.add_taxa(names.match(entries, known, accepted), known, accepted, photographs)
    return {match.entry.text: match for match in names.suggest(matches, known)}


def added(tmp_path: Path, text: str, *photographed: taxonomy.Path) -> dict[str, taxonomy.Path | None]:
    return {line: match.added for line, match in lines(tmp_path, text, *photographed).items()}


# ------------------------------------------------------------------------------------------------------- who is added


def test_a_species_of_a_photographed_genus_takes_its_ranks(tmp_path: Path) -> None:
    found = lines(tmp_path, "Bellis annua L.\nBellis perennis\n")
    assert found["Bellis annua L."].added == (*DAISY[:6], "annua")
    assert found["Bellis annua L."].change == "ranks of its relatives"
    assert found["Bellis perennis"].nodes == (DAISY,) and found["Bellis perennis"].added is None


def test_without_relatives_it_stays_as_it_is(tmp_path: Path) -> None:
    assert added(tmp_path, "Bellis perennis\nTaraxacum officinale\n")["Taraxacum officinale"] == bare(
        "Taraxacum", "officinale"
    )


def test_homonyms_give_no_ranks_unless_a_kingdom_settles_them(tmp_path: Path) -> None:
    text = "scientific_name,kingdom\nMorus nigra,\nMorus rubra,Plantae\nMorus capensis,Animalia\n"
    found = added(tmp_path, text)
    assert found["Morus nigra"] == bare("Morus", "nigra")
    assert found["Morus rubra"] == (*MULBERRY[:6], "rubra") and found["Morus capensis"] == (*GANNET[:6], "capensis")


def test_ranks_come_from_listed_relatives_and_from_a_photographed_family(tmp_path: Path) -> None:
    text = "scientific_name,family\nCrepis biennis,Asteraceae\nCrepis capillaris,\n"
    found = added(tmp_path, text)
    assert {found["Crepis biennis"][:6], found["Crepis capillaris"][:6]} == {(*DAISY[:5], "Crepis")}  # type: ignore[index]


def test_a_genus_has_one_place_in_the_tree_whatever_the_list_says(tmp_path: Path) -> None:
    text = "kingdom,phylum,family,genus,species\nPlantae,Magnoliophyta,Compositae,Bellis,annua\n"
    assert added(tmp_path, text) == {"Plantae Magnoliophyta Compositae Bellis annua": (*DAISY[:6], "annua")}


@pytest.mark.parametrize(
    "name",
    ["House martin", "Red kite", "Daisy", "robin", "great tit", "Taraxacum", "Phaneroptera", "GREAT TIT", "Tench"],
)
def test_what_may_be_a_common_name_or_any_rank_adds_nothing(tmp_path: Path, name: str) -> None:
    common = added(tmp_path, f"House sparrow\nMorus alba\nMorus bassanus\n{name}\n", SPARROW, GANNET, MULBERRY)
    assert common[name] is None
    if name != "House martin":  # which has the form and the endings of a binomial
        assert added(tmp_path, f"Morus alba\nPasser domesticus\n{name}\n", MULBERRY, SPARROW)[name] is None


def test_binomials_count_where_the_list_is_one_of_scientific_names(tmp_path: Path) -> None:
    text = "Bellis perennis\nMorus alba\nTaraxacum officinale Wigg.\nAlcidae\n"
    found = added(tmp_path, text)
    assert found["Taraxacum officinale Wigg."] == bare("Taraxacum", "officinale")
    assert found["Alcidae"] == (*NOTHING[:4], "Alcidae", None, None)
    assert added(tmp_path, "Taraxacum officinale\n") == {"Taraxacum officinale": None}  # nothing vouches for it


def test_a_column_of_scientific_names_vouches_for_them(tmp_path: Path) -> None:
    for header in ("scientific_name,x", "name,common_name", "species,x"):
        found = added(tmp_path, f"{header}\nTaraxacum officinale,\nKobus kob,\n")
        assert [*found.values()] == [bare("Taraxacum", "officinale"), bare("Kobus", "kob")], header


def test_a_listed_genus_is_known_by_its_rank_or_its_listed_species(tmp_path: Path) -> None:
    found = added(tmp_path, "genus,species\nTaraxacum,\n")
    assert found == {"Taraxacum": bare("Taraxacum")}
    found = added(tmp_path, "scientific_name\nTaraxacum\nTaraxacum officinale\nCrepis\n")
    assert found == {"Taraxacum": bare("Taraxacum"), "Taraxacum officinale": bare("Taraxacum", "officinale")} | {
        "Crepis": None
    }


@pytest.mark.parametrize(
    ("columns", "row", "path"),
    [
        ("scientific_name,family", "Hieracium,Asteraceae", (*DAISY[:5], "Hieracium", None)),
        ("scientific_name,family", "Hieracium umbellatum,Asteraceae", (*DAISY[:5], "Hieracium", "umbellatum")),
        ("scientific_name,kingdom", "Felidae,Animalia", ("Animalia", None, None, None, "Felidae", None, None)),
        ("scientific_name,family", "Asterinae,Asteraceae", None),
        ("scientific_name,kingdom", "Felis,Animalia", None),
        ("scientific_name,kingdom,rank", "Felis,Animalia,genus", ("Animalia", *NOTHING[:4], "Felis", None)),
        ("species", "catus", None),
        ("genus,common_name", ",Cat", None),
    ],
)
def test_columns_of_ranks_say_where_a_name_belongs(
    tmp_path: Path, columns: str, row: str, path: taxonomy.Path | None
) -> None:
    assert [*added(tmp_path, f"{columns}\n{row}\n").values()] == [path]


# ------------------------------------------------------------------------------------------------------------ misspelt


def test_nearly_the_name_of_a_photographed_species_that_the_list_lacks_is_told(tmp_path: Path) -> None:
    (match,) = lines(tmp_path, "Bellis perenis\n").values()
    assert match.added == (*DAISY[:6], "perenis") and match.resembles == ("Bellis perennis (32 photographs)",)
    found = lines(tmp_path, "Bellis perenis\nBellis perennis\n")
    assert found["Bellis perenis"].added and not found["Bellis perenis"].resembles  # the list has both
    assert not lines(tmp_path, "Bellis annua\n")["Bellis annua"].resembles


def test_a_common_name_finds_a_misspelt_or_outdated_scientific_one_and_no_other(tmp_path: Path) -> None:
    text = "scientific_name,common_name\nBelis perenis,Daisy\nSula bassana,northern Gannet\nBellium minutum,daisy\n"
    found = lines(tmp_path, text)
    assert found["Belis perenis"].nodes == (DAISY,) and found["Sula bassana"].nodes == (GANNET,)
    assert found["Bellium minutum"].added == bare("Bellium", "minutum") and not found["Bellium minutum"].resembles
    (match,) = lines(tmp_path, "scientific_name,common_name\nBellium minutum,daisy\n").values()
    assert match.resembles == ("Bellis perennis (32 photographs)",)


def test_a_genus_that_only_a_slip_can_explain_adds_nothing(tmp_path: Path) -> None:
    for text in ("Morus alba\nBelis perenis\n", "scientific_name\nBelis perenis\n"):
        match = lines(tmp_path, text)["Belis perenis"]
        assert match.added is None and match.nearest[0] == "Bellis perennis"
    text = "family,genus,species\nBelidae,Belis,perenis\n"
    (match,) = lines(tmp_path, text).values()
    assert match.added and match.resembles == ("Bellis perennis (32 photographs)",)


# ------------------------------------------------------------------------------------------------------------ synonyms


def test_a_listed_synonym_adds_its_accepted_name(tmp_path: Path) -> None:
    match = lines(tmp_path, "scientific_name\nBellis alpina\n", synonyms="Bellis alpina,Bellium alpinum")[
        "Bellis alpina"
    ]
    assert match.added == bare("Bellium", "alpinum") and match.change == "synonym of Bellium alpinum"
    twice = "Bellis alpina,Bellium alpinum\nBellis alpina,Crepis alpina"
    match = lines(tmp_path, "scientific_name\nBellis alpina\n", synonyms=twice)["Bellis alpina"]
    assert match.added is None and match.candidates == ("Bellium alpinum", "Crepis alpina")


def test_the_synonyms_of_a_common_name_find_its_taxon(tmp_path: Path) -> None:
    found = lines(tmp_path, "common_name,synonyms\nLawn daisy,Bellis integrifolia | Bellis perennis\n")
    assert found["Lawn daisy"].nodes == (DAISY,)


# ----------------------------------------------------------------------------------------------- what becomes of them


def test_a_listed_node_above_photographs_is_inner_and_another_is_a_leaf(tmp_path: Path) -> None:
    text = "family,genus,species\nMoraceae,,\nAsteraceae,Bellis,\nAsteraceae,Bellis,annua\n"
    matches = [*lines(tmp_path, text, DAISY, MULBERRY).values()]
    genus, annua, family = (*DAISY[:6], None), (*DAISY[:6], "annua"), (*MULBERRY[:5], None, None)
    assert listed_taxa.without_photographs(matches, {DAISY}, {}) == sorted([genus, annua, family], key=names.order)
    leaves = taxonomy.label_space([DAISY, genus, annua, family])
    assert leaves == sorted([DAISY, annua, family], key=names.order)
    assert listed_taxa.without_photographs(matches, {DAISY}, {"order": ["Rosales"]}) == [family]


def test_a_genus_line_speaks_for_its_species_unless_they_have_lines_of_their_own(tmp_path: Path) -> None:
    text = (
        "genus,species,finest_rank,note,synonyms,german\n"
        "Bellis,,Genus,needs a lens,,\n"
        "Bellis,annua,,,Bellis minuta,Einjähriges Gänseblümchen\n"
        "Bellis,perennis,SPECIES,clear,,\n"
        "Bellis,annua,family,,,\n"
        "Morus,alba,,,,\n"
    )
    said = listed_taxa.said_of([*lines(tmp_path, text, DAISY, MULBERRY).values()])
    annua = said((*DAISY[:6], "annua"))
    assert annua.finest_rank == "family" and annua.note == "needs a lens"  # of two lines the coarser rank
    assert annua.synonyms == ("Bellis minuta",) and annua.common_names == {"de": "Einjähriges Gänseblümchen"}
    assert said(DAISY)[1:3] == ("species", "clear")
    assert said((*DAISY[:6], "sylvestris"))[1:3] == ("genus", "needs a lens")
    assert said(MULBERRY) == listed_taxa.Said({}) and said(GANNET) == listed_taxa.Said({})
