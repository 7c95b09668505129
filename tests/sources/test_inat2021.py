import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bioclip_lite.sources import fields, inat2021
from bioclip_lite.sources.folder_names import path_of
from bioclip_lite.sources.registry import find_source
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET, MULBERRY
from support.raw_forms import (
    INAT_CATEGORIES,
    inat_image,
    inat_json,
    inat_part,
    listed,
    photo,
    put,
    source_params,
    to_captions,
)

NO_DATE: dict[int, dict[str, Any]] = {0: {"date": None}, 3: {"date": "None"}, 6: {"rights_holder": ""}}


def root(tmp_path: Path) -> Path:
    return tmp_path / "inat"


def test_from_json_to_captions(tmp_path: Path) -> None:
    inat_part(root(tmp_path), "train", 4)
    inat_part(root(tmp_path), "val", 2, first=100)
    rows = to_captions(source_params("inat2021", root(tmp_path)), tmp_path / "data")
    assert len(rows) == 18
    assert all((row["split"] == "test") == row["locator"].startswith("val/") for row in rows)
    gannet = next(row for row in rows if row["genus"] == "Morus" and row["kingdom"] == "Animalia")
    assert gannet["sci"] == "a photo of Morus bassanus." and gannet["com"] == "a photo of Northern Gannet."
    assert gannet["licence"] == "http://creativecommons.org/licenses/by-nc/4.0/"
    assert gannet["attribution"].startswith("observer ")
    assert {row["supercategory"] for row in rows} == {"Plants"}  # as the categories state it, of the gannet too


def test_from_folders_to_captions(tmp_path: Path) -> None:
    inat_part(root(tmp_path), "train_mini", 4, with_json=False)
    inat_part(root(tmp_path), "val", 2, first=100, with_json=False)
    rows = to_captions(source_params("inat2021", root(tmp_path)), tmp_path / "data")
    assert Counter(row["split"] == "test" for row in rows) == {False: 12, True: 6}
    assert {row["taxon"] for row in rows} == {f"a photo of {' '.join(path)}." for path in (DAISY, MULBERRY, GANNET)}


def test_the_two_forms_list_the_same_photographs(tmp_path: Path) -> None:
    for name, with_json in (("a", True), ("b", False)):
        inat_part(tmp_path / name, "train", 3, with_json=with_json)
    a, b = (listed(source_params("inat2021", tmp_path / name))[0] for name in "ab")
    assert {(s.key, s.locator, s.path) for s in a} == {(s.key, s.locator, s.path) for s in b}
    assert [s.locator for s in b] == sorted(s.locator for s in b)


def test_one_person_time_and_place_is_one_observation(tmp_path: Path) -> None:
    same = {"rights_holder": "Ann", "date": "2020-01-01 00:00:00+00:00", "latitude": 1.5, "longitude": 2.5}
    more = NO_DATE | {1: same, 4: same, 7: same | {"longitude": 2.6}, 10: same | {"latitude": None}}
    inat_part(root(tmp_path), "train", 4, more=more)
    samples, _ = listed(source_params("inat2021", root(tmp_path)))
    group = {i: sample.group for i, sample in enumerate(samples)}
    assert group[1] == group[4] and len(set(group.values())) == len(group) - 1
    assert "Ann" not in group[1]
    assert all(samples[i].group == samples[i].key for i in NO_DATE)
    assert samples[6].attribution is None


def test_train_mini_is_a_part_of_train(tmp_path: Path) -> None:
    inat_part(root(tmp_path), "train", 4)
    inat_part(root(tmp_path), "train_mini", 2)
    samples, _ = listed(source_params("inat2021", root(tmp_path)))
    assert len(samples) == 12 and all(s.locator.startswith("train/") for s in samples)


def test_photographs_of_train_mini_beside_both_json_files(tmp_path: Path) -> None:
    inat_part(root(tmp_path), "train_mini", 2)
    put(
        root(tmp_path) / "train.json",
        (root(tmp_path) / "train_mini.json").read_bytes().replace(b"train_mini/", b"train/"),
    )
    samples, _ = listed(source_params("inat2021", root(tmp_path)))
    assert len(samples) == 6 and all(s.locator.startswith("train_mini/") for s in samples)


def test_the_unlabelled_test_set_is_left_out_with_a_word(tmp_path: Path) -> None:
    inat_part(root(tmp_path), "val", 2)
    put(root(tmp_path) / "public_test" / "0001.jpg", photo("test"))
    put(root(tmp_path) / "public_test.json", json.dumps({"info": {}, "images": []}))
    samples, rejects = listed(source_params("inat2021", root(tmp_path)))
    assert len(samples) == 6
    assert [(r.locator, r.reason) for r in rejects] == [("public_test", "no taxon")]


def test_bogus_entries(tmp_path: Path) -> None:
    daisy = INAT_CATEGORIES[0]
    images = [inat_image(i, "train", daisy) for i in range(5)]
    images[1] |= {"license": 77, "rights_holder": None, "latitude": float("nan")}
    images[2] |= {"file_name": None}
    labels = [{"id": i, "image_id": i, "category_id": 0} for i in (0, 1, 2)]
    inat_json(
        root(tmp_path) / "train.json", images, INAT_CATEGORIES, [*labels, {"id": 9, "image_id": 3, "category_id": 5}]
    )
    samples, rejects = listed(source_params("inat2021", root(tmp_path)))
    assert len(samples) == 2 and samples[1].licence is None and samples[1].attribution is None
    assert [r.reason for r in rejects] == ["missing file", "no taxon", "no taxon"]


def test_all_categories_by_folder_and_by_json() -> None:
    if "BIOCLIP_LITE_SAMPLES" not in os.environ:
        pytest.skip("BIOCLIP_LITE_SAMPLES is not set")
    with Path(os.environ["BIOCLIP_LITE_SAMPLES"], "inat2021-categories.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = inat2021._categories(Path("train.json"), rows)
    assert len({path for path, *_ in found.values()}) == len(rows) == 10_000
    assert all(path_of((row["image_dir_name"],)) == found[row["id"]][0] for row in rows)
    assert all(row["supercategory"] == found[row["id"]][3] for row in rows)
    assert len(fields.label_paths([row["name"] for row in rows])) == 10_000
    assert not fields.label_paths({row["common_name"] for row in rows})


TEXT = st.none() | st.integers() | st.floats() | st.text(st.characters(), max_size=12)  # lone surrogates too
FIELD = st.sampled_from(["file_name", "license", "rights_holder", "date", "latitude", "id"])
NAME = st.sampled_from(["name", "common_name", "kingdom", "family", "genus", "specific_epithet", "id"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=st.dictionaries(FIELD, TEXT), category=st.dictionaries(NAME, TEXT))
def test_anything_in_any_entry(tmp_path: Path, image: dict[str, Any], category: dict[str, Any]) -> None:
    images = [inat_image(0, "train", INAT_CATEGORIES[0]), inat_image(1, "train", INAT_CATEGORIES[1]) | image]
    categories = [INAT_CATEGORIES[0], INAT_CATEGORIES[1] | category]
    labels = [{"id": i, "image_id": i, "category_id": i} for i in (0, 1)]
    inat_json(root(tmp_path) / "train.json", images, categories, labels)
    items = list(find_source("inat2021").samples(source_params("inat2021", root(tmp_path))))
    assert len(items) == 2
    for item in items:
        repr(item).encode()
        "".join(str(value) for value in vars(item).values()).encode()  # what a table can hold


def earlier_year(tmp_path: Path, *names: str) -> Any:
    categories = [{"id": i, "name": name, "supercategory": "Aves"} for i, name in enumerate(names)]
    images = [{"id": i, "file_name": f"train_val_images/{i}.jpg", "license": 1} for i in range(len(names))]
    labels = [{"id": i, "image_id": i, "category_id": i} for i in range(len(names))]
    inat_json(root(tmp_path) / "train2017.json", images, categories, labels)
    return source_params("inat2021", root(tmp_path))


def test_names_of_2017(tmp_path: Path) -> None:
    params = earlier_year(tmp_path, "Morus bassanus", "Bellis perennis hybrida", "8877")
    samples, rejects = listed(params)
    assert [s.path[5:] for s in samples] == [("Morus", "bassanus"), ("Bellis", "perennis")]
    assert [r.reason for r in rejects] == ["no taxon"]


def test_hidden_names_of_2018(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)'0'.*2018.*2021"):
        listed(earlier_year(tmp_path, "0", "1"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"images": [', "no JSON"),
        ('{"images": []}', "lacks annotations, categories"),
        ("[]", "lacks annotations, categories, images"),
        ('{"images": {}, "categories": [], "annotations": []}', "'images' is no list"),
    ],
)
def test_broken_json(tmp_path: Path, content: str, words: str) -> None:
    put(root(tmp_path) / "train.json", content)
    with pytest.raises(UserError, match=words):
        listed(source_params("inat2021", root(tmp_path)))


def test_another_folder(tmp_path: Path) -> None:
    put(root(tmp_path) / "something.txt", "")
    with pytest.raises(UserError, match="none of train, train_mini and val"):
        listed(source_params("inat2021", root(tmp_path)))
    with pytest.raises(UserError, match="does not exist"):
        listed(source_params("inat2021", tmp_path / "nowhere"))
