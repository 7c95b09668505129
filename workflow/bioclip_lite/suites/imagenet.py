"""ImageNet and the test sets around it, each with its own rules.

What its classes are called is not bundled: imagenet_class_index.json, which Keras publishes, lies in the folder of the
suite. ObjectNet brings its names along. Better names, one per line in the order of the numbers, may stand in
classnames.txt.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bioclip_lite.suites.common import class_folders, names_in, photographs_in, reader
from bioclip_lite.suites.suite import Class, Photograph, Suite
from bioclip_lite.utils.errors import UserError

INDEX = "imagenet_class_index.json"
_BORDER = 2  # pixels: ObjectNet's photographs have a red frame, against training on them


def subset(root: Path) -> Suite:
    """ImageNet, -A, -R, -Sketch: subfolders named by WordNet ids. Classes without a subfolder are no answers."""
    wnids, classes = _index(root)
    folders = _known(root, class_folders(root), wnids)
    files, rejects = photographs_in(root, folders)
    return Suite(
        classes=[classes[wnids[name]] for name in folders],
        photographs=[Photograph(file, (number,), number, folders[number]) for file, number in files],
        rejects=rejects,
        read=reader(root),
        rules=f"one of the {len(folders)} classes of ImageNet that have a subfolder (of {len(classes)})",
    )


def numbered(root: Path) -> Suite:
    """ImageNet-V2: subfolders 0 to 999, which are numbers of classes (torchvision takes 10 for the third)."""
    _, classes = _index(root)
    folders = class_folders(root)
    wrong = [name for name in folders if not name.isdecimal() or int(name) >= len(classes)]
    if wrong:
        raise UserError(
            f"{root}: the subfolder {wrong[0]} is no number below {len(classes)}; in ImageNet-V2 subfolders are "
            "numbers of classes (format imagenet is for WordNet ids)"
        )
    files, rejects = photographs_in(root, folders)
    return Suite(
        classes=classes,
        photographs=[Photograph(file, (int(folders[n]),), int(folders[n]), folders[n]) for file, n in files],
        rejects=rejects,
        read=reader(root),
        rules=f"one of all {len(classes)} classes of ImageNet; subfolders are their numbers",
    )


def anomalies(root: Path) -> Suite:
    """ImageNet-O: which photographs show none of the classes? imagenet-o/<wnid>/ has such, val/<wnid>/ the others.

    Hendrycks et al., arXiv 1907.07174, section 4: scored by minus the largest probability, ImageNet-O being positive.
    """
    wnids, classes = _index(root)
    for name in ("imagenet-o", "val"):
        if not (root / name).is_dir():
            raise UserError(
                f"{root / name} is missing; ImageNet-O is measured against ImageNet's validation photographs of the "
                "same classes: put (or link) both here, as imagenet-o and val, with one subfolder per WordNet id"
            )
    folders = _known(root / "imagenet-o", class_folders(root / "imagenet-o"), wnids)
    present = class_folders(root / "val")
    missing = [name for name in folders if name not in present]
    if missing:
        raise UserError(
            f"{root / 'val'} lacks {len(missing)} of the {len(folders)} classes of imagenet-o, e.g. {missing[0]}; "
            "their photographs are what the others are measured against"
        )
    out, rejects = photographs_in(root, [f"imagenet-o/{name}" for name in folders])
    known, more = photographs_in(root, [f"val/{name}" for name in folders])
    return Suite(
        classes=[classes[wnids[name]] for name in folders],
        photographs=[
            *(Photograph(file, (), number, f"imagenet-o/{folders[number]}") for file, number in out),
            *(Photograph(file, (number,), number, f"val/{folders[number]}") for file, number in known),
        ],
        rejects=[*rejects, *more],
        read=reader(root),
        rules=f"whether it shows none of {len(folders)} classes, scored by minus the largest of their probabilities "
        "(softmax over them at the teacher's logit scale); photographs of ImageNet-O are the positive ones",
        question="anomaly",
    )


def objectnet(root: Path) -> Suite:
    """ObjectNet as it is unpacked (images/<folder>/, mappings/): any class of ImageNet that its class maps to is right.

    Classes without a counterpart in ImageNet are left out, and the red frame is cut away (Barbu et al., 2019).
    """
    if not (root / "images").is_dir():
        raise UserError(f"{root / 'images'} is missing; unpack ObjectNet and name the folder objectnet-1.0")
    labels = dict(_mapping(root, "folder_to_objectnet_label.json"))
    counterparts = _mapping(root, "objectnet_to_imagenet_1k.json")
    number_of, classes = _objectnet_classes(root)
    folders = class_folders(root / "images")
    unknown = [name for name in folders if name not in labels]
    if unknown:
        raise UserError(f"{root / 'mappings'}: folder_to_objectnet_label.json does not say what {unknown[0]} is")
    mapped = [name for name in folders if labels[name] in counterparts]
    right: list[tuple[int, ...]] = []
    for name in mapped:
        texts = str(counterparts[labels[name]]).split("; ")
        strange = [text for text in texts if text not in number_of]
        if strange:
            raise UserError(
                f"{root / 'mappings'}: objectnet_to_imagenet_1k.json maps {labels[name]!r} to {strange[0]!r}, which "
                "imagenet_to_label_2012_v2 does not list"
            )
        right.append(tuple(sorted(number_of[text] for text in texts)))
    files, rejects = photographs_in(root, [f"images/{name}" for name in mapped])
    others = [f"images/{name}" for name in folders if name not in mapped]
    return Suite(
        classes=classes,
        photographs=[Photograph(file, right[number], number, mapped[number]) for file, number in files],
        rejects=rejects,
        read=reader(root),
        rules=f"one of all {len(classes)} classes of ImageNet; every one that the object's class maps to is right; "
        f"{len(mapped)} of {len(folders)} classes have a counterpart; {_BORDER} pixels of frame are cut away",
        border=_BORDER,
        left_out=len(photographs_in(root, others)[0]),
    )


def _index(root: Path) -> tuple[dict[str, int], list[Class]]:
    """Number of each WordNet id, and the classes by number."""
    file = root / INDEX
    if not file.is_file():
        raise UserError(
            f"{file} is missing; it says which class each number and WordNet id is, and what it is called: "
            '{"0": ["n01440764", "tench"], ...}. Keras publishes it (keras.applications, '
            "storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json); put it there"
        )
    entries = _json(file)
    try:
        pairs = [entries[str(number)] for number in range(len(entries))]
        wnids = {str(wnid): number for number, (wnid, _) in enumerate(pairs)}
        names = [str(name).replace("_", " ") for _, name in pairs]
    except (KeyError, ValueError, TypeError):
        raise UserError(f'{file} does not look like {{"0": ["n01440764", "tench"], ...}}; fetch it again') from None
    return wnids, _renamed(root, names)


def _objectnet_classes(root: Path) -> tuple[dict[str, int], list[Class]]:
    """Number of each label, and the classes by number: that of pytorch_to_imagenet_2012_id.json, which models have."""
    line_of = _mapping(root, "pytorch_to_imagenet_2012_id.json")
    file = root / "mappings" / "imagenet_to_label_2012_v2"
    if not file.is_file():
        raise UserError(f"{file} is missing; it comes with ObjectNet: unpack it again")
    labels = names_in(file)
    try:
        lines = [int(line_of[str(number)]) for number in range(len(labels))]
    except (KeyError, ValueError, TypeError):
        lines = []
    if sorted(lines) != list(range(len(labels))):
        raise UserError(
            f"{root / 'mappings'}: pytorch_to_imagenet_2012_id.json does not give each of the {len(labels)} lines of "
            f"{file.name} a number; unpack ObjectNet again"
        )
    ordered = [labels[line] for line in lines]
    return {label: n for n, label in enumerate(ordered)}, _renamed(root, [label.split(",")[0] for label in ordered])


def _renamed(root: Path, names: list[str]) -> list[Class]:
    """The classes, by the names in classnames.txt where it is there."""
    file = root / "classnames.txt"
    better = names_in(file) if file.is_file() else names
    if len(better) != len(names):
        raise UserError(f"{file} has {len(better)} lines; it must name all {len(names)} classes of ImageNet, in order")
    return [Class(name) for name in better]


def _known(root: Path, folders: list[str], wnids: Mapping[str, int]) -> list[str]:
    """Sort the folders by class; UserError for a folder that names no class."""
    strange = [name for name in folders if name not in wnids]
    if strange:
        raise UserError(
            f"{root}: the subfolder {strange[0]} is no WordNet id that {INDEX} lists ({len(strange)} of {len(folders)} "
            "are not); take such folders away, or name another format"
        )
    return sorted(folders, key=wnids.__getitem__)


def _mapping(root: Path, name: str) -> dict[str, Any]:
    file = root / "mappings" / name
    if not file.is_file():
        raise UserError(f"{file} is missing; it comes with ObjectNet, whose classes it maps to ImageNet's")
    return _json(file)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is no valid JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}, not names with values; fetch it again")
    return content
