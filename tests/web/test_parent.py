from pathlib import Path

import pytest

from bioclip_lite.models import teachers
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, write_json
from bioclip_lite.web.parent import known_of_bundle, read_parent
from support import fake_bundles


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> teachers.Teacher:
    return fake_bundles.make_teacher(tmp_path_factory.mktemp("data"))


@pytest.fixture
def folder(tmp_path: Path, teacher: teachers.Teacher) -> Path:
    fake_bundles.make_bundle(tmp_path / "bundle", teacher)
    return tmp_path / "bundle"


def test_a_bundle_is_read_with_the_rows_of_its_taxa(folder: Path, teacher: teachers.Teacher) -> None:
    parent = read_parent(folder)
    assert list(parent.entries) == list(fake_bundles.TAXA)
    assert parent.integers.shape == (5, parent.width) and parent.teacher == teacher.identity
    assert known_of_bundle(parent).names == fake_bundles.TAXA


def test_a_damaged_bundle_is_refused(folder: Path) -> None:
    about = read_json(folder / "bundle.json")
    weights = next(folder.glob("weights-*"))
    for content, problem in ((b"other", "is damaged"), (None, "which is not in the folder")):
        weights.write_bytes(content) if content else weights.unlink()
        with pytest.raises(UserError, match=problem):
            read_parent(folder)
    write_json(folder / "bundle.json", about | {"files": {"../elsewhere.bin": {"bytes": 1, "sha256": "a"}}})
    with pytest.raises(UserError, match="which is not in the folder"):
        read_parent(folder)


@pytest.mark.parametrize("change", [{"taxa": 3}, {"text": {"file": "absent.bin"}}, {"embedding": 99}, {"files": []}])
def test_a_bundle_json_of_another_form_is_refused(folder: Path, change: dict[str, object]) -> None:
    write_json(folder / "bundle.json", read_json(folder / "bundle.json") | change)
    with pytest.raises(UserError, match=r"bundle\.json (is not as stage convert writes it|lists)"):
        read_parent(folder)


def test_no_bundle_or_one_of_another_format(folder: Path) -> None:
    with pytest.raises(UserError, match="is no bundle"):
        read_parent(folder.parent)
    write_json(folder / "bundle.json", read_json(folder / "bundle.json") | {"format": 4})
    with pytest.raises(UserError, match="has format 4; this version reads formats 2 and 3"):
        read_parent(folder)
    (folder / "bundle.json").write_text("[1]")
    with pytest.raises(UserError, match="is not as stage convert writes it"):
        read_parent(folder)
