"""Which GPUs a job computes on, so that jobs side by side on one computer do not all open the first one.

``take`` makes the choice before CUDA starts, and writes it where CUDA reads it (CUDA_VISIBLE_DEVICES). A taken GPU is a
locked file in a scratch folder; the lock ends with the process, however that ends. A GPU has numbered places: a job
takes the lowest free one, so two jobs share a GPU only where every GPU has a job. How many jobs run at once is for
Snakemake to say (``--resources gpu=2``); SLURM gives a job GPUs of its own and has written the variable.
"""

import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count as count_from
from pathlib import Path

from bioclip_lite.utils.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_TAKEN = "BIOCLIP_LITE_GPUS"  # environment: the GPUs that a job took, for all the processes it starts
_held: list[int] = []  # descriptors of the locked files; not inherited by the programs that this process starts


def visible() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    if (listed := os.environ.get(VISIBLE)) is not None:
        return [name for part in listed.split(",") if (name := part.strip()) not in ("", "-1")]
    devices = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return [str(number) for number in range(len(devices))]


def take(count: int = 1) -> None:
    """Choose ``count`` of the visible GPUs for this process and those it starts, unless that is done.

    Leaves it to others where there is no choice: with ``count`` GPUs or fewer, and within SLURM.
    """
    names = visible()
    if _TAKEN in os.environ or "SLURM_JOB_ID" in os.environ or len(names) <= count:
        return
    os.environ[_TAKEN] = os.environ[VISIBLE] = ",".join(_lock(names, count, _folder()))


def _folder() -> Path:
    """Of the locked files of this user. Raises UserError if somebody else made it."""
    folder = Path(tempfile.gettempdir(), f"bioclip-lite-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if about.st_uid != os.getuid() or not stat.S_ISDIR(about.st_mode):
        raise UserError(
            f"{folder}, where jobs note which GPU they use, is not a folder of yours; remove it, or set "
            f"{VISIBLE}=0 to use the first GPU alone"
        )
    return folder


def _lock(names: Sequence[str], count: int, folder: Path) -> list[str]:
    """Lock the lowest free place of ``count`` of the GPUs, which are returned in the order of ``names``."""
    found: list[str] = []
    for name, descriptor in _free_places(names, folder):
        if name not in found:
            found.append(name)
            _held.append(descriptor)
        else:
            os.close(descriptor)
        if len(found) == count:
            break
    return sorted(found, key=list(names).index)


def _free_places(names: Sequence[str], folder: Path) -> Iterator[tuple[str, int]]:
    """(GPU, descriptor of a file that is now locked) of every free place, the first places of all GPUs first."""
    for place in count_from():
        for name in names:
            descriptor = os.open(folder / f"{name.replace('/', '-')}.{place}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                yield name, descriptor
