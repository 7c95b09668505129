"""`bioclip-lite relist`: from a finished run, from a bundle that came from elsewhere, and in Node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bioclip_lite import params
from bioclip_lite.commands import relist
from bioclip_lite.evaluation import predictions
from bioclip_lite.models import teachers
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import convert, quantize
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, write_json, write_table
from bioclip_lite.web import bundle, confidence, manifest
from support import fake_bundles, fake_data, keys, lessons
from support.checkout import ROOT
from support.fake_bundles import DAISY

PACKAGE = ROOT / "packages" / "react-bio-clip"
NO_LIMIT: Any = {"taxa_bytes": None, "over_budget": "refuse", "whole_table": None}
TINY = params.load(ROOT / "tests/tiny.yaml")
LIST = "name,common_name_de\nBellis perennis,G\u00e4nsebl\u00fcmchen\nBellis annua,\nMorus bassanus,\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder up to convert, with a teacher whose text tower is there, and a list in data/lists."""
    data = fake_data.make_data(tmp_path_factory.mktemp("run"), *fake_data.FASTVIT)
    fake_data.save_teacher(data)
    teacher = teachers.load_teacher(data / "teacher" / "model")
    lessons.make_cache(data, teacher.identity)
    prompts = [f"a photo of {' '.join(filter(None, path))}." for path in lessons.PATHS[:5]]
    text = teachers.embed_texts(teacher, prompts)
    store.write_taxa(data / "logits/taxa.safetensors", lessons.IDS[:5], text, 20.0, teacher.identity, "taxon")
    taxa = read_table(data / "index/taxa.parquet")
    write_table(
        data / "index/taxa.parquet",
        taxa.set_column(taxa.schema.get_field_index("train"), "train", pa.array([6] * len(taxa))),
    )
    fake_data.finish_pruning(data)
    quantize.run(TINY["quantize"], data)
    (data / "lists").mkdir()
    (data / "lists" / "field.csv").write_text(LIST)
    section: dict[str, Any] = {
        "images": 2,
        "tolerance": 1e-4,
        "onnx": [],
        "tflite": False,
        "text_encoder": None,
        "prior": None,
    } | NO_LIMIT
    section["sign_with"] = str(keys.make_pair(data.parent / "keys")[0])
    convert.run(section | {"lists": ["field.csv"]}, data)
    return data


def command(*arguments: object) -> int:
    return relist.main([str(argument) for argument in arguments])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.json"}


def test_the_stage_and_the_command_write_the_same_bundle(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    private = run.parent / "keys" / "signing.pem"
    arguments = [run / "lists/field.csv", "--data", run, "--sign-with", private]
    assert command(*arguments, "--output", tmp_path / "out") == 0
    own = run / "convert/lists/field"
    assert files(tmp_path / "out") == files(own / "tfjs")
    assert read_json(own / "report.json").items() <= read_json(tmp_path / "out/report.json").items()
    before = files(own / "tfjs")
    convert.run({**NO_LIMIT, "lists": ["field.csv"], "sign_with": str(private)}, run, "lists/field")
    assert files(own / "tfjs") == before
    with pytest.raises(UserError, match=r"table of \d taxa would take 0.0 MB, more than convert.taxa_bytes .*regional"):
        section = {"taxa_bytes": 1, "over_budget": "refuse", "sign_with": None}
        convert.run({**section, "lists": ["field.csv"]}, run, "lists/field")
    assert files(own / "tfjs") == before
    key = manifest.read_public_key(private.with_name("signing.pub.pem"))
    for signed in (own / "tfjs", run / "convert/tfjs", tmp_path / "out"):
        manifest.verify(signed, key)
    # Whoever does not sign claims no signature: not even that of the bundle it was made from.
    assert command(*arguments[:-2], "--output", tmp_path / "out") == 0
    assert not (tmp_path / "out/bundle.json.sig").exists()
    assert manifest.RECORDED not in read_json(tmp_path / "out/bundle.json")["provenance"]
    monkeypatch.setattr(relist, "defaults", lambda: {"convert": {"taxa_bytes": 1, "whole_table": None}})
    assert command(run / "lists/field.csv", "--data", run, "--output", tmp_path / "none") == 1
    assert "Lists are regional" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_bundle_from_elsewhere_needs_its_teacher_and_calibration(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run / "convert/tfjs", tmp_path / "bundle")
    here = ("--bundle", tmp_path / "bundle", "--data", tmp_path / "nothing")
    assert command(run / "lists/field.csv", *here, "--output", tmp_path / "out") == 1
    assert "test teacher" in (said := capsys.readouterr().err) or "small" in said
    assert "name it with --teacher" in said and not (tmp_path / "out").exists()
    key = ("--sign-with", run.parent / "keys" / "signing.pem")
    given = (*key, "--teacher", run / "teacher/model", "--calibration", run / "convert" / confidence.FILE)
    assert command(run / "lists/field.csv", *here, *given, "--output", tmp_path / "out") == 0
    assert files(tmp_path / "out") == files(run / "convert/lists/field/tfjs")
    (tmp_path / "part.txt").write_text("Bellis perennis\nMorus alba\n")
    assert command(tmp_path / "part.txt", *here, "--output", tmp_path / "part") == 0  # which needs no teacher
    assert read_json(tmp_path / "part/bundle.json")["thresholds"] is None
    assert "no calibration photographs were given" in capsys.readouterr().out


def test_node_answers_with_the_new_table(run: Path, tmp_path: Path) -> None:
    shards, out = ShardSet(run, "test"), run / "convert/lists/field/tfjs"
    photograph = tmp_path / "photograph.jpg"
    photograph.write_bytes(shards.jpeg(0))
    printed = []
    for more in ([], ["--raw", tmp_path / "x"]):
        arguments = map(str, [PACKAGE / "bin/classify.mjs", out, photograph, *more])
        done = subprocess.run(["node", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    about = read_json(out / "bundle.json")
    content, rows = (out / about["text"]["file"]).read_bytes(), len(about["taxa"])
    text = store.decode(
        np.frombuffer(content, "i1", rows * lessons.D, 4 * rows).reshape(rows, -1), np.frombuffer(content, "<f4", rows)
    )
    embedding = np.fromfile(tmp_path / "x.embeddings.f32", "<f4")
    logits = np.fromfile(tmp_path / "x.logits.f32", "<f4")
    assert np.abs(logits - about["logit_scale"] * text @ embedding).max() < 1e-4
    assert [taxon["ranks"][6] for taxon in about["taxa"]] == ["bassanus", "annua", "perennis"]
    assert json.loads(printed[0])["taxon_id"] == about["taxa"][int(logits.argmax())]["id"]


# Accuracy on the test photographs, of a bundle without a model


def write_run(folder: Path, seen: np.ndarray) -> dict[str, Any]:
    """data/ with a bundle of fake_bundles.TAXA, and test photographs that the model sees as ``seen`` (n, D)."""
    teacher = fake_bundles.make_teacher(folder)
    about = fake_bundles.make_bundle(folder / "convert/tfjs", teacher)
    paths = list(fake_bundles.TAXA)
    rows = [
        {"taxon_id": bundle.taxon_id(path), **dict(zip(RANKS, path, strict=True)), "common_name": None, "leaf": True}
        for path in paths
    ]
    write_table(folder / "index/taxa.parquet", pa.Table.from_pylist(rows))
    samples = [
        {"key": f"test-{n}", "split": "test", **dict(zip(RANKS, paths[n % len(paths)], strict=True))}
        for n in range(len(seen))
    ]
    write_table(folder / "index/samples.parquet", pa.Table.from_pylist(samples))
    return about


def test_accuracy_is_told_of_test_photographs_in_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = write_run(tmp_path, np.zeros((10, lessons.D)))
    content = (tmp_path / "convert/tfjs" / about["text"]["file"]).read_bytes()
    rows = np.frombuffer(content, "i1", 5 * lessons.D, 20).reshape(5, lessons.D)
    text = lessons.unit(rows * np.frombuffer(content, "<f4", 5)[:, None])
    paths = list(fake_bundles.TAXA)
    kept = fake_bundles.photographs(dict(zip(paths, text, strict=True)), [DAISY] * 50 + [paths[0]] * 50)
    confidence.write(tmp_path / "convert" / confidence.FILE, kept, fake_bundles.WEIGHTS)
    seen = text[[*range(5), 0, 1, 0, 3, 4]]  # number 7, a daisy, looks like a gannet
    embeddings = np.concatenate([kept.embeddings, seen])
    keys = [*kept.keys, *(f"test-{n}" for n in range(10))]
    write_json(tmp_path / "shard/sizes.json", {"test-00000.tar": 10})
    (tmp_path / "list.txt").write_text("Bellis perennis\nMorus bassanus\n")
    arguments = (tmp_path / "list.txt", "--data", tmp_path, "--output", tmp_path / "out")

    def answered(by_the_model: np.ndarray) -> Any:
        folder, n = tmp_path / "evaluate/predictions", len(kept.keys)
        for path, rows in (("tfjs.safetensors", slice(n)), ("tfjs/test-00000.safetensors", slice(n, None))):
            predictions.write(folder / path, keys[rows], "", {"embeddings": by_the_model[rows].astype(np.float16)})
        write_json(folder / "tfjs.json", {})
        assert command(*arguments) == 0
        return read_json(tmp_path / "out/report.json")["accuracy"]

    found = answered(embeddings)
    assert found["photographs"] == 4 and found["species"] == found["genus"] == {"right": 0.75, "of": 4}
    assert found["answers"] == {"given": 1.0, "right": 0.75, "of": 4}
    assert "of 4 test photographs of the list's taxa it names the species of 75.0% of 4" in capsys.readouterr().out
    assert answered(-embeddings) is None  # another model's


# Mistakes of users


def test_nothing_of_others_is_replaced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert command(run / "lists/field.csv", "--data", run, "--output", tmp_path / "out") == 1
    assert "notes.txt, which was not written by this command" in capsys.readouterr().err
    before = files(run / "convert/tfjs")
    assert command(run / "lists/field.csv", "--data", run, "--output", run / "convert/tfjs") == 1
    assert "is the bundle that the new one is made from" in capsys.readouterr().err
    assert files(run / "convert/tfjs") == before
    for _ in range(2):  # its own output may be replaced
        assert command(run / "lists/field.csv", "--data", run, "--output", tmp_path / "own") == 0


def test_mistakes_are_told_in_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = {"empty.txt": "", "one.txt": "Bellis perennis\n", "unknown.txt": "Kingfisher\nHeron\n"}
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    fake_data.save_teacher(tmp_path, "another")
    cases = [
        ((tmp_path / "absent.txt",), "there is no species list"),
        ((tmp_path / "empty.txt",), "lists no name"),
        ((tmp_path / "one.txt",), "fewer than two taxa"),
        ((tmp_path / "unknown.txt",), "No taxon was found for 'Kingfisher'"),
        ((run / "lists/field.csv", "--teacher", tmp_path / "teacher/another"), "rows of two teachers"),
        ((run / "lists/field.csv", "--calibration", tmp_path / "absent"), "absent is missing"),
        ((run / "lists/field.csv", "--bundle", tmp_path), "is no bundle"),
        ((run / "lists/field.csv", "--taxa-bytes", "5"), "leaves room for 0 rows"),
    ]
    for arguments, problem in cases:
        assert command(*arguments, "--data", run, "--output", tmp_path / "out") == 1
        said = capsys.readouterr().err
        assert said.startswith("relist: ") and problem in said and "Traceback" not in said
        assert not (tmp_path / "out").exists()
