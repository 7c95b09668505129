"""Convert the quantized student to a bundle for TensorFlow.js, and compare it with PyTorch before it is handed over.

The bundle is a folder that react-bio-clip reads: the graph model, the table of the taxa, and bundle.json, which
describes how an embedding becomes an answer and how certain that answer is. It is released only if the weights that
JavaScript decodes are bit-identical to those measured in PyTorch, and if Node, starting from the JPEG files of test
photographs, computes the same embeddings. Files are named after their content, so that they may be cached for ever.
"""

import importlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from bioclip_lite.compression import grid, quantized
from bioclip_lite.graph import execution
from bioclip_lite.graph.nodes import Graph, Weights
from bioclip_lite.photographs.preprocess import preprocess, read_preprocess
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache.store import Taxa, read_taxa
from bioclip_lite.utils import job_names
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, replacing_folder, require, write_json
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import drawn
from bioclip_lite.web import budget, bundle, confidence, javascript, manifest, onnx_export, parts, tfjs

if TYPE_CHECKING:
    from bioclip_lite.params import jobs

COMPARED = "test"  # the split on whose photographs runtimes are compared
CALIBRATION = "calibration"
_RUNS = 30  # inferences that the latency is the median of
_BATCH = 32


JOBS = ("bundle", "tflite", "text", "lists/{list}", "prior")


@dataclass(frozen=True)
class _Model:
    """data/quantize/model, read once."""

    folder: Path
    graph: Graph
    weights: Weights  # float32, as the grids decode them
    grids: dict[str, grid.Grid]
    preprocessing: dict[str, Any]

    def embed(self, pixels: torch.Tensor) -> np.ndarray:
        """Unit embeddings, float32 (n, D), of preprocessed photographs, float32 (n, 3, size, size)."""
        return _units(execution.run(self.graph, self.weights, pixels))


class _Table(NamedTuple):
    """The table of taxa, and how it is divided if it is too large for one file."""

    whole: bundle.Table
    split: parts.Split | None


@dataclass(frozen=True)
class _Reference:
    """The photographs that runtimes are compared on, and PyTorch's answers."""

    keys: list[str]
    jpegs: list[bytes]
    pixels: torch.Tensor  # preprocessed, float32 (n, 3, size, size)
    embeddings: np.ndarray  # unit, float32 (n, D)


def run(params: Any, data: Path, job: str | None = None) -> None:
    """Write data/convert/tfjs, report.json and calibration.safetensors (job "bundle"), the same for LiteRT (job
    "tflite"), the text encoder (job "text"), the bundle of one further species list (job "lists/<name>"), the bundle
    with a prior of place and month (job "prior"), or all that the parameters ask for (None).

    Args:
        params: ``sections.Convert`` for None, else ``jobs.Bundle``, ``jobs.Phone``, ``jobs.TextEncoder``,
            ``jobs.OneList`` or ``jobs.Prior``.
    """
    if job is not None:
        # Parameters of the bundle do not say whether there are others.
        optional = {"tflite": "tflite", "text": "text_encoder", "prior": "prior"}
        forms = [form for form in JOBS if form not in optional or params.get(optional[form])]
        form, _ = job_names.parse("convert", job, forms)
    if job is None or form == "bundle":
        _write_bundle(params, data)
    # Not imports that closure sees: the bundle need not be made again when the code of other jobs changes.
    if (job is None and params["tflite"]) or (job is not None and form == "tflite"):
        _write_for_phones(params, data)
    if (job is None and params["text_encoder"]) or (job is not None and form == "text"):
        importlib.import_module("bioclip_lite.web.text_encoder").write(params, data)
    if job is None or form == "lists/{list}":
        for file in params["lists"]:
            importlib.import_module("bioclip_lite.web.relisting").write_list(params, file, data)
    if (job is None and params["prior"]) or (job is not None and form == "prior"):
        importlib.import_module("bioclip_lite.web.prior_fitting").write(params, data)


def _write_bundle(params: "jobs.Bundle", data: Path) -> None:
    javascript.check_tools()
    key = manifest.read_private_key(params["sign_with"], data)
    model = _read_model(data / "quantize" / "model")
    text = _text(data)
    budget.check(len(text.text), text.text.shape[1], params["taxa_bytes"], params["over_budget"])
    table = bundle.make_table(data, text, params["taxa_bytes"])
    with replacing_folder(data / "convert" / "tfjs", bundle.NAMES) as folder:
        javascript.convert(model.folder, folder)
        photographs = _calibration(data, model, len(table.paths))
        divided, measured = parts.choose(
            table, parts.split(table, params["whole_table"]), text.logit_scale, photographs.embeddings
        )
        fitted = confidence.fit(table, text.logit_scale, photographs, divided)
        certainty = fitted | {"photographs": len(photographs.keys)}
        about = _describe(folder, data, model, text, _Table(table, divided), certainty, key)
        reference = _reference(params["images"], data, model)
        report = _compare(folder, model, reference, params["tolerance"])
        report["files"] = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        report["onnx"] = {
            kind: _export(data / "convert" / "onnx", kind, model, reference, params["tolerance"])
            for kind in params["onnx"]
        }
    report["bytes"] = sum(report["files"].values())
    report["model"] = {key: about["model"][key] for key in ("nodes", "operations", "macs", "parameters")}
    report["taxa"] = {
        **{"rows": len(table.paths), "left_out": table.left_out, "representatives": table.representatives},
        **{"table_bytes": len(table.content()), "names_bytes": len(bundle.json_bytes(table.described))},
        **({"parts": measured} if measured else {}),
    }
    report["confidence"] = certainty
    confidence.write(data / "convert" / confidence.FILE, photographs, about["provenance"]["weights_sha256"])
    write_json(data / "convert" / "report.json", report)
    print(
        f"convert: {report['bytes'] / 1e6:.2f} MB, of it {report['taxa']['table_bytes'] / 1e6:.2f} MB the table of "
        f"{report['taxa']['rows']:,} taxa, and {report['taxa']['names_bytes'] / 1e6:.2f} MB of names; "
        f"{report['model']['nodes']} nodes; {report['weights_identical']} "
        f"weights bit-identical in JavaScript; {report['images']} photographs within "
        f"{report['largest_difference']:.1e} of PyTorch; {report['latency_ms']['median']:.1f} ms an image in Node "
        "(WebAssembly, one thread)"
    )
    if measured:
        print(f"convert: {parts.sentence(measured)}")


def _write_for_phones(params: "jobs.Phone", data: Path) -> None:
    """Write data/convert/tflite, the bundle in data/convert/tfjs with the model for LiteRT, and tflite_report.json."""
    litert = importlib.import_module("bioclip_lite.web.litert")  # as in ``run``
    key = manifest.read_private_key(params["sign_with"], data)
    model = _read_model(data / "quantize" / "model")
    about = read_json(require(data / "convert" / "tfjs" / bundle.FILE))
    with replacing_folder(data / "convert" / "tflite", bundle.NAMES) as folder:
        content = folder / "model.tflite"
        javascript.convert_to_litert(model.folder, content)
        name = bundle.add(folder, "model", ".tflite", content.read_bytes())
        content.unlink()
        for table in parts.files(about):
            shutil.copyfile(require(data / "convert" / "tfjs" / table), folder / table)
        report = _compare_litert(litert.load(folder / name), _reference(params["images"], data, model), params)
        kept = {name: about["model"][name] for name in ("macs", "parameters")}
        files = bundle.listed(folder)
        about |= {
            "model": {"file": name, **kept},
            "files": files,
            "bytes": sum(file["bytes"] for file in files.values()),
            "provenance": manifest.signed_anew(about["provenance"], key),
        }
        bundle.write_manifest(folder, about, key)
    report["files"] = {name: file["bytes"] for name, file in files.items()}
    write_json(data / "convert" / "tflite_report.json", report)
    print(
        f"convert: {about['bytes'] / 1e6:.2f} MB for phones; {report['images']} photographs within "
        f"{report['largest_difference']:.1e} of PyTorch; {report['latency_ms']:.1f} ms an image in LiteRT (one thread)"
    )


def _read_model(folder: Path) -> _Model:
    require(folder / quantized.GRAPH_FILE)
    graph, tensors, grids = quantized.load_integers(folder)
    return _Model(folder, graph, quantized.decode(tensors, grids), grids, read_preprocess(folder))


# Text, and how certain an answer is


def _text(data: Path) -> Taxa:
    """The taxon text matrix of the teacher in whose embedding space the student answers."""
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


def _calibration(data: Path, model: _Model, taxa: int) -> confidence.Photographs:
    """Photographs of split calibration, drawn by a hash of their keys, as the INT8 graph embeds them.

    ``taxa``: so many are there that thresholds are fitted among, which limits how many photographs are taken.
    """
    shards = ShardSet(data, CALIBRATION)
    drawn_rows = confidence.drawn_for(shards.each_key(), taxa)
    if not drawn_rows:
        raise UserError(
            f"split {CALIBRATION} has no photographs, so the confidence of the model cannot be calibrated; give the "
            f"split a share in params.yaml (index.split.{CALIBRATION} or index.synthetic.images.{CALIBRATION})"
        )
    columns = ["taxon_id", *RANKS]
    paths = {
        row["taxon_id"]: tuple(row[rank] for rank in RANKS)
        for row in read_table(data / "index" / "taxa.parquet", columns).to_pylist()
    }
    starts = range(0, len(drawn_rows), _BATCH)
    embeddings = [
        model.embed(_pixels(shards, drawn_rows[start : start + _BATCH], model.preprocessing))
        for start in progress(starts, len(starts), "convert: calibration")
    ]
    return confidence.Photographs(
        keys=[shards.key(i) for i in drawn_rows],
        observations=[shards.description(i).get("group") for i in drawn_rows],
        taxa=[paths[shards.taxon_id(i)] for i in drawn_rows],
        embeddings=np.concatenate(embeddings),
    )


def _pixels(shards: ShardSet, chosen: Sequence[int], spec: dict[str, Any]) -> torch.Tensor:
    """Preprocessed photographs, float32 (n, 3, size, size)."""
    return torch.from_numpy(np.stack([preprocess(shards.image(i), spec) for i in chosen]))


def _units(outputs: torch.Tensor) -> np.ndarray:
    """Unit embeddings, float32 (n, D)."""
    units: np.ndarray = torch.nn.functional.normalize(outputs, dim=1).numpy()
    return units


# The files


def _describe(
    folder: Path,
    data: Path,
    model: _Model,
    text: Taxa,
    table: _Table,
    certainty: dict[str, Any],
    key: manifest.PrivateKey | None,
) -> dict[str, Any]:
    """Rename the files of the model after their hash, add the table, and write and sign bundle.json; its content."""
    model_files = bundle.take_model(folder, model.graph, model.weights)
    written = parts.write(folder, *table)
    files = bundle.listed(folder)
    teacher = _teacher(data)
    student = read_json(require(data / "prune" / "model" / "student.json"))
    licences, attribution = bundle.photographs(data)
    about = {
        **written,
        "preprocess": model.preprocessing,
        "embedding": text.text.shape[1],
        "logit_scale": text.logit_scale,
        "temperature": certainty["temperature"],
        "thresholds": certainty["thresholds"],
        "off_list": certainty["off_list"],
        "ranks": list(RANKS),
        "languages": table.whole.languages(),
        "text": {
            **written["text"],
            "dtype": "int8",
            "columns": text.text.shape[1],
            "prompt": text.prompt,
            **({"lit_columns": text.lit_columns} if text.lit_columns else {}),
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
            "graph_sha256": bundle.sha256((model.folder / quantized.GRAPH_FILE).read_bytes()),
            "weights_sha256": bundle.sha256((model.folder / quantized.WEIGHTS_FILE).read_bytes()),
            "taxonomy_sha256": bundle.sha256(bundle.json_bytes(table.whole.described)),
            "calibration_photographs": certainty["photographs"],
            **manifest.signed_by(key),
        },
    }
    bundle.write_manifest(folder, about, key)
    return about


# The comparison


def _reference(count: int, data: Path, model: _Model) -> _Reference:
    """``count`` photographs of split ``COMPARED``, drawn by a hash of their keys, and their embeddings in PyTorch."""
    shards = ShardSet(data, COMPARED)
    chosen = sorted(drawn(shards.each_key(), count, COMPARED))
    if not chosen:
        raise UserError(
            f"split {COMPARED} has no photographs, so other runtimes cannot be compared with PyTorch; give the split a "
            f"share in params.yaml (index.split.{COMPARED} or index.synthetic.images.{COMPARED})"
        )
    pixels = _pixels(shards, chosen, model.preprocessing)
    keys, jpegs = [shards.key(i) for i in chosen], [shards.jpeg(i) for i in chosen]
    return _Reference(keys, jpegs, pixels, model.embed(pixels))


def _compare(folder: Path, model: _Model, reference: _Reference, tolerance: float) -> dict[str, Any]:
    """Compare weights and embeddings in Node with PyTorch's; UserError where they differ."""
    identical = _compare_weights(folder, model.graph, model.weights)
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"{key}.jpg" for key in reference.keys]
        for file, jpeg in zip(files, reference.jpegs, strict=True):
            file.write_bytes(jpeg)
        prefix = Path(scratch) / "node"
        result = javascript.answer("node", folder, files, prefix, _RUNS)
        embeddings = np.fromfile(f"{prefix}.embeddings.f32", dtype="<f4").reshape(len(result["keys"]), -1)
    if result["keys"] != reference.keys or embeddings.shape != reference.embeddings.shape:
        raise UserError(
            f"convert: Node gave embeddings of shape {embeddings.shape} for {len(reference.keys)} photographs, not "
            f"{reference.embeddings.shape}; this is a defect of the package"
        )
    differences = np.abs(embeddings - reference.embeddings).max(axis=1)
    worst = int(differences.argmax())
    if not differences[worst] <= tolerance:
        raise UserError(
            f"convert: the embedding of {result['keys'][worst]} differs between PyTorch and TensorFlow.js by "
            f"{differences[worst]:.2e}, more than convert.tolerance ({tolerance}); no bundle was written. If only some "
            "photographs differ, the JPEG decoders do; if all do, an operation is wrong"
        )
    return {
        "images": len(reference.keys),
        "tolerance": tolerance,
        "largest_difference": float(differences[worst]),
        "least_cosine": float(_cosines(embeddings, reference).min()),
        "weights_identical": identical,
        "latency_ms": result["latency_ms"],
        "backend": result["backend"],
    }


def _compare_litert(compute: Any, reference: _Reference, params: "jobs.Phone") -> dict[str, Any]:
    """Compare embeddings in LiteRT, of the same pixels, with PyTorch's; UserError where they differ."""
    computed = compute(reference.pixels.numpy())
    embeddings = _units(torch.from_numpy(computed.embeddings))
    differences = np.abs(embeddings - reference.embeddings).max(axis=1)
    worst = int(differences.argmax())
    if not differences[worst] <= params["tolerance"]:
        raise UserError(
            f"convert: the embedding of {reference.keys[worst]} differs between PyTorch and LiteRT by "
            f"{differences[worst]:.2e}, more than convert.tolerance ({params['tolerance']}), so an operation is wrong; "
            "no bundle for phones was written. Set convert.tflite to false to do without it"
        )
    return {
        "images": len(reference.keys),
        "tolerance": params["tolerance"],
        "largest_difference": float(differences[worst]),
        "least_cosine": float(_cosines(embeddings, reference).min()),
        "latency_ms": float(np.median(computed.milliseconds)),
    }


def _export(folder: Path, kind: str, model: _Model, reference: _Reference, tolerance: float) -> dict[str, Any]:
    """Write <kind>.onnx and compare it, in onnxruntime, with PyTorch."""
    path = folder / f"{kind}.onnx"
    onnx_export.write(model.graph, model.weights, model.grids, path, kind)
    embeddings = _units(torch.from_numpy(onnx_export.run(path, reference.pixels.numpy())))
    difference = float(np.abs(embeddings - reference.embeddings).max())
    if kind == "fp32" and not difference <= tolerance:
        path.unlink()
        raise UserError(
            f"convert: embeddings by {path} in onnxruntime differ from PyTorch's by {difference:.2e}, more than "
            f"convert.tolerance ({tolerance}), so an operation of graph/operations is wrong in ONNX; the file was "
            f"deleted. Remove {kind!r} from convert.onnx to do without it"
        )
    cosines = _cosines(embeddings, reference)
    return {
        "bytes": path.stat().st_size,
        "largest_difference": difference,
        "mean_cosine": float(cosines.mean()),
        "least_cosine": float(cosines.min()),
    }


def _cosines(embeddings: np.ndarray, reference: _Reference) -> np.ndarray:
    """float64 (n,) between unit embeddings and PyTorch's."""
    cosines: np.ndarray = (embeddings.astype(np.float64) * reference.embeddings).sum(axis=1)
    return cosines


def _compare_weights(folder: Path, graph: Graph, weights: Weights) -> int:
    """Number of weights, all of which JavaScript decodes to the bits that PyTorch measured; UserError otherwise."""
    decoded = set(json.loads(javascript.node("weights", [str(folder)], "decoding the weights in Node")).values())
    expected = {name: grid.fingerprint(array) for name, array in tfjs.to_tensorflow(graph, weights).items()}
    altered = sorted(name for name, fingerprint in expected.items() if fingerprint not in decoded)
    if altered:
        raise UserError(
            f"convert: {len(altered)} of {len(expected)} weights have other bits in JavaScript than in PyTorch "
            f"({', '.join(altered[:5])}); no bundle was written. tensorflowjs (workflow/envs/convert.txt) and "
            "@tensorflow/tfjs-core (packages/react-bio-clip) must be as locked: run `make setup`"
        )
    return len(expected)
