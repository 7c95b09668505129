"""One process of open_clip_train, with its own command line: ``python -m bioclip_lite.training.open_clip_process``.

Before ``open_clip_train.main`` it settles what no flag does. It ends with the process that started it. It trains on
CPUs with several processes, where DistributedDataParallel takes no ``device_ids``. And it shuffles by ``--seed``, where
webdataset takes the time and the number of the process: two undisturbed trainings on the CPU give the same bytes.
"""

import os
import random
import sys
from collections.abc import Sequence
from typing import Any

import torch
import webdataset
from torch.nn.parallel import DistributedDataParallel

from bioclip_lite.training import distributed


class _OnAnyDevice(DistributedDataParallel):
    """The same, but with ``device_ids`` for a model on a GPU only."""

    def __init__(self, module: torch.nn.Module, device_ids: Sequence[torch.device], **others: Any) -> None:
        super().__init__(module, None if device_ids[0].type == "cpu" else device_ids, **others)


def _seeded_shuffle(seed: int) -> Any:
    """webdataset.shuffle with a generator of its own for each process."""
    plain, rank = webdataset.shuffle, int(os.environ["RANK"])

    def shuffle(bufsize: int, initial: int) -> Any:
        return plain(bufsize=bufsize, initial=initial, rng=random.Random(f"{seed} {rank}"))

    return shuffle


def main(arguments: list[str]) -> int | None:
    """Train with the ``arguments`` of open_clip_train; returns the exit status, None for success."""
    from open_clip_train import main as open_clip_train

    distributed.die_with_parent()
    torch.nn.parallel.DistributedDataParallel = _OnAnyDevice  # type: ignore[assignment,misc]
    webdataset.shuffle = _seeded_shuffle(open_clip_train.parse_args(arguments).seed)
    status: int | None = open_clip_train.main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
