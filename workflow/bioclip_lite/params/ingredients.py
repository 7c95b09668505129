"""The files that parameters name: photographs, lists, weights, test sets and captioners."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bioclip_lite.metrics import guessing
from bioclip_lite.teacher_cache.ensemble import FIRST, teacher_sections
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table

LISTS, WEIGHTS, CAPTION_SETS = Path("data/lists"), Path("data/weights"), Path("data/captions")


def check_sources(params: dict[str, Any]) -> None:
    """Check that files and folders exist before any work starts; ``params`` are complete and checked.

    A missing source is accepted where results of it exist, since they are of use without the photographs.

    Raises:
        UserError: one is missing; the message names the parameter and how to get the file.
    """
    if not Path("data/provenance/index.json").exists():
        _check_index(params["index"])
    if not Path("data/provenance/evaluate.json").exists():
        _check_suites(params["evaluate"]["suites"])
    key = params["convert"]["sign_with"]
    if key and not Path(key).expanduser().is_file() and not Path("data/provenance/convert.json").exists():
        raise UserError(
            f"convert.sign_with is {key}, but there is no such file; make a key: openssl genpkey -algorithm ed25519 "
            f"-out {key}"
        )
    for file in params["convert"]["lists"]:
        if not (LISTS / file).is_file():
            raise UserError(f"convert.lists has {file}, but {LISTS / file} does not exist; put it there")
    occurrences = params["convert"]["prior"]
    if occurrences and not (LISTS / occurrences).exists():
        raise UserError(
            f"convert.prior is {occurrences}, but {LISTS / occurrences} does not exist; put your table there"
        )
    for name, file in _weights(params):
        if not (WEIGHTS / file).is_file():
            raise UserError(f"{name} is {file}, but {WEIGHTS / file} does not exist; copy the weights there")
    for captioner in params["caption"]["captioners"]:
        _check_captioner(captioner)


def warnings(params: dict[str, Any]) -> list[str]:
    """What is allowed and yet likely to end badly, as far as stage index has found out what there is."""
    taxa = Path("data/index/taxa.parquet")
    teacher = params["teacher"]
    if teacher["kind"] != "train" or Path("data/teacher/model").exists() or not taxa.exists():
        return []
    splits = teacher["train"]["splits"]
    leaves = [row for row in read_table(taxa, ["leaf", *splits]).to_pylist() if row["leaf"]]
    counts = [sum(row[split] for split in splits) for row in leaves]
    few = guessing.few_photographs(sum(counts), sum(map(bool, counts))) if any(counts) else None
    return [few] if few else []


def _check_index(index: dict[str, Any]) -> None:
    path = Path(index["path"])
    if index["source"] == "folder" and not path.is_dir():
        raise UserError(
            f"index.path is {path}, but there is no such folder; put the photographs and metadata.csv there, "
            f"make a link to them, or fetch them (dvc pull {path})"
        )
    if index["source"] != "synthetic" and not path.exists():
        raise UserError(
            f"index.path is {path}, but this path does not exist; put the files of source {index['source']} there, or "
            "make a link to them"
        )
    there = {"species_list": Path.is_file, "synonyms": Path.is_file, "taxonomy": Path.exists}  # it may be a folder
    for name, found in there.items():
        if index[name] and not found(LISTS / index[name]):
            raise UserError(f"index.{name} is {index[name]}, but {LISTS / index[name]} does not exist; put it there")


def _check_suites(suites: list[dict[str, Any]]) -> None:
    for suite in suites:
        if not Path(suite["path"]).is_dir():
            raise UserError(
                f"evaluate.suites: {suite['name']} is in {suite['path']}, but there is no such folder; put the test "
                f"set there, make a link to it, or fetch it (dvc pull {suite['path']})"
            )


def _weights(params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(Parameter, file in data/weights) of all weights of timm models that are not downloaded."""
    named = {"distill.weights": params["distill"]["weights"]}
    for name, teacher in teacher_sections(params["teacher"]).items():
        if teacher["kind"] == "lit" and isinstance(teacher["lit"]["image_tower"], str):
            section = "teacher" if name == FIRST else f"teacher.ensemble.{name}"
            named[f"{section}.lit.weights"] = teacher["lit"]["weights"]
    for parameter, file in named.items():
        if file and file != "pretrained" and not file.startswith("hf-hub:"):
            yield parameter, file


def _check_captioner(captioner: dict[str, Any]) -> None:
    kind, _, folder = captioner["model"].partition(":")
    if kind == "local-dir" and not ((WEIGHTS / folder).is_dir() or Path(folder).is_dir()):
        raise UserError(
            f"caption.captioners: the model of {captioner['name']} is {captioner['model']}, but there is no folder "
            f"{WEIGHTS / folder}; put it there, or train one: python -m bioclip_lite captioner --out {WEIGHTS / folder}"
        )
    asked = captioner.get("fine_tuning") or {}
    for name, found in {"captions": Path.is_file, "images": Path.is_dir}.items():
        if asked and not found(CAPTION_SETS / asked[name]):
            raise UserError(
                f"caption.captioners: fine_tuning.{name} of {captioner['name']} is {asked[name]}, but there is no "
                f"{'file' if name == 'captions' else 'folder'} {CAPTION_SETS / asked[name]}; put the caption set there"
            )
