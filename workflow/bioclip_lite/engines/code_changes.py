"""Name the source files behind a change that DVC reports of workflow/code/<stage>.md5, or of the package as a whole."""

import hashlib
import subprocess
from collections.abc import Iterator

from bioclip_lite.engines import dvc_lock, stage_code

_REVISIONS = 50  # of a fingerprint that are searched for the one in dvc.lock


def changed_code() -> dict[str, list[str]]:
    """Stage -> files of its code that mean something else than those in dvc.lock; stages without any are left out.

    Where git does not hold the fingerprint in dvc.lock, the fingerprint's own path stands for the files.
    """
    changes = {}
    for stage, locked in dvc_lock.fingerprints().items():
        present = stage_code.fingerprint(stage)
        if _md5(present) != locked:
            before = next((text for text in _versions(stage) if _md5(text) == locked), None)
            changes[stage] = _differing(before, present) if before else [stage_code.path(stage).as_posix()]
    return changes


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _versions(stage: str) -> Iterator[str]:
    """The fingerprint of a stage as it is on disk, and in git from the newest commit back."""
    path = stage_code.path(stage)
    if path.exists():
        yield path.read_text(encoding="utf-8")
    for commit in _git("rev-list", f"--max-count={_REVISIONS}", "HEAD", "--", str(path)).split():
        yield _git("show", f"{commit}:./{path.as_posix()}")


def _differing(before: str, after: str) -> list[str]:
    old, new = stage_code.parse(before), stage_code.parse(after)
    return sorted(file for file in {*old, *new} if old.get(file) != new.get(file))


def edited_since_lock() -> list[str]:
    """Files of code whose bytes differ from the commit that last changed dvc.lock, comments included."""
    commit = _git("rev-list", "--max-count=1", "HEAD", "--", str(dvc_lock.LOCK)).strip()
    if not commit:
        return []
    return _git("diff", "--name-only", "--relative", commit, "--", str(stage_code.PACKAGE), "workflow/rules").split()


def _git(*arguments: str) -> str:
    """Run git and return its output; "" where it fails, e.g. outside a repository."""
    done = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", errors="replace")
    return done.stdout if done.returncode == 0 else ""
