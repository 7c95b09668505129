"""Tars of photographs with captions, as iNat-Captions has them, up to a text tower's captions."""

import copy
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from bioclip_lite.models import students, teachers
from bioclip_lite.sources.inat_captions import named
from bioclip_lite.stages import teacher
from bioclip_lite.texts.captions import Captions
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table
from support import lessons
from support.photographs import DAISY, GANNET, MULBERRY
from support.raw_forms import listed, photo, put, rejects, source_params, to_captions, webdataset_tar

SENTENCES = {
    "A photo of the Common Daisy Plants Bellis perennis.": DAISY,
    "A photo of the White Mulberry Plants Morus alba.": MULBERRY,
    "A photo of the Northern Gannet Birds Morus bassanus.": GANNET,
}


def captioned(folder: Path, each: int = 6) -> None:
    """Two tars with running numbers, as img2dataset writes them, which begin anew in the folder val."""
    found = [
        {"__key__": f"{number:09d}", "jpg": photo("inat captions", number), "txt": sentence, "json": "{}"}
        for number, sentence in enumerate(list(SENTENCES) * each)
    ]
    webdataset_tar(folder / "000000.tar", found[: len(found) // 2])
    webdataset_tar(folder / "000001.tar", found[len(found) // 2 :])
    held_out = [{**one, "jpg": photo("held out", i)} for i, one in enumerate(found[:3])]
    webdataset_tar(folder / "val" / "000000.tar", held_out)


def test_from_tars_to_captions(tmp_path: Path) -> None:
    captioned(tmp_path / "tars")
    data = tmp_path / "data"
    rows = to_captions(source_params("inat_captions", tmp_path / "tars"), data)
    assert len(rows) == 21
    assert all((row["split"] == "test") == row["locator"].startswith("val/") for row in rows)
    assert {(row["source"], row["genus"], row["species"]) for row in rows} == {
        (sentence, *path[5:]) for sentence, path in SENTENCES.items()
    }
    assert all(row["caption"] == row["source"] for row in rows)
    gannet = next(row for row in rows if row["species"] == "bassanus")
    assert (gannet["kingdom"], gannet["class"], gannet["order"]) == ("Animalia", "Aves", None)
    assert (gannet["common_name"], gannet["supercategory"]) == ("Northern Gannet", "Birds")
    texts = Captions(data, ["train-00000"], ["source"])
    drawn = {texts.draw(0, 0, i) for i in range(len(texts.keys))}
    assert drawn == set(SENTENCES) == set(texts.prompts())


def test_lit_is_tuned_to_the_captions_of_the_source(tmp_path: Path) -> None:
    captioned(tmp_path / "tars", each=20)
    data = tmp_path / "data"
    to_captions(source_params("inat_captions", tmp_path / "tars"), data)
    options = lessons.TEACHER["lit"]["image_tower_options"]
    tower = students.build_student(students.student_spec("mobilenetv2_050", options, 3, 32))
    (data / "weights").mkdir()
    save_file(tower.state_dict(), data / "weights" / "tower.safetensors")
    teacher.run({**copy.deepcopy(lessons.TEACHER), "kind": "lit", "captions": ["source"]}, data)
    history = read_table(data / "teacher" / "history.parquet").to_pylist()
    assert history[-1]["loss"] < history[0]["loss"]
    tuned = teachers.load_teacher(data / "teacher" / "model")
    texts = teachers.embed_texts(tuned, sorted(SENTENCES))
    assert texts.shape == (3, 1280) and np.isfinite(texts).all()


def test_captions_in_another_form_are_looked_up_in_the_list(tmp_path: Path) -> None:
    """What they say is a common name; unknown ones, and empty captions, are left out and told."""
    said = ["a photo of a Northern gannet."] * 5 + [
        "a bird sits on a rock",
        "",
        "A photo of the Common Daisy Plants Bellis",
    ]
    found = [{"__key__": f"{i:04d}", "jpg": photo("said", i), "txt": text} for i, text in enumerate(said)]
    webdataset_tar(tmp_path / "tars" / "0.tar", [*found, {"__key__": "x", "jpg": photo("x")}])
    header = "common_name,kingdom,phylum,class,order,family,genus,species\n"
    rows = f"Northern Gannet,{','.join(map(str, GANNET))}\nDaisies,{','.join(map(str, DAISY[:6]))},\n"
    put(tmp_path / "data" / "lists" / "birds.csv", header + rows)
    params = source_params("inat_captions", tmp_path / "tars", species_list="birds.csv")
    kept = to_captions(params, tmp_path / "data")
    assert sorted({(row["family"], row["source"]) for row in kept}) == [
        ("Asteraceae", "A photo of the Common Daisy Plants Bellis"),
        ("Sulidae", "a photo of a Northern gannet."),
    ]
    assert rejects(tmp_path / "data") == {
        "0.tar/0006": "no taxon",
        "0.tar/x": "no taxon",
        next(locator for locator in rejects(tmp_path / "data") if ":" in locator): "not listed",
    }


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the Buff-tailed Coronet Birds Boissonneaua flavescens", ("Buff-tailed Coronet", "Birds", "flavescens")),
        ("A photo of a Bird of Paradise Plants Strelitzia reginae", ("Bird of Paradise", "Plants", "reginae")),
        ("an Arctic Tern Birds Sterna", ("Arctic Tern", "Birds", None)),
        ("Insects Apis mellifera", (None, "Insects", "mellifera")),
        ("A photo of a Fly Fungi Fungi Basidiomycota Agaricomycetes Agaricales Amanitaceae Amanita muscaria.",
         ("Fly", "Fungi", "muscaria")),
        ("London plane Plants Platanus \N{MULTIPLICATION SIGN} hispanica",
         ("London plane", "Plants", "\N{MULTIPLICATION SIGN} hispanica")),
        ("Birds on a wire", ("Birds on a wire", None, None)),
    ],
)  # fmt: skip
def test_what_a_caption_names(caption: str, expected: tuple[str | None, ...]) -> None:
    row = named(caption)
    assert (row.get("common_name"), row.get("supercategory"), row.get("species")) == expected


def test_tars_that_are_no_captions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.tar"):
        listed(source_params("inat_captions", tmp_path))
    webdataset_tar(tmp_path / "0.tar", [{"__key__": "one", "txt": "a daisy"}])
    samples, left_out = listed(source_params("inat_captions", tmp_path))
    assert samples == [] and [r.reason for r in left_out] == ["missing file"]
