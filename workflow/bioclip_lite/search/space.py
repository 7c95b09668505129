"""The space of a search: which parameters of one training are varied, and the values that each may take.

SPACE.yaml names parameters by their paths in params.yaml::

    trials: 20
    parameters:
      distill.learning_rate: {low: 0.0003, high: 0.03, log: true}
      distill.batch_size: [16, 32, 64]
"""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from optuna import Trial

from bioclip_lite.params import checks
from bioclip_lite.utils import yaml_files
from bioclip_lite.utils.errors import UserError

TRAININGS = ("distill", "prune", "teacher.lit")
PRUNERS = ("median", "hyperband", "none")
_DEFAULTS = {"trials": 20, "seed": 0, "pruner": "median"}
_WANTED = (
    "it must be a list of at least two different values, or {low: NUMBER, high: NUMBER}, with log: true to draw on a "
    "logarithmic scale and int: true for whole numbers"
)

Values = list[Any] | dict[str, Any]  # choices, or a range


class Space(NamedTuple):
    """What a search varies."""

    training: str  # one of TRAININGS
    trials: int  # in all, over all participants
    seed: int
    pruner: str  # one of PRUNERS; ends trials that are worse than others at the same epoch
    parameters: dict[str, Values]  # by path in params.yaml


def read_space(path: Path, params: dict[str, Any]) -> Space:
    """The space that a file describes.

    Args:
        params: complete and checked; the values of all parameters that are not searched.

    Raises:
        UserError: the file is none of this form, or names an unknown parameter, one of another stage, or a value that
            the schema of parameters refuses.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; it must say which parameters to search")
    given = {**_DEFAULTS, **yaml_files.read(path)}
    lines = [*_wrong_settings(given)]
    if not lines:
        lines = [line for name, values in given["parameters"].items() for line in _wrong_values(name, values)]
    if not lines:
        lines = [*_wrong_stages(list(given["parameters"]), params)]
    if not lines:
        probes = [(name, value) for name, values in given["parameters"].items() for value in _probes(values)]
        lines = sorted({line for name, value in probes for line in _refused(params, name, value)})
    if lines:
        raise UserError(f"{path}: " + ("\n" + " " * len(str(path)) + "  ").join(lines))
    return Space(training=str(_training(next(iter(given["parameters"])))), **given)


def _wrong_settings(given: dict[str, Any]) -> Iterator[str]:
    if unknown := sorted({str(name) for name in given} - {*Space._fields} | {"training"} & {*given}):
        known = ", ".join(name for name in Space._fields if name != "training")
        yield f"the file has unknown {', '.join(unknown)}; known are {known}"
    for name, least in (("trials", 1), ("seed", 0)):
        if type(given[name]) is not int or given[name] < least:
            yield f"{name} is {given[name]!r}; it must be a whole number, at least {least}"
    if given["pruner"] not in PRUNERS:
        yield f"pruner is {given['pruner']!r}; it must be one of {', '.join(PRUNERS)}"
    if not isinstance(given.get("parameters"), dict) or not given["parameters"]:
        yield "parameters must name what to search, e.g. distill.learning_rate: {low: 0.0003, high: 0.03, log: true}"


def _wrong_values(name: str, values: Any) -> Iterator[str]:
    if isinstance(values, list):
        if len({json.dumps(value, sort_keys=True, default=str) for value in values}) < max(2, len(values)):
            yield f"{name} is {values!r}; {_WANTED}"
    elif not isinstance(values, dict) or not {"low", "high"} <= {*values} <= {"low", "high", "log", "int"}:
        yield f"{name} is {values!r}; {_WANTED}"
    elif not all(type(values[end]) in (int, float) for end in ("low", "high")) or values["low"] >= values["high"]:
        yield f"{name} is {values!r}; low and high must be numbers, the smaller one first"
    elif not all(isinstance(values.get(flag, False), bool) for flag in ("log", "int")):
        yield f"{name} is {values!r}; log and int must be true or false"
    elif values.get("log") and values["low"] <= 0:
        yield f"{name} is {values!r}; a logarithmic range must begin above 0"
    elif values.get("int") and not all(type(values[end]) is int for end in ("low", "high")):
        yield f"{name} is {values!r}; with int: true, low and high must be whole numbers"


def _training(name: str) -> str | None:
    return next((training for training in TRAININGS if name.startswith(f"{training}.")), None)


def _wrong_stages(names: list[str], params: dict[str, Any]) -> Iterator[str]:
    first = _training(names[0])
    for name in names:
        if _training(name) is None:
            yield f"parameters has {name}; what can be searched are the parameters of {', '.join(TRAININGS)}"
        elif _training(name) != first and first:
            yield (
                f"parameters has {names[0]} and {name}; search one stage at a time, in the order of the pipeline: each "
                f"starts from what the one before has made"
            )
        elif name.split(".")[:2] == ["prune", "budget"]:
            yield f"parameters has {name}; accuracy is compared at one budget, so set it in the file of parameters"
    if first == "teacher.lit" and params["teacher"]["kind"] != "lit":
        yield f"parameters has {names[0]}, but teacher.kind is {params['teacher']['kind']}; set it to lit"


def _probes(values: Values) -> list[Any]:
    """All choices; of a range its ends and, where it is not of whole numbers, a value between."""
    if isinstance(values, list):
        return values
    ends = [values["low"], values["high"]]
    if values.get("int"):
        return ends
    middle = sum(ends) / 2
    return [*ends, middle if middle % 1 else middle + min(0.25, (ends[1] - middle) / 2)]


def _refused(params: dict[str, Any], name: str, value: Any) -> list[str]:
    """Lines about a value that the schema of parameters does not allow."""
    try:
        lines = checks.violations(with_values(params, {name: value}))
    except UserError as error:
        return [str(error)]
    whole = isinstance(value, float) and any("integer" in line for line in lines)
    return [f"{line} (say int: true)" if whole else line for line in lines]


def with_values(params: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``params`` with other values of some parameters, by their paths.

    Raises:
        UserError: a path leads through a parameter that has none within.
    """
    changed = copy.deepcopy(params)
    for name, value in values.items():
        *above, last = name.split(".")
        place = changed
        for part in above:
            if place.get(part) is None:
                place[part] = {}
            if not isinstance(place[part], dict):
                raise UserError(f"parameters has {name}, but {part} is {place[part]!r}, which has no parameters within")
            place = place[part]
        place[last] = value
    return changed


def suggest(space: Space, trial: Trial) -> dict[str, Any]:
    """The values that the sampler of the study chooses for a trial, by path."""
    return {name: _suggest(trial, name, values) for name, values in space.parameters.items()}


def _suggest(trial: Trial, name: str, values: Values) -> Any:
    if isinstance(values, list):  # as text, since a choice may be a list or a mapping
        return json.loads(trial.suggest_categorical(name, [json.dumps(value) for value in values]))
    low, high, log = values["low"], values["high"], values.get("log", False)
    if values.get("int"):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, float(low), float(high), log=log)
