"""Structured pruning: which channels hang together, which to keep for a budget, and a smaller model without the rest.

torch-pruning's dependency graph (Fang et al., DepGraph, arXiv 2301.12900) finds the layers that lose a channel
together. What it cannot express is added here: FastViT's downsampling convolutions make k outputs from each input
channel, so both sides and what follows are cut as one; attention keeps its heads and each loses as many dimensions.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from timm.models.fastvit import Attention
from torch import nn

from bioclip_lite.errors import UserError
from bioclip_lite.graph import SUPPORTED
from bioclip_lite.models import reshape


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
    """``units`` channels, each of which exists in all ``members`` or in none. ``importance`` float64 (units,)."""

    units: int
    members: list[Member]
    importance: np.ndarray


def prune(model: nn.Module, size: int, share: float, round_to: int) -> nn.Module:
    """A copy of ``model`` with at most ``share`` of its multiply-accumulates, in eval mode; ``model`` is unchanged.

    Args:
        model: a re-parameterised student, float32 (b, 3, size, size) to (b, outputs). The outputs are never pruned.
        size: side of the images in pixels.
        share: of the multiply-accumulates to keep, above 0 to 1.
        round_to: channels come in multiples of this, where a layer had more than this.

    Every layer keeps about the same share of its channels, those of largest magnitude; what the budget has left is
    given to the layers that kept the smallest share.

    Raises UserError if an operation of the model cannot be pruned, or if no choice of channels meets the budget.
    """
    if share >= 1:
        return copy.deepcopy(model).eval()
    groups = coupled(model, size)
    cost = _Cost(model, size, groups)
    keep = _plan(groups, cost, share * cost.total([group.units for group in groups]), round_to)
    return cut(model, groups, [_largest(group, count) for group, count in zip(groups, keep, strict=True)])


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
            groups.append(_with_importance(model, members))
    groups += [_head_dimensions(model, attention, names[attention]) for attention in attentions]
    return groups


def _unknown(what: str) -> UserError:
    return UserError(f"the student cannot be pruned: {what}; take another student ({SUPPORTED}) or set prune.macs to 1")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _multiplier(module: nn.Module) -> int:
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


def _with_importance(model: nn.Module, members: list[Member]) -> Group:
    """Group magnitude: a unit's squared norm in each layer, relative to that layer's mean, averaged over the layers."""
    modules = dict(model.named_modules())
    units = len(members[0].index)
    scores = []
    for member in members:
        if member.layer not in modules:
            continue  # a layer scale, whose size depends on how the block was initialised
        module: Any = modules[member.layer]
        squares = module.weight.detach().double().square()
        if member.side == "in" and _multiplier(module) > 1:
            per_entry = squares.flatten(1).sum(1).reshape(module.in_channels, -1).sum(1)
        elif member.side == "in":
            per_entry = squares.transpose(0, 1).flatten(1).sum(1)
        else:
            per_entry = squares.reshape(len(squares), -1).sum(1)
        score = per_entry.numpy()[member.index].sum(axis=1)
        if score.mean() > 0:
            scores.append(score / score.mean())
    return Group(units, members, np.mean(scores, axis=0) if scores else np.zeros(units))


def _head_dimensions(model: nn.Module, attention: Attention, name: str) -> Group:
    """Unit u: the u-th strongest dimension of every head, in queries, keys, values and the projection."""
    heads, dim = attention.num_heads, attention.head_dim
    rows = attention.qkv.weight.detach().double().square().sum(1).reshape(3, heads, dim)
    columns = attention.proj.weight.detach().double().square().sum(0).reshape(1, heads, dim)
    strength = sum(part / part.mean() for part in (*rows, columns[0]))
    ranked = np.argsort(-strength.numpy(), axis=1, kind="stable").T  # (dim, heads)
    columns_of = ranked + dim * np.arange(heads)
    rows_of = np.concatenate([columns_of + part * heads * dim for part in range(3)], axis=1)
    members = [Member(f"{name}.qkv", "out", rows_of), Member(f"{name}.proj", "in", columns_of)]
    importance = np.take_along_axis(strength.numpy(), ranked.T, axis=1).mean(axis=0)
    return Group(dim, members, importance)


# How many to keep


class _Cost:
    """Multiply-accumulates as a function of the units that each group keeps."""

    def __init__(self, model: nn.Module, size: int, groups: list[Group]) -> None:
        self.layers = _macs_by_layer(model, size)
        modules = dict(model.named_modules())
        self.dependence: dict[str, list[int]] = {name: [] for name in self.layers}
        self.units = [group.units for group in groups]
        for number, group in enumerate(groups):
            for member in group.members:
                if member.layer in self.layers and not (
                    member.side == "out" and _multiplier(modules[member.layer]) > 1
                ):
                    self.dependence[member.layer].append(number)
                attention = member.layer.removesuffix(".proj")
                if member.side == "in" and attention != member.layer and attention in self.layers:
                    self.dependence[attention].append(number)

    def total(self, keep: Sequence[int]) -> float:
        shares = [kept / units for kept, units in zip(keep, self.units, strict=True)]
        return sum(
            macs * float(np.prod([shares[number] for number in self.dependence[name]]))
            for name, macs in self.layers.items()
        )


@torch.no_grad()
def _macs_by_layer(model: nn.Module, size: int) -> dict[str, int]:
    """Of one image: convolutions, linear layers, and attention's two products under the attention's name."""
    macs: dict[str, int] = {}
    hooks = []

    def count(name: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            macs[name] = output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs[name] = output[0].numel() * module.in_features
        elif isinstance(module, Attention):
            tokens = output.shape[2] * output.shape[3]
            macs[name] = 2 * tokens**2 * module.num_heads * module.head_dim

    for name, module in model.named_modules():
        hooks.append(module.register_forward_hook(lambda m, i, o, name=name: count(name, m, i, o)))
    try:
        model(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return macs


def _plan(groups: list[Group], cost: _Cost, budget: float, round_to: int) -> list[int]:
    """Units to keep of each group: an even share of all, then single steps while they fit the budget."""
    choices = [_choices(group.units, round_to) for group in groups]

    def evenly(share: float) -> list[int]:
        return [max([n for n in options if n <= share * options[-1]] or options[:1]) for options in choices]

    shares = sorted({n / options[-1] for options in choices for n in options})
    affordable = [share for share in shares if cost.total(evenly(share)) <= budget]
    if not affordable:
        least = cost.total(evenly(0.0)) / cost.total([group.units for group in groups])
        raise UserError(
            f"prune.macs: the budget cannot be reached; with {round_to} channels in every layer (prune.round_to) the "
            f"student keeps {least:.3f} of its multiply-accumulates. Raise prune.macs, lower prune.round_to or "
            "take a smaller student"
        )
    keep = evenly(max(affordable))
    while True:
        best: tuple[float, int, int] | None = None
        for number, options in enumerate(choices):
            larger = [n for n in options if n > keep[number]]
            if larger and cost.total([*keep[:number], larger[0], *keep[number + 1 :]]) <= budget:
                best = min(best or (2.0, 0, 0), (keep[number] / options[-1], number, larger[0]))
        if best is None:
            return keep
        keep[best[1]] = best[2]


def _choices(units: int, round_to: int) -> list[int]:
    """Multiples of ``round_to`` and all of them."""
    return [*range(round_to, units, round_to), units]


def _largest(group: Group, count: int) -> np.ndarray:
    """The ``count`` most important units, in ascending order."""
    return np.sort(np.argsort(-group.importance, kind="stable")[:count])


# Cutting


def cut(model: nn.Module, groups: list[Group], keep: list[np.ndarray]) -> nn.Module:
    """A copy of ``model`` that has only the units ``keep`` (ascending) of each group."""
    entries = {
        (member.layer, member.side): np.sort(member.index[kept].reshape(-1))
        for group, kept in zip(groups, keep, strict=True)
        for member in group.members
        if len(kept) < group.units
    }
    smaller = copy.deepcopy(model).eval()
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
