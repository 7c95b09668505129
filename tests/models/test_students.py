"""Students by name: every family learns, is re-parameterised to the same function, and comes back from its folder."""

import copy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bioclip_lite.models import students
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.utils.errors import UserError

SIZE, OUTPUTS = 64, 8
FASTVIT = {"embed_dims": [8, 16, 32, 64], "layers": [1, 1, 1, 1]}
# Narrow where timm has arguments for it; and whether there are branches to merge.
FAMILIES: list[tuple[str, dict[str, Any], bool]] = [
    ("fastvit_t8", FASTVIT, True),
    ("fastvit_sa12.apple_in1k", FASTVIT, True),
    ("fastvit_mci0", FASTVIT, True),
    ("fastvit_mci2", FASTVIT, True),
    ("fastvit_mci3", {"embed_dims": [8, 16, 32, 64, 64], "layers": [1, 1, 1, 1, 1]}, True),
    ("MobileCLIP-S1", FASTVIT, True),
    ("MobileCLIP-S0", FASTVIT, True),
    ("MobileCLIP2-S0", FASTVIT, True),
    ("MobileCLIP2-B", {"embed_dim": 768, "depth": 1}, False),
    ("mobilenetv4_conv_small_035", {}, False),
    ("mobilenetv4_hybrid_medium_075", {}, False),
    ("mobileone_s0", {}, True),
    ("repvit_m0_9", {"embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1]}, True),
    ("tiny_vit_5m_224", {"embed_dims": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]}, True),
    ("vit_tiny_patch16_224", {"embed_dim": 48, "depth": 2}, False),
]
NAMES = [name for name, _, _ in FAMILIES]


def spec(name: str, options: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**students.student_spec(name, options, OUTPUTS, SIZE, "teacher"), **changes}


def pixels(count: int = 4, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "options", "branches"), FAMILIES, ids=NAMES)
def test_every_family_learns_merges_and_comes_back(
    tmp_path: Path, name: str, options: dict[str, Any], branches: bool
) -> None:
    torch.manual_seed(0)
    model = students.build_student(spec(name, options))
    for module in model.modules():  # away from the values at which a branch that is forgotten would not show
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    x, target = pixels(), torch.eye(4, OUTPUTS)
    before = nn.functional.mse_loss(model.train()(x), target)
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        gradients = [(p, p.grad) for p in model.parameters() if p.grad is not None]
        slope = torch.stack([gradient.square().sum() for _, gradient in gradients]).sum()
        for p, gradient in gradients:
            p.sub_(0.01 * before / slope * gradient)  # a step that lowers the loss by about a hundredth
        assert nn.functional.mse_loss(model(x), target) < before

    merged = students.reparameterize(model)
    assert (len(merged.state_dict()) < len(model.state_dict())) == branches
    with torch.inference_mode():  # in double precision, in which rounding cannot hide a branch of little weight
        exact = copy.deepcopy(model.eval()).double()(x.double())
        again = copy.deepcopy(merged).double()(x.double())
    torch.testing.assert_close(again, exact, rtol=0, atol=1e-5 * exact.std().item())
    for kind, saved, flag in (("plain", model, False), ("merged", merged, True)):
        written = students.save_student(
            tmp_path / kind, saved, spec(name, options, reparameterized=flag), preprocessing(SIZE)
        )
        assert written["shapes"] == {}
        loaded, _, _ = students.load_student(tmp_path / kind)
        with torch.inference_mode():
            assert torch.equal(loaded(x), saved(x))


def test_models_for_one_size_of_images_are_made_for_ours() -> None:
    options = {"embed_dim": 48, "depth": 1}
    vit: Any = students.build_student(spec("vit_tiny_patch16_224", options))
    assert vit.patch_embed.grid_size == (4, 4) and vit(pixels(1)).shape == (1, OUTPUTS)
    larger = students.build_student(spec("vit_tiny_patch16_224", options, image_size=96))
    assert larger(pixels(1, 96)).shape == (1, OUTPUTS)
    own: Any = students.build_student(
        spec("vit_tiny_patch16_224", {**options, "img_size": 32, "dynamic_img_size": True})
    )
    assert own.patch_embed.grid_size == (2, 2)


def test_the_name_of_a_clip_stands_for_its_image_tower() -> None:
    tower, arguments = students.timm_model("MobileCLIP2-S0")
    assert (tower, arguments) == ("fastvit_mci0", {"global_pool": "avg", "drop_path_rate": 0.0})
    assert students.timm_model("MobileCLIP-S0") == (
        tower,
        arguments,
    )  # open_clip has its image tower only as this one's
    assert students.timm_model("MobileCLIP-B")[1]["global_pool"] == "token"
    torch.manual_seed(0)
    student = students.build_student(spec("MobileCLIP2-S0", FASTVIT))
    torch.manual_seed(0)
    timms = students.build_student(spec("fastvit_mci0", FASTVIT))
    assert torch.equal(student.eval()(pixels()), timms.eval()(pixels()))
    assert students.timm_model("convnext_tiny") == ("convnext_tiny", {})  # both libraries have it


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fastvit_t9", "did you mean: fastvit_t8"),
        ("mobileclip-s0", "did you mean: MobileCLIP-S0"),
        ("mobileclip2-s0", "did you mean: MobileCLIP2-S0"),
        ("fastvit_t8.apple_in2k", "did you mean: fastvit_t8.apple_dist_in1k, fastvit_t8.apple_in1k$"),
        ("hf-hub:timm/fastvit_t8", "neither timm .* nor open_clip .* has a model"),
        ("RN50", "RN50 is no timm model"),
        ("convnext_large_d", "ends in one linear layer"),
    ],
)
def test_names_of_nothing_are_refused_with_the_nearest(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        students.build_student(spec(name, {}))


def test_options_that_do_not_fit_are_no_traceback() -> None:
    unfit: list[dict[str, Any]] = [{"embed_dims": [8]}, {"embed_dims": [8, 16]}, {"colour": 1}, {"act_layer": "blue"}]
    for options in unfit:
        with pytest.raises(UserError, match=r"distill\.student_options: timm cannot make fastvit_t8"):
            students.build_student(spec("fastvit_t8", options))
    for name, options in (("fastvit_t8", {**FASTVIT, "mlp_kernel": 4}), ("mobilenetv4_conv_small", {"mlp_kernel": 3})):
        with pytest.raises(UserError, match=f"odd number of pixels, and a FastViT .distill.student is {name}"):
            students.build_student(spec(name, options))


def test_a_fastvit_with_smaller_kernels_and_another_activation(tmp_path: Path) -> None:
    quick_options = {**FASTVIT, "act_layer": "silu", "mlp_kernel": 3}
    quick = students.build_student(spec("fastvit_t8", quick_options)).eval()
    kinds = {type(module) for module in quick.modules()}
    assert nn.SiLU in kinds and nn.GELU not in kinds
    depthwise = [m for m in quick.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels == m.out_channels]
    assert {m.kernel_size for m in depthwise} <= {(1, 1), (3, 3)}
    students.save_student(tmp_path / "m", quick, spec("fastvit_t8", quick_options), preprocessing(64))
    loaded, _, _ = students.load_student(tmp_path / "m")
    with torch.inference_mode():
        assert torch.equal(loaded(pixels()), quick(pixels()))


def test_a_student_starts_from_the_image_tower_of_a_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = {"context_length": 16, "width": 8, "heads": 1, "layers": 1}
    vision = {"timm_model_name": "mobilenetv4_conv_small_035", "timm_pool": "avg", "timm_proj": None, "image_size": 32}
    config = {"embed_dim": OUTPUTS, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", config)
    clip = open_clip.create_model("tiny-clip").eval()
    save_file(clip.state_dict(), tmp_path / "w.safetensors")
    student = students.build_student(spec("tiny-clip", {}, image_size=32)).eval()
    assert students.load_initial_weights(student, tmp_path / "w.safetensors") == []
    with torch.inference_mode():
        assert torch.equal(student(pixels(2, 32)), clip.encode_image(pixels(2, 32)))


def test_position_embeddings_of_another_size_are_resampled(tmp_path: Path) -> None:
    options = {"embed_dim": 48, "depth": 1}
    small, large = (
        students.build_student(spec("vit_tiny_patch16_224", options, image_size=size)) for size in (64, 128)
    )
    state = small.state_dict()
    rows = torch.arange(4.0).repeat_interleave(4)  # of a patch in a grid of 4 x 4
    state["pos_embed"] = torch.cat([torch.tensor([9.0]), rows])[None, :, None].repeat(1, 1, 48)
    save_file(state, tmp_path / "w.safetensors")
    assert students.load_initial_weights(large, tmp_path / "w.safetensors") == []
    made = large.state_dict()["pos_embed"][0, :, 0]
    assert made[0] == 9 and made.shape == (65,)
    by_row = made[1:].reshape(8, 8)
    torch.testing.assert_close(by_row, by_row[:, :1].expand(8, 8))
    assert (by_row[1:, 0] > by_row[:-1, 0]).all()


def test_a_file_that_is_no_safetensors_is_no_traceback(tmp_path: Path) -> None:
    model = students.build_student(spec("mobilenetv4_conv_small_035", {}))
    torch.save(model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"w\.safetensors is no safetensors file"):
        students.load_initial_weights(model, tmp_path / "w.safetensors")


def test_a_student_says_where_its_weights_come_from(tmp_path: Path) -> None:
    origin = {"origin": "hf-hub:timm/x", "licence": "mit", "revision": "abc", "sha256": "0"}
    told = students.student_spec("mobilenetv4_conv_small_035", {}, OUTPUTS, 32, "teacher", origin)
    students.save_student(tmp_path / "m", students.build_student(told), told, preprocessing(32))
    assert students.load_student(tmp_path / "m")[1]["initial_weights"] == origin
    assert students.student_spec("x", {}, 1, 32)["initial_weights"] is None
