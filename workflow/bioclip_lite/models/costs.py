"""Costs of one answer: parameters, multiply-accumulates, bytes, milliseconds."""

import json
import math
import statistics
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

_WARM_UP = 5
_TRIES = 5  # of a comparison without a decision
_CHUNK = 1 << 20  # bytes of a file in memory at a time


def parameters(model: nn.Module) -> int:
    """Count learned numbers: weights and biases, not the running statistics of batch normalisation."""
    return sum(parameter.numel() for parameter in model.parameters())


def int8_bytes(model: nn.Module) -> int:
    """Estimate the bytes of a model with INT8 weights: one per weight, four per layer output and other parameter.

    Batch normalisation and layer scales (named gamma) count nothing, as they are folded into the layers.
    """
    total, counted = 0, set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            total += module.weight.numel() + 4 * len(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
            counted |= set(module.parameters())
    rest = (p for name, p in model.named_parameters() if p not in counted and not name.endswith("gamma"))
    return total + 4 * sum(p.numel() for p in rest)


@torch.inference_mode()
def macs(forward: Callable[[torch.Tensor], Any], image: torch.Tensor) -> int:
    """Count multiply-accumulates of convolutions, linear layers and attention for ``image`` (1, 3, height, width)."""
    # The counter misses the fused attention of the CPU; the plain one is two matrix products, which it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward(image)
    return counter.get_total_flops() // 2  # PyTorch counts a multiply-accumulate as two operations


@torch.inference_mode()
def latency(forward: Callable[[torch.Tensor], Any], image: torch.Tensor, runs: int) -> dict[str, Any]:
    """Measure wall time of ``forward`` on ``image`` (1, 3, height, width) on one CPU thread, in milliseconds.

    Other load on the computer only adds time, so the minimum is the steadier figure and the median the usual one.
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


@torch.inference_mode()
def race(before: nn.Module, after: nn.Module, image: torch.Tensor, rounds: int) -> dict[str, Any]:
    """Compare the time of ``after`` with that of ``before`` for ``image`` (1, 3, height, width), on one thread.

    The two take turns, and the processor time of this thread counts, so that neither a slower minute nor other load
    decides. More rounds follow, up to five times as many, while the confidence interval includes 1.

    Returns:
        "ratio": median over the rounds of after / before; "low", "high": its 95 % confidence interval (order
        statistics); "n": number of rounds; "faster": the ratio is below 1; "before_ms", "after_ms": medians.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    runners = {"before": before, "after": after}
    try:
        for _ in range(_WARM_UP):
            before(image), after(image)
        for _ in range(_TRIES):
            for number in range(rounds):
                for name in ("before", "after") if number % 2 else ("after", "before"):
                    seconds[name].append(_thread_time(runners[name], image))
            ratio = _median([b / a for a, b in zip(seconds["before"], seconds["after"], strict=True)])
            if not ratio["low"] <= 1 <= ratio["high"]:
                break
    finally:
        torch.set_num_threads(threads)
    times = {f"{name}_ms": 1000 * statistics.median(each) for name, each in seconds.items()}
    return {"runtime": "PyTorch, CPU", "threads": 1, "batch": 1, **ratio, **times, "faster": ratio["ratio"] < 1}


def _thread_time(model: nn.Module, image: torch.Tensor) -> float:
    start = time.thread_time()
    model(image)
    return time.thread_time() - start


def _median(values: list[float]) -> dict[str, float]:
    """Median and its 95 % confidence interval: binomial order statistics, in the normal approximation."""
    ordered, n = sorted(values), len(values)
    half = 0.98 * math.sqrt(n)
    low, high = ordered[max(0, math.floor(n / 2 - half))], ordered[min(n - 1, math.ceil(n / 2 + half))]
    return {"ratio": statistics.median(ordered), "low": low, "high": high, "n": n}


def files(paths: Iterable[Path]) -> dict[str, int]:
    """Sum "bytes" of files, and "gzipped", the bytes that a server sends, each file compressed by itself."""
    sizes = {path: path.stat().st_size for path in paths}
    return {
        "bytes": sum(sizes.values()),
        "gzipped": sum(gzipped(_spans(path, [(0, size)])) for path, size in sizes.items()),
    }


def tensors(path: Path, prefix: str = "") -> dict[str, int]:
    """Sum "bytes" and "gzipped" of the tensors of a safetensors file whose names start with ``prefix``."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
    offsets = (
        entry["data_offsets"] for name, entry in header.items() if name.startswith(prefix) and name != "__metadata__"
    )
    spans = sorted((start + begin, start + end) for begin, end in offsets)
    return {"bytes": sum(end - begin for begin, end in spans), "gzipped": gzipped(_spans(path, spans))}


def array(values: np.ndarray) -> dict[str, int]:
    """ "bytes" and "gzipped" of an array, as if it were a file."""
    content = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    chunks = (content[start : start + _CHUNK].data for start in range(0, len(content), _CHUNK))
    return {"bytes": values.nbytes, "gzipped": gzipped(chunks)}


def of_table(sizes: dict[str, int]) -> dict[str, int]:
    """Rename sizes to those of the table of taxa: "table_bytes" and "table_gzipped"."""
    return {f"table_{name}": size for name, size in sizes.items()}


def gzipped(chunks: Iterable[bytes | memoryview]) -> int:
    """Bytes after gzip compression (level 9) of a file that is read in ``chunks``."""
    packer = zlib.compressobj(9, wbits=31)  # 16 + 15: gzip's header, the largest window
    return sum(len(packer.compress(chunk)) for chunk in chunks) + len(packer.flush())


def _spans(path: Path, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Read a file from each begin to each end offset, in chunks."""
    with path.open("rb") as file:
        for begin, end in spans:
            file.seek(begin)
            for place in range(begin, end, _CHUNK):
                yield file.read(min(_CHUNK, end - place))
