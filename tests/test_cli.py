"""`python -m bioclip_lite`: stages run alone, and a user's mistake is a sentence, not a traceback."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bioclip_lite import __main__
from support import checkout


def cli(*arguments: str, folder: Path = checkout.ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bioclip_lite", *arguments]
    environment = checkout.environment(checkout.ROOT) | {"PYTHONPATH": str(checkout.ROOT / "workflow")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_help_names_the_stages() -> None:
    assert "index,shard,caption,teacher,logits,distill,prune,quantize,convert,evaluate" in cli("--help").stdout


def test_the_first_stages_run_alone(tmp_path: Path) -> None:
    params = str(checkout.ROOT / "tests/tiny.yaml")
    for stage in ("index", "shard", "caption"):
        done = cli(stage, "--params", params, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        took = re.search(
            rf"^{stage}: took ([\d.]+) s, ([\d.]+) s of processor time, ([\d.]+) s of them to start$", done.stdout, re.M
        )
        assert took and 0 <= float(took[3]) <= float(took[2])
    assert (tmp_path / "data/caption/test-00000.parquet").exists()


@pytest.mark.parametrize("stage", ["shard", "caption", "logits", "distill", "prune", "quantize", "convert"])
def test_a_stage_without_its_inputs_says_what_makes_them(stage: str, tmp_path: Path) -> None:
    done = cli(stage, "--params", str(checkout.ROOT / "tests/tiny.yaml"), folder=tmp_path)
    assert done.returncode == 1
    assert "is missing; stage" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_parameter_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("index: {}\n")
    done = cli("index", folder=tmp_path)
    assert done.returncode == 1
    assert "index lacks" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_section_is_not_read_from_params_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []
    stage = SimpleNamespace(run=lambda *given: seen.append(given))
    monkeypatch.setitem(sys.modules, "bioclip_lite.stages.logits", stage)
    arguments = ["logits", "texts", "--section", "{}", "--params", str(tmp_path / "none.yaml")]
    monkeypatch.setattr(sys, "argv", ["bioclip_lite", *arguments])
    assert __main__.main() == 0
    assert seen == [({}, Path("data"), "texts")]


def test_only_training_stages_take_several_processes(tmp_path: Path) -> None:
    params = str(checkout.ROOT / "tests/tiny.yaml")
    for stage, processes in (("index", "2"), ("distill", "0")):
        done = cli(stage, "--params", params, "--processes", processes, folder=tmp_path)
        assert done.returncode == 1
        assert f"--processes {processes}: this stage runs with 1, teacher, distill, prune with 1 or more" in done.stderr
        assert "Traceback" not in done.stderr
