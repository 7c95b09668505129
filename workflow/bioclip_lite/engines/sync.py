"""Keep Snakemake and DVC in agreement: Snakemake decides by content what DVC decides by content.

Snakemake compares modification times and its private records in ``.snakemake/metadata``; neither survives
``git clone`` and ``dvc pull``. DVC compares content, but only per stage. Three functions join them:

``ledger.write_ledger``  The last job of every stage stores, per output, what made it: rule, code, parameters and the
                         MD5 of each input and of the output. The ledger is an output of the DVC stage and travels with
                         the artifacts.
``sync``                 Before Snakemake builds its graph, every output is compared with the ledgers. Where content
                         proves it current, Snakemake's record and the file time are brought in line; where it does not,
                         the file is made to look old. Times and records of outputs change, contents never do. The
                         fingerprints of the stages' code are brought up to date as well.
``commit.commit``        After a run that Snakemake itself started, dvc.lock is updated.

Two private things of Snakemake are used, the form of its records and where they lie (``snakemake_records``); the pinned
version and its tests guard them.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bioclip_lite.engines import snakemake_records, stage_code
from bioclip_lite.engines.dvc_yaml import dvc_stages, files_in, ledger_path, sources
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.ledger import AT_START, UNCOMMITTED, files_of_jobs, incomplete, load_ledgers, locked_ledgers
from bioclip_lite.engines.records import Records

JUST_AFTER_NS = 1_000_000  # an output gets a time this much after its newest input


def in_order(jobs: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield every output after the outputs that it was made from."""
    users: dict[str, list[str]] = {}
    waiting = {}
    for out, job in jobs.items():
        inputs = [path for path in job["in"] if path in jobs]
        waiting[out] = len(inputs)
        for path in inputs:
            users.setdefault(path, []).append(out)
    ready = deque(out for out, count in waiting.items() if count == 0)
    while ready:
        out = ready.popleft()
        yield out
        for user in users.get(out, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)


def sync() -> tuple[dict[str, dict[str, Any]], Hashes] | None:
    """Bring Snakemake's records and the times of outputs in line with content. Call before the graph is built.

    Returns:
        Ledgers and contents, for ``run_cache.fetch``; None where there is nothing to do, or another Snakemake works
        here and has synced already.

    Raises:
        UserError: a file is not as DVC or a person may have left it, and what to do.
    """
    dvc_stages.cache_clear()
    if not dvc_stages() or any(Path(".snakemake/locks").glob("*.lock")):
        return None
    locked = locked_ledgers()
    jobs, hashes = load_ledgers(), Hashes()
    read = ["params.yaml", "workflow/defaults.yaml", *sources()]
    hashes.read_ahead([*files_of_jobs(jobs), *read])
    stage_code.refresh(hashes.__getitem__)
    records = Records(hashes)
    changes = _align(jobs, hashes, records)
    for stage in {*incomplete(jobs), *_uncommitted(hashes, locked)}:
        if os.path.exists(ledger_path(stage)):
            records.doubt(ledger_path(stage))
    changes.unknown += [path for path in _unrecorded(jobs, records) if records.forget(path)]
    AT_START.parent.mkdir(parents=True, exist_ok=True)
    AT_START.write_text(json.dumps({file: hashes[file] for file in read}), encoding="utf-8")
    hashes.save()
    _report(changes, hashes)
    return jobs, hashes


@dataclass
class _Changes:
    """Counts of outputs whose record or time was set, and the outputs of unknown origin."""

    learned: int = 0
    moved: int = 0
    unknown: list[str] = field(default_factory=list)


def _align(jobs: dict[str, dict[str, Any]], hashes: Hashes, records: Records) -> _Changes:
    """Set the record and the time of every output in the ledgers by what its content proves."""
    changes = _Changes()
    # A ledger that came from elsewhere, say by `dvc checkout`, is more reliable than the records of this workspace
    # about a file that is the same in both; one that was written here lacks the jobs of an unfinished run.
    ledgers = [ledger_path(stage) for stage in dvc_stages()]
    arrived = {out for path in ledgers if path in jobs and not records.describes(path) for out in jobs[path]["in"]}

    @cache  # outputs come in order: the time of an input is final when it is first asked for
    def input_time(path: str) -> int | None:
        return records.time(path, as_input=True) if os.path.exists(path) else None

    for out in in_order(jobs):
        job = jobs[out]
        if snakemake_records.in_progress(out):
            continue
        if not os.path.lexists(out):
            changed = any(hashes[path] not in (None, md5) for path, md5 in job["in"].items())
            records.keep_absent(out, job, changed)
        elif "md5" in job and hashes[out] != job["md5"]:
            if not records.describes(out) and records.forget(out):  # neither the ledger's nor a run's in this workspace
                changes.unknown.append(out)
        else:
            if out in arrived or not records.describes(out):
                records.learn(out, job)
                changes.learned += 1
            changes.moved += _set_time(out, job, hashes, records, input_time)
    return changes


def _report(changes: _Changes, hashes: Hashes) -> None:
    if changes.learned or changes.moved or changes.unknown:
        print(
            f"provenance: {changes.learned} outputs recognised, {changes.moved} times set right, "
            f"{len(changes.unknown)} of unknown origin; {hashes.read} files read",
            file=sys.stderr,
        )
    for path in changes.unknown[:5]:
        print(f"provenance: no recorded job made {path} as it is; it will be made again", file=sys.stderr)


def _set_time(
    out: str, job: dict[str, Any], hashes: Hashes, records: Records, input_time: Callable[[str], int | None]
) -> bool:
    """Make ``out`` newer than its inputs if they are unchanged, else older than those that changed.

    Returns:
        Whether the time had to be set.
    """
    times = {path: ns for path in job["in"] if (ns := input_time(path)) is not None}
    changed = [ns for path, ns in times.items() if hashes[path] != job["in"][path]]
    if changed:
        if records.time(out) < min(changed):
            return False
        records.set_time(out, min(changed) - JUST_AFTER_NS)
    else:
        if not times or records.time(out) > max(times.values()):
            return False
        records.set_time(out, max(times.values()) + JUST_AFTER_NS)
    return True


def _unrecorded(jobs: dict[str, dict[str, Any]], records: Records) -> Iterator[str]:
    """Yield the files in output folders that neither a ledger nor a run in this workspace accounts for."""
    for stage in dvc_stages().values():
        for path in (file for out in stage["outs"] if out not in jobs for file in files_in(out)):
            if path in jobs or snakemake_records.in_progress(path) or records.describes(path):
                continue
            folders = [str(folder) for folder in Path(path).parents if str(folder) != "."]
            if not any(folder in jobs or records.describes(folder) for folder in folders):
                yield path


def _uncommitted(hashes: Hashes, locked: dict[str, str | None]) -> Iterator[str]:
    """Yield the stages that a run has completed and was killed before it could record them in dvc.lock.

    None of their jobs is left to run, and Snakemake, with nothing to do, would not record them either.
    """
    for stage in dvc_stages():
        if hashes[ledger_path(stage)] == locked.get(stage):
            (UNCOMMITTED / stage).unlink(missing_ok=True)
        elif (UNCOMMITTED / stage).exists() and "DVC_STAGE" not in os.environ:
            yield stage
