"""Copy what the source lists into the scratch database: photographs, observations and labels."""

import json
import sqlite3
from collections.abc import Callable, Iterable

from bioclip_lite.indexing import names
from bioclip_lite.indexing.database import add_reject, encodable
from bioclip_lite.sources.places import writable
from bioclip_lite.sources.sample import SPLITS, Reject, Sample
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError


def gather(
    database: sqlite3.Connection,
    listed: Iterable[Sample | Reject],
    identify: Callable[[sqlite3.Connection, int, Sample], None] | None = None,
) -> list[names.Label]:
    """Write every photograph of the source to the database.

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
        else:
            label = _label(item)
            number = _add_photograph(database, item, numbers.setdefault(label, len(numbers)))
            if identify:
                identify(database, number, item)
    return list(numbers)


def _label(sample: Sample) -> names.Label:
    nameless = taxonomy.label_rank(sample.path) < 0
    common_name = encodable(sample.common_name) if nameless else None
    return names.Label(sample.path, encodable(sample.verbatim), common_name)


def _add_photograph(database: sqlite3.Connection, sample: Sample, label: int) -> int:
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
