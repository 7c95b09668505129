"""Outputs appear complete, or not at all; text is UTF-8 under every locale."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bioclip_lite.utils import files
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, replacing, replacing_folder, require, write_json
from support import checkout


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), replacing(path) as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_a_missing_file_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stage prune makes it"):
        require(tmp_path / "data" / "prune" / "model" / "student.json")


def test_a_file_and_a_folder_never_take_each_others_place(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("precious")
    (tmp_path / "link").symlink_to("folder")
    for name in ("folder", "link"):
        with pytest.raises(UserError, match="is a folder, and a file is to be written there"):
            write_json(tmp_path / name, {})
    with pytest.raises(UserError, match="is a file, and a folder is to be written there"):
        make_folder(tmp_path / "folder" / "thesis.txt")
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "precious"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "link"]


def make_folder(path: Path, name: str = "model.json") -> None:
    with replacing_folder(path, ("model.json", "weights-*.bin")) as scratch:
        (scratch / name).write_text(name)


@pytest.mark.parametrize("also", [[], ["weights-1.bin", ".DS_Store"]])
def test_an_earlier_folder_is_replaced_as_a_whole(tmp_path: Path, also: list[str]) -> None:
    for _ in range(2):
        make_folder(tmp_path / "model")
        assert [entry.name for entry in (tmp_path / "model").iterdir()] == ["model.json"]
        for name in also:
            (tmp_path / "model" / name).touch()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("names", [["notes.txt", "model.json"], ["weights-1.bin"], [".git/", "model.json"]])
def test_a_folder_with_anything_else_stays(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        path = tmp_path / "mine" / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("precious")
    with pytest.raises(UserError, match="was not written by this command and would be lost"):
        make_folder(tmp_path / "mine")
    assert sorted(entry.name for entry in (tmp_path / "mine").iterdir()) == sorted(name.rstrip("/") for name in names)


def test_what_comes_while_a_folder_is_made_stays(tmp_path: Path) -> None:
    make_folder(tmp_path / "model")
    with (
        pytest.raises(UserError, match=r"notes\.txt"),
        replacing_folder(tmp_path / "model", ["model.json"]) as scratch,
    ):
        (scratch / "model.json").write_text("new")
        (tmp_path / "model" / "notes.txt").write_text("precious")
    assert (tmp_path / "model" / "notes.txt").read_text() == "precious"
    assert (tmp_path / "model" / "model.json").read_text() == "model.json"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    make_folder(tmp_path / "model")
    rename, seen = os.rename, []

    def fail_once(source: Path, target: Path) -> None:
        seen.append(target)
        if len(seen) == failing:
            raise OSError("the network has gone")
        rename(source, target)

    monkeypatch.setattr(files, "_exchange", lambda new, old: False)  # as on NFS
    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OSError, match="gone"):
        make_folder(tmp_path / "model")
    assert (tmp_path / "model" / "model.json").read_text() == "model.json"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_is_replaced_with_and_without_an_exchange_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    make_folder(tmp_path / "model")
    if not at_once:
        monkeypatch.setattr(files, "_exchange", lambda new, old: False)
    with replacing_folder(tmp_path / "model", ["model.json"]) as scratch:
        (scratch / "model.json").write_text("new")
    assert (tmp_path / "model" / "model.json").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_links(tmp_path: Path) -> None:
    """To a file: replaced, because the target may be an object of a cache. To a folder: it still leads there."""
    (tmp_path / "cached").write_text("precious")
    for name, target in (("link", "cached"), ("dangling", "nothing")):
        (tmp_path / name).symlink_to(target)
        write_json(tmp_path / name, {})
        assert not (tmp_path / name).is_symlink() and read_json(tmp_path / name) == {}
    assert (tmp_path / "cached").read_text() == "precious" and not (tmp_path / "nothing").exists()
    make_folder(tmp_path / "disk" / "model")
    (tmp_path / "model").symlink_to("disk/model")
    (tmp_path / "disk" / "model" / "weights-1.bin").touch()
    make_folder(tmp_path / "model")
    assert (tmp_path / "model").is_symlink()
    assert [entry.name for entry in (tmp_path / "disk" / "model").iterdir()] == ["model.json"]
    assert [entry.name for entry in (tmp_path / "disk").iterdir()] == ["model"]
    (tmp_path / "gone").symlink_to("unplugged/model")
    with pytest.raises(UserError, match="is a link to unplugged/model, which does not exist"):
        make_folder(tmp_path / "gone")


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def without_encoding(code: str) -> Iterator[int]:
    """Lines of calls that read or write text in the encoding of the locale."""
    for call in ast.walk(ast.parse(code)):
        if not isinstance(call, ast.Call):
            continue
        function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
        given = [ast.unparse(argument) for argument in call.args]
        named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        modes = [mode for mode in (*given, named.get("mode", "")) if mode.strip("'") and set(mode) <= set("'rwax+bt")]
        in_text = {
            "read_text": not given,
            "write_text": len(given) < 2,
            "TextIOWrapper": len(given) < 2,
            # Without a mode it is the open of some other class, unless it is the function itself.
            "open": bool(modes or isinstance(call.func, ast.Name)) and not any("b" in mode for mode in modes),
            "fdopen": not any("b" in mode for mode in modes),
        }
        terminal = bool(given) and given[0].isdigit()  # a standard stream, whose encoding is indeed the locale's
        if (
            in_text.get(str(function))
            and not terminal
            and "encoding" not in named
            and not ast.unparse(call.func).startswith(("tarfile.", "archive."))
        ):
            yield call.lineno


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("p.read_text()", True),
        ("p.read_text('utf-8-sig')", False),
        ("p.write_text(x)", True),
        ("p.write_text(x, encoding='utf-8')", False),
        ("open(p)", True),
        ("open(1, 'w', closefd=False)", False),
        ("p.open('w')", True),
        ("p.open('rb')", False),
        ("os.fdopen(n, 'ab')", False),
        ("open(p, mode='a')", True),
        ("tarfile.open(p, 'w')", False),
    ],
)
def test_a_missing_encoding_is_seen(code: str, found: bool) -> None:
    assert bool(list(without_encoding(code))) == found


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    paths = sorted((checkout.ROOT / "workflow/bioclip_lite").rglob("*.py"))
    assert len(paths) > 100
    assert [f"{path}:{line}" for path in paths for line in without_encoding(path.read_text("utf-8"))] == []


def test_json_is_utf8_where_the_locale_is_not(tmp_path: Path) -> None:
    code = (
        "import sys; from bioclip_lite.utils.files import read_json, write_json; city = '\\u0141\\xf3d\\u017a'; "
        "write_json(sys.argv[1], city); assert read_json(sys.argv[1]) == city"
    )
    environment = checkout.ENVIRONMENT | {"PYTHONPATH": str(checkout.ROOT / "workflow")} | ASCII
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.json"], env=environment, check=True)
    assert "Łódź" in (tmp_path / "a.json").read_text("utf-8")
