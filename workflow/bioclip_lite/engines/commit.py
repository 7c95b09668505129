"""Record the stages that a run has made in dvc.lock and in DVC's cache."""

import hashlib
import os
import sys
from collections.abc import Iterable

from bioclip_lite.engines import dvc_lock, stage_code
from bioclip_lite.engines.dvc_yaml import dvc_stages, ledger_path, within
from bioclip_lite.engines.hashes import HASHES, Hashes
from bioclip_lite.engines.ledger import RULE, UNCOMMITTED, locked_ledgers, remember_keys
from bioclip_lite.utils.errors import UserError


def commit(wanted: set[str], ran: set[str]) -> None:
    """Record in dvc.lock, and in DVC's cache, the stages that a run has made or completed.

    Args:
        wanted: the rules in the graph of the run.
        ran: those of them whose jobs ran.
    """
    hashes, locked = Hashes(), locked_ledgers()
    reached = {stage for stage in dvc_stages() if RULE.format(stage) in wanted}
    remember_keys(reached)
    new = {s for s in reached if RULE.format(s) in ran or hashes[ledger_path(s)] not in (None, locked.get(s))}
    outs = [out for stage in new for out in dvc_stages()[stage]["outs"]]
    # DVC compares folders where Snakemake compares files, and the code of a stage where Snakemake compares that of a
    # job: a stage that had nothing to do may still depend on what has changed.
    also = {s for s in reached if any(_overlap(dep, outs) for dep in dvc_stages()[s]["deps"])} | _recoded(reached)
    made = [stage for stage in dvc_stages() if stage in new | also]
    hashes.share(out for stage in made for out in [*dvc_stages()[stage]["outs"], ledger_path(stage)])
    hashes.write(HASHES)
    record(made)


def _overlap(path: str, places: Iterable[str]) -> bool:
    return any(within(path, [place]) or within(place, [path]) for place in places)


def _recoded(stages: Iterable[str]) -> set[str]:
    """Those of ``stages``, all of whose outputs are here, whose code is not the one in dvc.lock."""
    locked = dvc_lock.fingerprints()
    here = [stage for stage in stages if all(os.path.lexists(out) for out in dvc_stages()[stage]["outs"])]
    now = {stage: hashlib.md5(stage_code.path(stage).read_bytes()).hexdigest() for stage in here}
    return {stage for stage, md5 in now.items() if locked.get(stage, md5) != md5}


def record(stages: list[str]) -> None:
    """Have DVC store the outputs of ``stages``, as they are, in its cache and dvc.lock.

    DVC's stage ``code`` is recorded with them, unless code was edited since its fingerprints were written.

    Does nothing when DVC started this run: it does so itself, and its repository is locked meanwhile.
    """
    if not stages or "DVC_STAGE" in os.environ:
        return
    content = Hashes(ask_dvc=False).__getitem__
    code = [stage_code.STAGE] if all(stage_code.is_current(stage, content) for stage in dvc_stages()) else []
    try:
        dvc_lock.commit([*code, *stages])
    except UserError as error:
        repair = f"dvc commit -f {' '.join(stages)} (or dvc repro, or this command again)"
        print(f"dvc.lock is not up to date; run: {repair}\nDVC says: {error}", file=sys.stderr)
        return
    for stage in stages:
        (UNCOMMITTED / stage).unlink(missing_ok=True)
