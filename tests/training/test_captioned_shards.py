"""open_clip_train gets our shards with captions that are drawn anew in each pass."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from webdataset.shardlists import expand_urls

from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.texts.captions import Captions
from bioclip_lite.training import captioned_shards
from bioclip_lite.training.captioned_shards import Settings
from bioclip_lite.utils.files import read_json
from support import checkout, lessons

TYPES = ["sci", "com", "taxon", "sci_com", "taxon_com"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lessons.make_data(tmp_path_factory.mktemp("data"))


def settings(data: Path, folder: Path, draws: int = 1) -> Settings:
    return Settings(str(data), TYPES, 3, draws, str(folder / "checkpoints"), str(folder / "failed.json"))


def streamed(given: Settings, draw: int = 0) -> dict[str, bytes]:
    out = io.BytesIO()
    captioned_shards.stream(given, "train-00001", draw, out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def captions(files: dict[str, bytes]) -> dict[str, str]:
    return {name: text.decode() for name, text in files.items() if name.endswith(".txt")}


def finish(given: Settings, epoch: int) -> None:
    folder = Path(given.checkpoints)
    folder.mkdir(exist_ok=True)
    (folder / f"epoch_{epoch}.pt").touch()


def test_each_photograph_comes_with_the_caption_of_its_pass(data: Path, tmp_path: Path) -> None:
    given, images = settings(data, tmp_path), ShardSet.of(data / "shard" / "train-00001.tar")
    texts = Captions(data, ["train-00001"], TYPES)
    passes = []
    for epoch in (0, 1, 2, 10):
        finish(given, epoch)
        files = streamed(given)
        assert list(files) == [f"{key}.{ending}" for key in images.keys for ending in ("jpg", "txt")]
        assert [files[f"{key}.jpg"] for key in images.keys] == [images.jpeg(i) for i in range(len(images))]
        # Those that kind train shows in the same epoch.
        drawn = [texts.draw(3, epoch, i) for i in range(len(images))]
        assert captions(files) == dict(zip((f"{key}.txt" for key in images.keys), drawn, strict=True))
        assert streamed(given) == files
        passes.append(drawn)
    # Five types: four in five photographs change, but for types that say the same of a taxon without a common name.
    changed = [sum(a != b for a, b in zip(passes[0], other, strict=True)) for other in passes[1:]]
    assert min(changed) > len(images) / 3


def test_a_shard_that_comes_several_times_in_an_epoch_is_drawn_anew(data: Path, tmp_path: Path) -> None:
    given = settings(data, tmp_path, captioned_shards.RESAMPLED_DRAWS)
    first = [captions(streamed(given, draw)) for draw in (0, 1)]
    finish(given, 1)
    second = [captions(streamed(given, draw)) for draw in (0, 1)]
    drawn = [str(sorted(found.items())) for found in (*first, *second)]
    assert len(set(drawn)) == 4


def test_addresses_are_one_for_each_shard_and_draw(data: Path, tmp_path: Path) -> None:
    names = [f"train-{number:05d}" for number in range(1200)]
    for draws in (1, 16):
        address = captioned_shards.addresses(["pretrain-00000", *names], draws)
        assert len(address) < 300
        words = [url.split()[-2:] for url in expand_urls(address)]
        assert words == [[name, str(draw)] for name in ["pretrain-00000", *names] for draw in range(draws)]


def run(given: Settings, folder: Path, word: str) -> subprocess.CompletedProcess[bytes]:
    """As webdataset runs the command of an address."""
    captioned_shards.save(given, folder / "captioned.json")
    (url,) = expand_urls(captioned_shards.addresses([word], 1))
    environment = checkout.ENVIRONMENT | {
        "PYTHONPATH": str(checkout.ROOT / "workflow"),
        captioned_shards.PYTHON: sys.executable,
        captioned_shards.SETTINGS: str(folder / "captioned.json"),
    }
    return subprocess.run(url.removeprefix("pipe:"), shell=True, capture_output=True, env=environment)


def test_the_command_streams_from_any_folder_and_leaves_a_message_where_it_fails(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "a {b,c}::d $e"
    shutil.copytree(data, place / "data")
    given = settings(place / "data", place)
    with tarfile.open(fileobj=io.BytesIO(run(given, place, "train-00000").stdout)) as tar:
        assert len(tar.getnames()) == 2 * len(ShardSet.of(data / "shard" / "train-00000.tar"))
    assert not (place / "failed.json").exists()
    os.truncate(place / "data/shard/train-00000.tar", 700)
    assert run(given, place, "train-00000").returncode == 1
    assert "train-00000.tar is not a complete shard" in read_json(place / "failed.json")
    shutil.copy(data / "shard/val-00000.tar", place / "data/shard/train-00000.tar")
    run(given, place, "train-00000")
    assert "list different photographs of train-00000" in read_json(place / "failed.json")
