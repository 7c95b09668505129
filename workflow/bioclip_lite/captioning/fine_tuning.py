"""Train a small CoCa on the shards and their captions, or fine-tune one."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from open_clip.coca_model import CoCa
from open_clip.loss import CoCaLoss
from safetensors.torch import save_file
from torch import nn

from bioclip_lite.captioning.coca import decode
from bioclip_lite.models import hub, teachers, tokenizers
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.shards import ShardSet, shard_names
from bioclip_lite.texts.captions import Captions, files_of_captions
from bioclip_lite.training import trainer
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_folder, replacing_folder, write_json
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
_BATCH = 64
_OPTIMIZER: dict[str, Any] = {
    **{"accumulation": 1, "precision": "auto", "warm_up": 0.1},
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

    captions: tuple[str, ...]  # text types; each photograph's caption is of one, drawn as for the teacher
    caption_weight: float  # of the caption loss
    contrastive_weight: float  # of the contrastive loss


class Captioning(trainer.Objective):
    """CoCa's losses (arXiv 2205.01917) on splits pretrain and train."""

    name = "captioner"
    options: Options

    def __init__(self, model: CoCa, config: dict[str, Any], preprocess: dict[str, Any], data: Path, options: Options):
        """Move ``model`` to ``machine.device()``; ``config`` is the content of its open_clip_config.json."""
        self.options, self.preprocess = options, preprocess
        self.model = model.to(machine.device())
        self.tokenizer = tokenizers.of_clip(config)
        self.coca_loss = CoCaLoss(options.caption_weight, options.contrastive_weight, pad_id=model.pad_id)
        self.dtype = machine.number_format(options.precision, model)
        self.shards, self.val_shards = _shards(data, ["pretrain", "train"]), _shards(data, ["val"])
        self.images, self.texts = _read(data, self.shards, options.captions)
        self.val_images, self.val_texts = _read(data, self.val_shards, options.captions)
        self.data = data
        self.size = min(options.batch_size, len(self.texts.keys))
        self.steps = len(loading.batches(len(self.texts.keys), self.size))

    def batches(self, epoch: int, step: int) -> Iterator[tuple[int, np.ndarray, torch.Tensor]]:
        """(epoch, rows of the photographs of the batch, float32 pixels)."""
        keys = self.texts.keys
        plan = loading.batches(len(keys), self.size, self.name, "order", epoch)[step:]
        items = [[(i, views.draw(generator(self.name, "view", epoch, keys[i]), _VIEW)) for i in rows] for rows in plan]
        pixels = loading.Views(self.images, self.preprocess).batches(items)
        return ((epoch, rows, x) for rows, x in zip(plan, pixels, strict=True))

    def loss(self, batch: tuple[int, np.ndarray, torch.Tensor]) -> torch.Tensor:
        epoch, rows, pixels = batch
        contrastive, caption = self._losses(pixels, [self.texts.draw(0, epoch, int(i)) for i in rows])
        return contrastive + caption

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """val_caption_loss: nats per token, on the plain views of split val."""
        total, start = 0.0, 0
        for pixels in loading.plain_pixels(self.val_images, self.preprocess, self.options.batch_size):
            texts = [self.val_texts.draw(0, 0, i) for i in range(start, start + len(pixels))]
            _, caption = self._losses(pixels, texts)
            total += caption.item() / self.options.caption_weight * len(pixels)
            start += len(pixels)
        return {"val_caption_loss": total / start}

    def files(self) -> list[Path]:
        names = [*self.shards, *self.val_shards]
        photographs = [self.data / "shard" / f"{name}.tar" for name in names]
        return [*photographs, *files_of_captions(self.data, names, self.options.captions)]

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
            decoded = decode(model, image_tokens, text_tokens[:, : length - 1])
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
    objective = Captioning(model, config, teachers.open_clip_preprocess(config, out), data, options)
    print(f"captioner: {len(objective.texts.keys)} photographs, captions {', '.join(types)}", flush=True)
    history = trainer.fit(objective)
    _save(out, model, config, options, source, history)
    return history


def _save(
    out: Path, model: CoCa, config: dict[str, Any], options: Options, source: Path | None, history: trainer.History
) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    about = {
        "captions": list(options.captions),
        "learning_rate": options.learning_rate,
        "from": source and str(source),
        "history": history,
    }
    with replacing_folder(out, FILES) as scratch:
        write_json(scratch / FILE, about)
        write_json(scratch / hub.CONFIG, config)
        save_file(state, scratch / hub.WEIGHTS[0])


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


def _read(data: Path, shards: Sequence[str], types: Sequence[str]) -> tuple[ShardSet, Captions]:
    images = ShardSet.of(*(data / "shard" / f"{name}.tar" for name in shards))
    texts = Captions(data, shards, types)
    if texts.keys != images.keys:
        raise UserError(f"captioner: {data}/caption and shard list different photographs; run stage caption again")
    return images, texts
