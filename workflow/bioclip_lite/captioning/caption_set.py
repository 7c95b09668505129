"""Read a caption set of the user's in COCO's form: one JSON file and a folder of photographs.

The form is that of captions_train2017.json (arXiv 1504.00325): ``images`` with ``id`` and ``file_name``,
``annotations`` with ``image_id`` and ``caption``, several per photograph. The JSON file is read as a whole; after that
the names and captions stay in memory as compact tables, and photographs are opened one at a time.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from PIL import Image
from torch.utils.data import Dataset

from bioclip_lite.photographs import images, loading
from bioclip_lite.sources import places
from bioclip_lite.sources.sample import Reject
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import digest, drawn

_HELD_OUT = 20  # one in so many photographs measures the training and is not learned from
_CHECKED = 64  # photographs that are checked together


class CaptionSet:
    """Photographs of a folder with one caption or more each; photographs are opened one at a time."""

    def __init__(self, folder: Path, names: pa.Array, captions: pa.Array) -> None:
        """``names``: texts (n,), paths below ``folder``; ``captions``: lists of texts (n,), none of them empty."""
        self.folder, self.names, self.captions = folder, names, captions

    def __len__(self) -> int:
        return len(self.names)

    def key(self, i: int) -> str:
        """The path of photograph ``i`` below the folder, which names it in random numbers."""
        name: str = self.names[i].as_py()
        return name

    def image(self, i: int) -> Image.Image:
        """Photograph ``i``, mode RGB."""
        return images.decode(self.path(i).read_bytes())

    def path(self, i: int) -> Path:
        """The file of photograph ``i``."""
        return self.folder / self.key(i)

    def draw(self, seed: int, epoch: int, i: int) -> str:
        """The caption that photograph ``i`` is shown with in one epoch."""
        captions = self.captions[i]
        text: str = captions[digest("caption set", seed, epoch, self.key(i)) % len(captions)].as_py()
        return text

    def of(self, rows: Sequence[int]) -> "CaptionSet":
        """Some of the photographs."""
        chosen = pa.array(rows, pa.int64())
        return CaptionSet(self.folder, self.names.take(chosen), self.captions.take(chosen))


def read(file: Path, folder: Path) -> tuple[CaptionSet, list[Reject]]:
    """The usable photographs of a caption set with their captions, in the order of their names, and what is not usable.

    Every photograph is opened once, so that training meets no damaged one.

    Raises:
        UserError: ``file`` has another form, or not two of its photographs are usable.
    """
    tables = _load(file)
    names, rejects = _names(tables["images"])
    captions, more = _captions(tables["annotations"], names)
    listed = len(tables["images"])
    del tables
    rejects += more
    rejects += [
        Reject(name, "no caption", f"{file.name} has no usable caption of it")
        for number, name in names.items()
        if number not in captions
    ]
    rows = sorted((names[number], texts) for number, texts in captions.items())
    ordered = pa.array([name for name, _ in rows], pa.string())
    found = CaptionSet(folder, ordered, pa.array([texts for _, texts in rows], pa.list_(pa.string())))
    del names, captions, rows
    good, unusable = _opened(found)
    rejects = sorted([*rejects, *unusable], key=lambda one: (one.locator, one.reason, one.detail))
    if len(good) < 2:
        raise UserError(
            f"{file}: {len(good)} of its {listed} photographs are usable in {folder}, and a training needs 2. "
            f"{summary(rejects)}"
        )
    return found.of(good), rejects


def split(captions: CaptionSet, *names: object) -> tuple[CaptionSet, CaptionSet]:
    """(those to learn from, those that measure the training): one photograph in 20, and at least one, drawn by hash."""
    keys = captions.names.to_pylist()
    held_out = {*drawn(keys, max(1, len(keys) // _HELD_OUT), *names)}
    return captions.of([i for i in range(len(keys)) if i not in held_out]), captions.of(sorted(held_out))


def summary(rejects: Sequence[Reject]) -> str:
    """What was left out, by reason, and the first of it; for messages."""
    if not rejects:
        return "Nothing was left out."
    counts = Counter(reject.reason for reject in rejects)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    first = rejects[0]
    return f"Left out: {reasons}; first {first.locator!r}: {first.reason} ({first.detail})."


def _load(file: Path) -> dict[str, list[Any]]:
    try:
        tables = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); put the file of a caption set there") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON ({str(error)[:100]}); unpack or download it again") from None
    for name in ("images", "annotations"):
        if not isinstance(tables, dict) or not isinstance(tables.get(name), list):
            raise UserError(
                f"{file} has no list {name!r}; a caption set has the form of COCO's captions_train2017.json: "
                '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a bee"}]}'
            )
    return tables


def _names(entries: list[Any]) -> tuple[dict[int | str, str], list[Reject]]:
    """File names by id, and entries of ``images`` that name no photograph of the folder."""
    names: dict[int | str, str] = {}
    rejects = []
    taken: set[str] = set()
    for number, entry in enumerate(entries):
        about = entry if isinstance(entry, dict) else {}
        key, name = about.get("id"), about.get("file_name")
        where = f"images, entry {number}"
        if not isinstance(key, int | str) or not isinstance(name, str) or not name.strip() or not places.writable(name):
            rejects.append(Reject(where, "bad entry", "it lacks id or file_name"))
        elif _leads_out(name):
            rejects.append(Reject(name, "bad entry", "its file_name leads out of the folder of the photographs"))
        elif key in names or name in taken:
            rejects.append(Reject(name, "duplicate", f"an entry before {where} has its id or its file_name"))
        else:
            names[key] = name
            taken.add(name)
    return names, rejects


def _captions(entries: list[Any], names: dict[int | str, str]) -> tuple[dict[int | str, list[str]], list[Reject]]:
    """The captions of each photograph by its id, and entries of ``annotations`` that are no caption of one."""
    captions: dict[int | str, list[str]] = {}
    rejects = []
    for number, entry in enumerate(entries):
        about = entry if isinstance(entry, dict) else {}
        key, text = about.get("image_id"), about.get("caption")
        where = f"annotations, entry {number}"
        words = " ".join(text.split()) if isinstance(text, str) and places.writable(text) else ""
        if not isinstance(key, int | str) or key not in names:
            rejects.append(Reject(where, "bad entry", f"its image_id, {key!r}, is that of no photograph in images"))
        elif not words:
            rejects.append(Reject(where, "bad entry", f"it has no caption for {names[key]}"))
        else:
            captions.setdefault(key, []).append(words)
    return captions, rejects


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or places.is_address(name)


def _opened(found: CaptionSet) -> tuple[list[int], list[Reject]]:
    """The rows whose photographs can be opened, and the others."""
    good, rejects = [], []
    rows = iter(range(len(found)))
    for row, problem in zip(
        rows, progress(_problems(found), len(found), "photographs of the caption set"), strict=True
    ):
        if problem:
            reason, _, detail = problem.partition(": ")
            rejects.append(Reject(found.key(row), reason, detail))
        else:
            good.append(row)
    return good, rejects


def _problems(found: CaptionSet) -> Iterator[str]:
    """For each photograph "" or why it cannot be used, "reason: detail"."""
    plan = loading.chunks(range(len(found)), _CHECKED)
    return (problem for batch in loading.load(_Checked(found), plan) for problem in batch)


class _Checked(Dataset[str]):
    def __init__(self, found: CaptionSet) -> None:
        self.found = found

    def __getitem__(self, i: int) -> str:
        try:
            images.inspect(self.found.path(i).read_bytes(), 1)
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            return f"missing file: {getattr(error, 'strerror', error)}, {self.found.path(i)}"
        except images.BadImage as bad:
            return f"{bad.reason}: {bad.detail}"
        return ""
