"""The teacher's embeddings of the captions that captioners wrote, for students that read.

data/logits/texts/<captioner>/<shard>.safetensors holds, for n photographs with N captions each, "embeddings" float16
(n, N, D), L2-normalised, 0 for a caption that is empty; "text" uint8, all captions one after the other in UTF-8; and
"ends" uint64 (n, N), where each of them ends in it. The texts are there so that a student's training maps all that it
reads from files. Metadata are the sample keys and the teacher.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.tensors import write_tensors

FOLDER = "texts"  # in data/logits
_REMEDY = "make it again: snakemake --cores all logits --forcerun embed_captions"


@dataclass(frozen=True)
class ShardOfCaptions:
    """What a captioner said of the photographs of one shard; tensors are mapped from the file when they are read."""

    tensors: Mapping[str, np.ndarray]
    teacher: str

    @property
    def embeddings(self) -> np.ndarray:
        """float16 (n, N, D)."""
        return self.tensors["embeddings"]

    @property
    def ends(self) -> np.ndarray:
        """uint64 (n, N)."""
        return self.tensors["ends"]

    def of(self, row: int) -> list[tuple[str, np.ndarray]]:
        """The captions of a photograph that are not empty, with their embeddings, float16 (D,)."""
        embeddings, ends, text = self.embeddings, self.ends, self.tensors["text"]
        count = ends.shape[1]
        place = row * count
        bounds = [int(end) for end in ends.reshape(-1)[max(0, place - 1) : place + count]]
        starts = bounds if place else [0, *bounds]
        said = [bytes(text[a:b]).decode() for a, b in pairwise(starts)]
        return [(caption, embeddings[row, n]) for n, caption in enumerate(said) if caption]


def path(data: Path, captioner: str, shard: str) -> Path:
    """The file with the captions of one captioner of one shard."""
    return store.folder(data) / FOLDER / captioner / f"{shard}.safetensors"


def write(
    path: Path, keys: Sequence[str], texts: Sequence[Sequence[str]], embeddings: np.ndarray, teacher: str
) -> None:
    """Write the captions of one shard: ``texts`` n times N, "" for none, and ``embeddings`` (n, N, D), as float16."""
    encoded = [text.encode() for text in chain.from_iterable(texts)]
    ends = np.cumsum([len(text) for text in encoded], dtype="<u8").reshape(embeddings.shape[:2])
    text = np.frombuffer(b"".join(encoded), np.uint8)
    tensors = {"ends": ends, "embeddings": embeddings.astype("<f2"), "text": text}  # widest first: all are aligned
    write_tensors(path, tensors, {"keys": json.dumps(list(keys)), "teacher": teacher})


def read(path: Path) -> tuple[list[str], ShardOfCaptions]:
    """The sample keys of a shard and its captions; UserError if ``path`` holds something else."""
    arrays, metadata = store.map_tensors(path)
    try:
        keys, teacher = json.loads(metadata["keys"]), metadata["teacher"]
        embeddings, ends, _ = arrays["embeddings"], arrays["ends"], arrays["text"]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} does not hold captions of photographs (no {error}); {_REMEDY}") from error
    if embeddings.shape[:2] != ends.shape or len(keys) != len(ends):
        raise UserError(
            f"{path}: {len(keys)} keys, embeddings {embeddings.shape} and ends {ends.shape} do not fit; {_REMEDY}"
        )
    return keys, ShardOfCaptions(arrays, teacher)


def read_all(
    data: Path, captioners: Sequence[str], shards: Sequence[str], keys: Iterable[list[str]], teacher: str
) -> list[list[ShardOfCaptions]]:
    """For each of ``shards`` the captions of every captioner, checked to belong to what a student learns from.

    Args:
        keys: of the photographs of each of ``shards``; those that a student learns from beyond them may follow.
        teacher: the identity of the teacher.

    Raises:
        UserError: a file is missing, of other photographs, or of another teacher.
    """
    found: list[list[ShardOfCaptions]] = []
    for shard, photographs in zip(shards, keys, strict=False):
        here = []
        for captioner in captioners:
            file = path(data, captioner, shard)
            own, captions = read(file)
            if captions.teacher != teacher:
                raise UserError(
                    f"{file} was embedded by teacher {captions.teacher[:12]}, the taxa by {teacher[:12]}; {_REMEDY}"
                )
            if own != photographs:
                raise UserError(f"{file} is of other photographs than the shard; {_REMEDY}")
            here.append(captions)
        found.append(here)
    return found
