"""Try what may go wrong while files are written, and with the files that people give us; write docs/reliability.md.

    python benchmarks/reliability.py [writes|fuzz] [--seconds 12] [--inputs 2000] [--works index shard] [--json]

``writes`` lists every operation by which a stage or command writes, renames, links or deletes (tests/support/faults.c,
in front of the C library), and at the first and the last one of each site kills the process, or answers that the disk
is full, that it fails, or that permission is missing; then it lets the work run again. ``fuzz`` reads changed files and
bombs. With neither both are done and the page is written. ``--seconds``: of processor time for the tries of one work,
0 for all of them.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "workflow")]
PAGE = ROOT / "docs" / "reliability.md"

from bioclip_lite.utils.files import replacing  # noqa: E402
from fuzz import inputs, runner  # noqa: E402  (tests/ is no package)
from support import disturbances, faults, works  # noqa: E402

INTRODUCTION = """# Reliability

A computer stops, a disk is full, or a file is not what it claims to be: this page tells what was tried, and what was
lost. It is written by `python benchmarks/reliability.py`{options}, on {processor}; it took {seconds:.0f} s of processor
time. A slice of it runs with the tests.
"""
WRITES = """
## Each place that writes

A work ran once before with other parameters, so that there is an earlier result to lose. A *site* is a function that
asks for one kind of operation (open, write, mkdir, rename, link, delete, chmod) on files of one name, numbers and
random parts aside; libraries in C and Rust are seen too. At the first and last operation of a site the process was
killed (half of a write done), or the operation failed: with ENOSPC from then on, with EIO and EACCES once. Then the
work ran again. *Lost* counts tries after which an earlier result was missing, a file under its final name was half
written, a program said nothing or printed a traceback, or the next run did not give the content of an undisturbed
one. Files that hold measured times are only looked for.

| work | operations | places | SIGKILL | ENOSPC | EIO | EACCES | went on | lost |
|---|---|---|---|---|---|---|---|---|
"""
AFTER = """
Counts are tries made of tries possible; {limit}. *Went on*: the work ended well in spite of the fault, with the right
content. Not covered: processes that a stage starts (TensorFlow's converter, ExifTool, Node, training processes), the
engines themselves, `push` and `pull`, and the renames of the safetensors library, which go past the C library.
Kills of both engines at random moments, full disks and read-only folders are in `tests/test_faults.py`.
"""
FUZZ = """
## Files that are not what they claim

Files of each kind with one to four changes: bits, bytes, numbers and words exchanged, parts deleted, repeated, moved or
cut off; and *bombs*, which are small and claim or unpack to hundreds of megabytes, or are nested or refer to themselves
without end. Each was read under limits: {longest} s of processor time, and memory as in the table. A *fault* is any
error that is not a sentence for the user, a hang or a crash.

| kind | inputs | bombs | refused | memory of inputs, MB | limit, MB | faults |
|---|---|---|---|---|---|---|
"""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("writes", "fuzz"), help="only this (default: both, and the page)")
    parser.add_argument("--seconds", type=float, default=12, help="per work (default: 12)")
    parser.add_argument("--inputs", type=int, default=2000, help="changed files of each kind (default: 2000)")
    parser.add_argument("--works", nargs="+", choices=works.WORKS, default=[*works.WORKS])
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    options = parser.parse_args(arguments)
    if not faults.preloaded(sys.argv):
        print("this needs Linux and a C compiler", file=sys.stderr)
        return 1
    writes = _writes(options) if options.part != "fuzz" else []
    fuzzed = _fuzz(options) if options.part != "writes" else []
    if options.json:
        print(json.dumps([*map(vars, writes), *map(vars, fuzzed)], indent=1))
    if options.part is None and len(writes) == len(works.WORKS):
        given = "".join(f" {word}" for word in arguments)
        with replacing(PAGE) as scratch:
            scratch.write_text(_page(writes, fuzzed, options, given), encoding="utf-8")
    return int(any(one.wrong for one in writes) or any(one.faults for one in fuzzed))


def _writes(options: argparse.Namespace) -> list[disturbances.Found]:
    found = []
    for name in options.works:
        with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as folder:
            place = Path(folder).resolve() / "work"
            found.append(disturbances.disturb(works.WORKS[name], place, options.seconds or None))
        print(f"{name}: {found[-1].tried.total()} tries", *found[-1].wrong, sep="\n  ", file=sys.stderr, flush=True)
    return found


def _fuzz(options: argparse.Namespace) -> list[runner.Found]:
    found = []
    for kind in inputs.KINDS.values():
        found.append(runner.run(kind, range(-runner.BOMBS, options.inputs)))
        lines = [f"{len(numbers)} of {what}, e.g. {numbers[0]}" for what, numbers in found[-1].faults.items()]
        print(f"{kind.name}: {found[-1].inputs} inputs", *lines, sep="\n  ", file=sys.stderr, flush=True)
    return found


def _page(writes: list[disturbances.Found], fuzzed: list[runner.Found], options: argparse.Namespace, given: str) -> str:
    used = sum(os.times()[:4])
    limit = f"a work's tries end after {options.seconds:g} s of processor time" if options.seconds else "all were made"
    return "".join(
        [
            INTRODUCTION.format(options=given and f" with{given}", processor=_processor(), seconds=used),
            WRITES,
            *map(_row, writes),
            _sum(writes),
            AFTER.format(limit=limit),
            *_named("Lost", (line for one in writes for line in one.wrong)),
            FUZZ.format(longest=runner.LONGEST),
            *(_fuzz_row(one, options.inputs) for one in fuzzed),
            *_named("Faults", (f"{one.kind}: {what}" for one in fuzzed for what in one.faults)),
        ]
    )


def _row(one: disturbances.Found) -> str:
    tries = " | ".join(f"{one.tried[name]} of {one.possible[name]}" for name in faults.FAULTS)
    return f"| {one.work} | {one.operations} | {len(one.places)} | {tries} | {one.went_on} | {len(one.wrong)} |\n"


def _sum(found: list[disturbances.Found]) -> str:
    tries = [
        (sum(one.tried[name] for one in found), sum(one.possible[name] for one in found)) for name in faults.FAULTS
    ]
    cells: list[Any] = [sum(one.operations for one in found), sum(len(one.places) for one in found)]
    cells += [f"{tried} of {possible}" for tried, possible in tries]
    cells += [sum(one.went_on for one in found), sum(len(one.wrong) for one in found)]
    return f"| all | {' | '.join(map(str, cells))} |\n"


def _fuzz_row(one: runner.Found, changed: int) -> str:
    kind = inputs.KINDS[one.kind]
    faults_of = sum(map(len, one.faults.values()))
    cells = (one.kind, changed, one.inputs - changed, one.refused, f"{one.peak / 1e6:.0f}", f"{kind.most / 1e6:.0f}")
    return f"| {' | '.join(map(str, cells))} | {faults_of} |\n"


def _named(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"- {line}\n" for line in lines]
    return [f"\n{title}:\n\n", *found] if found else []


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "an unknown processor")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
