"""Ledgers record, by content, what made every output of a stage.

``python -m bioclip_lite.engines.ledger STAGE``, the last job of every stage, writes one. It reads the paths of the
outputs, one per line, from standard input: a command line has no room for those of 45,000 shards.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from bioclip_lite.engines import dvc_lock, snakemake_records, stage_code
from bioclip_lite.engines.dvc_yaml import STAMP, dvc_stages, files_in, inputs, ledger_path, parameter, within
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.records import DEFINITION, Records
from bioclip_lite.utils.errors import UserError, tell
from bioclip_lite.utils.files import PARTIAL, replacing, write_json

AT_START = Path(".snakemake/bioclip_lite/sources.json")  # MD5 of every source file when the run began
STAGE_KEYS = Path(".snakemake/bioclip_lite/stage_keys.json")  # key of a stage -> MD5 of the ledger that it led to here
UNCOMMITTED = Path(".snakemake/bioclip_lite/uncommitted")  # a file per stage that dvc.lock may not have as it is here
RULE = "record_{}"  # the rule that writes a stage's ledger


def load_ledgers() -> dict[str, dict[str, Any]]:
    """Read all ledgers: output -> the job that made it.

    A job has the fields of DEFINITION; ``md5``; ``in``, MD5 of each input; and ``modules``, MD5 of each module that the
    fingerprint of code among its inputs covers.
    """
    jobs: dict[str, dict[str, Any]] = {}
    for stage in dvc_stages():
        try:
            data = json.loads(Path(ledger_path(stage)).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        if "definitions" not in data:  # written by another version of this package, which ran other code
            continue
        if "modules" not in data:
            data = _of_earlier_version(stage, data)
        for out, job in data["jobs"].items():
            jobs[out] = data["definitions"][job["definition"]] | job | {"modules": _modules(job["in"], data["modules"])}
        made_from = {out: job["md5"] for out, job in data["jobs"].items()}
        jobs[ledger_path(stage)] = {"rule": RULE.format(stage), "in": made_from}
    return jobs


def _modules(inputs: Iterable[str], covered: dict[str, dict[str, str]]) -> dict[str, str]:
    """The modules of a job, which has one fingerprint of code among its inputs or none."""
    return next((covered[path] for path in inputs if path in covered), {})


def _of_earlier_version(stage: str, data: dict[str, Any]) -> dict[str, Any]:
    """Put a ledger whose jobs list each module among their inputs into the present form.

    Jobs that ran other modules than any job of the stage runs now are left out: they have to run again.
    """
    # Where two kinds have the same code, all jobs are of the latter.
    kinds = {
        frozenset(stage_code.code(stage, kind)): stage_code.of_jobs(stage, kind) for kind in stage_code.kinds(stage)
    }
    modules: dict[str, dict[str, str]] = {}
    jobs = {}
    for out, job in data["jobs"].items():
        code = {path: md5 for path, md5 in job["in"].items() if stage_code.is_code(path)}
        if fingerprint := kinds.get(frozenset(code)):
            md5 = hashlib.md5(stage_code.text(sorted(code), code.get).encode()).hexdigest()
            data_files = {path: job["in"][path] for path in job["in"] if path not in code}
            modules[fingerprint], jobs[out] = code, job | {"in": data_files | {fingerprint: md5}}
    return data | {"modules": modules, "jobs": jobs}


def _covered(fingerprint: str) -> dict[str, str]:
    return stage_code.parse(Path(fingerprint).read_text(encoding="utf-8"))


def made_from(job: dict[str, Any]) -> dict[str, str | None]:
    """MD5 of each file that a job of ``load_ledgers`` read: its inputs, with modules in place of their fingerprint."""
    data = {path: md5 for path, md5 in job["in"].items() if not stage_code.is_of_jobs(path)}
    return job.get("modules", {}) | data


def files_of_jobs(jobs: dict[str, dict[str, Any]]) -> set[str]:
    """Paths of all that jobs of ``load_ledgers`` have made and read."""
    return {*jobs, *(path for job in jobs.values() for path in job["in"])}


def files_of(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (path, MD5) of every file that a ledger accounts for."""
    for out, job in data["jobs"].items():
        if "files" in job:
            yield from ((os.path.join(out, name), md5) for name, md5 in job["files"].items())
        else:
            yield out, job["md5"]


def stage_key(stage: str, jobs: dict[str, dict[str, Any]], hashes: Hashes) -> str | None:
    """Hash all that decides what a stage makes: its parameters, its code and what dvc.yaml says it depends on.

    A file that is missing here counts as its ledger, or the ledger of a stage that reads it, has recorded it.

    Returns:
        An MD5; None if an output that the stage depends on has never been made.
    """
    made_by_stages = [out for other in dvc_stages().values() for out in other["outs"]]
    content: dict[str, Any] = {}
    for dep in inputs(stage):
        if not within(dep, made_by_stages):
            recorded = (job["in"][dep] for job in jobs.values() if dep in job["in"])
            content[dep] = hashes[dep] or next(recorded, None)
            continue
        parts = sorted(
            (out, hashes[out] or jobs[out]["md5"]) for out in jobs if out == dep or out.startswith(dep + "/")
        )
        if not parts:
            return None
        content[dep] = parts
    parameters = {name: parameter(name) for name in dvc_stages()[stage]["params"]}
    return hashlib.md5(json.dumps([stage, parameters, content], sort_keys=True).encode()).hexdigest()


def incomplete(jobs: dict[str, dict[str, Any]]) -> set[str]:
    """Name the stages of whose outputs a part is missing from a folder: somebody has deleted it.

    A whole folder may be missing because it was never pulled, unless DVC now runs this very stage.
    """
    stages = set()
    for stage, view in dvc_stages().items():
        for out in view["outs"]:
            here = [os.path.lexists(path) for path in jobs if path == out or path.startswith(out + "/")]
            if not all(here) and (any(here) or os.environ.get("DVC_STAGE") == stage):
                stages.add(stage)
    return stages


def write_ledger(stage: str, outputs: Iterable[str]) -> None:
    """Store what made every output of ``stage``; remove outputs that no job makes any more.

    Args:
        outputs: all that the jobs of the stage make.

    Raises:
        UserError: an input was edited while jobs ran, a file has no record, or the stage has no outputs.
    """
    outs, hashes = dvc_stages()[stage]["outs"], Hashes(ask_dvc=False)  # of what has just been made DVC knows nothing
    records = Records(hashes)
    at_start = json.loads(AT_START.read_text(encoding="utf-8")) if AT_START.exists() else {}
    definitions: list[dict[str, Any]] = []
    modules: dict[str, dict[str, str]] = {}  # fingerprint of code -> MD5 of each module
    jobs: dict[str, dict[str, Any]] = {}
    edited: set[str] = set()
    covered = cache(_covered)  # by the same fingerprint for all jobs of a kind
    found = {path: snakemake_records.read(path) for path in outputs}
    hashes.read_ahead({*found, *(file for record in found.values() for file in record.get("input", []))})
    for path, record in found.items():
        if not record:
            raise UserError(f"Snakemake has no record of how {path} was made; remove it and run again")
        inputs = {file: hashes[file] for file in record["input"]}
        modules |= {file: covered(file) for file in inputs if stage_code.is_of_jobs(file)}
        read = [*inputs, *_modules(inputs, modules)]
        changed = {file for file in read if at_start.get(file, hashes[file]) != hashes[file]}
        if changed:  # e.g. code edited meanwhile: it is unclear which version ran
            records.forget(path)
            edited |= changed
        definition = {field: record.get(field) for field in DEFINITION}
        if definition not in definitions:
            definitions.append(definition)
        jobs[path] = {
            "definition": definitions.index(definition),
            "md5": hashes[path],
            "in": inputs,
            "sha256": record.get("input_checksums") or {},
        }
        if os.path.isdir(path):
            jobs[path]["files"] = hashes.files(path)
    hashes.save()
    if edited:
        raise UserError(f"{', '.join(sorted(edited))} changed while the jobs were running; run again")
    if not jobs:
        raise UserError(f"stage {stage} would have no outputs; are its inputs here? (dvc pull)")
    _remove_orphans(stage, outs, jobs, records)
    mark_uncommitted(stage)
    with replacing(ledger_path(stage)) as scratch:
        data = {"definitions": definitions, "modules": modules, "jobs": jobs}
        scratch.write_text(json.dumps(data, sort_keys=True, separators=(",", ":")), encoding="utf-8")


def remember_keys(stages: Iterable[str]) -> None:
    """Remember which ledgers the keys of ``stages``, all made by now, have led to; not if a source was edited since."""
    jobs, hashes = load_ledgers(), Hashes()
    at_start = json.loads(AT_START.read_text(encoding="utf-8"))
    if any(hashes[file] != md5 for file, md5 in at_start.items()):
        return
    ledgers = json.loads(STAGE_KEYS.read_text(encoding="utf-8")) if STAGE_KEYS.exists() else {}
    for stage in stages:
        key, md5 = stage_key(stage, jobs, hashes), hashes[ledger_path(stage)]
        if key and md5:
            ledgers[key] = md5
    write_json(STAGE_KEYS, ledgers)


def _remove_orphans(stage: str, outs: list[str], jobs: dict[str, dict[str, Any]], records: Records) -> None:
    """Remove what killed jobs have left, and outputs of earlier runs that no job makes any more."""
    for folder in [folder for out in outs for folder in Path(out).rglob(PARTIAL + "*")]:
        shutil.rmtree(folder, ignore_errors=True)  # left behind by a killed job
    for path in [file for out in outs if out not in jobs for file in files_in(out)]:
        folders = [folder for folder in Path(path).parents if within(str(folder), outs)]
        if path in jobs or any(str(folder) in jobs for folder in folders):
            continue
        if not any(map(snakemake_records.read, (path, *map(str, folders)))):  # an output may be a folder
            raise UserError(f"{path} is in an output folder of stage {stage}, but no rule makes it; move it elsewhere")
        os.remove(path)
        _remove_empty(folders)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, inner ones first, as long as they hold nothing but Snakemake's stamp."""
    for folder in folders:
        if {entry.name for entry in folder.iterdir()} - {STAMP}:
            return
        (folder / STAMP).unlink(missing_ok=True)
        folder.rmdir()


def mark_uncommitted(stage: str) -> None:
    """Note that the ledger of ``stage`` is about to change, so that dvc.lock follows even if this run is killed."""
    UNCOMMITTED.mkdir(parents=True, exist_ok=True)
    (UNCOMMITTED / stage).touch()


def locked_ledgers() -> dict[str, str | None]:
    """Stage -> MD5 of its ledger in dvc.lock."""
    return {
        name: next((out.get("md5") for out in stage["outs"] if out["path"] == ledger_path(name)), None)
        for name, stage in dvc_lock.stages().items()
    }


if __name__ == "__main__":
    try:
        write_ledger(sys.argv[1], sys.stdin.read().splitlines())
    except Exception as error:
        sys.exit(tell(sys.argv[1], error))
