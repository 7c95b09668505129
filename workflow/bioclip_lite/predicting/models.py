"""The variants of a model as what is asked of photographs: how each is prepared, and what is said of a batch."""

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from bioclip_lite.evaluation import variants, web_variants
from bioclip_lite.photographs.images import is_plain_jpeg
from bioclip_lite.photographs.preprocess import preprocess
from bioclip_lite.sources import places
from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.teacher_cache import store
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import require
from bioclip_lite.utils.machine import cores
from bioclip_lite.web.bundle import FILE as BUNDLE_FILE

WEB = "tfjs"
_BATCH = 32
_BATCH_IN_NODE = 128  # Node starts anew for each, which takes a second


class Said(NamedTuple):
    """What a model says of one photograph."""

    logits: np.ndarray  # float32 (C,)
    embedding: np.ndarray | None  # float32 (D,), unit; None where the variant has none to give


class Model(NamedTuple):
    """A variant that answers to photographs."""

    batch: int  # photographs that are asked for at once
    prepare: Callable[[Path, bytes, Image.Image], Any]  # of one photograph; runs in threads
    ask: Callable[[Sequence[Any]], list[Said | str]]  # of what ``prepare`` returns; or the reason why there is nothing


def hashes(data: Path, variant: str) -> dict[str, str]:
    """SHA-256 of the files that answers depend on, by their names below ``data``; the first says which model it is.

    That is bundle.json of the web model, which lists the hashes of its other files, and the weights of any other.

    Raises:
        UserError: one of them is missing.
    """
    taxa = data / "index" / "taxa.parquet"
    if variant == WEB:
        files = [data / "convert" / "tfjs" / BUNDLE_FILE, taxa]
    else:
        weights = variants.weights_file(data, variant)
        text = [store.folder(data, FIRST) / "taxa.safetensors"] if variants.reads_texts(data, variant) else []
        files = [weights, *sorted(weights.parent.glob("*.json")), taxa, *text]
    return {file.relative_to(data).as_posix(): _sha256(require(file)) for file in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def opened(data: Path, variant: str, labels: Labels) -> Iterator[Model]:
    """Load a variant of IN_PYTORCH, or the web model, which Node runs with its own decoder and resampler.

    Raises:
        UserError: a part of it is missing or does not fit, or Node cannot run it.
    """
    if variant != WEB:
        torch.set_num_threads(cores())
        yield _in_pytorch(data, variant, labels)
        return
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as scratch:
        yield _in_node(data, labels, Path(scratch))


def _in_pytorch(data: Path, variant: str, labels: Labels) -> Model:
    prepared, answer = variants.load(data, variant, labels)

    def ask(pixels: Sequence[np.ndarray]) -> list[Said | str]:
        block = answer(torch.from_numpy(np.stack(pixels)))
        embeddings = [None] * len(pixels) if block.embeddings is None else block.embeddings
        return [Said(*both) for both in zip(block.logits, embeddings, strict=True)]

    return Model(_BATCH, lambda _file, _content, image: preprocess(image, prepared), ask)


def _in_node(data: Path, labels: Labels, scratch: Path) -> Model:
    logits = web_variants.for_files(data, labels)
    blank = scratch / "blank.png"
    Image.new("RGB", (8, 8)).save(blank)
    logits([blank])  # a later failure is caused by a photograph
    numbers = itertools.count()

    def prepare(file: Path, content: bytes, image: Image.Image) -> Path:
        """The file itself if Node finds and reads it; otherwise its image decoded by Python, as PNG."""
        beginning = content[:4], content[8:12]
        plain = content[:4] == b"\x89PNG" or beginning == (b"RIFF", b"WEBP") or is_plain_jpeg(content)
        if plain and places.writable(str(file)):
            return file
        copy = scratch / f"{next(numbers)}.png"
        image.save(copy)
        return copy

    def ask(files: Sequence[Path]) -> list[Said | str]:
        said = _halved(logits, files)
        for file in files:
            if file.parent == scratch:
                file.unlink()
        return said

    return Model(_BATCH_IN_NODE, prepare, ask)


def _halved(logits: Callable[[Sequence[Path]], np.ndarray], files: Sequence[Path]) -> list[Said | str]:
    """The answers to files; where one stops the rest, those before and after it on their own."""
    try:
        return [Said(row, None) for row in logits(files)]
    except UserError as error:
        if len(files) == 1:
            return [str(error)]
        half = len(files) // 2
        return _halved(logits, files[:half]) + _halved(logits, files[half:])
