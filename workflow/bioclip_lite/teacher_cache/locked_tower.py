"""The locked image tower of a LiT teacher, and its features: computed once, so that tuning reads no photographs.

``data/teacher/features/<teacher>/<shard>.safetensors`` holds "features" float32 (n, D), L2-normalised, in the order of
the shard; its metadata the sample keys, their taxa and the identity of the tower. Training changes neither the weights
of a locked tower nor its batch statistics, so its features stay valid.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bioclip_lite.models import students, teachers
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import require
from bioclip_lite.utils.progress import progress

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import LockedTower

_BATCH = 128


@dataclass(frozen=True)
class Tower:
    """A trained image tower, locked: in eval mode, without gradients."""

    model: nn.Module  # float32 (b, 3, size, size) to (b, width)
    preprocess: dict[str, Any]
    width: int
    identity: str  # SHA-256 over weights, architecture and preprocessing: equal identities give equal features


def tower(chosen: "LockedTower", folder: Path, where: str) -> Tower:
    """The tower that a section ``lit`` names, on the CPU.

    Args:
        chosen: image_tower, image_tower_options, weights, image_size, mean, std.
        folder: data/weights.
        where: the section's name in messages, e.g. "teacher.lit".

    Raises:
        UserError: there are no such weights, or they are not those of the whole tower.
    """
    path = folder / chosen["weights"]
    if not path.is_file():
        raise UserError(f"{where}.weights: {path} does not exist; copy the image tower's safetensors there")
    model = teachers.image_tower(chosen["image_tower"], chosen["image_tower_options"])
    missing = students.load_initial_weights(model, path)
    if missing:
        raise UserError(f"{where}.weights: {path} lacks {len(missing)} tensors of the tower, e.g. {missing[0]}")
    model.requires_grad_(False).eval()
    preprocess = preprocessing(chosen["image_size"], chosen["mean"], chosen["std"])
    with torch.inference_mode():
        width = model(torch.zeros(1, 3, preprocess["size"], preprocess["size"])).shape[1]
    with path.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    identified = [weights, chosen["image_tower"], chosen["image_tower_options"], preprocess]
    identity = hashlib.sha256(json.dumps(identified, sort_keys=True).encode()).hexdigest()
    return Tower(model, preprocess, width, identity)


@torch.inference_mode()
def embed(locked: Tower, tar: Path, path: Path) -> int:
    """Write the features of one shard, of plain views, to ``path``; returns the number of photographs."""
    torch.set_num_threads(machine.cores())
    locked.model.to(machine.device())
    see = machine.within_memory(locked.model)
    images = ShardSet.of(tar)
    features = np.empty((len(images), locked.width), np.float32)
    batches = loading.plain_pixels(images, locked.preprocess, _BATCH)
    stop = 0
    for pixels in progress(batches, -(-len(images) // _BATCH), f"{path.stem}, batches of photographs", _BATCH):
        start, stop = stop, stop + len(pixels)
        features[start:stop] = F.normalize(see(pixels).float(), dim=-1).cpu().numpy()
    metadata = {
        "identity": locked.identity,
        "keys": json.dumps(images.keys),
        "taxon_ids": json.dumps(images.taxon_ids),
    }
    store.write_tensors(path, {"features": features}, metadata)
    return len(images)


class Features:
    """The features of some shards, in the order of their photographs; mapped from the files, not in memory.

    ``keys`` and ``taxon_ids`` list the photographs; ``parts`` are the arrays of the shards, float32 (n, D) each.
    """

    def __init__(self, folder: Path, shards: Sequence[str], identity: str) -> None:
        """Raises UserError if a file is missing, damaged, or not of the tower of this ``identity``."""
        self.keys: list[str] = []
        self.taxon_ids: list[str] = []
        self.parts: list[np.ndarray] = []
        for name in shards:
            path = require(folder / f"{name}.safetensors")
            again = f"make them again: python -m bioclip_lite teacher features/{folder.name}/{name}"
            try:
                arrays, metadata = store.map_tensors(path)
                features, keys, taxa = arrays["features"], metadata["keys"], metadata["taxon_ids"]
            except (UserError, KeyError):
                raise UserError(f"{path} is not a complete file of features; {again}") from None
            if metadata["identity"] != identity:
                raise UserError(
                    f"{path} holds features of another image tower, or of other preprocessing, than the teacher to be "
                    f"tuned has; {again}"
                )
            self.keys += json.loads(keys)
            self.taxon_ids += json.loads(taxa)
            self.parts.append(np.asarray(features))
        self._starts = np.cumsum([0, *map(len, self.parts)])

    def rows(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Features of the photographs of these numbers: float32 (b, D)."""
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        return np.stack([self.parts[s][i - self._starts[s]] for s, i in zip(shards, numbers, strict=True)])
