"""Files that are not what they claim to be are refused with a sentence, in little time and memory.

``python benchmarks/reliability.py`` reads more of them.
"""

import tempfile
from pathlib import Path

import pytest

from fuzz import inputs, runner
from fuzz.inputs import KINDS

FEW = 60


@pytest.mark.parametrize("name", KINDS)
def test_good_files_are_read(name: str) -> None:
    for content in KINDS[name].good():
        with tempfile.TemporaryDirectory() as folder:
            KINDS[name].read(Path(folder), content)


@pytest.mark.parametrize("name", KINDS)
def test_changed_files_and_bombs_do_no_harm(name: str) -> None:
    found = runner.run(KINDS[name], range(-runner.BOMBS, FEW))
    assert found.faults == {}
    assert found.inputs == FEW + len(KINDS[name].bombs())


def test_a_fault_a_hang_and_a_hunger_for_memory_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above rely on this."""
    monkeypatch.setattr(runner, "LONGEST", 1.0)
    harmful = {b"fault": lambda: [][1], b"hang": lambda: sum(iter(int, 1)), b"hungry": lambda: bytes(400_000_000)}
    kind = inputs.Kind("harm", list, lambda _, content: harmful[content](), bombs=lambda: [*harmful])
    found = runner.run(kind, range(-runner.BOMBS, 0))
    assert [(what.split(" ")[0], numbers) for what, numbers in found.faults.items()] == [
        ("IndexError", [-3]),
        ("hang", [-2]),
        ("MemoryError", [-1]),
    ]
