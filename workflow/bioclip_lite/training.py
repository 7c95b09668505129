"""The one trainer: students, their control and recovery after pruning (``distill``), teachers (``fit``).

Everything random comes from names (seed, stage, epoch, key), so a run does not depend on the number of workers, and two
runs on one machine with the same number of threads give the same weights. So does a run that was stopped, at any step,
and continued (``checkpoint``). Several processes train as one does (``distributed``), to rounding.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from bioclip_lite import cache, checkpoint, distributed, losses, views
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_table
from bioclip_lite.progress import progress
from bioclip_lite.randomness import digest, generator
from bioclip_lite.shards import ShardSet, shard_names
from bioclip_lite.taxonomy import RANKS, label_rank

_WARM_UP = 0.1  # share of the steps
_CLIP = 1.0  # largest norm of the gradient
_EVAL_BATCH = 128
_RIDGE = 1.0  # in units of the features' mean variance
_PROBE_LOGIT = 10.0
_CORES_PER_WORKER = 4  # on a CPU: about a fifth of the work is decoding, the rest training
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
    torch.backends.cudnn.benchmark = False


def autocast_helps(model: nn.Module) -> bool:
    """Whether bfloat16 makes training faster: on a GPU always; on a CPU that has it, for dense networks only.

    Depthwise convolutions in bfloat16 take 1.6 times as long on a CPU, dense layers 0.7 times (AVX-512 BF16).
    """
    if torch.cuda.is_available():
        return True
    depthwise = any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in model.modules())
    return not depthwise and torch.cpu._is_avx512_bf16_supported()


# Data


def batches(count: int, batch_size: int, *names: object) -> list[np.ndarray]:
    """Row numbers 0 to count - 1 in a random order given by ``names``, in full batches; the remainder is left out.

    Fewer rows than a batch make one batch of all.
    """
    order = generator(*names).permutation(count)
    full = max(1, count // batch_size)
    return [order[i * batch_size : (i + 1) * batch_size] for i in range(full)]


class Views(Dataset[torch.Tensor]):
    """Photographs of a split under views: item (i, row) is photograph i seen as ``row`` of ``views``."""

    def __init__(self, images: ShardSet, preprocess: dict[str, Any]) -> None:
        self.images, self.preprocess = images, preprocess

    def __getitem__(self, item: tuple[int, np.ndarray]) -> torch.Tensor:
        i, row = item
        return torch.from_numpy(views.apply(self.images.image(i), row, self.preprocess))


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
    wanted = range(len(images))[rows]
    plan = [[(i, row) for i in wanted[start : start + batch_size]] for start in range(0, len(wanted), batch_size)]
    return load(Views(images, preprocess), plan)


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
    train_mode: Callable[[], Any] | None = None,
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
    at = checkpoint.Position()
    if keep and distributed.agree(distributed.first() and checkpoint.usable(keep, known)):
        at = checkpoint.read(keep, model, optim)
        _say(f"{what}: continues in epoch {at.epoch + 1} of {epochs}, after step {at.step} of {steps}")
    kept = time.monotonic()
    slowest = 0.0  # seconds that a step or a measurement took

    def write() -> None:
        nonlocal kept
        if keep and distributed.first():
            checkpoint.write(keep, known, model, optim, at)
        kept = time.monotonic()

    with checkpoint.listening() if keep else nullcontext(lambda _: "") as why_stop:
        while at.epoch < epochs:
            began = before = time.monotonic()
            (train_mode or model.train)()
            rest = epoch_batches(at.epoch, at.step) if at.step < steps else ()
            for batch in _shown(rest, steps - at.step, f"{what}, epoch {at.epoch + 1}, batches"):
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
                at.loss += value.item()
                at.step += 1
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
            row = {"epoch": at.epoch + 1, "loss": at.loss / steps, "learning_rate": rate, **measure()}
            slowest = max(slowest, time.monotonic() - before)
            at = checkpoint.Position(at.epoch + 1, history=[*at.history, row])
            figures = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
            _say(f"{what}: epoch {at.epoch} of {epochs}: {figures} ({time.monotonic() - began:.1f} s)")
    return at.history


def _say(line: str) -> None:
    if distributed.first():
        print(line, flush=True)


def _shown(batches: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    return progress(batches, total, what) if distributed.first() else batches


def check_split(batch_size: int, where: str) -> None:
    """Raise UserError if a batch of ``batch_size`` has no photograph for one of the processes."""
    if batch_size < distributed.size():
        raise UserError(
            f"{where}: a batch of {batch_size} photographs cannot be split over {distributed.size()} processes; ask "
            f"for at most {batch_size} (--processes, or snakemake --set-resources <rule>:processes={batch_size})"
        )


# Distillation


class Cached:
    """The photographs of a split with the teacher's cache, checked to belong together.

    ``images`` the photographs; row i of the cache is photograph i.
    """

    def __init__(self, data: Path, split: str) -> None:
        self.images = ShardSet(data, split)
        self.shards = [cache.read_shard(data / "logits" / f"{name}.safetensors") for name in shard_names(data, split)]
        cached_keys = [key for shard in self.shards for key in shard.keys]
        if cached_keys != list(self.images.keys):
            missing = len(set(self.images.keys) - set(cached_keys))
            raise UserError(
                f"{data / 'logits'}: the cache of split {split} has {len(cached_keys)} photographs, the shards have "
                f"{len(self.images.keys)}, {missing} of them not in the cache; make the cache again: "
                f"snakemake --cores all logits"
            )
        self.starts = np.cumsum([0, *(len(shard.keys) for shard in self.shards)])

    @property
    def view_count(self) -> int:
        return int(self.shards[0].embeddings.shape[1])

    def _locate(self, i: int) -> tuple[cache.Shard, int]:
        number = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.shards[number], i - int(self.starts[number])

    def view(self, i: int, k: int) -> np.ndarray:
        """Row of ``views`` for view k of photograph i: float32 (P,)."""
        shard, row = self._locate(i)
        return np.array(shard.views[row, k])

    def target(self, i: int, k: int) -> np.ndarray:
        """The teacher's embedding of view k of photograph i: float32 (D,)."""
        shard, row = self._locate(i)
        return np.asarray(shard.embeddings[row, k], np.float32)


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
def fit_head(model: nn.Module, data: Path, preprocess: dict[str, Any], train: Cached, *, labels: bool = False) -> None:
    """Set the last layer of a timm model, in place, by ridge regression from its features to what it shall learn.

    For a network that starts from foreign weights: a random last layer would send large gradients through good features
    and spoil them before it fits (linear probing before fine-tuning, arXiv 2202.10054). Targets are the teacher's
    embeddings of the plain views of split "train", or with ``labels`` logits that single out the leaves of each taxon.
    Only sums over the photographs are kept, so memory does not grow with their number.
    """
    head = model.get_classifier()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        return
    _, below = leaves_below(data)
    model.eval()
    start = 0
    x_sum, y_sum = torch.zeros(head.in_features).double(), torch.zeros(head.out_features).double()
    xx = torch.zeros(head.in_features, head.in_features).double()
    xy = torch.zeros(head.in_features, head.out_features).double()
    for pixels in plain_pixels(train.images, preprocess):
        x = model.forward_head(model.forward_features(pixels), pre_logits=True).double()  # type: ignore[operator]
        y = torch.zeros(len(x), head.out_features).double()
        for b, i in enumerate(range(start, start + len(x))):
            if labels:
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


def _read_by_distill(data: Path) -> list[Path]:
    names = [*shard_names(data, "train"), *shard_names(data, "val")]
    return [
        *(data / "shard" / f"{name}.tar" for name in names),
        *(data / "logits" / f"{name}.safetensors" for name in names),
        data / "logits" / "taxa.safetensors",
        data / "index" / "taxa.parquet",
    ]


class _Lessons(Dataset[tuple[torch.Tensor, int, int]]):
    def __init__(self, cached: Cached, preprocess: dict[str, Any]) -> None:
        self.cached, self.preprocess = cached, preprocess

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, int, int]:
        i, k = item
        pixels = views.apply(self.cached.images.image(i), self.cached.view(i, k), self.preprocess)
        return torch.from_numpy(pixels), i, k


def distill(
    model: nn.Module,
    data: Path,
    preprocess: dict[str, Any],
    *,
    stage: str,
    seed: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = 0.05,
    affinity: float = 1.0,
    cosine: float = 1.0,
    labels: bool = False,
    train: Cached | None = None,
    keep: Path | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place on split "train" from the teacher's cache; it ends in eval mode on the CPU.

    Each epoch shows every photograph once, under one of its cached views, which the student replays at its own size;
    the target is the teacher's embedding of that same view. The loss is ``affinity`` x losses.affinity +
    ``cosine`` x losses.cosine; with ``labels`` it is losses.taxon_nll of the model's C logits instead (the control:
    same photographs, views and steps, no teacher). There is no selection: the last epoch counts.

    Args:
        model: float32 (b, 3, size, size) to (b, D), the teacher's D (with ``labels``: (b, C), the number of leaves).
        data: the data folder; reads shard/, logits/, index/taxa.parquet.
        preprocess: the student's; its size is the student's.
        stage, seed: name the random numbers and the log lines.
        learning_rate, weight_decay: AdamW's, at the peak of the schedule; see ``fit``.
        train: the photographs of split "train" with the cache, where the caller has opened them.
        keep: the checkpoint, see ``fit``.

    Returns:
        History, one row per epoch: epoch, loss, learning_rate, and on split "val" val_top1 (share of photographs whose
        taxon is the best of all leaves; photographs not known to a leaf do not count), val_agreement (share whose best
        leaf is also the teacher's) and, without ``labels``, val_cosine (to the teacher's embedding).

    Raises:
        UserError: the cache is of several teachers, of other photographs, or of another size than the model.
    """
    facts = {"stage": stage, "seed": seed, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    facts |= {"weight_decay": weight_decay, "affinity": affinity, "cosine": cosine, "labels": labels, **preprocess}
    train, val = train or Cached(data, "train"), Cached(data, "val")
    taxa = cache.read_taxa(data / "logits" / "taxa.safetensors")
    cache.check_same([*train.shards, *val.shards], taxa)
    leaves, below = leaves_below(data)
    if leaves != taxa.taxon_ids:
        raise UserError(
            f"{data}/logits/taxa.safetensors and index/taxa.parquet list different taxa; make the cache again: "
            f"snakemake --cores all logits"
        )
    if len(train.images) < 2:
        raise UserError(f"split train has {len(train.images)} photographs; training needs at least 2")
    size = min(batch_size, len(train.images))
    check_split(size, f"{stage}.batch_size")
    part = distributed.part(size)

    machine = device()
    text = torch.from_numpy(taxa.text).to(machine)
    deterministic(seed, stage, "train")
    model.to(machine, memory_format=torch.channels_last)  # type: ignore[call-overload]
    half = autocast_helps(model)
    first_view = {i: digest(seed, stage, "view", key) for i, key in enumerate(train.images.keys)}
    steps = len(batches(len(train.images), batch_size))

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.to(machine, memory_format=torch.channels_last)
        with torch.autocast(machine.type, torch.bfloat16, enabled=half):
            return model(pixels).float()

    def lessons(epoch: int, step: int) -> Iterator[Any]:
        # From epoch to epoch each photograph walks through its views, from a first one of its own.
        plan = [
            [(int(i), (first_view[int(i)] + epoch) % train.view_count) for i in rows[part]]
            for rows in batches(len(train.images), batch_size, seed, stage, "order", epoch)[step:]
        ]
        return load(_Lessons(train, preprocess), plan)

    def loss(batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return of_part(*batch) * distributed.share_of_loss(len(batch[0]), size)

    def of_part(pixels: torch.Tensor, rows: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        out = predict(pixels)
        if labels:
            under = torch.zeros(out.shape, dtype=torch.bool)
            for b, i in enumerate(rows.tolist()):
                under[b, below[train.images.taxon_ids[i]]] = True
            return losses.taxon_nll(out, under.to(machine))
        targets = [train.target(i, k) for i, k in zip(rows.tolist(), chosen.tolist(), strict=True)]
        target = torch.from_numpy(np.stack(targets)).to(machine)
        value = cosine * losses.cosine(out, target)
        return value + affinity * losses.affinity(out, target, text, taxa.logit_scale) if affinity else value

    leaf_number = {taxon: number for number, taxon in enumerate(leaves)}
    truth = torch.tensor([leaf_number.get(taxon, -1) for taxon in val.images.taxon_ids])

    @torch.inference_mode()
    def measure() -> dict[str, float]:
        mine = distributed.part(len(val.images))
        start = mine.start
        known, right, agreed, alike = 0.0, 0.0, 0.0, 0.0
        for pixels in plain_pixels(val.images, preprocess, rows=mine):
            out = predict(pixels)
            stop = start + len(out)
            taught = torch.from_numpy(np.stack([val.target(i, 0) for i in range(start, stop)])).to(machine)
            best = (out if labels else out @ text.T).argmax(-1).cpu()
            known += (truth[start:stop] >= 0).sum().item()
            right += (best == truth[start:stop]).sum().item()
            agreed += (best == (taught @ text.T).argmax(-1).cpu()).sum().item()
            alike += 0.0 if labels else F.cosine_similarity(out, taught).double().sum().item()
            start = stop
        sums = distributed.add(torch.tensor([right, agreed, alike, known], dtype=torch.float64))
        counts = torch.tensor([sums[3].item(), len(val.images), len(val.images)], dtype=torch.float64)
        names = ["val_top1", "val_agreement", "val_cosine"][: 2 if labels else 3]
        return dict(zip(names, (sums[:3] / counts).tolist(), strict=False))

    with torch.inference_mode():
        model.eval()
        width = predict(torch.zeros(1, 3, preprocess["size"], preprocess["size"])).shape[1]
    wanted = len(leaves) if labels else taxa.text.shape[1]
    if width != wanted:
        raise UserError(
            f"the model gives {width} numbers, the cache in {data}/logits asks for {wanted}; the student belongs to "
            f"another teacher or list of taxa: train it again (snakemake --cores all distill)"
        )
    history = fit(
        model,
        lessons,
        loss,
        measure,
        seed=seed,
        steps=steps,
        epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        what=f"{stage} {'control' if labels else 'student'}",
        keep=keep,
        recipe=lambda: checkpoint.recipe(model, ["training", f"stages.{stage}"], _read_by_distill(data), facts),
    )
    model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return history
