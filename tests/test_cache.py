import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from bioclip_lite import cache
from bioclip_lite.errors import UserError
from bioclip_lite.randomness import generator

IDENTITY = {"teacher": "a" * 64, "views": "1", "preprocess": {"size": 64}}


def make(path: Path, n: int = 3, k: int = 2, d: int = 4, **identity: Any) -> cache.Shard:
    embeddings = generator(path.name).normal(size=(n, k, d)).astype(np.float16)
    keys = [f"{path.stem}-{i}" for i in range(n)]
    cache.write_shard(path, keys, embeddings, np.ones((n, k, 8), np.float32), {**IDENTITY, **identity})
    return cache.read_shard(path)


def taxa(path: Path, d: int = 4, teacher: str = "a" * 64) -> cache.Taxa:
    cache.write_taxa(path, ["x", "y"], np.eye(2, d, dtype=np.float32), 100.0, teacher, "sci")
    return cache.read_taxa(path)


@given(n=st.integers(0, 5), k=st.integers(1, 3), d=st.integers(1, 7))
@settings(max_examples=20, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, n: int, k: int, d: int) -> None:
    path = tmp_path_factory.mktemp("cache") / "train-00000.safetensors"
    embeddings = generator(n, k, d).normal(size=(n, k, d)).astype(np.float16)
    rows = generator("views").normal(size=(n, k, 8)).astype(np.float32)
    keys = [f"é{i}" for i in range(n)]
    cache.write_shard(path, keys, embeddings, rows, IDENTITY)
    shard = cache.read_shard(path)
    assert shard.keys == keys
    np.testing.assert_array_equal(shard.embeddings, embeddings)
    np.testing.assert_array_equal(shard.views, rows)
    assert shard.identity["teacher"] == IDENTITY["teacher"]


def test_the_library_reads_it_and_bytes_repeat(tmp_path: Path) -> None:
    first, second = tmp_path / "train-00000.safetensors", tmp_path / "again" / "train-00000.safetensors"
    shard = make(first)
    make(second)
    assert first.read_bytes() == second.read_bytes()
    with safe_open(first, framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("embeddings"), shard.embeddings)
        assert json.loads(file.metadata()["keys"]) == shard.keys


def test_taxa_round_trip(tmp_path: Path) -> None:
    read = taxa(tmp_path / "taxa.safetensors")
    assert (read.taxon_ids, read.logit_scale, read.prompt) == (["x", "y"], 100.0, "sci")
    np.testing.assert_array_equal(read.text, np.eye(2, 4))


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    text = taxa(tmp_path / "taxa.safetensors")
    good = make(tmp_path / "train-00000.safetensors")
    val = make(tmp_path / "val-00000.safetensors", k=1)
    cache.check_same([good, val], text)
    for wrong, says in (
        ({"teacher": "b" * 64}, "learn from two"),
        ({"views": "0"}, "differ in views"),
        ({"preprocess": {"size": 32}}, "differ in preprocess"),
        ({"d": 5}, "5 numbers"),
        ({"k": 3}, "3 views"),
    ):
        other = make(tmp_path / "train-00001.safetensors", **wrong)
        with pytest.raises(UserError, match=says):
            cache.check_same([good, val, other], text)


@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_cut_file_is_refused(tmp_path: Path, left: int) -> None:
    path = tmp_path / "train-00000.safetensors"
    make(path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match="make the cache again"):
        cache.read_shard(path)


def test_keys_and_rows_must_be_as_many(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.safetensors"
    arrays = {"embeddings": np.zeros((2, 1, 4), np.float16), "views": np.zeros((2, 1, 8), np.float32)}
    cache.write_tensors(path, arrays, {"keys": json.dumps(["a"]), "teacher": "t"})
    with pytest.raises(UserError, match="1 keys for 2 rows"):
        cache.read_shard(path)
    with pytest.raises(UserError, match="not a taxon text matrix"):
        cache.read_taxa(path)
    with pytest.raises(ValueError, match="1 keys"):
        cache.write_shard(path, ["a"], arrays["embeddings"], arrays["views"], IDENTITY)
