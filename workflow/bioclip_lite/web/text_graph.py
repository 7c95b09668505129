"""Fold a CLIP text tower to a graph of plain operations, to be quantized, converted and checked as students are.

Token lookup and the choice of the last token stay outside. The graph maps "tokens", (batch, width, context, 1), the sum
of token and position embeddings, to an embedding at each position, (batch, D, context, 1). Attention is causal, as in
CLIP, or includes all tokens and the padding, as in MobileCLIP: as the tower was trained. A mixer (``text_towers``),
which looks at no padding, takes one more channel: 1 up to the end of the text, 0 behind it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip.transformer
import torch
from torch import nn

from bioclip_lite.graph.folding import merge
from bioclip_lite.graph.nodes import Graph, Node, Weights
from bioclip_lite.models import students
from bioclip_lite.models.text_towers import AttentionBlock, MixerBlock, MixerText, TokenMixer
from bioclip_lite.utils.errors import UserError

_HIDDEN = -1e4  # added before a softmax: the share becomes 0
_QUICK = 1.702  # of OpenAI's GELU, x sigmoid(1.702 x)


def hides_padding(tower: Any) -> bool:
    """Whether the graph of a text tower takes a further channel, which says where the text is."""
    return isinstance(tower, MixerText) and tower.hides_padding


def fold_text(tower: Any) -> tuple[Graph, Weights]:
    """Fold a text tower; returns the graph and its float32 weights by name.

    ``tower`` is a MixerText, or has open_clip's ``token_embedding``, ``positional_embedding``, ``transformer``,
    ``ln_final``, ``text_projection`` and ``attn_mask``: a TextTransformer or a CLIP.
    Raises UserError for any other part.
    """
    return _fold_mixer(tower) if isinstance(tower, MixerText) else _fold_open_clip(tower)


def _fold_mixer(tower: MixerText) -> tuple[Graph, Weights]:
    context, width = tower.positional_embedding.shape
    file = _File(context)
    x, seen = _tokens(file, width, tower.hides_padding)
    merged: Any = students.reparameterize(tower)
    for number, block in enumerate(merged.blocks):
        x = (_mixer_block if isinstance(block, MixerBlock) else _attention_block)(file, str(number), x, seen, block)
    x = file.layer("projection", file.norm("norm", x, tower.norm), tower.projection)
    return merge(file.nodes, file.weights, x)


def _tokens(file: "_File", width: int, hides: bool) -> tuple[str, list[str]]:
    """(The embedded tokens, [which of them are text] if the graph is told)."""
    tokens = file.add("input", "tokens", [], width + hides)
    if not hides:
        return tokens, []
    x = file.add("slice", "embedded", [tokens], width, start=0)
    return x, [file.add("slice", "seen", [tokens], 1, start=width)]


def _mixer_block(file: "_File", name: str, x: str, seen: list[str], block: MixerBlock) -> str:
    x = _mixed(file, f"{name}.mixer", x, seen, block.mixer)
    inner = _mixed(file, f"{name}.mixer_within", x, seen, block.mixer_within)
    return file.sum(f"{name}.fed", x, _fed_forward(file, name, inner, *block.feed_forward))


def _attention_block(file: "_File", name: str, x: str, seen: list[str], block: AttentionBlock) -> str:
    asked = file.norm(f"{name}.norm_1", x, block.norm)
    x = file.sum(f"{name}.attended", x, _attention(file, f"{name}.attention", asked, block.attention, *seen))
    norm, *layers = block.feed_forward
    return file.sum(f"{name}.fed", x, _fed_forward(file, name, file.norm(f"{name}.norm_2", x, norm), *layers))


def _fed_forward(file: "_File", name: str, x: str, up: nn.Module, activation: nn.Module, down: nn.Module) -> str:
    return file.layer(
        f"{name}.down", _activation(file, f"{name}.gelu", file.layer(f"{name}.up", x, up), activation), down
    )


def _mixed(file: "_File", name: str, x: str, seen: list[str], mixer: TokenMixer) -> str:
    """A merged convolution along the text, to which padding is zeros."""
    width, _, side = mixer.conv.weight.shape
    shown = file.add("multiply", f"{name}.text", [x, *seen], width) if seen else x
    conv: Any = mixer.conv
    file.weights |= {f"{name}.weight": _array(conv.weight)[..., None], f"{name}.bias": _array(conv.bias)}
    geometry = {"strides": [1, 1], "pads": [side // 2, side // 2, 0, 0], "dilations": [1, 1]}
    return file.add("depthwise", name, [shown], width, **geometry, weight=f"{name}.weight", bias=f"{name}.bias")


def _fold_open_clip(tower: Any) -> tuple[Graph, Weights]:
    _check(tower)
    context, width = tower.positional_embedding.shape
    file = _File(context)
    x = file.add("input", "tokens", [], width)
    mask = getattr(tower, "attn_mask", None)
    if mask is not None:
        file.weights["mask"] = np.where(mask.numpy() == 0, 0.0, _HIDDEN)[None]
    for number, block in enumerate(tower.transformer.resblocks):
        attended = _attention(file, f"{number}.attention", file.norm(f"{number}.norm_1", x, block.ln_1), block.attn)
        x = file.sum(f"{number}.attended", x, file.scale(f"{number}.scale_1", attended, block.ls_1))
        inner = file.layer(f"{number}.up", file.norm(f"{number}.norm_2", x, block.ln_2), block.mlp.c_fc)
        outer = file.layer(
            f"{number}.down", _activation(file, f"{number}.gelu", inner, block.mlp.gelu), block.mlp.c_proj
        )
        x = file.sum(f"{number}.fed", x, file.scale(f"{number}.scale_2", outer, block.ls_2))
    x = file.norm("norm", x, tower.ln_final)
    projection = tower.text_projection
    if isinstance(projection, nn.Linear):
        x = file.layer("projection", x, projection)
    elif projection is not None:
        x = file.conv("projection", x, _array(projection).T)
    return merge(file.nodes, file.weights, x)


def _check(tower: Any) -> None:
    """Raise UserError unless all parts are supported."""
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", [])
    strange = sorted(
        {type(block).__name__ for block in blocks if type(block) is not open_clip.transformer.ResidualAttentionBlock}
        | {type(block.mlp.gelu).__name__ for block in blocks if hasattr(block, "mlp") and not _is_gelu(block.mlp.gelu)}
        | {"a class token" for _ in [0] if getattr(tower, "cls_emb", None) is not None}
        | {"a mask for padding" for _ in [0] if getattr(tower, "use_pad_mask", False)}
    )
    if strange or not len(blocks):
        raise UserError(
            f"convert.text_encoder: the text tower {type(tower).__name__} has "
            f"{', '.join(strange) or 'no blocks of open_clip'}, which the web model does not support; towers of "
            "open_clip's own transformer work (CLIP, BioCLIP, MobileCLIP2), and those of distill.text_tower"
        )


def _is_gelu(module: nn.Module) -> bool:
    return isinstance(module, nn.GELU | open_clip.transformer.QuickGELU)


class _File:
    """Nodes and float64 arrays under construction."""

    def __init__(self, context: int) -> None:
        self.context = context
        self.nodes: list[Node] = []
        self.weights: Weights = {}

    def add(self, op: str, name: str, inputs: Sequence[str], channels: int, **attributes: Any) -> str:
        shape = [channels, self.context, 1]
        self.nodes.append({"op": op, "name": name, "inputs": list(inputs), "shape": shape, **attributes})
        return name

    def sum(self, name: str, x: str, y: str) -> str:
        return self.add("add", name, [x, y], next(node["shape"][0] for node in self.nodes if node["name"] == x))

    def conv(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """Multiply with ``weight`` (out, in) at each position."""
        self.weights[f"{name}.weight"] = weight[:, :, None, None].copy()
        self.weights[f"{name}.bias"] = np.zeros(len(weight)) if bias is None else bias.copy()
        geometry = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
        arrays = {"weight": f"{name}.weight", "bias": f"{name}.bias"}
        return self.add("conv", name, [x], len(weight), **geometry, **arrays)

    def layer(self, name: str, x: str, linear: Any) -> str:
        return self.conv(name, x, _array(linear.weight), None if linear.bias is None else _array(linear.bias))

    def affine(self, name: str, x: str, scale: np.ndarray, shift: np.ndarray | None = None) -> str:
        self.weights |= {f"{name}.weight": scale, f"{name}.bias": np.zeros(len(scale)) if shift is None else shift}
        return self.add("affine", name, [x], len(scale), weight=f"{name}.weight", bias=f"{name}.bias")

    def norm(self, name: str, x: str, norm: Any) -> str:
        plain = self.add("normalize", f"{name}.plain", [x], len(norm.weight), eps=norm.eps)
        return self.affine(name, plain, _array(norm.weight), _array(norm.bias))

    def scale(self, name: str, x: str, scale: nn.Module) -> str:
        gamma = getattr(scale, "gamma", None)
        return x if gamma is None else self.affine(name, x, _array(gamma))


def _attention(file: _File, name: str, x: str, attention: nn.MultiheadAttention, *seen: str) -> str:
    width, heads = attention.embed_dim, attention.num_heads
    scale = np.repeat([(width // heads) ** -0.5, 1.0, 1.0], width)  # queries are scaled already
    weight, bias = _array(attention.in_proj_weight), _array(attention.in_proj_bias)
    asked = file.conv(f"{name}.in", x, weight * scale[:, None], bias * scale)
    mask = {"positions": "mask"} if "mask" in file.weights else {}
    mixed = file.add("attention", name, [asked, *seen], width, heads=heads, **mask)
    return file.layer(f"{name}.out", mixed, attention.out_proj)


def _activation(file: _File, name: str, x: str, module: nn.Module) -> str:
    channels = file.nodes[-1]["shape"][0]
    if isinstance(module, nn.GELU):
        function = "gelu_tanh" if module.approximate == "tanh" else "gelu"
        return file.add("activation", name, [x], channels, function=function)
    silu = file.add(
        "activation",
        f"{name}.silu",
        [file.affine(f"{name}.in", x, np.full(channels, _QUICK))],
        channels,
        function="silu",
    )
    return file.affine(name, silu, np.full(channels, 1 / _QUICK))


def _array(parameter: torch.Tensor) -> np.ndarray:
    array: np.ndarray = parameter.detach().cpu().double().numpy()
    return array
