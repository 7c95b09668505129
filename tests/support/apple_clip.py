"""MobileCLIP-S0 in small, with random weights, as Apple's own program writes its checkpoint; and what it computes.

The layout is that of github.com/apple/ml-mobileclip; the functions below are written from the paper's description.
"""

import re
from typing import Any

import pytest
import timm
import torch
from torch.nn import functional as F

from bioclip_lite.models import architectures

State = dict[str, torch.Tensor]
WIDTH, OUTPUTS, CONTEXT, VOCABULARY, LAYERS = 64, 32, 16, 49408, 4
KERNEL = 11
# How Apple calls what timm renamed.
_RENAMED = (
    *(("stem", "patch_embed"), ("conv_kxk", "rbr_conv"), ("conv_scale", "rbr_scale"), ("identity", "rbr_skip")),
    *(("final_conv", "conv_exp"), ("large_conv", "lkb_origin"), ("mlp", "convffn"), ("se.fc1", "se.reduce")),
    *(("se.fc2", "se.expand"), (".gamma", ""), ("pos_emb.pos_enc", "pe")),
)


def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MobileCLIP-S0 be this small one."""
    config: Any = architectures.config_of("MobileCLIP-S0")
    config["model_cfg"] |= {"embed_dim": OUTPUTS}
    config["model_cfg"]["vision_cfg"] |= {"image_size": 32}
    config["model_cfg"]["text_cfg"] |= {"width": WIDTH, "layers": LAYERS, "context_length": CONTEXT}
    monkeypatch.setitem(architectures.OWN, "MobileCLIP-S0", config)


def image_tower() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("fastvit_mci0", num_classes=OUTPUTS).eval()


def checkpoint() -> State:
    """With ``image_tower()`` as its image tower."""
    image = {f"image_encoder.model.{_name(name)}": value for name, value in image_tower().state_dict().items()}
    image["image_encoder.model.head.proj"] = image.pop("image_encoder.model.head.fc.weight").T
    image.pop("image_encoder.model.head.fc.bias")
    text = {f"text_encoder.{name}": value for name, value in _text().items()}
    return {"logit_scale": torch.tensor(4.0), **image, **text}


def _name(name: str) -> str:
    """Apple's name of a tensor of timm's FastViT: stages, and what is between them, are counted through."""
    found = re.match(r"stages\.(\d)\.(blocks\.|downsample\.|pos_emb\.pos_enc\.)(.*)", name)
    if found:
        stage, part, rest = int(found[1]), found[2], found[3]
        number = 2 * stage - 1 if part == "downsample." else 2 * stage + (stage == 3 and part == "blocks.")
        name = f"network.{number}.{'pe.' if part.startswith('pos') else ''}{rest}"
    for timms, apples in _RENAMED:
        name = name.replace(timms, apples)
    return name


def _text() -> State:
    torch.manual_seed(1)
    state = {
        "embedding_layer.weight": torch.randn(VOCABULARY, WIDTH),
        "positional_embedding.pos_embed.pos_embed": torch.randn(1, 1, CONTEXT, WIDTH),
        "final_layer_norm.weight": torch.rand(WIDTH),
        "final_layer_norm.bias": torch.randn(WIDTH),
        "projection_layer": torch.randn(WIDTH, OUTPUTS) / 8,
    }
    for number in range(LAYERS):
        block = _mixer() if number in (0, LAYERS - 1) else _attention()
        state |= {f"transformer.{number}.{name}": value for name, value in block.items()}
    return state


def _norm(name: str) -> State:
    values = {"weight": torch.rand(WIDTH), "bias": torch.randn(WIDTH), "running_mean": torch.randn(WIDTH)}
    values |= {"running_var": 0.5 + torch.rand(WIDTH), "num_batches_tracked": torch.tensor(7)}
    return {f"{name}.{key}": value for key, value in values.items()}


def _mixer() -> State:
    return {
        "layer_scale": torch.randn(WIDTH, 1, 1),
        "token_mixer.layer_scale": torch.randn(WIDTH, 1, 1),
        **_norm("token_mixer.norm.rbr_skip"),
        **_norm("token_mixer.mixer.rbr_skip"),
        "token_mixer.mixer.rbr_conv.0.conv.weight": torch.randn(WIDTH, 1, 1, KERNEL) / 3,
        **_norm("token_mixer.mixer.rbr_conv.0.bn"),
        "convffn.conv.conv.weight": torch.randn(WIDTH, 1, 1, KERNEL) / 3,
        **_norm("convffn.conv.bn"),
        "convffn.fc1.weight": torch.randn(4 * WIDTH, WIDTH, 1, 1) / 8,
        "convffn.fc1.bias": torch.randn(4 * WIDTH),
        "convffn.fc2.weight": torch.randn(WIDTH, 4 * WIDTH, 1, 1) / 16,
        "convffn.fc2.bias": torch.randn(WIDTH),
    }


def _attention() -> State:
    sizes = {"pre_norm_mha.1.qkv_proj": (3 * WIDTH, WIDTH), "pre_norm_mha.1.out_proj": (WIDTH, WIDTH)}
    sizes |= {"pre_norm_ffn.1": (4 * WIDTH, WIDTH), "pre_norm_ffn.4": (WIDTH, 4 * WIDTH)}
    state = {f"{name}.weight": torch.randn(size) / 8 for name, size in sizes.items()}
    state |= {f"{name}.bias": torch.randn(size[0]) for name, size in sizes.items()}
    for name in ("pre_norm_mha.0", "pre_norm_ffn.0"):
        state |= {f"{name}.weight": torch.rand(WIDTH), f"{name}.bias": torch.randn(WIDTH)}
    return state


# What it computes, branch by branch


def read(state: State, tokens: torch.Tensor) -> torch.Tensor:
    """Embeddings, not normalised, (b, OUTPUTS) of int64 tokens (b, CONTEXT)."""
    text = {name.removeprefix("text_encoder."): value for name, value in state.items()}
    x = text["embedding_layer.weight"][tokens] + text["positional_embedding.pos_embed.pos_embed"][0]
    for number in range(LAYERS):
        place = f"transformer.{number}."
        block = {name.removeprefix(place): value for name, value in text.items() if name.startswith(place)}
        x = (_mix if number in (0, LAYERS - 1) else _attend)(block, x)
    x = F.layer_norm(x, (WIDTH,), text["final_layer_norm.weight"], text["final_layer_norm.bias"])
    return x[torch.arange(len(x)), tokens.argmax(1)] @ text["projection_layer"]


def _mix(block: State, x: torch.Tensor) -> torch.Tensor:
    x = x.transpose(1, 2)[:, :, None]  # (b, width, 1, context)

    def normalised(name: str, y: torch.Tensor) -> torch.Tensor:
        mean, variance, weight, bias = (
            block[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(y, mean, variance, weight, bias)

    def convolved(weight: str, y: torch.Tensor) -> torch.Tensor:
        return F.conv2d(y, block[weight], padding=(0, KERNEL // 2), groups=WIDTH)

    mixer = normalised("token_mixer.mixer.rbr_skip", x)
    mixer = mixer + normalised(
        "token_mixer.mixer.rbr_conv.0.bn", convolved("token_mixer.mixer.rbr_conv.0.conv.weight", x)
    )
    x = x + block["token_mixer.layer_scale"] * (mixer - normalised("token_mixer.norm.rbr_skip", x))
    y = normalised("convffn.conv.bn", convolved("convffn.conv.conv.weight", x))
    y = F.gelu(F.conv2d(y, block["convffn.fc1.weight"], block["convffn.fc1.bias"]))
    x = x + block["layer_scale"] * F.conv2d(y, block["convffn.fc2.weight"], block["convffn.fc2.bias"])
    return x[:, :, 0].transpose(1, 2)


def _attend(block: State, x: torch.Tensor) -> torch.Tensor:
    def linear(name: str, y: torch.Tensor) -> torch.Tensor:
        return F.linear(y, block[f"{name}.weight"], block[f"{name}.bias"])

    def normalised(name: str) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), block[f"{name}.weight"], block[f"{name}.bias"])

    q, k, v = linear("pre_norm_mha.1.qkv_proj", normalised("pre_norm_mha.0")).chunk(3, dim=-1)  # one head of 64
    x = x + linear("pre_norm_mha.1.out_proj", F.scaled_dot_product_attention(q, k, v))
    return x + linear("pre_norm_ffn.4", F.gelu(linear("pre_norm_ffn.1", normalised("pre_norm_ffn.0"))))
