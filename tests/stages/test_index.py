import csv
import html
import io
import json
import os
import re
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bioclip_lite.indexing import batches, copies, database, splits, tables
from bioclip_lite.params import load
from bioclip_lite.params.jobs import Origin
from bioclip_lite.sources.registry import find_source
from bioclip_lite.sources.sample import LABELLED, SPLITS
from bioclip_lite.stages import index
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils import sections
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table
from bioclip_lite.utils.randomness import generator
from bioclip_lite.web import bundle
from support.checkout import ROOT
from support.photographs import (
    DAISY,
    FIELDS,
    GANNET,
    MULBERRY,
    encoded,
    folder_params,
    garden,
    many,
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


def test_photographs_as_cameras_make_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder per species, as it comes from telephones: every photograph is used, and what is none is no damage."""
    source = tmp_path / "source"
    files = {
        "IMG_1.HEIC": encoded(picture(1), "HEIF", quality=95),
        "IMG_1.MOV": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
        "IMG_1.AAE": b'<?xml version="1.0"?><plist/>',
        "IMG_2.jpg": encoded(picture(2), "HEIF", quality=95),  # as messengers rename them
        "IMG_3.avif": encoded(picture(3), "AVIF"),
        "IMG_4.JPG": encoded(picture(4), "MPO", save_all=True, append_images=[picture("depth")]),
        "IMG_5.jpg": encoded(picture(5))[:-2],
        "IMG_6.jpg": encoded(picture(6)) + b"\0\0\0\x18ftypmp42",
        "IMG_7.jp2": encoded(picture(7), "JPEG2000"),
        "half.jpg": encoded(picture(8))[:500],
    }
    for name, content in files.items():
        (source / "Bellis perennis").mkdir(parents=True, exist_ok=True)
        (source / "Bellis perennis" / name).write_bytes(content)
    for number in range(3):
        (source / "Morus alba").mkdir(exist_ok=True)
        (source / "Morus alba" / f"{number}.jpg").write_bytes(encoded(picture("mulberry", number)))
    data = tmp_path / "data"
    index.run(folder_params(source, reject_budget=0.1), data)
    rejected = {Path(name).name: reason for name, reason in reasons(data).items()}
    assert rejected == {"IMG_1.MOV": "video", "IMG_1.AAE": "sidecar", "half.jpg": "truncated"}
    assert len(table(data, "samples")) == len(files) - 3 + 3
    assert "1 of these files lack their last bytes" in capsys.readouterr().out
    assert "Cut short: 1 JPEG file." in (data / "index" / "report.html").read_text()


def with_unlabelled(folder: Path) -> Path:
    """A garden whose table says nothing of some photographs, and whose folder has some that it does not list."""
    taxa = {"daisy": DAISY, "mulberry": MULBERRY, "gannet": GANNET}
    rows = [row(f"{name}/{i}.jpg", path) for name, path in taxa.items() for i in range(6)]
    rows += [row(f"blank/{i}.jpg", (None,) * 7) for i in range(3)]
    rows += [row("odd.jpg", (None,) * 7, common_name="no such plant")]
    write_folder(folder, rows)
    for name in ("DCIM/100CANON/IMG_1.JPG", "DCIM/100CANON/IMG_2.JPG", "copy.jpg", "again.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(detailed(name)))
    test = detailed("held out")  # a photograph that the table lists, once more in another size
    (folder / "daisy" / "0.jpg").write_bytes(encoded(test, quality=95))
    (folder / "copy.jpg").write_bytes((folder / "daisy" / "0.jpg").read_bytes())
    (folder / "again.jpg").write_bytes(encoded(test.resize((200, 150)), quality=60))
    (folder / "notes.txt").write_text("no photograph")
    return folder


def test_unlabelled_photographs_are_counted_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    index.run(folder_params(with_unlabelled(tmp_path / "source")), data)
    assert {sample["split"] for sample in table(data, "samples")} <= set(LABELLED)
    assert Counter(reasons(data).values()) == {"unlabelled": 4, "no taxon": 4}
    assert "7 photographs have no label; index.unlabelled: keep" in capsys.readouterr().out


def test_unlabelled_photographs_are_a_split_without_copies_of_others(tmp_path: Path) -> None:
    source = with_unlabelled(tmp_path / "source")
    index.run(folder_params(source), tmp_path / "before")
    index.run(folder_params(source, unlabelled="keep"), tmp_path / "data")
    samples = table(tmp_path / "data", "samples")
    unlabelled = [sample for sample in samples if sample["split"] == "unlabelled"]
    found = {sample["locator"] for sample in unlabelled}
    assert found == {*(f"blank/{i}.jpg" for i in range(3)), *(f"DCIM/100CANON/IMG_{i}.JPG" for i in (1, 2))}
    for sample in unlabelled:
        assert sample["taxon_id"] is None and not any(sample[rank] for rank in taxonomy.RANKS)
        assert sample["width"] and sample["md5"] and sample["verbatim"] is None
    left_out = reasons(tmp_path / "data")
    assert left_out == {"copy.jpg": "duplicate", "again.jpg": "near duplicate", "odd.jpg": "no taxon"}
    # What has a label is where it was.
    labelled = [sample for sample in samples if sample["split"] != "unlabelled"]
    assert labelled == table(tmp_path / "before", "samples")
    for name in ("taxa.parquet", "names.parquet"):
        before, after = ((tmp_path / folder / "index" / name).read_bytes() for folder in ("before", "data"))
        assert name == "names.parquet" or before == after
    report = (tmp_path / "data" / "index" / "report.html").read_text()
    assert "<td>unlabelled</td><td>5</td>" in report


def test_unlabelled_photographs_of_folders_of_taxa(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("Bellis perennis", "Morus alba", "DCIM/100APPLE", "2023-06-01", "."):
        (source / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            (source / name / f"{number}.jpg").write_bytes(encoded(picture(name, number)))
    index.run(folder_params(source), tmp_path / "data")
    assert Counter(reasons(tmp_path / "data").values()) == {"no taxon": 6}
    index.run(folder_params(source, unlabelled="keep"), tmp_path / "data")
    splits = Counter(sample["split"] == "unlabelled" for sample in table(tmp_path / "data", "samples"))
    assert splits == {True: 6, False: 4}


def test_an_unlabelled_photograph_of_a_labelled_individual_is_left_out(tmp_path: Path) -> None:
    columns = (*FIELDS, "observation")
    rows = [row(f"{name}{i}.jpg", path) for name, path in (("a", DAISY), ("b", MULBERRY)) for i in range(3)]
    rows += [row("same.jpg", (None,) * 7, observation="visit"), row("a3.jpg", DAISY, observation="visit")]
    rows += [row("other.jpg", (None,) * 7, observation="another visit")]
    source = write_folder(tmp_path / "source", rows, columns)
    index.run(folder_params(source, unlabelled="keep"), tmp_path / "data")
    assert reasons(tmp_path / "data") == {"same.jpg": "unlabelled"}
    unlabelled = [sample for sample in table(tmp_path / "data", "samples") if sample["split"] == "unlabelled"]
    assert [sample["locator"] for sample in unlabelled] == ["other.jpg"]


def test_photographs_without_labels_alone_are_refused(tmp_path: Path) -> None:
    rows = [row(f"{i}.jpg", (None,) * 7) for i in range(3)]
    source = write_folder(tmp_path / "source", rows)
    fails(folder_params(source, unlabelled="keep"), tmp_path, "photographs without labels only, 3")


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


def fails(params: sections.Index, tmp_path: Path, *words: str) -> None:
    """run raises UserError with these words, and touches no earlier output."""
    earlier = tmp_path / "data" / "index" / "samples.parquet"
    earlier.parent.mkdir(parents=True, exist_ok=True)
    earlier.write_text("earlier")
    with pytest.raises(UserError) as error:
        index.run(params, tmp_path / "data")
    for word in words:
        assert word in str(error.value)
    assert earlier.read_text() == "earlier"
    assert {path.name for path in earlier.parent.iterdir()} <= {earlier.name, batches.FOLDER}


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
    dealt = splits.deal("taxon", groups, shares, seed)
    assert set(dealt) == groups
    sizes = Counter(dealt.values())
    assert sizes["train"] >= 1
    for split, share in shares.items():
        assert abs(sizes[split] - share * number) < 1 + (split == "train" or sizes["train"] == 1)
    assert dealt == splits.deal("taxon", set(groups), shares, seed)


def test_the_remainders_do_not_always_go_to_the_same_split() -> None:
    shares = {"train": 0.6, "val": 0.1, "calibration": 0.1, "test": 0.2}
    sizes: Counter[str] = Counter()
    for taxon in range(200):
        sizes.update(splits.deal(f"t{taxon}", {f"{taxon}-{i}" for i in range(5)}, shares, 0).values())
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


# ----------------------------------------------------------------------------------------------------------- duplicates


def detailed(*names: object) -> Image.Image:
    """A picture with details, whose copies are recognised."""
    cells = generator(*names).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((96, 72), Image.Resampling.BICUBIC)


def test_near_duplicates_share_a_split_and_their_observations_are_joined(tmp_path: Path) -> None:
    columns = (*FIELDS, "observation")
    rows = [row(f"{i}.jpg", DAISY, observation=f"o{i:02d}", content=encoded(detailed(i))) for i in range(20)]
    rows += [  # each looks like one of another observation, and has other bytes
        row(f"copy{i}.jpg", DAISY, observation=f"p{i:02d}", content=encoded(detailed(i), quality=60)) for i in range(8)
    ]
    rows += [row(f"more{i}.jpg", DAISY, observation=f"p{i:02d}", content=encoded(detailed("m", i))) for i in range(8)]
    rows += [row("g.jpg", GANNET, content=encoded(detailed(0).resize((48, 36))))]  # and one has another label
    index.run(folder_params(write_folder(tmp_path / "source", rows, columns)), tmp_path / "data")
    samples = {s["locator"]: s for s in table(tmp_path / "data", "samples")}
    assert len(samples) == len(rows)
    for i in range(8):
        family = [samples[f"{name}{i}.jpg"] for name in ("", "copy", "more")]
        assert len({s["split"] for s in family}) == 1
        assert {s["group"] for s in family} == ({f"o{i:02d}"} if i else {samples["g.jpg"]["key"]})
        assert family[0]["looks_like"] == family[1]["looks_like"] and family[2]["looks_like"] is None
    assert samples["g.jpg"]["genus"] == "Morus" and samples["g.jpg"]["looks_like"] == samples["0.jpg"]["looks_like"]
    assert samples["9.jpg"]["looks_like"] is None and len({s["phash"] for s in samples.values()}) > 20
    assert "labels differ" in (tmp_path / "data/index/report.html").read_text()


def test_of_near_duplicates_in_two_stated_splits_the_one_held_out_stays(tmp_path: Path) -> None:
    rows = [row(f"{i}.jpg", DAISY, split="train", content=encoded(detailed(i))) for i in range(4)]
    rows += [row("t.jpg", DAISY, split="test", content=encoded(detailed(0), quality=50))]
    rows += [row("u.jpg", DAISY, content=encoded(detailed(0), quality=30))]
    rows += [
        row("x.jpg", GANNET, split="train"),
        row("same.jpg", GANNET, split="test", content=encoded(picture("x.jpg"))),
    ]
    source = write_folder(tmp_path / "source", rows, (*FIELDS, "split"))
    index.run(folder_params(source), tmp_path / "data")
    splits = {s["locator"]: s["split"] for s in table(tmp_path / "data", "samples")}
    assert splits["t.jpg"] == splits["u.jpg"] == "test" and splits["same.jpg"] == "test"
    assert reasons(tmp_path / "data") == {"0.jpg": "near duplicate", "x.jpg": "duplicate"}
    (near,) = (r for r in table(tmp_path / "data", "rejects") if r["reason"] == "near duplicate")
    assert "t.jpg" in near["detail"] and "test" in near["detail"]


def test_plain_pictures_are_not_near_duplicates(tmp_path: Path) -> None:
    rows = [row(f"{i}.jpg", DAISY, content=encoded(Image.new("RGB", (32, 32), (i, 2 * i, 90)))) for i in range(30)]
    data = indexed(tmp_path, rows)
    assert not any(s["looks_like"] for s in table(data, "samples"))
    assert sum(s["phash"] is None for s in table(data, "samples")) == 30


def test_the_built_in_sample_has_no_near_duplicates(tmp_path: Path) -> None:
    """Its drawings are all of one kind, and none may be taken for another; also true of all 5,200 of params.yaml."""
    section = load(ROOT / "tests/tiny.yaml")["index"]
    index.run(section, tmp_path)
    samples = table(tmp_path, "samples")
    assert len(samples) == 206 and not any(s["looks_like"] for s in samples) and not table(tmp_path, "rejects")


# ----------------------------------------------------------------------------------------------------- names, lists


def put_list(tmp_path: Path, text: str, name: str = "list.txt") -> str:
    (tmp_path / "data" / "lists").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data" / "lists" / name).write_text(text)
    return name


def test_a_species_list_restricts_and_says_what_it_does_not_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    garden(tmp_path / "source", each=3)
    name = put_list(tmp_path, "BELLIS PERENNIS L.\nsulidae\nMoruss alba\nMorus\n")
    index.run(folder_params(tmp_path / "source", species_list=name), tmp_path / "data")
    assert {s["taxon_id"] for s in table(tmp_path / "data", "samples")} == {*map(taxonomy.taxon_id, (DAISY, GANNET))}
    assert Counter(reasons(tmp_path / "data").values()) == {"not listed": 3}
    rows = {row["verbatim"]: row for row in table(tmp_path / "data", "names") if row["origin"] == "species list"}
    assert rows["BELLIS PERENNIS L."]["taxon_id"] == taxonomy.taxon_id(DAISY)
    assert rows["Moruss alba"]["status"] == "unmatched" and rows["Moruss alba"]["candidates"][0] == "Morus alba"
    assert rows["Morus"]["status"] == "ambiguous" and len(rows["Morus"]["candidates"]) == 2
    told = capsys.readouterr().out
    assert "2 of 4 names" in told and "'Moruss alba' (nearest: Morus alba" in told
    page = (tmp_path / "data/index/report.html").read_text()
    assert "Moruss alba" in page


def test_a_species_list_that_nothing_matches(tmp_path: Path) -> None:
    garden(tmp_path / "source")
    name = put_list(tmp_path, "Belis perenis\n")
    params = folder_params(tmp_path / "source", species_list=name)
    fails(params, tmp_path, "list.txt", "'Belis perenis'", "Bellis perennis")
    fails(params | {"species_list": "absent.csv"}, tmp_path, "absent.csv", "params.yaml")


def test_listed_species_without_photographs_are_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    garden(tmp_path / "source", each=3)
    lines = [
        "scientific_name,Deutsch,finest_rank,note,synonyms",
        "Bellis perennis,Gänseblümchen,,,",
        "Bellis annua,Einjähriges Gänseblümchen,,,",
        "Bellis,,genus,needs a lens,",
        "Morus bassanus,Basstölpel,,,Sula bassana",
        "Taraxacum officinale,Löwenzahn,,,",
        "Bellis perenniss,,,,",
    ]
    name = put_list(tmp_path, "\n".join(lines), "list.csv")
    index.run(folder_params(tmp_path / "source", species_list=name), tmp_path / "data")
    taxa = {
        taxonomy.scientific_name(tuple(t[rank] for rank in taxonomy.RANKS)): t for t in table(tmp_path / "data", "taxa")
    }
    leaves = {"Bellis perennis", "Bellis annua", "Bellis perenniss", "Morus bassanus", "Taraxacum officinale"}
    assert {taxon for taxon, t in taxa.items() if t["leaf"]} == leaves and taxa.keys() - leaves == {"Bellis"}
    annua = taxa["Bellis annua"]
    assert tuple(annua[rank] for rank in taxonomy.RANKS) == (*DAISY[:6], "annua") and annua["rank"] == "species"
    assert [annua[split] for split in LABELLED] == [0] * len(LABELLED) and sum(
        taxa["Bellis perennis"][s] for s in LABELLED
    ) == 3
    assert dict(annua["common_names"]) == {"de": "Einjähriges Gänseblümchen"} and annua["common_name"] is None
    assert taxa["Bellis perennis"]["common_name"] == "daisy"  # of the photographs
    assert (annua["finest_rank"], annua["note"], annua["listed"]) == ("genus", "needs a lens", True)
    called = {(s["common_name"], *map(tuple, s["common_names"])) for s in table(tmp_path / "data", "samples")}
    assert called == {("daisy", ("de", "Gänseblümchen")), ("gannet", ("de", "Basstölpel"))}
    assert taxa["Morus bassanus"]["synonyms"] == ["Sula bassana"] and taxa["Morus bassanus"]["finest_rank"] is None
    rows = {row["verbatim"]: row for row in table(tmp_path / "data", "names") if row["origin"] == "species list"}
    assert rows["Bellis annua"]["status"] == "no photographs" and rows["Bellis perennis"]["status"] == "same"
    assert rows["Bellis perenniss"]["candidates"] == []  # the list has Bellis perennis, too
    told = capsys.readouterr().out
    assert "6 names: 2 taxa have photographs, 3 have none and are named by the teacher's text tower alone" in told
    assert "1 listed taxa without photographs have no rank above the genus" in told and "Taraxacum officinale" in told
    page = (tmp_path / "data/index/report.html").read_text()
    assert "3 taxa without photographs" in page and "needs a lens" in page and "Löwenzahn" not in page


def test_a_name_nearly_that_of_a_photographed_species_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    garden(tmp_path / "source", each=3)
    name = put_list(tmp_path, "Bellis perenis\nMorus\nMorus alba\n")
    index.run(folder_params(tmp_path / "source", species_list=name), tmp_path / "data")
    page = html.unescape((tmp_path / "data/index/report.html").read_text())
    for told in (capsys.readouterr().out, page):
        assert "line 1 of the list, 'Bellis perenis', has no photographs" in told
        assert "that of Bellis perennis (3 photographs), which the list lacks" in told
    (row,) = (row for row in table(tmp_path / "data", "names") if row["verbatim"] == "Bellis perenis")
    assert row["candidates"] == ["Bellis perennis (3 photographs)"]
    assert Counter(reasons(tmp_path / "data").values()) == {"not listed": 6}


def test_photographs_that_the_list_lacks_are_kept_if_asked(tmp_path: Path) -> None:
    garden(tmp_path / "source", each=3)
    name = put_list(tmp_path, "scientific_name\nBellis annua\nTaraxacum officinale\n")
    params = folder_params(tmp_path / "source", species_list=name)
    fails(params, tmp_path, "index.unlisted", "'Bellis annua' (nothing like it)")
    index.run(params | {"unlisted": "keep"}, tmp_path / "data")
    taxa = {t["genus"] + " " + t["species"]: t["listed"] for t in table(tmp_path / "data", "taxa")}
    kept = dict.fromkeys(("Bellis perennis", "Morus alba", "Morus bassanus"), False)
    assert taxa == {"Bellis annua": True, "Taraxacum officinale": True, **kept}
    index.run(params | {"unlisted": "keep", "where": {"class": ["Magnoliopsida"]}}, tmp_path / "data")
    assert {t["genus"] for t in table(tmp_path / "data", "taxa")} == {"Bellis", "Morus"}  # no rank, no class


def test_photographs_may_all_be_of_a_genus_above_listed_species(tmp_path: Path) -> None:
    genus = (*DAISY[:6], None)
    write_folder(tmp_path / "source", [row(f"{i}.jpg", genus) for i in range(6)])
    name = put_list(tmp_path, "scientific_name\nBellis\nBellis perennis\nBellis annua\n")
    index.run(folder_params(tmp_path / "source", species_list=name), tmp_path / "data")
    taxa = {t["species"]: (t["leaf"], sum(t[split] for split in LABELLED)) for t in table(tmp_path / "data", "taxa")}
    assert taxa == {None: (False, 6), "annua": (True, 0), "perennis": (True, 0)}


def test_names_that_give_no_taxon_are_named_where_one_class_is_left(tmp_path: Path) -> None:
    garden(tmp_path / "source", each=3)
    params = folder_params(tmp_path / "source", species_list=put_list(tmp_path, "Bellis\nMorus\n"))
    fails(params, tmp_path, "one class only, Bellis perennis", "'Morus' (may mean Morus (Animalia, Sulidae), Morus (Pl")


def test_a_listed_species_whose_photographs_are_all_damaged_stays_a_leaf(tmp_path: Path) -> None:
    rows = [row(f"{i}.jpg", (*DAISY[:6], "annua"), content=b"no picture") for i in range(2)]
    data = indexed(tmp_path, rows, species_list=put_list(tmp_path, "Bellis annua\nMorus alba\n"))
    taxa = {t["species"]: (t["leaf"], sum(t[split] for split in LABELLED)) for t in table(data, "taxa")}
    assert taxa == {"annua": (True, 0), "alba": (True, 3)}


def test_names_and_their_synonyms(tmp_path: Path) -> None:
    old = (*GANNET[:5], "Sula", "bassana (Linnaeus, 1758)")
    name = put_list(tmp_path, "name\taccepted\nSula bassana L.\tMorus bassanus\n", "synonyms.tsv")
    data = indexed(tmp_path, [row("old.jpg", old)], synonyms=name)
    (sample,) = (s for s in table(data, "samples") if s["locator"] == "old.jpg")
    assert sample["taxon_id"] == taxonomy.taxon_id(GANNET) and "Linnaeus" in sample["verbatim"]
    (changed,) = (n for n in table(data, "names") if n["status"] == "changed")
    assert changed["resolved"] == "Morus bassanus" and "synonym" in changed["change"] and changed["photographs"] == 1
    assert {n["verbatim"] for n in table(data, "names") if n["status"] == "same"} >= {"Bellis perennis"}


def test_common_names_are_resolved_by_the_list(tmp_path: Path) -> None:
    garden(tmp_path / "source", each=3)
    with (tmp_path / "source" / "metadata.csv").open("a") as file:
        file.write("daisy.jpg,The Daisy,,,,,,,,,\nunknown.jpg,Tench,,,,,,,,,\n")
    for name in ("daisy", "unknown"):
        (tmp_path / "source" / f"{name}.jpg").write_bytes(encoded(picture(name)))
    lines = [",".join(taxonomy.RANKS) + ",common_name", ",".join(DAISY) + ",the daisy", ",".join(GANNET) + ",gannet"]
    params = folder_params(tmp_path / "source", species_list=put_list(tmp_path, "\n".join(lines), "list.csv"))
    index.run(params, tmp_path / "data")
    (sample,) = (s for s in table(tmp_path / "data", "samples") if s["locator"] == "daisy.jpg")
    assert sample["taxon_id"] == taxonomy.taxon_id(DAISY) and sample["verbatim"] == "The Daisy"
    assert reasons(tmp_path / "data")["unknown.jpg"] == "not listed"


def test_species_that_share_a_common_name_stay_apart(tmp_path: Path) -> None:
    data = indexed(tmp_path, [row(f"{i}.jpg", (*DAISY[:6], f"{'ab'[i]}lba"), common_name="Daisy") for i in range(2)])
    assert len([t for t in table(data, "taxa") if t["common_name"] == "Daisy" and t["genus"] == "Bellis"]) == 2


def test_common_names_by_language(tmp_path: Path) -> None:
    columns = (*FIELDS, "common_name_de")
    rows = [row(f"{i}.jpg", DAISY, common_name_de=name) for i, name in enumerate(("Tausendschön", "Maßliebchen") * 2)]
    rows += [row("4.jpg", DAISY, common_name_de="Tausendschön"), row("g.jpg", GANNET)]
    index.run(folder_params(write_folder(tmp_path / "source", rows, columns)), tmp_path / "data")
    taxa = {t["genus"]: dict(t["common_names"]) for t in table(tmp_path / "data", "taxa")}
    assert taxa == {"Bellis": {"de": "Tausendschön"}, "Morus": {}}
    samples = {s["locator"]: dict(s["common_names"]) for s in table(tmp_path / "data", "samples")}
    assert samples["1.jpg"] == {"de": "Maßliebchen"} and samples["g.jpg"] == {}


# ---------------------------------------------------------------------------------------- licences, budget, attribution


def test_licences_are_filtered_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    licences = ("CC0", "http://creativecommons.org/licenses/by-nc/4.0/", "CC BY 4.0", "all rights reserved", "")
    rows = [row(f"d{i}.jpg", DAISY, licence=licence) for i, licence in enumerate(licences)]
    rows += [row(f"g{i}.jpg", GANNET, licence=licence) for i, licence in enumerate(licences)]
    source = write_folder(tmp_path / "source", rows)
    read: list[str] = []

    def watched(_: Origin, locator: str) -> bytes:
        read.append(locator)
        return (source / locator).read_bytes()

    monkeypatch.setattr(find_source("folder"), "read", watched)
    index.run(folder_params(source, licences=["cc0", "by"], reject_budget=0.0), tmp_path / "data")
    assert {s["licence"] for s in table(tmp_path / "data", "samples")} == {"CC0", "CC BY 4.0"}
    assert Counter(reasons(tmp_path / "data").values()) == {"licence": 6}
    assert set(read) == {"d0.jpg", "d2.jpg", "g0.jpg", "g2.jpg"}


def test_the_reject_budget(tmp_path: Path) -> None:
    rows = [row(f"d{i}.jpg", DAISY) for i in range(4)] + [row(f"g{i}.jpg", GANNET) for i in range(4)]
    rows += [row("t.jpg", GANNET, content=b"text"), row("e.jpg", GANNET, content=b"")]
    rows += [row(f"copy{i}.jpg", GANNET, content=encoded(picture("g0.jpg"))) for i in range(6)]  # these are no damage
    source = write_folder(tmp_path / "source", rows)
    message = ("2 of 10", "20.0 %", "15 %", "1 not an image", "1 empty file", "'t.jpg': not an image")
    fails(folder_params(source, reject_budget=0.15), tmp_path, *message)
    index.run(folder_params(source, reject_budget=0.2), tmp_path / "data")


def test_attribution(tmp_path: Path) -> None:
    rows = [row(f"{i}.jpg", path, licence="CC BY 4.0", source='A. "B", C') for i, path in enumerate((DAISY, GANNET))]
    index.run(folder_params(write_folder(tmp_path / "source", rows)), tmp_path / "data")
    with (tmp_path / "data/index/ATTRIBUTION.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [
        (r["file"], r["taxon"], r["licence"], r["attribution"]) for r in sorted(found, key=lambda r: r["file"])
    ] == [
        ("0.jpg", "Bellis perennis", "CC BY 4.0", 'A. "B", C'),
        ("1.jpg", "Morus bassanus", "CC BY 4.0", 'A. "B", C'),
    ]


def test_an_owner_is_no_formula_to_a_spreadsheet(tmp_path: Path) -> None:
    owners = ("=HYPERLINK(1)", "@ann")
    rows = [row(f"{i}.jpg", path, source=owners[i]) for i, path in enumerate((DAISY, GANNET))]
    index.run(folder_params(write_folder(tmp_path / "source", rows)), tmp_path / "data")
    with (tmp_path / "data/index/ATTRIBUTION.csv").open(newline="") as file:
        assert {found["attribution"] for found in csv.DictReader(file)} == {"'=HYPERLINK(1)", "'@ann"}
    _, named = bundle.photographs(tmp_path / "data")
    assert {owner["name"] for owner in named} == set(owners)


def test_where_the_source_has_test_photographs_none_are_dealt_to_test(tmp_path: Path) -> None:
    rows = [row(f"{i}.jpg", DAISY) for i in range(16)] + [row(f"t{i}.jpg", GANNET, split="test") for i in range(2)]
    index.run(folder_params(write_folder(tmp_path / "source", rows, (*FIELDS, "split"))), tmp_path / "data")
    samples = table(tmp_path / "data", "samples")
    assert {s["locator"] for s in samples if s["split"] == "test"} == {"t0.jpg", "t1.jpg"}
    assert Counter(s["split"] for s in samples) == {"train": 12, "val": 2, "calibration": 2, "test": 2}


def test_a_source_that_downloads_is_told_what_will_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    prepare = lambda params, locators: asked.extend(locators)  # noqa: E731
    monkeypatch.setattr(find_source("folder"), "prepare", prepare, raising=False)
    index.run(folder_params(garden(tmp_path / "source"), where={"kingdom": ["Plantae"]}), tmp_path / "data")
    assert sorted(asked) == sorted(s["locator"] for s in table(tmp_path / "data", "samples"))
    origin = read_table(tmp_path / "data/index/samples.parquet").schema.metadata[b"source"]
    assert json.loads(origin)["downloads"]["per_host"] == 4


# ------------------------------------------------------------------------------------------------ whatever may be there


def chunk(kind: bytes, body: bytes) -> bytes:
    """A piece of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def broken(number: int) -> bytes:
    """A file that is no good photograph, in one of many ways."""
    rng = generator("broken", number)
    kind = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")[number % 6]
    good = encoded(picture("broken", number, size=(48, 40)), kind)
    cut = int(rng.integers(1, len(good)))
    flipped = bytearray(good)
    for place in rng.integers(0, len(good), 8):
        flipped[place] ^= int(rng.integers(1, 256))
    size = struct.pack(">II", 100_000, 100_000) + b"\x08\x02\x00\x00\x00"  # a header that claims 30 GB
    huge = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b""))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.jpg", good)
    forms = (
        good[:cut],
        bytes(flipped),
        b"<html>404 Not Found</html>",
        b"",
        b"\x00\x00\x00\x18ftypheic" + rng.bytes(60),
    )
    return (*forms, picture(number).tobytes(), archive.getvalue(), huge, rng.bytes(300), good[cut:])[number // 6 % 10]


def test_two_hundred_broken_images_are_rejects_and_no_traceback(tmp_path: Path) -> None:
    rows = [row(f"b/{i:03d}.jpg", DAISY, content=broken(i)) for i in range(200)]
    data = indexed(tmp_path, rows)
    found, kept = reasons(data), {s["locator"] for s in table(data, "samples")}
    assert len(found) + len(kept) == 209 and sum(name.startswith("b/") for name in found) > 150
    assert {"truncated", "not an image", "empty file", "unsupported format", "too large"} <= set(found.values())


ODD = ["nan", "\x00", "\u202e", "=1+1", "<script>", "../../x", "a" * 300, "\N{MULTIPLICATION SIGN}"]
FIELD = st.text(max_size=40) | st.sampled_from(ODD)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys((*FIELDS[1:], "observation"), FIELD))))
def test_any_text_in_the_metadata(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    columns = (*FIELDS, "observation")
    lines = [{"file": f"{i}.jpg", **fields} for i, fields in enumerate(rows)] + [
        row("d.jpg", DAISY),
        row("g.jpg", GANNET),
    ]
    index.run(folder_params(write_folder(folder / "source", lines, columns)), folder / "data")
    assert {"d.jpg", "g.jpg"} <= {s["locator"] for s in table(folder / "data", "samples")}
    assert (folder / "data/index/report.html").read_text().count("<script>") == 1  # the page's own
    shutil.rmtree(folder)


@settings(max_examples=25, deadline=None)
@given(names=st.lists(st.text(max_size=30), max_size=5))
def test_any_text_as_the_name_of_a_file(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    lines = [row("d.jpg", DAISY), row("g.jpg", GANNET)] + [row(name, DAISY, content=None) for name in names]
    index.run(folder_params(write_folder(folder / "source", lines)), folder / "data")
    shutil.rmtree(folder)


def test_a_file_name_that_is_not_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    for name in ("Bellis perennis", "Morus alba"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.jpg").write_bytes(encoded(picture(name)))
    try:
        Path(os.fsdecode(os.fsencode(folder / "Bellis perennis") + b"/M\xfcller.jpg")).write_bytes(
            encoded(picture("m"))
        )
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    index.run(folder_params(folder), tmp_path / "data")
    assert set(reasons(tmp_path / "data").values()) == {"bad name"}


def test_memory_does_not_grow_with_the_number_of_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a size that tests can afford; of processes with 10,000 and 100,000 photographs the peaks differ by 1 %."""
    monkeypatch.setattr(tables, "_ROWS", 128)
    monkeypatch.setattr(database, "BATCH", 128)
    monkeypatch.setattr(copies, "BATCH", 128)
    peaks: list[int] = []
    for count in (400, 400, 1600):  # the first fills caches
        tracemalloc.start()
        index.run(many(tmp_path / f"{count}-{len(peaks)}", count, kinds=40), tmp_path / f"data{len(peaks)}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]
