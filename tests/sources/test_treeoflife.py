import bz2
import gzip
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip_lite.sources import texts
from bioclip_lite.sources.registry import find_source
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET, MULBERRY
from support.raw_forms import (
    CATALOGUE_10M,
    TAXA,
    UUID,
    bioclip_texts,
    gzipped_tar,
    listed,
    photo,
    put,
    rejects,
    source_params,
    to_captions,
    treeoflife_10m,
    webdataset_tar,
    write_csv,
)


def sample(number: int, path: tuple[str | None, ...], common: str | None = None, **more: Any) -> dict[str, Any]:
    return {"__key__": UUID(number), **bioclip_texts(path, common), "jpg": photo("tol", number), **more}


def shards(folder: Path, part: str, first: int, each: int) -> list[dict[str, Any]]:
    """Two shards of one part; every species ``each`` times."""
    found = [
        sample(first + 10 * i + j, path, name)
        for j in range(each)
        for i, (name, path) in enumerate(sorted(TAXA.items()))
    ]
    half = len(found) // 2
    for number, some in enumerate((found[:half], found[half:])):
        webdataset_tar(folder / "224x224" / part / f"shard-{number:06d}.tar", some)
    return found


def only(folder: Path, *found: dict[str, Any], **params: Any) -> Any:
    """The one sample of a shard with this content."""
    webdataset_tar(folder / "train" / "shard-000000.tar", list(found))
    samples, _ = listed(source_params("treeoflife10m", folder, **params))
    return samples[0]


def test_from_shards_to_captions(tmp_path: Path) -> None:
    root = tmp_path / "tol"
    shards(root, "train", 0, 4)
    shards(root, "val", 1000, 2)
    shutil.copytree(root / "224x224" / "train", root / "224x224" / "train_small")
    rows = to_captions(source_params("treeoflife10m", root), tmp_path / "data")
    assert len(rows) == 18 and not any("train_small" in row["locator"] for row in rows)
    assert all((row["split"] == "test") == ("/val/" in row["locator"]) for row in rows)
    gannet = next(row for row in rows if row["kingdom"] == "Animalia")
    assert gannet["taxon_com"] == f"a photo of {' '.join(GANNET)} with common name Northern Gannet."


def test_train_small_alone_is_listed(tmp_path: Path) -> None:
    shards(tmp_path, "train_small", 0, 2)
    assert len(listed(source_params("treeoflife10m", tmp_path))[0]) == 6


def test_parts_are_read_without_unpacking(tmp_path: Path) -> None:
    found = shards(tmp_path, "train", 0, 2)
    params = source_params("treeoflife10m", tmp_path)
    contents = {find_source("treeoflife10m").read(params, s.locator) for s in listed(params)[0]}
    assert contents == {one["jpg"] for one in found}


def test_a_shard_that_became_shorter(tmp_path: Path) -> None:
    shards(tmp_path, "train", 0, 2)
    params = source_params("treeoflife10m", tmp_path)
    locator = listed(params)[0][0].locator
    tar = tmp_path / locator.partition(":")[0]
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(OSError, match="ends before byte"):
        find_source("treeoflife10m").read(params, locator)
    with pytest.raises(FileNotFoundError):
        find_source("treeoflife10m").read(params, "nowhere.tar:0:10")


TEXT_SETS = [
    *[{name} for name in bioclip_texts(GANNET, "x") if name not in ("common_name.txt", "com.txt", "sci_com.txt")],
    {"scientific_name.txt", "common_name.txt", "sci.txt", "taxon.txt", "taxonTag.txt"},  # as in TreeOfLife-200M
]


@pytest.mark.parametrize("kept", TEXT_SETS, ids=lambda kept: "+".join(sorted(kept)))
def test_any_subset_of_the_texts(tmp_path: Path, kept: set[str]) -> None:
    told = {name: text for name, text in bioclip_texts(GANNET, "Northern Gannet").items() if name in kept}
    got = only(tmp_path, {"__key__": UUID(1), "jpg": photo(1), **told})
    full = kept - {"scientific_name.txt", "sci.txt"}
    assert got.path == (GANNET if full else (None, None, None, None, None, "Morus", "bassanus"))
    assert got.common_name == ("Northern Gannet" if any("com" in name for name in kept) else None)


@settings(max_examples=40, deadline=None)
@given(known=st.lists(st.booleans(), min_size=7, max_size=7), common=st.sampled_from([None, "Northern Gannet"]))
def test_texts_of_any_taxon(known: list[bool], common: str | None) -> None:
    """Tagged texts give back what they were made from, with whatever ranks missing, and no name that is none."""
    path = tuple(name if there else None for name, there in zip(GANNET, known, strict=True))
    told = {name.lower(): text for name, text in bioclip_texts(path, common).items()}
    row = texts.row_of(told)
    assert tuple(row[rank] for rank in taxonomy.RANKS) == path
    assert texts.genuine(row["common_name"], path, row["scientific_name"]) == common


def test_extensions_in_any_case_and_images_of_any_kind(tmp_path: Path) -> None:
    told = {name.upper(): text for name, text in bioclip_texts(GANNET, "Northern Gannet").items()}
    assert only(tmp_path, {"__key__": UUID(1), **told, "WEBP": photo(1)}).path == GANNET


def test_a_common_name_that_only_repeats_the_taxon_is_none(tmp_path: Path) -> None:
    family = (*GANNET[:5], None, None)
    found = [sample(1, GANNET), sample(2, family), sample(3, GANNET, "Morus bassanus")]
    webdataset_tar(tmp_path / "shard-000000.tar", found)
    samples, _ = listed(source_params("treeoflife10m", tmp_path))
    assert [s.common_name for s in samples] == [None, None, None]
    assert [s.path for s in samples] == [GANNET, family, GANNET]


def test_the_catalogue_of_10m_comes_first(tmp_path: Path) -> None:
    wrong = [sample(1, (*GANNET[:5], "Mours", "basanus"), "Gannet"), sample(2, DAISY, "Daisy")]
    webdataset_tar(tmp_path / "224x224" / "train" / "shard-000000.tar", wrong)
    row = ["train", UUID(1), "", "", "", "", "a.jpg", "", "", *GANNET, "Northern Gannet"]
    write_csv(tmp_path / "metadata" / "catalog.csv", list(CATALOGUE_10M), [row])
    licence = ["license_name", "copyright_owner", "license_link", "title"]
    write_csv(
        tmp_path / "metadata" / "licenses.csv", ["treeoflife_id", *licence], [[UUID(1), "cc-by-nc", "Ann", "", ""]]
    )
    first, second = listed(source_params("treeoflife10m", tmp_path))[0]
    assert (first.path, first.common_name) == (GANNET, "Northern Gannet")
    assert (first.licence, first.attribution) == ("cc-by-nc", "Ann")
    assert (second.path, second.common_name, second.licence) == (DAISY, "Daisy", None)  # not catalogued


def test_200m_from_shards_and_catalogues_to_captions(tmp_path: Path) -> None:
    root, found, names = tmp_path / "tol", [], []
    for i, (name, path) in enumerate(sorted(TAXA.items())):
        for j in range(4):
            number = 10 * i + j
            kept = {"taxonTag.txt", "taxon.txt", "sci.txt", "scientific_name.txt", "taxonomic_name.txt"}
            told = {k: v for k, v in bioclip_texts(path, None).items() if k in kept}
            found.append({"__key__": UUID(number), **told, "jpg": photo("tol", number)})
            names.append(
                {"uuid": UUID(number), **dict(zip(taxonomy.RANKS, path, strict=True)), "common": name}
                | {"scientific_name": f"{path[5]} {path[6]} L.", "data_source": "GBIF", "source_id": str(number // 2)}
                | {"publisher": "iNaturalist.org", "img_type": "Citizen Science", "shard_filename": "shard-000000.tar"}
            )
    raw = bytes(224 * 224 * 3)  # a failed resize: BGR values, no JPEG
    webdataset_tar(root / "shard-000000.tar", [*found, {"__key__": UUID(99), "jpg": raw, **bioclip_texts(DAISY, None)}])
    names.append(names[0] | {"uuid": UUID(0), "common": "of another shard", "shard_filename": "shard-000001.tar"})
    pq.write_table(pa.Table.from_pylist(names[::-1]), root / "catalog.parquet")
    owners = [{"uuid": UUID(i), "license_name": "cc-by", "copyright_owner": "not provided"} for i in range(40)]
    pq.write_table(pa.Table.from_pylist(owners), root / "provenance.parquet")
    params = source_params("treeoflife200m", root)
    rows = to_captions(params, tmp_path / "data")
    assert len(rows) == 12 and {row["licence"] for row in rows} == {"cc-by"}
    assert {row["attribution"] for row in rows} == {None}
    assert list(rejects(tmp_path / "data").values()) == ["not an image"]
    daisy = next(row for row in rows if row["genus"] == "Bellis")
    assert daisy["com"] == "a photo of Common Daisy."
    assert len({s.group for s in listed(params)[0]}) == 7  # pairs from one occurrence


def test_samples_without_an_image_or_a_text(tmp_path: Path) -> None:
    webdataset_tar(
        tmp_path / "a.tar", [{"__key__": "one", **bioclip_texts(DAISY, None)}, {"__key__": "two", "jpg": photo(2)}]
    )
    samples, left_out = listed(source_params("treeoflife10m", tmp_path))
    assert [(r.locator, r.reason) for r in left_out] == [("a.tar/one", "missing file")]
    assert [taxonomy.label_rank(s.path) for s in samples] == [-1]


def test_a_damaged_shard_leaves_the_others(tmp_path: Path) -> None:
    shards(tmp_path, "train", 0, 4)
    tar = tmp_path / "224x224" / "train" / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-30_000])
    put(tmp_path / "224x224" / "train" / "shard-000002.tar", b"not a tar at all" * 100)
    put(tmp_path / "224x224" / "train" / "shard-000003.tar", b"")
    samples, left_out = listed(source_params("treeoflife10m", tmp_path))
    assert 6 < len(samples) < 12
    assert [r.locator for r in left_out] == [f"224x224/train/shard-00000{i}.tar" for i in (0, 2, 3)]
    assert {r.reason for r in left_out} == {"damaged tar"}


def test_names_that_stand_twice_in_a_tar(tmp_path: Path) -> None:
    webdataset_tar(tmp_path / "a.tar", [sample(1, DAISY), sample(2, GANNET), sample(1, MULBERRY)])
    samples, left_out = listed(source_params("treeoflife10m", tmp_path))
    assert [s.path for s in samples] == [DAISY, GANNET] and [r.reason for r in left_out] == ["bad row"]


def test_compressed_shards(tmp_path: Path) -> None:
    tar = webdataset_tar(tmp_path / "a.tar", [sample(1, DAISY), sample(2, GANNET)])
    content = tar.read_bytes()
    put(tmp_path / "a.tar.gz", gzip.compress(content))
    params = source_params("treeoflife10m", tmp_path)
    unpacked, _ = listed(params)
    assert len(unpacked) == 2  # unpacked beside it
    tar.unlink()
    packed, _ = listed(params)
    assert [(s.path, s.common_name) for s in packed] == [(s.path, s.common_name) for s in unpacked]
    assert {find_source("treeoflife10m").read(params, s.locator) for s in packed} == {photo("tol", 1), photo("tol", 2)}
    (tmp_path / "a.tar.gz").rename(tmp_path / "a.tar")
    with pytest.raises(UserError, match="compressed"):
        listed(params)
    put(tmp_path / "a.tar.bz2", bz2.compress(content))
    (tmp_path / "a.tar").unlink()
    with pytest.raises(UserError, match=r"compressed.*a\.tar\.bz2"):
        listed(params)


def test_10m_as_published_from_archives_to_captions(tmp_path: Path) -> None:
    root = tmp_path / "tol"
    treeoflife_10m(root)
    rows = to_captions(source_params("treeoflife10m", root, near_duplicates=0), tmp_path / "data")
    by_place = Counter(row["locator"].split("/")[1] for row in rows)
    assert by_place == {"EOL": 12, "bioscan": 12, "inat21": 12}
    assert rejects(tmp_path / "data") == {}
    names = {row["taxon_com"] for row in rows if row["genus"] == "Bellis"}
    assert names == {f"a photo of {' '.join(DAISY)} with common name {c}." for c in ("Common Daisy", "Bellis perennis")}
    licences = {(row["locator"].split("/")[1], row["licence"], row["attribution"]) for row in rows}
    assert licences == {("EOL", "cc-by", "Ann"), ("bioscan", None, None), ("inat21", None, None)}


def test_the_split_of_the_catalogue_is_honoured(tmp_path: Path) -> None:
    """Photographs of val are test photographs wherever they lie, in an image set or in a shard of no split's folder."""
    root = tmp_path / "tol"
    rows = treeoflife_10m(root)
    ids = {row["treeoflife_id"]: row["split"] for row in rows if row["split"] != "train_small"}
    in_sets, _ = listed(source_params("treeoflife10m", root))
    val = {identity for identity, split in ids.items() if split == "val"}
    assert Counter(s.split for s in in_sets) == {None: 33, "test": len(val)} and len(val) == 3
    assert {s.split for s in in_sets if "/EOL/" not in s.locator} == {None}

    shard = [sample(number, path) for number in (0, 3, 103) for path in (DAISY,)]
    webdataset_tar(tmp_path / "flat" / "shard-000000.tar", shard)
    shutil.copytree(root / "metadata", tmp_path / "flat" / "metadata")
    found, _ = listed(source_params("treeoflife10m", tmp_path / "flat"))
    assert [s.split for s in found] == [None, "test", "test"]


def test_inat21_in_its_own_archive(tmp_path: Path) -> None:
    """train.tar.gz of iNat21 read where it lies gives what its unpacked folders give."""
    treeoflife_10m(tmp_path / "a")
    files = tmp_path / "a" / "dataset" / "inat21"
    members = {path.relative_to(files).as_posix(): path.read_bytes() for path in sorted(files.rglob("*.jpg"))}
    gzipped_tar(tmp_path / "b" / "train.tar.gz", members)
    shutil.copytree(tmp_path / "a" / "metadata", tmp_path / "b" / "metadata")
    packed, _ = listed(source_params("treeoflife10m", tmp_path / "b"))
    loose, _ = listed(source_params("treeoflife10m", tmp_path / "a"))
    assert len(packed) == 12
    assert [s.path for s in packed] == [s.path for s in loose if "/inat21/" in s.locator]


def test_an_image_set_that_breaks_off_leaves_the_others(tmp_path: Path) -> None:
    treeoflife_10m(tmp_path / "tol", each=8)
    file = tmp_path / "tol" / "dataset" / "EOL" / "image_set_01.tar.gz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    samples, left_out = listed(source_params("treeoflife10m", tmp_path / "tol"))
    assert [(r.locator, r.reason in ("damaged tar", "unreadable")) for r in left_out] == [
        ("dataset/EOL/image_set_01.tar.gz", True)
    ]
    assert sum("image_set_02" in s.locator for s in samples) == 12


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.tar"):
        listed(source_params("treeoflife200m", tmp_path))


def test_a_catalogue_that_is_no_parquet(tmp_path: Path) -> None:
    webdataset_tar(tmp_path / "a.tar", [sample(1, DAISY)])
    put(tmp_path / "catalog.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match="no readable Parquet"):
        listed(source_params("treeoflife200m", tmp_path))
