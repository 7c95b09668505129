"""What a training holds before its first step does not grow with what its photographs say."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bioclip_lite.photographs import members
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import ShardSet, write_shard
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import store
from bioclip_lite.teacher_cache.reader import CachedSplit
from bioclip_lite.training.cached_batches import CachedBatches
from bioclip_lite.utils.files import write_json, write_table

SHARD = 2000  # photographs


def write_data(data: Path, shards: int) -> None:
    """Shards of photographs of one taxon without content, and their teacher cache."""
    ranks = {rank: [rank] for rank in RANKS}
    write_table(data / "index" / "taxa.parquet", pa.table({"taxon_id": ["t"], **ranks, "leaf": [True]}))
    store.write_taxa(data / "logits" / "taxa.safetensors", ["t"], np.ones((1, 2)), 1.0, "", "sci")
    encoded = store.encode(np.zeros((SHARD, 1, 2), np.float32), "float16")
    sizes = {}
    for number in range(shards):
        tar = data / "shard" / f"train-{number:05d}.tar"
        keys = [f"{number:05d}-{n:06d}" for n in range(SHARD)]
        sizes[tar.name] = write_shard(tar, ((key, b"", {"taxon_id": "t"}) for key in keys))
        members.write(tar)
        digests, views = np.zeros(SHARD, np.uint64), np.zeros((SHARD, 1, 6), np.float32)
        path = data / "logits" / f"{tar.stem}.safetensors"
        store.write_shard(path, keys, digests, views, encoded, {"teacher": ""})
    write_json(data / "shard" / "sizes.json", sizes)


def test_a_training_holds_a_few_bytes_of_a_photograph(tmp_path: Path) -> None:
    held: dict[int, int] = {}
    most: dict[int, int] = {}
    for shards in (1, 1, 3):  # the first time imports what is needed
        data = tmp_path / f"{len(held)}-{shards}"
        write_data(data, shards)
        tracemalloc.start()
        split = CachedSplit(data, "train")
        batches = CachedBatches(data, split, preprocessing(32), 100, 10**6, (0, "distill"), labels=True)
        plan = batches.asked(0, 0)
        first = next(plan)
        assert len({i for i, _ in first}) == 100 and batches.taught(((0), first, slice(0, 5)))[0][0].shape == (5, 2)
        held[shards], most[shards] = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # The order of an epoch is 8 bytes a photograph; a shard takes some kB.
    assert held[3] - held[1] < 2 * (12 * SHARD + 8192)
    assert most[3] - most[1] < 2 * (12 * SHARD + 8192)  # keys are compared shard by shard


def test_keys_of_all_photographs_are_asked_for_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path, 1)
    for name in ("keys", "taxon_ids"):
        monkeypatch.setattr(ShardSet, name, property(lambda self: pytest.fail("all of them")))
    split = CachedSplit(tmp_path, "train")
    batches = CachedBatches(tmp_path, split, preprocessing(32), 1000, 10**6, (0, "distill"), labels=True)
    shown = [i for views in batches.asked(0, 1) for i, _ in views]
    first, end = batches.taught.ranges([(i, 0) for i in shown]).T
    assert len(shown) == 1000 and (first < end).all()
