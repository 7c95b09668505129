"""What one answer costs: parameters, multiply-accumulates, bytes, milliseconds."""

import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

_WARM_UP = 5


def parameters(model: nn.Module) -> int:
    """Numbers that were learned: weights and biases, not the running statistics of batch normalisation."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.inference_mode()
def macs(forward: Callable[[torch.Tensor], Any], image: torch.Tensor) -> int:
    """Multiply-accumulates of convolutions, linear layers and attention for ``image`` (1, 3, height, width)."""
    # The counter does not know the fused attention of the CPU; the plain one is two matrix products, which it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward(image)
    return counter.get_total_flops() // 2  # PyTorch counts a multiply-accumulate as two operations


@torch.inference_mode()
def latency(forward: Callable[[torch.Tensor], Any], image: torch.Tensor, runs: int) -> dict[str, Any]:
    """Wall time of ``forward`` on ``image`` (1, 3, height, width) on one thread of the CPU, in milliseconds.

    Other work on the machine only adds time, so the minimum is the steadier figure and the median the usual one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_WARM_UP):
            forward(image)
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            forward(image)
            times.append(1000 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    return {
        "runtime": "PyTorch, CPU",
        "median": statistics.median(times),
        "min": min(times),
        "n": runs,
        "threads": 1,
        "batch": 1,
    }


def stored(paths: Iterable[Path]) -> int:
    """Bytes of files."""
    return sum(path.stat().st_size for path in paths)


def stored_tensors(path: Path, prefix: str = "") -> int:
    """Bytes of the tensors of a safetensors file whose names start with ``prefix``."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    spans = (
        entry["data_offsets"] for name, entry in header.items() if name.startswith(prefix) and name != "__metadata__"
    )
    return sum(end - begin for begin, end in spans)
