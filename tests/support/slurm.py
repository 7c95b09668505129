"""A real SLURM cluster of one small node on this machine, for tests.

Everything it writes is in one folder. The machine's own SLURM, if there is one, is neither used nor touched.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PACKAGES = "munge slurmctld slurmd slurm-client"  # Debian and Ubuntu
CPUS = 8  # what the node claims to have, so that tests see the same node on every machine
MEMORY_MB = 32000
CLIENTS = ("sacct", "sacctmgr", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start a cluster whose files are in ``folder`` (new); what to add to the environment of programs that use it.

    Skips the test where there is no SLURM to start, or not the rights to.
    """
    programs = [shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") for name in ("munged", "slurmctld", "slurmd")]
    if not all(programs):
        pytest.skip(f"SLURM is not installed; run: apt-get install --no-install-recommends {PACKAGES}")
    if os.getuid() != 0:
        pytest.skip("slurmd starts jobs for other users, so this test needs root")
    munged, slurmctld, slurmd = programs
    conf = _configure(folder)
    munge = f"{munged} --foreground --force --key-file={folder}/munge.key --socket={folder}/munge.socket"
    daemons = [
        _start(f"{munge} --pid-file={folder}/munged.pid --seed-file={folder}/munge.seed", folder / "munged.log"),
    ]
    try:
        _wait(lambda: (folder / "munge.socket").exists(), daemons, folder)
        daemons.append(_start(f"{slurmctld} -D -f {conf}", folder / "slurmctld.out"))
        daemons.append(_start(f"{slurmd} -D -f {conf}", folder / "slurmd.out"))
        _wait(lambda: _ask(folder, "sinfo --noheader --format=%t") == "idle", daemons, folder)
        yield {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    finally:
        if len(daemons) == 3:
            _ask(folder, "scancel --full --state=RUNNING")
            _ask(folder, "scancel --state=PENDING")
            _wait(lambda: not _ask(folder, "squeue --noheader"), [], folder)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _configure(folder: Path) -> Path:
    """Write the cluster's configuration, key and client programs; the path of slurm.conf."""
    for name in ("bin", "state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    control, node = _free_ports(2)
    conf = folder / "slurm.conf"
    conf.write_text(f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
ReturnToService=2
# Refuse what no node can run; by default such a job waits for ever.
EnforcePartLimits=ALL
MinJobAge=600
# A time limit is noticed within seconds and there is little time to say goodbye; the default is half a minute for both.
KillWait=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={MEMORY_MB} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    # Not SLURM_CONF in the environment: the executor plugin drops such variables before it calls srun in a job.
    for name in CLIENTS:
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec /usr/bin/{name} "$@"\n')
        program.chmod(0o755)
    return conf


def _start(command: str, log: Path) -> subprocess.Popen[bytes]:
    """A daemon that ends with this process, however that ends."""
    with log.open("wb") as file:
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command.split()], stdout=file, stderr=file)


def _ask(folder: Path, command: str) -> str:
    name, *arguments = command.split()
    return subprocess.run([folder / "bin" / name, *arguments], text=True, capture_output=True).stdout.strip()


def _wait(
    condition: Callable[[], bool], daemons: list[subprocess.Popen[bytes]], folder: Path, seconds: float = 60
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        dead = any(daemon.poll() is not None for daemon in daemons)
        if dead or time.monotonic() > end:
            logs = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(folder.glob("*.[lo][ou][gt]")))
            raise RuntimeError(f"the SLURM cluster {'ended' if dead else 'did not get ready'}\n{logs}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports
