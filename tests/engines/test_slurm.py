"""The profile for clusters, on a real SLURM of one node: jobs go through sbatch, and make what a local run makes."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import yaml

from bioclip_lite.engines import forkserver
from support import checkout, lessons, slurm
from support.checkout import artifacts, changed, planned, repro, set_parameter, sh

pytestmark = pytest.mark.pipeline
PROFILE = "workflow/profiles/slurm"
# What is special here: a small node, no accounting, and jobs so short that it pays to ask for them often.
HERE = {
    "max-threads": 4,
    "slurm-status-command": "squeue",
    "slurm-init-seconds-before-status-checks": 8,
    "latency-wait": 10,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All commands of this module find a SLURM."""
    with (
        slurm.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as environment,
        pytest.MonkeyPatch.context() as here,
    ):
        # Jobs of a cluster start on nodes where no server is; a fork would also be out of SLURM's reach.
        for name, value in (environment | {forkserver.ADDRESS: ""}).items():
            here.setitem(checkout.ENVIRONMENT, name, value)
        yield


@pytest.fixture(scope="module")
def limited(
    cluster: None, thin_built: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Popen[bytes]]]:
    """A checkout, and a run in it whose two jobs reach their time limits.

    SLURM counts in minutes, so it goes on beside the other tests.
    """
    folder = checkout.clone(thin_built, tmp_path_factory.mktemp("slurm") / "limited")
    resources = settings(folder)["set-resources"]
    resources["train_student"] |= {"runtime": 6}
    resources["train_control"] = {"runtime": 1}
    threads = {"train_student": 1, "train_control": 1}
    change(folder, {"set-resources": resources, "set-threads": threads, "retries": 0, "keep-going": True})
    first(folder, "train_student", "trap 'echo asked to stop > stopped; exit 75' TERM; sleep 600 & wait; ")
    first(folder, "train_control", "sleep 600; ")
    targets = "train_student train_control"
    command = f"snakemake --profile {PROFILE} --forcerun {targets} -- {targets}"
    with (folder / "output").open("wb") as output:
        run = Popen(command.split(), cwd=folder, env=checkout.ENVIRONMENT, stdout=output, stderr=output)
    yield folder, run
    if run.poll() is None:  # a test has failed; SIGTERM would have Snakemake wait for the jobs
        sh("scancel --me", folder)
        run.kill()
    run.wait()


@pytest.fixture(scope="module")
def built_there(limited: object, thin_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything made from the photographs alone, through SLURM; training fails once."""
    folder = checkout.clone(thin_built, tmp_path_factory.mktemp("slurm") / "built", pull=False)
    sh("dvc pull -q data/photographs.dvc && dvc remote remove -q colleagues && rm dvc.lock", folder)
    change(folder, {})
    first(folder, "train_control", "mkdir .stopped 2> /dev/null && exit 75; ")
    sh(f"snakemake --profile {PROFILE} -- evaluate", folder)
    return folder


def settings(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / PROFILE / "config.yaml").read_text())


def change(folder: Path, more: dict[str, Any]) -> None:
    """Change lines of the profile, as the users of a cluster do."""
    (folder / PROFILE / "config.yaml").write_text(yaml.safe_dump(settings(folder) | HERE | more))


def first(folder: Path, rule: str, command: str) -> None:
    """Put a shell command before what a rule of stage distill runs."""
    path = folder / "workflow/rules/distill.smk"
    text, count = re.subn(rf'(rule {rule}:.*?shell:\s*")', rf"\g<1>{command}", path.read_text(), flags=re.DOTALL)
    assert count == 1
    path.write_text(text)


def submitted(folder: Path) -> Counter[tuple[str, str]]:
    """How often SLURM has seen (what, in which state), of the jobs of one checkout."""
    jobs = sh("squeue --states=all --noheader --format='%k|%T|%Z'", folder).splitlines()
    fields = [job.split("|") for job in jobs]
    return Counter((re.sub("_wildcards_.*", "", what), state) for what, state, place in fields if place == str(folder))


def test_slurm_makes_what_a_local_run_makes(built_there: Path, thin_built: Path) -> None:
    assert artifacts(built_there) == artifacts(thin_built)
    assert planned(built_there) == {}
    assert changed(built_there) == []
    assert submitted(built_there) == {
        ("rule_make_index", "COMPLETED"): 1,
        ("rule_list_shards", "COMPLETED"): 1,
        ("rule_shards_write_shard", "COMPLETED"): 1,  # one job for all seven
        ("rule_captions_write_captions", "COMPLETED"): 1,
        ("rule_make_teacher", "COMPLETED"): 1,
        ("rule_embed_taxa", "COMPLETED"): 1,
        ("rule_embed_shard", "COMPLETED"): 7,
        ("rule_train_student", "COMPLETED"): 1,
        ("rule_train_control", "FAILED"): 1,  # and submitted again
        ("rule_train_control", "COMPLETED"): 1,
        ("rule_prune_student", "COMPLETED"): 1,
        ("rule_quantize_student", "COMPLETED"): 1,
        ("rule_convert_student", "COMPLETED"): 1,
        ("rule_predict", "COMPLETED"): 9,
        ("rule_write_report", "COMPLETED"): 1,
    }


def test_a_training_of_two_nodes_starts_as_two_tasks(cluster: None, tmp_path: Path) -> None:
    data = lessons.make_cache(lessons.make_data(tmp_path / "data"))
    command = ["python", "-m", "bioclip_lite", "distill", "student", "--section", json.dumps(lessons.DISTILL)]
    command += ["--data", str(data), "--nodes", "2", "--processes", "1"]
    environment = f"PYTHONPATH={checkout.ROOT / 'workflow'} OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=lo"
    output = sh(f"{environment} srun --ntasks=2 --kill-on-bad-exit=1 --time=5 {shlex.join(command)}", tmp_path)
    assert output.count("epoch 2 of 2") == output.count("student: written to") == 1  # by one of the tasks
    assert (data / "distill" / "model" / "model.safetensors").exists()


def test_dvc_submits_only_what_it_must(built_there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkout.ENVIRONMENT, "SNAKEMAKE_PROFILE", PROFILE)
    before = submitted(built_there)
    set_parameter(built_there, "convert.images", 3)
    stages, _ = repro(built_there)
    assert stages == ["convert", "evaluate"]
    assert submitted(built_there) - before == {
        ("rule_convert_student", "COMPLETED"): 1,
        ("rule_predict", "COMPLETED"): 2,  # tfjs and table
        ("rule_write_report", "COMPLETED"): 1,
    }
    assert changed(built_there) == []
    assert planned(built_there) == {}


def test_time_limits(limited: tuple[Path, Popen[bytes]]) -> None:
    folder, run = limited
    assert run.wait(300) != 0
    output = (folder / "output").read_text()
    assert submitted(folder) == {("rule_train_student", "FAILED"): 1, ("rule_train_control", "TIMEOUT"): 1}
    assert (folder / "stopped").read_text() == "asked to stop\n"
    assert "FAILED  distill control" in output
    assert "SLURM status is: 'TIMEOUT'" in output
    assert not (folder / "data/distill/control/model.safetensors").exists()
