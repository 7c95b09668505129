"""`why` says what made a file and what would make it run again, and leaves the workspace as it is."""

import os
import sys
from pathlib import Path

import pytest

from bioclip_lite.commands import why
from bioclip_lite.utils import yaml_files
from support import checkout
from support.checkout import planned, set_parameter, sh, snakemake

pytestmark = pytest.mark.pipeline

LOGITS = "data/logits/train-00001.safetensors"
REPORT = "data/evaluate/report.html"


def ask(folder: Path, file: str) -> str:
    return sh(f"{sys.executable} -m bioclip_lite why {file}", folder)


def verdict(text: str) -> str:
    return text[text.index("would it run") :]


@pytest.fixture(scope="module")
def pulled(thin_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which Snakemake has not run; each test puts back what it changes."""
    return checkout.clone(thin_built, tmp_path_factory.mktemp("why") / "pulled")


@pytest.fixture(autouse=True)
def put_back(request: pytest.FixtureRequest) -> None:
    if "pulled" in request.fixturenames:
        folder = request.getfixturevalue("pulled")
        request.addfinalizer(lambda: sh("git checkout -q . && dvc checkout -q --force", folder))


def times(folder: Path) -> dict[str, tuple[int, int]]:
    """Time and size of everything but what git and DVC keep for themselves."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".git", ".dvc", "__pycache__", "node_modules")]
        for name in [*folders, *files]:
            status = Path(place, name).lstat()
            found[str(Path(place, name))] = status.st_mtime_ns, status.st_size
    return found


def test_an_output_is_explained(pulled: Path) -> None:
    text = ask(pulled, LOGITS)
    assert "stage logits, rule embed_shard (workflow/rules/logits.smk)" in text
    section = yaml_files.read(pulled / "params.yaml")["logits"]
    assert f"\n    views: {section['views']}\n" in text
    assert "\n  command     python -SE tests/support/thin.py {params.section:q}" in text
    md5 = checkout.artifacts(pulled)
    assert f"{md5[LOGITS]}, as in its ledger" in text
    assert f"{md5['data/shard/train-00001.tar'][:12]}  data/shard/train-00001.tar" in text
    code, data = text.index("inputs: code"), text.index("inputs: data")
    assert (
        code
        < text.index("workflow/bioclip_lite/photographs/views.py")
        < data
        < text.index("data/teacher/model/teacher.json")
    )
    assert verdict(text).startswith("would it run again?  no\n")


def test_when_is_of_the_run_here_or_of_the_commit_that_brought_it(thin_built: Path, pulled: Path) -> None:
    assert "in this workspace" in ask(thin_built, LOGITS)
    commit = sh("git log -1 --format='%h of %an' -- dvc.lock", pulled).strip()
    for _ in range(2):
        assert f"elsewhere; recorded by commit {commit}, " in ask(pulled, LOGITS)
        planned(pulled)  # sync writes records of its own, which are not of a run


def test_nothing_in_the_workspace_changes(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "fresh")
    (folder / LOGITS).write_text("garbage")
    set_parameter(folder, "caption.lit_columns", ["species"])
    before = times(folder)
    assert "another content" in ask(folder, REPORT)
    assert times(folder) == before
    assert not (folder / ".snakemake").exists()


def test_a_parameter_is_named_with_both_values(pulled: Path) -> None:
    before = yaml_files.read(pulled / "params.yaml")["distill"]["epochs"]
    set_parameter(pulled, "distill.epochs", before + 1)
    text = f"distill.epochs is {before + 1}, it was made with {before}"
    direct, downstream = ask(pulled, "data/distill/model/student.json"), ask(pulled, REPORT)
    assert "would it run again?  yes\n" in direct and text in direct
    jobs = sum(planned(pulled, REPORT).values())
    assert f"would it run again?  yes, after {jobs - 1} other jobs" in downstream
    assert f"{text} (a reason for data/distill/" in downstream
    assert "would it run again?  no" in ask(pulled, LOGITS)


def test_code_counts_and_comments_do_not(pulled: Path) -> None:
    path = pulled / "workflow/bioclip_lite/stages/quantize.py"
    path.write_text(f"# a comment\n{path.read_text()}")
    file = "data/quantize/report.json"
    assert "would it run again?  no" in ask(pulled, file)
    path.write_text(f"{path.read_text()}\n_EDITED = True\n")
    text = ask(pulled, file)
    assert "would it run again?  yes" in text
    assert "\n    workflow/bioclip_lite/stages/quantize.py changed\n" in text
    assert "would it run again?  no" in ask(pulled, "data/prune/report.json")


def test_the_text_of_a_rule_counts(pulled: Path) -> None:
    path = pulled / "workflow/rules/caption.smk"
    path.write_text(path.read_text().replace("bioclip_lite caption", "bioclip_lite  caption"))
    assert "rule write_captions has another command now" in verdict(ask(pulled, "data/caption/val-00000.parquet"))


def test_a_new_input_of_a_rule_is_named(pulled: Path) -> None:
    path = pulled / "workflow/rules/quantize.smk"
    path.write_text(path.read_text().replace("    input:\n", '    input:\n        "README.md",\n', 1))
    assert "README.md is a new input of rule quantize_student" in ask(pulled, "data/convert/report.json")


def test_a_tampered_file_is_told_from_one_that_only_depends_on_it(pulled: Path) -> None:
    shard = "data/shard/train-00001.tar"
    (pulled / shard).write_bytes(b"garbage")
    text = f"{shard} has another content than its job gave it"
    assert text in verdict(ask(pulled, shard))
    assert ", but " in ask(pulled, shard).split("MD5")[1].splitlines()[0]
    logits = ask(pulled, LOGITS)
    assert f"{shard}  <- now " in logits
    assert "would it run again?  yes, after 1 other job\n" in logits and text in logits
    assert "would it run again?  no" in ask(pulled, "data/logits/train-00000.safetensors")


def test_a_missing_file(pulled: Path) -> None:
    (pulled / LOGITS).unlink()
    text = ask(pulled, LOGITS)
    assert "the file is not here (dvc pull" in text
    assert f"would it run again?  yes\n  because:\n    {LOGITS} is not here" in text


def test_a_missing_photograph_changes_the_index(pulled: Path) -> None:
    photograph = next((pulled / "data/photographs/train").glob("*.jpg"))
    photograph.unlink()
    assert "data/photographs changed" in verdict(ask(pulled, "data/index/samples.parquet"))


def test_a_partial_pull(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "partial", pull=False)
    file = "data/caption/val-00000.parquet"
    assert "run: dvc pull caption" in sh(f"{sys.executable} -m bioclip_lite why {file}", folder, check=False)
    sh("dvc pull -q caption", folder)
    text = ask(folder, file)
    assert "stage caption, rule write_captions" in text and ", as in its ledger" in text
    assert "would it run again?  unknown: " in text and "data/photographs" in verdict(text)
    sh("dvc pull -q data/photographs.dvc", folder)
    assert planned(folder, file) == {}
    assert "would it run again?  no" in ask(folder, file)


def test_a_ledger_a_folder_and_a_file_in_it(pulled: Path) -> None:
    text = ask(pulled, "data/provenance/caption.json")
    assert "stage caption, rule record_caption" in text and ", as in dvc.lock" in text
    assert "stage convert, rule convert_student" in ask(pulled, "data/convert/tfjs")
    assert "in the folder data/convert/tfjs" in ask(pulled, "data/convert/tfjs/model.json")


def test_sources_and_code(pulled: Path) -> None:
    text = ask(pulled, "workflow/bioclip_lite/photographs/views.py")
    assert "read by     stage caption, teacher, logits, distill, prune" in text
    assert "data/logits/val-00000.safetensors" in text and "data/caption" not in text
    assert "made from another content: no artifacts" in text
    path = pulled / "workflow/bioclip_lite/photographs/views.py"
    path.write_text(f"{path.read_text()}\n_EDITED = True\n")
    assert "made from its present content: no artifacts" in ask(pulled, "workflow/bioclip_lite/photographs/views.py")
    assert "data/index/samples.parquet" in ask(pulled, "data/photographs/metadata.csv")
    assert "the rules choose_columns, write_captions, fine_tune_captioner, write_synthetic, record_caption;" in ask(
        pulled, "workflow/rules/caption.smk"
    )


def test_a_file_that_a_stopped_run_left(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "stopped")
    set_parameter(folder, "shard.counts.val", 2)
    snakemake(folder, "shard")
    snakemake(folder, "data/caption/val-00001.parquet")
    text = ask(folder, "data/caption/val-00001.parquet")
    assert "rule write_captions; the stage has no ledger of it yet" in text and "in this workspace" in text


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("data/nothing.json", "does not exist, and no rule makes it"),
        ("data/caption/nothing.parquet", "is in the folder of stage caption, but it does not exist. Snakemake cannot"),
        ("README.md", "neither made nor read by a stage"),
        ("params.yaml", "ask why of an output"),
        ("workflow/code/prune.md5", "lists the code of stage prune"),
    ],
)
def test_an_unknown_file_is_an_error(
    pulled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, message: str
) -> None:
    monkeypatch.chdir(pulled)
    assert why.main([file]) == 1
    assert message in capsys.readouterr().err


def test_it_wants_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert why.main([REPORT]) == 1
    assert "run this in the root of the repository" in capsys.readouterr().err
