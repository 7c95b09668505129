"""``bioclip-lite preset insects --photos FOLDER --weights FILE``: the parameters of a real data set, and its data."""

import argparse
import filecmp
import shutil
from collections.abc import Sequence
from pathlib import Path

from bioclip_lite.commands.common import PARAMS, command, committed, copy_into, link_photographs
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing

PRESETS = Path("workflow/presets")
WEIGHTS = Path("data/weights")


def put_in_place(name: str, photos: Path | None, weights: Sequence[Path]) -> None:
    """Copy a preset to params.yaml, link the folder of photographs to data/photos, copy weights to data/weights.

    Photographs and weights that are in place already stay unchanged.

    Raises:
        UserError: the preset, the folder or the file does not exist, or something would be lost: a params.yaml that
            git does not hold, a real folder data/photos, other weights of that name. Nothing is changed then.
    """
    presets = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if name not in presets:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join(presets)}")
    put_photographs = link_photographs(photos, "--photos") if photos is not None else None
    put_weights = [copy_into(WEIGHTS, file, "--weights") for file in weights]
    if PARAMS.exists() and not (
        committed(PARAMS) or any(filecmp.cmp(PARAMS, p, shallow=False) for p in presets.values())
    ):
        raise UserError(
            "params.yaml has changes that are not committed and would be lost; commit or discard them, or move it away"
        )
    for put in filter(None, (put_photographs, *put_weights)):
        put()
    with replacing(PARAMS) as scratch:
        shutil.copyfile(presets[name], scratch)
    print(f"params.yaml is now the preset {name}; next: make evaluate")


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "preset",
        "Replace params.yaml by the complete parameters for a real data set, and put its photographs and weights in "
        "place. Replaces nothing that git does not hold.",
    )
    parser.add_argument("name", nargs="?", default="", help="a file in workflow/presets, e.g. insects")
    parser.add_argument("--photos", type=Path, help="folder of photographs; data/photos becomes a link to it")
    parser.add_argument(
        "--weights", type=Path, action="append", default=[], help="file of weights; copied to data/weights; repeatable"
    )
    return parser


@command("preset")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    put_in_place(arguments.name, arguments.photos, arguments.weights)
    return 0
