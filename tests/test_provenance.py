"""Snakemake and DVC agree, on the real pipeline at its smallest. Each test works in a checkout of its own."""

import csv
import io
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import yaml

import checkout
from bioclip_lite import provenance
from bioclip_lite.params import STAGES
from checkout import artifacts, changed, planned, repro, set_parameter, sh, snakemake

pytestmark = pytest.mark.pipeline

# What a change of stage prune makes run, and nothing else.
AFTER_PRUNE = {
    "prune_student": 1,
    "prune": 1,
    "quantize_student": 1,
    "quantize": 1,
    "convert_student": 1,
    "convert": 1,
    "predict": 3,  # pruned, int8, tfjs
    "write_report": 1,
    "evaluate": 1,
}


def first_stage(jobs: dict[str, int]) -> str | None:
    """The earliest stage whose ledger is written again."""
    return next((stage for stage in STAGES if stage in jobs), None)


@pytest.fixture
def pulled(built: Path, tmp_path: Path) -> Path:
    return checkout.clone(built, tmp_path / "pulled")


def test_everything_is_made_committed_and_clean(built: Path) -> None:
    assert planned(built) == {}
    assert repro(built) == ([], {})
    assert changed(built) == []
    assert sh("git status --porcelain", built) == ""


def test_dvc_repro_from_nothing_makes_the_same_bytes(built: Path, tmp_path: Path) -> None:
    folder = checkout.new(tmp_path / "dvc")
    stages, _ = repro(folder)
    assert stages == list(STAGES)
    assert planned(folder) == {}
    ours, theirs = artifacts(folder), artifacts(built)
    # Times are measured, so the files that hold them may differ, and nothing else.
    timed = {name for name in ours if "evaluate" in name or name.endswith(("report.json", "history.parquet"))}
    assert {name for name in theirs if ours.get(name) != theirs[name]} <= timed
    assert ours.keys() == theirs.keys()


def test_a_clone_after_pull_runs_nothing(pulled: Path) -> None:
    assert snakemake(pulled) == {}
    assert repro(pulled) == ([], {})
    assert changed(pulled) == []


def test_a_clone_after_pull_runs_nothing_dvc_first(pulled: Path) -> None:
    assert repro(pulled) == ([], {})
    assert snakemake(pulled) == {}


def test_a_prune_parameter_runs_the_same_jobs_in_both(built: Path, tmp_path: Path) -> None:
    with_snakemake = checkout.clone(built, tmp_path / "snakemake")
    with_dvc = checkout.clone(built, tmp_path / "dvc")
    for folder in (with_snakemake, with_dvc):
        set_parameter(folder, "prune.macs", 0.8)
    assert changed(with_snakemake) == ["prune"]
    before = artifacts(with_snakemake)
    assert snakemake(with_snakemake) == AFTER_PRUNE
    assert repro(with_snakemake) == ([], {})
    stages, jobs = repro(with_dvc)
    assert stages == ["prune", "quantize", "convert", "evaluate"]
    assert jobs == AFTER_PRUNE
    assert snakemake(with_dvc) == {}
    after = artifacts(with_snakemake)
    untouched = ("index", "shard", "caption", "teacher", "logits", "distill")
    assert {name for name in before if name.startswith(tuple(f"data/{s}/" for s in untouched))} <= {
        name for name in before if before[name] == after[name]
    }
    model = "data/prune/model/model.safetensors"
    assert before[model] != after[model] == artifacts(with_dvc)[model]


def test_touching_every_file_runs_nothing(pulled: Path) -> None:
    tracked = sh("git ls-files", pulled).split()
    files = [*(pulled / name for name in tracked), *(path for path in (pulled / "data").rglob("*") if path.is_file())]
    random.Random(1).shuffle(files)
    for path in files:
        os.utime(path)
    assert snakemake(pulled) == {}
    assert repro(pulled) == ([], {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("index.seed", 1),
        ("shard.counts.test", 2),
        ("caption.lit_columns", ["species"]),
        ("teacher.train.epochs", 3),
        ("logits.views", 3),
        ("distill.cosine", 0.5),
        ("prune.macs", 0.6),
        ("quantize.wide_layers", 3),
        ("convert.images", 3),
        ("evaluate.examples", 5),
    ],
)
def test_a_parameter_changes_the_same_stage_in_both(built: Path, name: str, value: object) -> None:
    text = (built / "params.yaml").read_text()
    try:
        set_parameter(built, name, value)
        stage = name.split(".")[0]
        assert first_stage(planned(built)) == stage
        assert changed(built) == [stage]
    finally:
        (built / "params.yaml").write_text(text)
    assert planned(built) == {}


def test_code_counts_by_its_meaning(pulled: Path) -> None:
    path = pulled / "workflow/bioclip_lite/stages/quantize.py"
    original = path.read_text()
    path.write_text(f"# a comment\n{original}\n# another\n")
    assert planned(pulled) == {}
    path.write_text(f"{original}\n_EDITED = True\n")
    assert first_stage(planned(pulled)) == "quantize"
    assert changed(pulled) == ["quantize"]


def test_a_changed_input_with_an_older_time_is_noticed(pulled: Path) -> None:
    assert planned(pulled) == {}
    path = pulled / "data/distill/model/student.json"
    path.unlink()
    path.write_text('{"not": "the model"}')
    os.utime(path, (1e9, 1e9))
    assert "train_student" in planned(pulled)
    assert changed(pulled)[0] == "distill"


def test_a_tampered_output_is_made_again(pulled: Path) -> None:
    original = artifacts(pulled)
    shard = "data/caption/val-00000.parquet"
    (pulled / shard).write_bytes(b"garbage")
    jobs = snakemake(pulled, "caption")
    assert jobs == {"write_captions": 1, "caption": 1}
    assert artifacts(pulled) == original
    assert changed(pulled) == []


def test_nothing_is_trusted_without_provenance(pulled: Path) -> None:
    shutil.rmtree(pulled / "data/provenance")
    jobs = planned(pulled)
    assert {"make_index", "make_teacher", "train_student", "prune_student", "write_report"} <= set(jobs)


def test_a_killed_run_resumes(built: Path, tmp_path: Path) -> None:
    folder = checkout.new(tmp_path / "killed")
    process = checkout.start("snakemake --cores 1 -- caption", folder)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("data/shard/*.tar"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    checkout.kill(process)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("data/shard/*.tar")}
    assert len(before) >= 3
    sh("snakemake --unlock", folder)
    jobs = snakemake(folder, "caption")
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("data/shard/*.tar")}
    kept = [name for name in before if before[name] == after[name]]
    assert len(kept) >= len(before) - 1  # all but the one that was being written
    assert jobs["write_shard"] == 6 - len(kept)
    assert "make_index" not in jobs
    ours, theirs = artifacts(folder), artifacts(built)
    assert {name: theirs[name] for name in ours} == ours


def test_a_partial_target_leaves_the_lock_consistent(pulled: Path) -> None:
    set_parameter(pulled, "caption.lit_columns", ["family", "species"])
    assert snakemake(pulled, "caption") == {"write_captions": 6, "caption": 1}
    assert changed(pulled) == ["teacher"]


def test_dvc_yaml_says_what_the_graph_says(built: Path) -> None:
    text = sh("snakemake --detailed-summary -- evaluate 2>/dev/null", built)
    head, *rows = [row for row in csv.reader(io.StringIO(text), delimiter="\t") if len(row) > 6]
    outputs, inputs, rules = (head.index(name) for name in ("output_file", "input-file(s)", "rule"))
    stages = provenance_view(built)
    problems = []
    for stage, view in stages.items():
        # data/weights is read only where params.yaml names a file in it
        used = {f"workflow/rules/{stage}.smk", "data/weights"}
        made = set()
        for row in rows:
            out = provenance.within(row[outputs], view["outs"])
            if row[rules] == stage or out is None:
                continue
            made.add(out)
            for path in row[inputs].split(","):
                if provenance.within(path, view["outs"]) or "/ready-" in path:
                    continue  # made within the stage, or an environment
                dep = provenance.within(path, view["deps"])
                used.add(dep or path)
                if dep is None:
                    problems.append(f"{stage}: add the dependency {path}")
        problems += [f"{stage}: nothing uses the dependency {dep}" for dep in sorted(set(view["deps"]) - used)]
        problems += [f"{stage}: no rule makes {out}" for out in sorted(set(view["outs"]) - made)]
    assert not problems, "\n".join(problems)


def provenance_view(folder: Path) -> dict[str, dict[str, list[str]]]:
    here = Path.cwd()
    try:
        os.chdir(folder)
        provenance.dvc_stages.cache_clear()
        return provenance.dvc_stages()
    finally:
        os.chdir(here)
        provenance.dvc_stages.cache_clear()


def test_every_stage_has_one_name_everywhere() -> None:
    root = checkout.ROOT
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    assert tuple(stages) == STAGES
    assert tuple(yaml.safe_load((root / "params.yaml").read_text())) == STAGES
    for stage in STAGES:
        assert stages[stage]["cmd"] == f"snakemake --cores all {stage}"
        assert stages[stage]["params"] == [stage]
        for path in ("workflow/rules/{}.smk", "workflow/bioclip_lite/stages/{}.py", "tests/test_{}.py"):
            assert (root / path.format(stage)).exists(), path.format(stage)
