"""Trace a timm model as an fx graph of tensors.

fx follows the operations of ``forward`` with symbols in place of tensors, so it cannot follow a module that inspects
sizes while it runs. timm's attention modules do. Each gets a plain twin of its forward here, equivalent but written in
terms of ``mixed_heads`` and ``mixed_queries``, which are translated as one node.
"""

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, LayerScale2d
from timm.layers.attention import Attention as TokenAttention
from timm.layers.attention2d import Attention2d, MultiQueryAttention2d
from timm.models.fastvit import Attention as FastVitAttention
from timm.models.fastvit import LayerScale2d as FastVitScale
from timm.models.tiny_vit import TinyVitBlock
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from bioclip_lite.utils.errors import UserError

LAYER_SCALES = (LayerScale, LayerScale2d, FastVitScale)


class Untraceable(Exception):
    """fx could not trace a model; the message names the module and the reason."""


def traced(model: nn.Module, size: int, leaves: tuple[type[nn.Module], ...]) -> fx.Graph:
    """Trace ``model`` (float64, eval; changed in place) on one image; each node of the result has its shape.

    ``leaves`` are module classes that count as one operation. Raises Untraceable.
    """
    for module in model.modules():
        _simplify(module)
    tracer = _Tracer(leaves)
    try:
        graph_module = fx.GraphModule(model, tracer.trace(model))
    except Exception as error:  # timm's forward may raise anything when its arguments are symbols
        where = tracer.failed_in or type(model).__name__
        raise Untraceable(f"{where} chooses its operations while it runs ({_first_line(error)})") from error
    graph_module.graph.eliminate_dead_code()
    try:
        with torch.no_grad():
            ShapeProp(graph_module).propagate(torch.zeros(1, 3, size, size, dtype=torch.float64))
    except UserError:
        raise
    except Exception as error:
        raise Untraceable(f"{type(model).__name__} fails on images of {size} pixels ({_first_line(error)})") from error
    return graph_module.graph


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Tracer(fx.Tracer):
    """Does not trace into leaves, and records the module in which tracing failed."""

    def __init__(self, leaves: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.leaves = (*leaves, *LAYER_SCALES, DropPath)
        self.failed_in = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or f"{self.path_of_module(m)} ({type(m).__name__})"
            raise


# Operations that fx records as one node


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


def _simplify(module: nn.Module) -> None:
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
