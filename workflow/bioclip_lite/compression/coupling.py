"""Find the channels that must be cut together, so that the model stays whole, and cut them.

torch-pruning's dependency graph (Fang et al., DepGraph, arXiv 2301.12900) finds the layers that lose a channel
together. What it cannot express is added here: FastViT's downsampling convolutions make k outputs from each input
channel, so both sides and what follows are cut as one; attention loses whole heads, or as many dimensions of each.

A group is offered only if cutting it equals silencing it. Channels that pass a normalisation across channels
(LayerNorm: the residual stream of a ViT) keep their width, because cutting one would change all others. Every group is
tried on photographs, because a dependency graph fails silently where an operation mixes channels in an unknown way.
"""

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from timm.layers import Attention as ViTAttention
from timm.models.efficientvit_msra import CascadedGroupAttention
from timm.models.fastvit import Attention as FastViTAttention
from timm.models.tiny_vit import Attention as TinyViTAttention
from torch import nn

from bioclip_lite.models.prunable import reshape
from bioclip_lite.utils.errors import UserError, first_line

Attention = FastViTAttention | ViTAttention | TinyViTAttention
_TOLERANCE = 1e-3  # of the largest output, between cutting and silencing; float32 leaves some 1e-6


@dataclass(frozen=True)
class Member:
    """One dimension of one layer that is cut together with others.

    ``side`` is "in" or "out"; for layers and parameters that work channel by channel "through". ``index`` int64
    (units, n): the entries of that dimension that unit u stands for. ``reads``: this is where the unit's value goes on;
    each path from the unit to the output passes exactly one such member.
    """

    layer: str
    side: str
    index: np.ndarray
    reads: bool = False


@dataclass(frozen=True)
class Group:
    """``units`` of one ``kind``, each of which exists in all ``members`` or in none.

    Kinds: "channels"; of an attention "heads", and of each of its heads "head_dim", or "key_dim" and "val_dim".
    """

    units: int
    members: list[Member]
    kind: str = "channels"

    @property
    def name(self) -> str:
        """Kind and first layer, for messages."""
        return f"{self.kind} of {self.members[0].layer}"

    @property
    def role(self) -> str:
        """Equal for groups that do the same at another depth, e.g. the hidden channels of all MLPs."""
        return "; ".join(sorted({f"{self.kind} {re.sub('[0-9]+', '*', m.layer)} {m.side}" for m in self.members}))


def coupled(model: nn.Module, images: torch.Tensor) -> tuple[list[Group], list[str]]:
    """(all groups that may be cut, in the order of the layers; why others keep their width, in words).

    Args:
        model: a re-parameterised student, float32 (b, 3, size, size) to (b, outputs). The outputs are in no group.
        images: a few preprocessed photographs, float32 (n, 3, size, size), on which each group is tried.

    Raises UserError if the channels of the model cannot be followed, with the operation that stopped it.
    """
    groups, whole = _all_groups(model, images.shape[-1])
    tried = [group for group in groups if group.units > 1]
    if not _unsound(model, tried, images):
        return tried, whole
    sound = []
    for group in tried:
        why = _unsound(model, [group], images)
        if why:
            whole.append(f"{group.name} ({why})")
        else:
            sound.append(group)
    return sound, whole


# Dependency graph


class _FixedWidth(Exception):
    """Why a group must keep its width."""


def _all_groups(model: nn.Module, size: int) -> tuple[list[Group], list[str]]:
    model = copy.deepcopy(model).eval().requires_grad_(True)  # torch-pruning marks the modules it has seen
    names = {module: name for name, module in model.named_modules()}
    attentions = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    for name, module in model.named_modules():
        if isinstance(module, CascadedGroupAttention):  # torch-pruning would walk for hours
            raise UserError(
                f"the student cannot be pruned: the heads of {name} pass their channels on to one another, in more "
                f"ways than can be followed; take another student or prune nothing (prune.budget: {{macs: 1}})"
            )
    scales = [p for name, p in model.named_parameters() if _is_scale(name, p)]
    try:
        last = _last_layer(model, size)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unwrapped parameters")  # groups with such parameters keep their width
            graph = tp.DependencyGraph().build_dependency(
                model, torch.zeros(1, 3, size, size), unwrapped_parameters=[(scale, 0) for scale in scales]
            )
        expanding = [module for module in model.modules() if multiplier(module) > 1]
        fixed = [*expanding, *(attention.qkv for attention in attentions.values())]
        dependent = list(graph.get_all_groups(ignored_layers=fixed, root_module_types=[nn.Conv2d, nn.Linear]))
    except Exception as error:  # of the model's own code, or where torch-pruning meets something it does not know
        raise UserError(
            f"the student cannot be pruned: its channels cannot be followed through {_where(error, names)} "
            f"({first_line(error)}); take another student or prune nothing (prune.budget: {{macs: 1}})"
        ) from error

    groups, whole = [], []
    for group in dependent:
        root = names.get(group[0].dep.target.module, "")
        try:
            members = _members(graph, group, names)
            if not any(member.side == "out" and member.layer == last for member in members):
                groups.append(Group(len(members[0].index), members))
        except _FixedWidth as why:
            whole.append(f"channels of {root} ({why})")
    for name, attention in attentions.items():
        try:
            groups += _of_attention(attention, name)
        except _FixedWidth as why:
            whole.append(f"heads of {name} ({why})")
    return groups, whole


def _where(error: Exception, names: dict[nn.Module, str]) -> str:
    """The module or operation that torch-pruning failed at, from the local variables of its stack frames."""
    seen = ""
    frame = error.__traceback__
    while frame:
        for held in frame.tb_frame.f_locals.values():
            module = getattr(held, "module", held)
            if isinstance(module, nn.Module) and names.get(module):
                seen = f"{type(module).__name__} at {names[module]}"
            elif type(held).__name__.endswith(("Backward0", "Backward1")):
                seen = f"the operation {type(held).__name__.rpartition('Backward')[0]}" + (
                    f" after {seen}" * bool(seen)
                )
        frame = frame.tb_next
    return seen or "the model"


def _is_scale(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a layer scale, (channels,) or (channels, 1, 1), which is no layer of its own."""
    return name.endswith("gamma") and parameter.numel() == len(parameter)


def multiplier(module: nn.Module | None) -> int:
    """Outputs per input channel of a grouped convolution with one input channel per group; else 0."""
    if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels:
        return module.out_channels // module.in_channels
    return 0


@torch.no_grad()
def _last_layer(model: nn.Module, size: int) -> str:
    """The layer with weights that is called last: its outputs are the model's."""
    called = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        model(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return str(called[-1])


def _members(graph: tp.DependencyGraph, group: Any, names: dict[nn.Module, str]) -> list[Member]:
    """The dimensions that a group of torch-pruning cuts, and those of the layers after an expanding convolution."""
    members: list[Member] = []
    for item in group:
        module = item.dep.target.module
        dimension = _dimension(graph, module, item.dep.handler, names)
        if dimension is None:
            continue
        name, side = dimension
        index = _by_unit(item.idxs, item.root_idxs, len(group[0].idxs), name)
        if index.max() >= _size(module, side):
            raise _FixedWidth(f"channels mixed before {name}")
        if not any(m.layer == name and m.side == side for m in members):
            # The outputs that an expanding convolution makes from a unit are read after it.
            members.append(Member(name, side, index, reads=side == "in" and not multiplier(module)))
            if multiplier(module) > 1:
                members += _followers(graph, module, index, names)
    return members


def _dimension(
    graph: tp.DependencyGraph, module: Any, handler: Any, names: dict[nn.Module, str]
) -> tuple[str, str] | None:
    """(layer or bare parameter, side) that ``handler`` of torch-pruning cuts; None for additions and the like.

    Raises:
        _FixedWidth: it cannot be cut without a change to what is left.
    """
    if isinstance(module, nn.Parameter):
        name = next(name for name, parameter in graph.model.named_parameters() if parameter is module)
        if not _is_scale(name, module):
            raise _FixedWidth(f"the parameter {name}")
        return name, "through"
    if not list(module.parameters()) and not isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        return None
    name = names[module]
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) or multiplier(module) == 1:
        return name, "through"
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise _FixedWidth(f"{type(module).__name__} at {name}")
    if isinstance(module, nn.Conv2d) and module.groups > 1 and not multiplier(module):
        raise _FixedWidth(f"Conv2d with {module.groups} groups at {name}")
    return name, "out" if graph.is_out_channel_pruning_fn(handler) else "in"


def _by_unit(entries: Sequence[int], units: Sequence[int | None], count: int, name: str) -> np.ndarray:
    """int64 (count, n): the entries of each unit."""
    order = np.argsort(np.asarray([-1 if unit is None else unit for unit in units]), kind="stable")
    if len(entries) % count or sorted({unit for unit in units if unit is not None}) != list(range(count)):
        raise _FixedWidth(f"channels mixed before {name}")
    return np.asarray(entries, dtype=np.int64)[order].reshape(count, -1)


def _followers(
    graph: tp.DependencyGraph, module: nn.Conv2d, index: np.ndarray, names: dict[nn.Module, str]
) -> list[Member]:
    """The layers after an expanding convolution, for units whose ``index`` counts its input channels."""
    factor = multiplier(module)
    after = graph.get_pruning_group(module, tp.prune_conv_out_channels, list(range(module.out_channels)))
    outputs = (index[:, :, None] * factor + np.arange(factor)).reshape(len(index), -1)
    return [
        Member(member.layer, member.side, member.index[outputs].reshape(len(index), -1), member.reads)
        for member in _members(graph, _Rest(after, module), names)
    ]


class _Rest:
    """A group of torch-pruning without its root, with the number of units of the whole."""

    def __init__(self, group: Any, root: nn.Module) -> None:
        self.first = group[0]
        self.items = [item for item in list(group)[1:] if item.dep.target.module is not root]

    def __iter__(self) -> Any:
        return iter(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.first if i == 0 else self.items[i]


def _of_attention(attention: Attention, name: str) -> list[Group]:
    """The groups of an attention: its heads, and the dimensions of its heads, of which all lose the same.

    Queries and keys meet dimension by dimension, so of the two only the queries count as reading.
    """
    heads = int(attention.num_heads)
    if isinstance(attention, TinyViTAttention):  # rows of qkv: head by head its queries, keys, values
        keys, values = attention.key_dim, attention.val_dim
        q = np.arange(heads)[:, None] * (2 * keys + values) + np.arange(keys)
        k, v = q + keys, q[:, :1] + 2 * keys + np.arange(values)
    else:  # all queries, all keys, all values
        changes = [part for part in ("q_norm", "k_norm", "norm") if not _nothing(getattr(attention, part, None))]
        if changes or getattr(attention, "gate", None) is not None:
            raise _FixedWidth(f"{', '.join(changes) or 'gate'} of {type(attention).__name__}")
        keys = values = int(attention.head_dim)
        q = np.arange(heads * keys).reshape(heads, keys)
        k, v = q + heads * keys, q + 2 * heads * keys
    out = np.arange(heads * values).reshape(heads, values)
    qkv, proj = f"{name}.qkv", f"{name}.proj"

    whole = [Member(qkv, "out", np.concatenate([q, k, v], axis=1)), Member(proj, "in", out, reads=True)]
    if isinstance(attention, TinyViTAttention):
        whole.append(Member(f"{name}.attention_biases", "through", np.arange(heads)[:, None]))
    match = [Member(qkv, "out", q.T, reads=True), Member(qkv, "out", k.T)]
    carry = [Member(qkv, "out", v.T), Member(proj, "in", out.T, reads=True)]
    if isinstance(attention, TinyViTAttention):
        return [Group(heads, whole, "heads"), Group(keys, match, "key_dim"), Group(values, carry, "val_dim")]
    return [Group(heads, whole, "heads"), Group(keys, match + carry, "head_dim")]


def _nothing(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)


# Trial on photographs


def _unsound(model: nn.Module, groups: list[Group], images: torch.Tensor) -> str:
    """Why cutting the last third of each group is not silencing it; "" if it is."""
    keep = [np.arange(max(1, group.units - max(1, group.units // 3))) for group in groups]
    smaller, silent = cut(model, groups, keep), silenced(model, groups, keep)
    at: list[str] = []
    try:
        with _following(smaller, at), torch.no_grad():
            found, expected = smaller(images), silent(images)
    except Exception as error:  # a model's own code may raise anything when a width is not what it expects
        return f"it does not fit {at[-1] if at else 'the model'}: {first_line(error)}"
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
    return "" if difference < _TOLERANCE else "an operation mixes it with other channels"


@contextmanager
def _following(model: nn.Module, at: list[str]) -> Iterator[None]:
    """Within it ``at`` holds the modules that are being called, from outside to inside."""
    hooks = []
    for name, module in model.named_modules():
        hooks.append(
            module.register_forward_pre_hook(
                lambda module, _, name=name: at.append(f"{type(module).__name__} at {name or 'the top'}")
            )
        )
        hooks.append(module.register_forward_hook(lambda *_: at.pop() and None))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# Cutting


def cut(model: nn.Module, groups: list[Group], keep: Sequence[np.ndarray]) -> nn.Module:
    """A copy of ``model`` in eval mode that has only the units ``keep`` (ascending) of each group."""
    modules: dict[str, Any] = dict(model.named_modules())
    state = model.state_dict()
    left: dict[tuple[str, str], np.ndarray] = {}  # whether an entry of a side of a layer stays: bool
    shapes: dict[str, dict[str, int]] = {}
    for group, kept in zip(groups, keep, strict=True):
        gone = np.setdiff1d(np.arange(group.units), kept)
        if not len(gone):
            continue
        for member in group.members:
            key = member.layer, member.side
            if key not in left:
                left[key] = np.ones(_size(modules.get(member.layer, state.get(member.layer)), member.side), dtype=bool)
            left[key][member.index[gone].reshape(-1)] = False
        if group.kind != "channels":
            shapes.setdefault(group.members[0].layer.removesuffix(".qkv"), {})[group.kind] = len(kept)

    for name in {name for name, _ in left}:
        sides = {side: np.flatnonzero(left[name, side]) for side in ("in", "out", "through") if (name, side) in left}
        if name in state:  # a bare parameter: a layer scale, attention biases
            state[name] = state[name][sides["through"]]
        else:
            shapes[name] = _cut_layer(name, modules[name], sides, state)
    for name, changed in shapes.items():
        if isinstance(modules[name], Attention):
            shapes[name] = _attention_shape(modules[name]) | changed
    smaller = copy.deepcopy(model).eval().requires_grad_(True)  # timm freezes some layers when it re-parameterises
    reshape(smaller, shapes, {name: tensor.clone() for name, tensor in state.items()})
    return smaller.eval()  # so that TinyViT's attention forgets its cached biases


def _size(layer: Any, side: str) -> int:
    """Entries of a side of a layer, or of a bare parameter."""
    if isinstance(layer, torch.Tensor):
        return len(layer)
    if side == "in":
        return int(layer.groups if multiplier(layer) else layer.weight.shape[1])
    return len(layer.weight)


def _attention_shape(attention: Attention) -> dict[str, int]:
    """Heads and their dimensions, as ``prunable.reshape`` takes them."""
    if isinstance(attention, TinyViTAttention):
        return {"heads": attention.num_heads, "key_dim": attention.key_dim, "val_dim": attention.val_dim}
    return {"heads": int(attention.num_heads), "head_dim": int(attention.head_dim)}


def _cut_layer(
    name: str, module: nn.Module, sides: dict[str, np.ndarray], state: dict[str, torch.Tensor]
) -> dict[str, int]:
    """Cut the tensors of a layer in ``state``; returns its sizes as ``prunable.reshape`` takes them."""
    if "through" in sides:
        kept = sides["through"]
        for key in [key for key in state if key.rpartition(".")[0] == name and state[key].ndim]:
            state[key] = state[key][kept]
        n = len(kept)
        return {"in": n, "out": n, "groups": n} if isinstance(module, nn.Conv2d) else {"channels": n}
    weight = state[f"{name}.weight"]
    factor = multiplier(module)
    if factor > 1:
        inputs = sides["in"]
        outputs = (inputs[:, None] * factor + np.arange(factor)).reshape(-1)
        state[f"{name}.weight"] = weight[outputs]
        groups = len(inputs)
    else:
        outputs, inputs = sides.get("out", np.arange(weight.shape[0])), sides.get("in", np.arange(weight.shape[1]))
        state[f"{name}.weight"] = weight[outputs][:, inputs]
        groups = 1
    if f"{name}.bias" in state:
        state[f"{name}.bias"] = state[f"{name}.bias"][outputs]
    sizes = {"in": len(inputs), "out": len(outputs)}
    return {**sizes, "groups": groups} if isinstance(module, nn.Conv2d) else sizes


@torch.no_grad()
def silenced(model: nn.Module, groups: list[Group], keep: Sequence[np.ndarray]) -> nn.Module:
    """A copy of ``model`` in eval mode, of the same shapes, in which nothing reads the units that ``keep`` lacks."""
    silent = copy.deepcopy(model).eval()
    modules: dict[str, Any] = dict(silent.named_modules())
    for group, kept in zip(groups, keep, strict=True):
        gone = np.setdiff1d(np.arange(group.units), kept)
        for member in group.members:
            if not member.reads:
                continue
            layer, entries = modules[member.layer], member.index[gone].reshape(-1)
            if member.side == "in":
                layer.weight[:, entries] = 0
            else:  # queries
                layer.weight[entries] = 0
                if layer.bias is not None:
                    layer.bias[entries] = 0
    return silent
