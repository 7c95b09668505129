"""ImageNet and the test sets around it, each with its own rules.

Classes are called as OpenAI called them for CLIP, which open_clip has, so that published figures can be met; or by
WordNet's lemmas, which timm has, where the parameters ask for them. Other names, one per line in the order of the
numbers, may stand in classnames.txt. Folders of classes have a WordNet id or a number for a name.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from open_clip import IMAGENET_CLASSNAMES
from timm.data import ImageNetInfo

from bioclip_lite.suites.common import class_folders, names_in, photographs_in, reader
from bioclip_lite.suites.suite import Class, Photograph, Suite
from bioclip_lite.utils.errors import UserError

_BORDER = 2  # pixels: ObjectNet's photographs have a red frame, against training on them


@cache
def known() -> dict[str, Class]:
    """The 1,000 classes by WordNet id, in the order of their numbers."""
    info = ImageNetInfo("imagenet-1k")
    return {
        wnid: Class(name, lemmas=info.label_name_to_description(wnid))
        for wnid, name in zip(info.label_names(), IMAGENET_CLASSNAMES, strict=True)
    }


def subset(root: Path) -> Suite:
    """ImageNet, -A, -R, -Sketch. Classes without a subfolder are no answers."""
    classes, numbers = _classes(root), _numbers(root, class_folders(root))
    folders = sorted(numbers, key=numbers.__getitem__)
    files, rejects = photographs_in(root, folders)
    return Suite(
        classes=[classes[numbers[name]] for name in folders],
        photographs=[Photograph(file, (number,), number, folders[number]) for file, number in files],
        rejects=rejects,
        read=reader(root),
        rules=f"one of the {len(folders)} classes of ImageNet that have a subfolder (of {len(classes)})",
    )


def whole(root: Path) -> Suite:
    """ImageNet-V2, whose subfolders are the numbers 0 to 999 (torchvision takes 10 for the third), and the like.

    All classes are answers, whether they have a subfolder or not.
    """
    classes, number_of = _classes(root), _numbers(root, class_folders(root))
    folders, numbers = list(number_of), list(number_of.values())
    files, rejects = photographs_in(root, folders)
    return Suite(
        classes=classes,
        photographs=[Photograph(file, (numbers[n],), numbers[n], folders[n]) for file, n in files],
        rejects=rejects,
        read=reader(root),
        rules=f"one of all {len(classes)} classes of ImageNet",
    )


def anomalies(root: Path) -> Suite:
    """ImageNet-O: which photographs show none of the classes? imagenet-o/<wnid>/ has such, val/<wnid>/ the others.

    Hendrycks et al., arXiv 1907.07174, section 4: scored by minus the largest probability, ImageNet-O being positive.
    """
    classes = _classes(root)
    for name in ("imagenet-o", "val"):
        if not (root / name).is_dir():
            raise UserError(
                f"{root / name} is missing; ImageNet-O is measured against ImageNet's validation photographs of the "
                "same classes: put (or link) both here, as imagenet-o and val, with one subfolder per WordNet id"
            )
    numbers = _numbers(root / "imagenet-o", class_folders(root / "imagenet-o"))
    folders = sorted(numbers, key=numbers.__getitem__)
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
        classes=[classes[numbers[name]] for name in folders],
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
    classes = _classes(root)
    if len(labels) != len(classes):
        raise UserError(
            f"{file} has {len(labels)} lines for the {len(classes)} classes of ImageNet; unpack ObjectNet again"
        )
    return {labels[line]: number for number, line in enumerate(lines)}, classes


def _classes(root: Path) -> list[Class]:
    """The classes by number, called as classnames.txt says where it is there."""
    classes = list(known().values())
    file = root / "classnames.txt"
    if not file.is_file():
        return classes
    names = names_in(file)
    if len(names) != len(classes):
        raise UserError(f"{file} has {len(names)} lines; it must name all {len(classes)} classes of ImageNet, in order")
    return [Class(name, lemmas=one.lemmas) for name, one in zip(names, classes, strict=True)]


def _numbers(root: Path, folders: list[str]) -> dict[str, int]:
    """The number of the class of each folder. Raises UserError for one that names no class."""
    numbers = {wnid: number for number, wnid in enumerate(known())}
    numbers |= {str(number): number for number in range(len(numbers))}
    strange = [name for name in folders if name not in numbers]
    if strange:
        raise UserError(
            f"{root}: the subfolder {strange[0]} is neither a WordNet id of ImageNet's {len(known())} classes nor the "
            f"number of one ({len(strange)} of {len(folders)} are not); take such folders away, or name another format"
        )
    found = {name: numbers[name] for name in folders}
    if len(set(found.values())) < len(found):
        raise UserError(f"{root} has two subfolders for one class of ImageNet, by its number and by its WordNet id")
    return found


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
