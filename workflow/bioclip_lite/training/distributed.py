"""Train with several processes, on one computer or on several: split the batches, start and end together.

``python -m bioclip_lite distill --processes 4`` starts itself four times under torchrun (``launch``, ``work``): one
process per GPU, or several on the CPU; with ``--nodes 2`` the same happens on two computers (``nodes``). Each process
takes a part of every batch. The rule that makes the result that of one process: a process computes a loss such that the
*mean* over the processes is the loss of the whole batch, and ``replicated`` takes the mean of the gradients. Losses and
statistics of the whole batch go through ``gather`` (contrastive losses) and ``synchronised_norms`` (batch statistics),
both with their gradients. What is left is the order of additions: equal to rounding, not to the bit. Networks that draw
random numbers (dropout) draw others per process.

Without ``launch`` every function here does nothing, as a single process should.
"""

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args
from torch.nn import functional as F
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from bioclip_lite.training.nodes import torchrun
from bioclip_lite.utils import gpus, machine
from bioclip_lite.utils.errors import UserError, explain
from bioclip_lite.utils.exit_status import in_words

_FOLDER = "BIOCLIP_LITE_RUN"  # environment: a folder that the processes of a run share with their starter
PARENT = "BIOCLIP_LITE_PARENT"  # environment: the process that started them
_TIMEOUT = timedelta(days=1)  # a process may wait for long work of another; one that dies is noticed at once
_RESTARTS = 2  # after a process was killed; training goes on from its checkpoint
_FATAL = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


# Parts


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this is the one process that writes files, prints and shows progress."""
    return rank() == 0


def part(total: int) -> slice:
    """This process's share of ``total`` rows: contiguous, in the order of the processes, sizes differing by one."""
    return slice(rank() * total // size(), (rank() + 1) * total // size())


def share_of_loss(mine: int, total: int) -> float:
    """The factor of the mean loss of ``mine`` of ``total`` samples that makes the mean over processes that of all."""
    return mine * size() / total


# Exchange


def agree(value: bool) -> bool:
    """Whether ``value`` is true in any process; the same answer in all of them. Waits for all."""
    return bool(add(torch.tensor([float(value)]))[0] > 0)


def add(values: torch.Tensor) -> torch.Tensor:
    """The sum over the processes, in place."""
    if size() > 1:
        dist.all_reduce(values)
    return values


def wait() -> None:
    """Wait until all processes are here."""
    agree(False)


def share(tensors: Iterable[torch.Tensor]) -> None:
    """Give all processes the values of the first one, in place."""
    if size() > 1:
        for tensor in tensors:
            whole = tensor.detach().contiguous()  # the memory of channels_last is in another order
            dist.broadcast(whole, 0)
            tensor.detach().copy_(whole)


def average(tensors: list[torch.Tensor]) -> None:
    """Replace float32 tensors, in place, by their mean over the processes; one message for all of them."""
    if size() > 1:
        flat = add(torch.cat([tensor.reshape(-1) for tensor in tensors])) / size()
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def gather(own: torch.Tensor, total: int) -> torch.Tensor:
    """All ``total`` rows (total, ...), of which each process has its ``part``; gradients flow back to their owner."""
    return _Gather.apply(own, total) if size() > 1 else own


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, total: int) -> torch.Tensor:
        ctx.total = total
        sizes = [(r + 1) * total // size() - r * total // size() for r in range(size())]
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        everyone = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(everyone, padded)
        return torch.cat([rows[:count] for rows, count in zip(everyone, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        # All processes compute the same loss of all rows, so each knows the others' gradients of its rows: its own.
        return gradients[0][part(ctx.total)] * size(), None


# Gradients


def replicated(model: nn.Module, loss: Callable[[Any], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
    """``loss``, after whose backward pass the gradients of ``model`` are the mean over the processes, in all of them.

    Those of the last layers travel while those of the first are computed (DistributedDataParallel). The processes start
    from the parameters and statistics of the first one; batch normalisation takes the statistics of all samples.

    Args:
        model: with all parameters that ``loss`` computes with.
        loss: this process's loss of a batch, a scalar.
    """
    if size() == 1:
        return loss
    return DistributedDataParallel(
        _Loss(model, loss),
        forward_sync_buffers=False,  # they are equal: statistics are those of all samples
        # A batch without captions leaves the text tower out. Without this the groups in which gradients travel, and so
        # the order of additions, would also change after the first step of a run, be it new or continued.
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
    )


class _Loss(nn.Module):
    """The forward pass that DistributedDataParallel wraps."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> torch.Tensor:
        with synchronised_norms():
            return self.loss(batch)


# Batch normalisation


def synchronised_norms() -> AbstractContextManager[Any]:
    """Within it batch normalisation in training mode takes the statistics of all processes' samples.

    The function that all normalisations call is exchanged: by that of torch.nn.SyncBatchNorm on GPUs, and by
    ``_Normalise`` on CPUs, which PyTorch has nothing for. To exchange the layers would also exchange the modules that
    are saved, converted and pruned later.
    """
    return _SynchronisedNorms() if size() > 1 else nullcontext()


class _SynchronisedNorms(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if function is F.batch_norm:
            return _batch_norm(*arguments, **(named or {}))
        return function(*arguments, **(named or {}))


def _batch_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """As torch.nn.functional.batch_norm for x (b, C, ...), over the samples of all processes when ``training``."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if x.is_cuda:
        return SyncBatchNorm.apply(x, weight, bias, running_mean, running_var, eps, momentum, dist.group.WORLD, size())
    normal, mean, variance, count = _Normalise.apply(x, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    if weight is not None:
        normal = normal * weight.view(shape)
    return (normal if bias is None else normal + bias.view(shape)).to(x.dtype)


class _Normalise(torch.autograd.Function):
    """x (b, C, ...) to (x - mean) / sqrt(variance + eps) over all but C in all processes, in float32 or wider."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
        dims = [d for d in range(x.ndim) if d != 1]
        shape = (1, -1, *(1,) * (x.ndim - 2))
        ctx.dims, ctx.dtype = dims, x.dtype
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(x, dims, correction=0)
        count = torch.full_like(mean, x.numel() / x.shape[1])
        everyone = [mean.new_empty(3, len(mean)) for _ in range(size())]
        dist.all_gather(everyone, torch.stack([count, mean, variance]))
        counts, means, variances = torch.stack(everyone).unbind(1)  # each (processes, C)
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        scale = (variance + eps).rsqrt().view(shape)
        normal = (x - mean.view(shape)) * scale
        ctx.save_for_backward(normal, scale, count.view(shape))
        ctx.mark_non_differentiable(mean, variance, count)
        return normal, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        normal, scale, count = ctx.saved_tensors
        gradient = gradients[0]
        sums = torch.stack([gradient.sum(ctx.dims), (gradient * normal).sum(ctx.dims)])
        total, along = (row.view(scale.shape) / count for row in add(sums))
        return ((gradient - total - normal * along) * scale).to(ctx.dtype), None


# Start


def launch(stage: str, processes: int, nodes: int, meeting: str | None, threads: int, arguments: Sequence[str]) -> int:
    """Run ``python -m bioclip_lite`` with ``arguments`` in several processes under torchrun; the exit status.

    Each gets ``threads`` threads. SIGTERM and SIGUSR1 ask all of them to stop at the same step. A message to the user
    is printed once on each node. If one of them is killed, all start again, where the last checkpoint is; on several
    nodes the command has to run again, since each of them sees its own processes only.

    Args:
        processes: on each of the nodes.
        nodes: computers on which this command runs.
        meeting: see ``torchrun``.

    Raises:
        UserError: there are too few GPUs, or the nodes do not find each other.
    """
    gpus.take(processes)
    present = torch.cuda.device_count()
    if present and processes > present:
        raise UserError(
            f"--processes is {processes}, but this job has {present} GPUs, and each process needs its own; ask for "
            f"{present} processes, or in a cluster for more GPUs (snakemake --set-resources <rule>:gpu={processes})"
        )
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as folder:
        os.environ |= {
            _FOLDER: folder,
            PARENT: str(os.getpid()),
            "OMP_NUM_THREADS": str(threads),
        }
        if nodes == 1:
            os.environ["GLOO_SOCKET_IFNAME"] = _loopback()
        logging.disable(logging.CRITICAL)
        # torchrun would pass SIGTERM on and kill after 30 seconds, and it sends SIGTERM itself when a process failed.
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: Path(folder, "stop").touch())
        for again in reversed(range(1 + (_RESTARTS if nodes == 1 else 0))):
            options = [*torchrun(processes, nodes, meeting), "--signals-to-handle=SIGINT,SIGHUP,SIGQUIT"]
            config, python, command = config_from_args(parse_args([*options, "-m", "bioclip_lite", *arguments]))
            try:
                elastic_launch(config, python)(*command)
                return 0
            except ChildFailedError as error:
                which, first = error.get_first_failure()
                if -first.exitcode not in _FATAL or not again or Path(folder, "stop").exists():
                    return _explain(stage, Path(folder), processes * nodes, error)
                killed = f"process {which + 1} of {processes} was ended by {first.signal_name()}"
                print(f"{stage}: {killed}; all start again from the last checkpoint", file=sys.stderr, flush=True)
                for path in Path(folder).glob("[lmt]*-*"):  # messages of the others about it
                    path.unlink()
            except SignalException as error:
                return 128 + error.sigval
            except RendezvousError as error:
                raise UserError(
                    f"{nodes} nodes were to meet at {config.rdzv_endpoint}, but this one did not find the others: "
                    f"start the same command on all of them within 10 minutes, with a host and port that each reaches"
                ) from error
    raise AssertionError("unreachable")


def _loopback() -> str:
    """The interface through which processes of one computer talk to each other."""
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def launched() -> bool:
    """Whether this process is one of those that ``launch`` started."""
    return _FOLDER in os.environ


def asked_to_stop() -> bool:
    """Whether the process that started this one was asked to stop."""
    return launched() and Path(os.environ[_FOLDER], "stop").exists()


def work(job: Callable[[], None]) -> NoReturn:
    """Run this process's part of ``job``, leave a message for ``launch`` if it fails, and end the process."""
    status = _status_of(job)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Threads of gloo outlive the process group, and Python cannot be taken apart beside them: the process would abort
    # with "terminate called without an active exception", also after a training that is complete.
    os._exit(status)


def _status_of(job: Callable[[], None]) -> int:
    die_with_parent()
    folder, number = Path(os.environ[_FOLDER]), int(os.environ["RANK"])
    if number:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        warnings.simplefilter("ignore")
    try:
        gpu = machine.has_gpu()
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_TIMEOUT)
        job()
        wait()
        dist.destroy_process_group()
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        status = getattr(error, "status", 1)
        if text := explain(error):
            (folder / f"message-{number}").write_text(json.dumps([status, text]), encoding="utf-8")
            return int(status)
        kind = "lost" if _is_lost_peer(error) else "traceback"
        (folder / f"{kind}-{number}").write_text(traceback.format_exc(), encoding="utf-8")
        return 1


def _is_lost_peer(error: Exception) -> bool:
    """Whether a process fails only because another one has ended."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def die_with_parent() -> None:
    """End with the process that started this one: without it this one would write, unseen, where the next run writes.

    The environment names the starter (PARENT).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != int(os.environ[PARENT]):
            os.kill(os.getpid(), signal.SIGKILL)


def _explain(stage: str, folder: Path, processes: int, error: ChildFailedError) -> int:
    """Print why the processes failed: the first message for the user, else the first fault; returns the exit status."""
    for path in sorted(folder.glob("message-*")):
        status, text = json.loads(path.read_text(encoding="utf-8"))
        print(f"{stage}: {text}", file=sys.stderr)
        return status
    for number, failure in error.failures.items():
        if failure.exitcode < 0:
            print(f"{stage}: process {number + 1} of {processes} {in_words(failure.exitcode)}", file=sys.stderr)
            return 128 - failure.exitcode  # as a shell would, so that Snakemake's user learns of the signal
    faults = [sorted(folder.glob(kind), key=lambda path: path.stat().st_mtime_ns) for kind in ("traceback-*", "lost-*")]
    if faults[0]:
        print(faults[0][0].read_text(encoding="utf-8"), file=sys.stderr)
    elif faults[1]:
        print(
            f"{stage}: a process on another node has ended, and that node's output says why; run the same command on "
            f"all nodes again: training goes on from the last checkpoint",
            file=sys.stderr,
        )
    return 1
