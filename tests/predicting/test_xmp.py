"""XMP: foreign tags and pixels stay, names are not doubled, an end at any moment loses nothing."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bioclip_lite.photographs.images import decode
from bioclip_lite.predicting import xmp
from bioclip_lite.predicting.records import Record
from bioclip_lite.utils.errors import UserError
from predicting.test_formats import FOX, HASH, ORIGIN, answer, record
from support.photographs import encoded, picture

needs_exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="ExifTool is not installed")
FOREIGN = [  # an editor's, in a namespace that nobody knows, among others
    "-XMP-dc:Subject=holiday",
    "-XMP-dc:Subject=1.10",
    "-XMP-xmp:Rating=4",
    "-XMP-dc:Title=at dusk",
    "-XMP-crs:Exposure2012=+0.50",
    "-EXIF:Artist=Ann",
    "-EXIF:DateTimeOriginal=2026:04:01 06:30:00",
    "-IPTC:Keywords=fence",
]


@pytest.fixture(scope="module")
def ask() -> Iterator[xmp.Ask]:
    with xmp.exiftool() as asked:
        yield asked


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    file = tmp_path / "fox with blanks é.jpg"
    file.write_bytes(encoded(picture("fox")))
    subprocess.run(["exiftool", "-q", "-overwrite_original", *FOREIGN, file], check=True)
    file.chmod(0o640)
    return file


def answered(file: Path, *answers: Any) -> Record:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return record(file.name, *answers, file=os.fsencode(file), file_name=str(file), sha256=digest)


def tags(file: Path) -> dict[str, Any]:
    said = subprocess.run(["exiftool", "-json", "-G1", "-struct", "-u", file], check=True, capture_output=True).stdout
    found: dict[str, Any] = json.loads(said)[0]
    ours = ("SourceFile", "ExifTool:", "System:", "File:", "XMP-x:XMPToolkit")
    return {name: value for name, value in found.items() if not name.startswith(ours)}


@needs_exiftool
def test_a_photograph_keeps_all_that_is_foreign(ask: xmp.Ask, photograph: Path) -> None:
    before, pixels, content = tags(photograph), decode(photograph.read_bytes()).tobytes(), photograph.read_bytes()
    other = photograph.with_name("same.jpg")
    os.link(photograph, other)
    xmp.write(ask, answered(photograph, answer(FOX, common_name="red fox")), ORIGIN, True, "run 1")
    after = tags(photograph)
    assert {name: value for name, value in after.items() if name in before} == before | {
        "XMP-dc:Subject": ["holiday", 1.1, "Vulpes vulpes", "red fox"]  # JSON of ExifTool; 1.10 itself stays, see below
    }
    assert b"<rdf:li>1.10</rdf:li>" in photograph.read_bytes()
    assert after["XMP-lr:HierarchicalSubject"] == [
        "bioclip-lite|Animalia|Chordata|Mammalia|Carnivora|Canidae|Vulpes|Vulpes vulpes"
    ]
    assert (after["XMP-bioclip:ModelSHA256"], after["XMP-bioclip:Rank"]) == (HASH, "species")
    assert (after["XMP-bioclip:Threshold"], after["XMP-bioclip:Score"]) == (0.8, 0.9)
    assert decode(photograph.read_bytes()).tobytes() == pixels
    assert photograph.stat().st_mode & 0o777 == 0o640 and other.read_bytes() == content
    assert xmp.is_answered(ask, photograph, True, "run 1") and not xmp.is_answered(ask, photograph, True, "run 2")
    # the same again adds nothing; another answer takes the place of the first, and the user's own keywords stay
    xmp.write(ask, answered(photograph, answer(FOX, common_name="red fox")), ORIGIN, True, "run 1")
    assert tags(photograph) == after
    xmp.write(ask, answered(photograph), ORIGIN, True, "run 2")
    unknown = tags(photograph)
    assert unknown["XMP-dc:Subject"] == before["XMP-dc:Subject"]
    assert unknown["XMP-lr:HierarchicalSubject"] == ["bioclip-lite|unknown"] and "XMP-bioclip:Rank" not in unknown


@needs_exiftool
def test_a_keyword_of_the_user_is_never_taken_away(ask: xmp.Ask, photograph: Path) -> None:
    subprocess.run(["exiftool", "-q", "-overwrite_original", "-XMP-dc:Subject+=red fox", photograph], check=True)
    fox = answer(FOX, common_name="red fox")
    xmp.write(ask, answered(photograph, fox), ORIGIN, True, "run 1")
    xmp.write(ask, answered(photograph), ORIGIN, True, "run 2")
    assert tags(photograph)["XMP-dc:Subject"] == ["holiday", 1.1, "red fox"]


@needs_exiftool
def test_a_sidecar_is_made_and_then_merged(ask: xmp.Ask, photograph: Path) -> None:
    content = photograph.read_bytes()
    sidecar = photograph.with_name(photograph.name + ".xmp")
    xmp.write(ask, answered(photograph, answer(FOX)), ORIGIN, False, "run 1")
    assert tags(sidecar)["XMP-dc:Subject"] == ["Vulpes vulpes"]
    subprocess.run(["exiftool", "-q", "-overwrite_original", "-XMP-xmp:Rating=5", sidecar], check=True)
    text = sidecar.read_text("utf-8")
    strange = (
        "<rdf:Description rdf:about='' xmlns:odd='urn:odd/'><odd:Mask><rdf:Seq><rdf:li>a</rdf:li></rdf:Seq></odd:Mask>"
    )
    sidecar.write_text(text.replace("</rdf:RDF>", f"{strange}</rdf:Description></rdf:RDF>"), "utf-8")
    xmp.write(ask, answered(photograph), ORIGIN, False, "run 2")
    assert "urn:odd/" in sidecar.read_text("utf-8") and "odd:Mask" in sidecar.read_text("utf-8")
    found = tags(sidecar)
    assert found["XMP-xmp:Rating"] == 5 and "XMP-dc:Subject" not in found
    assert photograph.read_bytes() == content
    assert xmp.is_answered(ask, photograph, False, "run 2")
    os.utime(photograph, (2**33, 2**33))
    assert not xmp.is_answered(ask, photograph, False, "run 2")


@needs_exiftool
def test_what_is_not_written_stays_as_it_was(ask: xmp.Ask, photograph: Path) -> None:
    content = photograph.read_bytes()
    known = answered(photograph, answer(FOX))
    link = photograph.with_name("link.jpg")
    link.symlink_to(photograph)
    with pytest.raises(xmp.NotWritten, match="it is a link to"):
        xmp.write(ask, answered(link, answer(FOX)), ORIGIN, True, "run")
    with pytest.raises(xmp.NotWritten, match="it has changed since"):
        xmp.write(ask, known | {"sha256": HASH}, ORIGIN, True, "run")
    broken = photograph.with_name(photograph.name + ".xmp")
    broken.write_text("<x:xmpmeta>, and no end")
    assert not xmp.is_answered(ask, photograph, False, "run")
    with pytest.raises(xmp.NotWritten, match="ExifTool"):
        xmp.write(ask, known, ORIGIN, False, "run")
    assert broken.read_text() == "<x:xmpmeta>, and no end"
    bitmap = photograph.with_name("a.bmp")
    bitmap.write_bytes(encoded(picture("fox"), "BMP"))
    with pytest.raises(xmp.NotWritten, match="ExifTool does not write it"):
        xmp.write(ask, answered(bitmap, answer(FOX)), ORIGIN, True, "run")
    line = photograph.with_name("two\nlines.jpg")
    line.write_bytes(content)
    with pytest.raises(xmp.NotWritten, match="line break"):
        xmp.write(ask, answered(line, answer(FOX)), ORIGIN, True, "run")
    assert photograph.read_bytes() == content
    assert {file.name for file in photograph.parent.iterdir()} == {
        file.name for file in (photograph, link, broken, bitmap, line)
    }


def test_without_exiftool_there_is_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="ExifTool, which writes XMP, is not installed"), xmp.exiftool():
        pass
