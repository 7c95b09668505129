"""Several computers that train together: where they meet, and what torchrun is told on each.

The same command runs once on every node, and starts torchrun there. The torchruns meet at an address of one of them.
In a SLURM job this module has ``srun`` start the command, and the address is that of the job's first node.
"""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Sequence

from bioclip_lite.utils.errors import UserError

_PORTS = range(15000, 30000)  # of SLURM jobs, by their numbers; below those that systems give to outgoing connections
_WAIT = 600  # seconds for all nodes to be there


def torchrun(processes: int, nodes: int = 1, meeting: str | None = None) -> list[str]:
    """The options of torchrun (``python -m torch.distributed.run``) on one of ``nodes``, with ``processes`` on each.

    Args:
        meeting: host:port of one of the nodes, which all of them reach. None: this node is the only one, or one of the
            tasks of a SLURM step (``start_by_slurm``), whose first node it is.

    Raises:
        UserError: there are several nodes, and nothing says where they meet.
    """
    options = [f"--nnodes={nodes}", f"--nproc-per-node={processes}", "--rdzv-backend=c10d", "--max-restarts=0"]
    if nodes == 1:
        return [*options, "--rdzv-endpoint=localhost:0", "--local-addr=localhost", f"--rdzv-id={uuid.uuid4().hex}"]
    if meeting:
        host, _, port = meeting.rpartition(":")
        if not (host and port.isdecimal()):
            raise UserError(f"--meet {meeting}: name one of the nodes and a free port of it, e.g. --meet node1:29400")
        run, here = "bioclip-lite", _is_here(host, int(port))
    elif _is_task(nodes):
        host = _first_host(os.environ["SLURM_STEP_NODELIST"])
        job, step = (int(os.environ[name]) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = str(_PORTS[(job + step) % len(_PORTS)])
        run, here = f"{job}.{step}", os.environ["SLURM_PROCID"] == "0"
    else:
        raise UserError(
            f"--nodes {nodes}: where do they meet? Run the same command on each of them with --meet <host>:<port>, the "
            f"host being one of them and the port free there; or run it in a SLURM job of {nodes} nodes"
        )
    return [
        *options,
        f"--rdzv-endpoint={host}:{port}",
        f"--rdzv-id={run}",
        # torchrun would look the computer's own name up, which may be unknown to the others, or of another network.
        f"--local-addr={host if here else _address_towards(host, int(port))}",
        f"--rdzv-conf=is_host={int(here)},join_timeout={_WAIT},read_timeout={_WAIT}",
    ]


def _is_here(host: str, port: int) -> bool:
    """Whether ``host`` is this computer, and nobody listens there yet (another torchrun of the same training)."""
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


def _address_towards(host: str, port: int) -> str:
    """This computer's address in the network in which it reaches ``host``. Raises UserError for an unknown host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            route.connect((host, port))  # sends nothing
        except OSError as error:
            raise UserError(f"the nodes meet at {host}:{port}, which this one does not reach: {error}") from error
        return str(route.getsockname()[0])


# SLURM


def start_by_slurm(nodes: int, meeting: str | None, cores: int, arguments: Sequence[str]) -> None:
    """In a SLURM job, replace this process by an srun that runs ``python -m bioclip_lite`` once on each of its nodes.

    Returns where there is no job, where the user says where to meet, and in the tasks that srun has started.

    Args:
        cores: that the command may use on each node.

    Raises:
        UserError: this process is already one of a number of tasks that is not that of the nodes.
    """
    if nodes == 1 or meeting or "SLURM_JOB_ID" not in os.environ or _is_task(nodes):
        return
    if tasks := os.environ.get("SLURM_STEP_NUM_TASKS"):
        raise UserError(
            f"--nodes {nodes}, but SLURM started this command as a step of {tasks} tasks; it has to start {nodes}, one "
            f"on each node. In the profile of Snakemake, set mpi: srun and tasks: {nodes} for this rule"
        )
    layout = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cores}"]
    command = ["srun", *layout, "--kill-on-bad-exit=1", sys.executable, "-m", "bioclip_lite", *arguments]
    sys.stdout.flush()
    os.execvp("srun", command)


def _is_task(nodes: int) -> bool:
    """Whether this process is one of a SLURM step's tasks, of which there is one for each node."""
    return os.environ.get("SLURM_STEP_NUM_TASKS") == str(nodes)


def _first_host(listed: str) -> str:
    """The first of the hosts in SLURM's notation, e.g. gpu[03-05]."""
    show = subprocess.run(["scontrol", "show", "hostnames", listed], capture_output=True, text=True, check=True)
    return show.stdout.split()[0]
