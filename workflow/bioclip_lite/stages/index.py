"""Stage index: which photographs there are, of which taxa, and which split each belongs to.

Photographs are rows of a scratch database, so that memory grows with the number of taxa and not with theirs.
"""

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rapidfuzz import process
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bioclip_lite.indexing import duplicates, names
from bioclip_lite.indexing.page import Facts
from bioclip_lite.indexing.tables import Labels, write
from bioclip_lite.photographs import licences
from bioclip_lite.photographs.images import BadImage, inspect
from bioclip_lite.sources.places import writable
from bioclip_lite.sources.registry import find_source
from bioclip_lite.sources.sample import SPLITS, Reject, Sample
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import PARTIAL
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import digest

if TYPE_CHECKING:
    from bioclip_lite.utils.sections import Index

_BATCH = 4096  # photographs downloaded, and then read, at a time; rows written at a time
_CHUNK = 32  # photographs handed to a worker at a time
# Left out because somebody asked for it, or because they are there twice; everything else is damage.
NO_DAMAGE = ("not listed", "licence", "duplicate", "near duplicate")

_TABLES = """
CREATE TABLE photograph (
    id INTEGER PRIMARY KEY, key TEXT, locator TEXT, observation INTEGER, label INTEGER, taxon INTEGER, common_name TEXT,
    common_names TEXT, licence TEXT, attribution TEXT, md5 BLOB, width INTEGER, height INTEGER, clean INTEGER,
    phash INTEGER, dhash INTEGER, looks_like TEXT, gone INTEGER DEFAULT 0
);
CREATE TABLE observation (id INTEGER PRIMARY KEY, name TEXT UNIQUE, split TEXT, joined TEXT);
CREATE TABLE label (id INTEGER PRIMARY KEY, taxon INTEGER, reason TEXT, detail TEXT, photographs INTEGER);
CREATE TABLE reject (locator TEXT, reason TEXT, detail TEXT);
CREATE TABLE dealt (observation TEXT PRIMARY KEY, split TEXT);
CREATE TABLE left_out (id INTEGER PRIMARY KEY);
CREATE TABLE joins (first TEXT PRIMARY KEY, second TEXT);
CREATE TABLE deals (observation TEXT, split TEXT);
CREATE TABLE twin (photograph INTEGER, alike INTEGER, observation INTEGER, circle INTEGER);
"""


def run(params: "Index", data: Path, job: str | None = None) -> None:
    out = data / "index"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=out) as scratch:
        database = _database(Path(scratch, "index.sqlite"))
        try:
            given = _gather(database, params)
            labels, listed = _resolve(database, given, params, data / "lists")
            _keep(database, labels, params)
            _examine_all(database, params)
            _leave_out_copies(database, labels.paths)
            _join_look_alikes(database, params["near_duplicates"])
            _check(database, labels.paths, params)
            _deal_all(database, labels.paths, params["split"], params["seed"])
            facts = write(database, labels, listed, params, out)
        finally:
            database.close()
    _tell(facts, listed)


def _database(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    # Nothing of this outlives the run, so a crash may spoil it.
    database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_TABLES} BEGIN;")
    return database


# ------------------------------------------------------------------------------------------------- what the source has


def _gather(database: sqlite3.Connection, params: "Index") -> list[names.Label]:
    """Write down every photograph that the source knows; returns the labels that they refer to by number."""
    numbers: dict[names.Label, int] = {}
    for item in find_source(params["source"]).samples(params):
        if isinstance(item, Reject):
            _reject(database, item)
            continue
        if not writable(item.locator):
            readable = _text(item.locator)
            _reject(database, Reject(readable or "", "bad name", "the file's name is not UTF-8; rename the file"))
            continue
        if item.split is not None and item.split not in SPLITS:
            raise UserError(f"index: {item.locator} states split {item.split!r}; splits: {', '.join(SPLITS)}")
        nameless = taxonomy.label_rank(item.path) < 0
        label = names.Label(item.path, _text(item.verbatim), _text(item.common_name) if nameless else None)
        number = numbers.setdefault(label, len(numbers))
        database.execute(
            "INSERT INTO photograph (key, locator, observation, label, common_name, common_names, licence, attribution)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (item.key, item.locator, _observation(database, item), number, _text(item.common_name),
             json.dumps([(_text(language), _text(name)) for language, name in item.common_names]) if item.common_names
             else None, _text(item.licence), _text(item.attribution)),
        )  # fmt: skip
    return list(numbers)


def _observation(database: sqlite3.Connection, sample: Sample) -> int:
    group = _text(sample.group)
    found = database.execute("SELECT id, split FROM observation WHERE name = ?", (group,)).fetchone()
    if found is None:
        row = database.execute("INSERT INTO observation (name, split) VALUES (?, ?)", (group, sample.split))
        return int(row.lastrowid or 0)
    number, split = found
    if split and sample.split and split != sample.split:
        raise UserError(
            f"index: observation {sample.group!r} stands in splits {split!r} and {sample.split!r} "
            f"({sample.locator}); photographs of one individual must share a split"
        )
    if sample.split and not split:
        database.execute("UPDATE observation SET split = ? WHERE id = ?", (sample.split, number))
    return int(number)


def _reject(database: sqlite3.Connection, reject: Reject) -> None:
    row = (_text(reject.locator), _text(reject.reason), _text(reject.detail))
    database.execute("INSERT INTO reject VALUES (?, ?, ?)", row)


def _text(text: str | None) -> str | None:
    return None if text is None else text.encode(errors="replace").decode()


# --------------------------------------------------------------------------------------------------------------- names


def _resolve(
    database: sqlite3.Connection, given: list[names.Label], params: "Index", lists: Path
) -> tuple[Labels, list[names.Found]]:
    """What each label means, and which the species list keeps; table ``label`` gets taxa and reasons."""
    species_list = lists / params["species_list"] if params["species_list"] else None
    entries = names.read_species_list(species_list) if species_list else []
    synonyms = names.read_synonyms(lists / params["synonyms"]) if params["synonyms"] else {}
    resolver = names.Resolver(synonyms, entries)
    source = names.Index()
    for label in given:
        source.add(label.path)
    meanings = [resolver.meaning(label, source) for label in given]
    known = names.Index()
    for number, common_names in _common_names(database, len(given)) if entries else ():
        known.add(meanings[number].path, common_names)
    listed = names.match(entries, known, synonyms)
    nodes = {node for found in listed for node in found.nodes}
    if entries and not nodes:
        raise UserError(f"{species_list}: nothing in the source has a name of it. {_unmatched(listed)}")

    numbers: dict[taxonomy.Path, int] = {}
    for number, meaning in enumerate(meanings):
        reason, detail = _why_not(meaning, bool(entries), nodes)
        taxon = numbers.setdefault(meaning.path, len(numbers))
        database.execute("INSERT INTO label VALUES (?, ?, ?, ?, 0)", (number, taxon, reason, detail))
    database.execute(
        "UPDATE label SET photographs = n FROM (SELECT label AS one, count(*) AS n FROM photograph GROUP BY label) "
        "WHERE id = one"
    )
    return Labels(given, meanings, list(numbers)), listed


def _common_names(database: sqlite3.Connection, labels: int) -> Iterator[tuple[int, set[str]]]:
    """The common names, in any language, that come with each label."""
    found: list[set[str]] = [set() for _ in range(labels)]
    for label, name, others in database.execute("SELECT DISTINCT label, common_name, common_names FROM photograph"):
        found[label].update(filter(None, (name, *(name for _, name in json.loads(others or "[]")))))
    yield from enumerate(found)


def _why_not(meaning: names.Meaning, restricted: bool, nodes: set[taxonomy.Path]) -> tuple[str | None, str | None]:
    if taxonomy.label_rank(meaning.path) < 0:
        if meaning.candidates:
            return "no taxon", f"the common name may mean {', '.join(meaning.candidates)}"
        return ("not listed", "no name of the list") if restricted else ("no taxon", "no rank is known")
    if restricted and not names.is_listed(meaning.path, nodes):
        return "not listed", taxonomy.scientific_name(meaning.path)
    return None, None


def _unmatched(listed: Sequence[names.Found]) -> str:
    """Names of a species list that nothing matches, for a message."""
    parts = []
    missing = [found for found in listed if not found.nodes]
    for found in missing[:10]:
        near = f"may mean {', '.join(found.candidates)}" if found.candidates else f"nearest: {', '.join(found.nearest)}"
        parts.append(f"{found.entry.text!r} ({near if found.candidates or found.nearest else 'nothing like it'})")
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    return f"{len(missing)} of {len(listed)} names: {'; '.join(parts)}{more}"


# ------------------------------------------------------------------------------------------------------------- filters


def _keep(database: sqlite3.Connection, labels: Labels, params: "Index") -> None:
    """Leave out what the parameters do not ask for, before anything is downloaded or read."""
    before = _count(database)
    database.execute(
        "INSERT INTO reject SELECT locator, reason, detail FROM photograph JOIN label ON label.id = label "
        "WHERE reason IS NOT NULL"
    )
    wanted = _wanted(labels.paths, params["where"])
    database.executemany("UPDATE label SET reason = 'where' WHERE taxon = ? AND reason IS NULL", wanted)
    database.execute("DELETE FROM photograph WHERE label IN (SELECT id FROM label WHERE reason IS NOT NULL)")
    if params["where"] and before and not _count(database):
        raise UserError(f"params.yaml, index.where: {params['where']} leaves none of {before} photographs; loosen it")
    database.execute("UPDATE photograph SET taxon = (SELECT taxon FROM label WHERE label.id = label)")
    if params["licences"]:
        database.create_function("licence_code", 1, licences.code, deterministic=True)
        allowed = f"SELECT value FROM json_each('{json.dumps(params['licences'])}')"
        barred = f"FROM photograph WHERE coalesce(licence_code(licence), '') NOT IN ({allowed})"
        database.execute(f"INSERT INTO reject SELECT locator, 'licence', coalesce(licence, 'none stated') {barred}")
        database.execute(f"DELETE {barred}")


def _wanted(paths: Sequence[taxonomy.Path], where: dict[str, list[str]]) -> Iterator[tuple[int]]:
    """The taxa, by number, whose names are not among those listed, rank by rank."""
    for rank, wanted in where.items():
        if rank not in taxonomy.RANKS:
            raise UserError(f"params.yaml, index.where: {rank!r} is no rank; ranks: {', '.join(taxonomy.RANKS)}")
        place = taxonomy.RANKS.index(rank)
        available = sorted({path[place] or "" for path in paths} - {""})
        for name in wanted:
            if name not in available:
                near = [hit for hit, _, _ in process.extract(str(name), available, limit=5, score_cutoff=60)]
                raise UserError(
                    f"params.yaml, index.where.{rank}: nothing in the source is called {name!r}; "
                    f"of {len(available)} names at this rank: {', '.join(near or available[:10]) or 'none'}"
                )
    for number, path in enumerate(paths):
        if any(path[taxonomy.RANKS.index(rank)] not in wanted for rank, wanted in where.items()):
            yield (number,)


def _count(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT count(*) FROM photograph WHERE NOT gone").fetchone()[0])


# ------------------------------------------------------------------------------------------------------ the photographs


class Seen(NamedTuple):
    """What a photograph's file says."""

    md5: bytes
    width: int
    height: int
    clean: bool  # stage shard can take it as it is
    phash: int | None  # signed, as the database has it
    dhash: int | None


def _see(params: "Index", locator: str) -> Seen | Reject:
    try:
        content = find_source(params["source"]).read(params, locator)
        width, height, small, clean = inspect(content, params["min_side"])
    except BadImage as bad:
        return Reject(locator, bad.reason, bad.detail)
    except FileNotFoundError as error:
        return Reject(locator, "missing file", str(error))
    except (OSError, ValueError) as error:  # ValueError: a locator that no file can have
        return Reject(locator, "unreadable", str(error))
    hashes = duplicates.fingerprint(small)
    phash, dhash = map(_signed, hashes) if hashes else (None, None)
    return Seen(hashlib.md5(content, usedforsecurity=False).digest(), width, height, clean, phash, dhash)


def _signed(number: int) -> int:
    """An unsigned 64-bit integer with the same bits as a signed one, which is all that SQLite knows."""
    return number - (1 << 64) if number >> 63 else number


def _see_all(params: "Index", locators: list[str]) -> list[Seen | Reject]:
    return [_see(params, locator) for locator in locators]


def _examine_all(database: sqlite3.Connection, params: "Index") -> None:
    total = _count(database)
    results = _in_parallel(database, params, total)
    for number, seen in progress(results, total, "index: photographs read"):
        if isinstance(seen, Reject):
            _reject(database, seen)
            database.execute("DELETE FROM photograph WHERE id = ?", (number,))
        else:
            database.execute(
                "UPDATE photograph SET md5 = ?, width = ?, height = ?, clean = ?, phash = ?, dhash = ? WHERE id = ?",
                (*seen, number),
            )


def _in_parallel(database: sqlite3.Connection, params: "Index", total: int) -> Iterator[tuple[int, Seen | Reject]]:
    """Read all photographs on all processors that this process may use.

    While the workers read one batch, the source downloads the next.
    """
    prepare: Callable[..., None] | None = getattr(find_source(params["source"]), "prepare", None)
    affinity = getattr(os, "sched_getaffinity", None)
    workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    if workers == 1 or total < 256:
        for batch in _batches(database):
            if prepare:
                prepare(params, (locator for _, locator in batch))
            for number, locator in batch:
                yield number, _see(params, locator)
        return
    see = partial(_see_all, params)
    waiting: Iterable[tuple[int, Seen | Reject]] = ()
    try:
        with ProcessPoolExecutor(workers) as pool:
            pool.submit(int).result()  # starts all workers, before a download starts threads
            for batch in _batches(database):
                if prepare:
                    prepare(params, (locator for _, locator in batch))
                chunks = [batch[i : i + _CHUNK] for i in range(0, len(batch), _CHUNK)]
                futures = [pool.submit(see, [locator for _, locator in chunk]) for chunk in chunks]
                yield from waiting
                waiting = (
                    (number, seen)
                    for chunk, future in zip(chunks, futures, strict=True)
                    for (number, _), seen in zip(chunk, future.result(), strict=True)
                )
            yield from waiting
    except BrokenProcessPool:
        raise UserError("index: a process that reads photographs was killed; usually memory ran out") from None


def _batches(database: sqlite3.Connection) -> Iterator[list[tuple[int, str]]]:
    last = 0
    query = "SELECT id, locator FROM photograph WHERE id > ? ORDER BY id LIMIT ?"
    while batch := database.execute(query, (last, _BATCH)).fetchall():
        yield batch
        last = batch[-1][0]


# ----------------------------------------------------------------------------------------------------------- duplicates


def _leave_out_copies(database: sqlite3.Connection, paths: Sequence[taxonomy.Path]) -> None:
    """Keep one of each set of identical files, and none where their labels contradict each other.

    Labels agree if they lie on one line of descent; the copy with the most precise label stays, and of several the one
    that the source holds out for tests. Copies whose split is not stated are only marked: their observations are one.
    """
    database.execute("CREATE INDEX content ON photograph (md5, key)")
    database.execute("CREATE INDEX keys ON photograph (key)")
    rows = database.execute(
        "SELECT md5, photograph.id, locator, taxon, split "
        "FROM photograph JOIN observation ON observation.id = observation "
        "WHERE md5 IN (SELECT md5 FROM photograph GROUP BY md5 HAVING count(*) > 1) ORDER BY md5, key, locator"
    )
    held_out = {split: -place for place, split in enumerate((*duplicates.HELD_OUT, None))}
    for _, group in groupby(rows, key=itemgetter(0)):
        same = list(group)
        best = max(same, key=lambda row: (taxonomy.label_rank(paths[row[3]]), held_out[row[4]]))
        path, others = paths[best[3]], {paths[row[3]] for row in same}
        if all(other == path or taxonomy.is_ancestor(other, path) for other in others):
            reason, detail, gone = "duplicate", f"same file as {best[2]}", [row for row in same if row is not best]
        else:
            told = " and ".join(sorted(map(taxonomy.scientific_name, others)))
            reason, detail, gone = "conflicting labels", f"the same file is labelled {told}", same
        for _, number, locator, _, _ in gone:
            _reject(database, Reject(locator, reason, detail))
            database.execute("INSERT INTO left_out VALUES (?)", (number,))
    database.execute("UPDATE photograph SET gone = 1 WHERE id IN (SELECT id FROM left_out)")


def _join_look_alikes(database: sqlite3.Connection, bits: int) -> None:
    """Find near duplicates, join their observations, and leave out those that the source puts into other splits."""
    database.execute("UPDATE observation SET joined = name")
    seen = (
        "FROM photograph JOIN observation ON observation.id = observation "
        "WHERE phash IS NOT NULL AND (NOT gone OR split IS NULL)"  # a copy joins the observations that it is part of
    )
    number = int(database.execute(f"SELECT count(*) {seen}").fetchone()[0])
    kind = np.dtype([("id", np.int64), ("observation", np.int64), ("phash", np.int64), ("dhash", np.int64)])
    query = f"SELECT photograph.id, observation, phash, dhash {seen} ORDER BY key, locator"
    found = np.fromiter(database.execute(query), kind, number)
    alike = duplicates.look_alikes(found["phash"].view(np.uint64), found["dhash"].view(np.uint64), bits)
    first = found["id"][alike]
    twins = np.bincount(alike, minlength=number)[alike] > 1
    first, observation = first[twins], found["observation"][twins]
    circles = _circles(first, observation)
    columns = (found["id"][twins], first, observation, circles)
    for start in range(0, len(first), _BATCH):  # numbers of NumPy are small, those of Python are not
        rows = zip(*(column[start : start + _BATCH].tolist() for column in columns), strict=True)
        database.executemany("INSERT INTO twin VALUES (?, ?, ?, ?)", rows)
    _settle(database)
    database.execute(
        "UPDATE photograph SET looks_like = name "
        "FROM (SELECT twin.photograph AS one, name FROM twin JOIN (SELECT alike, "
        "min(key) AS name FROM twin JOIN photograph ON photograph.id = twin.photograph WHERE NOT gone GROUP BY alike "
        "HAVING count(*) > 1) USING (alike)) WHERE id = one"
    )


def _circles(alike: np.ndarray, observations: np.ndarray) -> np.ndarray:
    """For each photograph with near duplicates a number that it shares with all that are tied to it.

    Ties are near duplicates and observations; all int64 [n].
    """
    if not len(alike):
        return alike
    _, one = np.unique(alike, return_inverse=True)
    _, other = np.unique(observations, return_inverse=True)
    size = int(one.max() + other.max()) + 2
    ties = coo_array((np.ones(len(one), np.int8), (one, other + one.max() + 1)), (size, size))
    return connected_components(ties, directed=False)[1][one].astype(np.int64)


def _settle(database: sqlite3.Connection) -> None:
    """Write down which observations are joined, and leave out photographs whose near duplicates are held out."""
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
            _reject(database, Reject(locator, "near duplicate", f"looks like {kept}{where}"))
            database.execute("UPDATE photograph SET gone = 1 WHERE id = ?", (number,))
    database.execute("UPDATE observation SET joined = second FROM joins WHERE name = first")


# -------------------------------------------------------------------------------------------------------------- checks


def _check(database: sqlite3.Connection, paths: Sequence[taxonomy.Path], params: "Index") -> None:
    """Stop with what was found where no classifier can come of it, or where too much is broken."""
    reasons = dict(
        database.execute("SELECT reason, count(*) FROM reject GROUP BY reason ORDER BY count(*) DESC, reason")
    )
    counts = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
    first = database.execute("SELECT locator, detail FROM reject ORDER BY locator, reason LIMIT 1").fetchone()
    told = f" Left out: {counts}, first {first[0]!r} ({first[1]})." if first else ""
    place = f"index: source {params['source']!r}"
    kept = _count(database)
    if not kept:
        raise UserError(f"{place} gave no usable photograph.{told}")
    used = database.execute("SELECT DISTINCT taxon FROM photograph WHERE NOT gone")
    leaves = taxonomy.label_space(paths[taxon] for (taxon,) in used)
    if len(leaves) < 2:
        name = taxonomy.scientific_name(leaves[0])
        raise UserError(f"{place} has one class only, {name}; a classifier needs two or more.{told}")
    again = "SELECT key, count(*) FROM photograph WHERE NOT gone GROUP BY key HAVING count(*) > 1 LIMIT 1"
    for key, times in database.execute(again):
        raise UserError(f"{place} gave {times} different photographs the key {key!r}; rename one of the files")
    damage = {reason: number for reason, number in reasons.items() if reason not in NO_DAMAGE}
    share = sum(damage.values()) / (kept + sum(damage.values()))
    if share > params["reject_budget"]:
        examples = []
        for reason in damage:
            query = "SELECT locator, detail FROM reject WHERE reason = ? ORDER BY locator LIMIT 2"
            examples += [f"{locator!r}: {reason} ({detail})" for locator, detail in database.execute(query, (reason,))]
        shown = "\n  ".join(examples[:10])
        raise UserError(
            f"{place}: {sum(damage.values())} of {kept + sum(damage.values())} photographs are of no use "
            f"({100 * share:.1f} %), and index.reject_budget allows {100 * params['reject_budget']:g} %: "
            f"{', '.join(f'{number} {reason}' for reason, number in damage.items())}. Mend the source, or raise the "
            f"budget in params.yaml. The first:\n  {shown}"
        )


# -------------------------------------------------------------------------------------------------------------- splits


def _deal_all(
    database: sqlite3.Connection, paths: Sequence[taxonomy.Path], shares: Mapping[str, float], seed: int
) -> None:
    """The split of each observation: the source's word where it has one, otherwise dealt taxon by taxon.

    Where the source itself states test photographs, nothing is dealt to test.
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

    A single observation goes to train, and train never goes without.
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


def _tell(facts: Facts, listed: Sequence[names.Found]) -> None:
    leaves = facts.taxa.filter(facts.taxa["leaf"])
    shares = ", ".join(f"{split} {facts.splits[split]}" for split in SPLITS if facts.splits.get(split))
    print(f"index: {sum(facts.splits.values())} photographs of {leaves.num_rows} taxa to tell apart ({shares})")
    untrained = sum(not count for count in np.add(leaves["train"].to_numpy(), leaves["pretrain"].to_numpy()))
    if untrained:
        print(f"index: {untrained} of these taxa have no training photograph")
    if any(not found.nodes for found in listed):
        print(f"index: the species list has names that nothing in the source has, {_unmatched(listed)}")
    for reason, number in facts.rejects.items():
        print(f"index: {number} left out: {reason} (rejects.parquet)")
