"""Leave out photographs that the parameters do not ask for, before any is downloaded or read."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence

from rapidfuzz import process

from bioclip_lite.indexing.database import count
from bioclip_lite.photographs import licences
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError


def leave_out_unwanted(
    database: sqlite3.Connection,
    paths: Sequence[taxonomy.Path],
    where: Mapping[str, Sequence[str]],
    allowed: Sequence[str] | None,
) -> None:
    """Apply the reasons of table ``label``, then index.where and index.licences.

    Args:
        paths: taxa by number.
        where: by rank, the names of the taxa to keep.
        allowed: codes of licences to keep; None or empty: all.

    Raises:
        UserError: ``where`` names a rank or a taxon that does not exist, or leaves nothing.
    """
    before = count(database)
    database.execute(
        "INSERT INTO reject SELECT locator, reason, detail FROM photograph JOIN label ON label.id = label "
        "WHERE reason IS NOT NULL"
    )
    database.executemany(
        "UPDATE label SET reason = 'where' WHERE taxon = ? AND reason IS NULL", _unwanted(paths, where)
    )
    database.execute("DELETE FROM photograph WHERE label IN (SELECT id FROM label WHERE reason IS NOT NULL)")
    if where and before and not count(database):
        raise UserError(f"params.yaml, index.where: {where} leaves none of {before} photographs; loosen it")
    database.execute("UPDATE photograph SET taxon = (SELECT taxon FROM label WHERE label.id = label)")
    if allowed:
        database.create_function("licence_code", 1, licences.code, deterministic=True)
        codes = f"SELECT value FROM json_each('{json.dumps(allowed)}')"
        barred = f"FROM photograph WHERE coalesce(licence_code(licence), '') NOT IN ({codes})"
        database.execute(f"INSERT INTO reject SELECT locator, 'licence', coalesce(licence, 'none stated') {barred}")
        database.execute(f"DELETE {barred}")


def _unwanted(paths: Sequence[taxonomy.Path], where: Mapping[str, Sequence[str]]) -> Iterator[tuple[int]]:
    """Numbers of the taxa that ``where`` excludes."""
    for rank, names in where.items():
        _check_names(rank, names, paths)
    for number, path in enumerate(paths):
        if any(path[taxonomy.RANKS.index(rank)] not in names for rank, names in where.items()):
            yield (number,)


def _check_names(rank: str, names: Sequence[str], paths: Sequence[taxonomy.Path]) -> None:
    if rank not in taxonomy.RANKS:
        raise UserError(f"params.yaml, index.where: {rank!r} is no rank; ranks: {', '.join(taxonomy.RANKS)}")
    place = taxonomy.RANKS.index(rank)
    available = sorted({path[place] or "" for path in paths} - {""})
    for name in names:
        if name not in available:
            near = [hit for hit, _, _ in process.extract(str(name), available, limit=5, score_cutoff=60)]
            raise UserError(
                f"params.yaml, index.where.{rank}: nothing in the source is called {name!r}; "
                f"of {len(available)} names at this rank: {', '.join(near or available[:10]) or 'none'}"
            )
