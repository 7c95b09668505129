"""Text types by name: those of a parameter file, and what is drawn from them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bioclip_lite.texts.captions import Captions, all_texts, problems, text_types
from bioclip_lite.texts.text_types import TYPES, caption
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table, write_table
from support.photographs import DAISY

COCA: dict[str, Any] = {"name": "coca", "model": "local-dir:coca", "weights": None, "captions": 2, "method": "nucleus"}
COCA |= {"top_p": 0.9, "beams": 3, "tokens": 20}
SECTION: dict[str, Any] = {
    "lit_columns": ["common_name"],
    "templates": {"note": "a {class}[ called {common_name_de}]", "alas": "{common_name}!"},
    "languages": ["de", "mi"],
    "captioners": [COCA],
    "seed": 0,
}


def test_the_types_are_those_of_the_parameters() -> None:
    assert text_types(SECTION) == (*TYPES, "com_de", "com_mi", "alas", "note", "source")
    description = {"ranks": list(DAISY), "common_name": "Daisy", "common_names": {"de": "Gänseblümchen"}}
    texts = all_texts(description, SECTION, ["common_name"])
    assert tuple(texts) == text_types(SECTION)
    assert texts["com_de"] == "a photo of Gänseblümchen."
    assert texts["com_mi"] == caption(DAISY, None, "com") == "a photo of Bellis perennis."
    assert texts["note"] == "a Magnoliopsida called Gänseblümchen"
    assert texts["lit"] == "A photo of a Daisy"


def test_shards_that_know_no_languages() -> None:
    texts = all_texts({"ranks": list(DAISY), "common_name": None}, SECTION, ["common_name"])
    assert (texts["com_de"], texts["note"]) == ("a photo of Bellis perennis.", "a Magnoliopsida")
    assert texts["alas"] == "Bellis perennis!"


def test_the_supercategory_is_that_of_the_source_or_the_iconic_group() -> None:
    section = {**SECTION, "templates": {"label": "{common_name} {supercategory} {genus}"}}
    description = {"ranks": list(DAISY), "common_name": "Daisy"}
    said = all_texts(description, section, ["common_name", "supercategory", "genus", "species"])
    assert (said["label"], said["lit"]) == ("Daisy Plants Bellis", "A photo of a Daisy Plants Bellis perennis")
    stated = all_texts({**description, "supercategory": "Plantae"}, section, ["supercategory", "species"])
    assert (stated["label"], stated["lit"]) == ("Daisy Plantae Bellis", "A photo of a Plantae perennis")


def test_good_parameters_have_no_problems() -> None:
    assert problems(SECTION, ["sci", "com_de", "note", "coca"]) == []


@pytest.mark.parametrize(
    ("change", "wanted", "says"),
    [
        ({}, ["scii"], "teacher.captions has unknown scii; did you mean sci; known are sci, com, taxon, taxonTag"),
        ({}, ["com_fr"], "com_de, com_mi, alas, note, source, coca"),
        ({"templates": {"note": "a {clas}"}}, [], "caption.templates.note is 'a {clas}': unknown field {clas}"),
        ({"languages": []}, [], "unknown field {common_name_de}"),
        ({"templates": {"sci": "{genus}"}}, [], "the name sci stands for 2 things"),
        ({"templates": {"key": "{genus}"}}, [], "the name key stands for 2 things"),
        ({"templates": {"com_mi": "{genus}"}}, [], "the name com_mi stands for 2 things"),
        ({"captioners": [COCA, COCA]}, [], "the name coca stands for 2 things"),
        ({"captioners": [{**COCA, "name": "note"}]}, [], "the name note stands for 2 things"),
        ({"captioners": [{**COCA, "method": "beam", "captions": 4}]}, [], "beam search with 3 beams"),
    ],
)
def test_each_problem_is_told_with_what_is_known(change: dict[str, Any], wanted: list[str], says: str) -> None:
    lines = problems({**SECTION, **change}, wanted)
    assert any(says in line for line in lines), lines


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for shard in "ab":
        keys = [f"{shard}{i}" for i in range(60)]
        plain = {kind: [f"{kind} {key}" for key in keys] for kind in ("sci", "com", "note")}
        said = {f"coca_{n}": [f"coca{n} {key}" if i else "" for i, key in enumerate(keys)] for n in range(2)}
        write_table(tmp_path / "caption" / f"{shard}.parquet", pa.table({"key": keys, **plain}))
        write_table(tmp_path / "caption" / "coca" / f"{shard}.parquet", pa.table({"key": keys, **said}))
    return tmp_path


def test_every_type_and_every_synthetic_caption_is_drawn_by_hash(data: Path) -> None:
    texts = Captions(data, ["a", "b"], ["com", "coca"])
    assert texts.keys == [f"{shard}{i}" for shard in "ab" for i in range(60)]
    drawn = [texts.draw(0, 1, i) for i in range(120)]
    kinds = [text.split()[0] for text in drawn]
    assert {"com", "coca0", "coca1"} <= set(kinds) <= {"com", "coca0", "coca1", "sci"}
    assert 40 < kinds.count("com") < 80
    assert all(text.split()[1] == key for text, key in zip(drawn, texts.keys, strict=True))
    assert drawn == [Captions(data, ["a", "b"], ["com", "coca"]).draw(0, 1, i) for i in range(120)]
    assert drawn != [texts.draw(0, 2, i) for i in range(120)]
    alone = Captions(data, ["b"], ["com", "coca"])
    assert [alone.draw(0, 1, i) for i in range(60)] == drawn[60:]


def test_where_a_captioner_is_silent_the_scientific_name_is_said(data: Path) -> None:
    texts = Captions(data, ["a"], ["coca"])
    assert texts.draw(0, 1, 0) == "sci a0"
    assert texts.draw(0, 1, 1).startswith("coca")


def test_taxa_are_named_by_the_last_text_type(data: Path) -> None:
    assert Captions(data, ["a"], ["com", "note", "coca"]).prompts()[3] == "note a3"
    assert Captions(data, ["a"], ["coca"]).prompts()[3] == "sci a3"


def test_captions_of_the_source(data: Path) -> None:
    """They are drawn as they are; the scientific name stands in for one that is missing, but not for all of them."""
    path = data / "caption" / "a.parquet"
    table = read_table(path)
    source = [None, *(f"the source of {key}" for key in table["key"].to_pylist()[1:])]
    write_table(path, table.append_column("source", pa.array(source)))
    texts = Captions(data, ["a"], ["source"])
    assert [texts.draw(0, 1, i) for i in (0, 1)] == ["sci a0", "the source of a1"] == texts.prompts()[:2]
    write_table(path, table.append_column("source", pa.nulls(60, pa.string())))
    with pytest.raises(UserError, match="no caption of any photograph"):
        Captions(data, ["a"], ["com", "source"])


def test_missing_and_foreign_tables_are_named(data: Path) -> None:
    with pytest.raises(UserError, match=r"caption/other/a\.parquet is missing"):
        Captions(data, ["a"], ["other"])
    (data / "caption" / "coca" / "a.parquet").write_bytes((data / "caption" / "coca" / "b.parquet").read_bytes())
    with pytest.raises(UserError, match="list different photographs"):
        Captions(data, ["a"], ["coca"])
