"""What commands of ``bioclip-lite`` share: one line for a user's mistake, and files put in place without loss."""

import filecmp
import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from bioclip_lite.utils.errors import UserError, tell
from bioclip_lite.utils.files import replace_link, replacing

PARAMS = Path("params.yaml")
PHOTOS = Path("data/photos")

P = ParamSpec("P")


def command(name: str) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorate a ``main`` that returns an exit status: print errors that a user can correct as "<name>: ...".

    The status is then 1, and 75 where a training was asked to stop (``checkpoint.Stopped``).
    """

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def report_mistakes(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except Exception as error:
                return tell(name, error)

        return report_mistakes

    return decorate


def link_photographs(folder: Path, what: str) -> Callable[[], None]:
    """Check that data/photos can become a link to a folder; returns the function that makes it one.

    The link is made only where data/photos is not that folder already. ``what`` names the folder in messages.

    Raises:
        UserError: ``folder`` is no folder, or data/photos is not a link.
    """
    if not folder.is_dir():
        raise UserError(f"{what} {folder} is not a folder")
    if PHOTOS.exists() and PHOTOS.samefile(folder):
        return lambda: None
    if PHOTOS.exists() and not PHOTOS.is_symlink():
        raise UserError(f"{PHOTOS} is no link, and what it holds would be lost; move it away first")

    def link() -> None:
        if PHOTOS.is_symlink():
            print(f"{PHOTOS} led to {PHOTOS.readlink()}; now to {folder.resolve()}")
        replace_link(PHOTOS, folder.resolve())

    return link


def copy_into(place: Path, file: Path, what: str) -> Callable[[], None]:
    """Check that a file can be copied into the folder ``place``; returns the function that copies it.

    It is copied only where it is not there already. ``what`` names the file in messages.

    Raises:
        UserError: ``file`` is no file, or ``place`` has another one of its name.
    """
    target = place / file.name
    if not file.is_file():
        raise UserError(f"{what} {file} is not a file")
    if target.exists() and not filecmp.cmp(file, target, shallow=False):
        raise UserError(f"{target} differs from {file} and would be lost; move it away first")

    def copy() -> None:
        if not target.exists():
            with replacing(target) as scratch:
                shutil.copyfile(file, scratch)

    return copy


def committed(file: Path) -> bool:
    """Whether git holds a file unchanged; False without a repository, or if git ignores the file."""
    questions = (["ls-files", "--error-unmatch"], ["diff", "--quiet", "HEAD", "--"])
    return all(
        subprocess.run(["git", *question, str(file)], capture_output=True, check=False).returncode == 0
        for question in questions
    )
