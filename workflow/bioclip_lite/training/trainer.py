"""The one trainer, ``fit``, for every ``Objective``.

Random numbers come from names (seed, stage, epoch, key), so a run does not depend on the number of workers, and two
runs on one computer with the same number of threads give the same weights. So does a run that was stopped, at any
step, and continued (``checkpoint``). Several processes train as one does (``distributed``), to rounding.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tensorboardX import SummaryWriter
from torch import nn

from bioclip_lite.training import checkpoint, distributed
from bioclip_lite.training.moving_average import MovingAverage
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import digest

_WARM_UP = 0.1  # share of the steps
_MAX_NORM = 1.0  # of the gradient

History = list[dict[str, float]]  # one row per epoch


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is trained. An objective adds what it needs in a dataclass that inherits from this one.

    All fields are part of the ``training_identity``: a checkpoint never resumes under other options.
    """

    seed: int
    epochs: int
    batch_size: int  # photographs, over all processes
    learning_rate: float  # of AdamW at its peak, see learning_rate_at
    weight_decay: float
    ema: float = 0.0  # decay of MovingAverage; 0: no average


class Objective(Protocol):
    """What a training minimises: owns the batches, the forward pass with its loss, and the validation."""

    name: str  # in the log and, with the seed, in the random numbers
    options: Options
    model: nn.Module  # with all parameters that learn
    size: int  # photographs in a batch, over all processes
    steps: int  # batches in an epoch

    def batches(self, epoch: int, step: int) -> Iterator[Any]:
        """This process's part of the batches of an epoch (0 ...) from a step (0 ...) on."""
        ...

    def loss(self, batch: Any) -> torch.Tensor:
        """A scalar whose mean over the processes is the loss of the whole batch."""
        ...

    def measure(self) -> dict[str, float]:
        """Figures on the validation split; called after each epoch with the model in eval mode."""
        ...

    def judge(self, history: History) -> None:
        """Raise UserError where it would be a waste to go on; called after each epoch, with a row for each so far."""
        return

    def files(self) -> list[Path]:
        """All that the training reads."""
        ...

    def train_mode(self) -> None:
        """Put the modules that learn into training mode."""
        self.model.train()


def fit(objective: Objective, *, log: Path | None = None, checkpoint_file: Path | None = None) -> History:
    """Minimise the loss of ``objective`` over the parameters of its model that require a gradient, in place.

    Args:
        objective: see ``Objective``. With a moving average, the average is measured, and the model ends with it.
        log: a folder for TensorBoard, where the figures of each epoch and the loss of each step go.
        checkpoint_file: training continues from it if it has the same ``training_identity``. It is written from time to
            time, and when this process is asked to stop (SIGTERM, SIGUSR1) or the end of the job
            (checkpoint.END_TIME) is near. The caller removes it once the outputs are written.

    Returns:
        One row per epoch: epoch (1 ...), loss (mean), learning_rate (of the last step) and the measured figures.

    Raises:
        UserError: the loss is no longer a finite number, or the objective finds it a waste to go on.
        checkpoint.Stopped: training was asked to stop, and ``checkpoint_file`` is written.
    """
    name, options, steps = objective.name, objective.options, objective.steps
    optim = optimizer(objective.model, options.learning_rate, options.weight_decay)
    identity = training_identity(objective) if checkpoint_file and distributed.first() else {}
    distributed.share(objective.model.state_dict().values())
    average = MovingAverage(objective.model, options.ema)
    state = checkpoint.State(objective.model, optim, average.tensors)
    with checkpoint.Saver(checkpoint_file, identity, state) as saver:
        at = saver.resume()
        new = at == checkpoint.Position()
        if not new:
            _log(f"{name}: continues in epoch {at.epoch + 1} of {options.epochs}, after step {at.step} of {steps}")
        with _tensorboard(log, new=new) as board:
            while at.epoch < options.epochs:
                began = saver.start_clock()
                objective.train_mode()
                for batch in _remaining_batches(objective, at):
                    number = at.epoch * steps + at.step
                    loss, stop = _step(objective, optim, batch, at, saver)
                    average.follow(number)
                    at.loss += loss
                    at.step += 1
                    board.add_scalar("loss_of_step", loss, number)
                    saver.after_step(at, end_of_epoch=at.step == steps, stop=stop)
                    if stop:
                        raise checkpoint.Stopped(
                            f"{name}: stopped {saver.reason} at epoch {at.epoch + 1} of {options.epochs}, step "
                            f"{at.step} of {steps}; run the same command again to continue"
                        )
                row = _measured(objective, average, at)
                saver.stop_clock()
                at = checkpoint.Position(at.epoch + 1, history=[*at.history, row])
                figures = ", ".join(f"{figure} {value:.4g}" for figure, value in row.items() if figure != "epoch")
                seconds = time.monotonic() - began
                _log(f"{name}: epoch {at.epoch} of {options.epochs}: {figures} ({seconds:.1f} s)")
                for figure, value in row.items():
                    board.add_scalar(figure, value, at.epoch)
                try:
                    objective.judge(at.history)
                except UserError:
                    saver.after_step(at, end_of_epoch=True, stop=True)  # told to go on, training continues from here
                    raise
    average.exchange()
    return at.history


def training_identity(objective: Objective) -> dict[str, str]:
    """``checkpoint.training_identity`` of an objective whose model has its initial weights.

    The code is that of the objective's module and of the modules of the network's layers, with all that they import.
    """
    parts = [objective, *objective.model.modules()]
    modules = {type(part).__module__ for part in parts}
    parameters = {"objective": type(objective).__qualname__, "name": objective.name, **asdict(objective.options)}
    return checkpoint.training_identity(objective.model, modules, objective.files(), parameters)


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


def _learning_rate(objective: Objective, epoch: int, step: int) -> float:
    options, steps = objective.options, objective.steps
    return learning_rate_at(epoch * steps + step, options.epochs * steps, options.learning_rate)


def _step(
    objective: Objective,
    optim: torch.optim.Optimizer,
    batch: Any,
    at: checkpoint.Position,
    saver: checkpoint.Saver,
) -> tuple[float, bool]:
    """Move the model by one batch; (its loss over all processes, whether any of them has a reason to stop)."""
    options = objective.options
    # Networks with dropout draw from torch: by name, so that a continued run draws the same.
    torch.manual_seed(digest(options.seed, objective.name, at.epoch, at.step, distributed.rank()) % 2**63)
    with distributed.synchronised_norms():
        loss = objective.loss(batch)
    optim.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optim.param_groups for p in group["params"]]
    loss = loss.detach()
    stop = torch.full_like(loss, saver.must_stop())
    distributed.average([*(p.grad for p in parameters if p.grad is not None), loss, stop])
    if not torch.isfinite(loss):
        raise UserError(
            f"{objective.name}: the loss is {loss.item()} in epoch {at.epoch + 1}: training has diverged; lower "
            f"learning_rate"
        )
    nn.utils.clip_grad_norm_(parameters, _MAX_NORM)
    for group in optim.param_groups:
        group["lr"] = _learning_rate(objective, at.epoch, at.step)
    optim.step()
    return loss.item(), bool(stop > 0)


def _measured(objective: Objective, average: MovingAverage, at: checkpoint.Position) -> dict[str, float]:
    """The row of the history for the epoch that is complete."""
    objective.model.eval()
    rate = _learning_rate(objective, at.epoch, objective.steps - 1)
    with average.applied():
        return {
            "epoch": at.epoch + 1,
            "loss": at.loss / objective.steps,
            "learning_rate": rate,
            **objective.measure(),
        }


def _remaining_batches(objective: Objective, at: checkpoint.Position) -> Iterable[Any]:
    """The batches of the current epoch that are not done, with progress shown by the first process."""
    if at.step == objective.steps:  # stopped between the last step and the validation
        return ()
    batches = objective.batches(at.epoch, at.step)
    if not distributed.first():
        return batches
    description = f"{objective.name}, epoch {at.epoch + 1}, batches"
    return progress(batches, objective.steps - at.step, description, objective.size)


def check_split(batch_size: int, where: str) -> None:
    """Raise UserError if a batch of ``batch_size`` has no photograph for one of the processes."""
    if batch_size < distributed.size():
        raise UserError(
            f"{where}: a batch of {batch_size} photographs cannot be split over {distributed.size()} processes; ask "
            f"for at most {batch_size} (--processes, or snakemake --set-resources <rule>:processes={batch_size})"
        )


# Logs


def log_folder(data: Path, stage: str, job: str) -> Path:
    """Where a training writes for TensorBoard: beside the data folder, with the logs of the jobs."""
    return data.parent / "logs" / "tensorboard" / f"{stage}-{job}"


def _log(line: str) -> None:
    if distributed.first():
        print(line, flush=True)


@contextmanager
def _tensorboard(folder: Path | None, *, new: bool) -> Iterator[SummaryWriter]:
    """A writer to ``folder``, which writes nothing without one; a ``new`` run replaces what an earlier one logged."""
    if folder is None or not distributed.first():
        yield SummaryWriter(write_to_disk=False)
        return
    if new:
        for earlier in folder.glob("events.out.tfevents.*"):  # TensorBoard would draw both runs as one line
            earlier.unlink()
    with SummaryWriter(str(folder)) as board:
        yield board
