"""`status`: what is here, what both engines would do, and the next step, in the states that people meet."""

import re
import sys
from pathlib import Path

import pytest

from bioclip_lite.commands import status
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.stage_names import STAGES
from support import checkout
from support.checkout import planned, set_parameter, sh

pytestmark = pytest.mark.pipeline


def ask(folder: Path, options: str = "") -> str:
    return sh(f"{sys.executable} -m bioclip_lite status {options}", folder)


def rows(text: str) -> dict[str, dict[str, str]]:
    """Stage -> column -> cell; columns are two spaces or more apart."""
    head, *lines = [re.split(r" {2,}", line.strip()) for line in text.partition("\n\n")[0].splitlines()]
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def column(text: str, name: str) -> dict[str, str]:
    """Stage -> cell, for the stages that have something in the column."""
    return {stage: row[name] for stage, row in rows(text).items() if row[name] != "-"}


@pytest.fixture
def pulled(thin_built: Path, tmp_path: Path) -> Path:
    return checkout.clone(thin_built, tmp_path / "pulled")


def test_up_to_date(thin_built: Path) -> None:
    text = ask(thin_built)
    assert tuple(rows(text)) == STAGES
    assert text.endswith("\n\nEverything is up to date.\n")
    assert not (column(text, "snakemake") or column(text, "changed for dvc") or column(text, "changed"))
    assert max(map(len, text.splitlines())) <= 100
    files = {stage: int(count) for stage, count in column(text, "files").items()}
    assert files["caption"] == len(list((thin_built / "data/caption").glob("*.parquet"))) + 1  # its ledger


def test_a_parameter_in_both_views(pulled: Path) -> None:
    set_parameter(pulled, "logits.views", 3)
    text = ask(pulled)
    assert column(text, "changed for dvc") == {"logits": "params"}
    assert tuple(column(text, "snakemake")) == ("logits", "distill", "prune", "quantize", "convert", "evaluate")
    assert "disagree" not in text
    jobs = sum(planned(pulled).values())
    assert text.endswith(
        f"run: snakemake --cores all evaluate ({jobs} jobs in logits, distill, prune, quantize, convert, evaluate)\n"
    )


def test_a_comment_is_where_the_engines_differ(pulled: Path) -> None:
    path = pulled / "workflow/bioclip_lite/stages/quantize.py"
    path.write_text(f"# a comment\n{path.read_text()}")
    text = ask(pulled)
    assert not column(text, "changed for dvc") and not column(text, "snakemake")
    assert "The engines disagree.\n  code: DVC sees a change of workflow/bioclip_lite/stages/quantize.py;" in text
    assert "only comments or layout changed" in text
    assert "run: dvc repro" in text
    sh("dvc repro -q", pulled)
    assert ask(pulled).endswith("Everything is up to date.\n")


@pytest.mark.parametrize("refreshed", [False, True])
def test_a_change_of_code_names_the_file(pulled: Path, refreshed: bool) -> None:
    path = pulled / "workflow/bioclip_lite/suites/answering.py"  # which no job runs, as there are no suites
    path.write_text(f"{path.read_text()}\n_EDITED = True\n")
    if refreshed:
        assert planned(pulled) == {}
    text = ask(pulled)
    assert column(text, "changed for dvc") == {"evaluate": "deps"} and not column(text, "snakemake")
    assert "evaluate: DVC sees a change of workflow/bioclip_lite/suites/answering.py;" in text and ".md5" not in text
    assert "run: dvc repro" in text
    sh("dvc repro -q", pulled)
    assert ask(pulled).endswith("Everything is up to date.\n")


def test_a_tampered_file_is_counted(pulled: Path) -> None:
    (pulled / "data/caption/val-00000.parquet").write_bytes(b"garbage")
    text = ask(pulled)
    assert column(text, "changed") == {"caption": "1"}
    readers = dict.fromkeys(("teacher", "logits", "evaluate"), "deps")
    assert column(text, "changed for dvc") == {"caption": "outs", **readers}
    assert text.endswith("run: snakemake --cores all evaluate (2 jobs in caption)\n")


def test_missing_files_are_pulled(pulled: Path) -> None:
    tars = list((pulled / "data/shard").glob("*.tar"))
    for path in tars:
        path.unlink()
    text = ask(pulled)
    total = len(tars) + int(rows(text)["shard"]["files"].split()[0])
    assert rows(text)["shard"]["files"] == f"{total - len(tars)} of {total}"
    assert text.endswith(f"run: dvc pull ({len(tars)} files of shard not here)\n")
    sh("dvc pull -q", pulled)
    assert ask(pulled).endswith("Everything is up to date.\n")


def test_a_fresh_clone_is_told_to_pull(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "fresh", pull=False)
    text = ask(folder)
    assert all(row["files"].startswith("0 of ") for row in rows(text).values())
    assert "Snakemake cannot plan evaluate: index.path is data/photographs" in text
    assert text.splitlines()[-1].startswith("run: dvc pull (")
    sh("dvc pull -q caption", folder)
    partial = rows(ask(folder))
    assert " of " not in partial["caption"]["files"] and " of " in partial["shard"]["files"]


def test_the_remote_is_asked_only_on_request(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "clone")
    assert "remote" not in rows(ask(folder))["index"]
    assert {row["remote"] for row in rows(ask(folder, "--remote")).values()} == {"pushed"}
    empty = tmp_path / "empty"
    empty.mkdir()
    sh(f"dvc remote modify -q --local colleagues url '{empty}'", folder)
    text = ask(folder, "--remote")
    assert all(row["remote"].endswith(" missing") for row in rows(text).values())
    assert text.endswith("Everything is up to date here; run: dvc push\n")


def test_a_change_that_dvc_does_not_know(pulled: Path) -> None:
    assert planned(pulled) == {}
    path = pulled / "workflow/rules/common.smk"
    path.write_text(path.read_text() + '\nSTUDENT.reverse()\nTEACHER.append("history.json")\n')
    text = ask(pulled)
    assert column(text, "snakemake") and not column(text, "changed for dvc")
    assert "Snakemake has jobs to run, DVC sees no change" in text


def test_it_wants_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status.main([]) == 1
    assert "run this in the root of the repository" in capsys.readouterr().err


def test_a_folder_without_git_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a zip from GitHub has it; DVC would only say that it is no repository."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").touch()
    with pytest.raises(UserError, match="is no git repository, but DVC needs one"):
        status.stages(remote=False)
