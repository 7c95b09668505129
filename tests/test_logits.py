from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES

import lessons
from bioclip_lite import cache, captions, models, taxonomy, views
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_table, write_table
from bioclip_lite.preprocess import preprocess
from bioclip_lite.shards import ShardSet
from bioclip_lite.stages import logits
from bioclip_lite.stages.teacher import _config

PARAMS = lessons.VIEWS


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
    logits.run(PARAMS, data, "train-00000")
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
    logits.run(PARAMS, data)
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
            logits.run(PARAMS, data, name.removesuffix(".safetensors"))
    finally:
        (data / "shard" / "sizes.json").write_bytes(sizes)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_the_taxon_matrix_has_a_row_per_leaf(data: Path) -> None:
    logits.run(PARAMS, data, "taxa")
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
        logits.run(PARAMS, data, "train-00009")


def test_80_templates_are_averaged_as_by_hand(data: Path) -> None:
    logits.run({**PARAMS, "templates": "openai"}, data, "taxa")
    taxa = cache.read_taxa(data / "logits" / "taxa.safetensors")
    logits.run(PARAMS, data, "taxa")
    plain = cache.read_taxa(data / "logits" / "taxa.safetensors")
    assert (plain.prompt, taxa.prompt) == ("taxon_com", "taxon_com in 80 templates")
    assert np.abs(plain.text - taxa.text).max() > 0.01

    teacher = models.load_teacher(data / "teacher" / "model")
    path = " ".join(name for name in lessons.PATHS[3] if name)
    texts = [template(f"{path} with common name Morus alba") for template in OPENAI_IMAGENET_TEMPLATES]
    assert len(texts) == 80 and texts[0] == f"a bad photo of a {path} with common name Morus alba."
    with torch.inference_mode():
        each = teacher.model.encode_text(teacher.tokenizer(texts)).double().numpy()
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    mean = each.mean(0)
    np.testing.assert_allclose(taxa.text[3], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.fixture
def knowing(data: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A teacher to whom a caption is the taxa that it names; returns the names of the leaves."""
    names = [taxonomy.scientific_name(path) for path in lessons.PATHS[:5]]

    def embed(_: models.Teacher, texts: list[str]) -> np.ndarray:
        rows = np.array([[0.1 + (name in text) for name in names] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    monkeypatch.setattr(models, "embed_texts", embed)
    logits.run({**PARAMS, "prompt": "sci"}, data, "taxa")
    return names


def test_captions_that_contradict_the_label_are_flagged(data: Path, knowing: list[str]) -> None:
    shard = ShardSet.of(data / "shard" / "val-00000.tar")
    right = {taxon: captions.caption(path, None, "sci") for taxon, path in zip(lessons.IDS, lessons.PATHS, strict=True)}
    said = [right[taxon] for taxon in shard.taxon_ids]
    wrong = ["a photo of Bellis perennis." if "Bellis" not in text else "a photo of Morus alba." for text in said]
    vague = ["a green thing." if i else "" for i in range(len(said))]
    table = pa.table({"key": shard.keys, "coca_0": said, "coca_1": wrong, "coca_2": vague})
    write_table(data / "caption" / "coca" / "val-00000.parquet", table)
    logits.run(PARAMS, data, "captions/coca/val-00000")
    scores = read_table(data / "logits" / "captions" / "coca" / "val-00000.parquet")
    assert scores.schema == logits.SCORES
    rows = scores.to_pylist()
    assert len(rows) == 3 * len(said) - 1  # one says nothing
    assert {row["captioner"] for row in rows} == {"coca"}
    species = [key for key, taxon in zip(shard.keys, shard.taxon_ids, strict=True) if taxon in lessons.IDS[:5]]
    for row in rows:
        taxon = shard.taxon_ids[shard.keys.index(row["key"])]
        assert row["other_taxon_id"] != taxon
        if row["n"] == 0 and row["key"] in species:
            assert (row["rank"], row["flag"]) == (1, False) and row["similarity"] > 0.9
        if row["n"] == 1:
            named = "Morus alba" if taxon == lessons.IDS[2] else "Bellis perennis"
            expected = lessons.IDS[knowing.index(named)]
            assert row["flag"] == (taxon != expected)
            if row["flag"]:
                assert row["other_taxon_id"] == expected and row["other_similarity"] > row["similarity"] + 0.1
                assert row["rank"] > 1
        if row["n"] == 2:
            assert not row["flag"]
    # A photograph known to a genus: each of the species under it is its own.
    genus = [row for row in rows if row["key"].startswith("val-5") and row["n"] == 1]
    assert genus and all(row["flag"] and row["other_taxon_id"] == lessons.IDS[2] for row in genus)
    (data / "caption" / "coca" / "val-00000.parquet").unlink()


def test_scores_need_the_taxa_and_captions_of_the_same_making(data: Path) -> None:
    logits.run(PARAMS, data, "taxa")
    with pytest.raises(UserError, match=r"caption/coca/test-00000\.parquet is missing"):
        logits.run(PARAMS, data, "captions/coca/test-00000")
    write_table(data / "caption" / "coca" / "test-00000.parquet", pa.table({"key": ["x"], "coca_0": ["a bee."]}))
    with pytest.raises(UserError, match="other photographs"):
        logits.run(PARAMS, data, "captions/coca/test-00000")
    (data / "caption" / "coca" / "test-00000.parquet").unlink()


def test_the_lit_prompt_lists_what_the_captions_list(data: Path, knowing: list[str]) -> None:
    path = data / "caption" / "val-00000.parquet"
    table = read_table(path)
    with pytest.raises(UserError, match="does not say what its LiT sentence lists"):
        logits.run({**PARAMS, "prompt": "lit"}, data, "taxa")
    try:
        # The teacher of this test knows a taxon by "Genus epithet", which this sentence does not hold.
        for columns, known in (('["family", "species"]', False), ('["genus", "species"]', True)):
            write_table(path, table.replace_schema_metadata({"lit_columns": columns}))
            logits.run({**PARAMS, "prompt": "lit"}, data, "taxa")
            text = cache.read_taxa(data / "logits" / "taxa.safetensors").text
            assert (text[0].max() > 0.9) == known
    finally:
        write_table(path, table)
