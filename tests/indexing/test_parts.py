"""A source that is read by parts gives the tables of one job, each part by itself."""

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from bioclip_lite.indexing import batches
from bioclip_lite.sources import downloads
from bioclip_lite.stages import index
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table
from bioclip_lite.utils.job_names import part_name
from support.photographs import many

COUNT, BATCH = 150, 32


def damaged(folder: Path) -> Any:
    """Section ``index`` for a folder with look-alikes, a copy, a file that is none and one that is missing."""
    params, place = many(folder, COUNT, kinds=60), folder / "0"
    (place / "0000005.jpg").write_bytes(b"no photograph")
    (place / "0000077.jpg").write_bytes((place / "0000078.jpg").read_bytes())
    (place / "0000149.jpg").unlink()
    return params


def tables(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / "index").iterdir() if path.is_file()}


def run_by_parts(params: Any, data: Path, count: int) -> None:
    names = [part_name(number) for number in range(count)]
    for job in ("manifest", *(f"read/{name}" for name in reversed(names)), "tables"):
        index.run(params | {"parts": count}, data, job)


@pytest.mark.parametrize("count", [2, 7, 160])
def test_any_number_of_parts_gives_the_bytes_of_one_job(tmp_path: Path, asked: list[str], count: int) -> None:
    params = damaged(tmp_path / "source")
    index.run(params, tmp_path / "whole")
    in_order = [*asked]
    asked.clear()
    run_by_parts(params, tmp_path / "data", count)
    assert sorted(asked) == sorted(in_order)  # each once, and none again for the tables
    assert tables(tmp_path / "data") == tables(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "data/index").iterdir() if path.is_dir()} == {"manifest", "read"}
    sizes = [read_table(path).num_rows for path in sorted((tmp_path / "data/index/read").iterdir())]
    assert len(sizes) == count and sum(sizes) == COUNT and max(sizes) - min(sizes) <= 1


def test_a_part_that_was_ended_is_read_alone_from_its_batch(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = many(tmp_path / "source", COUNT, kinds=60) | {"parts": 3}
    data = tmp_path / "data"
    for job in ("manifest", "read/00000", "read/00002"):
        index.run(params, data, job)
    with pytest.raises(UserError, match=r"read/00001\.parquet is missing; stage index makes it"):
        index.run(params, data, "tables")
    keep = batches.keep

    def end(path: Path, results: Any) -> None:
        if len(list(path.parent.glob("*.parquet"))) == 1:
            raise KeyboardInterrupt
        keep(path, results)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batches, "keep", end)
        index.run(params, data, "read/00001")
    asked.clear()
    index.run(params, data, "read/00001")
    assert asked == [f"0/{i:07d}.jpg" for i in range(COUNT // 3 + BATCH, 2 * COUNT // 3)]
    index.run(params, data, "tables")
    index.run(params, tmp_path / "whole")
    assert tables(data) == tables(tmp_path / "whole")


def test_what_was_read_of_another_list_is_refused(tmp_path: Path, asked: list[str]) -> None:
    params = many(tmp_path / "source", COUNT, kinds=60)
    run_by_parts(params, tmp_path / "data", 2)
    read = tmp_path / "data/index/read"
    refused = pytest.raises(UserError, match="holds other photographs than the source lists now")
    with refused:  # fewer
        index.run(params | {"parts": 2, "where": {"species": ["abensis"]}}, tmp_path / "data", "tables")
    shutil.copy(read / "00001.parquet", read / "00002.parquet")
    with refused:  # more
        index.run(params | {"parts": 3}, tmp_path / "data", "tables")
    shutil.copy(read / "00000.parquet", read / "00001.parquet")
    with refused:  # as many, in another order
        index.run(params | {"parts": 2}, tmp_path / "data", "tables")


def test_addresses_are_downloaded_in_jobs_of_their_own(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    many(tmp_path / "source", 40)
    fetched: list[str] = []

    def fetch(addresses: Any, settings: Any) -> None:
        fetched.extend(addresses)

    monkeypatch.setattr(downloads, "fetch", fetch)
    table = tmp_path / "source" / "metadata.csv"
    table.write_text(table.read_text().replace("\n0/", "\nhttp://localhost:9/"))
    params: Any = {**many(tmp_path / "other", 1), "source": "csv", "path": str(table), "parts": 2}
    for job in ("manifest", "downloads/00001", "downloads/00000"):
        index.run(params, tmp_path / "data", job)
    wanted = [f"http://localhost:9/{i:07d}.jpg" for i in range(40)]
    assert fetched == [*wanted[20:], *wanted[:20]] and not asked
    assert read_json(tmp_path / "data/index/downloads/00000.json") == {"photographs": 20}


def test_memory_does_not_grow_with_the_photographs_of_a_part(tmp_path: Path, asked: list[str]) -> None:
    peaks: list[int] = []
    for count in (200, 200, 800):  # the first fills caches
        params = many(tmp_path / f"{count}-{len(peaks)}", count, kinds=20)
        data = tmp_path / f"data{len(peaks)}"
        index.run(params, data, "manifest")
        asked.clear()
        tracemalloc.start()
        index.run(params, data, "read/00000")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        asked.clear()
    assert peaks[2] < 1.3 * peaks[1]
