"""The variants that stage evaluate compares, for the stage and for its rules."""

from collections.abc import Mapping
from typing import Any

VARIANTS = ("teacher", "table", "student", "pruned", "int8", "tfjs", "control", "majority", "random")
IN_BROWSER = "chromium"


def variants(section: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that a section evaluate of params.yaml asks for, in the order of the report."""
    if not section["chromium"]:
        return VARIANTS
    place = VARIANTS.index("tfjs") + 1
    return (*VARIANTS[:place], IN_BROWSER, *VARIANTS[place:])
