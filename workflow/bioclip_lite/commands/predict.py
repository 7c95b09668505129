"""``python -m bioclip_lite predict IMAGES...``: classify photographs, in the forms that ecologists work with.

CSV has the columns of pybioclip first. Probabilities use the temperature, and back-off the thresholds, that stage
evaluate fitted for the variant. --variant tfjs runs the web model as it ships, in Node, with its own decoder and
resampler.
"""

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from bioclip_lite import __version__
from bioclip_lite.commands.common import command
from bioclip_lite.evaluation import variants
from bioclip_lite.photographs.images import OFFSET
from bioclip_lite.predicting import (
    camtrap,
    csv_table,
    darwin_core,
    expected,
    megadetector,
    models,
    observations,
    parquet,
    parts,
    records,
    xmp,
)
from bioclip_lite.predicting.files import counted, image_files
from bioclip_lite.predicting.observations import Observations
from bioclip_lite.predicting.on_list import OffList
from bioclip_lite.predicting.origin import Origin, below, root_of
from bioclip_lite.predicting.records import Question, Record
from bioclip_lite.predicting.sites import read_site
from bioclip_lite.sources import places
from bioclip_lite.taxa.label_space import Labels, read_labels
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_folder, check_output, read_json, replacing, require
from bioclip_lite.utils.progress import progress

FORMATS = ("csv", "camtrap-dp", "darwin-core", "megadetector", "parquet", "xmp")
_ON_OUTPUT = ("csv", "megadetector")  # what standard output can take
_ONE_ANSWER = ("camtrap-dp", "darwin-core", "xmp")  # that hold the answer to a photograph, or that it is unknown
_PROGRAM = "bioclip-lite predict"
LOG = f'{{\n "program": "{_PROGRAM}",'  # how a log begins


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "predict",
        "Name what photographs show, as CSV with the columns of pybioclip or in another form. Probabilities use the "
        "temperature, and --back-off the thresholds, that stage evaluate fitted for the model. With --output, the same "
        "command goes on where it was ended.",
    )
    parser.add_argument(
        "images",
        nargs="+",
        help="files, folders, patterns such as 'trip/*.jpg', or - for a list on standard input",
    )
    parser.add_argument(
        "--variant",
        choices=(*variants.IN_PYTORCH, models.WEB),
        default="int8",
        help=f"model to ask (default: int8, in PyTorch; {models.WEB}: the web model with its own decoder, in Node)",
    )
    parser.add_argument("--rank", choices=RANKS, default="species", help="rank of the answers (default: species)")
    parser.add_argument("--k", type=int, default=5, help="answers per photograph (default: 5)")
    parser.add_argument(
        "--back-off",
        action="store_true",
        help="give one answer per photograph, at the lowest rank that is certain enough, or none",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help="probability that is certain enough, in place of those of stage evaluate; back off from --rank upwards",
    )
    parser.add_argument(
        "--off-list",
        action="store_true",
        help="expect 1 in 5 photographs to show what is not on the list: back off with thresholds that allow for it",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="csv",
        help=f"form of the output (default: csv); {', '.join(_ONE_ANSWER)} back off",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        help="thresholds of your site, a file of `recalibrate`, in place of those of stage evaluate; backs off",
    )
    parser.add_argument(
        "--confirm", action="store_true", help="csv: back off, and add an empty column confirmed for `recalibrate`"
    )
    parser.add_argument(
        "--by",
        choices=("photograph", "folder", "time", "observation"),
        default="photograph",
        help="what has one answer: each photograph, or all that show one individual: those of a folder, of one camera "
        "within a short time (EXIF), or of an observation in a table (default: photograph)",
    )
    parser.add_argument(
        "--within",
        type=float,
        help="--by time: seconds from one photograph to the next that show the same individual "
        f"(default: {observations.WITHIN:g})",
    )
    parser.add_argument(
        "--observations", type=Path, help="--by observation: CSV table with columns file and observation"
    )
    parser.add_argument("--output", type=Path, help="file to write, folder for camtrap-dp (default: standard output)")
    parser.add_argument(
        "--prior",
        action="store_true",
        help="count where and in which month a photograph was taken, if its EXIF states both and convert.prior gave a "
        "table; says what is not expected there",
    )
    parser.add_argument("--exif", action="store_true", help="csv: add when and where a photograph was taken")
    parser.add_argument(
        "--utc-offset", help="camtrap-dp: of the cameras' clocks where EXIF does not state it, such as +02:00"
    )
    parser.add_argument(
        "--deployments", type=Path, help="camtrap-dp: table of deployments (default: folders, and EXIF positions)"
    )
    parser.add_argument(
        "--package", type=Path, help="camtrap-dp: JSON with entries of datapackage.json, such as project"
    )
    parser.add_argument(
        "--in-place", action="store_true", help="xmp: write into the photographs, not into files beside them"
    )
    parser.add_argument("--log", type=Path, help="JSON file for settings, hashes, versions and counts")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    return parser


@command("predict")
def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    _check(options)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as the names of files on the command line are read
    found = image_files(options.images, sys.stdin)
    if found.others:
        _tell(f"not read: {counted(found.others)}; export photographs among them, or frames of films, as JPEG")
    run = _prepare(options, found.images)
    done = _write_xmp(options, run) if options.format == "xmp" else _write_output(options, run)
    if done.failed or done.left_out:
        _tell(f"{done.failed + len(done.left_out)} of {len(found.images)} files are without an answer, see above")
    if options.log:
        _write_log(options, run, done, list(sys.argv[1:] if argv is None else argv))
    return 1 if done.failed or done.left_out else 0


def _together(options: argparse.Namespace, files: Sequence[Path]) -> Observations | None:
    """The photographs that have one answer; None: each has its own."""
    if options.by == "photograph":
        return None
    if options.by == "folder":
        found = observations.of_folders(files)
    elif options.by == "time":
        found = observations.of_moments(files, observations.WITHIN if options.within is None else options.within)
    else:
        found = observations.of_table(files, options.observations)
    _tell(f"{len(files)} photographs make {len(set(found.values()))} observations, each with one answer")
    return found


class _Run(NamedTuple):
    """All that is settled before the first photograph is read."""

    files: list[Path]
    labels: Labels
    question: Question
    origin: Origin
    settings: dict[str, Any]  # that answers depend on
    camera: camtrap.Camera | None
    where: expected.Places | None  # the prior of place and month
    observation_of: Observations | None


class _Done(NamedTuple):
    failed: int  # photographs that could not be read
    left_out: dict[str, str]  # photographs that the form of the output cannot hold, with the reasons


def _tell(text: str) -> None:
    print(f"predict: {text}", file=sys.stderr)


def _check(options: argparse.Namespace) -> None:
    """Raise UserError for arguments that contradict one another, or outputs that would replace a file of others."""
    if options.k < 1:
        raise UserError(f"--k {options.k}: at least one answer is needed")
    if options.threshold is not None and not 0 < options.threshold <= 1:
        raise UserError(f"--threshold {options.threshold}: a probability above 0 and up to 1 is needed")
    _check_by(options)
    only = {
        "exif": "csv",
        "confirm": "csv",
        "utc_offset": "camtrap-dp",
        "deployments": "camtrap-dp",
        "package": "camtrap-dp",
    }
    for name, form in (only | {"in_place": "xmp"}).items():
        if getattr(options, name) and options.format != form:
            raise UserError(f"--{name.replace('_', '-')} is for --format {form}, not for {options.format}")
    if options.format == "camtrap-dp" and not OFFSET.fullmatch(options.utc_offset or ""):
        raise UserError("--format camtrap-dp needs --utc-offset, of the cameras' clocks from UTC, such as +02:00")
    if options.format == "xmp" and (options.output or options.by != "photograph"):
        raise UserError(
            "--format xmp writes beside each photograph, or into it (--in-place), an answer of its own; leave out "
            "--output and --by"
        )
    if options.format not in (*_ON_OUTPUT, "xmp") and not options.output:
        raise UserError(f"--format {options.format} needs --output")
    if options.output:
        _check_output(options.format, options.output)
    if options.log:
        check_output(options.log, lambda path: _begins(path, LOG))


def _check_by(options: argparse.Namespace) -> None:
    if options.within is not None and (options.by != "time" or not options.within >= 0):
        raise UserError("--within is for --by time, and takes seconds, 0 or more")
    if (options.observations is None) == (options.by == "observation"):
        raise UserError(
            "--by observation and --observations, a table with columns file and observation, need each other"
        )


def _check_output(form: str, output: Path) -> None:
    if form == "csv":
        check_output(output, lambda path: _begins(path, ",".join(csv_table.COLUMNS)))
    elif form == "megadetector":
        check_output(output, lambda path: _begins(path, megadetector.BEGINNING))
    elif form == "camtrap-dp":
        check_folder(output, camtrap.FILES)
    else:
        check_output(output, {"parquet": parquet.is_ours, "darwin-core": darwin_core.is_ours}[form])


def _begins(path: Path, text: str) -> bool:
    with path.open("rb") as file:
        return file.read(len(text)) == text.encode()


def _prepare(options: argparse.Namespace, files: list[Path]) -> _Run:
    labels = read_labels(options.data)
    measured = _measured(options.data, options.variant)
    observation_of = _together(options, files)
    files = list(observation_of or files)
    others = _off_list(options, measured)
    thresholds = others.fitted["ranks"] if others and others.answers else _thresholds(options, measured)
    question = Question(
        temperature=measured["calibration"]["temperature"],
        rank=options.rank,
        k=options.k,
        thresholds=thresholds,
        off_list=others,
        fitted=thresholds is not None and options.threshold is None,
        paths=options.confirm,
        embeddings=options.format == "parquet",
        probabilities=options.format == "parquet" and len(labels.ids) <= parquet.MOST_TAXA,
    )
    if options.format == "parquet" and not question.probabilities:
        _tell(f"probabilities of all {len(labels.ids)} taxa are not written, only those of up to {parquet.MOST_TAXA}")
    hashes = models.hashes(options.data, options.variant)
    origin = Origin(
        model=f"bioclip-lite {__version__} {options.variant}",
        sha256=next(iter(hashes.values())),
        thresholds=thresholds,
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        root=root_of(files),
    )
    where = expected.read(options.data, options.variant, labels) if options.prior else None
    hashes |= {"convert/prior/tfjs/bundle.json": where.sha256} if where else {}
    settings = {"version": __version__, "variant": options.variant, "files": hashes, **question._asdict()}
    settings["off_list"] = others and others._asdict()
    if observation_of:  # an answer depends on all photographs of its observation
        settings["photographs"] = records.fingerprint(observation_of)
    camera = None
    if options.format == "camtrap-dp":
        folders = {camtrap.deployment_of(below(file, origin.root), origin.root) for file in files}
        camera = camtrap.read_camera(options.utc_offset, options.deployments, options.package, folders)
    return _Run(files, labels, question, origin, settings, camera, where, observation_of)


def _measured(data: Path, variant: str) -> dict[str, Any]:
    """What stage evaluate found out about a variant."""
    evaluated: dict[str, Any] = read_json(require(data / "evaluate" / "metrics.json"))["variants"]
    if variant not in evaluated:
        raise UserError(
            f"{variant} was not evaluated, so it has no fitted temperature: name it in evaluate.also "
            f"of params.yaml and run stage evaluate, or take one of {', '.join(evaluated)}"
        )
    measured: dict[str, Any] = evaluated[variant]
    return measured


def _thresholds(options: argparse.Namespace, measured: dict[str, Any]) -> dict[str, float | None] | None:
    """Thresholds by rank; None where each photograph has --k answers."""
    if options.threshold is not None:
        lowest = RANKS.index(options.rank)
        return {rank: options.threshold if at <= lowest else None for at, rank in enumerate(RANKS)}
    if options.calibration:
        return _of_site(options)
    if not (options.back_off or options.confirm) and options.format not in _ONE_ANSWER:
        return None
    thresholds: dict[str, float | None] = measured["back_off"]["thresholds"]
    if all(limit is None for limit in thresholds.values()):
        raise UserError(
            f"{options.variant} has no thresholds to back off with: on split calibration no threshold is correct "
            "often enough, or there are too few photographs (data/evaluate/report.html); leave out --back-off, give a "
            "--threshold of your own, or raise index.split.calibration in params.yaml"
        )
    return thresholds


def _off_list(options: argparse.Namespace, measured: dict[str, Any]) -> OffList | None:
    """What tells photographs of what is not on the list apart; None where it was not fitted."""
    if options.off_list and (options.threshold is not None or options.rank != RANKS[-1]):
        raise UserError("--off-list has thresholds of its own for all ranks: leave out --threshold and --rank")
    if options.off_list and (options.prior or options.calibration or options.confirm):
        raise UserError(
            "--off-list has thresholds that were fitted for the model alone: leave out --prior, --calibration and "
            "--confirm"
        )
    found = measured.get("off_list")
    if options.off_list and not (found and any(found["ranks"].values())):
        raise UserError(
            f"{options.variant} has no thresholds that allow for photographs off the list: on split calibration none "
            "is correct often enough, or there are too few photographs (data/evaluate/report.html); leave out "
            "--off-list, or raise index.split.calibration in params.yaml"
        )
    return OffList({name: found[name] for name in ("known", "ranks")}, options.off_list) if found else None


def _of_site(options: argparse.Namespace) -> dict[str, float | None]:
    """The thresholds of a file of ``recalibrate``."""
    if options.prior:
        raise UserError("--calibration was fitted without --prior; leave one of them out")
    site = read_site(options.calibration)
    own = next(iter(models.hashes(options.data, options.variant).values()))
    if site["model_sha256"] != own:
        raise UserError(
            f"{options.calibration} is of another model ({site['model']}); run recalibrate on answers of this one, "
            f"{options.variant}"
        )
    thresholds: dict[str, float | None] = site["ranks"]
    return thresholds


def _asked(options: argparse.Namespace, run: _Run, files: Iterable[Path], count: int) -> Iterator[list[Record]]:
    """Yield the records of the files by batches; tells of each file that cannot be read."""
    with models.opened(options.data, options.variant, run.labels) as model:
        batches = records.batches(files, model, run.labels, run.question, run.where, run.observation_of)
        total = -(-count // model.batch)
        for batch in progress(batches, total, f"predict: batches of {model.batch} photographs", model.batch):
            for record in batch:
                if record["error"] is not None:
                    _tell(f"{record['file_name']} has no answer: {record['error']}")
            yield batch


def _write_output(options: argparse.Namespace, run: _Run) -> _Done:
    if not options.output:
        failed = 0

        def answered() -> Iterator[Record]:
            nonlocal failed
            for batch in _asked(options, run, run.files, len(run.files)):
                failed += sum(record["error"] is not None for record in batch)
                yield from batch

        _write(options, run, answered)
        return _Done(failed, {})
    folder = parts.folder_of(options.output)
    left = parts.begin(folder, run.settings, run.files)
    if len(left) < len(run.files):
        _tell(f"{len(run.files) - len(left)} of {len(run.files)} photographs were answered before, and are kept")
    if left:
        for batch in _asked(options, run, left, len(left)):
            parts.add(folder, batch)
    left_out = _write(options, run, lambda: parts.read(folder))
    for name, reason in left_out.items():
        _tell(f"{name} is left out: {reason}")
    _, failed = parts.counts(folder)
    parts.remove(folder)
    return _Done(failed, left_out)


def _write(options: argparse.Namespace, run: _Run, answered: Callable[[], Iterator[Record]]) -> dict[str, str]:
    """Write the output from all records; returns the photographs that it cannot hold, with the reasons."""
    if options.format == "camtrap-dp":
        assert run.camera
        return camtrap.write(options.output, answered, run.origin, run.camera)
    if options.format == "darwin-core":
        darwin_core.write(options.output, answered, run.origin)
    elif options.format == "parquet":
        parquet.write(options.output, answered(), run.origin, run.labels.ids)
    else:
        with _text(options.output) as file:
            if options.format == "csv":
                csv_table.write(file, answered(), run.origin, options.exif, options.prior, options.confirm)
            else:
                megadetector.write(file, answered(), run.origin)
    return {}


@contextmanager
def _text(output: Path | None) -> Iterator[TextIO]:
    """Open the output, which replaces an earlier one when it is complete, or standard output."""
    if output is None:
        yield sys.stdout
        return
    with replacing(output) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        yield file


def _write_xmp(options: argparse.Namespace, run: _Run) -> _Done:
    """Write the answer to each photograph as soon as it is there; those that have it already are not asked again."""
    name = hashlib.sha256(json.dumps(run.settings, sort_keys=True).encode()).hexdigest()
    left_out: dict[str, str] = {}
    failed = 0
    with xmp.exiftool() as ask:
        left = [file for file in run.files if not xmp.is_answered(ask, file, options.in_place, name)]
        if len(left) < len(run.files):
            _tell(f"{len(run.files) - len(left)} of {len(run.files)} photographs were answered before, and are kept")
        for record in (record for batch in _asked(options, run, left, len(left)) for record in batch):
            if record["error"] is not None:
                failed += 1
                continue
            try:
                xmp.write(ask, record, run.origin, options.in_place, name)
            except (xmp.NotWritten, OSError) as error:
                left_out[record["file_name"]] = str(error)
                _tell(f"{record['file_name']} is left as it was: {error}")
    return _Done(failed, left_out)


def _write_log(options: argparse.Namespace, run: _Run, done: _Done, arguments: list[str]) -> None:
    packages = ("numpy", "pillow", "pillow-heif", "pyarrow", "torch")
    log = {
        "program": _PROGRAM,
        "arguments": [places.shown(argument) for argument in arguments],
        "settings": run.settings,
        "model": run.origin.model,
        "model_sha256": run.origin.sha256,
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in packages}},
        "photographs": len(run.files),
        "without_answer": done.failed,
        "left_out": done.left_out,
        "began": run.origin.began,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with _text(options.log) as file:
        file.write(json.dumps(log, indent=1, ensure_ascii=False) + "\n")
