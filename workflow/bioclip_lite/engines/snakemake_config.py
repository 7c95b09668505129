"""Snakemake's options that give parameters. They may only repeat params.yaml, since that is what DVC records."""

import json
import reprlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bioclip_lite.utils import yaml_files
from bioclip_lite.utils.errors import UserError

_ABSENT = object()


def refuse_changes(recorded: Mapping[str, Any], files: Iterable[Path], options: Mapping[str, Any], alone: bool) -> None:
    """Raise UserError, naming the parameter, if a run would get another value than ``recorded``, that of params.yaml.

    Args:
        files: of ``--configfile``, each changing what those before it say.
        options: of ``--config``, which change both.
        alone: ``--replace-workflow-config``: what files and options leave out would be missing.
    """
    given = [*map(yaml_files.read, files), _parsed(options, recorded)]
    if not any(given):
        return
    run: dict[str, Any] = {} if alone else dict(recorded)
    for part in given:
        run = _updated(run, part)
    difference = _difference(recorded, run)
    if difference:
        name, wanted, value = difference
        raise UserError(
            f"{name} {_value(wanted)} by --config, --configfile or a profile, but {_value(value)} in params.yaml, "
            f"which would be recorded; leave the option out and change params.yaml (or use dvc exp run -S ++{name}=...)"
        )


def _parsed(option: Any, recorded: Any) -> Any:
    """An option with its values as JSON reads them: Snakemake takes text from nested ones ("1" from '{"seed": 1}').

    What is recorded as text stays text.
    """
    if isinstance(option, Mapping):
        known = recorded if isinstance(recorded, Mapping) else {}
        return {name: _parsed(value, known.get(name)) for name, value in option.items()}
    with suppress(ValueError):
        return json.loads(option) if isinstance(option, str) and not isinstance(recorded, str) else option
    return option


def _updated(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """As ``snakemake.utils.update_config``: mappings key by key, everything else as a whole."""
    changes = {
        key: _updated(before if isinstance(before := old.get(key), Mapping) else {}, value)
        if isinstance(value, Mapping)
        else value
        for key, value in new.items()
    }
    return {**old, **changes}


def _difference(recorded: Any, run: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Name, value in the run and recorded value of the first parameter in which they differ."""
    if not isinstance(recorded, Mapping) or not isinstance(run, Mapping):
        return None if type(recorded) is type(run) and recorded == run else (name, run, recorded)
    parts = (
        _difference(recorded.get(key, _ABSENT), run.get(key, _ABSENT), f"{name}.{key}" if name else str(key))
        for key in {**recorded, **run}
    )
    return next((part for part in parts if part), None)


def _value(value: Any) -> str:
    return "is missing" if value is _ABSENT else f"is {reprlib.repr(value)}"
