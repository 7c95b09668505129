"""The machine: device, cores, worker processes, determinism, number formats."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from bioclip_lite.utils import gpus
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import digest

_ON_A_GPU = "float16"  # of "auto", see ``embedding_format``: nearer to float32 than bfloat16 (benchmarks/gpu.md)
_CORES_PER_WORKER = 4  # on a CPU: about a fifth of the work is decoding, the rest training


def has_gpu() -> bool:
    """Whether this process computes on a GPU; it chooses one when it is first asked, see ``gpus``."""
    gpus.take()
    return torch.cuda.is_available()


def device() -> torch.device:
    return torch.device("cuda" if has_gpu() else "cpu")


def moved(values: torch.Tensor, to: torch.device | None = None) -> torch.Tensor:
    """``values`` on a device, ``device()`` unless another is named, without waiting for what a GPU has to do before.

    Only what lies in pinned memory is copied while this process goes on.
    """
    to = to or device()
    return values if values.device.type == to.type else values.pin_memory().to(to, non_blocking=True)


def cores() -> int:
    """The cores this job may use: those of the process, fewer where OMP_NUM_THREADS (set by Snakemake) says so."""
    available = len(os.sched_getaffinity(0))
    return max(1, min(available, int(os.environ.get("OMP_NUM_THREADS") or available)))


def workers() -> int:
    """Processes that decode images beside this one; 0 decodes in this one."""
    return cores() if has_gpu() else cores() // _CORES_PER_WORKER


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
    if has_gpu():
        return True
    depthwise = any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in model.modules())
    supported = torch.cpu._is_avx512_bf16_supported() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported and not depthwise


def number_format(precision: str, model: nn.Module) -> torch.dtype:
    """The format of the matrix products and convolutions of ``model`` in training.

    ``precision`` is a name of torch's, or "auto": bfloat16 where that is faster, see ``autocast_helps``.
    """
    if precision == "auto":
        return torch.bfloat16 if autocast_helps(model) else torch.float32
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def autocast(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Within it networks in float32 compute in ``dtype`` what they can."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device().type, dtype)


def embedding_format(precision: str) -> str:
    """The ``embedding_in`` of a ``precision``, which may be "auto": float32 on a CPU, float16 on a GPU."""
    if precision != "auto":
        return precision
    return "float32" if device().type == "cpu" else _ON_A_GPU


@contextmanager
def embedding_in(precision: str) -> Iterator[None]:
    """Within it networks in float32 compute in float32, tf32, bfloat16 or float16 what they can.

    float32 is that of IEEE 754 here. Elsewhere PyTorch lets convolutions on a GPU round to tf32, which has its exponent
    and the mantissa of float16. A CPU has no tf32 and computes in float32.
    """
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    half = precision in ("bfloat16", "float16")
    for backend in backends:
        backend.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device().type, getattr(torch, precision)) if half else nullcontext():
            yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def within_memory(encode: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """``encode``, which embeds rows (b, ...), with batches halved from the first one on that a GPU has no memory for.

    It then raises UserError if half of a batch is too large as well.
    """
    parts = 1

    def encoded(rows: torch.Tensor) -> torch.Tensor:
        nonlocal parts
        while True:
            try:
                return torch.cat([encode(part) for part in rows.split(-(-len(rows) // parts))])
            except torch.OutOfMemoryError as error:
                if parts > 1 or len(rows) == 1:
                    raise UserError(
                        f"the GPU's memory does not hold {-(-len(rows) // parts)} photographs and the network; end "
                        "other programs on this GPU, or take a smaller network"
                    ) from error
            parts = 2  # outside of the block that holds the error, and with it what was computed
            print(f"the GPU's memory does not hold {len(rows)} photographs at once; batches are halved from here on")

    return encoded
