"""Read and write Snakemake's records of the jobs that made files, in Snakemake's place and form.

Snakemake has a class for this, whose import takes longer than all that a ledger needs;
tests/engines/test_snakemake_records.py has either read what the other has written.
"""

import contextlib
import json
import os
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

FOLDER = Path(".snakemake/metadata")
IN_PROGRESS = Path(".snakemake/incomplete")  # Snakemake takes metadata without this folder for an older version's
VERSION = 6  # of the form
_MODE = 0o660  # others of the group may run here too


def prepare() -> None:
    for folder in (FOLDER, IN_PROGRESS):
        folder.mkdir(parents=True, exist_ok=True)


def place(path: str, folder: Path = FOLDER) -> Path:
    """The file with the record of ``path``: its name in Base64, in as many folders as a name that long needs."""
    name = urlsafe_b64encode(path.encode()).decode()
    longest = os.pathconf(folder, "PC_NAME_MAX") - 1
    parts = [name[i : i + longest] for i in range(0, len(name), longest)]
    return folder.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])


def read(path: str) -> dict[str, Any]:
    """Empty if there is none, or none that can be read."""
    try:
        return dict(json.loads(place(path).read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def write(path: str, record: dict[str, Any]) -> None:
    where = place(path)
    new = not where.exists()
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(json.dumps(record), encoding="utf-8")
    if new:
        where.chmod(_MODE)


def delete(path: str) -> None:
    where = place(path)
    where.unlink(missing_ok=True)
    for folder in where.relative_to(FOLDER).parents[:-1]:
        with contextlib.suppress(OSError):  # another long name begins alike, or there was none
            (FOLDER / folder).rmdir()


def in_progress(path: str) -> bool:
    """Has a job begun to make ``path`` that has not ended, or was killed?"""
    return place(path, IN_PROGRESS).exists()
