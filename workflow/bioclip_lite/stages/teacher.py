"""Stage teacher: CLIP models that answer photographs and taxon names in one space.

Three kinds: "train" makes a small one from the shards; "lit" keeps a trained image tower as it is and tunes a text
tower to it (LiT, arXiv 2111.07991); "pretrained" takes a published open_clip model. All end as the same folder,
data/teacher/model for the first teacher, data/teacher/<name> for each further one of an ensemble.
"""

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import open_clip
import pyarrow as pa
import torch
from torch.nn import functional as F

from bioclip_lite.models import hub, teachers
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import ShardSet, shard_names
from bioclip_lite.teacher_cache import locked_tower
from bioclip_lite.teacher_cache.ensemble import FIRST, own_parameters, teacher_sections
from bioclip_lite.texts.captions import Captions
from bioclip_lite.training import checkpoint, distributed, losses, memory_format, trainer
from bioclip_lite.utils import job_names, machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_table
from bioclip_lite.utils.randomness import generator

if TYPE_CHECKING:
    from bioclip_lite.params import jobs
    from bioclip_lite.utils import sections

JOBS = ("{teacher}", "features/{teacher}/{shard}")  # job_names; the first teacher is "model"
_CONTEXT = 64  # tokens; the longest caption of iNaturalist 2021 has 54
_HEAD_WIDTH = 64  # of the text tower's attention
_MAX_LOGIT_SCALE = 100.0  # CLIP's bound (arXiv 2103.00020)
_AUGMENTATION: "jobs.AugmentedViews" = {"crop_scale": [0.5, 1.0], "operations": 1, "magnitude": 0.5}
_WEIGHT_DECAY = 0.1


def run(params: Any, data: Path, job: str | None = None) -> None:
    """Make one teacher (job "model" or the name of a further one), or all teachers of the section (None).

    A teacher's history.parquet is in data/teacher for the first teacher, in the folder of the teacher for a further
    one. Before the job of a LiT teacher come the jobs that embed the photographs, one for each shard of splits train
    and val: "features/<teacher>/train-00000".

    Args:
        params: ``sections.Teacher`` for None, ``jobs.LockedFeatures`` for features, else ``jobs.OneTeacher``.
    """
    if job is None:
        for name, teacher in teacher_sections(params).items():
            if teacher["kind"] == "lit":
                shards = _shards(data, ["train", "val"])
                _embed(teacher["lit"], data, name, shards[distributed.rank() :: distributed.size()])
                distributed.wait()
            _make(own_parameters(teacher), data, name)
        return
    form, fields = job_names.parse("teacher", job, JOBS)
    if form == "{teacher}":
        _make(params, data, job)
    elif distributed.first():
        _embed(params["lit"], data, fields["teacher"], [fields["shard"]])


def _where(name: str) -> str:
    """A teacher's section in messages."""
    return "teacher" if name == FIRST else f"teacher.ensemble.{name}"


def _make(params: "jobs.OneTeacher", data: Path, name: str) -> None:
    if params["kind"] == "pretrained" and not distributed.first():
        return  # nothing is trained
    model, config, history, title, licence, revision = _made(params, data, name)
    if not distributed.first():
        return
    folder = data / "teacher" / name
    preprocess = teachers.open_clip_preprocess(config, folder)
    about = teachers.save_teacher(folder, model, config, preprocess, params["kind"], title, licence, revision)
    write_table(
        (folder.parent if name == FIRST else folder) / "history.parquet",
        pa.Table.from_pylist(history) if history else pa.table({"epoch": pa.array([], pa.int64())}),
    )
    checkpoint.remove(_keep(data, name))
    size = sum(p.numel() for p in model.parameters())
    print(f"{params['kind']} teacher {title}: {size / 1e6:.1f} M parameters, identity {about['identity'][:12]}")


# Model, open_clip config, history of its training, title, licence, revision.
Made = tuple[teachers.Clip, dict[str, Any], list[dict[str, float]], str, str | None, str | None]


def _made(params: "jobs.OneTeacher", data: Path, name: str) -> Made:
    if params["kind"] == "train":
        return _train(params, data, name)
    return _lit(params, data, name) if params["kind"] == "lit" else _pretrained(params, data, name)


def _pretrained(params: "jobs.PretrainedTeacher", data: Path, name: str) -> Made:
    chosen, where = params["pretrained"], f"{_where(name)}.pretrained"
    published = hub.find(chosen["model"], chosen["weights"], data / "weights", chosen["revision"], where)
    print(f"{published.name}: weights {published.weights}, licence {published.licence or 'not stated'}")
    if not params["allow_research_only"]:
        hub.refuse_research_only(published.name, published.licence, f"{where}.model")
    return hub.load(published, where), published.config, [], published.name, published.licence, published.revision


def _train(params: "jobs.TrainedTeacher", data: Path, name: str) -> Made:
    chosen, seed, where = params["train"], params["seed"], f"{_where(name)}.train"
    config = _config(chosen, chosen["embed_dim"], "", {}, preprocessing(chosen["image_size"]), where)
    machine.deterministic(seed, "teacher", "weights")
    model = teachers.build_clip(config)
    device = machine.device()
    model.to(device)
    preprocess = teachers.open_clip_preprocess(config, "the teacher")
    train, images = _photographs(data, chosen["splits"], params["captions"])
    half = machine.autocast_helps(model.visual)
    size = min(chosen["batch_size"], len(train.keys))
    trainer.check_split(size, f"{where}.batch_size")

    def epoch_batches(epoch: int, step: int) -> Iterator[Any]:
        plan = loading.batches(len(train.keys), size, seed, "teacher", "order", epoch)[step:]

        def view(i: int) -> tuple[int, np.ndarray]:
            return i, views.draw(generator(seed, "teacher", "view", epoch, train.keys[i]), _AUGMENTATION)

        mine = [[view(i) for i in rows[distributed.part(size)]] for rows in plan]
        pixels = loading.load(loading.Views(images, preprocess), mine)
        return ((epoch, rows, x) for rows, x in zip(plan, pixels, strict=True))

    def loss(batch: tuple[int, np.ndarray, torch.Tensor]) -> torch.Tensor:
        epoch, rows, pixels = batch
        texts, same = train.draw(seed, epoch, rows)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            image = model.encode_image(pixels.to(device))
            text = _encode_part(model, texts)
        # Every photograph is compared with every caption of the batch, whichever process embedded them.
        image = distributed.gather(F.normalize(image.float(), dim=-1), size)
        text = distributed.gather(F.normalize(text.float(), dim=-1), len(texts))
        return losses.contrastive(image, text, same.to(device), _logit_scale(model))

    val, val_images = _photographs(data, ["val"], params["captions"])
    measure = _zero_shot(model, val, lambda: [_features(model, val_images, preprocess)])
    print(f"training on {len(train.keys)} photographs of {len(set(train.taxon_ids))} taxa, {chosen['image_tower']}")
    with memory_format.channels_last(model.visual):
        history = trainer.fit(
            model,
            epoch_batches,
            loss,
            measure,
            seed=seed,
            steps=len(loading.batches(len(train.keys), size)),
            epochs=chosen["epochs"],
            learning_rate=chosen["learning_rate"],
            weight_decay=_WEIGHT_DECAY,
            what="teacher",
            images=size,
            ema=chosen["ema"],
            keep=_keep(data, name),
            log=trainer.log_folder(data, "teacher", name),
            recipe=lambda: _recipe(
                model, params, data, _shards(data, [*chosen["splits"], "val"]), data / "shard", ".tar"
            ),
        )
    _settle(model)
    return model, config, history, f"CLIP {chosen['image_tower']}", None, None


def _embed(chosen: "jobs.LockedTower", data: Path, name: str, shards: Sequence[str]) -> None:
    """Write the features of some shards by the locked image tower of a LiT teacher."""
    tower = locked_tower.tower(chosen, data / "weights", f"{_where(name)}.lit")
    for shard in shards:
        began = time.monotonic()
        path = _features_folder(data, name) / f"{shard}.safetensors"
        count = locked_tower.embed(tower, data / "shard" / f"{shard}.tar", path)
        print(f"{shard}: {count} photographs x {tower.width} numbers, {time.monotonic() - began:.1f} s")


def _features_folder(data: Path, name: str) -> Path:
    return data / "teacher" / "features" / name


def _lit(params: "jobs.LitTeacher", data: Path, name: str) -> Made:
    chosen, seed, where = params["lit"], params["seed"], f"{_where(name)}.lit"
    machine.deterministic(seed, "teacher", "weights")
    tower = locked_tower.tower(chosen, data / "weights", where)
    config = _config(chosen, tower.width, "none", chosen["image_tower_options"], tower.preprocess, where)
    model = teachers.build_clip(config)
    model.visual.trunk = tower.model
    model.visual.requires_grad_(False)
    device = machine.device()
    model.to(device).eval()
    folder = _features_folder(data, name)
    shards = {split: _shards(data, [split]) for split in ("train", "val")}
    features, val_features = (locked_tower.Features(folder, names, tower.identity) for names in shards.values())
    train = _Pairs(data, shards["train"], features.keys, features.taxon_ids, params["captions"], folder)
    val = _Pairs(data, shards["val"], val_features.keys, val_features.taxon_ids, params["captions"], folder)
    size = min(chosen["batch_size"], len(train.keys))
    trainer.check_split(size, f"{where}.batch_size")
    print(f"tuning a text tower to {chosen['image_tower']} on {len(train.keys)} photographs")

    def epoch_batches(epoch: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
        rows = loading.batches(len(train.keys), size, seed, "teacher", "order", epoch)[step:]
        return ((epoch, batch) for batch in rows)

    def loss(batch: tuple[int, np.ndarray]) -> torch.Tensor:
        epoch, rows = batch
        texts, same = train.draw(seed, epoch, rows)
        text = distributed.gather(F.normalize(_encode_part(model, texts), dim=-1), len(texts))
        image = torch.from_numpy(features.rows(rows)).to(device)
        return losses.contrastive(image, text, same.to(device), _logit_scale(model))

    history = trainer.fit(
        model,
        epoch_batches,
        loss,
        _zero_shot(model, val, lambda: val_features.parts),
        seed=seed,
        steps=len(loading.batches(len(train.keys), size)),
        epochs=chosen["epochs"],
        learning_rate=chosen["learning_rate"],
        weight_decay=_WEIGHT_DECAY,
        what="teacher",
        train_mode=model.text.train,  # the image tower stays in eval mode: its batch statistics are part of it
        images=size,
        keep=_keep(data, name),
        log=trainer.log_folder(data, "teacher", name),
        recipe=lambda: _recipe(model, params, data, [*shards["train"], *shards["val"]], folder, ".safetensors"),
    )
    _settle(model)
    return model, config, history, f"LiT {chosen['image_tower']} {chosen['weights']}", None, None


def _keep(data: Path, name: str) -> Path:
    return checkpoint.path(data, "teacher", name)


def _recipe(
    model: teachers.Clip,
    params: "jobs.TrainedTeacher | jobs.LitTeacher",
    data: Path,
    names: Sequence[str],
    folder: Path,
    suffix: str,
) -> dict[str, str]:
    """See ``checkpoint.recipe``; ``folder`` holds what the images of shards ``names`` are, in files of ``suffix``."""
    files = [folder / f"{name}{suffix}" for name in names]
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
    chosen: "sections.TeacherTrain | sections.TeacherLit",
    embed_dim: int,
    projection: str,
    options: dict[str, Any],
    preprocess: dict[str, Any],
    where: str = "teacher.train",
) -> dict[str, Any]:
    """An ``open_clip_config.json`` for a timm image tower and a small text transformer."""
    width = chosen["text_width"]
    if width % _HEAD_WIDTH:
        raise UserError(f"{where}.text_width is {width}; it must be a multiple of {_HEAD_WIDTH}")
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


def _shards(data: Path, splits: Sequence[str]) -> list[str]:
    names = [name for split in splits for name in shard_names(data, split)]
    if not names:
        raise UserError(f"splits {', '.join(splits)} have no shard in {data / 'shard'}; see shard.counts")
    return names


def _photographs(data: Path, splits: Sequence[str], types: Sequence[str]) -> tuple["_Pairs", ShardSet]:
    names = _shards(data, splits)
    images = ShardSet.of(*(data / "shard" / f"{name}.tar" for name in names))
    return _Pairs(data, names, images.keys, images.taxon_ids, types, data / "shard"), images


class _Pairs:
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
        """``source``: where ``keys`` and ``taxon_ids`` come from."""
        self.keys, self.taxon_ids = keys, taxon_ids
        self.texts = Captions(data, shards, types)
        if self.texts.keys != self.keys:
            raise UserError(
                f"{data / 'caption'} and {source} list different photographs of {shards[0]} to {shards[-1]}; "
                f"run stages shard, caption and teacher again, in this order"
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


def _encode_text(model: teachers.Clip, texts: Sequence[str]) -> torch.Tensor:
    """(t, D) embeddings, not normalised, of captions."""
    rows = torch.stack([_token_row(text) for text in texts])
    return teachers.encode_text(model, rows.to(model.logit_scale.device))


def _encode_part(model: teachers.Clip, texts: Sequence[str]) -> torch.Tensor:
    """(n, D) embeddings of this process's part of the captions, which may be none of them."""
    part = distributed.part(len(texts))
    own = texts[part]
    return _encode_text(model, own or texts[:1])[: len(own)]


def _logit_scale(model: teachers.Clip) -> torch.Tensor:
    return model.logit_scale.clamp(max=math.log(_MAX_LOGIT_SCALE)).exp()


def _settle(model: teachers.Clip) -> None:
    """Make the bound on the logit scale, which training only applies in passing, part of the model."""
    model.logit_scale.data.clamp_(max=math.log(_MAX_LOGIT_SCALE))
    model.to("cpu").eval()


@torch.inference_mode()
def _features(model: teachers.Clip, images: ShardSet, preprocess: dict[str, Any]) -> np.ndarray:
    """L2-normalised float32 (n, D) embeddings of plain views, mapped to a temporary file.

    Several processes embed a part each, into one file.
    """
    device = machine.device()
    size = preprocess["size"]
    width = teachers.embed_images(model, torch.zeros(1, 3, size, size, device=device)).shape[1]
    mine = distributed.part(len(images))
    with distributed.common_file(4 * width * len(images)) as path:
        rows = np.memmap(path, np.float32, "r+", shape=(len(images), width))  # outlives the name of the file
        start = mine.start
        for pixels in loading.plain_pixels(images, preprocess, rows=mine):
            part = teachers.embed_images(model, pixels.to(device)).cpu().numpy()
            rows[start : start + len(part)] = part
            start += len(part)
        distributed.wait()
    return rows


def _zero_shot(
    model: teachers.Clip, val: _Pairs, features: Callable[[], Iterable[np.ndarray]]
) -> Callable[[], dict[str, float]]:
    """Measures the share of val photographs whose own caption (of the last text type) is the best of all in val.

    ``features`` gives their L2-normalised embeddings, float32 (n, D), in parts.
    """
    prompts = dict(zip(val.taxon_ids, val.texts.prompts(), strict=True))
    number = {taxon: n for n, taxon in enumerate(prompts)}
    truth = np.array([number[taxon] for taxon in val.taxon_ids])

    @torch.inference_mode()
    def measure() -> dict[str, float]:
        text = F.normalize(_encode_text(model, list(prompts.values())), dim=-1).cpu().numpy()
        best = np.concatenate([(part @ text.T).argmax(1) for part in features()])
        return {"logit_scale": _logit_scale(model).item(), "val_top1": float((best == truth).mean())}

    return measure
