"""What anyone has made before, from the same inputs, code and parameters, is fetched and not made again.

DVC's run cache would do this, but ``persist: true``, which keeps shards and caches incremental, switches it off. Here
is an index in its place, beside the objects of the DVC cache and of the remote: ``recipes/<key>`` holds the MD5 of the
ledger that the recipe ``key`` (recipe) led to, and the ledger names every file. An entry is a hint, never an
authority: what it brings is compared with the ledger by ``provenance.sync`` like anything else in the workspace.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from bioclip_lite.engines import remotes
from bioclip_lite.engines.commit import record
from bioclip_lite.engines.dvc_yaml import dvc_stages, ledger_path, within
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.ledger import RECIPES, files_of, incomplete, load_ledgers, mark_uncommitted, recipe
from bioclip_lite.engines.remotes import Tracked
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_json

ENTERED = Path(".snakemake/bioclip_lite/entered.json")  # the recipes of this workspace that the cache's index has
FOLDER = "recipes"


def fetch(stages: Iterable[str], jobs: dict[str, dict[str, Any]], hashes: Hashes) -> list[str]:
    """Bring the results of those ``stages`` whose recipe has changed and was followed before; returns their names.

    Stages are looked at in order. One that cannot be had has to be made, and what depends on it waits for that. Where
    DVC runs a stage, it has seen to those before.

    Args:
        jobs, hashes: what ``provenance.sync`` found.
    """
    index: _Index | None = None
    fetched: list[str] = []
    unknown: list[str] = []  # folders whose content is not known before their stage has run
    unfinished = incomplete(jobs)
    for stage in [os.environ["DVC_STAGE"]] if "DVC_STAGE" in os.environ else stages:
        deps, outs = dvc_stages()[stage]["deps"], dvc_stages()[stage]["outs"]
        known = not any(within(dep, unknown) for dep in deps)
        key = recipe(stage, jobs, hashes) if known else None
        made = hashes[ledger_path(stage)]
        if key and made and _here().get(key) == made and stage not in unfinished:
            continue
        index = index or (_Index.open() if key else None)
        if not key or not index:
            unknown += outs
        elif made and index.unchanged(stage):
            _note(key, made)
        elif index.restore(stage, key, jobs, hashes):
            fetched.append(stage)
            jobs, hashes = load_ledgers(), Hashes()
            unfinished = incomplete(jobs)
        else:
            unknown += outs
    record(fetched)
    return fetched


def _here() -> dict[str, str]:
    """Recipe -> MD5 of the ledger that it led to, as far as they were followed in this workspace."""
    return json.loads(RECIPES.read_text(encoding="utf-8")) if RECIPES.exists() else {}


def _note(key: str, md5: str) -> None:
    write_json(RECIPES, _here() | {key: md5})


def remember() -> None:
    """Enter what this workspace has made, and DVC has committed, into the index beside the DVC cache."""
    entered = set(json.loads(ENTERED.read_text(encoding="utf-8"))) if ENTERED.exists() else set()
    new = {key: md5 for key, md5 in _here().items() if key not in entered}
    if not new or not (index := _Index.open()):
        return
    try:
        for key, md5 in new.items():
            if index.has(md5):
                index.enter(key, md5)
                entered.add(key)
    except UserError as error:  # others will make it again; nothing here is lost
        print(f"provenance: what was made here is not in the index of recipes: {error}", file=sys.stderr)
    write_json(ENTERED, sorted(entered))


def upload(remote: str, arrived: set[str]) -> None:
    """Enter what this workspace has made into the index beside a remote.

    Args:
        arrived: MD5s of what the remote has; a ledger that speaks of anything else is left out.
    """
    index = _Index.open(remote, must=True)
    assert index is not None
    jobs, hashes = load_ledgers(), Hashes()
    for stage in dvc_stages():
        path = ledger_path(stage)
        key, md5 = recipe(stage, jobs, hashes), hashes[path]
        if key is None or md5 not in arrived or not (_here().get(key) == md5 or index.unchanged(stage)):
            continue
        files = {file for _, file in files_of(json.loads(Path(path).read_text(encoding="utf-8")))}
        if files <= arrived:
            index.upload(key, md5)


class _Index:
    """The index beside the DVC cache, and the one beside the default (or a named) remote."""

    def __init__(self, repo: Any, remote: Any) -> None:
        self._repo, self._remote = repo, remote
        self._cache = repo.cache.local
        self._folder = Path(repo.cache.local_cache_dir, FOLDER)

    @classmethod
    def open(cls, remote: str | None = None, must: bool = False) -> "_Index | None":
        from dvc.config import NoRemoteError
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            repo = Repo(".")
        except DvcException:
            return None  # no DVC repository here, e.g. a downloaded archive
        try:
            return cls(repo, repo.cloud.get_remote(remote))
        except NoRemoteError:
            if must:
                raise
        except Exception as error:  # whatever a file system says when it cannot be reached, or has no driver here
            if must:
                raise
            _warn(error)
        return cls(repo, None)

    def unchanged(self, stage: str) -> bool:
        """Whether DVC knows a stage to be up to date, as after `dvc pull`; False as well if DVC is busy."""
        from dvc.lock import LockError

        if "DVC_STAGE" in os.environ:
            return False
        try:
            with self._repo.lock:
                return not self._stages[stage].status()
        except LockError:
            return False

    @cached_property
    def _stages(self) -> dict[str, Any]:
        """All stages, read together: DVC takes a second to parse dvc.lock, and would do so for each of them."""
        from dvc.dvcfile import PROJECT_FILE

        return {stage.name: stage for stage in self._repo.stage.load_file(PROJECT_FILE)}

    # Entries

    def enter(self, key: str, md5: str) -> None:
        path = self._folder / key[:2] / key[2:]
        if path.exists() and self.has(path.read_text(encoding="utf-8")):
            return  # the first result stays: everybody gets the same
        remotes.make_folder(self._cache, path.parent)
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(md5, encoding="utf-8")
        scratch.chmod(0o444)
        scratch.replace(path)

    def _beside_remote(self, key: str) -> str:
        return str(self._remote.fs.join(self._remote.path, FOLDER, key[:2], key[2:]))

    def upload(self, key: str, md5: str) -> None:
        place = self._beside_remote(key)
        if not self._remote.fs.exists(place):
            self._remote.fs.makedirs(self._remote.fs.parent(place), exist_ok=True)
            self._remote.fs.pipe_file(place, md5.encode())

    def _found(self, key: str) -> Iterator[str]:
        """MD5s of the ledgers that the two indexes have for a recipe."""
        path = self._folder / key[:2] / key[2:]
        if path.exists():
            yield path.read_text(encoding="utf-8")
        if self._remote is None:
            return
        try:
            place = self._beside_remote(key)
            if self._remote.fs.exists(place):
                yield self._remote.fs.cat_file(place).decode()
        except Exception as error:
            _warn(error)
            self._remote = None

    # Objects

    def has(self, md5: str) -> bool:
        return len(md5) == 32 and bool(self._cache.exists(md5))

    def _bring(self, md5s: Iterable[str]) -> bool:
        """Get objects into the cache; False if some are nowhere to be had."""
        missing = {md5 for md5 in md5s if not self.has(md5)}
        if missing and self._remote is not None:
            try:
                remotes.receive(self._repo, [Tracked(md5, md5, self._remote.name, "") for md5 in missing], {})
            except UserError as error:
                _warn(error)
        return all(self.has(md5) for md5 in missing)

    def restore(self, stage: str, key: str, jobs: dict[str, Any], hashes: Hashes) -> bool:
        """Put what a recipe led to in the place of a stage's outputs, the ledger last; False if it is not to be had."""
        ledger_file, outs = ledger_path(stage), dvc_stages()[stage]["outs"]
        for md5 in self._found(key):
            if not self._bring([md5]):
                continue
            data = json.loads(Path(self._cache.oid_to_path(md5)).read_text(encoding="utf-8"))
            files = dict(files_of(data))
            if not all(within(path, outs) for path in files) or not self._bring(files.values()):
                continue
            wrong = [(path, wanted) for path, wanted in [*files.items(), (ledger_file, md5)] if hashes[path] != wanted]
            if wrong:
                mark_uncommitted(stage)
                mine = {path for path, job in jobs.items() if "md5" in job and within(path, outs)}
                for path in mine - data["jobs"].keys():
                    _remove(path)
                for path, wanted in wrong:
                    self._place(wanted, path)
                print(f"provenance: stage {stage} was made before; fetched {len(wrong)} files", file=sys.stderr)
            _note(key, md5)
            return True
        return False

    def _place(self, md5: str, path: str) -> None:
        from dvc.fs import localfs
        from dvc_objects.fs.generic import transfer

        _remove(path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        transfer(self._cache.fs, self._cache.oid_to_path(md5), localfs, path, links=self._cache.cache_types)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def _warn(error: Exception) -> None:
    print(
        f"provenance: the DVC remote cannot be asked for earlier results ({error}); going on without", file=sys.stderr
    )
