from pathlib import Path
from typing import Any

import pytest

from bioclip_lite.params.jobs import Origin
from bioclip_lite.sources.registry import find_source
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET, MULBERRY, encoded, picture
from support.raw_forms import listed, photo, put, rejects, source_params, to_captions, webdataset_tar, write_csv

NOTHING = (None,) * 7
SCIENTIFIC = ["Bellis perennis", "Morus alba", "Morus bassanus"]


def part(folder: Path, labels: list[int], tars: int = 2, kind: str = "webp") -> list[bytes]:
    """A split as CLIP_benchmark writes it; returns the files of the photographs."""
    samples: list[dict[str, Any]] = []
    for i, label in enumerate(labels):
        content = encoded(picture(folder.name, i), "WEBP") if kind == "webp" else photo(folder.name, i)
        samples.append({"__key__": f"s{i:07d}", kind: content, "cls": str(label)})
    size = -(-len(samples) // tars)
    for number in range(tars):
        webdataset_tar(folder / f"{number}.tar", samples[number * size : (number + 1) * size])
    put(folder / "nshards.txt", f"{tars}")
    return [sample[kind] for sample in samples]


def benchmark(root: Path, names: list[str], **more: Any) -> Any:
    part(root / "train", [i % len(names) for i in range(12)])
    part(root / "test", [i % len(names) for i in range(6)], 1, "jpg")
    put(root / "classnames.txt", "\n".join(names))
    put(root / "zeroshot_classification_templates.txt", "a photo of {c}.\n")
    return source_params("clip_benchmark", root, **more)


def test_from_tars_to_captions(tmp_path: Path) -> None:
    rows = to_captions(benchmark(tmp_path / "set", SCIENTIFIC), tmp_path / "data")
    assert len(rows) == 18
    assert all((row["split"] == "test") == row["locator"].startswith("test/") for row in rows)
    assert {row["sci"] for row in rows} == {f"a photo of {name}." for name in SCIENTIFIC}


def test_files_come_out_of_the_tars_as_they_went_in(tmp_path: Path) -> None:
    contents = part(tmp_path / "test", [0, 1, 2, 0, 1], 3)
    put(tmp_path / "classnames.txt", "\n".join(SCIENTIFIC))
    params = source_params("clip_benchmark", tmp_path)
    assert [find_source("clip_benchmark").read(params, s.locator) for s in listed(params)[0]] == contents


def test_tars_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    part(tmp_path, [0] * 12, 12)
    put(tmp_path / "classnames.txt", "Bellis perennis\nMorus alba\n")
    samples, _ = listed(source_params("clip_benchmark", tmp_path))
    assert [int(s.locator.partition(".")[0]) for s in samples] == list(range(12))
    assert {s.split for s in samples} == {None}


def test_one_split_alone_finds_its_class_names_above(tmp_path: Path) -> None:
    benchmark(tmp_path, SCIENTIFIC)
    samples, _ = listed(source_params("clip_benchmark", tmp_path / "test"))
    assert len(samples) == 6 and {s.split for s in samples} == {"test"}


@pytest.mark.parametrize(
    ("names", "paths", "common_names"),
    [
        ([" ".join(DAISY), "_".join(MULBERRY)], [DAISY, MULBERRY], [None, None]),
        (["00012_" + "_".join(GANNET), "tench"], [GANNET, NOTHING], [None, "tench"]),
        (["tench", "American robin"], [NOTHING, NOTHING], ["tench", "American robin"]),  # looks like a binomial
        (
            ["Morus alba", "Bellis perennis", "great white shark"],
            [(*NOTHING[:5], "Morus", "alba"), (*NOTHING[:5], "Bellis", "perennis"), NOTHING],
            [None, None, "great white shark"],
        ),
    ],
)
def test_class_names(
    tmp_path: Path, names: list[str], paths: list[taxonomy.Path], common_names: list[str | None]
) -> None:
    samples, _ = listed(benchmark(tmp_path, names))
    assert [s.path for s in samples[: len(names)]] == paths
    assert [s.common_name for s in samples[: len(names)]] == common_names


def test_labels_that_make_no_sense(tmp_path: Path) -> None:
    put(tmp_path / "classnames.txt", "Bellis perennis\nMorus alba\n")
    found = [{"cls": "2"}, {"cls": "daisy"}, {"cls": "-1"}, {}, {"cls": "1"}]
    samples = [{"__key__": f"s{i:07d}", "png": photo(i), **more} for i, more in enumerate(found)]
    webdataset_tar(tmp_path / "0.tar", samples)
    put(tmp_path / "nshards.txt", "1\n")
    kept, left_out = listed(source_params("clip_benchmark", tmp_path))
    assert len(kept) == 1
    assert [r.reason for r in left_out] == ["bad row", "bad row", "bad row", "missing file"]


def fails(params: Origin, *words: str) -> None:
    with pytest.raises(UserError) as error:
        listed(params)
    for word in words:
        assert word in str(error.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    params = benchmark(tmp_path, SCIENTIFIC)
    (tmp_path / "train" / "1.tar").unlink()
    fails(params, "nshards.txt says 2 tars", "1 are missing", "train/1.tar")
    put(tmp_path / "train" / "nshards.txt", "two")
    fails(params, "nshards.txt", "number")
    (tmp_path / "train" / "nshards.txt").unlink()
    fails(params, "nshards.txt is missing")
    (tmp_path / "classnames.txt").unlink()
    fails(params, "classnames.txt is missing")


def test_class_names_that_stand_twice(tmp_path: Path) -> None:
    fails(benchmark(tmp_path, ["crane", "crane", "tench"]), "classnames.txt", "'crane'", "several classes")


@pytest.mark.parametrize("kind", ["retrieval", "multilabel"])
def test_sets_without_classes(tmp_path: Path, kind: str) -> None:
    params = benchmark(tmp_path, SCIENTIFIC)
    put(tmp_path / "dataset_type.txt", f"{kind}\n")
    fails(params, kind, "dataset_type.txt")


@pytest.mark.parametrize(("label", "kind"), [("npy", "multilabel"), ("txt", "retrieval")])
def test_labels_of_other_kinds(tmp_path: Path, label: str, kind: str) -> None:
    put(tmp_path / "classnames.txt", "a\nb")
    put(tmp_path / "nshards.txt", "1")
    webdataset_tar(tmp_path / "0.tar", [{"__key__": "s0000000", "webp": photo(1), label: b"x"}])
    fails(source_params("clip_benchmark", tmp_path), kind)


def test_common_names_find_their_taxa_in_a_species_list(tmp_path: Path) -> None:
    ranks = ["kingdom", "phylum", "class", "order", "family", "genus", "species", "common_name"]
    named = [[*DAISY, "Common Daisy"], [*GANNET, "Northern Gannet"], [*MULBERRY, "White Mulberry"]]
    write_csv(tmp_path / "data" / "lists" / "species.csv", ranks, named)
    params = benchmark(tmp_path / "set", ["common daisy", "northern gannet", "american robin"])
    rows = to_captions(params | {"species_list": "species.csv"}, tmp_path / "data")
    assert len(rows) == 12 and {row["taxon"] for row in rows} == {f"a photo of {' '.join(p)}." for p in (DAISY, GANNET)}
    assert set(rejects(tmp_path / "data").values()) == {"not listed"}
