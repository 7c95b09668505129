"""Source folder: names as they are on disk, and what does not belong to the photographs."""

import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from bioclip_lite.sources import folder, places, tars
from bioclip_lite.suites import common
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


@pytest.mark.parametrize("scheme", ["s3", "file", "gs"])
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
