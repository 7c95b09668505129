"""Stage teacher: a CLIP model that answers photographs and taxon names in one space.

Three kinds: "train" makes a small one from the shards; "lit" keeps a trained image tower as it is and tunes a text
tower to it (LiT, arXiv 2111.07991); "pretrained" takes a published open_clip model. All end as the same folder.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import torch
from torch.nn import functional as F

from bioclip_lite import checkpoint, distributed, hub, losses, models, training, views
from bioclip_lite.errors import UserError
from bioclip_lite.files import write_table
from bioclip_lite.preprocess import preprocessing
from bioclip_lite.randomness import generator
from bioclip_lite.shards import ShardSet, shard_names
from bioclip_lite.texts import Captions

_CONTEXT = 64  # tokens; the longest caption of iNaturalist 2021 has 54
_HEAD_WIDTH = 64  # of the text tower's attention
_MAX_LOGIT_SCALE = 100.0  # CLIP's bound (arXiv 2103.00020)
_AUGMENTATION = {"crop_scale": [0.5, 1.0], "operations": 1, "magnitude": 0.5}
_WEIGHT_DECAY = 0.1


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """Make data/teacher/model and data/teacher/history.parquet. The stage has a single job."""
    if job is not None:
        raise UserError(f"teacher has no job {job!r}; it is one job")
    if params["kind"] == "pretrained" and not distributed.first():
        return  # nothing is trained
    make = {"train": _train, "lit": _lit, "pretrained": _pretrained}[params["kind"]]
    model, config, history, name, licence, revision = make(params, data)
    if not distributed.first():
        return
    folder = data / "teacher" / "model"
    preprocess = models.open_clip_preprocess(config, folder)
    about = models.save_teacher(folder, model, config, preprocess, params["kind"], name, licence, revision)
    write_table(
        data / "teacher" / "history.parquet",
        pa.Table.from_pylist(history) if history else pa.table({"epoch": pa.array([], pa.int64())}),
    )
    checkpoint.remove(_keep(data))
    size = sum(p.numel() for p in model.parameters())
    print(f"{params['kind']} teacher {name}: {size / 1e6:.1f} M parameters, identity {about['identity'][:12]}")


# Model, open_clip config, history of its training, name, licence, revision.
Made = tuple[models.Clip, dict[str, Any], list[dict[str, float]], str, str | None, str | None]


def _pretrained(params: dict[str, Any], data: Path) -> Made:
    chosen = params["pretrained"]
    published = hub.find(chosen["model"], chosen["weights"], data / "weights", chosen["revision"])
    print(f"{published.name}: weights {published.weights}, licence {published.licence or 'not stated'}")
    if hub.research_only(published.licence) and not params["allow_research_only"]:
        raise UserError(
            f"teacher.pretrained.model: the licence of {published.name}, {published.licence}, allows research only, "
            f"and what is distilled from it inherits that; set teacher.allow_research_only to true if it suits you"
        )
    return hub.load(published), published.config, [], published.name, published.licence, published.revision


def _train(params: dict[str, Any], data: Path) -> Made:
    chosen, seed = params["train"], params["seed"]
    config = _config(chosen, chosen["embed_dim"], "", {}, preprocessing(chosen["image_size"]))
    training.deterministic(seed, "teacher", "weights")
    model = models.build_clip(config)
    machine = training.device()
    model.to(machine)
    model.visual.to(memory_format=torch.channels_last)
    preprocess = models.open_clip_preprocess(config, "the teacher")
    train = _Pairs(data, chosen["splits"], params["captions"])
    half = training.autocast_helps(model.visual)
    size = min(chosen["batch_size"], len(train.keys))
    training.check_split(size, "teacher.train.batch_size")

    def epoch_batches(epoch: int, step: int) -> Iterator[Any]:
        plan = training.batches(len(train.keys), size, seed, "teacher", "order", epoch)[step:]

        def view(i: int) -> tuple[int, np.ndarray]:
            return i, views.draw(generator(seed, "teacher", "view", epoch, train.keys[i]), _AUGMENTATION)

        mine = [[view(i) for i in rows[distributed.part(size)]] for rows in plan]
        pixels = training.load(training.Views(train.images, preprocess), mine)
        return ((epoch, rows, x) for rows, x in zip(plan, pixels, strict=True))

    def loss(batch: tuple[int, np.ndarray, torch.Tensor]) -> torch.Tensor:
        epoch, rows, pixels = batch
        texts, same = train.draw(seed, epoch, rows)
        with torch.autocast(machine.type, torch.bfloat16, enabled=half):
            image = model.encode_image(pixels.to(machine, memory_format=torch.channels_last))
            text = _encode_part(model, texts)
        # Every photograph is compared with every caption of the batch, whichever process embedded them.
        image = distributed.gather(F.normalize(image.float(), dim=-1), size)
        text = distributed.gather(F.normalize(text.float(), dim=-1), len(texts))
        return losses.contrastive(image, text, same.to(machine), _logit_scale(model))

    val = _Pairs(data, ["val"], params["captions"])
    measure = _zero_shot(model, val, lambda: _features(model, val.images, preprocess))
    print(f"training on {len(train.keys)} photographs of {len(set(train.taxon_ids))} taxa, {chosen['image_tower']}")
    history = training.fit(
        model,
        epoch_batches,
        loss,
        measure,
        seed=seed,
        steps=len(training.batches(len(train.keys), size)),
        epochs=chosen["epochs"],
        learning_rate=chosen["learning_rate"],
        weight_decay=_WEIGHT_DECAY,
        what="teacher",
        keep=_keep(data),
        recipe=lambda: _recipe(model, params, data, [*chosen["splits"], "val"]),
    )
    _settle(model)
    return model, config, history, f"CLIP {chosen['image_tower']}", None, None


def _lit(params: dict[str, Any], data: Path) -> Made:
    chosen, seed = params["lit"], params["seed"]
    path = data / "weights" / chosen["weights"]
    if not path.is_file():
        raise UserError(f"teacher.lit.weights: {path} does not exist; copy the image tower's safetensors there")
    training.deterministic(seed, "teacher", "weights")
    tower = models.image_tower(chosen["image_tower"], chosen["image_tower_options"])
    missing = models.load_initial_weights(tower, path)
    if missing:
        raise UserError(f"teacher.lit.weights: {path} lacks {len(missing)} tensors of the tower, e.g. {missing[0]}")
    spec = preprocessing(chosen["image_size"], chosen["mean"], chosen["std"])
    with torch.inference_mode():
        width = tower.eval()(torch.zeros(1, 3, spec["size"], spec["size"])).shape[1]
    config = _config(chosen, width, "none", chosen["image_tower_options"], spec)
    model = models.build_clip(config)
    model.visual.trunk = tower
    model.visual.requires_grad_(False)
    machine = training.device()
    model.to(machine).eval()
    train, val = (_Pairs(data, [split], params["captions"]) for split in ("train", "val"))
    print(f"embedding {len(train.keys) + len(val.keys)} photographs with {chosen['image_tower']}")
    # The tower never changes, so its answers are computed once, to a file that is gone when this job ends.
    features, val_features = (_features(model, pairs.images, spec) for pairs in (train, val))

    size = min(chosen["batch_size"], len(train.keys))
    training.check_split(size, "teacher.lit.batch_size")

    def epoch_batches(epoch: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
        rows = training.batches(len(train.keys), size, seed, "teacher", "order", epoch)[step:]
        return ((epoch, batch) for batch in rows)

    def loss(batch: tuple[int, np.ndarray]) -> torch.Tensor:
        epoch, rows = batch
        texts, same = train.draw(seed, epoch, rows)
        text = distributed.gather(F.normalize(_encode_part(model, texts), dim=-1), len(texts))
        image = torch.from_numpy(features[rows]).to(machine)
        return losses.contrastive(image, text, same.to(machine), _logit_scale(model))

    history = training.fit(
        model,
        epoch_batches,
        loss,
        _zero_shot(model, val, lambda: val_features),
        seed=seed,
        steps=len(training.batches(len(train.keys), size)),
        epochs=chosen["epochs"],
        learning_rate=chosen["learning_rate"],
        weight_decay=_WEIGHT_DECAY,
        what="teacher",
        train_mode=model.text.train,  # the image tower stays in eval mode: its batch statistics are part of it
        keep=_keep(data),
        recipe=lambda: _recipe(model, params, data, ["train", "val"]),
    )
    _settle(model)
    return model, config, history, f"LiT {chosen['image_tower']} {chosen['weights']}", None, None


def _keep(data: Path) -> Path:
    return checkpoint.path(data, "teacher", "model")


def _recipe(model: models.Clip, params: dict[str, Any], data: Path, splits: Sequence[str]) -> dict[str, str]:
    names = [name for split in splits for name in shard_names(data, split)]
    files = [data / "shard" / f"{name}.tar" for name in names]
    files += [data / "caption" / f"{name}.parquet" for name in names]
    # A captioner's tables have the names of the others, so they count by their contents.
    described = {
        str(path): hashlib.sha256((data / path).read_bytes()).hexdigest()
        for kind in params["captions"]
        for name in names
        if (data / (path := Path("caption", kind, f"{name}.parquet"))).exists()
    }
    return checkpoint.recipe(model, ["stages.teacher"], files, [params, described])


def _config(
    chosen: dict[str, Any], embed_dim: int, projection: str, options: dict[str, Any], preprocess: dict[str, Any]
) -> dict[str, Any]:
    """An ``open_clip_config.json`` for a timm image tower and a small text transformer."""
    width = chosen["text_width"]
    if width % _HEAD_WIDTH:
        raise UserError(f"teacher.{chosen}: text_width is {width}; it must be a multiple of {_HEAD_WIDTH}")
    vision = {
        "timm_model_name": chosen["image_tower"],
        "timm_pool": "avg",
        "timm_proj": projection,
        "image_size": preprocess["size"],
    }
    text = {
        "context_length": _CONTEXT,
        "vocab_size": 49408,
        "width": width,
        "heads": width // _HEAD_WIDTH,
        "layers": chosen["text_layers"],
    }
    return {
        "model_cfg": {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, "custom_text": True},
        "preprocess_cfg": {
            "size": preprocess["size"],
            "mean": preprocess["mean"],
            "std": preprocess["std"],
            "interpolation": preprocess["interpolation"],
            "resize_mode": preprocess["resize"],
        },
        "bioclip_lite": {"image_tower_options": options},
    }


class _Pairs:
    """Photographs of some splits and the captions of each."""

    def __init__(self, data: Path, splits: Sequence[str], types: Sequence[str]) -> None:
        names = [name for split in splits for name in shard_names(data, split)]
        if not names:
            raise UserError(f"splits {', '.join(splits)} have no shard in {data / 'shard'}; see shard.counts")
        self.images = ShardSet.of(*(data / "shard" / f"{name}.tar" for name in names))
        self.keys, self.taxon_ids = self.images.keys, self.images.taxon_ids
        self.texts = Captions(data, names, types)
        if self.texts.keys != self.keys:
            raise UserError(
                f"{data / 'caption'} and {data / 'shard'} list different photographs of {', '.join(splits)}; "
                f"run stage caption again"
            )

    def draw(self, seed: int, epoch: int, rows: Sequence[int] | np.ndarray) -> tuple[list[str], torch.Tensor]:
        """One caption per photograph: (the t distinct ones, bool (b, t): caption of the photograph's taxon?)."""
        drawn = [self.texts.draw(seed, epoch, int(i)) for i in rows]
        return _matches(drawn, [self.taxon_ids[i] for i in rows])


def _matches(texts: Sequence[str], taxa: Sequence[str]) -> tuple[list[str], torch.Tensor]:
    """(distinct texts, bool (b, t)): a text matches all photographs of every taxon it was drawn for."""
    column = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    taxon = {name: number for number, name in enumerate(dict.fromkeys(taxa))}
    drawn_for = torch.zeros(len(taxon), len(column), dtype=torch.bool)
    drawn_for[[taxon[name] for name in taxa], [column[text] for text in texts]] = True
    return list(column), drawn_for[[taxon[name] for name in taxa]]


@functools.lru_cache(maxsize=65536)
def _token_row(text: str) -> torch.Tensor:
    return _tokenizer()([text])[0]


@functools.cache
def _tokenizer() -> Callable[[list[str]], torch.Tensor]:
    return open_clip.SimpleTokenizer(context_length=_CONTEXT)


def _encode_text(model: models.Clip, texts: Sequence[str]) -> torch.Tensor:
    """(t, D) embeddings, not normalised, of captions cut to the longest of them.

    The text tower looks back only, so the padding behind a caption changes nothing but the time: captions of
    iNaturalist fill about half of the context.
    """
    rows = torch.stack([_token_row(text) for text in texts])
    length = int((rows != 0).sum(1).max())
    mask = model.text.attn_mask
    model.text.attn_mask = mask[:length, :length]
    try:
        return model.encode_text(rows[:, :length].to(mask.device))
    finally:
        model.text.attn_mask = mask


def _encode_part(model: models.Clip, texts: Sequence[str]) -> torch.Tensor:
    """(n, D) embeddings of this process's part of the captions, which may be none of them."""
    part = distributed.part(len(texts))
    own = texts[part]
    return _encode_text(model, own or texts[:1])[: len(own)]


def _logit_scale(model: models.Clip) -> torch.Tensor:
    return model.logit_scale.clamp(max=math.log(_MAX_LOGIT_SCALE)).exp()


def _settle(model: models.Clip) -> None:
    """Make the bound on the logit scale, which training only applies in passing, part of the model."""
    model.logit_scale.data.clamp_(max=math.log(_MAX_LOGIT_SCALE))
    model.to("cpu", memory_format=torch.contiguous_format).eval()


@torch.inference_mode()
def _features(model: models.Clip, images: ShardSet, preprocess: dict[str, Any]) -> np.ndarray:
    """L2-normalised float32 (n, D) embeddings of plain views, mapped to a temporary file.

    Several processes embed a part each, into one file.
    """
    machine = training.device()
    size = preprocess["size"]
    width = models.embed_images(model, torch.zeros(1, 3, size, size, device=machine)).shape[1]
    mine = distributed.part(len(images))
    with distributed.common_file(4 * width * len(images)) as path:
        rows = np.memmap(path, np.float32, "r+", shape=(len(images), width))  # outlives the name of the file
        start = mine.start
        for pixels in training.plain_pixels(images, preprocess, rows=mine):
            part = models.embed_images(model, pixels.to(machine)).cpu().numpy()
            rows[start : start + len(part)] = part
            start += len(part)
        distributed.wait()
    return rows


def _zero_shot(model: models.Clip, val: _Pairs, features: Callable[[], np.ndarray]) -> Callable[[], dict[str, float]]:
    """Measures the share of val photographs whose own caption (of the last text type) is the best of all in val."""
    prompts = dict(zip(val.taxon_ids, val.texts.prompts(), strict=True))
    number = {taxon: n for n, taxon in enumerate(prompts)}
    truth = np.array([number[taxon] for taxon in val.taxon_ids])

    @torch.inference_mode()
    def measure() -> dict[str, float]:
        text = F.normalize(_encode_text(model, list(prompts.values())), dim=-1).cpu().numpy()
        best = (features() @ text.T).argmax(1)
        return {"logit_scale": _logit_scale(model).item(), "val_top1": float((best == truth).mean())}

    return measure
