"""Compare TensorFlow.js and onnxruntime-web in a browser: same model, same Chromium, same run.

    PYTHONPATH=workflow python benchmarks/web.py [--params params.yaml] [--runs 30] [--sizes 160 ...]
        [--students NAME ...] [--rows FILE]

Builds each student of STUDENTS at each size with random lively weights (latency does not depend on training), rounds it
to 8 bits, writes it for TensorFlow.js and as ONNX (float32, and INT8 weights and activations, "QDQ"), and times all in
one headless Chromium (web.mjs), one inference each in turn. Writes benchmarks/web.md. A model that is in FILE is not
timed again. onnxruntime-web is fetched by npm. Needs an idle computer: latencies are wall-clock times.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bioclip_lite import params
from bioclip_lite.compression import grid, quantized, rounding
from bioclip_lite.graph import execution, folding
from bioclip_lite.models import students
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, finished_rows, replacing, write_json
from bioclip_lite.web import onnx_export, tfjs

HERE = Path(__file__).resolve().parent
CONVERTER = HERE.parent / ".venv-convert" / "bin" / "python"
OUTPUT = Path(__file__).with_suffix(".md")
TITLE = "# The web model in a browser"
RUNTIME = "onnxruntime-web@1.30.0"
SIZES = [160, 192, 224, 256]
OUTPUTS = 512
QUICK = {"act_layer": "relu", "mlp_kernel": 3, "down_patch_size": 3}  # no kernel larger than 3 x 3
PUBLISHED = {"act_layer": "gelu", "mlp_kernel": 7, "down_patch_size": 7}  # as FastViT and MobileCLIP have it
STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {  # "default": with the student_options of params.yaml
    "default": ("fastvit_t8", {}),
    "default with SiLU": ("fastvit_t8", {"act_layer": "silu"}),
    "default with GELU and 7 x 7": ("fastvit_t8", PUBLISHED),
    "mci0, quick": ("fastvit_mci0", QUICK),
    "mci0 as published": ("fastvit_mci0", {}),
}
TENSORFLOW, FLOAT, INT8 = "TensorFlow.js", "onnxruntime-web fp32", "onnxruntime-web INT8"
MANY = max(2, len(os.sched_getaffinity(0)) // 2)  # threads: as many as browsers give by themselves, or two
WAYS: list[dict[str, Any]] = [
    {"name": TENSORFLOW, "runtime": "tensorflow", "script": "wasm", "backend": "wasm", "threads": 1},
    {"name": FLOAT, "runtime": "onnx", "script": "onnx", "model": "fp32", "threads": 1},
    {"name": INT8, "runtime": "onnx", "script": "onnx", "model": "qdq", "threads": 1},
    {"name": TENSORFLOW, "runtime": "tensorflow", "script": "wasm", "backend": "wasm", "threads": MANY},
    {"name": FLOAT, "runtime": "onnx", "script": "onnx", "model": "fp32", "threads": MANY},
    {"name": INT8, "runtime": "onnx", "script": "onnx", "model": "qdq", "threads": MANY},
    # On a machine without a graphics processor this is a check that it runs, hence few times, and no figure.
    {
        "name": "TensorFlow.js WebGL",
        "runtime": "tensorflow",
        "script": "webgl",
        "backend": "webgl",
        "threads": 1,
        "runs": 3,
    },
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")
    parser.add_argument("--runs", type=int, default=30, help="inferences per model and runtime (default: 30)")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="sides of the image, in pixels")
    parser.add_argument("--students", nargs="*", choices=STUDENTS, default=list(STUDENTS), help="some of them only")
    parser.add_argument("--rows", type=Path, help="finished models, one JSON object per line; new ones are added")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="(default: benchmarks/web.md)")
    options = parser.parse_args()
    try:
        check_file(options.out, TITLE)
        rows = finished_rows(options.rows)
        with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as scratch:
            for student in options.students:
                for size in options.sizes:
                    if not any((row["student"], row["size"]) == (student, size) for row in rows):
                        found = measure(options, student, size, Path(scratch))
                        rows += found
                        if options.rows:
                            with options.rows.open("a") as file:
                                file.writelines(json.dumps(row) + "\n" for row in found)
        write(options.out, [row for student in options.students for row in rows if row["student"] == student])
    except UserError as error:
        print(f"web: {error}", file=sys.stderr)
        return 1
    return 0


def measure(options: argparse.Namespace, student: str, size: int, scratch: Path) -> list[dict[str, Any]]:
    """One row per runtime and number of threads."""
    print(f"{student}, {size} px", file=sys.stderr, flush=True)
    default = params.load(options.params)["distill"]["student_options"]
    ort = scratch / "ort"
    if not ort.exists():
        ort.mkdir()
        execute(["npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", str(ort), RUNTIME])
    name, extra = STUDENTS[student]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        data = Path(folder)
        model = data / "model"
        about = rounded(model, name, {**default, **extra} if student.startswith("default") else extra, size)
        bundle, exported = data / "tfjs", {kind: str(data / f"{kind}.onnx") for kind in ("fp32", "qdq")}
        converted(model, bundle, size)
        graph, tensors, grids = quantized.load_integers(model)
        weights = quantized.decode(tensors, grids)
        for kind, file in exported.items():
            onnx_export.write(graph, weights, grids, file, kind)
        job = {
            "bundle": str(bundle),
            "onnx": exported,
            "ort": str(ort),
            "size": size,
            "runs": options.runs,
            "ways": WAYS,
        }
        write_json(data / "job.json", job)
        lines = execute(["node", str(HERE / "web.mjs"), str(data / "job.json")]).splitlines()
    return [{"student": student, "size": size, **about, **json.loads(line)} for line in lines]


def execute(command: list[str]) -> str:
    source = str(HERE.parent / "workflow")
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source})
    if done.returncode:
        raise UserError(f"{' '.join(command[:4])} failed:\n{(done.stderr + done.stdout)[-2000:]}")
    return done.stdout


def rounded(folder: Path, name: str, student_options: dict[str, Any], size: int) -> dict[str, int]:
    """Write what stage quantize writes, of a student with lively random weights; returns what it costs."""
    torch.manual_seed(0)
    spec = students.student_spec(name, student_options, OUTPUTS, size)
    model = students.reparameterize(lively(students.build_student(spec), size))
    folded, weights = folding.fold(model, size)
    grids = {array: grid.fit(weights[array], 8) for array in rounding.arrays(folded)}
    found = rounding.onto_grids(folded, weights, grids, pictures(4, size), "nearest", False)
    folder.mkdir()
    quantized.save(folder, {**folded, "ranges": found.ranges}, found.weights, found.grids)
    return {"parameters": sum(array.size for array in weights.values()), "macs": execution.macs(folded, weights)}


def pictures(count: int, size: int) -> torch.Tensor:
    """Blurred noise in [-1, 1]: float32 (count, 3, size, size)."""
    coarse = torch.rand(count, 3, 8, 8)
    return nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1) * 2 - 1


def lively(model: nn.Module, size: int) -> nn.Module:
    """Layer scales and batch statistics as training would give them, so that no layer dies or explodes."""
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.data.uniform_(0.05, 0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 0.3
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.3, 0.3)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(pictures(4, size))
    return model.eval()


def converted(model: Path, bundle: Path, size: int) -> None:
    """A bundle with one taxon: the model as it ships, and nothing else to download."""
    execute([str(CONVERTER), "-m", tfjs.__name__, str(model), str(bundle)])
    (bundle / "taxa.bin").write_bytes(bytes(4 + OUTPUTS))
    files: dict[str, dict[str, Any]] = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in sorted(bundle.iterdir())
    }
    taxon = {"id": "0", "ranks": ["Animalia", *[None] * 6], "common_names": {}, "rank": "kingdom"}
    about = {
        "format": 2,
        "preprocess": preprocessing(size),
        "embedding": OUTPUTS,
        "logit_scale": 1.0,
        "temperature": 1.0,
        "thresholds": None,
        "ranks": ["kingdom", "phylum", "class", "order", "family", "genus", "species"],
        "languages": [],
        "taxa": [taxon],
        "text": {"file": "taxa.bin", "dtype": "int8", "rows": 1, "columns": OUTPUTS},
        "model": {"file": tfjs.MODEL_FILE},
        "files": files,
        "bytes": sum(file["bytes"] for file in files.values()),
    }
    write_json(bundle / "bundle.json", about)


# The report


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    """The tables, in Markdown, on standard output and in a file."""
    lines = [
        TITLE,
        "",
        f"`python benchmarks/web.py`: Chromium {rows[0]['browser']}, headless, WebAssembly with SIMD; {RUNTIME}; batch "
        f"1, median (min) of {rows[0]['runs']} inferences in ms, one per runtime in turn. Random lively weights: of "
        "use for time and size, not for accuracy. Ratios below 1: TensorFlow.js is faster. Quick: "
        f"`student_options: {json.dumps(QUICK)}`, as the default has it; trained so, not swapped afterwards.",
    ]
    started = max(row["started"] for row in rows if row["way"] == TENSORFLOW)
    for threads in sorted({row["threads"] for row in rows}):
        lines += [
            *("", f"## Latency, {threads} thread{'s' if threads > 1 else ''}", ""),
            "| student | M par. | px | M MACs | TensorFlow.js | ort fp32 | ort INT8 | to fp32 | to INT8 |",
            "|---" * 9 + "|",
            *(latency(ours, others) for ours, others in pairs(rows, threads)),
        ]
        if threads > started:
            lines += [
                "",
                f"TensorFlow.js takes at most half of the cores, however many are asked for: here it ran in {started}.",
            ]
    largest = max(row["size"] for row in rows)
    agree = {name: min(row["cosine"] for row in rows if row["way"] == name) for name in (TENSORFLOW, FLOAT, INT8)}
    lines += [
        *("", f"## Start, memory and download, one thread, {largest} px", ""),
        "| student | runtime | first answer, ms | peak memory, MB | runtime, MB (gzipped) | model, MB (gzipped) |",
        "|---" * 6 + "|",
        *(start(row) for row in rows if row["size"] == largest and row["threads"] == 1),
        "",
        "First answer: from opening the page, nothing cached, server on the same machine: scripts, model, inference. "
        "Peak memory: resident, of the page's process, what every page takes included. The float32 file holds weights "
        "that were rounded to 8 bits, so it zips better than others would.",
        "",
        f"Least cosine to onnxruntime-web fp32 over all models: {agree[TENSORFLOW]:.5f} (TensorFlow.js), "
        f"{agree[INT8]:.5f} (INT8). WebGL is computed by the processor (SwiftShader): its times say nothing.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    with replacing(out) as scratch:
        scratch.write_text(text)


def pairs(rows: list[dict[str, Any]], threads: int) -> list[tuple[dict[str, Any], dict[str, dict[str, Any]]]]:
    """(TensorFlow.js, the others by name) of each model, in the order of the rows."""
    found = []
    for ours in rows:
        if ours["way"] == TENSORFLOW and ours["threads"] == threads:
            key = (ours["student"], ours["size"], threads)
            same = [row for row in rows if (row["student"], row["size"], row["threads"]) == key]
            found.append((ours, {row["way"]: row for row in same}))
    return found


def latency(ours: dict[str, Any], others: dict[str, dict[str, Any]]) -> str:
    """A row of the table: the times and, of medians and of minima, the ratios of TensorFlow.js to the others."""
    compared = [others[name] for name in (FLOAT, INT8)]
    times = [f"{row['median']:.1f} ({row['min']:.1f})" for row in (ours, *compared)]
    ratios = [f"{ours['median'] / row['median']:.2f} ({ours['min'] / row['min']:.2f})" for row in compared]
    about = [ours["student"], f"{ours['parameters'] / 1e6:.2f}", str(ours["size"]), f"{ours['macs'] / 1e6:.0f}"]
    return f"| {' | '.join([*about, *times, *ratios])} |"


def start(row: dict[str, Any]) -> str:
    """A row of the table."""
    sizes = [f"{row[f'{part}_bytes'] / 1e6:.2f} ({row[f'{part}_gzipped'] / 1e6:.2f})" for part in ("runtime", "model")]
    costs = [f"{row['cold']:.0f}", f"{row['peak_bytes'] / 1e6:.0f}"]
    return f"| {' | '.join([row['student'], row['way'], *costs, *sizes])} |"


if __name__ == "__main__":
    sys.exit(main())
