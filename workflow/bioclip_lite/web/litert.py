"""Run .tflite files in LiteRT: a process in the converters' environment (``web.tflite``) answers image by image."""

import contextlib
import statistics
import subprocess
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.exit_status import in_words
from bioclip_lite.web import javascript, tflite

_WARM_UP = 5


class Computed(NamedTuple):
    """What LiteRT made of n photographs."""

    embeddings: np.ndarray  # float32 (n, D), not normalised
    milliseconds: np.ndarray  # float32 (n,): of the model alone, on one thread


Compute = Callable[[np.ndarray], Computed]


class _Process(NamedTuple):
    runs: "subprocess.Popen[bytes]"
    printed: IO[bytes]  # what it wrote to standard error
    file: Path


def load(file: Path) -> Compute:
    """Start LiteRT with a file.

    Returns:
        A function of preprocessed photographs, float32 (n, 3, size, size). The process ends when nothing refers to the
        function.

    Raises:
        UserError: by this function or the one returned: LiteRT refuses the file, or stopped.
    """
    printed = tempfile.TemporaryFile(prefix="bioclip-lite-")  # noqa: SIM115 - closed by _end
    command = javascript.in_converter(tflite.__name__, "run", str(file))
    pipe = subprocess.PIPE
    process = _Process(
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=printed, env=javascript.environment()), printed, file
    )
    width = int.from_bytes(_read(process, 4), "little")

    def compute(pixels: np.ndarray) -> Computed:
        rows = np.stack([_ask(process, image, 1 + width) for image in pixels])
        return Computed(rows[:, 1:], rows[:, 0])

    weakref.finalize(compute, _end, process)
    return compute


def _ask(process: _Process, image: np.ndarray, numbers: int) -> np.ndarray:
    assert process.runs.stdin is not None
    try:
        process.runs.stdin.write(np.ascontiguousarray(image.transpose(1, 2, 0), "<f4").tobytes())
        process.runs.stdin.flush()
    except BrokenPipeError:
        pass  # nor is there an answer to read
    return np.frombuffer(_read(process, 4 * numbers), "<f4")


def _read(process: _Process, count: int) -> bytes:
    assert process.runs.stdout is not None
    found = process.runs.stdout.read(count)
    if len(found) == count:
        return found
    status = in_words(process.runs.wait())
    process.printed.seek(0)
    end = "\n".join(process.printed.read().decode(errors="replace").strip().splitlines()[-15:])
    raise UserError(f"LiteRT, which runs {process.file}, {status}:\n{end}")


def _end(process: _Process) -> None:
    for pipe in (process.runs.stdin, process.runs.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # of a process that stopped before
            pipe.close()  # it stops where its input ends
    process.runs.wait()
    process.printed.close()


def latency(compute: Compute, size: int, runs: int) -> dict[str, Any]:
    """Time a model for images of ``size`` pixels, in the form of ``costs.latency``."""
    times = compute(np.zeros((_WARM_UP + runs, 3, size, size), np.float32)).milliseconds[_WARM_UP:].tolist()
    return {
        "runtime": "LiteRT, CPU",
        "median": statistics.median(times),
        "min": min(times),
        "n": runs,
        "threads": 1,
        "batch": 1,
    }
