"""Train a small CoCa on the shards and their captions, or fine-tune one."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from open_clip.coca_model import CoCa
from open_clip.loss import CoCaLoss
from safetensors.torch import save_file
from torch import nn

from bioclip_lite.captioning.coca import decode
from bioclip_lite.models import hub, teachers
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.shards import ShardSet, shard_names
from bioclip_lite.texts.captions import Captions
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
_WEIGHT_DECAY = 0.05
# Captions mention colours, so a view keeps them.
_VIEW: "AugmentedViews" = {
    "crop_scale": [0.6, 1.0],
    "operations": 0,
    "magnitude": 0.0,
}


def train(
    data: Path, out: Path, types: Sequence[str], epochs: int, learning_rate: float, source: Path | None = None
) -> list[dict[str, float]]:
    """Train a small CoCa on splits pretrain and train, or go on with the one in ``source``; returns its history.

    ``out`` becomes a folder in open_clip's layout, which caption.captioners can name as ``local-dir:``, with FILE about
    the training. Training from nothing minimises contrastive plus twice the caption loss, fine-tuning the caption loss
    alone, as open_clip's recipes do. ``types`` are drawn from as for the teacher. The history has one row per epoch:
    epoch, loss, learning_rate and val_caption_loss (nats per token, on the plain views of split "val").

    Raises:
        UserError: ``out`` is something else than an earlier captioner of ours, which is found out before training.
    """
    check_folder(out, FILES)
    machine.deterministic(0, "captioner", "weights")
    if source is None:
        config = {"model_cfg": _SMALL, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
        model = build(_SMALL)
    else:
        published = hub.find(f"local-dir:{source}", None, Path())
        config, model = copy.deepcopy(published.config), hub.load(published)
    tokenizer, preprocess = teachers.tokenizer_of(config), teachers.open_clip_preprocess(config, out)
    device = machine.device()
    model.to(device)
    weigh = CoCaLoss(*((2.0, 1.0) if source is None else (1.0, 0.0)), pad_id=model.pad_id)

    images, texts = _read(data, ["pretrain", "train"], types)
    seen, shown = _read(data, ["val"], types)
    size = min(_BATCH, len(texts.keys))
    half = machine.autocast_helps(model)

    def of_batch(pixels: torch.Tensor, drawn: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(contrastive, caption) loss."""
        tokens = tokenizer(drawn).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            image, image_tokens = model._encode_image(pixels.to(device))
            text, text_tokens = model._encode_text(tokens)
            # The vocabulary is wide, and behind the end of a caption there is nothing to learn.
            length = int((tokens != model.pad_id).sum(1).max())
            labels = tokens[:, 1:length]
            words = labels != model.pad_id
            logits = (
                decode(model, image_tokens, text_tokens[:, : length - 1])[words] @ model.text_decoder.text_projection
            )
        # One word per row: the mean is the same, and in this shape the loss takes half the time.
        contrastive, caption = weigh(
            image.float(), text.float(), logits.float()[:, None], labels[words][:, None], model.logit_scale.exp()
        )
        return contrastive, caption

    def batches(epoch: int, step: int) -> Iterator[Any]:
        plan = loading.batches(len(texts.keys), size, "captioner", "order", epoch)[step:]
        items = [
            [(i, views.draw(generator("captioner", "view", epoch, texts.keys[i]), _VIEW)) for i in rows]
            for rows in plan
        ]
        pixels = loading.load(loading.Views(images, preprocess), items)
        return ((epoch, rows, x) for rows, x in zip(plan, pixels, strict=True))

    def loss(batch: tuple[int, np.ndarray, torch.Tensor]) -> torch.Tensor:
        epoch, rows, pixels = batch
        return sum(of_batch(pixels, [texts.draw(0, epoch, int(i)) for i in rows]), torch.zeros((), device=device))

    @torch.inference_mode()
    def measure() -> dict[str, float]:
        total, start = 0.0, 0
        for pixels in loading.plain_pixels(seen, preprocess, _BATCH):
            drawn = [shown.draw(0, 0, i) for i in range(start, start + len(pixels))]
            total += of_batch(pixels, drawn)[1].item() / weigh.caption_loss_weight * len(pixels)
            start += len(pixels)
        return {"val_caption_loss": total / start}

    print(f"captioner: {len(texts.keys)} photographs, captions {', '.join(types)}", flush=True)
    history = trainer.fit(
        model,
        batches,
        loss,
        measure,
        seed=0,
        steps=len(loading.batches(len(texts.keys), size)),
        epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=_WEIGHT_DECAY,
        what="captioner",
    )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    about = {
        "captions": list(types),
        "learning_rate": learning_rate,
        "from": source and str(source),
        "history": history,
    }
    with replacing_folder(out, FILES) as scratch:
        write_json(scratch / FILE, about)
        write_json(scratch / hub.CONFIG, config)
        save_file(state, scratch / hub.WEIGHTS[0])
    return history


def build(model_cfg: dict[str, Any]) -> CoCa:
    """A CoCa with random weights; ``model_cfg`` as in ``open_clip_config.json``."""
    model = CoCa(**copy.deepcopy({key: value for key, value in model_cfg.items() if key != "custom_text"}))
    # open_clip leaves this one as it finds the memory.
    nn.init.normal_(model.text_decoder.text_projection, std=model_cfg["multimodal_cfg"]["width"] ** -0.5)
    return model


def _read(data: Path, splits: Sequence[str], types: Sequence[str]) -> tuple[ShardSet, Captions]:
    names = [name for split in splits for name in shard_names(data, split)]
    if not names:
        raise UserError(f"captioner: {data / 'shard'} has no shard of {' or '.join(splits)}; see shard.counts")
    images = ShardSet.of(*(data / "shard" / f"{name}.tar" for name in names))
    texts = Captions(data, names, types)
    if texts.keys != images.keys:
        raise UserError(f"captioner: {data}/caption and shard list different photographs; run stage caption again")
    return images, texts
