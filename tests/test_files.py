"""Outputs appear complete, or not at all."""

from pathlib import Path

import pytest

from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, replacing, require, write_json


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), replacing(path) as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("first", "second"):
        with replacing(path) as scratch:
            scratch.mkdir()
            (scratch / name).write_text(name)
    assert [entry.name for entry in path.iterdir()] == ["second"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_missing_file_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stage prune makes it"):
        require(tmp_path / "data" / "prune" / "model" / "student.json")
