"""The command that names photographs: pybioclip's columns, any rank, back-off, and files however they are given."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest

from bioclip_lite.commands import predict
from bioclip_lite.evaluation import predictions
from bioclip_lite.photographs.images import decode
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.predicting import models
from bioclip_lite.predicting.files import image_files
from bioclip_lite.stages import evaluate
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_json
from bioclip_lite.web import javascript
from evaluation.test_variants import save_student
from support.fake_evaluation import PARAMS, write_data
from support.photographs import encoded

PYBIOCLIP = "file_name,kingdom,phylum,class,order,family,genus,species_epithet,species,common_name,score"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A control network, and what evaluate found out about it."""
    folder = tmp_path / "data"
    write_data(folder, species=4, images=3, known_to_genus=0, variants=())
    save_student(folder / "distill" / "control", 4, None)
    limits = dict.fromkeys(RANKS) | {"kingdom": 0.5}
    about = {"calibration": {"temperature": 2.0}, "back_off": {"thresholds": limits}}
    silent = {"calibration": {"temperature": 2.0}, "back_off": {"thresholds": dict.fromkeys(RANKS)}}
    write_json(folder / "evaluate" / "metrics.json", {"variants": {"control": about, "student": silent}})
    return folder


@pytest.fixture
def photographs(tmp_path: Path, data: Path) -> dict[str, Path]:
    """Files by key."""
    shards = ShardSet(data, "test")
    (tmp_path / "photos").mkdir()
    files = {key: tmp_path / "photos" / f"{key}.jpg" for key in shards.keys}
    for number, file in enumerate(files.values()):
        file.write_bytes(shards.jpeg(number))
    return files


def table(text: str) -> list[dict[str, str]]:
    assert text.splitlines()[0] == f"{PYBIOCLIP},zero_shot,note,rank,threshold,model,model_sha256,error"
    return list(csv.DictReader(io.StringIO(text)))


def test_the_best_answer_is_that_of_evaluate(
    data: Path, photographs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.run(PARAMS, data, "control")
    found = predictions.read(data / "evaluate" / "predictions", ["control"])["control"]
    logits = dict(zip(found.keys, np.concatenate([block for _, block in found.blocks()]), strict=True))
    capsys.readouterr()
    folder = str(next(iter(photographs.values())).parent)
    assert predict.main([folder, "--variant", "control", "--k", "2", "--data", str(data)]) == 0
    rows = table(capsys.readouterr().out)
    assert len(rows) == 2 * len(photographs)
    leaves = read_labels(data).leaves
    for key, file in photographs.items():
        best, second = (row for row in rows if row["file_name"] == str(file))
        assert tuple(best[rank] for rank in RANKS[:6]) == leaves[int(logits[key].argmax())][:6]
        expected = np.sort(np.exp(logits[key] / 2) / np.exp(logits[key] / 2).sum())[::-1]
        assert float(best["score"]) == pytest.approx(expected[0], abs=1e-4)
        assert float(second["score"]) == pytest.approx(expected[1], abs=1e-4)
        assert best["species"] == f"{best['genus']} {best['species_epithet']}" and best["common_name"]


def test_an_output_file_and_an_unreadable_photograph(
    data: Path, photographs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "photos" / "bad.jpg"
    bad.write_bytes(b"no image")
    output = tmp_path / "new" / "names.csv"
    options = ["--variant", "control", "--back-off", "--output", str(output), "--data", str(data)]
    for _ in range(2):  # the second replaces the table of the first
        assert predict.main([str(tmp_path / "photos"), *options]) == 1
    rows = table(output.read_text())
    assert [row["file_name"] for row in rows] == sorted(map(str, photographs.values()))
    assert all(row["kingdom"] and not row["phylum"] and not row["species"] for row in rows)
    said = capsys.readouterr().err
    assert f"{bad} is left out: not an image" in said and "1 of 13 files left out" in said


def test_a_variant_that_was_not_evaluated_is_refused(
    data: Path, photographs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(next(iter(photographs.values())).parent)
    assert predict.main([folder, "--data", str(data), "--variant", "first"]) == 1
    assert "first was not evaluated, so it has no fitted temperature" in capsys.readouterr().err


def test_back_off_without_thresholds_is_refused(
    data: Path, photographs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(next(iter(photographs.values())))
    assert predict.main([file, "--variant", "student", "--back-off", "--data", str(data)]) == 1
    assert "student has no thresholds to back off with" in capsys.readouterr().err


# ---- the web model


@pytest.fixture
def node(data: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[Path]]:
    """The batches that Node is asked, whose bundle gives each photograph a logit by the bytes of its pixels.

    It stops at a photograph that is called broken.
    """
    labels = read_labels(data)
    taxa = [
        {"id": taxon, "ranks": list(path), "rank": "species"}
        for taxon, path in zip(labels.ids, labels.leaves, strict=True)
    ]
    write_json(data / "convert" / "tfjs" / "bundle.json", {"taxa": taxa[::-1]})
    limits = dict.fromkeys(RANKS) | {"kingdom": 0.5}
    about = {"calibration": {"temperature": 2.0}, "back_off": {"thresholds": limits}}
    write_json(data / "evaluate" / "metrics.json", {"variants": {"tfjs": about}})
    asked = []

    def answer(where: str, bundle: Path, images: list[Path], prefix: Path) -> dict[str, int]:
        asked.append(images)
        assert where == "node" and all(image.is_absolute() and image.is_file() for image in images)
        if any(image.stem == "broken" for image in images):
            raise UserError("broken.jpg: cannot be decoded as an image")
        logits = [[0, 1, 2, np.asarray(decode(image.read_bytes())).mean() % 3] for image in images]
        np.array(logits, "<f4").tofile(f"{prefix}.logits.f32")
        return {"rows": len(images), "taxa": 4}

    monkeypatch.setattr(javascript, "answer", answer)
    return asked


def test_the_web_model_answers_in_batches_and_in_order(
    data: Path, photographs: dict[str, Path], node: list[list[Path]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(models, "_BATCH_IN_NODE", 5)
    folder = str(next(iter(photographs.values())).parent)
    assert predict.main([folder, "--variant", "tfjs", "--k", "4", "--data", str(data)]) == 0
    rows = table(capsys.readouterr().out)
    assert [len(batch) for batch in node] == [1, 5, 5, 2]  # a blank one first: is Node there?
    leaves = read_labels(data).leaves
    for number, file in enumerate(sorted(photographs.values())):
        four = rows[4 * number : 4 * number + 4]
        assert {row["file_name"] for row in four} == {str(file)}
        last = np.asarray(decode(file.read_bytes())).mean() % 3
        logits = np.array([last, 2, 1, 0])  # the bundle lists the leaves in another order
        expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
        scores = {row["species_epithet"]: float(row["score"]) for row in four}
        assert [scores[leaf[6] or ""] for leaf in leaves] == pytest.approx(expected, abs=1e-4)


def test_a_photograph_that_stops_node_is_left_out_alone(
    data: Path, photographs: dict[str, Path], node: list[list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = next(iter(photographs.values())).parent
    (folder / "broken.jpg").write_bytes(next(iter(photographs.values())).read_bytes())
    assert predict.main([str(folder), "--variant", "tfjs", "--k", "1", "--data", str(data)]) == 1
    found = capsys.readouterr()
    assert [row["file_name"] for row in table(found.out)] == sorted(map(str, photographs.values()))
    assert f"{folder / 'broken.jpg'} is left out: broken.jpg: cannot be decoded" in found.err
    assert "1 of 13 files left out" in found.err


def test_formats_that_node_does_not_read_are_handed_over_as_png(
    data: Path, photographs: dict[str, Path], node: list[list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(iter(photographs.values()))
    image = decode(first.read_bytes())
    names = ["a.bmp", "b.tif", "c.png", "d.webp", "e.jpeg"]
    for name in names:
        (tmp_path / "photos" / "other").mkdir(exist_ok=True)
        image.save(tmp_path / "photos" / "other" / name)
    assert predict.main([str(tmp_path / "photos" / "other"), "--variant", "tfjs", "--data", str(data)]) == 0
    assert [file.suffix for file in node[1]] == [".png", ".png", ".png", ".webp", ".jpeg"]
    assert [file.name for file in node[1][2:]] == names[2:]
    rows = table(capsys.readouterr().out)
    assert rows[0]["score"] == rows[4]["score"] == rows[8]["score"]  # bmp, tif and png hold the same pixels


def test_without_node_nothing_is_begun(
    data: Path, photographs: dict[str, Path], node: list[list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def missing(*_: object) -> dict[str, int]:
        raise UserError("node is not installed")

    monkeypatch.setattr(javascript, "answer", missing)
    output = tmp_path / "names.csv"
    folder = str(next(iter(photographs.values())).parent)
    assert predict.main([folder, "--variant", "tfjs", "--output", str(output), "--data", str(data)]) == 1
    assert capsys.readouterr().err == "predict: node is not installed\n" and not output.exists()


# ---- files


def test_files_folders_patterns_and_lists(tmp_path: Path) -> None:
    (tmp_path / "trip" / "day").mkdir(parents=True)
    names = ["trip/b.JPG", "trip/a.png", "trip/day/c.jpeg", "trip/notes.txt"]
    for name in names:
        (tmp_path / name).touch()
    b, a, c, notes = (tmp_path / name for name in names)
    none = io.StringIO()
    assert image_files([str(tmp_path / "trip")], none) == ([a, b, c], {".txt": 1})
    assert image_files([str(tmp_path / "trip/*.png"), str(tmp_path / "trip")], none).images == [a, b, c]
    assert image_files([str(tmp_path / "**" / "*.jpeg")], none).images == [c]
    assert image_files([str(notes)], none).images == [notes]  # named by the user: let the decoder judge
    assert image_files(["-"], io.StringIO(f"{c}\n\n{a}\n{c}\n")).images == [c, a]


def test_a_folder_with_the_signs_of_patterns_is_meant_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trip[2023]/a.png", "trip[2023]/why?/b.png", "trip2/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for pattern in ("trip[2023]/*.png", str(tmp_path / "trip[2023]" / "*.png")):
        assert [file.name for file in image_files([pattern], io.StringIO()).images] == ["a.png"]
    assert image_files(["trip[2023]/why?/*"], io.StringIO()).images == [Path("trip[2023]/why?/b.png")]
    assert image_files(["trip[0-9]/*"], io.StringIO()).images == [Path("trip2/c.png")]


def test_hidden_and_system_files_are_left_out(tmp_path: Path) -> None:
    for name in (
        "a.png",
        "._a.png",
        "@eaDir/a.png",
        ".thumbnails/b.png",
        "day/__MACOSX/c.png",
        "IMG_1.CR2",
        "IMG_1.MOV",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    a = tmp_path / "a.png"
    assert image_files([str(tmp_path)], io.StringIO()) == ([a], {".cr2": 1, ".mov": 1})
    assert image_files([str(tmp_path / "**" / "*.png")], io.StringIO()).images == [a]
    assert image_files([str(tmp_path / ".thumbnails" / "*.png")], io.StringIO()).images  # named by the user


def test_camera_files_and_a_name_that_is_not_utf8(
    data: Path, photographs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "phone"
    folder.mkdir()
    content = next(iter(photographs.values())).read_bytes()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).write_bytes(content)
    (folder / "short.jpg").write_bytes(content[:-2])
    (folder / "IMG_1.HEIC").write_bytes(encoded(decode(content), "HEIF"))
    (folder / "IMG_1.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")
    output = tmp_path / "names.csv"
    options = ["--variant", "control", "--k", "1", "--data", str(data)]
    assert predict.main([str(folder), *options, "--output", str(output)]) == 0
    assert predict.main([str(folder), *options]) == 0
    shown = capfd.readouterr()
    for text in (output.read_text("utf-8"), shown.out):
        named = [Path(row["file_name"]).name for row in table(text)]
        assert sorted(named) == ["IMG_1.HEIC", "caf\\udce9.jpg", "short.jpg"]
    assert "not read: 1 .mov" in shown.err


def test_node_gets_what_it_can_find_and_read(data: Path, photographs: dict[str, Path], node: list[list[Path]]) -> None:
    folder = next(iter(photographs.values())).parent
    content = next(iter(photographs.values())).read_bytes()
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))
    odd.write_bytes(content)
    (folder / "short.jpg").write_bytes(content[:-2])
    (folder / "cmyk.jpg").write_bytes(encoded(decode(content).convert("CMYK")))
    assert predict.main([str(folder), "--variant", "tfjs", "--k", "1", "--data", str(data)]) == 0
    asked = {image.name for batch in node[1:] for image in batch}
    assert len(asked) == len(photographs) + 3
    assert not asked & {odd.name, "short.jpg", "cmyk.jpg"}
    assert {file.name for file in photographs.values()} <= asked


def test_what_stands_for_nothing_is_named(tmp_path: Path) -> None:
    for name, why in ((str(tmp_path), "holds no image"), ("nowhere/*.jpg", "no such file, folder or match")):
        with pytest.raises(UserError, match=why):
            image_files([name], io.StringIO())
