"""``python -m bioclip_lite crate FILE``: a finished run as one file that an archive such as Zenodo takes.

The file is a Workflow Run RO-Crate: what a reader needs, and a description of how each file was made.
"""

import argparse
import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bioclip_lite.commands.common import command
from bioclip_lite.engines import rehearsal, stage_code
from bioclip_lite.engines.dvc_yaml import STAMP, files_in, ledger_path
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.ledger import locked_ledgers
from bioclip_lite.publishing import permission, run_crate
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_output, parse_yaml, replacing, require
from bioclip_lite.utils.stage_names import STAGES

CITATION = Path("CITATION.cff")
# What describes a run, and what it gives to others.
_ALWAYS = ("params.yaml", "dvc.lock", "dvc.yaml", "Snakefile", "workflow/defaults.yaml", "CITATION.cff", "LICENSE")
_RESULTS = (
    "data/convert/tfjs",
    "data/convert/lists",
    "data/evaluate/report.html",
    "data/evaluate/MODEL_CARD.md",
    "data/evaluate/metrics.json",
    "data/evaluate/headline.json",
    "data/evaluate/plots",
    "data/index/ATTRIBUTION.csv",
)
_CODE = ("Snakefile", "dvc.yaml", "workflow", "packages", f":!{stage_code.FOLDER}")  # which a run writes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state: equal files are equal bytes


def write(output: Path, left_out: Sequence[str]) -> tuple[int, int]:
    """Write the crate of the run in the working directory; returns the numbers of files in it and of jobs.

    Args:
        left_out: results that are described and not packed.

    Raises:
        UserError: the run is not finished, recorded and of a commit, or a packed file holds photographs that may not
            be published; nothing was written.
    """
    commit = _commit()
    _check_finished()
    citation = _citation()
    packed = {path: Path(path) for path in _packed(left_out)}
    _check_photographs(packed)
    jobs, files = run_crate.read_jobs()
    about = run_crate.describe(run_crate.Run(jobs, files, commit, citation), packed)
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    with replacing(output) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry(run_crate.METADATA), text)
        for folder in sorted({folder for folder in _RESULTS if any(name.startswith(f"{folder}/") for name in packed)}):
            archive.writestr(_entry(f"{folder}/"), b"")
        for name, path in sorted(packed.items()):
            with path.open("rb") as source, archive.open(_entry(name, path.stat().st_size), "w") as target:
                shutil.copyfileobj(source, target)
    return len(packed) + 1, len(jobs)


def _entry(name: str, size: int = 0) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type, entry.external_attr, entry.file_size = zipfile.ZIP_DEFLATED, 0o644 << 16, size
    return entry


def _commit() -> str:
    """The commit whose code ran; UserError if there is none, or the code has been changed since."""
    if not Path("dvc.yaml").is_file():
        raise UserError(f"{Path.cwd()} has no dvc.yaml; run this in the root of the repository")
    found = _git("rev-parse", "HEAD")
    if found is None:
        raise UserError(f"{Path.cwd()} is no git repository with a commit, so nothing says which code ran")
    changed = (_git("status", "--porcelain", "--", *_CODE) or "").splitlines()
    if changed:
        raise UserError(f"no commit holds the code as it is here ({len(changed)} changes: {changed[0]} ...); commit it")
    return found


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout.strip()


def _check_finished() -> None:
    """Raise UserError unless all stages are made, as parameters, code and sources now are, and dvc.lock has them."""
    for stage in STAGES:
        require(ledger_path(stage))
    with rehearsal.stand_in():
        planned = rehearsal.counts("evaluate")
    if planned:
        jobs = ", ".join(f"{count} {rule}" for rule, count in planned.items())
        raise UserError(f"the run is not finished, or older than what it was made from: {jobs} would run; run it first")
    hashes = Hashes()
    other = [stage for stage, md5 in locked_ledgers().items() if stage in STAGES and md5 != hashes[ledger_path(stage)]]
    if other:
        raise UserError(f"dvc.lock has another run of {', '.join(other)}; run: dvc commit {' '.join(other)}")


def _citation() -> dict[str, Any]:
    if not CITATION.is_file():
        raise UserError(
            f"{CITATION} is missing; it names the authors and the licence (https://citation-file-format.github.io)"
        )
    found = parse_yaml(CITATION.read_text(encoding="utf-8"))
    lacking = [name for name in ("title", "authors", "license") if not isinstance(found, dict) or not found.get(name)]
    if lacking:
        raise UserError(f"{CITATION} lacks {', '.join(lacking)}, which a published record must have; add it")
    return dict(found)


def _packed(left_out: Sequence[str]) -> Iterator[str]:
    """Paths of the files that go into the crate."""
    unknown = sorted({*left_out} - {*_RESULTS})
    if unknown:
        raise UserError(f"--leave-out {unknown[0]} is no part of the crate; its parts are {', '.join(_RESULTS)}")
    places = [*_ALWAYS, *(ledger_path(stage) for stage in STAGES), *(p for p in _RESULTS if p not in left_out)]
    for place in places:
        yield from sorted(path for path in files_in(place) if not path.endswith(STAMP))


def _check_photographs(packed: dict[str, Path]) -> None:
    """Raise UserError if a packed file holds photographs that may not be published."""
    samples = permission.read_samples(require(permission.SAMPLES))
    refused = [found for name, path in packed.items() if (found := permission.refuse(name, path, samples))]
    refused = [found for found in refused if found.path.startswith("data/")]
    if refused:
        out = " ".join(f"--leave-out {found.path}" for found in refused)
        raise UserError(
            "\n".join(
                [
                    "photographs that may not be published are in",
                    *permission.lines(refused),
                    f"Nothing was written. {permission.MAY_GO}",
                    "Take those photographs out (index.where in params.yaml) and run the pipeline again, or describe "
                    f"the file without packing it: {out}",
                ]
            )
        )


def _ours(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return run_crate.METADATA in archive.namelist() and "dvc.lock" in archive.namelist()


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "crate",
        "Write the finished run as a Workflow Run RO-Crate, one file for an archive such as Zenodo: report, model "
        "card, bundle, parameters and ledgers, with a description of how each file was made, by SHA-256. Photographs "
        "whose licences do not permit publication are never packed.",
    )
    parser.add_argument("output", type=Path, help="file to write, e.g. run.zip")
    parser.add_argument(
        "--leave-out",
        metavar="PATH",
        action="append",
        default=[],
        help="a result to describe without packing it, e.g. data/evaluate/report.html; may be repeated",
    )
    return parser


@command("crate")
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    check_output(options.output, _ours)
    files, jobs = write(options.output, options.leave_out)
    size = options.output.stat().st_size / 1e6
    print(f"crate: {options.output}, {size:.1f} MB: {files} files, and how {jobs} jobs made them")
    return 0
