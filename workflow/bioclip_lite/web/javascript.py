"""What stages run outside their own Python: the JavaScript package in Node, and TensorFlow.js' converter."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.exit_status import in_words
from bioclip_lite.utils.files import read_json
from bioclip_lite.web import tfjs

PACKAGE = Path(__file__).resolve().parents[3] / "packages" / "react-bio-clip"
RUNTIMES = {"wasm": "WASM", "webgl": "WebGL", "cpu": "CPU"}  # the names of backends in reports
_PYTHON = "BIOCLIP_LITE_CONVERT_PYTHON"
# where a bundle runs -> the program that runs it, and what messages call it
_RUNNERS = {
    "node": ("classify", "the web model in Node"),
    "chromium": ("browser", "the web model in Chromium, which evaluate.chromium asks for,"),
}


def check_tools() -> None:
    """Raise UserError, with what to do, unless the converter's environment and the npm packages are there."""
    _converter()
    _check_packages()


def convert(model: Path, folder: Path) -> None:
    """Write a model of stage quantize as TensorFlow.js reads it: model.json and the files of its weights."""
    _execute([_converter(), "-m", tfjs.__name__, str(model), str(folder)], "the TensorFlow.js converter")


def answer(
    where: str, bundle: Path, images: Sequence[Path], prefix: Path, runs: int = 0, backend: str = "wasm"
) -> dict[str, Any]:
    """Have a bundle answer to images and shards, "node" or "chromium"; ``runs``: inferences to time, after a warm-up.

    Returns:
        What <prefix>.json says. <prefix>.embeddings.f32 and <prefix>.logits.f32 hold the answers; all three are
        explained in packages/react-bio-clip/README.md.
    """
    program, what = _RUNNERS[where]
    options = ["--raw", str(prefix), "--latency", str(runs), "--backend", backend]
    node(program, [str(bundle), *map(str, images), *options], what)
    found: dict[str, Any] = read_json(f"{prefix}.json")
    return found


def latency(found: dict[str, Any]) -> dict[str, Any]:
    """What ``answer`` found, as ``costs.latency`` says it."""
    runtime = found["browser"].partition(".")[0] if "browser" in found else "Node"  # Chromium and its major version
    times = found["latency_ms"]
    return {
        "runtime": f"TensorFlow.js {RUNTIMES[found['backend']]}, {runtime}",
        "median": times["median"],
        "min": times["min"],
        "n": times["runs"],
        "threads": 1,
        "batch": 1,
    }


def node(program: str, arguments: Sequence[str], what: str) -> str:
    """Standard output of bin/<program>.mjs of the package; ``what`` names the work in messages.

    Raises:
        UserError: Node or its packages are missing, or the program failed; with the end of what it said.
    """
    _check_packages()
    return _execute(["node", str(PACKAGE / "bin" / f"{program}.mjs"), *arguments], what)


def _converter() -> str:
    python = os.environ.get(_PYTHON) or str(PACKAGE.parents[1] / ".venv-convert" / "bin" / "python")
    if not Path(python).exists():
        raise UserError(
            f"{python} is missing; TensorFlow.js' converter has an environment of its own: run `make setup` "
            f"(or set {_PYTHON} to the Python of such an environment)"
        )
    return python


def _check_packages() -> None:
    if not (PACKAGE / "node_modules" / "sharp").exists():
        raise UserError(
            f"{PACKAGE / 'node_modules'} is missing or incomplete, and the web model is run in Node; run `make setup` "
            "(it runs npm ci there)"
        )


def _execute(command: list[str], what: str) -> str:
    source = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=environment)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed; {what} needs it (Node 20.19 or newer)") from None
    if done.returncode:
        said = "\n".join((done.stderr + done.stdout).strip().splitlines()[-15:])
        raise UserError(f"{what} {in_words(done.returncode)}:\n{said}")
    return done.stdout
