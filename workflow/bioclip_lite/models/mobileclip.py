"""Read MobileCLIP-S0 (arXiv 2311.17049) as Apple publishes it, which open_clip lacks.

Its text tower is a mixer (``text_towers.MixerText``) that looks at padding. The checkpoint has the branches of
training; they are merged as it is read, and each layer scale becomes part of the layer before it: the same function.
"""

import re
from typing import Any

import torch
from timm.models.fastvit import checkpoint_filter_fn

from bioclip_lite.models.checkpoints import State

_TEXT = "text_encoder."
_MIXER = re.compile(r"transformer\.(\d+)\.token_mixer\.mixer\.rbr_conv\.0\.conv\.weight")
_EPS = 1e-5  # of the batch normalisations
_OUTSIDE = {
    "embedding_layer.weight": "token_embedding.weight",
    "final_layer_norm.weight": "norm.weight",
    "final_layer_norm.bias": "norm.bias",
}
_IN_ATTENTION = {
    "pre_norm_mha.0.weight": "norm.weight",
    "pre_norm_mha.0.bias": "norm.bias",
    "pre_norm_mha.1.qkv_proj.weight": "attention.in_proj_weight",
    "pre_norm_mha.1.qkv_proj.bias": "attention.in_proj_bias",
    "pre_norm_mha.1.out_proj.weight": "attention.out_proj.weight",
    "pre_norm_mha.1.out_proj.bias": "attention.out_proj.bias",
    "pre_norm_ffn.0.weight": "feed_forward.0.weight",
    "pre_norm_ffn.0.bias": "feed_forward.0.bias",
    "pre_norm_ffn.1.weight": "feed_forward.1.weight",
    "pre_norm_ffn.1.bias": "feed_forward.1.bias",
    "pre_norm_ffn.4.weight": "feed_forward.3.weight",
    "pre_norm_ffn.4.bias": "feed_forward.3.bias",
}


def converted(state: State, model: Any) -> State:
    """The weights of Apple's checkpoint under the names of ``model``; others unchanged.

    ``model``: an open_clip model with the FastViT and the mixer of ``architectures.OWN``. What is missing in the
    checkpoint is missing in the answer.
    """
    text = {name.removeprefix(_TEXT): tensor for name, tensor in state.items() if name.startswith(_TEXT)}
    mixers = [found[1] for name in text if (found := _MIXER.fullmatch(name))]
    if not mixers:
        return state
    image = {f"visual.trunk.{name}": tensor for name, tensor in checkpoint_filter_fn(state, model.visual.trunk).items()}
    own = {
        "positional_embedding": text.pop("positional_embedding.pos_embed.pos_embed")[0, 0],
        "projection.weight": text.pop("projection_layer").T,
    }
    for number in mixers:
        place = f"transformer.{number}."
        block = {name.removeprefix(place): text.pop(name) for name in list(text) if name.startswith(place)}
        own |= {f"blocks.{number}.{name}": tensor for name, tensor in _mixer_block(block).items()}
    own |= {_renamed(name): tensor for name, tensor in text.items()}
    return {**image, **{f"text.{name}": tensor for name, tensor in own.items()}, "logit_scale": state["logit_scale"]}


def _renamed(name: str) -> str:
    """Our name of a tensor outside of the mixers' blocks; an unknown name as it is, which no model has."""
    _, _, rest = name.partition("transformer.")
    number, _, inner = rest.partition(".")
    return f"blocks.{number}.{_IN_ATTENTION[inner]}" if inner in _IN_ATTENTION else _OUTSIDE.get(name, name)


def _mixer_block(block: State) -> State:
    """The merged tensors of a ``text_towers.MixerBlock``: x + s (mixer(x) - norm(x)), then x + t ffn(conv(x))."""
    kernel, bias = _convolution(block, "token_mixer.mixer.rbr_conv.0.conv.weight", "token_mixer.mixer.rbr_conv.0.bn")
    skip, skip_bias = _affine(block, "token_mixer.mixer.rbr_skip")
    less, less_bias = _affine(block, "token_mixer.norm.rbr_skip")
    scale = block["token_mixer.layer_scale"].double().flatten()
    kernel, centre = scale[:, None, None] * kernel, kernel.shape[-1] // 2
    kernel[:, 0, centre] += 1 + scale * (skip - less)
    within, within_bias = _convolution(block, "convffn.conv.conv.weight", "convffn.conv.bn")
    outer = block["layer_scale"].double().flatten()
    merged = {
        "mixer.conv.weight": kernel,
        "mixer.conv.bias": scale * (bias + skip_bias - less_bias),
        "mixer_within.conv.weight": within,
        "mixer_within.conv.bias": within_bias,
        "feed_forward.0.weight": block["convffn.fc1.weight"][..., 0, 0],
        "feed_forward.0.bias": block["convffn.fc1.bias"],
        "feed_forward.2.weight": outer[:, None] * block["convffn.fc2.weight"][..., 0, 0].double(),
        "feed_forward.2.bias": outer * block["convffn.fc2.bias"].double(),
    }
    return {name: tensor.float() for name, tensor in merged.items()}


def _convolution(block: State, weight: str, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 (kernel (width, 1, length), bias (width,)) of a depthwise convolution and its batch normalisation."""
    scale, bias = _affine(block, norm)
    return scale[:, None, None] * block[weight][:, :, 0].double(), bias


def _affine(block: State, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 (scale, bias) of a batch normalisation in eval mode, each (width,)."""
    weight, bias, mean, variance = (
        block[f"{norm}.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight * (variance + _EPS).rsqrt()
    return scale, bias - mean * scale
