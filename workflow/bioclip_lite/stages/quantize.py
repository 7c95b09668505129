"""The pruned student in 8-bit weights: folded, quantised per tensor, the most sensitive layers in 16 bits.

What is measured is what ships: the folded graph with every weight on the grid that TensorFlow.js decodes. The error
of each layer is the distance that quantising it alone moves the unit embeddings of calibration photographs. 16 bits
go to the layers where a further byte removes most squared error: small ones, as the stem, before large ones. (On a
real MobileNetV2 this halves 1 - cosine for 0.4 % more bytes; the layers of largest error cost ten times that.)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioclip_lite import graph, grid, quantized
from bioclip_lite.errors import UserError
from bioclip_lite.files import replacing, write_json
from bioclip_lite.graph import Graph, Weights
from bioclip_lite.grid import Grid
from bioclip_lite.models import load_student, reparameterize
from bioclip_lite.preprocess import FILE as PREPROCESS_FILE
from bioclip_lite.preprocess import preprocess
from bioclip_lite.progress import progress
from bioclip_lite.randomness import digest
from bioclip_lite.shards import ShardSet

SPLIT = "calibration"
_BATCH = 32
_RANKING = 32  # photographs that rank the layers; all of them measure the result


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """Read data/prune/model, write data/quantize/model and data/quantize/report.json."""
    if job is not None:
        raise UserError(f"stage quantize is one job; it has no job {job!r}")
    model, spec, preprocessing = load_student(data / "prune" / "model")
    folded, weights = graph.fold(model if spec["reparameterized"] else reparameterize(model), preprocessing["size"])
    images = _calibration_images(params["images"], data, preprocessing)

    exact = embed(folded, weights, images)
    narrow = {name: grid.fit(array, 8) for name, array in weights.items() if name.endswith(".weight")}
    shifts = sensitivity(folded, weights, narrow, images[:_RANKING], exact[:_RANKING])
    wide = most_worth(shifts, {name: array.size for name, array in weights.items()}, params["wide_layers"])
    grids = {name: grid.fit(weights[name], 16 if name in wide else 8) for name in narrow}
    on_grid = quantized.decode({name: grid.encode(weights[name], grids[name]) for name in grids}, grids)

    cosines = (exact * embed(folded, {**weights, **on_grid}, images)).sum(axis=1)
    folder = data / "quantize" / "model"
    with replacing(folder) as scratch:
        scratch.mkdir()
        quantized.save(scratch, folded, weights, grids)
        write_json(scratch / PREPROCESS_FILE, preprocessing)
    size = sum(file.stat().st_size for file in folder.iterdir())
    layers = [
        {
            "weight": name,
            "shape": list(weights[name].shape),
            "bits": grids[name].bits,
            "bytes": weights[name].size * grids[name].bits // 8,
            "sensitivity": shifts[name],
            "sqnr_db": sqnr(weights[name], on_grid[name]),
        }
        for name in grids
    ]
    float32 = 4 * sum(array.size for array in weights.values())
    report = {
        "images": len(images),
        "cosine": {"mean": float(cosines.mean()), "min": float(cosines.min())},
        "bytes": size,
        "bytes_float32": float32,
        "macs": graph.macs(folded, weights),
        "layers": layers,
    }
    write_json(data / "quantize" / "report.json", report)
    print(
        f"quantize: {len(grids)} weights, {len(wide)} of them in 16 bits; {size / 1e6:.2f} MB, as float32 "
        f"{float32 / 1e6:.2f} MB; cosine to float32 on {len(images)} photographs: mean {cosines.mean():.5f}, "
        f"least {cosines.min():.5f}"
    )


def embed(folded: Graph, weights: Mapping[str, np.ndarray], images: torch.Tensor) -> np.ndarray:
    """Unit embeddings, float32 (n, D), of preprocessed images (n, 3, size, size)."""
    outputs = torch.cat([graph.run(folded, weights, batch) for batch in images.split(_BATCH)])
    return torch.nn.functional.normalize(outputs, dim=1).numpy()


def sensitivity(
    folded: Graph, weights: Weights, grids: Mapping[str, Grid], images: torch.Tensor, exact: np.ndarray
) -> dict[str, float]:
    """For each weight of ``grids``: root mean square distance of unit embeddings when only it is quantised."""
    shifts = {}
    for name, used in progress(grids.items(), len(grids), "quantize: layers measured"):
        alone = {**weights, name: grid.decode(grid.encode(weights[name], used), used)}
        moved = embed(folded, alone, images) - exact
        shifts[name] = float(np.sqrt((moved.astype(np.float64) ** 2).sum(axis=1).mean()))
    return shifts


def most_worth(shifts: Mapping[str, float], sizes: Mapping[str, int], count: int) -> list[str]:
    """The ``count`` weights with the largest squared shift per byte."""
    return sorted(shifts, key=lambda name: (-(shifts[name] ** 2) / sizes[name], name))[:count]


def sqnr(exact: np.ndarray, rounded: np.ndarray) -> float | None:
    """Signal to quantisation noise ratio, 10 log10(sum w^2 / sum (w - w')^2), in dB; None if there is no noise."""
    signal = np.square(exact, dtype=np.float64).sum()
    noise = np.square(exact.astype(np.float64) - rounded).sum()
    return float(10 * np.log10(signal / noise)) if noise > 0 and signal > 0 else None


def _calibration_images(count: int, data: Path, preprocessing: dict[str, Any]) -> torch.Tensor:
    """``count`` photographs of the calibration split, chosen by a hash of their keys; float32 (n, 3, size, size)."""
    shards = ShardSet(data, SPLIT)
    if not len(shards):
        raise UserError(
            f"split {SPLIT} has no photographs, so the error of the quantised layers cannot be measured; "
            f"give it a share in params.yaml (index.split.{SPLIT} or index.synthetic.images.{SPLIT})"
        )
    chosen = sorted(range(len(shards)), key=lambda i: digest(SPLIT, shards.keys[i]))[:count]
    return torch.from_numpy(np.stack([preprocess(shards.image(i), preprocessing) for i in chosen]))
