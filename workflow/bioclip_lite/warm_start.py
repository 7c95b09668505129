"""Start a student from foreign weights: its batch statistics, and a last layer for what it shall learn."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bioclip_lite import training
from bioclip_lite.distillation import Cached

_RIDGE = 1.0  # in units of the features' mean variance
_PROBE_LOGIT = 10.0


@torch.inference_mode()
def measure_batch_norms(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Give every batch normalisation the statistics of ``batches`` (b, 3, size, size); what it computes stays the same.

    Weights that come from an inference format (TFLite) have their normalisations folded into the convolutions: mean 0
    and variance 1 that no data have. In eval mode the network is right, in training mode, which normalises by the
    batch, it is noise. Here scale and shift take up the difference: gamma' = gamma sigma / s,
    beta' = beta + gamma (mu - m) / s, for statistics m, s before and mu, sigma measured.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    sums = {norm: torch.zeros(3, norm.num_features).double() for norm in norms}  # count, sum, sum of squares

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


@torch.inference_mode()
def fit_head(model: nn.Module, data: Path, preprocess: dict[str, Any], train: Cached, *, control: bool = False) -> None:
    """Set the last layer of a timm model, in place, by ridge regression from its features to what it shall learn.

    For a network that starts from foreign weights: a random last layer would send large gradients through good features
    and spoil them before it fits (linear probing before fine-tuning, arXiv 2202.10054). Targets are the teacher's
    embeddings of the plain views of split "train", or for the ``control`` logits that single out the leaves of each
    taxon. Only sums over the photographs are kept, so memory does not grow with their number.
    """
    head = model.get_classifier()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        return
    _, below = training.leaves_below(data)
    model.eval()
    start = 0
    x_sum, y_sum = torch.zeros(head.in_features).double(), torch.zeros(head.out_features).double()
    xx = torch.zeros(head.in_features, head.in_features).double()
    xy = torch.zeros(head.in_features, head.out_features).double()
    for pixels in training.plain_pixels(train.images, preprocess):
        x = model.forward_head(model.forward_features(pixels), pre_logits=True).double()  # type: ignore[operator]
        y = torch.zeros(len(x), head.out_features).double()
        for b, i in enumerate(range(start, start + len(x))):
            if control:
                y[b, below[train.images.taxon_ids[i]]] = _PROBE_LOGIT
            else:
                y[b] = torch.from_numpy(train.target(i, 0)).double()
        x_sum, y_sum, xx, xy = x_sum + x.sum(0), y_sum + y.sum(0), xx + x.T @ x, xy + x.T @ y
        start += len(x)
    x_mean, y_mean = x_sum / start, y_sum / start
    covariance = xx / start - torch.outer(x_mean, x_mean)
    ridge = _RIDGE * covariance.diagonal().mean() * torch.eye(head.in_features).double()
    weight = torch.linalg.solve(covariance + ridge, xy / start - torch.outer(x_mean, y_mean)).T
    head.weight.copy_(weight)
    head.bias.copy_(y_mean - weight @ x_mean)
