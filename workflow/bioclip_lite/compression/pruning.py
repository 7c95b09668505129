"""Structured pruning to a budget: score the units, plan how many each group keeps, cut the rest.

The score of a unit (a channel, a head ...) is measured on photographs: how far its absence moves the embedding, to
first order (Molchanov et al., arXiv 1906.10771). On a trained FastViT at half its multiply-accumulates this keeps a
cosine of 0.998 to the unpruned embeddings before any recovery; cutting the same share of every layer by the size of its
weights keeps 0.24. benchmarks/prune.md compares it with the other scores.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from bioclip_lite.compression.coupling import Attention, Group, Member, coupled, cut, multiplier
from bioclip_lite.models import costs
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.progress import progress

QUANTITIES = {
    "macs": "multiply-accumulates",
    "params": "parameters",
    "bytes": "bytes with INT8 weights",
    "ms": "milliseconds an image",
}
_TRIED = 8  # photographs on which each group is tried
_SHARES = 64  # of the multiply-accumulates: the steps in which a budget of milliseconds is searched


def limit(model: nn.Module, size: int, budget: dict[str, float], milliseconds: float = math.nan) -> tuple[str, float]:
    """Resolve a one-entry budget to (quantity, upper bound); values up to 1 are fractions of the model's.

    ``milliseconds``: the model's time for one image, for a budget of milliseconds.
    """
    ((quantity, amount),) = budget.items()
    if amount > 1:
        return quantity, amount
    return quantity, amount * (milliseconds if quantity == "ms" else _total(model, size, quantity))


def _total(model: nn.Module, size: int, quantity: str) -> int:
    if quantity == "macs":
        return costs.macs(model, torch.zeros(1, 3, size, size))
    return costs.parameters(model) if quantity == "params" else costs.int8_bytes(model)


def prune(
    model: nn.Module,
    images: torch.Tensor,
    quantity: str,
    most: float,
    *,
    round_to: int,
    importance: str = "embedding",
    ranking: str = "global",
    taught: torch.Tensor | None = None,
    milliseconds: Callable[[nn.Module], float] | None = None,
) -> nn.Module:
    """A copy of ``model`` with at most ``most`` of a quantity, in eval mode; ``model`` is unchanged.

    Args:
        model: a re-parameterised student, float32 (b, 3, size, size) to (b, outputs). The outputs are never pruned.
        images: preprocessed photographs to score the units on, float32 (n, 3, size, size).
        quantity: one of QUANTITIES; most: its upper bound, see ``limit``.
        round_to: channels come in multiples of this, where a layer had more than this. Heads come one by one.
        importance, ranking: see ``worth`` and ``plan``.
        taught: the teacher's embeddings of the photographs, float32 (n, outputs), for importance "taylor".
        milliseconds: measures a model's time for one image, for quantity "ms".

    Raises UserError if an operation of the model cannot be pruned, or if no choice of units meets the budget.
    """
    size = images.shape[-1]
    if (milliseconds(model) if quantity == "ms" and milliseconds else _total(model, size, quantity)) <= most:
        return copy.deepcopy(model).eval()
    groups, whole = coupled(model, images[:_TRIED])
    scores = worth(model, groups, images, importance, taught)
    if quantity == "ms" and milliseconds:
        return _within(model, groups, scores, whole, most, milliseconds, size, round_to, ranking)
    keep = plan(scores, Cost(model, size, groups, quantity), most, round_to, ranking, whole)
    return cut(model, groups, _chosen(scores, keep))


def _within(
    model: nn.Module,
    groups: list[Group],
    scores: list[np.ndarray],
    whole: list[str],
    most: float,
    milliseconds: Callable[[nn.Module], float],
    size: int,
    round_to: int,
    ranking: str,
) -> nn.Module:
    """Find by bisection the largest share of the multiply-accumulates that is fast enough; time falls with them."""
    cost = Cost(model, size, groups, "macs")
    found, below, above = None, 0, _SHARES
    while above - below > 1:
        share = (below + above) // 2
        try:
            keep = plan(scores, cost, share / _SHARES * cost.total(cost.units), round_to, ranking, whole)
        except UserError:  # less is not possible
            below = share
            continue
        candidate = cut(model, groups, _chosen(scores, keep))
        if milliseconds(candidate) <= most:
            found, below = candidate, share
        else:
            above = share
    if found is None:
        raise UserError(
            f"prune.budget.ms: no choice of channels takes at most {most:.3g} ms an image on this computer. Raise the "
            f"budget, lower prune.round_to or take a smaller student"
        )
    return found


def _chosen(scores: Sequence[np.ndarray], keep: Sequence[int]) -> list[np.ndarray]:
    return [best(score, count) for score, count in zip(scores, keep, strict=True)]


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` units of largest score, in ascending order."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])


# Scores


def worth(
    model: nn.Module, groups: list[Group], images: torch.Tensor, importance: str, taught: torch.Tensor | None = None
) -> list[np.ndarray]:
    """For each group float64 (units,), in squared units of what is measured.

    A unit's part in a number is the derivative of the number by a factor on the unit, which is the sum of weight x
    gradient over the layers that read it. Means are over photographs:

    embedding: mean square of the part in the unit embedding, along one random direction of it per photograph.
    taylor: mean square of the part in the loss, 1 - cosine to the teacher's embedding (Molchanov et al.).
    hessian: sum over the weights that read the unit of half the square of the weight x the mean square of its gradient,
        along random directions as above: the diagonal of the Gauss-Newton matrix (Optimal Brain Damage, LeCun 1990).
    magnitude: sum of squares of all weights that are cut with the unit (arXiv 2301.12900). Needs no photographs.

    Computed on the CPU, one photograph at a time: stage prune asks for 128 photographs whatever the data, which take
    13 s with fastvit_t8 at 224 pixels.
    """
    if importance == "magnitude":
        layers: dict[str, Any] = dict(model.named_modules())
        return [
            sum((_by_unit(layers[m.layer], m, torch.square) for m in _weighed(group, layers)), np.zeros(group.units))
            for group in groups
        ]
    model = copy.deepcopy(model).eval().requires_grad_(True)
    modules: dict[str, Any] = dict(model.named_modules())
    scores = [np.zeros(group.units) for group in groups]
    random = torch.Generator().manual_seed(0)
    for number, image in enumerate(progress(images.split(1), len(images), "prune: photographs measured")):
        model.eval()  # TinyViT remembers its biases, and with them a graph that is gone
        model.zero_grad()
        embedding = nn.functional.normalize(model(image), dim=1)
        if importance == "taylor":
            assert taught is not None
            nn.functional.cosine_similarity(embedding, taught[number : number + 1]).sum().backward()
        else:
            (embedding * torch.randn(embedding.shape, generator=random)).sum().backward()
        for group, score in zip(groups, scores, strict=True):
            readers = [member for member in group.members if member.reads]
            if importance == "hessian":
                score += 0.5 * sum(_by_unit(modules[m.layer], m, _squared_part) for m in readers)
            else:
                score += sum(_by_unit(modules[m.layer], m, _part) for m in readers) ** 2
    return [score / len(images) for score in scores]


def _part(weight: torch.Tensor) -> torch.Tensor:
    return weight * (0 if weight.grad is None else weight.grad)  # None: the output does not depend on it


def _squared_part(weight: torch.Tensor) -> torch.Tensor:
    return _part(weight).square()


def _weighed(group: Group, layers: dict[str, Any]) -> Iterator[Member]:
    return (m for m in group.members if isinstance(layers.get(m.layer), nn.Conv2d | nn.Linear))


def _by_unit(
    layer: nn.Conv2d | nn.Linear, member: Member, measure: Callable[[torch.Tensor], torch.Tensor]
) -> np.ndarray:
    """The sum of ``measure`` over the weights (for rows also the biases) of each unit: float64 (units,)."""
    with torch.no_grad():
        weight = measure(layer.weight)
        if member.side != "in":
            entries = weight.flatten(1).sum(1)
            if layer.bias is not None:
                entries = entries + measure(layer.bias)
        elif multiplier(layer):
            entries = weight.flatten(1).sum(1).reshape(-1, multiplier(layer)).sum(1)
        else:
            entries = weight.transpose(0, 1).flatten(1).sum(1)
    return entries.double().numpy()[member.index].sum(axis=1)


# Costs


Side = tuple[str, str]  # layer or bare parameter; "in", "out" or "through"


class Cost:
    """A quantity (not "ms") as a function of the units that each group keeps; exact."""

    def __init__(self, model: nn.Module, size: int, groups: list[Group], quantity: str) -> None:
        self.quantity = quantity
        self.units = [group.units for group in groups]
        self.kinds, self.roles = [group.kind for group in groups], [group.role for group in groups]
        self._sides = _sides(model, groups)
        self._terms = [
            (factor, sides)
            for factor, sides in (_mac_terms(model, size) if quantity == "macs" else _size_terms(model, quantity))
            if any(self._sides[side][1] for side in sides)
        ]
        self._of_group: list[list[int]] = [[] for _ in groups]
        for number, (_, sides) in enumerate(self._terms):
            for group in {g for side in sides for _, numbers in self._sides[side][1] for g in numbers}:
                self._of_group[group].append(number)
        self._rest = 0.0
        self._rest = _total(model, size, quantity) - self.total(self.units)

    def total(self, keep: Sequence[int]) -> float:
        return self._rest + sum(self._term(number, keep) for number in range(len(self._terms)))

    def change(self, keep: Sequence[int], group: int, count: int) -> float:
        """The change of the total if ``group`` keeps ``count`` units instead."""
        then = [*keep[:group], count, *keep[group + 1 :]]
        return sum(self._term(number, then) - self._term(number, keep) for number in self._of_group[group])

    def _term(self, number: int, keep: Sequence[int]) -> float:
        factor, sides = self._terms[number]
        return factor * math.prod(self._left(side, keep) for side in sides)

    def _left(self, side: Side, keep: Sequence[int]) -> int:
        """Entries of a side of a layer."""
        size, blocks = self._sides[side]
        for covered, groups in blocks:
            size -= covered - covered * math.prod(keep[g] for g in groups) // math.prod(self.units[g] for g in groups)
        return size


def _sides(model: nn.Module, groups: list[Group]) -> dict[Side, tuple[int, list[tuple[int, list[int]]]]]:
    """Map each side to its number of entries and its blocks that the same groups cut: [(entries, groups)].

    The outputs of an expanding convolution, which follow its inputs, are no side of their own.
    """
    sizes: dict[Side, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            sizes |= {(name, side): _full(module, side) for side in _sides_of(module)}
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            sizes[name, "through"] = module.num_features
    sizes |= {(name, "through"): len(parameter) for name, parameter in model.named_parameters() if parameter.ndim}
    cutting: dict[Side, list[set[int]]] = {side: [set() for _ in range(size)] for side, size in sizes.items()}
    for number, group in enumerate(groups):
        for member in group.members:
            for entry in member.index.reshape(-1) if (member.layer, member.side) in cutting else ():
                cutting[member.layer, member.side][entry].add(number)
    blocks = {side: Counter(tuple(sorted(by)) for by in entries if by) for side, entries in cutting.items()}
    return {side: (size, [(n, list(by)) for by, n in blocks[side].items()]) for side, size in sizes.items()}


def _sides_of(layer: nn.Conv2d | nn.Linear) -> tuple[str, ...]:
    """The sides whose lengths multiply to the number of its weights."""
    if multiplier(layer):
        return ("in",) if multiplier(layer) > 1 else ("through",)
    return ("in", "out")


def _full(layer: nn.Conv2d | nn.Linear, side: str) -> int:
    if multiplier(layer):
        return int(layer.groups)  # type: ignore[arg-type]
    return int(layer.weight.shape[1 if side == "in" else 0])


def _per_entry(layer: nn.Conv2d | nn.Linear) -> int:
    """Weights for each combination of entries of its sides: the size of the kernel."""
    return layer.weight.numel() // math.prod(_full(layer, side) for side in _sides_of(layer))


@torch.no_grad()
def _mac_terms(model: nn.Module, size: int) -> list[tuple[float, tuple[Side, ...]]]:
    """(multiply-accumulates, sides whose lengths multiply them) of the layers and of attention's two products."""
    terms: list[tuple[float, tuple[Side, ...]]] = []

    def count(name: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            positions = output[0, 0].numel() if isinstance(module, nn.Conv2d) else output.numel() // output.shape[-1]
            terms.append((positions * _per_entry(module), tuple((name, side) for side in _sides_of(module))))
        elif isinstance(module, Attention):
            x = inputs[0]
            sequences, tokens = (1, x[0, 0].numel()) if x.ndim == 4 else x.shape[:2]
            # Queries and keys are the rows of qkv without the values, values the columns of proj; both meet all tokens.
            half = sequences * tokens**2 / 2
            terms.append((half, ((f"{name}.qkv", "out"),)))
            terms.append((half, ((f"{name}.proj", "in"),)))

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: count(name, module, inputs, output))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | Attention)
    ]
    try:
        model(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return terms


def _size_terms(model: nn.Module, quantity: str) -> list[tuple[float, tuple[Side, ...]]]:
    """(parameters or bytes, sides whose lengths multiply them), as costs.parameters and costs.int8_bytes count them."""
    terms: list[tuple[float, tuple[Side, ...]]] = []
    inside = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            sides = tuple((name, side) for side in _sides_of(module))
            terms.append((_per_entry(module), sides))
            rows = 4 if quantity == "bytes" else int(module.bias is not None)
            terms.append((rows * max(1, multiplier(module)), sides[-1:]))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if quantity == "params" and module.affine:
                terms.append((2, ((name, "through"),)))
        else:
            continue
        inside |= {f"{name}.{own}" for own, _ in module.named_parameters()}
    for name, parameter in model.named_parameters():
        if name not in inside and parameter.ndim and (quantity == "params" or not name.endswith("gamma")):
            each = parameter.numel() // len(parameter) * (1 if quantity == "params" else 4)
            terms.append((each, ((name, "through"),)))
    return terms


# Plan


def plan(
    scores: Sequence[np.ndarray],
    cost: Cost,
    most: float,
    round_to: int,
    ranking: str,
    whole: Sequence[str] = (),
) -> list[int]:
    """Units to keep of each group, so that ``most`` of the quantity is used and not exceeded.

    global: step by step the group shrinks that loses least per multiply-accumulate (parameter, byte) won.
    isomorphic (Fang et al., arXiv 2407.04616): groups that do the same at other depths are ranked among themselves, and
    of each such class the same share of units goes.

    Then single steps go back while they fit. The loss of a group is the 4/3-norm of its units' parts: between the
    Euclidean norm, as if they were independent, and the sum, as if they were alike. (Of the three it kept the best
    embeddings of a MobileNetV4.) ``whole`` names what keeps its width, for the error. Raises UserError if the budget
    is out of reach.
    """
    steps = [round_to if kind != "heads" else 1 for kind in cost.kinds]
    choices = [[*range(step, units, step), units] for step, units in zip(steps, cost.units, strict=True)]
    if (least := cost.total([options[0] for options in choices])) > most:
        kept = "; these keep their width: " + ", ".join(whole[:4]) if whole else ""
        raise UserError(
            f"prune.budget.{cost.quantity}: the budget cannot be reached; with {round_to} channels in every layer "
            f"(prune.round_to) the student keeps {least / cost.total(cost.units):.3f} of its "
            f"{QUANTITIES[cost.quantity]}{kept}. Raise the budget, lower prune.round_to or take a smaller student"
        )
    parts = [np.sort(np.sqrt(score))[::-1] for score in scores]
    loss = [
        {count: float((part[count:] ** (4 / 3)).sum() ** 1.5) for count in options}
        for part, options in zip(parts, choices, strict=True)
    ]
    keep = list(cost.units)

    def step(number: int, by: int) -> tuple[float, float, int, int] | None:
        """(loss per quantity, change of the quantity, group, units) of the next step of a group."""
        place = choices[number].index(keep[number]) + by
        if not 0 <= place < len(choices[number]):
            return None
        count = choices[number][place]
        change = cost.change(keep, number, count)
        lost = abs(loss[number][count] - loss[number][keep[number]])
        return lost / max(abs(change), 1e-9), change, number, count

    def possible(by: int) -> list[tuple[float, float, int, int]]:
        return [found for number in range(len(keep)) if (found := step(number, by))]

    if ranking == "isomorphic":
        keep = _alike(parts, cost, most, choices)
    now = cost.total(keep)
    while now > most:
        _, change, number, count = min(possible(-1))
        keep[number], now = count, now + change
    while fitting := [found for found in possible(1) if now + found[1] <= most]:
        _, change, number, count = max(fitting)
        keep[number], now = count, now + change
    return keep


def _alike(parts: list[np.ndarray], cost: Cost, most: float, choices: list[list[int]]) -> list[int]:
    """Units to keep of each group if of every class of groups the same share goes, the largest that fits ``most``."""
    classes = [[n for n, role in enumerate(cost.roles) if role == one] for one in dict.fromkeys(cost.roles)]
    ranked = {tuple(numbers): np.sort(np.concatenate([parts[n] for n in numbers])) for numbers in classes}

    def kept(share: float) -> list[int]:
        keep = list(cost.units)
        for numbers, values in ranked.items():
            place = math.floor(share * len(values))
            threshold = values[place] if place < len(values) else math.inf
            for n in numbers:
                count = int((parts[n] >= threshold).sum())
                keep[n] = min(choices[n], key=lambda option: abs(option - count))
        return keep

    below, above = 0.0, 1.0
    for _ in range(30):
        share = (below + above) / 2
        below, above = (below, share) if cost.total(kept(share)) <= most else (share, above)
    return kept(above)
