"""Thumbnails of photographs, also of damaged ones."""

import io
from collections.abc import Callable

from PIL import Image, ImageFile

from bioclip_lite.photographs.images import BadImage, decode

_SIDE = 120  # pixels
_MOST_PIXELS = 10_000_000  # of a damaged file that is decoded


def thumbnail(locator: str, read: Callable[[str], bytes]) -> bytes | None:
    """A small JPEG file without metadata, of as much as can be decoded; None if nothing can."""
    try:
        content = read(locator)
        try:
            image = decode(content)
        except BadImage:
            image = _decode_damaged(content)
        image.thumbnail((_SIDE, _SIDE))
    except Exception:  # a photograph that was left out may fail in any way
        return None
    image.info.clear()
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return file.getvalue()


def _decode_damaged(content: bytes) -> Image.Image:
    """The part of a truncated file that is still there."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
        if image.width * image.height > _MOST_PIXELS:
            raise BadImage("too large", "for a thumbnail")
        return image.convert("RGB")
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
