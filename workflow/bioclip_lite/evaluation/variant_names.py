"""The variants that stage evaluate compares, for the stage and for its rules."""

from collections.abc import Mapping, Sequence
from typing import Any

from bioclip_lite.teacher_cache.ensemble import FIRST

VARIANTS = ("teacher", "table", "student", "pruned", "int8", "tfjs", "control", "majority", "random")
BEFORE_FINETUNING = "first"
IN_BROWSER = "chromium"
ON_PHONES = "tflite"
ENSEMBLE = "ensemble"
KNOWN = (*VARIANTS, BEFORE_FINETUNING, IN_BROWSER, ON_PHONES, ENSEMBLE)  # besides further teachers
_TEACHER = "teacher-"  # before the name of a further teacher
# Where further variants stand: beginnings of their names.
_AFTER = {"teacher": (_TEACHER, ENSEMBLE), "table": (BEFORE_FINETUNING,), "tfjs": (IN_BROWSER, ON_PHONES)}


def variants(section: Mapping[str, Any]) -> tuple[str, ...]:
    """The variants that ``also``, ``chromium``, ``tflite`` and ``control`` ask for, in the order of the report.

    ``section`` is evaluate, as ``jobs.of_job`` completes it.
    """
    asked = [
        *section["also"],
        *([IN_BROWSER] if section["chromium"] else []),
        *([ON_PHONES] if section["tflite"] else []),
    ]
    order = []
    for variant in VARIANTS:
        if variant != "control" or section["control"]:
            order.append(variant)
        order += [name for first in _AFTER.get(variant, ()) for name in asked if name.startswith(first)]
    return tuple(order)


def further_teacher(variant: str) -> str | None:
    """The name in teacher.ensemble, if the variant is one of these teachers."""
    return variant.removeprefix(_TEACHER) if variant.startswith(_TEACHER) else None


def members(also: Sequence[str]) -> list[str]:
    """The teachers of variant ensemble: the first one, and those that ``evaluate.also`` lists beside it."""
    return [FIRST, *(name for variant in also if (name := further_teacher(variant)))]
