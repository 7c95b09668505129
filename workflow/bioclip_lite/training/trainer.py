"""The one trainer, of teachers and students (``fit``), and what they share: the machine, the data, the tree.

Everything random comes from names (seed, stage, epoch, key), so a run does not depend on the number of workers, and two
runs on one machine with the same number of threads give the same weights. So does a run that was stopped, at any step,
and continued (``checkpoint``). Several processes train as one does (``distributed``), to rounding.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tensorboardX import SummaryWriter
from torch import nn

from bioclip_lite.training import checkpoint, distributed
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import digest

_WARM_UP = 0.1  # share of the steps
_CLIP = 1.0  # largest norm of the gradient
_SECONDS_KEPT_SHORT = 60.0  # of training between checkpoints at the end of an epoch ...
_SECONDS_KEPT_LONG = 600.0  # ... and within one


# Machine


# Data


def log_folder(data: Path, stage: str, job: str) -> Path:
    """Where a training writes for TensorBoard: beside the data folder, with the logs of the jobs."""
    return data.parent / "logs" / "tensorboard" / f"{stage}-{job}"


# Optimisation


def optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101); biases, norms and scales do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first tenth of the steps, then half a cosine down to zero."""
    warm_up = max(1, round(_WARM_UP * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def fit(
    model: nn.Module,
    epoch_batches: Callable[[int, int], Iterable[Any]],
    loss: Callable[[Any], torch.Tensor],
    measure: Callable[[], dict[str, float]],
    *,
    seed: int,
    steps: int,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    what: str,
    images: int = 0,
    ema: float = 0.0,
    train_mode: Callable[[], Any] | None = None,
    log: Path | None = None,
    keep: Path | None = None,
    recipe: Callable[[], dict[str, str]] = dict,
) -> list[dict[str, float]]:
    """Minimise ``loss`` over the parameters of ``model`` that require a gradient, in place.

    Args:
        epoch_batches: the batches of an epoch (0 ...) from a step (0 ...) on, ``steps`` of them from step 0; of each
            batch the part of this process.
        loss: such a part to a scalar tensor, whose mean over the processes is the loss of the batch.
        measure: figures on the validation split, called after each epoch with the model in eval mode.
        learning_rate: at its peak, see ``learning_rate_at``.
        what: names the work in the log, and with ``seed`` its random numbers.
        images: how many a batch has, for the progress shown.
        ema: decay of a moving average of all parameters and statistics; what is measured and what training ends with is
            this average. 0: no average. Early on the decay is less, (1 + n) / (10 + n) after step n, so that it does
            not stay near the initial weights.
        log: a folder for TensorBoard, where the figures of each epoch and the loss of each step go.
        train_mode: puts the model into training mode; default ``model.train``.
        keep: the checkpoint. Training goes on where it is, and when this process is asked to stop (SIGTERM, SIGUSR1) or
            the end of the job (checkpoint.END_TIME) is near, it is written. Who calls removes it when all is done.
        recipe: what decides the outcome, see ``checkpoint.recipe``; asked for once, of the first process only.

    Returns:
        One row per epoch: epoch (1 ...), loss (mean), learning_rate (of the last step) and the measured figures.

    Raises:
        UserError: the loss is no longer a finite number.
        checkpoint.Stopped: training was asked to stop, and ``keep`` is written.
    """
    optim = optimizer(model, learning_rate, weight_decay)
    parameters = [p for group in optim.param_groups for p in group["params"]]
    known = recipe() if keep and distributed.first() else {}
    distributed.share(model.state_dict().values())
    average = {name: x.clone() for name, x in _floats(model).items()} if ema else {}
    at = checkpoint.Position()
    if keep and distributed.agree(distributed.first() and checkpoint.usable(keep, known)):
        at = checkpoint.read(keep, model, optim, average)
        _say(f"{what}: continues in epoch {at.epoch + 1} of {epochs}, after step {at.step} of {steps}")
    kept = time.monotonic()
    slowest = 0.0  # seconds that a step or a measurement took

    def write() -> None:
        nonlocal kept
        if keep and distributed.first():
            checkpoint.write(keep, known, model, optim, at, average)
        kept = time.monotonic()

    board = None
    if log and distributed.first():
        if (at.epoch, at.step) == (0, 0):
            for earlier in log.glob("events.out.tfevents.*"):  # TensorBoard would draw both runs as one line
                earlier.unlink()
        board = SummaryWriter(str(log))
    with checkpoint.listening() if keep else nullcontext(lambda _: "") as why_stop:
        while at.epoch < epochs:
            began = before = time.monotonic()
            (train_mode or model.train)()
            rest = epoch_batches(at.epoch, at.step) if at.step < steps else ()
            for batch in _shown(rest, steps - at.step, f"{what}, epoch {at.epoch + 1}, batches", images):
                # Networks with dropout draw from torch: by name, so that a continued run draws the same.
                torch.manual_seed(digest(seed, what, at.epoch, at.step, distributed.rank()) % 2**63)
                for group in optim.param_groups:
                    group["lr"] = learning_rate_at(at.epoch * steps + at.step, epochs * steps, learning_rate)
                with distributed.synchronised_norms():
                    value = loss(batch)
                optim.zero_grad(set_to_none=True)
                value.backward()
                value, reason = value.detach(), why_stop(slowest)
                stop = torch.full_like(value, bool(reason))
                distributed.average([*(p.grad for p in parameters if p.grad is not None), value, stop])
                if not torch.isfinite(value):
                    raise UserError(
                        f"{what}: the loss is {value.item()} in epoch {at.epoch + 1}: training has diverged; "
                        f"lower learning_rate"
                    )
                nn.utils.clip_grad_norm_(parameters, _CLIP)
                optim.step()
                number = at.epoch * steps + at.step
                _follow(average, model, min(ema, (1 + number) / (10 + number)))
                at.loss += value.item()
                at.step += 1
                if board:
                    board.add_scalar("loss_of_step", value.item(), number)
                slowest = max(slowest, time.monotonic() - before)
                before = time.monotonic()
                if stop > 0:
                    write()
                    raise checkpoint.Stopped(
                        f"{what}: stopped {reason or 'as asked'} at epoch {at.epoch + 1} of {epochs}, step {at.step} "
                        f"of {steps}; run the same command again to continue"
                    )
                if before - kept > (_SECONDS_KEPT_SHORT if at.step == steps else _SECONDS_KEPT_LONG):
                    write()
            model.eval()
            rate = learning_rate_at((at.epoch + 1) * steps - 1, epochs * steps, learning_rate)
            with _swapped(model, average):
                row = {"epoch": at.epoch + 1, "loss": at.loss / steps, "learning_rate": rate, **measure()}
            slowest = max(slowest, time.monotonic() - before)
            at = checkpoint.Position(at.epoch + 1, history=[*at.history, row])
            figures = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
            _say(f"{what}: epoch {at.epoch} of {epochs}: {figures} ({time.monotonic() - began:.1f} s)")
            if board:
                for name, figure in row.items():
                    board.add_scalar(name, figure, at.epoch)
    if board:
        board.close()
    _exchange(model, average)
    return at.history


def _floats(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: x for name, x in model.state_dict().items() if x.is_floating_point()}


@torch.no_grad()
def _follow(average: dict[str, torch.Tensor], model: nn.Module, decay: float) -> None:
    """Move ``average``, in place, a step towards the model."""
    if average:
        now = _floats(model)
        torch._foreach_lerp_(list(average.values()), [now[name] for name in average], 1 - decay)


@torch.no_grad()
def _exchange(model: nn.Module, average: dict[str, torch.Tensor]) -> None:
    """Give the model the values of ``average``, and ``average`` those of the model."""
    now = _floats(model)
    for name, mean in average.items():
        now_value = now[name].clone()
        now[name].copy_(mean)
        mean.copy_(now_value)


@contextmanager
def _swapped(model: nn.Module, average: dict[str, torch.Tensor]) -> Iterator[None]:
    _exchange(model, average)
    yield
    _exchange(model, average)


def _say(line: str) -> None:
    if distributed.first():
        print(line, flush=True)


def _shown(batches: Iterable[Any], total: int, what: str, images: int) -> Iterable[Any]:
    return progress(batches, total, what, images) if distributed.first() else batches


def check_split(batch_size: int, where: str) -> None:
    """Raise UserError if a batch of ``batch_size`` has no photograph for one of the processes."""
    if batch_size < distributed.size():
        raise UserError(
            f"{where}: a batch of {batch_size} photographs cannot be split over {distributed.size()} processes; ask "
            f"for at most {batch_size} (--processes, or snakemake --set-resources <rule>:processes={batch_size})"
        )
