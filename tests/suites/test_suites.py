"""Suites: test sets in the forms in which they lie on disk, and the rules of each.

The models here see the colour of a photograph and know colours by name, so that every figure is known beforehand; what
reads, prepares, batches and counts is real.
"""

import base64
import colorsys
import csv
import io
import json
import random
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image
from torch import nn

from bioclip_lite import params
from bioclip_lite.metrics import detection
from bioclip_lite.models import teachers
from bioclip_lite.params import of_job
from bioclip_lite.photographs.images import decode
from bioclip_lite.photographs.preprocess import preprocess, preprocessing
from bioclip_lite.photographs.shards import ShardSet, write_shard
from bioclip_lite.report import suites as report_suites
from bioclip_lite.stages import evaluate
from bioclip_lite.suites import answering, imagenet
from bioclip_lite.suites.formats import find_format
from bioclip_lite.suites.suite import Class, Photograph, Suite
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils import sections
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, write_json
from bioclip_lite.web.javascript import PACKAGE
from support import checkout
from support.checkout import ROOT
from support.fake_evaluation import PARAMS, write_data
from support.photographs import encoded, picture
from support.raw_forms import put, webdataset_tar

HUES = 12
# Names of which none is part of another.
NAMES = ["tench", "goldfish", "hen", "ostrich", "robin", "jay", "kite", "newt", "boa", "crab", "lynx", "otter"]
WNIDS = [f"n{1000 + 37 * n:08d}" for n in range(HUES)]
LATIN = ["Bellis perennis", "Morus alba", "Morus bassanus", "Ursus arctos", "Lutra lutra", "Esox lucius"]
ENTRY: sections.EvaluateSuites = {
    "name": "it",
    "format": "folder",
    "path": "data/suites/it",
    "prompt": "name",
    "templates": "plain",
}


def rgb(hue: float) -> tuple[int, int, int]:
    """The colour that stands for class ``hue``, between two classes if it is no whole number."""
    red, green, blue = (round(255 * value) for value in colorsys.hsv_to_rgb(hue % HUES / HUES, 1, 1))
    return red, green, blue


def photo(hue: float, kind: str = "JPEG", side: int = 16, frame: int = 0) -> bytes:
    image = Image.new("RGB", (side, side), (255, 0, 0))
    image.paste(rgb(hue), (frame, frame, side - frame, side - frame))
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


class Colours(nn.Module):
    """A CLIP whose embeddings are colours; ``turned`` sees every hue so many classes further."""

    def __init__(self, turned: float = 0.0) -> None:
        super().__init__()
        self.turned = turned
        self.anywhere = nn.Parameter(torch.zeros(()))  # says on which device the model is

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        seen = []
        for red, green, blue in pixels.mean((2, 3)).tolist():
            hue = colorsys.rgb_to_hsv(max(red, 0), max(green, 0), max(blue, 0))[0] * HUES
            seen.append(direction(hue + self.turned))
        return torch.tensor(seen, dtype=torch.float32)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.tensor([direction(hue) for hue in tokens.tolist()], dtype=torch.float32)


def direction(hue: float) -> tuple[float, float]:
    angle = 2 * np.pi * hue / HUES
    return float(np.cos(angle)), float(np.sin(angle))


def tokenizer(texts: Sequence[str]) -> torch.Tensor:
    """The number of the one name that each text has in it."""
    return torch.tensor(
        [next(i for names in (NAMES, LATIN) for i, name in enumerate(names) if name in text) for text in texts]
    )


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run one suite; what it wrote."""
    data = tmp_path / "data"
    write_json(data / "convert" / "tfjs" / "bundle.json", {})
    prepared = preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    teacher = teachers.Teacher(Colours(), tokenizer, prepared, 20.0, {"identity": "t"})
    pupils = {"student": 0.0, "pruned": 0.0, "int8": 2.0}

    def embedder(data: Path, variant: str, taxa: store.Taxa) -> tuple[dict[str, Any], Callable[..., np.ndarray]]:
        model = Colours(pupils[variant])
        return prepared, lambda pixels: model.encode_image(pixels).numpy()

    def answer(where: str, bundle: Path, images: Sequence[Path], prefix: Path) -> dict[str, Any]:
        """As bin/classify.mjs: the members of the tar in their order, decoded whatever their name says."""
        with tarfile.open(images[0]) as tar:
            members = [member for member in tar.getmembers() if member.name.endswith(".jpg")]
            pictures = [decode(tar.extractfile(member).read()) for member in members]  # type: ignore[union-attr]
        pixels = torch.from_numpy(np.stack([preprocess(picture, prepared) for picture in pictures]))
        teacher.model.encode_image(pixels).numpy().tofile(f"{prefix}.embeddings.f32")
        return {"keys": [member.name.split(".")[0] for member in members], "rows": len(members), "embedding": 2}

    monkeypatch.setattr(store, "read_taxa", lambda path: store.Taxa([], np.empty((0, 2)), 20.0, "t", ""))
    monkeypatch.setattr(teachers, "load_teacher", lambda folder: teacher)
    monkeypatch.setattr(answering.variants, "embedder", embedder)
    monkeypatch.setattr(answering, "check_weights", lambda data, bundle, about: None)
    monkeypatch.setattr(answering.javascript, "answer", answer)

    def run(root: Path, **more: Any) -> dict[str, Any]:
        section: Any = {"bootstrap": 100, "seed": 0, "suites": [{**ENTRY, "path": str(root), **more}]}
        evaluate.run(section, data, "suites/it")
        found: dict[str, Any] = read_json(data / "evaluate" / "predictions" / "suites" / "it.json")
        return found

    return run


def values(found: dict[str, Any], variant: str = "teacher") -> dict[str, float]:
    return {name: number["value"] for name, number in found["variants"][variant].items()}


@pytest.fixture
def twelve(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImageNet of twelve classes, whose names are colours to the models here."""
    found = {wnid: Class(name, lemmas=f"{name}, {n} ") for n, (wnid, name) in enumerate(zip(WNIDS, NAMES, strict=True))}
    monkeypatch.setattr(imagenet, "known", lambda: found)


def write_csv(path: Path, header: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


# ---- forms


def test_a_folder_of_classes(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    for hue, name in enumerate(NAMES):
        for i in range(2 + hue % 2):
            put(tmp_path / "set" / name / f"{i}.jpg", photo(hue))
    put(tmp_path / "set" / "hen" / "README.txt.png", photo(2, "PNG"))
    put(tmp_path / "set" / "LICENCE.txt", "not a class")
    found = ask(tmp_path / "set")
    assert values(found) == {"top1": 1.0, "top5": 1.0, "macro": 1.0}
    number = found["variants"]["tfjs"]["top1"]
    assert number["n_images"] == 31 and number["n_classes"] == number["label_space"] == 12
    assert number["chance"] == pytest.approx(1 / 12, abs=1e-6) and number["ci95"] == [1.0, 1.0]
    assert number["protocol"] == found["protocol"] and found["protocol"].startswith("folder-")
    assert list(found["variants"]) == sorted(["teacher", "student", "pruned", "int8", "tfjs"])
    # two hues further: never right
    assert values(found, "int8")["top1"] == 0 and values(found, "int8")["difference_to_teacher"] == -1
    assert found["example"] == "a photo of boa." and found["rejected"]["count"] == 0


@pytest.mark.parametrize("folders", [[str(n) for n in range(HUES)], WNIDS])
def test_names_in_a_file_are_in_the_order_of_the_folders(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], folders: list[str]
) -> None:
    """Of numbers it is that of numbers: 2 comes before 10."""
    for hue, name in enumerate(folders):
        put(tmp_path / "set" / name / "a.jpg", photo(hue))
    put(tmp_path / "set" / "classnames.txt", "\n".join(NAMES) + "\n")
    assert values(ask(tmp_path / "set"))["top1"] == 1
    put(tmp_path / "set" / "classnames.txt", "\n".join(NAMES[1:]))
    with pytest.raises(UserError, match=r"classnames.txt has 11 lines for 12 subfolders"):
        ask(tmp_path / "set")


def benchmark(root: Path, hues: Sequence[float], labels: Sequence[int]) -> Path:
    """CLIP_benchmark's form, with a part for training that must not be read."""
    samples = [
        {"__key__": f"s{i:07d}", "webp": photo(hue, "WEBP"), "cls": str(label)}
        for i, (hue, label) in enumerate(zip(hues, labels, strict=True))
    ]
    for part, some in (("train", samples[:1]), ("test", samples)):
        (root / part).mkdir(parents=True)
        half = -(-len(some) // 2)
        for number, few in enumerate((some[:half], some[half:])):
            webdataset_tar(root / part / f"{number}.tar", few)
        put(root / part / "nshards.txt", "2\n")
    put(root / "classnames.txt", "\n".join(NAMES))
    put(root / "zeroshot_classification_templates.txt", "a photo of {c}.\n{c}, drawn.\n")
    return root


def test_the_form_of_clip_benchmark(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    labels = [0, 1, 2, 3, 10, 11, 11]
    found = ask(benchmark(tmp_path / "set", [0, 1, 2, 4, 10, 11, 11], labels), format="webdataset", templates="own")
    top1, macro = values(found)["top1"], values(found)["macro"]
    assert (top1, macro) == (pytest.approx(6 / 7, abs=1e-6), pytest.approx(5 / 6, abs=1e-6))
    number = found["variants"]["teacher"]["top1"]
    assert (number["n_images"], number["n_classes"], number["label_space"]) == (7, 6, 12)
    assert found["n_templates"] == 2 and found["example"] == "a photo of tench."


def test_the_form_of_bioclip(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    """metadata.csv as its evaluation sets have it: an index, the class as a common name, filepath."""
    for i in range(6):
        put(tmp_path / "set" / "images" / f"{i}.png", photo(i, "PNG"))
    lines = [[i, name, f"images/{i}.png"] for i, name in enumerate(NAMES[:6])]
    write_csv(tmp_path / "set" / "metadata.csv", ["", "class", "filepath"], lines)
    found = ask(tmp_path / "set", format="metadata", prompt="taxon_com", templates="openai")
    assert values(found)["top1"] == 1 and found["cluster"] == "class" and found["n_templates"] == 80
    assert found["variants"]["teacher"]["top1"]["label_space"] == 6


def test_the_form_of_rare_species(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    """All ranks, in which ``class`` is a rank; one taxon is one class, whatever its common name says."""
    root = tmp_path / "set"
    header = ["rarespecies_id", "eol_content_id", "eol_page_id", "kingdom", "phylum", "class", "order", "family",
              "genus", "species", "sciName", "common", "file_name"]  # fmt: skip
    lines = []
    for i in range(12):
        genus, epithet = LATIN[i % 6].split()
        file = f"dataset/x-{genus}-{epithet}/{i}_{100 + i}_eol-full-size-copy.jpg"
        put(root / file, photo(i % 6))
        ranks = ["Animalia", "Chordata", f"Class{i % 6}", "Order", "Family", genus, epithet]
        lines.append([f"u{i}", i, 100 + i, *ranks, LATIN[i % 6], f"name {i}", file])
    write_csv(root / "metadata.csv", header, lines)
    found = ask(root, format="metadata", prompt="taxon_com")
    number = found["variants"]["teacher"]["top1"]
    assert (number["value"], number["n_images"], number["label_space"]) == (1.0, 12, 6)
    assert found["example"] == (
        "a photo of Animalia Chordata Class0 Order Family Bellis perennis with common name name 0."
    )


def test_observations_are_resampled_together(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    """Of each of two individuals of one species ten photographs, of which all are right, or none."""
    root = tmp_path / "set"
    for i in range(20):
        put(root / f"{i}.jpg", photo(i // 10))
    put(root / "20.jpg", photo(1))
    lines = [[f"{i}.jpg", LATIN[i // 20], f"individual {i // 10}"] for i in range(21)]
    write_csv(root / "metadata.csv", ["file", "scientific_name", "observation"], lines)
    found = ask(root, format="metadata")
    number = found["variants"]["teacher"]["top1"]
    assert found["cluster"] == "observation"
    # by classes it would be 0.5 to 1
    assert number["value"] == pytest.approx(11 / 21, abs=1e-6) and number["ci95"] == [0.0, 1.0]


# ---- two names


def test_two_names_of_which_one_is_right(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    """The photograph looks most like a third class (1), which is not asked."""
    root = tmp_path / "set"
    lines = []
    for i in range(4):
        put(root / "photos" / f"{i}.jpg", photo(0.8))
        lines.append([f"photos/{i}.jpg", NAMES[0], NAMES[3]])
    put(root / "wrong.jpg", photo(5))
    lines.append(["wrong.jpg", NAMES[1], NAMES[4]])
    write_csv(root / "pairs.csv", ["file", "species", "confused_with"], lines)
    found = ask(root, format="pairs")
    number = found["variants"]["teacher"]["choice"]
    assert found["headline"] == "choice" and "top1" not in found["variants"]["teacher"]
    assert (number["value"], number["chance"], number["label_space"]) == (0.8, 0.5, 2)
    assert (number["n_images"], number["n_classes"]) == (5, 2)
    assert values(found)["macro"] == 0.5
    # two hues further the answer is always the other one
    assert values(found, "int8")["choice"] == 0


def test_a_table_of_pairs_that_makes_no_sense(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    root = tmp_path / "set"
    with pytest.raises(UserError, match="there is no such folder"):
        ask(root, format="pairs")
    root.mkdir()
    with pytest.raises(UserError, match=r"pairs.csv is missing"):
        ask(root, format="pairs")
    write_csv(root / "pairs.csv", ["file", "species", "other"], [])
    with pytest.raises(UserError, match=r"pairs.csv lacks the column confused_with.*its columns: file, species, other"):
        ask(root, format="pairs")
    write_csv(root / "pairs.csv", ["file", "species", "confused_with"], [["a.jpg", "hen", "hen"], ["b.jpg", "hen", ""]])
    with pytest.raises(UserError, match=r"2 of 2 photographs are of no use(.|\n)*pairs.csv, line 2: bad row"):
        ask(root, format="pairs")


# ---- BioTrove

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
ELSEWHERE = "/scratch/bf996/bioclip/bioclip-main/data/confounding/Confounding"


def confounding(root: Path, rows: Sequence[tuple[str, str, float]]) -> None:
    """confounding_species.csv as it is published: (name, options, hue of the photograph)."""
    lines = []
    for i, (name, options, hue) in enumerate(rows):
        folder = f"C{i}_{name.replace(' ', '_')}"
        put(root / "Confounding" / folder / f"{i}.jpg", photo(hue))
        lines.append([f"{ELSEWHERE}/{folder}/{i}.jpg", f"C{i}", name, options, i])
    write_csv(root / "confounding_species.csv", ["path", "pair", "scientific_name", "class_options", "idx"], lines)


def test_the_options_of_confounding_species(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two or more names per photograph; what looks most like another one (2) is not asked."""
    root = tmp_path / "set"
    two, three = "!".join(LATIN[:2]), "!".join(LATIN[i] for i in (0, 4, 5))
    rows = [(LATIN[0], two, 0.0), (LATIN[1], two, 1.4), (LATIN[4], three, 4.0), (LATIN[5], three, 0.0)]
    confounding(root, rows)
    found = ask(root, format="biotrove", prompt="sci")
    number = found["variants"]["teacher"]["choice"]
    assert found["headline"] == "choice" and found["example"] == "a photo of Bellis perennis."
    assert (number["value"], number["n_images"], number["n_classes"]) == (0.75, 4, 4)
    assert number["chance"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1 / 3) / 4) and number["label_space"] == 3
    said = capsys.readouterr().out
    assert f"files that the table has in {ELSEWHERE.removesuffix('Confounding')} are looked for here" in said
    assert "is taken for it" not in said


def test_a_name_that_is_spelt_otherwise_than_its_option(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """As "Harmonia axyridies" of "Harmonia axyridis!Epilachna mexicana", in 10 of the 100 published rows."""
    root = tmp_path / "set"
    confounding(root, [("Bellis perenniss", "!".join(LATIN[:2]), 0.0), (LATIN[1], "!".join(LATIN[:2]), 1.0)])
    assert values(ask(root, format="biotrove"))["choice"] == 1
    assert "1 rows name 'Bellis perenniss', which is none of their options; 'Bellis perennis' is taken" in (
        capsys.readouterr().out
    )
    confounding(root, [("Morus nigra", "!".join(LATIN[:2]), 0.0)])
    with pytest.raises(UserError, match=r"1 of 1 photographs are of no use(.|\n)*line 2: bad row .*class_options"):
        ask(root, format="biotrove")


def test_stages_of_life_are_classes_of_their_own(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    """BioTrove-LifeStages: class is the rank, class_out what is asked, twice per species."""
    root = tmp_path / "set"
    header = ["inat21_filename", "scientificName", *RANKS, "common_name", "life_stages", "path", "class_out"]
    lines = []
    for i, (name, stage) in enumerate([("crab", "Adult"), ("crab", "Larva"), ("otter", "Adult"), ("otter", "Larva")]):
        hue = NAMES.index(name)
        put(root / "lifestages" / f"{i}.jpg", photo(hue + (0.1 if stage == "Larva" else 0)))
        ranks = ["Animalia", "Arthropoda", "Insecta", "O", "F", "Genus", name]
        lines.append([i, f"Genus {name}", *ranks, name, stage, f"/lifestages/{i}.jpg", f"{name} {stage}"])
    write_csv(root / "BioTrove-LifeStages.csv", header, lines)
    found = ask(root, format="biotrove", prompt="taxon_com", templates="openai")
    number = found["variants"]["teacher"]["top1"]
    assert (number["label_space"], number["n_images"], values(found)["top5"]) == (4, 4, 1.0)
    suite = find_format("biotrove")(root)
    assert [(one.name, one.path) for one in suite.classes] == [
        *(("crab Adult", None), ("crab Larva", None), ("otter Adult", None), ("otter Larva", None))
    ]


@pytest.mark.parametrize("rank", ["class", "cls"])
def test_unseen_species_keep_their_ranks(tmp_path: Path, ask: Callable[..., dict[str, Any]], rank: str) -> None:
    """BioTrove-Unseen, and BioCLIP's Rare Species in the same form, which calls the rank cls."""
    root = tmp_path / "set"
    ranks = [rank if name == "class" else name for name in RANKS]
    header = ["filenumber", "scientific_name", "tar_file", *ranks, "common_name", "path"]
    lines = []
    for i, name in enumerate(LATIN):
        put(root / "Aves" / f"{i}.jpg", photo(i))
        path = ["Animalia", "Chordata", "Aves", f"Order{i}", "Family", *name.split()]
        lines.append([i, name, "/scratch/x/00000.tar", *path, "bird", f"/arboretum_rare_combined/Aves/{i}.jpg"])
    write_csv(root / "BioTrove-Unseen.csv", header, lines)
    found = ask(root, format="biotrove", prompt="taxon")
    assert values(found)["top1"] == 1 and found["variants"]["teacher"]["top1"]["label_space"] == len(LATIN)
    assert found["example"] == "a photo of Animalia Chordata Aves Order0 Family Bellis perennis."


def test_a_folder_that_is_no_set_of_biotrove(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    put(tmp_path / "set" / "a.jpg", photo(0))
    with pytest.raises(UserError, match=r"set has no \.csv; a set of BioTrove is one table"):
        ask(tmp_path / "set", format="biotrove")
    write_csv(tmp_path / "set" / "a.csv", ["path", "weight"], [])
    with pytest.raises(UserError, match=r"a\.csv lacks a column path, or a name .*; its columns: path, weight"):
        ask(tmp_path / "set", format="biotrove")
    write_csv(tmp_path / "set" / "b.csv", ["path", "weight"], [])
    with pytest.raises(UserError, match=r"has 2 \(\.csv: a\.csv, b\.csv\)"):
        ask(tmp_path / "set", format="biotrove")


# ---- ImageNet


def test_the_subfolders_of_imagenet_v2_are_numbers(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None
) -> None:
    """Folder 10 is class 10, though a list in the order of the alphabet has it third, and though 5 is missing."""
    root = tmp_path / "imagenetv2-matched-frequency-format-val"
    folders = [n for n in range(HUES) if n != 5]
    for n in folders:
        for i in range(2):
            put(root / str(n) / f"{i}.jpeg", photo(n))
    found = ask(root, format="imagenet_v2")
    number = found["variants"]["teacher"]["top1"]
    assert (number["value"], number["n_classes"], number["label_space"]) == (1.0, 11, 12)
    by_alphabet = [sorted(map(str, folders)).index(str(n)) for n in folders]
    assert sum(n == place for n, place in zip(folders, by_alphabet, strict=True)) == 2  # the mistake would show
    put(root / "12" / "a.jpeg", photo(0))
    with pytest.raises(UserError, match="subfolder 12 is neither a WordNet id of ImageNet's 12 classes nor the number"):
        ask(root, format="imagenet_v2")


def test_a_subset_of_imagenet_chooses_among_its_own_classes(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None
) -> None:
    """As in -A and -R: what looks most like a class that is not there still counts."""
    root = tmp_path / "imagenet-r"
    for n in (9, 0, 4):
        put(root / WNIDS[n] / "cartoon_0.jpg", photo(n + 0.7))
    put(root / "README.txt", "not a class")
    found = ask(root, format="imagenet")
    number = found["variants"]["teacher"]["top1"]
    assert (number["value"], number["label_space"]) == (1.0, 3) and number["chance"] == pytest.approx(1 / 3, abs=1e-6)
    for n in range(HUES):
        (root / WNIDS[n]).mkdir(exist_ok=True)
        if n not in (9, 0, 4):
            put(root / WNIDS[n] / "a.jpg", photo(n))
    assert values(ask(root, format="imagenet"))["top1"] == pytest.approx(9 / 12)  # among all classes they are wrong
    (root / "n99999999").mkdir()
    with pytest.raises(UserError, match=r"subfolder n99999999 is neither .* \(1 of 13 are not\)"):
        ask(root, format="imagenet")


def test_better_names_for_imagenet(tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None) -> None:
    root = tmp_path / "imagenet-a"
    put(root / WNIDS[1] / "a.jpg", photo(1))
    put(root / "classnames.txt", "\n".join(f"the {name}" for name in NAMES))
    assert ask(root, format="imagenet")["example"] == "a photo of the goldfish."
    put(root / "classnames.txt", "tench")
    with pytest.raises(UserError, match=r"classnames.txt has 1 lines; it must name all 12 classes"):
        ask(root, format="imagenet")


@pytest.mark.parametrize("form", ["imagenet", "imagenet_v2"])
def test_folders_are_numbers_or_wordnet_ids_in_every_form(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None, form: str
) -> None:
    root = tmp_path / "set"
    for n in (11, 2, 10):
        put(root / (str(n) if n % 2 else WNIDS[n]) / "a.jpg", photo(n))
    found = ask(root, format=form)
    assert values(found)["top1"] == 1
    assert found["variants"]["teacher"]["top1"]["label_space"] == (3 if form == "imagenet" else HUES)
    put(root / "2" / "b.jpg", photo(2))
    with pytest.raises(UserError, match="two subfolders for one class of ImageNet"):
        ask(root, format=form)


def test_wordnet_names_imagenet_only_where_it_is_asked(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None
) -> None:
    root = tmp_path / "set"
    put(root / WNIDS[1] / "a.jpg", photo(1))
    assert ask(root, format="imagenet")["example"] == "a photo of goldfish."
    assert ask(root, format="imagenet", prompt="lemmas")["example"] == "a photo of goldfish, 1 ."
    with pytest.raises(UserError, match="prompt lemmas is for the classes of ImageNet only"):
        ask(root, prompt="lemmas")


def test_the_classes_of_imagenet_are_called_as_published_figures_have_it(tmp_path: Path) -> None:
    """By OpenAI's names, in the order of the WordNet ids: the crane is a bird (134) and a machine (517)."""
    for name in ("0", "134", "517", "999"):
        put(tmp_path / name / "a.jpg", photo(0))
    suite = find_format("imagenet_v2")(tmp_path)
    assert [one.name for one in suite.classes] == list(IMAGENET_CLASSNAMES)
    assert [(one.right, one.group) for one in suite.photographs] == [
        *(((0,), "0"), ((134,), "134"), ((517,), "517"), ((999,), "999"))
    ]
    wnids = list(imagenet.known())
    for number, wnid, name, lemmas in (
        (0, "n01440764", "tench", "tench, Tinca tinca"),
        (134, "n02012849", "crane bird", "crane"),
        (517, "n03126707", "construction crane", "crane"),
        (999, "n15075141", "toilet paper", "toilet tissue, toilet paper, bathroom tissue"),
    ):
        assert (wnids[number], suite.classes[number].name, suite.classes[number].lemmas) == (wnid, name, lemmas)


def imagenet_o(root: Path, out: int, known: int) -> Path:
    """Classes 0, 4, 8; photographs between two of them are none of them."""
    for n in (0, 4, 8):
        for i in range(out):
            put(root / "imagenet-o" / WNIDS[n] / f"{i}.JPEG", photo(n + 2 + 0.01 * i))
        for i in range(known):
            put(root / "val" / WNIDS[n] / f"{i}.JPEG", photo(n + 0.01 * i))
    put(root / "val" / WNIDS[1] / "a.JPEG", photo(2))  # a class that ImageNet-O does not have: not measured against
    return root


def test_what_is_none_of_the_classes_is_found_by_low_probabilities(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None
) -> None:
    """AUPR with ImageNet-O as positive: 1 if its photographs have the smallest probabilities."""
    found = ask(imagenet_o(tmp_path / "set", 2, 5), format="imagenet_o")
    number = found["variants"]["teacher"]["aupr"]
    assert found["headline"] == "aupr" and number["value"] == 1
    assert number["chance"] == pytest.approx(6 / 21, abs=1e-6)
    assert (number["n_images"], number["n_classes"], number["label_space"]) == (21, 3, 3)
    assert values(found, "int8")["aupr"] < 0.5 and values(found, "int8")["difference_to_teacher"] < -0.5


def test_the_wrong_sign_or_the_wrong_positive_would_show() -> None:
    """Two sure answers to known things, one unsure answer to something else."""
    logits = np.array([[9.0, 0.0], [0.0, 9.0], [1.0, 1.0]])
    score, once = detection.anomaly(logits), [np.ones(3, dtype=np.int64)]
    assert score.argmax() == 2
    out = np.array([False, False, True])
    area = {sign: detection.average_precision(sign * score, out, np.arange(3), once)[0] for sign in (1, -1)}
    assert area[1] == 1 and area[-1] == pytest.approx(1 / 3)
    assert detection.average_precision(score, ~out, np.arange(3), once)[0] < 0.7


def test_without_anything_to_find_there_is_no_figure(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None
) -> None:
    root = imagenet_o(tmp_path / "set", 1, 20)
    for n in (0, 4, 8):
        put(root / "imagenet-o" / WNIDS[n] / "0.JPEG", "no photograph")
    found = ask(root, format="imagenet_o")
    assert found["rejected"]["count"] == 3 and values(found)["aupr"] is None
    table = report_suites.section({"suites": {"it": found}})
    assert table is not None and "\N{EN DASH}" in table.body


def test_imagenet_o_without_what_it_is_measured_against(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None
) -> None:
    root = imagenet_o(tmp_path / "set", 1, 1)
    (root / "val" / WNIDS[4] / "0.JPEG").unlink()
    (root / "val" / WNIDS[4]).rmdir()
    with pytest.raises(UserError, match=f"lacks 1 of the 3 classes of imagenet-o, e.g. {WNIDS[4]}"):
        ask(root, format="imagenet_o")
    (root / "val").rename(root / "validation")
    with pytest.raises(UserError, match="val is missing"):
        ask(root, format="imagenet_o")


# ---- ObjectNet


def objectnet(root: Path, frame: int = 2, side: int = 8) -> Path:
    """A chair is any of two kinds of ImageNet, a lamp one, a drill none."""
    hue_of = {"chair": 7, "lamp": 2, "drill": 5}
    for name, hue in hue_of.items():
        for i in range(2):
            put(root / "images" / name / f"{i}.png", photo(hue, "PNG", side, frame))
    order = list(range(HUES))
    random.Random(1).shuffle(order)  # the line of each number
    lines = {line: f"{NAMES[number]}, also {number}" for number, line in enumerate(order)}
    put(root / "mappings" / "imagenet_to_label_2012_v2", "".join(f"{lines[n]}\n" for n in range(HUES)))
    put(root / "mappings" / "pytorch_to_imagenet_2012_id.json", json.dumps(dict(enumerate(order))))
    labels = {"chair": "Chair", "lamp": "Desk lamp", "drill": "Drill"}
    put(root / "mappings" / "folder_to_objectnet_label.json", json.dumps(labels))
    chairs = "; ".join(f"{NAMES[n]}, also {n}" for n in (3, 7))
    mapped = {"Chair": chairs, "Desk lamp": f"{NAMES[2]}, also 2"}
    put(root / "mappings" / "objectnet_to_imagenet_1k.json", json.dumps(mapped))
    return root


def test_several_classes_of_imagenet_are_right_for_one_of_objectnet(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None
) -> None:
    """Chairs look like the second of their kinds; drills have no counterpart and are left out."""
    found = ask(objectnet(tmp_path / "objectnet-1.0"), format="objectnet")
    number = found["variants"]["teacher"]["top1"]
    assert (number["value"], number["n_images"], number["n_classes"], number["label_space"]) == (1.0, 4, 2, 12)
    assert number["chance"] == pytest.approx((2 + 1) / 2 / 12) and found["left_out"] == 2
    assert values(found)["macro"] == 1 and values(found, "tfjs")["top1"] == 1
    # the numbers are those of models, not the lines of imagenet_to_label_2012_v2
    put(tmp_path / "objectnet-1.0" / "classnames.txt", "\n".join(f"the {name}" for name in NAMES))
    better = ask(tmp_path / "objectnet-1.0", format="objectnet")
    assert better["example"] == "a photo of the tench." and values(better)["top1"] == 1


def test_the_frame_of_objectnet_is_cut_away(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bioclip_lite.suites.imagenet._BORDER", 0)
    found = ask(objectnet(tmp_path / "objectnet-1.0"), format="objectnet")
    assert values(found)["top1"] < 1 and values(found, "tfjs")["top1"] < 1  # red is the colour of class 0


def test_mappings_of_objectnet_that_do_not_fit(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], twelve: None
) -> None:
    root = objectnet(tmp_path / "set")
    mappings = root / "mappings"
    put(mappings / "objectnet_to_imagenet_1k.json", json.dumps({"Chair": "throne"}))
    with pytest.raises(UserError, match="maps 'Chair' to 'throne', which imagenet_to_label_2012_v2 does not list"):
        ask(root, format="objectnet")
    put(mappings / "pytorch_to_imagenet_2012_id.json", json.dumps({"0": 0}))
    with pytest.raises(UserError, match="does not give each of the 12 lines"):
        ask(root, format="objectnet")
    (mappings / "folder_to_objectnet_label.json").unlink()
    with pytest.raises(UserError, match=r"folder_to_objectnet_label.json is missing"):
        ask(root, format="objectnet")


# ---- what all have in common


def test_a_few_damaged_photographs_are_counted_and_many_are_too_many(
    tmp_path: Path, ask: Callable[..., dict[str, Any]]
) -> None:
    root = tmp_path / "set"
    for i in range(39):
        put(root / NAMES[i % 3] / f"{i}.jpg", photo(i % 3))
    put(root / NAMES[0] / "damaged.jpg", photo(0)[:200])
    found = ask(root)
    assert found["n_images"] == 39 and found["rejected"]["count"] == 1 and values(found)["top1"] == 1
    assert found["rejected"]["examples"][0].startswith(f"{NAMES[0]}/damaged.jpg: ")
    for i in range(3):
        put(root / NAMES[0] / f"text{i}.jpg", "no photograph")
    with pytest.raises(UserError, match=r"4 of 43 photographs are of no use, and at most 5 % may be(.|\n)*damaged.jpg"):
        ask(root)


def test_photographs_go_by_some_at_a_time_to_the_same_bytes(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "set"
    for i in range(11):
        put(root / NAMES[i % 4] / f"{i}.jpg", photo(i % 5))
    out = tmp_path / "data" / "evaluate" / "predictions" / "suites" / "it.json"
    written = []
    for at_once, batch in ((2048, 64), (2048, 64), (3, 2)):
        monkeypatch.setattr(answering, "_AT_ONCE", at_once)
        monkeypatch.setattr(answering, "_BATCH", batch)
        ask(root)
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]


def test_an_answer_that_is_no_number_is_refused(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is greater than NaN, so that every answer would be right."""
    put(tmp_path / "set" / "hen" / "a.jpg", photo(2))
    monkeypatch.setattr(Colours, "encode_image", lambda self, pixels: torch.full((len(pixels), 2), torch.nan))
    with pytest.raises(UserError, match=r"the answer of teacher to hen/a.jpg is no finite number"):
        ask(tmp_path / "set")


def test_figures_of_other_photographs_or_words_have_another_protocol(
    tmp_path: Path, ask: Callable[..., dict[str, Any]]
) -> None:
    root = benchmark(tmp_path / "set", [0, 1], [0, 1])
    ids = {ask(root, format="webdataset", templates=templates)["protocol"] for templates in ("plain", "own", "openai")}
    ids.add(ask(benchmark(tmp_path / "other", [0, 1, 2], [0, 1, 2]), format="webdataset")["protocol"])
    assert len(ids) == 4
    assert ask(root, format="webdataset")["protocol"] in ids


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"templates": "own"}, "asks for templates of its own, but .* has no zeroshot_classification_templates.txt"),
        ({"format": "metadata"}, "metadata.csv is missing"),
        ({"format": "webdataset"}, "classnames.txt is missing"),
        ({"format": "objectnet"}, "images is missing; unpack ObjectNet"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], more: dict[str, Any], words: str
) -> None:
    put(tmp_path / "set" / "hen" / "a.jpg", photo(2))
    with pytest.raises(UserError, match=words):
        ask(tmp_path / "set", **more)


def test_names_that_stand_for_several_classes(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    for name in ("a", "b"):
        put(tmp_path / "set" / name / "a.jpg", photo(0))
    put(tmp_path / "set" / "classnames.txt", "crab\ncrab\n")
    with pytest.raises(UserError, match=r"1 names stand for several classes, e.g. 'crab'"):
        ask(tmp_path / "set")
    put(tmp_path / "set" / "zeroshot_classification_templates.txt", "a photo\n")
    put(tmp_path / "set" / "classnames.txt", "crab\nlynx\n")
    with pytest.raises(UserError, match=r"'a photo' has no \{c\}"):
        ask(tmp_path / "set")


def test_a_suite_that_nobody_listed(tmp_path: Path) -> None:
    section: Any = {**PARAMS, "suites": [{**ENTRY, "path": "data/suites/it"}]}
    with pytest.raises(UserError, match=r"no job 'suites/that'; its jobs are report, speed, suites/it, teacher, "):
        of_job(
            {"evaluate": section, "distill": {"control": True}, "convert": {"tflite": False}}, "evaluate", "suites/that"
        )
    with pytest.raises(UserError, match=r"evaluate\.suites in params\.yaml has no 'that'; it lists it"):
        evaluate.run(section, tmp_path, "suites/that")


def test_node_decodes_what_pytorch_sees(tmp_path: Path) -> None:
    """A tar as the job writes it: a JPEG file as it is, and pixels of a PNG, of 16 bits, and of one with a frame."""
    assert (PACKAGE / "node_modules").exists(), f"{PACKAGE / 'node_modules'} is missing; run: make setup"
    deep = io.BytesIO()
    Image.fromarray((np.arange(16 * 16, dtype=np.uint16) * 256).reshape(16, 16)).save(deep, "PNG")
    files = {"a.jpg": photo(1), "b.png": encoded(picture("b"), "PNG"), "c.png": deep.getvalue(), "d/a.jpg": photo(4)}
    photographs = [Photograph(name, (0,), 0, name) for name in files]
    for border, sizes in ((0, [(16, 16), (40, 32), (16, 16), (16, 16)]), (3, [(10, 10), (34, 26), (10, 10), (10, 10)])):
        suite = Suite([Class("hen")], photographs, [], files.__getitem__, "", border=border)
        readable: list[Photograph] = []
        tar = tmp_path / f"{border}.tar"
        write_shard(tar, answering._files(suite, photographs, readable, []))
        assert readable == photographs
        script = (
            f"import {{imageFiles, decode}} from {json.dumps(str(PACKAGE / 'dist' / 'core' / 'node.js'))};"
            f"for await (const {{key, bytes}} of imageFiles([{json.dumps(str(tar))}])) {{"
            "const {data, width, height} = await decode(bytes);"
            "console.log(JSON.stringify({key, width, height, data: Buffer.from(data).toString('base64')}));}"
        )
        said = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
        images = ShardSet.of(tar)
        for row, (line, size) in enumerate(zip(said.stdout.splitlines(), sizes, strict=True)):
            found, seen = json.loads(line), np.asarray(images.image(row))
            assert (found["key"], found["width"], found["height"]) == (images.keys[row], *size)
            pixels = np.frombuffer(base64.b64decode(found["data"]), np.uint8).reshape(seen.shape).astype(int)
            # two decoders of JPEG may differ by a little
            assert np.abs(pixels - seen).max() <= (3 if row in (0, 3) and not border else 0)


# ---- parameters and report


def complete(**entry: Any) -> Any:
    found: dict[str, Any] = params.load(ROOT / "tests/tiny.yaml")
    found["evaluate"]["suites"] = [{**ENTRY, **entry}]
    return found


def test_parameters_of_suites() -> None:
    good = complete()
    params.check(good)
    good["evaluate"]["suites"] *= 2
    with pytest.raises(UserError, match=r"evaluate.suites has it twice"):
        params.check(good)
    for entry, words in (
        ({"format": 1}, "suites.0.format is 1; it must be of type string"),
        ({"path": "/elsewhere"}, r"suites.0.path is '/elsewhere'; it must be of the form \^data/suites/"),
        ({"name": "a/b"}, "suites.0.name is 'a/b'"),
        ({"colour": 1}, "suites.0 has unknown colour"),
    ):
        with pytest.raises(UserError, match=words):
            params.check(complete(**entry))


def test_an_unknown_format_is_refused_before_any_work(tmp_path: Path) -> None:
    repository = checkout.new(tmp_path / "repository")
    suite: dict[str, Any] = {**ENTRY, "format": "imagenet_a"}
    (repository / suite["path"]).mkdir(parents=True)
    checkout.set_parameter(repository, "evaluate.suites", [suite])
    said = checkout.sh("snakemake --dry-run evaluate", repository, check=False)
    assert "evaluate.suites: there is no format 'imagenet_a'; choose one of folder, webdataset, metadata" in said


def test_a_suite_whose_folder_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"evaluate.suites: it is in data/suites/it, but there is no such folder"):
        params.check_sources(complete())
    (tmp_path / "data" / "suites" / "it").mkdir(parents=True)
    params.check_sources(complete())


def test_the_report_has_a_table_for_each_suite(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    put(tmp_path / "set" / NAMES[0] / "a.jpg", photo(0))
    put(tmp_path / "set" / NAMES[1] / "a.jpg", photo(3))
    found = ask(tmp_path / "set")
    write_data(tmp_path / "data")
    section: Any = {**PARAMS, "suites": [{**ENTRY}]}
    evaluate.run(section, tmp_path / "data", "report")
    metrics = read_json(tmp_path / "data" / "evaluate" / "metrics.json")
    assert metrics["suites"] == {"it": found}
    card = (tmp_path / "data" / "evaluate" / "MODEL_CARD.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith(f"| it (`{found['protocol']}`) |"))
    top1 = found["variants"]["tfjs"]["top1"]
    assert f"| {100 * top1['value']:.1f} (" in row and row.endswith(f"| {100 * top1['chance']:.1f} |")
    page = (tmp_path / "data" / "evaluate" / "report.html").read_text()
    tables = report_suites.section(metrics)
    assert tables is not None
    text = " ".join(tables.body.split())
    assert "Other test sets" in page and found["protocol"] in page and "<h3>it</h3>" in text
    order = [text.index(f">{name}<") for name in ("Teacher", "Student", "Pruned", "INT8", "Web model", "Chance")]
    assert order == sorted(order)
    assert "50.0" in text and "2 photographs of 2 classes. Task: one of the names of all subfolders" in text
    evaluate.run(PARAMS, tmp_path / "data", "report")
    metrics = read_json(tmp_path / "data" / "evaluate" / "metrics.json")
    assert "suites" not in metrics and report_suites.section(metrics) is None
    section["suites"][0]["name"] = "other"
    with pytest.raises(UserError, match=r"suites lacks other.*run evaluate suites/other"):
        evaluate.run(section, tmp_path / "data", "report")
