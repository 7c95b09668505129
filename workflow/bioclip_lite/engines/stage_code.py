"""The code of each stage, and its fingerprints.

DVC stages depend on workflow/code/<stage>.md5 and not on modules, so that a comment runs no stage. The jobs of
Snakemake depend on a fingerprint of their own kind (JOBS), since Snakemake's time grows with inputs times jobs, and
40 modules are 40 times the inputs of a shard. DVC's stage ``code`` writes the fingerprints
(``PYTHONPATH=workflow python -m bioclip_lite.engines.stage_code``), and so does every start of Snakemake (``sync``).
Paths are relative to the root of the checkout, which is the current folder.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from bioclip_lite.utils.code_fingerprint import closure, file_meaning
from bioclip_lite.utils.files import replacing
from bioclip_lite.utils.stage_names import STAGES

STAGE = "code"  # of dvc.yaml
PACKAGE = Path("workflow/bioclip_lite")
FOLDER = Path("workflow/code")
JOBS = Path(".snakemake/bioclip_lite/code")
# Modules that some jobs of a stage load by name, where no import statement shows them: stage -> kind of job -> modules.
LOADED_BY_NAME: dict[str, dict[str, tuple[str, ...]]] = {
    "index": {"manifest": ("indexing.listing",), "tables": ("indexing.merging",)},
    "caption": {"captioner": ("captioning.coca",), "fine_tuning": ("captioning.fine_tuning",)},
    "convert": {
        "bundle": ("web.tfjs",),
        "tflite": ("web.tfjs", "web.litert"),
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


def kinds(stage: str) -> list[str | None]:
    """The kinds of job of a stage whose code differs; None: all others."""
    return [None, *LOADED_BY_NAME.get(stage, {})]


def files(stage: str) -> list[str]:
    """All that the fingerprint of a stage covers: the code of every kind of job, and the rule file."""
    return [*sorted({file for kind in kinds(stage) for file in code(stage, kind)}), f"workflow/rules/{stage}.smk"]


def path(stage: str) -> Path:
    """The path of a stage's fingerprint."""
    return FOLDER / f"{stage}.md5"


def of_jobs(stage: str, kind: str | None = None) -> str:
    """The path of the fingerprint of one kind of job, an input of these jobs in place of their modules.

    Raises:
        ValueError: a module does not exist.
        KeyError: the stage has no such kind of job.
    """
    code(stage, kind)
    return _of_jobs(stage, kind).as_posix()


def _of_jobs(stage: str, kind: str | None) -> Path:
    return JOBS / (f"{stage}-{kind}.md5" if kind else f"{stage}.md5")


def is_of_jobs(path: str) -> bool:
    """Whether ``path`` is the fingerprint of a kind of job."""
    return path.startswith(f"{JOBS.as_posix()}/")


def is_code(path: str) -> bool:
    """Whether ``path`` is a file of this package, which earlier versions had as inputs of jobs."""
    return path.startswith(f"{PACKAGE.as_posix()}/")


def with_module(name: str) -> set[str]:
    """The fingerprints of jobs that run the module of this path."""
    return {path.as_posix() for path in JOBS.iterdir() if name in parse(path.read_text(encoding="utf-8"))}


def _meaning(file: str) -> str:
    return file_meaning(Path(file))


def fingerprint(stage: str, content: Callable[[str], str | None] = _meaning) -> str:
    """The text of a fingerprint: a line "<MD5 of the meaning>  <path>" for each file.

    Args:
        content: gives the MD5 of a file's meaning, as ``engines.hashes`` has it cached.
    """
    return text(files(stage), content)


def text(files: list[str], content: Callable[[str], str | None]) -> str:
    """The text of the fingerprint of some files."""
    return "".join(f"{content(file)}  {file}\n" for file in files)


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
    for file, text in dict(_fingerprints(content)).items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            with replacing(file) as scratch:
                scratch.write_text(text, encoding="utf-8")


def _fingerprints(content: Callable[[str], str | None]) -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of every fingerprint, of stages and of their kinds of job."""
    for stage in STAGES:
        yield path(stage), fingerprint(stage, content)
        for kind in kinds(stage):
            yield _of_jobs(stage, kind), text(code(stage, kind), content)


if __name__ == "__main__":
    refresh(cache(_meaning))
