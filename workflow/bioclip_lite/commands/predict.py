"""``python -m bioclip_lite predict IMAGES...``: classify photographs, as CSV with the columns of pybioclip first.

The two columns after those say whether an answer is a taxon of which no photograph was learned from, and what the
species list says of it.

Probabilities use the temperature, and back-off the thresholds, that stage evaluate fitted for the variant.
--variant tfjs runs the web model as it ships, in Node, with its own decoder and resampler.
"""

import argparse
import csv
import glob
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image

from bioclip_lite.commands.common import command
from bioclip_lite.evaluation import variants, web_variants
from bioclip_lite.metrics import calibration
from bioclip_lite.metrics.ranks import capped, softmax, sum_up, uncapped
from bioclip_lite.photographs.images import BadImage, decode
from bioclip_lite.photographs.preprocess import preprocess
from bioclip_lite.taxa.label_space import Labels, read_labels
from bioclip_lite.taxa.taxonomy import RANKS, label_rank, scientific_name
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, read_json, replacing, require
from bioclip_lite.utils.progress import progress

# Those of pybioclip, then what the training and the species list say of the answer.
COLUMNS = ("file_name", *RANKS[:-1], "species_epithet", "species", "common_name", "score", "zero_shot", "note")
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
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
    files = image_files(options.images, sys.stdin)
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


def image_files(names: Sequence[str], listed: TextIO) -> list[Path]:
    """The files that arguments stand for, each once, in their order; a folder's sorted, with those of its folders.

    Args:
        names: files, folders, patterns; "-" stands for the lines of ``listed``.

    Raises:
        UserError: a name stands for nothing.
    """
    files: dict[Path, None] = {}
    for name in names:
        some = [line for line in listed.read().splitlines() if line.strip()] if name == "-" else [name]
        for one in some:
            path = Path(one)
            if path.is_dir():
                here = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
            elif path.is_file():
                here = [path]
            else:
                here = sorted(Path(match) for match in glob.glob(one, recursive=True) if Path(match).is_file())
            if not here:
                problem = "the folder holds no image" if path.is_dir() else "there is no such file, folder or match"
                raise UserError(f"{one}: {problem}; images end in {', '.join(sorted(ENDINGS))}")
            files |= dict.fromkeys(here)
    return list(files)


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
    """The file itself if Node reads its format; otherwise its image decoded by Python, as PNG."""
    with file.open("rb") as opened:
        head = opened.read(12)
    if head[:2] == b"\xff\xd8" or head[:4] == b"\x89PNG" or (head[:4], head[8:]) == (b"RIFF", b"WEBP"):
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
    print(f"predict: {name} is left out: {error}", file=sys.stderr)
    unread.append(name)


def _write(file: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row)
        file.flush()
