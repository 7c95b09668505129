"""Divide observations into splits: as the source states, and otherwise by shares, taxon by taxon."""

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter

from bioclip_lite.sources.sample import SPLITS
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.randomness import digest


def deal_all(
    database: sqlite3.Connection, paths: Sequence[taxonomy.Path], shares: Mapping[str, float], seed: int
) -> None:
    """Give each observation the split that the source states, or deal it with the others of its taxon.

    If the source states test photographs, nothing is dealt to test.
    """
    database.execute(
        "INSERT INTO dealt SELECT joined, max(split) FROM observation GROUP BY joined HAVING max(split) IS NOT NULL"
    )
    tests = (
        "SELECT 1 FROM photograph JOIN observation ON observation.id = observation WHERE split = 'test' AND NOT gone"
    )
    if database.execute(f"{tests} LIMIT 1").fetchone():
        rest = {split: share for split, share in shares.items() if split != "test"}
        shares = {split: share / sum(rest.values()) for split, share in rest.items()}
    rows = database.execute(  # an observation with several labels is dealt with the first
        "SELECT taxon, joined, min(key) FROM photograph JOIN observation ON observation.id = observation "
        "WHERE NOT gone AND joined NOT IN (SELECT observation FROM dealt) GROUP BY joined ORDER BY taxon"
    )
    for taxon, group in groupby(rows, key=itemgetter(0)):
        splits = deal(taxonomy.taxon_id(paths[taxon]), {row[1] for row in group}, shares, seed)
        database.executemany("INSERT INTO deals VALUES (?, ?)", splits.items())
    database.execute("INSERT INTO dealt SELECT observation, split FROM deals")


def deal(taxon: str, groups: set[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Deal the observations of one taxon to splits by shares (largest remainders), in an order drawn by hash.

    Train gets at least one, so a single observation goes to train.

    Returns:
        Split by observation.
    """
    quota = {split: share * len(groups) for split, share in shares.items() if share > 0}
    sizes = {split: int(q + 1e-9) for split, q in quota.items()}

    def claim(split: str) -> tuple[float, int]:
        # Without the hash, equal remainders would always favour the same split.
        return round(quota[split] - sizes[split], 6), digest(seed, "index", "tie", taxon, split)

    left = len(groups) - sum(sizes.values())
    for split in sorted(quota, key=claim, reverse=True)[:left]:
        sizes[split] += 1
    if not sizes["train"]:  # the other splits took every group
        sizes[max(sizes, key=lambda split: sizes[split])] -= 1
        sizes["train"] = 1
    order = iter(sorted(groups, key=lambda group: digest(seed, "index", "deal", group)))
    return {group: split for split in SPLITS for group in islice(order, sizes.get(split, 0))}
