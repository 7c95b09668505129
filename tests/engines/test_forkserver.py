"""A program that the fork server runs is the program that its caller would have been."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bioclip_lite.engines import forkserver
from bioclip_lite.engines.forkserver_client import ADDRESS
from support.checkout import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the fork server needs Linux")

# Runs a module by the server if there is one, as `python -m bioclip_lite` does.
ASK = """
import os, runpy, sys
from bioclip_lite.engines.forkserver_client import ask
status = ask(sys.argv[1], sys.argv[2:], os.environ)
if status is not None:
    sys.exit(status)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def server() -> str:
    """The address of a server that ends with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ADDRESS, raising=False)
        forkserver.start(["torch"])
        return os.environ[ADDRESS]


@pytest.fixture(params=["warm", "cold"])
def address(request: pytest.FixtureRequest) -> str:
    """Each test that uses this runs with the server and without: what it expects is what a process without it does."""
    return request.getfixturevalue("server") if request.param == "warm" else ""


class Caller:
    """Runs programs, each a module of its text, in a folder."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address

    def start(self, program: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        module = self.folder / "program.py"
        if not module.exists() or module.read_text() != program:  # another caller may be reading it
            module.write_text(program)
        path = os.pathsep.join([str(ROOT / "workflow"), str(self.folder)])
        environment = os.environ | {ADDRESS: self.address, "PYTHONPATH": path} | options.pop("environment", {})
        pipe: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-c", ASK, "program", *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=environment, text=True, **(pipe | options))

    def run(self, program: str, *arguments: str, given: str = "", **options: object) -> tuple[int, str, str]:
        """Status, standard output, standard error."""
        process = self.start(program, *arguments, **options)
        output, errors = process.communicate(given, timeout=120)
        return process.returncode, output, errors


@pytest.fixture
def caller(tmp_path: Path, address: str) -> Caller:
    return Caller(tmp_path, address)


@pytest.fixture
def warm(tmp_path: Path, server: str) -> Caller:
    return Caller(tmp_path, server)


def test_arguments_folder_environment_umask_and_streams_are_the_callers(caller: Caller) -> None:
    program = """
import json, os, sys
os.close(os.open("made", os.O_CREAT | os.O_WRONLY, 0o666))
print(json.dumps([sys.argv[1:], os.getcwd(), os.environ["GIVEN"], os.environ.get("HOME"), sys.stdin.read()]))
print("said", file=sys.stderr)
"""
    environment = {"GIVEN": "é", "HOME": "/nowhere"}
    status, output, errors = caller.run(program, "a b", "", given="typed", environment=environment, umask=0o027)
    assert (status, errors) == (0, "said\n")
    assert json.loads(output) == [["a b", ""], str(caller.folder), "é", "/nowhere", "typed"]
    assert (caller.folder / "made").stat().st_mode & 0o777 == 0o640


def test_nothing_of_the_servers_environment_is_left(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert caller.run("import os; print(os.environ.get('HOME'), os.environ.get('GIVEN'))")[1] == "None None\n"


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("sys.exit()", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('a message')", 1),
        ("raise ValueError('a message')", 1),
        ("os._exit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_the_status_is_the_programs(caller: Caller, end: str, expected: int) -> None:
    status, output, errors = caller.run(f"import os, signal, sys; print('begun', flush=True); {end}")
    assert (status, output) == (expected, "begun\n")
    assert ("a message" in errors) == ("a message" in end)


SLEEPER = """
import os, signal, subprocess, sys, time
{}
child = subprocess.Popen(["sleep", "600"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_the_program(caller: Caller, number: signal.Signals) -> None:
    handler = "signal.signal(int(sys.argv[1]), lambda number, _: (child.kill(), sys.exit(40 + number)))"
    process = caller.start(SLEEPER.format(handler), str(int(number)))
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(number)
    assert process.wait(timeout=60) == 40 + number


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def begin(caller: Caller) -> tuple[subprocess.Popen[str], list[int]]:
    """A program that sleeps; it and the process that it has started."""
    process = caller.start(SLEEPER.format(""))
    assert process.stdout is not None
    return process, [int(number) for number in process.stdout.readline().split()]


def gone(numbers: list[int]) -> bool:
    deadline = time.monotonic() + 60
    while any(map(alive, numbers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, numbers))


def test_a_caller_that_is_killed_takes_the_program_along(warm: Caller) -> None:
    process, numbers = begin(warm)
    assert process.pid not in numbers and all(map(alive, numbers))
    process.kill()
    assert gone(numbers)
    assert warm.run("print('still here')") == (0, "still here\n", "")


def test_a_server_hears_together_that_a_program_and_its_caller_ended(warm: Caller) -> None:
    process, numbers = begin(warm)
    server = int(Path(f"/proc/{numbers[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGSTOP)
    for number in numbers:
        os.kill(number, signal.SIGKILL)
    assert gone(numbers)  # before its caller: the server has closed the caller's socket when it hears of the caller
    process.kill()
    process.wait()
    os.kill(server, signal.SIGCONT)
    assert warm.run("import os; print(os.getppid())") == (0, f"{server}\n", "")


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns a server of its own; the first line that it prints is the address."""
    program = f"""
import os, sys
os.environ.pop({ADDRESS!r}, None)
from bioclip_lite.engines import forkserver
forkserver.start([])
print(os.environ[{ADDRESS!r}], flush=True)
sys.stdin.read()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def test_a_server_ends_with_its_owner(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    assert owner.stdout is not None
    address = owner.stdout.readline().strip()
    caller = Caller(tmp_path, address)
    assert caller.run("import os; print(os.getppid())")[1] != f"{os.getpid()}\n"
    server = int(caller.run("import os; print(os.getppid())")[1])
    owner.communicate()
    assert gone([server]) and not Path(address).parent.exists()
    # The address leads nowhere now: a program is run by the caller itself.
    process = caller.start("import os; print(os.getpid())")
    assert process.communicate()[0] == f"{process.pid}\n"


def test_a_server_that_is_killed_takes_its_programs_along(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    assert owner.stdout is not None
    caller = Caller(tmp_path, owner.stdout.readline().strip())
    server = int(caller.run("import os; print(os.getppid())")[1])
    process, numbers = begin(caller)
    os.kill(server, signal.SIGKILL)
    assert process.wait(timeout=60) == 128 + signal.SIGKILL
    assert gone(numbers[:1])
    os.kill(numbers[1], signal.SIGKILL)
    assert caller.run("print('by itself')") == (0, "by itself\n", "")


TRAINING = """
import hashlib, numpy, os, random, sys, torch
torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(3):
    loss = model(torch.randn(16, 3, 8, 8)).square().mean()
    loss.backward()
    optimizer.step()
weights = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
print(hashlib.md5(weights).hexdigest(), torch.get_num_threads(), numpy.random.default_rng(1).random())
print(random.random(), file=sys.stderr)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_training_gives_the_same_bytes_with_as_many_threads(tmp_path: Path, server: str, threads: str) -> None:
    environment = {"OMP_NUM_THREADS": threads}
    ended = [Caller(tmp_path, address).run(TRAINING, environment=environment) for address in (server, server, "")]
    assert {status for status, *_ in ended} == {0}
    assert len({output for _, output, _ in ended}) == 1 and ended[0][1].split()[1] == threads
    assert len({chance for *_, chance in ended}) == 3  # what has no seed differs from child to child


def test_a_program_is_what_is_on_disk(warm: Caller) -> None:
    package = warm.folder / "workflow/bioclip_lite"
    shutil.copytree(ROOT / "workflow/bioclip_lite/engines", package / "engines")
    program, environment = "import bioclip_lite; print(bioclip_lite.VERSION)", {"PYTHONPATH": f"{package.parent}:."}
    for version in ("one", "three"):
        (package / "__init__.py").write_text(f"VERSION = {version!r}\n")
        assert warm.run(program, environment=environment) == (0, f"{version}\n", "")


def test_many_callers_at_once(warm: Caller) -> None:
    processes = [warm.start("import sys, time; time.sleep(0.2); sys.exit(int(sys.argv[1]))", str(n)) for n in range(20)]
    assert [process.wait(timeout=120) for process in processes] == list(range(20))
