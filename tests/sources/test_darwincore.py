import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bioclip_lite.sources import downloads, places
from bioclip_lite.sources.registry import find_source
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET, MULBERRY
from support.raw_forms import (
    DC,
    DWC,
    GBIF,
    MULTIMEDIA,
    OCCURRENCE,
    archive,
    described,
    listed,
    media,
    meta_xml,
    occurrence,
    photo,
    put,
    rejects,
    serving,
    source_params,
    tabbed,
    to_captions,
    zipped,
)


def listed_one(folder: Path, occurrences: list[Any], multimedia: list[Any], vernacular: list[Any] | None = None) -> Any:
    (sample,), left_out = listed(source_params("darwincore", archive(folder, occurrences, multimedia, vernacular)))
    assert left_out == []
    return sample


def test_from_a_packed_archive_and_the_web_to_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_FIRST_WAIT", 0.01)
    with serving() as web:
        plants = [occurrence(10 * t + i, path) for t, path in enumerate((DAISY, MULBERRY, GANNET)) for i in range(4)]
        names = [{"gbifID": plant["gbifID"], "vernacularName": "Vogel", "language": "de"} for plant in plants[8:]]
        pictures = []
        for plant in plants:
            for i in range(2):
                name = f"photos/{plant['gbifID']}/{i}/original.jpeg"
                web.files[name] = photo(name)
                pictures.append(media(int(plant["gbifID"]), web.url(name), license="cc-by-nc", creator="Ann"))
        del web.files["photos/0/0/original.jpeg"]
        packed = zipped(archive(tmp_path / "raw", plants, pictures, names), tmp_path / "0012345-260101000000000.zip")
        rows = to_captions(source_params("darwincore", packed), tmp_path / "data", ("de",))
        assert rejects(tmp_path / "data") == {web.url("photos/0/0/original.jpeg"): "unreadable"}
        assert len(rows) == 23 and len(web.asked) == 24
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == 12 and all(len(found) == 1 for found in splits.values())
    assert {(row["licence"], row["attribution"]) for row in rows} == {("cc-by-nc", "Ann")}
    assert {row["com_de"] for row in rows if row["kingdom"] == "Animalia"} == {"a photo of Vogel."}
    assert {row["taxon"] for row in rows if row["genus"] == "Bellis"} == {f"a photo of {' '.join(DAISY)}."}


def test_an_unpacked_archive_with_files_beside_it(tmp_path: Path) -> None:
    folder = archive(tmp_path, [occurrence(1, DAISY)], [media(1, "media\\a.jpg")])
    put(folder / "media" / "a.jpg", photo(1))
    params = source_params("darwincore", folder)
    (sample,), _ = listed(params)
    assert find_source("darwincore").read(params, sample.locator) == photo(1)
    packed = source_params("darwincore", zipped(folder, folder / "packed.zip"))
    assert listed(packed)[0] == [sample]
    assert find_source("darwincore").read(packed, sample.locator) == photo(1)


def test_an_archive_packed_with_its_folder(tmp_path: Path) -> None:
    archive(tmp_path / "raw" / "dwca", [occurrence(1, DAISY)], [media(1, "a.jpg")])
    samples, _ = listed(source_params("darwincore", zipped(tmp_path / "raw", tmp_path / "a.zip")))
    assert [s.path for s in samples] == [DAISY]


def test_only_still_images(tmp_path: Path) -> None:
    rows = [
        media(1, "still.jpg"),
        media(1, "address.jpg", type="http://purl.org/dc/dcmitype/StillImage"),
        media(1, "by-format.jpg", type="", format="image/png"),
        media(1, "sound.mp3", type="Sound", format="audio/mpeg"),
        media(1, "film.mp4", type="MovingImage", format="image/gif"),
        media(1, "nothing", type="", format=""),
        media(1, ""),
        media(2, "orphan.jpg"),
    ]
    samples, left_out = listed(source_params("darwincore", archive(tmp_path, [occurrence(1, DAISY)], rows)))
    assert [s.locator for s in samples] == ["still.jpg", "address.jpg", "by-format.jpg"]
    assert {s.group for s in samples} == {"1"}
    assert [(r.locator, r.reason) for r in left_out] == [
        ("multimedia.txt, row 7", "missing file"),
        ("multimedia.txt, row 8", "bad row"),
    ]


def test_licence_and_owner_of_the_photograph_come_before_those_of_the_occurrence(tmp_path: Path) -> None:
    plant = occurrence(1, DAISY, license="CC0_1_0", rightsHolder="The museum")
    rows = [media(1, "a.jpg", license="http://creativecommons.org/licenses/by/4.0/", rightsHolder="Ann", creator="Bob")]
    rows += [media(1, "b.jpg", creator="Bob"), media(1, "c.jpg")]
    samples, _ = listed(
        source_params("darwincore", archive(tmp_path, [plant, occurrence(2, GANNET)], [*rows, media(2, "d")]))
    )
    assert [(s.licence, s.attribution) for s in samples] == [
        ("http://creativecommons.org/licenses/by/4.0/", "Ann"),
        ("CC0_1_0", "Bob"),
        ("CC0_1_0", "The museum"),
        ("CC_BY_4_0", "A. Recorder"),
    ]


def test_common_names_by_language(tmp_path: Path) -> None:
    said = [
        ("deu", "Maulbeere"),
        ("de-AT", "another"),
        ("German", "a third"),
        ("en", "White Mulberry"),
        ("", "x"),
        ("1", "y"),
    ]
    names = [{"gbifID": "1", "vernacularName": name, "language": language} for language, name in said]
    names.append({"gbifID": "2", "vernacularName": "of another", "language": "fr"})
    sample = listed_one(tmp_path, [occurrence(1, MULBERRY)], [media(1, "a.jpg")], names)
    assert sample.common_names == (("de", "Maulbeere"), ("en", "White Mulberry"))
    assert sample.common_name == "x"
    sample = listed_one(tmp_path, [occurrence(1, MULBERRY, vernacularName="Mulberry")], [media(1, "a.jpg")], names)
    assert sample.common_name == "Mulberry"
    sample = listed_one(tmp_path, [occurrence(1, MULBERRY)], [media(1, "a.jpg")], names[:4])
    assert sample.common_name == "White Mulberry"


def test_names_of_occurrences(tmp_path: Path) -> None:
    plants = [
        occurrence(1, MULBERRY, scientificName="Morus alba var. multicaulis (Perr.) Loudon", taxonRank="VARIETY"),
        occurrence(2, (*MULBERRY[:6], None), scientificName="Morus L.", taxonRank="GENUS"),
        # A synonym: the accepted name stands in the ranks, the epithet of the name given in its own column.
        occurrence(3, MULBERRY, scientificName="Morus multicaulis Perr.", specificEpithet="multicaulis"),
        occurrence(4, MULBERRY, species=""),  # archives that GBIF has not interpreted
        occurrence(5, MULBERRY, phylum="incertae sedis", **{"class": ""}),
        {"gbifID": "6", "scientificName": "Sulidae", "taxonRank": "FAMILY"},
        {"gbifID": "7", "scientificName": "Morus bassanus (Linnaeus, 1758)"},
        {"gbifID": "8"},
    ]
    pictures = [media(int(plant["gbifID"]), f"{plant['gbifID']}.jpg") for plant in plants]
    samples, _ = listed(source_params("darwincore", archive(tmp_path, plants, pictures)))
    nothing = (None,) * 7
    assert [s.path for s in samples] == [
        *(MULBERRY, (*MULBERRY[:6], None), MULBERRY, MULBERRY, ("Plantae", None, None, *MULBERRY[3:])),
        *((*nothing[:4], "Sulidae", None, None), (*nothing[:5], "Morus", "bassanus"), nothing),
    ]
    assert samples[0].verbatim == "Morus alba var. multicaulis (Perr.) Loudon"


def test_a_photograph_listed_twice_and_one_of_two_occurrences(tmp_path: Path) -> None:
    rows = [media(1, "a.jpg"), media(1, "a.jpg", creator="Ann"), media(2, "a.jpg")]
    samples, _ = listed(
        source_params("darwincore", archive(tmp_path, [occurrence(1, DAISY), occurrence(2, DAISY)], rows))
    )
    assert [(s.locator, s.group) for s in samples] == [("a.jpg", "1"), ("a.jpg", "2")]


def test_quotation_marks_and_other_bytes_are_part_of_names(tmp_path: Path) -> None:
    folder = archive(tmp_path, [occurrence(1, DAISY, recordedBy='"Ann" O"Neill')], [media(1, "a.jpg")])
    text = (folder / "occurrence.txt").read_bytes()
    put(folder / "occurrence.txt", text.replace(b"Neill", b"N\xe9ill\x0b\rBob"))
    (sample,), _ = listed(source_params("darwincore", folder))
    assert sample.attribution == '"Ann" O"N\N{REPLACEMENT CHARACTER}ill Bob'


def test_another_dialect_with_constants(tmp_path: Path) -> None:
    """Commas, quotes, Latin-1, Windows lines, no header, two files of one table, values for all rows in meta.xml."""
    dialect = {"fieldsTerminatedBy": ",", "fieldsEnclosedBy": "&quot;", "linesTerminatedBy": "\\r\\n"}
    core = (DWC + "occurrenceID", DWC + "scientificName", DWC + "recordedBy")
    constants = f'<field term="{DC}license" default="CC0"/><field term="{DWC}kingdom" default="Plantae"/>'
    tables = [
        described("core", "a.csv", DWC + "Occurrence", core, constants, **dialect, encoding="ISO-8859-1"),
        described("extension", "images.csv", GBIF + "Image", (DWC + "occurrenceID", DC + "identifier"), "", **dialect),
    ]
    xml = (
        meta_xml(tables)
        .replace('ignoreHeaderLines="1"', "")
        .replace("a.csv</location>", "a.csv</location><location>b.csv</location>")
    )
    put(tmp_path / "meta.xml", xml)
    (tmp_path / "a.csv").write_bytes('x1,"Bellis perennis L.","M\xfcller, Ann"\r\n'.encode("latin-1"))
    put(tmp_path / "b.csv", 'x2,"Morus\nalba",\r\n')
    put(tmp_path / "images.csv", "x1,https://example.org/a.jpg\r\nx2,https://example.org/b.jpg\r\n")
    samples, _ = listed(source_params("darwincore", tmp_path))
    assert [s.path[5:] for s in samples] == [("Bellis", "perennis"), ("Morus", "alba")]
    assert [(s.path[0], s.licence, s.attribution) for s in samples] == [
        ("Plantae", "CC0", "M\xfcller, Ann"),
        ("Plantae", "CC0", None),
    ]


def test_audubon_core(tmp_path: Path) -> None:
    terms = (GBIF + "gbifID", DC + "type", "http://rs.tdwg.org/ac/terms/accessURI", DC + "identifier")
    folder = archive(tmp_path, [occurrence(1, DAISY)], [])
    tables = [
        described("core", "occurrence.txt", DWC + "Occurrence", OCCURRENCE),
        described("extension", "multimedia.txt", "http://rs.tdwg.org/ac/terms/Multimedia", terms),
    ]
    put(folder / "meta.xml", meta_xml(tables))
    put(folder / "multimedia.txt", "id\ttype\turi\tidentifier\n1\tStillImage\thttps://example.org/a.jpg\turn:a\n")
    samples, _ = listed(source_params("darwincore", folder))
    assert [s.locator for s in samples] == ["https://example.org/a.jpg"]


def described_otherwise(folder: Path, was: str, now: str) -> Path:
    """An archive with one daisy whose meta.xml says something else of its tables."""
    raw = archive(folder, [occurrence(1, DAISY, recordedBy="Bob M\xfcller")], [media(1, "a.jpg")])
    xml = (raw / "meta.xml").read_text()
    assert was in xml
    put(raw / "meta.xml", xml.replace(was, now))
    return raw


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ('fieldsTerminatedBy="\\t"', 'fieldsTerminatedBy="\\\\t"', ""),
        ('fieldsTerminatedBy="\\t"', 'fieldsTerminatedBy="&#9;"', ""),
        ('fieldsTerminatedBy="\\t"', 'fieldsTerminatedBy="\t"', "fields end with '\\t', not ' '"),  # as XML reads it
        ('fieldsTerminatedBy="\\t"', 'fieldsTerminatedBy="|"', "fields end with '\\t', not '|'"),
        ('fieldsTerminatedBy="\\t"', "", "fields end with '\\t', not ','"),
        ('linesTerminatedBy="\\n"', 'linesTerminatedBy="\\r\\n"', ""),
        ('linesTerminatedBy="\\n"', 'linesTerminatedBy="\\r"', "lines end with '\\n', not '\\r'"),
        ('ignoreHeaderLines="1"', "", "lines of header 1, not 0"),
        ('encoding="UTF-8"', 'encoding="windows-1252"', "encoding 'utf-8', not 'cp1252'"),
        ('encoding="UTF-8"', 'encoding=" utf8 "', ""),
        ("<location>", "<location>./", ""),
        (DC + "identifier", "dcterms:identifier", ""),
        ("<archive", "\ufeff<archive", ""),
    ],
)
def test_a_meta_xml_that_is_otherwise_than_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], was: str, now: str, told: str
) -> None:
    """As exporters write them. What the file shows counts, and is told."""
    raw = described_otherwise(tmp_path, was, now)
    (sample,), rejected = listed(source_params("darwincore", raw))
    assert (sample.locator, sample.path, sample.attribution) == ("a.jpg", DAISY, "Bob M\xfcller") and not rejected
    said = capsys.readouterr().out
    assert (f"occurrence.txt of the archive is otherwise than meta.xml says: {told}\n" in said) if told else not said


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_tables_with_a_mark_of_their_encoding(tmp_path: Path, encoding: str) -> None:
    raw = described_otherwise(tmp_path, 'ignoreHeaderLines="1"', "")
    for name in ("occurrence.txt", "multimedia.txt"):
        header, _, rest = (raw / name).read_text("utf-8").partition("\n")
        assert header
        (raw / name).write_bytes(rest.encode(encoding))
    (sample,), rejected = listed(source_params("darwincore", raw))
    assert (sample.group, sample.attribution) == ("1", "Bob M\xfcller") and not rejected


def test_an_archive_unpacked_with_its_folder(tmp_path: Path) -> None:
    archive(tmp_path / "raw" / "dwca", [occurrence(1, DAISY)], [media(1, "https://example.org/a.jpg")])
    assert len(listed(source_params("darwincore", tmp_path / "raw"))[0]) == 1


def test_numbers_that_a_spreadsheet_has_rounded_are_no_occurrences(tmp_path: Path) -> None:
    plants = [{**occurrence(i, DAISY), "gbifID": "1.25E+09"} for i in range(2)]
    pictures = [{**media(i, f"{i}.jpg"), "gbifID": "1.25E+09"} for i in range(2)]
    fails(archive(tmp_path, plants, pictures), "multimedia.txt, row 1: observation 1.25E+09", "has rounded")


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({"type": "Image"}, True),
        ({"type": "Still Image"}, True),
        ({"type": "dcterms:StillImage"}, True),
        ({"type": "http://purl.org/dc/dcmitype/Sound"}, False),
        ({"type": "", "format": "image/jpg"}, True),
        ({"type": "", "format": "JPEG"}, True),
        ({"type": "", "format": ".jpg"}, True),
        ({"type": "", "format": "audio/mpeg"}, False),
        ({"type": "", "format": "", "identifier": "https://example.org/a.JPG?size=large"}, True),
        ({"type": "", "format": "", "identifier": "https://example.org/page"}, False),
    ],
)
def test_what_is_a_still_image(tmp_path: Path, columns: dict[str, str], kept: bool) -> None:
    row = {**media(1, "https://example.org/1"), **columns}
    samples, _ = listed(source_params("darwincore", archive(tmp_path, [occurrence(1, DAISY)], [row])))
    assert len(samples) == kept


def with_media(folder: Path, tables: dict[str, Any]) -> Path:
    """An archive of one daisy with extensions by file: (row type, terms, rows)."""
    raw = archive(folder, [occurrence(1, DAISY)], [])
    parts = [described("core", "occurrence.txt", DWC + "Occurrence", OCCURRENCE)]
    for file, (kind, terms, lines) in tables.items():
        parts.append(described("extension", file, kind, terms))
        put(raw / file, "".join("\t".join(values) + "\n" for values in (terms, *lines)))
    put(raw / "meta.xml", meta_xml(parts))
    return raw


@pytest.mark.parametrize(
    ("identifier", "references", "found"),
    [
        ("https://example.org/a", "https://example.org/page", "https://example.org/a"),
        ("urn:uuid:7", "https://example.org/a.jpg", "https://example.org/a.jpg"),
        ("", "https://example.org/a.jpg", "https://example.org/a.jpg"),
        ("photos\\a.jpg", "https://example.org/page", "photos/a.jpg"),
        ("https://example.org/a.jpg", "https://example.org/b.jpg", "https://example.org/a.jpg"),
    ],
)
def test_the_address_of_the_image_and_not_of_its_page(
    tmp_path: Path, identifier: str, references: str, found: str
) -> None:
    terms = (GBIF + "gbifID", DC + "type", DC + "identifier", DC + "references")
    table = (GBIF + "Multimedia", terms, [("1", "StillImage", identifier, references)])
    (sample,), _ = listed(source_params("darwincore", with_media(tmp_path, {"multimedia.txt": table})))
    assert sample.locator == found


def test_several_extensions_list_the_same_photographs_and_others(tmp_path: Path) -> None:
    audubon = (GBIF + "gbifID", DC + "type", "http://rs.tdwg.org/ac/terms/accessURI")
    simple = (GBIF + "gbifID", DC + "type", DC + "identifier")
    rows = [("1", "StillImage", f"https://example.org/{name}.jpg") for name in "abc"]
    tables = {
        "multimedia.txt": (GBIF + "Multimedia", simple, rows[:2]),
        "ac.txt": ("http://rs.tdwg.org/ac/terms/Multimedia", audubon, rows[1:]),
    }
    samples, _ = listed(source_params("darwincore", with_media(tmp_path, tables)))
    assert [sample.locator[-5] for sample in samples] == ["a", "b", "c"]


def test_photographs_that_the_occurrence_itself_lists(tmp_path: Path) -> None:
    """associatedMedia, with bars between as Darwin Core has it, or with semicolons or commas."""
    texts = [
        "https://example.org/a.jpg | https://example.org/b.jpg",
        "https://example.org/c.jpg;photos/d.jpg",
        "https://example.org/e,1.jpg, https://example.org/f.jpg",
        "https://example.org/song.mp3",
        "",
    ]
    terms = (*OCCURRENCE, DWC + "associatedMedia")
    plants = [occurrence(i, DAISY, associatedMedia=text) for i, text in enumerate(texts)]
    put(tmp_path / "meta.xml", meta_xml([described("core", "occurrence.txt", DWC + "Occurrence", terms)]))
    put(tmp_path / "occurrence.txt", tabbed(terms, plants))
    samples, rejected = listed(source_params("darwincore", tmp_path))
    assert [sample.locator.removeprefix("https://example.org/") for sample in samples] == [
        *("a.jpg", "b.jpg", "c.jpg", "photos/d.jpg", "e,1.jpg", "f.jpg")
    ]
    assert [sample.group for sample in samples] == ["0", "0", "1", "1", "2", "2"] and not rejected


def fails(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        listed(source_params("darwincore", path))
    for word in words:
        assert word in str(error.value)


def test_archives_that_are_none(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere.zip", "does not exist")
    fails(put(tmp_path / "a.zip", b"PK\x03\x04 cut off"), "no complete zip")
    fails(put(tmp_path / "0012345.csv", "gbifID\n1\n"), "is a table", "download the occurrences as Darwin Core archive")
    fails(put(tmp_path / "simple" / "0012345.csv", "gbifID\n1\n").parent, "no meta.xml", "not as simple table")
    fails(put(tmp_path / "broken" / "meta.xml", "<archive><core").parent, "meta.xml does not describe")
    fails(put(tmp_path / "empty" / "meta.xml", "<archive></archive>").parent, "meta.xml does not describe")
    folder = archive(tmp_path / "gone", [occurrence(1, DAISY)], [media(1, "a.jpg")])
    (folder / "multimedia.txt").unlink()
    fails(folder, "there is no multimedia.txt")
    folder = archive(tmp_path / "code", [occurrence(1, DAISY)], [media(1, "a.jpg")])
    put(folder / "meta.xml", (folder / "meta.xml").read_text().replace("UTF-8", "EBCDIC-??"))
    fails(folder, "EBCDIC-??")


def test_archives_without_photographs(tmp_path: Path) -> None:
    folder = archive(tmp_path, [occurrence(1, DAISY)], [])
    put(folder / "meta.xml", meta_xml([described("core", "occurrence.txt", DWC + "Occurrence", OCCURRENCE)]))
    fails(folder, "no occurrences with multimedia", "occurrence")
    tables = [described("core", "occurrence.txt", DWC + "Taxon", OCCURRENCE)]
    tables.append(described("extension", "multimedia.txt", GBIF + "Multimedia", MULTIMEDIA))
    put(folder / "meta.xml", meta_xml(tables))
    fails(folder, "taxon, multimedia")


def test_a_damaged_packed_archive(tmp_path: Path) -> None:
    raw = archive(tmp_path / "raw", [occurrence(i, DAISY) for i in range(500)], [media(1, "a.jpg")])
    packed = zipped(raw, tmp_path / "a.zip")
    with zipfile.ZipFile(packed) as file:
        start = file.getinfo("occurrence.txt").header_offset + 100
    content = bytearray(packed.read_bytes())
    content[start : start + 50] = bytes(50)
    packed.write_bytes(content)
    fails(packed, "a.zip", "download")


TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\t\n"), max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(TEXT, min_size=1, max_size=20), pictures=st.lists(st.lists(TEXT, max_size=9), max_size=4))
def test_any_text_in_any_field(tmp_path: Path, values: list[str], pictures: list[list[str]]) -> None:
    folder = archive(tmp_path, [occurrence(1, DAISY)], [media(1, "a.jpg")])
    with (folder / "occurrence.txt").open("a", newline="") as file:
        file.write("\t".join(values) + "\n")
    with (folder / "multimedia.txt").open("a", newline="") as file:
        for row in pictures:
            file.write("\t".join([values[0], "", "image/jpeg", *row]) + "\n")
    params = source_params("darwincore", folder)
    samples, _ = listed(params)
    assert samples[0].path == DAISY
    for sample in samples:
        if not places.is_address(sample.locator):
            with pytest.raises(OSError):
                find_source("darwincore").read(params, sample.locator)
