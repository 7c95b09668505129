"""Stop and resume: training that is interrupted continues where it was, and ends with the same bytes.

A checkpoint is a safetensors file (the model, the optimizer, the moving average) whose metadata hold the position, the
training identity and the scale of the gradients. It lies beside the outputs of its job, in a folder whose name begins
with files.PARTIAL: no engine tracks it, and the ledger job of a complete stage removes it. Random numbers come from
names, so there is no generator to save.
"""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from bioclip_lite.training import distributed
from bioclip_lite.utils.code_fingerprint import PACKAGE, closure, meaning
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import PARTIAL, replacing, require

END_TIME = "SLURM_JOB_END_TIME"  # environment: when SLURM will end this job, in seconds since 1970
_SECONDS_TO_WRITE = 60.0
_SECONDS_AT_END_OF_EPOCH = 60.0  # of training between checkpoints that are written at the end of an epoch ...
_SECONDS_WITHIN_EPOCH = 600.0  # ... and within one
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(UserError):
    """Training was asked to stop, or the job's time limit is near; running the same command again continues."""

    status = 75  # EX_TEMPFAIL of sysexits.h: try again


@dataclass(frozen=True)
class State:
    """The tensors that training changes."""

    model: nn.Module
    optim: torch.optim.Optimizer
    average: dict[str, torch.Tensor] = field(default_factory=dict)  # moving average, by name in the model
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))  # of gradients


@dataclass
class Position:
    """How far training is: ``step`` batches of ``epoch`` (0 ...) are done, ``loss`` is the sum over them."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def path(data: Path, stage: str, job: str) -> Path:
    """The checkpoint of a job. It is no output, because Snakemake deletes the outputs of a job that failed."""
    return data / stage / f"{PARTIAL}{job}" / "checkpoint.safetensors"


# Training identity


def training_identity(
    model: nn.Module, modules: Iterable[str], files: Iterable[Path], parameters: Any
) -> dict[str, str]:
    """Hashes, by name, of all that decides the outcome. Equal identities are one training.

    Args:
        model: with its initial weights.
        modules: full names (``__module__``); those of this package, and what they import, count by the meaning of
            their code.
        files: all that training reads. Their contents count: times and sizes of outputs are set by
            ``engines.sync`` and say nothing about them. Reading them takes a small part of an epoch.
        parameters: anything that JSON can hold.

    Raises:
        ValueError: this package has no such module.
        UserError: a file is missing.
    """
    root = PACKAGE.parents[1]
    paths = sorted(require(file) for file in files)
    with ThreadPoolExecutor() as pool:
        contents = dict(zip([str(file) for file in paths], pool.map(_sha256, paths), strict=True))
    prefix = f"{PACKAGE.name}."
    own = sorted({module.removeprefix(prefix) for module in modules if module.startswith(prefix)})
    code = {file: meaning((root / file).read_bytes()) for file in closure(*own)}
    versions = {library: version(library) for library in ("torch", "timm", "open_clip_torch", "numpy")}
    return {
        "parameters": _digest(parameters),
        "files": _digest(contents),
        "code": _digest(code),
        "libraries": _digest(versions),
        "initial weights": _state_digest(model),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _state_digest(model: nn.Module) -> str:
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


# The file


def write(path: Path, identity: dict[str, str], state: State, position: Position) -> None:
    """Write the checkpoint of the training of this ``identity`` (``training_identity``)."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.items()}
    for number, moments in state.optim.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in moments.items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {"identity": identity, "position": asdict(position), "scaler": state.scaler.state_dict()}
    metadata = {name: json.dumps(value) for name, value in described.items()}
    with replacing(path) as scratch:
        save_file(plain, scratch, metadata)
        with scratch.open("rb") as file:
            os.fsync(file.fileno())  # the computer may be about to shut down


def usable(path: Path, identity: dict[str, str]) -> bool:
    """Whether ``path`` is a checkpoint of the training of this ``identity``; any other is removed, with a message."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            saved = json.loads(file.metadata()["identity"])
        if saved == identity:
            return True
        why = f"is of other {', '.join(name for name in identity if saved.get(name) != identity[name])}"
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        why = f"cannot be read ({error})"
    print(f"{path} {why}; removed, training starts from the beginning", flush=True)
    remove(path)
    return False


def read(path: Path, state: State) -> Position:
    """Restore ``state``, in place, from a checkpoint that is ``usable``; returns its position."""
    with safe_open(path, "pt") as file:
        position = Position(**json.loads(file.metadata()["position"]))
        state.scaler.load_state_dict(json.loads(file.metadata()["scaler"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")}
    state.model.load_state_dict(weights)
    for name, mean in state.average.items():
        mean.copy_(tensors[f"average.{name}"])
    parameters = [parameter for group in state.optim.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for full, tensor in tensors.items():
        if full.startswith("optimizer."):
            _, number, name = full.split(".")
            like = parameters[int(number)]
            # Moments lie in memory as their parameter does (channels_last).
            moments.setdefault(int(number), {})[name] = (
                torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
            )
    state.optim.load_state_dict(state.optim.state_dict() | {"state": moments})
    return position


def remove(path: Path) -> None:
    """Remove the checkpoint of a training that is complete and whose outputs are written."""
    shutil.rmtree(path.parent, ignore_errors=True)


# When to write it, and when to stop


class Saver:
    """Writes the checkpoint of a training from time to time, and tells when the training must stop.

    As a context it receives SIGTERM and SIGUSR1, which ask this process to stop. Without a path it does nothing and
    never has a reason to stop.
    """

    def __init__(self, path: Path | None, identity: dict[str, str], state: State) -> None:
        """``identity``: the ``training_identity``, which only the first process needs."""
        self.path, self.identity, self.state = path, identity, state
        self.signals: list[int] = []  # received
        self.handlers: dict[int, Any] = {}  # that were there before
        self.reason = "as asked"  # to stop; other processes do not know that of the one whose job ends
        self.slowest = 0.0  # seconds that a step or a validation took
        self.written = self.clock = time.monotonic()

    def __enter__(self) -> "Saver":
        if self.path:
            for number in _SIGNALS:
                self.handlers[number] = signal.signal(number, lambda received, _: self.signals.append(received))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def resume(self) -> Position:
        """Restore the state from a usable checkpoint and return its position; without one, the start."""
        position = Position()
        if self.path and distributed.agree(distributed.first() and usable(self.path, self.identity)):
            position = read(self.path, self.state)
        self.written = time.monotonic()
        return position

    def start_clock(self) -> float:
        """Begin to time the next step; returns the time now."""
        self.clock = time.monotonic()
        return self.clock

    def stop_clock(self) -> None:
        """Note how long a step or a validation took; the next one is timed from here."""
        began = self.clock
        self.slowest = max(self.slowest, self.start_clock() - began)

    def must_stop(self) -> bool:
        """Whether this process must stop after the current step; ``reason`` then says why."""
        if not self.path:
            return False
        if self.signals or distributed.asked_to_stop():
            return True
        end = os.environ.get(END_TIME, "") if distributed.first() else ""  # one clock decides
        if end.isdigit() and time.time() + self.slowest + _SECONDS_TO_WRITE > int(end):
            self.reason = "before the time limit of the job"
            return True
        return False

    def due(self, *, end_of_epoch: bool) -> bool:
        """Whether the last checkpoint is too old."""
        limit = _SECONDS_AT_END_OF_EPOCH if end_of_epoch else _SECONDS_WITHIN_EPOCH
        return self.clock - self.written > limit

    def write(self, position: Position) -> None:
        """Write the checkpoint."""
        if self.path and distributed.first():
            write(self.path, self.identity, self.state, position)
        self.written = time.monotonic()
