"""The one trainer, of teachers and students (``fit``), and what they share: the machine, the data, the tree.

Everything random comes from names (seed, stage, epoch, key), so a run does not depend on the number of workers, and two
runs on one machine with the same number of threads give the same weights. So does a run that was stopped, at any step,
and continued (``checkpoint``). Several processes train as one does (``distributed``), to rounding.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboardX import SummaryWriter
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bioclip_lite import checkpoint, distributed, views
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_table
from bioclip_lite.preprocess import to_array
from bioclip_lite.progress import progress
from bioclip_lite.randomness import digest, generator
from bioclip_lite.shards import ShardSet
from bioclip_lite.taxonomy import RANKS, label_rank

_WARM_UP = 0.1  # share of the steps
_CLIP = 1.0  # largest norm of the gradient
_EVAL_BATCH = 128
_LARGEST_REGISTER = 16  # float32 numbers, of AVX-512
_CORES_PER_WORKER = 4  # on a CPU: about a fifth of the work is decoding, the rest training
_BYTES_KEPT = 2**28  # of 8-bit pixels that are made once and not in every epoch
_SECONDS_KEPT_SHORT = 60.0  # of training between checkpoints at the end of an epoch ...
_SECONDS_KEPT_LONG = 600.0  # ... and within one


# Machine


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cores() -> int:
    """The cores this job may use: those of the process, fewer where OMP_NUM_THREADS (set by Snakemake) says so."""
    available = len(os.sched_getaffinity(0))
    return max(1, min(available, int(os.environ.get("OMP_NUM_THREADS") or available)))


def workers() -> int:
    """Processes that decode images beside this one; 0 decodes in this one."""
    return cores() if torch.cuda.is_available() else cores() // _CORES_PER_WORKER


def deterministic(*names: object) -> None:
    """Seed torch by names and ask it for deterministic algorithms, as far as it has them."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(cores())
    torch.manual_seed(digest(*names) % 2**63)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Its default writes every new tensor twice, to show who reads before writing: a tenth of a training's time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def autocast_helps(model: nn.Module) -> bool:
    """Whether bfloat16 makes training faster: on a GPU always; on a CPU that has it, for dense networks only.

    Depthwise convolutions in bfloat16 take 1.6 times as long on a CPU, dense layers 0.7 times (AVX-512 BF16). Both the
    processor and oneDNN have to have it: oneDNN may be held back by ONEDNN_MAX_CPU_ISA, and without it a convolution
    takes 20 times as long.
    """
    if torch.cuda.is_available():
        return True
    depthwise = any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in model.modules())
    supported = torch.cpu._is_avx512_bf16_supported() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported and not depthwise


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Keep the weights of ``model``'s 2-d convolutions in channels_last, in place, while it trains.

    Every convolution then computes in channels_last, whatever the memory format of its input. On a GPU tensor cores
    want it; on a CPU a training step takes up to 1.7 times as long in contiguous memory (benchmarks/memory_format.md).

    On a CPU, oneDNN corrupts memory in the backward pass of some of these convolutions (``_overruns``): the process
    crashes, hangs or learns from wrong gradients. They are given only the pixels that their stride reads, and stride 1:
    the same function, computed by kernels that are sound, in the same time.
    """
    model.to(memory_format=torch.channels_last)
    strides = {conv: conv.stride for conv in model.modules() if isinstance(conv, nn.Conv2d) and _overruns(conv)}
    hooks = [conv.register_forward_pre_hook(partial(_subsample, stride)) for conv, stride in strides.items()]
    for conv in strides:
        conv.stride = (1, 1)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for conv, stride in strides.items():
            conv.stride = stride
        for tensor in (*model.parameters(), *model.buffers()):
            # ``Module.to`` would leave 1 x 1 kernels in channels_last: PyTorch takes them for contiguous as well.
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def _overruns(conv: nn.Conv2d) -> bool:
    """Whether oneDNN, in channels_last, writes beyond its buffer when it computes the gradient of ``conv``'s weight.

    Its 1 x 1 kernels copy the pixels that the stride reads into a buffer with ``in_channels`` numbers for each, but
    place them as if each filled a vector register: 8 numbers with AVX2, 16 with AVX-512, where it depends on sizes and
    on luck whether it shows (uxlfoundation/oneDNN, issue 6035; torch 2.14.1). FastViT, MobileOne and MobileCLIP begin
    with such a convolution.
    """
    pointwise = conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.padding in ((0, 0), "valid")
    return pointwise and conv.in_channels < _LARGEST_REGISTER and conv.weight.device.type == "cpu"


def _subsample(stride: tuple[int, ...], _: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    """Pixels that a 1 x 1 convolution of ``stride`` reads: (b, c, h, w) to (b, c, ceil(h / stride), ...)."""
    return inputs[0][..., :: stride[0], :: stride[1]]


# Data


def batches(count: int, batch_size: int, *names: object) -> list[np.ndarray]:
    """Row numbers 0 to count - 1 in a random order given by ``names``, in full batches; the remainder is left out.

    Fewer rows than a batch make one batch of all.
    """
    order = generator(*names).permutation(count)
    full = max(1, count // batch_size)
    return [order[i * batch_size : (i + 1) * batch_size] for i in range(full)]


class Kept(dict[Any, Any]):
    """Pictures that are needed in every epoch, as many as fit into so many bytes; the others are made again."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def keep(self, name: Any, picture: Any, size: int) -> None:
        """Keep one of ``size`` bytes, if there is room for it."""
        if size <= self.room:
            self.room -= size
            self[name] = picture


class Views(Dataset[torch.Tensor]):
    """Photographs of a split under views: item (i, row) is photograph i seen as ``row`` of ``views``."""

    def __init__(self, images: ShardSet, preprocess: dict[str, Any]) -> None:
        self.images, self.preprocess = images, preprocess
        self.decoded = Kept(0 if workers() else _BYTES_KEPT)  # workers end with the epoch, and all that they keep

    def __getitem__(self, item: tuple[int, np.ndarray]) -> torch.Tensor:
        i, row = item
        image = self.decoded.get(i)
        if image is None:
            image = self.images.image(i)
            self.decoded.keep(i, image, 3 * image.width * image.height)
        return torch.from_numpy(views.reapply(image, row, self.preprocess))


class Replays(Dataset[np.ndarray]):
    """Photographs under views that come again in later epochs: item (i, k) is photograph i in its view number k.

    ``row`` gives the row of ``views`` for i and k. What an epoch has shown is not decoded and replayed again.
    """

    def __init__(self, images: ShardSet, preprocess: dict[str, Any], row: Callable[[int, int], np.ndarray]) -> None:
        self.images, self.preprocess, self.row = images, preprocess, row
        self.kept = Kept(_BYTES_KEPT)

    def __getitem__(self, item: tuple[int, int]) -> np.ndarray:
        """8-bit RGB, (size, size, 3)."""
        i, k = item
        return np.array(views.replay(self.images.image(i), self.row(i, k), self.preprocess))

    def batches(self, plan: Sequence[Sequence[tuple[int, int]]]) -> Iterator[torch.Tensor]:
        """float32 (b, 3, size, size) for each list of items in ``plan``."""
        lacking = [[item for item in batch if item not in self.kept] for batch in plan]
        made = load(self, [items for items in lacking if items])
        for batch, items in zip(plan, lacking, strict=True):
            new = dict(zip(items, next(made).numpy(), strict=True)) if items else {}
            for item, picture in new.items():
                self.kept.keep(item, picture, picture.nbytes)
            pictures = (new[item] if item in new else self.kept[item] for item in batch)
            yield torch.from_numpy(np.stack([to_array(picture, self.preprocess) for picture in pictures]))


def load(dataset: Dataset[Any], plan: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """Batches of a dataset, in the order of ``plan`` (one list of items per batch), decoded by ``workers()``."""
    own = torch.Generator()  # the loader would otherwise draw from torch's, which belongs to the model
    return iter(
        DataLoader(dataset, batch_sampler=plan, num_workers=workers(), generator=own, worker_init_fn=_deaf)  # type: ignore[arg-type]
    )


def _deaf(_: int) -> None:
    """A cluster sends its signals to every process of a job; the one that trains decides when to stop."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def plain_pixels(
    images: ShardSet, preprocess: dict[str, Any], batch_size: int = _EVAL_BATCH, rows: slice = slice(None)
) -> Iterator[torch.Tensor]:
    """Photographs of a split, all or ``rows``, in order, without augmentation: float32 (b, 3, size, size)."""
    row = views.plain_view(0)
    plan = [[(i, row) for i in some] for some in chunks(range(len(images))[rows], batch_size)]
    return load(Views(images, preprocess), plan)


def plain_row(i: int, k: int) -> np.ndarray:
    """The plain view as every view of every photograph, for ``Replays``."""
    return views.plain_view(0)


def chunks(rows: range, batch_size: int = _EVAL_BATCH) -> list[range]:
    """``rows`` in their order, in batches; the last one may be smaller."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def leaves_below(data: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """(ids of the leaves in order, {id of any taxon: int64 numbers of the leaves that are it or lie under it})."""
    table = read_table(data / "index" / "taxa.parquet", columns=["taxon_id", *RANKS, "leaf"]).to_pylist()
    leaves: list[str] = []
    below: dict[tuple[str | None, ...], list[int]] = {}
    for row in table:
        if not row["leaf"]:
            continue
        path = tuple(row[rank] for rank in RANKS)
        for length in range(1, label_rank(path) + 2):
            below.setdefault(path[:length], []).append(len(leaves))
        leaves.append(row["taxon_id"])
    paths = {row["taxon_id"]: tuple(row[rank] for rank in RANKS) for row in table}
    return leaves, {taxon: np.array(below[path[: label_rank(path) + 1]], np.int64) for taxon, path in paths.items()}


def under(taxa: Sequence[str], below: Mapping[str, np.ndarray], leaves: int) -> torch.Tensor:
    """bool (n, leaves), from taxon ids and ``leaves_below``: which leaves are, or lie under, the taxon of each row."""
    marked = torch.zeros(len(taxa), leaves, dtype=torch.bool)
    for row, taxon in enumerate(taxa):
        marked[row, below[taxon]] = True
    return marked


def log_folder(data: Path, stage: str, job: str) -> Path:
    """Where a training writes for TensorBoard: beside the data folder, with the logs of the jobs."""
    return data.parent / "logs" / "tensorboard" / f"{stage}-{job}"


def rank_nodes(data: Path) -> np.ndarray:
    """int64 (6, C): the number of each leaf's node at the ranks kingdom to genus; a node is all leaves of one path."""
    table = read_table(data / "index" / "taxa.parquet", columns=[*RANKS, "leaf"]).to_pylist()
    paths = [tuple(row[rank] for rank in RANKS) for row in table if row["leaf"]]
    rows = []
    for length in range(1, len(RANKS)):
        number: dict[tuple[str | None, ...], int] = {}
        rows.append([number.setdefault(path[:length], len(number)) for path in paths])
    return np.array(rows, np.int64)


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
