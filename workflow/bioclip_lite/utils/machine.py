"""The machine: device, cores, worker processes, determinism, number formats."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from bioclip_lite.utils import gpus
from bioclip_lite.utils.randomness import digest

_CORES_PER_WORKER = 4  # on a CPU: about a fifth of the work is decoding, the rest training


def has_gpu() -> bool:
    """Whether this process computes on a GPU; it chooses one when it is first asked, see ``gpus``."""
    gpus.take()
    return torch.cuda.is_available()


def device() -> torch.device:
    return torch.device("cuda" if has_gpu() else "cpu")


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
