"""``python -m bioclip_lite push [-r REMOTE] [TARGETS]``: `dvc push` that keeps others' photographs off public remotes.

A remote that .dvc/public_remotes names gets a file only if every photograph in it may be published, by the column
``licence`` of data/index/samples.parquet. If one file may not go, nothing goes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.commands.common import command
from bioclip_lite.engines import remotes, run_cache
from bioclip_lite.engines.remotes import PUBLIC, Tracked
from bioclip_lite.publishing import permission
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from dvc.repo import Repo

_CHILDREN = 20  # of a folder that may go in part, in a message


def push(targets: Sequence[str] = (), remote: str | None = None, again: bool = False) -> int:
    """Upload what the remote lacks of ``targets`` (stages or paths; none: all), and return the number of objects sent.

    Args:
        again: send even what the remote has, because its copies are damaged.

    Raises:
        UserError: a file may not be published (nothing was sent), an unknown target or remote, a failed upload.
    """
    with remotes.repository() as repo:
        files = remotes.tracked(repo, targets, remote, pushing=True)
        by_remote = {name: [file for file in files if file.remote == name] for name in {file.remote for file in files}}
        for name in by_remote.keys() & remotes.public_remotes(repo):
            _check(repo, by_remote[name], name)
        sent = 0
        for name, going in by_remote.items():
            count, there = remotes.send(repo, going, name, again)
            sent += count
            run_cache.upload(name, there)
            if not repo.config["remote"][name].get("verify"):
                print(
                    f"push: dvc pull takes what remote {name} sends on trust; have it checked, for everybody: "
                    f"dvc remote modify {name} verify true, and commit .dvc/config",
                    file=sys.stderr,
                )
    return sent


# ------------------------------------------------------------------------------------------------ what may be published


def _check(repo: "Repo", files: list[Tracked], remote: str) -> None:
    """Raise UserError if a file that would go to a public remote holds a photograph that may not."""
    here = {file: path for file in files if (path := remotes.here(repo, file)) and not file.md5.endswith(".dir")}
    if not any(permission.may_hold_photographs(file.path) for file in here):
        return
    samples = _samples(repo, remote)
    refused = [refusal for file, content in here.items() if (refusal := permission.refuse(file.path, content, samples))]
    if refused:
        raise UserError(_explain(refused, files, remote))


def _samples(repo: "Repo", remote: str) -> permission.Samples:
    """Read the index that dvc.lock names; in a clone without it, fetch that one file."""
    path = _cached_samples(repo)
    for source in {repo.config["core"].get("remote"), remote} - {None}:
        if path is None:
            remotes.fetch(repo, [permission.SAMPLES], source)
            path = _cached_samples(repo)
    if path is None:
        raise UserError(
            f"{remote} is a public remote, and {permission.SAMPLES}, which knows the licences of the photographs, is "
            f"neither here nor in a remote; nothing was pushed. Fetch it (dvc pull -r <remote> {permission.SAMPLES}) "
            "or make it (snakemake --cores all index)"
        )
    return permission.read_samples(path)


def _cached_samples(repo: "Repo") -> Path | None:
    entries = (file for file in remotes.tracked(repo, [permission.SAMPLES], None) if file.path == permission.SAMPLES)
    return next((path for file in entries if (path := remotes.here(repo, file))), None)


# ---------------------------------------------------------------------------------------------------------- the message


def _explain(refused: list[permission.Refused], files: list[Tracked], remote: str) -> str:
    lines = [f"{remote} is a public remote ({PUBLIC}), and photographs that may not be published are in"]
    lines += permission.lines(refused)
    lines.append(f"Nothing was pushed. {permission.MAY_GO}")
    lines.append(
        "Leave those photographs out (index.where in params.yaml, or take them from the source) and run the pipeline "
        "again, or push them to a remote that is not public."
    )
    may_go = _may_go([file.path for file in refused], files)
    if may_go:
        lines.append(f"What may go: python -m bioclip_lite push -r {remote} {' '.join(may_go)}")
    return "\n".join(lines)


def _may_go(refused: list[str], files: list[Tracked]) -> list[str]:
    """The largest targets without a refused file: stages, then outputs, then what lies directly in an output."""

    def free(path: str) -> bool:
        return not any(bad == path or bad.startswith(path + "/") for bad in refused)

    targets: list[str] = []
    for target in dict.fromkeys(file.target for file in files):
        mine = [file for file in files if file.target == target]
        if all(free(file.path) for file in mine):
            targets.append(target)
            continue
        folders = [file.path for file in mine if file.md5.endswith(".dir")]
        targets += [f.path for f in mine if free(f.path) and not any(f.path.startswith(up + "/") for up in folders)]
        for folder in folders:
            within = [file.path.removeprefix(folder + "/") for file in mine if file.path.startswith(folder + "/")]
            children = [f"{folder}/{name}" for name in dict.fromkeys(path.split("/")[0] for path in within)]
            children = [child for child in children if free(child)]
            if not free(folder) and len(children) <= _CHILDREN:
                targets += children
    return targets


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "push",
        "Send artifacts to a remote. A remote that .dvc/public_remotes names gets a file only if the licence of every "
        "photograph in it permits publication; if one file may not go, nothing is sent.",
    )
    parser.add_argument("targets", nargs="*", help="stages or paths to send (default: everything)")
    parser.add_argument("-r", "--remote", help="name of the remote (default: DVC's default remote)")
    parser.add_argument("--again", action="store_true", help="replace copies that the remote has, e.g. damaged ones")
    return parser


@command("push")
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    sent = push(options.targets, options.remote, options.again)
    print(f"push: {sent} objects sent" if sent else "push: the remote has everything")
    return 0
