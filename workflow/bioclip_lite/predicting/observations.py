"""Photographs that show one individual and have one answer: those of a folder, of a moment, or of a table's rows."""

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from pathlib import Path

from bioclip_lite.photographs.images import BadImage, Capture, capture
from bioclip_lite.sources import delimited, fields, places
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.machine import cores

MOST_TOGETHER = 200  # photographs of one observation
WITHIN = 60.0  # seconds from one photograph to the next of one individual
_AHEAD = 16  # photographs per core that are read at a time

Observations = Mapping[Path, Hashable]  # by photograph, those of one observation side by side


def of_folders(files: Sequence[Path]) -> Observations:
    """The photographs of each folder. Raises UserError for a folder that is hardly one observation."""
    mend = "put those of each individual into a folder of its own, or leave out --by folder"
    return _side_by_side({file: file.parent for file in files}, mend)


def of_moments(files: Sequence[Path], seconds: float) -> Observations:
    """Photographs of one folder and camera, each taken at most ``seconds`` after the one before it.

    The time is that of EXIF, of the camera's clock. Photographs without it, or that cannot be read, stand alone.

    Raises:
        UserError: a series is hardly one observation, or no photograph has a time.
    """
    shots: dict[tuple[Path, str | None, str | None], list[tuple[datetime, Path]]] = {}
    for file, about in _captures(files):
        if about and about.time:
            series = (file.parent, about.camera, about.offset)
            shots.setdefault(series, []).append((datetime.fromisoformat(about.time), file))
    if not shots:
        raise UserError(
            "--by time needs to know when photographs were taken, and the EXIF data of none of them says so; take the "
            "files as the camera wrote them, or leave out --by time"
        )
    found: dict[Path, Hashable] = {file: file for file in files}
    for taken in shots.values():
        taken.sort()
        before, first = taken[0]
        for time, shot in taken:
            first = first if (time - before).total_seconds() <= seconds else shot
            before, found[shot] = time, first
    mend = f"give --within fewer seconds than {seconds:g}, or leave out --by time"
    return _side_by_side(found, mend)


def of_table(files: Sequence[Path], table: Path) -> Observations:
    """The photographs of each observation that a table of files and observations names; all others stand alone.

    Columns are known by the names that ``sources.fields`` has for them. Paths are relative to the folder of the table
    or to the working directory.

    Raises:
        UserError: there is no such table, it names none of the photographs, or it puts one into two observations.
    """
    if not table.is_file():
        raise UserError(f"{table} is no file; --observations names a table with columns file and observation")
    file_of = {os.path.abspath(file): file for file in files}
    locate = places.locator_in(table.parent)
    found: dict[Path, Hashable] = {file: file for file in files}
    named: dict[Path, str] = {}
    for line, locator, observation in _rows(table):
        paths = (os.path.abspath(folder / locate(locator)) for folder in (table.parent, Path()))
        file = next((file_of[path] for path in paths if path in file_of), None)
        if file and named.setdefault(file, observation) != observation:
            raise UserError(
                f"{table}, line {line}: {locator} is of observation {observation}, and of {named[file]} further up; "
                "leave one of them in the table"
            )
    if not named:
        raise UserError(
            f"{table} names none of the {len(files)} photographs; its paths must lead to them from its own folder, or "
            "from where the command is run"
        )
    mend = "correct the table, or leave out --by observation"
    return _side_by_side(found | {file: (table, name) for file, name in named.items()}, mend)


def _rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line, path of a photograph, observation) of the rows that have both."""
    lines = delimited.rows(table)
    _, header = next(lines)
    columns = fields.understand(header)
    for field in ("file", "observation"):
        if field not in columns.places:
            names = ", ".join(name.strip() for name in header) or "none"
            raise UserError(f"{table} has no column {field!r}; its columns: {names}")
    for line, values in lines:
        if len(values) < len(header):
            raise UserError(f"{table}, line {line}: {len(values)} values where the header has {len(header)} columns")
        row = fields.row_of(columns, values)
        fields.refuse_rounded(f"{table}, line {line}", row["observation"])
        if row["file"] and row["observation"]:
            yield line, row["file"], row["observation"]


def _captures(files: Iterable[Path]) -> Iterator[tuple[Path, Capture | None]]:
    """Yield what the headers of photographs say; None of those that cannot be read."""
    left = iter(files)
    with ThreadPoolExecutor(cores()) as pool:
        while some := list(islice(left, _AHEAD * cores())):
            yield from zip(some, pool.map(_capture, some), strict=True)


def _capture(file: Path) -> Capture | None:
    try:
        return capture(file.read_bytes())
    except (BadImage, OSError, ValueError):  # ValueError: a name with a zero byte
        return None


def _side_by_side(found: Observations, mend: str) -> Observations:
    """The observations with the photographs of each side by side. Raises UserError for one of too many."""
    members: dict[Hashable, list[Path]] = {}
    for file, observation in found.items():
        members.setdefault(observation, []).append(file)
    for files in members.values():
        if len(files) > MOST_TOGETHER:
            raise UserError(
                f"{len(files)} photographs from {places.shown(str(files[0]))} on would have one answer, and at most "
                f"{MOST_TOGETHER} can: {mend}"
            )
    return {file: observation for observation, files in members.items() for file in files}
