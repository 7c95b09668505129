"""Source clip_benchmark: evaluation sets of CLIP_benchmark in WebDataset form.

``index.path`` holds nshards.txt and 0.tar, 1.tar ..., or folders train and test that do, and classnames.txt (line i is
the name of class i) here or in a folder above. Class names that spell out a taxon give its path; any other is kept as a
common name, for which a species list (index.species_list) can give the taxon. Photographs of test are test photographs.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.sources import fields, places, tars
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

_SPLITS = {"train": None, "test": "test"}  # by folder


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    root = places.require_folder(
        params["path"], "the folder of a data set with nshards.txt and 0.tar, or train and test"
    )
    parts = [name for name in _SPLITS if (root / name).is_dir()]
    names = class_names(root)
    paths = fields.label_paths(names)
    classes = [(name, paths.get(name)) for name in names]
    for part in parts or ["."]:
        split = _SPLITS.get(root.resolve().name if part == "." else part)
        for shard in shards(root, part):
            for group in tars.groups(root, shard):
                yield group if isinstance(group, Reject) else _sample(root, group, classes, split)


def read(params: "Origin", locator: str) -> bytes:
    return places.read(params, Path(params["path"]), locator)


def shards(root: Path, part: str) -> list[str]:
    """The tars of a part, "train", "test" or ".", as paths below ``root``."""
    file = root / part / "nshards.txt"
    try:
        count = int(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is missing; a data set of CLIP_benchmark says there how many tars it has") from None
    except ValueError:
        raise UserError(f"{file} does not hold a number; download it again") from None
    tars.find(root / part)  # tells of compressed ones
    listed = [f"{number}.tar" if part == "." else f"{part}/{number}.tar" for number in range(count)]
    missing = [shard for shard in listed if not (root / shard).is_file()]
    if missing:
        raise UserError(
            f"{file} says {count} tars, but {len(missing)} are missing, first {missing[0]}; download them again"
        )
    return listed


def class_names(root: Path) -> list[str]:
    """The name of each class, by number."""
    # Of a single split, the description lies in the folder above.
    above = [root.resolve().parent] if root.resolve().name in _SPLITS else []
    for place in (root, *above):
        kind = place / "dataset_type.txt"
        task = kind.read_text(encoding="utf-8").strip() if kind.is_file() else ""
        if task not in ("", "classification", "zeroshot_classification"):
            raise UserError(_no_classes(kind, task))
    files = [place / "classnames.txt" for place in (root, *above)]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"{files[0]} is missing; line i of it names class i of the data set")
    try:
        names = [" ".join(line.split()) for line in file.read_text("utf-8-sig").rstrip("\n").split("\n")]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error}); save it again as UTF-8") from None
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        shown = ", ".join(map(repr, twice[:5]))
        raise UserError(
            f"{file}: {len(twice)} names stand for several classes, e.g. {shown}; give each class its own name"
        )
    return names


def _sample(
    root: Path, group: tars.Group, classes: list[tuple[str, taxonomy.Path | None]], split: str | None
) -> Sample | Reject:
    found = labelled(root, group, len(classes))
    if isinstance(found, Reject):
        return found
    locator, number = found
    name, path = classes[number]
    key = key_of(group.name)
    nothing = (None,) * len(taxonomy.RANKS)
    common_name = None if path else taxonomy.clean(name)
    return Sample(
        key, locator, key, path or nothing, common_name=common_name, split=split, verbatim=name if path else None
    )


def labelled(root: Path, group: tars.Group, classes: int) -> tuple[str, int] | Reject:
    """The locator of a photograph and the number of its class, one of ``classes``."""
    if "cls" not in group.parts and {"npy", "txt"} & set(group.parts):
        raise UserError(_no_classes(root / group.tar, "multilabel" if "npy" in group.parts else "retrieval"))
    if group.image is None or "cls" not in group.parts:
        parts = ", ".join(sorted(group.parts))
        return Reject(group.name, "missing file", f"an image and .cls are needed, there are: {parts}")
    text = tars.content(root, group, "cls").decode("utf-8", "replace").strip()
    if not text.isdecimal() or int(text) >= classes:
        return Reject(group.name, "bad row", f"class {text[:20]!r}; classnames.txt has {classes} lines")
    return group.image, int(text)


def _no_classes(place: Path, kind: str) -> str:
    return f"{place}: a {kind} data set has no single class per photograph; source clip_benchmark takes others only"
