"""Twins of timm's modules, equivalent but written in terms of functions that are translated as one node.

The functions at the top are such nodes: fx records their call and does not look inside.
"""

import types
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention as TokenAttention
from timm.layers.attention2d import Attention2d, MultiQueryAttention2d
from timm.models.edgenext import CrossCovarianceAttn
from timm.models.efficientformer import Attention as EfficientFormerAttention
from timm.models.efficientvit_mit import LiteMLA
from timm.models.efficientvit_msra import CascadedGroupAttention, LocalWindowAttention
from timm.models.fastvit import Attention as FastVitAttention
from timm.models.mobilevit import LinearSelfAttention, MobileVitBlock, MobileVitV2Block
from timm.models.pvt_v2 import Attention as PvtAttention
from timm.models.shvit import SHSA
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from timm.models.tiny_vit import TinyVitBlock
from torch import fx, nn

Twin = Callable[..., torch.Tensor]

# Functions that fx records as one node


def mixed_heads(qkv: torch.Tensor, heads: int, window: int, positions: torch.Tensor | None) -> torch.Tensor:
    """Attention of (batch, ..., 3 * heads * d) with scaled queries, within windows of an image; ``window`` 0: none.

    Gives only the right shape; the graph computes the values.
    """
    return qkv[..., : qkv.shape[-1] // 3] * 1.0


def mixed_queries(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention of (batch, heads * d, h, w) to (batch, d, ...) and (batch, d', ...); gives only the right shape."""
    return q.new_zeros(len(q), heads * v.shape[1], *q.shape[2:])


def padded(x: torch.Tensor, side: int) -> torch.Tensor:
    """Pad (batch, h, w, c) with zeros below and to the right, to multiples of ``side``."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % side, 0, -x.shape[1] % side))


def cropped(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Crop (batch, h, w, c) to its upper left, as large as ``like``."""
    return x[:, : like.shape[1], : like.shape[2]]


def cross_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, positions: torch.Tensor | None
) -> torch.Tensor:
    """Attention of scaled queries to keys and values, tokens or images; gives only the right shape."""
    return q.new_zeros(*q.shape[:2], v.shape[2]) if q.ndim == 3 else q.new_zeros(len(q), v.shape[1], *q.shape[2:])


def linear_attention(x: torch.Tensor, heads: int, eps: float) -> torch.Tensor:
    """EfficientViT's linear attention of (batch, heads * 3 * d, h, w); gives only the right shape."""
    return x[:, : x.shape[1] // 3] * 1.0


def channel_attention(qkv: torch.Tensor, heads: int, temperature: torch.Tensor) -> torch.Tensor:
    """Cross-covariance attention of tokens (batch, n, 3 * heads * d); gives only the right shape."""
    return qkv[..., : qkv.shape[-1] // 3] * 1.0


def weighted_sum(values: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The sum over the positions of tokens or of an image, with weights by ``scores``; gives only the right shape."""
    return values[:, :1] * 1.0 if values.ndim == 3 else values[:, :, :1, :1] * 1.0


def partitioned(x: torch.Tensor, side: Sequence[int], strided: bool) -> torch.Tensor:
    """The windows of images (batch, c, h, w) as images; gives only the right shape."""
    windows = x.shape[2] * x.shape[3] // (side[0] * side[1])
    return x.new_zeros(len(x) * windows, x.shape[1], *side)


def merged(x: torch.Tensor, size: Sequence[int], side: Sequence[int], strided: bool) -> torch.Tensor:
    """The images whose windows ``partitioned`` made; gives only the right shape."""
    windows = size[0] * size[1] // (side[0] * side[1])
    return x.new_zeros(len(x) // windows, x.shape[1], *size)


def space_to_depth(x: torch.Tensor) -> torch.Tensor:
    """Squares of 2 x 2 positions of (batch, h, w, c) as positions of 4 * c channels; gives only the right shape."""
    return x.new_zeros(len(x), x.shape[1] // 2, x.shape[2] // 2, 4 * x.shape[3])


for _name in (
    *("mixed_heads", "mixed_queries", "cross_attention", "linear_attention", "channel_attention", "weighted_sum"),
    *("padded", "cropped", "partitioned", "merged", "space_to_depth"),
):
    fx.wrap(_name)


# Twins


def simplify(module: nn.Module) -> None:
    """Replace the forward of a module of ``_PREPARED`` by its traceable twin, in place, and scale its queries."""
    for kind, prepare in _PREPARED.items():
        if isinstance(module, kind):
            twin = prepare(module)
            if twin is not None:
                module.forward = types.MethodType(twin, module)
            return


def _prepare_heads(module: Any) -> Twin | None:
    unusual = (getattr(module, name, None) for name in ("q_norm", "k_norm", "norm", "gate"))
    if any(part is not None and not isinstance(part, nn.Identity) for part in unusual):
        return None  # tracing then reports each of its operations
    # 1/sqrt(d) of the architecture: a pruned head was trained with this scale
    _scale(module.qkv, module.num_heads * module.head_dim, module.scale)
    return _fastvit_attention if isinstance(module, FastVitAttention) else _token_attention


def _prepare_attention_2d(module: Any) -> Twin | None:
    if module.head_first:
        return None
    _scale(module.qkv, module.qkv.out_channels // 3, module.dim_head**-0.5)
    return _attention_2d


def _prepare_multi_query(module: Any) -> Twin:
    _scale(module.query.proj, module.query.proj.out_channels, module.scale)
    return _multi_query


def _prepare_tiny_vit(module: Any) -> Twin:
    attention = module.attn
    _regroup(attention)
    _scale(attention.qkv, attention.proj.in_features, attention.scale)
    _store_positions(attention, attention.attention_biases.detach()[:, attention.attention_bias_idxs])
    return _tiny_vit_block


def _prepare_efficientformer(module: Any) -> Twin:
    """Reorder from queries, keys and values of each head to all queries, all keys, all values."""
    heads, key, value = module.num_heads, module.key_dim, module.val_dim
    for parameter in (module.qkv.weight, module.qkv.bias):
        parts = parameter.data.reshape(heads, 2 * key + value, -1).split([key, key, value], dim=1)
        parameter.data = torch.cat([part.flatten(0, 1) for part in parts]).reshape(parameter.shape)
    _scale(module.qkv, heads * key, module.scale)
    _store_positions(module, module.attention_biases.detach()[:, module.attention_bias_idxs])
    return _efficientformer_attention


def _prepare_cascade(module: Any) -> Twin:
    table = module.attention_biases.detach()[:, module.attention_bias_idxs]
    for head, positions in enumerate(table):
        _store_positions(module.qkvs[head], positions[None])
    return _cascaded_attention


def _prepare_pvt(module: Any) -> Twin | None:
    _scale(module.q, module.q.out_features, module.scale)
    return _pvt_attention


def _prepare_lite_mla(module: Any) -> Twin | None:
    return _lite_mla if isinstance(module.kernel_func, nn.ReLU) else None


def _prepare_mobile_vit_v2(module: Any) -> Twin:
    for part in module.transformer.modules():
        if isinstance(part, LinearSelfAttention):
            part.patch_size = module.patch_size
    return _mobile_vit_v2_block


def _prepare_swin(module: Any) -> Twin | None:
    attention = module.attn
    if getattr(module, "dynamic_mask", False) or attention.window_size[0] != attention.window_size[1]:
        return None
    _scale(attention.qkv, attention.qkv.out_features // 3, attention.scale)
    positions = attention._get_rel_pos_bias().detach()[0]
    if module.attn_mask is not None:
        positions = positions[None] + module.attn_mask[:, None]
    _store_positions(attention, positions)
    return _swin_block


def _store_positions(module: nn.Module, positions: torch.Tensor) -> None:
    module.register_buffer("positions", positions)


def _regroup(attention: Any) -> None:
    """Reorder from queries, keys and values of each head to all queries, all keys, all values, of one width, in place.

    Pruning may leave keys and values of different widths; zeros in the narrower ones change nothing.
    """
    heads, key, value = attention.num_heads, attention.key_dim, attention.val_dim
    width = max(key, value)
    for parameter in (attention.qkv.weight, attention.qkv.bias):
        parts = parameter.data.reshape(heads, 2 * key + value, -1).split([key, key, value], dim=1)
        wide = [F.pad(part, (0, 0, 0, width - part.shape[1])) for part in parts]
        parameter.data = torch.cat(wide).reshape(3 * heads * width, *parameter.shape[1:])
    columns = attention.proj.weight.data.reshape(-1, heads, value)
    attention.proj.weight.data = F.pad(columns, (0, width - value)).reshape(-1, heads * width)
    attention.qkv.out_features, attention.proj.in_features = 3 * heads * width, heads * width


def _scale(layer: Any, rows: int, factor: float) -> None:
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            parameter.data[:rows] *= factor


def _fastvit_attention(self: Any, x: torch.Tensor) -> torch.Tensor:
    mixed = mixed_heads(self.qkv(x.permute(0, 2, 3, 1)), self.num_heads, 0, None)
    return self.proj(mixed).permute(0, 3, 1, 2)


def _token_attention(self: Any, x: torch.Tensor, attn_mask: Any = None, is_causal: bool = False) -> torch.Tensor:
    return self.proj(mixed_heads(self.qkv(x), self.num_heads, 0, attn_mask))


def _attention_2d(self: Any, x: torch.Tensor, attn_mask: Any = None) -> torch.Tensor:
    mixed = mixed_heads(self.qkv(x).permute(0, 2, 3, 1), self.num_heads, 0, attn_mask)
    return self.proj(mixed.permute(0, 3, 1, 2))


def _multi_query(self: Any, x: torch.Tensor, attn_mask: Any = None) -> torch.Tensor:
    return self.output(mixed_queries(self.query(x), self.key(x), self.value(x), self.num_heads))


def _tiny_vit_block(self: Any, x: torch.Tensor) -> torch.Tensor:
    attention = self.attn
    inner = attention.qkv(attention.norm(padded(x, self.window_size)))
    mixed = attention.proj(mixed_heads(inner, attention.num_heads, self.window_size, attention.positions))
    x = x + cropped(mixed, x)
    x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x + self.mlp(x)


def _efficientformer_attention(self: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = self.qkv(x).split([self.key_attn_dim, self.key_attn_dim, self.val_attn_dim], dim=2)
    return self.proj(cross_attention(q, k, v, self.num_heads, self.positions))


def _cascaded_attention(self: Any, x: torch.Tensor) -> torch.Tensor:
    parts = x.chunk(len(self.qkvs), dim=1)
    mixed: list[torch.Tensor] = []
    for part, qkv, convolution in zip(parts, self.qkvs, self.dws, strict=True):
        inner = qkv(mixed[-1] + part if mixed else part)
        q, k, v = inner.split([self.key_dim, self.key_dim, self.val_dim], dim=1)
        mixed.append(cross_attention(convolution(q) * self.scale, k, v, 1, qkv.positions))
    return self.proj(torch.cat(mixed, 1))


def _window_attention(self: Any, x: torch.Tensor) -> torch.Tensor:
    side = self.attn.resolution
    if tuple(x.shape[2:]) == (side, side):
        return self.attn(x)
    whole = padded(x.permute(0, 2, 3, 1), side).permute(0, 3, 1, 2)
    mixed = merged(self.attn(partitioned(whole, (side, side), False)), whole.shape[2:], (side, side), False)
    return cropped(mixed.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _pvt_attention(self: Any, x: torch.Tensor, feat_size: list[int]) -> torch.Tensor:
    q, source = self.q(x), x
    if self.sr is not None:
        image = x.permute(0, 2, 1).reshape(len(x), -1, *feat_size)
        image = self.sr(image if self.pool is None else self.pool(image))
        source = self.norm(image.flatten(2).permute(0, 2, 1))
        source = source if self.act is None else self.act(source)
    k, v = self.kv(source).chunk(2, dim=2)
    return self.proj(cross_attention(q, k, v, self.num_heads, None))


def _single_head_attention(self: Any, x: torch.Tensor) -> torch.Tensor:
    some, rest = torch.split(x, [self.pdim, self.dim - self.pdim], dim=1)
    q, k, v = torch.split(self.qkv(self.pre_norm(some)), [self.qk_dim, self.qk_dim, self.pdim], dim=1)
    return self.proj(torch.cat([cross_attention(q * self.scale, k, v, 1, None), rest], dim=1))


def _lite_mla(self: Any, x: torch.Tensor) -> torch.Tensor:
    qkv = self.qkv(x)
    scales = torch.cat([qkv, *(op(qkv) for op in self.aggreg)], dim=1)
    return self.proj(linear_attention(scales, scales.shape[1] // (3 * self.dim), self.eps))


def _cross_covariance(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.proj(channel_attention(self.qkv(x), self.num_heads, self.temperature))


def _strides(x: torch.Tensor, patch: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of the images that hold one pixel of each patch; None if the patches do not fit."""
    (height, width), (down, across) = x.shape[2:], patch
    return None if height % down or width % across else (height // down, width // across)


def _mobile_vit_block(self: Any, x: torch.Tensor) -> torch.Tensor:
    image = self.conv_1x1(self.conv_kxk(x))
    side = _strides(image, self.patch_size)
    if side is None:
        return type(self).forward(self, x)  # it resizes the image, which is then reported
    parts = partitioned(image, side, True)
    tokens = self.norm(self.transformer(parts.flatten(2).transpose(1, 2)))
    image = merged(tokens.transpose(1, 2).reshape(parts.shape), image.shape[2:], side, True)
    image = self.conv_proj(image)
    return image if self.conv_fusion is None else self.conv_fusion(torch.cat((x, image), dim=1))


def _mobile_vit_v2_block(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Only its attention needs patches."""
    if _strides(x, self.patch_size) is None:
        return type(self).forward(self, x)
    return self.conv_proj(self.norm(self.transformer(self.conv_1x1(self.conv_kxk(x)))))


def _linear_self_attention(self: Any, x: torch.Tensor, x_prev: torch.Tensor | None = None) -> torch.Tensor:
    side = cast(Sequence[int], _strides(x, self.patch_size))  # the block has made sure
    parts = partitioned(self.qkv_proj(x), side, True)
    query, key, value = parts.split([1, self.embed_dim, self.embed_dim], dim=1)
    mixed = F.relu(value) * weighted_sum(key, query)
    return self.out_proj(merged(mixed, x.shape[2:], side, True))


def _swin_block(self: Any, x: torch.Tensor) -> torch.Tensor:
    attention, (down, right) = self.attn, self.shift_size
    side = attention.window_size
    shifted = self.norm1(x)
    if down or right:
        shifted = torch.roll(shifted, (-down, -right), (1, 2))
    whole = padded(shifted, side[0]).permute(0, 3, 1, 2)
    inner = attention.qkv(partitioned(whole, side, False).permute(0, 2, 3, 1))
    mixed = attention.proj(mixed_heads(inner, attention.num_heads, 0, attention.positions)).permute(0, 3, 1, 2)
    shifted = cropped(merged(mixed, whole.shape[2:], side, False).permute(0, 2, 3, 1), x)
    if down or right:
        shifted = torch.roll(shifted, (down, right), (1, 2))
    x = x + shifted
    return x + self.mlp(self.norm2(x))


def _patch_merging(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.reduction(self.norm(space_to_depth(padded(x, 2))))


# Class: a function that prepares the parameters of a module and returns the twin of its forward, None if it has none
_PREPARED: dict[type[nn.Module], Callable[[Any], Twin | None]] = {
    FastVitAttention: _prepare_heads,
    TokenAttention: _prepare_heads,
    Attention2d: _prepare_attention_2d,
    MultiQueryAttention2d: _prepare_multi_query,
    TinyVitBlock: _prepare_tiny_vit,
    EfficientFormerAttention: _prepare_efficientformer,
    CascadedGroupAttention: _prepare_cascade,
    LocalWindowAttention: lambda module: _window_attention,
    PvtAttention: _prepare_pvt,
    SHSA: lambda module: _single_head_attention,
    LiteMLA: _prepare_lite_mla,
    CrossCovarianceAttn: lambda module: _cross_covariance,
    MobileVitBlock: lambda module: _mobile_vit_block,
    MobileVitV2Block: _prepare_mobile_vit_v2,
    LinearSelfAttention: lambda module: _linear_self_attention,
    SwinTransformerBlock: _prepare_swin,
    PatchMerging: lambda module: _patch_merging,
}
