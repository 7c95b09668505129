"""A page of photographs by taxon, to see at a glance what a data set holds."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from bioclip_lite.photographs.images import BadImage, decode
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.files import replacing

_SIDE, _GAP, _LABEL, _MARGIN, _HEAD = 64, 3, 200, 20, 40  # pixels
_INK, _GREY, _RULE, _PAPER = "#1c1c1c", "#6b6b6b", "#b8b8b8", "#ffffff"


def draw_contact_sheet(
    path: Path,
    title: str,
    rows: Sequence[tuple[taxonomy.Path, str | None, list[str]]],
    read: Callable[[str], bytes],
) -> None:
    """Write a PNG with one row per taxon, in two columns: its names, then the photographs at the locators given.

    A line separates orders.
    """
    per_column = (len(rows) + 1) // 2
    step = _SIDE + _GAP
    width = _LABEL + step * max((len(locators) for _, _, locators in rows), default=0)
    sheet = Image.new("RGB", (2 * width + 3 * _MARGIN, _HEAD + per_column * step + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 14), title, _INK, ImageFont.load_default(15))
    order = None
    for i, (taxon, common_name, locators) in enumerate(rows):
        left, top = _MARGIN + (i // per_column) * (width + _MARGIN), _HEAD + (i % per_column) * step
        if taxon[:4] != order or i % per_column == 0:
            draw.line((left, top - 2, left + width - _GAP, top - 2), _RULE)
        order = taxon[:4]
        _label(draw, left, top, taxon, common_name)
        for j, locator in enumerate(locators):
            try:
                photograph = ImageOps.fit(decode(read(locator), _SIDE), (_SIDE, _SIDE))
            except (BadImage, OSError):  # it has been read before; stage shard says so if it has really gone
                continue
            sheet.paste(photograph, (left + _LABEL + j * step, top))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    with replacing(path) as scratch:
        scratch.write_bytes(file.getvalue())


def _label(draw: ImageDraw.ImageDraw, left: int, top: int, taxon: taxonomy.Path, common_name: str | None) -> None:
    large, small = ImageFont.load_default(14), ImageFont.load_default(11)
    above = " \N{MIDDLE DOT} ".join(
        name for name in taxon[3:5][::-1] if name and name != taxonomy.scientific_name(taxon)
    )
    lines = [(taxonomy.scientific_name(taxon), large, _INK), (common_name or "", small, _INK), (above, small, _GREY)]
    for number, (text, font, ink) in enumerate(lines):
        draw.text((left, top + 6 + 18 * number), _shortened(text, font), ink, font)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in text[:200])
    if font.getlength(text) <= _LABEL - 8:
        return text
    while text and font.getlength(text + "\N{HORIZONTAL ELLIPSIS}") > _LABEL - 8:
        text = text[:-1]
    return text + "\N{HORIZONTAL ELLIPSIS}"
