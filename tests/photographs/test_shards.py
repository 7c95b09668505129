import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip_lite.photographs.images import decode
from bioclip_lite.photographs.members import open_shard
from bioclip_lite.photographs.shards import ShardSet, descriptions, shard_names, write_shard
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_json
from support.photographs import encoded, picture

KEYS = ("a-0", "b_1", "c-2")


def samples(keys: tuple[str, ...] = KEYS) -> list[tuple[str, bytes, dict[str, object]]]:
    return [
        (key, encoded(picture(key)), {"taxon_id": f"t{i % 2}", "ranks": ["Ä", None], "group": key})
        for i, key in enumerate(keys)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_shard(tmp_path / "shard" / "train-00000.tar", samples(("a-0", "b_1")))
    write_shard(tmp_path / "shard" / "train-00001.tar", samples(("c-2",)))
    write_shard(tmp_path / "shard" / "test-00000.tar", samples(("d",)))
    write_json(tmp_path / "shard" / "sizes.json", {"train-00000.tar": 2, "train-00001.tar": 1, "test-00000.tar": 1})
    return tmp_path


def test_a_shard_set_reads_at_random(data: Path) -> None:
    shards = ShardSet(data, "train")
    assert len(shards) == 3
    assert shards.keys == list(KEYS)
    assert shards.taxon_ids == ["t0", "t1", "t0"]
    for i in (2, 0, 1):
        expected = encoded(picture(KEYS[i]))
        assert shards.jpeg(i) == expected
        assert (np.asarray(shards.image(i)) == np.asarray(decode(expected))).all()
        assert shards.description(i)["group"] == KEYS[i]
        assert shards.description(i)["ranks"] == ["Ä", None]
    assert ShardSet.of(data / "shard" / "test-00000.tar").keys == ["d"]


def test_names_come_from_the_list_of_sizes(data: Path) -> None:
    assert shard_names(data) == ["test-00000", "train-00000", "train-00001"]
    assert shard_names(data, "train") == ["train-00000", "train-00001"]
    with pytest.raises(UserError, match=r"shard\.counts\.val"):
        ShardSet(data, "val")


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "a.tar", samples()) == write_shard(tmp_path / "b.tar", iter(samples())) == 3
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-00000.tar", samples())
    found = list(wds.WebDataset(str(tmp_path / "train-00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == list(KEYS)
    for sample, (_, jpeg, description) in zip(found, samples(), strict=True):
        assert sample["jpg"] == jpeg
        assert json.loads(sample["json"]) == description


def test_a_failure_leaves_the_earlier_shard(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    write_shard(path, samples())
    before = path.read_bytes()

    def breaks() -> Iterator[tuple[str, bytes, dict[str, object]]]:
        yield samples()[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shard(path, breaks())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage",
    [
        lambda tar: tar[:1000],
        lambda tar: tar.replace(b"a-0.json", b"a-0.text"),
        lambda tar: b"no tar",
        lambda tar: b"",
    ],
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "train-00000.tar"
    write_shard(path, samples())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"train-00000\.tar"):
        open_shard(path)


@settings(max_examples=20, deadline=None)
@given(content=st.dictionaries(st.text("abz_-09", min_size=1, max_size=60), st.binary(max_size=2000)))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes]) -> None:
    path = tmp_path_factory.mktemp("shard") / "x.tar"
    write_shard(path, ((key, jpeg, {"taxon_id": key}) for key, jpeg in content.items()))
    if not content:
        return
    shards = ShardSet.of(path)
    assert {key: shards.jpeg(i) for i, key in enumerate(shards.keys)} == content
    assert dict(descriptions(path)) == {key: {"taxon_id": key} for key in content}
