"""The one trainer, ``fit``, for every ``Objective``.

Random numbers come from names (seed, stage, epoch, key), so a run does not depend on the number of workers, and two
runs on one computer with the same number of threads give the same weights. So does a run that was stopped, at any
step, and continued (``checkpoint``). Several processes train as one does (``distributed``), to rounding.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tensorboardX import SummaryWriter
from torch import nn

from bioclip_lite.training import checkpoint, distributed
from bioclip_lite.training.moving_average import MovingAverage
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import digest

_MAX_NORM = 1.0  # of the gradient
_STEPS_UNREAD = 50  # a GPU computes ahead of this process, which waits for it only to read the losses of so many steps
_WIDER = {"float16": ", or set precision to bfloat16 or float32, which hold larger numbers"}

History = list[dict[str, float]]  # one row per epoch
Watch = Callable[[str, History], None]  # called after each epoch with the objective's name and a row for each so far


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is trained. An objective adds what it needs in a dataclass that inherits from this one.

    All fields are part of the ``training_identity``: a checkpoint never resumes under other options.
    """

    seed: int
    epochs: int
    batch_size: int  # photographs, over all processes
    accumulation: int  # micro-batches that a batch is embedded in, see accumulation.in_parts
    shuffle_buffer: int  # photographs that are mixed with each other, see shuffling.batches
    learning_rate: float  # of AdamW at its peak, see learning_rate_at
    warm_up: float  # see warm_up_steps
    weight_decay: float
    betas: tuple[float, float]  # of AdamW, as eps
    eps: float
    precision: str  # of the forward pass, see machine.number_format
    ema: float = 0.0  # decay of MovingAverage; 0: no average


_OF_SECTION = (
    *("epochs", "batch_size", "accumulation", "shuffle_buffer", "learning_rate", "warm_up"),
    *("weight_decay", "betas", "eps", "precision"),
)


def chosen(section: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``Options`` that every section of params.yaml about a training gives, by name."""
    return {name: section[name] for name in _OF_SECTION} | {"betas": tuple(section["betas"])}


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
        UserError: the warm-up is longer than the training, the loss is no longer a finite number, or the objective
            finds it a waste to go on.
        checkpoint.Stopped: training was asked to stop, and ``checkpoint_file`` is written.
    """
    name, options, steps = objective.name, objective.options, objective.steps
    _check_warm_up(objective)
    optim = optimizer(objective.model, options)
    # Gradients in float16 are scaled, so that small ones do not become 0.
    scaler = torch.amp.GradScaler(machine.device().type, enabled=options.precision == "float16")
    identity = training_identity(objective) if checkpoint_file and distributed.first() else {}
    loss_of = distributed.replicated(objective.model, objective.loss)
    average = MovingAverage(objective.model, options.ema)
    state = checkpoint.State(objective.model, optim, average.tensors, scaler)
    with checkpoint.Saver(checkpoint_file, identity, state) as saver:
        at = saver.resume()
        new = at == checkpoint.Position()
        if not new:
            _log(f"{name}: continues in epoch {at.epoch + 1} of {options.epochs}, after step {at.step} of {steps}")
        with _tensorboard(log, new=new) as board:
            while at.epoch < options.epochs:
                began = saver.start_clock()
                objective.train_mode()
                unread: list[torch.Tensor] = []
                for batch in _remaining_batches(objective, at):
                    with _memory_explained(objective):
                        unread.append(_step(objective, loss_of, state, batch, at))
                    average.follow(at.epoch * steps + at.step)
                    at.step += 1
                    stop = distributed.agree(saver.must_stop())
                    saver.stop_clock()
                    write = stop or saver.due(end_of_epoch=at.step == steps)
                    if write or at.step == steps or len(unread) == _STEPS_UNREAD:
                        _read(objective, unread, at, board)
                    if write:
                        saver.write(at)
                    if stop:
                        distributed.wait()  # torchrun ends all processes soon after the first has ended
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
                    saver.write(at)  # told to go on, training continues from here
                    raise
                _watch.get()(name, at.history)
    average.exchange()
    return at.history


_watch: ContextVar[Watch] = ContextVar("watch", default=lambda name, history: None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Have ``watch`` called after each epoch of every training within; an exception of it ends the training.

    Several trainings may lie behind one call of a stage, so it is no argument of theirs.
    """
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def training_identity(objective: Objective) -> dict[str, str]:
    """``checkpoint.training_identity`` of an objective whose model has its initial weights.

    The code is that of the objective's module and of the modules of the network's layers, with all that they import.
    """
    parts = [objective, *objective.model.modules()]
    modules = {type(part).__module__ for part in parts}
    parameters = {"objective": type(objective).__qualname__, "name": objective.name, **asdict(objective.options)}
    return checkpoint.training_identity(objective.model, modules, objective.files(), parameters)


def optimizer(model: nn.Module, options: Options) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101); biases, norms and scales do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, eps=options.eps, fused=True)


def warm_up_steps(warm_up: float, steps: int) -> int:
    """The steps of the warm-up: ``warm_up`` is a share of all ``steps`` below 1, and a number of steps from 1 on.

    The first step is always one of them; alone it takes the peak learning rate, so that there is no warm-up.
    """
    return max(1, round(warm_up * steps)) if warm_up < 1 else int(warm_up)


def learning_rate_at(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Linear warm-up over the first ``warm_up`` of all ``steps``, then half a cosine down to zero."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _learning_rate(objective: Objective, epoch: int, step: int) -> float:
    options, steps = objective.options, objective.steps
    total = options.epochs * steps
    warm_up = warm_up_steps(options.warm_up, total)
    return learning_rate_at(epoch * steps + step, total, options.learning_rate, warm_up)


def _check_warm_up(objective: Objective) -> None:
    options, steps = objective.options, objective.steps
    total = options.epochs * steps
    if total and (warm_up := warm_up_steps(options.warm_up, total)) > total:
        raise UserError(
            f"{objective.name}: warm_up is {warm_up} steps, but the training has {total} ({options.epochs} epochs of "
            f"{steps}), so it would never reach learning_rate; ask for at most {total}, or for a share such as 0.1"
        )


def _step(
    objective: Objective,
    loss_of: Callable[[Any], torch.Tensor],
    state: checkpoint.State,
    batch: Any,
    at: checkpoint.Position,
) -> torch.Tensor:
    """Move the model by one batch; its loss over all processes, a scalar that nobody has waited for."""
    options, optim, scaler = objective.options, state.optim, state.scaler
    # Networks with dropout draw from torch: by name, so that a continued run draws the same.
    torch.manual_seed(digest(options.seed, objective.name, at.epoch, at.step, distributed.rank()) % 2**63)
    loss = loss_of(batch)
    optim.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    parameters = [p for group in optim.param_groups for p in group["params"]]
    loss = loss.detach()
    distributed.average([loss])
    scaler.unscale_(optim)
    nn.utils.clip_grad_norm_(parameters, _MAX_NORM)
    for group in optim.param_groups:
        group["lr"] = _learning_rate(objective, at.epoch, at.step)
    scaler.step(optim)  # leaves out a step whose gradients are beyond float16
    scaler.update()
    return loss


@contextmanager
def _memory_explained(objective: Objective) -> Iterator[None]:
    """Raise UserError where a GPU has no memory for a step."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        options = objective.options
        raise UserError(
            f"{objective.name}: the GPU's memory does not hold a batch of {options.batch_size} photographs in "
            f"{options.accumulation} micro-batches; raise accumulation, which changes the least, or lower batch_size"
        ) from error


def _read(objective: Objective, unread: list[torch.Tensor], at: checkpoint.Position, board: SummaryWriter) -> None:
    """Wait for the losses of the last steps, add them up in ``at`` and log them; empties ``unread``.

    Raises:
        UserError: a loss, or a weight after these steps, is not a finite number.
    """
    floats = [x for x in objective.model.state_dict().values() if x.is_floating_point()]
    sound = torch.stack([x.isfinite().all() for x in floats]).all()
    *values, finite = torch.stack([*unread, sound.to(unread[0])]).tolist()
    first = at.step - len(values)
    unread.clear()
    wrong = next((number for number, loss in enumerate(values) if not math.isfinite(loss)), None)
    if wrong is not None or not finite:
        where = f"epoch {at.epoch + 1}, steps {first + 1} to {at.step} of {objective.steps}"
        what = "weights are no longer finite numbers" if wrong is None else f"the loss is {values[wrong]}"
        raise UserError(
            f"{objective.name}: {what} in {where}: training has diverged; lower "
            f"learning_rate{_WIDER.get(objective.options.precision, '')}"
        )
    for step, loss in enumerate(values, first):
        at.loss += loss
        board.add_scalar("loss_of_step", loss, at.epoch * objective.steps + step)


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


def check_split(batch_size: int, accumulation: int, where: str) -> None:
    """Raise UserError if a batch of ``batch_size`` has too few photographs for all processes and micro-batches.

    Every process needs a photograph of each of the ``accumulation`` micro-batches, and batch normalisation two in all.
    ``where``: the section's name in messages.
    """
    if batch_size < distributed.size():
        raise UserError(
            f"{where}.batch_size: a batch of {batch_size} photographs cannot be split over {distributed.size()} "
            f"processes; ask for at most {batch_size} (--processes, or snakemake --set-resources "
            f"<rule>:processes={batch_size})"
        )
    most = batch_size // max(2, distributed.size())
    if accumulation > max(1, most):
        raise UserError(
            f"{where}.accumulation is {accumulation}, but a batch of {batch_size} photographs gives {max(1, most)} "
            f"micro-batches at most: each needs 2 photographs, and one for every process; lower accumulation or raise "
            f"batch_size"
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
