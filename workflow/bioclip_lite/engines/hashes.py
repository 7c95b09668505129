"""MD5 of files and folders, each content read once.

A folder may hold millions of loose photographs. So what is known of the files in a folder lies in a file of its own
(FOLDERS), which is read only when one of them has changed; otherwise a look at names, times and sizes suffices.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bioclip_lite.engines.dvc_yaml import files_in, is_content
from bioclip_lite.utils.code_fingerprint import meaning
from bioclip_lite.utils.files import replacing
from bioclip_lite.utils.progress import progress

HASHES = Path(".snakemake/bioclip_lite/hashes.json")  # MD5 by (time, size, inode), so that a file is read once
FOLDERS = Path(".snakemake/bioclip_lite/folders")  # the same for the files in a folder, by MD5 of the folder's path
_TOGETHER = 64  # files that a thread reads in a row
_LARGE = 10**10  # bytes that take so long to read that a person should know
CODE = (".py", ".smk")  # counts by its meaning (code_fingerprint), so that a comment makes nothing run again


class Hashes:
    """MD5 of files and folders, computed once per (time, size, inode) and shared with DVC's own hash cache.

    Contents must not change while an instance is in use; times may, through ``touched``.

    Args:
        ask_dvc: whether to look in DVC's hash cache too, which costs half a second, once.
    """

    def __init__(self, ask_dvc: bool = True) -> None:
        self._by_path: dict[str, list[Any]] = _read_json(HASHES)
        self._answers: dict[str, str | None] = {}
        self._folders: dict[str, dict[str, list[Any]]] = {}  # folder -> file within it -> identity, MD5
        self._changed: set[str] = set()  # of these folders
        self._unshared: dict[str, str | None] = {}  # that DVC would otherwise hash again
        self._dvc: Any = None
        self._ask = ask_dvc
        self.read = 0

    def __getitem__(self, path: str) -> str | None:
        """MD5 of the content; None if there is nothing at ``path``."""
        if path not in self._answers:
            self._answers[path] = self._folder(path) if os.path.isdir(path) else self._file(path)
        return self._answers[path]

    def _folder(self, path: str) -> str:
        state = hashlib.md5()
        for name, identity in _listing(path):
            state.update(f"{name}\0{identity}\n".encode(errors="surrogateescape"))
        known = self._by_path.get(path + "/")
        if known and known[0] == state.hexdigest():
            return str(known[1])
        md5 = hashlib.md5(json.dumps(sorted(self.files(path).items())).encode()).hexdigest() + ".dir"
        self._by_path[path + "/"] = [state.hexdigest(), md5]
        return md5

    def files(self, path: str) -> dict[str, str | None]:
        """Path within a folder -> MD5; None for a link to nothing."""
        listing = list(_listing(path))
        paths = {name: os.path.join(path, name) for name, identity in listing if identity}
        alone = {file for file in paths.values() if file in self._by_path}
        self._read(paths.values())
        known = {name: entry for name, file in paths.items() if (entry := self._entry(file))}
        self._folders[path] = known
        self._changed.add(path)
        for file in set(paths.values()) - alone:
            self._by_path.pop(file, None)
        return {name: known[name][1] if identity else None for name, identity in listing}

    def read_ahead(self, paths: Iterable[str]) -> None:
        """Read, several at a time, those of ``paths`` that are files and whose MD5 is not known."""
        self._read(path for path in paths if path not in self._answers and os.path.isfile(path))

    def _read(self, paths: Iterable[str]) -> None:
        """Read files whose MD5 is not known; say so where it takes long."""
        new = [path for path in paths if self.remembered(path) is None and not self._learned_from_dvc(path)]
        if not new:
            return
        size = sum(os.path.getsize(path) for path in new)
        if size > _LARGE:
            print(f"provenance: reading {size / 1e9:.0f} GB in {len(new)} files, once", file=sys.stderr, flush=True)
        parts = [new[start : start + _TOGETHER] for start in range(0, len(new), _TOGETHER)]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            md5s = (md5 for part in pool.map(_md5s, parts) for md5 in part)
            for path, md5 in progress(zip(new, md5s, strict=True), len(new), "provenance: files read"):
                self._remember(path, md5)
        self.read += len(new)

    def remembered(self, path: str) -> str | None:
        """MD5 of the content if it was computed before; None if the file has to be read."""
        entry = self._entry(path)
        return entry[1] if entry else None

    def _entry(self, path: str) -> list[Any] | None:
        """Identity and MD5 of a file, if they are known and the file is as it was then."""
        for look in (self._by_path.get, self._in_folder):  # the second reads a file
            if (entry := look(path)) and entry[0] == self._identity(path):
                return entry
        return None

    def _in_folder(self, path: str) -> list[Any] | None:
        """What was known of a file when a folder that it lies in was hashed."""
        for folder in (path[:end] for end in range(len(path)) if path[end] == "/"):
            if folder + "/" in self._by_path and folder not in self._folders:
                self._folders[folder] = _read_json(_folder_file(folder))
            if entry := self._folders.get(folder, {}).get(path[len(folder) + 1 :]):
                return entry
        return None

    def touched(self, path: str, md5: str | None) -> None:
        """Note that the time of ``path`` was changed and its content was not."""
        if md5 is None:
            self._by_path.pop(path, None)
        else:
            self._remember(path, md5)

    def write(self, path: Path) -> None:
        """Store the MD5s computed so far, in the form of HASHES."""
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(self._by_path), encoding="utf-8")

    def save(self) -> None:
        """Store the MD5s for later runs, and share those of data with DVC."""
        for folder in self._changed:
            with replacing(_folder_file(folder)) as scratch:
                scratch.write_text(json.dumps(self._folders[folder]), encoding="utf-8")
        self.write(HASHES)
        if self._ask:
            self._tell_dvc(self._unshared)

    def share(self, places: Iterable[str]) -> None:
        """Share the MD5s of the files in some places, none of which is code, with DVC."""
        self._tell_dvc({path: self._file(path) for place in places for path in files_in(place)})

    def _tell_dvc(self, hashes: dict[str, str | None]) -> None:
        if hashes and self._repo():
            from dvc.fs import localfs
            from dvc_data.hashfile.hash_info import HashInfo

            entries = [
                (os.path.abspath(path), HashInfo("md5", md5), None)
                for path, md5 in hashes.items()
                if os.path.exists(path)
            ]
            self._repo().state.save_many(entries, localfs)

    @staticmethod
    def _identity(path: str) -> list[int]:
        status = os.stat(path)
        return [status.st_mtime_ns, status.st_size, status.st_ino]

    def _file(self, path: str) -> str | None:
        if not os.path.exists(path):
            return None
        entry = self._entry(path)
        if entry is None:
            self._read([path])
            entry = self._entry(path)
        if entry:
            self._by_path[path] = entry
        return entry[1] if entry else None

    def _remember(self, path: str, md5: str) -> None:
        self._by_path[path] = [self._identity(path), md5]
        if not path.endswith(CODE):  # DVC hashes the bytes of code, not its meaning
            self._unshared[path] = md5

    def _repo(self) -> Any:
        if self._dvc is None:
            try:
                from dvc.repo import Repo

                self._dvc = Repo(".")
            except Exception:  # no DVC repository here, e.g. a downloaded archive: hash everything ourselves
                self._dvc = False
        return self._dvc

    def _learned_from_dvc(self, path: str) -> bool:
        if path.endswith(CODE) or not self._ask or not self._repo():
            return False
        from dvc.fs import localfs

        _, info = self._repo().state.get(os.path.abspath(path), localfs)
        if info is None or info.name != "md5":
            return False
        self._remember(path, info.value)
        return True


def _listing(folder: str, within: str = "") -> Iterator[tuple[str, list[int]]]:
    """Path within a folder, and identity, of each file in it and in those below it, always in the same order."""
    with os.scandir(os.path.join(folder, within)) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{within}/{entry.name}" if within else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _listing(folder, name)
        elif is_content(entry.name) and not entry.is_dir():
            try:
                status = entry.stat()
            except FileNotFoundError:  # a link to nothing
                yield name, []
            else:
                yield name, [status.st_mtime_ns, status.st_size, status.st_ino]


def _md5s(paths: Iterable[str]) -> list[str]:
    return [*map(_md5, paths)]


def _md5(path: str) -> str:
    with Path(path).open("rb") as file:
        return meaning(file.read()) if path.endswith(CODE) else hashlib.file_digest(file, "md5").hexdigest()


def _folder_file(folder: str) -> Path:
    return FOLDERS / (hashlib.md5(folder.encode(errors="surrogateescape")).hexdigest() + ".json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (FileNotFoundError, ValueError):
        return {}
