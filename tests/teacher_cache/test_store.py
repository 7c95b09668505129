import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import generator
from bioclip_lite.utils.tensors import write_tensors

IDENTITY = {"teacher": "a" * 64, "views": "1", "preprocess": '{"size": 64}', "precision": "float16"}


def make(path: Path, n: int = 3, k: int = 2, d: int = 4, **identity: Any) -> store.Shard:
    embeddings = generator(path.name).normal(size=(n, k, d)).astype(np.float32)
    keys = [f"{path.stem}-{i}" for i in range(n)]
    identity = {**IDENTITY, **identity}
    encoded = store.encode(embeddings, identity["precision"])
    store.write_shard(path, keys, np.arange(n), np.ones((n, k, 8), np.float32), encoded, identity)
    return store.read_shard(path)


def taxa(path: Path, d: int = 4, teacher: str = "a" * 64) -> store.Taxa:
    store.write_taxa(path, ["x", "y"], np.eye(2, d, dtype=np.float32), 100.0, teacher, "sci")
    return store.read_taxa(path)


@given(n=st.integers(0, 5), k=st.integers(1, 3), d=st.integers(1, 7), precision=st.sampled_from(["float16", "int8"]))
@settings(max_examples=40, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, n: int, k: int, d: int, precision: str) -> None:
    path = tmp_path_factory.mktemp("cache") / "train-00000.safetensors"
    embeddings = generator(n, k, d).normal(size=(n, k, d)).astype(np.float32)
    rows = generator("views").normal(size=(n, k, 8)).astype(np.float32)
    keys = [f"é{i}" for i in range(n)]
    images = generator("images").integers(2**64, size=n, dtype=np.uint64)
    store.write_shard(path, keys, images, rows, store.encode(embeddings, precision), IDENTITY)
    shard = store.read_shard(path)
    assert shard.keys == keys
    np.testing.assert_array_equal(shard.images, images)
    np.testing.assert_array_equal(shard.views, rows)
    assert shard.identity == IDENTITY
    assert shard.embeddings.dtype == {"float16": np.float16, "int8": np.int8}[precision]
    every = shard.target(slice(None), slice(None))
    assert every.dtype == np.float32 and every.shape == embeddings.shape
    # A step is the 127th part of the largest value of a row, an error half of it.
    step = np.abs(embeddings).max(-1, initial=0, keepdims=True) / 127 if precision == "int8" else 2e-3
    assert (np.abs(every - embeddings) <= 0.501 * step).all()
    for i in range(n):
        np.testing.assert_array_equal(shard.target(i, k - 1), every[i, k - 1])
    np.testing.assert_array_equal(shard.target(slice(1, 3), 0), every[1:3, 0])


def test_zero_is_zero_in_any_precision() -> None:
    encoded = store.encode(np.zeros((2, 3), np.float32), "int8")
    assert not encoded["embeddings"].any() and np.isfinite(encoded["scales"]).all()
    with pytest.raises(ValueError, match="there are float16 and int8"):
        store.encode(np.zeros((2, 3), np.float32), "int4")


def test_values_in_a_file_are_aligned(tmp_path: Path) -> None:
    shard = make(tmp_path / "train-00000.safetensors", n=3, k=1, d=5, precision="int8")
    assert shard.scales is not None
    for array in (shard.images, shard.views, shard.scales, shard.embeddings):
        assert array.flags.aligned


# Said to cost at most 4e-8 nats (float16) and 5e-5 (int8): true of a teacher that knows the genus and hesitates among
# ten species. Of one that has no idea it is ten times as much, which is nothing beside its 2.9 nats.
@pytest.mark.parametrize("noise, doubt, factor", [(0.15, 1.3, 1), (1.0, 2.9, 10)])
@pytest.mark.parametrize("precision, most", [("float16", 4e-8), ("int8", 5e-5)])
def test_precision_costs_next_to_nothing(precision: str, most: float, noise: float, doubt: float, factor: int) -> None:
    rng, d, scale = generator("precision"), 512, 100.0
    text = unit(np.repeat(rng.normal(size=(100, d)), 10, axis=0) + 0.35 * rng.normal(size=(1000, d)))
    image = unit(text[rng.integers(1000, size=400)] + noise * rng.normal(size=(400, d))).astype(np.float32)
    encoded = store.encode(image[:, None], precision)
    stored = store.Shard(Path(), encoded, {}).target(slice(None), 0)
    before, after = (log_softmax(scale * x.astype(np.float64) @ text.T) for x in (image, stored))
    entropy = -(np.exp(before) * before).sum(1).mean()
    assert entropy == pytest.approx(doubt, abs=0.1)
    assert (np.exp(before) * (before - after)).sum(1).mean() <= factor * most


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


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
    assert store.map_tensors(tmp_path / "taxa.safetensors")[1]["given_logit_scale"] == "100.0"
    store.write_taxa(tmp_path / "taxa.safetensors", ["x", "y"], read.text, 70.0, "a" * 64, "sci", 100.0)
    assert store.read_taxa(tmp_path / "taxa.safetensors").logit_scale == 70.0
    assert store.map_tensors(tmp_path / "taxa.safetensors")[1]["given_logit_scale"] == "100.0"
    np.testing.assert_array_equal(read.text, np.eye(2, 4))
    assert read.lit_columns is None
    store.write_taxa(tmp_path / "lit", ["x", "y"], read.text, 1.0, "a", "lit", lit_columns=["genus", "species"])
    assert store.read_taxa(tmp_path / "lit").lit_columns == ["genus", "species"]


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    text = taxa(tmp_path / "taxa.safetensors")
    good = make(tmp_path / "train-00000.safetensors")
    val = make(tmp_path / "val-00000.safetensors", k=1)
    store.check_same([good, val], text)
    for wrong, says in (
        ({"teacher": "b" * 64}, "learn from two"),
        ({"views": "0"}, "differ in views"),
        ({"preprocess": '{"size": 32}'}, "differ in preprocess"),
        ({"precision": "int8"}, "differ in precision"),
        ({"d": 5}, "5 numbers"),
        ({"k": 3}, "3 views"),
    ):
        other = make(tmp_path / "train-00001.safetensors", **wrong)
        with pytest.raises(UserError, match=says):
            store.check_same([good, val, other], text)


@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_cut_file_is_refused(tmp_path: Path, left: int) -> None:
    path = tmp_path / "train-00000.safetensors"
    make(path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match="make the cache again"):
        store.read_shard(path)


def test_parts_must_be_as_many(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.safetensors"
    parts = {"images": np.zeros(2, "<u8"), "views": np.zeros((2, 1, 8), np.float32)}
    half, whole = {"embeddings": np.zeros((2, 1, 4), np.float16)}, {"embeddings": np.zeros((2, 1, 4), np.int8)}
    for tensors, keys, says in (
        ({**parts, **half}, ["a"], "1 keys for 2 rows"),
        ({**parts, **half, "images": np.zeros(1, "<u8")}, ["a", "b"], "2 keys for 2 rows of 1 photographs"),
        ({**parts, **half, "views": np.zeros((2, 2, 8), np.float32)}, ["a", "b"], "do not fit"),
        ({**parts, **whole}, ["a", "b"], "no 'scales'"),
        ({**parts, **whole, "scales": np.ones((2, 2), np.float32)}, ["a", "b"], "scales .2, 2. do not fit"),
        ({"embeddings": half["embeddings"]}, ["a", "b"], "no 'images'"),
    ):
        write_tensors(path, tensors, {"keys": json.dumps(keys), "teacher": "t"})
        with pytest.raises(UserError, match=says):
            store.read_shard(path)
    with pytest.raises(UserError, match="not a taxon text matrix"):
        store.read_taxa(path)
    with pytest.raises(UserError, match="not hold the texts"):
        store.read_texts(path)
    with pytest.raises(ValueError, match="1 keys, 2 images"):
        store.write_shard(path, ["a"], parts["images"], parts["views"], half, IDENTITY)


def test_texts_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "texts.safetensors"
    text = generator("texts").normal(size=(2, 3, 4)).astype(np.float16)
    store.write_texts(path, ["sci", "com"], ["x", "y", "z"], text, "a" * 64)
    read = store.read_texts(path)
    assert (read.types, read.taxon_ids, read.teacher) == (["sci", "com"], ["x", "y", "z"], "a" * 64)
    np.testing.assert_array_equal(read.text, text)
    with pytest.raises(ValueError, match="3 text types"):
        store.write_texts(path, ["sci", "com", "lit"], ["x", "y", "z"], text, "a" * 64)


def test_each_teacher_has_a_folder(tmp_path: Path) -> None:
    assert store.folder(tmp_path) == store.folder(tmp_path, "model") == tmp_path / "logits"
    assert store.folder(tmp_path, "second") == tmp_path / "logits" / "second"
    for name in ("model", "second", "a"):
        taxa(store.folder(tmp_path, name) / "taxa.safetensors")
    (tmp_path / "logits" / "captions" / "coca").mkdir(parents=True)
    assert store.teachers(tmp_path) == ["model", "a", "second"]


def test_a_photograph_is_known_by_its_bytes() -> None:
    assert store.image_digest(b"abc") == 0xBA7816BF8F01CFEA  # FIPS 180-2, the first eight bytes
