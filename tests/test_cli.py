"""`bioclip-lite`: its help, its completion, stages that run alone, and mistakes told in a sentence, not a traceback."""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bioclip_lite import __main__, __version__
from bioclip_lite.commands import completion
from bioclip_lite.utils.command_line import COMMANDS
from bioclip_lite.utils.stage_names import STAGES
from support import checkout

SCRIPT = Path(sys.executable).with_name("bioclip-lite")


def cli(*arguments: str, folder: Path = checkout.ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bioclip_lite", *arguments]
    environment = checkout.environment(checkout.ROOT) | {"PYTHONPATH": str(checkout.ROOT / "workflow")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_help_names_every_stage_and_command() -> None:
    text = cli("--help").stdout
    assert ", ".join(STAGES) in " ".join(text.split())
    for title in ("make a model:", "look at what was made:", "work together:", "use a model:"):
        assert f"\n{title}\n" in text
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", text, re.M), name


def test_every_command_is_a_module_and_every_module_a_command() -> None:
    folder = checkout.ROOT / "workflow" / "bioclip_lite" / "commands"
    modules = {path.stem.replace("_", "-") for path in folder.glob("*.py")} - {"--init--", "common"}
    assert modules == set(COMMANDS)


def test_usage_shows_the_name_that_was_typed() -> None:
    for command, name in (
        ([str(SCRIPT)], "bioclip-lite"),
        ([sys.executable, "-m", "bioclip_lite"], "python -m bioclip_lite"),
    ):
        for arguments, usage in (((), "STAGE [JOB]"), (("push",), "push [-h]")):
            done = subprocess.run([*command, *arguments, "--help"], capture_output=True, text=True, check=True)
            assert done.stdout.startswith(f"usage: {name} {usage}")
    assert cli("--version").stdout == f"bioclip-lite {__version__}\n"


def test_a_misspelt_name_is_told_all_names() -> None:
    done = cli("predcit", "photos")
    assert done.returncode == 2
    assert "invalid choice: 'predcit'" in done.stderr and "'predict'" in done.stderr and "'prune'" in done.stderr
    late = cli("--data", "elsewhere", "predict")
    assert late.returncode == 2 and "options of predict follow its name" in late.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_has_every_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main([shell]) == 0
    script = capsys.readouterr().out
    actions = completion.whole_parser()._actions
    (subparsers,) = (action.choices for action in actions if isinstance(action, argparse._SubParsersAction))
    assert set(subparsers) == {*STAGES, *COMMANDS}
    for parser in subparsers.values():
        for option in (text for action in parser._actions for text in action.option_strings if text.startswith("--")):
            assert option.lstrip("-") in script, option


def test_bash_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main(["bash"]) == 0
    script = tmp_path / "bioclip-lite"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> list[str]:
        line = (
            f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_bioclip_lite; echo ${{COMPREPLY[@]}}"
        )
        done = subprocess.run(["bash", "-c", f"source {script}; {line}"], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("bioclip-lite", "pre") == ["preset", "predict"]
    assert completed("bioclip-lite", "predict", "--ba") == ["--back-off"]
    assert completed("bioclip-lite", "predict", "--rank", "gen") == ["genus"]


def test_the_first_stages_run_alone(tmp_path: Path) -> None:
    params = str(checkout.ROOT / "tests/tiny.yaml")
    for stage in ("index", "shard", "caption"):
        done = cli(stage, "--params", params, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        took = re.search(
            rf"^{stage}: took [\d.]+ s, ([\d.]+) s of processor time, ([\d.]+) s of them to start, (\d+) MB at most$",
            done.stdout,
            re.M,
        )
        assert took and 0 <= float(took[2]) <= float(took[1])
        assert 10 < int(took[3]) < 2000  # an interpreter, and less than all libraries together
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
