"""Fresh checkouts of this repository with the tiny parameters, and what both engines do in them."""

import contextlib
import functools
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from bioclip_lite.engines import forkserver
from bioclip_lite.utils import yaml_files
from bioclip_lite.utils.stage_names import STAGES

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a checkout has dozens of jobs, all of which import its package
ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}
# What the engines import, and the first stages; beside these, a thinned pipeline (tests/support/thin.py) needs none.
ENGINES = (
    *("snakemake.cli", "snakemake.profiles", "snakemake.storage", "snakemake.assets", "snakemake.report"),
    *("dvc.cli.parser", "dvc.repo.open_repo", "dvc.repo.index", "dvc.repo.worktree", "dvc.repo.reproduce"),
    *("dvc.repo.datasets", "dvc.dvcfile", "dvc.data_cloud", "dvc.rwlock", "dvc.lock", "dvc.cachemgr"),
    *("dvc_data.index.push", "dvc_data.index.fetch", "dvc_data.index.checkout", "scmrepo.git", "dulwich.porcelain"),
    *("dvc.repo.stage", "dvc.utils.strictyaml", "dvc_data.hashfile.status", "dvc_render", "dvc.repo.plots"),
    *("networkx", "flatten_dict", "fsspec.implementations.memory", "ruamel.yaml", "jsonschema", "requests", "yte"),
    *("pyarrow.parquet", "PIL.Image"),
)
COLD = f"env -u {forkserver.ADDRESS}"  # before a command: start it, and what it starts, as a process of its own


def environment(folder: Path) -> dict[str, str]:
    """Of commands in a folder: ``snakemake``, ``dvc`` and jobs of a checkout are forks of one process.

    Command lines, engines and code are the real ones; only what they import is shared.
    """
    found = ENVIRONMENT | {"PATH": os.pathsep.join([str(ROOT / "tests/warm"), ENVIRONMENT["PATH"]])}
    if forkserver.ADDRESS not in found:
        rules = folder / "workflow/rules/teacher.smk"
        thin = not rules.exists() or "tests/support/thin.py" in rules.read_text()
        found[forkserver.ADDRESS] = _server(() if thin else forkserver.LIBRARIES)
    return found


@functools.cache
def _server(libraries: tuple[str, ...]) -> str:
    """The address of a fork server; a fork of a large process takes its time, so thin jobs have one without torch."""
    forkserver.start((*ENGINES, *libraries))
    # Other tests of this session start their programs as users do.
    return os.environ.pop(forkserver.ADDRESS, "")


def sh(command: str, folder: Path, check: bool = True) -> str:
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment(folder),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout[-6000:]}"
    return done.stdout


def new(folder: Path) -> Path:
    """A repository with the working tree of this one (committed or not) and the tiny parameters, nothing made."""
    folder.mkdir(parents=True)
    sh(f"git ls-files -coz --exclude-standard | xargs -0 cp -a --parents -t '{folder}'", ROOT)
    (folder / "params.yaml").write_text((ROOT / "tests/tiny.yaml").read_text())
    sh("git init -q -b main && git add -A && git commit -q -m start", folder)
    return with_environments(folder)


LISTED = """scientific_name,kingdom,common_name,deutsch,finest_rank,note
Davara nocata,Thopozoa,,Dunkle Davara,genus,Davara is told apart by dissection only
Mameris alba,,White bream,,,
Studipheva lutea,,,,,
"""  # beside the ten species that the tiny sample has photographs of


def with_list(folder: Path) -> Path:
    """Let a new checkout name three species that nobody has photographed, beside those of its source."""
    (folder / "data/lists/three.csv").write_text(LISTED, encoding="utf-8")
    set_parameter(folder, "index.species_list", "three.csv")
    set_parameter(folder, "index.unlisted", "keep")
    sh("git add -A && git commit -q -m list", folder)
    return folder


def clone(origin: Path, folder: Path, pull: bool = True, link: str | None = None) -> Path:
    """A git clone with its artifacts pulled; ``link``: DVC's cache.type in it."""
    sh(f"git clone -q '{origin}' '{folder}'", origin)
    if link:
        sh(f"dvc config --local cache.type {link}", folder)
    if pull:
        sh("dvc pull -q", folder)
    return with_environments(folder)


def with_environments(folder: Path) -> Path:
    """Link the environments that `make setup` made, so that a checkout does not make its own."""
    for name in (".venv-convert", "packages/react-bio-clip/node_modules", "packages/react-bio-clip/dist"):
        assert (ROOT / name).exists(), f"{name} is missing; run: make setup"
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return folder


def snakemake(folder: Path, target: str = "evaluate", options: str = "") -> dict[str, int]:
    """Run, and return how often each rule ran."""
    _, (log,) = _logged(f"snakemake --cores all {options} -- {target}", folder)
    return _jobs(log)


def planned(folder: Path, target: str = "evaluate") -> dict[str, int]:
    """What Snakemake would run."""
    return _jobs(sh(f"snakemake --dry-run -- {target}", folder))


def _logged(command: str, folder: Path) -> tuple[str, list[str]]:
    """What a command prints, and the logs of the runs of Snakemake that it starts, which say more."""
    place = folder / ".snakemake/log"
    before = {*place.glob("*.log")}
    output = sh(command, folder)
    return output, [path.read_text() for path in sorted({*place.glob("*.log")} - before)]


def _jobs(output: str) -> dict[str, int]:
    if "Nothing to be done" in output:
        return {}
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total +\d+$", output, re.M | re.S)
    assert table, output[-3000:]
    return _by_stage({name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table[1], re.M)})


def _by_stage(jobs: dict[str, int]) -> dict[str, int]:
    """The rule that records a stage under the stage's name, without the targets of that name, which do nothing."""
    return {name.removeprefix("record_"): count for name, count in jobs.items() if name not in STAGES}


def repro(folder: Path) -> tuple[list[str], dict[str, int]]:
    """Run `dvc repro`; the stages it ran, and how often Snakemake inside them ran each rule."""
    output, logs = _logged("dvc repro", folder)
    jobs: dict[str, int] = {}
    for log in logs:
        for name, count in _jobs(log).items():
            jobs[name] = jobs.get(name, 0) + count
    return re.findall(r"Running stage '(\w+)'", output), jobs


def changed(folder: Path) -> list[str]:
    """Stages that DVC knows to be out of date by their own dependencies, parameters or outputs."""
    return sorted(json.loads(sh("dvc status --json", folder)))


def ran(folder: Path, command: str) -> dict[str, int]:
    """How often each rule really ran: what is planned before a checkpoint may turn out not to be needed."""
    names = re.findall(r"^local(?:rule|checkpoint) (\w+):$", "".join(_logged(command, folder)[1]), re.M)
    return _by_stage({name: names.count(name) for name in names})


def settled(folder: Path) -> bool:
    """Neither engine has anything to do; what `dvc repro` finds changed is what `dvc status` would say."""
    assert planned(folder) == {}
    assert repro(folder) == ([], {})
    return True


def set_parameter(folder: Path, name: str, value: object) -> None:
    params = yaml_files.read(folder / "params.yaml")
    *path, last = name.split(".")
    place = params
    for step in path:
        place = place.setdefault(step, {})
    place[last] = value
    (folder / "params.yaml").write_text(yaml_files.dump(params))


def from_scratch(folder: Path, place: Path) -> dict[str, str]:
    """The artifacts that the sources, code and parameters of a checkout give where nothing has been made before.

    Tests that arrive at the same state share one run.
    """
    place.mkdir()
    sh(f"git ls-files -z -co --exclude-standard -- . ':!dvc.lock' | xargs -0 cp -a --parents -t '{place}'", folder)
    sh(f"cp -rL data/photographs '{place}/data/' && cd '{place}' && git init -q", folder)
    files = (path for path in sorted(place.rglob("*")) if path.is_file() and ".git" not in path.parts)
    state = hashlib.md5(str([(path.relative_to(place), path.read_bytes()) for path in files]).encode()).hexdigest()
    if state not in _FROM_SCRATCH:
        snakemake(with_environments(place))
        _FROM_SCRATCH[state] = artifacts(place)
    return _FROM_SCRATCH[state]


_FROM_SCRATCH: dict[str, dict[str, str]] = {}


def cache_is_intact(folder: Path) -> bool:
    """Every object in the checkout's DVC cache has the MD5 that its name says."""
    objects = [path for path in (folder / ".dvc/cache/files/md5").glob("??/*") if path.is_file()]
    assert objects
    names = {path: path.parent.name + path.name.removesuffix(".dir") for path in objects}
    return all(hashlib.md5(path.read_bytes()).hexdigest() == name for path, name in names.items())


def artifacts(folder: Path) -> dict[str, str]:
    """MD5 of every file that the stages made, ledgers left out."""
    ignored = {".gitignore", "README.md", ".snakemake_timestamp"}
    files = [path for path in sorted((folder / "data").rglob("*")) if path.is_file() and path.name not in ignored]
    return {
        name: hashlib.md5(path.read_bytes()).hexdigest()
        for path in files
        if not (name := path.relative_to(folder).as_posix()).startswith("data/provenance/")
    }


def start(command: str, folder: Path, **more: str) -> subprocess.Popen[bytes]:
    """A run to be waited for or killed; ``printed`` has what it says."""
    with folder.with_suffix(".printed").open("wb") as output:
        return subprocess.Popen(
            f"exec {command}",
            shell=True,
            cwd=folder,
            env=environment(folder) | more,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def printed(folder: Path) -> str:
    return folder.with_suffix(".printed").read_text()


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything that it started, at once and without a chance to tidy up."""
    folder = os.readlink(f"/proc/{process.pid}/cwd")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while left := [number for number in _processes() if _at_work_in(folder, number)]:  # forks have groups of their own
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.001)


def _processes() -> list[int]:
    """Those that started first come first, so that none sees one that it has started end."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def _at_work_in(folder: str, number: int) -> bool:
    with contextlib.suppress(OSError):  # it has ended
        return os.readlink(f"/proc/{number}/cwd") == folder
    return False
