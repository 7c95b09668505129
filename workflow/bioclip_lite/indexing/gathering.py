"""Copy what the source lists into the scratch database: photographs, observations and labels."""

import json
import sqlite3
from collections.abc import Callable, Iterable

from bioclip_lite.indexing import names
from bioclip_lite.indexing.database import add_reject, encodable
from bioclip_lite.indexing.labels import WITHOUT_LABEL
from bioclip_lite.photographs.shards import UNLABELLED
from bioclip_lite.sources.places import writable
from bioclip_lite.sources.sample import NOTHING, SPLITS, Reject, Sample
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

_SET_APART = f"{UNLABELLED}:"  # begins the names of observations of photographs without labels


def gather(
    database: sqlite3.Connection,
    listed: Iterable[Sample | Reject],
    keep_unlabelled: bool = False,
    identify: Callable[[sqlite3.Connection, int, Sample], None] | None = None,
) -> list[names.Label]:
    """Write every photograph of the source to the database.

    With ``keep_unlabelled`` those without any name are put into split UNLABELLED and have no number in column
    ``label``; otherwise ``labels.resolve`` finds no taxon for them. What the source itself puts there is passed over if
    it was listed before.

    Args:
        identify: is called with each photograph and its number, where its identifiers are needed.

    Returns:
        The distinct labels; column ``label`` of a photograph is a position in this list.

    Raises:
        UserError: a split does not exist, or the photographs of one observation state different splits.
    """
    numbers: dict[names.Label, int] = {}
    for item in listed:
        if isinstance(item, Reject):
            add_reject(database, item)
        elif not writable(item.locator):
            readable = encodable(item.locator) or ""
            add_reject(database, Reject(readable, "bad name", "the file's name is not UTF-8; rename the file"))
        elif item.split is not None and item.split not in SPLITS:
            raise UserError(f"index: {item.locator} states split {item.split!r}; splits: {', '.join(SPLITS)}")
        elif item.split == UNLABELLED or (keep_unlabelled and _is_nameless(item)):
            _add_unlabelled(database, item, keep_unlabelled)
        else:
            label = _label(item)
            number = _add_photograph(database, item, numbers.setdefault(label, len(numbers)))
            if identify:
                identify(database, number, item)
    _leave_out_known_observations(database)
    return list(numbers)


def _is_nameless(sample: Sample) -> bool:
    """Whether nothing says what a photograph shows, and it is not one to measure with."""
    named = (*sample.path, sample.common_name, sample.verbatim, *sample.common_names)
    return sample.split is None and not any(named)


def _add_unlabelled(database: sqlite3.Connection, sample: Sample, keep: bool) -> None:
    if sample.split == UNLABELLED and _is_listed(database, sample.locator):
        return
    if keep:
        bare = Sample(
            key=sample.key,
            locator=sample.locator,
            group=_SET_APART + sample.group,
            path=NOTHING,
            split=UNLABELLED,
            licence=sample.licence,
            attribution=sample.attribution,
        )
        _add_photograph(database, bare, None)
    else:
        add_reject(database, Reject(sample.locator, UNLABELLED, WITHOUT_LABEL))


def _is_listed(database: sqlite3.Connection, locator: str) -> bool:
    """Whether the source gave this photograph before, of which it now says that it has no label."""
    for table in ("photograph", "reject"):
        database.execute(f"CREATE INDEX IF NOT EXISTS {table}_by_locator ON {table} (locator)")
    query = "SELECT 1 FROM photograph WHERE locator = ? UNION ALL SELECT 1 FROM reject WHERE locator = ? LIMIT 1"
    return database.execute(query, (locator, locator)).fetchone() is not None


def _leave_out_known_observations(database: sqlite3.Connection) -> None:
    """Leave out photographs without a label of observations that have labelled ones, which may be held out."""
    these = (
        "FROM photograph WHERE label IS NULL AND observation IN (SELECT one.id FROM observation one JOIN observation "
        f"other ON other.name = substr(one.name, {len(_SET_APART) + 1}) WHERE one.split = '{UNLABELLED}')"
    )
    why = "other photographs of its observation have a label"
    database.execute(f"INSERT INTO reject SELECT locator, '{UNLABELLED}', '{why}' {these}")
    database.execute(f"DELETE {these}")


def _label(sample: Sample) -> names.Label:
    nameless = taxonomy.label_rank(sample.path) < 0
    common_name = encodable(sample.common_name) if nameless else None
    return names.Label(sample.path, encodable(sample.verbatim), common_name)


def _add_photograph(database: sqlite3.Connection, sample: Sample, label: int | None) -> int:
    """The number of the photograph, which is added."""
    common_names = [(encodable(language), encodable(name)) for language, name in sample.common_names]
    row = (
        sample.key,
        sample.locator,
        _observation(database, sample),
        label,
        encodable(sample.common_name),
        json.dumps(common_names) if common_names else None,
        encodable(sample.licence),
        encodable(sample.attribution),
        encodable(sample.supercategory),
        encodable(sample.caption),
    )
    added = database.execute(
        "INSERT INTO photograph (key, locator, observation, label, common_name, common_names, licence, attribution, "
        "supercategory, caption) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    return int(added.lastrowid or 0)


def _observation(database: sqlite3.Connection, sample: Sample) -> int:
    """Number of the sample's observation, which is added if it is new."""
    group = encodable(sample.group)
    known = database.execute("SELECT id, split FROM observation WHERE name = ?", (group,)).fetchone()
    if known is None:
        row = database.execute("INSERT INTO observation (name, split) VALUES (?, ?)", (group, sample.split))
        return int(row.lastrowid or 0)
    number, split = known
    if split and sample.split and split != sample.split:
        raise UserError(
            f"index: observation {sample.group!r} stands in splits {split!r} and {sample.split!r} "
            f"({sample.locator}); photographs of one individual must share a split"
        )
    if sample.split and not split:
        database.execute("UPDATE observation SET split = ? WHERE id = ?", (sample.split, number))
    return int(number)
