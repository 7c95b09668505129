"""Disturb a work at every place where it writes, let it run again, and say what was lost."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support import faults
from support.faults import FAULTS, IMPOSSIBLE, KILL, Ended, Place
from support.works import Work, copy


@dataclass
class Found:
    """The outcome of a work's tries."""

    work: str
    operations: int  # in an undisturbed run
    places: list[Place]  # that were chosen
    possible: Counter[str] = field(default_factory=Counter)  # tries by fault
    tried: Counter[str] = field(default_factory=Counter)  # by fault
    went_on: int = 0  # tries after which the program had done its work all the same
    wrong: list[str] = field(default_factory=list)  # what a try left behind, with its place


@dataclass(frozen=True)
class _Undisturbed:
    before: dict[str, str]
    after: dict[str, str]
    varying: frozenset[str]  # files that hold measured times


def disturb(work: Work, folder: Path, seconds: float | None = None, random: str = "") -> Found:
    """Try each fault at the first and the last operation of each site.

    Args:
        folder: to work in; it does not exist yet.
        seconds: of processor time, after which no further try begins; the tries come in an order by hash, so that those
            that are left out are not all of one kind. None: all are made.
        random: another order.
    """
    state, run = folder / "state", folder / "run"
    state.mkdir(parents=True)
    prepared = faults.end(state, _returning_0(work.prepare))
    assert prepared.status == 0, f"{work.name}: {prepared.printed}"
    undisturbed, places = _undisturbed(work, state, run)
    found = Found(work.name, len(places), faults.chosen(places))
    tries = [
        (place, name) for place in found.places for name in FAULTS if name not in IMPOSSIBLE.get(place.operation, ())
    ]
    found.possible.update(name for _, name in tries)
    tries.sort(key=lambda one: hashlib.md5(f"{random}{one[0].site}{one[0].number}{one[1]}".encode()).digest())
    end = _used() + (seconds or float("inf"))
    for place, name in tries:
        if _used() > end:
            break
        copy(state, run)
        for fault in _try(work, run, place, name, undisturbed, found):
            found.wrong.append(f"{work.name}: {name} at {place.operation} {place.path} ({place.caller}): {fault}")
    return found


def _used() -> float:
    """Processor time of this process and of its children that have ended, in seconds."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _returning_0(prepare: Callable[[], None]) -> Callable[[], int]:
    def program() -> int:
        prepare()
        return 0

    return program


def _undisturbed(work: Work, state: Path, run: Path) -> tuple[_Undisturbed, list[Place]]:
    results = []
    for number in range(2):
        copy(state, run)
        ended = faults.end(run, work.program, places=run.with_suffix(f".places{number}"))
        assert ended.status == 0, f"{work.name}: {ended.printed}"
        results.append(faults.contents(run))
    first, second = results
    varying = frozenset(name for name in first if first[name] != second.get(name))
    return _Undisturbed(faults.contents(state), first, varying), faults.listed(run.with_suffix(".places1"))


def _try(work: Work, run: Path, place: Place, name: str, undisturbed: _Undisturbed, found: Found) -> list[str]:
    """Cause a fault, run again, and list what is wrong after each."""
    ended = faults.end(run, work.program, place.number, FAULTS[name])
    found.tried[name] += 1
    found.went_on += ended.status == 0
    left = faults.contents(run)
    wrong = _said(ended, FAULTS[name]) + _left(left, undisturbed)
    if ended.status == 0:
        wrong += _differing(left, undisturbed, "although it said that all was well")
        return wrong
    again = faults.end(run, work.program)
    if again.status:
        return [*wrong, f"another run ends with {again.status}: {_last_line(again.printed)}"]
    return wrong + _differing(faults.contents(run), undisturbed, "after another run")


def _said(ended: Ended, error: int) -> list[str]:
    """List what is wrong with the end of the program."""
    if not ended.struck:
        return ["the fault did not happen"]
    if error == KILL or ended.status == 0:
        return []
    if "Traceback" in ended.printed or ended.status not in (1, 75):
        return [f"status {ended.status}, and no sentence: {_last_line(ended.printed)}"]
    return []


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing printed"])[-1][:200]


def _left(left: dict[str, str], undisturbed: _Undisturbed) -> list[str]:
    """Files that are neither as before nor as they were to become, and files that are gone."""
    before, after = undisturbed.before, undisturbed.after
    wrong = [
        f"half: {name}"
        for name in left.keys() & after.keys() - undisturbed.varying
        if left[name] not in (before.get(name), after[name])
    ]
    return wrong + [f"lost: {name}" for name in before.keys() & after.keys() - left.keys()]


def _differing(left: dict[str, str], undisturbed: _Undisturbed, when: str) -> list[str]:
    names = (left.keys() ^ undisturbed.after.keys()) | {
        name for name in left.keys() & undisturbed.after.keys() if left[name] != undisturbed.after[name]
    }
    return [f"other content {when}: {name}" for name in sorted(names - undisturbed.varying)]
