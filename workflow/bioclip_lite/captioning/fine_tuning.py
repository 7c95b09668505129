"""Train a small CoCa on the shards and their captions, or fine-tune one on these or on a caption set of the user's."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from open_clip.coca_model import CoCa
from open_clip.loss import CoCaLoss
from safetensors.torch import save_file
from torch import nn

from bioclip_lite.captioning import caption_set, coca
from bioclip_lite.models import hub, teachers, tokenizers
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.shards import ShardSet, shard_names
from bioclip_lite.sources.sample import Reject
from bioclip_lite.texts.captions import Captions, files_of_captions
from bioclip_lite.training import checkpoint, shuffling, trainer
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_folder, replacing_folder, write_json, write_table
from bioclip_lite.utils.randomness import generator

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import AugmentedViews

# The small one: photographs of 64 pixels, captions of up to 48 tokens.
_CONTEXT, _WIDTH, _SIZE = 48, 128, 64


_SMALL: dict[str, Any] = {
    "embed_dim": _WIDTH,
    "custom_text": True,
    "vision_cfg": {
        **{"image_size": _SIZE, "patch_size": 8, "layers": 4, "width": _WIDTH, "head_width": 32},
        "output_tokens": True,
    },
    "text_cfg": {
        **{"context_length": _CONTEXT, "vocab_size": 49408, "width": _WIDTH, "heads": 4, "layers": 2},
        **{"embed_cls": True, "output_tokens": True},
    },
    "multimodal_cfg": {"context_length": _CONTEXT, "width": _WIDTH, "heads": 4, "layers": 2},
}
FILE = "captioner.json"  # how it was trained; tells a folder of ours from a CoCa that somebody fetched
FILES = (FILE, hub.CONFIG, hub.WEIGHTS[0])
REJECTS = "rejects.parquet"  # of a caption set
_BATCH = 64
_OPTIMIZER: dict[str, Any] = {
    **{"accumulation": 1, "shuffle_buffer": 100_000, "precision": "auto", "warm_up": 0.1},
    **{"weight_decay": 0.05, "betas": (0.9, 0.98), "eps": 1e-8},
}
# Captions mention colours, so a view keeps them.
_VIEW: "AugmentedViews" = {
    "crop_scale": [0.6, 1.0],
    "operations": 0,
    "magnitude": 0.0,
}


@dataclass(frozen=True, kw_only=True)
class Options(trainer.Options):
    """Options of the training of a captioner."""

    captions: tuple[str, ...]  # what is learned: text types, drawn as for the teacher, or the file of a caption set
    caption_weight: float  # of the caption loss
    contrastive_weight: float  # of the contrastive loss


@dataclass(frozen=True)
class Lessons:
    """Photographs and the captions to learn of them."""

    images: loading.Photographs
    lengths: list[int]  # photographs of each shard
    key: Callable[[int], str]  # of a photograph, by its number
    caption: Callable[[int, int, int], str]  # by seed, epoch and the number of the photograph
    files: list[Path]  # all that was read


class Captioning(trainer.Objective):
    """CoCa's losses (arXiv 2205.01917) on photographs with captions."""

    options: Options

    def __init__(
        self,
        name: str,
        model: CoCa,
        config: dict[str, Any],
        preprocess: dict[str, Any],
        train: Lessons,
        val: Lessons,
        options: Options,
    ) -> None:
        """Move ``model`` to ``machine.device()``; ``config`` is the content of its open_clip_config.json."""
        self.name, self.options, self.preprocess, self.train, self.val = name, options, preprocess, train, val
        self.model = model.to(machine.device())
        self.tokenizer = tokenizers.of_clip(config)
        self.coca_loss = CoCaLoss(options.caption_weight, options.contrastive_weight, pad_id=model.pad_id)
        self.dtype = machine.number_format(options.precision, model)
        self.size = min(options.batch_size, len(train.images))
        self.steps = shuffling.batch_count(len(train.images), self.size)

    def batches(self, epoch: int, step: int) -> Iterator[tuple[int, np.ndarray, torch.Tensor]]:
        """(epoch, rows of the photographs of the batch, float32 pixels)."""
        buffer, names = self.options.shuffle_buffer, (self.options.seed, self.name, "order", epoch)
        plan = list(shuffling.batches(self.train.lengths, self.size, buffer, *names, start=step))
        items = [[(i, self._view(epoch, int(i))) for i in rows] for rows in plan]
        pixels = loading.Views(self.train.images, self.preprocess).batches(items)
        return ((epoch, rows, x) for rows, x in zip(plan, pixels, strict=True))

    def _view(self, epoch: int, i: int) -> np.ndarray:
        return views.draw(generator(self.options.seed, self.name, "view", epoch, self.train.key(i)), _VIEW)

    def loss(self, batch: tuple[int, np.ndarray, torch.Tensor]) -> torch.Tensor:
        epoch, rows, pixels = batch
        seed = self.options.seed
        contrastive, caption = self._losses(pixels, [self.train.caption(seed, epoch, int(i)) for i in rows])
        return contrastive + caption

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """val_caption_loss: nats per token, on the plain views of the photographs that are not learned from."""
        total, start = 0.0, 0
        for pixels in loading.plain_pixels(self.val.images, self.preprocess, self.options.batch_size):
            texts = [self.val.caption(self.options.seed, 0, i) for i in range(start, start + len(pixels))]
            _, caption = self._losses(pixels, texts)
            total += caption.item() / self.options.caption_weight * len(pixels)
            start += len(pixels)
        return {"val_caption_loss": total / start}

    def files(self) -> list[Path]:
        return [*{*self.train.files, *self.val.files}]

    def _losses(self, pixels: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(contrastive, caption) loss of a batch, each times its weight."""
        model, device = self.model, machine.device()
        tokens = self.tokenizer(texts).to(device)
        with machine.autocast(self.dtype):
            image, image_tokens = model._encode_image(pixels)
            text, text_tokens = model._encode_text(tokens)
            # The vocabulary is wide, and behind the end of a caption there is nothing to learn.
            length = int((tokens != model.pad_id).sum(1).max())
            labels = tokens[:, 1:length]
            words = labels != model.pad_id
            decoded = coca.decode(model, image_tokens, text_tokens[:, : length - 1])
            logits = decoded[words] @ model.text_decoder.text_projection
        # One word per row: the mean is the same, and in this shape the loss takes half the time.
        contrastive, caption = self.coca_loss(
            image.float(), text.float(), logits.float()[:, None], labels[words][:, None], model.logit_scale.exp()
        )
        return contrastive, caption


def train(
    data: Path, out: Path, types: Sequence[str], epochs: int, learning_rate: float, source: Path | None = None
) -> trainer.History:
    """Train a small CoCa on splits pretrain and train, or fine-tune the one in ``source``; returns the history.

    ``out`` becomes a folder in open_clip's layout, which caption.captioners can name as ``local-dir:``, with FILE about
    the training. Training from random weights minimises contrastive plus twice the caption loss, fine-tuning the
    caption loss alone, as open_clip's configurations do. The history has one row per epoch: epoch, loss, learning_rate
    and val_caption_loss.

    Raises:
        UserError: ``out`` is something else than an earlier captioner of ours, which is checked before training.
    """
    check_folder(out, FILES)
    machine.deterministic(0, "captioner", "weights")
    if source is None:
        config = {"model_cfg": _SMALL, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
        model = build(_SMALL)
    else:
        published = hub.find(f"local-dir:{source}", None, Path())
        config, model = copy.deepcopy(published.config), hub.load(published)
    options = Options(
        seed=0,
        epochs=epochs,
        batch_size=_BATCH,
        learning_rate=learning_rate,
        **_OPTIMIZER,
        captions=tuple(types),
        caption_weight=2.0 if source is None else 1.0,
        contrastive_weight=1.0 if source is None else 0.0,
    )
    preprocess = teachers.open_clip_preprocess(config, out)
    learned, val = (_from_shards(data, splits, types) for splits in (["pretrain", "train"], ["val"]))
    objective = Captioning("captioner", model, config, preprocess, learned, val, options)
    print(f"captioner: {len(learned.images)} photographs, captions {', '.join(types)}", flush=True)
    history = trainer.fit(objective)
    _save(out, model, config, _about(options, str(source) if source else None, history))
    return history


def fine_tune(chosen: dict[str, Any], data: Path, seed: int) -> trainer.History:
    """Fine-tune the CoCa of an entry of caption.captioners on its caption set; returns the history, as ``train`` does.

    ``coca.model_folder`` becomes a folder in open_clip's layout, with FILE about the training and REJECTS, the entries
    and photographs of the caption set that are not usable. A training that was stopped goes on from its checkpoint.

    Args:
        chosen: name, model, weights, fine_tuning and, where stated, preprocess of the entry.

    Raises:
        UserError: model or caption set are missing or unfit, or the training diverges.
    """
    name, asked, where = chosen["name"], chosen["fine_tuning"], coca.place(chosen)
    sets = data / "captions"
    file = sets / asked["captions"]
    usable, rejects = caption_set.read(file, sets / asked["images"])
    print(f"{where}: {file}, {len(usable)} photographs. {caption_set.summary(rejects)}", flush=True)
    machine.deterministic(seed, "captioner", name)
    published = coca.published(chosen, data / "weights")
    config, model = copy.deepcopy(published.config), hub.load(published, where)
    options = Options(
        seed=seed,
        epochs=asked["epochs"],
        batch_size=asked["batch_size"],
        learning_rate=asked["learning_rate"],
        **_OPTIMIZER,
        captions=(asked["captions"],),
        caption_weight=1.0,
        contrastive_weight=0.0,
    )
    learned, val = (_from_set(part, file) for part in caption_set.split(usable, seed, "captioner", name))
    preprocess = teachers.open_clip_preprocess(config, where)
    objective = Captioning(f"captioner {name}", model, config, preprocess, learned, val, options)
    checkpoint_file = checkpoint.path(data, "caption", name)
    history = trainer.fit(objective, log=trainer.log_folder(data, "caption", name), checkpoint_file=checkpoint_file)
    about = _about(options, published.name, history) | {
        "images": asked["images"],
        "photographs": {"learned from": len(learned.images), "held out": len(val.images)},
        "left out": dict(Counter(reject.reason for reject in rejects)),
        "licence": published.licence,
        "revision": published.revision,
    }
    _save(coca.model_folder(data, name), model, config, about, rejects)
    checkpoint.remove(checkpoint_file)
    return history


def _about(options: Options, source: str | None, history: trainer.History) -> dict[str, Any]:
    """The content of FILE."""
    return {
        "captions": list(options.captions),
        "learning_rate": options.learning_rate,
        "from": source,
        "history": history,
    }


def _save(
    out: Path, model: CoCa, config: dict[str, Any], about: dict[str, Any], rejects: Sequence[Reject] | None = None
) -> None:
    """Write a folder in open_clip's layout; ``rejects`` of a caption set, None without one."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing_folder(out, FILES if rejects is None else (*FILES, REJECTS)) as scratch:
        write_json(scratch / FILE, about)
        write_json(scratch / hub.CONFIG, config)
        save_file(state, scratch / hub.WEIGHTS[0])
        if rejects is not None:
            schema = pa.schema([(name, pa.string()) for name in ("locator", "reason", "detail")])
            write_table(scratch / REJECTS, pa.Table.from_pylist([vars(reject) for reject in rejects], schema))


def build(model_cfg: dict[str, Any]) -> CoCa:
    """A CoCa with random weights; ``model_cfg`` as in ``open_clip_config.json``."""
    model = CoCa(**copy.deepcopy({key: value for key, value in model_cfg.items() if key != "custom_text"}))
    # open_clip leaves this one as it finds the memory.
    nn.init.normal_(model.text_decoder.text_projection, std=model_cfg["multimodal_cfg"]["width"] ** -0.5)
    return model


def _shards(data: Path, splits: Sequence[str]) -> list[str]:
    names = [name for split in splits for name in shard_names(data, split)]
    if not names:
        raise UserError(f"captioner: {data / 'shard'} has no shard of {' or '.join(splits)}; see shard.counts")
    return names


def _from_shards(data: Path, splits: Sequence[str], types: Sequence[str]) -> Lessons:
    """The photographs of some splits, with captions of some text types."""
    shards = _shards(data, splits)
    tars = [data / "shard" / f"{name}.tar" for name in shards]
    images, texts = ShardSet.of(*tars), Captions(data, shards, types)
    if texts.keys != images.keys:
        raise UserError(f"captioner: {data}/caption and shard list different photographs; run stage caption again")
    files = [*tars, *files_of_captions(data, shards, types)]
    return Lessons(images, [*map(len, images.shards)], texts.keys.__getitem__, texts.draw, files)


def _from_set(captions: caption_set.CaptionSet, file: Path) -> Lessons:
    files = [file, *map(captions.path, range(len(captions)))]
    return Lessons(captions, [len(captions)], captions.key, captions.draw, files)
