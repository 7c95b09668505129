"""Real servers for the tests of remotes: OpenSSH and OpenStack Swift, from Debian's packages.

Each runs on loopback while a ``with`` block lasts, on free ports and with all its files in one folder. A test for which
the packages, or the rights that Swift's object server needs, are missing is skipped.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

SSH_PACKAGES = "openssh-server"
SWIFT_PACKAGES = "swift-proxy swift-account swift-container swift-object memcached"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}  # Debian's programs with Debian's Python
_PATIENCE = 60  # seconds until a server must answer


def require_packages(programs: list[str], packages: str) -> None:
    """Skip the test where a program is missing."""
    missing = [name for name in programs if not _program(name)]
    if missing:
        line = f"apt-get install --no-install-recommends {packages}"
        pytest.skip(f"{', '.join(missing)} not found; as root: {line}")


def _program(name: str) -> str | None:
    return shutil.which(name, path=_ENVIRONMENT["PATH"])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """A server that answers at ``port`` while the block lasts; it also ends if this process is killed."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            cwd=folder,
            env=_ENVIRONMENT | {"PYTHONPATH": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < deadline, f"{command}\n{log.read_text()[-3000:]}"
            time.sleep(0.05)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# ----------------------------------------------------------------------------------------------------------------- SSH


class Ssh(NamedTuple):
    port: int
    key: Path  # of the one user who may log in: the one who runs the test


@contextmanager
def ssh_server(folder: Path) -> Iterator[Ssh]:
    """An OpenSSH server with a host key of its own, which lets in the user of this process by key."""
    require_packages(["sshd", "ssh-keygen"], SSH_PACKAGES)
    folder.mkdir(parents=True)
    port, key = _free_port(), folder / "id"
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    config = folder / "sshd.conf"
    config.write_text(f"""
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/id.pub
PidFile none
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
# pytest's folder for temporary files is not one that only root can write
StrictModes no
Subsystem sftp internal-sftp
""")
    privileges = Path("/run/sshd")  # where sshd, started as root, locks its unprivileged half in; no option names it
    made = os.geteuid() == 0 and not privileges.exists()
    if made:
        privileges.mkdir(mode=0o755)
    try:
        with _running([str(_program("sshd")), "-D", "-e", "-f", str(config)], port, folder):
            yield Ssh(port, key)
    finally:
        if made:
            privileges.rmdir()


# ------------------------------------------------------------------------------------------------------------------ S3


class S3(NamedTuple):
    endpoint: str
    user: str
    password: str
    objects: Path  # the folder under which the server keeps each object in a file *.data


_SWIFT_SERVER = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = root
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
workers = 0
"""
_SWIFT_STORE = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_SWIFT_PROXY = """
[pipeline:main]
pipeline = head catch_errors gatekeeper cache listing_formats s3api tempauth bulk slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:head]
paste.filter_factory = head:factory
[filter:s3api]
use = egg:swift#s3api
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
"""
# Debian 12's eventlet ends the answer to a HEAD request with a chunk, where its length was not stated, and aiohttp then
# takes that chunk for the next answer. Nothing but a list makes eventlet state the length.
_HEAD = """
def factory(*settings, **more):
    def wrap(app):
        def answer(environ, start_response):
            parts = app(environ, start_response)
            return list(parts) if environ["REQUEST_METHOD"] == "HEAD" else parts
        return answer
    return wrap
"""


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """OpenStack Swift with one replica on one folder, spoken to through its S3 interface."""
    kinds = ("account", "container", "object", "proxy")
    require_packages([*(f"swift-{kind}-server" for kind in kinds), "memcached"], SWIFT_PACKAGES)
    if os.geteuid():
        pytest.skip("Swift's servers are started as root here")
    device = folder / "devices/d1"
    device.mkdir(parents=True)
    try:
        os.setxattr(device, "user.test", b"1")
    except OSError:
        pytest.skip(f"Swift needs extended attributes, which the file system of {folder} lacks")
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    (folder / "head.py").write_text(_HEAD)
    with ExitStack() as servers:
        memcached = _free_port()
        command = ["memcached", "-u", "root", "-l", "127.0.0.1", "-m", "16", "-p", str(memcached)]
        servers.enter_context(_running(command, memcached, folder))
        ports = {kind: _free_port() for kind in kinds}
        for kind, port in ports.items():
            config = folder / f"{kind}.conf"
            pipeline = _SWIFT_PROXY.format(memcached=memcached) if kind == "proxy" else _SWIFT_STORE.format(kind=kind)
            config.write_text(_SWIFT_SERVER.format(port=port, folder=folder) + pipeline)
            if kind != "proxy":
                _make_ring(folder / f"{kind}.builder", port)
        for kind, port in ports.items():
            servers.enter_context(_running([f"swift-{kind}-server", "--verbose", f"{kind}.conf"], port, folder))
        yield S3(f"http://127.0.0.1:{ports['proxy']}", "test:tester", "testing", device / "objects")


def _make_ring(builder: Path, port: int) -> None:
    """Which server holds which object: the one, all of them."""
    for step in (["create", "4", "1", "0"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
        subprocess.run(["swift-ring-builder", builder, *step], check=True, stdout=subprocess.DEVNULL, env=_ENVIRONMENT)
