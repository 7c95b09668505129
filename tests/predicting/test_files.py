"""The files that arguments stand for."""

import io
from pathlib import Path

import pytest

from bioclip_lite.predicting.files import image_files
from bioclip_lite.utils.errors import UserError


def test_files_folders_patterns_and_lists(tmp_path: Path) -> None:
    (tmp_path / "trip" / "day").mkdir(parents=True)
    names = ["trip/b.JPG", "trip/a.png", "trip/day/c.jpeg", "trip/notes.txt"]
    for name in names:
        (tmp_path / name).touch()
    b, a, c, notes = (tmp_path / name for name in names)
    none = io.StringIO()
    assert image_files([str(tmp_path / "trip")], none) == ([a, b, c], {".txt": 1})
    assert image_files([str(tmp_path / "trip/*.png"), str(tmp_path / "trip")], none).images == [a, b, c]
    assert image_files([str(tmp_path / "**" / "*.jpeg")], none).images == [c]
    assert image_files([str(notes)], none).images == [notes]  # named by the user: let the decoder judge
    assert image_files(["-"], io.StringIO(f"{c}\n\n{a}\n{c}\n")).images == [c, a]


def test_a_folder_with_the_signs_of_patterns_is_meant_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trip[2023]/a.png", "trip[2023]/why?/b.png", "trip2/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for pattern in ("trip[2023]/*.png", str(tmp_path / "trip[2023]" / "*.png")):
        assert [file.name for file in image_files([pattern], io.StringIO()).images] == ["a.png"]
    assert image_files(["trip[2023]/why?/*"], io.StringIO()).images == [Path("trip[2023]/why?/b.png")]
    assert image_files(["trip[0-9]/*"], io.StringIO()).images == [Path("trip2/c.png")]


def test_hidden_and_system_files_are_left_out(tmp_path: Path) -> None:
    for name in (
        "a.png",
        "._a.png",
        "@eaDir/a.png",
        ".thumbnails/b.png",
        "day/__MACOSX/c.png",
        "IMG_1.CR2",
        "IMG_1.MOV",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    a = tmp_path / "a.png"
    assert image_files([str(tmp_path)], io.StringIO()) == ([a], {".cr2": 1, ".mov": 1})
    assert image_files([str(tmp_path / "**" / "*.png")], io.StringIO()).images == [a]
    assert image_files([str(tmp_path / ".thumbnails" / "*.png")], io.StringIO()).images  # named by the user


def test_a_photograph_that_is_not_there_does_not_end_a_long_list(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    names = [str(tmp_path / name) for name in ("a.png", "moved.JPG")]
    assert image_files(["-"], io.StringIO("\n".join(names))).images == [Path(name) for name in names]


def test_what_stands_for_nothing_is_named(tmp_path: Path) -> None:
    for name, why in ((str(tmp_path), "holds no image"), ("nowhere/*.jpg", "no such file, folder or match")):
        with pytest.raises(UserError, match=why):
            image_files([name], io.StringIO())
