"""``python -m bioclip_lite export-cache FOLDER``: the teacher cache as a data set, without photographs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bioclip_lite.commands.common import command
from bioclip_lite.publishing import cache_export
from bioclip_lite.teacher_cache import store
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_folder, replacing_folder


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "export-cache",
        "Write the teacher cache as a data set of its own, from which others distil without running the teacher: "
        "views, INT8 embeddings, taxa, licences and owners in Parquet, with descriptions and a loader; no photographs.",
    )
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--teacher", default=FIRST, help="name in teacher.ensemble (default: the first teacher)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    return parser


@command("export-cache")
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    check_folder(options.folder, cache_export.NAMES)
    known = store.teachers(options.data)
    if options.teacher not in known:
        raise UserError(f"--teacher is {options.teacher}; there are caches of {', '.join(known)}")
    with replacing_folder(options.folder, cache_export.NAMES) as scratch:
        about = cache_export.write(scratch, options.data, options.teacher)
        size = sum(file.stat().st_size for file in scratch.iterdir())
    print(
        f"export-cache: {options.folder}, {size / 1e6:.1f} MB: {about['photographs']} photographs and {about['taxa']} "
        f"taxa as {about['teacher']['name']} sees them"
    )
    return 0
