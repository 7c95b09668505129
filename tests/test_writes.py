"""Kill, full disk, failing disk, missing permission, at some of the places where a stage and a command write.

``python benchmarks/reliability.py`` tries them at all of these places, for all stages and for commands.
"""

import json
import shutil
import subprocess
import sys

import pytest

from support.checkout import ROOT

SCRIPT = ROOT / "benchmarks/reliability.py"


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")
def test_nothing_is_lost_at_any_place() -> None:
    options = ["--seconds", "1.5", "--works", "preset", "relist", "caption"]
    command = [sys.executable, str(SCRIPT), "writes", *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [one["work"] for one in found] == ["preset", "relist", "caption"]
    for one in found:
        assert one["wrong"] == []
        assert one["operations"] > 10 and sum(one["tried"].values()) >= 1
