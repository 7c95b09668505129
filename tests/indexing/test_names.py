import contextlib
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


@pytest.mark.parametrize(
    ("columns", "row", "path"),
    [
        ("kingdom,scientific_name", "Plantae,Morus", (*MULBERRY[:6], None)),
        ("scientific_name,family", "Morus,Sulidae", (*GANNET[:6], None)),
        ("scientific_name,family", "Sulidae,Sulidae", (*GANNET[:5], None, None)),
        ("scientific_name,class,rank", "Sulidae,Aves,Family", (*GANNET[:5], None, None)),
        ("name,taxonRank", "Aves,CLASS", (*GANNET[:3], None, None, None, None)),
        ("kingdom,name", "Animalia,Morus bassanus", GANNET),
        ("genus,scientific_name", "Morus,Morus alba L.", MULBERRY),
        ("genus,family,scientific_name", "Morus,Moraceae,alba", MULBERRY),
        ("class,name", "Aves,sulidae", (*GANNET[:5], None, None)),
    ],
)
def test_ranks_beside_a_name_are_those_above_it(
    columns: str, row: str, path: taxonomy.Path, known: Index, tmp_path: Path
) -> None:
    assert [*matched(listed(tmp_path, f"{columns}\n{row}\n"), known).values()] == [path]


def test_a_name_of_no_certain_rank_does_not_stand_for_the_ranks_above_it(known: Index, tmp_path: Path) -> None:
    for row in ("scientific_name,kingdom\nFelidae,Animalia\n", "scientific_name,family\nSulinae,Sulidae\n"):
        (found,) = names.match(listed(tmp_path, row), known, {})
        assert not found.nodes and not found.candidates


def test_what_nothing_matches_is_listed_with_the_nearest_names(known: Index, tmp_path: Path) -> None:
    found = matched(listed(tmp_path, "Belis perenis\nhouse sparow\nunicorn\n"), known)
    assert found["Belis perenis"] == ((), ("Bellis perennis",))
    assert found["house sparow"][1][0] == "House Sparrow"
    assert found["unicorn"] == ((), ())


def test_one_species_more_or_less_completely_given_is_one_taxon(known: Index, tmp_path: Path) -> None:
    known.add((None, *DAISY[1:4], None, *DAISY[5:]))
    (found,) = names.match(listed(tmp_path, "Bellis perennis"), known, {})
    assert len(found.nodes) == 2


def test_many_taxa_under_one_common_name_take_time_linear_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, rank_of = 0, taxonomy.label_rank

    def counted(path: taxonomy.Path) -> int:
        nonlocal calls
        calls += 1
        return rank_of(path)

    monkeypatch.setattr(taxonomy, "label_rank", counted)
    paths = [(*SPARROW[:5], "Passer", f"number{n}") for n in range(1000)]
    assert names.one_taxon([*paths, (*SPARROW[:6], None)]) == [(*SPARROW[:6], None)]
    assert names.one_taxon(paths) == []
    assert calls < 10 * len(paths)


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
    latin = "Bellis perennis\nMüller\n".encode("cp1252")
    for content, words in (
        (b"", "lists no name"),
        (b"# nothing\n", "lists no name"),
        (latin, "line 2 is not UTF-8 text; if it should say 'Müller', the file is in Windows-1252"),
        (b"PK\x03\x04 and more", r"is a workbook \(.xlsx, .ods\) or a zip archive, .*; save its sheet as CSV UTF-8"),
    ):
        (tmp_path / "list").write_bytes(content)
        with pytest.raises(UserError, match=words):
            names.read_species_list(tmp_path / "list")
    with pytest.raises(UserError, match="there is no file"):
        names.read_species_list(tmp_path / "absent")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_unicode_in_any_form_and_any_ends_of_lines(tmp_path: Path, encoding: str, end: str) -> None:
    text = end.join(["# garden", "", "name;Deutsch", "Bellis perennis;Gänseblümchen", ""])
    (tmp_path / "list.csv").write_bytes(text.encode(encoding))
    (entry,) = names.read_species_list(tmp_path / "list.csv")
    assert (entry.name, entry.languages, entry.line) == ("Bellis perennis", (("de", "Gänseblümchen"),), 4)


def test_the_separator_that_excel_is_told_of(tmp_path: Path) -> None:
    (entry,) = listed(tmp_path, "sep=|\nname|common_name\nBellis perennis|Daisy, common\n")
    assert (entry.name, entry.common_names) == ("Bellis perennis", ("Daisy, common",))


@pytest.mark.parametrize("line", ["Bellis perennis,Daisy", "Bellis, Morus", "Bellis perennis\tDaisy", "Bellis;Morus"])
def test_several_values_without_a_header_are_told(line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"list\.txt, line 2: .* has several values, and no line above names"):
        listed(tmp_path, f"# garden\n{line}\n")


@pytest.mark.parametrize(
    "line", ["Aa bb (L., 1753)", "Aa bb L., 1753", "Aa bb Rehder, Wilson & Fu", "Aa bb Michx., Mill.", "Aa bb L., f."]
)
def test_commas_of_authors_are_no_separators(line: str, tmp_path: Path) -> None:
    assert [entry.name for entry in listed(tmp_path, line)] == [line]


def test_common_names_in_every_language_are_kept(tmp_path: Path) -> None:
    text = "species,common_name,Deutsch,nom vernaculaire\nBellis perennis,Daisy; Lawn daisy,Gänseblümchen,Pâquerette\n"
    (entry,) = listed(tmp_path, text)
    assert entry.languages == (("", "Daisy"), ("de", "Gänseblümchen"), ("fr", "Pâquerette"))
    assert entry.common_names == ("Daisy", "Lawn daisy", "Gänseblümchen", "Pâquerette")
    (entry,) = listed(tmp_path, "species,English,Deutsch\nBellis perennis,Daisy,\n")
    assert entry.languages == (("", "Daisy"),)  # names without a language are English


def test_synonyms_and_notes_and_the_finest_rank(tmp_path: Path) -> None:
    text = "name,synonyms,finest_rank,note\nAa bb,Cc dd; Ee ff|Gg hh,GENUS,lens\nIi jj,,,\n"
    first, second = listed(tmp_path, text)
    assert (first.synonyms, first.finest_rank, first.note) == (("Cc dd", "Ee ff", "Gg hh"), "genus", "lens")
    assert (second.synonyms, second.finest_rank, second.note) == ((), None, None)


def test_a_finest_rank_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"list\.txt, line 4: finest_rank 'section' is no rank; .* family, genus, species"
    ):
        listed(tmp_path, "name,finest_rank\nAa bb,genus\n\nCc dd,section\n")


def test_columns_that_are_not_read_are_told_and_a_second_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(tmp_path, "name,abundance,common_name_alt\nAa bb,1,x\n")
    assert "not read: 'abundance', 'common_name_alt'" in capsys.readouterr().out
    with pytest.raises(UserError, match="two columns that mean the same, the second is 'Deutsch'"):
        listed(tmp_path, "name,common_name_de,Deutsch\nAa bb,x,y\n")


def test_a_row_with_too_many_values_is_named_and_one_with_fewer_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 3: 3 values where the header has 2 columns; quote"):
        listed(tmp_path, "name,note\nAa bb,\nCc dd,in spring, on lawns\n")
    assert [entry.name for entry in listed(tmp_path, "name,note\nAa bb\nCc dd,,,\n# Ee ff,x\n")] == ["Aa bb", "Cc dd"]


TABLES = st.lists(
    st.lists(
        st.sampled_from(
            [
                *("name", "common_name", "Deutsch", "finest_rank", "synonyms", "genus", "species", "note", "sep=;"),
                *("Bellis perennis", "Bellis annua", "Bellis", "genus", '"', "", "#", "x;y|z", "Müller", "\u2028"),
            ]
        ),
        max_size=5,
    ),
    max_size=6,
)


@given(TABLES, st.sampled_from(",;\t"), st.sampled_from(["utf-8", "utf-16", "utf-16-be", "cp1252"]))
def test_any_table_is_a_list_or_an_error_for_the_user(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], separator: str, encoding: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes("\n".join(separator.join(row) for row in rows).encode(encoding, "replace"))
    known = Index()
    known.add(DAISY, ["Daisy"])
    try:
        entries = names.read_species_list(file)
        accepted = names.read_synonyms(None, entries)
    except UserError:
        return
    matches = listed_taxa.add_taxa(names.match(entries, known, accepted), known, accepted, {})
    said = listed_taxa.said_of(matches)
    for path in listed_taxa.without_photographs(matches, {DAISY}, {}):
        assert (
            taxonomy.label_rank(path) >= 0
            and (path[6] is None or path[5])
            and said(path).finest_rank
            in (
                None,
                *taxonomy.RANKS,
            )
        )
    assert all(entry.line > 0 and entry.text for entry in entries)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_list_or_an_error_for_the_user(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.bin"
    file.write_bytes(content)
    with contextlib.suppress(UserError):
        names.read_species_list(file)


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


def test_synonyms_of_a_list_go_on_in_the_table_of_synonyms(tmp_path: Path) -> None:
    entries = listed(tmp_path, "name,synonyms\nMorus bassanus,Sula bassana\n")
    (tmp_path / "synonyms.csv").write_text("name,accepted\nPelecanus bassanus,Sula bassana\n")
    found = names.read_synonyms(tmp_path / "synonyms.csv", entries)
    assert found == {"pelecanus bassanus": ("Morus bassanus",), "sula bassana": ("Morus bassanus",)}
    assert names.read_synonyms(None, entries) == {"sula bassana": ("Morus bassanus",)}
    old = Label((*GANNET[:5], "Pelecanus", "bassanus"), None, None)
    assert Resolver(found, entries).meaning(old, Index()).path == GANNET


def test_a_synonym_that_is_listed_itself_is_told(tmp_path: Path) -> None:
    entries = listed(tmp_path, "name,synonyms\nAa bb,Cc dd\nCc dd,\n")
    with pytest.raises(UserError, match="'Cc dd' in line 3, and as a synonym of 'Aa bb' in line 2"):
        names.read_synonyms(None, entries)
    entries = listed(tmp_path, "name,synonyms\nAa bb,Cc dd\n")
    (tmp_path / "synonyms.csv").write_text("name,accepted\nAa bb,Cc dd\n")
    with pytest.raises(UserError, match="lead back"):
        names.read_synonyms(tmp_path / "synonyms.csv", entries)


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


def test_listed_relatives_give_ranks_too_and_photographed_ones_to_a_common_name(tmp_path: Path) -> None:
    found = resolver(tmp_path, (*DAISY[:6], "annua", ""), (*NOTHING[:5], "Morus", "bassanus", "Gannet"))
    bare = (*NOTHING[:5], "Bellis", "perennis")
    assert found.meaning(Label(bare, None, None), Index()) == (DAISY, "ranks from the list", ())
    photographed = Index()
    photographed.add(GANNET)
    assert found.meaning(Label(NOTHING, None, "gannet"), photographed).path == GANNET


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
