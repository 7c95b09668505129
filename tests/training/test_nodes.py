"""Where several nodes meet, and how SLURM starts a training on each of them."""

import os
import socket
import sys
from pathlib import Path

import pytest
from torch.distributed.run import config_from_args, parse_args

from bioclip_lite.training import nodes
from bioclip_lite.utils.errors import UserError

STEP = {
    "SLURM_JOB_ID": "14999",
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "localhost,gpu[07-09]",
    "SLURM_PROCID": "0",
}


@pytest.fixture(autouse=True)
def outside_of_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    program = tmp_path / "scontrol"  # which every node of a cluster has
    program.write_text('#!/bin/sh\n[ "$1 $2" = "show hostnames" ] && echo "$3" | tr , "\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_torchrun_understands_its_options() -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        other, _, _ = config_from_args(parse_args([*nodes.torchrun(4, 2, f"127.0.0.1:{port}"), "-m", "module"]))
    first, _, command = config_from_args(parse_args([*nodes.torchrun(4, 2, f"localhost:{port}"), "-m", "module", "-x"]))
    assert (first.min_nodes, first.max_nodes, first.nproc_per_node, first.max_restarts) == (2, 2, 4, 0)
    assert (first.rdzv_endpoint, first.rdzv_configs["is_host"], first.local_addr) == (
        f"localhost:{port}",
        "1",
        "localhost",
    )
    assert (other.rdzv_configs["is_host"], other.local_addr) == ("0", "127.0.0.1")  # somebody listens there already
    assert first.run_id == other.run_id
    assert command == ["-u", "-m", "module", "-x"]
    alone, again = (config_from_args(parse_args([*nodes.torchrun(2), "-m", "module"]))[0] for _ in range(2))
    assert (alone.min_nodes, alone.max_nodes, alone.rdzv_endpoint) == (1, 1, "localhost:0")
    assert alone.run_id != again.run_id  # two trainings side by side do not mix


def test_the_tasks_of_a_slurm_step_meet_at_its_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert "--rdzv-endpoint=localhost:15002" in (options := nodes.torchrun(4, 2))
    assert {"--rdzv-id=14999.3", "--local-addr=localhost"} < set(options)
    assert "--rdzv-conf=is_host=1,join_timeout=600,read_timeout=600" in options
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert {"--local-addr=127.0.0.1", "--rdzv-id=14999.3"} < set(options := nodes.torchrun(4, 2))
    assert "--rdzv-conf=is_host=0,join_timeout=600,read_timeout=600" in options


def started(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> list[list[str]]:
    """The commands that ``start_by_slurm`` became."""
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _, command: became.append(command))
    nodes.start_by_slurm(*arguments)  # type: ignore[arg-type]
    return became


def test_a_slurm_job_starts_one_task_on_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (2, None, 8, ["distill", "--nodes", "2"])
    assert started(monkeypatch, *arguments) == []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    layout = ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=8", "--kill-on-bad-exit=1"]
    command = ["srun", *layout, sys.executable, "-m", "bioclip_lite", "distill", "--nodes", "2"]
    assert started(monkeypatch, *arguments) == [command]
    assert started(monkeypatch, 2, "node1:29400", 8, []) == []  # the user starts them all
    assert started(monkeypatch, 1, None, 8, []) == []
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert started(monkeypatch, *arguments) == []  # is one of the tasks
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    with pytest.raises(UserError, match=r"--nodes 2, but SLURM started .* of 1 tasks.*set mpi: srun and tasks: 2"):
        started(monkeypatch, *arguments)


@pytest.mark.parametrize(
    ("meeting", "message"),
    [
        (None, r"--nodes 2: where do they meet\?.*--meet <host>:<port>.*SLURM job of 2 nodes"),
        ("node1", r"--meet node1: name one of the nodes and a free port"),
        ("node1:http", r"--meet node1:http: name one"),
        ("nowhere.invalid:29400", r"meet at nowhere\.invalid:29400, which this one does not reach"),
    ],
)
def test_a_place_that_nobody_finds_is_refused(meeting: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        nodes.torchrun(1, 2, meeting)
