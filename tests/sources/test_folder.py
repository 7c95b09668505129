"""Source folder: names as they are on disk, and what does not belong to the photographs."""

import os
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from bioclip_lite.sources import folder, places, tars
from bioclip_lite.suites import common
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET, encoded, picture, row, write_folder
from support.raw_forms import listed, photo, put, source_params, webdataset_tar

SYSTEMS = (".ipynb_checkpoints", "@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information")
Form = Literal["NFC", "NFD"]  # of Unicode


@pytest.mark.parametrize(
    "name",
    ["my  photo.jpg", "at 9.41.07\u202fAM.jpg", "a\u00a0b.jpg", " a .jpg", "null", "Müller.jpg", "M\u0308uller.jpg"],
)
def test_a_file_is_found_under_the_name_that_it_has(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, [row(f"daisy/{name}", DAISY), row("other.jpg", GANNET)])
    samples, rejected = listed(source_params("folder", tmp_path))
    assert not rejected
    assert samples[0].locator == f"daisy/{name}"
    assert folder.read(source_params("folder", tmp_path), samples[0].locator) == encoded(picture(f"daisy/{name}"))


@pytest.mark.parametrize(("table", "disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_composed_in_the_table_and_decomposed_on_disk(tmp_path: Path, table: Form, disk: Form) -> None:
    name = "Tausendschön.jpg"
    put(tmp_path / unicodedata.normalize(disk, name), b"content")
    assert places.read(source_params("folder", tmp_path), tmp_path, unicodedata.normalize(table, name)) == b"content"


@pytest.mark.parametrize(
    ("table", "disk"),
    [
        ("photos/IMG_1.JPG", "photos/IMG_1.jpg"),
        ("Photos/img_1.jpg", "photos/IMG_1.jpg"),
        ("my%20photos/a%C3%A9.jpg", "my photos/aé.jpg"),
        ("./photos/a.jpg", "photos/a.jpg"),
        ("photos\\a.jpg", "photos/a.jpg"),
        ("file:///home/ann/x/photos/a%20b.jpg", "photos/a b.jpg"),
        ("file:///C:/x/photos/a.jpg", "photos/a.jpg"),
        ("C:\\Users\\ann\\photos\\a.jpg", "photos/a.jpg"),
        ("/scratch/ann/photos/a.jpg", "photos/a.jpg"),
        ("/scratch/ann/Photos/a.JPG", "photos/a.jpg"),
    ],
)
def test_a_table_may_spell_a_place_otherwise_than_the_disk(tmp_path: Path, table: str, disk: str) -> None:
    put(tmp_path / disk, b"content")
    put(tmp_path / "metadata.csv", f"file,genus\n{table},Morus\n")
    params = source_params("folder", tmp_path)
    (sample,), _ = listed(params)
    assert folder.read(params, sample.locator) == b"content"


def test_a_percent_sign_in_a_name_may_be_meant(tmp_path: Path) -> None:
    put(tmp_path / "50%20.jpg", b"meant")
    put(tmp_path / "50 .jpg", b"other")
    assert places.read_below(tmp_path, "50%20.jpg") == b"meant"


def test_files_that_differ_in_capitals_only_are_not_taken_for_each_other(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.jpg"):
        put(tmp_path / name, name.encode())
    if (tmp_path / "a.jpg").samefile(tmp_path / "A.jpg"):
        pytest.skip("the file system makes no difference between them")
    assert places.read_below(tmp_path, "A.jpg") == b"A.jpg"
    with pytest.raises(OSError, match=r"2 files differ from 'a\.JPG' in capitals only"):
        places.read_below(tmp_path, "a.JPG")


def test_one_folder_of_another_computer_is_found_here_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What lies in a second one there could be another file of the same name."""
    put(tmp_path / "birds" / "1.jpg", b"here")
    (tmp_path / "elsewhere").mkdir()
    there = ["/data/ann/birds/1.jpg", "/data/bob/birds/1.jpg", "/data/ann/birds/2.jpg", str(tmp_path / "birds/1.jpg")]
    locate = places.locator_in(tmp_path)
    assert [locate(name) for name in there] == ["birds/1.jpg", there[1], "birds/2.jpg", there[3]]
    assert capsys.readouterr().out == f"{tmp_path}: files that the table has in /data/ann/ are looked for here\n"


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As scandir refuses it; root may read all."""
    put(tmp_path / "Morus alba" / "closed" / "0.jpg", photo(0))
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(places.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"closed cannot be read \(Permission denied\)"):
        listed(source_params("folder", tmp_path))


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_addresses_that_are_not_fetched_are_named(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(OSError, match=f"begin with {scheme}:// are not read"):
        places.read(source_params("folder", tmp_path), tmp_path, f"{scheme}://bucket/a.jpg")


@pytest.mark.parametrize("name", ["metadata.tsv", "Metadata.csv", "metadata.xlsx", "metadata.csv.txt", "labels.CSV"])
def test_a_table_beside_the_subfolders_is_not_ignored(tmp_path: Path, name: str) -> None:
    put(tmp_path / "birds" / "0.jpg", photo(0))
    put(tmp_path / name, "file,genus\nbirds/0.jpg,Morus\n")
    with pytest.raises(UserError, match=f"{name} lies beside the subfolders and would not be read"):
        listed(source_params("folder", tmp_path))
    (tmp_path / name).unlink()
    put(tmp_path / "README.txt", "photographs of birds")
    samples, rejected = listed(source_params("folder", tmp_path))
    assert len(samples) == 1 and rejected[0].locator == "README.txt"


def test_what_systems_put_among_photographs_is_left_out_at_any_depth(tmp_path: Path) -> None:
    for taxon in ("Bellis perennis", "Morus alba"):
        put(tmp_path / taxon / "deep" / "0.jpg", photo(taxon))
        for system in SYSTEMS:
            put(tmp_path / taxon / "deep" / system / "0.jpg" / "thumb.jpg", photo(taxon, system))
        put(tmp_path / taxon / "._0.jpg", b"Mac OS X")
    put(tmp_path / "__MACOSX" / "Morus alba" / "._0.jpg", b"Mac OS X")
    samples, rejected = listed(source_params("folder", tmp_path))
    assert [sample.locator for sample in samples] == ["Bellis perennis/deep/0.jpg", "Morus alba/deep/0.jpg"]
    assert not rejected
    assert common.class_folders(tmp_path) == ["Bellis perennis", "Morus alba"]


def test_a_tar_made_on_a_mac_has_no_samples_of_its_own_system(tmp_path: Path) -> None:
    names = ["._0", "0", "__MACOSX/._1", "1", "inside/._2", "inside/2", "./3"]
    webdataset_tar(tmp_path / "a.tar", [{"__key__": name, "jpg": b"x", "txt": "y"} for name in names])
    groups = list(tars.groups(tmp_path, "a.tar"))
    assert [group.key for group in groups if isinstance(group, tars.Group)] == ["0", "1", "inside/2", "3"]
    assert len(groups) == 4


PLANT = (None, None, None, None, None, "Bellis", "perennis")


@pytest.mark.parametrize(
    ("folders", "path"),
    [
        ("/".join(GANNET), GANNET),
        ("/".join((*GANNET[:6], "Morus bassanus")), GANNET),
        ("/".join((*GANNET[:5], "Morus_bassanus", "adult")), GANNET),
        ("/".join(GANNET[:6]), (*GANNET[:6], None)),
        (
            "Animalia/Chordata/Reptilia/Squamata/Boidae/Boa constrictor",
            ("Animalia", "Chordata", "Reptilia", "Squamata", "Boidae", "Boa", "constrictor"),
        ),
        ("Plantae/Asteraceae/Bellis perennis", ("Plantae", None, None, None, "Asteraceae", "Bellis", "perennis")),
        ("Asteraceae/Bellis/perennis", (None, None, None, None, "Asteraceae", "Bellis", "perennis")),
        ("flowers/Bellis perennis/2024", PLANT),
        ("Site A/Bellis perennis", PLANT),
        ("Bellis perennis/leaf", PLANT),
        ("Bellis/perennis", PLANT),
        ("Bellis/leaf", (*PLANT[:6], None)),
        ("Bellis/larva", (*PLANT[:6], None)),
        ("Bellis", (*PLANT[:6], None)),
        ("bellis_perennis", PLANT),
        ("001.Bellis_perennis", PLANT),
        ("12 - Bellis perennis", PLANT),
        ("Bellis_perennis_L._(1753)", PLANT),
        ("Bellis perennis_adult", PLANT),
        ("Bellis sp. 2", (*PLANT[:6], None)),
        ("Asteraceae", (None, None, None, None, "Asteraceae", None, None)),
        ("Aves", (None, None, "Aves", None, None, None, None)),
        ("Lepidoptera", (None, None, None, "Lepidoptera", None, None, None)),
        ("_".join(("00012", *GANNET)), GANNET),
    ],
)
def test_names_of_folders_spell_a_taxon(tmp_path: Path, folders: str, path: taxonomy.Path) -> None:
    put(tmp_path / folders / "0.jpg", photo(0))
    (sample,), rejected = listed(source_params("folder", tmp_path))
    assert sample.path == path and not rejected


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (
            ["001.Black_footed_Albatross", "002.Laysan_Albatross", "030.Ovenbird"],
            ["Black footed Albatross", "Laysan Albatross", "Ovenbird"],
        ),
        (["daisy", "tulip"], ["daisy", "tulip"]),
        (["american_robin", "house_sparrow"], ["american robin", "house sparrow"]),
    ],
)
def test_names_that_are_no_scientific_ones_make_no_genera(
    tmp_path: Path, folders: list[str], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in folders:
        put(tmp_path / name / "0.jpg", photo(name))
    samples, _ = listed(source_params("folder", tmp_path))
    assert {sample.path for sample in samples} == {(None,) * 7}
    assert [sample.common_name for sample in samples] == names
    assert "are read as common names; a species list that has them (index.species_list)" in capsys.readouterr().out


def test_what_is_read_above_the_species_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Bellis perennis", "Rosa", "Morus"):
        put(tmp_path / name / "0.jpg", photo(name))
    listed(source_params("folder", tmp_path))
    assert f"{tmp_path}: 2 names of folders are read as genus, e.g. Morus, Rosa\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parts", "splits"),
    [
        (("train", "val", "test"), (None, "val", "test")),
        (("train", "val"), (None, "test")),
        (("Training", "valid"), (None, "test")),
    ],
)
def test_folders_train_val_and_test_are_splits(
    tmp_path: Path, parts: tuple[str, ...], splits: tuple[str | None, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for part in parts:
        put(tmp_path / part / "Bellis perennis" / f"{part}.jpg", photo(part))
        put(tmp_path / part / ".DS_Store", b"")
    samples, rejected = listed(source_params("folder", tmp_path))
    assert {Path(sample.locator).stem: sample.split for sample in samples} == dict(zip(parts, splits, strict=True))
    assert {sample.path for sample in samples} == {PLANT} and not rejected
    assert "its folders are taken for splits" in capsys.readouterr().out


def test_an_archive_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"photos\.zip is a file, not a folder; it must be .* \(unpack an archive\)"):
        listed(source_params("folder", put(tmp_path / "photos.zip", b"PK")))
