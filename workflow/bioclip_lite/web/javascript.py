"""Run the JavaScript package in Node or Chromium, and the converters in their own environment."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.exit_status import in_words
from bioclip_lite.utils.files import read_json
from bioclip_lite.web import tfjs, tflite

PACKAGE = Path(__file__).resolve().parents[3] / "packages" / "react-bio-clip"
RUNTIMES = {"wasm": "WASM", "webgl": "WebGL", "cpu": "CPU"}  # names of backends in reports
_PYTHON = "BIOCLIP_LITE_CONVERT_PYTHON"
# place where a bundle runs: (program of the package, name in error messages)
_RUNNERS = {
    "node": ("classify", "the web model in Node"),
    "chromium": ("browser", "the web model in Chromium, which evaluate.chromium asks for,"),
}


def check_tools() -> None:
    """Raise UserError, with the remedy, unless the converter's environment and the npm packages exist."""
    _converter()
    _check_packages()


def convert(model: Path, folder: Path) -> None:
    """Convert a model of stage quantize for TensorFlow.js: writes model.json and the files of its weights."""
    _execute(in_converter(tfjs.__name__, str(model), str(folder)), "the TensorFlow.js converter")


def convert_to_litert(model: Path, file: Path) -> None:
    """Convert a model of stage quantize for LiteRT: writes a .tflite file."""
    _execute(in_converter(tflite.__name__, "convert", str(model), str(file)), "the converter to LiteRT")


def in_converter(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package in the converter's environment, with ``environment()``."""
    return [_converter(), "-m", module, *arguments]


def environment() -> dict[str, str]:
    """The variables of programs that import this package."""
    source = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}


def answer(
    where: str, bundle: Path, images: Sequence[Path], prefix: Path, runs: int = 0, backend: str = "wasm"
) -> dict[str, Any]:
    """Run a bundle on images and shards in "node" or "chromium"; ``runs``: inferences to time, after a warm-up.

    Returns:
        The content of <prefix>.json. <prefix>.embeddings.f32 and <prefix>.logits.f32 hold the answers; for all three
        see packages/react-bio-clip/README.md.
    """
    program, label = _RUNNERS[where]
    options = ["--raw", str(prefix), "--latency", str(runs), "--backend", backend]
    node(program, [str(bundle), *map(str, images), *options], label)
    report: dict[str, Any] = read_json(f"{prefix}.json")
    return report


def latency(report: dict[str, Any]) -> dict[str, Any]:
    """Latency from a report of ``answer``, in the form of ``costs.latency``."""
    runtime = report["browser"].partition(".")[0] if "browser" in report else "Node"  # Chromium and its major version
    times = report["latency_ms"]
    return {
        "runtime": f"TensorFlow.js {RUNTIMES[report['backend']]}, {runtime}",
        "median": times["median"],
        "min": times["min"],
        "n": times["runs"],
        "threads": 1,
        "batch": 1,
    }


def node(program: str, arguments: Sequence[str], label: str) -> str:
    """Run bin/<program>.mjs of the package; returns its standard output. ``label`` names the work in error messages.

    Raises:
        UserError: Node or its packages are missing, or the program failed; quotes the end of its output.
    """
    _check_packages()
    return _execute(["node", str(PACKAGE / "bin" / f"{program}.mjs"), *arguments], label)


def _converter() -> str:
    python = os.environ.get(_PYTHON) or str(PACKAGE.parents[1] / ".venv-convert" / "bin" / "python")
    if not Path(python).exists():
        raise UserError(
            f"{python}, the Python of the TensorFlow.js converter's own environment, is missing: run `make setup`, or "
            f"set {_PYTHON} to the Python of such an environment"
        )
    return python


def _check_packages() -> None:
    if not (PACKAGE / "node_modules" / "sharp").exists():
        raise UserError(
            f"{PACKAGE / 'node_modules'} is missing or incomplete, but the web model runs in Node: run `make setup` "
            "(it runs npm ci there)"
        )


def _execute(command: list[str], label: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=environment())
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed, but {label} needs it (Node 20.19 or newer)") from None
    if done.returncode:
        output = "\n".join((done.stderr + done.stdout).strip().splitlines()[-15:])
        raise UserError(f"{label} {in_words(done.returncode)}:\n{output}")
    return done.stdout
