"""Structured pruning: which channels hang together, which to keep for a budget, and a smaller model without the rest.

torch-pruning's dependency graph (Fang et al., DepGraph, arXiv 2301.12900) finds the layers that lose a channel
together. What it cannot express is added here: FastViT's downsampling convolutions make k outputs from each input
channel, so both sides and what follows are cut as one; attention keeps its heads and each loses as many dimensions.

What a channel is worth is measured on photographs: how far its absence moves the embedding, to first order (Molchanov
et al., arXiv 1906.10771). On a trained FastViT at half its multiply-accumulates this keeps a cosine of 0.998 to the
unpruned embeddings before any recovery, where cutting every layer alike by the size of its weights keeps 0.24.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from timm.models.fastvit import Attention
from torch import nn

from bioclip_lite.errors import UserError
from bioclip_lite.graph import SUPPORTED
from bioclip_lite.models import reshape
from bioclip_lite.progress import progress


@dataclass(frozen=True)
class Member:
    """One dimension of one layer that is cut together with others.

    ``side`` is "in" or "out"; for layers that work channel by channel "through". ``index`` int64 (units, n): the
    entries of that dimension that unit u stands for.
    """

    layer: str
    side: str
    index: np.ndarray


@dataclass(frozen=True)
class Group:
    """``units`` channels, each of which exists in all ``members`` or in none."""

    units: int
    members: list[Member]


def prune(model: nn.Module, images: torch.Tensor, share: float, round_to: int) -> nn.Module:
    """A copy of ``model`` with at most ``share`` of its multiply-accumulates, in eval mode; ``model`` is unchanged.

    Args:
        model: a re-parameterised student, float32 (b, 3, size, size) to (b, outputs). The outputs are never pruned.
        images: preprocessed photographs that tell what each channel is worth, float32 (n, 3, size, size).
        share: of the multiply-accumulates to keep, above 0 to 1.
        round_to: channels come in multiples of this, where a layer had more than this.

    Raises UserError if an operation of the model cannot be pruned, or if no choice of channels meets the budget.
    """
    if share >= 1:
        return copy.deepcopy(model).eval()
    groups = coupled(model, images.shape[-1])
    scores = worth(model, groups, images)
    cost = Cost(model, images.shape[-1], groups)
    keep = plan(scores, cost, share, round_to)
    return cut(model, groups, [best(score, count) for score, count in zip(scores, keep, strict=True)])


# What hangs together


def coupled(model: nn.Module, size: int) -> list[Group]:
    """All groups of channels that may be pruned, in the order of the layers."""
    model = copy.deepcopy(model).eval()  # torch-pruning marks the modules it has seen
    names = {module: name for name, module in model.named_modules()}
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    scales = [p for name, p in model.named_parameters() if name.endswith("gamma") and p.ndim == 3]
    try:
        graph = tp.DependencyGraph().build_dependency(
            model, torch.zeros(1, 3, size, size), unwrapped_parameters=[(scale, 0) for scale in scales]
        )
    except Exception as error:  # torch-pruning asserts, indexes and divides where it meets something it does not know
        raise UserError(
            f"the student cannot be pruned: torch-pruning cannot follow its channels ({_first_line(error)}); "
            f"take another student ({SUPPORTED}) or set prune.macs to 1"
        ) from error
    expanding = [module for module in model.modules() if _multiplier(module) > 1]
    fixed = [*expanding, *(attention.qkv for attention in attentions)]

    groups = []
    for found in graph.get_all_groups(ignored_layers=fixed, root_module_types=[nn.Conv2d, nn.Linear]):
        members = _members(graph, found, names)
        if not any(m.side == "out" and m.layer == _output_layer(model, names) for m in members):
            groups.append(Group(len(members[0].index), members))
    return groups + [_head_dimensions(attention, names[attention]) for attention in attentions]


def _unknown(what: str) -> UserError:
    return UserError(f"the student cannot be pruned: {what}; take another student ({SUPPORTED}) or set prune.macs to 1")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _multiplier(module: nn.Module | None) -> int:
    """Outputs per input channel of a grouped convolution with one input channel per group; else 0."""
    if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels:
        return module.out_channels // module.in_channels
    return 0


def _output_layer(model: nn.Module, names: dict[nn.Module, str]) -> str:
    classifier = model.get_classifier()  # type: ignore[operator]
    return names[classifier]


def _members(graph: tp.DependencyGraph, found: Any, names: dict[nn.Module, str]) -> list[Member]:
    """What a group of torch-pruning cuts, as plain indices, with the layers after an expanding convolution."""
    members: list[Member] = []
    for item in found:
        module, handler = item.dep.target.module, item.dep.handler
        side = "out" if graph.is_out_channel_pruning_fn(handler) else "in"
        if isinstance(module, nn.Parameter):
            name, side = next(n for n, p in graph.model.named_parameters() if p is module), "through"
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) or _multiplier(module) == 1:
            name, side = names[module], "through"
        elif isinstance(module, nn.Conv2d | nn.Linear):
            if isinstance(module, nn.Conv2d) and module.groups > 1 and not _multiplier(module):
                raise _unknown(f"{names[module]} is a convolution with {module.groups} groups of several channels")
            name = names[module]
        elif not list(module.parameters()):
            continue  # additions, activations, reshapes
        else:
            raise _unknown(f"{type(module).__name__} at {names[module]} is not understood")
        index = _by_unit(item.idxs, item.root_idxs, len(found[0].idxs), name)
        if not any(m.layer == name and m.side == side for m in members):
            members.append(Member(name, side, index))
            if _multiplier(module) > 1:
                members += _followers(graph, module, index, names)
    return members


def _by_unit(entries: Sequence[int], units: Sequence[int | None], count: int, name: str) -> np.ndarray:
    """int64 (count, n): the entries of each unit."""
    order = np.argsort(np.asarray([-1 if unit is None else unit for unit in units]), kind="stable")
    if len(entries) % count or sorted({unit for unit in units if unit is not None}) != list(range(count)):
        raise _unknown(f"the channels of {name} are mixed in a way that is not understood")
    return np.asarray(entries, dtype=np.int64)[order].reshape(count, -1)


def _followers(
    graph: tp.DependencyGraph, module: nn.Conv2d, index: np.ndarray, names: dict[nn.Module, str]
) -> list[Member]:
    """The layers after an expanding convolution, for units whose ``index`` counts its input channels."""
    factor = _multiplier(module)
    after = graph.get_pruning_group(module, tp.prune_conv_out_channels, list(range(module.out_channels)))
    outputs = (index[:, :, None] * factor + np.arange(factor)).reshape(len(index), -1)
    return [
        Member(member.layer, member.side, member.index[outputs].reshape(len(index), -1))
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


def _head_dimensions(attention: Attention, name: str) -> Group:
    """Unit u: dimension u of every head, in queries, keys, values and the projection."""
    heads, dim = attention.num_heads, attention.head_dim
    columns = np.arange(dim)[:, None] + dim * np.arange(heads)
    rows = np.concatenate([columns + part * heads * dim for part in range(3)], axis=1)
    return Group(dim, [Member(f"{name}.qkv", "out", rows), Member(f"{name}.proj", "in", columns)])


# What it is worth


def worth(model: nn.Module, groups: list[Group], images: torch.Tensor) -> list[np.ndarray]:
    """For each group float64 (units,): mean square of what the unit adds to the unit embedding, to first order.

    A unit's part in the embedding e is the derivative of e by a factor on the unit, which is the sum of weight x
    gradient over the layers that read it. Its square is estimated along one random direction of e per photograph.
    """
    model = copy.deepcopy(model).eval().requires_grad_(True)
    modules: dict[str, Any] = dict(model.named_modules())
    scores = [np.zeros(group.units) for group in groups]
    random = torch.Generator().manual_seed(0)
    for image in progress(images.split(1), len(images), "prune: photographs measured"):
        model.zero_grad()
        embedding = nn.functional.normalize(model(image), dim=1)
        (embedding * torch.randn(embedding.shape, generator=random)).sum().backward()
        for group, score in zip(groups, scores, strict=True):
            score += sum(_derivative(modules[member.layer], member) for member in _readers(group)) ** 2
    return [score / len(images) for score in scores]


def _readers(group: Group) -> list[Member]:
    """The members through which a unit reaches the output: each path from it passes exactly one."""
    readers = []
    for member in group.members:
        if member.side == "in":
            readers.append(member)
        elif member.layer.endswith(".qkv") and len(group.members) == 2:  # queries meet keys: one of the two counts
            readers.append(Member(member.layer, "out", member.index[:, : member.index.shape[1] // 3]))
    return readers


def _derivative(layer: nn.Conv2d | nn.Linear, member: Member) -> np.ndarray:
    """Of the output by a factor on each unit, as far as this layer sees it: float64 (units,)."""
    if layer.weight.grad is None:  # the output does not depend on it
        return np.zeros(len(member.index))
    product = (layer.weight * layer.weight.grad).detach()
    if member.side == "out":
        entries = product.flatten(1).sum(1)
        if layer.bias is not None and layer.bias.grad is not None:
            entries = entries + (layer.bias * layer.bias.grad).detach()
    elif _multiplier(layer) > 1:
        entries = product.flatten(1).sum(1).reshape(layer.weight.shape[0] // _multiplier(layer), -1).sum(1)
    else:
        entries = product.transpose(0, 1).flatten(1).sum(1)
    return entries.double().numpy()[member.index].sum(axis=1)


# How many to keep


class Cost:
    """Multiply-accumulates of one image as a function of the units that each group keeps."""

    def __init__(self, model: nn.Module, size: int, groups: list[Group]) -> None:
        self.layers = _macs_by_layer(model, size)
        self.units = [group.units for group in groups]
        self._groups_of: dict[str, list[int]] = {name: [] for name in self.layers}
        modules = dict(model.named_modules())
        for number, group in enumerate(groups):
            for member in group.members:
                expanded = member.side == "out" and _multiplier(modules.get(member.layer)) > 1
                if member.layer in self.layers and not expanded:
                    self._groups_of[member.layer].append(number)
                attention = member.layer.removesuffix(".proj")
                if member.side == "in" and attention != member.layer and attention in self.layers:
                    self._groups_of[attention].append(number)

    def total(self, keep: Sequence[int]) -> float:
        shares = [kept / units for kept, units in zip(keep, self.units, strict=True)]
        return sum(
            macs * math.prod(shares[number] for number in self._groups_of[name]) for name, macs in self.layers.items()
        )


@torch.no_grad()
def _macs_by_layer(model: nn.Module, size: int) -> dict[str, int]:
    """Convolutions, linear layers, and attention's two products under the attention's name."""
    macs: dict[str, int] = {}

    def count(name: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            macs[name] = output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs[name] = output[0].numel() * module.in_features
        elif isinstance(module, Attention):
            tokens = output.shape[2] * output.shape[3]
            macs[name] = 2 * tokens**2 * module.num_heads * module.head_dim

    hooks = [module.register_forward_hook(partial(count, name)) for name, module in model.named_modules()]
    try:
        model(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return macs


def plan(scores: Sequence[np.ndarray], cost: Cost, share: float, round_to: int) -> list[int]:
    """Units to keep of each group, so that ``share`` of the multiply-accumulates is used and not exceeded.

    Step by step the group shrinks that loses least per multiply-accumulate; then single steps go back while they fit.
    The loss of a group is the 4/3-norm of its units' parts in the embedding: between the Euclidean norm, as if they
    were independent, and the sum, as if they were alike. (Of the three it kept the best embeddings of a MobileNetV4.)
    """
    choices = [[*range(round_to, units, round_to), units] for units in cost.units]
    parts = [np.sort(np.sqrt(score))[::-1] for score in scores]
    loss = [
        {count: float((part[count:] ** (4 / 3)).sum() ** 1.5) for count in options}
        for part, options in zip(parts, choices, strict=True)
    ]
    keep = list(cost.units)
    budget = share * cost.total(keep)

    def steps(down: bool) -> list[tuple[float, float, int, int]]:
        """(loss per multiply-accumulate, multiply-accumulates then, group, units) of each possible next step."""
        now = cost.total(keep)
        found = []
        for number, options in enumerate(choices):
            place = options.index(keep[number]) + (-1 if down else 1)
            if 0 <= place < len(options):
                count = options[place]
                then = cost.total([*keep[:number], count, *keep[number + 1 :]])
                change = abs(loss[number][count] - loss[number][keep[number]])
                found.append((change / max(abs(now - then), 1e-9), then, number, count))
        return found

    while cost.total(keep) > budget:
        smaller = steps(down=True)
        if not smaller:
            raise UserError(
                f"prune.macs: the budget cannot be reached; with {round_to} channels in every layer (prune.round_to) "
                f"the student keeps {cost.total(keep) / cost.total(cost.units):.3f} of its multiply-accumulates. "
                "Raise prune.macs, lower prune.round_to or take a smaller student"
            )
        _, _, number, count = min(smaller)
        keep[number] = count
    while fitting := [step for step in steps(down=False) if step[1] <= budget]:
        _, _, number, count = max(fitting)
        keep[number] = count
    return keep


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` units of largest score, in ascending order."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])


# Cutting


def cut(model: nn.Module, groups: list[Group], keep: list[np.ndarray]) -> nn.Module:
    """A copy of ``model`` that has only the units ``keep`` (ascending) of each group."""
    entries = {
        (member.layer, member.side): np.sort(member.index[kept].reshape(-1))
        for group, kept in zip(groups, keep, strict=True)
        for member in group.members
        if len(kept) < group.units
    }
    smaller = copy.deepcopy(model).eval().requires_grad_(True)  # timm freezes some layers when it re-parameterises
    state = smaller.state_dict()
    shapes = {}
    for name, module in smaller.named_modules():
        sides = {side: entries[name, side] for side in ("in", "out", "through") if (name, side) in entries}
        if sides:
            shapes[name] = _cut_layer(name, module, sides, state)
        if isinstance(module, Attention) and (f"{name}.proj", "in") in entries:
            shapes[name] = {
                "heads": module.num_heads,
                "head_dim": len(entries[f"{name}.proj", "in"]) // module.num_heads,
            }
    for (name, _), kept in entries.items():
        if name in state:  # a bare parameter: a layer scale
            state[name] = state[name][kept]
    reshape(smaller, shapes, {name: tensor.clone() for name, tensor in state.items()})
    return smaller


def _cut_layer(
    name: str, module: nn.Module, sides: dict[str, np.ndarray], state: dict[str, torch.Tensor]
) -> dict[str, int]:
    """Cut the tensors of a layer in ``state``; returns its sizes as ``models.reshape`` takes them."""
    if "through" in sides:
        kept = sides["through"]
        for key in [key for key in state if key.rpartition(".")[0] == name and state[key].ndim]:
            state[key] = state[key][kept]
        n = len(kept)
        return {"in": n, "out": n, "groups": n} if isinstance(module, nn.Conv2d) else {"channels": n}
    weight = state[f"{name}.weight"]
    factor = _multiplier(module)
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
