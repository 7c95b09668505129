"""`bioclip-lite init` writes parameters that pass, fit the photographs and the hours, and replace nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bioclip_lite import params
from bioclip_lite.commands import init
from bioclip_lite.models import hub
from bioclip_lite.planning import speed
from bioclip_lite.planning.speed import Machine
from bioclip_lite.utils import yaml_files
from bioclip_lite.utils.errors import UserError
from support.checkout import sh
from support.photographs import GANNET, encoded, picture, row, write_folder
from support.raw_forms import put, serving, write_csv

SPECIES = ("Bellis perennis", "Morus alba", "Morus bassanus")
FOUR_CORES = Machine(4, 16e9, 50e9, None)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository on a machine of known speed that reaches no hub; photographs lie beside it."""
    root = tmp_path / "repository"
    put(root / "params.yaml", "index: {}\n")
    for folder in ("lists", "weights"):
        put(root / "data" / folder / "README.md", "")
    sh("git init -q && git add -A && git commit -qm start", root)
    monkeypatch.chdir(root)
    monkeypatch.setattr(hub, "whereabouts", lambda _: None)
    monkeypatch.setattr(speed, "here", lambda: FOUR_CORES)
    monkeypatch.setattr(speed, "view_seconds", lambda _: 0.003)
    monkeypatch.setattr(speed, "embedding_seconds", lambda _: 0.37)
    monkeypatch.setattr(speed, "text_seconds", lambda: 0.03)
    monkeypatch.setattr(speed, "step_seconds", lambda name, options, size, batch: 0.016 * (size / 224) ** 2)
    return root


def album(root: Path, each: int = 12, size: tuple[int, int] = (40, 32)) -> Path:
    for species in SPECIES:
        for number in range(each):
            put(root / species / f"{number}.jpg", encoded(picture(species, number, size=size)))
    return root


def written() -> Any:
    return params.load(Path("params.yaml"))


def test_subfolders_with_spaces_and_a_list(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = album(repository.parent / "my photos")
    wanted = put(repository.parent / "my list.txt", "Bellis perennis\nMorus alba\nActias luna\n")
    assert init.main([str(photos), "--list", str(wanted), "--hours", "2"]) == 0
    said = capsys.readouterr().out
    assert (
        "24 of 2 taxa" in said and "40 x 32 (median of 24 opened)" in said and "12 of taxa that the list lacks" in said
    )
    assert "2 of 3 names have photographs; none of Actias luna" in said
    assert "no rank above the genus" in said and "none stated 24" in said
    assert "hf download imageomics/bioclip\n" in said  # it is not here
    assert "warning: teacher.kind is train" in said and "make evaluate" in said
    assert Path("data/photos").resolve() == photos and Path("data/lists/my list.txt").read_text() == wanted.read_text()
    found = written()
    assert (found["index"]["source"], found["index"]["path"]) == ("folder", "data/photos")
    assert found["index"]["species_list"] == "my list.txt" and found["teacher"]["kind"] == "train"
    assert found["shard"]["counts"]["pretrain"] == 0 and found["shard"]["max_side"] is None
    assert len(Path("params.yaml").read_text().splitlines()) < 16
    params.check_sources(found)


@pytest.mark.parametrize(("nameless", "learned_from"), [(40, True), (31, False)])
def test_photographs_without_a_name_teach_the_student(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nameless: int,
    learned_from: bool,
) -> None:
    monkeypatch.setattr(hub, "whereabouts", lambda _: "cache")
    photographs = [row(f"{i}.jpg", GANNET) for i in range(8)]
    photographs += [row(f"unknown-{i}.jpg", (None,) * 7) for i in range(nameless)]
    assert init.main([str(write_folder(repository.parent / "photos", photographs)), "--hours", "2"]) == 0
    said = capsys.readouterr().out
    assert f"no name      {nameless} photographs" in said
    assert ("the student learns the teacher's answers to them" in said) == learned_from
    found = written()
    assert found["index"]["unlabelled"] == ("keep" if learned_from else "leave_out")
    assert found["shard"]["counts"]["unlabelled"] == int(learned_from)
    assert found["distill"]["splits"] == ["train", "unlabelled"][: 1 + learned_from]


def test_an_export_of_addresses_is_looked_at_by_a_few_photographs(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as web:
        rows = []
        for number in range(30):
            web.files[f"{number}.jpg"] = encoded(picture(number, size=(900, 700)))
            rows.append([number, web.url(f"{number}.jpg"), "CC-BY", SPECIES[number % 3]])
        table = write_csv(
            repository.parent / "downloads" / "observations 1.csv",
            ["id", "image_url", "license", "scientific_name"],
            rows,
        )
        init.init(table, None, 2, Path("params.yaml"))
        assert len({path for path, _, _ in web.asked}) == 8
    assert "900 x 700 (median of 8 opened)" in capsys.readouterr().out
    found = written()
    assert (found["index"]["source"], found["index"]["path"]) == ("inaturalist", "data/photos/observations 1.csv")
    assert Path(found["index"]["path"]).samefile(table) and found["shard"]["max_side"] == 512


@pytest.mark.parametrize(
    ("hours", "model", "views", "image_size"),
    [(8, "bioclip-2", 8, 224), (1, "bioclip-2", 4, 224), (0.75, "bioclip", 8, 224), (0.3, "bioclip", 4, 160)],
)
def test_hours_choose_teacher_views_and_pixels(
    repository: Path, monkeypatch: pytest.MonkeyPatch, hours: float, model: str, views: int, image_size: int
) -> None:
    monkeypatch.setattr(hub, "whereabouts", lambda _: "hub")
    album(repository / "data" / "source", each=500, size=(8, 8))
    init.init(Path("data/source"), None, hours, Path("params.yaml"))
    found = written()
    assert found["index"]["path"] == "data/source" and not Path("data/photos").exists()
    assert found["teacher"]["pretrained"]["model"] == f"hf-hub:imageomics/{model}"
    assert (found["logits"]["views"], found["distill"]["image_size"]) == (views, image_size)
    assert found["distill"]["weights"] == "pretrained" and 20 <= found["distill"]["epochs"] <= 40
    assert found["shard"]["counts"]["train"] == 4


def test_local_weights_make_a_lit_teacher_and_start_the_student(repository: Path) -> None:
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("mobilenetv2_050").state_dict(), "data/weights/my_mobilenetv2_050.safetensors")
    put(Path("data/weights/mobilenetv2_100.safetensors"), b"cut off")
    init.init(album(repository.parent / "photos"), None, 2, Path("params.yaml"))
    found = written()
    assert found["teacher"]["kind"] == "lit" and found["teacher"]["lit"]["image_tower"] == "mobilenetv2_050"
    assert found["teacher"]["lit"]["mean"] == [0.485, 0.456, 0.406]
    assert found["distill"]["student"] == "mobilenetv2_050"
    assert found["teacher"]["lit"]["weights"] == found["distill"]["weights"] == "my_mobilenetv2_050.safetensors"
    params.check_sources(found)


def test_an_edited_file_stays_and_an_earlier_one_is_replaced(repository: Path) -> None:
    photos = album(repository.parent / "photos")
    for _ in range(2):  # over what git holds, and over its own
        init.init(photos, None, 2, Path("params.yaml"))
    with Path("params.yaml").open("a") as file:
        file.write("# mine\n")
    before = Path("params.yaml").read_bytes()
    with pytest.raises(UserError, match=r"params\.yaml has changes .* would be lost; .* --output params\.new\.yaml"):
        init.init(photos, None, 2, Path("params.yaml"))
    init.init(photos, None, 2, Path("params.new.yaml"))
    assert Path("params.yaml").read_bytes() == before
    assert yaml_files.read(Path("params.new.yaml"))["index"]["source"] == "folder"


def photographs_of_another(root: Path) -> Path:
    (root / "repository/data/photos").mkdir()
    return album(root / "photos")


def another_list(root: Path) -> Path:
    put(root / "repository/data/lists/list.txt", "Quercus robur\n")
    return album(root / "photos")


def none_of_the_list(root: Path) -> Path:
    return put(root / "photos/Quercus robur/a.jpg", b"x").parents[1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (photographs_of_another, "data/photos is no link, and what it holds would be lost"),
        (another_list, r"data/lists/list\.txt differs from .* and would be lost"),
        (none_of_the_list, "no photograph with a usable name of the list"),
    ],
)
def test_mistakes_change_nothing(repository: Path, make: Callable[[Path], Path], says: str) -> None:
    wanted = put(repository.parent / "list.txt", "Bellis perennis\n")
    photos = make(repository.parent)
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=says):
        init.init(photos, wanted, 2, Path("params.yaml"))
    with pytest.raises(UserError, match="--hours is 0; it must be above 0"):
        init.init(photos, wanted, 0, Path("params.yaml"))
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before
