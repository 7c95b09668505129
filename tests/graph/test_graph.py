import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models.tiny_vit import Attention as TinyViTAttention
from timm.models.tiny_vit import TinyVitBlock
from torch import nn

from bioclip_lite.graph import execution, folding
from bioclip_lite.graph.nodes import Graph
from bioclip_lite.graph.translation.translate import FAMILIES as FAMILIES_OF_TIMM
from bioclip_lite.models import costs
from bioclip_lite.utils.errors import UserError
from support.checkout import ROOT
from support.fake_data import STUDENTS, images, largest_relative_difference, lively, student


def exact(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.double()(pixels.double()).float()


FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    **STUDENTS,
    "fastvit_mci0": ("MobileCLIP2-S0", {"embed_dims": (16, 32, 64, 128)}, 64),  # the name in open_clip
    "fastvit_mci3": ("fastvit_mci3", {"embed_dims": (16, 16, 32, 32, 64), "layers": (1, 1, 1, 1, 1)}, 64),
    "mobileone": ("mobileone_s0", {}, 64),
    "repvit": ("repvit_m0_9", {}, 64),
    "repvit, distilled": ("repvit_m0_9", {"distillation": True}, 64),
    "mobilenetv4, hybrid": ("mobilenetv4_hybrid_medium", {}, 64),
    "efficientnet": ("efficientnet_b0", {}, 64),
    "tiny_vit, windows": ("tiny_vit_5m_224", {}, 80),  # padded to whole windows
    "tiny_vit, one window": ("tiny_vit_5m_224", {}, 224),
    "vit": ("vit_tiny_patch16_224", {}, 64),
    "vit, mean": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False, "qkv_bias": False}, 48),
    "vit, registers": ("vit_tiny_patch16_224", {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.1}, 48),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", {}, 48),
    "convnext": ("convnext_atto", {}, 64),
    "ghostnet": ("ghostnet_050", {}, 64),
    "grouped convolutions": ("regnetx_002", {}, 64),
    "densenet": ("densenet121", {"growth_rate": 8}, 64),
    "efficientvit of MIT": ("efficientvit_b0", {}, 64),
    "efficientvit of Microsoft": ("efficientvit_m0", {}, 224),
    "edgenext": ("edgenext_xx_small", {}, 64),
    "pvt": ("pvt_v2_b0", {}, 64),
    "shvit": ("shvit_s1", {}, 64),
    "mobilevit": ("mobilevit_xxs", {}, 64),
    "mobilevit, second version": ("mobilevitv2_050", {}, 64),
    "swin": ("swin_tiny_patch4_window7_224", {"depths": (2, 2), "num_heads": (3, 6), "embed_dim": 48}, 112),
    "hgnet": ("hgnetv2_b0", {}, 64),
}


def family(which: str) -> tuple[nn.Module, int]:
    """A student whose parameters all matter; what training finds, timm leaves at zero."""
    name, options, size = FAMILIES[which]
    model = student(name, options, size)
    random = torch.Generator().manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim != 2 and parameter.shape[-2:] != (1, 1) and "weight" not in parameter_name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=random)
        if "attention_biases" in parameter_name or "bias_table" in parameter_name:
            parameter.data.normal_(generator=random)
    model.train()
    return model.eval(), size  # without the attention biases that some remember


@pytest.mark.parametrize("which", FAMILIES)
def test_the_graph_computes_what_the_student_computes(which: str) -> None:
    model, size = family(which)
    folded, weights = folding.fold(model, size)
    pixels = images(2, size)
    expected = exact(model, pixels)
    assert expected.std() > 0.01  # a dead network would agree with anything
    assert largest_relative_difference(execution.run(folded, weights, pixels), expected) < 2e-5


def ops(folded: Graph) -> Counter[str]:
    return Counter(node["op"] for node in folded["nodes"])


def test_a_transformer_is_convolutions_that_need_no_transposition() -> None:
    model, size = family("vit")
    folded, _ = folding.fold(model, size)
    expected = {"conv": 49, "attention": 12, "normalize": 25, "activation": 12, "add": 24}
    expected |= {"reshape": 1, "pad": 1, "shift": 1, "crop": 1, "flatten": 1, "linear": 1}
    assert ops(folded) == expected  # a patch, 12 blocks of 4, one class token with its position, one head


def test_both_factors_of_gelu_are_folded() -> None:
    for which, left in {"fastvit_t8": 1, "vit": 0, "convnext": 0, "repvit": 0}.items():
        model, size = family(which)
        functions = Counter(node.get("function") for node in folding.fold(model, size)[0]["nodes"])
        # after squeeze-and-excitation, and after a sum, there is no layer to take the factor
        assert functions["gelu"] == left, which
        assert functions["scaled_gelu"] > 5


@pytest.mark.parametrize("which", STUDENTS)
def test_everything_that_can_be_folded_is(which: str) -> None:
    name, options, size = STUDENTS[which]
    model = student(name, options, size)
    folded, weights = folding.fold(model, size)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sum("weight" in node for node in folded["nodes"]) == len(layers)
    assert sum(w.size for n, w in weights.items() if n.endswith(".weight")) == sum(m.weight.numel() for m in layers)


def test_the_graph_is_json_and_the_model_is_unchanged() -> None:
    model = student(*STUDENTS["mobilenetv4"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded, weights = folding.fold(model, 64)
    assert json.loads(json.dumps(folded)) == folded
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    again, weights_again = folding.fold(model, 64)
    assert folded == again
    assert all(np.array_equal(weights[name], weights_again[name]) for name in weights)


@pytest.mark.parametrize(
    "which",
    [
        *(
            "fastvit_t8",
            "mobilenetv4",
            "mobilenetv2, asymmetric padding",
            "resnet",
            "vit",
            "tiny_vit, windows",
            "repvit",
        ),
        *("ghostnet", "grouped convolutions", "efficientvit of Microsoft", "mobilevit", "mobilevit, second version"),
    ],
)
def test_multiply_accumulates_are_those_of_the_model(which: str) -> None:
    model, size = family(which)
    assert execution.macs(*folding.fold(model, size)) == costs.macs(model, torch.zeros(1, 3, size, size))


class Small(nn.Module):
    """One layer stack with a head, to try single rules of folding."""

    def __init__(self, *layers: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean((2, 3)))


def test_a_factor_behind_the_last_pooling_is_one_number_per_channel() -> None:
    torch.manual_seed(1)
    norm = nn.LayerNorm(4)
    nn.init.normal_(norm.weight)
    parts = [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, nn.GELU(), nn.Linear(4, 5)]
    model = nn.Sequential(*parts)
    folded, weights = folding.fold(model, 8)
    assert sum(array.size for array in weights.values()) == sum(p.numel() for p in model.parameters())
    pixels = images(2, 8)
    assert largest_relative_difference(execution.run(folded, weights, pixels), exact(model.eval(), pixels)) < 1e-5


@pytest.mark.parametrize(
    ("layers", "depthwise"),
    [
        ([nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)], 0),  # before a convolution without padding: into it
        ([nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)], 1),  # the shift is not constant where zeros are padded
        ([nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 4, 1)], 1),  # only the depthwise one itself
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)], 0),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()], 1),  # between two that are not linear
        ([nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(2, 1))], 0),
        ([nn.Conv2d(3, 4, 4, padding="same"), nn.SiLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True)], 0),
        ([nn.Conv2d(3, 4, 1), nn.Hardswish(), nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)], 0),
    ],
)
def test_rules_of_folding(layers: list[nn.Module], depthwise: int) -> None:
    torch.manual_seed(1)
    model = lively(Small(*layers), 17)
    folded, weights = folding.fold(model, 17)
    pixels = images(2, 17)
    assert sum(node["op"] == "depthwise" for node in folded["nodes"]) == depthwise
    assert largest_relative_difference(execution.run(folded, weights, pixels), exact(model, pixels)) < 1e-5


class Windows(nn.Module):
    """A TinyViT block whose values are wider than its keys, as pruning leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.block = TinyVitBlock(4, 2, window_size=4)
        self.block.attn = TinyViTAttention(4, key_dim=3, num_heads=2, attn_ratio=2, resolution=(4, 4))
        self.block.attn.attention_biases.data.normal_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_keys_and_values_may_differ_in_width() -> None:
    torch.manual_seed(1)
    model = lively(Small(nn.Conv2d(3, 4, 3), Windows()), 17)
    folded, weights = folding.fold(model, 17)
    pixels = images(2, 17)
    assert largest_relative_difference(execution.run(folded, weights, pixels), exact(model, pixels)) < 1e-5


class Shared(nn.Module):
    """A convolution that is used twice with different followers, and an input that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        return self.head((self.conv(y) * torch.sigmoid(y) + y).mean([-2, -1], keepdim=True).flatten(1))


def test_a_module_used_twice_is_folded_twice() -> None:
    torch.manual_seed(1)
    model = lively(Shared(), 16)
    folded, weights = folding.fold(model, 16)
    pixels = images(2, 16)
    assert largest_relative_difference(execution.run(folded, weights, pixels), exact(model, pixels)) < 1e-5


@pytest.mark.parametrize(
    ("name", "size", "named"),
    [
        ("vit_pe_core_tiny_patch16_384", 384, ["reshape() in blocks.0.attn, blocks.1.attn, blocks.2.attn and "]),
        ("swinv2_cr_tiny_224", 224, ["pad() in stages.0.blocks.0"]),
        ("gmlp_ti16_224", 224, ["Linear in blocks.0.mlp_channels.gate.proj"]),  # it mixes positions
        ("mobilevit_xxs", 224, ["interpolate() in stages.4.1"]),
        ("vit_base_patch16_siglip_224", 224, ["reshape() in attn_pool"]),
        ("nf_regnet_b0", 64, ["ScaledStdConv2d with "]),
    ],
)
def test_all_that_cannot_be_shipped_is_named(name: str, size: int, named: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        folding.fold(timm.create_model(name, num_classes=4), size)
    for part in named:
        assert part in str(caught.value)


def test_a_model_that_cannot_be_traced_is_named() -> None:
    class Capricious(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"layers\.1 \(Capricious\)"):
        folding.fold(Small(nn.Conv2d(3, 4, 1), Capricious()), 8)


def test_the_families_of_a_refusal_are_those_of_the_table() -> None:
    table = (ROOT / "benchmarks" / "students.md").read_text(encoding="utf-8")
    able = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if "| yes |" in line}
    assert len(able) >= len(FAMILIES_OF_TIMM) and set(FAMILIES_OF_TIMM) <= able
    refused = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if "| no |" in line}
    guide = (ROOT / "docs" / "students.md").read_text(encoding="utf-8")
    assert f"{len(able)} of {len(able | refused)} families" in guide
    assert all(f"`{family}`" in guide for family in able)
