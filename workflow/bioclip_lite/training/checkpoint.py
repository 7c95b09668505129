"""Stop and resume: training that is cut off goes on where it was, and ends with the same bytes.

A checkpoint is a safetensors file (the model, the optimizer) whose metadata say where training was and by which recipe.
It lies beside the outputs of its job, in a folder whose name begins with files.PARTIAL: no engine tracks it, and the
ledger job of a complete stage removes it. Random numbers come from names, so there is no generator to save.
"""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(UserError):
    """Training was asked to stop, or the time limit of the job is near; the same command again continues."""

    status = 75  # EX_TEMPFAIL of sysexits.h: try again


@dataclass
class Position:
    """Where training is: ``step`` batches of ``epoch`` (0 ...) are done, ``loss`` is the sum over them."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def path(data: Path, stage: str, job: str) -> Path:
    """Where the checkpoint of a job lies. Not an output: Snakemake deletes those of a job that failed."""
    return data / stage / f"{PARTIAL}{job}" / "checkpoint.safetensors"


# The recipe


def recipe(model: nn.Module, modules: Iterable[str], files: Iterable[Path], parameters: Any) -> dict[str, str]:
    """What decides the outcome of a training, as hashes by name: two equal recipes are one training.

    Args:
        model: with its initial weights.
        modules: of this package, whose code (and what it imports) counts by its meaning, e.g. "stages.distill".
        files: all that training reads. Their contents count: times and sizes of outputs are set right by
            ``provenance.sync`` and say nothing about them. Reading them takes a small part of an epoch.
        parameters: anything that JSON can hold.
    """
    root = PACKAGE.parents[1]
    paths = sorted(require(file) for file in files)
    with ThreadPoolExecutor() as pool:
        contents = dict(zip([str(file) for file in paths], pool.map(_sha256, paths), strict=True))
    code = {file: meaning((root / file).read_bytes()) for file in closure(*modules)}
    versions = {library: version(library) for library in ("torch", "timm", "numpy")}
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


def write(
    path: Path,
    recipe: dict[str, str],
    model: nn.Module,
    optim: torch.optim.Optimizer,
    position: Position,
    average: dict[str, torch.Tensor],
) -> None:
    """``average``: the moving average of the model's tensors, empty where there is none."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for number, state in optim.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"recipe": json.dumps(recipe), "position": json.dumps(asdict(position))}
    with replacing(path) as scratch:
        save_file(plain, scratch, metadata)
        with scratch.open("rb") as file:
            os.fsync(file.fileno())  # the machine may be on its way down


def usable(path: Path, recipe: dict[str, str]) -> bool:
    """Whether there is a checkpoint of this recipe; one of another recipe is removed, and that is said."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            found = json.loads(file.metadata()["recipe"])
        if found == recipe:
            return True
        why = f"is of other {', '.join(name for name in recipe if found.get(name) != recipe[name])}"
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        why = f"cannot be read ({error})"
    print(f"{path} {why}; removed, training starts from the beginning", flush=True)
    remove(path)
    return False


def read(path: Path, model: nn.Module, optim: torch.optim.Optimizer, average: dict[str, torch.Tensor]) -> Position:
    """Put ``model``, ``optim`` and ``average`` (of the recipe), in place, where they were; returns where that is."""
    with safe_open(path, "pt") as file:
        position = Position(**json.loads(file.metadata()["position"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model.load_state_dict({name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")})
    for name, mean in average.items():
        mean.copy_(tensors[f"average.{name}"])
    parameters = [parameter for group in optim.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, torch.Tensor]] = {}
    for full, tensor in tensors.items():
        if full.startswith("optimizer."):
            _, number, name = full.split(".")
            like = parameters[int(number)]
            # Moments lie in memory as their parameter does (channels_last).
            states.setdefault(int(number), {})[name] = (
                torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
            )
    optim.load_state_dict(optim.state_dict() | {"state": states})
    return position


def remove(path: Path) -> None:
    """Training is complete and its outputs are written."""
    shutil.rmtree(path.parent, ignore_errors=True)


# Being asked to stop


@contextmanager
def listening() -> Iterator[Callable[[float], str]]:
    """Yield a function that says why to stop now, given the seconds that the next step may take; "" to go on."""
    heard: list[str] = []

    def hear(number: int, _: Any) -> None:
        heard.append(signal.Signals(number).name)

    def why(seconds: float) -> str:
        if heard or distributed.asked_to_stop():
            return "as asked"
        end = os.environ.get(END_TIME, "") if distributed.first() else ""  # one clock decides
        near = end.isdigit() and time.time() + seconds + _SECONDS_TO_WRITE > int(end)
        return "before the time limit of the job" if near else ""

    before = {number: signal.signal(number, hear) for number in _SIGNALS}
    try:
        yield why
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
