import csv
import os
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bioclip_lite import taxonomy
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_table
from bioclip_lite.sources import SPLITS
from bioclip_lite.stages import index
from photographs import (
    DAISY,
    FIELDS,
    GANNET,
    MULBERRY,
    encoded,
    folder_params,
    garden,
    picture,
    row,
    synthetic_params,
    write_folder,
)


def table(data: Path, name: str) -> list[dict[str, Any]]:
    return read_table(data / "index" / f"{name}.parquet").to_pylist()


def reasons(data: Path) -> dict[str, str]:
    return {reject["locator"]: reject["reason"] for reject in table(data, "rejects")}


def indexed(tmp_path: Path, rows: list[dict[str, Any]], **params: Any) -> Path:
    """Index a folder of these rows beside a good garden."""
    garden(tmp_path / "source", each=3)
    with (tmp_path / "source" / "metadata.csv").open(newline="") as good:
        rows = rows + [{**line, "content": None} for line in csv.DictReader(good)]
    columns = (*FIELDS, *sorted({key for line in rows for key in line} - {*FIELDS, "content"}))
    write_folder(tmp_path / "source", rows, columns)
    index.run(folder_params(tmp_path / "source", **params), tmp_path / "data")
    return tmp_path / "data"


# ------------------------------------------------------------------------------------------------------- what comes out


def test_the_tables_of_a_folder(tmp_path: Path) -> None:
    index.run(folder_params(garden(tmp_path / "source", each=10)), tmp_path / "data")
    samples = table(tmp_path / "data", "samples")
    assert len(samples) == 30
    assert [s["key"] for s in samples] == sorted(s["key"] for s in samples)
    assert all(re.fullmatch("[0-9a-z_-]+", s["key"]) for s in samples)
    assert Counter(s["split"] for s in samples) == {"train": 18, "val": 3, "calibration": 3, "test": 6}
    assert {(s["width"], s["height"]) for s in samples} == {(40, 32)}
    gannet = next(s for s in samples if s["common_name"] == "gannet")
    assert tuple(gannet[rank] for rank in taxonomy.RANKS) == GANNET
    assert gannet["taxon_id"] == taxonomy.taxon_id(GANNET)
    taxa = table(tmp_path / "data", "taxa")
    assert [tuple(t[rank] for rank in taxonomy.RANKS) for t in taxa] == sorted([DAISY, MULBERRY, GANNET])
    assert all(t["leaf"] and t["rank"] == "species" for t in taxa)
    assert [t["train"] + t["val"] + t["calibration"] + t["test"] for t in taxa] == [10, 10, 10]
    assert table(tmp_path / "data", "rejects") == []
    with Image.open(tmp_path / "data" / "index" / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 500


def test_the_synthetic_source_gives_the_same_bytes_twice_and_with_one_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = synthetic_params(
        species=16, images={"pretrain": 6, "train": 6, "val": 2, "calibration": 2, "test": 4}, image_size=24
    )
    index.run(params, tmp_path / "a")
    assert len(table(tmp_path / "a", "samples")) > 256  # enough to be spread over workers
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    index.run(params, tmp_path / "b")
    for file in sorted((tmp_path / "a" / "index").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / "index" / file.name).read_bytes(), file.name
    unseen = [t for t in table(tmp_path / "a", "taxa") if not t["train"]]
    assert len(unseen) == 1 and unseen[0]["leaf"] and unseen[0]["test"] == 4


def test_a_genus_is_a_leaf_only_without_species(tmp_path: Path) -> None:
    mulberry, rose = (*MULBERRY[:6], None), (*MULBERRY[:4], "Rosaceae", "Rosa", None)
    data = indexed(tmp_path, [row("m.jpg", mulberry), row("r.jpg", rose)])
    leaf = {(t["genus"], t["species"]): (t["leaf"], t["rank"]) for t in table(data, "taxa")}
    assert leaf["Morus", None] == (False, "genus")
    assert leaf["Rosa", None] == (True, "genus")


def test_homonyms_stay_apart(tmp_path: Path) -> None:
    data = indexed(tmp_path, [])
    assert len({t["taxon_id"] for t in table(data, "taxa") if t["genus"] == "Morus"}) == 2


def test_real_photographs(tmp_path: Path) -> None:
    if "BIOCLIP_LITE_SAMPLES" not in os.environ:
        pytest.skip("BIOCLIP_LITE_SAMPLES is not set")
    source = Path(os.environ["BIOCLIP_LITE_SAMPLES"], "real_species")
    index.run(folder_params(source, where={"class": ["Aves", "Mammalia"]}), tmp_path)
    samples, taxa = table(tmp_path, "samples"), table(tmp_path, "taxa")
    assert len(samples) > 100 and {s["class"] for s in samples} == {"Aves", "Mammalia"}
    assert all(t["train"] for t in taxa)
    assert {t["rank"] for t in taxa} >= {"species", "genus"}


# ------------------------------------------------------------------------------------------------------ bad photographs


def test_bad_photographs_are_listed_with_a_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = encoded(picture("good", size=(64, 64)))
    cases = {
        "truncated.jpg": (good[: len(good) // 2], "truncated"),
        "text.jpg": (b"not a photograph at all", "not an image"),
        "empty.jpg": (b"", "empty file"),
        "pixel.jpg": (encoded(picture("pixel", size=(1, 1))), "too small"),
        "absent.jpg": (None, "missing file"),
    }
    data = indexed(tmp_path, [row(name, DAISY, content=content) for name, (content, _) in cases.items()])
    assert reasons(data) == {name: reason for name, (_, reason) in cases.items()}
    assert all(reject["detail"] for reject in table(data, "rejects"))
    assert len(table(data, "samples")) == 9


def test_modes_and_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = [
        row("cmyk.jpg", DAISY, content=encoded(picture("cmyk", mode="CMYK"))),
        row("grey16.png", DAISY, content=encoded(picture("grey").convert("I;16"), "PNG")),
        row("turned.jpg", DAISY, content=encoded(picture("turned"), exif=exif)),
    ]
    data = indexed(tmp_path, rows)
    assert reasons(data) == {}
    sizes = {s["locator"]: (s["width"], s["height"]) for s in table(data, "samples")}
    assert sizes["turned.jpg"] == (32, 40) and sizes["cmyk.jpg"] == sizes["grey16.png"] == (40, 32)


def test_copies_keep_the_most_precise_label_and_contradictions_go(tmp_path: Path) -> None:
    one, two = encoded(picture("one")), encoded(picture("two"))
    rows = [
        row("copy/a.jpg", (*DAISY[:5], None, None), content=one),
        row("copy/b.jpg", DAISY, content=one),
        row("copy/c.jpg", DAISY, content=one),
        row("clash/a.jpg", DAISY, content=two),
        row("clash/b.jpg", GANNET, content=two),
    ]
    data = indexed(tmp_path, rows)
    found = reasons(data)
    assert found["copy/a.jpg"] == "duplicate"
    assert sorted(found.get(name, "kept") for name in ("copy/b.jpg", "copy/c.jpg")) == ["duplicate", "kept"]
    assert found["clash/a.jpg"] == found["clash/b.jpg"] == "conflicting labels"


def test_names_that_would_give_equal_keys(tmp_path: Path) -> None:
    names = [
        "a b.jpg",
        "a-b.jpg",
        "A-B.jpg",
        "a/b.jpg",
        "\N{LATIN SMALL LETTER E WITH ACUTE}.jpg",
        "a.b.jpg",
        "a.c.jpg",
    ]
    data = indexed(tmp_path, [row(name, DAISY) for name in names])
    assert len({s["key"] for s in table(data, "samples")}) == 9 + len(names)


# ---------------------------------------------------------------------------------------------------------- bad folders


def fails(params: dict[str, Any], tmp_path: Path, *words: str) -> None:
    """run raises UserError with these words, and touches no earlier output."""
    earlier = tmp_path / "data" / "index" / "samples.parquet"
    earlier.parent.mkdir(parents=True, exist_ok=True)
    earlier.write_text("earlier")
    with pytest.raises(UserError) as error:
        index.run(params, tmp_path / "data")
    for word in words:
        assert word in str(error.value)
    assert earlier.read_text() == "earlier" and list(earlier.parent.iterdir()) == [earlier]


def test_a_missing_folder(tmp_path: Path) -> None:
    fails(folder_params(tmp_path / "nowhere"), tmp_path, "nowhere", "metadata.csv")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    fails(folder_params(tmp_path / "source"), tmp_path, "empty", "subfolder")


def test_missing_columns_are_named_with_those_found(tmp_path: Path) -> None:
    rows = [row("a.jpg", DAISY)]
    fails(folder_params(write_folder(tmp_path / "a", rows, ("genus",))), tmp_path, "'file'", "its columns: genus")
    fails(folder_params(write_folder(tmp_path / "b", rows, ("file", "licence"))), tmp_path, "rank", "file, licence")


def test_a_table_without_rows(tmp_path: Path) -> None:
    fails(folder_params(write_folder(tmp_path / "source", [])), tmp_path, "no usable photograph")


def test_only_bad_photographs_says_what_is_wrong_with_them(tmp_path: Path) -> None:
    source = write_folder(
        tmp_path / "source", [row("a.jpg", DAISY, content=b"text"), row("b.jpg", DAISY, content=None)]
    )
    fails(folder_params(source), tmp_path, "no usable photograph", "1 not an image", "1 missing file", "a.jpg")


def test_one_class(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", [row(f"{i}.jpg", DAISY) for i in range(5)])
    fails(folder_params(source), tmp_path, "one class", "Bellis perennis")


def test_a_table_in_another_encoding(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", [row("a.jpg", DAISY)])
    (source / "metadata.csv").write_bytes("file,genus\nM\xfcller.jpg,Bellis\n".encode("latin-1"))
    fails(folder_params(source), tmp_path, "UTF-8")


def test_filters(tmp_path: Path) -> None:
    source = garden(tmp_path / "source")
    fails(folder_params(source, where={"clade": ["Aves"]}), tmp_path, "'clade'", "kingdom, phylum, class")
    fails(folder_params(source, where={"class": ["Avez"]}), tmp_path, "'Avez'", "Aves")
    fails(folder_params(source, where={"class": ["Aves"], "genus": ["Bellis"]}), tmp_path, "leaves none")
    fails(folder_params(source, where={"class": ["Aves"]}), tmp_path, "one class")
    index.run(folder_params(source, where={"kingdom": ["Plantae"]}), tmp_path / "plants")
    assert {s["genus"] for s in table(tmp_path / "plants", "samples")} == {"Bellis", "Morus"}


def test_an_unknown_source(tmp_path: Path) -> None:
    fails(folder_params(tmp_path, source="folders"), tmp_path, "'folders'", "synthetic, folder")


# -------------------------------------------------------------------------------------------------- layouts of a folder


def test_tables_as_spreadsheets_write_them(tmp_path: Path) -> None:
    source = garden(tmp_path / "source")
    path = source / "metadata.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_text().replace(",", ";").replace("licence", " License ").encode())
    index.run(folder_params(source), tmp_path / "data")
    assert len(table(tmp_path / "data", "samples")) == 18


def test_rows_that_cannot_be_understood_are_listed(tmp_path: Path) -> None:
    source = garden(tmp_path / "source")
    with (source / "metadata.csv").open("a") as file:
        file.write("x.jpg,too,short\n\n" + "," * 10 + "\n")
        file.write("daisy/0.jpg" + ",nan" * 10 + "\n")
    index.run(folder_params(source), tmp_path / "data")
    assert Counter(reasons(tmp_path / "data").values()) == {"bad row": 1, "no taxon": 1}


def test_subfolders_are_taxa(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in (
        "Bellis perennis",
        "Morus_alba",
        "Rosa",
        "00007_Animalia_Chordata_Aves_Suliformes_Sulidae_Morus_bassanus",
    ):
        (source / name / "more").mkdir(parents=True)
        for i in range(3):
            (source / name / "more" / f"{i}.jpg").write_bytes(encoded(picture(name, i)))
    (source / "Ficus carica").mkdir()
    (source / "Bellis perennis" / ".DS_Store").write_bytes(b"")
    (source / "notes.txt").write_text("nothing")
    index.run(folder_params(source), tmp_path / "data")
    taxa = {tuple(t[rank] for rank in taxonomy.RANKS) for t in table(tmp_path / "data", "taxa")}
    nothing = (None,) * 5
    assert taxa == {GANNET, (*nothing, "Rosa", None), (*nothing, "Bellis", "perennis"), (*nothing, "Morus", "alba")}
    assert reasons(tmp_path / "data") == {"Ficus carica": "empty folder", "notes.txt": "no taxon"}


# --------------------------------------------------------------------------------------------------------------- splits


def test_photographs_of_an_observation_stay_together_and_stated_splits_are_kept(tmp_path: Path) -> None:
    rows = [row(f"{i}.jpg", DAISY, observation=f"plant-{i // 3}") for i in range(30)]
    rows += [row(f"t{i}.jpg", GANNET, split="Test") for i in range(2)]
    data = indexed(tmp_path, rows)
    splits = defaultdict(set)
    for sample in table(data, "samples"):
        splits[sample["group"]].add(sample["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {s["split"] for s in table(data, "samples") if s["locator"] in ("t0.jpg", "t1.jpg")} == {"test"}
    assert len({s["group"] for s in table(data, "samples") if s["group"].startswith("plant")}) == 10


def test_splits_that_contradict_or_do_not_exist(tmp_path: Path) -> None:
    columns = (*FIELDS, "split", "observation")
    rows = [row(f"{i}.jpg", DAISY, split=s, observation="one") for i, s in enumerate(("train", "test"))]
    rows += [row("g.jpg", GANNET, split="train")]
    fails(folder_params(write_folder(tmp_path / "a", rows, columns)), tmp_path, "'one'", "must share a split")
    rows = [row("d.jpg", DAISY, split="training"), row("g.jpg", GANNET, split="train")]
    fails(folder_params(write_folder(tmp_path / "b", rows, columns)), tmp_path, "'training'", ", ".join(SPLITS))


SHARES = (
    st.lists(st.floats(0, 1), min_size=4, max_size=4)
    .map(lambda x: [x[0] + 0.05, *x[1:]])
    .map(lambda x: dict(zip(("train", "val", "calibration", "test"), (v / sum(x) for v in x), strict=True)))
)


@given(number=st.integers(1, 60), shares=SHARES, seed=st.integers(0, 5))
def test_dealing(number: int, shares: dict[str, float], seed: int) -> None:
    groups = {f"g{i}" for i in range(number)}
    dealt = index.deal("taxon", groups, shares, seed)
    assert set(dealt) == groups
    sizes = Counter(dealt.values())
    assert sizes["train"] >= 1
    for split, share in shares.items():
        assert abs(sizes[split] - share * number) < 1 + (split == "train" or sizes["train"] == 1)
    assert dealt == index.deal("taxon", set(groups), shares, seed)


def test_the_remainders_do_not_always_go_to_the_same_split() -> None:
    shares = {"train": 0.6, "val": 0.1, "calibration": 0.1, "test": 0.2}
    sizes: Counter[str] = Counter()
    for taxon in range(200):
        sizes.update(index.deal(f"t{taxon}", {f"{taxon}-{i}" for i in range(5)}, shares, 0).values())
    assert sizes["train"] == 600 and sizes["test"] == 200
    assert 60 < sizes["val"] < 140 and sizes["val"] + sizes["calibration"] == 200


@settings(max_examples=15, deadline=None)
@given(
    labels=st.lists(st.tuples(st.sampled_from([DAISY, MULBERRY, GANNET]), st.integers(0, 6)), min_size=4, max_size=30)
)
def test_no_observation_is_in_two_splits(tmp_path_factory: pytest.TempPathFactory, labels: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("law")
    rows = [row(f"{i}.jpg", path, observation=f"{path[5]}-{path[6]}-{o}") for i, (path, o) in enumerate(labels)]
    rows += [row("d.jpg", DAISY), row("g.jpg", GANNET)]
    index.run(folder_params(write_folder(folder / "source", rows, (*FIELDS, "observation"))), folder / "data")
    splits, train = defaultdict(set), set()
    for sample in table(folder / "data", "samples"):
        splits[sample["group"]].add(sample["split"])
        if sample["split"] == "train":
            train.add(sample["taxon_id"])
    assert all(len(found) == 1 for found in splits.values())
    assert train == {t["taxon_id"] for t in table(folder / "data", "taxa")}
    shutil.rmtree(folder)
