import gzip
import hashlib
import multiprocessing
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bioclip_lite.sources import downloads
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.sections import IndexDownloads
from support.raw_forms import Web, cut, photo, send, serving, status

BIG = bytes(range(256)) * 2000  # half a megabyte


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_FIRST_WAIT", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> IndexDownloads:
    return {"folder": str(tmp_path / "downloads"), "per_host": 4, "tries": 3, "timeout": 5}


def files(settings: IndexDownloads, kind: str) -> list[Path]:
    return sorted(path for path in Path(settings["folder"], kind).rglob("*") if path.is_file())


def fails(address: str, settings: IndexDownloads, *words: str) -> None:
    with pytest.raises(OSError) as error:
        downloads.read(address, settings)
    for word in words:
        assert word in str(error.value)


# ------------------------------------------------------------------------------------------------------------ the cache


def test_the_cache_is_keyed_by_content_and_nothing_is_asked_for_twice(web: Web, settings: IndexDownloads) -> None:
    web.files = {"a.jpg": photo("a"), "b.jpg": photo("b"), "again.jpg": photo("a")}
    addresses = [web.url(name) for name in web.files]
    downloads.fetch(addresses + addresses, settings)
    assert [path.name for path in files(settings, "objects")] == sorted(
        hashlib.sha256(photo(name)).hexdigest() for name in "ab"
    )
    assert len(files(settings, "urls")) == 3 and files(settings, "partial") == []
    downloads.fetch(addresses, settings)
    assert downloads.read(web.url("again.jpg"), settings) == photo("a")
    assert sorted(path for path, _, _ in web.asked) == ["a.jpg", "again.jpg", "b.jpg"]


def test_read_alone_downloads(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = photo("a")
    assert downloads.read(web.url("a.jpg"), settings) == photo("a")
    assert downloads.read(web.url("a.jpg"), settings) == photo("a")
    assert web.times("a.jpg") == 1


def test_a_damaged_file_of_the_cache_is_fetched_again(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = photo("a")
    downloads.fetch([web.url("a.jpg")], settings)
    (path,) = files(settings, "objects")
    path.write_bytes(path.read_bytes()[:-10])
    assert downloads.read(web.url("a.jpg"), settings) == photo("a")
    assert web.times("a.jpg") == 2


def test_a_cache_that_cannot_be_written(tmp_path: Path, web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = photo("a")
    Path(settings["folder"]).write_text("a file in the way")
    with pytest.raises(UserError, match=r"index\.downloads\.folder"):
        downloads.fetch([web.url("a.jpg")], settings)


# ------------------------------------------------------------------------------------------------------------- failures


def test_what_is_missing_is_asked_for_once_and_remembered(web: Web, settings: IndexDownloads) -> None:
    web.files["b.jpg"] = photo("b")
    downloads.fetch([web.url("a.jpg"), web.url("b.jpg")], settings)
    fails(web.url("a.jpg"), settings, "HTTP 404")
    fails(web.url("a.jpg"), settings, "HTTP 404")
    assert web.times("a.jpg") == 1
    assert downloads.read(web.url("b.jpg"), settings) == photo("b")
    web.files["a.jpg"] = photo("a")  # a later run tries again
    downloads.fetch([web.url("a.jpg")], settings)
    assert downloads.read(web.url("a.jpg"), settings) == photo("a")
    assert files(settings, "failed") == []


def test_an_old_failure_is_not_believed(web: Web, settings: IndexDownloads, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads.fetch([web.url("a.jpg")], settings)
    web.files["a.jpg"] = photo("a")
    monkeypatch.setattr(downloads, "_REMEMBERED", -1.0)
    assert downloads.read(web.url("a.jpg"), settings) == photo("a")


def test_a_server_in_trouble_is_tried_again(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = photo("a")
    web.steps["a.jpg"] = [status(500), status(503)]
    downloads.fetch([web.url("a.jpg")], settings)
    assert downloads.read(web.url("a.jpg"), settings) == photo("a")
    assert web.times("a.jpg") == 3


def test_tries_come_to_an_end(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = photo("a")
    web.steps["a.jpg"] = [status(503)] * 9
    downloads.fetch([web.url("a.jpg")], settings)
    fails(web.url("a.jpg"), settings, "HTTP 503")
    assert web.times("a.jpg") == 3 and files(settings, "partial") == []


def test_the_server_says_how_long_to_wait(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = photo("a")
    web.steps["a.jpg"] = [status(429, Retry_After="1")]
    downloads.fetch([web.url("a.jpg")], settings)
    first, second = (when for _, _, when in web.asked)
    assert second - first >= 0.99
    assert downloads.read(web.url("a.jpg"), settings) == photo("a")


def test_a_server_that_wants_to_be_left_alone_for_long_is(web: Web, settings: IndexDownloads) -> None:
    web.steps["a.jpg"] = [status(429, Retry_After="86400")]
    downloads.fetch([web.url("a.jpg")], settings)
    fails(web.url("a.jpg"), settings, "HTTP 429", "86400 s")
    assert web.times("a.jpg") == 1


def test_dates_to_come_back() -> None:
    assert downloads._retry_after("7") == 7
    assert downloads._retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert downloads._retry_after("Fri, 31 Dec 2100 23:59:59 GMT") > 1e9
    assert downloads._retry_after("") == downloads._retry_after("soon") == 0


def test_a_page_is_no_photograph(web: Web, settings: IndexDownloads) -> None:
    web.files = {"a.jpg": b"<html>please log in</html>", "b.jpg": b""}
    web.types["a.jpg"] = "text/html; charset=utf-8"
    downloads.fetch([web.url("a.jpg"), web.url("b.jpg")], settings)
    fails(web.url("a.jpg"), settings, "not an image", "text/html")
    fails(web.url("b.jpg"), settings, "empty file")
    assert files(settings, "objects") == files(settings, "partial") == []


@pytest.mark.parametrize("kind", ["text/plain", "text/html", "application/octet-stream", "application/json", "jpg", ""])
def test_a_photograph_is_one_whatever_its_server_says(web: Web, settings: IndexDownloads, kind: str) -> None:
    web.files["a.jpg"], web.types["a.jpg"] = photo("a"), kind
    assert downloads.read(web.url("a.jpg"), settings) == photo("a")


@pytest.mark.parametrize(
    "content",
    [
        *(b"\n<!DOCTYPE html><html>", b"\xef\xbb\xbf<html>", b'{"error": "expired"}', b'<?xml version="1.0"?><Error>'),
        *(b"%PDF-1.7", b"PK\x03\x04", b"version https://git-lfs.github.com/spec/v1\n"),
    ],
)
def test_what_is_sent_in_place_of_a_photograph_is_not_kept(web: Web, settings: IndexDownloads, content: bytes) -> None:
    """With status 200 and type image/jpeg, as behind a sign-in."""
    web.files["a.jpg"], web.types["a.jpg"] = content, "image/jpeg"
    downloads.fetch([web.url("a.jpg")], settings)
    fails(web.url("a.jpg"), settings, "not an image (image/jpeg, begins with ")
    assert files(settings, "objects") == files(settings, "partial") == []


def test_a_redirection_to_a_page_is_told(web: Web, settings: IndexDownloads) -> None:
    web.files["login"], web.types["login"] = b"<html>please log in</html>", "text/html"
    web.steps["a.jpg"] = [status(302, Location=web.url("login"))]
    fails(web.url("a.jpg"), settings, "not an image (text/html")


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate"])
def test_a_server_that_packs_unasked(web: Web, settings: IndexDownloads, encoding: str) -> None:
    packed = zlib.compress(BIG) if encoding == "deflate" else gzip.compress(BIG)
    tagged = {"Content-Encoding": encoding, "ETag": '"a"'}
    web.files["a.jpg"] = photo("not reached")
    web.steps["a.jpg"] = [
        lambda request: send(request, 200, packed[:50], {**tagged, "Content-Length": str(len(packed))}),
        lambda request: send(request, 200, packed, tagged),
    ]
    assert downloads.read(web.url("a.jpg"), settings) == BIG
    assert all("range" not in headers for headers in web.headers("a.jpg"))  # a part of it would be none of the file


def test_a_file_that_is_packed_in_name_only_is_told(web: Web, settings: IndexDownloads) -> None:
    web.steps["a.jpg"] = [lambda request: send(request, 200, photo("a"), {"Content-Encoding": "gzip"})]
    fails(web.url("a.jpg"), settings, "said to be packed, but is not")


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        (
            "a.jpg?X-Credential=k%2F1%2Fs3&Signature=a%2Bb%3D&x=%7e",
            "a.jpg?X-Credential=k%2F1%2Fs3&Signature=a%2Bb%3D&x=%7e",
        ),
        ("M%C3%BCller%20%231.jpg", "M%C3%BCller%20%231.jpg"),
        ("M\u00fcller 1.jpg", "M%C3%BCller%201.jpg"),
        ("photo?id=7&size=large", "photo?id=7&size=large"),
    ],
)
def test_addresses_are_asked_for_as_they_are(web: Web, settings: IndexDownloads, address: str, asked: str) -> None:
    """The signature of an address counts its bytes, so that %2F must not become a slash."""
    web.files[asked] = photo("a")
    assert downloads.read(web.url("") + address, settings) == photo("a")
    assert [path for path, _, _ in web.asked] == [asked]


def test_a_file_beyond_measure(web: Web, settings: IndexDownloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_LARGEST", 100_000)
    web.files["a.jpg"] = BIG
    downloads.fetch([web.url("a.jpg")], settings)
    fails(web.url("a.jpg"), settings, "100,000 bytes")
    assert files(settings, "partial") == []


@pytest.mark.parametrize("address", ["http://", "http://[", "https:///a.jpg", "http://a b/ \ud800.jpg"])
def test_what_is_no_address(address: str, settings: IndexDownloads) -> None:
    settings["tries"] = 1
    fails(address, settings)


def test_a_host_that_is_silent_is_left_alone(settings: IndexDownloads) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        addresses = [f"http://127.0.0.1:{taken.getsockname()[1]}/{i}.jpg" for i in range(40)]
        downloads.fetch(addresses, settings)
        reasons = {path.read_text().split(" (")[0] for path in files(settings, "failed")}
        assert len(files(settings, "failed")) == 40
        assert {"no connection"} < reasons and any("does not answer" in reason for reason in reasons)


def test_a_server_that_falls_silent(web: Web, settings: IndexDownloads) -> None:
    settings |= {"timeout": 0.2, "tries": 2}
    web.files["a.jpg"] = photo("a")
    web.steps["a.jpg"] = [lambda _: time.sleep(1)] * 2
    downloads.fetch([web.url("a.jpg")], settings)
    fails(web.url("a.jpg"), settings, "no answer within 0.2 s")
    assert web.times("a.jpg") == 2


# -------------------------------------------------------------------------------------------------------- interruptions


def test_a_cut_transfer_goes_on_where_it_stopped(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = BIG
    web.steps["a.jpg"] = [cut(BIG, 200_000)]
    downloads.fetch([web.url("a.jpg")], settings)
    assert downloads.read(web.url("a.jpg"), settings) == BIG
    first, second = web.headers("a.jpg")
    assert "range" not in first and 0 < int(second["range"].removeprefix("bytes=").removesuffix("-")) <= 200_000


def test_a_later_run_goes_on_and_the_part_never_looks_finished(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = BIG
    web.steps["a.jpg"] = [cut(BIG, 200_000)]
    downloads.fetch([web.url("a.jpg")], settings | {"tries": 1})
    assert files(settings, "urls") == files(settings, "objects") == []
    assert 0 < max(path.stat().st_size for path in files(settings, "partial")) <= 200_000
    fails(web.url("a.jpg"), settings, "broke off")
    downloads.fetch([web.url("a.jpg")], settings)
    assert downloads.read(web.url("a.jpg"), settings) == BIG
    assert "range" in web.headers("a.jpg")[-1] and files(settings, "partial") == []


def test_a_file_that_changed_meanwhile_is_fetched_as_a_whole(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = BIG[::-1]
    web.steps["a.jpg"] = [cut(BIG, 200_000)]
    downloads.fetch([web.url("a.jpg")], settings)
    assert downloads.read(web.url("a.jpg"), settings) == BIG[::-1]


def test_a_server_without_ranges(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"], web.ranges = BIG, False
    web.steps["a.jpg"] = [cut(BIG, 200_000)]
    downloads.fetch([web.url("a.jpg")], settings)
    assert downloads.read(web.url("a.jpg"), settings) == BIG


def test_a_server_that_gives_another_range(web: Web, settings: IndexDownloads) -> None:
    wrong = {"Content-Range": f"bytes 0-{len(BIG) - 1}/{len(BIG)}"}
    web.files["a.jpg"] = BIG
    web.steps["a.jpg"] = [cut(BIG, 200_000), lambda request: send(request, 206, BIG, wrong)]
    downloads.fetch([web.url("a.jpg")], settings)
    assert downloads.read(web.url("a.jpg"), settings) == BIG
    assert "range" not in web.headers("a.jpg")[-1]


def test_killed_after_the_last_byte(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = BIG
    name = hashlib.sha256(web.url("a.jpg").encode()).hexdigest()
    folder = Path(settings["folder"], "partial")
    folder.mkdir(parents=True)
    (folder / name).write_bytes(BIG)
    (folder / f"{name}.validator").write_text(f'"{hashlib.md5(BIG).hexdigest()}"')
    downloads.fetch([web.url("a.jpg")], settings)
    assert downloads.read(web.url("a.jpg"), settings) == BIG


def test_a_part_without_the_version_it_belongs_to_is_not_used(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"] = BIG
    folder = Path(settings["folder"], "partial")
    folder.mkdir(parents=True)
    (folder / hashlib.sha256(web.url("a.jpg").encode()).hexdigest()).write_bytes(b"something else")
    downloads.fetch([web.url("a.jpg")], settings)
    assert downloads.read(web.url("a.jpg"), settings) == BIG


# ----------------------------------------------------------------------------------------------------------- politeness


def test_no_more_requests_at_a_time_than_allowed(web: Web, settings: IndexDownloads) -> None:
    web.files = {f"{i}.jpg": photo(i) for i in range(60)}
    web.delay = 0.01
    downloads.fetch([web.url(name) for name in web.files], settings | {"per_host": 3})
    assert len(files(settings, "urls")) == 60
    assert web.busiest == 3
    (agent,) = {headers["user-agent"] for _, headers, _ in web.asked}
    assert agent.startswith("bioclip-lite/")


def _read(address: str, settings: IndexDownloads) -> str:
    return hashlib.sha256(downloads.read(address, settings)).hexdigest()


def test_several_processes_at_one_address(web: Web, settings: IndexDownloads) -> None:
    web.files["a.jpg"], web.delay = BIG, 0.2
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.starmap(_read, [(web.url("a.jpg"), settings)] * 4, chunksize=1)
    assert set(found) == {hashlib.sha256(BIG).hexdigest()}
    assert len(files(settings, "objects")) == 1 and files(settings, "partial") == []


def test_a_long_list_is_taken_in_parts(web: Web, settings: IndexDownloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_BATCH", 5)
    web.files = {f"{i}.jpg": photo(i) for i in range(12)}
    drawn = []

    def addresses() -> Iterator[str]:
        for name in web.files:
            drawn.append((name, len(web.asked)))
            yield web.url(name)

    downloads.fetch(addresses(), settings)
    assert len(files(settings, "urls")) == 12
    assert dict(drawn)["11.jpg"] == 10  # the last ones are drawn when the first ones are done
