"""Photographs from bytes: whole, upright and RGB, or a stated reason why not."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

# What Pillow warns of, oversize and damaged metadata, is checked here or does not matter.
warnings.filterwarnings("ignore", module=r"PIL\.")

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_LARGEST = 100_000_000  # pixels; a decompressed image above 300 MB is a mistake or an attack
_GLANCE = 64  # pixels of the shorter side that perceptual hashes can do with
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # width and height change places


class BadImage(Exception):
    """A file that cannot be used as a photograph.

    ``reason`` is "empty file", "not an image", "unsupported format", "truncated", "damaged", "too large" or
    "too small"; ``detail`` is free text.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def decode(data: bytes, side: int | None = None) -> Image.Image:
    """The photograph in a file: fully decoded, turned as its EXIF orientation says, mode RGB.

    Transparent pixels become white, 16-bit images are scaled to 8 bits, of an animation the first frame is taken.
    With ``side`` a JPEG file may come out smaller by 2, 4 or 8, still at least so many pixels each way: a good part of
    the work is saved where it will be shown small. Raises BadImage.
    """
    return _rgb(_upright(_load(data, side)))


def inspect(data: bytes, min_side: int) -> tuple[int, int, Image.Image, bool]:
    """Width and height in pixels, the photograph small, RGB or grey, for perceptual hashes, all upright; and whether
    ``to_jpeg`` would leave the file as it is.

    The whole file is decoded. Of a JPEG file the decoder is asked for 1/2, 1/4 or 1/8 of the size in grey: it goes
    through all of the data as ever, and saves the arithmetic. Raises BadImage, also for one whose shorter side has less
    than ``min_side`` pixels.
    """
    image = _open(data)
    width, height = image.size
    clean = _clean(image)
    if image.format == "JPEG":
        image.draft("L", (_GLANCE, _GLANCE))
    with _reasons():
        image.load()
    if min(width, height) < min_side:
        raise BadImage("too small", f"{width} x {height} pixels, the shorter side must have {min_side}")
    if _exif(image).get(_ORIENTATION) in _LYING:
        width, height = height, width
    image = _upright(image)
    return width, height, image if image.mode == "L" else _rgb(image), clean


def to_jpeg(data: bytes, max_side: int | None = None) -> bytes:
    """Return an upright RGB or grey JPEG file without metadata about place or person.

    A file that is so already, and whose longer side has at most ``max_side`` pixels, passes unchanged and is not
    decoded (stage index has done that). Any other is encoded anew at quality 95 without metadata. Raises BadImage.
    """
    image = _open(data)
    if _clean(image) and max(image.size) <= (max_side or max(image.size)):
        return data
    with _reasons():
        if (
            image.format == "JPEG" and max_side
        ):  # the decoder itself makes 1/2, 1/4 or 1/8 of the size, at a fraction of the cost
            image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=1.0)
        image.load()
    image = _rgb(_upright(image))
    if max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.info.clear()  # Pillow would write comments and profiles again
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def _clean(image: Image.Image) -> bool:
    """Whether a still undecoded image is an upright RGB or grey JPEG without personal metadata."""
    private = {"xmp", "photoshop", "comment"} & set(image.info)
    return image.format == "JPEG" and image.mode in ("RGB", "L") and not private and not _exif(image)


def _load(data: bytes, side: int | None = None) -> Image.Image:
    image = _open(data)
    if side:
        image.draft("RGB", (side, side))
    with _reasons():
        image.load()
    return image


def _open(data: bytes) -> Image.Image:
    """Open a file and read its header, without decoding pixels."""
    if not data:
        raise BadImage("empty file", "0 bytes")
    try:
        with _reasons():
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.UnidentifiedImageError:
        raise _unidentified(data) from None
    if image.width * image.height > _LARGEST:
        raise BadImage("too large", f"{image.width} x {image.height} pixels, at most {_LARGEST:,} are decoded")
    return image


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn the errors of a decoder into BadImage with a reason."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise BadImage("too large", str(error)) from None
    except (MemoryError, Image.UnidentifiedImageError):
        raise
    except Exception as error:  # a decoder may fail in any way on bytes that are not what they claim to be
        reason = "truncated" if "truncated" in str(error).lower() or isinstance(error, EOFError) else "damaged"
        raise BadImage(reason, f"{type(error).__name__}: {error}") from None


def _unidentified(data: bytes) -> BadImage:
    if data[4:8] == b"ftyp":
        kind = data[8:12].decode("ascii", "replace")
        return BadImage("unsupported format", f"{kind}: export it as JPEG; readable are {', '.join(_FORMATS)}")
    return BadImage("not an image", f"the file begins with {data[:12]!r}; readable are {', '.join(_FORMATS)}")


def _exif(image: Image.Image) -> dict[int, object]:
    try:
        return dict(image.getexif())
    except Exception:  # a photograph with broken EXIF data is still a photograph
        return {}


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_exif(image).get(_ORIENTATION, 1))  # type: ignore[call-overload]
    return image.transpose(turn) if turn is not None else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage("unsupported format", "floating-point pixels have no stated range; export the image with 8 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")
