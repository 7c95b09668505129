"""Tables as people have them: near to CSV, and told apart from what would lose rows."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioclip_lite.indexing import names
from bioclip_lite.sources import delimited
from bioclip_lite.sources.sample import Reject, Sample
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET
from support.raw_forms import listed, put, source_params

HEADER = "file,genus,species,observation"


def rows(text: str | bytes, tmp_path: Path) -> list[tuple[int, list[str]]]:
    return list(delimited.rows(put(tmp_path / "table.csv", text)))


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")), min_size=3, max_size=3),
        min_size=1,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_csv_writes_is_read_with_the_numbers_of_its_lines(values: list[list[str]], end: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(values)
    text = file.getvalue()
    read = list(delimited.parse(io.StringIO(text, newline=""), "table", ",", '"'))
    assert [row for _, row in read] == values
    line = 1
    for number, row in read:
        assert number == line
        line += 1 + sum(cell.count("\n") for cell in row)


@pytest.mark.parametrize("last", ["\n", ""])
def test_a_quotation_mark_that_stays_open_is_named_with_its_line_and_the_rows_it_hides(
    tmp_path: Path, last: str
) -> None:
    lines = [HEADER, *(f"{i}.jpg,Morus,alba," for i in range(20))]
    lines[5] = '4.jpg,"Morus,alba,'
    with pytest.raises(UserError, match=r"table\.csv, line 6: a quotation mark opens .* so the 15 lines after it"):
        rows("\n".join(lines) + last, tmp_path)
    lines[15] = '14.jpg,Morus",alba,'  # which closes it, ten rows later
    with pytest.raises(UserError, match=r"table\.csv, line 6: a quotation mark opens .* so the 10 lines after it"):
        rows("\n".join(lines) + last, tmp_path)
    lines[5:16] = ['"4\n5.jpg",Morus,"al\nba",']  # text that spans lines, and closes
    assert rows("\n".join(lines) + last, tmp_path)[5] == (6, ["4\n5.jpg", "Morus", "al\nba", ""])
    with pytest.raises(UserError, match="line 3: a quotation mark opens"):
        rows(f'{HEADER}\na.jpg,Morus,alba,\nb.jpg,Morus,alba,"', tmp_path)


def test_species_lists_and_archives_name_an_open_quotation_mark_too(tmp_path: Path) -> None:
    file = put(tmp_path / "list.csv", 'genus,species\nMorus,alba\nBellis,"perennis\nSula,sula\n')
    with pytest.raises(UserError, match=r"list\.csv, line 3: a quotation mark opens"):
        names.read_species_list(file)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_that_excel_is_told_of_is_used(tmp_path: Path, separator: str) -> None:
    table = separator.join(["a", "b"]) + "\r\n" + separator.join(["1", "2.3"]) + "\r\n"
    assert rows(f"sep={separator}\r\n{table}", tmp_path) == [(2, ["a", "b"]), (3, ["1", "2.3"])]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])  # of a line; the last is that of old Macs
def test_unicode_text_is_read_with_or_without_a_mark(tmp_path: Path, encoding: str, end: str) -> None:
    text = end.join([HEADER.replace(",", "\t"), "Müller.jpg\tMorus\talba\t", ""])
    found = [values for _, values in rows(text.encode(encoding), tmp_path)]
    assert found == [HEADER.split(","), ["Müller.jpg", "Morus", "alba", ""]]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "mac_roman"])
def test_text_in_another_encoding_is_told_from_a_table(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(UserError, match=r"table\.csv is not UTF-8 text .*save it again as CSV UTF-8"):
        rows(f"{HEADER}\nMüller.jpg,Morus,alba,\n".encode(encoding), tmp_path)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"PK\x03\x04\x14\0", r"a workbook \(\.xlsx, \.ods\) or a zip archive.*save its sheet as CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1", r"a workbook \(\.xls\)"),
        (b"\x1f\x8b\x08", r"packed \(gzip\), not a table in text; unpack it"),
        (b"PAR1", "a Parquet file"),
        (b"\r\n<!DOCTYPE html><html>", "a web page, .* download the table itself"),
    ],
)
def test_what_is_often_given_in_place_of_a_table_is_named(tmp_path: Path, start: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        rows(start + bytes(100), tmp_path)


def test_an_empty_table_has_an_empty_header(tmp_path: Path) -> None:
    assert rows("", tmp_path) == [(1, [])]


def test_separators_in_quotation_marks_do_not_count(tmp_path: Path) -> None:
    assert rows('"Species, or genus, or both";file\nMorus;a.jpg\n', tmp_path)[1] == (2, ["Morus", "a.jpg"])
    assert rows("file|genus, if known\na.jpg|Morus\n", tmp_path)[0] == (1, ["file|genus", " if known"])


def of_csv(tmp_path: Path, text: str) -> tuple[list[str], list[Reject]]:
    samples, rejected = listed(source_params("csv", put(tmp_path / "photos.csv", text)))
    return [sample.locator for sample in samples], rejected


def test_row_names_of_r_are_not_taken_for_values(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"photos\.csv: each row has one value more .* row\.names = FALSE"):
        of_csv(tmp_path, 'file,genus,species\n"1",a.jpg,Morus,alba\n"2",b.jpg,Morus,nigra\n')


def test_a_row_of_another_length_says_what_to_mend(tmp_path: Path) -> None:
    found, rejected = of_csv(tmp_path, f"{HEADER}\na.jpg,Morus,alba,1\nb.jpg,Morus\nc.jpg,Morus,al,ba,1\n")
    assert found == ["a.jpg"]
    assert [reject.detail for reject in rejected] == [
        "2 values where the header has 4 columns; fill in the last ones, or their separators",
        "5 values where the header has 4 columns; quote text that contains separators",
    ]


@pytest.mark.parametrize("written", ["1.25E+08", "1,25E+08", "1E+11", "1.2e+8"])
def test_observations_that_a_spreadsheet_has_rounded_join_no_photographs(tmp_path: Path, written: str) -> None:
    with pytest.raises(UserError, match=r"photos\.csv, line 3: observation .* a spreadsheet has rounded"):
        of_csv(tmp_path, f'{HEADER}\na.jpg,Morus,alba,125000001\nb.jpg,Morus,alba,"{written}"\n')
    assert of_csv(tmp_path, f"{HEADER}\na.jpg,Morus,alba,E+1\nb.jpg,Morus,alba,1.5\n")[0] == ["a.jpg", "b.jpg"]


def test_an_epithet_without_a_genus_makes_no_class_of_its_own(tmp_path: Path) -> None:
    found, rejected = of_csv(tmp_path, "file,kingdom,genus,species\na.jpg,Plantae,,alba\nb.jpg,Plantae,,Morus alba\n")
    assert found == ["b.jpg"]
    assert "'alba' is an epithet without a genus" in rejected[0].detail


def test_both_taxa_of_a_table_keep_their_ranks(tmp_path: Path) -> None:
    columns = "file,kingdom,phylum,class,order,family,genus,species"
    text = "\n".join([columns, ",".join(["a.jpg", *DAISY]), ",".join(["b.jpg", *GANNET])])
    samples, _ = listed(source_params("csv", put(tmp_path / "photos.csv", text)))
    assert [sample.path for sample in samples] == [DAISY, GANNET]


def test_separators_at_the_end_of_lines_and_headers_in_between_are_no_rows(tmp_path: Path) -> None:
    """Spreadsheets write the first, cat the second."""
    found, rejected = of_csv(tmp_path, f"{HEADER}\na.jpg,Morus,alba,,,,\n{HEADER}\nb.jpg,Morus,alba,\n")
    assert found == ["a.jpg", "b.jpg"]
    assert not rejected
    assert rows(f"{HEADER}\r\n{HEADER}\r\n", tmp_path) == [(1, HEADER.split(","))]
    found, rejected = of_csv(tmp_path, f"{HEADER},\na.jpg,Morus,alba,,\nb.jpg,Morus,alba,\n")
    assert found == ["a.jpg"] and len(rejected) == 1


@pytest.mark.parametrize("missing", ["", "-", "\N{EN DASH}", "NA", "#N/A", "NULL", "\\N", "<NA>", "n/a", "nan"])
def test_ways_to_say_that_a_value_is_missing(tmp_path: Path, missing: str) -> None:
    text = f"file,family,genus,species\na.jpg,{missing},Morus,alba\n{missing},,Morus,alba\n"
    samples, rejected = listed(source_params("csv", put(tmp_path / "photos.csv", text)))
    assert [sample.path[4:] for sample in samples] == [(None, "Morus", "alba")]
    assert [reject.reason for reject in rejected] == ["missing file"]


def in_class(tmp_path: Path, header: str, *values: str) -> list[Sample]:
    rows = [f"{'0,' if header[0] == ',' else ''}{i}.jpg,{value}" for i, value in enumerate(values)]
    return listed(source_params("csv", put(tmp_path / "photos.csv", "\n".join([header, *rows]))))[0]


@pytest.mark.parametrize("header", ["file,class", "filepath,class", ",filepath,class", "path,class"])
def test_what_column_class_holds_is_seen_in_its_values_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str
) -> None:
    ranks = in_class(tmp_path, header, "Aves", "Insecta", "AVES", "Agaricomycetes", "nan")
    assert [sample.path[2] for sample in ranks] == ["Aves", "Insecta", "Aves", "Agaricomycetes", None]
    assert "photos.csv: column 'class' is taken for the rank, for its values: AVES, Ag" in capsys.readouterr().out
    labels = in_class(tmp_path, header, "Danaus plexippus", "Bellis_perennis", "Insecta")
    assert [sample.path[5:] for sample in labels[:2]] == [("Danaus", "plexippus"), ("Bellis", "perennis")]
    assert (labels[2].path[2], labels[2].common_name) == (None, "Insecta")
    assert "column 'class' is taken for what each photograph shows" in capsys.readouterr().out
    assert [sample.common_name for sample in in_class(tmp_path, header, "dog", "cat")] == ["dog", "cat"]


def test_column_class_that_could_be_either_is_a_label_only_in_the_form_of_bioclip(tmp_path: Path) -> None:
    for header, label in (("file,class", False), ("filepath,class", True), ("Unnamed: 0,path,class", True)):
        prefix = "0," if header[0] == "U" else ""
        table = put(tmp_path / "photos.csv", f"{header}\n{prefix}a.jpg,Robin\n{prefix}b.jpg,Kestrel\n")
        samples, _ = listed(source_params("csv", table))
        assert [sample.common_name == "Robin" for sample in samples] == [label, False]
        assert [sample.path[2] == "Robin" for sample in samples] == [not label, False]


def test_a_class_beside_the_other_ranks_is_one_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = "file,kingdom,phylum,class,order,family,genus,species"
    text = "\n".join([columns, ",".join(["a.jpg", *DAISY]), ",".join(["b.jpg", *GANNET])])
    listed(source_params("csv", put(tmp_path / "photos.csv", text)))
    assert capsys.readouterr().out == ""
    labelled = "file,phylum,order,class\na.jpg,Chordata,Primates,Homo sapiens\nb.jpg,Chordata,Primates,Pan paniscus\n"
    samples, _ = listed(source_params("csv", put(tmp_path / "photos.csv", labelled)))
    assert "is taken for what each photograph shows" in capsys.readouterr().out
    assert [sample.path[1] for sample in samples] == ["Chordata", "Chordata"]
