"""Time the web model at other image sizes: the shipped weights, in Node and in a browser.

A network without tables of positions takes images of any size: folded at another size it has the same weights, and so
the integers that ship. What it answers there is another matter (it was trained at one size), so only its time, its
start and its memory are measured. Each row is a process of its own, so that its start is a start.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from bioclip_lite.compression import quantized
from bioclip_lite.graph import execution, folding
from bioclip_lite.models.students import load_student, reparameterize
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, require, write_json
from bioclip_lite.utils.progress import progress
from bioclip_lite.web import bundle, javascript, parts, tfjs

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Timing

SPLIT = "test"
_LACKING = "does not start"  # how the package says that a browser has no such backend


def measure(params: "Timing", data: Path) -> dict[str, Any]:
    """Time the shipped weights at the size they ship for and at those of section evaluate, ``params``.

    Returns:
        "size": what ships, in pixels; "rows", one for each size and runtime, as ``_timed`` says; "left_out": "size",
        "runtime" (None: all of them) and "why" of what could not be timed.
    """
    shipped = data / "convert" / "tfjs"
    own = read_json(require(shipped / bundle.FILE))["preprocess"]["size"]
    sizes = sorted({own, *params["speed"]["sizes"]})
    student, spec, _ = load_student(data / "prune" / "model")
    student = student if spec["reparameterized"] else reparameterize(student)
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as scratch:
        photograph = _photograph(data, Path(scratch))
        for size in progress(sizes, len(sizes), "evaluate: sizes timed"):
            model, folder = data / "quantize" / "model", shipped
            if size != own:
                model, folder = Path(scratch) / f"model-{size}", Path(scratch) / f"bundle-{size}"
                if not _resized(student, data / "quantize" / "model", size, model):
                    why = f"{spec['architecture']} is made for images of {own} pixels"
                    left_out.append({"size": size, "runtime": None, "why": why})
                    continue
                _bundled(model, shipped, size, folder)
            macs = execution.macs(*quantized.load(model))
            for row in _timed(params, folder, photograph):
                (left_out if "why" in row else rows).append({"size": size, "macs": macs, **row})
    return {"size": own, "rows": rows, "left_out": left_out}


def _photograph(data: Path, folder: Path) -> Path:
    """A test photograph as a file: how long the model takes does not depend on what it sees."""
    shards = ShardSet(data, SPLIT)
    if not len(shards):
        raise UserError(f"split {SPLIT} has no photographs to time the web model on; raise index.split.{SPLIT}")
    file = folder / "photograph.jpg"
    file.write_bytes(shards.jpeg(0))
    return file


def _resized(student: nn.Module, quantised: Path, size: int, folder: Path) -> bool:
    """Write the quantised student for images of ``size`` pixels; False if its weights are made for one size."""
    _, tensors, grids = quantized.load_integers(quantised)
    weights = quantized.decode(tensors, grids)
    try:
        folded, exact = folding.fold(student, size)
    except UserError:  # at its own size it could be folded
        return False
    if {name: array.shape for name, array in exact.items()} != {name: array.shape for name, array in weights.items()}:
        return False
    folder.mkdir()
    quantized.save(folder, folded, weights, grids)
    return True


def _bundled(model: Path, shipped: Path, size: int, folder: Path) -> None:
    """The bundle that ships with another model in it."""
    about = read_json(shipped / bundle.FILE)
    javascript.convert(model, folder)
    for table in parts.files(about):
        shutil.copy(shipped / table, folder)
    files = bundle.listed(folder)
    about["preprocess"]["size"] = size
    about["model"]["file"] = tfjs.MODEL_FILE
    about |= {"files": files, "bytes": sum(file["bytes"] for file in files.values())}
    write_json(folder / bundle.FILE, about)


def _timed(params: "Timing", folder: Path, photograph: Path) -> Iterator[dict[str, Any]]:
    """A bundle in each runtime.

    "latency_ms" as of ``costs.latency``; "first_ms" from the start of the process, or of the page, to its first answer;
    "peak_bytes" of memory of its process, None where the system does not say; "processor"; of WebGL "renderer", what
    computes it. Or "runtime" and "why" it is lacking.
    """
    runtimes = [("node", "wasm"), *([("chromium", "wasm"), ("chromium", "webgl")] if params["chromium"] else [])]
    for where, backend in runtimes:
        try:
            prefix = photograph.with_suffix("")
            found = javascript.answer(where, folder, [photograph], prefix, params["latency_runs"], backend)
        except UserError as error:
            if backend != "webgl" or _LACKING not in str(error):
                raise
            yield {"runtime": "WebGL in Chromium", "why": str(error).splitlines()[-1]}
            continue
        measured = ("first_ms", "peak_bytes", "processor", "renderer")
        yield {"latency_ms": javascript.latency(found), **{name: found.get(name) for name in measured}}
