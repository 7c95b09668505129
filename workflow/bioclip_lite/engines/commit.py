"""Record the stages that a run has made in dvc.lock and in DVC's cache."""

import os
import sys
from collections.abc import Iterable

from bioclip_lite.engines import dvc_lock
from bioclip_lite.engines.dvc_yaml import dvc_stages, ledger_path, within
from bioclip_lite.engines.hashes import HASHES, Hashes
from bioclip_lite.engines.ledger import RULE, UNCOMMITTED, locked_ledgers, note_recipes
from bioclip_lite.utils.errors import UserError


def commit(wanted: set[str], ran: set[str]) -> None:
    """Record in dvc.lock, and in DVC's cache, the stages that a run has made or completed.

    Args:
        wanted: the rules of its graph.
        ran: those of them whose jobs ran.
    """
    hashes, locked = Hashes(), locked_ledgers()
    named = {stage for stage in dvc_stages() if RULE.format(stage) in wanted}
    note_recipes(named)
    new = {s for s in named if RULE.format(s) in ran or hashes[ledger_path(s)] not in (None, locked.get(s))}
    outs = [out for stage in new for out in dvc_stages()[stage]["outs"]]
    # DVC asks folders where Snakemake asks files: a stage that had nothing to do may still depend on what has changed.
    also = {s for s in named if any(_overlap(dep, outs) for dep in dvc_stages()[s]["deps"])}
    made = [stage for stage in dvc_stages() if stage in new | also]
    hashes.share(out for stage in made for out in [*dvc_stages()[stage]["outs"], ledger_path(stage)])
    hashes.write(HASHES)
    record(made)


def _overlap(path: str, places: Iterable[str]) -> bool:
    return any(within(path, [place]) or within(place, [path]) for place in places)


def record(stages: list[str]) -> None:
    """Have DVC take the outputs of ``stages``, as they are, into its cache and dvc.lock.

    Does nothing when DVC started this run: it does so itself, and its repository is locked meanwhile.
    """
    if not stages or "DVC_STAGE" in os.environ:
        return
    try:
        dvc_lock.commit(stages)
    except UserError as error:
        repair = f"dvc commit -f {' '.join(stages)} (or dvc repro, or this command again)"
        print(f"dvc.lock is not up to date; run: {repair}\nDVC says: {error}", file=sys.stderr)
        return
    for stage in stages:
        (UNCOMMITTED / stage).unlink(missing_ok=True)
