"""Layers that pruning can shrink: attention with fewer heads, and the shapes of a pruned model."""

import torch
from timm.layers import Attention as ViTAttention
from timm.models.fastvit import Attention as FastVitAttention
from timm.models.tiny_vit import Attention as TinyViTAttention
from torch import nn


class PrunableAttention(FastVitAttention):
    """FastViT attention whose heads may span fewer channels than its input and output.

    timm reshapes the heads to the number of input channels, which holds only until a head is pruned. The values are
    the same; only the two reshapes differ from timm/models/fastvit.py.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to the same shape."""
        b, _, h, w = x.shape
        x = x.flatten(2).transpose(-2, -1)
        qkv = self.qkv(x).reshape(b, h * w, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            x = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        else:
            x = self.attn_drop((q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)) @ v
        x = x.transpose(1, 2).reshape(b, h * w, self.num_heads * self.head_dim)
        x = self.proj_drop(self.proj(x))
        return x.transpose(-2, -1).reshape(b, -1, h, w)


class PrunableViTAttention(ViTAttention):
    """ViT attention that keeps its original scale after head pruning.

    The values are the same as timm's, whose fused attention derives the scale from the current head dimension.
    """

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        """(batch, tokens, channels) to the same shape."""
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=attn_mask, dropout_p=dropout, is_causal=is_causal, scale=self.scale
        )
        mixed = self.norm(mixed.transpose(1, 2).reshape(b, n, self.attn_dim))
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(mixed))


class PrunableTinyViTAttention(TinyViTAttention):
    """TinyViT attention that keeps its original scale after head pruning."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch x windows, tokens, channels) to the same shape."""
        bias = self.get_attention_biases(x.device)
        b, n, _ = x.shape
        qkv = self.qkv(self.norm(x)).view(b, n, self.num_heads, -1)
        q, k, v = (part.transpose(1, 2) for part in qkv.split([self.key_dim, self.key_dim, self.val_dim], dim=3))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        return self.proj(mixed.transpose(1, 2).reshape(b, n, self.out_dim))


# Maps each timm attention class to a subclass whose heads can be pruned.
PRUNABLE: dict[type, type] = {
    FastVitAttention: PrunableAttention,
    ViTAttention: PrunableViTAttention,
    TinyViTAttention: PrunableTinyViTAttention,
}


def _shape(module: nn.Module) -> dict[str, int] | None:
    """The sizes that pruning may change and that a layer stores beside its weights."""
    if isinstance(module, nn.Conv2d):
        return {"in": module.in_channels, "out": module.out_channels, "groups": module.groups}
    if isinstance(module, nn.Linear):
        return {"in": module.in_features, "out": module.out_features}
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return {"channels": module.num_features}
    if isinstance(module, nn.LayerNorm):
        return {"channels": module.normalized_shape[-1]}
    if isinstance(module, TinyViTAttention):
        return {"heads": module.num_heads, "key_dim": module.key_dim, "val_dim": module.val_dim}
    if hasattr(module, "qkv") and hasattr(module, "num_heads") and hasattr(module, "head_dim"):
        return {"heads": int(module.num_heads), "head_dim": int(module.head_dim)}  # type: ignore[arg-type]
    return None


def _set_shape(module: nn.Module, shape: dict[str, int]) -> None:
    if isinstance(module, nn.Conv2d):
        module.in_channels, module.out_channels, module.groups = shape["in"], shape["out"], shape["groups"]
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = shape["in"], shape["out"]
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.num_features = shape["channels"]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], shape["channels"])
    elif isinstance(module, TinyViTAttention):
        module.num_heads, module.key_dim, module.val_dim = shape["heads"], shape["key_dim"], shape["val_dim"]
        module.out_dim = module.num_heads * module.val_dim
    else:
        heads, head_dim = shape["heads"], shape["head_dim"]
        module.num_heads, module.head_dim = heads, head_dim  # type: ignore[assignment]
        if hasattr(module, "attn_dim"):
            module.attn_dim = heads * head_dim  # type: ignore[assignment]


def shapes(model: nn.Module, base: nn.Module) -> dict[str, dict[str, int]]:
    """The layers of ``model`` whose shapes differ from the unpruned ``base``: {layer name: {size name: size}}."""
    before = {name: _shape(module) for name, module in base.named_modules()}
    after = {name: _shape(module) for name, module in model.named_modules()}
    return {name: shape for name, shape in after.items() if shape is not None and shape != before.get(name)}


def reshape(model: nn.Module, shapes: dict[str, dict[str, int]], state: dict[str, torch.Tensor]) -> None:
    """Give the layers of ``model``, in place, the ``shapes`` and the tensors of ``state`` (name to tensor)."""
    modules = dict(model.named_modules())
    for name, shape in shapes.items():
        _set_shape(modules[name], shape)
    for name, tensor in state.items():
        owner_name, _, attribute = name.rpartition(".")
        owner = modules.get(owner_name)
        current = getattr(owner, attribute, None)
        if isinstance(current, torch.Tensor) and current.shape != tensor.shape:
            resized = torch.empty_like(tensor)
            setattr(owner, attribute, nn.Parameter(resized) if isinstance(current, nn.Parameter) else resized)
    model.load_state_dict(state, strict=True)
