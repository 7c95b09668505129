"""What anyone has made before is fetched, in both engines, and only if it is the same. On the thinned pipeline."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from support import checkout
from support.checkout import artifacts, ran, repro, set_parameter, settled, sh, snakemake

pytestmark = pytest.mark.pipeline

ENGINES = ["snakemake --cores all evaluate", "dvc repro"]


@pytest.fixture(scope="module")
def shared(thin_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout like ``thin_built`` with a remote of its own, to which it has pushed."""
    folder = checkout.clone(thin_built, tmp_path_factory.mktemp("shared") / "built")
    sh(f"dvc remote add -q -d -f colleagues '{folder.parent / 'remote'}' && git commit -q -a -m remote", folder)
    push(folder)
    return folder


@pytest.fixture
def colleague(shared: Path, tmp_path: Path) -> Path:
    """Somebody who has made and pushed other results, and has not committed them to git."""
    folder = checkout.clone(shared, tmp_path / "colleague")
    set_parameter(folder, "prune.budget.macs", 0.8)
    snakemake(folder)
    push(folder)
    return folder


def push(folder: Path) -> None:
    sh("python -m bioclip_lite push", folder)


def remote(folder: Path) -> Path:
    return Path(sh("dvc config remote.colleagues.url", folder).strip())


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_colleague_has_made_is_not_made_again(
    shared: Path, colleague: Path, tmp_path: Path, engine: str
) -> None:
    folder = checkout.clone(shared, tmp_path / "clone")
    set_parameter(folder, "prune.budget.macs", 0.8)
    assert checkout.planned(folder) != {}  # a dry run fetches nothing
    assert artifacts(folder) == artifacts(shared)
    assert ran(folder, engine) == {}
    assert artifacts(folder) == artifacts(colleague) != artifacts(shared)
    assert settled(folder)
    assert checkout.cache_is_intact(folder)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_clone_needs_no_pull(shared: Path, tmp_path: Path, engine: str) -> None:
    folder = checkout.clone(shared, tmp_path / "clone", pull=False)
    sh("dvc pull -q data/photographs", folder)
    assert ran(folder, engine) == {}
    assert artifacts(folder) == artifacts(shared)
    assert settled(folder)


def test_the_way_back_needs_no_remote(shared: Path, tmp_path: Path) -> None:
    folder = checkout.clone(shared, tmp_path / "clone")
    assert snakemake(folder) == {}
    sh("dvc remote remove colleagues", folder)
    set_parameter(folder, "prune.budget.macs", 0.8)
    snakemake(folder)
    other = artifacts(folder)
    set_parameter(folder, "prune.budget.macs", 0.7)
    assert snakemake(folder) == {}
    assert artifacts(folder) == artifacts(shared)
    set_parameter(folder, "prune.budget.macs", 0.8)
    assert repro(folder)[1] == {}
    assert artifacts(folder) == other
    assert settled(folder)


def test_what_is_not_the_same_is_made(shared: Path, colleague: Path, tmp_path: Path) -> None:
    folder = checkout.clone(shared, tmp_path / "clone")
    set_parameter(folder, "prune.budget.macs", 0.8)
    module = folder / "workflow/bioclip_lite/stages/quantize.py"
    module.write_text(f"# a comment\n{module.read_text()}\n_EDITED = True\n")
    jobs = ran(folder, ENGINES[0])
    assert "prune_student" not in jobs  # fetched
    assert jobs["quantize_student"] == jobs["convert_student"] == 1 and jobs["predict"] == 4
    assert artifacts(folder) == checkout.from_scratch(folder, tmp_path / "scratch")
    assert settled(folder)


def test_forced_jobs_are_made(shared: Path, colleague: Path, tmp_path: Path) -> None:
    folder = checkout.clone(shared, tmp_path / "clone")
    set_parameter(folder, "prune.budget.macs", 0.8)
    assert ran(folder, "snakemake --cores all --forcerun prune_student -- prune") == {"prune_student": 1, "prune": 1}


def test_a_target_fetches_no_more_than_it_needs(shared: Path, colleague: Path, tmp_path: Path) -> None:
    folder = checkout.clone(shared, tmp_path / "clone")
    before = artifacts(folder)
    set_parameter(folder, "prune.budget.macs", 0.8)
    assert ran(folder, "snakemake --cores all prune") == {}
    after = artifacts(folder)
    assert {name.split("/")[1] for name in before if before[name] != after[name]} == {"prune"}


def test_results_that_are_lost_or_damaged_are_made(shared: Path, colleague: Path, tmp_path: Path) -> None:
    good = artifacts(colleague)
    lost, damaged = (
        name for name in sorted(good) if name.startswith("data/prune/model/m") or "quantize/model/g" in name
    )
    objects = {name: remote(colleague) / "files/md5" / good[name][:2] / good[name][2:] for name in (lost, damaged)}
    objects[lost].unlink()
    objects[damaged].chmod(0o644)
    objects[damaged].write_bytes(b"garbage")
    folder = checkout.clone(shared, tmp_path / "clone")
    set_parameter(folder, "prune.budget.macs", 0.8)
    jobs = ran(folder, ENGINES[0])
    assert jobs["prune_student"] == jobs["quantize_student"] == 1
    assert artifacts(folder) == good
    assert settled(folder)


def test_an_entry_for_something_else_is_not_believed(shared: Path, tmp_path: Path) -> None:
    folder = checkout.clone(shared, tmp_path / "clone")
    own = tmp_path / "remote"
    shutil.copytree(remote(folder), own)
    sh(f"dvc remote modify colleagues url '{own}'", folder)
    other = hashlib.md5((folder / "data/provenance/caption.json").read_bytes()).hexdigest()
    set_parameter(folder, "prune.budget.macs", 0.9)
    snakemake(folder, "prune")
    made = hashlib.md5((folder / "data/provenance/prune.json").read_bytes()).hexdigest()
    ledgers = json.loads((folder / ".snakemake/bioclip_lite/stage_keys.json").read_text())
    key = next(key for key, ledger in ledgers.items() if ledger == made)
    good = artifacts(folder)
    (folder / ".snakemake/bioclip_lite/stage_keys.json").unlink()
    for place in (own / "run_cache", folder / ".dvc/cache/run_cache"):
        entry = place / key[:2] / key[2:]
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.write_text(other)
    sh("git checkout -q params.yaml dvc.lock && dvc checkout -q", folder)
    set_parameter(folder, "prune.budget.macs", 0.9)
    assert ran(folder, "snakemake --cores all prune") == {"prune_student": 1, "prune": 1}
    assert artifacts(folder) == good


def test_a_remote_that_cannot_be_reached_stops_nobody(shared: Path, tmp_path: Path) -> None:
    folder = checkout.clone(shared, tmp_path / "clone")
    sh("dvc remote modify colleagues url ssh://127.0.0.1:1/nowhere", folder)
    set_parameter(folder, "evaluate.examples", 5)
    output = sh(ENGINES[0], folder)
    assert "the DVC remote cannot be asked for earlier results" in output and "Traceback" not in output
    assert settled(folder)
