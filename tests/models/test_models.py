from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bioclip_lite.models import prunable, students, teachers
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, write_json

HYBRID = {"embed_dims": (16, 32, 64, 64), "layers": (1, 1, 1, 1)}  # fastvit_sa12: attention in its last stage
STUDENTS: list[tuple[str, dict[str, Any]]] = [
    ("fastvit_sa12", HYBRID),
    ("mobilenetv4_conv_small_035", {}),
    ("mobilenetv2_050", {"pad_type": "same"}),
]
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def spec(architecture: str, options: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**students.student_spec(architecture, options, 8, 32, "teacher"), **changes}


def student(architecture: str, options: dict[str, Any]) -> nn.Module:
    """A student whose batch norms and layer scales are not at their trivial starting values."""
    torch.manual_seed(0)
    model = students.build_student(spec(architecture, options))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    return model.eval()


@pytest.mark.parametrize(("architecture", "options"), STUDENTS)
def test_reparameterised_students_answer_the_same_and_come_back_bit_for_bit(
    tmp_path: Path, architecture: str, options: dict[str, Any]
) -> None:
    model = student(architecture, options)
    merged = students.reparameterize(model)
    with torch.inference_mode():
        torch.testing.assert_close(merged(PIXELS), model(PIXELS), rtol=1e-4, atol=1e-4)
    for kind, saved, flag in (("plain", model, False), ("merged", merged, True)):
        written = students.save_student(
            tmp_path / kind, saved, spec(architecture, options, reparameterized=flag), preprocessing(32)
        )
        loaded, read, preprocess = students.load_student(tmp_path / kind)
        assert preprocess == preprocessing(32)
        assert read == read_json(tmp_path / kind / "student.json")
        assert read["shapes"] == written["shapes"] == {}
        with torch.inference_mode():
            assert torch.equal(loaded(PIXELS), saved(PIXELS))
    assert not any(path.suffix in (".pt", ".pth", ".pkl", ".bin") for path in tmp_path.rglob("*"))


def narrowed() -> nn.Module:
    """The hybrid with one of two heads and a quarter of a hidden layer cut out, as pruning does it."""
    model = students.reparameterize(student("fastvit_sa12", HYBRID))
    block = model.get_submodule("stages.3.blocks.0")
    attention: nn.Module = block.get_submodule("token_mixer")
    mlp: Any = block.mlp
    assert isinstance(attention, prunable.PrunableAttention)
    heads, width = attention.num_heads, attention.head_dim
    kept = torch.arange(3 * heads * width).reshape(3, heads, width)[:, 1:].flatten()
    attention.qkv.weight = nn.Parameter(attention.qkv.weight[kept])
    attention.qkv.out_features = len(kept)
    attention.proj.weight = nn.Parameter(attention.proj.weight[:, width:])
    attention.proj.in_features = (heads - 1) * width
    attention.num_heads = heads - 1
    hidden = mlp.fc1.out_channels * 3 // 4
    mlp.fc1.weight, mlp.fc1.bias = nn.Parameter(mlp.fc1.weight[:hidden]), nn.Parameter(mlp.fc1.bias[:hidden])
    mlp.fc2.weight = nn.Parameter(mlp.fc2.weight[:, :hidden])
    mlp.fc1.out_channels = mlp.fc2.in_channels = hidden
    return model


def test_a_pruned_student_comes_back_bit_for_bit_as_an_ordinary_model(tmp_path: Path) -> None:
    model = narrowed()
    written = students.save_student(
        tmp_path / "model", model, spec("fastvit_sa12", HYBRID, reparameterized=True), preprocessing(32)
    )
    assert set(written["shapes"]) == {
        "stages.3.blocks.0.token_mixer",
        "stages.3.blocks.0.token_mixer.qkv",
        "stages.3.blocks.0.token_mixer.proj",
        "stages.3.blocks.0.mlp.fc1",
        "stages.3.blocks.0.mlp.fc2",
    }
    loaded, read, _ = students.load_student(tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(loaded(PIXELS), model(PIXELS))
    again = students.save_student(tmp_path / "again", loaded, read, preprocessing(32))
    assert again == read
    for file in ("student.json", "model.safetensors", "preprocess.json"):
        assert (tmp_path / "model" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    loaded.train()
    loaded(PIXELS).sum().backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in loaded.parameters())


def test_weights_of_another_spec_are_refused(tmp_path: Path) -> None:
    students.save_student(
        tmp_path / "m", narrowed(), spec("fastvit_sa12", HYBRID, reparameterized=True), preprocessing(32)
    )
    for change in ({"reparameterized": False}, {"shapes": {}, "outputs": 9}):
        wrong = {**read_json(tmp_path / "m" / "student.json"), **change}
        write_json(tmp_path / "m" / "student.json", wrong)
        with pytest.raises(UserError, match="does not fit"):
            students.load_student(tmp_path / "m")
    with pytest.raises(ValueError, match="not a fastvit_sa12"):
        students.save_student(tmp_path / "n", narrowed(), spec("fastvit_sa12", HYBRID), preprocessing(32))


def test_unknown_architectures_and_options_are_named() -> None:
    with pytest.raises(UserError, match="fastvit_t8"):
        students.build_student(spec("fastvit_t9", {}))
    with pytest.raises(UserError, match="colour"):
        students.build_student(spec("mobilenetv2_050", {"colour": 1}))


def test_initial_weights_keep_what_fits_and_name_the_rest(tmp_path: Path) -> None:
    source = student("mobilenetv2_050", {"pad_type": "same"})
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    other = students.build_student({**spec("mobilenetv2_050", {"pad_type": "same"}), "outputs": 5})
    head = other.state_dict()["classifier.weight"].clone()
    assert students.load_initial_weights(other, tmp_path / "w.safetensors") == ["classifier.bias", "classifier.weight"]
    assert torch.equal(other.state_dict()["conv_stem.weight"], source.state_dict()["conv_stem.weight"])
    assert torch.equal(other.state_dict()["classifier.weight"], head)
    with pytest.raises(UserError, match="another architecture"):
        students.load_initial_weights(students.build_student(spec(*STUDENTS[1])), tmp_path / "w.safetensors")


def clip_config() -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": 8,
            "vision_cfg": {
                "timm_model_name": "mobilenetv2_050",
                "timm_pool": "avg",
                "timm_proj": "",
                "image_size": 32,
            },
            "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
            "custom_text": True,
        },
        "preprocess_cfg": {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3},
        "bioclip_lite": {"image_tower_options": {"pad_type": "same"}},
    }


def test_a_teacher_comes_back_and_its_identity_is_its_content(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = clip_config()
    preprocess = teachers.open_clip_preprocess(config, "here")
    assert (preprocess["size"], preprocess["std"], preprocess["resize"]) == (32, [0.25] * 3, "shortest")
    model = teachers.build_clip(config).eval()
    first = teachers.save_teacher(tmp_path / "a", model, config, preprocess, "train", "small", None)
    again = teachers.save_teacher(tmp_path / "b", model, config, preprocess, "train", "renamed", "CC0-1.0")
    assert first["identity"] == again["identity"]
    teacher = teachers.load_teacher(tmp_path / "a")
    images = teachers.embed_images(teacher.model, PIXELS)
    texts = teachers.embed_texts(teacher, ["a photo of Bellis perennis.", "a photo of Morus alba."], batch_size=1)
    with torch.inference_mode():
        assert torch.equal(images, model.encode_image(PIXELS, normalize=True))
        tokens = teacher.tokenizer(["a photo of Bellis perennis.", "a photo of Morus alba."])
        np.testing.assert_allclose(texts, model.encode_text(tokens, normalize=True).numpy(), atol=1e-6)
    assert teacher.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert teacher.identity == first["identity"]

    other = teachers.save_teacher(tmp_path / "c", model, config, preprocessing(48), "train", "small", None)
    assert other["identity"] != first["identity"]
    model.logit_scale.data += 1
    assert (
        teachers.save_teacher(tmp_path / "d", model, config, preprocess, "t", "s", None)["identity"]
        != first["identity"]
    )


def test_preprocessing_that_cannot_be_expressed_is_refused() -> None:
    config = clip_config()
    config["preprocess_cfg"]["resize_mode"] = "longest"
    with pytest.raises(UserError, match="longest"):
        teachers.open_clip_preprocess(config, "here")
    config["model_cfg"]["vision_cfg"]["image_size"] = (32, 48)
    with pytest.raises(UserError, match="48 x 32"):
        teachers.open_clip_preprocess(config, "here")
