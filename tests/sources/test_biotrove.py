from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bioclip_lite.sources import downloads
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET, MULBERRY
from support.raw_forms import (
    TAXA,
    biotrove_row,
    biotrove_tar,
    listed,
    photo,
    put,
    rejects,
    serving,
    source_params,
    to_captions,
)


def table(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def collection(each: int = 4) -> dict[int, dict[str, Any]]:
    numbered = enumerate((name, path) for _ in range(each) for name, path in TAXA.items())
    return {1000 + i: {"photo_id": 1000 + i, **biotrove_row(path, name)} for i, (name, path) in numbered}


def test_from_tars_to_captions(tmp_path: Path) -> None:
    rows = collection()
    biotrove_tar(tmp_path / "trove", "chunk_0", {i: (photo(i), row) for i, row in rows.items() if i % 2})
    biotrove_tar(tmp_path / "trove", "chunk_1", {i: (photo(i), row) for i, row in rows.items() if not i % 2})
    said = to_captions(source_params("biotrove", tmp_path / "trove"), tmp_path / "data")
    assert len(said) == 12
    assert {row["taxonTag_com"] for row in said if row["genus"] == "Bellis"} == {
        "a photo of kingdom Plantae phylum Tracheophyta class Magnoliopsida order Asterales family Asteraceae "
        "genus Bellis species perennis with common name Common Daisy."
    }


@pytest.mark.parametrize("missing", ["", "nan", "None"])
def test_missing_names_in_texts(tmp_path: Path, missing: str) -> None:
    paths = [(*GANNET[:2], None, *GANNET[3:]), (*GANNET[:5], None, None), DAISY]
    photos = {i: (photo(i), biotrove_row(path, None, missing)) for i, path in enumerate(paths)}
    biotrove_tar(tmp_path, "chunk_0", photos)
    samples, _ = listed(source_params("biotrove", tmp_path))
    assert [s.path for s in samples] == paths
    assert [s.common_name for s in samples] == [None, None, None]
    assert samples[2].verbatim == "Bellis perennis"


@pytest.mark.parametrize("kept", ["taxon.txt", "taxonomic_name.txt", "taxonTag.txt"])
def test_gaps_in_each_text(kept: str) -> None:
    from bioclip_lite.sources import texts

    for missing in ("", "nan"):
        names = [name if name != "Aves" else missing for name in GANNET]
        told = {
            "taxon.txt": f"a photo of {' '.join(names)}.",
            "taxonomic_name.txt": f"{' '.join(names)}.",
            "taxonTag.txt": "a photo of " + " ".join(map(" ".join, zip(taxonomy.RANKS, names, strict=True))) + ".",
        }
        row = texts.row_of({kept.lower(): told[kept]})
        assert [row[rank] for rank in taxonomy.RANKS] == [*GANNET[:2], None, *GANNET[3:]]


def test_an_epithet_of_two_words_does_not_shift_the_ranks() -> None:
    from bioclip_lite.sources import texts

    row = texts.row_of(
        {"taxon.txt": "a photo of Animalia Chordata Actinopterygii Cypriniformes Carassius auratus auratus."}
    )
    assert [row[rank] for rank in taxonomy.RANKS] == ["Animalia", *[None] * 6]


def test_tables_with_local_photographs_and_addresses_to_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_FIRST_WAIT", 0.01)
    root, rows = tmp_path / "trove", collection()
    with serving() as web:
        for i, row in rows.items():
            row["photo_url"] = web.url(f"photos/{i}/medium.jpg")
            if i < 1006:
                put(root / "images" / "chunk_0" / f"{i}.jpg", photo(i))
            elif i != 1011:
                web.files[f"photos/{i}/medium.jpg"] = photo(i)
        table(root / "metadata" / "chunk_0.parquet", list(rows.values()))
        said = to_captions(source_params("biotrove", root), tmp_path / "data")
        assert len(said) == 11 and len(web.asked) == 6
        assert list(rejects(tmp_path / "data")) == [web.url("photos/1011/medium.jpg")]
    assert {row["com"] for row in said} == {f"a photo of {name}." for name in TAXA}


def test_a_photograph_keeps_its_key_when_it_has_been_downloaded(tmp_path: Path) -> None:
    row = {"photo_id": 7, **biotrove_row(DAISY, None), "photo_url": "https://example.org/7/medium.jpg"}
    table(tmp_path / "a.parquet", [row])
    (far,), _ = listed(source_params("biotrove", tmp_path))
    put(tmp_path / "chunk" / "7.jpg", photo(7))
    (near,), _ = listed(source_params("biotrove", tmp_path))
    assert far.key == near.key and near.locator == "chunk/7.jpg"


def test_names_from_the_table_for_photographs_in_tars(tmp_path: Path) -> None:
    biotrove_tar(tmp_path, "chunk_0", {7: (photo(7), biotrove_row(DAISY, "nan", "nan"))})
    table(tmp_path / "chunk_0.parquet", [{"photo_id": 7.0, **biotrove_row(MULBERRY, "White Mulberry")}])
    (sample,), _ = listed(source_params("biotrove", tmp_path))
    assert (sample.path, sample.common_name) == (MULBERRY, "White Mulberry")


def test_rows_that_lead_nowhere(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"photo_id": None}, {"photo_id": 1.5}, {"photo_id": 2.0, "photo_url": "nan"}]
    rows = [{"photo_url": None, **biotrove_row(DAISY, None), **row} for row in rows]
    table(tmp_path / "a.parquet", rows)
    samples, left_out = listed(source_params("biotrove", tmp_path))
    assert samples == [] and [r.reason for r in left_out] == ["bad row", "bad row", "missing file"]
    assert left_out[2].detail.startswith("photo_id 2:")


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither \.tar nor \.parquet"):
        listed(source_params("biotrove", tmp_path))
    table(tmp_path / "a.parquet", [{"x": 1}])
    with pytest.raises(UserError, match=r"photo_id.*columns: x"):
        listed(source_params("biotrove", tmp_path))
