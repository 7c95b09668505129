"""Read a bundle, and what is known of its taxa, to make another from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table
from bioclip_lite.web import bundle, manifest, parts


@dataclass(frozen=True)
class Parent:
    """A bundle, with its C taxa."""

    folder: Path
    about: dict[str, Any]  # bundle.json
    sha256: str  # of bundle.json
    entries: dict[TaxonPath, dict[str, Any]]  # of its taxa, in the order of the rows
    scales: np.ndarray  # float32 (C,)
    integers: np.ndarray  # int8 (C, D)

    @property
    def weights_sha256(self) -> str:
        return str(self.about["provenance"]["weights_sha256"])

    @property
    def teacher(self) -> str:
        """The identity of the teacher in whose space it answers."""
        return str(self.about["provenance"]["teacher_identity"])

    @property
    def width(self) -> int:
        """D, of embeddings."""
        return int(self.about["embedding"])


class Known(NamedTuple):
    """The leaves that a model has learned or been given."""

    names: Mapping[TaxonPath, Mapping[str, str]]  # common names by language
    photographs: Mapping[TaxonPath, int]  # that it learned from, some standing for 1 where they were not counted


def read_parent(folder: Path) -> Parent:
    """Read a bundle and check each of its files.

    Raises:
        UserError: it is no bundle of this version, or a file is missing or damaged.
    """
    path = folder / bundle.FILE
    if not path.is_file():
        raise UserError(f"{folder} is no bundle: it has no {bundle.FILE}; stage convert makes one in data/convert/tfjs")
    try:
        about = read_json(path)
        if about["format"] not in (bundle.FORMAT, parts.FORMAT):
            raise UserError(
                f"{path} has format {about['format']}; this version reads formats {bundle.FORMAT} and {parts.FORMAT}: "
                "make the bundle again, or take the version of bioclip-lite that made it"
            )
        manifest.check_files(path, about["files"])
        for table in parts.files(about):
            if table not in about["files"]:
                raise ValueError(f"its table {table} is not among the files")
        if about["text"]["columns"] != about["embedding"]:
            raise ValueError(f"its table is for embeddings of {about['text']['columns']} numbers")
        shipped = parts.read(folder, about)
        return Parent(
            folder=folder,
            about=about,
            sha256=bundle.sha256(path.read_bytes()),
            entries={tuple(entry["ranks"]): entry for entry in shipped.entries},
            scales=shipped.scales,
            integers=shipped.integers,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not as stage convert writes it ({error!r}); copy the bundle again") from None


def known_of_run(data: Path) -> Known:
    """The leaves of data/index/taxa.parquet."""
    rows = [row for row in read_table(data / "index" / "taxa.parquet").to_pylist() if row["leaf"]]
    return Known(bundle.names_of(rows), bundle.photographs_of(rows))


def known_of_bundle(parent: Parent) -> Known:
    """The taxa of a bundle that came from elsewhere."""
    return Known(
        {path: entry["common_names"] for path, entry in parent.entries.items()},
        {path: int(not entry.get("zero_shot")) for path, entry in parent.entries.items()},
    )
