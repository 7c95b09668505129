"""Programs that are tried with faults: each stage in small, and commands that write, where they have run before.

They ran with other parameters, so that there is an earlier result to lose.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioclip_lite import __main__ as command_line
from support import fake_bundles, fake_data, fake_evaluation, lessons, thin
from support.photographs import folder_params

DATA = Path("data")


@dataclass(frozen=True)
class Work:
    """A program to disturb; both functions run in its folder."""

    name: str
    prepare: Callable[[], None]
    program: Callable[[], int]


def asked(*arguments: object) -> Callable[[], int]:
    """``python -m bioclip_lite`` with these arguments."""

    def program() -> int:
        sys.argv[1:] = map(str, arguments)
        return command_line.main()

    return program


def stage(name: str, section: Any, *job: str) -> Callable[[], int]:
    return asked(name, *job, "--section", json.dumps(section))


def before(*programs: Callable[[], int]) -> None:
    for program in programs:
        assert program() == 0


# The stages

INDEX = folder_params(DATA / "photographs")
SHARD: dict[str, Any] = {"counts": {"train": 2, "val": 1, "calibration": 1, "test": 1}, "max_side": None}
CAPTION = {"lit_columns": ["common_name", "family"], "templates": {}, "languages": [], "captioners": [], "seed": 0}
EVALUATE = fake_evaluation.PARAMS | {"bootstrap": 10, "examples": 1}


def _index() -> None:
    thin.write_photographs(Path())
    before(stage("index", INDEX | {"seed": 1}))


def _shard() -> None:
    _index()
    before(stage("shard", SHARD | {"counts": SHARD["counts"] | {"train": 3}}))


def _caption() -> None:
    _index()
    before(stage("shard", SHARD), stage("caption", CAPTION | {"lit_columns": ["family"]}))


def _teacher() -> None:
    lessons.make_data(DATA)
    before(stage("teacher", lessons.TEACHER | {"seed": 1}))


def _logits() -> None:
    lessons.make_data(DATA)
    fake_data.save_teacher(DATA)
    for job in ("taxa", "val-00000"):
        before(stage("logits", lessons.VIEWS | {"prompt": "sci", "precision": "int8"}, job))


def _distill() -> None:
    lessons.make_cache(lessons.make_data(DATA))
    before(stage("distill", lessons.DISTILL | {"seed": 1}, "student"))


def _prune() -> None:
    fake_data.make_data(DATA, *fake_data.FASTVIT)
    before(stage("prune", PRUNE | {"seed": 1}))


PRUNE = {
    **{"budget": {"macs": 0.5}, "importance": "embedding", "ranking": "global", "steps": 1, "round_to": 8},
    **{"epochs": 1, "batch_size": 8, "accumulation": 1, "shuffle_buffer": 100_000, "learning_rate": 0.001},
    **{"warm_up": 0.1, "weight_decay": 0.05, "betas": [0.9, 0.98], "eps": 1e-8, "precision": "auto", "seed": 0},
}
QUANTIZE = {"images": 4, "bytes_per_parameter": 1.2, "repair": {"equalise": True, "rounding": "nearest", "bias": True}}


def _quantize() -> None:
    fake_data.make_data(DATA, *fake_data.FASTVIT)
    fake_data.finish_pruning(DATA)
    before(stage("quantize", QUANTIZE | {"images": 3}))


def _evaluate() -> None:
    fake_evaluation.write_data(DATA, species=4, images=3)
    before(stage("evaluate", EVALUATE | {"seed": 1}, "report"))


# Commands


def _control() -> None:
    """A network to ask, and photographs."""
    from bioclip_lite.photographs.shards import ShardSet
    from bioclip_lite.taxa.taxonomy import RANKS
    from bioclip_lite.utils.files import write_json
    from evaluation.test_variants import save_student

    fake_evaluation.write_data(DATA, species=4, images=1, known_to_genus=0, unseen=0, variants=())
    save_student(DATA / "distill" / "control", 4, None)
    about = {"calibration": {"temperature": 2.0}, "back_off": {"thresholds": dict.fromkeys(RANKS)}}
    write_json(DATA / "evaluate" / "metrics.json", {"variants": {"control": about}})
    shards = ShardSet(DATA, "test")
    Path("photos").mkdir()
    for number, key in enumerate(shards.keys):
        Path(f"photos/{key}.jpg").write_bytes(shards.jpeg(number))


def _predict(*form: str) -> Callable[[], None]:
    def prepare() -> None:
        _control()
        before(asked("predict", "photos", "--variant", "control", *form, "--k", "2"))

    return prepare


def predict(*form: str) -> Callable[[], int]:
    return asked("predict", "photos", "--variant", "control", *form)


def _export() -> None:
    from bioclip_lite.utils.files import write_json

    lessons.make_cache(lessons.make_data(DATA))
    about = {"name": "small", "identity": "teacher-a", "licence": "mit"}
    write_json(DATA / "teacher" / "model" / "teacher.json", about | {"name": "earlier"})
    write_json(DATA / "teacher" / "model" / "preprocess.json", {"size": 32})
    before(asked("export-cache", "cache"))
    write_json(DATA / "teacher" / "model" / "teacher.json", about)


def _relist() -> None:
    fake_bundles.make_bundle(Path("bundle"), fake_bundles.make_teacher(DATA))
    Path("list.txt").write_text("Bellis perennis\nMorus nigra\n")
    before(asked("relist", "list.txt", "--bundle", "bundle", "--output", "other"))
    Path("list.txt").write_text("Bellis perennis\nMorus alba\n")


def _preset() -> None:
    Path("workflow/presets").mkdir(parents=True)
    for name in ("birds", "trees"):
        Path(f"workflow/presets/{name}.yaml").write_text(f"index: {name}\n")
        Path(name).mkdir()
    Path("data").mkdir()
    Path("tower.safetensors").write_bytes(b"weights")
    before(asked("preset", "birds", "--photos", "birds"))


CAMTRAP = ("--format", "camtrap-dp", "--utc-offset", "+02:00", "--output", "package")
WORKS = {
    work.name: work
    for work in (
        Work("index", _index, stage("index", INDEX)),
        Work("shard", _shard, stage("shard", SHARD)),
        Work("caption", _caption, stage("caption", CAPTION)),
        Work("teacher", _teacher, stage("teacher", lessons.TEACHER)),
        Work("logits taxa", _logits, stage("logits", lessons.VIEWS, "taxa")),
        Work("logits val-00000", _logits, stage("logits", lessons.VIEWS, "val-00000")),
        Work("distill student", _distill, stage("distill", lessons.DISTILL, "student")),
        Work("prune", _prune, stage("prune", PRUNE)),
        Work("quantize", _quantize, stage("quantize", QUANTIZE)),
        Work("evaluate report", _evaluate, stage("evaluate", EVALUATE, "report")),
        Work("predict, CSV", _predict("--output", "a.csv"), predict("--output", "a.csv", "--log", "log.json")),
        Work(
            "predict, Parquet",
            _predict("--format", "parquet", "--output", "a.parquet"),
            predict("--format", "parquet", "--output", "a.parquet"),
        ),
        Work(
            "predict, Darwin Core",
            _predict("--format", "darwin-core", "--output", "a.zip"),
            predict("--format", "darwin-core", "--output", "a.zip"),
        ),
        Work("predict, Camtrap DP", _predict(*CAMTRAP), predict(*CAMTRAP)),
        Work("predict, XMP in place", _control, predict("--format", "xmp", "--in-place")),
        Work("export-cache", _export, asked("export-cache", "cache")),
        Work("relist", _relist, asked("relist", "list.txt", "--bundle", "bundle", "--output", "other")),
        Work("preset", _preset, asked("preset", "trees", "--photos", "trees", "--weights", "tower.safetensors")),
    )
}


def copy(state: Path, folder: Path) -> None:
    """``folder`` becomes as ``state`` is, times included."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(state, folder, symlinks=True)
