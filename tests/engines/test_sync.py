"""Snakemake and DVC agree, whatever people do to a checkout. Each test works in a clone of its own.

On the thinned pipeline (tests/support/thin.py): the real rules and engines, jobs of milliseconds whose outputs are
digests of all they read. tests/test_pipeline.py has the real jobs.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bioclip_lite.engines import snakemake_records, stage_code
from bioclip_lite.engines.dvc_yaml import dvc_stages
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.sync import sync
from bioclip_lite.utils import yaml_files
from bioclip_lite.utils.stage_names import STAGES
from support import checkout
from support.checkout import (
    artifacts,
    changed,
    from_scratch,
    planned,
    ran,
    repro,
    set_parameter,
    settled,
    sh,
    snakemake,
)
from support.photographs import encoded, picture

pytestmark = pytest.mark.pipeline

EVALUATE = {"predict": 9, "write_report": 1, "evaluate": 1}
# What a change of stage prune makes run, and nothing else.
AFTER_PRUNE = {
    "prune_student": 1,
    "prune": 1,
    "quantize_student": 1,
    "quantize": 1,
    "convert_student": 1,
    "convert": 1,
    "predict": 4,  # pruned, int8, tfjs, table
    "write_report": 1,
    "evaluate": 1,
}
# What new teacher embeddings of every shard make run besides those.
AFTER_TRAINING = AFTER_PRUNE | {"train_student": 1, "train_control": 1, "distill": 1, "predict": 9}


def first_stage(jobs: dict[str, int]) -> str | None:
    """The earliest stage whose ledger is written again."""
    return next((stage for stage in STAGES if stage in jobs), None)


@pytest.fixture(scope="module")
def edited(thin_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone for tests that edit a file, ask what would run, and put the file back."""
    return checkout.clone(thin_built, tmp_path_factory.mktemp("edited") / "clone")


@pytest.fixture
def pulled(thin_built: Path, tmp_path: Path) -> Path:
    return checkout.clone(thin_built, tmp_path / "pulled")


@pytest.fixture
def twins(thin_built: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two clones: one for Snakemake, one for DVC."""
    return checkout.clone(thin_built, tmp_path / "snakemake"), checkout.clone(thin_built, tmp_path / "dvc")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# --------------------------------------------------------------------------------------------------------- fresh clones


@pytest.mark.parametrize("link", [None, "symlink"])
@pytest.mark.parametrize("first", [snakemake, repro])
def test_a_clone_after_pull_runs_nothing(thin_built: Path, tmp_path: Path, first: Callable, link: str | None) -> None:
    folder = checkout.clone(thin_built, tmp_path / "clone", link=link)
    assert (folder / "data/distill/model/student.json").is_symlink() == (link == "symlink")
    assert first(folder) in ({}, ([], {}))
    assert settled(folder)
    assert checkout.cache_is_intact(folder)


def test_many_shards_make_a_small_graph(thin_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake's time grows with jobs times inputs; its ledger says all the same which modules made what."""
    monkeypatch.chdir(thin_built)
    for stage, rule in {"shard": "write_shard", "caption": "write_captions", "logits": "embed_shard"}.items():
        ledger = ledger_of(thin_built, stage)
        jobs = [job for out, job in ledger["jobs"].items() if re.search(r"-\d{5}\.\w+$", out)]
        assert {ledger["definitions"][job["definition"]]["rule"] for job in jobs} == {rule}
        assert len({Path(out).stem for out in ledger["jobs"] if re.search(r"-\d{5}\.\w+$", out)}) == 7
        assert max(len(job["in"]) for job in jobs) <= 7
        assert {stage_code.of_jobs(stage)} <= set.intersection(*(set(job["in"]) for job in jobs))
        assert list(ledger["modules"][stage_code.of_jobs(stage)]) == stage_code.code(stage)


def test_a_graph_with_nothing_to_do_is_made_once(pulled: Path) -> None:
    """Where the manifests stay, jobs of shards do not wait for them; waiting would make each of them twice."""
    twice = "Updating checkpoint dependencies"
    assert twice not in sh("snakemake --dry-run -- evaluate", pulled)
    shutil.copy2(pulled / "data/photographs/train/alba3.jpg", pulled / "data/photographs/train/alba4.jpg")
    assert planned(pulled)["list_shards"] == 1  # the jobs that wait for it are known once it has run
    sh("git checkout -q . && dvc checkout -q", pulled)
    assert planned(pulled) == {}
    assert "list_shards" in sh("snakemake --dry-run --forcerun list_shards -- evaluate", pulled)
    for rule, count in ("write_captions", 7), ("write_report", 1):  # the second is a target of its own
        forced = sh(f"snakemake --dry-run --forcerun {rule} -- evaluate", pulled)
        assert re.search(rf"^{rule} +{count}$", forced, re.M) and "write_shard" not in forced


def ledger_of(folder: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"data/provenance/{stage}.json").read_text())
    return found


def test_ledgers_of_an_earlier_version_count_where_the_code_is_the_same(
    pulled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In these, and in Snakemake's records, each job lists its modules in place of one fingerprint."""
    assert planned(pulled) == {}
    monkeypatch.chdir(pulled)
    for stage in STAGES:
        ledger = ledger_of(pulled, stage)
        modules = ledger.pop("modules")
        for out, job in ledger["jobs"].items():
            (fingerprint,) = job["in"].keys() & modules.keys()
            del job["in"][fingerprint], job["sha256"][fingerprint]
            job["in"] |= modules[fingerprint]
            snakemake_records.write(out, snakemake_records.read(out) | {"input": sorted(job["in"])})
        (pulled / f"data/provenance/{stage}.json").write_text(json.dumps(ledger))
    for path in Path(stage_code.JOBS).iterdir():
        path.unlink()
    sh("dvc commit -q -f", pulled)
    assert settled(pulled), "a workspace with its records"
    shutil.rmtree(pulled / ".snakemake")
    assert settled(pulled), "a clone"
    path = pulled / "data/provenance/logits.json"
    made_from = ledger_of(pulled, "logits")["jobs"]["data/logits/train-00000.safetensors"]["in"]
    path.write_text(path.read_text().replace(made_from["workflow/bioclip_lite/teacher_cache/store.py"], 32 * "0"))
    assert planned(pulled)["embed_shard"] == 7


def test_a_start_reads_new_files_together(pulled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a clone, whose artifacts nobody has hashed here, several at a time and with progress."""
    together: list[list[str]] = []
    read = Hashes._read

    def noted(self: Hashes, paths: Iterable[str]) -> None:
        together.append(list(paths))
        read(self, together[-1])

    shutil.rmtree(pulled / ".dvc/tmp")
    shutil.rmtree(pulled / ".dvc/cache")
    monkeypatch.chdir(pulled)
    monkeypatch.setattr(Hashes, "_read", noted)
    sync()
    dvc_stages.cache_clear()  # of this folder
    alone = [path for (path, *more) in together if not more]
    assert len(together[0]) > 100 and all(map(stage_code.is_of_jobs, alone))


def test_touching_every_file_runs_nothing(pulled: Path) -> None:
    tracked = sh("git ls-files", pulled).split()
    files = [*(pulled / name for name in tracked), *(path for path in (pulled / "data").rglob("*") if path.is_file())]
    random.Random(1).shuffle(files)
    for path in files:
        os.utime(path)
    assert snakemake(pulled) == {}
    assert repro(pulled) == ([], {})


def test_a_part_of_the_artifacts_is_enough_for_what_reads_it(thin_built: Path, tmp_path: Path) -> None:
    jobs = {"quantize_student": 1, "quantize": 1}
    for engine in ("snakemake --cores all quantize", "dvc repro --allow-missing quantize"):
        folder = checkout.clone(thin_built, tmp_path / engine.split()[0], pull=False)
        # As `dvc pull` of these three and of the ledgers leaves it; DVC reads dvc.lock twice for each name it is given.
        sh("dvc pull -q && rm -r .dvc/cache", folder)
        for name in {"photographs", *STAGES} - {"shard", "prune", "quantize"}:
            shutil.rmtree(folder / "data" / name)
        assert planned(folder, "quantize") == {}
        assert ran(folder, "dvc repro --allow-missing quantize") == {}
        set_parameter(folder, "quantize.images", 3)
        assert ran(folder, engine) == jobs
        assert ran(folder, "dvc repro --allow-missing quantize") == planned(folder, "quantize") == {}
        assert not (folder / "data/teacher").exists() and not (folder / "data/logits").exists()


@pytest.mark.parametrize(
    ("name", "path"),
    [("web-model", "data/convert/tfjs"), ("student-int8", "data/quantize/model"), ("teacher-cache", "data/logits")],
)
def test_an_artifact_is_fetched_by_its_name(thin_built: Path, tmp_path: Path, name: str, path: str) -> None:
    origin = checkout.clone(thin_built, tmp_path / "origin", pull=False)
    sh(f"git tag -a {name}@v1.0.0 -m first", origin)
    sh(f"dvc artifacts get '{origin}' {name} -o artifact", tmp_path)
    files = {file.relative_to(thin_built / path) for file in (thin_built / path).rglob("*") if file.is_file()}
    files = {file for file in files if file.name != ".snakemake_timestamp"}
    assert files and {file.relative_to(tmp_path / "artifact") for file in (tmp_path / "artifact").rglob("*.*")} == files
    for file in files:
        assert (tmp_path / "artifact" / file).read_bytes() == (thin_built / path / file).read_bytes()


def test_the_entry_for_the_workflow_catalog_runs_the_same_graph(pulled: Path) -> None:
    for options in ("evaluate", "", "all"):
        assert checkout._jobs(sh(f"snakemake --dry-run --snakefile workflow/Snakefile -- {options}", pulled)) == {}
    set_parameter(pulled, "evaluate.examples", 5)
    jobs = snakemake(pulled, "default", "--snakefile workflow/Snakefile")
    assert jobs == {"write_report": 1, "evaluate": 1, "default": 1}
    assert settled(pulled)


def test_the_linter_of_snakemake_has_no_remarks(pulled: Path) -> None:
    assert "Congratulations" in sh("snakemake --lint", pulled)


# -------------------------------------------------------------------------------------------------- parameters and code


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("index.seed", 1),
        ("shard.counts.train", 3),
        ("caption.lit_columns", ["species"]),
        ("teacher.pretrained.model", "ViT-B-32"),
        ("logits.views", 3),
        ("distill.cosine", 0.5),
        ("prune.budget.macs", 0.6),
        ("quantize.images", 3),
        ("convert.images", 3),
        ("convert.tflite", True),
        ("convert.text_encoder", "teacher"),
        ("evaluate.examples", 5),
    ],
)
def test_a_parameter_changes_the_same_stage_in_both(edited: Path, name: str, value: object) -> None:
    text = (edited / "params.yaml").read_text()
    try:
        set_parameter(edited, name, value)
        stage = name.split(".")[0]
        assert first_stage(planned(edited)) == stage
        assert changed(edited) == [stage]
    finally:
        (edited / "params.yaml").write_text(text)
    assert planned(edited) == {}


def test_a_changed_default_changes_the_same_stage_in_both(edited: Path) -> None:
    schema, generate = edited / "workflow/schemas/params.schema.yaml", "python -m bioclip_lite.params.reference"
    text = schema.read_text()
    before, after = text.split("      round_to:\n")
    try:
        schema.write_text(before + "      round_to:\n" + after.replace("default: 8", "default: 4", 1))
        dry_run = f"PYTHONPATH=workflow {checkout.COLD} snakemake --dry-run -- evaluate"  # this checkout's schema
        assert "section prune differs from the defaults" in sh(dry_run, edited, check=False)
        sh(f"PYTHONPATH=workflow {generate}", edited)
        assert first_stage(checkout._jobs(sh(dry_run, edited))) == "prune"
        assert changed(edited) == ["prune"]
        set_parameter(edited, "prune.round_to", 8)  # as it was made, whatever the default
        assert checkout._jobs(sh(dry_run, edited)) == {}
    finally:
        sh("git checkout -q params.yaml workflow docs", edited)
    assert planned(edited) == {}
    assert changed(edited) == []


def test_a_default_that_params_yaml_repeats_runs_no_job(edited: Path) -> None:
    set_parameter(edited, "prune.round_to", 8)
    try:
        assert planned(edited) == {}
        assert changed(edited) == ["prune"]  # it compares the files one by one, and starts Snakemake for nothing
        assert repro(edited) == (["prune"], {})
        assert changed(edited) == []
    finally:
        sh("git checkout -q params.yaml", edited)
        repro(edited)


def test_a_parameter_runs_the_same_jobs_in_both(twins: tuple[Path, Path], tmp_path: Path) -> None:
    ours, theirs = twins
    before = artifacts(ours)
    for folder in twins:
        set_parameter(folder, "prune.budget.macs", 0.8)
    assert snakemake(ours) == AFTER_PRUNE
    assert repro(theirs) == (["prune", "quantize", "convert", "evaluate"], AFTER_PRUNE)
    assert artifacts(ours) == artifacts(theirs) == from_scratch(ours, tmp_path / "scratch") != before
    assert settled(ours) and settled(theirs)


def test_times_that_look_right_hide_no_parameter(pulled: Path) -> None:
    """A pull may leave times in the order of the graph; then DVC must not put new parameters beside old outputs."""
    for number, stage in enumerate(["photographs", *STAGES, "provenance"]):
        for path in (pulled / "data" / stage).rglob("*"):
            os.utime(path, (1.7e9 + number, 1.7e9 + number))
    set_parameter(pulled, "prune.budget.macs", 0.8)
    assert repro(pulled) == (["prune", "quantize", "convert", "evaluate"], AFTER_PRUNE)
    assert settled(pulled)


def test_a_module_runs_the_stages_that_import_it(twins: tuple[Path, Path]) -> None:
    ours, theirs = twins
    for folder in twins:
        path = folder / "workflow/bioclip_lite/stages/quantize.py"
        path.write_text(f"# a comment\n{path.read_text()}\n# another\n")
        assert planned(folder) == {}
        path.write_text(f"{path.read_text()}\n_EDITED = True\n")
        assert changed(folder) == ["code"]  # DVC does not know yet which stages run it
    jobs = snakemake(ours)
    assert first_stage(jobs) == "quantize" and "prune_student" not in jobs
    stages, same_jobs = repro(theirs)
    assert stages[:2] == ["code", "quantize"] and same_jobs == jobs
    assert artifacts(ours) == artifacts(theirs)
    assert settled(ours) and settled(theirs)


def test_every_module_runs_exactly_the_stages_that_import_it(edited: Path) -> None:
    package = edited / "workflow/bioclip_lite"
    for name, first in (
        ("taxa/taxonomy.py", "index"),
        ("teacher_cache/store.py", "teacher"),
        ("compression/grid.py", "quantize"),
        ("report/plots.py", "evaluate"),
    ):
        path = package / name
        original = path.read_bytes()
        try:
            path.write_bytes(original + b"\n_EDITED = True\n")
            jobs = planned(edited)
            assert first_stage(jobs) == first, name
            # DVC names every stage whose own dependencies changed; Snakemake runs the first and all after it.
            recoded = [stage for stage in STAGES if f"workflow/bioclip_lite/{name}" in stage_code.files(stage)]
            assert changed(edited) == sorted(["code", *recoded]) and recoded[0] == first
        finally:
            path.write_bytes(original)
    assert planned(edited) == {} and changed(edited) == []


def test_an_edit_runs_stage_code_and_the_stages_whose_code_it_is(pulled: Path) -> None:
    path = pulled / "workflow/bioclip_lite/compression/grid.py"
    path.write_text(f"{path.read_text()}\n_EDITED = True\n")
    stages, jobs = repro(pulled)
    assert stages == ["code", "quantize", "convert", "evaluate"]
    assert jobs.keys() == AFTER_PRUNE.keys() - {"prune_student", "prune"}
    assert settled(pulled)
    path.write_text(f"# a comment\n{path.read_text()}")
    assert snakemake(pulled) == {}
    assert changed(pulled) == ["code"]
    assert repro(pulled) == (["code"], {})
    assert settled(pulled)


def test_stages_whose_jobs_do_not_run_edited_code_are_recorded_with_those_that_do(pulled: Path) -> None:
    path = pulled / "workflow/bioclip_lite/photographs/views.py"  # captioners, of which there are none, import it
    path.write_text(f"{path.read_text()}\n_EDITED = True\n")
    jobs = snakemake(pulled)
    assert jobs["embed_shard"] == 7 and "write_captions" not in jobs
    assert settled(pulled)


def test_code_edited_after_a_run_has_begun_is_not_locked(pulled: Path) -> None:
    """A partial run reads no more of it, so the run succeeds; DVC must still see the edit."""
    set_parameter(pulled, "prune.budget.macs", 0.8)
    replace(pulled / "workflow/rules/prune.smk", '"python -SE', '"sleep 1; python -SE')
    running = checkout.start("snakemake --cores 1 -- prune", pulled)
    while not (pulled / "logs/prune/prune.log").exists():
        assert running.poll() is None, checkout.printed(pulled)[-6000:]
        time.sleep(0.02)
    module = pulled / "workflow/bioclip_lite/report/plots.py"
    module.write_text(f"{module.read_text()}\n_EDITED = True\n")
    assert running.wait() == 0
    assert "code" in changed(pulled)
    stages, jobs = repro(pulled)
    assert stages == ["code", "quantize", "convert", "evaluate"] and jobs["write_report"] == 1
    assert settled(pulled)


def test_a_missing_module_leaves_all_fingerprints_as_they_are(pulled: Path) -> None:
    before = fingerprints(pulled)
    replace(pulled / "workflow/bioclip_lite/engines/stage_code.py", '("web.tfjs",)', '("web.tjfs",)')
    (pulled / "workflow/bioclip_lite/stages/index.py").write_text("EDITED = True\n")
    assert "has no module web.tjfs; is a name misspelt?" in sh("! dvc repro", pulled)
    assert fingerprints(pulled) == before


def test_a_misspelt_stage_in_a_rule_is_an_error(pulled: Path) -> None:
    replace(pulled / "workflow/rules/prune.smk", 'code("prune")', 'code("pruen")')
    assert "has no module stages.pruen; is a name misspelt?" in sh("! snakemake --dry-run evaluate", pulled)


def fingerprints(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "workflow/code").iterdir()}


def test_a_rule_runs_its_jobs_in_both(twins: tuple[Path, Path]) -> None:
    ours, theirs = twins
    for folder in twins:
        replace(folder / "workflow/rules/prune.smk", "python -SE", "python -S -E")
    assert snakemake(ours) == AFTER_PRUNE
    stages, jobs = repro(theirs)
    assert stages[:2] == ["code", "prune"] and jobs.keys() <= AFTER_PRUNE.keys() and jobs["prune_student"] == 1
    assert artifacts(ours) == artifacts(theirs)
    assert settled(ours) and settled(theirs)


def test_a_comment_in_a_rule_runs_no_job(pulled: Path) -> None:
    path = pulled / "workflow/rules/prune.smk"
    path.write_text("# a comment\n" + path.read_text())
    assert snakemake(pulled) == {}
    assert repro(pulled) == (["code"], {})
    assert settled(pulled)


# --------------------------------------------------------------------------------------------------------------- inputs


def set_photograph(folder: Path, name: str, *content: object, unlink: bool = False) -> None:
    """Add, change or (without content) remove a photograph of the source and its line of metadata.csv."""
    place = folder / "data/photographs"
    table = place / "metadata.csv"
    lines = [line for line in table.read_text().splitlines() if not line.startswith(f"{name},")]
    (place / name).unlink(missing_ok=True)
    if content:
        (place / name).write_bytes(encoded(picture(*content)))
        like = next(line for line in lines if line.startswith("train/alba"))
        lines.append(f"{name},{like.partition(',')[2]}")
    head, *rows = lines
    table.unlink()
    table.write_text("\n".join([head, *sorted(rows)]) + "\n")


ONE_SHARD = {
    **{"make_index": 1, "index": 1, "list_shards": 1, "write_shard": 1, "write_sizes": 1, "shard": 1},
    **{"write_captions": 1, "caption": 1, "embed_shard": 1, "embed_taxa": 1, "logits": 1},
    **AFTER_TRAINING,
}


@pytest.mark.parametrize(("content", "link"), [(("new",), "copy"), ((), "symlink")])
def test_a_photograph_more_or_less_touches_one_shard(
    thin_built: Path, tmp_path: Path, content: tuple[str, ...], link: str
) -> None:
    ours, theirs = (checkout.clone(thin_built, tmp_path / name, link=link) for name in ("snakemake", "dvc"))
    for folder in (ours, theirs):
        set_photograph(folder, "train/alba99.jpg" if content else "train/alba5.jpg", *content)
        sh("dvc add -q data/photographs", folder)
    assert ran(ours, "snakemake --cores all evaluate") == ONE_SHARD
    assert ran(theirs, "dvc repro") == ONE_SHARD
    assert artifacts(ours) == artifacts(theirs) == from_scratch(ours, tmp_path / "scratch")
    assert settled(ours) and settled(theirs)
    assert checkout.cache_is_intact(ours) and checkout.cache_is_intact(theirs)


def test_shards_more_or_less_touch_those_that_give_or_take(twins: tuple[Path, Path], tmp_path: Path) -> None:
    ours, theirs = twins
    for folder in twins:
        set_parameter(folder, "shard.counts.train", 5)
    one_more = ONE_SHARD | {"write_shard": 2, "write_captions": 2, "embed_shard": 2}
    one_more = {rule: count for rule, count in one_more.items() if rule not in ("make_index", "index", "embed_taxa")}
    assert ran(ours, "snakemake --cores all evaluate") == one_more == ran(theirs, "dvc repro")
    assert artifacts(ours) == artifacts(theirs) == from_scratch(ours, tmp_path / "scratch")
    for folder in twins:
        set_parameter(folder, "shard.counts.train", 4)
    one_less = one_more | {"write_shard": 1, "write_captions": 1, "embed_shard": 1}
    assert ran(ours, "snakemake --cores all evaluate") == one_less == ran(theirs, "dvc repro")
    assert (
        not (ours / "data/shard/train-00004.tar").exists()
        and not (ours / "data/logits/train-00004.safetensors").exists()
    )
    assert artifacts(ours) == artifacts(theirs)
    assert settled(ours) and settled(theirs)


# DVC starts Snakemake stage by stage, and that of logits sees that the taxa came out as they were.
OF_THE_SAME_TAXA = {rule: count for rule, count in ONE_SHARD.items() if rule != "embed_taxa"} | {"predict": 6}


@pytest.mark.parametrize(
    ("engine", "jobs"), [("snakemake --cores all evaluate", ONE_SHARD), ("dvc repro", OF_THE_SAME_TAXA)]
)
def test_a_changed_photograph_with_an_older_time_makes_its_shard_again(
    pulled: Path, engine: str, jobs: dict[str, int]
) -> None:
    assert planned(pulled) == {}
    before = artifacts(pulled)
    photograph = pulled / "data/photographs/train/alba3.jpg"
    set_photograph(pulled, "train/alba3.jpg", "another picture")
    os.utime(photograph, (1e9, 1e9))
    sh("dvc add -q data/photographs", pulled)
    assert ran(pulled, engine) == jobs
    new = [Path(name) for name, md5 in artifacts(pulled).items() if before.get(name) != md5]
    of_shards = [path for path in new if path.parts[1] in ("shard", "caption", "logits") and "-" in path.name]
    assert {path.parent.name for path in of_shards} == {"shard", "manifest", "logits"}  # captions come out the same
    assert len({path.stem for path in of_shards}) == 1
    assert settled(pulled)


def test_a_replaced_intermediate_with_an_older_time_is_noticed(pulled: Path) -> None:
    path = pulled / "data/distill/model/student.json"
    path.unlink()
    path.write_text('{"not": "the model"}')
    os.utime(path, (1e9, 1e9))
    assert "train_student" in planned(pulled)
    assert changed(pulled) == ["convert", "distill", "evaluate", "prune"]  # in the order of the alphabet


@pytest.mark.parametrize("engine", ["snakemake --cores all evaluate", "dvc repro"])
def test_a_tampered_output_is_made_again(pulled: Path, engine: str) -> None:
    assert snakemake(pulled) == {}
    original = artifacts(pulled)
    for name in ("caption/val-00000.parquet", "logits/train-00002.safetensors", "convert/tfjs/weights.bin"):
        (pulled / "data" / name).write_bytes(b"garbage")
    jobs = ran(pulled, engine)
    assert (jobs["write_captions"], jobs["embed_shard"], jobs["convert_student"]) == (1, 1, 1)
    assert not {"write_shard", "make_teacher", "make_index"} & set(jobs)
    assert artifacts(pulled) == original
    assert settled(pulled)


@pytest.mark.parametrize("engine", ["snakemake --cores all evaluate", "dvc repro"])
def test_a_deleted_output_comes_back(pulled: Path, engine: str) -> None:
    """It is in the cache; DVC must not take a stage for complete that lacks a file."""
    assert snakemake(pulled) == {}
    original = artifacts(pulled)
    (pulled / "data/prune/model/model.safetensors").unlink()
    assert ran(pulled, engine) == {}
    assert artifacts(pulled) == original
    assert settled(pulled)


def test_nothing_is_trusted_without_provenance(pulled: Path) -> None:
    shutil.rmtree(pulled / "data/provenance")
    set_parameter(pulled, "prune.budget.macs", 0.8)
    jobs = ran(pulled, "dvc repro")
    assert jobs["write_shard"] == jobs["write_captions"] == jobs["embed_shard"] == 7
    assert {"make_index", "make_teacher", "train_student", "prune_student", "write_report"} <= set(jobs)
    assert settled(pulled)


# ------------------------------------------------------------------------------------------------ branches, experiments


def test_a_branch_there_and_back(pulled: Path) -> None:
    assert snakemake(pulled) == {}
    sh("git checkout -q -b other", pulled)
    set_parameter(pulled, "distill.cosine", 0.5)
    snakemake(pulled)
    sh("git commit -q -a -m other", pulled)
    for branch in ("main", "other", "main"):
        sh(f"git checkout -q {branch} && dvc checkout -q", pulled)
        assert snakemake(pulled) == {}
        assert repro(pulled) == ([], {})


def test_a_way_back_to_outputs_that_are_the_same_runs_nothing(pulled: Path) -> None:
    assert snakemake(pulled) == {}
    set_parameter(pulled, "index.seed", 1)  # the photographs state their splits: nothing comes out different
    assert "make_index" in ran(pulled, "snakemake --cores all index")
    sh("git checkout -q params.yaml dvc.lock && dvc checkout -q", pulled)
    assert settled(pulled)


def test_two_changes_at_once_record_every_stage(pulled: Path, tmp_path: Path) -> None:
    """One is made before the manifests are known, the other after."""
    set_photograph(pulled, "train/alba5.jpg")
    sh("dvc add -q data/photographs", pulled)
    set_parameter(pulled, "teacher.allow_research_only", True)
    assert ran(pulled, "snakemake --cores all evaluate") == ONE_SHARD | {
        "make_teacher": 1,
        "teacher": 1,
        "embed_shard": 7,
    }
    assert settled(pulled)
    assert artifacts(pulled) == from_scratch(pulled, tmp_path / "scratch")


def test_a_merge_makes_only_what_neither_branch_had(pulled: Path, tmp_path: Path) -> None:
    sh("git checkout -q -b parameter", pulled)
    set_parameter(pulled, "quantize.images", 3)
    snakemake(pulled)
    sh(
        "git commit -q -a -m parameter && git checkout -q main && dvc checkout -q && git checkout -q -b photograph",
        pulled,
    )
    set_photograph(pulled, "train/alba99.jpg", "new")
    sh("dvc add -q data/photographs", pulled)
    snakemake(pulled)
    sh("git add -A && git commit -q -m photograph", pulled)
    assert "CONFLICT" in sh("git merge parameter -m merged", pulled, check=False)
    sh("git checkout --ours dvc.lock && git add -A && git commit -q -m merged && dvc checkout -q", pulled)
    jobs = ran(pulled, "dvc repro")
    assert first_stage(jobs) == "quantize" and jobs["predict"] == 3  # int8, tfjs and table
    assert artifacts(pulled) == from_scratch(pulled, tmp_path / "scratch")
    assert settled(pulled)


def test_experiments_run_beside_and_inside_the_workspace(pulled: Path) -> None:
    original = artifacts(pulled)
    # A copy has no environments, which stage convert would make first: up to quantize it needs none.
    assert "Ran experiment" in sh("dvc exp run --temp -S prune.budget.macs=0.8 quantize", pulled)
    assert artifacts(pulled) == original and settled(pulled)
    assert "Ran experiment" in sh("dvc exp run -S prune.budget.macs=0.8", pulled)
    assert yaml_files.read(pulled / "params.yaml")["prune"]["budget"]["macs"] == 0.8
    assert artifacts(pulled) != original and settled(pulled)


# ---------------------------------------------------------------------------------------------- interrupted and partial


def interrupt(command: str, folder: Path) -> int:
    """Kill a run in the middle of embedding shards; how many of them it had finished."""
    process = checkout.start(command, folder, THIN_JOB_SECONDS="0.5")
    while (finished := len(re.findall(r"  logits +\w+-\d{5} ", checkout.printed(folder)))) < 3:
        assert process.poll() is None, checkout.printed(folder)[-6000:]
        time.sleep(0.02)
    checkout.kill(process)
    sh("snakemake --unlock", folder)
    return finished


@pytest.mark.parametrize("engine", ["snakemake --cores 1 -- evaluate", "dvc repro"])
def test_a_killed_run_resumes(pulled: Path, tmp_path: Path, engine: str) -> None:
    shutil.rmtree(pulled / "data/logits")
    set_parameter(pulled, "logits.views", 3)
    finished = interrupt(engine, pulled)
    jobs = ran(pulled, engine)
    assert 1 <= jobs["embed_shard"] <= 7 - finished
    assert not {"write_shard", "make_teacher"} & set(jobs)
    assert artifacts(pulled) == from_scratch(pulled, tmp_path / "scratch")
    assert settled(pulled)


@pytest.mark.parametrize("newest", ["index", "distill"])
def test_what_is_not_here_counts_only_if_it_would_be_made_differently(pulled: Path, newest: str) -> None:
    """Whatever the times of what it is made from, and of what is made from it."""
    shutil.rmtree(pulled / "data/logits")
    for path in (pulled / "data" / newest).rglob("*"):
        os.utime(path, (time.time() + 1000, time.time() + 1000))
    assert planned(pulled) == {}
    module = pulled / "workflow/bioclip_lite/photographs/views.py"
    original = module.read_text()
    module.write_text(original + "\n_EDITED = True\n")
    os.utime(module, (1, 1))
    assert planned(pulled)["embed_shard"] == 7
    module.write_text(original)
    os.utime(module, (1, 1))
    assert planned(pulled) == {}
    set_parameter(pulled, "logits.views", 3)
    assert planned(pulled)["embed_shard"] == 7


def test_a_killed_run_with_other_parameters_leaves_nothing_of_its_own(pulled: Path, tmp_path: Path) -> None:
    original = artifacts(pulled)
    set_parameter(pulled, "logits.views", 3)
    interrupt("snakemake --cores 1 -- evaluate", pulled)
    sh("git checkout -q params.yaml", pulled)
    jobs = ran(pulled, "snakemake --cores all evaluate")
    assert jobs.get("embed_shard", 0) <= 5  # those made with the other value and one being made, if not fetched
    assert artifacts(pulled) == original and settled(pulled)
    set_parameter(pulled, "logits.views", 3)
    interrupt("snakemake --cores 1 -- evaluate", pulled)
    set_parameter(pulled, "logits.views", 4)
    assert ran(pulled, "dvc repro")["embed_shard"] == 7
    assert artifacts(pulled) == from_scratch(pulled, tmp_path / "scratch")


def test_a_partial_target_leaves_the_lock_consistent(pulled: Path) -> None:
    set_parameter(pulled, "logits.views", 3)
    assert snakemake(pulled, "logits") == {"embed_shard": 7, "logits": 1}
    assert changed(pulled) == ["distill", "evaluate", "prune"]  # what reads the new cache
    stages, jobs = repro(pulled)
    assert stages[0] == "distill" and "embed_shard" not in jobs
    assert settled(pulled)


def test_a_dry_run_disturbs_no_run(pulled: Path) -> None:
    set_parameter(pulled, "logits.views", 3)
    running = checkout.start("snakemake --cores 1 -- evaluate", pulled)
    dry = 0
    while running.poll() is None and dry < 3:
        sh("snakemake --dry-run -- evaluate", pulled, check=False)
        dry += 1
    assert running.wait() == 0 and dry
    assert settled(pulled)


def test_code_edited_while_jobs_run_is_not_recorded(pulled: Path, tmp_path: Path) -> None:
    replace(pulled / "workflow/rules/logits.smk", '"python -SE', '"sleep 0.3; python -SE')
    running = checkout.start("snakemake --cores 1 -- evaluate", pulled)
    module = pulled / "workflow/bioclip_lite/stages/logits.py"
    while not list((pulled / "logs/logits").glob("t*.log")):
        time.sleep(0.02)
    module.write_text(module.read_text() + "\n_EDITED = True\n")
    assert running.wait() != 0  # nobody knows which code the jobs saw
    assert ran(pulled, "snakemake --cores all evaluate")["embed_shard"] == 7
    assert artifacts(pulled) == from_scratch(pulled, tmp_path / "scratch")
    assert settled(pulled)


@pytest.mark.parametrize("repair", ["dvc commit -q -f evaluate", "dvc repro", "snakemake --cores all evaluate"])
def test_a_busy_dvc_is_reported_and_repaired(pulled: Path, repair: str) -> None:
    set_parameter(pulled, "evaluate.examples", 5)
    hold = (
        "import zc.lockfile, time; l = zc.lockfile.LockFile('.dvc/tmp/lock'); print('held', flush=True); time.sleep(90)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold], cwd=pulled, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()
    output = sh("snakemake --cores all evaluate", pulled, check=False)
    holder.kill()
    holder.wait()
    assert "dvc.lock is not up to date; run: dvc commit -f evaluate" in output
    assert "Unable to acquire lock" in output and "Traceback" not in output
    assert changed(pulled) == ["evaluate"]
    made = artifacts(pulled)
    assert set(ran(pulled, repair)) <= {"evaluate"}  # its ledger, at most
    assert changed(pulled) == []
    assert settled(pulled) and artifacts(pulled) == made


def test_half_a_lock_file_is_named_and_mended(pulled: Path) -> None:
    set_parameter(pulled, "evaluate.examples", 5)
    whole = (pulled / "dvc.lock").read_text()
    (pulled / "dvc.lock").write_text(whole[: whole.rindex("md5:") + 2])
    for command in ("snakemake --cores all evaluate", "snakemake -n evaluate", "python -m bioclip_lite status"):
        output = sh(f"{command}; test $? = 1", pulled)
        assert "dvc.lock cannot be read" in output and "git checkout dvc.lock" in output
        assert "Traceback" not in output
    sh("git checkout -q dvc.lock", pulled)
    assert snakemake(pulled) == {"write_report": 1, "evaluate": 1}
    assert settled(pulled)


def test_a_downloaded_archive_needs_no_repository(thin_built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    sh(f"git archive HEAD ':!dvc.lock' | tar -x -C '{folder}' && cp -r data/photographs '{folder}/data'", thin_built)
    checkout.with_environments(folder)
    output = sh("snakemake --cores all evaluate", folder)
    assert "dvc.lock" not in output and "Traceback" not in output
    assert artifacts(folder) == artifacts(thin_built)
    assert planned(folder) == {}
    sh("rm -rf .dvc", folder)
    set_parameter(folder, "evaluate.examples", 5)
    assert snakemake(folder) == {"write_report": 1, "evaluate": 1}
    assert planned(folder) == {}


# ------------------------------------------------------------------------------------------------ links and other users


@pytest.mark.parametrize("link", ["copy", "symlink", "reflink,copy"])
def test_no_way_of_linking_lets_a_run_into_the_cache(thin_built: Path, tmp_path: Path, link: str) -> None:
    folder = checkout.clone(thin_built, tmp_path / "clone", link=link)
    set_parameter(folder, "logits.views", 3)
    snakemake(folder)
    set_parameter(folder, "prune.budget.macs", 0.8)
    repro(folder)
    assert checkout.cache_is_intact(folder)
    sh("git checkout -q params.yaml dvc.lock && dvc checkout -q", folder)
    assert settled(folder)
    assert artifacts(folder) == artifacts(thin_built)


def test_hard_links_are_refused_not_damaged(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "clone", link="hardlink")
    output = sh("snakemake --cores all evaluate", folder, check=False)
    assert "is a hard link" in output and "dvc checkout --relink" in output and "Traceback" not in output
    assert checkout.cache_is_intact(folder)
    sh("dvc config --local cache.type copy && dvc checkout -q --relink", folder)
    assert settled(folder)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")


@needs_root
def test_files_of_another_user_are_recognised(pulled: Path) -> None:
    sh("chown -R 1000:0 data workflow params.yaml && chmod -R g+w data workflow", pulled)
    only_the_group = f"{checkout.COLD} setpriv --bounding-set=-fowner,-dac_override,-dac_read_search,-chown"
    assert "Nothing to be done" in sh(f"{only_the_group} snakemake --cores all evaluate", pulled)


@needs_root
def test_a_user_without_privileges_works_on_links(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "clone", link="symlink")
    set_parameter(folder, "prune.budget.macs", 0.8)
    sh(f"{checkout.COLD} setpriv --bounding-set=-dac_override,-dac_read_search snakemake --cores all evaluate", folder)
    assert checkout.cache_is_intact(folder)
    assert settled(folder)


# -------------------------------------------------------------------------------------------------------- the two texts


def test_every_stage_has_one_name_everywhere() -> None:
    root = checkout.ROOT
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    assert tuple(stages) == ("code", *STAGES)
    assert tuple(yaml_files.read(root / "params.yaml")) == STAGES
    for stage in STAGES:
        assert stages[stage]["cmd"] == f"snakemake --cores all {stage}"
        own, *others, defaults = stages[stage]["params"]
        assert own == stage and {name.split(".")[0] for name in others} <= set(STAGES)
        assert defaults == {"workflow/defaults.yaml": [own, *others]}
        for path in ("workflow/rules/{}.smk", "workflow/bioclip_lite/stages/{}.py", "tests/stages/test_{}.py"):
            assert (root / path.format(stage)).exists(), path.format(stage)
