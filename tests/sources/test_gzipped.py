"""Gzipped tars: what is read from them is what was packed, wherever and in whichever process it is read."""

import io
import os
import random
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bioclip_lite.sources import gzipped, places, tars
from bioclip_lite.sources.sample import Reject
from support.raw_forms import gzipped_tar, put, source_params

SIZE = 200_000


def packed(folder: Path, count: int) -> dict[str, bytes]:
    contents = {f"{number:04d}.jpg": random.Random(number).randbytes(SIZE) for number in range(count)}
    gzipped_tar(folder / "set.tar.gz", contents)
    return contents


def places_of(folder: Path, seek_points: Path) -> dict[str, tuple[int, int]]:
    groups = [group for group in tars.groups(folder, "set.tar.gz", seek_points) if isinstance(group, tars.Group)]
    return {f"{group.key}.jpg": group.parts["jpg"] for group in groups}


def test_any_order_and_any_process_reads_what_was_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzipped, "_SPACING", 1 << 20)  # 40 points
    contents = packed(tmp_path, 200)
    found = places_of(tmp_path, tmp_path / "points")
    names = random.Random(0).sample(sorted(contents), 60)
    args = [(tmp_path / "set.tar.gz", tmp_path / "points", *found[name]) for name in names]
    assert [gzipped.read(*one) for one in args] == [contents[name] for name in names]
    with ProcessPoolExecutor(2) as pool:  # forked with the archive open
        assert list(pool.map(gzipped.read, *zip(*args, strict=True))) == [contents[name] for name in names]


def test_seek_points_that_are_gone_are_found_again(tmp_path: Path) -> None:
    contents = packed(tmp_path, 5)
    found = places_of(tmp_path, tmp_path / "here")
    assert gzipped.read(tmp_path / "set.tar.gz", tmp_path / "there", *found["0003.jpg"]) == contents["0003.jpg"]
    assert len(os.listdir(tmp_path / "there" / "seek_points")) == 1


def test_an_archive_is_gone_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "_ROWS", 4)
    gone_through: list[Path] = []
    listing = gzipped.opened_for_listing

    def watched(archive: Path, points: Path) -> Any:
        gone_through.append(archive)
        return listing(archive, points)

    monkeypatch.setattr(gzipped, "opened_for_listing", watched)

    def listed(times: int) -> list[tars.Group | Reject]:
        found = list(tars.groups(tmp_path, "set.tar.gz", tmp_path / "points"))
        assert len(gone_through) == times
        return found

    names = ["a.jpg", "a.txt", "M\udcfcller.jpg", "b.j\udcffg", *(f"{n}.jpg" for n in range(9)), "a.jpg"]
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as tar:
        for name in names:
            content = name.encode("utf-8", "surrogateescape")
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    first = listed(1)
    assert len(first) == 13 and sum(isinstance(item, Reject) for item in first) == 2  # no UTF-8; a name that came twice
    assert listed(1) == first
    whole = (tmp_path / "set.tar.gz").read_bytes()
    (tmp_path / "set.tar.gz").write_bytes(whole[: len(whole) // 2])  # of a damaged one nothing is remembered
    assert listed(2) == listed(3) != first
    (tmp_path / "set.tar.gz").write_bytes(whole)
    assert listed(4) == first


def test_an_archive_that_was_replaced_gets_seek_points_of_its_own(tmp_path: Path) -> None:
    packed(tmp_path, 5)
    places_of(tmp_path, tmp_path / "points")
    gzipped_tar(tmp_path / "set.tar.gz", {"a.jpg": b"another"})
    ((offset, size),) = places_of(tmp_path, tmp_path / "points").values()
    assert gzipped.read(tmp_path / "set.tar.gz", tmp_path / "points", offset, size) == b"another"


def test_what_cannot_be_read_is_said_plainly(tmp_path: Path) -> None:
    packed(tmp_path, 5)
    params = source_params("treeoflife10m", tmp_path)
    offset, size = places_of(tmp_path, places.seek_points(params))["0004.jpg"]
    locator = places.part("set.tar.gz", offset, size)
    assert len(places.read(params, tmp_path, locator)) == SIZE
    with pytest.raises(OSError, match="ends before byte"):
        places.read(params, tmp_path, places.part("set.tar.gz", offset + 10 * SIZE, size))
    archive = tmp_path / "set.tar.gz"
    archive.write_bytes(archive.read_bytes()[: 3 * SIZE])
    with pytest.raises(OSError, match="download it again"):
        places.read(params, tmp_path, locator)
    with pytest.raises(FileNotFoundError):
        places.read(params, tmp_path, "other.tar.gz:0:10")


def test_listing_reads_an_archive_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The position in the content never goes back by more than the blocks of a header."""
    packed(tmp_path, 20)
    furthest, back = 0, 0

    class Watched(gzipped.IndexedGzipFile):
        def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
            nonlocal furthest, back
            place = super().seek(offset, whence)
            back = max(back, furthest - place)
            furthest = max(furthest, place)
            return int(place)

    monkeypatch.setattr(gzipped, "IndexedGzipFile", Watched)
    assert len(places_of(tmp_path, tmp_path / "points")) == 20
    assert furthest > 20 * SIZE and back <= tarfile.RECORDSIZE


def test_photographs_of_several_archives_are_read_archive_by_archive(tmp_path: Path) -> None:
    """Every archive is opened once, in whatever order its photographs are wanted, and failures stay failures."""
    for name in "abc":
        contents = {f"{name}{number}.jpg": random.Random(f"{name}{number}").randbytes(1000) for number in range(9)}
        gzipped_tar(tmp_path / f"{name}.tar.gz", contents)
    params = source_params("treeoflife10m", tmp_path)
    groups = [g for name in "abc" for g in tars.groups(tmp_path, f"{name}.tar.gz", places.seek_points(params))]
    locators = {group.key: str(group.image) for group in groups if isinstance(group, tars.Group)}
    wanted = random.Random(0).sample(sorted(locators), 27)
    read: list[str] = []

    def watched(locator: str) -> bytes:
        read.append(locator)
        return places.read(params, tmp_path, locator)

    gzipped._opened.cache_clear()
    with gzipped.in_order(watched, [*locators.values(), "gone.tar.gz:0:1"], tmp_path) as content:
        for key in wanted:
            assert content(locators[key]) == random.Random(key).randbytes(1000)
        with pytest.raises(FileNotFoundError):
            content("gone.tar.gz:0:1")
        put(tmp_path / "loose.jpg", b"loose")
        assert content("loose.jpg") == b"loose"
    assert gzipped._opened.cache_info().misses == 3
    assert read == [*(locators[key] for key in sorted(locators)), *["gone.tar.gz:0:1"] * 2, "loose.jpg"]
