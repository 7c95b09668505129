import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, TiffImagePlugin

from bioclip_lite.photographs.images import BadImage, Capture, capture, decode, inspect, is_plain_jpeg, to_jpeg
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
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "damaged"),
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
    files = [PLAIN, *(encoded(PHOTO, kind) for kind in ("PNG", "GIF", "TIFF", "WEBP", "HEIF", "AVIF", "JPEG2000"))]
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


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "TIFF", "WEBP", "PNG"])
@pytest.mark.parametrize(("orientation", "turn"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)])
def test_orientation_is_applied_once_in_every_format(kind: str, orientation: int, turn: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(PHOTO, kind, exif=exif.tobytes())  # HEIF and AVIF get a turn of their own besides
    upright = np.asarray(PHOTO.transpose(turn), float)
    for image in (decode(content), decode(to_jpeg(content))):
        assert np.abs(np.asarray(image, float) - upright).mean() < 8  # of lossy formats; unturned it is above 30
    assert inspect(content, 16)[:2] == upright.shape[1::-1]


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
    width, height, small, clean, _ = inspect(with_exif(orientation), 16)
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


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF", "JPEG2000"])
def test_other_formats_become_jpeg(kind: str) -> None:
    assert not inspect(encoded(PHOTO, kind), 1)[3]
    out = Image.open(io.BytesIO(to_jpeg(encoded(PHOTO, kind))))
    assert (out.format, out.mode, out.size) == ("JPEG", "RGB", PHOTO.size)


def test_broken_exif_does_not_cost_the_photograph() -> None:
    good = with_exif(6)
    at = good.index(b"Exif\x00\x00") + 6
    broken = good[:at] + b"\xff" * 12 + good[at + 12 :]
    assert decode(broken).size == PHOTO.size


# ---- photographs as cameras make them

LARGE = picture("large", size=(320, 240))


def lost(options: dict[str, Any], share: float) -> bytes:
    """A JPEG file of LARGE without the last ``share`` of its bytes; for 0 without the very last byte."""
    content = encoded(LARGE, quality=90, **options)
    return content[: min(len(content) - 1, round((1 - share) * len(content)))]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("share", [0, 0.001, 0.02])
def test_a_jpeg_that_lacks_its_last_bytes_is_shown_as_viewers_do(options: dict[str, Any], share: float) -> None:
    content = lost(options, share)
    found = inspect(content, 16)
    assert found.truncated and not found.clean and not is_plain_jpeg(content)
    assert np.abs(np.asarray(decode(content), float) - np.asarray(LARGE)).mean() < 4
    stored = to_jpeg(content)
    assert inspect(stored, 16).clean and not inspect(stored, 16).truncated
    assert decode(to_jpeg(content, 100)).size == (100, 75)


@pytest.mark.parametrize(
    ("options", "share"),  # the last scan of a progressive file, which may be missing, is above a fifth of it
    [(options, share) for options in ({}, {"subsampling": 0}) for share in (0.2, 0.5, 0.9)]
    + [({"progressive": True}, share) for share in (0.5, 0.9)],
)
def test_a_part_of_a_jpeg_is_refused(options: dict[str, Any], share: float) -> None:
    reserved = bytes(round(share * len(encoded(LARGE, quality=90, **options))))  # space that a download never filled
    for content in (lost(options, share), lost(options, share) + reserved):
        for read in (lambda content: inspect(content, 16), decode, to_jpeg):
            with pytest.raises(BadImage) as bad:
                read(content)
            assert bad.value.reason == "truncated"


def test_an_end_within_a_segment_is_not_that_of_the_picture() -> None:
    whole = encoded(PHOTO)
    segment = b"\xff\xe0" + (40).to_bytes(2, "big") + b"JFXX" + b"\xff\xd9" + 32 * b"\0"
    cut = whole[:2] + segment + whole[2:-2]
    assert to_jpeg(cut + b"\xff\xd9") == cut + b"\xff\xd9"
    assert decode(to_jpeg(cut)).size == PHOTO.size


def test_a_whole_jpeg_with_a_grey_bottom_is_not_truncated() -> None:
    image = LARGE.copy()
    image.paste((128, 128, 128), (0, 100, 320, 240))
    found = inspect(encoded(image, quality=95), 16)
    assert found.clean and not found.truncated


def test_the_film_of_a_motion_photo_is_cut_off() -> None:
    film = b"\x00\x00\x00\x18ftypmp42" + bytes(200) + b"\xff\xd9 the voice of a person"
    for progressive in (False, True):
        content = encoded(PHOTO, progressive=progressive)
        assert not inspect(content + film, 1).clean
        assert to_jpeg(content + film) == content
    with_thumbnail = with_exif(6)[:2] + b"\xff\xe1" + (len(PLAIN) + 2).to_bytes(2, "big") + PLAIN + with_exif(6)[2:]
    assert decode(with_thumbnail).size == decode(with_exif(6)).size
    assert b"voice" not in to_jpeg(with_thumbnail + film)


def test_of_several_pictures_the_first_is_taken() -> None:
    second = picture("depth", size=PHOTO.size)
    several: dict[str, dict[str, Any]] = {"MPO": {}, "GIF": {}, "WEBP": {"quality": 95}, "HEIF": {"quality": 95}}
    for kind, options in several.items():
        content = encoded(PHOTO, kind, save_all=True, append_images=[second], **options)
        assert not inspect(content, 16).clean
        for image in (decode(content), decode(to_jpeg(content))):
            assert np.abs(np.asarray(image, float) - np.asarray(PHOTO)).mean() < 8, kind


def test_an_embedded_thumbnail_is_not_taken_for_the_photograph() -> None:
    content = encoded(LARGE, "HEIF", thumbnails=[64])
    assert decode(content, side=32).size == LARGE.size


def test_ten_bits_are_scaled_to_eight() -> None:
    ramp = np.repeat(np.linspace(0, 65535, 640, dtype=np.uint16)[None, :, None], 480, axis=0).repeat(3, axis=2)
    file = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (640, 480), ramp.tobytes()).save(file, quality=95)
    found = np.asarray(decode(file.getvalue()), float)
    assert np.abs(found[..., 1] - ramp[..., 1] / 257).max() < 3


def test_cmyk_becomes_what_it_shows() -> None:
    content = encoded(PHOTO.convert("CMYK"), quality=95)
    assert np.abs(np.asarray(decode(content), float) - np.asarray(PHOTO)).mean() < 3
    assert not is_plain_jpeg(content) and is_plain_jpeg(PLAIN)
    assert is_plain_jpeg(to_jpeg(content))


def test_colour_profiles_are_ignored_as_in_the_browser() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for kind in ("JPEG", "PNG", "HEIF"):
        plain, profiled = (decode(encoded(PHOTO, kind, **more)) for more in ({}, {"icc_profile": profile}))
        assert (np.asarray(plain) == np.asarray(profiled)).all()


def dng(thumbnail: Image.Image) -> bytes:
    """The form of a camera's raw file: a TIFF whose first image is a thumbnail, with a list of others."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254], tags[330], tags[50706] = 1, 8, b"\x01\x04\x00\x00"
    return encoded(thumbnail, "TIFF", tiffinfo=tags)


@pytest.mark.parametrize(
    ("content", "reason", "said"),
    [
        (dng(PHOTO), "unsupported format", "raw"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(64), "unsupported format", "raw"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "unsupported format", "raw"),
        (b"FUJIFILMCCD-RAW 0201FF129502", "unsupported format", "raw"),
        (b"\xff\x0a\xfa\x1f\x01", "unsupported format", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "unsupported format", "JPEG XL"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video", "Live Photo"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video", "film"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "not an image", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an image", "git lfs pull"),
        (encoded(LARGE, "HEIF")[:-300], "truncated", "end of file"),
        (encoded(LARGE, "AVIF")[:-300], "damaged", "no picture in it"),
    ],
)
def test_what_is_not_read_is_called_by_its_name(content: bytes, reason: str, said: str) -> None:
    with pytest.raises(BadImage) as bad:
        inspect(content, 1)
    assert bad.value.reason == reason and said in bad.value.detail


def test_a_telephone_with_many_pixels_is_read_and_a_bomb_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    many = Image.new("RGB", (12_000, 9_000))  # 108 megapixels
    content = encoded(many, quality=20)
    assert inspect(content, 16)[:2] == (12_000, 9_000)
    assert decode(to_jpeg(content, 300)).size == (300, 225)
    with pytest.raises(BadImage, match="too large"):
        inspect(encoded(many, "PNG", compress_level=1), 16)


# ---- time and place


def taken(time: object = None, offset: object = None, place: Mapping[int, object] | None = None) -> Capture:
    exif = Image.Exif()
    exif[0x0132] = "2030:01:01 00:00:00"  # when the file was changed
    exif[0x010F], exif[0x0110] = "Moult Co.\0", " Trap 3 "
    exif.get_ifd(0x8769).update({tag: value for tag, value in ((0x9003, time), (0x9011, offset)) if value})
    exif.get_ifd(0x8825).update(place or {})
    return capture(encoded(PHOTO, exif=exif))


def test_time_and_place_are_read_from_exif() -> None:
    place = {1: "S", 2: (52.0, 31.0, 12.0), 3: "W", 4: (13.0, 30.0, 0.0)}
    assert taken("2026:04:01 06:30:00", "+02:00", place) == Capture(
        "image/jpeg", "2026-04-01T06:30:00", "+02:00", -52.52, -13.5, "Moult Co. Trap 3"
    )
    assert capture(encoded(PHOTO, "PNG")) == Capture("image/png", None, None, None, None, None)


@pytest.mark.parametrize("time", ["0000:00:00 00:00:00", "    :  :     :  :  ", "2026:02:30 00:00:00", "yesterday"])
def test_a_time_that_is_none(time: str) -> None:
    assert taken(time, "CET") == Capture("image/jpeg", None, None, None, None, "Moult Co. Trap 3")


@pytest.mark.parametrize(
    "place",
    [
        {1: "N", 2: (52.0, 31.0, 12.0)},  # half of it
        {1: "N", 2: (152.0, 0.0, 0.0), 3: "E", 4: (13.0, 0.0, 0.0)},
        {1: "", 2: (52.0, 0.0, 0.0), 3: "E", 4: (13.0, 0.0, 0.0)},
        {1: "N", 2: (52.0,), 3: "E", 4: (13.0, 0.0, 0.0)},
        {1: "N", 2: (TiffImagePlugin.IFDRational(0, 0), 0.0, 0.0), 3: "E", 4: (13.0, 0.0, 0.0)},
    ],
)
def test_a_place_that_is_none(place: Mapping[int, object]) -> None:
    assert taken(place=place)[3:5] == (None, None)
