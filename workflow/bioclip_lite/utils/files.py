"""Reading and writing: every output appears complete under its name, or not at all."""

import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:  # Snakemake imports this module at every start, and needs no tables
    import pyarrow as pa

PARTIAL = ".partial-"  # how the names of unfinished outputs begin; a killed job leaves them behind
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
_UMASK = os.umask(0)
os.umask(_UMASK)  # the only way to read it
_LEFT_BY_DESKTOPS = (".DS_Store", "Thumbs.db", "desktop.ini")  # in every folder that somebody looks into


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` for a file; on success it takes the name ``path``, else it is removed.

    An existing file is replaced: one that a user names goes through ``check_file`` first. So is a link to a file, whose
    target stays as it is: DVC's cache is made of such targets. Missing folders are made.

    Raises:
        UserError: ``path`` is a folder, a link to one, or a device, or lies where no file can be made.
    """
    path = Path(path)
    _check_file(path)
    with _beside(path) as scratch:
        yield scratch
        _readable(scratch)
        _check_file(path)
        os.replace(scratch, path)


@contextmanager
def replacing_folder(path: str | os.PathLike[str], names: Sequence[str]) -> Iterator[Path]:
    """Yield a new folder beside ``path``; on success it takes the name ``path``, on failure it is removed.

    An earlier output of the same kind is replaced as a whole, and nothing else is (``check_folder``). A link to a
    folder stays, and the folder that it leads to is replaced. Missing folders are made.

    Args:
        names: of the files that the folder will hold, as for ``check_folder``.
    """
    check_folder(path, names)
    path = Path(path).resolve()
    with _beside(path) as scratch:
        scratch.mkdir()
        yield scratch
        for made in scratch.rglob("*"):
            _readable(made)
        check_folder(path, names)  # somebody may have put a file there since
        if not path.exists():
            os.rename(scratch, path)
        elif not _exchange(scratch, path):
            _put_in_place_of(scratch, path)


def _exchange(new: Path, old: Path) -> bool:
    """Exchange the names of two folders at once, so that a kill leaves either of them whole; False if it cannot be.

    Python has no such function. Linux has it on most file systems (renameat2), but not on NFS.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):  # glibc before 2.28
        return False
    if library.renameat2(_HERE, os.fsencode(new.absolute()), _HERE, os.fsencode(old), _EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(error, os.strerror(error), str(old))


def _put_in_place_of(new: Path, old: Path) -> None:
    """As ``_exchange``, in two steps; the earlier folder lies beside its place in between."""
    before = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=old.parent)) / old.name
    os.rename(old, before)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(before, old)
        before.parent.rmdir()
        raise
    shutil.rmtree(before.parent, ignore_errors=True)


def replace_link(path: Path, target: Path) -> None:
    """Make ``path`` a link to a folder, in place of a link that is there; missing folders are made."""
    with _beside(path) as scratch:
        scratch.symlink_to(target, target_is_directory=True)
        os.replace(scratch, path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path in a temporary folder beside ``path``, with its name: writers go by endings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=path.parent))
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _readable(path: Path) -> None:
    if path.is_file() and not path.is_symlink():  # some writers (safetensors) make files that only we can read
        path.chmod(0o666 & ~_UMASK)


def check_file(path: str | os.PathLike[str], first_line: str) -> None:
    """Check, before any work, that the file a user names can be written without loss.

    Args:
        first_line: of every file that the command writes. A file that is there already is replaced if it begins with
            this line, which makes it an earlier output, or if it is empty.

    Raises:
        UserError: ``path`` is a folder, a device, another file or a link to nothing, or lies where no file can be made.
    """
    line = first_line.encode()

    def ours(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(line) + 1) in (line, line + b"\n")

    check_output(path, ours)


def check_output(path: str | os.PathLike[str], ours: Callable[[Path], bool]) -> None:
    """Check, before any work, that the file a user names can be written without loss.

    Args:
        ours: whether a file that is there already is an earlier output, which is replaced. So is an empty file.

    Raises:
        UserError: as ``check_file``.
    """
    path = Path(path)
    _check_link(path)
    _check_file(path)
    if path.exists() and path.stat().st_size and not ours(path):
        raise UserError(
            f"{path} is there already, was not written by this command, and would be lost; name another file, "
            "or move it away first"
        )


def check_folder(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Check, before any work, that a folder can be written, or replaced, without loss.

    Args:
        names: of the files that the folder holds when we have written it, as patterns of fnmatch. The first is the
            one that says whose it is: with it, and with nothing of another name, a folder is an earlier output and is
            replaced. So is an empty folder.

    Raises:
        UserError: ``path`` is a file, another folder or a link to nothing, or lies where no folder can be made.
    """
    path = Path(path)
    _check_link(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, and a folder is to be written there; name another folder")
    check_place(path)
    found = sorted({entry.name for entry in path.iterdir()} - {*_LEFT_BY_DESKTOPS}) if path.exists() else []
    # A folder within is never ours: all that we write are files.
    other = [name for name in found if (path / name).is_dir() or not any(fnmatch(name, known) for known in names)]
    if other or (found and names[0] not in found):
        raise UserError(
            f"{path} holds {(other or found)[0]}, which was not written by this command and would be lost; name a new "
            "folder, or move this one away first"
        )


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise UserError unless a file or folder of the name ``path`` can be made: missing folders on the way will be."""
    for parent in Path(path).absolute().parents:
        if os.path.lexists(parent):
            if not parent.is_dir():
                kind = "a file" if parent.exists() else f"a link to {parent.readlink()}, which does not exist"
                raise UserError(f"{path} cannot be written: {parent} is {kind}, not a folder")
            if not os.access(parent, os.W_OK | os.X_OK):
                raise UserError(f"{path} cannot be written: you may not write in {parent}; name another folder")
            return


def _check_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path} is a link to {path.readlink()}, which does not exist; remove the link, or name another"
        )


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a file is to be written there; name a file in it")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a device or a pipe, and a file is to be written there; name a file")
    check_place(path)


def parse_yaml(text: str) -> Any:
    """The content of dvc.yaml, dvc.lock or a schema; parameters are read by ``params.read``, as DVC reads them.

    Snakemake reads some thousand lines at every start, so libyaml does it where PyYAML has it: in a fifteenth of the
    time that ruamel.yaml takes.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with sorted keys and a final newline, so that equal values are equal bytes."""
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_table(path: str | os.PathLike[str], table: "pa.Table") -> None:
    import pyarrow.parquet as pq

    with replacing(path) as scratch:
        pq.write_table(table, scratch, compression="zstd")


def write_rows(path: Path, schema: "pa.Schema", rows: Iterator[tuple[Any, ...]], at_once: int) -> None:
    """Write rows as they come, so that a table of any length takes the memory of ``at_once`` rows, a row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as scratch, pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
        while batch := list(islice(rows, at_once)):
            values = zip(*batch, strict=True)
            columns = [pa.array(column, kind) for column, kind in zip(values, schema.types, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def read_table(path: str | os.PathLike[str], columns: list[str] | None = None) -> "pa.Table":
    import pyarrow.parquet as pq

    require(path)
    return pq.read_table(path, columns=columns)


def finished_rows(path: Path | None) -> list[dict[str, Any]]:
    """The lines of a file to which a long run adds one JSON object after the other; none if it is yet to be made.

    Raises:
        UserError: ``path`` holds something else, or is no place for a file.
    """
    if path is None:
        return []
    _check_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return [dict(json.loads(line)) for line in path.read_bytes().splitlines()] if path.exists() else []
    except (ValueError, TypeError):
        raise UserError(
            f"{path} is there already and does not hold one JSON object per line; name another file"
        ) from None


def require(path: str | os.PathLike[str]) -> Path:
    """``path`` if it exists; otherwise a message that names the stage which makes it."""
    path = Path(path)
    if not path.exists():
        stage = path.parts[path.parts.index("data") + 1] if "data" in path.parts[:-1] else None
        hint = f"; stage {stage} makes it (snakemake --cores all {stage}, or dvc pull)" if stage else ""
        raise UserError(f"{path} is missing{hint}")
    return path
