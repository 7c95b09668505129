from pathlib import Path

import numpy as np
import pytest
import torch

import lessons
from bioclip_lite import cache, models, views
from bioclip_lite.errors import UserError
from bioclip_lite.preprocess import preprocess
from bioclip_lite.shards import ShardSet
from bioclip_lite.stages import logits
from bioclip_lite.stages.teacher import _config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = lessons.make_data(tmp_path_factory.mktemp("data"))
    torch.manual_seed(0)
    spec = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize": "shortest"}
    config = _config(lessons.TEACHER["train"], lessons.D, "", {}, spec)
    model = models.build_clip(config)
    prepared = models.open_clip_preprocess(config, "test")
    models.save_teacher(folder / "teacher" / "model", model, config, prepared, "train", "small", None)
    return folder


def test_every_view_is_what_the_teacher_says_of_its_replay(data: Path) -> None:
    logits.run(lessons.VIEWS, data, "train-00000")
    shard = cache.read_shard(data / "logits" / "train-00000.safetensors")
    images = ShardSet.of(data / "shard" / "train-00000.tar")
    teacher = models.load_teacher(data / "teacher" / "model")
    assert shard.keys == images.keys
    assert shard.embeddings.shape == (len(images), 3, lessons.D)
    assert shard.embeddings.dtype == np.float16
    assert shard.views.shape == (len(images), 3, views.columns(2))
    assert shard.identity["teacher"] == teacher.identity
    assert shard.identity["views"] == views.VERSION
    assert not shard.views[:, 0].any()
    for i in (0, len(images) - 1):
        pixels = [views.apply(images.image(i), row, teacher.preprocess) for row in shard.views[i]]
        expected = models.embed_images(teacher.model, torch.from_numpy(np.stack(pixels))).numpy()
        cosine = (expected * shard.embeddings[i].astype(np.float32)).sum(-1)
        assert cosine.min() > 0.9999
    np.testing.assert_array_equal(pixels[0], preprocess(images.image(i), teacher.preprocess))


def test_all_jobs_together_are_the_jobs_alone(data: Path) -> None:
    logits.run(lessons.VIEWS, data)
    folder = data / "logits"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {
        f"{name}.safetensors"
        for name in ("taxa", "train-00000", "train-00001", "val-00000", "calibration-00000", "test-00000")
    }
    assert cache.read_shard(folder / "test-00000.safetensors").views.shape[1] == 1
    sizes = (data / "shard" / "sizes.json").read_bytes()
    (data / "shard" / "sizes.json").unlink()  # a cluster job has one shard, not the list
    try:
        for name in first:
            logits.run(lessons.VIEWS, data, name.removesuffix(".safetensors"))
    finally:
        (data / "shard" / "sizes.json").write_bytes(sizes)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_the_taxon_matrix_has_a_row_per_leaf(data: Path) -> None:
    logits.run(lessons.VIEWS, data, "taxa")
    taxa = cache.read_taxa(data / "logits" / "taxa.safetensors")
    assert taxa.taxon_ids == lessons.IDS[:5]
    teacher = models.load_teacher(data / "teacher" / "model")
    assert taxa.logit_scale == teacher.logit_scale
    path = " ".join(name for name in lessons.PATHS[3] if name)
    expected = models.embed_texts(teacher, [f"a photo of {path} with common name Morus alba."])
    np.testing.assert_allclose(taxa.text[3:4], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(taxa.text, axis=1), 1, atol=1e-5)


def test_a_job_without_a_shard_is_named(data: Path) -> None:
    with pytest.raises(UserError, match="train-00009"):
        logits.run(lessons.VIEWS, data, "train-00009")
