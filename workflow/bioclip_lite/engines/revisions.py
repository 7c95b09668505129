"""Link files of stages as another revision of this repository has them, without checking it out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.engines import dvc_yaml, remotes
from bioclip_lite.engines.remotes import Tracked
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from dvc.repo import Repo


def link(repo: "Repo", revision: str, paths: Sequence[str], folder: Path) -> str:
    """Lay ``paths`` of a git revision into ``folder``, as links into the DVC cache; returns the revision's hash.

    ``paths`` are of files and of folders. dvc.lock of the revision says which content they have. What the cache lacks
    comes from the default remote, checked.

    Raises:
        UserError: no such revision; it has no such files; their content is neither in the cache nor in the remote.
    """
    from dvc.scm import resolve_rev

    commit = resolve_rev(repo.scm, revision)
    with repo.switch(commit):
        outs = {out.def_path: out.hash_info.value for out in repo.index.outs if out.hash_info}
    place = {path: dvc_yaml.within(path, outs) for path in paths}
    unknown = sorted(path for path, out in place.items() if out is None)
    if unknown:
        raise UserError(
            f"dvc.lock of revision {revision} does not name {', '.join(unknown)}: stage evaluate had not run there, or "
            f"dvc.lock was not committed after it; make it there: {_made_at(revision)}"
        )
    whole = [Tracked(out, outs[out], "", "") for out in sorted({out for out in place.values() if out is not None})]
    _bring(repo, revision, whole)
    files = []
    for out in whole:
        wanted = [path for path in paths if place[path] == out.path]
        files += [out] if out.path in wanted else _listed(repo, revision, out, wanted)
    _bring(repo, revision, files)
    for file in files:
        content = remotes.here(repo, file)
        assert content is not None
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).symlink_to(content.absolute())
    return commit


def _listed(repo: "Repo", revision: str, out: Tracked, wanted: Sequence[str]) -> list[Tracked]:
    """Those files of a folder, and those in its folders ``wanted``, by its list in the cache."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    tree = Tree.load(repo.cache.local, HashInfo("md5", out.md5))
    content = {f"{out.path}/{'/'.join(key)}": info.value for key, _, info in tree if info}
    found = {path: [name for name in content if dvc_yaml.within(name, [path])] for path in wanted}
    missing = [path for path, names in found.items() if not names]
    if missing:
        raise UserError(f"revision {revision} has no {', '.join(missing)}")
    return [Tracked(name, content[name], "", "") for names in found.values() for name in names]


def _bring(repo: "Repo", revision: str, files: list[Tracked]) -> None:
    """Fetch what the cache lacks of ``files``."""
    lacking = [file for file in files if not remotes.here(repo, file)]
    if not lacking:
        return
    name = repo.config["core"].get("remote")
    if name:
        remotes.receive(repo, [file._replace(remote=name) for file in lacking], {})
        lacking = [file for file in lacking if not remotes.here(repo, file)]
    if lacking:
        where = f"neither in the cache nor in remote {name}" if name else "not in the cache, and there is no remote"
        tell = "" if name else "name a colleague's remote (dvc remote add -d NAME PLACE) and ask again, or "
        raise UserError(
            f"revision {revision} has {', '.join(file.path for file in lacking[:3])}"
            f"{' ...' if len(lacking) > 3 else ''}, whose content is {where}; {tell}let somebody who has that revision "
            f"run `python -m bioclip_lite push` (or `dvc push`) in it, or make it again: {_made_at(revision)}"
        )


def _made_at(revision: str) -> str:
    return f"git worktree add ../{revision} {revision} && cd ../{revision} && dvc pull && make evaluate"
