"""Helpers of all formats of test sets: folders of classes, lists of names, files."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bioclip_lite.sources import fields, folder, places
from bioclip_lite.sources.sample import Reject
from bioclip_lite.suites.suite import Class
from bioclip_lite.utils.errors import UserError

_NOTHING = (None,) * 7


def class_folders(root: Path) -> list[str]:
    """The subfolders of ``root``: in the order of numbers if all are numbers (2 before 10), else of the alphabet."""
    names = [path.name for path in root.iterdir() if path.is_dir() and not places.hidden(path.name)]
    if not names:
        raise UserError(f"{root} has no subfolder; each class of photographs must have one")
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def photographs_in(root: Path, folders: Sequence[str]) -> tuple[list[tuple[str, int]], list[Reject]]:
    """(path below ``root``, number of its folder) of every file in ``folders``; and what cannot be one."""
    found: list[tuple[str, int]] = []
    rejects: list[Reject] = []
    for number, name in enumerate(folders):
        for item in folder.in_folder(root, name, _NOTHING):
            if isinstance(item, Reject):
                rejects.append(item)
            else:
                found.append((item.locator, number))
    return found, rejects


def names_in(file: Path) -> list[str]:
    """The lines of a text file, without spaces around them."""
    try:
        return [" ".join(line.split()) for line in file.read_text("utf-8-sig").rstrip("\n").split("\n")]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error}); save it again as UTF-8") from None


def classes_of(names: Iterable[str], where: Path) -> list[Class]:
    """Classes by name; those names that spell a taxon get its path. Raises UserError for a name that stands twice."""
    names = list(names)
    twice = sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ())
    if twice:
        raise UserError(
            f"{where}: {len(twice)} names stand for several classes, e.g. {', '.join(map(repr, twice[:5]))}, which no "
            "model can tell apart by name; give each class its own"
        )
    paths = fields.label_paths(names)
    return [Class(name, paths.get(name)) for name in names]


def reader(root: Path) -> Callable[[str], bytes]:
    """The function that reads files below ``root``, and parts of tars."""

    def read(locator: str) -> bytes:
        if places.is_address(locator):
            raise OSError("an address; photographs of a suite must be here")
        return places.read_below(root, locator)

    return read


def table(root: Path, name: str) -> Path:
    """A table that must be there."""
    if not (root / name).is_file():
        raise UserError(f"{root / name} is missing; it lists the photographs and what they show (docs/test-sets.md)")
    return root / name
