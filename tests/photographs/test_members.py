"""List the members of a shard once and map the list, so that nothing grows with their number."""

import multiprocessing
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bioclip_lite.photographs import members
from bioclip_lite.photographs.shards import ShardSet, write_shard
from bioclip_lite.utils import tensors
from bioclip_lite.utils.errors import UserError


def samples(count: int, start: int = 0) -> list[tuple[str, bytes, dict[str, object]]]:
    taxa = [None, "taxon ä", "taxon b"]
    rows = range(start, start + count)
    return [(f"kéy-{i:06d}", b"jpeg" * (i % 5), {"taxon_id": taxa[i % 3], "group": i}) for i in rows]


def sent(images: ShardSet) -> ShardSet:
    """Pass an object through a pipe, as the processes of a loader get it."""
    ours, theirs = multiprocessing.Pipe()
    ours.send(images)
    received: ShardSet = theirs.recv()
    return received


@pytest.mark.parametrize("taxon", ["of three", None, "one"])
def test_a_list_of_members_says_what_the_tar_says(tmp_path: Path, taxon: str | None) -> None:
    tar, given = tmp_path / "train-00000.tar", samples(7)
    if taxon != "of three":
        given = [(key, jpeg, {"taxon_id": taxon, "group": 0}) for key, jpeg, _ in given]
    write_shard(tar, given)
    derived = ShardSet.of(tar)
    members.write(tar)
    mapped = ShardSet.of(tar)
    assert type(mapped.shards[0].columns) is tensors.Tensors is not type(derived.shards[0].columns)
    for images in (derived, mapped, sent(mapped)):
        assert images.keys == [images.key(i) for i in range(7)] == [key for key, _, _ in given]
        expected = [description["taxon_id"] for _, _, description in given]
        assert images.taxon_ids == [images.taxon_id(i) for i in range(7)] == expected
        assert [images.jpeg(i) for i in range(7)] == [jpeg for _, jpeg, _ in given]
        assert [images.description(i) for i in range(7)] == [description for _, _, description in given]
        numbers = images.taxon_numbers({"taxon b": 5, "one": 3})
        assert numbers.tolist() == [{"taxon b": 5, "one": 3}.get(str(name), -1) for name in expected]
    before = members.path_of(tar).read_bytes()
    members.write(tar)
    assert members.path_of(tar).read_bytes() == before


def test_shards_follow_each_other(tmp_path: Path) -> None:
    for number, count in enumerate((2, 0, 3)):
        write_shard(tmp_path / f"{number}.tar", samples(count, 10 * number))
        members.write(tmp_path / f"{number}.tar")
    images = ShardSet.of(*(tmp_path / f"{number}.tar" for number in range(3)))
    assert [images.locate(i) for i in range(len(images))] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert [images.key(i) for i in range(5)] == images.keys
    for outside in (-1, 5):
        with pytest.raises(IndexError, match="of 5"):
            images.jpeg(outside)


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda tar: write_shard(tar, samples(30)), "of another train-00000.tar"),  # of another size
        (lambda tar: write_shard(tar, samples(5, 100)), "of another train-00000.tar"),  # of the same, other samples
        (lambda tar: members.path_of(tar).write_bytes(b""), "not a complete list"),
        (lambda tar: members.path_of(tar).write_bytes(members.path_of(tar).read_bytes()[:-1]), "not a complete list"),
        (lambda tar: tensors.write_tensors(members.path_of(tar), {}, {}), "bytes"),
        (lambda tar: tar.unlink(), "is missing"),
    ],
)
def test_a_list_of_another_tar_is_refused(tmp_path: Path, damage: Callable[[Path], object], says: str) -> None:
    tar = tmp_path / "train-00000.tar"
    write_shard(tar, samples(5))
    members.write(tar)
    damage(tar)
    with pytest.raises(UserError, match=says):
        ShardSet.of(tar).jpeg(3)


def test_memory_does_not_grow_with_photographs(tmp_path: Path) -> None:
    used = {}
    for count in (100, 2000):
        tar = tmp_path / f"{count}.tar"
        write_shard(tar, samples(count))
        members.write(tar)
        tracemalloc.start()
        images = ShardSet.of(tar)
        assert images.key(count - 1) == f"kéy-{count - 1:06d}" and images.taxon_numbers({}).sum() == -count
        used[count] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert members.path_of(tar).stat().st_size < 60 * count + 1000
    assert used[2000] - used[100] < 1900  # less than a byte a photograph


def test_few_files_are_mapped_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors._map.cache_clear()
    monkeypatch.setattr(tensors, "_map", tensors.functools.lru_cache(maxsize=4)(tensors._map.__wrapped__))
    files = [tmp_path / f"{number}.safetensors" for number in range(20)]
    for number, file in enumerate(files):
        tensors.write_tensors(file, {"a": np.full(3, number, "<u4"), "b": np.arange(2.0, dtype="<f4")}, {})
    opened = [tensors.map_tensors(file)[0] for file in files]
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [int(file["a"][0]) + file["b"][1] for file in opened] == [number + 1 for number in range(20)]
    maps = Path("/proc/self/maps").read_text()
    assert sum(str(file) in maps for file in files) == 4
    assert len(os.listdir("/proc/self/fd")) - descriptors == 4
    kept = opened[0]["a"]  # an array in use stays, whatever else is read
    assert [int(file["a"][1]) for file in opened] == [*range(20)] and kept[2] == 0
    tensors.write_tensors(files[0], {"a": np.full(3, 7, "<u4")}, {})
    with pytest.raises(UserError, match="was replaced"):
        opened[0]["a"]
    assert 2 * tensors._MAPPED < 1024
