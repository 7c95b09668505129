"""A run of stage index that was ended goes on: what it had read is not read again, unless it has changed."""

import multiprocessing
import os
import signal
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bioclip_lite.indexing import batches, merging, reading
from bioclip_lite.sources import downloads, places
from bioclip_lite.stages import index
from bioclip_lite.utils.files import read_table
from support.photographs import encoded, many, picture

COUNT, BATCH = 300, 32  # photographs; enough for several processes
SEE = reading._see


def outputs(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / "index").iterdir()}


def run_killed(params: Any, data: Path, monkeypatch: pytest.MonkeyPatch, complete: int) -> None:
    """Run stage index in a process that is killed where more than so many batches would be complete."""
    keep, folder = batches.keep, data / "index" / batches.FOLDER

    def keep_or_die(path: Path, results: Sequence[batches.Result]) -> None:
        if len(list(folder.rglob("*.parquet"))) == complete:
            os.kill(os.getpid(), signal.SIGKILL)
        keep(path, results)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "keep", keep_or_die)
        process = multiprocessing.get_context("fork").Process(target=index.run, args=(params, data))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(folder.rglob("*.parquet"))) == complete


def test_a_killed_run_loses_one_batch_and_ends_with_the_same_bytes(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = many(tmp_path / "source", COUNT)
    (tmp_path / "source" / "0" / "0000005.jpg").write_bytes(b"no photograph")
    index.run(params, tmp_path / "undisturbed")
    locators = [*asked]
    assert len(locators) == COUNT and "a run before" not in capsys.readouterr().out

    for _ in range(2):  # the second time before a further batch is complete
        run_killed(params, tmp_path / "data", monkeypatch, 4)
    asked.clear()
    index.run(params, tmp_path / "data")
    assert asked == locators[4 * BATCH :]
    assert f"{4 * BATCH} of {COUNT} photographs were read by a run before" in capsys.readouterr().out
    assert outputs(tmp_path / "data") == outputs(tmp_path / "undisturbed")  # and no batches beside them

    run_killed(params, tmp_path / "data", monkeypatch, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        patch.setattr(reading, "_see", SEE)
        index.run(params, tmp_path / "data")  # in several processes
    assert f"{3 * BATCH} of {COUNT} photographs were read by a run before" in capsys.readouterr().out
    assert outputs(tmp_path / "data") == outputs(tmp_path / "undisturbed")


def test_what_has_changed_since_is_read_again(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, source = many(tmp_path / "source", 100), tmp_path / "source" / "0"
    (source / "0000002.jpg").unlink()
    (source / "0000003.jpg").write_bytes(b"no photograph")
    run_killed(params, tmp_path / "data", monkeypatch, 2)
    for name in ("0000002.jpg", "0000001.jpg"):  # one that was missing, and another one
        (source / name).write_bytes(encoded(picture("changed", name)))
    asked.clear()
    index.run(params, tmp_path / "data")
    assert asked == [f"0/{i:07d}.jpg" for i in (1, 2, *range(2 * BATCH, 100))]
    index.run(params, tmp_path / "undisturbed")
    assert outputs(tmp_path / "data") == outputs(tmp_path / "undisturbed")
    reasons = {row["locator"]: row["reason"] for row in read_table(tmp_path / "data/index/rejects.parquet").to_pylist()}
    assert reasons["0/0000003.jpg"] == "not an image" and "0/0000002.jpg" not in reasons


def test_batches_serve_runs_that_would_find_the_same(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = many(tmp_path / "source", 100)
    run_killed(params, tmp_path / "data", monkeypatch, 3)
    first = next(iter((tmp_path / "data" / "index" / batches.FOLDER).rglob("*.parquet")))
    first.write_bytes(first.read_bytes()[:-1])
    changes: list[tuple[Any, int]] = [
        ({"min_side": params["min_side"] + 1}, 100),
        ({"split": {"train": 1.0}}, 100 - 2 * BATCH),
    ]
    for change, again in changes:
        with monkeypatch.context() as patch:
            patch.setattr(merging, "write", lambda *_: pytest.fail("ended"))
            asked.clear()
            with pytest.raises(pytest.fail.Exception):
                index.run(params | change, tmp_path / "data")
        assert len(asked) == again, change


def test_the_state_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params: Any = {"path": str(tmp_path), "downloads": {"folder": str(tmp_path / "cache")}}
    for name in ("a b.jpg", "b.tar", "c.tar.gz", "table.csv"):
        (tmp_path / name).write_bytes(name.encode())
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.add(tmp_path / "a b.jpg")
    locators = ("a%20b.jpg", "b.tar:512:7", "c.tar.gz:0:3")
    before = [places.state(params, locator) for locator in locators]
    assert None not in before and len({*before}) == 3
    beside: Any = {**params, "path": str(tmp_path / "table.csv")}
    assert [places.state(beside, locator) for locator in locators] == before
    for name in ("a b.jpg", "b.tar", "c.tar.gz"):
        os.utime(tmp_path / name, (1, 1))
    assert not {*before} & {places.state(params, locator) for locator in locators}
    for missing in ("no.jpg", "no.tar:0:1", "no.tar.gz:0:1", "zero\0.jpg", address := "http://localhost/a.jpg"):
        assert places.state(params, missing) is None
    (tmp_path / "partial").write_bytes(b"content")
    downloads._keep(tmp_path / "cache", address, tmp_path / "partial")
    assert places.state(params, address) == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
