import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import lessons
from bioclip_lite import models, training
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, read_table
from bioclip_lite.shards import ShardSet
from bioclip_lite.stages import teacher


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lessons.make_data(tmp_path_factory.mktemp("data"))


def params(kind: str, **changes: Any) -> dict[str, Any]:
    chosen = copy.deepcopy(lessons.TEACHER)
    chosen["kind"] = kind
    chosen[kind].update(changes)
    return chosen


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_trained_teacher_is_complete_and_two_runs_are_one(data: Path) -> None:
    teacher.run(params("train"), data)
    first = contents(data / "teacher")
    assert set(first) == {
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "preprocess.json",
        "teacher.json",
        "history.parquet",
    }
    teacher.run(params("train"), data)
    assert contents(data / "teacher") == first
    history = read_table(data / "teacher" / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[1]["loss"] < history[0]["loss"]
    loaded = models.load_teacher(data / "teacher" / "model")
    assert (loaded.about["kind"], loaded.preprocess["size"]) == ("train", 32)
    assert loaded.logit_scale <= 100.0001


def test_lit_tunes_the_text_and_leaves_the_image_tower_alone(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    options = lessons.TEACHER["lit"]["image_tower_options"]
    tower = models.build_student(models.student_spec("mobilenetv2_050", options, 7, 32))
    with torch.no_grad():
        tower.train()(torch.randn(16, 3, 32, 32))  # batch statistics of its own
    (data / "weights").mkdir(exist_ok=True)
    save_file(tower.state_dict(), data / "weights" / "tower.safetensors")
    teacher.run(params("lit"), data)

    before = load_file(data / "weights" / "tower.safetensors")
    after = load_file(data / "teacher" / "model" / "open_clip_model.safetensors")
    trunk = {name.removeprefix("visual.trunk."): x for name, x in after.items() if name.startswith("visual.")}
    assert set(before) - set(trunk) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.items())
    history = read_table(data / "teacher" / "history.parquet").to_pylist()
    assert history[-1]["loss"] < history[0]["loss"]

    loaded = models.load_teacher(data / "teacher" / "model")
    pixels = next(training.plain_pixels(ShardSet(data, "val"), loaded.preprocess))
    tower.eval().reset_classifier(0)
    with torch.inference_mode():
        expected = F.normalize(tower(pixels), dim=-1)
    torch.testing.assert_close(models.embed_images(loaded.model, pixels), expected)
    assert models.embed_texts(loaded, ["a photo of Morus alba."]).shape == (1, 1280)
    assert read_json(data / "teacher" / "model" / "teacher.json")["kind"] == "lit"


def test_weights_that_are_missing_or_of_another_tower_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.safetensors does not exist"):
        teacher.run(params("lit", weights="absent.safetensors"), data)
    (data / "weights").mkdir(exist_ok=True)
    other = models.image_tower("mobilenetv2_050", {}).state_dict()
    other.pop("conv_head.weight")
    save_file(other, data / "weights" / "other.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 tensors of the tower, e\.g\. conv_head"):
        teacher.run(params("lit", weights="other.safetensors"), data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_tower": "resnet11"}, "no image tower 'resnet11'"),
        ({"text_width": 100}, "multiple of 64"),
        ({"splits": ["absent"]}, "absent have no shard"),
    ],
)
def test_bad_parameters_are_named(data: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        teacher.run(params("train", **change), data)


def test_captions_of_one_species_are_all_right_answers() -> None:
    texts, same = teacher._matches(["a", "b", "c", "a"], ["x", "x", "y", "x"])
    assert texts == ["a", "b", "c"]
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True], [True, True, False]]
    # One common name for two species: the caption is right for both.
    texts, same = teacher._matches(["daisy", "daisy"], ["x", "y"])
    assert same.tolist() == [[True], [True]]


def test_a_caption_is_drawn_by_key_and_epoch(data: Path) -> None:
    pairs = teacher._Pairs(data, ["train"], ["sci", "taxon", "com"])
    rows = range(len(pairs.keys))
    alone = [pairs.draw(0, 3, [i])[0][0] for i in rows]
    together, same = pairs.draw(0, 3, list(rows))
    assert set(alone) == set(together)
    assert same.any(0).all()
    assert same.any(1).all()
    assert alone != [pairs.draw(0, 4, [i])[0][0] for i in rows]


def test_cut_captions_are_embedded_as_whole_ones(data: Path) -> None:
    torch.manual_seed(0)
    chosen = lessons.TEACHER["train"]
    spec = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize": "shortest"}
    model = models.build_clip(teacher._config(chosen, 8, "", {}, spec)).eval()
    texts = ["a photo of Morus alba.", "a photo of Plantae Tracheophyta Magnoliopsida Rosales Moraceae Morus nigra."]
    with torch.inference_mode():
        whole = model.encode_text(teacher._tokenizer()(texts))
        np.testing.assert_allclose(teacher._encode_text(model, texts).numpy(), whole.numpy(), atol=1e-5)
        assert model.text.attn_mask.shape == (64, 64)


def test_a_teacher_has_no_jobs(data: Path) -> None:
    with pytest.raises(UserError, match="one job"):
        teacher.run(params("train"), data, "train-00000")
