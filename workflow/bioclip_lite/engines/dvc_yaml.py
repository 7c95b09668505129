"""Stages, dependencies and outputs as dvc.yaml states them."""

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from bioclip_lite.engines import stage_code
from bioclip_lite.utils import yaml_files
from bioclip_lite.utils.defaults import complete
from bioclip_lite.utils.files import parse_yaml

STAMP = ".snakemake_timestamp"  # where Snakemake keeps the time of a directory() output


def ledger_path(stage: str) -> str:
    return f"data/provenance/{stage}.json"


@cache
def dvc_stages() -> dict[str, dict[str, list[str]]]:
    """Stage -> its ``deps``, ``params`` and ``outs`` (the ledger left out), in the order of dvc.yaml.

    ${...} is filled in. ``params`` are names such as prune. The entries of workflow/defaults.yaml are left out, since
    ``parameter`` gives the value that a job gets, wherever it is set.
    """
    if not Path("dvc.yaml").exists():
        return {}
    stages = {}
    for name, stage in parse_yaml(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
        outs = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]
        if ledger_path(name) in outs:
            stages[name] = {
                "deps": [_filled_in(dep) for dep in stage.get("deps", [])],
                "params": [name for name in stage.get("params", []) if isinstance(name, str)],
                "outs": [_filled_in(out) for out in outs if out != ledger_path(name)],
            }
    return stages


def _filled_in(path: str) -> str:
    return re.sub(r"\$\{([\w.]+)\}", lambda match: str(parameter(match[1])), path)


def parameter(name: str) -> Any:
    """The value of a parameter or section, such as index.path, in params.yaml or by default."""
    value: Any = complete(yaml_files.read(Path("params.yaml")))
    for part in name.split("."):
        value = value[part]
    return value


def inputs(stage: str) -> list[str]:
    """The dependencies of a stage, with the files of its code in place of their fingerprint."""
    fingerprint = stage_code.path(stage).as_posix()
    deps = [dep for dep in dvc_stages()[stage]["deps"] if dep != fingerprint]
    return [*deps, *stage_code.files(stage)]


def sources() -> Iterator[str]:
    """Files that stages need and no stage makes; the folder of the photographs, which may be millions, as a whole."""
    made = [out for stage in dvc_stages().values() for out in stage["outs"]]
    photographs = parameter("index.path")
    for path in sorted({path for stage in dvc_stages() for path in inputs(stage)}):
        if not within(path, made):
            yield from [path] if path == photographs and os.path.exists(path) else files_in(path)


def within(path: str, places: Iterable[str]) -> str | None:
    """The place that is ``path`` or a folder above it."""
    return next((place for place in places if path == place or path.startswith(place + "/")), None)


def files_in(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        for folder, _, names in os.walk(path):
            yield from (os.path.join(folder, name) for name in names if is_content(name))
    elif os.path.exists(path):
        yield path


def is_content(name: str) -> bool:
    """Whether a file of this name in a folder counts as content of the folder."""
    return name not in (STAMP, ".gitignore")
