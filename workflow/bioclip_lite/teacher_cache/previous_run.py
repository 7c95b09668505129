"""Recover the previous content of an output that is being recomputed, if its provenance is known.

Snakemake deletes the outputs of a job before it runs. Its flag ``update`` keeps them, but then a job that is killed
leaves the old file with a record of the new parameters, and the next run takes it for finished. DVC's cache has the
old content under the MD5 that the ledger of the last run (``engines.ledger``) records, so no copy is needed.
"""

import ast
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bioclip_lite.utils.code_fingerprint import PACKAGE, file_meaning


def earlier(path: Path, params: Mapping[str, Any]) -> Path | None:
    """The file with the content that ``path`` had in the last run; None if that cannot be reused.

    It can be reused if the same code made it from other inputs or with other ``params``. If nothing has changed, the
    user has asked for the job to run again, so nothing is reused.

    Args:
        path: an output, relative to the root of the repository, which is the current folder.
        params: the parameters of the job; those that the ledger does not record are ignored.
    """
    try:
        ledger = json.loads(Path("data", "provenance", f"{path.parts[1]}.json").read_text(encoding="utf-8"))
        job = ledger["jobs"][path.as_posix()]
        (text,) = ledger["definitions"][job["definition"]]["params"]  # the section as JSON, quoted as Python would
        section = json.loads(ast.literal_eval(text))
        (fingerprint,) = job["in"].keys() & ledger["modules"].keys()
    except (OSError, ValueError, KeyError, IndexError, SyntaxError):
        return None
    other_params = any(name not in params or params[name] != value for name, value in section.items())
    inputs = {file: md5 for file, md5 in job["in"].items() if file != fingerprint}
    if not _same_code(ledger["modules"][fingerprint]) or not (other_params or _other_inputs(inputs)):
        return None
    content = _in_cache(job["md5"])
    return content if content and _md5(content) == job["md5"] else None


def _same_code(modules: dict[str, str]) -> bool:
    here = {file: PACKAGE.parents[1] / file for file in modules}
    return all(path.exists() and file_meaning(path) == modules[file] for file, path in here.items())


def _other_inputs(inputs: dict[str, str]) -> bool:
    """Smallest first: a large one is often not read at all."""
    data = [Path(file) for file in inputs]
    if not all(path.is_file() for path in data):
        return True
    return any(_md5(path) != inputs[path.as_posix()] for path in sorted(data, key=os.path.getsize))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _in_cache(md5: str) -> Path | None:
    """The object of DVC's cache with this content."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        path = Path(Repo(".").cache.local.oid_to_path(md5))
    except DvcException:  # no DVC repository here, e.g. a downloaded archive
        return None
    return path if path.is_file() else None
