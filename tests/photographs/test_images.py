import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bioclip_lite.photographs.images import BadImage, decode, inspect, to_jpeg
from support.photographs import encoded, picture

PHOTO = picture("photo", size=(48, 32))
PLAIN = encoded(PHOTO, quality=90)


def with_exif(orientation: int = 1, gps: bool = False) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if gps:
        exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    return encoded(PHOTO, quality=95, exif=exif)


def huge_png() -> bytes:
    """A valid header that claims 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"This is a text file, whatever its name says.", "not an image"),
        (PHOTO.tobytes(), "not an image"),  # raw pixels, as a failed resize left them in TreeOfLife-200M
        (PLAIN[: len(PLAIN) // 2], "truncated"),
        (encoded(PHOTO, "PNG")[:-60], "truncated"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "unsupported format"),
        (encoded(PHOTO.convert("F"), "TIFF"), "unsupported format"),
        (huge_png(), "too large"),
        (encoded(picture("dot", size=(1, 1))), "too small"),
        (encoded(picture("strip", size=(200, 15))), "too small"),
    ],
)
def test_bad_files_are_refused_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(BadImage) as bad:
        inspect(content, min_side=16)
    assert bad.value.reason == reason
    assert bad.value.detail


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_never_ends_in_another_error(data: st.DataObject) -> None:
    files = [PLAIN, encoded(PHOTO, "PNG"), encoded(PHOTO, "GIF"), encoded(PHOTO, "TIFF"), encoded(PHOTO, "WEBP")]
    content = bytearray(data.draw(st.sampled_from(files)))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(content))
    except BadImage:
        return
    assert image.mode == "RGB"


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_the_same_photograph(mode: str) -> None:
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    image = PHOTO.convert(mode)
    found = decode(encoded(image, kind))
    assert found.mode == "RGB" and found.size == PHOTO.size
    expected = np.asarray(image.convert("RGB"), float)
    assert np.abs(np.asarray(found, float) - expected).mean() < 2


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = np.asarray(decode(encoded(Image.fromarray(ramp), "PNG")))
    assert np.abs(found[..., 0] - ramp / 257).max() <= 0.5
    assert (found[..., 0] == found[..., 2]).all()


def test_transparency_becomes_white() -> None:
    image = PHOTO.convert("RGBA")
    image.putalpha(0)
    assert (np.asarray(decode(encoded(image, "PNG"))) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    stored = np.asarray(Image.open(io.BytesIO(with_exif())).convert("RGB"))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    assert (np.asarray(decode(with_exif(orientation))) == upright).all()
    width, height, small, clean = inspect(with_exif(orientation), 16)
    assert not clean  # its EXIF data must go
    assert (width, height) == upright.shape[1::-1]
    assert np.abs(np.asarray(small.convert("L"), float) - np.asarray(Image.fromarray(upright).convert("L"))).mean() < 2
    again = np.asarray(decode(to_jpeg(with_exif(orientation))), float)
    assert np.abs(again - upright).mean() < 2


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
def test_a_clean_jpeg_passes_unchanged(options: dict[str, Any]) -> None:
    for image in (PHOTO, PHOTO.convert("L")):
        content = encoded(image, **options)
        assert to_jpeg(content) is content
        assert inspect(content, 1)[3]


@pytest.mark.parametrize(("size", "side", "expected"), [((400, 300), 100, (100, 75)), ((300, 400), 150, (112, 150))])
def test_a_longer_photograph_is_made_smaller(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    large = picture("large", size=size)
    for kind in ("JPEG", "PNG"):
        small = decode(to_jpeg(encoded(large, kind), side))
        assert small.size == expected
        wanted = large.resize(expected, Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(small, float) - np.asarray(wanted, float)).mean() < 3
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    assert decode(to_jpeg(encoded(large, exif=exif), side)).size == expected[::-1]


def test_place_and_author_do_not_pass() -> None:
    for private in (with_exif(gps=True), encoded(PHOTO, comment=b"taken by the garden gate")):
        out = to_jpeg(private)
        assert out != private and not inspect(private, 1)[3] and inspect(out, 1)[3]
        stored = Image.open(io.BytesIO(out))
        assert not stored.getexif() and "comment" not in stored.info
        assert np.abs(np.asarray(stored, float) - np.asarray(decode(private), float)).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_become_jpeg(kind: str) -> None:
    assert not inspect(encoded(PHOTO, kind), 1)[3]
    out = Image.open(io.BytesIO(to_jpeg(encoded(PHOTO, kind))))
    assert (out.format, out.mode, out.size) == ("JPEG", "RGB", PHOTO.size)


def test_broken_exif_does_not_cost_the_photograph() -> None:
    good = with_exif(6)
    at = good.index(b"Exif\x00\x00") + 6
    broken = good[:at] + b"\xff" * 12 + good[at + 12 :]
    assert decode(broken).size == PHOTO.size
