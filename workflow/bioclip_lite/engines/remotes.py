"""Compare DVC's remotes with its cache, file by file, and transfer what is missing, for ``push`` and ``pull``."""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dvc.exceptions import DvcException
from dvc_data.callbacks import TqdmCallback
from dvc_objects.fs.generic import copy

from bioclip_lite.utils.errors import UserError

_BATCH = 64  # objects fetched together: what a killed pull loses at most
_PAUSES = (0.01, 0.1, 0.5, 2.0)  # seconds until a folder that a colleague is making is looked at again

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.repo.index import IndexView
    from dvc_data.hashfile.db import HashFileDB

PUBLIC = Path(".dvc/public_remotes")  # names, one a line; DVC's own configuration has no place for such a mark


class Tracked(NamedTuple):
    """A file that dvc.lock or a .dvc file names, or the list of files (MD5 ending in .dir) of a folder."""

    path: str
    md5: str
    remote: str  # where it goes to and comes from
    target: str  # the stage, or the .dvc file, that it belongs to


@contextmanager
def repository() -> Iterator["Repo"]:
    """The DVC repository here. What DVC has to say against the work comes as UserError."""
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            yield repo
    except DvcException as error:
        raise UserError(" ".join(str(error).split())) from None


def tracked(repo: "Repo", targets: Sequence[str], remote: str | None, pushing: bool = False) -> list[Tracked]:
    """List the files of ``targets`` (stages or paths; none: all), of folders whose list the cache or the remote has."""
    view = _view(repo, targets, remote, pushing)
    data = view.data["repo"]
    data.onerror = lambda entry, error: None  # a list that is neither in the cache nor, whole, in the remote
    files = {
        Tracked("/".join(key), entry.hash_info.value, _remote_of(out, repo, remote), out.stage.addressing)
        for out in view.outs
        for key, entry in data.iteritems(out.index_key[1])
        if entry.hash_info
    }
    return sorted(files)


def _view(repo: "Repo", targets: Sequence[str], remote: str | None, pushing: bool) -> "IndexView":
    from dvc.repo.index import index_from_targets

    if remote:
        repo.cloud.get_remote(remote)  # does it exist?
    return index_from_targets(
        repo,
        list(targets) or None,
        stage_filter=lambda stage: not stage.is_repo_import,
        # as DVC: an output with a remote of its own goes nowhere else
        outs_filter=lambda out: (
            out.use_cache and (out.can_push or not pushing) and (remote is None or out.remote in (None, remote))
        ),
    )


def _remote_of(out: Any, repo: "Repo", remote: str | None) -> str:
    name: str = out.remote or remote or repo.cloud.get_remote(None, "pull or push").name  # or DVC's words for none
    return name


def here(repo: "Repo", file: Tracked) -> Path | None:
    """The file's object in the cache; None if the cache lacks it."""
    path = Path(repo.cache.local.oid_to_path(file.md5))
    return path if path.exists() else None


def public_remotes(repo: "Repo") -> set[str]:
    """Remotes that anybody can read: those that .dvc/public_remotes names, and others at the same address."""
    path = Path(repo.root_dir) / PUBLIC
    if not path.exists():
        return set()
    names = {line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()} - {""}
    places = {name: str(settings["url"]).rstrip("/") + "/" for name, settings in repo.config["remote"].items()}
    unknown = sorted(names - places.keys())
    if unknown:
        raise UserError(
            f"{PUBLIC} names {', '.join(unknown)}, but there is no such remote; remotes: "
            f"{', '.join(sorted(places)) or 'none'}. Correct the name: otherwise photographs could "
            "reach a public remote unchecked"
        )
    return {name for name, place in places.items() if any(place.startswith(places[public]) for public in names)}


# ----------------------------------------------------------------------------------------------------------- transfers


def open_remote(repo: "Repo", name: str) -> "HashFileDB":
    """Open the objects of a remote. Raises UserError if it does not answer."""
    odb = repo.cloud.get_remote_odb(name, "pull or push")
    try:
        odb.fs.exists(odb.path)
    except Exception as error:  # each kind of remote has its own
        raise UserError(
            f"remote {name} ({odb.fs.unstrip_protocol(odb.path)}) cannot be used: {error or type(error).__name__}"
        ) from None
    return odb


def send(repo: "Repo", files: Sequence[Tracked], remote: str, again: bool = False) -> tuple[int, set[str]]:
    """Upload what the remote lacks, or everything with ``again``.

    DVC's own push takes a folder for complete as soon as its list is in the remote, and sends the list with any one of
    its files; here each object is looked for. An object of another size is sent again: over SSH, a killed push leaves
    part of an object under its final name.

    Returns:
        The number of objects sent, and the MD5s of all objects that are in the remote now.
    """
    odb, local = open_remote(repo, remote), {file.md5: path for file in files if (path := here(repo, file))}
    sizes = {} if again else _sizes(odb, sorted({file.md5 for file in files}))
    lacking = [md5 for md5, path in local.items() if sizes.get(md5) != path.stat().st_size]
    unavailable = [file.path for file in files if file.md5 not in local and file.md5 not in sizes]
    lists = {
        file.md5
        for file in files
        if file.md5.endswith(".dir") and not any(path.startswith(file.path + "/") for path in unavailable)
    }
    errors: dict[str, BaseException] = {}
    # A list comes last: where it is, DVC believes that its files are.
    for part in ([md5 for md5 in lacking if not md5.endswith(".dir")], [md5 for md5 in lacking if md5 in lists]):
        with TqdmCallback(desc=f"push to {remote}", unit="file") as callback:
            odb.add(
                [str(local[md5]) for md5 in part],
                repo.cache.local.fs,
                part,
                check_exists=False,
                verify=False,  # it would fetch everything again
                callback=callback,
                on_error=errors.__setitem__,
            )
        if errors:
            md5, error = next(iter(errors.items()))
            raise UserError(f"{len(errors)} objects did not reach remote {remote}, push again: {md5}: {error}")
    sent = {md5 for md5 in lacking if not md5.endswith(".dir") or md5 in lists}
    return len(sent), sent | sizes.keys()


def _sizes(odb: "HashFileDB", objects: list[str]) -> dict[str, int]:
    """Size in bytes of those objects that a remote has."""
    answers = odb.fs.info([odb.oid_to_path(md5) for md5 in objects], return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, FileNotFoundError):
            raise UserError(f"the remote failed while it was asked what it has: {answer}")
    pairs = zip(objects, answers, strict=True)
    return {md5: answer["size"] for md5, answer in pairs if not isinstance(answer, BaseException)}


class Lacking(NamedTuple):
    """A file that did not come. Without an error it did, but was not what its name says, and was thrown away."""

    file: Tracked
    error: BaseException | None


def fetch(repo: "Repo", targets: Sequence[str], remote: str | None) -> tuple[int, list[Lacking]]:
    """Download what the cache lacks, check it, and return the number of objects that came and the files still lacking.

    DVC's own pull takes what comes on trust, unless the remote's option ``verify`` is set.
    """
    outs = [out for out in _view(repo, targets, remote, pushing=False).outs if out.hash_info and out.hash_info.isdir]
    lists = [Tracked(out.def_path, out.hash_info.value, _remote_of(out, repo, remote), "") for out in outs]
    errors: dict[str, BaseException] = {}
    fetched = receive(repo, lists, errors)
    files = tracked(repo, targets, remote)
    fetched += receive(repo, files, errors)
    return fetched, [Lacking(file, errors.get(file.md5)) for file in files if not here(repo, file)]


def receive(repo: "Repo", files: Iterable[Tracked], errors: dict[str, BaseException]) -> int:
    """Download what the cache lacks of ``files`` and check it; how many objects came. ``errors``: by MD5, added to."""
    lacking = {file.md5: file for file in files if not here(repo, file)}
    fetched = 0
    for name in sorted({file.remote for file in lacking.values()}):
        odb = open_remote(repo, name)
        wanted = iter([md5 for md5, file in lacking.items() if file.remote == name])
        with TqdmCallback(desc=f"pull from {name}", unit="file") as callback:
            while batch := list(islice(wanted, _BATCH)):
                fetched += _receive_batch(repo.cache.local, odb, batch, errors, callback)
    return fetched


def _receive_batch(
    cache: "HashFileDB", odb: "HashFileDB", batch: list[str], errors: dict[str, BaseException], callback: Any
) -> int:
    """Fetch objects beside the cache, and give those that are sound their places in it.

    DVC copies from a plain path right into the place, where colleagues with the same cache find it half written.
    """
    root = Path(cache.path).parent
    make_folder(cache, root)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=root) as folder:
        parts = [f"{folder}/{md5}" for md5 in batch]
        copy(
            odb.fs,
            [odb.oid_to_path(md5) for md5 in batch],
            cache.fs,
            parts,
            callback=callback,
            on_error=lambda _, part, error: errors.__setitem__(Path(part).name, error),
        )
        sound = [part for part in map(Path, parts) if part.exists() and _md5(part) == part.name.removesuffix(".dir")]
        for part in sound:
            place = Path(cache.oid_to_path(part.name))
            make_folder(cache, place.parent)
            part.chmod(0o444)
            part.replace(place)
    return len(sound)


def make_folder(cache: "HashFileDB", folder: Path) -> None:
    """Make a folder of the cache, with the modes of a shared cache if it is one, unless it is there.

    DVC makes a folder first and opens it to the group a moment later. A run of a colleague that comes in between waits.

    Raises:
        UserError: it stays closed.
    """
    for pause in (*_PAUSES, None):
        with suppress(PermissionError):  # not even the folder above is open yet
            cache.makedirs(str(folder))
            if os.access(folder, os.W_OK):
                return
        if pause:
            time.sleep(pause)
    raise UserError(
        f"you may not write to {folder} in DVC's cache; its owner can let the group in: "
        f"find {cache.path} -type d -user $(id -un) -exec chmod g+rwxs {{}} +"
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
