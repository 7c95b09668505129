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
from bioclip_lite.engines import dvc_lock, rehearsal
from bioclip_lite.engines.dvc_yaml import dvc_stages, files_in, ledger_path, within
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.ledger import load_ledgers
from bioclip_lite.utils.errors import UserError


class Stage(NamedTuple):
    """One row: numbers of outputs, bytes on disk, and what each engine would do."""

    name: str
    files: int  # outputs that its ledger holds and the ledger; those of dvc.lock if it is not here; 0: never made
    missing: int
    changed: int  # with another content than the ledger's
    size: int
    made: float | None  # seconds since 1970
    jobs: int  # that Snakemake would run
    news: dict[str, list[str]]  # what DVC sees changed: "deps", "params", "outs", "command" -> names
    unpushed: int | None  # files that the remote lacks; None if it was not asked


def stages(remote: bool) -> tuple[list[Stage], int, str]:
    """A row for each stage, the number of all jobs that Snakemake would run, and why it cannot say ("" if it can).

    Raises:
        UserError: this is not the root of a checkout, or one of the engines cannot say.
    """
    root = Path.cwd()
    dvc_stages.cache_clear()
    locked = dvc_lock.outputs()
    news = _news(_dvc("status", "--json")) if dvc_stages() else {}
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
            locked_files = sum(entry.get("nfiles", 1) for entry in locked.get(name, []))
            found = [file for out in (*stage["outs"], ledger_path(name)) for file in files_in(out)]
            row = Stage(
                name,
                files=len(made) or locked_files,
                missing=sum(not os.path.exists(out) for out in made) if made else max(locked_files - len(found), 0),
                changed=sum(hashes[out] not in (None, jobs[out].get("md5", hashes[out])) for out in made),
                size=sum(os.stat(file).st_size for file in found),
                made=made_at(ledger_path(name), name, root)[0],
                jobs=sum(plan.get(rule, 0) for rule in rules_of(name)),
                news=news.get(name, {}),
                unpushed=None if cloud is None else _unpushed(cloud, [*stage["outs"], ledger_path(name)]),
            )
            rows.append(row)
    return rows, sum(plan.values()), obstacle


def _dvc(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise UserError(f"`dvc {' '.join(arguments)}` failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def _news(status: dict[str, list[Any]]) -> dict[str, dict[str, list[str]]]:
    """`dvc status --json`, by stage: kind of change -> what changed."""
    news: dict[str, dict[str, list[str]]] = {}
    for stage, entries in status.items():
        found = news.setdefault(stage, {})
        for entry in entries:
            for title, names in (entry if isinstance(entry, dict) else {entry: {}}).items():
                kind = title.removeprefix("changed ")
                for name, how in names.items():
                    if name in ("params.yaml", "workflow/defaults.yaml"):
                        found.setdefault("params", []).extend(how if isinstance(how, dict) else [name])
                    else:
                        found.setdefault(kind, []).append(name)
                if not names:
                    found.setdefault(kind, [])
    return news


def _unpushed(cloud: dict[str, str], outs: list[str]) -> int:
    return sum(state in ("new", "missing") and bool(within(path, outs)) for path, state in cloud.items())


# --------------------------------------------------------------------------- what to say


def table(rows: list[Stage]) -> str:
    """Aligned text, below 100 columns."""
    lines = [["stage", "files", "changed", "size", "made", "snakemake", "changed for dvc"]]
    for row in rows:
        files = f"{row.files - row.missing:,} of {row.files:,}" if row.missing else f"{row.files:,}"
        made = datetime.fromtimestamp(row.made).astimezone().strftime("%Y-%m-%d %H:%M") if row.made else "-"
        jobs = _count(row.jobs, "job") if row.jobs else "-"
        lines.append(
            [row.name, files, f"{row.changed or '-'}", bytes_text(row.size), made, jobs, ", ".join(row.news) or "-"]
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


def next_step(rows: list[Stage], total: int, obstacle: str) -> str:
    """The one sentence: what to run next. ``total``: jobs that Snakemake would run; ``obstacle``: why it cannot say."""
    away = [row for row in rows if row.missing and not _edited(row)]
    if away and _has_remote():
        return f"run: dvc pull ({_count(sum(row.missing for row in away), 'file')} of {_names(away)} not here)"
    if obstacle:
        return "Put that right first."
    if total:
        stages = [row for row in rows if row.jobs]
        return f"run: snakemake --cores all evaluate ({_count(total, 'job')} in {_names(stages) or 'no stage'})"
    if any(row.news for row in rows):
        return "run: dvc repro (it makes nothing, and brings dvc.lock up to date)"
    if any(row.unpushed for row in rows):
        return "Everything is up to date here; run: dvc push"
    return "Everything is up to date."


def _edited(row: Stage) -> bool:
    """Whether its parameters or its code changed, so that what can be pulled is not what is wanted."""
    return bool(row.news.get("params")) or any(name.endswith((".py", ".smk")) for name in row.news.get("deps", []))


def _has_remote() -> bool:
    command = [sys.executable, "-m", "dvc", "config", "core.remote"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _names(rows: list[Stage]) -> str:
    return ", ".join(row.name for row in rows)


def disagreements(rows: list[Stage]) -> list[str]:
    """Why one engine would run stages that the other takes for up to date; not what follows from another stage."""
    reached, made_elsewhere = _reached(rows), [out for row in rows if row.news or row.jobs for out in _outs(row)]
    found: dict[str, list[str]] = {}
    for row in rows:
        names = [name for kind in row.news for name in row.news[kind]]
        own = [name for name in names if name in _outs(row) or not within(name, made_elsewhere)]
        if own and not row.jobs:
            text = f"DVC sees a change of {_first(own)}; Snakemake has nothing to make, {_excuse(row, own)}"
            found.setdefault(text, []).append(row.name)
        elif row.jobs and row.name not in reached:
            text = "Snakemake has jobs to run, DVC sees no change; python -m bioclip_lite why <output> says why"
            found.setdefault(text, []).append(row.name)
    return [f"{', '.join(names)}: {text}." for text, names in found.items()]


def _first(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if names[2:] else "")


def _outs(row: Stage) -> list[str]:
    return [*dvc_stages()[row.name]["outs"], ledger_path(row.name)]


def _excuse(row: Stage, names: list[str]) -> str:
    if row.missing:
        return "because nothing that it has to make needs what is missing"
    if all(name.endswith((".py", ".smk")) for name in names):
        return "because only comments or layout changed, or nothing that a job uses"
    return "because all is as in the ledgers, which dvc.lock does not hold"


def _reached(rows: list[Stage]) -> set[str]:
    """Stages that DVC would look at: changed ones, and those that read what a changed one makes."""
    found = {row.name for row in rows if row.news}
    for name, stage in dvc_stages().items():  # in the order of dvc.yaml: every stage after those it reads
        remade = [out for before in found for out in dvc_stages()[before]["outs"]]
        if any(within(dep, remade) for dep in stage["deps"]) or any(within(out, stage["deps"]) for out in remade):
            found.add(name)
    return found


@command("status")
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bioclip_lite status",
        description="Say, stage by stage, which outputs are here, what Snakemake and DVC would do, and what to run "
        "next. Changes nothing.",
    )
    parser.add_argument("--remote", action="store_true", help="also ask the default remote what it lacks")
    rows, total, obstacle = stages(parser.parse_args(arguments).remote)
    print(table(rows), end="\n\n")
    differing = [] if obstacle else disagreements(rows)
    if differing:
        print("The engines disagree.", *differing, sep="\n  ")
    print(*filter(None, [obstacle, next_step(rows, total, obstacle)]), sep="\n")
    return 0
