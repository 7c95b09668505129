"""The command that names photographs: pybioclip's columns, any rank, back-off, and files however they are given."""

import csv
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dwca.read import DwCAReader
from PIL import Image

from bioclip_lite.commands import predict
from bioclip_lite.compression import quantized
from bioclip_lite.evaluation import variants
from bioclip_lite.photographs.images import decode
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.predicting import models, observations
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import PARTIAL, read_json, write_json
from bioclip_lite.web import javascript, prior
from evaluation.test_variants import save_student
from predicting.test_formats import check_camtrap, check_megadetector
from predicting.test_xmp import needs_exiftool
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
    assert (
        text.splitlines()[0] == f"{PYBIOCLIP},zero_shot,note,rank,threshold,on_list,off_list,model,model_sha256,error"
    )
    return list(csv.DictReader(io.StringIO(text)))


def test_the_best_answer_is_that_of_evaluate(
    data: Path, photographs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = variants.answers("control", PARAMS, data, ["test-00000"], read_labels(data))
    logits = dict(zip(found.keys, np.concatenate([block.logits for block in found.blocks]), strict=True))
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
    assert [row["file_name"] for row in rows] == sorted(map(str, [bad, *photographs.values()]))
    assert rows[0]["error"].startswith("not an image: ") and not rows[0]["kingdom"] and not rows[0]["score"]
    assert all(row["kingdom"] and not row["phylum"] and not row["species"] for row in rows[1:])
    assert {(row["rank"], row["threshold"], row["error"]) for row in rows[1:]} == {("kingdom", "0.5", "")}
    assert [file.name for file in output.parent.iterdir()] == ["names.csv"]
    said = capsys.readouterr().err
    assert f"{bad} has no answer: not an image" in said and "1 of 13 files are without an answer" in said


def test_the_photographs_of_a_folder_make_one_answer(
    data: Path, photographs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    photos = tmp_path / "photos"
    for number, file in enumerate(sorted(photographs.values())):
        (photos / f"{number % 3}").mkdir(exist_ok=True)
        file.rename(photos / f"{number % 3}" / file.name)
    (photos / "0" / "bad.jpg").write_bytes(b"no image")
    shutil.copy2(next((photos / "1").iterdir()), photos / "alone.jpg")
    monkeypatch.setattr(models, "_BATCH", 5)  # an observation goes on in the next batch

    def ask(name: str, *more: str) -> list[dict[str, Any]]:
        options = [str(photos), "--variant", "control", "--format", "parquet", "--output", str(tmp_path / name)]
        assert predict.main([*options, "--data", str(data), *more]) == 1  # for the one that is no image
        rows = pq.read_table(tmp_path / name).to_pylist()
        return sorted(rows, key=lambda row: row["file_name"])

    visits = tmp_path / "visits.csv"
    named = [f"{file},{file.parent.name}" for file in sorted(photos.rglob("*.jpg"))]
    visits.write_text("\n".join(["file,observation", *named]))
    apart, together = ask("apart.parquet"), ask("together.parquet", "--by", "folder")
    assert ask("visits.parquet", "--by", "observation", "--observations", str(visits)) == together
    assert "14 photographs make 4 observations, each with one answer" in capsys.readouterr().err
    assert [row["file_name"] for row in together] == [row["file_name"] for row in apart]
    for folder in (photos, *(photos / f"{number}" for number in range(3))):
        of = [
            number for number, row in enumerate(apart) if Path(row["file_name"]).parent == folder and not row["error"]
        ]
        logs = np.log([apart[number]["probabilities"] for number in of]).mean(axis=0)
        for number in of:
            expected = np.exp(logs) / np.exp(logs).sum()
            assert np.allclose(together[number]["probabilities"], expected, atol=1e-6)
            assert together[number]["answers"] == together[of[0]]["answers"]
    alone = next(number for number, row in enumerate(apart) if row["file_name"] == str(photos / "alone.jpg"))
    assert together[alone] == apart[alone]
    (bad,) = (row for row in together if row["error"])
    assert bad["file_name"] == str(photos / "0" / "bad.jpg") and not bad["answers"]

    for more in (["--by", "observation"], ["--observations", str(visits)], ["--within", "5"]):
        assert predict.main([str(photos), "--data", str(data), *more]) == 1
    assert capsys.readouterr().err.count("need each other") == 2
    monkeypatch.setattr(observations, "MOST_TOGETHER", 3)
    options = [str(photos), "--variant", "control", "--by", "folder", "--data", str(data)]
    assert predict.main(options) == 1
    assert "5 photographs from" in capsys.readouterr().err


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
    write_json(data / "convert" / "tfjs" / "bundle.json", {"taxa": taxa[::-1], "text": {}})
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


def write_prior(data: Path) -> list[str]:
    """A prior that has the last taxon of the bundle far away; returns the epithets in the bundle's order."""
    labels = read_labels(data)
    taxa = read_json(data / "convert" / "tfjs" / "bundle.json")["taxa"]
    folder, weights = data / "convert" / "prior" / "tfjs", data / "quantize" / "model" / quantized.WEIGHTS_FILE
    here, away = (prior.cell_of(*place, 10.0) for place in ((47.375, -8.5), (-40.0, 100.0)))
    cells = [{away if number == len(taxa) - 1 else here: 50} for number in range(len(taxa))]
    content = prior.encode(cells, np.full((len(labels.ids), 12), 5))
    for file in (folder / "prior.bin", weights):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    limits = dict.fromkeys(RANKS) | {"kingdom": 0.6}
    about = {"file": "prior.bin", "cell": 10.0, "weight": 1.0, "floor": 0.05, "temperature": 2.0}
    provenance = {"weights_sha256": hashlib.sha256(content).hexdigest()}
    about |= {"thresholds": {"level": 0.95, "ranks": limits}}
    write_json(folder / "bundle.json", {"taxa": taxa, "text": {}, "prior": about, "provenance": provenance})
    return [taxon["ranks"][6] for taxon in taxa]


def test_place_and_month_count_for_photographs_that_state_both(
    data: Path, photographs: dict[str, Path], node: list[list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    names = write_prior(data)
    files = sorted(photographs.values())
    for file in files[:4]:
        exif = Image.Exif()
        exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 22.0, 30.0), 3: "W", 4: (8.0, 30.0, 0.0)})
        if file != files[0]:  # whose time is not known
            exif.get_ifd(0x8769)[0x9003] = "2026:04:01 06:00:00"
        Image.open(file).save(file, exif=exif, quality="keep")

    def rows(*more: str) -> list[dict[str, str]]:
        folder = str(files[0].parent)
        assert predict.main([folder, "--variant", "tfjs", "--k", "4", "--data", str(data), *more]) == 0
        return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    without, placed = rows(), rows("--prior")
    known = set(map(str, files[1:4]))
    assert all("not_expected_here" not in row for row in without)
    plain = [{**row, "not_expected_here": ""} for row in without if row["file_name"] not in known]
    assert [row for row in placed if row["file_name"] not in known] == plain
    scores = {(row["file_name"], row["species_epithet"]): float(row["score"]) for row in without}
    for row in (row for row in placed if row["file_name"] in known):
        suppressed = row["species_epithet"] == names[-1]
        assert row["not_expected_here"] == ("yes" if suppressed else "")
        assert (float(row["score"]) < scores[row["file_name"], row["species_epithet"]]) == suppressed
    limits = {row["file_name"] in known: row["threshold"] for row in rows("--prior", "--back-off")}
    assert limits == {True: "0.6", False: "0.5"}
    assert predict.main([str(files[0]), "--variant", "control", "--prior", "--data", str(data)]) == 1


def test_a_photograph_that_stops_node_is_left_out_alone(
    data: Path, photographs: dict[str, Path], node: list[list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = next(iter(photographs.values())).parent
    (folder / "broken.jpg").write_bytes(next(iter(photographs.values())).read_bytes())
    assert predict.main([str(folder), "--variant", "tfjs", "--k", "1", "--data", str(data)]) == 1
    found = capsys.readouterr()
    rows = table(found.out)
    assert [row["file_name"] for row in rows] == sorted(map(str, [folder / "broken.jpg", *photographs.values()]))
    assert rows[0]["error"].startswith("broken.jpg: cannot be decoded") and not rows[0]["score"]
    assert all(row["score"] and not row["error"] for row in rows[1:])
    assert f"{folder / 'broken.jpg'} has no answer: broken.jpg: cannot be decoded" in found.err
    assert "1 of 13 files are without an answer" in found.err


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


# ---- an end, and the same command again


def ended(arguments: list[str], rename: int, after: bool) -> bool:
    """Run predict in a process that is killed before or after its nth rename; whether it came to that."""
    process = os.fork()
    if process == 0:  # pragma: no cover
        count = 0

        def killing(change: Callable[..., None]) -> Callable[..., None]:
            def renamed(*names: Any) -> None:
                nonlocal count
                count += 1
                if count == rename and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                change(*names)
                if count == rename:
                    os.kill(os.getpid(), signal.SIGKILL)

            return renamed

        os.replace, os.rename = killing(os.replace), killing(os.rename)
        os._exit(predict.main(arguments))
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def test_a_run_that_is_killed_goes_on_and_loses_nothing(
    data: Path, photographs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(models, "_BATCH", 5)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no image")

    def arguments(output: Path) -> list[str]:
        return [str(tmp_path / "photos"), "--variant", "control", "--data", str(data), "--output", str(output)]

    assert predict.main(arguments(tmp_path / "whole" / "names.csv")) == 1
    expected = (tmp_path / "whole" / "names.csv").read_text()
    answered = []
    # the file of the settings, their folder, three parts, the output
    for rename, after in [(1, True), (2, True), *itertools.product(range(3, 7), (False, True))]:
        output = tmp_path / f"{rename}{after}" / "names.csv"
        assert ended(arguments(output), rename, after)
        assert output.exists() == ((rename, after) == (6, True))
        capsys.readouterr()
        assert predict.main(arguments(output)) == 1
        said = re.search(r"(\d+) of 13 photographs were answered before", capsys.readouterr().err)
        answered.append(int(said[1]) if said else 0)
        assert output.read_text() == expected
        left = {file.name for file in output.parent.iterdir() if not file.name.startswith(PARTIAL)}
        assert left == {"names.csv"}
    assert answered == [0, 0, 0, 5, 5, 10, 10, 13, 13, 13]
    assert not ended(arguments(tmp_path / "last" / "names.csv"), 7, False)


def test_what_changed_since_an_end_is_answered_again(
    data: Path, photographs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(models, "_BATCH", 5)
    first, second, *others = photographs.values()
    output = tmp_path / "names.csv"
    arguments = [str(first.parent), "--variant", "control", "--k", "1", "--data", str(data), "--output", str(output)]
    assert ended(arguments, 6, False)
    first.unlink()
    second.write_bytes(b"no image any more")
    assert predict.main(arguments) == 1
    assert "10 of 11 photographs were answered before" in capsys.readouterr().err
    rows = {row["file_name"]: row["error"] for row in table(output.read_text())}
    assert rows.keys() == set(map(str, [second, *others])) and rows[str(second)].startswith("not an image")
    assert ended(arguments, 4, False)
    assert predict.main([*arguments, "--rank", "genus"]) == 1
    assert "is of a run with another rank: it begins anew" in capsys.readouterr().err
    assert {row["rank"] for row in table(output.read_text()) if not row["error"]} == {"genus"}
    folder = output.with_name("names.csv.unfinished")
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert predict.main(arguments) == 1
    assert "thesis.txt, which was not written by this command" in capsys.readouterr().err
    assert (folder / "thesis.txt").read_text() == "mine"


# ---- the forms of the output


@pytest.fixture
def trip(photographs: dict[str, Path]) -> list[Path]:
    """The photographs, with time and place, and one that cannot be read."""
    for minute, file in enumerate(photographs.values()):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"2026:04:01 06:{minute:02d}:00"
        exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 22.0, 30.0), 3: "W", 4: (8.0, 30.0, 0.0)})
        image = Image.open(file)
        image.save(file, exif=exif, quality="keep")
    bad = next(iter(photographs.values())).with_name("bad.jpg")
    bad.write_bytes(b"no image")
    return [bad, *photographs.values()]


def test_all_forms_say_the_same(data: Path, trip: list[Path], tmp_path: Path) -> None:
    def ask(form: str, output: str, *more: str) -> Path:
        options = ["--variant", "control", "--data", str(data), "--format", form, "--output", str(tmp_path / output)]
        for _ in range(2):  # the second replaces the output of the first
            assert predict.main([str(trip[0].parent), *options, *more]) == 1
        return tmp_path / output

    log = tmp_path / "log.json"
    text = ask("csv", "names.csv", "--back-off", "--exif", "--log", str(log)).read_text()
    rows = {Path(row["file_name"]).name: row for row in csv.DictReader(io.StringIO(text))}
    assert rows.pop("bad.jpg")["error"]
    assert {(row["latitude"], row["longitude"]) for row in rows.values()} == {("47.375", "-8.5")}
    assert [row["time"] for row in rows.values()][:2] == ["2026-04-01T06:00:00", "2026-04-01T06:01:00"]
    digest = hashlib.sha256((data / "distill" / "control" / "model.safetensors").read_bytes()).hexdigest()
    assert {row["model_sha256"] for row in rows.values()} == {digest}
    tables = check_camtrap(ask("camtrap-dp", "package", "--utc-offset", "+02:00"))
    camtrap = {row["mediaID"]: row["scientificName"] for row in tables["observations"]}
    with DwCAReader(str(ask("darwin-core", "names.zip"))) as archive:
        term = "http://rs.tdwg.org/dwc/terms/scientificName"
        names = [row.data[term] for row in archive]
        files = [row.extensions[0].data["http://purl.org/dc/terms/identifier"] for row in archive]
    found = json.loads(ask("megadetector", "names.json", "--back-off").read_text("utf-8"))
    check_megadetector(found)
    taxa = found["classification_categories"]
    boxes = {image["file"]: image["detections"][0]["classifications"][0] for image in found["images"][1:]}
    known = pq.read_table(ask("parquet", "names.parquet", "--back-off")).to_pylist()
    assert known[0]["error"] and all(sum(row["probabilities"]) == pytest.approx(1) for row in known[1:])
    answers = {Path(row["file_name"]).name: row["answers"][0] for row in known[1:]}
    kingdoms = {name: row["kingdom"] for name, row in rows.items()}
    assert set(kingdoms.values()) == {"Animalia"} and len(kingdoms) == 12
    assert kingdoms == camtrap == dict(zip(files, names, strict=True))
    assert kingdoms == {name: taxa[number] for name, (number, _) in boxes.items()}
    assert kingdoms == {name: answer["scientific_name"] for name, answer in answers.items()}
    said = json.loads(log.read_text("utf-8"))
    assert (said["photographs"], said["without_answer"], said["model_sha256"]) == (13, 1, digest)
    assert said["settings"]["thresholds"]["kingdom"] == 0.5 and said["settings"]["temperature"] == 2.0
    assert said["versions"].keys() >= {"python", "torch", "pillow"} and "--exif" in said["arguments"]


@needs_exiftool
def test_xmp_is_written_once(data: Path, trip: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    bad, first, *_ = trip
    content = first.read_bytes()
    options = ["--variant", "control", "--data", str(data), "--format", "xmp", "--threshold", "0.999"]
    assert predict.main([*map(str, trip[:4]), *options]) == 1
    sidecars = [file.with_name(f"{file.name}.xmp") for file in trip[1:4]]
    assert sorted(first.parent.glob("*.xmp")) == sorted(sidecars) and first.read_bytes() == content
    assert all("bioclip-lite|" in file.read_text("utf-8") for file in sidecars)
    before = [file.stat() for file in sidecars]
    capsys.readouterr()
    assert predict.main([*map(str, trip[:4]), *options]) == 1
    said = capsys.readouterr().err
    assert "3 of 4 photographs were answered before" in said and f"{bad} has no answer" in said
    assert [file.stat() for file in sidecars] == before
    assert predict.main([str(first), *options, "--in-place"]) == 0
    assert b"bioclip-lite|" in first.read_bytes()


def test_a_threshold_of_ones_own(data: Path, photographs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = next(iter(photographs.values()))
    options = [str(file), "--variant", "control", "--data", str(data), "--rank", "genus"]
    for threshold, said in (("0.01", ("genus", "0.01")), ("0.9999", ("", ""))):
        assert predict.main([*options, "--threshold", threshold]) == 0
        (row,) = table(capsys.readouterr().out)
        assert (row["rank"], row["threshold"]) == said


def test_photographs_of_what_is_not_on_the_list(
    data: Path, photographs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the largest logit: half of the photographs lie on either side of an even chance."""
    found = variants.answers("control", PARAMS, data, ["test-00000"], read_labels(data))
    logits = np.concatenate([block.logits for block in found.blocks])
    middle = float(np.median(logits.max(axis=1)))
    slope = 8 / float(logits.max(axis=1).std())
    steep = [slope, -slope * middle]
    file = data / "evaluate" / "metrics.json"
    measured = read_json(file)
    fitted = {"known": {rank: [0.0, 20.0] for rank in RANKS} | {"species": steep}, "ranks": dict.fromkeys(RANKS, 0.2)}
    measured["variants"]["control"]["off_list"] = fitted
    write_json(file, measured)
    options = [str(next(iter(photographs.values())).parent), "--variant", "control", "--data", str(data)]
    assert predict.main([*options, "--k", "1"]) == 0
    plain = {row["file_name"]: row for row in table(capsys.readouterr().out)}
    assert predict.main([*options, "--off-list"]) == 0
    rows = table(capsys.readouterr().out)
    largest = dict(zip(found.keys, logits.max(axis=1), strict=True))
    for row in rows:
        probable = 1 / (1 + np.exp(-slope * (float(largest[Path(row["file_name"]).stem]) - middle)))
        assert float(row["on_list"]) == pytest.approx(probable, abs=0.01)
        assert row["off_list"] == ("yes" if float(row["on_list"]) < 0.5 else "")
        assert plain[row["file_name"]]["on_list"] == row["on_list"] and plain[row["file_name"]]["rank"] == "species"
        if row["rank"] == "species":
            score = float(plain[row["file_name"]]["score"]) * float(row["on_list"])
            assert float(row["score"]) == pytest.approx(score, abs=1e-4) and score >= 0.2
        elif row["rank"]:
            assert row["threshold"] == "0.2" and not row["species"]
        assert row["rank"] != "species" or float(row["on_list"]) > 0.2
    assert {row["rank"] == "species" for row in rows} == {True, False}
    assert {row["off_list"] for row in rows} == {"yes", ""}
    assert predict.main([*options, "--off-list", "--threshold", "0.5"]) == 1
    assert "--off-list has thresholds of its own" in capsys.readouterr().err
    for other in (["--prior"], ["--calibration", str(data / "site.json")]):
        assert predict.main([*options, "--off-list", *other]) == 1
        assert "--off-list has thresholds that were fitted for the model alone" in capsys.readouterr().err
    assert predict.main([options[0], "--off-list", "--variant", "student", "--data", str(data)]) == 1
    assert "student has no thresholds that allow for photographs off the list" in capsys.readouterr().err


def test_arguments_that_contradict_one_another(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.parquet"
    mine.write_bytes(b"PAR1, and all my work")
    for options, problem in (
        (["--threshold", "1.5"], "--threshold 1.5: a probability above 0"),
        (["--utc-offset", "+02:00"], "--utc-offset is for --format camtrap-dp, not for csv"),
        (["--format", "parquet", "--exif"], "--exif is for --format csv"),
        (["--format", "camtrap-dp", "--output", "x"], "needs --utc-offset"),
        (["--format", "camtrap-dp", "--output", "x", "--utc-offset", "CET"], "needs --utc-offset"),
        (["--format", "xmp", "--output", "x"], "leave out --output"),
        (["--format", "darwin-core"], "--format darwin-core needs --output"),
        (["--format", "parquet", "--output", str(mine)], f"{mine} is there already, was not written by this command"),
        (["--format", "darwin-core", "--output", str(mine)], f"{mine} is there already"),
        (["--format", "megadetector", "--output", str(mine)], f"{mine} is there already"),
        (["--log", str(mine)], f"{mine} is there already"),
    ):
        assert predict.main(["photos", "--data", str(data), *options]) == 1
        assert problem in capsys.readouterr().err
    assert mine.read_bytes() == b"PAR1, and all my work"
