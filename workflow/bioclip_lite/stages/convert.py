"""The quantised student as a bundle for TensorFlow.js, compared with PyTorch before it is handed over.

The bundle is a folder that react-bio-clip reads: the graph model, the text matrix of the taxa and bundle.json. It is
released only if the weights that JavaScript decodes are bit-identical to those measured in PyTorch, and if Node,
starting from the JPEG files of test photographs, comes to the same embeddings.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bioclip_lite import graph, grid, quantized, tfjs
from bioclip_lite.cache import Taxa, read_taxa
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, read_table, replacing, require, write_json
from bioclip_lite.preprocess import preprocess, read_preprocess
from bioclip_lite.randomness import digest
from bioclip_lite.shards import ShardSet
from bioclip_lite.taxonomy import RANKS, label_rank

SPLIT = "test"
FORMAT = 1  # of bundle.json; react-bio-clip refuses others
_REPOSITORY = Path(__file__).resolve().parents[3]
_PACKAGE = _REPOSITORY / "packages" / "react-bio-clip"
_PYTHON = "BIOCLIP_LITE_CONVERT_PYTHON"
_RUNS = 30  # inferences that the latency is the median of


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """Read data/quantize/model and the taxa, write data/convert/tfjs and data/convert/report.json."""
    if job is not None:
        raise UserError(f"stage convert is one job; it has no job {job!r}")
    python, node = _tools()
    model = data / "quantize" / "model"
    require(model / quantized.GRAPH_FILE)
    with replacing(data / "convert" / "tfjs") as bundle:
        _execute([python, "-m", tfjs.__name__, str(model), str(bundle)], "the TensorFlow.js converter")
        _write_taxa(bundle, data, model)
        report = _compare(params, data, model, bundle, node)
        report["files"] = {file.name: file.stat().st_size for file in sorted(bundle.iterdir())}
        report["bytes"] = sum(report["files"].values())
    write_json(data / "convert" / "report.json", report)
    print(
        f"convert: {report['bytes'] / 1e6:.2f} MB; {report['weights_identical']} weights bit-identical in JavaScript; "
        f"{report['images']} photographs within {report['largest_difference']:.1e} of PyTorch; "
        f"{report['latency_ms']['median']:.1f} ms an image in Node (WebAssembly, one thread)"
    )


def _tools() -> tuple[str, str]:
    """The converter's Python and the Node script, or what to do to get them."""
    python = os.environ.get(_PYTHON) or str(_REPOSITORY / ".venv-convert" / "bin" / "python")
    if not Path(python).exists():
        raise UserError(
            f"convert: {python} is missing; TensorFlow.js' converter has an environment of its own: run `make setup` "
            f"(or set {_PYTHON} to the Python of such an environment)"
        )
    if not (_PACKAGE / "node_modules" / "sharp").exists():
        raise UserError(
            f"convert: {_PACKAGE / 'node_modules'} is missing or incomplete; the model is tried out in Node before it "
            "is handed over: run `make setup` (it runs npm ci there)"
        )
    return python, "node"


def _execute(command: list[str], what: str) -> str:
    """Standard output of a command; UserError with the end of what it said if it fails."""
    source = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        raise UserError(f"convert: {command[0]} is not installed; {what} needs it (Node 20.9 or newer)") from None
    if done.returncode:
        said = "\n".join((done.stderr + done.stdout).strip().splitlines()[-15:])
        raise UserError(f"convert: {what} failed with status {done.returncode}:\n{said}")
    return done.stdout


def _write_taxa(bundle: Path, data: Path, model: Path) -> None:
    """taxa.bin (the text matrix as float16) and bundle.json."""
    text = read_taxa(data / "logits" / "taxa.safetensors")
    taxa = _leaves(data, text)
    teacher = read_json(require(data / "teacher" / "model" / "teacher.json"))
    if teacher["identity"] != text.teacher:
        raise UserError(
            "data/logits/taxa.safetensors was embedded by another teacher than data/teacher/model holds; "
            "run stage logits again"
        )
    (bundle / "taxa.bin").write_bytes(np.ascontiguousarray(text.text, dtype="<f2").tobytes())
    rows, columns = text.text.shape
    weights = (model / quantized.WEIGHTS_FILE).read_bytes()
    write_json(
        bundle / "bundle.json",
        {
            "format": FORMAT,
            "preprocess": read_preprocess(model),
            "embedding": columns,
            "logit_scale": text.logit_scale,
            "ranks": list(RANKS),
            "taxa": taxa,
            "text": {"file": "taxa.bin", "dtype": "float16", "rows": rows, "columns": columns, "prompt": text.prompt},
            "provenance": {
                "teacher": teacher["name"],
                "teacher_licence": teacher["licence"],
                "teacher_identity": teacher["identity"],
                "weights_sha256": hashlib.sha256(weights).hexdigest(),
                "taxonomy_sha256": hashlib.sha256(json.dumps(taxa, sort_keys=True).encode()).hexdigest(),
            },
        },
    )


def _leaves(data: Path, text: Taxa) -> list[dict[str, Any]]:
    """The taxa that the rows of the text matrix stand for, as bundle.json lists them."""
    table = read_table(data / "index" / "taxa.parquet", ["taxon_id", *RANKS, "common_name", "leaf"])
    rows = {row["taxon_id"]: row for row in table.to_pylist() if row["leaf"]}
    if list(rows) != text.taxon_ids:
        raise UserError(
            f"data/logits/taxa.safetensors has {len(text.taxon_ids)} taxa, data/index/taxa.parquet {len(rows)} leaves, "
            "and they differ; run stage logits again"
        )
    return [
        {
            "id": taxon,
            "ranks": [row[rank] for rank in RANKS],
            "common_name": row["common_name"],
            "rank": RANKS[label_rank(tuple(row[rank] for rank in RANKS))],
        }
        for taxon, row in rows.items()
    ]


def _compare(params: dict[str, Any], data: Path, model: Path, bundle: Path, node: str) -> dict[str, Any]:
    """Weights and embeddings in Node against PyTorch; UserError where they part."""
    folded, weights = quantized.load(model)
    identical = _compare_weights(bundle, node, folded, weights)
    shards = ShardSet(data, SPLIT)
    chosen = sorted(sorted(range(len(shards)), key=lambda i: digest(SPLIT, shards.keys[i]))[: params["images"]])
    if not chosen:
        raise UserError(f"split {SPLIT} has no photographs to compare PyTorch and TensorFlow.js on")
    preprocessing = read_preprocess(model)
    inputs = torch.from_numpy(np.stack([preprocess(shards.image(i), preprocessing) for i in chosen]))
    expected = torch.nn.functional.normalize(graph.run(folded, weights, inputs), dim=1).numpy()

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{shards.keys[i]}.jpg" for i in chosen]
        for i, file in zip(chosen, files, strict=True):
            file.write_bytes(shards.jpeg(i))
        prefix = Path(folder) / "node"
        script = str(_PACKAGE / "bin" / "classify.mjs")
        options = ["--raw", str(prefix), "--latency", str(_RUNS)]
        _execute([node, script, str(bundle), *map(str, files), *options], "the comparison in Node")
        result = read_json(f"{prefix}.json")
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


def _compare_weights(bundle: Path, node: str, folded: graph.Graph, weights: graph.Weights) -> int:
    """How many weights JavaScript decodes to the bits that PyTorch measured: all, or UserError."""
    decoded = json.loads(
        _execute([node, str(_PACKAGE / "bin" / "weights.mjs"), str(bundle)], "decoding the weights in Node")
    )
    expected = {
        name: grid.fingerprint(tfjs.to_tensorflow(weights[name], op, channels))
        for name, op, channels in tfjs.weighted(folded)
    }
    altered = sorted(set(expected) - {name for name, value in expected.items() if value in set(decoded.values())})
    if altered:
        raise UserError(
            f"convert: {len(altered)} of {len(expected)} weights have other bits in JavaScript than in PyTorch "
            f"({', '.join(altered[:5])}); no bundle was written. tensorflowjs (workflow/envs/convert.txt) and "
            "@tensorflow/tfjs-core (packages/react-bio-clip) must be as locked: run `make setup`"
        )
    return len(expected)
