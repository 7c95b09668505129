"""A taxonomy in each form in which it is published, through stage index; and what names mean in it."""

import re
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bioclip_lite.indexing.names import Entry, Label, Meaning, entry_path
from bioclip_lite.indexing.taxonomies import settle, usages
from bioclip_lite.indexing.taxonomies.lookup import Found, Query, find_all
from bioclip_lite.stages import index
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table
from support.photographs import DAISY, GANNET, MULBERRY, encoded, folder_params, picture
from support.taxonomies import (
    COLDP_USAGE,
    FORMS,
    ROWS,
    WITH_COMMON_NAMES,
    WITH_SYNONYMS,
    Row,
    coldp,
    gbif_files,
    put,
    tsv,
)

NOTHING: taxonomy.Path = (None,) * 7


def species(name: str) -> taxonomy.Path:
    return taxonomy.make_path({"species": name})


def subfolders(root: Path, *names: str) -> Path:
    for name in names:
        for i in range(3):
            path = root / name / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(name, i)))
    return root


def indexed(tmp_path: Path, source: Path, **params: Any) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Index with the lists of ``tmp_path/data/lists``; the rows of names.parquet and of samples.parquet by verbatim."""
    index.run(folder_params(source, **params), tmp_path / "data")
    tables = (read_table(tmp_path / "data" / "index" / f"{name}.parquet").to_pylist() for name in ("names", "samples"))
    names, samples = ({row["verbatim"]: row for row in table} for table in tables)
    return names, samples


def ranks(row: dict[str, Any]) -> taxonomy.Path:
    return tuple(row[rank] for rank in taxonomy.RANKS)


# ----------------------------------------------------------------------------------------------------------- every form


@pytest.mark.parametrize("form", FORMS)
def test_folders_of_names_get_all_ranks(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = (
        "Bellis perennis",
        "Bellis perenis",
        "Bellis hortensis",
        "Morus alba",
        "Morus bassanus",
        "Bellis sylvatica",
    )
    source = subfolders(tmp_path / "source", *names)
    told, samples = indexed(tmp_path, source, taxonomy=FORMS[form](tmp_path / "data" / "lists"))
    assert ranks(samples["Bellis perennis"]) == ranks(samples["Bellis perenis"]) == DAISY
    assert ranks(samples["Morus alba"]) == MULBERRY
    assert ranks(samples["Morus bassanus"]) == GANNET
    assert ranks(samples["Bellis sylvatica"]) == (*DAISY[:6], "sylvatica")
    assert told["Bellis perennis"]["change"] == "ranks from the taxonomy"
    assert told["Bellis perenis"]["change"] == "misspelt: Bellis perenis"
    if form in WITH_SYNONYMS:
        assert ranks(samples["Bellis hortensis"]) == DAISY
        assert told["Bellis hortensis"]["change"] == "synonym of Bellis perennis"
    else:
        assert ranks(samples["Bellis hortensis"]) == (*DAISY[:6], "hortensis")
    printed = capsys.readouterr().out
    assert "1 misspelt" in printed and ("1 synonyms" in printed) == (form in WITH_SYNONYMS)


@pytest.mark.parametrize("form", sorted(WITH_COMMON_NAMES))
def test_common_names_by_language(form: str, tmp_path: Path) -> None:
    source = subfolders(tmp_path / "source", "Bellis perennis", "Morus alba")
    _, samples = indexed(tmp_path, source, taxonomy=FORMS[form](tmp_path / "data" / "lists"))
    english = "Lawn Daisy" if form.startswith("ColDP") else "Common Daisy"  # ColDP says which one is preferred
    assert dict(samples["Bellis perennis"]["common_names"]) == {"de": "Gänseblümchen", "en": english}
    assert samples["Bellis perennis"]["common_name"] == english
    assert samples["Morus alba"]["common_name"] is None


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_list_of_names_is_settled_as_well(form: str, tmp_path: Path) -> None:
    source = subfolders(tmp_path / "source", "Bellis perennis", "Morus bassanus")
    lists = tmp_path / "data" / "lists"
    taxonomy_ = FORMS[form](lists)
    (lists / "list.txt").write_text("Bellis perenis\nSulidae\nMorus alba\n")
    told, samples = indexed(tmp_path, source, taxonomy=taxonomy_, species_list="list.txt")
    assert ranks(samples["Bellis perennis"]) == DAISY and ranks(samples["Morus bassanus"]) == GANNET
    assert (told["Bellis perenis"]["resolved"], told["Bellis perenis"]["change"]) == (
        "Bellis perennis",
        "misspelt: Bellis perenis",
    )
    assert told["Morus alba"]["status"] == "no photographs"


def test_the_report_says_what_the_taxonomy_is_and_did(tmp_path: Path) -> None:
    source = subfolders(tmp_path / "source", "Bellis perenis", "Sula bassana", "Nosuchgenus alba")
    indexed(tmp_path, source, taxonomy=FORMS["GBIF archive"](tmp_path / "data" / "lists"))
    page = (tmp_path / "data" / "index" / "report.html").read_text()
    section = re.sub(r"<[^>]*>|\s+", " ", page[page.index("<h2>Taxonomy") : page.index("<h2>Names")])
    assert "GBIF Backbone Taxonomy, 2023-08-28: 24 names" in " ".join(section.split())
    assert re.search(r"accepted +0 +synonyms +1 +misspelt +1 +ambiguous +0 +not in it +1", section)
    assert re.search(r"download, [\d,]+ bytes, SHA-256 [0-9a-f]{64}", section)


def test_without_a_taxonomy_the_report_has_no_section_of_it(tmp_path: Path) -> None:
    indexed(tmp_path, subfolders(tmp_path / "source", "Bellis perennis", "Morus alba"))
    assert "<h2>Taxonomy" not in (tmp_path / "data" / "index" / "report.html").read_text()


# --------------------------------------------------------------------------------------------------- what a name means


def found(tmp_path: Path, rows: tuple[Row, ...], *queries: Query) -> list[Found]:
    path = put(tmp_path / "taxonomy", {"NameUsage.tsv": coldp(rows)["NameUsage.tsv"]})
    with settle.opened(path, [query.path for query in queries]) as book:
        answers = find_all(book.find, queries)
    return [answers[query] for query in queries]


def test_the_ranks_of_the_taxonomy_win_so_that_no_family_has_two_places(tmp_path: Path) -> None:
    by_another = (*DAISY[:2], "Dicotyledonae", "Campanulales", "Asteraceae", "Bellis", "perennis")
    unknown = (*by_another[:6], "sylvatica")
    of_family = (*by_another[:5], "Nosuchgenus", "nova")
    answers = found(tmp_path, ROWS, Query(by_another), Query(unknown), Query(of_family))
    assert [one.path for one in answers] == [
        DAISY,
        (*DAISY[:6], "sylvatica"),
        (*DAISY[:5], "Nosuchgenus", "nova"),
    ]
    assert [(one.how, one.change) for one in answers] == [
        ("accepted", "ranks from the taxonomy"),
        ("unknown", "ranks from the taxonomy"),
        ("unknown", "ranks from the taxonomy"),
    ]


def test_homonyms_are_told_apart_by_the_ranks_of_the_label(tmp_path: Path) -> None:
    bird = (*NOTHING[:4], "Sulidae", "Morus", None)
    plant = ("Plantae", *NOTHING[1:5], "Morus", None)
    bare = (*NOTHING[:5], "Morus", None)
    answers = found(tmp_path, ROWS, Query(bird), Query(plant), Query(bare))
    assert [one.path for one in answers] == [(*GANNET[:6], None), (*MULBERRY[:6], None), bare]
    assert answers[2].candidates == ("Morus (Animalia, Sulidae)", "Morus (Plantae, Moraceae)")


def test_a_homonym_of_another_kingdom_is_another_taxon(tmp_path: Path) -> None:
    beetle = ("Animalia", "Arthropoda", "Insecta", "Coleoptera", "Carabidae", "Bellis", "perennis")
    (one,) = found(tmp_path, ROWS, Query(beetle))
    assert (one.how, one.path, one.candidates) == ("ambiguous", beetle, ("Bellis perennis (Plantae, Asteraceae)",))


def test_a_bare_homonym_is_of_the_kingdom_that_all_other_names_share(tmp_path: Path) -> None:
    bare = Query((*NOTHING[:5], "Morus", None))
    answers = found(tmp_path, ROWS, bare, Query(species("Bellis perennis")), Query(species("Bellis annua")))
    assert answers[0].path == (*MULBERRY[:6], None) and answers[0].change == "in Plantae, as all other names"
    mixed = found(tmp_path, ROWS, bare, Query(species("Bellis perennis")), Query(species("Morus bassanus")))
    assert mixed[0].how == "ambiguous"


CHAIN = (
    *ROWS,
    Row(92, None, "species", "Erigeron bellis", "A", 90, "synonym"),  # of a synonym
    Row(93, None, "species", "Aster partim", "A", 10, "ambiguous synonym"),
    Row(94, None, "species", "Aster duplex", "A", 10, "synonym"),
    Row(95, None, "species", "Aster duplex", "B", 9, "synonym"),
    Row(96, None, "species", "Aster falsus", "auct.", 10, "misapplied"),
    Row(97, None, "species", "Aster circus", "A", 98, "synonym"),
    Row(98, None, "species", "Aster circulus", "A", 97, "synonym"),
    Row(99, None, "species", "Aster lost", "A", 12345, "synonym"),
    Row(100, 8, "species", "Bellis dubia", "Spreng.", None, "provisionally accepted"),
    Row(101, None, "species", "Bellis annua", "Mill.", 10, "synonym"),  # a later homonym of an accepted name
    Row(102, 8, "species", "Bellis \N{MULTIPLICATION SIGN}hybrida", "C"),
    Row(103, 8, "species", "Bellis hybrida", "D"),
    Row(104, None, "subspecies", "Bellis annua subsp. minuta", "(DC.) E", 103, "synonym"),
    Row(105, 8, "species", "Isoëtes", ""),
)


@pytest.mark.parametrize(
    ("name", "how", "resolved"),
    [
        ("Erigeron bellis", "synonym", "Bellis perennis"),
        ("Aster partim", "ambiguous", "Aster partim"),
        ("Aster duplex", "ambiguous", "Aster duplex"),
        ("Aster falsus", "ambiguous", "Aster falsus"),
        ("Aster circus", "unknown", "Aster circus"),
        ("Aster lost", "unknown", "Aster lost"),
        ("Bellis dubia", "accepted", "Bellis dubia"),
        ("Bellis annua", "accepted", "Bellis annua"),
        ("Bellis x hybrida", "accepted", "Bellis \N{MULTIPLICATION SIGN} hybrida"),
        ("Bellis hybrida", "accepted", "Bellis hybrida"),
    ],
)
def test_synonyms_and_doubtful_names(name: str, how: str, resolved: str, tmp_path: Path) -> None:
    (one,) = found(tmp_path, CHAIN, Query(species(name)))
    assert (one.how, taxonomy.scientific_name(one.path)) == (how, resolved)


def test_what_the_taxonomy_doubts_is_told(tmp_path: Path) -> None:
    (one,) = found(tmp_path, CHAIN, Query((*DAISY[:6], "dubia")))
    assert one.change == "provisionally accepted in the taxonomy"


def test_a_subspecies_is_its_species_unless_it_is_a_synonym_of_another(tmp_path: Path) -> None:
    perennis, annua = Query(species("Bellis perennis"), "hybrida"), Query(species("Bellis annua"), "minuta")
    answers = found(tmp_path, CHAIN, perennis, annua)
    assert [(one.how, taxonomy.scientific_name(one.path)) for one in answers] == [
        ("accepted", "Bellis perennis"),
        ("synonym", "Bellis hybrida"),
    ]


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("Bellis perenis", "Bellis perennis"),  # a letter less
        ("Bellis perennsi", "Bellis perennis"),  # two letters exchanged
        ("Belis perennis", "Bellis perennis"),
        ("Bellis hortennsis", "Bellis perennis"),  # like a synonym of it
        ("Morus albo", None),  # of four letters, any other word may be meant
        ("Bellis prenix", None),
        ("Bellus annus", None),  # both words
    ],
)
def test_misspelt_names(name: str, resolved: str | None, tmp_path: Path) -> None:
    (one,) = found(tmp_path, ROWS, Query(species(name)))
    assert (one.how, taxonomy.scientific_name(one.path)) == ("misspelt" if resolved else "unknown", resolved or name)
    assert (one.change == f"misspelt: {name}") == bool(resolved)


def test_a_misspelt_name_that_may_be_two_is_not_corrected(tmp_path: Path) -> None:
    rows = (*ROWS, Row(110, 8, "species", "Bellis perennia", "X"))
    (one,) = found(tmp_path, rows, Query(species("Bellis perennix")))
    assert (one.how, one.path) == ("ambiguous", (*DAISY[:6], "perennix"))
    assert one.candidates == ("Bellis perennia (Plantae, Asteraceae)", "Bellis perennis (Plantae, Asteraceae)")


def test_two_wrong_letters_are_a_doubt_and_no_correction(tmp_path: Path) -> None:
    rows = (*ROWS, Row(110, 8, "species", "Bellis collurio", "X"))
    (one,) = found(tmp_path, rows, Query(species("Bellis collarex")))
    assert one.how == "unknown"  # three letters
    (one,) = found(tmp_path, rows, Query(species("Bellis callurix")))
    assert (one.how, one.path) == ("ambiguous", (*DAISY[:6], "callurix"))
    assert one.candidates == ("Bellis collurio (Plantae, Asteraceae)",)


def test_a_misspelt_genus_is_none_of_another_family(tmp_path: Path) -> None:
    label = ("Plantae", *NOTHING[1:4], "Rosaceae", "Belis", "perennis")
    (one,) = found(tmp_path, ROWS, Query(label))
    assert (one.how, one.path[5:]) == ("unknown", ("Belis", "perennis"))


def test_the_synonyms_of_the_user_go_before_those_of_the_taxonomy(tmp_path: Path) -> None:
    lists = tmp_path / "data" / "lists"
    taxonomy_ = FORMS["COL folder"](lists)
    (lists / "own.csv").write_text("name,accepted\nBellis hortensis,Bellis annua\n")
    source = subfolders(tmp_path / "source", "Bellis hortensis", "Bellis annua", "Morus alba")
    _, samples = indexed(tmp_path, source, taxonomy=taxonomy_, synonyms="own.csv")
    assert ranks(samples["Bellis hortensis"]) == (*DAISY[:6], "annua")


def test_a_line_that_may_be_a_common_name_stays_one(tmp_path: Path) -> None:
    path = put(tmp_path / "taxonomy", coldp())
    lines = [Entry(name, NOTHING, name, ()) for name in ("Northern gannet", "Daisy", "Sulidae", "Morus")]
    with settle.opened(path, map(entry_path, lines)) as book:
        settled, _ = settle.settle_entries(book, lines)
    assert settled[:2] == lines[:2] and settled[3] == lines[3]
    assert settled[2].path == (*GANNET[:5], None, None)


def test_a_name_without_a_certain_rank_is_not_the_family_beside_it(tmp_path: Path) -> None:
    path = put(tmp_path / "taxonomy", coldp())
    line = Entry("Sulinae", (*NOTHING[:4], "Sulidae", None, None), "Sulinae", ())
    with settle.opened(path, [entry_path(line)]) as book:
        assert settle.settle_entries(book, [line])[0] == [line]


def test_what_the_taxonomy_tells_apart_is_no_homonym(tmp_path: Path) -> None:
    path = put(tmp_path / "taxonomy", coldp())
    label = Label(species("Morus alba"), "Morus alba", None)
    with settle.opened(path, [label.path]) as book:
        meanings, _, _ = settle.settle_labels(book, [label], [Meaning(label.path, None, ("a", "b"))])
    assert meanings == [Meaning(MULBERRY, "ranks from the taxonomy", ())]


# -------------------------------------------------------------------------------------------------------------- no such


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"a.tsv": "name\trank\nBellis\tgenus\n"}, "no table of names"),
        (
            {
                "Name.tsv": tsv("col:ID col:scientificName col:rank col:genus", [("b", "Bellis", "genus", "Bellis")]),
                "Taxon.tsv": tsv("col:ID col:parentID col:nameID", [("a", "", "b")]),
            },
            "NameUsage",
        ),
        ({"NameUsage.tsv": coldp()["NameUsage.tsv"], "Taxon.tsv": gbif_files()["Taxon.tsv"]}, "holds 2 taxonomies"),
        ({"meta.xml": "<archive><core"}, "meta.xml"),
        ({}, "no table of names"),
    ],
)
def test_what_is_no_taxonomy_is_told(contents: dict[str, str], words: str, tmp_path: Path) -> None:
    (tmp_path / "taxonomy").mkdir()
    path = put(tmp_path / "taxonomy", contents)
    with pytest.raises(UserError, match=words), settle.opened(path, []):
        pass


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "usage.tsv").write_bytes(
        coldp()["NameUsage.tsv"].encode() + "6F\t\t\t\t\t\t\té".encode("latin-1") + b"\t" * 9 + b"\n"
    )
    with pytest.raises(UserError, match="UTF-8"), settle.opened(tmp_path / "usage.tsv", []):
        pass


def test_an_incomplete_archive_is_told(tmp_path: Path) -> None:
    FORMS["GBIF simple"](tmp_path)
    content = (tmp_path / "backbone").read_bytes()
    (tmp_path / "backbone").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="no complete archive"), settle.opened(tmp_path / "backbone", []):
        pass


def test_rows_of_another_length_are_counted(tmp_path: Path) -> None:
    text = coldp()["NameUsage.tsv"] + "only\ttwo\n"
    with settle.opened(put(tmp_path / "t", {"NameUsage.tsv": text}), []) as book:
        assert (book.rows, book.passed_over) == (len(ROWS), 1)


def test_a_header_alone_is_an_empty_taxonomy(tmp_path: Path) -> None:
    path = put(tmp_path / "t", {"NameUsage.tsv": tsv(COLDP_USAGE, [])})
    with settle.opened(path, [DAISY]) as book:
        assert book.find(Query(DAISY)).how == "unknown"


# --------------------------------------------------------------------------------------------------------------- memory


def peak(tmp_path: Path, species: int) -> int:
    """Highest number of bytes, of Python and of Arrow, that a taxonomy takes of which one genus is asked for."""
    others = (Row(1000 + i, 8 + i % 2, "species", f"Genus{i % 97} epithet{i}") for i in range(species))
    text = coldp((*ROWS, *others))["NameUsage.tsv"]
    (tmp_path / f"{species}.tsv").write_text(text, encoding="utf-8")
    del text
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        with settle.opened(tmp_path / f"{species}.tsv", [DAISY]) as book:
            assert book.find(Query(DAISY)).how == "accepted" and book.rows == len(ROWS) + species
        return tracemalloc.get_traced_memory()[1] + (pool.max_memory() or 0)
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def test_rows_that_nobody_asks_for_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usages, "_BLOCK", 1 << 15)  # some are read ahead
    peak(tmp_path, 100)  # what is loaded once
    assert peak(tmp_path, 60_000) < 1.2 * peak(tmp_path, 15_000)
