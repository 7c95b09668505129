"""Read mutated files in a process of its own, which may take so much time and memory and no more."""

import contextlib
import gc
import io
import json
import os
import resource
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bioclip_lite.utils.errors import UserError
from fuzz import inputs
from fuzz.inputs import Kind

BOMBS = 8  # at most, of a kind
LONGEST = 20  # seconds of processor time for one input; more is a hang


@dataclass
class Found:
    """The outcome of the inputs of a kind."""

    kind: str
    inputs: int = 0
    refused: int = 0  # with a sentence; the others were read
    peak: int = 0  # bytes beside those at the start
    faults: dict[str, list[int]] = field(default_factory=dict)  # numbers of inputs by what happened


def run(kind: Kind, numbers: range) -> Found:
    """Read the inputs with these numbers; a process that dies is followed by another from the next input on."""
    found = Found(kind.name)
    for start, stop in ((numbers.start, min(0, numbers.stop)), (max(0, numbers.start), numbers.stop)):
        while start < stop:
            with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
                start = _one_process(kind, range(start, stop), Path(folder), found)
    return found


def _one_process(kind: Kind, numbers: range, folder: Path, found: Found) -> int:
    """The number at which another process has to go on."""
    report = folder / "report"
    child = os.fork()
    if not child:
        _read_all(kind, numbers, folder, report)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    results = [line for line in lines if "what" in line]
    outcomes = Counter(line["what"] for line in results)
    found.inputs += len(results)
    found.refused += outcomes["refused"]
    found.peak = max([found.peak, *(line["peak"] for line in results)])
    for line in results:
        if line["what"] not in ("refused", "read"):
            found.faults.setdefault(line["what"], []).append(line["number"])
    if status == 0:
        return numbers.stop
    last: int = lines[-1]["number"]
    name = "hang" if status == -signal.SIGPROF else f"the process ended with {status}"
    found.faults.setdefault(name, []).append(last)
    found.inputs += 1
    return last + 1


def _read_all(kind: Kind, numbers: range, folder: Path, report: Path) -> None:
    status = 1
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        with report.open("w") as lines, contextlib.redirect_stdout(io.StringIO()):
            before = _held()
            for number, content in inputs.every(kind, numbers):
                print(json.dumps({"number": number}), file=lines, flush=True)
                place = folder / "input"
                place.mkdir()
                # Not its addresses (RLIMIT_AS), of which Arrow reserves some without using them.
                size = os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[5])
                resource.setrlimit(resource.RLIMIT_DATA, (size + kind.most, resource.RLIM_INFINITY))
                signal.setitimer(signal.ITIMER_PROF, LONGEST)
                what = _read(kind, place, content)
                signal.setitimer(signal.ITIMER_PROF, 0)
                resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                shutil.rmtree(place)
                # Bombs themselves are held as well; what a small input takes is what counts.
                peak = max(0, _held() - before) if number >= 0 else 0
                print(json.dumps({"number": number, "what": what, "peak": peak}), file=lines, flush=True)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _held() -> int:
    """The most bytes of memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _read(kind: Kind, place: Path, content: bytes) -> str:
    """``read``, ``refused`` with a sentence, or the error and the line of ours that let it through."""
    try:
        kind.read(place, content)
        return "read"
    except UserError:
        return "refused"
    except BaseException as error:
        gc.collect()
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/bioclip_lite/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
        return f"{type(error).__name__} in {where}: {str(error)[:80]}"
