"""``bioclip-lite search SPACE.yaml``: try values of training parameters on split val, and write the best ones.

Each trial is a training of its own, from the index, shards, captions and teacher cache that there are, in a temporary
folder of which nothing stays. Of the photographs only splits train, unlabelled and val are put there: what is chosen
here cannot depend on split test.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna

from bioclip_lite import params as parameters
from bioclip_lite.commands.common import PARAMS, command
from bioclip_lite.params import jobs
from bioclip_lite.photographs.shards import shard_names, split_of
from bioclip_lite.search import results, study
from bioclip_lite.search.space import Space, read_space, with_values
from bioclip_lite.stages import distill, prune, teacher
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.training import trainer
from bioclip_lite.utils import yaml_files
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, require

_SPLITS = ("train", "unlabelled", "val")
# What a training starts from, besides photographs and captions: if it changes, it is another search.
_STARTS = {
    "distill": ("shard/sizes.json", "logits/taxa.safetensors"),
    "prune": ("shard/sizes.json", "logits/taxa.safetensors", "distill/model/model.safetensors"),
    "teacher.lit": ("shard/sizes.json",),
}


def search(file: Path, params_file: Path, data: Path, storage: Path | None) -> None:
    """Take part in the search that ``file`` describes, or begin it, and write what it has found.

    Raises:
        UserError: the space or the parameters are wrong, something would be lost, or no trial was trained to its end.
    """
    storage = storage or data / "search" / file.stem / "journal.jsonl"
    results.check_place(storage)
    params = parameters.load(params_file)
    space = read_space(file, params)
    about = {
        "parameters to search": space.parameters,
        "seed": space.seed,
        "pruner": space.pruner,
        f"parameters of {space.training}": _section(params, space.training),
        "photographs, cache or student": [_sha256(require(data / path)) for path in _STARTS[space.training]],
    }
    trials = study.open_study(storage, space, about, _most_epochs(params, space))
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-search-") as scratch:
        study.participate(trials, space, lambda trial, values: _run(trial, values, params, space, data, Path(scratch)))
    chosen = _values(results.best(trials, space.training), space)
    results.write(trials, space, chosen, yaml_files.read(params_file), storage.parent)
    print(f"search: {results.summary(trials, space.training)}; {storage.parent / results.PAGE} lists all")
    print(f"search: to use the best: cp {storage.parent / results.PARAMS} {params_file}")


def _section(params: dict[str, Any], training: str) -> dict[str, Any]:
    """What the training reads of the parameters."""
    job = {"distill": "student", "prune": None, "teacher.lit": FIRST}[training]
    section = jobs.of_job(params, training.split(".")[0], job)
    return {**section, "finetune": params["distill"]["finetune"]} if training == "distill" else section


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _values(trial: optuna.trial.FrozenTrial, space: Space) -> dict[str, Any]:
    """The values of a trial by path; choices are stored as text."""
    return {
        name: json.loads(trial.params[name]) if isinstance(values, list) else trial.params[name]
        for name, values in space.parameters.items()
    }


def _most_epochs(params: dict[str, Any], space: Space) -> int:
    """The epochs that a trial reports, at most."""

    def most(name: str, default: int) -> int:
        values = space.parameters.get(name, [default])
        return int(max(values) if isinstance(values, list) else values["high"])

    section = params["teacher"]["lit"] if space.training == "teacher.lit" else params[space.training]
    epochs = most(f"{space.training}.epochs", section["epochs"])
    if space.training == "distill":
        epochs += most("distill.finetune.epochs", section["finetune"]["epochs"])
    return max(1, epochs)


# A trial


def _run(
    trial: optuna.Trial, values: dict[str, Any], params: dict[str, Any], space: Space, data: Path, scratch: Path
) -> float:
    """Train with ``values``; val_top1 in the end, by which trials are compared."""
    changed = with_values(params, values)
    parameters.check(changed, f"trial {trial.number}")
    rows: list[dict[str, float]] = []
    last_round = f"prune student-{changed['prune']['steps']}"  # earlier ones are not at the budget yet

    def watch(name: str, history: trainer.History) -> None:
        if space.training == "prune" and name != last_round:
            return
        rows.append(history[-1])
        trial.report(history[-1]["val_top1"], len(rows))
        if trial.should_prune():
            raise optuna.TrialPruned

    with tempfile.TemporaryDirectory(dir=scratch) as folder, trainer.watched(watch):
        inner = Path(folder, "data")
        _link(data, inner, space.training)
        figures = _TRAIN[space.training](changed, inner, scratch)
    if not rows:
        raise UserError(f"no epoch was trained; raise {space.training}.epochs, or lower prune.budget")
    figures = figures or rows[-1]
    trial.set_user_attr(study.FIGURES, figures)
    return figures["val_top1"]


def _link(data: Path, inner: Path, training: str) -> None:
    """Make a data folder with links to what a training reads: of the photographs, the splits of _SPLITS only."""
    for path in _read(data, training):
        link = inner / path.relative_to(data)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def _read(data: Path, training: str) -> Iterator[Path]:
    """What there is; what is missing is named by the training, if it reads it."""
    yield from (data / "index" / "taxa.parquet", data / "shard" / "sizes.json")
    if (data / "weights").is_dir():
        yield data / "weights"
    if training == "prune":
        yield from (data / "distill" / "model").iterdir()
    for folder in ("shard", "caption" if training == "teacher.lit" else "logits"):
        for path in (data / folder).rglob("*.*"):
            # Of shards, only those of _SPLITS; files about all taxa have no number behind a hyphen.
            if path.suffix in (".tar", ".parquet", ".safetensors") and split_of(path.stem) in (*_SPLITS, ""):
                yield path


Figures = dict[str, float] | None  # of the model in the end; None for those of the last epoch


def _distil(changed: dict[str, Any], inner: Path, scratch: Path) -> Figures:
    distill.run(jobs.of_job(changed, "distill", "student"), inner, "student")
    if not changed["distill"]["finetune"]["epochs"]:
        return None
    distill.run(jobs.of_job(changed, "distill", "finetune"), inner, "finetune")
    mixed = read_json(inner / "distill" / "interpolation.json")
    return next(row for row in mixed["curve"] if row["share"] == mixed["share"])


def _prune(changed: dict[str, Any], inner: Path, scratch: Path) -> Figures:
    prune.run(changed["prune"], inner)
    return None


def _tune(changed: dict[str, Any], inner: Path, scratch: Path) -> Figures:
    """Tune a text tower; a weak one ends no trial, since others show whether there is a better one."""
    changed["teacher"]["allow_weak"] = True
    features = _features(changed, inner, scratch)
    (inner / "teacher").mkdir()
    (inner / "teacher" / "features").symlink_to(features)
    teacher.run(jobs.of_job(changed, "teacher", FIRST), inner, FIRST)
    return None


_TRAIN: dict[str, Callable[[dict[str, Any], Path, Path], Figures]] = {
    "distill": _distil,
    "prune": _prune,
    "teacher.lit": _tune,
}


def _features(changed: dict[str, Any], inner: Path, scratch: Path) -> Path:
    """The folder of features of the locked tower: each tower embeds the photographs once for all trials."""
    section = jobs.of_job(changed, "teacher", f"features/{FIRST}/train-00000")
    folder = scratch / hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()[:12]
    if not folder.exists():
        for name in (name for split in ("train", "val") for name in shard_names(inner, split)):
            teacher.run(section, inner, f"features/{FIRST}/{name}")
        (inner / "teacher" / "features").rename(folder)
        (inner / "teacher").rmdir()
    return folder


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "search",
        "Try values of parameters of distill, prune or teacher.lit, from the teacher cache that there is, and write a "
        "table, curves and the parameters of the best trial beside the storage. Split val decides. The same command on "
        "another machine, or again after it was stopped, takes part in the same search.",
    )
    parser.add_argument(
        "space", metavar="SPACE.yaml", type=Path, help="parameters and the values to try; docs/search.md"
    )
    parser.add_argument("--params", type=Path, default=PARAMS, help=f"all other parameters (default: {PARAMS})")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument(
        "--storage",
        type=Path,
        metavar="FILE",
        help="file of the trials, in a folder of its own that all machines share (default: "
        "data/search/SPACE/journal.jsonl)",
    )
    return parser


@command("search")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    search(arguments.space, arguments.params, arguments.data, arguments.storage)
    return 0
