"""`make preset` puts params.yaml and its data in place, and loses nothing."""

from pathlib import Path

import pytest

from bioclip_lite.commands import preset
from bioclip_lite.utils.errors import UserError
from support.checkout import sh


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflow/presets").mkdir(parents=True)
    (tmp_path / "workflow/presets/birds.yaml").write_text("index: birds\n")
    (tmp_path / "data/weights").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("index: mine\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "tower.safetensors").write_bytes(b"weights")
    (tmp_path / "start.safetensors").write_bytes(b"other weights")
    sh("git init -q && git add -A && git commit -qm start", tmp_path)
    return tmp_path


def test_params_photos_and_weights_are_put_in_place(repository: Path) -> None:
    for _ in range(2):
        preset.put_in_place("birds", Path("photos"), [Path("tower.safetensors"), Path("start.safetensors")])
    assert Path("params.yaml").read_text() == "index: birds\n"
    assert Path("data/photos").resolve() == (repository / "photos").resolve()
    assert {path.name: path.read_bytes() for path in Path("data/weights").iterdir()} == {
        "tower.safetensors": b"weights",
        "start.safetensors": b"other weights",
    }


def test_mistakes_change_nothing(repository: Path) -> None:
    for name, photos, weights, message in (
        ("fish", None, [], "choose one of birds"),
        ("birds", Path("nowhere"), [], "--photos nowhere is not a folder"),
        ("birds", None, [Path("tower.safetensors"), Path("nothing")], "--weights nothing is not a file"),
    ):
        with pytest.raises(UserError, match=message):
            preset.put_in_place(name, photos, weights)
    assert Path("params.yaml").read_text() == "index: mine\n"
    assert not list(Path("data/weights").iterdir())


def test_uncommitted_parameters_are_kept(repository: Path) -> None:
    Path("params.yaml").write_text("index: edited\n")
    with pytest.raises(UserError, match="would be lost"):
        preset.put_in_place("birds", None, [])
    assert Path("params.yaml").read_text() == "index: edited\n"
