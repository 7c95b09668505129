"""Ensembles: the teachers that section ``teacher`` of params.yaml names, each with a section of its own."""

from collections.abc import Mapping
from typing import Any

FIRST = "model"  # the teacher that the section itself describes, in whose space students answer
_READ_BY_KIND = {
    "train": ("kind", "captions", "allow_weak", "seed", "train"),
    "lit": ("kind", "allow_research_only", "captions", "allow_weak", "seed", "lit"),
    "open_clip": ("kind", "captions", "allow_research_only", "allow_weak", "seed", "open_clip"),
    "pretrained": ("kind", "allow_research_only", "allow_weak", "pretrained"),
}


def teacher_sections(section: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name of each teacher -> its complete section, without ``ensemble``; the first is "model".

    A further teacher inherits from the first: its entry replaces the parts (train, lit, open_clip, pretrained) key by
    key and everything else as a whole.
    """
    first = {key: value for key, value in section.items() if key != "ensemble"}
    sections = {FIRST: first}
    for entry in section.get("ensemble", []):
        sections[entry["name"]] = first | {
            key: {**first[key], **value} if isinstance(value, dict) and isinstance(first.get(key), dict) else value
            for key, value in entry.items()
            if key != "name"
        }
    return sections


def own_parameters(teacher: Mapping[str, Any]) -> Any:
    """The parameters that a teacher of its kind reads, of one of ``teacher_sections``: a ``sections.OneTeacher``."""
    return {name: teacher[name] for name in _READ_BY_KIND[teacher["kind"]]}
