"""Make each write of a program fail: list the places where it writes, and at each of them kill it or deny the write.

``faults.c`` stands between the program and the C library. A program is a fork of this process, which was started with
it (``preloaded``), so that a try costs no imports.
"""

import ctypes
import errno
import faulthandler
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_suffix(".c")
PRELOAD = "LD_PRELOAD"
KILL = -1  # in place of an errno
FAULTS = {"SIGKILL": KILL, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}
# Answers that no system call gives: nothing that is deleted needs space, and permission is asked for when a file is
# opened.
IMPOSSIBLE = {"delete": {"ENOSPC"}, "chmod": {"ENOSPC"}, "write": {"EACCES"}}
LONGEST = 120  # seconds; a program that takes longer hangs
_RANDOM = re.compile(r"\.partial-[a-z0-9_]{8}|(?<=[/.])(tmp|\.tmp)[A-Za-z0-9_]{6,8}|\d+")


class Place(NamedTuple):
    """An operation on a file, and who asked for it."""

    number: int  # of all operations of the program, from 1
    operation: str  # open, write, mkdir, rename, link, delete or chmod
    path: str  # within the folder
    caller: str  # the innermost function of the package that is not of utils/files, or "" for a foreign thread

    @property
    def site(self) -> tuple[str, str, str]:
        """The same for all places that one line of code makes, whatever the numbers and random parts of names."""
        return self.caller, self.operation, _RANDOM.sub("*", self.path)


class Ended(NamedTuple):
    """The end of a program."""

    status: int  # minus the number of a signal
    printed: str
    struck: bool  # the fault happened


def preloaded(arguments: list[str]) -> bool:
    """Start this process again so that it sees its own writes, unless it does, or no compiler can be had.

    Returns:
        False where there is no C compiler.
    """
    if os.environ.get(PRELOAD, "").endswith("faults.so"):
        return True
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return False
    library = Path(tempfile.gettempdir()) / f"bioclip-lite-{os.getuid()}-{os.getpid()}-faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return os.execve(
        sys.executable, [sys.executable, *arguments], os.environ | {PRELOAD: str(library), "OMP_NUM_THREADS": "1"}
    )


def end(folder: Path, program: Callable[[], int], number: int = 0, error: int = 0, places: Path | None = None) -> Ended:
    """Run ``program`` in a fork whose working directory is ``folder``, and whose temporary files lie in it.

    Args:
        number: of the operation at which the fault happens; 0: none does.
        error: an errno, or KILL. A full disk stays full.
        places: a file to which the operations are written, see ``listed``.
    """
    printed, struck = folder.with_suffix(".printed"), mmap.mmap(-1, 1)
    child = os.fork()
    if not child:
        _become(folder, program, printed, struck, (number, error), places)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(status, printed.read_text(errors="replace"), bool(struck[0]) or (error == KILL and status == -9))


def _become(
    folder: Path,
    program: Callable[[], int],
    printed: Path,
    struck: mmap.mmap,
    fault: tuple[int, int],
    places: Path | None,
) -> None:
    status = 99
    try:
        signal.alarm(LONGEST)
        os.chdir(folder)
        os.makedirs("tmp", exist_ok=True)
        tempfile.tempdir = str(folder / "tmp")
        output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        library = ctypes.CDLL(os.environ.pop(PRELOAD))
        listing = -1
        if places:
            listing = os.open(places, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            faulthandler.register(signal.SIGUSR1, listing, all_threads=False)
        library.faults_watch(os.fsencode(folder.resolve()), *fault, fault[1] == errno.ENOSPC, listing)
        try:
            status = program()
        except SystemExit as ending:
            status = _status(ending)
        except BaseException:
            traceback.print_exc()
        struck[0] = library.faults_struck()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status(ending: SystemExit) -> int:
    """The status that Python would end with; prints a message as Python would."""
    if isinstance(ending.code, str):
        print(ending.code, file=sys.stderr)
        return 1
    return ending.code or 0


def listed(places: Path) -> list[Place]:
    """The operations that ``end`` wrote to a file, in their order."""
    found = []
    for part in re.split(r"(?m)^(?=\d+\t)", places.read_text(errors="replace"))[1:]:
        head, *stack = part.splitlines()
        number, operation, path = head.split("\t", 2)
        found.append(Place(int(number), operation, path, _caller(stack)))
    return found


def _caller(stack: list[str]) -> str:
    """``stages/index.py run``, from a stack as faulthandler writes it; a library's name where no code of ours is."""
    frames = re.findall(r'File "([^"]+)", line \d+ in (\S+)', "\n".join(stack))
    own = [(path.split("/bioclip_lite/")[1], name) for path, name in frames if "/bioclip_lite/" in path]
    chosen = next((frame for frame in own if frame[0] != "utils/files.py"), own[0] if own else None)
    if chosen:
        return " ".join(chosen)
    library = next((path.split("/site-packages/")[1] for path, _ in frames if "/site-packages/" in path), "")
    return library.split("/")[0]


def chosen(places: list[Place]) -> list[Place]:
    """Those that are tried: of each site the first and the last."""
    sites: dict[tuple[str, str, str], list[Place]] = {}
    for place in places:
        sites.setdefault(place.site, []).append(place)
    return sorted({place for found in sites.values() for place in (found[0], found[-1])})


def contents(folder: Path) -> dict[str, str]:
    """Digest of each file by path, links as what they name; what has a temporary name is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith("tmp/") or ".partial-" in name or "/partial-" in name or "__pycache__" in name:
            continue
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = md5(path.read_bytes()).hexdigest()
    return found
