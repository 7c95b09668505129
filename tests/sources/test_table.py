"""Source csv, and what it shares with source folder."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bioclip_lite.sources import downloads, fields, places
from bioclip_lite.sources.registry import find_source
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET, MULBERRY, write_folder
from support.photographs import row as folder_row
from support.raw_forms import Web, listed, photo, put, rejects, serving, source_params, to_captions, write_csv

NOTHING = (None,) * 7


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(downloads, "_FIRST_WAIT", 0.01)
    with serving() as server:
        yield server


def one(tmp_path: Path, **columns: object) -> Any:
    """The sample of a table with one row."""
    columns = {"file": "a.jpg"} | columns if not set(columns) & {"filepath", "url"} else columns
    table = write_csv(tmp_path / "photos.csv", list(columns), [list(columns.values())])
    (sample,), _ = listed(source_params("csv", table))
    return sample


def test_paths_and_addresses_to_captions(tmp_path: Path, web: Web) -> None:
    rows = []
    for i in range(12):
        path, name = [(DAISY, "daisy"), (GANNET, "gannet")][i % 2]
        if i < 6:
            put(tmp_path / "table" / "photos" / f"{i}.jpg", photo(i))
        else:
            web.files[f"{i}.jpg"] = photo(i)
        file = f"photos\\{i}.jpg" if i < 6 else web.url(f"{i}.jpg")
        rows.append([file, name, *path, "CC BY 4.0", "Ann", {"daisy": "Tausendschönchen"}.get(name, "nan")])
    rows.append([web.url("gone.jpg"), *rows[0][1:]])
    columns = ["url", "Common Name", *taxonomy.RANKS, "License", "rightsHolder", "common_name_de"]
    table = write_csv(tmp_path / "table" / "photos.tsv", columns, rows, "\t")
    said = to_captions(source_params("csv", table), tmp_path / "data", ("de",))
    assert len(said) == 12 and len(web.asked) == 7
    assert rejects(tmp_path / "data") == {web.url("gone.jpg"): "unreadable"}
    assert {row["sci_com"] for row in said} == {
        "a photo of Bellis perennis with common name daisy.",
        "a photo of Morus bassanus with common name gannet.",
    }
    assert {row["com_de"] for row in said if row["genus"] == "Bellis"} == {"a photo of Tausendschönchen."}
    assert {(row["licence"], row["attribution"]) for row in said} == {("CC BY 4.0", "Ann")}


def test_names_of_columns_in_the_wild(tmp_path: Path) -> None:
    sample = one(
        tmp_path,
        **{"Image Path": "a.jpg", "scientificName": "Morus bassanus (Linnaeus, 1758)", "license": "CC0"},
        **{"recordedBy": "Ann", "decimalLatitude": "56.0", "gbifID": "77", "vernacularName": "gannet", "Split": "Test"},
    )
    assert sample.path == (*NOTHING[:5], "Morus", "bassanus")
    assert sample.verbatim == "Morus bassanus (Linnaeus, 1758)"
    assert (sample.licence, sample.attribution, sample.group) == ("CC0", "Ann", "77")
    assert (sample.common_name, sample.split) == ("gannet", "test")


def test_the_first_column_that_says_something(tmp_path: Path) -> None:
    sample = one(tmp_path, genus="Bellis", rightsHolder="", recordedBy="Bob", attribution="nan", license="not provided")
    assert sample.attribution == "Bob" and sample.licence is None


@pytest.mark.parametrize(
    ("columns", "path"),
    [
        ({"scientific_name": "Bellis perennis"}, (*NOTHING[:5], "Bellis", "perennis")),
        (
            {"scientific_name": "Bellis perennis L.", "kingdom": "Plantae"},
            ("Plantae", *NOTHING[:4], "Bellis", "perennis"),
        ),
        ({"scientific_name": "Bellis"}, (*NOTHING[:5], "Bellis", None)),
        ({"scientific_name": "Bellis L."}, (*NOTHING[:5], "Bellis", None)),
        ({"scientific_name": "Asteraceae"}, (*NOTHING[:4], "Asteraceae", None, None)),
        ({"scientific_name": "Sulidae"}, (*NOTHING[:4], "Sulidae", None, None)),
        ({"scientific_name": "Aves", "taxonRank": "class"}, (None, None, "Aves", *NOTHING[3:])),
        ({"scientific_name": "Bellis", "genus": "Bellis"}, (*NOTHING[:5], "Bellis", None)),
        ({"scientific_name": "Aedes (Stegomyia) aegypti"}, (*NOTHING[:5], "Aedes", "aegypti")),
        ({"genus": "Morus", "specificEpithet": "alba", "scientific_name": "x"}, (*NOTHING[:5], "Morus", "alba")),
        ({"species": "Morus alba"}, (*NOTHING[:5], "Morus", "alba")),
    ],
)
def test_scientific_names(tmp_path: Path, columns: dict[str, str], path: taxonomy.Path) -> None:
    assert one(tmp_path, **columns).path == path


def test_common_names_by_language(tmp_path: Path) -> None:
    sample = one(
        tmp_path, genus="Morus", common_name_de="Maulbeere", **{"Common name FR": "mûrier", "common_name_it": "nan"}
    )
    assert sample.common_names == (("de", "Maulbeere"), ("fr", "mûrier")) and sample.common_name is None


def test_metadata_of_bioclip(tmp_path: Path) -> None:
    """An unnamed index; ``class`` is the label, ``cls`` the rank."""
    columns = [
        "",
        "filepath",
        "class",
        "kingdom",
        "phylum",
        "cls",
        "order",
        "family",
        "genus",
        "species",
        "common_name",
    ]
    rows = [[i, f"{i}.jpg", f"label {i}", *path, ""] for i, path in enumerate((DAISY, GANNET))]
    samples, _ = listed(source_params("csv", write_csv(tmp_path / "metadata.csv", columns, rows)))
    assert [s.path for s in samples] == [DAISY, GANNET] and [s.common_name for s in samples] == [None, None]


@pytest.mark.parametrize("columns", [["", "filepath", "class"], ["filepath", "class"]])
def test_metadata_of_bioclip_with_labels_alone(tmp_path: Path, columns: list[str]) -> None:
    first = [0] * (len(columns) == 3)
    scientific = [[*first, "a.jpg", "Bellis perennis"], [*first, "b.jpg", "_".join(GANNET)]]
    samples, _ = listed(source_params("csv", write_csv(tmp_path / "a.csv", columns, scientific)))
    assert [s.path for s in samples] == [(*NOTHING[:5], "Bellis", "perennis"), GANNET]
    common = [[*first, "a.jpg", "American robin"], [*first, "b.jpg", "abyssinian"]]
    samples, _ = listed(source_params("csv", write_csv(tmp_path / "b.csv", columns, common)))
    assert [(s.path, s.common_name) for s in samples] == [(NOTHING, "American robin"), (NOTHING, "abyssinian")]


def test_class_is_a_rank_elsewhere(tmp_path: Path) -> None:
    assert one(tmp_path, **{"class": "Aves"}).path == (None, None, "Aves", *NOTHING[3:])


def test_a_folder_understands_the_same(tmp_path: Path, web: Web) -> None:
    web.files["b.jpg"] = photo("b")
    rows = [
        folder_row("a.jpg", MULBERRY, common_name_de="Maulbeere"),
        folder_row(web.url("b.jpg"), DAISY, content=None),
    ]
    columns = ("file", *taxonomy.RANKS, "common_name_de")
    params = source_params("folder", write_folder(tmp_path / "source", rows, columns))
    samples, _ = listed(params)
    assert [s.path for s in samples] == [MULBERRY, DAISY] and samples[0].common_names == (("de", "Maulbeere"),)
    assert find_source("folder").read(params, samples[1].locator) == photo("b")


def test_files_whose_names_are_no_text(tmp_path: Path) -> None:
    put(tmp_path / "Bellis perennis" / "a.jpg", photo(1))
    try:
        put(tmp_path / "Bellis perennis" / "b\udcff.jpg", photo(2))
    except (OSError, UnicodeEncodeError):
        pytest.skip("the file system takes Unicode only")
    samples, left_out = listed(source_params("folder", tmp_path))
    assert len(samples) == 1 and [r.reason for r in left_out] == ["bad name"]
    left_out[0].locator.encode()


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    table = put(tmp_path / "a.csv", "file;genus\n;Bellis\nb.jpg;Bellis;more\n\nc.jpg;\n")
    samples, left_out = listed(source_params("csv", table))
    assert [(r.locator, r.reason) for r in left_out] == [
        ("a.csv, line 2", "missing file"),
        ("a.csv, line 3", "bad row"),
    ]
    assert [s.path for s in samples] == [NOTHING]


def test_a_name_with_a_zero_byte(tmp_path: Path) -> None:
    table = put(tmp_path / "a.csv", "file,genus\na\0.jpg,Bellis\n")
    params = source_params("csv", table)
    samples, _ = listed(params)
    for sample in samples:
        with pytest.raises(OSError):
            find_source("csv").read(params, sample.locator)


def fails(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        listed(source_params("csv", path))
    for word in words:
        assert word in str(error.value)


def test_tables_that_are_none(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere.csv", "does not exist")
    fails(tmp_path, "is a folder", "table")
    fails(put(tmp_path / "a.csv", ""), "no column 'file'", "none")
    fails(put(tmp_path / "b.csv", "file,weight\n"), "rank", "scientific_name", "file, weight")
    fails(put(tmp_path / "c.csv", "file,genus,Genus\n"), "two columns 'genus'")
    fails(put(tmp_path / "d.csv", b"file,genus\nM\xfcller.jpg,Bellis\n"), "UTF-8")
    fails(put(tmp_path / "e.csv", 'file,genus\n"' + "x" * 200_000 + '",Bellis\n'), "field larger")


CELL = st.text(st.characters(blacklist_categories=["Cs"]), max_size=15)
HEADER = st.lists(
    st.sampled_from(
        ["genus", "class", "cls", "species", "scientificName", "common_name", "common_name_de", "", "split"]
    ),
    unique=True,
    max_size=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=HEADER, rows=st.lists(st.lists(CELL, min_size=1, max_size=8), max_size=5))
def test_any_text_in_any_cell(tmp_path: Path, header: list[str], rows: list[list[str]]) -> None:
    table = tmp_path / "a.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "family", *header], *rows])
    params = source_params("csv", table)
    samples = [item for item in find_source("csv").samples(params) if not hasattr(item, "reason")]
    for sample in samples:
        assert len(sample.path) == 7 and sample.locator
        if not places.is_address(sample.locator):
            with pytest.raises(OSError):
                find_source("csv").read(params, sample.locator)


def test_labels_of_a_list() -> None:
    names = [
        "Ficus x hybrida",
        "Canis lupus familiaris",
        "Morus alba",
        "Olla v-nigrum",
        "Malus \N{MULTIPLICATION SIGN}domestica",
    ]
    assert set(fields.label_paths(names)) == set(names)
    assert fields.label_paths(["dog", "cat", "American robin", "Siberian husky"]) == {}
    assert fields.label_paths([]) == {}
