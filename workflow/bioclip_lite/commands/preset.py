"""``bioclip-lite preset insects --photos FOLDER --weights FILE``: the parameters of a real data set, and its data."""

import argparse
import filecmp
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bioclip_lite.commands.common import command
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing

PRESETS = Path("workflow/presets")
PARAMS = Path("params.yaml")
PHOTOS = Path("data/photos")
WEIGHTS = Path("data/weights")


def put_in_place(name: str, photos: Path | None, weights: Path | None) -> None:
    """Copy a preset to params.yaml, link the folder of photographs to data/photos, copy weights to data/weights.

    Photographs and weights that are in place already stay unchanged.

    Raises:
        UserError: the preset, the folder or the file does not exist, or something would be lost: a params.yaml that
            git does not hold, a real folder data/photos, other weights of that name. Nothing is changed then.
    """
    presets = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if name not in presets:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join(presets)}")
    new_photos = photos if photos is not None and not _photos_in_place(photos) else None
    new_weights = weights if weights is not None and not _weights_in_place(weights) else None
    if PARAMS.exists() and not (_committed() or any(filecmp.cmp(PARAMS, p, shallow=False) for p in presets.values())):
        raise UserError(
            "params.yaml has changes that are not committed and would be lost; commit or discard them, or move it away"
        )
    if new_photos is not None:
        _link_photos(new_photos)
    if new_weights is not None:
        with replacing(WEIGHTS / new_weights.name) as scratch:
            shutil.copyfile(new_weights, scratch)
    with replacing(PARAMS) as scratch:
        shutil.copyfile(presets[name], scratch)
    print(f"params.yaml is now the preset {name}; next: make evaluate")


def _photos_in_place(photos: Path) -> bool:
    """Whether data/photos is ``photos``. Raises UserError if ``photos`` is no folder, or data/photos is not a link."""
    if not photos.is_dir():
        raise UserError(f"--photos {photos} is not a folder")
    if PHOTOS.exists() and PHOTOS.samefile(photos):
        return True
    if PHOTOS.exists() and not PHOTOS.is_symlink():
        raise UserError(f"{PHOTOS} is no link made by a preset; move it away first")
    return False


def _weights_in_place(weights: Path) -> bool:
    """Whether data/weights has a copy. Raises UserError if ``weights`` is no file, or other weights have its name."""
    if not weights.is_file():
        raise UserError(f"--weights {weights} is not a file")
    target = WEIGHTS / weights.name
    if target.exists() and not filecmp.cmp(weights, target, shallow=False):
        raise UserError(f"{target} differs from {weights} and would be lost; move it away first")
    return target.exists()


def _link_photos(photos: Path) -> None:
    if PHOTOS.is_symlink():
        print(f"{PHOTOS} led to {PHOTOS.readlink()}; now to {photos.resolve()}")
        PHOTOS.unlink()
    PHOTOS.parent.mkdir(parents=True, exist_ok=True)
    PHOTOS.symlink_to(photos.resolve(), target_is_directory=True)


def _committed() -> bool:
    """Whether git holds params.yaml unchanged; False without a repository, or if git ignores the file."""
    questions = (["ls-files", "--error-unmatch"], ["diff", "--quiet", "HEAD", "--"])
    return all(
        subprocess.run(["git", *question, str(PARAMS)], capture_output=True, check=False).returncode == 0
        for question in questions
    )


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "preset",
        "Replace params.yaml by the complete parameters for a real data set, and put its photographs and weights in "
        "place. Replaces nothing that git does not hold.",
    )
    parser.add_argument("name", nargs="?", default="", help="a file in workflow/presets, e.g. insects")
    parser.add_argument("--photos", type=Path, help="folder of photographs; data/photos becomes a link to it")
    parser.add_argument("--weights", type=Path, help="file of weights; copied to data/weights")
    return parser


@command("preset")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    put_in_place(arguments.name, arguments.photos, arguments.weights)
    return 0
