"""Every form in which photographs are kept is told from the others, and read."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bioclip_lite.planning import survey
from bioclip_lite.sources.recognition import recognise
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET, row, write_folder
from support.raw_forms import (
    UUID,
    archive,
    bioclip_texts,
    biotrove_row,
    biotrove_tar,
    inat_part,
    media,
    occurrence,
    photo,
    put,
    webdataset_tar,
    write_csv,
    zipped,
)

Make = Callable[[Path], Path]  # makes a form in an empty folder; returns the path that a user names


def subfolders(root: Path) -> Path:
    for taxon in ("Bellis perennis", "Morus_bassanus", "Morus"):
        put(root / taxon / "a.jpg", photo(taxon))
    (root / ".thumbnails").mkdir()
    put(root / "Thumbs.db", "x")
    return root


def spelt_out(root: Path) -> Path:
    inat_part(root, "train_mini", 2, with_json=False)
    return root


def json_of_inat(root: Path) -> Path:
    inat_part(root, "train", 2)
    return root


def metadata(root: Path) -> Path:
    return write_folder(root, [row("a.jpg", DAISY), row("b.jpg", GANNET)])


def table(root: Path) -> Path:
    put(root / "photos" / "a.jpg", photo("a"))
    return write_csv(root / "labels of 2024.csv", ["filename", "species"], [["photos/a.jpg", "Bellis perennis"]], ";")


def folder_with_a_table(root: Path) -> Path:
    put(root / "notes.txt", "seen in spring\n")
    return table(root).parent


def export(root: Path) -> Path:
    columns = ["id", "url", "image_url", "scientific_name"]
    return write_csv(root / "observations-1.csv", columns, [[1, "https://x/1", "https://x/1.jpg", "Bellis perennis"]])


def exports(root: Path) -> Path:
    export(root).rename(root / "observations-2.csv")
    return export(root).parent


def darwin_core(root: Path) -> Path:
    return archive(root, [occurrence(1, DAISY)], [media(1, "https://x/1.jpg")])


def darwin_core_zip(root: Path) -> Path:
    return zipped(darwin_core(root / "unpacked"), root / "download.zip")


def tree_of_life(root: Path) -> Path:
    sample = {"__key__": UUID(1), **bioclip_texts(DAISY, None), "jpg": photo(1)}
    return webdataset_tar(root / "224x224" / "train" / "shard-000000.tar", [sample]).parents[2]


def biotrove(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    return biotrove_tar(root, "chunk_0", {1: (photo(1), biotrove_row(DAISY, "daisy"))}).parent


def biotrove_table(root: Path) -> Path:
    rows = pa.table({"photo_id": [1], "genus": ["Bellis"], "species": ["perennis"], "photo_url": ["https://x/1.jpg"]})
    pq.write_table(rows, root / "chunk_0.parquet")
    return root


def benchmark(root: Path) -> Path:
    webdataset_tar(root / "test" / "0.tar", [{"__key__": "s0", "jpg": photo(1), "cls": "0"}])
    put(root / "test" / "nshards.txt", "1")
    put(root / "classnames.txt", "Bellis perennis")
    return root


FORMS: list[tuple[Make, str, int]] = [
    (subfolders, "folder", 3),
    (metadata, "folder", 2),
    (table, "csv", 1),
    (folder_with_a_table, "csv", 1),
    (export, "inaturalist", 1),
    (exports, "inaturalist", 2),
    (darwin_core, "darwincore", 1),
    (darwin_core_zip, "darwincore", 1),
    (spelt_out, "inat2021", 6),
    (json_of_inat, "inat2021", 6),
    (tree_of_life, "treeoflife10m", 1),
    (biotrove, "biotrove", 1),
    (biotrove_table, "biotrove", 1),
    (benchmark, "clip_benchmark", 1),
]


@pytest.mark.parametrize(("make", "source", "photographs"), FORMS, ids=[make.__name__ for make, _, _ in FORMS])
def test_a_form_is_recognised_and_read(make: Make, source: str, photographs: int, tmp_path: Path) -> None:
    form = recognise(make(tmp_path))
    assert form.source == source
    found = survey.survey(survey.section(form), None)
    assert (found.photographs, found.complete) == (photographs, True)


def camera(root: Path) -> Path:
    put(root / "DCIM" / "100CANON" / "IMG_0001.JPG", photo(1))
    return root


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            camera,
            r"1 photographs, but nothing .* subfolders \(DCIM\) are not named by taxa\. .*/Bellis perennis/.*metadata",
        ),
        (lambda root: put(root / "a.jpg", photo(1)), "is one photograph; name the folder"),
        (lambda root: put(root / "a.jpg", photo(1)).parent, "nothing says what they show"),
        (lambda root: put(root / "notes.pdf", "x"), "no folder, table"),
        (lambda root: root, "has no photograph, table or archive"),
        (lambda root: root / "absent", "absent does not exist"),
        (lambda root: zipped(subfolders(root / "x"), root / "photos.zip"), "no meta.xml.*unpack it"),
        (lambda root: put(root / "broken.zip", "PK"), "no readable zip file"),
        (lambda root: write_csv(root / "t.csv", ["place", "species"], []), "no column 'file'"),
        (lambda root: webdataset_tar(root / "0.tar", [{"__key__": "x", "jpg": photo(1)}]).parent, "no source knows"),
    ],
)
def test_what_no_source_reads_says_what_to_do(make: Make, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        recognise(make(tmp_path))


def test_of_several_tables_the_user_names_one(tmp_path: Path) -> None:
    for name in ("old.csv", "new.tsv"):
        write_csv(tmp_path / name, ["file", "species"], [["a.jpg", "Bellis perennis"]])
    with pytest.raises(UserError, match=r"several tables that list photographs \(new\.tsv, old\.csv\)"):
        recognise(tmp_path)
