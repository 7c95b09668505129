"""``python -m bioclip_lite why <file>``: what made a file, from what, with which parameters, when - and would it again?

What made it is read from the provenance ledgers and from Snakemake's records of this workspace. Whether it would be
made again is Snakemake's own answer (a dry run, see rehearsal); the differences that explain it are those between
ledger and present content. Nothing in the workspace is changed.
"""

import argparse
import ast
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from bioclip_lite.commands.common import command
from bioclip_lite.engines import rehearsal, snakemake_records, stage_code
from bioclip_lite.engines.dvc_yaml import dvc_stages, inputs, ledger_path, within
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.ledger import load_ledgers, locked_ledgers, made_from
from bioclip_lite.engines.records import Records
from bioclip_lite.params.jobs import of_job
from bioclip_lite.teacher_cache.ensemble import FIRST, teacher_sections
from bioclip_lite.utils import yaml_files
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.defaults import complete
from bioclip_lite.utils.errors import UserError

SHOWN = 5  # of many similar files or reasons
HASH = 12  # digits of an MD5 that are shown
Jobs = dict[str, dict[str, Any]]
Content = Callable[[str], str | None]


def why(path: str) -> list[str]:
    """The answer for a file of the workspace, line by line.

    Raises:
        UserError: ``path`` is no file of the pipeline, or this is not the root of a checkout.
    """
    root = Path.cwd()
    path = os.path.relpath(path)
    with rehearsal.stand_in():
        jobs, now = load_ledgers(), cache(Hashes().__getitem__)
        outs = [*jobs, *(out for stage in dvc_stages().values() for out in stage["outs"])]
        made_as = path if path in jobs else within(path, jobs)
        if made_as:
            return _about_output(path, made_as, jobs, now, root)
        if within(path, outs) or path in map(ledger_path, dvc_stages()):
            return _about_unrecorded(path)
        if Path(path).parent == stage_code.FOLDER:
            raise UserError(f"{path} lists the code of stage {Path(path).stem}; ask why of a file in it")
        if path == "params.yaml":
            raise UserError("params.yaml is read section by section; ask why of an output of the stage that you mean")
        stages = [name for name in dvc_stages() if within(path, inputs(name))]
        if stages and os.path.exists(path):
            return _about_source(path, stages, jobs, now)
    if os.path.exists(root / path):
        raise UserError(f"{path} is neither made nor read by a stage of dvc.yaml, so `why` cannot explain it")
    raise UserError(f"{path} does not exist, and no rule makes it; outputs are in data/<stage>/ (see data/README.md)")


# --------------------------------------------------------------------------- an output


def _about_output(path: str, out: str, jobs: Jobs, now: Content, root: Path) -> list[str]:
    job, stage = jobs[out], stage_of(out)
    lines = [path if path == out else f"{path} (in the folder {out}, which one job makes)"]
    lines.append(f"  made by     stage {stage}, rule {job['rule']} (workflow/rules/{stage}.smk)")
    lines.append(f"  when        {when(out, stage, root)}")
    lines.append(f"  MD5         {_content(out, job, stage, now, root)}")
    if "code" in job:
        lines.append(f"  command     {job['code']}")
    for text in job.get("params") or []:
        lines += [f"  parameters of {stage}", *_indented(_readable(text), 4)]
    lines += _inputs(made_from(job), now)
    return lines + _verdict(out, jobs, now, root)


def stage_of(out: str) -> str:
    return next(name for name, stage in dvc_stages().items() if out == ledger_path(name) or within(out, stage["outs"]))


def when(out: str, stage: str, root: Path) -> str:
    seconds, commit = made_at(out, stage, root)
    if seconds is None:
        return "elsewhere, at an unknown time: no commit of dvc.lock holds its ledger"
    return (
        f"elsewhere; recorded by commit {commit}, {_time(seconds)}"
        if commit
        else f"{_time(seconds)}, in this workspace"
    )


def made_at(out: str, stage: str, root: Path) -> tuple[float | None, str]:
    """Seconds since 1970, and the commit they are of; "" if a job of this workspace made ``out`` then.

    The best source available: Snakemake's record if this workspace made it, else the first commit of dvc.lock with the
    ledger. A record that sync wrote from a ledger names no command, and its times are those of the file here.
    """
    records = Records(Hashes())
    record = snakemake_records.read(out)
    if record.get("shellcmd") and os.path.lexists(out) and records.describes(out):
        return record["starttime"], ""
    md5 = locked_ledgers().get(stage)
    if md5:
        search = ["git", "-C", str(root), "log", "--reverse", f"-S{md5}", "--format=%h of %an%x09%at", "--", "dvc.lock"]
        commits = subprocess.run(search, capture_output=True, encoding="utf-8", errors="replace").stdout.splitlines()
        if commits:
            commit, seconds = commits[0].split("\t")
            return float(seconds), commit
    return None, ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _content(out: str, job: dict[str, Any], stage: str, now: Content, root: Path) -> str:
    recorded = job["md5"] if "md5" in job else locked_ledgers().get(stage)
    holder = "its ledger" if "md5" in job else "dvc.lock"
    if now(out) is None:
        return f"{recorded} in {holder}; {_missing(out, root)}"
    if recorded is None:
        return f"{now(out)}; dvc.lock does not hold it"
    return f"{now(out)}, as in {holder}" if now(out) == recorded else f"{now(out)}, but {recorded} in {holder}"


def _missing(out: str, root: Path) -> str:
    return "the file is not here (dvc pull brings what was pushed)" if (root / ".dvc").is_dir() else "it is not here"


def _inputs(inputs: dict[str, str | None], now: Content) -> list[str]:
    """Inputs in two groups; shards of one kind, if all are as they were, in one line."""
    lines = []
    for title, chosen in (
        ("code", [path for path in inputs if not path.startswith("data/")]),
        ("data", [path for path in inputs if path.startswith("data/")]),
    ):
        if chosen:
            lines.append(f"  inputs: {title}")
        for name, paths in _alike(path for path in chosen if now(path) == inputs[path]):
            if len(paths) > SHOWN:
                lines.append(f"    {'(as they were)':{HASH}}  {name} ({len(paths):,} files)")
            else:
                lines += [f"    {_short(inputs[path])}  {path}" for path in paths]
        for path in chosen:
            if now(path) != inputs[path]:
                state = f"now {_short(now(path))}" if now(path) else "not here"
                lines.append(f"    {_short(inputs[path])}  {path}  <- {state}")
    return lines


def _short(md5: str | None) -> str:
    return (md5 or "unknown")[:HASH]


def _alike(paths: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Paths by their name without numbers: data/shard/train-*.tar -> [data/shard/train-00000.tar, ...]."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(re.sub(r"\d{5}", "*", path), []).append(path)
    return list(groups.items())


def _readable(text: str) -> str:
    """A recorded parameter as YAML; as it is if it holds no JSON object."""
    value = _section(text)
    return text if value is None else yaml_files.dump(value).rstrip()


def _section(text: str) -> dict[str, Any] | None:
    """Snakemake records the representation of a parameter: quotes around the JSON of a section."""
    try:
        value = json.loads(ast.literal_eval(text))
    except (ValueError, TypeError, SyntaxError):
        return None
    return value if isinstance(value, dict) else None


def _indented(text: str, by: int) -> list[str]:
    return [" " * by + line for line in text.splitlines()]


# --------------------------------------------------------------------------- would it run again?


def _verdict(out: str, jobs: Jobs, now: Content, root: Path) -> list[str]:
    causes = {path: list(differences(path, jobs, now)) for path in [out, *_upstream(out, jobs)]}
    try:
        planned = rehearsal.jobs(out)
    except UserError as error:  # e.g. after a partial pull
        return [f"  would it run again?  unknown: {error}", *_reasons("  differences:", causes)]
    for job in planned:
        for path in set(job.outputs) & set(causes):
            causes[path] += _rule_changes(job, jobs[path])
    own = next((job for job in planned if out in job.outputs), None)
    if own is None:
        lines = ["  would it run again?  no"]
        lines += _reasons("  but note:", causes)
        return lines if any(causes.values()) else [*lines, "    content, code and parameters are those of the ledgers"]
    others = len(planned) - 1
    lines = [f"  would it run again?  yes{_after(others)}", *_reasons("  because:", causes)]
    return [*lines, f"  Snakemake says: {_brief(own.reason)}"]


def _after(others: int) -> str:
    return f", after {others:,} other {'job' if others == 1 else 'jobs'}" if others else ""


def differences(out: str, jobs: Jobs, now: Content) -> Iterator[str]:
    """Yield what differs from the state in which the job made ``out``, except what upstream jobs explain."""
    job = jobs[out]
    if now(out) is None:
        yield f"{out} is not here"
    elif "md5" in job and now(out) != job["md5"]:
        if Records(Hashes()).describes(out):
            yield f"{out} was made again here after its ledger was written"
        else:
            yield f"{out} has another content than its job gave it (MD5 {_short(now(out))}, not {_short(job['md5'])})"
    for path, md5 in made_from(job).items():
        if now(path) == md5 or "md5" not in job or Path(path).name.startswith("ready-"):
            continue  # a ledger's inputs explain themselves, the mark of an environment may be missing or remade
        if now(path) is None:
            if path not in jobs:
                yield f"{path} is missing"
        elif path not in jobs:
            yield f"{path} changed"
        elif now(path) == jobs[path].get("md5"):
            yield f"{path} was made again since"
    yield from _parameter_changes(out, job)


def _rule_changes(job: rehearsal.Job, made_by: dict[str, Any]) -> Iterator[str]:
    """Yield changes of the text of the rules, which only Snakemake's reasons show."""
    if "Code has changed" in job.reason:
        yield f"rule {job.rule} has another command now"
    if "Software environment" in job.reason:
        yield f"rule {job.rule} asks for another software environment or container now"
    if "Set of input files" in job.reason:
        before, after = {*made_by["in"], *made_by.get("after", [])}, set(job.inputs)
        yield from (f"{path} is a new input of rule {job.rule}" for path in sorted(after - before))
        yield from (f"{path} is no input of rule {job.rule} any more" for path in sorted(before - after))


def _parameter_changes(out: str, job: dict[str, Any]) -> Iterator[str]:
    recorded = [section for text in job.get("params") or [] if (section := _section(text)) is not None]
    if recorded:
        stage = stage_of(out)
        present = _present_section(stage, out)
        for name, before, after in _leaves(recorded[0], present, stage):
            if before != '"absent"':  # jobs get the parameters that they read and no others
                yield f"{name} is {after}, it was made with {before}"


def _present_section(stage: str, out: str) -> dict[str, Any]:
    section: dict[str, Any] = of_job(complete(yaml_files.read(Path("params.yaml"))), stage, None)
    if stage != "teacher":
        return section
    teachers = teacher_sections(section)
    return teachers[next((name for name in Path(out).parts[2:] if name in teachers), FIRST)]


def _leaves(before: Any, after: Any, name: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from _leaves(before.get(key, "absent"), after.get(key, "absent"), f"{name}.{key}")
    elif before != after:
        yield name, json.dumps(before), json.dumps(after)


def _upstream(out: str, jobs: Jobs) -> list[str]:
    """All outputs that ``out`` was made from, directly or not, nearest first."""
    upstream: dict[str, None] = {}
    todo = [out]
    for path in todo:
        new = [file for file in jobs[path]["in"] if file in jobs and file not in upstream]
        upstream.update(dict.fromkeys(new))
        todo += new
    return list(upstream)


def _reasons(title: str, causes: dict[str, list[str]]) -> list[str]:
    """Each difference once, with the outputs that it concerns."""
    concerned: dict[str, list[str]] = {}
    for out, texts in causes.items():
        for text in texts:
            concerned.setdefault(text, []).append(out)
    here = next(iter(causes))
    lines = []
    for text, outs in concerned.items():
        made = [out for out in outs if not text.startswith(out)]
        about = "" if here in outs or not made else f" (a reason for {_listed(made)})"
        lines.append(f"    {text}{about}")
    if len(lines) > 4 * SHOWN:
        lines = [*lines[: 4 * SHOWN], f"    and {len(lines) - 4 * SHOWN:,} more differences"]
    return [title, *lines] if lines else []


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"


def _brief(reason: str) -> str:
    """Snakemake's reason with long lists of files cut."""
    parts = []
    for part in reason.split("; "):
        head, _, files = part.partition(": ")
        names = sorted(files.split(", "))
        if head in ("Updated input files", "Input files updated by another job", "Missing output files"):
            if files:
                parts.append(f"{head}: {', '.join(names[:2])}{f' and {len(names) - 2:,} more' if names[2:] else ''}")
        else:
            parts.append(head)
    return "; ".join(parts)


# --------------------------------------------------------------------------- files that no ledger holds


def _about_unrecorded(path: str) -> list[str]:
    """A file in the folder of a stage that no ledger accounts for."""
    stage, records = stage_of(path), Records(Hashes())
    if stage in locked_ledgers() and not os.path.exists(ledger_path(stage)):
        raise UserError(f"what made {path} is in {ledger_path(stage)}, which is not here; run: dvc pull {stage}")
    try:
        planned = rehearsal.jobs(path)
    except UserError as error:
        state = "no ledger holds it" if os.path.exists(path) else "it does not exist"
        raise UserError(f"{path} is in the folder of stage {stage}, but {state}. {error}") from None
    record = snakemake_records.read(path) if os.path.lexists(path) and records.describes(path) else None
    lines = [path]
    if record and record.get("shellcmd"):
        lines.append(f"  made by     stage {stage}, rule {record['rule']}; the stage has no ledger of it yet")
        lines.append(f"  when        {_time(record['starttime'])}, in this workspace")
        lines.append(f"  command     {record['shellcmd']}")
    else:
        lines.append("  made by     no job yet" if not os.path.exists(path) else "  made by     no recorded job")
    own = next((job for job in planned if path in job.outputs), None)
    if own is None:
        return [*lines, "  would it run again?  no"]
    lines.append(f"  would it run?  yes, rule {own.rule}{_after(len(planned) - 1)}")
    return [*lines, f"  Snakemake says: {_brief(own.reason)}"]


def _about_source(path: str, stages: list[str], jobs: Jobs, now: Content) -> list[str]:
    """A file that stages read and none makes."""
    lines = [path]
    digest = now(path) or ""
    lines.append(f"  MD5         {digest}{' (of its meaning: without comments)' if path.endswith('.py') else ''}")
    lines.append(f"  read by     stage {', '.join(stages)} (dvc.yaml)")
    if path.endswith(".smk"):
        rules = ", ".join(rules_of(Path(path).stem))
        return [*lines, f"  holds       the rules {rules}; a rule's jobs run again if its command changes"]
    same: list[str] = []
    other: list[str] = []
    for out, job in jobs.items():
        inputs = made_from(job)
        read = path if path in inputs else within(path, inputs)
        if read:
            (same if now(read) == inputs[read] else other).append(out)
    for title, outs in (("made from its present content:", same), ("made from another content:", other)):
        lines.append(f"  {title} {len(outs) or 'no'} artifacts")
        for name, paths in _alike(outs):
            lines.append(f"    {paths[0] if len(paths) == 1 else f'{name} ({len(paths):,} files)'}")
    return lines


def rules_of(stage: str) -> list[str]:
    """The rules of a stage that make something; its target, of the same name, does not."""
    text = Path(f"workflow/rules/{stage}.smk").read_text(encoding="utf-8")
    return [name for name in re.findall(r"^ *(?:rule|checkpoint) (\w+):", text, re.M) if name != stage]


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "why",
        "Show what made a file, when, from which inputs and with which parameters, and why it would or would not be "
        "made again. Changes nothing.",
    )
    parser.add_argument(
        "file", help="an output, e.g. data/prune/report.json, or a source or code file that a stage reads"
    )
    return parser


@command("why")
def main(arguments: list[str]) -> int:
    print("\n".join(why(parser().parse_args(arguments).file)))
    return 0
