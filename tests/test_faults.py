"""Kills, full disks, read-only folders, two runs at once and wrong clocks: nothing lost, nothing wrong, a clear word.

On the thinned pipeline. What is killed is killed with everything it started and without a chance to tidy up.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from voluptuous import Invalid

from bioclip_lite.utils.stage_names import STAGES
from support import checkout
from support.checkout import artifacts, ran, set_parameter, settled, sh, snakemake

pytestmark = pytest.mark.pipeline

KILLS = 8  # for each engine
LAST = 1000
UNPRIVILEGED = f"{checkout.COLD} setpriv --bounding-set=-dac_override,-dac_read_search,-fowner"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, or act as another user")


@pytest.mark.parametrize("engine", ["snakemake --cores all evaluate", "dvc repro"])
def test_a_run_killed_again_and_again_ends_as_if_undisturbed(thin_built: Path, tmp_path: Path, engine: str) -> None:
    chance = random.Random(engine)
    undisturbed = artifacts(thin_built)
    folder = checkout.clone(thin_built, tmp_path / "clone", pull=False)
    sh("dvc pull -q data/photographs && dvc remote remove colleagues", folder)
    kills, places = 0, set()
    while kills < KILLS:
        forget_everything(folder)
        while not run_or_kill(engine, folder, chance):
            kills += 1
            places.add(sum(any((folder / "data" / stage).glob("*")) for stage in STAGES))
            tidy_up(folder)
        assert artifacts(folder) == undisturbed
        assert settled(folder)
        assert checkout.cache_is_intact(folder)
    assert len(places) >= 3  # so many stages had begun when it happened: the moments are spread over the run


def forget_everything(folder: Path) -> None:
    outputs = [f"data/{stage}" for stage in STAGES]
    for name in [*outputs, "data/provenance", ".snakemake", ".dvc/cache/run_cache", "logs"]:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "dvc.lock").unlink(missing_ok=True)


def tidy_up(folder: Path) -> None:
    """What README.md says to do after a kill: DVC writes both files in place, and may have been killed meanwhile."""
    for lock in (folder / ".snakemake/locks").glob("*"):  # what `snakemake --unlock` does, in no time
        lock.unlink()
    remove_broken(folder / ".dvc/tmp/rwlock", json.loads)
    remove_broken(folder / "dvc.lock", lambda text: COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(text)))


def remove_broken(path: Path, parse: Callable[[str], object]) -> None:
    with contextlib.suppress(FileNotFoundError):
        try:
            parse(path.read_text())
        except (ValueError, yaml.YAMLError, Invalid):
            path.unlink()


def run_or_kill(engine: str, folder: Path, chance: random.Random) -> bool:
    """Run; kill while the job that starts as the n-th is at work, or a moment after. Finished?

    n may be 0, before the first job; with Snakemake also the last one's, since dvc.lock is written after that.
    """
    last = [LAST, LAST] if engine.startswith("snakemake") else []
    jobs, moment = chance.choice([0, 1, 2, 4, 8, 12, 16, 20, *last]), chance.uniform(0, 0.6)
    process = checkout.start(engine, folder, THIN_JOB_SECONDS="0.1")  # or most kills would hit the same moments
    began = log_times(folder)
    while process.poll() is None:
        news = [path for path, ns in log_times(folder).items() if began.get(path) != ns]
        if len(news) >= jobs or folder / "logs/evaluate/ledger.log" in news:
            time.sleep(moment if 0 < jobs < LAST else 5 * moment)
            if process.poll() is None:
                checkout.kill(process)
                return False
        time.sleep(0.02)
    assert process.returncode == 0, checkout.printed(folder)[-6000:]
    return True


def log_times(folder: Path) -> dict[Path, int]:
    """When each job's log was last written; Snakemake removes a log before its job begins anew, at any moment."""
    times = {}
    for path in folder.glob("logs/*/*"):
        with contextlib.suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime_ns
    return times


# --------------------------------------------------------------------------------------------------------- the machine


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_is_named_and_nothing_is_lost(thin_built: Path, small_disk: Path) -> None:
    folder = checkout.clone(thin_built, small_disk / "clone")
    assert settled(folder)
    before = artifacts(folder)
    set_parameter(folder, "index.seed", 1)
    set_parameter(folder, "caption.lit_columns", ["species"])
    filler = small_disk / "filler"
    sh(f"cat /dev/zero > {filler}", folder, check=False)
    output = sh("snakemake --cores 1 -- caption", folder, check=False)
    assert "No space left on device" in output and "Nothing to be done" not in output
    filler.unlink()
    for lock in (folder / ".snakemake/locks").glob("*"):
        lock.unlink()
    snakemake(folder)
    assert settled(folder)
    assert checkout.cache_is_intact(folder)
    sh("git checkout -q params.yaml dvc.lock && dvc checkout -q", folder)
    assert settled(folder) and artifacts(folder) == before


@needs_root
def test_results_in_a_read_only_folder_are_used_and_not_touched(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "clone")
    assert settled(folder)
    before = artifacts(folder)
    sh("chmod -R a-w data", folder)
    assert "Nothing to be done" in sh(f"{UNPRIVILEGED} snakemake --cores all evaluate", folder)
    set_parameter(folder, "prune.budget.macs", 0.8)
    output = sh(f"{UNPRIVILEGED} snakemake --cores all prune", folder, check=False)
    assert "Write-protected output files" in output and "Nothing to be done" not in output
    sh("chmod -R u+w data", folder)
    sh("git checkout -q params.yaml", folder)
    assert artifacts(folder) == before
    assert settled(folder)


def test_a_second_run_in_the_same_folder_is_refused(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "clone")
    set_parameter(folder, "evaluate.examples", 5)
    # One long job: Snakemake takes an output that a job removes while it looks for "write-protected".
    first = checkout.start("snakemake --cores 1 -- evaluate", folder, THIN_JOB_SECONDS="15")
    while not list((folder / ".snakemake/locks").glob("*.lock")):
        time.sleep(0.02)
    second = sh("snakemake --cores 1 -- evaluate", folder, check=False)
    assert "Directory cannot be locked" in second and "Traceback" not in second
    assert first.wait() == 0, checkout.printed(folder)[-6000:]
    assert settled(folder)
    assert artifacts(folder) == checkout.from_scratch(folder, tmp_path / "scratch")


def test_a_clock_set_back_hides_nothing(thin_built: Path, tmp_path: Path) -> None:
    """Everything here was made tomorrow, and is good; what is made now would be older than what it is made from."""
    folder = checkout.clone(thin_built, tmp_path / "clone")
    tomorrow = time.time() + 86400
    set_times(folder, tomorrow)
    assert settled(folder)
    for number, engine in enumerate(["snakemake --cores all evaluate", "dvc repro"]):
        set_parameter(folder, "logits.views", 3 + number)
        output = sh(engine, folder, check=False)
        assert "older modification time" in output and "clock skew" in output
        assert checkout.cache_is_intact(folder)
        set_times(folder, time.time())  # the clock is right again
        assert ran(folder, engine)["embed_shard"] == 7
        assert settled(folder)
        set_times(folder, tomorrow)
    set_times(folder, time.time())
    assert artifacts(folder) == checkout.from_scratch(folder, tmp_path / "scratch")


def set_times(folder: Path, seconds: float) -> None:
    tracked = [folder / name for name in sh("git ls-files", folder).split()]
    for path in [*tracked, *(path for path in (folder / "data").rglob("*") if path.is_file())]:
        os.utime(path, (seconds, seconds))
