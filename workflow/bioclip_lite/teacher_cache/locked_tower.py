"""The locked image tower of a LiT teacher, and its features: computed once, so that tuning reads no photographs.

``data/teacher/features/<teacher>/<shard>.safetensors`` holds "features" float32 (n, D), L2-normalised, in the order of
the shard; its metadata the sample keys, their taxa and the identity of the tower. Training changes neither the weights
of a locked tower nor its batch statistics, so its features stay valid.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bioclip_lite.models import hub, students, teachers
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import require
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.tensors import Tensors, write_tensors

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import LockedTower

_BATCH = 128
_COLOURS: tuple[Literal["mean", "std"], ...] = ("mean", "std")


@dataclass(frozen=True)
class Tower:
    """A trained image tower, locked: in eval mode, without gradients."""

    model: nn.Module  # float32 (b, 3, size, size) to (b, width)
    preprocess: dict[str, Any]
    width: int
    identity: str  # SHA-256 over weights, architecture and preprocessing: equal identities give equal features
    title: str
    licence: str | None = None
    revision: str | None = None  # the commit of the hub's repository
    published: hub.Published | None = None  # the open_clip model that the tower is from
    clip: teachers.Clip = None  # that model with its weights


def tower(chosen: "LockedTower", folder: Path, where: str, allow_research_only: bool) -> Tower:
    """The tower that a section ``lit`` names, on the CPU.

    That of an open_clip model ends in the model's projection, so that it answers in the space of the model's own text
    tower; a timm model ends in its pooled features.

    Args:
        chosen: image_tower, image_tower_options, weights, image_size, mean, std.
        folder: data/weights.
        where: the section's name in messages, e.g. "teacher.lit".
        allow_research_only: whether weights may be used whose licence allows nothing else.

    Raises:
        UserError: there are no such weights, they are not those of the whole tower, how their photographs were prepared
            is not known, or their licence is not accepted.
    """
    name = chosen["image_tower"]
    if isinstance(name, str):
        return _of_timm(name, chosen, folder, where, allow_research_only)
    return _of_open_clip(stated(name), folder, f"{where}.image_tower", allow_research_only)


def stated(model: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the name of an open_clip model in a section ``lit``: model, weights, preprocess, revision."""
    return {"weights": None, "preprocess": None, "revision": None, **model}


def _of_timm(name: str, chosen: "LockedTower", folder: Path, where: str, allow_research_only: bool) -> Tower:
    model = teachers.image_tower(name, chosen["image_tower_options"])
    weights = hub.find_weights(chosen["weights"], name, folder, allow_research_only, f"{where}.weights")
    missing = students.load_initial_weights(model, weights.path)
    if missing:
        raise UserError(f"{where}.weights: {weights.path} lacks {len(missing)} tensors of the tower, e.g. {missing[0]}")
    mean, std = (_colour(key, chosen[key], weights, where) for key in _COLOURS)
    resampling = weights.interpolation or "bicubic"
    preprocess = preprocessing(chosen["image_size"], mean, std, interpolation=resampling)
    model.requires_grad_(False).eval()
    identity = _identity(weights.path, name, chosen["image_tower_options"], preprocess)
    about = f"{name} {chosen['weights']}", weights.licence, weights.revision
    return Tower(model, preprocess, _width(model, preprocess), identity, *about)


def _colour(key: Literal["mean", "std"], given: list[float] | None, weights: hub.Weights, where: str) -> list[float]:
    """Mean or standard deviation: what is published about the weights, which may be stated too, or what is stated."""
    published = getattr(weights, key)
    if given is None and published is None:
        raise UserError(
            f"{where}.{key} is null, but nothing is published of {weights.origin}; state the {key} of the pixels that "
            f"it was trained on, from 0 to 1, e.g. [0.5, 0.5, 0.5]"
        )
    if given is not None and published is not None and not np.allclose(given, published, atol=1e-3):
        raise UserError(
            f"{where}.{key} is {given}, but {weights.origin} was trained with {[*published]}; set {where}.{key} to null"
        )
    return list(published if given is None else given)


def _of_open_clip(model: dict[str, Any], folder: Path, where: str, allow_research_only: bool) -> Tower:
    found = hub.locate(model["model"], model["weights"], folder, model["revision"], where, model["preprocess"])
    published = hub.with_custom_text(found)
    if "multimodal_cfg" in published.config["model_cfg"]:
        raise UserError(f"{where}.model: {published.name} is a CoCa, whose image tower is not supported; choose a CLIP")
    if not allow_research_only:
        hub.refuse_research_only(published.name, published.licence, f"{where}.model")
    clip = hub.load(published, where)
    visual = clip.visual.requires_grad_(False).eval()
    preprocess = teachers.open_clip_preprocess(published.config, where)
    identity = _identity(published.weights, published.config["model_cfg"], {}, preprocess)
    about = published.name, published.licence, published.revision
    return Tower(visual, preprocess, _width(visual, preprocess), identity, *about, published=published, clip=clip)


@torch.inference_mode()
def _width(model: nn.Module, preprocess: dict[str, Any]) -> int:
    return int(model(torch.zeros(1, 3, preprocess["size"], preprocess["size"])).shape[1])


def _identity(path: Path, architecture: Any, options: dict[str, Any], preprocess: dict[str, Any]) -> str:
    with path.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    identified = [weights, architecture, options, preprocess]
    return hashlib.sha256(json.dumps(identified, sort_keys=True).encode()).hexdigest()


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
    write_tensors(path, {"features": features}, metadata)
    return len(images)


class Features:
    """The features of some shards, in the order of their photographs; mapped from the files when they are read.

    ``keys`` and ``taxon_ids`` list the photographs; ``parts`` are the shards, with "features" float32 (n, D) each, and
    ``paths`` their files.
    """

    def __init__(self, folder: Path, shards: Sequence[str], identity: str) -> None:
        """Raises UserError if a file is missing, damaged, or not of the tower of this ``identity``."""
        self.keys: list[str] = []
        self.taxon_ids: list[str] = []
        self.parts: list[Tensors] = []
        self.paths = [require(folder / f"{name}.safetensors") for name in shards]
        for path in self.paths:
            again = f"make them again: python -m bioclip_lite teacher features/{folder.name}/{path.stem}"
            try:
                arrays, metadata = store.map_tensors(path)
                _, keys, taxa = arrays["features"], metadata["keys"], metadata["taxon_ids"]
            except (UserError, KeyError):
                raise UserError(f"{path} is not a complete file of features; {again}") from None
            if metadata["identity"] != identity:
                raise UserError(
                    f"{path} holds features of another image tower, or of other preprocessing, than the teacher to be "
                    f"tuned has; {again}"
                )
            self.keys += json.loads(keys)
            self.taxon_ids += json.loads(taxa)
            self.parts.append(arrays)
        self._starts = np.cumsum([0, *(len(part["features"]) for part in self.parts)])

    def rows(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Features of the photographs of these numbers: float32 (b, D)."""
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        return np.stack([self.parts[s]["features"][i - self._starts[s]] for s, i in zip(shards, numbers, strict=True)])
