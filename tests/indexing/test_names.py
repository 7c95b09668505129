from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioclip_lite.indexing import listed_taxa, names
from bioclip_lite.indexing.names import Entry, Index, Label, Resolver
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET, MULBERRY

NOTHING = (None,) * 7
SPARROW = ("Animalia", "Chordata", "Aves", "Passeriformes", "Passeridae", "Passer", "domesticus")
GREY_HEADED = ("Animalia", "Chordata", "Aves", "Piciformes", "Picidae", "Picus", "canus")
ELEPHANTS = (*GANNET[:2], "Mammalia", "Proboscidea", None, None, None)
UNICORN_PLANT = (*DAISY[:3], "Lamiales", "Martyniaceae", "Proboscidea", "louisianica")


@pytest.fixture
def known() -> Index:
    index = Index()
    for path, common_names in {
        DAISY: ("Daisy", "Gänseblümchen"),
        MULBERRY: ("White Mulberry",),
        GANNET: ("Northern Gannet",),
        SPARROW: ("House Sparrow", "Sparrow"),
        GREY_HEADED: ("Grey-headed Woodpecker",),
        UNICORN_PLANT: ("Sparrow",),
        ELEPHANTS: (),
    }.items():
        index.add(path, common_names)
    return index


def listed(tmp_path: Path, text: str, name: str = "list.txt") -> list[Entry]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return names.read_species_list(tmp_path / name)


def matched(entries: list[Entry], known: Index, synonyms: dict[str, tuple[str, ...]] | None = None) -> dict[str, Any]:
    found = names.suggest(names.match(entries, known, synonyms or {}), known)
    return {f.entry.text: f.nodes[0] if f.nodes else (f.candidates, f.nearest) for f in found}


# -------------------------------------------------------------------------------------------------------- species lists


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("Bellis perennis", DAISY),
        ("bellis perennis", DAISY),
        ("BELLIS PERENNIS L., 1753", DAISY),
        ("Bellis perennis subsp. hybrida (Ten.) Nyman", DAISY),
        ("daisy", DAISY),
        ("gänseblümchen", DAISY),
        ("grey headed woodpecker", GREY_HEADED),
        ("Morus alba", MULBERRY),
        ("Morus bassanus (Linnaeus, 1758)", GANNET),
        ("Sulidae", (*GANNET[:5], None, None)),
        ("AVES", (*GANNET[:3], None, None, None, None)),
        ("Passer", (*SPARROW[:6], None)),
    ],
)
def test_names_in_any_spelling(line: str, path: taxonomy.Path, known: Index, tmp_path: Path) -> None:
    assert matched(listed(tmp_path, line), known) == {line: path}


def test_what_is_ambiguous_is_not_guessed(known: Index, tmp_path: Path) -> None:
    found = matched(listed(tmp_path, "Morus\nSparrow\nProboscidea\n"), known)
    assert found["Morus"] == (("Morus (Animalia, Sulidae)", "Morus (Plantae, Moraceae)"), ())
    plant = "Proboscidea louisianica (Plantae, Martyniaceae)"
    assert found["Sparrow"] == (("Passer domesticus (Animalia, Passeridae)", plant), ())
    assert found["Proboscidea"] == (("Proboscidea (Animalia)", "Proboscidea (Plantae, Martyniaceae)"), ())


def test_a_kingdom_settles_it(known: Index, tmp_path: Path) -> None:
    table = "kingdom,order,genus\nPlantae,,Morus\nAnimalia,Proboscidea,\n"
    found = matched(listed(tmp_path, table), known)
    assert found == {"Plantae Morus": (*MULBERRY[:6], None), "Animalia Proboscidea": ELEPHANTS}


def test_what_nothing_matches_is_listed_with_the_nearest_names(known: Index, tmp_path: Path) -> None:
    found = matched(listed(tmp_path, "Belis perenis\nhouse sparow\nunicorn\n"), known)
    assert found["Belis perenis"] == ((), ("Bellis perennis",))
    assert found["house sparow"][1][0] == "House Sparrow"
    assert found["unicorn"] == ((), ())


def test_one_species_more_or_less_completely_given_is_one_taxon(known: Index, tmp_path: Path) -> None:
    known.add((None, *DAISY[1:4], None, *DAISY[5:]))
    (found,) = names.match(listed(tmp_path, "Bellis perennis"), known, {})
    assert len(found.nodes) == 2


def test_plain_text_with_comments_authors_with_commas_and_blank_lines(tmp_path: Path) -> None:
    entries = listed(tmp_path, "\ufeff# birds\n\nMorus bassanus (Linnaeus, 1758)\n  Bellis   perennis \n")
    assert [entry.name for entry in entries] == ["Morus bassanus (Linnaeus, 1758)", "Bellis perennis"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables(delimiter: str, known: Index, tmp_path: Path) -> None:
    rows = [
        ("Scientific Name", "Common_Name", "common_name_de", "notes"),
        ("Bellis perennis L.", "Daisy", "Gänseblümchen", "lawn"),
        ("", "house sparrow", "", ""),
        ("", "", "", ""),
    ]
    entries = listed(tmp_path, "\n".join(delimiter.join(row) for row in rows), "list.csv")
    assert set(matched(entries, known).values()) == {DAISY, SPARROW}
    assert set(entries[0].common_names) == {"Daisy", "Gänseblümchen"}


@pytest.mark.parametrize("header", ["species", "name"])
def test_a_table_of_one_column(header: str, known: Index, tmp_path: Path) -> None:
    entries = listed(tmp_path, f"{header}\nBellis perennis L.\n")
    assert set(matched(entries, known).values()) == {DAISY}


def test_files_that_cannot_be_lists(tmp_path: Path) -> None:
    for content, words in ((b"", "lists no name"), (b"M\xfcller", "UTF-8"), (b"# nothing\n", "lists no name")):
        (tmp_path / "list").write_bytes(content)
        with pytest.raises(UserError, match=words):
            names.read_species_list(tmp_path / "list")
    with pytest.raises(UserError, match="there is no file"):
        names.read_species_list(tmp_path / "absent")


@given(st.text(max_size=80))
def test_any_text_is_a_list_or_an_error_for_the_user(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_text(text, encoding="utf-8")
    known = Index()
    known.add(DAISY, ["Daisy"])
    for read in (names.read_species_list, names.read_synonyms):
        try:
            found = read(file)
        except UserError:
            continue
        if isinstance(found, list):
            names.suggest(listed_taxa.add_taxa(names.match(found, known, {}), known, {}, {}), known)


# ------------------------------------------------------------------------------------------------------------- synonyms


def synonyms(tmp_path: Path, *pairs: str) -> dict[str, tuple[str, ...]]:
    (tmp_path / "synonyms.csv").write_text("\n".join(("name,accepted", *pairs)))
    return names.read_synonyms(tmp_path / "synonyms.csv")


def test_synonyms_are_followed_and_may_be_of_subspecies(tmp_path: Path) -> None:
    found = synonyms(
        tmp_path, "Sula bassana L.,Morus bassanus (Linnaeus)", "Pelecanus bassanus,Sula bassana", "Aa bb cc,Aa cc"
    )
    resolver, nothing = Resolver(found, []), Index()
    old = (*GANNET[:5], "Pelecanus", "bassanus")
    meaning = resolver.meaning(Label(old, "Pelecanus bassanus", None), nothing)
    assert meaning.path == GANNET and meaning.change == "synonym of Morus bassanus"
    subspecies = resolver.meaning(Label((*NOTHING[:5], "Aa", "bb"), "Aa bb subsp. cc Auth.", None), nothing)
    assert subspecies.path[5:] == ("Aa", "cc")
    species = resolver.meaning(Label((*NOTHING[:5], "Aa", "bb"), "Aa bb", None), nothing)
    assert species.path[5:] == ("Aa", "bb")


def test_a_name_with_two_accepted_names_stays_and_is_ambiguous(tmp_path: Path) -> None:
    found = synonyms(tmp_path, "Aa bb,Cc dd", "Aa bb,Ee ff")
    meaning = Resolver(found, []).meaning(Label((*NOTHING[:5], "Aa", "bb"), None, None), Index())
    assert meaning.path[5:] == ("Aa", "bb") and meaning.candidates == ("Cc dd", "Ee ff")


def test_synonyms_in_a_circle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lead back"):
        synonyms(tmp_path, "Aa bb,Cc dd", "Cc dd,Aa bb")
    assert synonyms(tmp_path, "Aa bb,Aa bb") == {}
    assert synonyms(tmp_path, "Aa bb,Cc dd", "Aa bb,Ee ff", "Cc dd,Gg hh", "Ee ff,Gg hh")["aa bb"] == ("Gg hh",)


def test_a_table_without_the_columns(tmp_path: Path) -> None:
    (tmp_path / "synonyms.csv").write_text("old,new\nAa bb,Cc dd\n")
    with pytest.raises(UserError, match="'name' and 'accepted'"):
        names.read_synonyms(tmp_path / "synonyms.csv")


def test_a_list_with_an_old_name_finds_the_accepted_one(known: Index, tmp_path: Path) -> None:
    found = synonyms(tmp_path, "Sula bassana,Morus bassanus")
    assert matched(listed(tmp_path, "Sula bassana"), known, found) == {"Sula bassana": GANNET}


# --------------------------------------------------------------------------------------------------- labels of a source


HEADER = "kingdom,phylum,class,order,family,genus,species,common_name"


def resolver(tmp_path: Path, *rows: tuple[str | None, ...]) -> Resolver:
    lines = (",".join(name or "" for name in row) for row in rows)
    return Resolver({}, listed(tmp_path, "\n".join((HEADER, *lines))))


def test_a_common_name_takes_the_path_of_the_list(tmp_path: Path) -> None:
    found = resolver(tmp_path, (*DAISY, "Daisy"), (*GANNET, "Gannet"), (*SPARROW, "Bird"), (*GREY_HEADED, "bird"))
    assert found.meaning(Label(NOTHING, None, "daisy"), Index()) == (DAISY, "from the common name", ())
    ambiguous = found.meaning(Label(NOTHING, None, "Bird"), Index())
    assert ambiguous.path == NOTHING and len(ambiguous.candidates) == 2
    assert found.meaning(Label(NOTHING, None, "tench"), Index()) == (NOTHING, None, ())


def test_ranks_that_are_open_are_taken_from_the_list_where_it_is_certain(tmp_path: Path) -> None:
    found = resolver(tmp_path, (*DAISY, ""), (*GANNET, ""), (*MULBERRY, ""))
    bare = (*NOTHING[:5], "Bellis", "perennis")
    assert found.meaning(Label(bare, None, None), Index()) == (DAISY, "ranks from the list", ())
    genus = (*NOTHING[:5], "Morus", None)
    assert found.meaning(Label(genus, None, None), Index()).path == genus  # a bird or a tree
    assert found.meaning(Label(("Plantae", *genus[1:]), None, None), Index()).path == (*MULBERRY[:6], None)
    fungus = ("Fungi", *bare[1:])
    assert found.meaning(Label(fungus, None, None), Index()).path == fungus


def test_a_homonym_genus_without_kingdom_is_listed_with_its_candidates(known: Index) -> None:
    meaning = Resolver({}, []).meaning(Label((*NOTHING[:5], "Morus", None), "Morus sp.", None), known)
    assert meaning.path[5] == "Morus" and not any(meaning.path[:5])
    assert meaning.candidates == ("Morus (Animalia, Sulidae)", "Morus (Plantae, Moraceae)")
    certain = Resolver({}, []).meaning(Label((*GANNET[:6], None), None, None), known)
    assert certain.candidates == ()


def test_what_was_changed_is_said() -> None:
    found = Resolver({}, [])
    for written, change in (
        ("Bellis perennis", None),
        (None, None),
        ("Bellis perennis L.", "author left out"),
        ("bellis  PERENNIS", "spelling"),
        ("Bellis perennis var. alba (L.) Mill.", "subspecies, variety or form left out; author left out"),
    ):
        assert found.meaning(Label(DAISY, written, None), Index()).change == change


def test_listed_nodes_keep_what_lies_below() -> None:
    nodes = {(*DAISY[:5], None, None), GANNET}
    assert names.is_listed(DAISY, nodes) and names.is_listed(GANNET, nodes)
    assert not names.is_listed(MULBERRY, nodes) and not names.is_listed((*GANNET[:6], None), nodes)
