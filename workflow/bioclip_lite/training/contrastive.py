"""The objectives of teachers: both towers of a CLIP model learn, or a text tower is tuned to a locked image tower.

The second is LiT (arXiv 2111.07991). Both minimise ``losses.contrastive`` between the photographs and the captions of
a batch, whichever process embedded them.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from bioclip_lite.metrics import guessing
from bioclip_lite.metrics.topk import places
from bioclip_lite.models import teachers
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.teacher_cache import locked_tower
from bioclip_lite.texts.captions import Captions, files_of_captions
from bioclip_lite.training import accumulation, distributed, losses, shuffling, trainer
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import generator

if TYPE_CHECKING:
    from bioclip_lite.params import jobs

Matches = tuple[torch.Tensor, torch.Tensor]  # tokens of t distinct captions, int64; bool (b, t), see ``matches``

CONTEXT = 64  # tokens; the longest caption of iNaturalist 2021 has 54
_MAX_LOGIT_SCALE = 100.0  # CLIP's bound (arXiv 2103.00020)
_AUGMENTATION: "jobs.AugmentedViews" = {"crop_scale": [0.5, 1.0], "operations": 1, "magnitude": 0.5}


@dataclass(frozen=True, kw_only=True)
class Options(trainer.Options):
    """How a teacher is trained."""

    captions: tuple[str, ...]  # text types and captioners; each photograph's caption is of one, drawn by hash


class ClipTraining(trainer.Objective):
    """Train both towers on photographs under random views."""

    name = "teacher"
    options: Options

    def __init__(
        self,
        model: teachers.Clip,
        tokenizer: teachers.Tokenize,
        preprocess: dict[str, Any],
        data: Path,
        shards: Sequence[str],
        val_shards: Sequence[str],
        options: Options,
        allow_weak: bool,
    ) -> None:
        """Move ``model`` to ``machine.device()``; train on the photographs of ``shards``, see ``shard_names``.

        Args:
            tokenizer: of the model's text tower.
            allow_weak: whether to go on where the teacher hardly knows the photographs of ``val_shards``.

        Raises:
            UserError: there are captions of other photographs.
        """
        self.options, self.data, self.preprocess, self.allow_weak = options, data, preprocess, allow_weak
        self.tokenize = remembering(tokenizer)
        self.model = model.to(machine.device())
        self.shards, self.val_shards = shards, val_shards
        self.images, self.val_images = (
            ShardSet.of(*(data / "shard" / f"{name}.tar" for name in names)) for names in (shards, val_shards)
        )
        self.pairs, self.val_pairs = (
            Pairs(data, names, images.keys, images.taxon_ids, options.captions, data / "shard")
            for names, images in ((shards, self.images), (val_shards, self.val_images))
        )
        self.dtype = machine.number_format(options.precision, model.visual)
        self.size = min(options.batch_size, len(self.pairs.keys))
        self.steps = shuffling.batch_count(len(self.pairs.keys), self.size)
        pictures = loading.Views(self.images, preprocess)
        self.loader = loading.Loader(loading.WithBeside(pictures, self.pairs.drawn(options.seed, self.tokenize)))

    def batches(self, epoch: int, step: int) -> Iterator[tuple[torch.Tensor, Matches]]:
        """(float32 pixels of this process's part of the photographs of a batch, the captions of all of them)."""
        seed, name, keys = self.options.seed, self.name, self.pairs.keys
        shards = self.images.shards
        plan = _order(self, [len(shard) for shard in shards], [[shard.tar] for shard in shards], epoch, step)

        def view(i: int) -> tuple[int, np.ndarray]:
            return i, views.draw(generator(seed, name, "view", epoch, keys[i]), _AUGMENTATION)

        part = distributed.part(self.size)
        made = self.loader.batches(([view(i) for i in rows[part]], (epoch, rows)) for rows in plan)
        return ((loading.normalised(pictures, self.preprocess), captions) for pictures, captions in made)

    def loss(self, batch: tuple[torch.Tensor, Matches]) -> torch.Tensor:
        pixels, (tokens, same) = batch
        parts = self.options.accumulation
        image = accumulation.in_parts(self.model.visual, self._see, pixels, self.size, parts)
        text = _encode_part(self.model, tokens, self.dtype, parts)
        image = distributed.gather(F.normalize(image, dim=-1), self.size)
        text = distributed.gather(F.normalize(text, dim=-1), len(tokens))
        return losses.contrastive(image, text, machine.moved(same), logit_scale(self.model))

    def _see(self, pixels: torch.Tensor) -> torch.Tensor:
        with machine.autocast(self.dtype):
            return self.model.encode_image(pixels).float()

    def measure(self) -> dict[str, float]:
        features = embed(self.model, self.val_images, self.preprocess)
        return zero_shot(self.model, self.tokenize, self.val_pairs, features)

    def judge(self, history: trainer.History) -> None:
        if not self.allow_weak:
            refuse_weak(history, self.options.epochs, self.val_pairs.taxon_ids)

    def files(self) -> list[Path]:
        names = [*self.shards, *self.val_shards]
        photographs = [self.data / "shard" / f"{name}.tar" for name in names]
        return [*photographs, *files_of_captions(self.data, names, self.options.captions)]


class LockedImageTuning(trainer.Objective):
    """Tune the text tower to the features of a locked image tower, which are computed before (``locked_tower``)."""

    name = "teacher"
    options: Options

    def __init__(
        self,
        model: teachers.Clip,
        tokenizer: teachers.Tokenize,
        tower_identity: str,
        features: Path,
        data: Path,
        shards: Sequence[str],
        val_shards: Sequence[str],
        options: Options,
        allow_weak: bool,
    ) -> None:
        """Move ``model`` to ``machine.device()``, in eval mode, and lock its image tower.

        Args:
            model: with the image tower of this identity.
            tokenizer: of the model's text tower.
            features: the folder of that tower's features; read instead of the photographs of ``shards``.
            allow_weak: whether to go on where the teacher hardly knows the photographs of ``val_shards``.

        Raises:
            UserError: features are missing or of another tower, or there are captions of other photographs.
        """
        self.options, self.data, self.folder, self.allow_weak = options, data, features, allow_weak
        self.tokenize = remembering(tokenizer)
        self.model = model.to(machine.device()).eval()
        self.model.visual.requires_grad_(False)
        self.dtype = machine.number_format(options.precision, model.text)
        self.shards, self.val_shards = shards, val_shards
        self.features, self.val_features = (
            locked_tower.Features(features, names, tower_identity) for names in (shards, val_shards)
        )
        self.pairs, self.val_pairs = (
            Pairs(data, names, own.keys, own.taxon_ids, options.captions, features)
            for names, own in ((shards, self.features), (val_shards, self.val_features))
        )
        self.size = min(options.batch_size, len(self.pairs.keys))
        self.steps = shuffling.batch_count(len(self.pairs.keys), self.size)
        self.loader = loading.Loader(FeaturePairs(self.features, self.pairs.drawn(options.seed, self.tokenize)))

    def train_mode(self) -> None:
        """The image tower stays in eval mode: its batch statistics are part of it."""
        self.model.text.train()

    def batches(self, epoch: int, step: int) -> Iterator[tuple[torch.Tensor, Matches]]:
        """(features of the photographs of a batch, float32 (b, D); their captions)."""
        lengths = [len(part["features"]) for part in self.features.parts]
        plan = _order(self, lengths, [[path] for path in self.features.paths], epoch, step)
        return self.loader.batches((epoch, rows) for rows in plan)

    def loss(self, batch: tuple[torch.Tensor, Matches]) -> torch.Tensor:
        features, (tokens, same) = batch
        text = _encode_part(self.model, tokens, self.dtype, self.options.accumulation)
        text = distributed.gather(F.normalize(text, dim=-1), len(tokens))
        return losses.contrastive(machine.moved(features), text, machine.moved(same), logit_scale(self.model))

    def measure(self) -> dict[str, float]:
        rows = range(len(self.val_pairs.keys))[distributed.part(len(self.val_pairs.keys))]
        features = map(self.val_features.rows, loading.chunks(rows))
        return zero_shot(self.model, self.tokenize, self.val_pairs, features)

    def judge(self, history: trainer.History) -> None:
        if not self.allow_weak:
            refuse_weak(history, self.options.epochs, self.val_pairs.taxon_ids)

    def files(self) -> list[Path]:
        names = [*self.shards, *self.val_shards]
        features = [self.folder / f"{name}.safetensors" for name in names]
        return [*features, *files_of_captions(self.data, names, self.options.captions)]


def _order(
    objective: ClipTraining | LockedImageTuning,
    lengths: Sequence[int],
    files: Sequence[Sequence[Path]],
    epoch: int,
    step: int,
) -> Iterator[np.ndarray]:
    """``shuffling.batches`` of an epoch from a step on, of shards of these lengths."""
    options, names = objective.options, (objective.options.seed, objective.name, "order", epoch)
    return shuffling.batches(lengths, objective.size, options.shuffle_buffer, *names, start=step, files=files)


# Photographs and their captions


class Pairs:
    """Photographs of some shards, by key and taxon, and the captions of each."""

    def __init__(
        self,
        data: Path,
        shards: Sequence[str],
        keys: list[str],
        taxon_ids: list[str],
        types: Sequence[str],
        source: Path,
    ) -> None:
        """``source``: where ``keys`` and ``taxon_ids`` come from, for messages.

        Raises:
            UserError: the captions are of other photographs.
        """
        self.keys, self.taxon_ids = keys, taxon_ids
        self.texts = Captions(data, shards, types)
        if self.texts.keys != self.keys:
            raise UserError(
                f"{data / 'caption'} and {source} list different photographs of {shards[0]} to {shards[-1]}; "
                f"run stages shard, caption and teacher again, in this order"
            )

    def draw(self, seed: int, epoch: int, rows: Sequence[int] | np.ndarray) -> tuple[list[str], torch.Tensor]:
        """One caption per photograph: (the t distinct ones, bool (b, t): is it of the photograph's taxon?)."""
        texts = [self.texts.draw(seed, epoch, int(i)) for i in rows]
        return matches(texts, [self.taxon_ids[i] for i in rows])

    def drawn(self, seed: int, tokenize: teachers.Tokenize) -> Callable[[tuple[int, np.ndarray]], Matches]:
        """A function that a loader's workers call: (epoch, rows of photographs) to the captions ``draw`` gives them."""
        return functools.partial(_drawn, self, seed, tokenize)


def _drawn(pairs: Pairs, seed: int, tokenize: teachers.Tokenize, batch: tuple[int, np.ndarray]) -> Matches:
    texts, same = pairs.draw(seed, *batch)
    return tokenize(texts), same


class FeaturePairs(Dataset[tuple[torch.Tensor, Matches]]):
    """Features of photographs, and their captions: item (epoch, rows) is both for the photographs of these numbers."""

    def __init__(self, features: locked_tower.Features, captions: Callable[[tuple[int, np.ndarray]], Matches]) -> None:
        self.features, self.captions = features, captions

    def __getitem__(self, batch: tuple[int, np.ndarray]) -> tuple[torch.Tensor, Matches]:
        return torch.from_numpy(self.features.rows(batch[1])), self.captions(batch)


def matches(texts: Sequence[str], taxa: Sequence[str]) -> tuple[list[str], torch.Tensor]:
    """(distinct texts, bool (b, t)): a text matches all photographs of every taxon it was drawn for."""
    column = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    taxon = {name: number for number, name in enumerate(dict.fromkeys(taxa))}
    drawn_for = torch.zeros(len(taxon), len(column), dtype=torch.bool)
    drawn_for[[taxon[name] for name in taxa], [column[text] for text in texts]] = True
    return list(column), drawn_for[[taxon[name] for name in taxa]]


# Model


def remembering(tokenizer: teachers.Tokenize) -> teachers.Tokenize:
    """Make a tokenizer that gives the same int64 (t, context), and splits a caption that it has met no second time."""
    row = functools.lru_cache(maxsize=65536)(lambda text: tokenizer([text])[0])
    return lambda texts: torch.stack([row(text) for text in texts])


def _encode_part(model: teachers.Clip, tokens: torch.Tensor, dtype: torch.dtype, parts: int) -> torch.Tensor:
    """float32 (n, D) embeddings of this process's part of the captions (t, context), which may be none of them.

    They are computed in ``dtype`` and in ``parts``, see ``accumulation.in_parts``.
    """
    own = tokens[distributed.part(len(tokens))]

    def read(tokens: torch.Tensor) -> torch.Tensor:
        with machine.autocast(dtype):
            return teachers.encode_text(model, tokens).float()

    rows = machine.moved(teachers.cut(model, own if len(own) else tokens[:1]))
    return accumulation.in_parts(model.text, read, rows, len(tokens), parts)[: len(own)]


def logit_scale(model: teachers.Clip) -> torch.Tensor:
    """The exponentiated logit scale, within CLIP's bound."""
    return model.logit_scale.clamp(max=math.log(_MAX_LOGIT_SCALE)).exp()


def settle(model: teachers.Clip) -> None:
    """Make the bound on the logit scale, which training only applies in passing, part of the trained ``model``.

    It ends in eval mode on the CPU.
    """
    model.logit_scale.data.clamp_(max=math.log(_MAX_LOGIT_SCALE))
    model.to("cpu").eval()


# Validation


@torch.inference_mode()
def embed(model: teachers.Clip, images: ShardSet, preprocess: dict[str, Any]) -> Iterator[np.ndarray]:
    """L2-normalised float32 (b, D) embeddings of plain views of this process's ``part`` of photographs, in order."""
    for pixels in loading.plain_pixels(images, preprocess, rows=distributed.part(len(images))):
        yield teachers.embed_images(model, pixels).cpu().numpy()


@torch.inference_mode()
def zero_shot(
    model: teachers.Clip, tokenize: teachers.Tokenize, pairs: Pairs, features: Iterable[np.ndarray]
) -> dict[str, float]:
    """The logit_scale and the ``shares_right`` of a model that was trained here.

    ``features``: L2-normalised embeddings of this process's ``part`` of the photographs, in order, float32 (b, D) each.
    """
    text = teachers.embed_texts(teachers.Teacher(model, tokenize, {}, 0.0, {}), prompts(pairs))
    return {"logit_scale": logit_scale(model).item(), **shares_right(pairs, text, features)}


def prompts(pairs: Pairs) -> list[str]:
    """A caption that names each taxon, of the last text type; taxa in the order of their first photographs."""
    return list(dict(zip(pairs.taxon_ids, pairs.texts.prompts(), strict=True)).values())


def shares_right(pairs: Pairs, text: np.ndarray, features: Iterable[np.ndarray]) -> dict[str, float]:
    """val_top1, val_top5: the shares of photographs whose own caption is the best, or among the five best.

    Args:
        text: L2-normalised float32 (t, D) embeddings of the ``prompts``.
        features: L2-normalised embeddings of this process's ``part`` of the photographs, in order, float32 (b, D) each.
    """
    number = {taxon: n for n, taxon in enumerate(dict.fromkeys(pairs.taxon_ids))}
    truth = np.array([number[taxon] for taxon in pairs.taxon_ids])[distributed.part(len(pairs.taxon_ids))]
    among, start = torch.zeros(2, dtype=torch.float64), 0
    for rows in features:
        place = places(rows @ text.T, truth[start : start + len(rows)])
        among += torch.tensor([(place < k).sum() for k in (1, 5)])
        start += len(rows)
    shares = (distributed.add(among) / len(pairs.taxon_ids)).tolist()
    return dict(zip(("val_top1", "val_top5"), shares, strict=True))


def refuse_weak(history: trainer.History, epochs: int, taxon_ids: Sequence[str]) -> None:
    """Raise UserError if a teacher still hardly knows split val after half of its epochs (``guessing.is_weak``).

    Before that, a good one may answer like a bad one. ``taxon_ids``: of the photographs of split val.
    """
    if 2 * len(history) >= epochs:
        right = round(history[-1]["val_top1"] * len(taxon_ids))
        commonest = max(Counter(taxon_ids).values()) / len(taxon_ids)
        guessing.refuse_weak(f"after epoch {len(history)} of {epochs} this teacher", right, len(taxon_ids), commonest)
