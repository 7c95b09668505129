"""``make preset NAME=insects PHOTOS=folder WEIGHTS=file``: a complete params.yaml for a real data set, and its data."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from bioclip_lite.errors import UserError

PRESETS = Path("workflow/presets")
PARAMS = Path("params.yaml")
PHOTOS = Path("data/photos")
WEIGHTS = Path("data/weights")


def put_in_place(name: str, photos: Path | None, weights: Path | None) -> None:
    """Copy a preset to params.yaml, link the folder of photographs to data/photos, copy weights to data/weights.

    Raises:
        UserError: an unknown preset, a missing folder or file, or a params.yaml with changes that git does not hold.
    """
    presets = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if name not in presets:
        raise UserError(f"there is no preset {name!r}; known are {', '.join(presets)} (make preset NAME=...)")
    if photos is not None and not photos.is_dir():
        raise UserError(f"PHOTOS={photos} is no folder")
    if weights is not None and not weights.is_file():
        raise UserError(f"WEIGHTS={weights} is no file")
    if _unsaved() and PARAMS.read_bytes() not in [path.read_bytes() for path in presets.values()]:
        raise UserError(
            "params.yaml has changes that are not committed and would be lost; commit or discard them first"
        )
    if photos is not None:
        if PHOTOS.exists() and not PHOTOS.is_symlink():
            raise UserError(f"{PHOTOS} is a real folder, not a link made by a preset; move it away first")
        PHOTOS.unlink(missing_ok=True)
        PHOTOS.symlink_to(photos.resolve(), target_is_directory=True)
    if weights is not None:
        shutil.copyfile(weights, WEIGHTS / weights.name)
    shutil.copyfile(presets[name], PARAMS)
    print(f"params.yaml is now the preset {name}; next: make evaluate")


def _unsaved() -> bool:
    status = subprocess.run(["git", "status", "--porcelain", str(PARAMS)], capture_output=True, text=True, check=False)
    return status.returncode == 0 and bool(status.stdout.strip())


def main() -> int:
    parser = argparse.ArgumentParser(prog="make preset", description=__doc__)
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    try:
        put_in_place(arguments.name, arguments.photos, arguments.weights)
    except UserError as error:
        print(f"preset: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
