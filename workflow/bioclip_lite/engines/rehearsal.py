"""Ask Snakemake what it would run, without touching the workspace.

`snakemake --dry-run` leaves contents alone, but ``sync`` sets times and records first. So it runs in a
stand-in: a temporary folder with a link to every file, which has the file's time, and a copy of Snakemake's records.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import NamedTuple

from bioclip_lite.engines import stage_code
from bioclip_lite.engines.dvc_yaml import STAMP, dvc_stages, ledger_path, sources, within
from bioclip_lite.engines.hashes import HASHES, Hashes
from bioclip_lite.engines.ledger import files_of_jobs, load_ledgers
from bioclip_lite.utils.errors import UserError

RECORDS = (".snakemake/metadata", ".snakemake/incomplete")  # that a decision depends on
CHATTER = (  # lines of Snakemake before and after the message of an error
    "Assuming ",
    "Building ",
    "Updating ",
    "Using workflow ",
    "provenance: ",
    "WorkflowError in file",
    "SNAKEMAKE",
    "=========",
    "  ",
)


class Job(NamedTuple):
    """A job that Snakemake would run, and its reason in Snakemake's words."""

    rule: str
    inputs: list[str]
    outputs: list[str]
    reason: str


@contextmanager
def stand_in() -> Iterator[None]:
    """Work in a folder that looks like this workspace to Snakemake, and is thrown away afterwards.

    Raises:
        UserError: this is not the root of a checkout of the pipeline.
    """
    dvc_stages.cache_clear()  # of another folder, where this process has worked there
    if not Path("Snakefile").is_file() or not dvc_stages():
        raise UserError(f"{Path.cwd()} holds no Snakefile and dvc.yaml; run this in the root of the repository")
    hashes = Hashes()
    read = [*files_of_jobs(load_ledgers()), *sources()]
    hashes.read_ahead(read)
    for path in read:
        hashes[path]
    outs = [out for name, stage in dvc_stages().items() for out in (*stage["outs"], ledger_path(name))]
    outs.append(stage_code.FOLDER.as_posix())  # sync writes there
    above = {str(folder) for out in outs for folder in Path(out).parents} - {"."}
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as folder:
        for entry in os.scandir("."):
            if entry.name not in (".snakemake", ".git", ".dvc", "logs"):
                _mirror(entry, Path(folder), outs, above)
        for name in (*RECORDS, stage_code.JOBS.as_posix()):
            if os.path.isdir(name):
                shutil.copytree(name, f"{folder}/{name}")
        hashes.write(Path(folder) / HASHES)
        with chdir(folder):
            yield


def _mirror(entry: os.DirEntry[str], root: Path, outs: list[str], above: set[str]) -> None:
    path = os.path.normpath(entry.path)
    target, time = root / path, entry.stat(follow_symlinks=False).st_mtime_ns
    if entry.name == STAMP:  # would be written through a link
        shutil.copy2(path, target)
    elif entry.is_dir() and (path in above or within(path, outs)):
        target.mkdir()
        for inner in os.scandir(path):
            _mirror(inner, root, outs, above)
        os.utime(target, ns=(time, time))
    else:
        target.symlink_to(os.path.abspath(path))
        os.utime(target, ns=(time, time), follow_symlinks=False)


def counts(target: str) -> dict[str, int]:
    """Count the jobs that Snakemake would run, by rule; targets left out. Call in a stand-in."""
    output = _dry_run(target, "--quiet", "rules", "reason", "host")
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total +\d+$", output, re.M | re.S)
    rows = re.findall(r"^(\w+) +(\d+)$", table[1], re.M) if table else []
    return {name: int(count) for name, count in rows if name not in dvc_stages()}


def jobs(target: str) -> list[Job]:
    """List the jobs that Snakemake would run to bring ``target`` up to date. Call in a stand-in."""
    planned = []
    for block in re.split(r"^\[.*\]$", _dry_run(target), flags=re.M)[1:]:
        head = re.search(r"^(?:local)?(?:rule|checkpoint) (\w+):$", block, re.M)
        fields = dict(re.findall(r"^    (input|output|reason): (.*)$", block, re.M))
        if head:
            inputs, outputs = (fields.get(field, "").split(", ") for field in ("input", "output"))
            planned.append(Job(head[1], inputs, outputs, fields.get("reason", "")))
    return planned


def _dry_run(target: str, *options: str) -> str:
    done = _snakemake(target, *options)
    if done.returncode:
        message = [line for line in done.stdout.splitlines() if line and not line.startswith(CHATTER)]
        raise UserError(f"Snakemake cannot plan {target}: " + "\n  ".join(message))
    return done.stdout


def _snakemake(target: str, *options: str) -> subprocess.CompletedProcess[str]:
    # A profile chosen for running (a cluster) says nothing about what needs to run.
    environment = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    command = [sys.executable, "-m", "snakemake", "--dry-run", *options, "--", target]
    return subprocess.run(
        command, env=environment, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
