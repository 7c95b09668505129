"""MD5 of files and folders, each content read once."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bioclip_lite.engines.dvc_yaml import files_in
from bioclip_lite.utils.code_fingerprint import meaning
from bioclip_lite.utils.files import replacing

HASHES = Path(".snakemake/bioclip_lite/hashes.json")  # MD5 by (time, size, inode), so that a file is read once
CODE = (".py", ".smk")  # counts by its meaning (code_fingerprint), so that a comment makes nothing run again


class Hashes:
    """MD5 of files and folders, computed once per (time, size, inode) and shared with DVC's own hash cache.

    Contents must not change while an instance is in use; times may, through ``touched``.

    Args:
        ask_dvc: whether to look in DVC's hash cache too, which costs half a second, once.
    """

    def __init__(self, ask_dvc: bool = True) -> None:
        try:
            self._by_path: dict[str, list[Any]] = json.loads(HASHES.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._by_path = {}
        self._answers: dict[str, str | None] = {}
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
        text = json.dumps(sorted(self.files(path).items()))
        return hashlib.md5(text.encode()).hexdigest() + ".dir"

    def files(self, path: str) -> dict[str, str | None]:
        """Path within a folder -> MD5."""
        return {os.path.relpath(file, path): self._file(file) for file in files_in(path)}

    def remembered(self, path: str) -> str | None:
        """MD5 of the content if it was computed before; None if the file has to be read."""
        entry = self._by_path.get(path)
        return entry[1] if entry and entry[0] == self._identity(path) else None

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

    def _ask_dvc(self, path: str) -> str | None:
        if path.endswith(CODE) or not self._ask or not self._repo():
            return None
        from dvc.fs import localfs

        _, info = self._repo().state.get(os.path.abspath(path), localfs)
        return info.value if info is not None and info.name == "md5" else None
