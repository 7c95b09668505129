"""Parse and write the names of jobs: one grammar for the command line, the rules, logs and messages.

A job is named by the path of its output in data/<stage>, as far as that says which job it is: ``train-00000``,
``coca/train-00000``, ``captions/coca/train-00000``. Its log is logs/<stage>/<job>.log. Each stage lists the forms that
its names take, e.g. ``captions/{captioner}/{shard}``; FIELDS says what may stand in the braces.
"""

import re
from collections.abc import Collection
from typing import NamedTuple

from bioclip_lite.utils.errors import UserError

FIELDS = {
    "shard": r"[a-z]+-\d{5}",
    "captioner": r"[a-z][a-z0-9_]*",
    "teacher": r"[a-z][a-z0-9_]*",
    "suite": r"[a-z0-9][a-z0-9_-]*",
    "variant": r"[a-z][a-z0-9_-]*",
}


_RENAMED = {"suite:": "suites/"}  # beginnings of names that command lines of earlier versions have


class Job(NamedTuple):
    """A parsed name: ``captions/coca/train-00000`` has the form ``captions/{captioner}/{shard}``."""

    form: str
    fields: dict[str, str]  # by name in braces


def parse(stage: str, name: str, forms: Collection[str]) -> Job:
    """Match the name of a job against the forms of a stage, in their order.

    Raises:
        UserError: the name has none of the forms; the message lists them.
    """
    for before, now in _RENAMED.items():
        name = name.replace(before, now)
    for form in forms:
        pattern = re.sub(r"\\{(\w+)\\}", lambda match: f"(?P<{match[1]}>{FIELDS[match[1]]})", re.escape(form))
        if match := re.fullmatch(pattern, name):
            return Job(form, match.groupdict())
    if not forms:
        raise UserError(f"stage {stage} is one job; it has no job {name!r}")
    jobs = ", ".join(re.sub(r"\{(\w+)\}", r"<\1>", form) for form in forms)
    raise UserError(f"{stage} has no job {name!r}; its jobs are {jobs}")


def command(stage: str, name: str) -> str:
    """The command line that runs one job alone, for messages."""
    return f"python -m bioclip_lite {stage} {name}"
