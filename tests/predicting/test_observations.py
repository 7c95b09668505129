"""Which photographs have one answer: by folder, by time and camera, and by a table."""

from pathlib import Path

import pytest
from PIL import Image

from bioclip_lite.predicting import observations
from bioclip_lite.predicting.observations import Observations
from bioclip_lite.utils.errors import UserError
from support.photographs import encoded


def shot(file: Path, time: str | None, camera: str = "Trap 1") -> Path:
    """A photograph that was taken at a time of 1 May 2026."""
    exif = Image.Exif()
    exif[0x0110] = camera
    if time:
        exif.get_ifd(0x8769)[0x9003] = f"2026:05:01 {time}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(encoded(Image.new("RGB", (8, 8)), exif=exif))
    return file


def groups(found: Observations) -> list[list[str]]:
    """The names of the photographs of each observation, in their order; neighbours only."""
    members: list[list[str]] = []
    before = object()
    for file, observation in found.items():
        if observation != before:
            members.append([])
        members[-1].append(file.stem)
        before = observation
    return members


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    a, b = tmp_path / "a", tmp_path / "b"
    made = [
        shot(a / "1.jpg", "10:00:00"),
        shot(a / "2.jpg", "10:05:00"),
        shot(a / "3.jpg", "10:00:59"),
        shot(a / "4.jpg", "10:01:59"),
        shot(a / "5.jpg", "10:00:30", "Trap 2"),
        shot(a / "6.jpg", None),
        shot(a / "7.jpg", None),
        shot(b / "8.jpg", "10:00:10"),
    ]
    (b / "9.jpg").write_bytes(b"no image")
    return [*made, b / "9.jpg", b / "gone.jpg"]


def test_photographs_of_one_moment_and_camera_are_one_observation(files: list[Path]) -> None:
    alone = [["5"], ["6"], ["7"], ["8"], ["9"], ["gone"]]
    assert groups(observations.of_moments(files, 60)) == [["1", "3", "4"], ["2"], *alone]
    assert groups(observations.of_moments(files, 59)) == [["1", "3"], ["2"], ["4"], *alone]
    assert groups(observations.of_moments(files[::-1], 60))[-2:] == [["4", "3", "1"], ["2"]]
    assert groups(observations.of_moments(files, 0)) == [[file.stem] for file in files]
    assert groups(observations.of_moments(files, 1000))[0] == ["1", "2", "3", "4"]
    with pytest.raises(UserError, match="the EXIF data of none of them says so"):
        observations.of_moments(files[5:7], 60)


def test_a_series_that_is_hardly_one_observation_is_refused(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations, "MOST_TOGETHER", 2)
    with pytest.raises(UserError, match=r"3 photographs from .*1.jpg on .* at most 2 can: give --within fewer seconds"):
        observations.of_moments(files, 60)
    with pytest.raises(UserError, match=r"7 photographs from .*1.jpg on .* into a folder of its own"):
        observations.of_folders(files)


def test_a_table_says_which_photographs_are_of_one_observation(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "visits.csv"
    rows = ["a/1.jpg;fox", "a/3.jpg;owl", "b/8.jpg;fox", "a/5.jpg;", "a/other.jpg;owl", ";fox", "a/1.jpg;fox"]
    table.write_text("\n".join(["photo;observation_id", *rows]))
    expected = [["1", "8"], ["2"], ["3"], ["4"], ["5"], ["6"], ["7"], ["9"], ["gone"]]
    assert groups(observations.of_table(files, table)) == expected
    monkeypatch.chdir(tmp_path)  # and as a table of predict names them, relative to where it was run
    (tmp_path / "out").mkdir()
    names = tmp_path / "out" / "names.csv"
    names.write_text("file_name,score,observation\na/1.jpg,0.5,7\na/1.jpg,0.2,7\nb/8.jpg,0.9,7\n")
    assert groups(observations.of_table([file.relative_to(tmp_path) for file in files], names)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,observation\na/1.jpg,fox\na/1.jpg,owl\n", "line 3: a/1.jpg is of observation owl, and of fox further"),
        ("file,observation\n1.jpg,fox\n", "names none of the 10 photographs"),
        ("file,visit\na/1.jpg,fox\n", "no column 'observation'; its columns: file, visit"),
        ("file,observation\na/1.jpg\n", "line 2: 1 values where the header has 2 columns"),
        ("file,observation\na/1.jpg,1.25E+08\n", "a spreadsheet has rounded"),
    ],
)
def test_a_table_that_does_not_say_so_is_refused(files: list[Path], tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "visits.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message):
        observations.of_table(files, table)
    with pytest.raises(UserError, match=r"lacking.csv is no file; --observations names a table"):
        observations.of_table(files, tmp_path / "lacking.csv")
