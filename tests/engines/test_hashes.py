"""MD5 of folders: each content is read once, and what is kept of many loose files is small."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from bioclip_lite.engines import hashes
from bioclip_lite.engines.hashes import HASHES, Hashes


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.jpg", "b/1.jpg", "a.jpg", "b/.gitignore"):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return Path("photos")


def md5_of(folder: Path, *names: str) -> str:
    listed = [[name, hashlib.md5((folder / name).read_bytes()).hexdigest()] for name in sorted(names)]
    return hashlib.md5(json.dumps(listed).encode()).hexdigest() + ".dir"


def opened(read: int) -> str:
    """The MD5 of photos in a new process, which reads this many files."""
    found = Hashes(ask_dvc=False)
    md5 = found["photos"]
    found.save()
    assert found.read == read and md5
    return md5


def test_a_folder_is_read_once_and_then_only_what_has_changed(photos: Path) -> None:
    names = ["a.jpg", "b/1.jpg", "b/2.jpg"]
    assert opened(read=3) == md5_of(photos, *names)
    assert opened(read=0) == md5_of(photos, *names)
    (photos / "b/2.jpg").write_text("another picture")
    assert opened(read=1) == md5_of(photos, *names)
    (photos / "b/3.jpg").write_text("one more")
    (photos / "a.jpg").unlink()
    assert opened(read=1) == md5_of(photos, "b/1.jpg", "b/2.jpg", "b/3.jpg")
    os.utime(photos / "b/1.jpg", ns=(1, 1))  # may be another content, so it is read
    assert opened(read=1) == md5_of(photos, "b/1.jpg", "b/2.jpg", "b/3.jpg")


def test_what_every_start_reads_does_not_grow_with_the_files_of_a_folder(photos: Path) -> None:
    opened(read=3)
    before = HASHES.stat().st_size
    for n in range(200):
        (photos / f"{n}.jpg").write_text(str(n))
    opened(read=200)
    assert HASHES.stat().st_size == before


def test_a_file_of_a_folder_that_was_hashed_is_not_read_again(photos: Path) -> None:
    opened(read=3)
    found = Hashes(ask_dvc=False)
    assert found["photos/b/1.jpg"] == hashlib.md5(b"b/1.jpg").hexdigest() and found.read == 0
    assert found.files("photos") == {n: hashlib.md5(n.encode()).hexdigest() for n in ("a.jpg", "b/1.jpg", "b/2.jpg")}


def test_links_to_nothing_have_no_content(photos: Path) -> None:
    (photos / "gone.jpg").symlink_to("nowhere")
    found = Hashes(ask_dvc=False)
    assert found.files("photos")["gone.jpg"] is None and found["photos"] == Hashes(ask_dvc=False)["photos"]


def test_a_person_is_told_of_much_to_read(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hashes, "_LARGE", 10)
    opened(read=3)
    assert "provenance: reading 0 GB in 3 files, once" in capsys.readouterr().err
    opened(read=0)
    assert not capsys.readouterr().err
