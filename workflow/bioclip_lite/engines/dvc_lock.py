"""dvc.lock: what DVC has recorded of each stage, read and written.

``dvc commit STAGE...`` would do what ``commit`` does, but parses and writes dvc.lock once per stage and in place: three
times as slow, and a kill meanwhile leaves half a file.
"""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import parse_yaml

LOCK = Path("dvc.lock")


def outputs() -> dict[str, list[dict[str, Any]]]:
    """Stage -> its outputs as dvc.lock has them (path, md5, nfiles, ...); none where there is no dvc.lock.

    Raises:
        UserError: it is half a file, or has the marks of a conflict in it.
    """
    try:
        return {
            name: stage.get("outs", [])
            for name, stage in parse_yaml(LOCK.read_text(encoding="utf-8"))["stages"].items()
        }
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, TypeError, AttributeError, KeyError):
        raise UserError(
            "dvc.lock cannot be read: DVC was killed while writing it, or a merge left it in conflict; take a whole "
            "one (git checkout dvc.lock; git checkout --ours dvc.lock in a merge) and run again; no data is lost"
        ) from None


def commit(names: Iterable[str]) -> None:
    """Take the outputs of some stages, as they are, into DVC's cache and dvc.lock.

    Does nothing where DVC keeps nothing, as in a downloaded archive of the repository.

    Raises:
        UserError: DVC cannot, in its words.
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
            stages = [stage for stage in repo.stage.load_file(PROJECT_FILE) if stage.name in set(names)]
            for stage in stages:
                stage.save()
                stage.commit()
            scratch = Path(repo.tmp_dir, LOCK.name)
            scratch.unlink(missing_ok=True)  # of a killed run
            if LOCK.exists():
                shutil.copy(LOCK, scratch)
            Lockfile(repo, str(scratch)).dump_stages(stages)
            scratch.replace(LOCK)
    except (NotDvcRepoError, SCMError):
        return
    except Exception as error:  # DVC's own, but also what its databases and file systems say
        raise UserError(f"{error}" or type(error).__name__) from error
    finally:
        log.setLevel(level)
