"""The rules that write ledgers hand over the paths of all outputs of a stage."""

import re
from pathlib import Path

import pytest
from snakemake.shell import shell

RULES = Path(__file__).parents[2] / "workflow" / "rules"
COMMANDS = {
    file.stem: command.encode().decode("unicode_escape")
    for file in sorted(RULES.glob("*.smk"))
    for command in re.findall(r'^ +"(.*engines\.ledger.*)"$', file.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("stage", COMMANDS)
def test_record_rule_takes_more_outputs_than_a_command_line_holds(stage: str, tmp_path: Path) -> None:
    """TreeOfLife-10M has 45,000 outputs of a stage; a command line holds two megabytes."""
    command = COMMANDS[stage].replace(f"python -m bioclip_lite.engines.ledger {stage}", "wc -l")
    paths = " ".join(f"data/{stage}/train-{n:05d}-of-a-teacher-with-a-long-name.safetensors" for n in range(45_000))
    shell(command.replace("{input:q}", paths).replace("{log}", str(tmp_path / "log")))
    assert (tmp_path / "log").read_text().strip() == "45000"


def test_every_stage_has_a_record_rule() -> None:
    assert len(COMMANDS) == 10
