"""The schema of all parameters, and the defaults that it gives to what params.yaml leaves out."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

from bioclip_lite.utils.files import parse_yaml

SCHEMA = Path(__file__).parents[2] / "schemas" / "params.schema.yaml"


@cache
def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a parameter file. Do not change the result, which is shared."""
    content: dict[str, Any] = parse_yaml(SCHEMA.read_text(encoding="utf-8"))
    return content


def defaults(part: dict[str, Any] | None = None) -> Any:
    """The default of one part of the schema, by default of the whole: a mapping of all sections."""
    part = schema() if part is None else part
    if "default" in part:
        return copy.deepcopy(part["default"])
    return {name: defaults(inner) for name, inner in part["properties"].items()}


def complete(given: Any, part: dict[str, Any] | None = None) -> Any:
    """``given`` with the defaults of everything that it leaves out; ``given`` itself is not changed.

    Mappings are completed key by key, except those that have a default as a whole, such as prune.budget. Values that
    the schema does not allow stay in place, for the check of parameters to report.
    """
    part = schema() if part is None else part
    if "default" in part or "properties" not in part or not isinstance(given, dict):
        return copy.deepcopy(given)
    names = [*part["properties"], *(name for name in given if name not in part["properties"])]
    return {
        name: complete(given[name], part["properties"].get(name, {}))
        if name in given
        else defaults(part["properties"][name])
        for name in names
    }
