import json
import shutil
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bioclip_lite.photographs.images import decode, inspect
from bioclip_lite.photographs.members import open_shard
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import caption, index, shard
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils import sections, tensors
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table
from support.photographs import encoded, folder_params, garden, picture, synthetic_params

COUNTS: sections.Shard = {
    "counts": {"pretrain": 1, "train": 2, "val": 1, "calibration": 1, "test": 1},
    "max_side": None,
}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    index.run(synthetic_params(), data)
    return data


@pytest.fixture
def data(indexed: Path, tmp_path: Path) -> Path:
    (tmp_path / "index").symlink_to(indexed / "index")
    return tmp_path


def counts(**more: int) -> sections.Shard:
    return {"counts": {**COUNTS["counts"], **more}, "max_side": None}


def test_every_sample_is_in_the_shard_of_its_split_once(data: Path) -> None:
    shard.run(COUNTS, data)
    samples = {s["key"]: s for s in read_table(data / "index" / "samples.parquet").to_pylist()}
    sizes = read_json(data / "shard" / "sizes.json")
    assert sorted(sizes) == [f"{name}.tar" for name in sorted(shard.names(COUNTS["counts"]))]
    assert sum(sizes.values()) == len(samples)
    shards_of, seen = defaultdict(set), set()
    for name, size in sizes.items():
        shards = ShardSet.of(data / "shard" / name)
        assert len(shards) == size and shards.keys == sorted(shards.keys)
        for i, key in enumerate(shards.keys):
            sample, description = samples[key], shards.description(i)
            seen.add(key)
            shards_of[sample["group"]].add(name)
            assert name.startswith(sample["split"])
            assert description["ranks"] == [sample[rank] for rank in taxonomy.RANKS]
            for field in ("taxon_id", "common_name", "group", "licence", "attribution"):
                assert description[field] == sample[field]
        assert shards.image(0).size == (32, 32)
    assert seen == set(samples)
    assert all(len(names) == 1 for names in shards_of.values())


def test_jobs_in_any_order_give_the_bytes_of_one_run(data: Path, tmp_path: Path) -> None:
    shard.run(COUNTS, data)
    whole = contents(data / "shard")
    shutil.rmtree(data / "shard")
    for name in ["manifests", *reversed(shard.names(COUNTS["counts"])), "sizes"]:
        shard.run(COUNTS, data, name)
    assert contents(data / "shard") == whole


def test_photographs_without_labels_have_shards_and_no_captions(tmp_path: Path) -> None:
    source = garden(tmp_path / "source", each=10)
    for number in range(4):
        (source / f"unnamed-{number}.jpg").write_bytes(encoded(picture("unnamed", number)))
    index.run(folder_params(source, unlabelled="keep", near_duplicates=0), tmp_path)
    with pytest.raises(UserError, match=r"counts.unlabelled is 0, but the index has 4 photographs in it"):
        shard.run(counts(pretrain=0), tmp_path)
    shard.run(counts(pretrain=0, unlabelled=1), tmp_path)
    stored = ShardSet(tmp_path, "unlabelled")
    assert stored.taxon_ids == [None] * 4 and stored.image(0).size == (40, 32)
    assert stored.description(0)["ranks"] == [None] * 7
    with tarfile.open(tmp_path / "shard" / "unlabelled-00000.tar") as tar:
        assert {member.size for member in tar if member.name.endswith(".txt")} == {0}
    both = ShardSet(tmp_path, "val", "unlabelled")
    assert both.keys == ShardSet(tmp_path, "val").keys + stored.keys
    caption.run({"lit_columns": ["genus"], "templates": {}, "languages": [], "captioners": [], "seed": 0}, tmp_path)
    written = {path.stem for path in (tmp_path / "caption").glob("*.parquet")}
    assert written == {path.stem for path in (tmp_path / "shard").glob("*.tar")} - {"unlabelled-00000"}


def test_every_format_is_stored_as_jpeg_that_browsers_read(tmp_path: Path) -> None:
    kinds = ("HEIF", "AVIF", "JPEG2000", "WEBP", "MPO", "PNG", "GIF")
    large = {kind: picture(kind, size=(90, 60)) for kind in kinds}
    for kind, image in large.items():
        (tmp_path / "source" / "Bellis perennis").mkdir(parents=True, exist_ok=True)
        more = {"save_all": True, "append_images": [picture("second", size=(90, 60))]} if kind == "MPO" else {}
        (tmp_path / "source" / "Bellis perennis" / f"{kind}.jpg").write_bytes(encoded(image, kind, **more))
    garden(tmp_path / "garden", each=4)
    shutil.copytree(tmp_path / "garden" / "mulberry", tmp_path / "source" / "Morus alba")
    split = {"train": 1.0}
    index.run(folder_params(tmp_path / "source", split=split, near_duplicates=0), tmp_path)
    shard.run({"counts": {"train": 1}, "max_side": 45}, tmp_path)
    stored = ShardSet(tmp_path, "train")
    found = {key.split("-")[0]: stored.jpeg(i) for i, key in enumerate(stored.keys)}
    for kind, image in large.items():
        assert inspect(found[kind.lower()], 1).clean
        small = np.asarray(image.resize((45, 30), Image.Resampling.LANCZOS), float)
        assert np.abs(np.asarray(decode(found[kind.lower()]), float) - small).mean() < 8, kind


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_changed_photograph_changes_the_manifest_of_its_shard_alone(tmp_path: Path) -> None:
    source = garden(tmp_path / "source", each=30)
    params = counts(pretrain=0, train=4)
    index.run(folder_params(source), tmp_path)
    shard.run(params, tmp_path)
    before = contents(tmp_path / "shard")
    samples = read_table(tmp_path / "index" / "samples.parquet").to_pylist()
    victim = next(sample for sample in samples if sample["split"] == "train")
    (source / victim["locator"]).write_bytes(encoded(picture("another")))
    index.run(folder_params(source), tmp_path)
    shard.run(params, tmp_path)
    after = contents(tmp_path / "shard")
    name = f"train-{shard.shard_number(victim['group'], 4):05d}"
    changed = {path for path in after if after[path] != before[path]}
    assert changed == {f"manifest/{name}.parquet", f"{name}.tar", f"{name}.safetensors"}


@given(count=st.integers(1, 200), groups=st.lists(st.text(max_size=4), max_size=50))
def test_one_shard_more_takes_samples_from_one_other(count: int, groups: list[str]) -> None:
    before = [shard.shard_number(group, count) for group in groups]
    after = [shard.shard_number(group, count + 1) for group in groups]
    moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
    assert all(0 <= old < count for old in before)
    assert len(moved) <= 1 and all(new == count for _, new in moved)


def test_powers_of_two_make_even_shards() -> None:
    sizes = Counter(shard.shard_number(str(group), 8) for group in range(8000))
    assert len(sizes) == 8 and all(850 < size < 1150 for size in sizes.values())


def test_manifests_dealt_in_blocks_are_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard.run(COUNTS, data, "manifests")
    whole = contents(data / "shard")
    monkeypatch.setattr(shard, "_BLOCK", 20)
    monkeypatch.setattr(shard, "_BATCH", 7)
    shard.run(COUNTS, data, "manifests")
    assert contents(data / "shard") == whole


def test_dealing_manifests_opens_few_files_and_writes_few_pieces(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection of 10 M photographs once went through 1.6 M row groups, one of 200 M through 12,000 open files."""
    files, pieces = set(), 0

    class Writer(pq.ParquetWriter):
        def __init__(self, where: Path, *arguments: Any) -> None:
            files.add(where)
            super().__init__(where, *arguments)

        def write_batch(self, batch: pa.RecordBatch) -> None:
            nonlocal pieces
            pieces += 1
            assert batch.num_rows
            super().write_batch(batch)

    monkeypatch.setattr(shard, "_BLOCK", 1)
    monkeypatch.setattr(shard, "_FILES", 3)
    monkeypatch.setattr(shard.pq, "ParquetWriter", Writer)
    shard.run(COUNTS, data, "manifests")
    rows = pq.read_metadata(data / "index" / "samples.parquet").num_rows
    assert len(files) == 3 and pieces <= 3 * (1 + rows // shard._BATCH)


def test_photographs_pass_untouched_and_larger_ones_are_made_smaller_on_request(tmp_path: Path) -> None:
    source = garden(tmp_path / "source", each=10)
    index.run(folder_params(source), tmp_path)
    locators = {s["key"]: s["locator"] for s in read_table(tmp_path / "index" / "samples.parquet").to_pylist()}
    for max_side, size in ((None, (40, 32)), (40, (40, 32)), (20, (20, 16))):
        shard.run({**counts(pretrain=0), "max_side": max_side}, tmp_path)
        shards = ShardSet(tmp_path, "train")
        untouched = [shards.jpeg(i) == (source / locators[key]).read_bytes() for i, key in enumerate(shards.keys)]
        assert all(untouched) if size == (40, 32) else not any(untouched)
        assert {shards.image(i).size for i in range(len(shards))} == {size}


def test_a_webdataset_reader_finds_image_caption_and_description(data: Path) -> None:
    shard.run(COUNTS, data)
    samples = list(webdataset.WebDataset(str(data / "shard" / "val-00000.tar"), shardshuffle=False))
    assert len(samples) == read_json(data / "shard" / "sizes.json")["val-00000.tar"]
    for sample in samples:
        ranks = json.loads(sample["json"])["ranks"]
        assert sample["txt"].decode().startswith(f"a photo of {' '.join(ranks)} with common name ")
        assert sample["jpg"].startswith(b"\xff\xd8")


def test_a_shard_has_no_more_keys_than_its_cache_can_list(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "HEADER_BYTES", 100)
    with pytest.raises(UserError, match=r"keys take \d+ bytes; .* allow 100; raise shard\.counts\."):
        shard.run(COUNTS, data, "manifests")


def test_fewer_shards_leave_no_stale_ones(data: Path) -> None:
    shard.run(COUNTS, data)
    shard.run(counts(train=1), data)
    assert not list((data / "shard").glob("train-00001.*"))
    assert not (data / "shard" / "manifest" / "train-00001.parquet").exists()
    assert read_json(data / "shard" / "sizes.json")["train-00000.tar"] == 27


def test_a_photograph_that_is_no_jpeg_becomes_one(tmp_path: Path) -> None:
    source = garden(tmp_path / "source", each=12)
    for i in range(12):
        (source / "daisy" / f"{i}.jpg").write_bytes(encoded(picture("png", i, mode="RGBA"), "PNG"))
    index.run(folder_params(source), tmp_path)
    shard.run(counts(pretrain=0, train=1), tmp_path)
    shards = ShardSet(tmp_path, "train")
    daisies = [i for i, key in enumerate(shards.keys) if shards.description(i)["common_name"] == "daisy"]
    assert daisies and all(shards.jpeg(i).startswith(b"\xff\xd8\xff") for i in daisies)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (counts(train=300), "would be empty; lower shard.counts.train"),
        (counts(val=0), "shard.counts.val is 0, but the index has 9 photographs"),
    ],
)
def test_numbers_that_do_not_fit(data: Path, params: sections.Shard, words: str) -> None:
    with pytest.raises(UserError, match=words):
        shard.run(params, data)


def test_a_split_without_photographs_and_a_shard_that_is_not_asked_for(tmp_path: Path) -> None:
    index.run(folder_params(garden(tmp_path / "source", each=10)), tmp_path)
    with pytest.raises(UserError, match=r"shard\.counts\.pretrain is 1, but the index has no photograph"):
        shard.run(counts(), tmp_path)
    with pytest.raises(UserError, match=r"train-00007\.parquet is missing"):
        shard.run(counts(pretrain=0), tmp_path, "train-00007")


def test_a_source_that_changed_since_is_noticed_and_earlier_shards_stay(tmp_path: Path) -> None:
    source = garden(tmp_path / "source", each=10)
    index.run(folder_params(source), tmp_path)
    params = counts(pretrain=0, train=1)
    shard.run(params, tmp_path)
    before = (tmp_path / "shard" / "train-00000.tar").read_bytes()
    train = [s for s in read_table(tmp_path / "index" / "samples.parquet").to_pylist() if s["split"] == "train"]
    victim = source / train[-1]["locator"]
    victim.write_bytes(encoded(picture("another")))
    with pytest.raises(UserError, match=r"is not the file that was indexed; .* run stage index again"):
        shard.run(params, tmp_path, "train-00000")
    victim.unlink()
    with pytest.raises(UserError, match=r"cannot be read .* run stage index again"):
        shard.run(params, tmp_path, "train-00000")
    assert (tmp_path / "shard" / "train-00000.tar").read_bytes() == before
    assert len(open_shard(tmp_path / "shard" / "train-00000.tar")) == len(train)


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"samples\.parquet is missing"):
        shard.run(COUNTS, tmp_path / "data")
