"""Stream a shard as open_clip_train reads it: a tar of photographs, each with the caption that this pass shows it with.

webdataset runs the command that an address ``pipe:...`` holds whenever it opens the shard (``addresses``). The text
type of each photograph comes from hash(seed, pass, key), see ``Captions.draw``. The pass follows from the checkpoints:
open_clip_train writes one at the end of each epoch, and all of its processes wait for it.
"""

import os
import re
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from bioclip_lite.photographs.shards import ShardSet, add_member, split_of
from bioclip_lite.texts.captions import Captions
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, write_json

PYTHON = "BIOCLIP_LITE_PYTHON"  # environment: the interpreter; addresses hold no path, whose characters have meanings
SETTINGS = "BIOCLIP_LITE_CAPTIONED"  # environment: the file with the ``Settings``
RESAMPLED_DRAWS = 16  # of captions in an epoch, where a shard may come several times


@dataclass(frozen=True)
class Settings:
    """What all commands of a training share, as the JSON file that SETTINGS names."""

    data: str  # folder of all stage outputs
    captions: list[str]  # text types and captioners to draw from
    seed: int
    draws: int  # per epoch: 1, or RESAMPLED_DRAWS
    checkpoints: str  # folder in which open_clip_train writes epoch_1.pt ...
    failed: str  # file for the message of a command that fails: webdataset only leaves out its photographs


def addresses(shards: Iterable[str], draws: int) -> str:
    """The value of ``--train-data`` for shards train-00000 ... of one or several splits.

    The braces, which webdataset expands, keep it short: one argument of a program may have 128 KiB.
    """
    counts: dict[str, int] = {}
    for shard in shards:
        counts[split_of(shard)] = counts.get(split_of(shard), 0) + 1
    draw = f"{{0..{draws - 1}}}" if draws > 1 else "0"
    command = f'pipe:"${PYTHON}" -m {__spec__.name}'
    return "::".join(f"{command} {split}-{{00000..{count - 1:05d}}} {draw}" for split, count in counts.items())


def finished_epochs(checkpoints: Path) -> int:
    """The number of the newest of epoch_1.pt ... in a folder, 0 if there is none."""
    names = (re.fullmatch(r"epoch_(\d+)\.pt", path.name) for path in checkpoints.glob("epoch_*.pt"))
    return max((int(match[1]) for match in names if match), default=0)


def stream(settings: Settings, shard: str, draw: int, out: BinaryIO) -> None:
    """Write the photographs of ``shard``, each with its caption as <key>.txt, to ``out``.

    Args:
        draw: 0 ... settings.draws - 1.

    Raises:
        UserError: the shard or its captions are missing, or belong to different photographs.
    """
    data = Path(settings.data)
    images = ShardSet.of(data / "shard" / f"{shard}.tar")
    texts = Captions(data, [shard], settings.captions)
    if texts.keys != images.keys:
        raise UserError(
            f"{data / 'caption'} and {data / 'shard'} list different photographs of {shard}; run stages shard, caption "
            "and teacher again, in this order"
        )
    number = finished_epochs(Path(settings.checkpoints)) * settings.draws + draw
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for i, key in enumerate(images.keys):
            add_member(tar, f"{key}.jpg", images.jpeg(i))
            add_member(tar, f"{key}.txt", texts.draw(settings.seed, number, i).encode())


def save(settings: Settings, path: Path) -> None:
    """Write the file that SETTINGS is to name."""
    write_json(path, asdict(settings))


def main(arguments: list[str]) -> int:
    """Stream to standard output the shard and the draw that ``arguments`` name; returns the exit status."""
    settings = Settings(**read_json(os.environ[SETTINGS]))
    try:
        stream(settings, arguments[0], int(arguments[1]), sys.stdout.buffer)
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(0)  # the reader has all that it wants; nothing is left to be written
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{arguments[0]}: {type(error).__name__}: {error}"
        write_json(settings.failed, text)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
