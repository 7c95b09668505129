"""Tars are listed as tarfile lists them, only faster, whatever wrote them and whatever happened to them."""

import contextlib
import io
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bioclip_lite.sources import places, tars
from bioclip_lite.sources.places import hidden
from bioclip_lite.sources.sample import Reject
from support.photographs import DAISY
from support.raw_forms import UUID, bioclip_texts, gzipped_tar, photo, put, source_params, webdataset_tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
NAMES = st.one_of(
    st.from_regex(r"[a-zA-Z0-9_./-]{1,40}", fullmatch=True).filter(lambda name: name.strip("./") != ""),
    st.sampled_from(
        ["n" * 120 + "/" + "m" * 90 + ".jpg", "\u00e9t\u00e9/Tausendsch\u00f6nchen.taxonTag.txt", "a" * 300]
    ),
)


def tar_of(kind: int, members: list[tuple[str, bytes, float]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content, changed in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), changed
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    members=st.lists(st.tuples(NAMES, st.binary(max_size=1200), st.sampled_from([0, 1.5, 2e9])), max_size=8),
)
def test_the_same_members_as_tarfile_but_hidden_ones(kind: int, members: list[tuple[str, bytes, float]]) -> None:
    try:
        content = tar_of(kind, members)
    except ValueError:  # the name is too long for this format
        return
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg() and not hidden(m.name)]
    assert list(tars._members(io.BytesIO(content))) == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_other_kinds_of_members_are_passed_over(kind: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind, pax_headers={"comment": "for all"}) as tar:
        for what, name in ((tarfile.SYMTYPE, "link.jpg"), (tarfile.LNKTYPE, "hard.jpg"), (tarfile.FIFOTYPE, "pipe")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = what, "t" * (90 if kind == tarfile.USTAR_FORMAT else 150)
            tar.addfile(member)
        member = tarfile.TarInfo("a.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    ((name, offset, size),) = tars._members(io.BytesIO(file.getvalue()))
    assert (name, file.getvalue()[offset : offset + size]) == ("a.jpg", b"abc")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 60_000), changes=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 255)), max_size=20)
)
def test_damage_never_ends_in_an_exception(tmp_path: Path, cut: int, changes: list[tuple[int, int]]) -> None:
    good = tmp_path / "good.tar"
    if not good.exists():
        texts = bioclip_texts(DAISY, "Daisy")
        webdataset_tar(good, [{"__key__": UUID(i), **texts, "jpg": photo(i)} for i in range(3)])
    content = bytearray(good.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    put(tmp_path / "bad.tar", bytes(content[: len(content) - min(cut, len(content))]))
    found = list(tars.groups(tmp_path, "bad.tar"))
    assert len([item for item in found if isinstance(item, tars.Group)]) <= 3 + len(changes)
    if cut > tarfile.RECORDSIZE:
        assert isinstance(found[-1], Reject) and found[-1].reason == "damaged tar"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 12_000), changes=st.lists(st.tuples(st.integers(0, 12_000), st.integers(0, 255)), max_size=6))
def test_damage_to_a_gzipped_tar_never_ends_in_an_exception(
    tmp_path: Path, cut: int, changes: list[tuple[int, int]]
) -> None:
    good = tmp_path / "good.tar.gz"
    if not good.exists():
        gzipped_tar(good, {f"{UUID(i)}.jpg": photo(i) for i in range(9)})
    content = bytearray(good.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    put(tmp_path / "bad.tar.gz", bytes(content[: len(content) - min(cut, len(content))]))
    found = list(tars.groups(tmp_path, "bad.tar.gz", tmp_path / "points"))
    if cut > 2000:
        assert isinstance(found[-1], Reject) and found[-1].reason in ("damaged tar", "unreadable")
    params = source_params("treeoflife10m", tmp_path, downloads={"folder": str(tmp_path / "points")})
    for item in found:
        if isinstance(item, tars.Group) and item.image:
            with contextlib.suppress(OSError):
                places.read(params, tmp_path, item.image)


def test_memory_does_not_grow_with_a_tar(tmp_path: Path) -> None:
    import tracemalloc

    peaks = []
    for number in (200, 2000):
        webdataset_tar(tmp_path / "a.tar", [{"__key__": UUID(i), "jpg": b"x", "txt": b"y"} for i in range(number)])
        tracemalloc.start()
        assert sum(1 for _ in tars.groups(tmp_path, "a.tar")) == number
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1800 * 200  # bytes: the keys that have been seen, and no headers


def test_the_order_of_parts_does_not_matter(tmp_path: Path) -> None:
    put(
        tmp_path / "a.tar",
        tar_of(tarfile.PAX_FORMAT, [(n, b"x", 0) for n in ("b.TXT", "b.jpg", "./c.jpg", "c.sci.txt")]),
    )
    groups = [item for item in tars.groups(tmp_path, "a.tar") if isinstance(item, tars.Group)]
    assert [(g.key, sorted(g.parts)) for g in groups] == [("b", ["jpg", "txt"]), ("c", ["jpg", "sci.txt"])]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", tar_of(tarfile.GNU_FORMAT, [("b\udcff.jpg", b"x", 0), ("c.jpg", b"x", 0)]))
    first, second = tars.groups(tmp_path, "a.tar")
    assert isinstance(first, Reject) and first.reason == "bad name" and first.locator.encode()
    assert isinstance(second, tars.Group)


def test_a_tar_made_on_a_mac(tmp_path: Path) -> None:
    """Beside each member stands ._MEMBER, with what the file system knows of it."""
    members: list[tuple[str, bytes, float]] = [("._.", b"Mac OS X", 0), (".DS_Store", b"Bud1", 0)]
    for number in range(3):
        for extension, content in ((".jpg", photo(number)), (".txt", b"a daisy")):
            members += [(f"./._{number}{extension}", b"\0\5\x16\7", 0), (f"./{number}{extension}", content, 0)]
    members.append(("__MACOSX/._0.jpg", b"\0\5\x16\7", 0))
    put(tmp_path / "a.tar", tar_of(tarfile.PAX_FORMAT, members))
    groups = list(tars.groups(tmp_path, "a.tar"))
    assert all(isinstance(group, tars.Group) for group in groups)
    assert [(g.key, sorted(g.parts)) for g in groups if isinstance(g, tars.Group)] == [
        (str(number), ["jpg", "txt"]) for number in range(3)
    ]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_tars_as_webdataset_writes_them(tmp_path: Path, kind: int, name: str) -> None:
    """Without entries for folders, with times in fractions of a second (PAX headers), the sample's own key and address
    as members, and equal names in different folders."""
    with webdataset.TarWriter(str(tmp_path / name), encoder=False, keep_meta=True, mtime=1.5) as tar:
        tar.tarstream.format = kind
        for key in ("one/0001", "two/0001", "two/" + "d" * 90 + "/0002"):
            tar.write({"__key__": key, "jpg": photo(key), "txt": key.encode(), "__url__": b"shard.tar", "cls": b"3"})
    groups = [group for group in tars.groups(tmp_path, name, tmp_path / "points") if isinstance(group, tars.Group)]
    assert [group.key for group in groups] == ["one/0001", "two/0001", "two/" + "d" * 90 + "/0002"]
    assert [group.texts["txt"] for group in groups] == [group.key for group in groups]
    assert all({"jpg", "txt", "cls"} <= group.parts.keys() for group in groups)
    assert len({group.name for group in groups}) == 3
    params = source_params("treeoflife10m", tmp_path, downloads={"folder": str(tmp_path / "points")})
    read = [places.read(params, tmp_path, str(group.image)) for group in groups]
    assert read == [photo(group.key) for group in groups]


def test_texts_are_read_with_the_list(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"x", 0.0),
        ("a.Sci.TXT", b"Bellis", 0.0),
        ("a.txt", b"\xff", 0.0),
        ("a.long.txt", b"x" * 10_000, 0.0),
    ]
    put(tmp_path / "a.tar", tar_of(tarfile.GNU_FORMAT, members))
    (group,) = tars.groups(tmp_path, "a.tar")
    assert isinstance(group, tars.Group) and group.texts == {"sci.txt": "Bellis", "txt": "\N{REPLACEMENT CHARACTER}"}
