"""The photographs that the arguments of a command stand for."""

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from bioclip_lite.photographs.images import READ
from bioclip_lite.sources import places
from bioclip_lite.utils.errors import UserError


class Found(NamedTuple):
    """The files that the arguments of the command stand for."""

    images: list[Path]
    others: Counter[str]  # endings of further files in folders, which do not look like photographs that are read


def image_files(names: Sequence[str], listed: TextIO) -> Found:
    """Find the files that arguments stand for, each once, in their order; a folder's sorted, with those of its folders.

    Hidden and system files and folders in a folder, or among the matches of a pattern, are left out. A name of a
    photograph that is not there counts as one: a long list does not fail for a file that was moved.

    Args:
        names: files, folders, patterns; "-" stands for the lines of ``listed``.

    Raises:
        UserError: a name stands for nothing.
    """
    images: dict[Path, None] = {}
    others: Counter[str] = Counter()
    for name in names:
        some = [line for line in listed.read().splitlines() if line.strip()] if name == "-" else [name]
        for one in some:
            here, besides = _found(one)
            if not here:
                nothing = "there is no such file, folder or match"
                if Path(one).is_dir():
                    nothing = f"the folder holds no image{f', but {counted(besides)}' if besides else ''}"
                raise UserError(f"{places.shown(one)}: {nothing}; images end in {', '.join(sorted(READ))}")
            images |= dict.fromkeys(here)
            others += besides
    return Found(list(images), others)


def _found(name: str) -> tuple[list[Path], Counter[str]]:
    """The images that one argument stands for, and the endings of the other files of a folder."""
    path = Path(name)
    if path.is_file():
        return [path], Counter()
    if not path.is_dir():
        missing = path.suffix.lower() in READ and not glob.has_magic(name)
        return [path] if missing else _matches(name), Counter()
    files = [path / file for file in places.files_in(path)]
    images = [file for file in files if file.suffix.lower() in READ]
    return sorted(images), Counter(file.suffix.lower() for file in files if file.suffix.lower() not in READ)


def _matches(pattern: str) -> list[Path]:
    """The files that match; folders that are called as they are spelt ("trip[2023]") are meant themselves."""
    literal, parts = Path(), Path(pattern).parts
    while parts and (literal / parts[0]).is_dir():
        literal, parts = literal / parts[0], parts[1:]
    matches = glob.glob(str(Path(*parts)), root_dir=literal, recursive=True)
    return sorted(literal / match for match in matches if (literal / match).is_file() and not places.hidden(match))


def counted(endings: Counter[str]) -> str:
    """List endings with their numbers: "2 .cr2, 1 without ending"."""
    named = ((number, places.shown(ending) or "without ending") for ending, number in sorted(endings.items()))
    return ", ".join(f"{number} {ending}" for number, ending in named)
