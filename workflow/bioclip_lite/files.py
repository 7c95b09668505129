"""Reading and writing: every output appears complete under its name, or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioclip_lite.errors import UserError

if TYPE_CHECKING:  # Snakemake imports this module at every start, and needs no tables
    import pyarrow as pa

PARTIAL = ".partial-"  # how the names of unfinished outputs begin; a killed job leaves them behind
_UMASK = os.umask(0)
os.umask(_UMASK)  # the only way to read it


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the name ``path``, on failure it is removed.

    The body may create a file or a folder there. An existing folder is replaced as a whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=path.parent))
    try:
        yield scratch / path.name
        for made in (scratch / path.name, *(scratch / path.name).rglob("*")):
            if made.is_file() and not made.is_symlink():  # some writers (safetensors) make files that only we can read
                made.chmod(0o666 & ~_UMASK)
        if path.is_dir() and not path.is_symlink():
            os.rename(path, scratch / "old")
        os.replace(scratch / path.name, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def parse_yaml(text: str) -> Any:
    """What YAML says, read by libyaml where PyYAML has it: Snakemake reads some thousand lines at every start.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with sorted keys and a final newline, so that equal values are equal bytes."""
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    return json.loads(Path(path).read_text())


def write_table(path: str | os.PathLike[str], table: "pa.Table") -> None:
    import pyarrow.parquet as pq

    with replacing(path) as scratch:
        pq.write_table(table, scratch, compression="zstd")


def read_table(path: str | os.PathLike[str], columns: list[str] | None = None) -> "pa.Table":
    import pyarrow.parquet as pq

    require(path)
    return pq.read_table(path, columns=columns)


def require(path: str | os.PathLike[str]) -> Path:
    """``path`` if it exists; otherwise a message that names the stage which makes it."""
    path = Path(path)
    if not path.exists():
        stage = path.parts[path.parts.index("data") + 1] if "data" in path.parts[:-1] else None
        hint = f"; stage {stage} makes it (snakemake --cores all {stage}, or dvc pull)" if stage else ""
        raise UserError(f"{path} is missing{hint}")
    return path
