"""Ask a fork server to run a program; imports nothing that takes time. See ``forkserver``."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

ADDRESS = "BIOCLIP_LITE_FORKSERVER"  # environment: the socket of the server
LENGTH = 8  # bytes of the number before a request: how long it is
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def ask(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """Have the server run ``python -m module arguments`` and wait for its end.

    Signals sent to this process reach the program. If a signal ends the program, the same signal ends this process.

    Args:
        environment: the program's; of this process's own only the server's address is read.

    Returns:
        The exit status of the program; None if there is no server, so that the caller must run the program itself.
    """
    if not os.environ.get(ADDRESS):
        return None
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(os.environ[ADDRESS])
            _send(server, module, arguments, environment)
            answers = server.makefile()
            child = int(answers.readline())
        except (OSError, ValueError):
            return None
        for number in _PASSED_ON:
            signal.signal(number, lambda number, _: _pass_on(child, number))
        ended = answers.readline()
    if not ended:  # the server was killed, and the program with it
        return 128 + signal.SIGKILL
    status = os.waitstatus_to_exitcode(int(ended))
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def main_or_ask(module: str, main: Callable[[], int]) -> int:
    """The exit status of ``main``, which is run by the server if there is one; ``python -m module`` is its command."""
    # Without the address, so that torchrun's processes are children of the job and not of the server.
    environment = {name: value for name, value in os.environ.items() if name != ADDRESS}
    status = ask(module, sys.argv[1:], environment)
    return main() if status is None else status


def _send(server: socket.socket, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    umask = os.umask(0)  # the only way to read it
    os.umask(umask)
    request = {
        "module": module,
        "arguments": list(arguments),
        "environment": dict(environment),
        "folder": os.getcwd(),
        "umask": umask,
    }
    body = json.dumps(request).encode()
    socket.send_fds(server, [len(body).to_bytes(LENGTH, "big")], [0, 1, 2])
    server.sendall(body)


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has ended, and the server is about to say so
        os.kill(child, number)
