"""Replayable augmentation: a view is a short row of numbers that means the same at every image size.

Teacher and student see the same view of a photograph, each at its own resolution. All quantities are fractions
(MobileCLIP, arXiv 2311.17049, section 4, stores such parameters too, but with translations in pixels, which replay
wrongly when the sizes differ). A row has the columns::

    area, log_aspect, x, y,  then for each operation: number in OPERATIONS, amount

``area`` is the share of the image that the crop covers, 0 for the plain view (preprocessing only); ``log_aspect`` the
logarithm of the crop's width / height; ``x``, ``y`` in [0, 1] its place between left and right, top and bottom. The
amount of an operation lies in [-1, 1], where 0 changes nothing.

There is no mirror image: left and right differ in some organisms (snails, flatfish), and MobileCLIP does without.

``compress`` makes a row from a list that people read, ``decompress`` such a list from a row, and ``reapply`` shows a
photograph under a row::

    [("crop", {"area": 0.5, "aspect": 1.2, "x": 0.5, "y": 0.1}), ("rotate", {"degrees": -20.0})]
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageEnhance

from bioclip_lite.photographs.preprocess import resize, to_array

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import AugmentedViews

VERSION = "1"  # part of a cache's identity: raise it whenever the same row would give other pixels
OPERATIONS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "brightness", "contrast", "saturation")
_FILL = (124, 116, 104)  # the mean colour of ImageNet, where an operation uncovers what is outside the photograph
_LOG_ASPECT = math.log(4 / 3)
_MAX_ROTATION = math.radians(30)
_MAX_SHEAR = 0.3  # shift of one edge against the other, as a share of the side
_MAX_SHIFT = 0.3  # share of the side
_MAX_ENHANCE = 0.9  # factor 0.1 to 1.9
_UNITS = {  # operation -> what its amount is called, its value at amount 0, and how far amount 1 is from there
    "rotate": ("degrees", 0.0, math.degrees(_MAX_ROTATION)),
    "shear_x": ("share", 0.0, _MAX_SHEAR),
    "shear_y": ("share", 0.0, _MAX_SHEAR),
    "translate_x": ("share", 0.0, _MAX_SHIFT),
    "translate_y": ("share", 0.0, _MAX_SHIFT),
    "brightness": ("factor", 1.0, _MAX_ENHANCE),
    "contrast": ("factor", 1.0, _MAX_ENHANCE),
    "saturation": ("factor", 1.0, _MAX_ENHANCE),
}
_ROUNDING = 1e-6  # how far float32 may put a value beyond its limit


def columns(operations: int) -> int:
    """The length of a row."""
    return 4 + 2 * operations


def plain_view(operations: int) -> np.ndarray:
    """The row of the plain view, preprocessing alone: float32 zeros."""
    return np.zeros(columns(operations), np.float32)


def draw(rng: np.random.Generator, params: "AugmentedViews") -> np.ndarray:
    """A random view: float32 of shape (columns(params["operations"]),).

    ``params``: ``crop_scale`` [low, high] area of the crop; ``operations`` how many; ``magnitude`` in [0, 1].
    """
    low, high = params["crop_scale"]
    row: list[float] = [rng.uniform(low, high), rng.uniform(-_LOG_ASPECT, _LOG_ASPECT), rng.uniform(), rng.uniform()]
    for _ in range(params["operations"]):
        row += [int(rng.integers(len(OPERATIONS))), params["magnitude"] * rng.uniform(-1, 1)]
    return np.array(row, np.float32)


def compress(operations: Sequence[tuple[str, dict[str, float]]]) -> np.ndarray:
    """The row of a view: float32 (columns(number of operations after the crop),).

    ``operations`` first the crop, ("crop", {"area", "aspect", "x", "y"}), ``aspect`` being width / height, 3/4 to 4/3;
    then in their order "rotate" by ``degrees``, "shear_x", "shear_y", "translate_x", "translate_y" by a ``share`` of
    the side, "brightness", "contrast", "saturation" times a ``factor``. None at all are the plain view.

    Raises:
        ValueError: an operation or a number that no row can hold.
    """
    if not operations:
        return plain_view(0)
    (first, crop), *rest = operations
    if first != "crop" or set(crop) != {"area", "aspect", "x", "y"}:
        raise ValueError(f"a view begins with a crop of area, aspect, x and y, not with {first!r} of {sorted(crop)}")
    if not (crop["area"] > 0 and crop["aspect"] > 0):
        raise ValueError(f"crop: area {crop['area']} and aspect {crop['aspect']} must be positive")
    row = [crop["area"], math.log(crop["aspect"]), crop["x"], crop["y"]]
    for name, amounts in rest:
        if name not in OPERATIONS:
            raise ValueError(f"no operation {name!r}; there are crop (first) and {', '.join(OPERATIONS)}")
        unit, neutral, reach = _UNITS[name]
        if set(amounts) != {unit}:
            raise ValueError(f"{name} is given by {unit}, not by {sorted(amounts)}")
        row += [OPERATIONS.index(name), (amounts[unit] - neutral) / reach]
    found = np.array(row, np.float32)
    _check(found)
    return found


def decompress(row: np.ndarray) -> list[tuple[str, dict[str, float]]]:
    """Invert ``compress``, up to float32; [] for the plain view. ValueError if ``row`` is invalid."""
    _check(row)
    if row[0] == 0:
        return []
    area, log_aspect, x, y = (float(value) for value in row[:4])
    operations = [("crop", {"area": area, "aspect": math.exp(log_aspect), "x": x, "y": y})]
    for number, amount in row[4:].reshape(-1, 2):
        name = OPERATIONS[int(number)]
        unit, neutral, reach = _UNITS[name]
        operations.append((name, {unit: neutral + reach * float(amount)}))
    return operations


def _check(row: np.ndarray) -> None:
    """Raise ValueError unless ``row`` has the length of a view and every number lies within its limits."""
    if row.ndim != 1 or len(row) < 4 or len(row) % 2:
        raise ValueError(f"a view is a row of 4, 6, 8 ... numbers, not an array of shape {row.shape}")
    limits = [("area", 0.0, 1.0), ("log_aspect", -_LOG_ASPECT, _LOG_ASPECT), ("x", 0.0, 1.0), ("y", 0.0, 1.0)]
    for number in row[4::2]:
        if number not in range(len(OPERATIONS)):
            raise ValueError(f"there is no operation number {number:g}, only 0 to {len(OPERATIONS) - 1}")
        limits += [("number", 0.0, np.inf), (f"the amount of {OPERATIONS[int(number)]}", -1.0, 1.0)]
    for (name, low, high), value in zip(limits, row, strict=True):
        if not low - _ROUNDING <= value <= high + _ROUNDING:  # so that nan is caught as well
            raise ValueError(f"{name} is {value:g}; it lies between {low:g} and {high:g}")


def reapply(image: Image.Image, row: np.ndarray, preprocess: dict[str, Any]) -> np.ndarray:
    """The view ``row`` of an RGB photograph as a model with ``preprocess`` sees it: float32 (3, size, size)."""
    return to_array(replay(image, row, preprocess), preprocess)


def replay(image: Image.Image, row: np.ndarray, preprocess: dict[str, Any]) -> Image.Image:
    """The view ``row`` of an RGB photograph as the 8-bit image of ``size`` x ``size`` pixels that a model is shown."""
    if row[0] == 0:
        return resize(image, preprocess)
    size = preprocess["size"]
    image = image.convert("RGB") if image.mode != "RGB" else image
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=crop_box(image.width, image.height, row))
    for number, amount in row[4:].reshape(-1, 2):
        image = _operate(image, OPERATIONS[int(number)], float(amount))
    return image


def crop_box(width: int, height: int, row: np.ndarray) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in pixels, not rounded, within an image of ``width`` x ``height``."""
    area, log_aspect, x, y = (float(value) for value in row[:4])
    side = math.sqrt(area * width * height)
    w = min(side * math.exp(log_aspect / 2), float(width))
    h = min(side * math.exp(-log_aspect / 2), float(height))
    left, top = x * (width - w), y * (height - h)
    return left, top, min(left + w, float(width)), min(top + h, float(height))


def _operate(image: Image.Image, operation: str, amount: float) -> Image.Image:
    if operation == "brightness":
        return ImageEnhance.Brightness(image).enhance(1 + _MAX_ENHANCE * amount)
    if operation == "contrast":
        return ImageEnhance.Contrast(image).enhance(1 + _MAX_ENHANCE * amount)
    if operation == "saturation":
        return ImageEnhance.Color(image).enhance(1 + _MAX_ENHANCE * amount)
    a, b, c, d = 1.0, 0.0, 0.0, 1.0
    shift_x = shift_y = 0.0
    if operation == "rotate":
        a = d = math.cos(_MAX_ROTATION * amount)
        b = math.sin(_MAX_ROTATION * amount)
        c = -b
    elif operation == "shear_x":
        b = _MAX_SHEAR * amount
    elif operation == "shear_y":
        c = _MAX_SHEAR * amount
    elif operation == "translate_x":
        shift_x = _MAX_SHIFT * amount * image.width
    else:
        shift_y = _MAX_SHIFT * amount * image.height
    # Pillow maps output to input coordinates; both are measured here from the centre of the image.
    cx, cy = image.width / 2, image.height / 2
    matrix = (a, b, cx - a * cx - b * cy + shift_x, c, d, cy - c * cx - d * cy + shift_y)
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=_FILL
    )
