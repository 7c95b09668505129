"""Stop if no classifier can be trained on what is left, or if too much of the source is damaged."""

import sqlite3
from collections.abc import Sequence

from bioclip_lite.indexing.database import count
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

# Left out on request, because another copy stays, or no photograph in the first place; all other reasons are damage.
_NO_DAMAGE = ("not listed", "licence", "duplicate", "near duplicate", "video", "sidecar", "unlabelled")


def check(
    database: sqlite3.Connection,
    paths: Sequence[taxonomy.Path],
    listed: Sequence[taxonomy.Path],
    unmatched: str | None,
    source: str,
    reject_budget: float,
) -> None:
    """Check that photographs, taxa and keys suffice, and that the share of damage stays within the budget.

    Args:
        paths: taxa by number.
        listed: taxa of the species list without photographs.
        unmatched: the names of the species list that name no taxon, for messages.
        source: name of the source, for messages.
        reject_budget: greatest share of damaged photographs, 0 to 1.

    Raises:
        UserError: no photograph or one class only is left, two photographs have one key, or too many are damaged.
    """
    reasons = dict(
        database.execute("SELECT reason, count(*) FROM reject GROUP BY reason ORDER BY count(*) DESC, reason")
    )
    place = f"index: source {source!r}"
    left_out = _left_out(database, reasons)
    kept = count(database)
    if not kept:
        raise UserError(f"{place} gave no usable photograph.{left_out}")
    used = database.execute("SELECT DISTINCT taxon FROM photograph WHERE NOT gone AND taxon NOT NULL")
    photographed = [paths[taxon] for (taxon,) in used]
    if not photographed:
        raise UserError(f"{place} has photographs without labels only, {kept}; a classifier needs names.{left_out}")
    leaves = taxonomy.label_space([*photographed, *listed])
    if len(leaves) < 2:
        name = taxonomy.scientific_name(leaves[0])
        lost = f" The species list has names that name no taxon, {unmatched}." if unmatched else ""
        raise UserError(f"{place} has one class only, {name}; a classifier needs two or more.{lost}{left_out}")
    again = "SELECT key, count(*) FROM photograph WHERE NOT gone GROUP BY key HAVING count(*) > 1 LIMIT 1"
    for key, times in database.execute(again):
        raise UserError(f"{place} gave {times} different photographs the key {key!r}; rename one of the files")
    _check_damage(database, reasons, kept, place, reject_budget)


def _left_out(database: sqlite3.Connection, reasons: dict[str, int]) -> str:
    """The photographs left out by reason, and the first of them, for a message."""
    first = database.execute("SELECT locator, detail FROM reject ORDER BY locator, reason LIMIT 1").fetchone()
    counts = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
    return f" Left out: {counts}, first {first[0]!r} ({first[1]})." if first else ""


def _check_damage(
    database: sqlite3.Connection, reasons: dict[str, int], kept: int, place: str, reject_budget: float
) -> None:
    damage = {reason: number for reason, number in reasons.items() if reason not in _NO_DAMAGE}
    damaged = sum(damage.values())
    share = damaged / (kept + damaged)
    if share <= reject_budget:
        return
    examples = []
    for reason in damage:
        query = "SELECT locator, detail FROM reject WHERE reason = ? ORDER BY locator LIMIT 2"
        examples += [f"{locator!r}: {reason} ({detail})" for locator, detail in database.execute(query, (reason,))]
    shown = "\n  ".join(examples[:10])
    raise UserError(
        f"{place}: {damaged} of {kept + damaged} photographs are of no use ({100 * share:.1f} %), and "
        f"index.reject_budget allows {100 * reject_budget:g} %: "
        f"{', '.join(f'{number} {reason}' for reason, number in damage.items())}. Mend the source, or raise the "
        f"budget in params.yaml. The first:\n  {shown}"
    )
