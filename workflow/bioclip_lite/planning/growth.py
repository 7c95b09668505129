"""What grows with the taxa of a list, as benchmarks/scale.md has it: measured on one thread of an AMD EPYC.

The figures there are for embeddings of 512 numbers; of others, time and memory are taken to grow in proportion.
"""

import math
from collections.abc import Sequence

TAXA = (1_000, 10_000, 50_000, 450_000)  # that it was measured at
WIDTH = 512
# Loss and gradients in blocks, ms a photograph; their memory beside PyTorch's 600 MB, in MB; reduction of predictions,
# ms a photograph and variant; fit of the temperature, s a variant; memory of the larger of these two, in MB.
LOSS = (0.0973, 1.19, 5.76, 48.8)
LOSS_MEMORY = (3, 35, 113, 895)
REDUCTION = (0.0436, 0.547, 2.5, 16.2)
TEMPERATURE = (3.67, 8.78, 14.3, 164)
EVALUATION_MEMORY = (335, 550, 550, 2144)
PREDICTION_BYTES = 1230  # of a photograph and variant, whatever the taxa
START = {10_000: 0.0337, 100_000: 0.0557, 1_000_000: 0.312}  # s, by photographs
START_MEMORY = 696  # MB, at a million photographs; 600 of it PyTorch
# Multiply-accumulates of an image tower for a photograph of 224 pixels (timm).
TEACHERS = {"ViT-B/16 (BioCLIP)": 17.6e9, "ViT-L/14 (BioCLIP 2)": 81e9}


def loss_seconds(taxa: int, width: int) -> float:
    """CPU seconds that the losses of one photograph take beside the networks."""
    return _between(TAXA, LOSS, taxa) / 1000 * width / WIDTH


def loss_memory(taxa: int, width: int) -> float:
    """Bytes that the losses of a training process take."""
    return _between(TAXA, LOSS_MEMORY, taxa) * 1e6 * width / WIDTH


def prediction_seconds(photographs: float, taxa: int, width: int) -> float:
    """CPU seconds of one variant's answers to ``photographs`` beside its network, fit of the temperature included."""
    reduced = _between(TAXA, REDUCTION, taxa) / 1000 * photographs
    return (reduced + _between(TAXA, TEMPERATURE, taxa)) * width / WIDTH


def evaluation_memory(taxa: int, width: int) -> float:
    """Bytes that a job of stage evaluate takes."""
    return _between(TAXA, EVALUATION_MEMORY, taxa) * 1e6 * width / WIDTH


def start_seconds(photographs: float) -> float:
    """CPU seconds until a training over ``photographs`` asks for its first batch, imports left out."""
    return _between([*START], [*START.values()], photographs)


def gpu_hours(views: float, macs: float, teraflops: float) -> float:
    """Hours of a GPU for the embeddings of ``views``, at a rate of operations that it sustains."""
    return views * 2 * macs / (teraflops * 1e12) / 3600


def _between(at: Sequence[float], measured: Sequence[float], x: float) -> float:
    """The value at x on straight lines through the logarithms of what was measured, the outer ones prolonged."""
    left = max(0, sum(point <= x for point in at[:-1]) - 1)
    exponent = math.log(measured[left + 1] / measured[left]) / math.log(at[left + 1] / at[left])
    return float(measured[left] * (x / at[left]) ** exponent)
