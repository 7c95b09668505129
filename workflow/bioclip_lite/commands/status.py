"""``python -m bioclip_lite status``: stage by stage, what is here, what both engines would do, and what to do next.

Snakemake's view is one dry run in a stand-in (see rehearsal), DVC's is `dvc status`. Nothing in the workspace changes.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from bioclip_lite.commands.common import command
from bioclip_lite.commands.why import made_at, rules_of
from bioclip_lite.engines import dvc_lock, rehearsal, stage_code
from bioclip_lite.engines.code_changes import changed_code, edited_since_lock
from bioclip_lite.engines.dvc_yaml import dvc_stages, files_in, ledger_path, within
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.ledger import load_ledgers
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError


class Stage(NamedTuple):
    """One row: numbers of outputs, bytes on disk, and what each engine would do."""

    name: str
    files: int  # outputs in its ledger, and the ledger; those in dvc.lock if the ledger is not here; 0: never made
    missing: int
    changed: int  # with another content than the ledger's
    size: int  # bytes
    made: float | None  # seconds since 1970
    jobs: int  # that Snakemake would run
    changes: dict[str, list[str]]  # that DVC sees: "deps", "params", "outs", "command" -> names
    unpushed: int | None  # files that the remote lacks; None if it was not asked


class Status(NamedTuple):
    """All stages, and what concerns none of them alone."""

    rows: list[Stage]
    jobs: int  # that Snakemake would run
    obstacle: str  # why Snakemake cannot plan; "" if it can
    comments: list[str]  # files of code of which only comments or layout changed since DVC ran stage code


def stages(remote: bool) -> Status:
    """Compare outputs with ledgers, and ask both engines what they would do.

    Args:
        remote: whether to ask the default remote what it lacks.

    Raises:
        UserError: this is not the root of a checkout, or one of the engines fails.
    """
    root = Path.cwd()
    if not Path("dvc.yaml").exists():
        raise UserError(f"{root} has no dvc.yaml; run this in the root of the repository")
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        raise UserError(f"{root} is no git repository, but DVC needs one to say what has changed; git clone it")
    dvc_stages.cache_clear()
    locked = dvc_lock.stages()
    changes, comments = _changes() if dvc_stages() else ({}, [])
    cloud = _dvc("status", "--cloud", "--json") if remote else None
    with rehearsal.stand_in():
        jobs, hashes = load_ledgers(), Hashes()
        plan, obstacle, rows = {}, "", []
        try:
            plan = rehearsal.counts("evaluate")
        except UserError as error:  # e.g. the photographs are not here yet
            obstacle = str(error)
        for name, stage in dvc_stages().items():
            made = [out for out in jobs if out == ledger_path(name) or within(out, stage["outs"])]
            locked_files = sum(entry.get("nfiles", 1) for entry in locked.get(name, {}).get("outs", []))
            present = [file for out in (*stage["outs"], ledger_path(name)) for file in files_in(out)]
            row = Stage(
                name,
                files=len(made) or locked_files,
                missing=sum(not os.path.exists(out) for out in made) if made else max(locked_files - len(present), 0),
                changed=sum(hashes[out] not in (None, jobs[out].get("md5", hashes[out])) for out in made),
                size=sum(os.stat(file).st_size for file in present),
                made=made_at(ledger_path(name), name, root)[0],
                jobs=sum(plan.get(rule, 0) for rule in rules_of(name)),
                changes=changes.get(name, {}),
                unpushed=None if cloud is None else _unpushed(cloud, [*stage["outs"], ledger_path(name)]),
            )
            rows.append(row)
    return Status(rows, sum(plan.values()), obstacle, comments)


def _changes() -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Ask DVC what has changed.

    Returns:
        Changes by stage and kind, with source files named in place of fingerprints; and files of which only comments
        or layout changed, which stage ``code`` has to read again.
    """
    changes = _by_stage(_dvc("status", "--json"))
    code = changes.pop(stage_code.STAGE, {})
    recoded = changed_code()
    for stage in dvc_stages():
        kinds = changes.setdefault(stage, {})
        fingerprint = stage_code.path(stage).as_posix()
        deps = [name for name in kinds.pop("deps", []) if name != fingerprint] + recoded.get(stage, [])
        if deps:
            kinds["deps"] = deps
    if recoded or not code:
        return changes, []
    return changes, edited_since_lock() or [name for names in code.values() for name in names]


def _dvc(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise UserError(f"`dvc {' '.join(arguments)}` failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def _by_stage(status: dict[str, list[Any]]) -> dict[str, dict[str, list[str]]]:
    """`dvc status --json`, by stage: kind of change -> what changed."""
    changes: dict[str, dict[str, list[str]]] = {}
    for stage, entries in status.items():
        kinds = changes.setdefault(stage, {})
        for entry in entries:
            for title, names in (entry if isinstance(entry, dict) else {entry: {}}).items():
                kind = title.removeprefix("changed ")
                for name, details in names.items():
                    if name in ("params.yaml", "workflow/defaults.yaml"):
                        kinds.setdefault("params", []).extend(details if isinstance(details, dict) else [name])
                    else:
                        kinds.setdefault(kind, []).append(name)
                if not names:
                    kinds.setdefault(kind, [])
    return changes


def _unpushed(cloud: dict[str, str], outs: list[str]) -> int:
    return sum(state in ("new", "missing") and bool(within(path, outs)) for path, state in cloud.items())


# --------------------------------------------------------------------------- the report


def table(rows: list[Stage]) -> str:
    """Aligned text, below 100 columns."""
    lines = [["stage", "files", "changed", "size", "made", "snakemake", "changed for dvc"]]
    for row in rows:
        files = f"{row.files - row.missing:,} of {row.files:,}" if row.missing else f"{row.files:,}"
        made = datetime.fromtimestamp(row.made).astimezone().strftime("%Y-%m-%d %H:%M") if row.made else "-"
        jobs = _count(row.jobs, "job") if row.jobs else "-"
        lines.append(
            [row.name, files, f"{row.changed or '-'}", bytes_text(row.size), made, jobs, ", ".join(row.changes) or "-"]
        )
    if rows[0].unpushed is not None:
        lines[0].append("remote")
        for line, row in zip(lines[1:], rows, strict=True):
            line.append(f"{row.unpushed:,} missing" if row.unpushed else "pushed")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numbers = {1, 2, 3, 5}
    aligned = [
        [text.rjust(widths[i]) if i in numbers else text.ljust(widths[i]) for i, text in enumerate(line)]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def bytes_text(size: float) -> str:
    """A number of bytes as people read it, e.g. "12 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def next_step(status: Status) -> str:
    """The one sentence that names the next command."""
    away = [row for row in status.rows if row.missing and not _edited(row)]
    if away and _has_remote():
        return f"run: dvc pull ({_count(sum(row.missing for row in away), 'file')} of {_names(away)} not here)"
    if status.obstacle:
        return "Put that right first."
    if status.jobs:
        concerned = _names([row for row in status.rows if row.jobs]) or "no stage"
        return f"run: snakemake --cores all evaluate ({_count(status.jobs, 'job')} in {concerned})"
    if status.comments or any(row.changes for row in status.rows):
        return "run: dvc repro (it makes nothing, and brings dvc.lock up to date)"
    if any(row.unpushed for row in status.rows):
        return "Everything is up to date here; run: dvc push"
    return "Everything is up to date."


def _edited(row: Stage) -> bool:
    """Whether its parameters or its code changed, so that what can be pulled is not what is wanted."""
    return bool(row.changes.get("params")) or any(map(_is_code, row.changes.get("deps", [])))


def _is_code(name: str) -> bool:
    return name.startswith(("workflow/bioclip_lite/", "workflow/rules/", "workflow/code/"))


def _has_remote() -> bool:
    command = [sys.executable, "-m", "dvc", "config", "core.remote"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _names(rows: list[Stage]) -> str:
    return ", ".join(row.name for row in rows)


def disagreements(status: Status) -> list[str]:
    """Why one engine would run stages that the other takes for up to date; not what follows from another stage."""
    rows = status.rows
    reached, remade = _reached(rows), [out for row in rows if row.changes or row.jobs for out in _outs(row)]
    stages_by_text: dict[str, list[str]] = {}
    for row in rows:
        names = [name for kind in row.changes for name in row.changes[kind]]
        own = [name for name in names if name in _outs(row) or not within(name, remade)]
        if own and not row.jobs:
            text = f"DVC sees a change of {_first(own)}; Snakemake has nothing to make, {_excuse(row, own)}"
            stages_by_text.setdefault(text, []).append(row.name)
        elif row.jobs and row.name not in reached:
            text = "Snakemake has jobs to run, DVC sees no change; python -m bioclip_lite why <output> says why"
            stages_by_text.setdefault(text, []).append(row.name)
    if status.comments:
        text = f"DVC sees a change of {_first(status.comments)}; Snakemake has nothing to make"
        stages_by_text[f"{text}, because only comments or layout changed"] = [stage_code.STAGE]
    return [f"{', '.join(names)}: {text}." for text, names in stages_by_text.items()]


def _first(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if names[2:] else "")


def _outs(row: Stage) -> list[str]:
    return [*dvc_stages()[row.name]["outs"], ledger_path(row.name)]


def _excuse(row: Stage, names: list[str]) -> str:
    if row.missing:
        return "because nothing that it has to make needs what is missing"
    if all(map(_is_code, names)):
        return "because no job uses what changed"
    return "because all is as in the ledgers, which dvc.lock does not hold"


def _reached(rows: list[Stage]) -> set[str]:
    """Stages that DVC would look at: changed ones, and those that read what a changed one makes."""
    reached = {row.name for row in rows if row.changes}
    for name, stage in dvc_stages().items():  # in the order of dvc.yaml: every stage after those it reads
        remade = [out for before in reached for out in dvc_stages()[before]["outs"]]
        if any(within(dep, remade) for dep in stage["deps"]) or any(within(out, stage["deps"]) for out in remade):
            reached.add(name)
    return reached


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "status",
        "List the stages: which outputs are here, what Snakemake and DVC would do, and what to run next. Changes "
        "nothing.",
    )
    parser.add_argument("--remote", action="store_true", help="also list what the default remote lacks")
    return parser


@command("status")
def main(arguments: list[str]) -> int:
    status = stages(parser().parse_args(arguments).remote)
    print(table(status.rows), end="\n\n")
    differing = [] if status.obstacle else disagreements(status)
    if differing:
        print("The engines disagree.", *differing, sep="\n  ")
    print(*filter(None, [status.obstacle, next_step(status)]), sep="\n")
    return 0
