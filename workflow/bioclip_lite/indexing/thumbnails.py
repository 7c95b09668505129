"""Thumbnails of photographs, also of damaged ones."""

import io
from collections.abc import Callable

from bioclip_lite.photographs.images import BadImage, decode, decode_damaged

_SIDE = 120  # pixels


def thumbnail(locator: str, read: Callable[[str], bytes]) -> bytes | None:
    """A small JPEG file without metadata, of as much as can be decoded; None if nothing can."""
    try:
        content = read(locator)
        try:
            image = decode(content)
        except BadImage:
            image = decode_damaged(content)
        image.thumbnail((_SIDE, _SIDE))
    except Exception:  # a photograph that was left out may fail in any way
        return None
    image.info.clear()
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return file.getvalue()
