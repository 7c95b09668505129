"""Measure what several training processes cost: ``python benchmarks/distributed.py``.

Two processes with a thread each take training steps (forward, backward, AdamW) of the same network in several ways in
turn: gradients averaged in one message after the backward pass, or by DistributedDataParallel during it; batch
statistics of the own photographs, or of those of both processes. The table has medians of the ratio of neighbouring
steps.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bioclip_lite.models import students
from bioclip_lite.training import distributed

OUTPUT = Path(__file__).with_suffix(".md")
WARM_UP, STEPS = 2, 15
# timm's name, pixels, photographs of each process
NETWORKS = [("mobilenetv4_conv_small", 64, 8), ("vit_tiny_patch16_224", 64, 8)]
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Step = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    lines = [
        "# Several training processes",
        "",
        f"`python benchmarks/distributed.py`: two processes on one computer, a thread each, over gloo; {STEPS} steps "
        f"taken in turn, medians, ratios with their quartiles. {processor()}, torch {torch.__version__}; load of the "
        f"{os.cpu_count()} processors at the start: {os.getloadavg()[0]:.1f}.",
        "",
        "- *message / DDP*: gradients averaged in one message after the backward pass, in place of "
        "DistributedDataParallel, which training uses",
        "- *unused*: DistributedDataParallel told that parameters may have no gradient, as training does, and not told",
        "- *wall* and *processor*: waiting for the other process, and for programs beside, is in the first only",
        "- *statistics*: batch statistics of both processes (`distributed.synchronised_norms`), and of each its own",
        "",
        "| network | pixels | batch | clock | ms a step | message / DDP | unused: told / not | statistics: both / own"
        " |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        for clock, seconds in together(network).items():
            cells = [*network, clock, f"{1000 * statistics.median(seconds['ddp']):.0f}"]
            cells += [ratio(seconds[a], seconds[b]) for a, b in (("own", "ddp"), ("ddp", "not told"), ("ddp", "alone"))]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
            print(lines[-1], flush=True)
    OUTPUT.write_text("\n".join(lines) + "\n")


def ratio(above: list[float], below: list[float]) -> str:
    low, middle, high = statistics.quantiles([a / b for a, b in zip(above, below, strict=True)])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(": ")[1] for line in lines if line.startswith("model name"))


def together(network: tuple[str, int, int]) -> dict[str, dict[str, list[float]]]:
    """Seconds of the steps of the first of two processes, by clock and by the way of the step."""
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # of the processes
    context = get_context("spawn")
    with TemporaryDirectory() as folder:
        answers: Any = context.SimpleQueue()
        work = [context.Process(target=measure, args=(rank, folder, network, answers)) for rank in (0, 1)]
        for process in work:
            process.start()
        found: dict[str, dict[str, list[float]]] = answers.get()
        for process in work:
            process.join()
    return found


def measure(rank: int, folder: str, network: tuple[str, int, int], answers: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    name, size, batch = network
    pixels = torch.rand(batch, 3, size, size)
    ways = {way: prepared(way, name, size) for way in ("own", "ddp", "not told", "alone")}
    seconds: dict[str, dict[str, list[float]]] = {clock: {way: [] for way in ways} for clock in CLOCKS}
    for number in range(WARM_UP + STEPS):
        for way, (model, loss_of) in ways.items():
            optim = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
            distributed.wait()
            began = {clock: now() for clock, now in CLOCKS.items()}
            loss_of(pixels).backward()
            if way == "own":
                distributed.average([p.grad for p in model.parameters() if p.grad is not None])
            optim.step()
            if number >= WARM_UP:
                for clock, now in CLOCKS.items():
                    seconds[clock][way].append(now() - began[clock])
            optim.zero_grad(set_to_none=True)
    if rank == 0:
        answers.put(seconds)
    distributed.wait()
    dist.destroy_process_group()


def prepared(way: str, name: str, size: int) -> tuple[nn.Module, Step]:
    """A network and its loss of pixels; ``way``: "own", "ddp" (as trained), "not told" or "alone" (own statistics)."""
    torch.manual_seed(0)
    model = students.build_student(students.student_spec(name, {}, 128, size)).train()

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model(pixels)
        return out.square().mean()

    def with_statistics(pixels: torch.Tensor) -> torch.Tensor:
        with distributed.synchronised_norms():
            return loss(pixels)

    if way == "own":
        return model, with_statistics
    if way == "ddp":
        return model, distributed.replicated(model, loss)
    return model, DistributedDataParallel(
        Mean(model, loss if way == "alone" else with_statistics),
        forward_sync_buffers=False,
        find_unused_parameters=way == "alone",
        gradient_as_bucket_view=True,
    )


class Mean(nn.Module):
    """Join a model and its loss, for DistributedDataParallel to wrap."""

    def __init__(self, model: nn.Module, loss: Step) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.loss(pixels)


if __name__ == "__main__":
    main()
