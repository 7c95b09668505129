"""Quantize the pruned student: fold it, round it per tensor to 8 bits and the most sensitive layers to 16 bits.

The measured model is the shipped one: the folded graph with every array on the grid that TensorFlow.js decodes.
``compression.mixed_precision`` has the method; benchmarks/int8.md measures each of its steps.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bioclip_lite.compression import mixed_precision, quantized
from bioclip_lite.graph import execution, folding
from bioclip_lite.models import embedding_checks
from bioclip_lite.models.students import load_student, reparameterize
from bioclip_lite.photographs.preprocess import FILE as PREPROCESS_FILE
from bioclip_lite.photographs.preprocess import preprocess
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.utils import job_names
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing_folder, write_json
from bioclip_lite.utils.randomness import drawn

if TYPE_CHECKING:
    from bioclip_lite.utils import sections

SPLIT = "calibration"
_CHECKED = 32  # photographs whose embeddings must be numbers


def run(params: "sections.Quantize", data: Path, job: str | None = None) -> None:
    """Read data/prune/model, write data/quantize/model and data/quantize/report.json."""
    if job is not None:
        job_names.parse("quantize", job, ())
    model, spec, preprocessing = load_student(data / "prune" / "model")
    folded, weights = folding.fold(model if spec["reparameterized"] else reparameterize(model), preprocessing["size"])
    keys, images = _calibration_images(params["images"], data, preprocessing)
    _check(execution.run(folded, weights, images[:_CHECKED]), keys, "quantize: the student in data/prune/model")
    result = mixed_precision.quantize(folded, weights, images, params["bytes_per_parameter"], params["repair"])
    report = mixed_precision.report(folded, weights, images, result)
    rounded = result.rounded
    rounded_answers = execution.run(folded, rounded.weights, images[:_CHECKED])
    _check(rounded_answers, keys, "quantize: the student, rounded to integers,")

    folder = data / "quantize" / "model"
    with replacing_folder(folder, (quantized.GRAPH_FILE, quantized.WEIGHTS_FILE, PREPROCESS_FILE)) as scratch:
        quantized.save(scratch, {**folded, "ranges": rounded.ranges}, rounded.weights, rounded.grids)
        write_json(scratch / PREPROCESS_FILE, preprocessing)
    report["bytes"] = sum(file.stat().st_size for file in folder.iterdir())
    write_json(data / "quantize" / "report.json", report)
    wide = sum(layer["bits"] == 16 for layer in report["layers"])
    print(
        f"quantize: {len(report['layers'])} weights, {wide} of them in 16 bits; {report['bytes_per_parameter']:.3f} "
        f"bytes a parameter, {report['bytes'] / 1e6:.2f} MB with the graph, as float32 "
        f"{report['bytes_float32'] / 1e6:.2f} MB; cosine to float32 on {len(images)} photographs: mean "
        f"{report['cosine']['mean']:.5f}, least {report['cosine']['min']:.5f}"
    )


def _check(outputs: torch.Tensor, keys: list[str], maker: str) -> None:
    """Raise UserError unless the embeddings of some photographs are numbers, and not all the same."""
    embeddings = outputs.numpy()
    embedding_checks.check_finite(embeddings, keys[: len(embeddings)], maker)
    embedding_checks.check_varied(embeddings, "photographs", maker)


def _calibration_images(count: int, data: Path, preprocessing: dict[str, Any]) -> tuple[list[str], torch.Tensor]:
    """Preprocess ``count`` photographs of the calibration split, drawn by key.

    Returns:
        Their keys, and float32 (n, 3, size, size).
    """
    shards = ShardSet(data, SPLIT)
    if not len(shards):
        raise UserError(
            f"split {SPLIT} has no photographs, so the error of the quantized layers cannot be measured; "
            f"give the split a share in params.yaml (index.split.{SPLIT} or index.synthetic.images.{SPLIT})"
        )
    chosen = drawn(shards.each_key(), count, SPLIT)
    pixels = np.stack([preprocess(shards.image(i), preprocessing) for i in chosen])
    return [shards.key(i) for i in chosen], torch.from_numpy(pixels)
