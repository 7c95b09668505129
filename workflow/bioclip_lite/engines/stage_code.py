"""The code of each stage, and its fingerprint in workflow/code/<stage>.md5.

DVC stages depend on these files and not on modules, so that a comment runs no stage. DVC's stage ``code`` writes them
(``PYTHONPATH=workflow python -m bioclip_lite.engines.stage_code``), and so does every start of Snakemake (``sync``).
Paths are relative to the root of the checkout, which is the current folder.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from bioclip_lite.utils.code_fingerprint import closure, file_meaning
from bioclip_lite.utils.files import replacing
from bioclip_lite.utils.stage_names import STAGES

STAGE = "code"  # of dvc.yaml
PACKAGE = Path("workflow/bioclip_lite")
FOLDER = Path("workflow/code")
# Modules that some jobs of a stage load by name, where no import statement shows them: stage -> kind of job -> modules.
LOADED_BY_NAME: dict[str, dict[str, tuple[str, ...]]] = {
    "caption": {"captioner": ("captioning.coca",), "fine_tuning": ("captioning.fine_tuning",)},
    "convert": {
        "bundle": ("web.tfjs",),
        "text": ("web.tfjs", "web.text_encoder"),
        "list": ("web.relisting",),
        "prior": ("web.prior_fitting",),
    },
    "evaluate": {"suite": ("suites.answering",), "report": ("report.publish",)},
}


def code(stage: str, kind: str | None = None) -> list[str]:
    """Python files that the jobs of a stage depend on, sorted.

    Args:
        kind: of job, for those in LOADED_BY_NAME; None: what all jobs of the stage depend on.

    Raises:
        ValueError: a module does not exist.
        KeyError: the stage has no such kind of job.
    """
    more = LOADED_BY_NAME[stage][kind] if kind else ()
    return closure(f"stages.{stage}", *more, package=PACKAGE.absolute())


def files(stage: str) -> list[str]:
    """All that the fingerprint of a stage covers: the code of every kind of job, and the rule file."""
    kinds = [None, *LOADED_BY_NAME.get(stage, {})]
    return [*sorted({file for kind in kinds for file in code(stage, kind)}), f"workflow/rules/{stage}.smk"]


def path(stage: str) -> Path:
    """The path of a stage's fingerprint."""
    return FOLDER / f"{stage}.md5"


def _meaning(file: str) -> str:
    return file_meaning(Path(file))


def fingerprint(stage: str, content: Callable[[str], str | None] = _meaning) -> str:
    """The text of a fingerprint: a line "<MD5 of the meaning>  <path>" for each file.

    Args:
        content: gives the MD5 of a file's meaning, as ``engines.hashes`` has it cached.
    """
    return "".join(f"{content(file)}  {file}\n" for file in files(stage))


def parse(text: str) -> dict[str, str]:
    """Path -> MD5 of the meaning, from the text of a fingerprint."""
    return {file: md5 for md5, file in (line.split("  ", 1) for line in text.splitlines())}


def is_current(stage: str, content: Callable[[str], str | None] = _meaning) -> bool:
    """Whether the fingerprint on disk is that of the code on disk."""
    try:
        return path(stage).read_text(encoding="utf-8") == fingerprint(stage, content)
    except FileNotFoundError:  # of the fingerprint, or of a module that was deleted since it was written
        return False


def refresh(content: Callable[[str], str | None]) -> None:
    """Write the fingerprints that have changed. If a module is missing, all of them stay as they are.

    Raises:
        ValueError: a module does not exist.
    """
    for stage, text in {stage: fingerprint(stage, content) for stage in STAGES}.items():
        if not path(stage).exists() or path(stage).read_text(encoding="utf-8") != text:
            with replacing(path(stage)) as scratch:
                scratch.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    refresh(cache(_meaning))
