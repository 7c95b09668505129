"""The command that names photographs: pybioclip's columns, any rank, back-off, and files however they are given."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from bioclip_lite import predict, predictions
from bioclip_lite.errors import UserError
from bioclip_lite.files import write_json
from bioclip_lite.labels import Labels, read_labels
from bioclip_lite.shards import ShardSet
from bioclip_lite.stages import evaluate
from bioclip_lite.taxonomy import RANKS
from fake_evaluation import PARAMS, write_data
from test_variants import save_student

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
    assert text.splitlines()[0] == PYBIOCLIP
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
    output = tmp_path / "names.csv"
    options = ["--variant", "control", "--back-off", "--output", str(output), "--data", str(data)]
    assert predict.main([str(tmp_path / "photos"), *options]) == 1
    rows = table(output.read_text())
    assert [row["file_name"] for row in rows] == sorted(map(str, photographs.values()))
    assert all(row["kingdom"] and not row["phylum"] and not row["species"] for row in rows)
    said = capsys.readouterr().err
    assert f"{bad} is left out: not an image" in said and "1 of 13 files left out" in said


def test_back_off_without_thresholds_is_refused(
    data: Path, photographs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(next(iter(photographs.values())))
    assert predict.main([file, "--variant", "student", "--back-off", "--data", str(data)]) == 1
    assert "student has no thresholds to back off with" in capsys.readouterr().err


# ---- answers


def test_answers_by_hand(data: Path) -> None:
    labels: Labels = read_labels(data)
    assert labels.node_of_leaf[5].tolist() == [0, 0, 1, 2]  # a genus of two species and two of one
    probabilities = np.array([[0.3, 0.25, 0.4, 0.05]])
    best, second = predict.answers(["a"], probabilities, labels, "genus", 2, None)
    assert (best["genus"], best["score"], second["score"]) == (labels.leaves[0][5], "0.55", "0.4")
    assert "species" not in best and "common_name" not in best
    limits = dict.fromkeys(RANKS) | {"species": 0.5, "genus": 0.5}
    (row,) = predict.answers(["a"], probabilities, labels, "species", 5, limits)
    assert row == best
    assert list(predict.answers(["a"], probabilities, labels, "species", 5, limits | {"genus": 0.6})) == [
        {"file_name": "a"}
    ]


# ---- files


def test_files_folders_patterns_and_lists(tmp_path: Path) -> None:
    (tmp_path / "trip" / "day").mkdir(parents=True)
    names = ["trip/b.JPG", "trip/a.png", "trip/day/c.jpeg", "trip/notes.txt"]
    for name in names:
        (tmp_path / name).touch()
    b, a, c, notes = (tmp_path / name for name in names)
    none = io.StringIO()
    assert predict.found([str(tmp_path / "trip")], none) == [a, b, c]
    assert predict.found([str(tmp_path / "trip/*.png"), str(tmp_path / "trip")], none) == [a, b, c]
    assert predict.found([str(tmp_path / "**" / "*.jpeg")], none) == [c]
    assert predict.found([str(notes)], none) == [notes]  # named by the user: let the decoder judge
    assert predict.found(["-"], io.StringIO(f"{c}\n\n{a}\n{c}\n")) == [c, a]


def test_what_stands_for_nothing_is_named(tmp_path: Path) -> None:
    for name, why in ((str(tmp_path), "holds no image"), ("nowhere/*.jpg", "no such file, folder or match")):
        with pytest.raises(UserError, match=why):
            predict.found([name], io.StringIO())
