"""BioTrove's evaluation sets (Yang et al. 2024, github.com/baskargroup/BioTrove, model_validation/metadata).

Each is one table beside its photographs, in which ``path`` is a place on the authors' computer:

    BioTrove-Balanced, -Unseen    scientific_name and ranks
    BioTrove-LifeStages           class_out, the common name and the stage ("Monarch Larva"), beside the ranks
    confounding_species           class_options, the names that the photograph is a choice among, joined by "!"
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rapidfuzz import fuzz

from bioclip_lite.sources import delimited, fields, places
from bioclip_lite.sources.sample import Reject
from bioclip_lite.suites.common import classes_of, reader
from bioclip_lite.suites.suite import Class, Photograph, Suite
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

_LABEL, _OPTIONS = "class_out", "class_options"
_ALIKE = 90.0  # per cent of equal letters: "Harmonia axyridies" is meant to be the option "Harmonia axyridis"


class _Row(NamedTuple):
    locator: str
    names: list[str]  # the right one, and the others that it is a choice among, if the table says so
    path: taxonomy.Path
    common_name: str | None


def biotrove(root: Path) -> Suite:
    """The only .csv in a folder, and photographs: one of all names in it, or one of those in class_options."""
    file = _table(root)
    items = list(_rows(file))
    listed = [item for item in items if isinstance(item, _Row)]
    numbers: dict[str, int] = {}
    for row in listed:
        for name in row.names:
            numbers.setdefault(name, len(numbers))
    choice = any(len(row.names) > 1 for row in listed)
    return Suite(
        classes=classes_of(numbers, file) if choice else _classes(listed),
        photographs=[_photograph(row, numbers, choice) for row in listed],
        rejects=[item for item in items if isinstance(item, Reject)],
        read=reader(root),
        rules=f"one of the names in {_OPTIONS}; of a draw, a share" if choice else f"one of all names in {file.name}",
        question="choice" if choice else "class",
    )


def _table(root: Path) -> Path:
    tables = sorted(path for path in root.glob("*.csv") if not places.hidden(path.name))
    if len(tables) != 1:
        found = f"{len(tables)} (.csv: {', '.join(table.name for table in tables)})" if tables else "no .csv"
        raise UserError(f"{root} has {found}; a set of BioTrove is one table, such as BioTrove-Unseen.csv")
    return tables[0]


def _rows(file: Path) -> Iterator[_Row | Reject]:
    """The rows of a table; tells of names that are spelt otherwise than the option that they mean."""
    lines = delimited.rows(file)
    _, header = next(lines)
    columns = fields.understand(header)
    if "file" not in columns.places or not (_LABEL in header or "scientific_name" in columns.places):
        raise UserError(
            f"{file} lacks a column path, or a name ({_LABEL}, scientific_name); its columns: {', '.join(header)}"
        )
    locate = places.locator_in(file.parent)
    respelt: Counter[tuple[str, str]] = Counter()
    for line, values in lines:
        place = f"{file.name}, line {line}"
        if len(values) != len(header):
            yield Reject(place, "bad row", f"{len(values)} values where the header has {len(header)} columns")
            continue
        row, cells = fields.row_of(columns, values), dict(zip(header, values, strict=True))
        name = taxonomy.clean(cells.get(_LABEL)) or row.get("scientific_name")
        options = [text for option in cells.get(_OPTIONS, "").split("!") if (text := taxonomy.clean(option))]
        right = _meant(name, options)
        if not row["file"] or name is None or right is None:
            yield Reject(place, "bad row", f"a path and a name, one of its {_OPTIONS}, are needed")
            continue
        respelt[name, right] += name != right
        names = [right, *(option for option in dict.fromkeys(options) if option != right)]
        yield _Row(locate(row["file"]), names, fields.path_of(row), row.get("common_name"))
    for (name, right), number in respelt.items():
        if number:
            print(f"{file}: {number} rows name {name!r}, which is none of their options; {right!r} is taken for it")


def _meant(name: str | None, options: Sequence[str]) -> str | None:
    """The option that is the name, or the only one that is spelt much like it; the name if there are no options."""
    if name is None or not options or name in options:
        return name
    alike = [option for option in options if fuzz.ratio(name.lower(), option.lower()) >= _ALIKE]
    return alike[0] if len(alike) == 1 else None


def _photograph(row: _Row, numbers: Mapping[str, int], choice: bool) -> Photograph:
    own, *others = (numbers[name] for name in row.names)
    return Photograph(row.locator, (own,), own, row.names[0], (own, *others) if choice else None)


def _classes(listed: Sequence[_Row]) -> list[Class]:
    """The classes by name. Two that are the same species, such as its stages, are known by their names alone."""
    rows = {row.names[0]: row for row in reversed(listed)}
    paths = Counter(row.path for row in rows.values())
    return [
        Class(name, row.path, row.common_name) if paths[row.path] == 1 else Class(name)
        for name in dict.fromkeys(row.names[0] for row in listed)
        if (row := rows[name])
    ]
