"""The quantised student as a bundle for TensorFlow.js, compared with PyTorch before it is handed over.

The bundle is a folder that react-bio-clip reads: the graph model, the table of the taxa and bundle.json, which says how
to come from an embedding to an answer and how sure to be of it. It is released only if the weights that JavaScript
decodes are bit-identical to those measured in PyTorch, and if Node, starting from the JPEG files of test photographs,
comes to the same embeddings. Files are named after their content, so that they may be cached for ever.
"""

import importlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bioclip_lite import graph
from bioclip_lite.compression import grid, quantized
from bioclip_lite.metrics import calibration
from bioclip_lite.photographs.preprocess import preprocess, read_preprocess
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache.store import Taxa, read_taxa
from bioclip_lite.utils import job_names
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, replacing_folder, require, write_json
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import drawn
from bioclip_lite.web import bundle, javascript, onnx_export, tfjs

if TYPE_CHECKING:
    from bioclip_lite.params import jobs
    from bioclip_lite.utils import sections

COMPARED = "test"  # the split whose photographs are run in both
CALIBRATION = "calibration"
FORMAT = 2  # of bundle.json; react-bio-clip refuses others
_RUNS = 30  # inferences that the latency is the median of
_BATCH = 32
_LOGITS = 1 << 27  # in memory at a time while thresholds are fitted; more photographs would not move them


JOBS = ("bundle", "text")


def run(params: "sections.Convert", data: Path, job: str | None = None) -> None:
    """Write data/convert/tfjs and data/convert/report.json (job "bundle"), the text encoder (job "text"), or all that
    is asked for (None)."""
    if job not in (None, "bundle"):  # parameters of the bundle do not say whether there is a text encoder
        job_names.parse("convert", job, JOBS if params["text_encoder"] else JOBS[:1])
    if job in (None, "bundle"):
        _bundle(params, data)
    if job == "text" or (job is None and params["text_encoder"]):
        # Not an import that closure sees: a change of the code that converts texts does not make the bundle again.
        importlib.import_module("bioclip_lite.web.text_encoder").write(params, data)


def _bundle(params: "jobs.Bundle", data: Path) -> None:
    javascript.check_tools()
    model = data / "quantize" / "model"
    require(model / quantized.GRAPH_FILE)
    text = _text(data)
    table = bundle.make_table(data, text, params["taxa_bytes"])
    with replacing_folder(data / "convert" / "tfjs", (bundle.FILE, bundle.HASHED)) as folder:
        javascript.convert(model, folder)
        confidence = _calibrate(data, model, table, text.logit_scale)
        _describe(folder, data, model, text, table, confidence)
        report = _compare(params, data, model, folder)
        report["files"] = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        about = read_json(folder / bundle.FILE)
        report["onnx"] = {kind: _export(params, data, model, kind) for kind in params["onnx"]}
    report["bytes"] = sum(report["files"].values())
    report["model"] = {key: about["model"][key] for key in ("nodes", "operations", "macs", "parameters")}
    report["taxa"] = {"rows": len(table.paths), "left_out": table.left_out, "representatives": table.representatives}
    report["confidence"] = confidence
    write_json(data / "convert" / "report.json", report)
    print(
        f"convert: {report['bytes'] / 1e6:.2f} MB, {report['model']['nodes']} nodes; {report['weights_identical']} "
        f"weights bit-identical in JavaScript; {report['images']} photographs within "
        f"{report['largest_difference']:.1e} of PyTorch; {report['latency_ms']['median']:.1f} ms an image in Node "
        "(WebAssembly, one thread)"
    )


# What the answers are made of


def _text(data: Path) -> Taxa:
    """The text matrix of the teacher that the student answers in the space of."""
    text = read_taxa(data / "logits" / "taxa.safetensors")
    if _teacher(data)["identity"] != text.teacher:
        raise UserError(
            "data/logits/taxa.safetensors was embedded by another teacher than data/teacher/model holds; "
            "run stage logits again"
        )
    return text


def _teacher(data: Path) -> dict[str, Any]:
    about: dict[str, Any] = read_json(require(data / "teacher" / "model" / "teacher.json"))
    return about


def _calibrate(data: Path, model: Path, table: bundle.Table, logit_scale: float) -> dict[str, Any]:
    """``temperature`` and ``thresholds`` of bundle.json: from calibration photographs, the INT8 graph and table."""
    shards = ShardSet(data, CALIBRATION)
    count = max(256, _LOGITS // len(table.paths))
    chosen = sorted(drawn(shards.keys, count, CALIBRATION))
    if not chosen:
        raise UserError(
            f"split {CALIBRATION} has no photographs, so nothing can be said of how sure the model may be; give it a "
            f"share in params.yaml (index.split.{CALIBRATION} or index.synthetic.images.{CALIBRATION})"
        )
    folded, weights = quantized.load(model)
    preprocessing = read_preprocess(model)
    columns = ["taxon_id", *RANKS]
    paths = {
        row["taxon_id"]: tuple(row[rank] for rank in RANKS)
        for row in read_table(data / "index" / "taxa.parquet", columns).to_pylist()
    }
    embeddings = np.concatenate(
        [
            _units(graph.run(folded, weights, _pixels(shards, chosen[start : start + _BATCH], preprocessing)))
            for start in progress(range(0, len(chosen), _BATCH), -(-len(chosen) // _BATCH), "convert: calibration")
        ]
    )
    logits = logit_scale * (embeddings @ table.text.T)
    groups = [shards.description(i).get("group") for i in chosen]
    found = calibration.calibrate(logits, [paths[shards.taxon_ids[i]] for i in chosen], table.paths, groups)
    return {**found, "photographs": len(chosen)}


def _pixels(shards: ShardSet, chosen: Sequence[int], spec: dict[str, Any]) -> torch.Tensor:
    """Preprocessed photographs, float32 (n, 3, size, size)."""
    return torch.from_numpy(np.stack([preprocess(shards.image(i), spec) for i in chosen]))


def _units(outputs: torch.Tensor) -> np.ndarray:
    """Unit embeddings, float32 (n, D)."""
    units: np.ndarray = torch.nn.functional.normalize(outputs, dim=1).numpy()
    return units


# The files


def _describe(
    folder: Path, data: Path, model: Path, text: Taxa, table: bundle.Table, confidence: dict[str, Any]
) -> None:
    """Give the files of the model names with their hash, add the table, and write bundle.json about all of them."""
    model_files = bundle.take_model(folder, *quantized.load(model))
    taxa_file = bundle.add(folder, "taxa", ".bin", table.content())
    files = bundle.listed(folder)
    teacher, taxa = _teacher(data), table.described()
    student = read_json(require(data / "prune" / "model" / "student.json"))
    licences, attribution = bundle.photographs(data)
    about = {
        "format": FORMAT,
        "preprocess": read_preprocess(model),
        "embedding": text.text.shape[1],
        "logit_scale": text.logit_scale,
        "temperature": confidence["temperature"],
        "thresholds": confidence["thresholds"],
        "ranks": list(RANKS),
        "languages": table.languages(),
        "taxa": taxa,
        "text": {
            "file": taxa_file,
            "dtype": "int8",
            "rows": len(taxa),
            "columns": text.text.shape[1],
            "prompt": text.prompt,
            "left_out": table.left_out,
            "representatives": table.representatives,
        },
        "model": model_files,
        "files": files,
        "bytes": sum(file["bytes"] for file in files.values()),
        "licences": {
            "teacher": teacher["licence"],
            "initial_weights": (student["initial_weights"] or {}).get("licence"),
            "photographs": licences,
        },
        "attribution": attribution,
        "provenance": {
            "student": student["architecture"],
            "initial_weights": student["initial_weights"],
            "teacher": teacher["name"],
            "teacher_identity": teacher["identity"],
            "graph_sha256": bundle.sha256((model / quantized.GRAPH_FILE).read_bytes()),
            "weights_sha256": bundle.sha256((model / quantized.WEIGHTS_FILE).read_bytes()),
            "taxonomy_sha256": bundle.sha256(bundle.json_bytes(taxa)),
            "calibration_photographs": confidence["photographs"],
        },
    }
    (folder / bundle.FILE).write_bytes(bundle.json_bytes(about) + b"\n")


# The comparison


def _compare(params: "jobs.Bundle", data: Path, model: Path, folder: Path) -> dict[str, Any]:
    """Weights, embeddings and logits in Node against PyTorch; UserError where they part."""
    folded, weights = quantized.load(model)
    identical = _compare_weights(folder, folded, weights)
    shards, chosen = _chosen(params, data)
    expected = _units(graph.run(folded, weights, _pixels(shards, chosen, read_preprocess(model))))

    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"{shards.keys[i]}.jpg" for i in chosen]
        for i, file in zip(chosen, files, strict=True):
            file.write_bytes(shards.jpeg(i))
        prefix = Path(scratch) / "node"
        result = javascript.answer("node", folder, files, prefix, _RUNS)
        found = np.fromfile(f"{prefix}.embeddings.f32", dtype="<f4").reshape(len(result["keys"]), -1)
    if result["keys"] != [shards.keys[i] for i in chosen] or found.shape != expected.shape:
        raise UserError(
            f"convert: Node answered {found.shape} for {len(chosen)} photographs; this is a defect of the package"
        )
    differences = np.abs(found - expected).max(axis=1)
    cosines = (found.astype(np.float64) * expected).sum(axis=1)
    worst = int(differences.argmax())
    if not differences[worst] <= params["tolerance"]:
        raise UserError(
            f"convert: the embedding of {result['keys'][worst]} differs between PyTorch and TensorFlow.js by "
            f"{differences[worst]:.2e}, more than convert.tolerance ({params['tolerance']}); no bundle was written. If "
            "only some photographs are far apart, their JPEG decoders differ; if all are, an operation is wrong"
        )
    return {
        "images": len(chosen),
        "tolerance": params["tolerance"],
        "largest_difference": float(differences[worst]),
        "least_cosine": float(cosines.min()),
        "weights_identical": identical,
        "latency_ms": result["latency_ms"],
        "backend": result["backend"],
    }


def _export(params: "jobs.Bundle", data: Path, model: Path, kind: str) -> dict[str, Any]:
    """Write data/convert/onnx/<kind>.onnx and compare it, in onnxruntime, with PyTorch."""
    path = data / "convert" / "onnx" / f"{kind}.onnx"
    onnx_export.write(model, path, kind)
    folded, weights = quantized.load(model)
    shards, chosen = _chosen(params, data)
    pixels = _pixels(shards, chosen, read_preprocess(model))
    expected = _units(graph.run(folded, weights, pixels))
    found = _units(torch.from_numpy(onnx_export.run(path, pixels.numpy())))
    difference = float(np.abs(found - expected).max())
    if kind == "fp32" and not difference <= params["tolerance"]:
        path.unlink()
        raise UserError(
            f"convert: embeddings by {path} in onnxruntime differ from PyTorch's by {difference:.2e}, more than "
            f"convert.tolerance ({params['tolerance']}); an operation of web/onnx_export.py is wrong; "
            f"take {kind!r} out of convert.onnx to do without the file"
        )
    cosines = (found.astype(np.float64) * expected).sum(axis=1)
    return {
        "bytes": path.stat().st_size,
        "largest_difference": difference,
        "mean_cosine": float(cosines.mean()),
        "least_cosine": float(cosines.min()),
    }


def _chosen(params: "jobs.Bundle", data: Path) -> tuple[ShardSet, list[int]]:
    """The photographs that runtimes are compared on: a split, and which of it."""
    shards = ShardSet(data, COMPARED)
    chosen = sorted(drawn(shards.keys, params["images"], COMPARED))
    if not chosen:
        raise UserError(f"split {COMPARED} has no photographs to compare PyTorch and other runtimes on")
    return shards, chosen


def _compare_weights(folder: Path, folded: graph.Graph, weights: graph.Weights) -> int:
    """How many weights JavaScript decodes to the bits that PyTorch measured: all, or UserError."""
    decoded = json.loads(javascript.node("weights", [str(folder)], "decoding the weights in Node"))
    expected = {name: grid.fingerprint(array) for name, array in tfjs.to_tensorflow(folded, weights).items()}
    altered = sorted(set(expected) - {name for name, value in expected.items() if value in set(decoded.values())})
    if altered:
        raise UserError(
            f"convert: {len(altered)} of {len(expected)} weights have other bits in JavaScript than in PyTorch "
            f"({', '.join(altered[:5])}); no bundle was written. tensorflowjs (workflow/envs/convert.txt) and "
            "@tensorflow/tfjs-core (packages/react-bio-clip) must be as locked: run `make setup`"
        )
    return len(expected)
