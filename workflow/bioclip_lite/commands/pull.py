"""``python -m bioclip_lite pull [-r REMOTE] [TARGETS]``: `dvc pull` that checks what arrives and names damage."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.commands.common import command
from bioclip_lite.engines import remotes
from bioclip_lite.engines.remotes import Lacking, Tracked
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing

if TYPE_CHECKING:
    from dvc.repo import Repo

_LISTED = 10


def pull(targets: Sequence[str] = (), remote: str | None = None) -> int:
    """Fetch ``targets`` (stages or paths; none: all), put them in place, and return the number of files fetched.

    What is sound is put in place even where other files are damaged or missing.

    Raises:
        UserError: objects of the remote are damaged or missing, with the path of each; an unknown target or remote.
    """
    with remotes.repository() as repo:
        fetched, lacking = remotes.fetch(repo, targets, remote)
        repo.checkout(list(targets) or None, allow_missing=True)
        if lacking:
            _place_the_rest(repo, remotes.tracked(repo, targets, remote))
            raise UserError(_explain(lacking))
    return fetched


def _place_the_rest(repo: "Repo", files: list[Tracked]) -> None:
    """Copy what came of folders that are not whole, which DVC does not touch, so that only the rest is made again."""
    for file in files:
        content = remotes.here(repo, file)
        if content and not file.md5.endswith(".dir") and not Path(file.path).exists():
            with replacing(file.path) as scratch:
                shutil.copyfile(content, scratch)


def _explain(lacking: list[Lacking]) -> str:
    lines = []
    for name in sorted({item.file.remote for item in lacking}):
        mine = [item for item in lacking if item.file.remote == name]
        damaged = [item.file for item in mine if item.error is None]
        missing = [item.file for item in mine if isinstance(item.error, FileNotFoundError)]
        failed = [item for item in mine if item.file not in damaged + missing]
        if damaged:
            lines += [f"damaged in remote {name}, their content is not what was pushed:", *_listed(damaged)]
        if missing:
            lines += [f"missing in remote {name}:", *_listed(missing)]
        if failed:
            lines.append(f"{len(failed)} files of remote {name} did not come, pull again: {failed[0].error}")
        if damaged or missing:
            paths = [file.path for file in damaged + missing]
            made = [f.path for f in damaged + missing if not f.md5.endswith(".dir") and not f.target.endswith(".dvc")]
            lines.append("Somebody who has them can repair the remote:")
            lines.append(f"  python -m bioclip_lite push -r {name} --again {' '.join(paths[:_LISTED])}")
            if made:
                lines += ["or make them again:", f"  snakemake --cores all {' '.join(made[:_LISTED])}"]
    return "\n".join([*lines, "Everything else was pulled."])


def _listed(files: list[Tracked]) -> list[str]:
    lines = [f"  {file.path} (object {file.md5})" for file in files[:_LISTED]]
    return [*lines, f"  and {len(files) - _LISTED} more"] if len(files) > _LISTED else lines


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "pull",
        "Fetch artifacts from a remote, check what arrives, and name files that are damaged or missing there.",
    )
    parser.add_argument("targets", nargs="*", help="stages or paths to fetch (default: everything)")
    parser.add_argument("-r", "--remote", help="name of the remote (default: DVC's default remote)")
    return parser


@command("pull")
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    fetched = pull(options.targets, options.remote)
    print(f"pull: {fetched} objects fetched")
    return 0
