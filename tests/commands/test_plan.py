import math
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bioclip_lite.commands import plan
from bioclip_lite.commands.plan import Collection, Job, Row, Run, _row, _with_taxa, main, parser, remarks, table
from bioclip_lite.planning import growth
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.defaults import defaults
from bioclip_lite.utils.files import read_table
from support.checkout import ROOT, clone, sh

SIZES = {"train-00000": 60, "train-00001": 40, "test-00000": 20}
NOW = Counter({"train": 100, "test": 20})
SHARDS = {"train": 16, "test": 4}
RUN = Run(SIZES, NOW, taxa=10, width=512, names=150.0)
ASKED = Collection(images=12_000, taxa=10, per_shard=10_000, jobs=4)


def row(stage: str, *jobs: Job) -> Row:
    return _row(stage, list(jobs), RUN, ASKED, SHARDS)


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


def test_a_longer_list_costs_what_was_measured_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """450,000 taxa: benchmarks/scale.md has them, so that nothing is interpolated."""
    params = {**defaults(), "distill": {**defaults()["distill"], "epochs": 3}}
    monkeypatch.setattr(plan.params, "load", lambda _path: params)
    longer = ASKED._replace(taxa=450_000)
    trained = [Job("train_student", None, 18, 2500), Job("finetune_student", None, 18, 2500)]
    hours = (3 + 10) * 10_000 * (0.0488 - growth.loss_seconds(10, 512)) / 3600
    grown = _with_taxa(row("distill", *trained), trained, RUN, longer)
    assert grown.hours == pytest.approx(1 + hours) and grown.at_once == pytest.approx(1 + hours)
    answered = [Job("predict", None, 36, 1230 * 20) for _ in range(9)]
    grown = _with_taxa(row("evaluate", *answered), answered, RUN, longer)
    added = 9 * (2000 * 0.0162 + 164 - growth.prediction_seconds(2000, 10, 512)) / 3600
    assert grown.hours == pytest.approx(9 + added) and grown.at_once == pytest.approx(9 + added / 4)
    assert grown.size == pytest.approx(9 * 1230 * 2000)  # whatever the taxa
    (texts,) = [Job("embed_taxa", None, 36, 10 * 2048)]
    assert _row("logits", [texts], RUN, longer, SHARDS) == Row("logits", 1, 450, 450, 450_000 * 2048)
    converted = [Job("convert_student", None, 36, 10**6)]
    assert _with_taxa(row("convert", *converted), converted, RUN, longer).size == 10**6 + 449_990 * (516 + 150)
    assert _with_taxa(row("convert", *converted), converted, RUN, ASKED) == row("convert", *converted)

    said = "\n".join(remarks([grown._replace(stage="logits")], RUN, longer, 100))
    assert "losses over 450,000 taxa 895 MB" in said and "evaluate 2 GB" in said
    assert "table of 450,000 taxa 232 MB, their names about 68 MB" in said
    assert "refused: " in said and "convert.lists" in said
    # 10,000 photographs in 8 views and 2,000 in one; 81 billion products are 162 billion operations.
    assert f"ViT-L/14 (BioCLIP 2) {82_000 * 162e9 / 1e14 / 3600:.2f} h" in said
    assert "refused" not in "\n".join(remarks([], RUN, ASKED, 100))


def test_the_rules_that_plan_knows_exist() -> None:
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert {*plan.SPLITS_OF, *plan.OF_TAXA, *plan.EPOCHS} <= set(re.findall(r"(?:rule|checkpoint) (\w+):", text))


def test_what_was_not_measured_lies_on_lines_between() -> None:
    for taxa, seconds in zip(growth.TAXA, growth.LOSS, strict=True):
        assert growth.loss_seconds(taxa, 512) == pytest.approx(seconds / 1000)
        assert growth.loss_seconds(taxa, 1024) == pytest.approx(seconds / 500)
    found = [growth.loss_seconds(taxa, 512) for taxa in (10, 100, 1_000, 3_000, 10_000, 200_000, 450_000, 900_000)]
    assert found == sorted(found) and found[-1] == pytest.approx(2 * found[-2], rel=0.1)


def test_rates_are_those_of_the_benchmark() -> None:
    """The page says where they come from; one that is measured anew changes both."""
    page = (ROOT / "benchmarks/scale.md").read_text()
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("|")}
    for name, rates in (
        ("loss and gradients in blocks, ms a photograph", growth.LOSS),
        ("reduce, ms a photograph", growth.REDUCTION),
        ("temperature, s for 10,000 photographs", growth.TEMPERATURE),
    ):
        cells = [cell.split() for cell in lines[name].split("|")[2:6]]
        assert [float(cell[0].rstrip(",")) for cell in cells] == pytest.approx(rates)


def test_the_table_adds_up() -> None:
    lines = table([Row("index", 1, 0.5, 0.5, 2e6), Row("shard", 1030, 2.0, 0.25, 3.1e12)], 8).splitlines()
    assert lines[0].split() == ["stage", "jobs", "hours", "8", "at", "once", "on", "disk"]
    assert lines[-1].split() == ["all", "1,031", "2.5", "0.75", "3.1", "TB"]
    assert "?" in table([Row("index", 1, math.nan, math.nan, 1)], 8)


@pytest.mark.pipeline
def test_rates_come_from_the_run_in_this_folder(thin_built: Path, tmp_path: Path) -> None:
    with_texts = tmp_path / "built"  # its jobs write digests of what they read
    shutil.copytree(thin_built, with_texts, symlinks=True)
    rows = read_table(with_texts / "data/index/taxa.parquet").to_pylist()
    ids = [row["taxon_id"] for row in rows if row["leaf"]]
    store.write_taxa(with_texts / "data/logits/taxa.safetensors", ids, np.eye(len(ids), 512), 20.0, "t", "taxon")
    output = sh("python -m bioclip_lite plan 10000000 --taxa 450000", with_texts)
    assert re.search(r"10,000,000 photographs of 450,000 taxa, [\d,]{3,5} shards of about 10,000", output)
    assert "table of 450,000 taxa 232 MB" in output and "refused" in output
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line}
    assert min(int(rows[stage][0].replace(",", "")) for stage in ("shard", "caption", "logits")) > 700
    assert {rows[stage][0] for stage in ("index", "teacher", "prune", "quantize", "convert")} == {"1"}
    assert rows["distill"][0] == "2"  # student and control
    assert float(rows["index"][1].replace(",", "")) > 0 and "?" not in output
    assert "params.yaml, shard: {counts: {pretrain: 0, train: 512, val: 128, " in output
    with_elsewhere = clone(thin_built, tmp_path / "c")
    shutil.copyfile(with_texts / "data/logits/taxa.safetensors", with_elsewhere / "data/logits/taxa.safetensors")
    assert "?: a job of this stage ran elsewhere" in sh("python -m bioclip_lite plan 1000", with_elsewhere)


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
