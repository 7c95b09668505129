"""``make preset NAME=insects PHOTOS=folder WEIGHTS=file``: params.yaml and the data of a real data set."""

import argparse
import filecmp
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bioclip_lite.commands.common import command
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
        raise UserError(f"there is no preset {name!r}; known are {', '.join(presets)} (make preset NAME=...)")
    if photos is not None:
        _check_photos(photos)
    if weights is not None:
        _check_weights(weights)
    if PARAMS.exists() and not (_committed() or any(filecmp.cmp(PARAMS, p, shallow=False) for p in presets.values())):
        raise UserError(
            "params.yaml has changes that are not committed and would be lost; commit or discard them, or move it away"
        )
    if photos is not None and not _in_place(photos):
        _link(photos)
    if weights is not None and not (WEIGHTS / weights.name).exists():
        with replacing(WEIGHTS / weights.name) as scratch:
            shutil.copyfile(weights, scratch)
    with replacing(PARAMS) as scratch:
        shutil.copyfile(presets[name], scratch)
    print(f"params.yaml is now the preset {name}; next: make evaluate")


def _check_photos(photos: Path) -> None:
    if not photos.is_dir():
        raise UserError(f"PHOTOS={photos} is no folder")
    if not _in_place(photos) and PHOTOS.exists() and not PHOTOS.is_symlink():
        raise UserError(f"{PHOTOS} is a folder of its own, not a link that a preset made; move it away first")


def _check_weights(weights: Path) -> None:
    if not weights.is_file():
        raise UserError(f"WEIGHTS={weights} is no file")
    target = WEIGHTS / weights.name
    if target.exists() and not filecmp.cmp(weights, target, shallow=False):
        raise UserError(f"{target} is not the same as WEIGHTS={weights} and would be lost; move it away first")


def _in_place(photos: Path) -> bool:
    return PHOTOS.exists() and PHOTOS.samefile(photos)


def _link(photos: Path) -> None:
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


@command("preset")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make preset", description=__doc__)
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--photos", type=Path, help="folder of photographs, to which data/photos will lead")
    parser.add_argument("--weights", type=Path, help="file to copy to data/weights")
    arguments = parser.parse_args(argv)
    put_in_place(arguments.name, arguments.photos, arguments.weights)
    return 0


if __name__ == "__main__":
    sys.exit(main())
