"""Stage teacher: CLIP models that embed photographs and taxon names in one space.

Four kinds: "train" trains a small one on the shards; "lit" locks a trained image tower and tunes a text tower to it
(LiT, arXiv 2111.07991); "open_clip" trains any open_clip model by open_clip_train; "pretrained" takes a published one.
All end as the same folder, data/teacher/model for the first teacher, data/teacher/<name> for each further one of an
ensemble.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from bioclip_lite.metrics import guessing
from bioclip_lite.models import hub, initial_clip, teachers, tokenizers
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.teacher_cache import locked_tower, tuned_tower
from bioclip_lite.teacher_cache.ensemble import FIRST, own_parameters, teacher_sections
from bioclip_lite.training import checkpoint, contrastive, distributed, memory_format, open_clip_training, trainer
from bioclip_lite.utils import job_names, machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_json, write_table

if TYPE_CHECKING:
    from bioclip_lite.params import jobs
    from bioclip_lite.utils import sections

JOBS = ("{teacher}", "features/{teacher}/{shard}", "initial/{teacher}")  # job_names; the first teacher is "model"
_HEAD_WIDTH = 64  # of the text tower's attention


class Made(NamedTuple):
    """A teacher that is ready to be saved."""

    model: teachers.Clip
    config: dict[str, Any]  # open_clip_config.json
    history: trainer.History  # of its training, if it was trained here
    title: str
    licence: str | None = None
    revision: str | None = None
    tokenizer: Path | None = None  # folder of a tokenizer other than CLIP's


def run(params: Any, data: Path, job: str | None = None) -> None:
    """Make one teacher (job "model" or the name of a further one), or all teachers of the section (None).

    A teacher's history.parquet is in data/teacher for the first teacher, in the folder of the teacher for a further
    one. Before the job of a LiT teacher come the jobs that embed the photographs, one for each shard of splits train
    and val: "features/<teacher>/train-00000". Before that of kind open_clip comes the job that finds its initial
    weights, "initial/<teacher>", which needs no photographs and so fails early.

    Args:
        params: ``sections.Teacher`` for None, ``jobs.LockedFeatures`` for features, ``jobs.InitialTeacher`` for initial
            weights, else ``jobs.OneTeacher``.
    """
    if job is None:
        for name, teacher in teacher_sections(params).items():
            own = own_parameters(teacher)
            if own["kind"] == "lit":
                shards = _shards(data, ["train", "val"])
                _embed(own, data, name, shards[distributed.rank() :: distributed.size()])
                distributed.wait()
            if own["kind"] == "open_clip" and distributed.first():
                _describe_initial(own["open_clip"], own["allow_research_only"], data, name)
            _make(own, data, name)
        return
    form, fields = job_names.parse("teacher", job, JOBS)
    if form == "{teacher}":
        _make(params, data, job)
    elif distributed.first():
        if form == "initial/{teacher}":
            _describe_initial(params["open_clip"], params["allow_research_only"], data, fields["teacher"])
        else:
            _embed(params, data, fields["teacher"], [fields["shard"]])


def _where(name: str) -> str:
    """A teacher's section in messages."""
    return "teacher" if name == FIRST else f"teacher.ensemble.{name}"


def _make(section: "jobs.OneTeacher", data: Path, name: str) -> None:
    if section["kind"] == "pretrained":
        if not distributed.first():
            return  # nothing is trained
        made = _pretrained(section["pretrained"], section["allow_research_only"], data, name)
    elif section["kind"] == "train":
        made = _train(section, data, name)
    elif section["kind"] == "open_clip":
        made = _open_clip(section, data, name)
    else:
        made = _lit(section, data, name)
    if not distributed.first():
        return
    folder = data / "teacher" / name
    preprocess = teachers.open_clip_preprocess(made.config, folder)
    tokenizer = tokenizers.build(tokenizers.describe(made.config, made.tokenizer))
    teachers.check_sound(made.model, tokenizer, preprocess["size"], f"{_where(name)}: {made.title}")
    about = teachers.save_teacher(
        folder,
        made.model,
        made.config,
        preprocess,
        section["kind"],
        made.title,
        made.licence,
        made.revision,
        made.tokenizer,
        section["allow_weak"],
    )
    write_table(
        (folder.parent if name == FIRST else folder) / "history.parquet",
        pa.Table.from_pylist(made.history) if made.history else pa.table({"epoch": pa.array([], pa.int64())}),
    )
    checkpoint.remove(_checkpoint(data, name))
    size = sum(p.numel() for p in made.model.parameters())
    print(f"{section['kind']} teacher {made.title}: {size / 1e6:.1f} M parameters, identity {about['identity'][:12]}")


def _pretrained(chosen: "sections.TeacherPretrained", allow_research_only: bool, data: Path, name: str) -> Made:
    where = f"{_where(name)}.pretrained"
    published = hub.find(
        chosen["model"], chosen["weights"], data / "weights", chosen["revision"], where, chosen["preprocess"]
    )
    print(f"{published.name}: weights {published.weights}, licence {published.licence or 'not stated'}")
    if not allow_research_only:
        hub.refuse_research_only(published.name, published.licence, f"{where}.model")
    model = hub.load(published, where)
    about = published.name, published.licence, published.revision, published.tokenizer
    return Made(model, published.config, [], *about)


def _train(section: "jobs.TrainedTeacher", data: Path, name: str) -> Made:
    chosen, captions, seed, where = section["train"], section["captions"], section["seed"], f"{_where(name)}.train"
    config = _config(chosen, chosen["embed_dim"], "", {}, preprocessing(chosen["image_size"]), where)
    machine.deterministic(seed, "teacher", "weights")
    model = teachers.build_clip(config)
    objective = contrastive.ClipTraining(
        model,
        tokenizers.of_clip(config),
        teachers.open_clip_preprocess(config, "the teacher"),
        data,
        _shards(data, chosen["splits"]),
        _shards(data, ["val"]),
        _options(chosen, captions, seed, chosen["ema"]),
        section["allow_weak"],
    )
    trainer.check_split(objective.size, chosen["accumulation"], where)
    photographs, taxa = len(objective.pairs.keys), len(set(objective.pairs.taxon_ids))
    print(f"training on {photographs} photographs of {taxa} taxa, {chosen['image_tower']}")
    if distributed.first() and (few := guessing.few_photographs(photographs, taxa)):
        print(f"warning: {few}", flush=True)
    with memory_format.channels_last(model.visual):
        history = _fit(objective, data, name)
    contrastive.settle(model)
    return Made(model, config, history, f"CLIP {chosen['image_tower']}")


def _lit(section: "jobs.LitTeacher", data: Path, name: str) -> Made:
    chosen, captions, seed, where = section["lit"], section["captions"], section["seed"], f"{_where(name)}.lit"
    machine.deterministic(seed, "teacher", "weights")
    accepted, folder = section["allow_research_only"], data / "weights"
    tower = locked_tower.tower(chosen, folder, where, accepted)
    plain = _config(chosen, tower.width, "none", chosen["image_tower_options"], tower.preprocess, where)
    made = tuned_tower.untuned(tower, chosen["text_tower"], plain, folder, where, accepted)
    objective = contrastive.LockedImageTuning(
        made.model,
        tokenizers.build(tokenizers.describe(made.config, made.tokenizer)),
        tower.identity,
        _features_folder(data, name),
        data,
        _shards(data, ["train"]),
        _shards(data, ["val"]),
        _options(chosen, captions, seed, 0.0),
        section["allow_weak"],
    )
    trainer.check_split(objective.size, chosen["accumulation"], where)
    print(f"tuning a text tower to the image tower {tower.title} on {len(objective.pairs.keys)} photographs")
    history = _fit(objective, data, name)
    contrastive.settle(made.model)
    return Made(made.model, made.config, history, f"LiT {made.title}", made.licence, tower.revision, made.tokenizer)


def _open_clip(section: "jobs.OpenClipTeacher", data: Path, name: str) -> Made:
    chosen, where = section["open_clip"], f"{_where(name)}.open_clip"
    initial = _initial(chosen, section["allow_research_only"], data, name)
    training = open_clip_training.Training(
        chosen,
        section["seed"],
        section["captions"],
        data,
        _shards(data, chosen["splits"]),
        _checkpoint(data, name).parent,
    )
    last, history = open_clip_training.train(training, initial, where)
    model = hub.load(hub.Published(initial.name, initial.config, last, None), where)
    figures, taxon_ids = open_clip_training.measure(model, initial.config, training, _shards(data, ["val"]))
    print(f"on split val: {', '.join(f'{figure} {value:.4g}' for figure, value in figures.items())}")
    rows: Any = [{**row, **(figures if row is history[-1] else dict.fromkeys(figures))} for row in history]
    if not section["allow_weak"]:
        contrastive.refuse_weak(rows, chosen["epochs"], taxon_ids)
    contrastive.settle(model)
    about = initial.about()
    return Made(model, initial.config, rows, f"open_clip {initial.name}", about["licence"], about["revision"])


def _initial(
    chosen: "jobs.InitialWeights", allow_research_only: bool, data: Path, name: str
) -> initial_clip.InitialClip:
    """The model that kind open_clip begins with; UserError where it cannot be had, or not be used."""
    where = f"{_where(name)}.open_clip"
    initial = initial_clip.find(chosen, data / "weights", where)
    about = initial.about()
    print(f"{initial.name}: licence {about['licence'] or 'not stated'}")
    if not allow_research_only:
        hub.refuse_research_only(initial.name, about["licence"], f"{where}.pretrained")
    return initial


def _describe_initial(chosen: "jobs.InitialWeights", allow_research_only: bool, data: Path, name: str) -> None:
    """Write which weights a training begins with to data/teacher/initial/<name>.json."""
    about = _initial(chosen, allow_research_only, data, name).about()
    write_json(data / "teacher" / "initial" / f"{name}.json", about)


def _options(
    chosen: "sections.TeacherTrain | sections.TeacherLit", captions: Sequence[str], seed: int, ema: float
) -> contrastive.Options:
    return contrastive.Options(seed=seed, ema=ema, captions=tuple(captions), **trainer.chosen(chosen))


def _fit(objective: trainer.Objective, data: Path, name: str) -> trainer.History:
    log = trainer.log_folder(data, "teacher", name)
    return trainer.fit(objective, log=log, checkpoint_file=_checkpoint(data, name))


def _checkpoint(data: Path, name: str) -> Path:
    return checkpoint.path(data, "teacher", name)


def _embed(section: "jobs.LockedFeatures", data: Path, name: str, shards: Sequence[str]) -> None:
    """Write the features of some shards by the locked image tower of a LiT teacher."""
    accepted = section["allow_research_only"]
    tower = locked_tower.tower(section["lit"], data / "weights", f"{_where(name)}.lit", accepted)
    for shard in shards:
        began = time.monotonic()
        path = _features_folder(data, name) / f"{shard}.safetensors"
        count = locked_tower.embed(tower, data / "shard" / f"{shard}.tar", path)
        print(f"{shard}: {count} photographs x {tower.width} numbers, {time.monotonic() - began:.1f} s")


def _features_folder(data: Path, name: str) -> Path:
    return data / "teacher" / "features" / name


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
        "context_length": contrastive.CONTEXT,
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
