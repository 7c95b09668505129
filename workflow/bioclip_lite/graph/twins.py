"""Twins of timm's modules, equivalent but written in terms of functions that are translated as one node.

The functions at the top are such nodes: fx records their call and does not look inside.
"""

import types
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention as TokenAttention
from timm.layers.attention2d import Attention2d, MultiQueryAttention2d
from timm.models.fastvit import Attention as FastVitAttention
from timm.models.tiny_vit import TinyVitBlock
from torch import fx, nn

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


for _name in ("mixed_heads", "mixed_queries", "padded", "cropped"):
    fx.wrap(_name)


# Twins


def simplify(module: nn.Module) -> None:
    """Replace the forward of an attention module by its traceable twin and scale its queries, in place."""
    if isinstance(module, FastVitAttention | TokenAttention):
        unusual = (getattr(module, name, None) for name in ("q_norm", "k_norm", "norm", "gate"))
        if any(part is not None and not isinstance(part, nn.Identity) for part in unusual):
            return  # tracing then reports each of its operations
        # 1/sqrt(d) of the architecture: a pruned head was trained with this scale
        _scale(module.qkv, module.num_heads * module.head_dim, module.scale)
        twin = _fastvit_attention if isinstance(module, FastVitAttention) else _token_attention
    elif isinstance(module, Attention2d) and not module.head_first:
        _scale(module.qkv, module.qkv.out_channels // 3, module.dim_head**-0.5)
        twin = _attention_2d
    elif isinstance(module, MultiQueryAttention2d):
        _scale(module.query.proj, module.query.proj.out_channels, module.scale)  # type: ignore[arg-type,union-attr]
        twin = _multi_query
    elif isinstance(module, TinyVitBlock):
        attention = module.attn
        _regroup(attention)
        _scale(attention.qkv, attention.proj.in_features, attention.scale)
        offsets = attention.get_buffer("attention_bias_idxs")
        table = attention.get_parameter("attention_biases").detach()[:, offsets]
        attention.register_buffer("positions", table)
        twin = _tiny_vit_block
    else:
        return
    module.forward = types.MethodType(twin, module)  # type: ignore[method-assign]


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
