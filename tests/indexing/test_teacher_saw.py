"""What the teacher was trained on: by identifiers and hashes, from catalogues as they are published."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bioclip_lite.sources.registry import find_source
from bioclip_lite.stages import index
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table, write_table
from support.photographs import DAISY, GANNET, folder_params, garden, row, write_folder
from support.raw_forms import put, source_params, treeoflife_10m, write_csv


def saw(data: Path, params: Any) -> dict[str, bool | None]:
    """By locator, once the index is made."""
    index.run(params, data)
    table = read_table(data / "index" / "samples.parquet", ["locator", "teacher_saw"]).to_pylist()
    return {sample["locator"]: sample["teacher_saw"] for sample in table}


def test_of_treeoflife_10m_all_but_val(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, data = tmp_path / "tol", tmp_path / "data"
    treeoflife_10m(root)
    shutil.copytree(root / "metadata", data / "lists" / "bioclip")
    found = saw(data, source_params("treeoflife10m", root, teacher_saw="bioclip", near_duplicates=0))
    table = read_table(data / "index" / "samples.parquet", ["split", "teacher_saw"]).to_pylist()
    # licenses.csv has the MD5 of photographs of val, too, and does not know their split.
    assert Counter(found.values()) == {True: 33, False: 3}
    assert {sample["teacher_saw"] for sample in table if sample["split"] == "test"} == {False}
    assert "index: the teacher was trained on 0 of 3 test photographs\n" in capsys.readouterr().out
    page = (data / "index" / "report.html").read_text()
    assert "What the teacher was trained on" in page


def test_the_same_photographs_elsewhere(tmp_path: Path) -> None:
    """A biologist's folder with photographs of EOL: by the MD5 of the file, also those of val, which were held out."""
    treeoflife_10m(tmp_path / "tol")
    eol = saw(tmp_path / "first", source_params("treeoflife10m", tmp_path / "tol"))
    assert set(eol.values()) == {None}  # no catalogue, nothing known
    params = source_params("treeoflife10m", tmp_path / "tol")
    contents = [find_source("treeoflife10m").read(params, locator) for locator in sorted(eol) if "/EOL/" in locator]
    rows = [row(f"{i}.jpg", DAISY, content=content) for i, content in enumerate(contents)]
    write_folder(tmp_path / "mine", [*rows, row("own.jpg", GANNET)])
    shutil.copytree(tmp_path / "tol" / "metadata", tmp_path / "data" / "lists" / "bioclip")
    found = saw(tmp_path / "data", folder_params(tmp_path / "mine", teacher_saw="bioclip", near_duplicates=0))
    assert Counter(found.values()) == {True: 9, False: 4} and found["own.jpg"] is False


def test_what_cannot_be_compared_is_not_known(tmp_path: Path) -> None:
    """A catalogue of iNaturalist's photographs says nothing of a file without an identifier."""
    eol = row("9001_50_eol-full-size-copy.jpg", DAISY)
    other = row("9002_50_eol-full-size-copy.jpg", DAISY)
    write_folder(tmp_path / "mine", [eol, other, row("own.jpg", GANNET)])
    rows = [["train", "9001.0"], ["val", "9002"], ["train", ""]]
    write_csv(tmp_path / "data" / "lists" / "catalog.csv", ["split", "eol_content_id"], rows)
    found = saw(tmp_path / "data", folder_params(tmp_path / "mine", teacher_saw="catalog.csv"))
    assert found == {eol["file"]: True, other["file"]: False, "own.jpg": None}


def test_the_table_of_another_run_is_a_catalogue(tmp_path: Path) -> None:
    """By perceptual hash a photograph is found that was saved again, with other bytes."""
    garden(tmp_path / "theirs")
    index.run(folder_params(tmp_path / "theirs"), tmp_path / "first")
    theirs = read_table(tmp_path / "first" / "index" / "samples.parquet", ["locator", "split", "phash"]).to_pylist()
    rows = []
    for sample in theirs:
        content = (tmp_path / "theirs" / sample["locator"]).read_bytes()
        rows.append(row(sample["locator"], DAISY, content=content[:2] + b"\xff\xfe\x00\x04hi" + content[2:]))
    write_folder(tmp_path / "mine", [*rows, row("own.jpg", GANNET)])
    lists = tmp_path / "data" / "lists"
    lists.mkdir(parents=True)
    shutil.copy(tmp_path / "first" / "index" / "samples.parquet", lists / "teacher.parquet")
    found = saw(tmp_path / "data", folder_params(tmp_path / "mine", teacher_saw="teacher.parquet"))
    expected = {sample["locator"]: sample["split"] in ("train", "pretrain") for sample in theirs if sample["phash"]}
    assert sum(expected.values()) > 5 and not all(expected.values())
    assert {locator: found[locator] for locator in expected} == expected
    assert found["own.jpg"] is False


def test_a_catalogue_that_tells_nothing(tmp_path: Path) -> None:
    garden(tmp_path / "mine")
    lists = tmp_path / "data" / "lists"
    for name, says in (
        ("gone.csv", "does not exist"),
        ("empty", "holds no .csv"),
        ("names.csv", "names no photograph"),
    ):
        (lists / "empty").mkdir(parents=True, exist_ok=True)
        put(lists / "names.csv", "genus,species\nBellis,perennis\n")
        with pytest.raises(UserError, match=f"index.teacher_saw: .*{says}"):
            index.run(folder_params(tmp_path / "mine", teacher_saw=name), tmp_path / "data")


def test_memory_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    import tracemalloc

    write_folder(
        tmp_path / "mine", [row(f"{i}_50_eol-full-size-copy.jpg", path) for i, path in ((9001, DAISY), (9002, GANNET))]
    )
    peaks = []
    for number in (2000, 60_000):
        table = pa.table({"uuid": [f"{i:036x}" for i in range(number)], "eol_content_id": list(range(number))})
        write_table(tmp_path / f"{number}" / "lists" / "catalog.parquet", table)
        del table
        tracemalloc.start()
        found = saw(tmp_path / f"{number}", folder_params(tmp_path / "mine", teacher_saw="catalog.parquet"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert set(found.values()) == {number > 9002}
    assert peaks[1] < peaks[0] + 8_000_000  # a batch of identifiers and a batch of rows, and not 58,000 rows
