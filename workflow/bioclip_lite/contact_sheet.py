"""A page of photographs by taxon, to see at a glance what a data set holds."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from bioclip_lite import taxonomy
from bioclip_lite.files import replacing
from bioclip_lite.images import decode

_SIDE, _GAP, _LABEL, _MARGIN = 64, 2, 178, 16
_INK, _GREY, _PAPER = "#1c1c1c", "#6b6b6b", "#ffffff"


def draw_contact_sheet(
    path: Path,
    rows: Sequence[tuple[taxonomy.Path, str | None, list[str]]],
    read: Callable[[str], bytes],
) -> None:
    """Write a PNG with one row per taxon, in two columns: its names, then the photographs at the locators given."""
    per_column = (len(rows) + 1) // 2
    width = _LABEL + 8 * (_SIDE + _GAP)
    sheet = Image.new("RGB", (2 * width + 3 * _MARGIN, per_column * (_SIDE + _GAP) + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (taxon, common_name, locators) in enumerate(rows):
        left = _MARGIN + (i // per_column) * (width + _MARGIN)
        top = _MARGIN + (i % per_column) * (_SIDE + _GAP)
        _label(draw, left, top, taxon, common_name)
        for j, locator in enumerate(locators):
            photograph = ImageOps.fit(decode(read(locator)), (_SIDE, _SIDE))
            sheet.paste(photograph, (left + _LABEL + j * (_SIDE + _GAP), top))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    with replacing(path) as scratch:
        scratch.write_bytes(file.getvalue())


def _label(draw: ImageDraw.ImageDraw, left: int, top: int, taxon: taxonomy.Path, common_name: str | None) -> None:
    large, small = ImageFont.load_default(13), ImageFont.load_default(11)
    lines = [
        (taxonomy.scientific_name(taxon), large, _INK),
        (common_name or "", small, _GREY),
        (" · ".join(name for name in (taxon[4], taxon[3]) if name), small, _GREY),
    ]
    for number, (text, font, ink) in enumerate(lines):
        while text and font.getlength(text) > _LABEL - 8:
            text = text[:-2] + "…" if not text.endswith("…") else text[:-2] + "…"
        draw.text((left, top + 8 + 17 * number), text, ink, font)
