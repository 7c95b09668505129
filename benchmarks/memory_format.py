"""Measure the effect of channels_last on training on a CPU: ``python benchmarks/memory_format.py``.

For each network one process per instruction set takes training steps (forward, backward, AdamW) in contiguous memory
and in ``memory_format.channels_last`` in turn, on one thread; the table has medians of CPU seconds a step.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from bioclip_lite.models import students
from bioclip_lite.training import memory_format
from bioclip_lite.utils import machine

ROOT = Path(__file__).parents[1]
OUTPUT = Path(__file__).with_suffix(".md")
INSTRUCTIONS = {"all": None, "AVX2": "AVX2"}
WARM_UP, STEPS = 1, 7
# timm's name, pixels, photographs a step; the first is the default student, "resnet10t" the default teacher's tower.
NETWORKS = [
    ("fastvit_t8", 64, 32),
    ("resnet10t", 64, 128),
    ("mobilenetv2_100", 64, 32),
    ("fastvit_mci0", 128, 8),
    ("mobilenetv4_conv_small", 64, 32),
    ("mobileone_s0", 64, 32),
    ("vit_tiny_patch16_224", 64, 32),
]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    lines = [
        "# Memory formats on a CPU",
        "",
        f"`python benchmarks/memory_format.py`: CPU milliseconds a training step, one thread, medians of {STEPS} steps "
        f"taken in turn. {processor()}, torch {torch.__version__}. `all` and `AVX2`: the instructions that oneDNN may "
        f"use (`ONEDNN_MAX_CPU_ISA`). Networks without depthwise convolutions compute in bfloat16 where oneDNN has it.",
        "",
        "| network | pixels | batch | instructions | contiguous | channels_last | contiguous / channels_last |",
        "|---|---|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        for name, limit in INSTRUCTIONS.items():
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"ONEDNN_MAX_CPU_ISA": limit} if limit else {})
            command = [sys.executable, __file__, *map(str, network)]
            found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=600)
            plain, last = (1000 * float(word) for word in found.stdout.split())
            cells = [*network, name, f"{plain:.0f}", f"{last:.0f}", f"{plain / last:.2f}"]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
            print(lines[-1], flush=True)
    OUTPUT.write_text("\n".join(lines) + "\n")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(": ")[1] for line in lines if line.startswith("model name"))


def measure(name: str, size: int, batch: int) -> tuple[float, float]:
    """Median CPU seconds of a step in contiguous memory and in channels_last."""
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {"contiguous": [], "channels_last": []}
    with ExitStack() as formats:
        ready = []
        for layout in seconds:
            model = network(name, size)
            formats.enter_context(memory_format.channels_last(model) if layout == "channels_last" else nullcontext())
            ready.append((layout, model, torch.optim.AdamW(model.parameters(), 1e-3, fused=True)))
        pixels, half = torch.rand(batch, 3, size, size), machine.autocast_helps(ready[0][1])
        for number in range(WARM_UP + STEPS):
            for layout, model, optim in ready:
                began = time.process_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    out = model(pixels)
                optim.zero_grad(set_to_none=True)
                out.float().square().mean().backward()
                optim.step()
                if number >= WARM_UP:
                    seconds[layout].append(time.process_time() - began)
    plain, last = (statistics.median(values) for values in seconds.values())
    return plain, last


def network(name: str, size: int) -> nn.Module:
    chosen: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())["distill"]
    options = chosen["student_options"] if name == chosen["student"] else {}
    return students.build_student(students.student_spec(name, options, 128, size)).train()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(*measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    else:
        main()
