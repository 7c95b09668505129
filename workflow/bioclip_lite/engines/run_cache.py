"""Fetch what anybody has made before from the same inputs, code and parameters, instead of making it again.

DVC has a run cache for this, but ``persist: true``, which keeps shards and caches incremental, switches it off. Here is
another: an index beside the objects of the DVC cache, and a second one beside those of the remote. ``run_cache/<key>``
holds the MD5 of the ledger that a stage with this key (``ledger.stage_key``) has led to, and the ledger names every
file. An entry is a hint, never an authority: ``sync`` compares what it brings with the ledger, like anything else in
the workspace.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from bioclip_lite.engines import remotes, stage_code
from bioclip_lite.engines.commit import record
from bioclip_lite.engines.dvc_yaml import dvc_stages, ledger_path, within
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.ledger import STAGE_KEYS, files_of, incomplete, load_ledgers, mark_uncommitted, stage_key
from bioclip_lite.engines.remotes import Tracked
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_json

STORED = Path(".snakemake/bioclip_lite/stored_keys.json")  # keys of this workspace that the DVC cache's index has
FOLDER = "run_cache"


def fetch(stages: Iterable[str], jobs: dict[str, dict[str, Any]], hashes: Hashes) -> list[str]:
    """Fetch the results of those ``stages`` that have changed to a state made before; return their names.

    Stages are visited in order. One whose results are not available has to be made, and stages that depend on it wait
    for that. Where DVC runs a stage, it has visited those before.

    Args:
        jobs, hashes: as ``sync`` returns them.
    """
    index: _Index | None = None
    fetched: list[str] = []
    to_make: list[str] = []  # outputs that will change when their stage runs
    unfinished = incomplete(jobs)
    for stage in [os.environ["DVC_STAGE"]] if "DVC_STAGE" in os.environ else stages:
        deps, outs = dvc_stages()[stage]["deps"], dvc_stages()[stage]["outs"]
        key = None if any(within(dep, to_make) for dep in deps) else stage_key(stage, jobs, hashes)
        ledger = hashes[ledger_path(stage)]
        if key and ledger and _keys_of_workspace().get(key) == ledger and stage not in unfinished:
            continue
        index = index or (_Index.open() if key else None)
        if not key or not index:
            to_make += outs
        elif ledger and index.unchanged(stage):
            _remember(key, ledger)
        elif index.restore(stage, key, jobs, hashes):
            fetched.append(stage)
            jobs, hashes = load_ledgers(), Hashes()
            unfinished = incomplete(jobs)
        else:
            to_make += outs
    record(fetched)
    return fetched


def _keys_of_workspace() -> dict[str, str]:
    """Stage key -> MD5 of the ledger that it led to in this workspace."""
    return json.loads(STAGE_KEYS.read_text(encoding="utf-8")) if STAGE_KEYS.exists() else {}


def _remember(key: str, ledger: str) -> None:
    write_json(STAGE_KEYS, _keys_of_workspace() | {key: ledger})


def store() -> None:
    """Enter what this workspace has made, and DVC has committed, into the index beside the DVC cache."""
    stored = set(json.loads(STORED.read_text(encoding="utf-8"))) if STORED.exists() else set()
    new = {key: ledger for key, ledger in _keys_of_workspace().items() if key not in stored}
    if not new or not (index := _Index.open()):
        return
    try:
        for key, ledger in new.items():
            if index.has(ledger):
                index.enter(key, ledger)
                stored.add(key)
    except UserError as error:  # others will make it again; nothing here is lost
        print(f"provenance: results of this workspace are not shared with others: {error}", file=sys.stderr)
    write_json(STORED, sorted(stored))


def upload(remote: str, arrived: set[str]) -> None:
    """Enter what this workspace has made into the index beside a remote.

    Args:
        arrived: MD5s of the objects in the remote; a ledger that names any other object is left out.
    """
    index = _Index.open(remote, must=True)
    assert index is not None
    jobs, hashes = load_ledgers(), Hashes()
    for stage in dvc_stages():
        path = ledger_path(stage)
        key, ledger = stage_key(stage, jobs, hashes), hashes[path]
        if key is None or ledger not in arrived:
            continue
        # DVC compares fingerprints, which an edit since the last run has left behind.
        current = stage_code.is_current(stage, hashes.__getitem__)
        if _keys_of_workspace().get(key) != ledger and not (current and index.unchanged(stage)):
            continue
        objects = {md5 for _, md5 in files_of(json.loads(Path(path).read_text(encoding="utf-8")))}
        if objects <= arrived:
            index.upload(key, ledger)


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
        except Exception as error:  # whatever a file system raises when it cannot be reached, or has no driver here
            if must:
                raise
            _warn(error)
        return cls(repo, None)

    def unchanged(self, stage: str) -> bool:
        """Whether DVC takes a stage for up to date, as after `dvc pull`; False as well if DVC is busy."""
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

    def _ledgers(self, key: str) -> Iterator[str]:
        """MD5s of the ledgers that the two indexes have for a stage key."""
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
        """Fetch objects into the cache; False if one is in neither cache nor remote."""
        missing = {md5 for md5 in md5s if not self.has(md5)}
        if missing and self._remote is not None:
            try:
                remotes.receive(self._repo, [Tracked(md5, md5, self._remote.name, "") for md5 in missing], {})
            except UserError as error:
                _warn(error)
        return all(self.has(md5) for md5 in missing)

    def restore(self, stage: str, key: str, jobs: dict[str, Any], hashes: Hashes) -> bool:
        """Put earlier results in the place of a stage's outputs, the ledger last; False if they are not available."""
        ledger_file, outs = ledger_path(stage), dvc_stages()[stage]["outs"]
        for md5 in self._ledgers(key):
            if not self._bring([md5]):
                continue
            data = json.loads(Path(self._cache.oid_to_path(md5)).read_text(encoding="utf-8"))
            files = dict(files_of(data))
            if not all(within(path, outs) for path in files) or not self._bring(files.values()):
                continue
            differing = {path: new for path, new in [*files.items(), (ledger_file, md5)] if hashes[path] != new}
            if differing:
                mark_uncommitted(stage)
                present = {path for path, job in jobs.items() if "md5" in job and within(path, outs)}
                for path in present - data["jobs"].keys():
                    _remove(path)
                for path, new in differing.items():
                    self._place(new, path)
                print(f"provenance: stage {stage} was made before; fetched {len(differing)} files", file=sys.stderr)
            _remember(key, md5)
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
        f"provenance: the DVC remote cannot be asked for earlier results ({error}); going on without them",
        file=sys.stderr,
    )
