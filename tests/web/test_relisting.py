"""A bundle for another list: rows that stay as they are, rows that the teacher embeds, and what the promise covers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bioclip_lite.indexing import placing
from bioclip_lite.models import teachers
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import store
from bioclip_lite.texts import text_types
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json
from bioclip_lite.web import bundle, confidence, relisting
from bioclip_lite.web.parent import Parent, known_of_bundle, read_parent
from support import fake_bundles
from support.fake_bundles import DAISY, GANNETS, TAXA

BASSANUS, SERRATOR = (*GANNETS, "bassanus"), (*GANNETS, "serrator")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> teachers.Teacher:
    return fake_bundles.make_teacher(tmp_path_factory.mktemp("data"))


@pytest.fixture
def parent(tmp_path: Path, teacher: teachers.Teacher) -> Parent:
    fake_bundles.make_bundle(tmp_path / "parent", teacher)
    return read_parent(tmp_path / "parent")


def relist(
    parent: Parent,
    text: str,
    teacher: teachers.Teacher | None,
    photographs: confidence.Photographs | None = None,
    budget: int | None = None,
    whole_table: int | None = None,
) -> tuple[relisting.Relisted, dict[str, Any]]:
    """The table of a list, and the bundle.json that is written; without a teacher none may be asked for."""

    def asked() -> teachers.Teacher:
        assert teacher is not None, "no row had to be embedded"
        return teacher

    known, here = known_of_bundle(parent), parent.folder.parent
    (here / "list.csv").write_text(text)
    placed = placing.read(here / "list.csv", known.names)
    relisted = relisting.relist(parent, known, placed, asked, photographs, relisting.Limits(budget, whole_table))
    out = here / f"out-{len(list(here.iterdir()))}"
    out.mkdir()
    return relisted, relisting.write(out, parent, relisted, here / "list.csv", None)


def test_rows_of_taxa_that_the_model_has_stay_bit_by_bit(parent: Parent) -> None:
    relisted, about = relist(parent, "Bellis perennis\nMorus serrator\nMoraceae\n", None)
    table, rows = relisted.table, [1, 2, 3, 4]
    assert table.paths == [list(TAXA)[row] for row in rows]
    assert (table.integers == parent.integers[rows]).all() and (table.scales == parent.scales[rows]).all()
    assert [entry["id"] for entry in about["taxa"]] == [parent.about["taxa"][row]["id"] for row in rows]
    assert relisted.report["taxa"]["rows_taken_over"] == 4
    assert not any("zero_shot" in entry for entry in about["taxa"])


def test_the_whole_list_gives_the_same_table_file(parent: Parent) -> None:
    _, about = relist(parent, "Animalia\nPlantae\n", None)
    assert about["files"] == parent.about["files"] and about["taxa"] == parent.about["taxa"]


def test_new_taxa_are_embedded_as_the_bundle_says_and_marked(parent: Parent, teacher: teachers.Teacher) -> None:
    text = (
        "scientific_name,common_name,common_name_de\nBellis annua,Annual Daisy,\nMorus bassanus,,Ba\u00dft\u00f6lpel\n"
    )
    relisted, about = relist(parent, text, teacher)
    new = (*DAISY[:6], "annua")
    caption = text_types.caption(new, "Annual Daisy", "taxon_com")
    expected = store.encode(teachers.embed_texts(teacher, [caption]), "int8")
    row = relisted.table.paths.index(new)
    assert (relisted.table.integers[row] == expected["embeddings"][0]).all()
    # Another language changes no prompt.
    assert (relisted.table.integers[1 - row] == parent.integers[0]).all()
    marks = {tuple(entry["ranks"]): (entry.get("zero_shot"), entry["common_names"]) for entry in about["taxa"]}
    assert marks[new] == (True, {"en": "Annual Daisy"})
    assert marks[BASSANUS] == (None, {"de": "Ba\u00dft\u00f6lpel", "en": "Northern Gannet"})
    assert relisted.report["taxa"] | {"listed": 2, "of_the_model": 1, "rows_taken_over": 1} == relisted.report["taxa"]


def test_another_english_name_is_another_prompt(parent: Parent, teacher: teachers.Teacher) -> None:
    relisted, about = relist(parent, "name,common_name\nBellis perennis,Lawn Daisy\nMorus alba,\n", teacher)
    assert about["taxa"][0]["common_names"] == {"en": "Lawn Daisy"} and "zero_shot" not in about["taxa"][0]
    caption = text_types.caption(DAISY, "Lawn Daisy", "taxon_com")
    assert np.abs(relisted.table.text[0] - teachers.embed_texts(teacher, [caption])[0]).max() < 0.51 / 127
    assert (relisted.table.integers[1] == parent.integers[3]).all()


def test_marks_of_the_bundle_are_kept(tmp_path: Path, teacher: teachers.Teacher) -> None:
    said = fake_bundles.make_bundle(tmp_path / "first", teacher)
    remarks = {"zero_shot": True, "finest_rank": "genus", "note": "cryptic"}
    fake_bundles.make_bundle(tmp_path / "parent", teacher, taxa=[said["taxa"][0] | remarks, *said["taxa"][1:]])
    _, about = relist(read_parent(tmp_path / "parent"), "Morus bassanus\nDaisy\n", None)
    assert about["taxa"][0] == said["taxa"][0] | remarks and about["taxa"][1] == said["taxa"][2]


def test_the_model_is_the_same_files(parent: Parent) -> None:
    _, about = relist(parent, "Plantae\n", None)
    out = next(parent.folder.parent.glob("out-*"))
    assert read_json(out / "bundle.json") == about
    for name, file in about["files"].items():
        assert bundle.sha256((out / name).read_bytes()) == file["sha256"]
    same = parent.about["files"].keys() - {parent.about["text"]["file"]}
    assert same < about["files"].keys() and len(about["files"]) == len(parent.about["files"])
    told = about["provenance"]
    assert told["relisted_from"] == bundle.sha256((parent.folder / "bundle.json").read_bytes())
    assert told["species_list_sha256"] == bundle.sha256(b"Plantae\n")
    assert told["taxonomy_sha256"] == bundle.sha256(bundle.json_bytes(about["taxa"]))


def test_the_budget_of_the_table_holds(parent: Parent, teacher: teachers.Teacher) -> None:
    row = parent.width + 4
    text = "".join(f"Bellis {epithet}\n" for epithet in ("annua", "perennis", "sylvestris"))
    relisted, about = relist(parent, f"{text}Morus serrator\n", teacher, budget=3 * row)
    assert (relisted.table.left_out, relisted.table.representatives) == (2, 1)
    assert len(relisted.table.content()) <= 3 * row
    # The species that was photographed stays, and its genus stands for those that no photograph was learned from.
    assert relisted.table.paths == [SERRATOR, (*DAISY[:6], None), DAISY]
    assert about["text"]["left_out"] == 2
    with pytest.raises(UserError, match="taxa_bytes leaves room for 1 rows"):
        relist(parent, text + "Morus serrator\n", teacher, budget=row)


# The promise


def seen(parent: Parent, counts: dict[Any, int]) -> confidence.Photographs:
    text = store.decode(parent.integers, parent.scales)
    rows = dict(zip(parent.entries, text, strict=True))
    labels = [path for path, count in counts.items() for _ in range(count)]
    return fake_bundles.photographs({path: rows.get(path, text[0]) for path in counts}, labels)


def test_the_promise_is_fitted_again_for_the_taxa_of_the_list(parent: Parent, teacher: teachers.Teacher) -> None:
    photographs = seen(parent, {BASSANUS: 40, SERRATOR: 30, DAISY: 40})
    relisted, about = relist(parent, "Morus bassanus\nBellis perennis\nBellis annua\n", teacher, photographs)
    promise = relisted.report["promise"]
    assert promise == {
        **{"holds": True, "level": 0.95, "confidence": 0.9, "photographs": 80, "observations": 80},
        **{"taxa": 2, "of_taxa": 3, "taxa_without": ["Bellis annua"]},
    }
    usable = confidence.chosen(photographs, [*range(40), *range(70, 110)])
    fitted = confidence.fit(relisted.table, 20.0, usable)
    assert {name: about[name] for name in ("temperature", "thresholds", "off_list")} == fitted
    assert about["off_list"]["level"] == 0.95
    assert about["provenance"]["calibration_photographs"] == 80
    assert "2 of 3 taxa" in relisting.summary(relisted) and "1 new" in relisting.summary(relisted)


def test_too_few_photographs_promise_nothing(parent: Parent) -> None:
    relisted, about = relist(parent, "Plantae\n", None, seen(parent, {DAISY: 44, BASSANUS: 100}))
    assert (about["temperature"], about["thresholds"]) == (1.5, None)
    promise = relisted.report["promise"]
    assert not promise["holds"] and promise["why_not"].startswith("44 observations")
    assert (promise["photographs"], promise["taxa"], promise["of_taxa"]) == (44, 1, 3)
    assert "Nothing is promised" in relisting.summary(relisted)


def test_photographs_of_one_observation_count_once(parent: Parent) -> None:
    photographs = seen(parent, {DAISY: 100})
    one = dataclasses.replace(photographs, observations=["the same"] * 100)
    relisted, _ = relist(parent, "Plantae\n", None, one)
    assert not relisted.report["promise"]["holds"] and relisted.report["promise"]["observations"] == 1


def test_without_photographs_nothing_is_promised(parent: Parent) -> None:
    relisted, about = relist(parent, "Plantae\n", None)
    assert (about["temperature"], about["thresholds"]) == (1.5, None)
    assert relisted.report["promise"]["taxa_without"] == ["Bellis perennis", "Morus alba", "Morus nigra"]


def test_a_model_that_is_wrong_promises_nothing(parent: Parent) -> None:
    photographs = seen(parent, {DAISY: 80})
    wrong = dataclasses.replace(photographs, taxa=[BASSANUS] * 80)
    relisted, about = relist(parent, "Bellis perennis\nMorus bassanus\n", None, wrong)
    assert set(about["thresholds"]["ranks"].values()) == {None} and set(about["thresholds"]["ranks"]) == set(RANKS)
    assert relisted.report["promise"]["why_not"].startswith("at no threshold")


# Mistakes of users


def test_a_prompt_that_this_version_cannot_write(tmp_path: Path, teacher: teachers.Teacher) -> None:
    said = fake_bundles.make_bundle(tmp_path / "first", teacher)
    for number, prompt in enumerate(("sci in 7 templates", "lit", "song")):
        folder = tmp_path / str(number) / "parent"
        fake_bundles.make_bundle(folder, teacher, text=said["text"] | {"prompt": prompt})
        with pytest.raises(UserError, match=r"bundle\.json was made with prompt"):
            relist(read_parent(folder), "Plantae\n", None)


def test_the_sentence_of_lit_lists_what_the_bundle_says(tmp_path: Path, teacher: teachers.Teacher) -> None:
    said = fake_bundles.make_bundle(tmp_path / "first", teacher)
    text = said["text"] | {"prompt": "lit", "lit_columns": ["family", "species"]}
    fake_bundles.make_bundle(tmp_path / "parent", teacher, text=text)
    relisted, _ = relist(read_parent(tmp_path / "parent"), "Bellis annua\nMorus nigra\n", teacher)
    expected = teachers.embed_texts(teacher, ["A photo of a Asteraceae annua"])[0]
    assert np.abs(relisted.table.text[0] - expected).max() < 0.51 / 127
