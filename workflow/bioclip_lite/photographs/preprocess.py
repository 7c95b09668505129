"""The one image preprocessing that teacher cache, student, evaluation and browser share.

It is described by ``preprocess.json``, which travels with every model::

    {"size": 64, "resize": "shortest", "interpolation": "bicubic", "crop": "center", "mean": [...], "std": [...]}

``resize`` "shortest" scales the shortest side to ``size`` and cuts the centre (CLIP); "squash" scales both sides to
``size`` and ignores the aspect ratio (SigLIP). Resampling is Pillow's antialiased one on 8-bit pixels, which
``packages/react-bio-clip/src/core/preprocess.ts`` reproduces bit for bit.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, require

FILE = "preprocess.json"
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_RESIZE = ("shortest", "squash")


def preprocessing(
    size: int,
    mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5),
    std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5),
    resize: str = "shortest",
    interpolation: str = "bicubic",
) -> dict[str, Any]:
    """The content of a ``preprocess.json``. ``size`` in pixels; ``mean`` and ``std`` of RGB values in [0, 1]."""
    spec = {
        "size": size,
        "resize": resize,
        "interpolation": interpolation,
        "crop": "center",
        "mean": [float(x) for x in mean],
        "std": [float(x) for x in std],
    }
    check(spec, "the preprocessing")
    return spec


def check(spec: dict[str, Any], where: object) -> None:
    """Raise UserError unless ``spec`` is a preprocessing that this version implements."""
    expected = {"size", "resize", "interpolation", "crop", "mean", "std"}
    if set(spec) != expected:
        raise UserError(f"{where}: keys {sorted(spec)} instead of {sorted(expected)}")
    if not (isinstance(spec["size"], int) and spec["size"] > 0):
        raise UserError(f"{where}: size is {spec['size']!r}, not a positive number of pixels")
    for key, allowed in (("resize", _RESIZE), ("interpolation", tuple(_RESAMPLING)), ("crop", ("center",))):
        if spec[key] not in allowed:
            raise UserError(f"{where}: {key} is {spec[key]!r}; this version knows {', '.join(allowed)}")
    if len(spec["mean"]) != 3 or len(spec["std"]) != 3 or min(spec["std"]) <= 0:
        raise UserError(f"{where}: mean and std must be 3 numbers each, std positive")


def read_preprocess(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The checked ``preprocess.json`` of a model folder."""
    path = require(Path(folder) / FILE)
    spec = read_json(path)
    check(spec, path)
    return spec


def resize_box(width: int, height: int, spec: dict[str, Any]) -> tuple[int, int, int, int]:
    """(width, height, left, top) in pixels: the size to scale to and the corner of the centre crop."""
    size = spec["size"]
    if spec["resize"] == "squash":
        return size, size, 0, 0
    # int() of the long side and round() of the corner are torchvision's Resize and CenterCrop, which CLIP uses.
    short = min(width, height)
    w, h = (size, int(size * height / short)) if width <= height else (int(size * width / short), size)
    return w, h, round((w - size) / 2), round((h - size) / 2)


def to_array(image: Image.Image | np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """Scale 8-bit RGB values (height, width, 3) to [0, 1] and normalise; float32 of shape (3, height, width)."""
    # Turned while it is 8 bits wide, and then in place: a third of the time, the same numbers.
    values = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).astype(np.float32)
    values /= np.float32(255)
    values -= np.array(spec["mean"], np.float32)[:, None, None]
    values /= np.array(spec["std"], np.float32)[:, None, None]
    return values


def resize(image: Image.Image, spec: dict[str, Any]) -> Image.Image:
    """The 8-bit RGB image of ``size`` x ``size`` pixels that ``to_array`` turns into numbers."""
    image = image.convert("RGB") if image.mode != "RGB" else image
    width, height, left, top = resize_box(image.width, image.height, spec)
    filter_ = _RESAMPLING[spec["interpolation"]]
    # One direction per call: from version 13 on Pillow chooses the order of the two by their sizes, and it shows.
    image = image.resize((width, image.height), filter_).resize((width, height), filter_)
    return image.crop((left, top, left + spec["size"], top + spec["size"]))


def preprocess(image: Image.Image, spec: dict[str, Any]) -> np.ndarray:
    """A photograph as a model sees it: float32 of shape (3, size, size)."""
    return to_array(resize(image, spec), spec)
