"""Records: what is known of each photograph after a model was asked, from which all outputs are made."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import numpy as np
import pyarrow as pa
from PIL import Image

from bioclip_lite.metrics import calibration
from bioclip_lite.photographs.images import BadImage, Capture, capture, decode
from bioclip_lite.predicting.answers import Answer, answers, best_path
from bioclip_lite.predicting.expected import Places
from bioclip_lite.predicting.models import Model, Said
from bioclip_lite.predicting.observations import Observations
from bioclip_lite.predicting.on_list import OffList, allowing, on_list
from bioclip_lite.sources import places
from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.utils.machine import cores
from bioclip_lite.web import prior
from bioclip_lite.web.prior import Expectation

_AHEAD = 2  # photographs per core that are read before the model takes them
_NOTHING = Capture("", None, None, None, None, None)
SCHEMA = pa.schema(
    {
        "file": pa.binary(),
        "file_name": pa.string(),
        "size": pa.int64(),
        "modified": pa.int64(),
        "sha256": pa.string(),
        "error": pa.string(),
        "media_type": pa.string(),
        "time": pa.string(),
        "offset": pa.string(),
        "latitude": pa.float64(),
        "longitude": pa.float64(),
        "camera": pa.string(),
        "answers": pa.list_(
            pa.struct(
                {
                    "rank": pa.string(),
                    "path": pa.list_(pa.string()),
                    "scientific_name": pa.string(),
                    "common_name": pa.string(),
                    "score": pa.float64(),
                    "threshold": pa.float64(),
                    "zero_shot": pa.bool_(),
                    "note": pa.string(),
                    "unexpected": pa.bool_(),
                }
            )
        ),
        "on_list": pa.float64(),
        "best": pa.list_(pa.string()),
        "best_scores": pa.list_(pa.float64()),
        "embedding": pa.list_(pa.float32()),
        "probabilities": pa.list_(pa.float32()),
    }
)


class Record(TypedDict):
    """One photograph. Fields of a photograph that cannot be read are None but for the first four and ``error``."""

    file: bytes  # its path as the system spells it
    file_name: str  # its path as text
    size: int  # bytes; -1 where there is no file
    modified: int  # nanoseconds since 1970; -1 where there is no file
    sha256: str | None  # of the content of the file
    error: str | None  # why there is no answer; None where a model was asked
    media_type: str | None
    time: str | None  # when it was taken, ISO 8601, of the camera's clock
    offset: str | None  # of that clock from UTC
    latitude: float | None  # degrees
    longitude: float | None
    camera: str | None  # make and model
    answers: list[Answer]
    on_list: float | None  # probability that it shows a taxon of the list; None where that was not fitted
    best: list[str | None]  # names from the kingdom down, to the lowest rank with a taxon of half the probability
    best_scores: list[float]  # the probability of each; 0 where the rank has none
    embedding: list[float] | None
    probabilities: list[float] | None  # of all leaves


class Question(NamedTuple):
    """What is asked of every photograph."""

    temperature: float
    rank: str
    k: int
    thresholds: calibration.Thresholds | None
    off_list: OffList | None  # None where it was not fitted
    fitted: bool  # whether these are fitted ones, which differ with a prior
    paths: bool  # whether records hold the best path
    embeddings: bool  # whether records hold them
    probabilities: bool  # whether records hold those of all leaves


class _Read(NamedTuple):
    record: Record  # without answers
    ready: Any  # what ``Model.prepare`` returned; None if the file cannot be read


_Told = tuple[Record, Said | None]
_Shared = Literal["answers", "on_list", "best", "best_scores", "probabilities"]
_SHARED: tuple[_Shared, ...] = get_args(_Shared)  # fields that all photographs of an observation have in common


def path_of(record: Record) -> Path:
    """The path of a photograph as it was given."""
    return Path(os.fsdecode(record["file"]))


def state(file: Path) -> tuple[int, int]:
    """Size and time of change of a file, by which one that was answered is known again; (-1, -1) if it is missing."""
    try:
        about = file.stat()
    except (OSError, ValueError):
        return -1, -1
    return about.st_size, about.st_mtime_ns


def fingerprint(observation_of: Observations) -> str:
    """SHA-256 of the photographs' paths, sizes and times of change, observation by observation."""
    digest = hashlib.sha256()
    for _, files in groupby(observation_of, key=observation_of.__getitem__):
        digest.update(repr([(os.fsencode(file), *state(file)) for file in files]).encode())
    return digest.hexdigest()


def batches(
    files: Iterable[Path],
    model: Model,
    labels: Labels,
    question: Question,
    where: Places | None,
    observation_of: Observations | None,
) -> Iterator[list[Record]]:
    """Yield the records of the photographs, in their order, by batches of the model, and observations as a whole.

    Threads read and prepare some photographs ahead on all cores; no more than those are in memory.

    Args:
        where: the prior of place and month, for photographs that state both; of an observation the first that does.
        observation_of: the photographs that have one answer, side by side in ``files``; None: each has its own.
    """
    read = _read_ahead(files, model.prepare)
    waiting: list[_Told] = []  # photographs of an observation that may go on
    while batch := list(islice(read, model.batch)):
        ready = [photograph.ready for photograph in batch if photograph.record["error"] is None]
        said = iter(model.ask(ready) if ready else [])
        told = [_told(record, said) for record, _ in batch]
        complete = _observations([*waiting, *told], observation_of)
        waiting = complete.pop() if observation_of else []
        yield _answer(complete, labels, question, where)
    if waiting:
        yield _answer([waiting], labels, question, where)


def _told(record: Record, said: Iterator[Said | str]) -> _Told:
    """What a model said of a photograph; None of one that cannot be read, or that it cannot answer."""
    if record["error"] is None:
        found = next(said)
        if not isinstance(found, str):
            return record, found
        record["error"] = found
    return record, None


def _observations(told: Sequence[_Told], observation_of: Observations | None) -> list[list[_Told]]:
    """Each photograph alone, or neighbours that are of one observation."""
    if observation_of is None:
        return [[one] for one in told]
    return [list(group) for _, group in groupby(told, key=lambda one: observation_of[path_of(one[0])])]


def _answer(
    complete: Sequence[Sequence[_Told]], labels: Labels, question: Question, where: Places | None
) -> list[Record]:
    """Write one answer into the records of each observation; returns all records, in their order."""
    spoken = [[(record, said) for record, said in told if said] for told in complete]
    asked = [_as_one(told, where) for told in spoken if told]
    for placed in (None, where) if where else (None,):
        group = [one for one in asked if (one[2] is None) == (placed is None)]
        if group:
            _answer_group(group, labels, question, placed)
    _look_for_others([(record, said) for record, said, _ in asked], labels, question)
    for (answered, _, _), told in zip(asked, filter(None, spoken), strict=True):
        for record, said in told:
            for name in _SHARED:
                record[name] = answered[name]
            if question.embeddings and said.embedding is not None:
                record["embedding"] = said.embedding.tolist()
    return [record for told in complete for record, _ in told]


def _as_one(told: Sequence[tuple[Record, Said]], where: Places | None) -> tuple[Record, Said, Expectation | None]:
    """Merge an observation: the photograph whose place and month count, the mean of the logits, what is expected there.

    The softmax of the mean is that of the log-probabilities' mean, made to sum to one.
    """
    merged = Said(np.mean([said.logits for _, said in told], axis=0), None)
    for record, _ in told:
        found = where.expect(record) if where else None
        if found:
            return record, merged, found
    return told[0][0], merged, None


def _answer_group(
    group: Sequence[tuple[Record, Said, Expectation | None]], labels: Labels, question: Question, where: Places | None
) -> None:
    """Answer photographs that all have a place and month that ``where`` knows, or, where that is None, none of them."""
    records, said_of, expected = zip(*group, strict=True)
    temperature, thresholds, unexpected = question.temperature, question.thresholds, None
    if where:
        temperature, unexpected = where.temperature, np.stack([one.unexpected for one in expected])
        thresholds = where.thresholds if question.fitted else thresholds
    logits = np.stack([said.logits for said in said_of])
    probabilities = prior.combine(logits, temperature, expected, where.prior.weight if where else 0.0)
    found = answers(probabilities, labels, question.rank, question.k, thresholds, unexpected)
    for record, row, best in zip(records, probabilities, found, strict=True):
        record["answers"] = best
        record["best"], record["best_scores"] = best_path(row, labels) if question.paths else ([], [])
        if question.probabilities:
            record["probabilities"] = row.tolist()


def _look_for_others(answered: Sequence[tuple[Record, Said]], labels: Labels, question: Question) -> None:
    """Write into records whether they are on the list; where asked for, the answers that allow for others too."""
    if question.off_list is None or not answered:
        return
    logits = np.stack([said.logits for _, said in answered])
    probable = on_list(logits, question.off_list)
    for (record, _), known in zip(answered, probable, strict=True):
        record["on_list"] = float(known[-1])
    if question.off_list.answers:
        found = allowing(logits, question.temperature, labels, probable, question.off_list)
        for (record, _), best in zip(answered, found, strict=True):
            record["answers"] = best


def _read_ahead(files: Iterable[Path], prepare: Callable[[Path, bytes, Image.Image], Any]) -> Iterator[_Read]:
    waiting: deque[Future[_Read]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        try:
            for file in files:
                waiting.append(pool.submit(_read, file, prepare))
                if len(waiting) > _AHEAD * cores():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read(file: Path, prepare: Callable[[Path, bytes, Image.Image], Any]) -> _Read:
    size, modified = state(file)
    try:
        if size < 0:
            raise FileNotFoundError("there is no such file")
        content = file.read_bytes()
        image = decode(content)
        about, digest = capture(content), hashlib.sha256(content).hexdigest()
        return _Read(_record(file, size, modified, about, digest, None), prepare(file, content, image))
    except (BadImage, OSError) as error:
        return _Read(_record(file, size, modified, _NOTHING, None, str(error)), None)


def _record(
    file: Path, size: int, modified: int, about: Capture, digest: str | None, error: str | None
) -> Record:  # fmt: skip
    return {
        "file": os.fsencode(file),
        "file_name": places.shown(str(file)),
        "size": size,
        "modified": modified,
        "sha256": digest,
        "error": error,
        **{**about._asdict(), "media_type": about.media_type or None},  # type: ignore[typeddict-item]
        "answers": [],
        "on_list": None,
        "best": [],
        "best_scores": [],
        "embedding": None,
        "probabilities": None,
    }
