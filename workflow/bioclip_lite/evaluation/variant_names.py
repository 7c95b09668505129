"""The variants that stage evaluate compares, for the stage and for its rules."""

from collections.abc import Mapping
from typing import Any

VARIANTS = ("teacher", "table", "student", "pruned", "int8", "tfjs", "control", "majority", "random")
BEFORE_FINETUNING = "first"
IN_BROWSER = "chromium"
KNOWN = (*VARIANTS, BEFORE_FINETUNING, IN_BROWSER)  # besides further teachers
_TEACHER = "teacher-"  # before the name of a further teacher
_AFTER = {"teacher": _TEACHER, "table": BEFORE_FINETUNING, "tfjs": IN_BROWSER}  # where further variants stand


def variants(section: Mapping[str, Any]) -> tuple[str, ...]:
    """The variants that ``also`` and ``chromium`` of section evaluate ask for, in the order of the report."""
    asked = [*section["also"], *([IN_BROWSER] if section["chromium"] else [])]
    order = []
    for variant in VARIANTS:
        order += [variant, *(name for name in asked if name.startswith(_AFTER.get(variant, "-")))]
    return tuple(order)


def further_teacher(variant: str) -> str | None:
    """The name in teacher.ensemble, if the variant is one of these teachers."""
    return variant.removeprefix(_TEACHER) if variant.startswith(_TEACHER) else None
