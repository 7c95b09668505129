"""Leave out identical files, and near duplicates that the source puts into different splits."""

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bioclip_lite.indexing import duplicates
from bioclip_lite.indexing.database import BATCH, add_reject
from bioclip_lite.sources.sample import NOTHING, Reject
from bioclip_lite.taxa import taxonomy


def leave_out_copies(database: sqlite3.Connection, paths: Sequence[taxonomy.Path]) -> None:
    """Keep one of each set of identical files, and none if their labels contradict each other.

    Labels agree if they lie on one line of descent. The copy with the lowest rank stays; among equals, the one that the
    source holds out. Copies are marked as gone, but still join the observations that they are part of.
    """
    database.execute("CREATE INDEX content ON photograph (md5, key)")
    database.execute("CREATE INDEX keys ON photograph (key)")
    rows = database.execute(
        "SELECT md5, photograph.id, locator, coalesce(taxon, -1), split "
        "FROM photograph JOIN observation ON observation.id = observation "
        "WHERE md5 IN (SELECT md5 FROM photograph GROUP BY md5 HAVING count(*) > 1) ORDER BY md5, key, locator"
    )
    held_out = {split: -place for place, split in enumerate(duplicates.PRECEDENCE)}
    paths = [*paths, NOTHING]  # of photographs without a label, whose number is -1
    for _, group in groupby(rows, key=itemgetter(0)):
        same = list(group)
        best = max(same, key=lambda row: (taxonomy.label_rank(paths[row[3]]), held_out[row[4]]))
        path, others = paths[best[3]], {paths[row[3]] for row in same}
        if all(other == path or taxonomy.is_ancestor(other, path) for other in others):
            reason, detail, gone = "duplicate", f"same file as {best[2]}", [row for row in same if row is not best]
        else:
            taxa = " and ".join(sorted(filter(None, map(taxonomy.scientific_name, others))))
            reason, detail, gone = "conflicting labels", f"the same file is labelled {taxa}", same
        for _, number, locator, _, _ in gone:
            add_reject(database, Reject(locator, reason, detail))
            database.execute("INSERT INTO left_out VALUES (?)", (number,))
    database.execute("UPDATE photograph SET gone = 1 WHERE id IN (SELECT id FROM left_out)")


def join_look_alikes(database: sqlite3.Connection, bits: int) -> None:
    """Join the observations of near duplicates, and leave out those that the source puts into other splits.

    ``bits``: greatest difference of two pHashes (``duplicates.look_alikes``).
    """
    database.execute("UPDATE observation SET joined = name")
    seen = (
        "FROM photograph JOIN observation ON observation.id = observation "
        "WHERE phash IS NOT NULL AND (NOT gone OR split IS NULL)"  # a copy joins the observations that it is part of
    )
    number = int(database.execute(f"SELECT count(*) {seen}").fetchone()[0])
    kind = np.dtype([("id", np.int64), ("observation", np.int64), ("phash", np.int64), ("dhash", np.int64)])
    query = f"SELECT photograph.id, observation, phash, dhash {seen} ORDER BY key, locator"
    rows = np.fromiter(database.execute(query), kind, number)
    alike = duplicates.look_alikes(rows["phash"].view(np.uint64), rows["dhash"].view(np.uint64), bits)
    first = rows["id"][alike]
    twins = np.bincount(alike, minlength=number)[alike] > 1
    first, observation = first[twins], rows["observation"][twins]
    circles = _circles(first, observation)
    columns = (rows["id"][twins], first, observation, circles)
    for start in range(0, len(first), BATCH):  # NumPy's integers take less memory than Python's
        batch = zip(*(column[start : start + BATCH].tolist() for column in columns), strict=True)
        database.executemany("INSERT INTO twin VALUES (?, ?, ?, ?)", batch)
    _settle(database)
    database.execute(
        "UPDATE photograph SET looks_like = name "
        "FROM (SELECT twin.photograph AS one, name FROM twin JOIN (SELECT alike, "
        "min(key) AS name FROM twin JOIN photograph ON photograph.id = twin.photograph WHERE NOT gone GROUP BY alike "
        "HAVING count(*) > 1) USING (alike)) WHERE id = one"
    )


def _circles(alike: np.ndarray, observations: np.ndarray) -> np.ndarray:
    """Connected components of photographs, tied by near duplicates and by observations; all int64 [n]."""
    if not len(alike):
        return alike
    _, one = np.unique(alike, return_inverse=True)
    _, other = np.unique(observations, return_inverse=True)
    size = int(one.max() + other.max()) + 2
    ties = coo_array((np.ones(len(one), np.int8), (one, other + one.max() + 1)), (size, size))
    return connected_components(ties, directed=False)[1][one].astype(np.int64)


def _settle(database: sqlite3.Connection) -> None:
    """Store joined observations, and leave out photographs whose near duplicates are in another split."""
    database.execute(
        "CREATE TABLE circle AS SELECT circle AS number, min(name) AS name, count(split) AS stated "
        "FROM twin JOIN observation ON observation.id = twin.observation GROUP BY circle"
    )
    database.execute(
        "UPDATE observation SET joined = first FROM (SELECT DISTINCT twin.observation AS one, circle.name AS first "
        "FROM twin JOIN circle ON number = circle WHERE NOT stated) WHERE id = one"
    )
    rows = database.execute(
        "SELECT circle, photograph, alike, observation.name, split FROM twin JOIN circle ON number = circle "
        "JOIN observation ON observation.id = twin.observation WHERE stated ORDER BY circle, photograph"
    )
    for _, group in groupby(rows, key=itemgetter(0)):
        same = list(group)
        stated = {name: split for _, _, _, name, split in same if split}
        joined, left_out = duplicates.settle([duplicates.Twin(*row[1:4]) for row in same], stated)
        database.executemany("INSERT INTO joins VALUES (?, ?)", joined.items())
        for number, other in left_out.items():
            locator, kept, split = database.execute(
                "SELECT a.locator, b.locator, observation.split FROM photograph a, photograph b "
                "JOIN observation ON observation.id = b.observation WHERE a.id = ? AND b.id = ?",
                (number, other),
            ).fetchone()
            where = f", which is in split {split}" if split else ", which is tied to photographs of another split"
            add_reject(database, Reject(locator, "near duplicate", f"looks like {kept}{where}"))
            database.execute("UPDATE photograph SET gone = 1 WHERE id = ?", (number,))
    database.execute("UPDATE observation SET joined = second FROM joins WHERE name = first")
