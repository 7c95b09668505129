"""Photographs from bytes: whole, upright and RGB, or a stated reason why not. Files are opened here and nowhere else.

The content decides, not the name. Colour profiles are ignored, as by the engines of packages/react-bio-clip: pixels are
taken as they are stored.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pillow_heif
from PIL import Image, ImageFile

# What Pillow warns of, oversize and damaged metadata, is checked here or does not matter.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # _LARGEST counts
# Without thumbnails, which Pillow's draft() would take for the photograph.
pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)

OFFSET = re.compile(r"[+-](0\d|1[0-4]):[0-5]\d")  # of a clock from UTC

_FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000")  # JPEG includes MPO
# Endings of the names of photographs that are read, in lower case.
READ = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".heic", ".heif", ".hif", ".avif"),
    *(".tif", ".tiff", ".bmp", ".gif", ".jp2", ".j2k", ".jpx"),
)
_JPEG = ("JPEG", "MPO")
_LARGEST = 100_000_000  # pixels; a decompressed image above 300 MB is a mistake or an attack
_LARGEST_JPEG = 200_000_000  # cameras of telephones reach this, and JPEG does not compress nothing into it
_MISSING = 0.05  # share of the rows that a JPEG file may lack at its end
_GLANCE = 64  # pixels of the shorter side that perceptual hashes can do with
_STRIP = 256  # rows that are put on white together
_MOST_DAMAGED = 10_000_000  # pixels of a damaged file that is decoded
_ORIENTATION = 0x0112  # EXIF tag
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_TIME, _TIME_DIGITIZED = 0x9003, 0x9004  # EXIF tags: when it was taken, and made digital
_OFFSET = 0x9011  # EXIF tag: of _TIME from UTC
_CAMERA = (0x010F, 0x0110)  # EXIF tags: make and model
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706  # TIFF tags
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
_END, _SCAN = b"\xff\xd9", b"\xff\xda"  # JPEG markers

_RAW = "a camera's raw file: develop it and export it as JPEG, or take the JPEG file that the camera wrote beside it"
_FILM = "a film, as it lies beside a Live Photo: films are not read; export a frame as JPEG if it shows something else"
_OTHERS = (  # beginnings of files that are not opened: what they are called, and what to do
    (rb".{4}ftypcrx |II\*\0.{4}CR|FUJIFILMCCD-RAW|II(RO|RS|U\0)|MMOR|FOVb|\0MRM", "unsupported format", _RAW),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "unsupported format", "JPEG XL: export it as JPEG"),
    (rb"8BPS", "unsupported format", "a file of Photoshop: export it as JPEG"),
    (rb".{4}ftyp(qt  |mp4|M4V|isom|iso\d|avc1|3g|MSNV|dash)|.{4}(moov|mdat|wide|free|skip)", "video", _FILM),
    (rb"RIFF.{4}AVI |\x1aE\xdf\xa3", "video", _FILM),
    (rb".{4}ftyp(hei|hev|mif1|msf1|avif|avis)", "damaged", "the start of a HEIC or AVIF file, but no picture in it"),
    (rb".{4}ftyp", "unsupported format", "an unknown kind of ISO media file: export it as JPEG"),
    (rb"II\*\0|MM\0\*", "unsupported format", f"an unusual TIFF file, or {_RAW}"),
    (
        rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html|html|head|script)",
        "not an image",
        "a web page, as servers send it where a photograph is missing; download the photograph again",
    ),
    (rb"version https://git-lfs", "not an image", "a pointer of Git LFS; fetch the file itself: git lfs pull"),
    (rb"%PDF", "not an image", "a PDF document; export its photographs as JPEG"),
)


class BadImage(Exception):
    """A file that cannot be used as a photograph.

    ``reason`` is "empty file", "not an image", "video", "unsupported format", "truncated", "damaged", "too large" or
    "too small"; ``detail`` is free text.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Inspected(NamedTuple):
    """What ``inspect`` finds out about a photograph."""

    width: int  # pixels, upright
    height: int
    small: Image.Image  # RGB or grey, upright, for perceptual hashes
    clean: bool  # ``to_jpeg`` would leave the file as it is
    truncated: bool  # a JPEG file that lacks its last bytes, of which enough is there


class Capture(NamedTuple):
    """What the header of a photograph says of its taking; None where it says nothing, or nothing possible."""

    media_type: str
    time: str | None  # ISO 8601, of the camera's clock, without an offset from UTC
    offset: str | None  # of the clock from UTC, "+02:00"
    latitude: float | None  # degrees, WGS 84
    longitude: float | None
    camera: str | None  # make and model


def decode(data: bytes, side: int | None = None) -> Image.Image:
    """The photograph in a file: fully decoded, turned as its EXIF orientation says, mode RGB.

    Transparent pixels become white, 16-bit images are scaled to 8 bits, of an animation or of several pictures the
    first one is taken. A JPEG file that lacks its last bytes is grey there, as viewers show it, if at least 95 % of
    its rows are whole.
    With ``side`` a JPEG file may come out smaller by 2, 4 or 8, still at least so many pixels each way: a good part of
    the work is saved where it will be shown small. Raises BadImage.
    """
    image = _open(data)
    if side:
        image.draft("RGB", (side, side))
    return _rgb(_upright(_load(image, data)[0]))


def inspect(data: bytes, min_side: int) -> Inspected:
    """The properties of a photograph that stage index needs.

    The whole file is decoded. Of a JPEG file the decoder is asked for 1/2, 1/4 or 1/8 of the size in grey: it goes
    through all of the data as ever, and saves the arithmetic. Raises BadImage, also for one whose shorter side has less
    than ``min_side`` pixels.
    """
    image = _open(data)
    width, height = image.size
    clean = _clean(image) and _end(data) == len(data)
    if image.format == "JPEG":
        image.draft("L", (_GLANCE, _GLANCE))
    image, truncated = _load(image, data)
    if min(width, height) < min_side:
        raise BadImage("too small", f"{width} x {height} pixels, the shorter side must have {min_side}")
    if _exif(image).get(_ORIENTATION) in _LYING:
        width, height = height, width
    image = _upright(image)
    return Inspected(width, height, image if image.mode == "L" else _rgb(image), clean, truncated)


def capture(data: bytes) -> Capture:
    """Read time, place and camera of the taking from EXIF. Pixels are not decoded. Raises BadImage.

    Broken EXIF data count as none. A time when the file was changed is none of its taking.
    """
    image = _open(data)
    media_type = "image/jpeg" if image.format in _JPEG else Image.MIME[str(image.format)]
    try:
        exif = image.getexif()
        about, place = exif.get_ifd(_EXIF_IFD), exif.get_ifd(_GPS_IFD)
    except Exception:  # a photograph with broken EXIF data is still a photograph
        return Capture(media_type, None, None, None, None, None)
    time = _time(about.get(_TIME)) or _time(about.get(_TIME_DIGITIZED))
    offset = str(about.get(_OFFSET, "")).strip("\0 ")
    latitude = _degrees(place.get(2), place.get(1), "NS", 90)
    longitude = _degrees(place.get(4), place.get(3), "EW", 180)
    if latitude is None or longitude is None:
        latitude = longitude = None
    camera = " ".join(name for tag in _CAMERA if (name := str(exif.get(tag, "")).strip("\0 ")))
    return Capture(media_type, time, offset if OFFSET.fullmatch(offset) else None, latitude, longitude, camera or None)


def _time(value: object) -> str | None:
    """ISO 8601 from "2024:05:01 10:00:00"; None where a camera writes zeros or blanks."""
    try:
        return datetime.strptime(str(value).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None


def _degrees(parts: Any, reference: object, references: str, most: int) -> float | None:
    """Signed degrees from degrees, minutes and seconds, and their direction; None unless it is a place."""
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
        sign = dict(zip(references, (1, -1), strict=True))[str(reference).strip("\0 ").upper()]
    except (TypeError, ValueError, KeyError, ZeroDivisionError):
        return None
    value = sign * (degrees + minutes / 60 + seconds / 3600)
    return round(value, 7) if abs(value) <= most else None  # NaN, which 0/0 is read as, compares false


def to_jpeg(data: bytes, max_side: int | None = None) -> bytes:
    """Return an upright RGB or grey JPEG file without metadata about place or person.

    A file that is so already, and whose longer side has at most ``max_side`` pixels, passes unchanged and is not
    decoded (stage index has done that); what follows its end, such as the film of a motion photo, is cut off. Any other
    is encoded anew at quality 95 without metadata. Raises BadImage.
    """
    image = _open(data)
    end = _end(data)
    if end and _clean(image) and max(image.size) <= (max_side or max(image.size)):
        return data[:end]
    image = _rgb(_upright(_load(image, data, max_side)[0]))
    if max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.info.clear()  # Pillow would write comments and profiles again
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def is_plain_jpeg(data: bytes) -> bool:
    """Whether a file that ``decode`` accepts is a whole RGB or grey JPEG, which every decoder reads alike."""
    image = _open(data)
    return image.format == "JPEG" and image.mode in ("RGB", "L") and _end(data) > 0


def decode_damaged(data: bytes) -> Image.Image:
    """As much of a damaged JPEG or PNG file as can be decoded, mode RGB. Raises BadImage or the decoder's error."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        if image.width * image.height > _MOST_DAMAGED:
            raise BadImage("too large", f"{image.width} x {image.height} pixels of a damaged file")
        return image.convert("RGB")
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _clean(image: Image.Image) -> bool:
    """Whether a still undecoded image is an upright RGB or grey JPEG without personal metadata."""
    private = {"xmp", "photoshop", "comment"} & set(image.info)
    return image.format == "JPEG" and image.mode in ("RGB", "L") and not private and not _exif(image)


def _load(image: Image.Image, data: bytes, max_side: int | None = None) -> tuple[Image.Image, bool]:
    """The decoded image that ``_open`` gave for ``data``, and whether its file lacks its last bytes.

    A whole JPEG file is scaled down to ``max_side``, for the decoder itself makes 1/2, 1/4 or 1/8 of the size, at a
    fraction of the cost.
    """
    try:
        with _reasons():
            if image.format == "JPEG" and max_side:
                image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=1.0)
            image.load()
        return image, False
    except BadImage as bad:
        if bad.reason != "truncated" or image.format not in _JPEG:
            raise
    return _completed(data), True


def _completed(data: bytes) -> Image.Image:
    """The picture of a JPEG file that lacks its last bytes. Raises BadImage if too little of it is there.

    The decoder makes what is missing of a sequential file exactly medium grey, row by row from the bottom. A
    progressive file gets finer scan by scan, so its last scan must have begun.
    """
    image = _open(data.rstrip(b"\0") + _END)  # zeros: a download that reserved its space
    if not _all_scans(data, len(image.getbands())):
        raise BadImage("truncated", "the file ends before its finest details; copy or download it again")
    with _reasons():
        image.load()
    rows = np.asarray(image).reshape(image.height, -1)
    there = np.flatnonzero((rows.min(axis=1) < 127) | (rows.max(axis=1) > 129))
    missing = image.height - 1 - int(there.max(initial=-1))
    if missing > _MISSING * image.height:
        share = 100 * missing / image.height
        raise BadImage("truncated", f"{share:.0f} % of the picture is missing; copy or download the file again")
    return image


def _all_scans(data: bytes, components: int) -> bool:
    """Whether the scans of a JPEG file that have begun bring all 64 coefficients of all components to the last bit."""
    final = set()
    for found in re.finditer(_SCAN + rb"\0[\x08-\x0e]([\x01-\x04])", data[_first_scan(data) :], re.DOTALL):
        header = found.string[found.end() : found.end() + 2 * found[1][0] + 3]
        if len(header) < 2 * found[1][0] + 3:
            break
        *chosen, first, last, bits = header
        if bits & 15 == 0:
            final |= {(one, place) for one in chosen[::2] for place in range(first, last + 1)}
    return len(final) >= 64 * components


def _first_scan(data: bytes) -> int:
    """Offset of the first scan of a JPEG file, behind segments that may hold whole pictures themselves."""
    place = 2
    while data[place : place + 1] == b"\xff" and data[place : place + 2] != _SCAN:
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        place += 1 if data[place + 1 : place + 2] == b"\xff" else 2 + size
    return place


def _end(data: bytes) -> int:
    """Offset behind the end of a JPEG file's first picture; 0 if it has no end, or is none."""
    place = data.find(_END, _first_scan(data)) if data[:2] == b"\xff\xd8" else -1
    return place + len(_END) if place >= 0 else 0


def _open(data: bytes) -> Image.Image:
    """Open a file and read its header, without decoding pixels."""
    if not data:
        raise BadImage("empty file", "0 bytes")
    try:
        with _reasons():
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.UnidentifiedImageError:
        raise _unidentified(data) from None
    if image.format == "TIFF" and _is_raw(image, data):  # Pillow would take its thumbnail for the photograph
        raise BadImage("unsupported format", _RAW)
    largest = _LARGEST_JPEG if image.format in _JPEG else _LARGEST
    if image.width * image.height > largest:
        raise BadImage("too large", f"{image.width} x {image.height} pixels, at most {largest:,} are decoded; scale it")
    return image


def _is_raw(image: Image.Image, data: bytes) -> bool:
    """Whether a TIFF file is a camera's: a DNG, a CR2, or one whose first image is a reduced copy of another."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    reduced = tags.get(_SUBFILE_TYPE, 0) & 1 and _SUB_IFDS in tags
    return bool(reduced or _DNG_VERSION in tags or data[8:10] == b"CR")


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn the errors of a decoder into BadImage with a reason."""
    try:
        yield
    except (MemoryError, Image.UnidentifiedImageError):
        raise
    except Exception as error:  # a decoder may fail in any way on bytes that are not what they claim to be
        short = re.search("truncated|unexpected end of file", str(error).lower()) or isinstance(error, EOFError)
        reason = "truncated" if short else "damaged"
        raise BadImage(reason, f"{type(error).__name__}: {str(error).strip()}") from None


def _unidentified(data: bytes) -> BadImage:
    for beginning, reason, what in _OTHERS:
        if re.match(beginning, data[:512], re.DOTALL):
            return BadImage(reason, what)
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
        image = _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """A transparent image on white, mode RGB; strip by strip, for whole copies of a large one fill the memory."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):
        box = (0, top, image.width, min(top + _STRIP, image.height))
        strip = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        result.paste(Image.alpha_composite(white, strip).convert("RGB"), box)
    return result
