"""Start programs as forks of one process that has imported the large libraries, so that a start takes milliseconds.

To import torch, timm and open_clip takes seconds of processor time, and a run of the pipeline has dozens of jobs. So
Snakemake starts one server (``start``), which imports the libraries once, and every ``python -m bioclip_lite ...`` asks
it to do the job (``forkserver_client.ask``). The server forks; the child takes over the caller's arguments, folder,
environment, umask, standard streams and signals. The server has no module of this package loaded, so a job runs the
code that is on disk, and gives the same bytes as one that was started without a server: by hand, or on another node of
a cluster.

The caller sends, over a Unix socket, its standard streams and one JSON object. The server answers with the child's
process number and, when the child has ended, its status as ``os.waitpid`` gives it. A child and what it started are
killed when the caller is gone, when the server is gone, and when the owner of the server is gone.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from bioclip_lite.engines.forkserver_client import ADDRESS, LENGTH

# In this order: a job may start as soon as what it needs is there.
LIBRARIES = ("pyarrow.parquet", "PIL.Image", "torch", "safetensors.torch", "timm", "open_clip", "tensorboardX")
_THREADS = "OMP_NUM_THREADS"
# What this module and the client import of this package. To go through sys.modules in each child would touch, and so
# copy, ten megabytes.
_OWN_MODULES = [name for name in sys.modules if name.partition(".")[0] == "bioclip_lite"]
_PYTHONPATH = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


# The owner


def start(libraries: Sequence[str] = LIBRARIES) -> None:
    """Start a server and put its address into ``os.environ``, for every process that this one starts.

    The server ends when this process does, and is waited for. Does nothing where a server is at hand already, or the
    system is not Linux.
    """
    if ADDRESS in os.environ or not hasattr(os, "pidfd_open"):
        return
    folder = tempfile.mkdtemp(prefix="bioclip-lite-")
    os.environ[ADDRESS] = str(Path(folder, "socket"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.environ[ADDRESS])
        listener.listen(128)
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), *libraries],
            stdin=subprocess.PIPE,  # is closed when this process ends, however it ends
            pass_fds=[listener.fileno()],
            env=os.environ | {_THREADS: "1"},  # a process with threads cannot be forked; children set their own number
        )

    def stop() -> None:
        server.communicate()  # closes its standard input
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)


# The server


def serve(listener: socket.socket, libraries: Iterable[str]) -> dict[str, Any] | None:
    """Serve until standard input ends and all children have ended.

    Returns:
        None in the server; in each child, in which this function returns too, the request that it was forked for.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the callers, who pass it on
    children: dict[int, socket.socket] = {}  # process number -> its caller
    waiting = iter(libraries)
    with selectors.DefaultSelector() as events:
        events.register(listener, selectors.EVENT_READ, "call")
        events.register(sys.stdin, selectors.EVENT_READ, "owner")
        while children or listener.fileno() >= 0:
            imported = _import_next(waiting)
            for key, _ in events.select(0 if imported else None):
                if key.data == "call":
                    request = _fork(listener, events, children)
                    if request:
                        return request
                elif key.data == "owner":
                    _refuse_calls(listener, events)
                elif key.data > 0:
                    _kill_orphan(key, events, children)
                else:
                    _report_end(key, events, children)
    return None


def _import_next(libraries: Iterator[str]) -> bool:
    """Import one more library, if it is installed; False when all have been tried."""
    library = next(libraries, None)
    if library is None:
        return False
    with suppress(ImportError):
        importlib.import_module(library)
    gc.freeze()  # children share the memory of these objects as long as no collector touches it
    return True


def _fork(
    listener: socket.socket, events: selectors.BaseSelector, children: dict[int, socket.socket]
) -> dict[str, Any] | None:
    """Accept a call and fork; returns the request in the child and None in the server."""
    caller = listener.accept()[0]
    request = _receive(caller)
    child = os.fork()
    if child == 0:
        for connection in (listener, caller, *children.values()):
            connection.close()
        return request
    for stream in request["streams"]:
        os.close(stream)
    _answer(caller, child)
    children[child] = caller
    events.register(caller, selectors.EVENT_READ, child)
    events.register(os.pidfd_open(child), selectors.EVENT_READ, -child)
    return None


def _refuse_calls(listener: socket.socket, events: selectors.BaseSelector) -> None:
    """Accept no more calls: the owner is gone."""
    events.unregister(sys.stdin)
    events.unregister(listener)
    listener.close()


def _kill_orphan(
    key: selectors.SelectorKey, events: selectors.BaseSelector, children: dict[int, socket.socket]
) -> None:
    """Kill the child of a caller that is gone, unless the child has ended at the same time."""
    if key.data in children:
        events.unregister(key.fileobj)
        _kill(key.data)


def _report_end(key: selectors.SelectorKey, events: selectors.BaseSelector, children: dict[int, socket.socket]) -> None:
    """Tell a caller the status of its child, which has ended."""
    child = -key.data
    caller = children.pop(child)
    events.unregister(key.fileobj)
    os.close(key.fd)
    if caller in events.get_map():
        events.unregister(caller)
    _answer(caller, os.waitpid(child, 0)[1])
    caller.close()


def _receive(caller: socket.socket) -> dict[str, Any]:
    """Read the request of a caller; ``streams`` are the descriptors of its standard streams."""
    length, streams, _, _ = socket.recv_fds(caller, LENGTH, 3)
    with caller.makefile("rb") as file:
        return json.loads(file.read(int.from_bytes(length, "big"))) | {"streams": streams}


def _answer(caller: socket.socket, number: int) -> None:
    with suppress(OSError):  # it is gone
        caller.sendall(f"{number}\n".encode())


def _kill(child: int) -> None:
    """Kill a child and what it has started, which are in its process group unless it has not got that far."""
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
        os.killpg(child, signal.SIGKILL)


# The child


def run(request: dict[str, Any]) -> None:
    """Become the process that the caller would have been, and run its program."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, stream in enumerate(request["streams"]):
        os.dup2(stream, descriptor)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115
    os.umask(request["umask"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    new = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [request["folder"], *new, *(path for path in sys.path[1:] if path not in _PYTHONPATH)]
    sys.argv = [request["module"], *request["arguments"]]
    for name in _OWN_MODULES:
        sys.modules.pop(name, None)
    _set_threads()
    _run_program(request["module"])


def _run_program(module: str) -> None:
    """Run a module as a program, and end without taking the libraries apart, which takes longer than to fork."""
    status = 1

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a pipe that nobody reads any more, or a stream that is closed
                stream.flush()
        os._exit(status)

    atexit.register(leave)  # of all functions that are registered it is called last
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code & 0xFF if isinstance(end.code, int) else int(end.code is not None)
        raise
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
        raise


def _set_threads() -> None:
    """Use as many threads as a process with this environment does, in NumPy and torch."""
    count = int(os.environ.get(_THREADS) or len(os.sched_getaffinity(0)))
    if count == 1:  # as the server
        return
    threadpool_limits(count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)


if __name__ == "__main__":
    request = serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    if request:
        run(request)
