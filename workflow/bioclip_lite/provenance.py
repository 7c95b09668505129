"""Two engines, one truth: Snakemake decides by content what DVC decides by content.

Snakemake compares modification times and its private records in ``.snakemake/metadata``; neither survives
``git clone`` and ``dvc pull``. DVC compares content, but only per stage. Three functions join them:

``write_ledger``  the last job of every stage stores, per output, what made it: rule, code, parameters and the MD5 of
                  each input and of the output. The ledger is an output of the DVC stage and travels with the artifacts.
``sync``          before Snakemake builds its graph, every output is compared with the ledgers. Where content proves it
                  current, Snakemake's record and the file time are brought in line; where it does not, the file is
                  made to look old. Only times and records of outputs change, never contents.
``commit``        after a run that Snakemake itself started, dvc.lock is updated.

Two private things of Snakemake are used, the form of its records and where they lie (``snakemake_records``); the pinned
version and its tests guard them. What a ledger needs is imported fast, as every stage writes one.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from bioclip_lite import params
from bioclip_lite.closure import meaning
from bioclip_lite.engines import dvc_lock, snakemake_records
from bioclip_lite.errors import UserError
from bioclip_lite.files import PARTIAL, parse_yaml, replacing, write_json

HASHES = Path(".snakemake/bioclip_lite/hashes.json")  # MD5 by (time, size, inode), so that a file is read once
AT_START = Path(".snakemake/bioclip_lite/sources.json")  # MD5 of every source file when the run began
RECIPES = Path(".snakemake/bioclip_lite/recipes.json")  # recipe -> MD5 of the ledger that it led to here
UNCOMMITTED = Path(".snakemake/bioclip_lite/uncommitted")  # a file per stage that dvc.lock may not have as it is here
STAMP = ".snakemake_timestamp"  # where Snakemake keeps the time of a directory() output
JUST_AFTER_NS = 1_000_000  # an output gets a time this much after its newest input
RULE = "record_{}"  # the rule that writes a stage's ledger
LONG_AGO_NS = 10**9  # older than everything
_TICK_NS = 10**8  # between the last file of a directory() output and the stamp that Snakemake puts there
CODE = (".py", ".smk")  # counts by its meaning (closure.meaning), so that a comment makes nothing run again
_NOBODY = ["no recorded job"]
RECIPE = ("rule", "params", "code", "conda_env", "container_img_url", "software_stack_hash")


def ledger(stage: str) -> str:
    return f"data/provenance/{stage}.json"


# --------------------------------------------------------------------------- what dvc.yaml says


@cache
def dvc_stages() -> dict[str, dict[str, list[str]]]:
    """Stage -> its ``deps``, ``params`` and ``outs`` (the ledger left out), in the order of dvc.yaml.

    ${...} is filled in.
    """
    if not Path("dvc.yaml").exists():
        return {}
    stages = {}
    for name, stage in parse_yaml(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
        outs = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]
        if ledger(name) in outs:
            stages[name] = {
                "deps": [_filled_in(dep) for dep in stage.get("deps", [])],
                "params": stage.get("params", []),
                "outs": [_filled_in(out) for out in outs if out != ledger(name)],
            }
    return stages


def _filled_in(path: str) -> str:
    return re.sub(r"\$\{([\w.]+)\}", lambda match: str(parameter(match[1])), path)


def parameter(name: str) -> Any:
    """The value in params.yaml of a name such as index.path."""
    found: Any = params.read(Path("params.yaml"))
    for part in name.split("."):
        found = found[part]
    return found


def sources() -> Iterator[str]:
    """Files that stages need and no stage makes."""
    made = [out for stage in dvc_stages().values() for out in stage["outs"]]
    for dep in sorted({dep for stage in dvc_stages().values() for dep in stage["deps"]}):
        if not within(dep, made):
            yield from files_in(dep)


def within(path: str, places: Iterable[str]) -> str | None:
    """The place that is ``path`` or a folder above it."""
    return next((place for place in places if path == place or path.startswith(place + "/")), None)


def files_in(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        for folder, _, names in os.walk(path):
            yield from (os.path.join(folder, name) for name in names if name not in (STAMP, ".gitignore"))
    elif os.path.exists(path):
        yield path


# --------------------------------------------------------------------------- content


class Hashes:
    """MD5 of files and folders, computed once per (time, size, inode) and shared with DVC's own hash cache.

    Contents must not change while an instance is in use; times may, through ``touched``.

    Args:
        ask_dvc: whether DVC may know what we do not. Asking costs half a second, once.
    """

    def __init__(self, ask_dvc: bool = True) -> None:
        try:
            self._known: dict[str, list[Any]] = json.loads(HASHES.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._known = {}
        self._asked: dict[str, str | None] = {}
        self._news: dict[str, str | None] = {}  # what DVC would otherwise hash again
        self._dvc: Any = None
        self._ask = ask_dvc
        self.read = 0

    def __getitem__(self, path: str) -> str | None:
        """MD5 of the content; None if there is nothing at ``path``."""
        if path not in self._asked:
            self._asked[path] = self._folder(path) if os.path.isdir(path) else self._file(path)
        return self._asked[path]

    def _folder(self, path: str) -> str:
        text = json.dumps(sorted(self.files(path).items()))
        return hashlib.md5(text.encode()).hexdigest() + ".dir"

    def files(self, path: str) -> dict[str, str | None]:
        """Path within a folder -> MD5."""
        return {os.path.relpath(file, path): self._file(file) for file in files_in(path)}

    def remembered(self, path: str) -> str | None:
        """MD5 of the content if it is known without reading the file."""
        known = self._known.get(path)
        return known[1] if known and known[0] == self._identity(path) else None

    def touched(self, path: str, md5: str | None) -> None:
        """The time of ``path`` was changed, its content was not."""
        if md5 is None:
            self._known.pop(path, None)
        else:
            self._remember(path, md5)

    def write(self, path: Path) -> None:
        """Store what is known, in the form of HASHES."""
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(self._known), encoding="utf-8")

    def save(self) -> None:
        self.write(HASHES)
        if self._ask:
            self._tell_dvc(self._news)

    def share(self, places: Iterable[str]) -> None:
        """Tell DVC what is in some places, none of it code."""
        self._tell_dvc({path: self._file(path) for place in places for path in files_in(place)})

    def _tell_dvc(self, news: dict[str, str | None]) -> None:
        if news and self._repo():
            from dvc.fs import localfs
            from dvc_data.hashfile.hash_info import HashInfo

            told = [(path, md5) for path, md5 in news.items() if os.path.exists(path)]
            known = [(os.path.abspath(path), HashInfo("md5", md5), None) for path, md5 in told]
            self._repo().state.save_many(known, localfs)

    @staticmethod
    def _identity(path: str) -> list[int]:
        status = os.stat(path)
        return [status.st_mtime_ns, status.st_size, status.st_ino]

    def _file(self, path: str) -> str | None:
        if not os.path.exists(path):
            return None
        md5 = self.remembered(path)
        if md5 is None:
            md5 = self._ask_dvc(path) or self._compute(path)
            self._remember(path, md5)
        return md5

    def _compute(self, path: str) -> str:
        self.read += 1
        with Path(path).open("rb") as file:
            return meaning(file.read()) if path.endswith(CODE) else hashlib.file_digest(file, "md5").hexdigest()

    def _remember(self, path: str, md5: str) -> None:
        self._known[path] = [self._identity(path), md5]
        if not path.endswith(CODE):  # DVC hashes the bytes of code, not its meaning
            self._news[path] = md5

    def _repo(self) -> Any:
        if self._dvc is None:
            try:
                from dvc.repo import Repo

                self._dvc = Repo(".")
            except Exception:  # no DVC repository here, e.g. a downloaded archive: hash everything ourselves
                self._dvc = False
        return self._dvc

    def _ask_dvc(self, path: str) -> str | None:
        if path.endswith(CODE) or not self._ask or not self._repo():
            return None
        from dvc.fs import localfs

        _, info = self._repo().state.get(os.path.abspath(path), localfs)
        return info.value if info is not None and info.name == "md5" else None


# --------------------------------------------------------------------------- Snakemake's side


class Records:
    """Snakemake's own record of how each output was made, and the output's time."""

    def __init__(self, hashes: Hashes) -> None:
        snakemake_records.prepare()
        self._hashes = hashes

    @staticmethod
    def time(path: str, as_input: bool = False) -> int:
        """Nanoseconds, as Snakemake sees them: a link counts itself, as an input also its target."""
        stamp = os.path.join(path, STAMP)
        if os.path.isdir(path) and os.path.exists(stamp):
            return os.stat(stamp).st_mtime_ns
        own = os.lstat(path).st_mtime_ns
        return max(own, os.stat(path).st_mtime_ns) if as_input else own

    def describes(self, path: str) -> bool:
        """Was the file left as it is by the job that the record is about?"""
        record = snakemake_records.read(path)
        if not record or record.get("incomplete") or record.get("endtime") is None:
            return False
        if os.path.isdir(path) and self._newest_in(path) > self.time(path) + _TICK_NS:
            return False  # somebody has changed what is in it
        return abs(record["endtime"] * 1e9 - self.time(path)) < 1000

    @staticmethod
    def _newest_in(folder: str) -> int:
        paths = [folder, *files_in(folder)]
        return max(os.lstat(path).st_mtime_ns for path in paths)

    def learn(self, path: str, job: dict[str, Any]) -> None:
        """Write the record that Snakemake would have if it had run the job here.

        If it has, and something else (DVC, copying from its cache) has set the time since, the job took as long.
        """
        old, seconds = snakemake_records.read(path), self.time(path) / 1e9
        same = old.get("input") == sorted(job["in"]) and all(old.get(field) == job.get(field) for field in RECIPE)
        took = old["endtime"] - old["starttime"] if same and old.get("endtime") else 0.0
        self._write(path, job, seconds, took)

    def _write(self, path: str, job: dict[str, Any], seconds: float | None, took: float = 0.0) -> None:
        record = {
            **{field: job.get(field) for field in RECIPE},
            "input": sorted(job["in"]),
            "input_checksums": job.get("sha256", {}),
            "record_format_version": snakemake_records.VERSION,
            "starttime": seconds and seconds - took,
            "endtime": seconds,
            "incomplete": False,
        }
        snakemake_records.write(path, record)

    def keep_absent(self, path: str, job: dict[str, Any], changed: bool) -> None:
        """Have a record of an output that is not here, e.g. because it was never pulled.

        Snakemake leaves such files alone as long as what is made from them is up to date, but it compares parameters,
        code and inputs with the record, and without one it would miss every change. ``changed``: inputs have changed.
        """
        record = snakemake_records.read(path)
        if changed:
            if record.get("params") != _NOBODY:
                self.doubt(path)
        elif record.get("endtime") or any(record.get(field) != job.get(field) for field in ("params", "code")):
            self._write(path, job, None)

    def set_time(self, path: str, ns: int) -> None:
        described = self.describes(path)
        target, md5 = path, None
        if os.path.isdir(path):
            target = os.path.join(path, STAMP)
            Path(target).touch()
        else:
            md5 = self._hashes.remembered(path)
        if os.lstat(target).st_nlink > 1:
            raise UserError(
                f"{target} is a hard link, and setting its time would reach into the DVC cache; "
                "run: dvc config cache.type reflink,copy && dvc checkout --relink"
            )
        try:
            os.utime(target, ns=(ns, ns), follow_symlinks=False)
        except PermissionError:  # somebody else's file that the group may write: only "now" is allowed
            if ns == LONG_AGO_NS:
                self.doubt(path)
                return
            os.utime(target, follow_symlinks=False)
        if target == path:
            self._hashes.touched(path, md5)
        if described:  # and took as long as it did
            record, end = snakemake_records.read(path), self.time(path) / 1e9
            start = end - record["endtime"] + (record.get("starttime") or record["endtime"])
            snakemake_records.write(path, record | {"starttime": start, "endtime": end})

    def doubt(self, path: str) -> None:
        """Make Snakemake run the job of ``path`` again, whatever its time and that of its inputs."""
        nobody = {"params": _NOBODY, "record_format_version": snakemake_records.VERSION}
        snakemake_records.write(path, nobody)

    def forget(self, path: str) -> bool:
        """Make Snakemake distrust ``path``; False if it already did."""
        snakemake_records.delete(path)
        if self.time(path) == LONG_AGO_NS:
            return False
        self.set_time(path, LONG_AGO_NS)
        return True


# --------------------------------------------------------------------------- ledgers


def load_ledgers() -> dict[str, dict[str, Any]]:
    """Output -> the job that made it (recipe, md5, ``in``: MD5 of each input), over all stages."""
    jobs: dict[str, dict[str, Any]] = {}
    for stage in dvc_stages():
        try:
            data = json.loads(Path(ledger(stage)).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        for out, job in data["jobs"].items():
            jobs[out] = data["recipes"][job["recipe"]] | job
        made_from = {out: job["md5"] for out, job in data["jobs"].items()}
        jobs[ledger(stage)] = {"rule": RULE.format(stage), "in": made_from}
    return jobs


def files_of(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, MD5) of every file that a ledger accounts for."""
    for out, job in data["jobs"].items():
        if "files" in job:
            yield from ((os.path.join(out, name), md5) for name, md5 in job["files"].items())
        else:
            yield out, job["md5"]


def recipe(stage: str, jobs: dict[str, dict[str, Any]], hashes: Hashes) -> str | None:
    """All that decides what a stage makes, as one MD5: its parameters and what dvc.yaml says it depends on.

    None if something that it depends on has not been made. What is not here, but in a ledger, counts as recorded, and
    so does a source that is not here.
    """
    made_by_stages = [out for other in dvc_stages().values() for out in other["outs"]]
    content: dict[str, Any] = {}
    for dep in dvc_stages()[stage]["deps"]:
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
    """Stages of whose outputs, folder by folder, a part is missing: somebody has deleted it.

    A whole folder may be missing for the good reason that it was never pulled, unless DVC now asks for this very stage.
    """
    found = set()
    for stage, view in dvc_stages().items():
        for out in view["outs"]:
            here = [os.path.lexists(path) for path in jobs if path == out or path.startswith(out + "/")]
            if not all(here) and (any(here) or os.environ.get("DVC_STAGE") == stage):
                found.add(stage)
    return found


def in_order(jobs: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Every output after the outputs it was made from."""
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

    Returns what was learned, ledgers and contents, for ``recipes.fetch``; None where there is nothing to do, or another
    Snakemake works here and has synced already.

    Raises:
        UserError: a file is not as DVC or a person may have left it, and what to do.
    """
    dvc_stages.cache_clear()
    if not dvc_stages() or any(Path(".snakemake/locks").glob("*.lock")):
        return None
    locked = locked_ledgers()
    jobs, hashes = load_ledgers(), Hashes()
    records = Records(hashes)
    learned = moved = 0
    unknown = []
    # A ledger that came from elsewhere, say by `dvc checkout`, knows better than the records of this workspace how a
    # file was made that is the same in both; one that was written here knows less than they do about an unfinished run.
    ledgers = [ledger(stage) for stage in dvc_stages()]
    arrived = {out for path in ledgers if path in jobs and not records.describes(path) for out in jobs[path]["in"]}

    @cache  # outputs come in order: the time of an input is final when it is first asked for
    def seen(path: str) -> int | None:
        return records.time(path, as_input=True) if os.path.exists(path) else None

    for out in in_order(jobs):
        job = jobs[out]
        if snakemake_records.in_progress(out):
            continue
        if not os.path.lexists(out):
            changed = any(hashes[path] not in (None, md5) for path, md5 in job["in"].items())
            records.keep_absent(out, job, changed)
            continue
        if "md5" in job and hashes[out] != job["md5"]:
            if not records.describes(out) and records.forget(out):  # neither the ledger's nor a run's in this workspace
                unknown.append(out)
            continue
        if out in arrived or not records.describes(out):
            records.learn(out, job)
            learned += 1
        moved += _set_right(out, job, hashes, records, seen)
    for stage in {*incomplete(jobs), *_uncommitted(hashes, locked)}:
        if os.path.exists(ledger(stage)):
            records.doubt(ledger(stage))
    unknown += [path for path in _unrecorded(jobs, records) if records.forget(path)]
    AT_START.parent.mkdir(parents=True, exist_ok=True)
    AT_START.write_text(json.dumps({file: hashes[file] for file in ["params.yaml", *sources()]}), encoding="utf-8")
    hashes.save()
    if learned or moved or unknown:
        print(
            f"provenance: {learned} outputs recognised, {moved} times set right, {len(unknown)} of unknown origin; "
            f"{hashes.read} files read",
            file=sys.stderr,
        )
    for path in unknown[:5]:
        print(f"provenance: no recorded job made {path} as it is; it will be made again", file=sys.stderr)
    return jobs, hashes


def _set_right(
    out: str, job: dict[str, Any], hashes: Hashes, records: Records, seen: Callable[[str], int | None]
) -> bool:
    """Make ``out`` newer than its inputs if they are what it was made from, older than the changed ones otherwise."""
    times = {path: ns for path in job["in"] if (ns := seen(path)) is not None}
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
    """Files in output folders that neither a ledger nor a run in this workspace accounts for."""
    for stage in dvc_stages().values():
        for path in (file for out in stage["outs"] if out not in jobs for file in files_in(out)):
            if path in jobs or snakemake_records.in_progress(path) or records.describes(path):
                continue
            folders = [str(folder) for folder in Path(path).parents if str(folder) != "."]
            if not any(folder in jobs or records.describes(folder) for folder in folders):
                yield path


def write_ledger(stage: str, outputs: Iterable[str]) -> None:
    """Store what made every output of ``stage``; remove outputs that no job makes any more.

    ``outputs`` are all that the jobs of the stage make.
    """
    outs, hashes = dvc_stages()[stage]["outs"], Hashes(ask_dvc=False)  # of what has just been made DVC knows nothing
    records = Records(hashes)
    at_start = json.loads(AT_START.read_text(encoding="utf-8")) if AT_START.exists() else {}
    recipes: list[dict[str, Any]] = []
    jobs: dict[str, dict[str, Any]] = {}
    edited = set()
    for path in outputs:
        record = snakemake_records.read(path)
        if not record:
            raise UserError(f"Snakemake has no record of how {path} was made; remove it and run again")
        made_from = {file: hashes[file] for file in record["input"]}
        for file, md5 in made_from.items():
            if at_start.get(file, md5) != md5:  # e.g. code edited while jobs were running: nobody knows what they saw
                records.forget(path)
                edited.add(file)
        how = {field: record.get(field) for field in RECIPE}
        if how not in recipes:
            recipes.append(how)
        checksums = record.get("input_checksums") or {}
        jobs[path] = {"recipe": recipes.index(how), "md5": hashes[path], "in": made_from, "sha256": checksums}
        if os.path.isdir(path):
            jobs[path]["files"] = hashes.files(path)
    hashes.save()
    if edited:
        raise UserError(f"{', '.join(sorted(edited))} changed while the jobs were running; run again")
    if not jobs:
        raise UserError(f"stage {stage} would have no outputs; are its inputs here? (dvc pull)")
    _remove_orphans(stage, outs, jobs, records)
    mark_uncommitted(stage)
    with replacing(ledger(stage)) as scratch:
        scratch.write_text(
            json.dumps({"recipes": recipes, "jobs": jobs}, sort_keys=True, separators=(",", ":")), encoding="utf-8"
        )


def note_recipes(stages: Iterable[str]) -> None:
    """Remember what the recipes of ``stages``, all made by now, led to, unless something was edited meanwhile."""
    jobs, hashes = load_ledgers(), Hashes()
    at_start = json.loads(AT_START.read_text(encoding="utf-8"))
    if any(hashes[file] != md5 for file, md5 in at_start.items()):
        return
    recipes = json.loads(RECIPES.read_text(encoding="utf-8")) if RECIPES.exists() else {}
    for stage in stages:
        key, md5 = recipe(stage, jobs, hashes), hashes[ledger(stage)]
        if key and md5:
            recipes[key] = md5
    write_json(RECIPES, recipes)


def _remove_orphans(stage: str, outs: list[str], jobs: dict[str, dict[str, Any]], records: Records) -> None:
    for folder in [folder for out in outs for folder in Path(out).rglob(PARTIAL + "*")]:
        shutil.rmtree(folder, ignore_errors=True)  # left behind by a killed job
    for path in [file for out in outs if out not in jobs for file in files_in(out)]:
        if path in jobs or any(str(folder) in jobs for folder in Path(path).parents):
            continue
        if not snakemake_records.read(path):
            raise UserError(f"{path} is in an output folder of stage {stage}, but no rule makes it; move it elsewhere")
        os.remove(path)


def commit(wanted: set[str], ran: set[str]) -> None:
    """Record in dvc.lock, and in DVC's cache, the stages that a run has made or completed.

    Args:
        wanted: the rules of its graph.
        ran: those of them whose jobs ran.
    """
    hashes, locked = Hashes(), locked_ledgers()
    named = {stage for stage in dvc_stages() if RULE.format(stage) in wanted}
    note_recipes(named)
    new = {s for s in named if RULE.format(s) in ran or hashes[ledger(s)] not in (None, locked.get(s))}
    outs = [out for stage in new for out in dvc_stages()[stage]["outs"]]
    # DVC asks folders where Snakemake asks files: a stage that had nothing to do may still depend on what has changed.
    also = {s for s in named if any(_overlap(dep, outs) for dep in dvc_stages()[s]["deps"])}
    made = [stage for stage in dvc_stages() if stage in new | also]
    hashes.share(out for stage in made for out in [*dvc_stages()[stage]["outs"], ledger(stage)])
    hashes.write(HASHES)
    record(made)


def _overlap(path: str, places: Iterable[str]) -> bool:
    return any(within(path, [place]) or within(place, [path]) for place in places)


def record(stages: list[str]) -> None:
    """Have DVC take the outputs of ``stages``, as they are, into its cache and dvc.lock.

    Does nothing when DVC started this run: it does so itself, and its repository is locked meanwhile.
    """
    if not stages or "DVC_STAGE" in os.environ:
        return
    try:
        dvc_lock.commit(stages)
    except UserError as error:
        repair = f"dvc commit -f {' '.join(stages)} (or dvc repro, or this command again)"
        print(f"dvc.lock is not up to date; run: {repair}\nDVC says: {error}", file=sys.stderr)
        return
    for stage in stages:
        (UNCOMMITTED / stage).unlink(missing_ok=True)


def mark_uncommitted(stage: str) -> None:
    """Note that the ledger of ``stage`` is about to change, so that dvc.lock follows even if this run is killed."""
    UNCOMMITTED.mkdir(parents=True, exist_ok=True)
    (UNCOMMITTED / stage).touch()


def _uncommitted(hashes: Hashes, locked: dict[str, str | None]) -> Iterator[str]:
    """Stages that a run has completed, but was killed before it could record them in dvc.lock.

    No job of theirs is left to run, and Snakemake, with nothing to do, would not record them either.
    """
    for stage in dvc_stages():
        if hashes[ledger(stage)] == locked.get(stage):
            (UNCOMMITTED / stage).unlink(missing_ok=True)
        elif (UNCOMMITTED / stage).exists() and "DVC_STAGE" not in os.environ:
            yield stage


def locked_ledgers() -> dict[str, str | None]:
    """Stage -> MD5 of its ledger in dvc.lock."""
    return {
        name: next((out.get("md5") for out in outs if out["path"] == ledger(name)), None)
        for name, outs in dvc_lock.outputs().items()
    }


if __name__ == "__main__":
    try:
        write_ledger(sys.argv[1], sys.argv[2:])
    except UserError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
