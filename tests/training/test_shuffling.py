"""The order of photographs in training: a function of names and lengths alone, from few shards at a time."""

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip_lite.training import shuffling
from bioclip_lite.utils.randomness import generator

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=12)


@given(lengths=LENGTHS, batch_size=st.integers(1, 64), buffer=st.integers(1, 400), seed=st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_every_photograph_comes_once_in_full_batches(
    lengths: list[int], batch_size: int, buffer: int, seed: int
) -> None:
    count = sum(lengths)
    plan = list(shuffling.batches(lengths, batch_size, buffer, seed))
    rows = np.concatenate(plan).tolist()
    assert len(set(rows)) == len(rows) and set(rows) <= set(range(count))
    assert {len(batch) for batch in plan} == {min(batch_size, count)}
    assert count - len(rows) < batch_size and len(plan) == shuffling.batch_count(count, batch_size)
    # Batches of one leave nothing out.
    assert sorted(int(i) for (i,) in shuffling.batches(lengths, 1, buffer, seed)) == [*range(count)]


@given(lengths=LENGTHS, batch_size=st.integers(1, 20), buffer=st.integers(1, 400), data=st.data())
@settings(max_examples=100, deadline=None)
def test_an_epoch_goes_on_at_any_step(lengths: list[int], batch_size: int, buffer: int, data: st.DataObject) -> None:
    plan = list(shuffling.batches(lengths, batch_size, buffer, "names", 3))
    start = data.draw(st.integers(0, len(plan)))
    rest = list(shuffling.batches(lengths, batch_size, buffer, "names", 3, start=start))
    assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in plan[start:]]


@given(lengths=LENGTHS, buffer=st.integers(1, 400), seed=st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_windows_are_whole_shards_and_about_as_large_as_the_buffer(lengths: list[int], buffer: int, seed: int) -> None:
    found = shuffling.windows(lengths, buffer, seed)
    assert sorted(np.concatenate(found).tolist()) == [*range(len(lengths))]
    assert all(sum(lengths[shard] for shard in shards) < buffer + max(lengths) for shards in found)


def test_what_the_buffer_takes_is_mixed_as_one_shard() -> None:
    """The order that trainings of few photographs have always had."""
    expected = generator(0, "distill", "order", 7).permutation(90)[:80].reshape(4, 20)
    for lengths in ([90], [10, 50, 30]):
        found = [*shuffling.batches(lengths, 20, 90, 0, "distill", "order", 7)]
        np.testing.assert_array_equal(found, expected)


def test_photographs_come_from_few_shards_at_a_time_and_are_well_mixed() -> None:
    lengths, buffer = [100] * 40, 1000
    orders = [np.concatenate([*shuffling.batches(lengths, 10, buffer, 0, epoch)]) for epoch in range(2)]
    for order in orders:
        shards = order.reshape(4, 1000) // 100
        assert [len(set(of_window.tolist())) for of_window in shards] == [10] * 4
        # Within a window it is a matter of chance whether a photograph follows one of its own shard: 99 in 999.
        same = (shards[:, 1:] == shards[:, :-1]).mean()
        assert same == pytest.approx(99 / 999, abs=0.03)
    assert (np.argsort(orders[0]) // 1000 == np.argsort(orders[1]) // 1000).mean() < 0.5  # other neighbours


@pytest.mark.parametrize(("start", "windows"), [(0, [0, 1, 2, 3]), (25, [2, 3]), (39, [3]), (40, [])])
def test_windows_are_read_ahead_each_once_from_the_start_on(
    start: int, windows: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, files = [10] * 40, [[tmp_path / f"{shard}.tar"] for shard in range(40)]
    read: list[Path] = []
    monkeypatch.setattr(shuffling, "Thread", lambda target, args, daemon: Waiting(*args))
    waiting: SimpleQueue[Any] = SimpleQueue()
    monkeypatch.setattr(shuffling, "SimpleQueue", lambda: waiting)
    order = shuffling.windows(lengths, 100, "names")
    of = [[files[shard][0] for shard in shards] for shards in order]
    for step, _ in enumerate(shuffling.batches(lengths, 10, 100, "names", start=start, files=files), start):
        while not waiting.empty():
            read.append(waiting.get())
        assert len(read) <= 10 * (2 + step // 10 - start // 10)  # no more than this window and the next
    assert read == [path for window in windows for path in of[window]]
    assert start == 40 or waiting.get() is None


class Waiting:
    """A thread that does not run."""

    def __init__(self, waiting: Any) -> None:
        self.waiting = waiting

    def start(self) -> None:
        pass


def test_files_are_read_to_their_ends_and_missing_ones_left_to_others(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(bytes(2 * shuffling._CHUNK + 1))
    waiting: SimpleQueue[Path | None] = SimpleQueue()
    for path in (tmp_path / "missing", there, None):
        waiting.put(path)
    shuffling._read_all(waiting)
    assert waiting.empty()


def test_memory_is_that_of_a_window() -> None:
    import tracemalloc

    peaks = []
    for shards in (20, 200):
        tracemalloc.start()
        for _ in shuffling.batches([1000] * shards, 100, 2000, "names"):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 180 * 200  # bytes of 180 shards, whose 180,000 photographs would take 1.4 MB
