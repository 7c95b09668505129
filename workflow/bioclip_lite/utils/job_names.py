"""Parse and write the names of jobs: one grammar for the command line, the rules, logs and messages.

A job is named by the path of its output in data/<stage>, as far as that says which job it is: ``train-00000``,
``coca/train-00000``, ``captions/coca/train-00000``. Its log is logs/<stage>/<job>.log. Each stage lists the forms that
its names take, e.g. ``captions/{captioner}/{shard}``; FIELDS says what may stand in the braces.
"""

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import NamedTuple

from bioclip_lite.utils.errors import UserError

FIELDS = {
    "part": r"\d{5}",  # see ``part_name``
    "shard": r"[a-z]+-\d{5}",
    "captioner": r"[a-z][a-z0-9_]*",
    "teacher": r"[a-z][a-z0-9_]*",
    "suite": r"[a-z0-9][a-z0-9_-]*",
    "variant": r"[a-z][a-z0-9_-]*",
    "list": r"[A-Za-z0-9][A-Za-z0-9_-]*",
}


_RENAMED = {"suite:": "suites/"}  # beginnings of names that command lines of earlier versions have


def part_name(number: int) -> str:
    """Name a part of a source by its number, 0 and up."""
    return f"{number:05d}"


class Job(NamedTuple):
    """A parsed name: ``captions/coca/train-00000`` has the form ``captions/{captioner}/{shard}``."""

    form: str
    fields: dict[str, str]  # by name in braces


def parse(stage: str, name: str, forms: Collection[str], values: Mapping[str, Collection[str]] | None = None) -> Job:
    """Match the name of a job against the forms of a stage, in their order.

    Args:
        values: of some fields, all that there are, where the caller has them; others are refused.

    Raises:
        UserError: the name has none of the forms; the message lists the jobs.
    """
    values = values or {}
    renamed = name
    for before, now in _RENAMED.items():
        renamed = renamed.replace(before, now)
    for form in forms:
        match = _pattern(form).fullmatch(renamed)
        if match and all(value in values.get(field, [value]) for field, value in match.groupdict().items()):
            return Job(form, match.groupdict())
    if not forms:
        raise UserError(f"stage {stage} is one job; it has no job {name!r}")
    jobs = [job for form in forms for job in _jobs(form, values)]
    raise UserError(f"{stage} has no job {name!r}; its jobs are {', '.join(jobs)}")


@cache  # Snakemake parses the names of all its jobs
def _pattern(form: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda match: f"(?P<{match[1]}>{FIELDS[match[1]]})", re.escape(form)))


def _jobs(form: str, values: Mapping[str, Collection[str]]) -> list[str]:
    """The jobs of a form in a message: one by one if all values of its only field are given."""
    fields = re.findall(r"\{(\w+)\}", form)
    if len(fields) == 1 and fields[0] in values:
        return [form.replace(f"{{{fields[0]}}}", value) for value in values[fields[0]]]
    return [re.sub(r"\{(\w+)\}", r"<\1>", form)]


def command(stage: str, name: str) -> str:
    """The command line that runs one job alone, for messages."""
    return f"python -m bioclip_lite {stage} {name}"
