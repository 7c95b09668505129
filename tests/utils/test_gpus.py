"""Jobs side by side on one computer compute on GPUs of their own, as long as there are any."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bioclip_lite.utils import gpus
from bioclip_lite.utils.errors import UserError
from support.checkout import ROOT

TAKE = """
import os, sys
from bioclip_lite.utils import gpus
gpus.take(int(sys.argv[1]))
gpus.take(int(sys.argv[1]))  # another time changes nothing
print(os.environ.get(gpus.VISIBLE), flush=True)
sys.stdin.read()
"""
Job = subprocess.Popen[str]
Start = Callable[..., tuple[Job, str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a job; returns its process, which goes on until the test ends, and the GPUs that it sees."""
    jobs: list[Job] = []

    def start(count: int = 1, **environment: str) -> tuple[Job, str]:
        variables = os.environ | {"PYTHONPATH": str(ROOT / "workflow"), "TMPDIR": str(tmp_path)}
        pipe = subprocess.PIPE
        job = subprocess.Popen(
            [sys.executable, "-c", TAKE, str(count)],
            env=variables | {gpus.VISIBLE: "0,1"} | environment,
            text=True,
            stdin=pipe,
            stdout=pipe,
        )
        jobs.append(job)
        assert job.stdout is not None
        return job, job.stdout.readline().strip()

    yield start
    for job in jobs:
        job.communicate()


def test_jobs_share_a_gpu_only_where_every_gpu_has_a_job(start: Start) -> None:
    jobs = [start() for _ in range(4)]
    assert [found for _, found in jobs] == ["0", "1", "0", "1"]
    holder, _ = jobs[1]
    holder.kill()
    holder.wait()
    assert [start()[1] for _ in range(2)] == ["1", "0"]


def test_a_job_of_several_processes_takes_several(start: Start) -> None:
    four = {gpus.VISIBLE: "GPU-a,GPU-b, GPU-c ,MIG-x/1/0"}
    assert start(**four)[1] == "GPU-a"
    assert start(2, **four)[1] == "GPU-b,GPU-c"
    assert start(2, **four)[1] == "GPU-a,MIG-x/1/0"
    assert start(1, **four)[1] == "GPU-b"


@pytest.mark.parametrize(
    ("count", "environment", "expected"),
    [
        (1, {"SLURM_JOB_ID": "7"}, "0,1"),  # the cluster has chosen
        (1, {gpus.VISIBLE: "3"}, "3"),
        (2, {}, "0,1"),
        (3, {}, "0,1"),  # the caller says that they are too few
        (1, {gpus.VISIBLE: "-1"}, "-1"),
        (1, {gpus.VISIBLE: ""}, ""),
    ],
)
def test_nothing_is_taken_where_there_is_no_choice(
    count: int, environment: dict[str, str], expected: str, start: Start, tmp_path: Path
) -> None:
    assert start(count, **environment)[1] == expected
    assert list(tmp_path.iterdir()) == []


def test_programs_that_a_job_starts_compute_on_its_gpus(start: Start) -> None:
    _, found = start()
    assert start(**{gpus.VISIBLE: found, "BIOCLIP_LITE_GPUS": found})[1] == found == "0"
    assert start(**{gpus.VISIBLE: "0,1", "BIOCLIP_LITE_GPUS": "0,1"})[1] == "0,1"


def test_the_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"bioclip-lite-gpus-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    with pytest.raises(UserError, match=r"gpus-\d+, where jobs note which GPU they use, is not a folder of yours"):
        gpus.take()
    assert os.environ[gpus.VISIBLE] == "0,1"
