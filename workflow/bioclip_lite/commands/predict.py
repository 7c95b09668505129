"""``python -m bioclip_lite predict IMAGES...``: classify photographs, as CSV with the columns of pybioclip first.

The two columns after those say whether an answer is a taxon of which no photograph was learned from, and what the
species list says of it.

Probabilities use the temperature, and back-off the thresholds, that stage evaluate fitted for the variant.
--variant tfjs runs the web model as it ships, in Node, with its own decoder and resampler.
"""

import argparse
import csv
import glob
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
from PIL import Image

from bioclip_lite.commands.common import command
from bioclip_lite.evaluation import variants, web_variants
from bioclip_lite.metrics import calibration
from bioclip_lite.metrics.ranks import capped, softmax, sum_up, uncapped
from bioclip_lite.photographs.images import READ, BadImage, decode, is_plain_jpeg
from bioclip_lite.photographs.preprocess import preprocess
from bioclip_lite.sources import places
from bioclip_lite.taxa.label_space import Labels, read_labels
from bioclip_lite.taxa.taxonomy import RANKS, label_rank, scientific_name
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, read_json, replacing, require
from bioclip_lite.utils.progress import progress

# Those of pybioclip, then what the training and the species list say of the answer.
COLUMNS = ("file_name", *RANKS[:-1], "species_epithet", "species", "common_name", "score", "zero_shot", "note")
WEB = "tfjs"
_BATCH = 32
_BATCH_IN_NODE = 128  # Node starts anew for each, which takes a second


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "predict",
        "Name what photographs show, as CSV with the columns of pybioclip. Probabilities use the temperature, and "
        "--back-off the thresholds, that stage evaluate fitted for the model.",
    )
    parser.add_argument(
        "images",
        nargs="+",
        help="files, folders, patterns such as 'trip/*.jpg', or - for a list on standard input",
    )
    parser.add_argument(
        "--variant",
        choices=(*variants.IN_PYTORCH, WEB),
        default="int8",
        help=f"model to ask (default: int8, in PyTorch; {WEB}: the web model with its own decoder, in Node)",
    )
    parser.add_argument("--rank", choices=RANKS, default="species", help="rank of the answers (default: species)")
    parser.add_argument("--k", type=int, default=5, help="answers per photograph (default: 5)")
    parser.add_argument(
        "--back-off",
        action="store_true",
        help="give one answer per photograph, at the lowest rank that is certain enough, or none",
    )
    parser.add_argument("--output", type=Path, help="CSV file to write (default: standard output)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    return parser


@command("predict")
def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.k < 1:
        raise UserError(f"--k {options.k}: at least one answer is needed")
    if options.output:
        check_file(options.output, ",".join(COLUMNS))
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as the names of files on the command line are read
    found = image_files(options.images, sys.stdin)
    if found.others:
        print(f"predict: not read: {_counted(found.others)}; export photographs among them as JPEG", file=sys.stderr)
    files = found.images
    labels = read_labels(options.data)
    evaluated = read_json(require(options.data / "evaluate" / "metrics.json"))["variants"]
    if options.variant not in evaluated:
        raise UserError(
            f"{options.variant} was not evaluated, so it has no fitted temperature: name it in evaluate.also "
            f"of params.yaml and run stage evaluate, or take one of {', '.join(evaluated)}"
        )
    measured = evaluated[options.variant]
    thresholds = measured["back_off"]["thresholds"] if options.back_off else None
    if thresholds is not None and all(limit is None for limit in thresholds.values()):
        raise UserError(
            f"{options.variant} has no thresholds to back off with: on split calibration no threshold is correct "
            "often enough, or there are too few photographs (data/evaluate/report.html); leave out --back-off, or "
            "raise index.split.calibration in params.yaml"
        )
    answered = _in_node if options.variant == WEB else _in_pytorch
    unread: list[str] = []
    rows = (
        row
        for names, logits in answered(options.data, options.variant, labels, files, unread)
        for row in answers(
            names,
            softmax(logits / measured["calibration"]["temperature"]),
            labels,
            options.rank,
            options.k,
            thresholds,
        )
    )
    if options.output:
        with replacing(options.output) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
            _write(file, rows)
    else:
        _write(sys.stdout, rows)
    if unread:
        print(f"predict: {len(unread)} of {len(files)} files left out, see above", file=sys.stderr)
    return 1 if unread else 0


class Found(NamedTuple):
    """The files that the arguments of the command stand for."""

    images: list[Path]
    others: Counter[str]  # endings of further files in folders, which do not look like photographs that are read


def image_files(names: Sequence[str], listed: TextIO) -> Found:
    """Find the files that arguments stand for, each once, in their order; a folder's sorted, with those of its folders.

    Hidden and system files and folders in a folder, or among the matches of a pattern, are left out.

    Args:
        names: files, folders, patterns; "-" stands for the lines of ``listed``.

    Raises:
        UserError: a name stands for nothing.
    """
    images: dict[Path, None] = {}
    others: Counter[str] = Counter()
    for name in names:
        some = [line for line in listed.read().splitlines() if line.strip()] if name == "-" else [name]
        for one in some:
            here, besides = _found(one)
            if not here:
                nothing = "there is no such file, folder or match"
                if Path(one).is_dir():
                    nothing = f"the folder holds no image{f', but {_counted(besides)}' if besides else ''}"
                raise UserError(f"{places.shown(one)}: {nothing}; images end in {', '.join(sorted(READ))}")
            images |= dict.fromkeys(here)
            others += besides
    return Found(list(images), others)


def _found(name: str) -> tuple[list[Path], Counter[str]]:
    """The images that one argument stands for, and the endings of the other files of a folder."""
    path = Path(name)
    if path.is_file():
        return [path], Counter()
    if not path.is_dir():
        return _matches(name), Counter()
    files = [path / file for file in places.files_in(path)]
    images = [file for file in files if file.suffix.lower() in READ]
    return sorted(images), Counter(file.suffix.lower() for file in files if file.suffix.lower() not in READ)


def _matches(pattern: str) -> list[Path]:
    """The files that match; folders that are called as they are spelt ("trip[2023]") are meant themselves."""
    literal, parts = Path(), Path(pattern).parts
    while parts and (literal / parts[0]).is_dir():
        literal, parts = literal / parts[0], parts[1:]
    matches = glob.glob(str(Path(*parts)), root_dir=literal, recursive=True)
    return sorted(literal / match for match in matches if (literal / match).is_file() and not places.hidden(match))


def _counted(endings: Counter[str]) -> str:
    """ "2 .cr2, 1 without ending"."""
    named = ((number, places.shown(ending) or "without ending") for ending, number in sorted(endings.items()))
    return ", ".join(f"{number} {ending}" for number, ending in named)


def answers(
    names: Sequence[str],
    probabilities: np.ndarray,
    labels: Labels,
    rank: str,
    k: int,
    thresholds: calibration.Thresholds | None,
) -> Iterator[dict[str, Any]]:
    """Rows of the table, by COLUMNS.

    Args:
        names: n file names.
        probabilities: float64 [n, C].
        labels: taxa of the columns.
        rank, k: the k most probable nodes at this rank, the best first. Taxa whose ``finest_rank`` is higher give way
            to their node at that one; its score is the probability of all taxa below it, as everywhere.
        thresholds: instead of those the one answer with back-off; without an answer only the file name is filled.
    """
    named = capped(labels.node_of_leaf, labels.finest_rank)
    if thresholds is not None:
        share, node = calibration.best_nodes(probabilities, named)
        where = calibration.lowest(share, thresholds)
        for number, name in enumerate(names):
            at = int(where[number])
            row = _row(at, int(node[number, at]), named[at], probabilities[number], labels) if at >= 0 else {}
            yield {"file_name": name, **row}
        return
    at = RANKS.index(rank)
    numbers = np.unique(named[at][named[at] >= 0])
    for name, leaves, summed in zip(names, probabilities, sum_up(probabilities, named[at]), strict=True):
        for place in np.argsort(-summed, kind="stable")[:k]:
            yield {"file_name": name, **_row(at, int(numbers[place]), named[at], leaves, labels)}


def _row(at: int, number: int, named: np.ndarray, probabilities: np.ndarray, labels: Labels) -> dict[str, Any]:
    """What a row says of a node: the one of this number among the names of the leaves at a rank, int [C] (``capped``).

    Args:
        probabilities: float64 [C], of one photograph.
    """
    rank, node = uncapped(number, at, len(labels.ids))
    path = (*labels.nodes[rank][node], *[None] * (len(RANKS) - rank - 1))
    below = np.flatnonzero(labels.node_of_leaf[rank] == node)
    row: dict[str, Any] = {"score": f"{probabilities[below].sum():.6g}"}
    row |= {rank: value for rank, value in zip(RANKS[:-1], path, strict=False) if value}
    if path[-1]:
        common = labels.common_names[below[0]] or ""
        row |= {"species_epithet": path[-1], "species": scientific_name(path), "common_name": common}
    best = int(np.where(named == number, probabilities, -1).argmax())
    return row | {"zero_shot": "yes" if labels.zero_shot[below].all() else "", "note": _note(rank, best, labels)}


def _note(rank: int, leaf: int, labels: Labels) -> str:
    """What the list says of the most probable leaf of an answer, if the answer is as fine as it may be."""
    taxon, note = labels.leaves[leaf], labels.notes[leaf]
    if rank != label_rank(taxon[: labels.finest_rank[leaf] + 1]):
        return ""
    capped_at = f"not told apart below the {RANKS[rank]}" if rank < label_rank(taxon) else ""
    return ": ".join(part for part in (capped_at, note) if part)


def _in_pytorch(
    data: Path, variant: str, labels: Labels, files: Sequence[Path], unread: list[str]
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield names of photographs and their logits, float32 [rows, C]; files that are left out are reported and
    added to ``unread``."""
    prepared, logits = variants.load(data, variant, labels)
    for batch in _batches(files, _BATCH):
        read = [(str(file), preprocess(image, prepared)) for file, image in _decoded(batch, unread)]
        if read:
            yield [name for name, _ in read], logits(torch.from_numpy(np.stack([pixels for _, pixels in read])))


def _in_node(
    data: Path, variant: str, labels: Labels, files: Sequence[Path], unread: list[str]
) -> Iterator[tuple[list[str], np.ndarray]]:
    """As ``_in_pytorch``, of the web model, which decodes and scales the files itself."""
    logits = web_variants.for_files(data, labels)
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as scratch:
        blank = Path(scratch) / "blank.png"
        Image.new("RGB", (8, 8)).save(blank)
        logits([blank])  # a later failure is caused by a photograph
        for batch in _batches(files, _BATCH_IN_NODE):
            ready = {str(file): _for_node(file, image, Path(scratch)) for file, image in _decoded(batch, unread)}
            yield from _halved(logits, ready, unread)
            for file in Path(scratch).iterdir():
                file.unlink()


def _halved(
    logits: Callable[[Sequence[Path]], np.ndarray], ready: Mapping[str, Path], unread: list[str]
) -> Iterator[tuple[list[str], np.ndarray]]:
    """The answers to files by name; where one stops the rest, those before and after it on their own."""
    names = list(ready)
    if not names:
        return
    try:
        yield names, logits([ready[name] for name in names])
    except UserError as error:
        if len(names) == 1:
            _leave_out(names[0], error, unread)
            return
        for part in (names[: len(names) // 2], names[len(names) // 2 :]):
            yield from _halved(logits, {name: ready[name] for name in part}, unread)


def _for_node(file: Path, image: Image.Image, scratch: Path) -> Path:
    """The file itself if Node finds and reads it; otherwise its image decoded by Python, as PNG."""
    content = file.read_bytes()
    plain = content[:4] == b"\x89PNG" or (content[:4], content[8:12]) == (b"RIFF", b"WEBP") or is_plain_jpeg(content)
    if plain and places.writable(str(file)):
        return file
    copy = scratch / f"{len(list(scratch.iterdir()))}.png"
    image.save(copy)
    return copy


def _batches(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    starts = range(0, len(files), size)
    for start in progress(starts, len(starts), f"predict: batches of {size} photographs", size):
        yield files[start : start + size]


def _decoded(files: Sequence[Path], unread: list[str]) -> Iterator[tuple[Path, Image.Image]]:
    """The photographs that can be read, one at a time."""
    for file in files:
        try:
            image = decode(file.read_bytes())
        except (BadImage, OSError) as error:
            _leave_out(str(file), error, unread)
            continue
        yield file, image


def _leave_out(name: str, error: Exception, unread: list[str]) -> None:
    print(f"predict: {places.shown(name)} is left out: {error}", file=sys.stderr)
    unread.append(name)


def _write(file: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "file_name": places.shown(row["file_name"])})
        file.flush()
