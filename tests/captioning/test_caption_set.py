"""A caption set in COCO's form: what is read, and what is left out by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from bioclip_lite.captioning import caption_set
from bioclip_lite.utils.errors import UserError
from support import small_coca


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return tmp_path, small_coca.caption_set(tmp_path, each=3)


def read(folder: Path, content: Any) -> tuple[caption_set.CaptionSet, list[tuple[str, str, str]]]:
    (folder / "captions.json").write_text(json.dumps(content))
    found, rejects = caption_set.read(folder / "captions.json", folder / "photos")
    return found, [(reject.locator, reject.reason, reject.detail) for reject in rejects]


def test_every_photograph_has_its_captions(made: tuple[Path, dict[str, Any]]) -> None:
    found, rejects = read(*made)
    assert rejects == [] and caption_set.summary([]) == "Nothing was left out."
    assert found.names.to_pylist() == [f"{n:012d}.jpg" for n in range(12)]
    assert found.captions[0].as_py() == ["something red", "a red thing ."]
    assert found.image(0).size == (36, 32)
    drawn = {found.draw(0, epoch, 1) for epoch in range(20)}
    assert drawn == {"something green", "a green thing ."}
    assert found.draw(0, 3, 1) == found.of([7, 1]).draw(0, 3, 1)


def test_one_photograph_in_twenty_is_held_out_and_another_one_more_moves_few(tmp_path: Path) -> None:
    found, _ = read(tmp_path, small_coca.caption_set(tmp_path, each=15))
    learned, held_out = caption_set.split(found, 0, "captioner")
    assert (len(learned), len(held_out)) == (57, 3)
    keys = [{part.key(i) for i in range(len(part))} for part in (learned, held_out)]
    assert keys[0] | keys[1] == {*found.names.to_pylist()} and not keys[0] & keys[1]
    _, fewer = caption_set.split(found.of(range(59)), 0, "captioner")
    assert len({fewer.key(i) for i in range(2)} & keys[1]) == 2
    assert [len(part) for part in caption_set.split(found.of([0, 1]), 0)] == [1, 1]


def test_what_cannot_be_used_is_named(made: tuple[Path, dict[str, Any]]) -> None:
    folder, content = made
    (folder / "photos" / "000000000001.jpg").unlink()
    (folder / "photos" / "000000000002.jpg").write_bytes(b"<html>")
    whole = (folder / "photos" / "000000000003.jpg").read_bytes()
    (folder / "photos" / "000000000003.jpg").write_bytes(whole[: len(whole) // 2])
    images, annotations = content["images"], content["annotations"]
    images += [
        {"id": 100, "file_name": "again.jpg"},
        {"id": 900, "file_name": "000000000000.jpg"},
        {"id": 901, "file_name": "../captions.json"},
        {"id": 902},
        {"file_name": "no_id.jpg"},
        "no entry",
        {"id": 903, "file_name": "silent.jpg"},
        {"id": 904, "file_name": "zero\0.jpg"},
    ]
    annotations += [
        {"image_id": 555, "caption": "of nothing"},
        {"image_id": [100], "caption": "of a list"},
        {"image_id": 100, "caption": " \n"},
        {"image_id": 100, "caption": None},
        {"image_id": 100},
        None,
        {"image_id": 904, "caption": "of no file"},
    ]
    found, rejects = read(folder, content)
    kept = {found.key(i) for i in range(len(found))}
    assert kept == {f"{n:012d}.jpg" for n in (0, *range(4, 12))}
    assert found.captions[0].as_py() == ["something red", "a red thing ."]
    reasons: dict[str, list[str]] = {}
    for locator, reason, _ in rejects:
        reasons.setdefault(reason, []).append(locator)
    assert reasons == {
        "missing file": ["000000000001.jpg", "zero\0.jpg"],
        "not an image": ["000000000002.jpg"],
        "truncated": ["000000000003.jpg"],
        "duplicate": ["000000000000.jpg", "again.jpg"],
        "no caption": ["silent.jpg"],
        "bad entry": [
            "../captions.json",
            *(f"annotations, entry {n}" for n in range(24, 30)),
            *(f"images, entry {n}" for n in (15, 16, 17)),
        ],
    }
    assert "it has no caption for 000000000000.jpg" in {detail for *_, detail in rejects}
    assert any(detail.endswith("photos/000000000001.jpg") for *_, detail in rejects)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is no JSON"),
        ('["a"]', "has no list 'images'"),
        ('{"images": [], "annotations": {}}', "has no list 'annotations'; a caption set has the form of COCO's"),
        ('{"images": [], "annotations": []}', "0 of its 0 photographs are usable in .*photos"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a bee"}]}',
            "0 of its 1 .* a training needs 2. Left out: 1 missing file; first 'a.jpg': missing file .No such file",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(UserError, match=says):
        caption_set.read(tmp_path / "captions.json", tmp_path / "photos")
    with pytest.raises(UserError, match=r"absent.json cannot be read \(No such file"):
        caption_set.read(tmp_path / "absent.json", tmp_path)
