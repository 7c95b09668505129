"""Read and write dvc.lock, in which DVC has recorded each stage.

``dvc commit STAGE...`` would do what ``commit`` does, but parses and writes dvc.lock once per stage and in place: three
times as slow, and a kill meanwhile leaves half a file.
"""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from bioclip_lite.engines import stage_code
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import parse_yaml

LOCK = Path("dvc.lock")


def stages() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Stage -> its ``deps`` and ``outs`` in dvc.lock (path, md5, nfiles, ...); empty where there is no dvc.lock.

    Raises:
        UserError: dvc.lock is half a file, or has conflict markers in it.
    """
    try:
        return {
            name: {kind: stage.get(kind, []) for kind in ("deps", "outs")}
            for name, stage in parse_yaml(LOCK.read_text(encoding="utf-8"))["stages"].items()
        }
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, TypeError, AttributeError, KeyError):
        raise UserError(
            "dvc.lock cannot be read: DVC was killed while writing it, or a merge left it in conflict; take a whole "
            "one (git checkout dvc.lock; git checkout --ours dvc.lock in a merge) and run again; no data is lost"
        ) from None


def fingerprints() -> dict[str, str]:
    """Stage -> MD5 of its code's fingerprint in dvc.lock, for the stages that have run."""
    return {
        name: dep["md5"]
        for name, stage in stages().items()
        for dep in stage["deps"]
        if dep["path"] == stage_code.path(name).as_posix()
    }


def commit(names: Iterable[str]) -> None:
    """Store the outputs of some stages, as they are, in DVC's cache, and write the stages to dvc.lock.

    Does nothing outside a DVC repository, e.g. in a downloaded archive.

    Raises:
        UserError: DVC has failed; the message is DVC's.
    """
    from dvc.dvcfile import PROJECT_FILE, Lockfile
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    log = logging.getLogger("dvc")
    level = log.level
    log.setLevel(logging.CRITICAL)  # as --quiet does: neither progress bars nor advice
    try:
        with Repo(".") as repo, repo.lock:
            named = set(names)
            chosen = [stage for stage in repo.stage.load_file(PROJECT_FILE) if stage.name in named]
            for stage in chosen:
                stage.save()
                stage.commit()
            scratch = Path(repo.tmp_dir, LOCK.name)
            scratch.unlink(missing_ok=True)  # of a killed run
            if LOCK.exists():
                shutil.copy(LOCK, scratch)
            Lockfile(repo, str(scratch)).dump_stages(chosen)
            scratch.replace(LOCK)
    except (NotDvcRepoError, SCMError):
        return
    except Exception as error:  # DVC's own, but also what its databases and file systems say
        raise UserError(f"{error}" or type(error).__name__) from error
    finally:
        log.setLevel(level)
