import json
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from bioclip_lite import costs, graph
from bioclip_lite.errors import UserError
from fake_data import STUDENTS, images, largest_relative_difference, lively, student


def exact(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.double()(pixels.double()).float()


@pytest.mark.parametrize("which", STUDENTS)
def test_the_graph_computes_what_the_student_computes(which: str) -> None:
    name, options, size = STUDENTS[which]
    model = student(name, options, size)
    folded, weights = graph.fold(model, size)
    pixels = images(3, size)
    expected = exact(model, pixels)
    assert expected.std() > 0.01  # a dead network would agree with anything
    assert largest_relative_difference(graph.run(folded, weights, pixels), expected) < 2e-5


@pytest.mark.parametrize("which", STUDENTS)
def test_everything_that_can_be_folded_is(which: str) -> None:
    name, options, size = STUDENTS[which]
    model = student(name, options, size)
    folded, weights = graph.fold(model, size)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sum("weight" in node for node in folded["nodes"]) == len(layers)
    assert sum(w.size for n, w in weights.items() if n.endswith(".weight")) == sum(m.weight.numel() for m in layers)


def test_the_graph_is_json_and_the_model_is_unchanged() -> None:
    model = student(*STUDENTS["mobilenetv4"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded, weights = graph.fold(model, 64)
    assert json.loads(json.dumps(folded)) == folded
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    again, weights_again = graph.fold(model, 64)
    assert folded == again
    assert all(np.array_equal(weights[name], weights_again[name]) for name in weights)


@pytest.mark.parametrize("which", ["fastvit_t8", "mobilenetv4", "mobilenetv2, asymmetric padding", "resnet"])
def test_multiply_accumulates_are_those_of_the_model(which: str) -> None:
    name, options, size = STUDENTS[which]
    model = student(name, options, size)
    assert graph.macs(*graph.fold(model, size)) == costs.macs(model, torch.zeros(1, 3, size, size))


class Small(nn.Module):
    """One layer stack with a head, to try single rules of folding."""

    def __init__(self, *layers: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean((2, 3)))


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
    folded, weights = graph.fold(model, 17)
    pixels = images(2, 17)
    assert sum(node["op"] == "depthwise" for node in folded["nodes"]) == depthwise
    assert largest_relative_difference(graph.run(folded, weights, pixels), exact(model, pixels)) < 1e-5


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
    folded, weights = graph.fold(model, 16)
    pixels = images(2, 16)
    assert largest_relative_difference(graph.run(folded, weights, pixels), exact(model, pixels)) < 1e-5


@pytest.mark.parametrize(
    ("name", "size", "named"),
    [
        (
            "vit_tiny_patch16_224",
            224,
            ["layer_norm() in blocks.0.norm1, blocks.0.norm2", "Linear in blocks.0.attn.qkv"],
        ),
        ("resnext26ts", 64, ["Conv2d with 2 groups in stages.0.0.conv2_kxk.conv", "stages.3.1.conv2_kxk.conv"]),
    ],
)
def test_all_that_cannot_be_shipped_is_named(name: str, size: int, named: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        graph.fold(timm.create_model(name, num_classes=4), size)
    for part in named:
        assert part in str(caught.value)


def test_a_model_that_cannot_be_traced_is_named() -> None:
    class Capricious(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"layers\.1 \(Capricious\)"):
        graph.fold(Small(nn.Conv2d(3, 4, 1), Capricious()), 8)
