"""Gradient accumulation: a batch that memory does not hold is embedded in parts; its loss is that of the whole batch.

A contrastive loss compares every photograph with every caption of a batch, so the losses of its parts do not add up to
it. As open_clip's ``accum-freq`` and GradCache (arXiv 2101.06983) do, each part is embedded twice: first for the loss,
without what its gradients need, and again when the gradients reach it. That is activation checkpointing, one part being
a segment, which PyTorch has.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bioclip_lite.training import distributed


def in_parts(
    model: nn.Module, encode: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, total: int, parts: int
) -> torch.Tensor:
    """``encode(rows)``, (b, D), in ``parts`` (at least 1) of which one at a time is in memory with its activations.

    Gradients are those of one part to rounding, unless the model normalises by the batch: by the part, then.

    Args:
        model: what ``encode`` computes with.
        rows: (b, ...) this process's part of the batch, on the model's device: what dropout draws there is drawn again
            only for arguments that are there.
        total: rows of the whole batch, over all processes; if they are too few, so are the parts.
    """
    parts = max(1, min(parts, total // distributed.size()))  # as many in every process: they normalise together
    if parts == 1:
        return encode(rows)
    own = rows.tensor_split(parts)
    contexts = partial(_first_and_again, model)
    return torch.cat([checkpoint(encode, part, use_reentrant=False, context_fn=contexts) for part in own])


def _first_and_again(model: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _again(model)


@contextmanager
def _again(model: nn.Module) -> Iterator[None]:
    """Within it ``model`` computes as in the first pass, but on copies of its statistics: each part counts once."""
    buffers = [(module, *named) for module in model.modules() for named in module.named_buffers(recurse=False)]
    for module, name, buffer in buffers:
        setattr(module, name, buffer.clone())
    try:
        with distributed.synchronised_norms():
            yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
