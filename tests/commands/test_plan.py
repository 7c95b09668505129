import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bioclip_lite.commands.plan import Job, Row, _row, main, parser, table
from support.checkout import clone, sh

SIZES = {"train-00000": 60, "train-00001": 40, "test-00000": 20}
NOW = Counter({"train": 100, "test": 20})
SHARDS = {"train": 16, "test": 4}


def row(stage: str, *jobs: Job, growth: float = 100, at_once: int = 4) -> Row:
    return _row(stage, list(jobs), SIZES, NOW, growth, SHARDS, at_once)


def test_jobs_of_shards_grow_in_number_and_share_the_cores() -> None:
    done = [Job("embed_shard", name, 3.6 * n, 1000 * n) for name, n in SIZES.items()]
    hours: Any = pytest.approx(12)
    at_once: Any = pytest.approx(3)
    assert row("logits", *done) == Row("logits", 20, hours, at_once, 12e6)


def test_a_job_that_ran_elsewhere_costs_what_the_others_did() -> None:
    done = [Job("embed_shard", name, 3.6 * n, 1000 * n) for name, n in SIZES.items()]
    assert row("logits", done[0]._replace(seconds=math.nan), *done[1:]).hours == pytest.approx(12)
    assert math.isnan(row("logits", *(job._replace(seconds=math.nan) for job in done)).hours)


def test_training_grows_and_stays_one_job_and_what_does_not_grow_stays_as_it_is() -> None:
    done = Job("train_student", None, 36, 5000), Job("train_control", None, 36, 5000)
    assert row("distill", *done) == Row("distill", 2, 2, 2, 1e6)
    assert row("quantize", Job("quantize_student", None, 36, 5000)) == Row("quantize", 1, 0.01, 0.01, 5000)


def test_the_table_adds_up() -> None:
    lines = table([Row("index", 1, 0.5, 0.5, 2e6), Row("shard", 1030, 2.0, 0.25, 3.1e12)], 8).splitlines()
    assert lines[0].split() == ["stage", "jobs", "hours", "8", "at", "once", "on", "disk"]
    assert lines[-1].split() == ["all", "1,031", "2.5", "0.75", "3.1", "TB"]
    assert "?" in table([Row("index", 1, math.nan, math.nan, 1)], 8)


@pytest.mark.pipeline
def test_rates_come_from_the_run_in_this_folder(thin_built: Path, tmp_path: Path) -> None:
    output = sh("python -m bioclip_lite plan 10000000", thin_built)
    assert re.search(r"10,000,000 photographs, [\d,]{3,5} shards of about 10,000", output)
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line}
    assert min(int(rows[stage][0].replace(",", "")) for stage in ("shard", "caption", "logits")) > 700
    assert {rows[stage][0] for stage in ("index", "teacher", "prune", "quantize", "convert")} == {"1"}
    assert rows["distill"][0] == "2"  # student and control
    assert float(rows["index"][1].replace(",", "")) > 0 and "?" not in output
    assert "params.yaml, shard: {counts: {pretrain: 0, train: 512, val: 128, " in output
    assert "?: a job of this stage ran elsewhere" in sh(
        "python -m bioclip_lite plan 1000", clone(thin_built, tmp_path / "c")
    )


def test_without_results_it_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["1000"]) == 1
    assert "sizes.json is missing; stage shard makes it" in capsys.readouterr().err
    assert main(["0"]) == 1


@pytest.mark.parametrize("text", ["10000000", "10_000_000", "1e7", "1E+7"])
def test_large_numbers_as_people_write_them(text: str) -> None:
    assert parser().parse_args([text]).images == 10_000_000


@pytest.mark.parametrize("text", ["1.5", "many", "nan", "inf"])
def test_what_is_no_whole_number_is_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([text])
    assert f"{text!r} is no whole number; write 10000000, 10_000_000 or 1e7" in capsys.readouterr().err
