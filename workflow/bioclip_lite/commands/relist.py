"""``python -m bioclip_lite relist LIST --output FOLDER``: a bundle for another species list, without training.

The bundle is that of the finished run in data/, or one that came from elsewhere. ``web.relisting`` has the work.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bioclip_lite.commands.common import command
from bioclip_lite.evaluation import relisted as evaluation
from bioclip_lite.indexing import placing
from bioclip_lite.models import identified, teachers
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.defaults import defaults
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_folder, replacing_folder, write_json
from bioclip_lite.web import budget, bundle, confidence, manifest, relisting
from bioclip_lite.web.parent import Parent, known_of_bundle, known_of_run, read_parent

REPORT = "report.json"
NAMES = (*bundle.NAMES, REPORT)  # of the files in a folder that this command writes


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "relist",
        "Make a bundle that tells the taxa of another species list apart, from the bundle of a finished run or from "
        "any other, without training. Taxa that it does not know are named by its teacher's text tower; thresholds "
        "are fitted again on the calibration photographs of the taxa in the list.",
    )
    parser.add_argument("list", help="text with a name per line, or a table, as for index.species_list")
    parser.add_argument("--output", type=Path, required=True, help="folder to write: the new bundle and report.json")
    parser.add_argument(
        "--bundle", type=Path, help="bundle from elsewhere (default: data/convert/tfjs and the taxa of data/index)"
    )
    parser.add_argument(
        "--teacher",
        help="teacher of the bundle: a folder like data/teacher/model, which is the default, or what "
        "teacher.pretrained.model takes, e.g. hf-hub:imageomics/bioclip",
    )
    parser.add_argument("--weights", help="with the name of an open_clip model: what teacher.pretrained.weights takes")
    parser.add_argument(
        "--calibration",
        type=Path,
        help=f"{confidence.FILE} that stage convert wrote with the bundle (default, without --bundle: data/convert's); "
        "without it the new bundle has no thresholds",
    )
    parser.add_argument(
        "--taxa-bytes",
        type=int,
        help="budget of the table of taxa, in bytes: over it, species with few photographs give way to one "
        "representative of their genus (default: a list above the default of convert.taxa_bytes is refused)",
    )
    parser.add_argument("--sign-with", help="Ed25519 private key in PEM, as convert.sign_with, for the new bundle")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    return parser


@command("relist")
def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    check_folder(options.output, NAMES)
    folder = options.bundle or options.data / "convert" / "tfjs"
    if options.output.resolve() == folder.resolve():
        raise UserError(f"{options.output} is the bundle that the new one is made from; name another folder")
    key = manifest.read_private_key(options.sign_with, options.data)
    parent = read_parent(folder)
    known = known_of_bundle(parent) if options.bundle else known_of_run(options.data)
    species_list = Path(options.list)
    placed = placing.read(species_list, known.names)
    for warning in placing.warnings(placed):
        print(f"relist: {warning}")
    if options.taxa_bytes is None:
        budget.check(len(placed.leaves), parent.width, defaults()["convert"]["taxa_bytes"], "refuse")
    photographs = _photographs(options, parent)
    limits = relisting.Limits(options.taxa_bytes, defaults()["convert"]["whole_table"])
    relisted = relisting.relist(parent, known, placed, lambda: _teacher(options, parent), photographs, limits)
    accuracy = evaluation.accuracy(options.data, parent, relisted, photographs) if photographs else None
    with replacing_folder(options.output, NAMES) as scratch:
        about = relisting.write(scratch, parent, relisted, species_list, key)
        write_json(scratch / REPORT, relisted.report | {"bytes": about["bytes"], "accuracy": accuracy})
    print(f"relist: {relisting.summary(relisted)}")
    if accuracy:
        print(f"relist: {_sentence(accuracy)}")
    print(f"relist: the bundle is in {options.output}, {about['bytes'] / 1e6:.2f} MB")
    return 0


def _photographs(options: argparse.Namespace, parent: Parent) -> confidence.Photographs | None:
    """The calibration photographs of a run, or of the file that came with a bundle."""
    path = options.calibration
    if path is None and not options.bundle:
        path = options.data / "convert" / confidence.FILE
    return confidence.read(path, parent.weights_sha256, parent.width) if path else None


def _teacher(options: argparse.Namespace, parent: Parent) -> teachers.Teacher:
    own = options.data / "teacher" / "model"
    if options.teacher is None and not (own / teachers.TEACHER_FILE).is_file():
        raise UserError(
            "the list has names that the bundle has no row for, and their rows come from the teacher that it was made "
            f"with, {parent.about['provenance']['teacher']}, which is not in {own}: name it with --teacher"
        )
    return identified.load(options.teacher or str(own), options.weights, options.data / "weights", parent.teacher)


def _sentence(accuracy: dict[str, Any]) -> str:
    ranks = " and ".join(
        f"the {rank} of {accuracy[rank]['right']:.1%} of {accuracy[rank]['of']}"
        for rank in ("species", "genus")
        if accuracy[rank]["of"]
    )
    answers, told = accuracy["answers"], ""
    if answers["of"]:
        told = f"; it answers {answers['given']:.1%}, {answers['right']:.1%} of them right"
    return f"of {accuracy['photographs']} test photographs of the list's taxa it names {ranks}{told}"
