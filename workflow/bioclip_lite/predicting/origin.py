"""Where answers come from: what every output tells of the model, and how files are named relative to one folder."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bioclip_lite.sources import places


class Origin(NamedTuple):
    """The model and the run that answers come from."""

    model: str  # "bioclip-lite 0.1.0 int8"
    sha256: str  # of its weights, or of bundle.json of the web model
    thresholds: dict[str, float | None] | None  # by rank, of backing off
    began: str  # ISO 8601, in UTC
    root: Path  # absolute; the folder that holds all photographs

    @property
    def named(self) -> str:
        """The model and its hash in one text."""
        return f"{self.model} (SHA-256 {self.sha256})"


def root_of(files: Iterable[Path]) -> Path:
    """The lowest folder that holds all of the files, absolute."""
    return Path(os.path.commonpath({os.path.abspath(file.parent) for file in files}))


def below(file: Path, root: Path) -> str:
    """The path of a photograph relative to ``root``, as POSIX text."""
    return places.shown(Path(os.path.abspath(file)).relative_to(root).as_posix())
