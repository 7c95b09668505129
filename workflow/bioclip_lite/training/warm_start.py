"""Start a student from foreign weights: measure its batch statistics and fit its last layer to the targets."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.taxa import label_space
from bioclip_lite.teacher_cache.reader import CachedSplit
from bioclip_lite.training import losses
from bioclip_lite.utils import machine
from bioclip_lite.utils.randomness import drawn

Targets = Callable[
    [Sequence[int]], torch.Tensor
]  # of photographs by their numbers: float64 (b, outputs), on the device

_RIDGE = 1.0  # in units of the features' mean variance
_PROBE_LOGIT = 10.0
_PHOTOGRAPHS = 10_000  # at most: of these, the mean of a feature is good to a hundredth of its deviation


def photographs(images: ShardSet) -> list[int]:
    """Numbers of the photographs that a start is measured on, ascending: all, or _PHOTOGRAPHS drawn by key."""
    return sorted(drawn(images.each_key(), _PHOTOGRAPHS, "distill", "warm start"))


def pixels(images: ShardSet, preprocess: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Plain views of these ``photographs``, float32 (b, 3, size, size) on ``machine.device()``."""
    view = views.plain_view(0)
    plan = [[(i, view) for i in rows] for rows in loading.chunks(photographs(images))]
    return loading.Views(images, preprocess).batches(plan)


@torch.inference_mode()
def measure_batch_norms(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Give every batch normalisation the statistics of ``batches`` (b, 3, size, size); its function stays the same.

    The batches are on the model's device, as ``loading`` gives them for ``machine.device()``.

    Weights that come from an inference format (TFLite) have their normalisations folded into the convolutions: mean 0
    and variance 1 that no data have. In eval mode the network is right, in training mode, which normalises by the
    batch, it is noise. Here scale and shift take up the difference: gamma' = gamma sigma / s,
    beta' = beta + gamma (mu - m) / s, for statistics m, s before and mu, sigma measured.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    # Count, sum, sum of squares.
    sums = {norm: norm.weight.new_zeros(3, norm.num_features, dtype=torch.float64) for norm in norms}

    def add(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0].double().transpose(0, 1).flatten(1)
        sums[norm] += torch.stack([torch.full_like(x[:, 0], x.shape[1]), x.sum(1), x.square().sum(1)])  # type: ignore[index]

    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    model.eval()
    for pixels in batches:
        model(pixels)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        count, total, squares = sums[norm]
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        before = (norm.running_var.double() + norm.eps).sqrt()  # type: ignore[union-attr]
        norm.bias.add_(norm.weight * (mean - norm.running_mean.double()) / before)  # type: ignore[union-attr]
        norm.weight.mul_((variance + norm.eps).sqrt() / before)
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]


def heads(model: nn.Module) -> dict[str, nn.Linear]:
    """The last layers of a timm model, by name; a RepViT or LeViT has two, whose outputs are averaged."""
    classifier = model.get_classifier()  # type: ignore[operator]
    parts = classifier if isinstance(classifier, tuple) else (classifier,)
    last = {layer for part in parts for layer in part.modules()}
    return {name: module for name, module in model.named_modules() if module in last and isinstance(module, nn.Linear)}


def embeddings(train: CachedSplit) -> Targets:
    """The first teacher's embeddings of the plain views."""
    return lambda rows: machine.moved(torch.from_numpy(np.stack([train.target(i, 0) for i in rows]))).double()


def leaves(data: Path, train: CachedSplit) -> Targets:
    """Logits that single out the leaves of each photograph's taxon."""
    every, ranges = _labelled(data, train)
    return lambda rows: _PROBE_LOGIT * losses.under(machine.moved(torch.tensor(ranges(rows))), len(every)).double()


def texts(data: Path, train: CachedSplit) -> Targets:
    """The first teacher's embedding of the name of each photograph's taxon: the unit mean of those of its leaves."""
    _, ranges = _labelled(data, train)
    text = torch.from_numpy(train.taxa[0].text).double()
    return lambda rows: machine.moved(
        F.normalize(torch.stack([text[start:stop].mean(0) for start, stop in ranges(rows)]), dim=1)
    )


def _labelled(data: Path, train: CachedSplit) -> tuple[list[str], Callable[[Sequence[int]], list[tuple[int, int]]]]:
    """(all leaves; what gives the first of those below the taxon of each photograph, and the one after the last)."""
    every, below = label_space.leaves_below(data)

    def ranges(rows: Sequence[int]) -> list[tuple[int, int]]:
        labels = (below[train.images.taxon_id(i)] for i in rows)  # type: ignore[index]  # a control has labels
        return [(leaves_of.start, leaves_of.stop) for leaves_of in labels]

    return every, ranges


@torch.inference_mode()
def fit_head(model: nn.Module, preprocess: dict[str, Any], train: CachedSplit, targets: Targets) -> None:
    """Set the last layers of a timm model, in place, by ridge regression from their inputs to the targets.

    For a network that starts from foreign weights: a random last layer would send large gradients through good features
    and spoil them before it fits (linear probing before fine-tuning, arXiv 2202.10054). The photographs are those of
    ``pixels``. The model is on ``machine.device()``. Only sums over the photographs are kept, so memory does not grow
    with their number.

    Args:
        targets: ``embeddings``, ``leaves`` or ``texts``, as many numbers a photograph as the model has outputs.
    """
    sums = {head: _Sums(head) for head in heads(model).values()}
    read: dict[nn.Module, torch.Tensor] = {}
    hooks = [
        head.register_forward_pre_hook(lambda layer, inputs: read.__setitem__(layer, inputs[0].double()))
        for head in sums
    ]
    model.eval()
    for rows, shown in zip(loading.chunks(photographs(train.images)), pixels(train.images, preprocess), strict=True):
        model(shown)
        y = targets(rows)
        for head, own in sums.items():
            own.add(read[head], y)
    for hook in hooks:
        hook.remove()
    for head, own in sums.items():
        weight, bias = own.regression()
        head.weight.copy_(weight)
        head.bias.copy_(bias)


class _Sums:
    """The sums over (n, in) and (n, out) that ridge regression needs, added up batch by batch."""

    def __init__(self, layer: nn.Linear) -> None:
        self.n = 0
        zeros = functools.partial(layer.weight.new_zeros, dtype=torch.float64)
        self.x, self.y = zeros(layer.in_features), zeros(layer.out_features)
        self.xx = zeros(layer.in_features, layer.in_features)
        self.xy = zeros(layer.in_features, layer.out_features)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.n += len(x)
        self.x, self.y, self.xx, self.xy = self.x + x.sum(0), self.y + y.sum(0), self.xx + x.T @ x, self.xy + x.T @ y

    def regression(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(weight (out, in), bias (out,))."""
        x, y = self.x / self.n, self.y / self.n
        covariance = self.xx / self.n - torch.outer(x, x)
        ridge = _RIDGE * covariance.diagonal().mean() * torch.eye(len(x), dtype=x.dtype, device=x.device)
        weight = torch.linalg.solve(covariance + ridge, self.xy / self.n - torch.outer(x, y)).T
        return weight, y - weight @ x
