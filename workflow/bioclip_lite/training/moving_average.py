"""Moving average of a model's weights, with which training measures and ends."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of all floating-point parameters and statistics of ``model``.

    ``tensors`` maps names of the state dict to their averages; empty if ``decay`` is 0, and then nothing here does
    anything.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors = {name: x.clone() for name, x in _floats(model).items()} if decay else {}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move towards the model after step ``step`` (0 ...) of the training.

        The decay is at most (1 + step) / (10 + step), so that the average does not stay near the initial weights.
        """
        if self.tensors:
            now = _floats(self.model)
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.tensors.values()), [now[name] for name in self.tensors], 1 - decay)

    @torch.no_grad()
    def exchange(self) -> None:
        """Swap the values of the model and of the average."""
        now = _floats(self.model)
        for name, mean in self.tensors.items():
            value = now[name].clone()
            now[name].copy_(mean)
            mean.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model has the averaged values."""
        self.exchange()
        yield
        self.exchange()


def _floats(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: x for name, x in model.state_dict().items() if x.is_floating_point()}
