"""Tune a teacher's logit scale on its cache to the lowest cross entropy of the labels of split val.

The scale is the inverse temperature of a teacher's answers, and the right one depends on the taxa it chooses among
(MobileCLIP2, arXiv 2508.20691, tunes it one teacher at a time). Only cached embeddings are read.
"""

import io
import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bioclip_lite.utils import machine
from bioclip_lite.utils.progress import progress

LOWEST, HIGHEST, STEPS = 1.0, 200.0, 41
PHOTOGRAPHS = 10_000  # of split val, at most: their mean is good to a hundredth, and the places of its minimum to less
_NUMBERS_AT_ONCE = 4_000_000  # logits in a chunk: 16 MB


def grid(given: float) -> list[float]:
    """The scales that are tried, rising: STEPS of equal ratio between LOWEST and HIGHEST, and the teacher's own."""
    return sorted({*np.geomspace(LOWEST, HIGHEST, STEPS).tolist(), given})


def sweep(
    embeddings: torch.Tensor, text: torch.Tensor, leaves: list[np.ndarray], scales: list[float]
) -> tuple[np.ndarray, float]:
    """Measure the cross entropy of the labels at each scale, in one pass over the photographs.

    Args:
        embeddings: float32 (n, D), on any device; they need not be normalised.
        text: float32 (C, D), L2-normalised; the computation runs on its device.
        leaves: for each photograph the int64 numbers of the leaves that its label may mean, at least one.
        scales: S of them.

    Returns:
        (losses.taxon_nll of the logits at each scale, in nats, float64 (S,); share of the photographs whose best leaf
        is one of their label's, which is the same at every scale).
    """
    total = torch.zeros(len(scales), dtype=torch.float64, device=text.device)
    right = torch.zeros((), dtype=torch.int64, device=text.device)
    rows = max(1, min(len(embeddings), _NUMBERS_AT_ONCE // len(text)))
    buffer = text.new_empty(rows, len(text))
    starts = range(0, len(embeddings), rows)
    for start in progress(starts, len(starts), f"logit scale, batches of {rows} photographs"):
        cosine = F.normalize(machine.moved(embeddings[start : start + rows], text.device), dim=-1) @ text.T
        mine = leaves[start : start + rows]
        # The leaves of each label side by side, the last one repeated; the repetitions have no share in the sum.
        width = max(map(len, mine))
        own = np.stack([np.pad(numbers, (0, width - len(numbers)), "edge") for numbers in mine])
        counts = torch.tensor([len(numbers) for numbers in mine])
        absent = torch.arange(width) >= counts[:, None]
        places, absent = machine.moved(torch.from_numpy(own), text.device), machine.moved(absent, text.device)
        under = cosine.gather(1, places).masked_fill(absent, -torch.inf)
        best = cosine.amax(1)
        right += (under.amax(1) == best).sum()
        # Differences to the best: what is summed lies in (0, 1], and nothing overflows.
        cosine.sub_(best[:, None])
        under.sub_(best[:, None])
        for s, scale in enumerate(scales):
            every = torch.mul(cosine, scale, out=buffer[: len(mine)]).exp_().sum(1).log_()
            total[s] += (every - (scale * under).logsumexp(1)).double().sum()
    return total.cpu().numpy() / len(embeddings), right.item() / len(embeddings)


def curve(scales: list[float], nll: np.ndarray, given: float) -> dict[str, Any]:
    """The points, the teacher's own scale and the best one, for scale.json."""
    best = int(np.argmin(nll))
    return {
        "chosen": scales[best],
        "nll": float(nll[best]),
        "given": given,
        "nll_given": float(nll[scales.index(given)]),
        "curve": [{"scale": scale, "nll": float(value)} for scale, value in zip(scales, nll, strict=True)],
    }


def draw(curve: dict[str, Any]) -> bytes:
    """The curve as a PNG file; ``curve`` is the content of scale.json."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([point["scale"] for point in curve["curve"]], [point["nll"] for point in curve["curve"]], color="#0072B2")
    axes.axvline(curve["given"], color="#555555", linestyle="--", label=f"given: {curve['given']:.1f}")
    axes.axvline(curve["chosen"], color="#D55E00", label=f"chosen: {curve['chosen']:.1f}")
    axes.set(xscale="log", xlabel="logit scale", ylabel="cross entropy of the labels, nats")
    axes.set_title(
        f"{curve['n_images']:,} photographs of split val, {curve['n_classes']:,} taxa, "
        f"label space {curve['label_space']:,}",
        fontsize=9,
    )
    # Cut off what is worse than equal chances for all taxa.
    top = 1.1 * max(curve["nll_given"], math.log(curve["label_space"]))
    axes.set_ylim(top=top if top > curve["nll"] else None)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()
