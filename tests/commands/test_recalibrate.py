"""From predict with --confirm to thresholds of a site, and back to predict."""

import csv
from pathlib import Path

import pytest

from bioclip_lite.commands import predict, recalibrate
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.taxa.taxonomy import RANKS, scientific_name
from bioclip_lite.utils.files import read_json, write_json
from commands.test_predict import data, photographs

__all__ = ["data", "photographs"]


def confirmed(data: Path, folder: Path, names: str, times: int) -> Path:
    """A table of predict with ``names`` confirmed ("right": what was answered), each row ``times`` times."""
    table = folder / "confirm.csv"
    photos = str(folder / "photos")
    assert predict.main([photos, "--variant", "control", "--confirm", "--output", str(table), "--data", str(data)]) == 0
    with table.open(newline="") as file:
        rows = csv.DictReader(file)
        header, found = list(rows.fieldnames or ()), list(rows)
    assert header[-3:] == ["best", "best_scores", "confirmed"] and {row["confirmed"] for row in found} == {""}
    for row in found:
        answer = row["best"].split(" > ")
        assert len(answer) == len(row["best_scores"].split()) and row["kingdom"] == answer[0]
        lowest = " ".join(answer[5:]) if len(answer) > 6 else answer[-1]
        row["confirmed"] = " > ".join([*answer[:-1], lowest]) if names == "right" else names
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(found * times)
    return table


def test_a_site_gets_thresholds_of_its_own(
    data: Path, photographs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, site = confirmed(data, tmp_path, "right", 6), tmp_path / "site.json"
    arguments = [str(table), "--output", str(site), "--data", str(data)]
    assert recalibrate.main(arguments) == 0
    said = capsys.readouterr().out
    assert (
        "recalibrate: 95% held before: 72 of 72 answers are right (100.0%; 95 % interval 95.0% to 100.0%); with" in said
    )
    assert recalibrate.main(arguments) == 0  # replaces its own file
    about = read_json(site)
    assert set(about["ranks"].values()) == {about["threshold"]} and set(about["ranks"]) == set(RANKS)
    photos, own = str(tmp_path / "photos"), ["--variant", "control", "--data", str(data)]
    capsys.readouterr()
    assert predict.main([photos, *own, "--calibration", str(site)]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["threshold"] for row in rows} == {str(about["threshold"])}
    labels = read_labels(data)
    assert {row["species"] for row in rows} <= {scientific_name(leaf) for leaf in labels.leaves} | {""}

    write_json(site, about | {"model_sha256": "0" * 64})
    assert predict.main([photos, *own, "--calibration", str(site)]) == 1
    assert "site.json is of another model" in capsys.readouterr().err
    assert predict.main([photos, *own, "--calibration", str(data / "evaluate/metrics.json")]) == 1
    assert "is no file of recalibrate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "times", "message"),
    [
        ("right", 1, "too few confirmed answers: 45 that the model is sure of, all right, are the least"),
        ("none", 6, "at no threshold are the answers right often enough at this site"),
        ("Quercus robur", 1, "row 2: 'Quercus robur' is not in the list; write the scientific name"),
        ("", 1, "too few confirmed answers"),
    ],
)
def test_what_cannot_be_shown_is_said(
    data: Path, photographs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    names: str, times: int, message: str,
) -> None:  # fmt: skip
    table = confirmed(data, tmp_path, names, times)
    assert recalibrate.main([str(table), "--output", str(tmp_path / "site.json"), "--data", str(data)]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "site.json").exists()


def test_a_table_without_the_columns_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.csv").write_text("file_name,rank,model,model_sha256\n")
    assert recalibrate.main([str(tmp_path / "names.csv"), "--output", "site.json", "--data", str(data)]) == 1
    assert "has no column best, best_scores, confirmed; write it with `predict --confirm`" in capsys.readouterr().err
