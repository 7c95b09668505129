"""What published species classifiers got wrong, each as a test that would fail if this pipeline did the same.

Every mistake has a small test here; the broader ones elsewhere are named, and must exist.

|  # | mistake                                                     | test here | and                                     |
|----|-------------------------------------------------------------|-----------|-----------------------------------------|
|  1 | another resize before the crop than the teacher's           | test_1_   | stages/test_convert.py::test_preprocessing_in_javascript_is_that_of_python_bit_for_bit, stages/test_logits.py::test_every_view_is_what_the_teacher_says_of_its_replay |
|  2 | a split computed twice; one bad file moved 28 % of test     | test_2_   | stages/test_shard.py::test_every_sample_is_in_the_shard_of_its_split_once |
|  3 | photographs of one observation in training and validation   | test_3_   | stages/test_index.py::test_no_observation_is_in_two_splits, stages/test_index.py::test_near_duplicates_share_a_split_and_their_observations_are_joined |
|  4 | a teacher cache known by its path alone                     | test_4_   | training/test_trainer.py::test_caches_that_do_not_fit_are_refused, commands/test_verify_cache.py::test_another_teacher_or_other_photographs_are_told |
|  5 | choosing by the cosine to the teacher                       | test_5_   | stages/test_evaluate.py::test_accuracy_by_hand |
|  6 | claims from one seed                                        | test_6_   | metrics/test_metrics.py::test_difference_is_paired |
|  7 | "500 species", 7 of them scored                             | test_7_   | stages/test_evaluate.py::test_metrics_have_every_variant_rank_and_number, report/test_page.py::test_headlines_say_how_many |
|  8 | the wrong checkpoint, told by its file name                 | test_8_   | evaluation/test_variants.py::test_a_bundle_for_other_taxa_or_weights_is_refused, evaluation/test_variants.py::test_a_student_of_another_teacher_is_refused |
|  9 | figures of a simulated INT8 model                           | test_9_   | stages/test_convert.py::test_a_shard_gives_the_logits_of_pytorch, test_pipeline.py::test_what_ships_answers_as_what_was_quantised |
| 10 | commands that cannot run, training on noise, errors dropped | test_10_  | test_docs.py::test_the_command_line_takes_every_command_of_ours, sources/test_synthetic.py::test_kin_look_more_alike_than_strangers, stages/test_index.py::test_bad_photographs_are_listed_with_a_reason_and_the_rest_goes_on, test_cli.py::test_a_stage_without_its_inputs_says_what_makes_them |
| 11 | pruned checkpoints that nobody can load; no time gained     | test_11_  | stages/test_prune.py::test_a_pruned_student_reloads_bit_for_bit, stages/test_prune.py::test_the_stage |
| 12 | research-only weights whose licence a student inherits      | test_12_  | models/test_hub.py::test_weights_for_research_only_are_refused_unless_asked_for |
"""  # noqa: E501

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bioclip_lite.compression import pruning, quantized
from bioclip_lite.evaluation import web_variants
from bioclip_lite.graph import execution
from bioclip_lite.metrics.scoring import score
from bioclip_lite.metrics.summary import summarise
from bioclip_lite.models import hub, students, teachers
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.images import BadImage
from bioclip_lite.photographs.members import open_shard
from bioclip_lite.photographs.preprocess import FILE, preprocess, preprocessing, read_preprocess
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import convert, distill, index, prune, shard, teacher
from bioclip_lite.taxa.label_space import read_labels, truth_of
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils import sections
from bioclip_lite.utils.code_fingerprint import PACKAGE, closure
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, write_json
from bioclip_lite.utils.stage_names import STAGES
from bioclip_lite.web import bundle, javascript
from support import lessons
from support.checkout import ROOT
from support.fake_data import images, student
from support.photographs import FIELDS, folder_params, garden, row, write_folder

COUNTS: sections.Shard = {
    "counts": {"pretrain": 0, "train": 2, "val": 1, "calibration": 1, "test": 1},
    "max_side": None,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return lessons.make_cache(lessons.make_data(tmp_path / "data"))


def test_the_tests_of_the_table_exist() -> None:
    table = [line for line in (__doc__ or "").splitlines() if re.match(r"\| +\d", line)]
    assert [int(line.split("|")[1]) for line in table] == list(range(1, 13))
    here = ast.parse(Path(__file__).read_text())
    names = [node.name for node in here.body if isinstance(node, ast.FunctionDef)]
    for number, line in enumerate(table, 1):
        assert any(name.startswith(f"test_{number}_") for name in names)
        elsewhere = re.findall(r"((?:\w+/)?test_\w+\.py)::(test_\w+)", line)
        assert elsewhere
        for file, name in elsewhere:
            assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"


def test_1_one_preprocessing_for_teacher_cache_student_and_evaluation(data: Path, tmp_path: Path) -> None:
    photographs = ShardSet(data, "test")
    spec = preprocessing(32, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    model = students.build_student(given := students.student_spec("mobilenetv4_conv_small_035", {}, lessons.D, 32))
    students.save_student(tmp_path / "model", model, given, spec)
    travelled = read_preprocess(tmp_path / "model")
    assert travelled == spec
    expected = preprocess(photographs.image(0), travelled)
    (cached,) = next(loading.Views(photographs, travelled).batches([[(0, views.plain_view(2))]]))
    measured = next(loading.plain_pixels(photographs, travelled))[0]
    np.testing.assert_array_equal(cached.numpy(), expected)
    np.testing.assert_array_equal(measured.numpy(), expected)
    # The mistake would be seen: a resize to a tenth more, then the crop.
    wider = preprocess(photographs.image(0), {**spec, "size": 35})[:, 1:33, 1:33]
    assert np.abs(wider - expected).mean() > 0.01


def test_2_a_split_is_written_once_and_read_by_all(tmp_path: Path) -> None:
    folder = garden(tmp_path / "photographs", each=12)
    (folder / "daisy" / "3.jpg").write_bytes(b"not a photograph")
    data = tmp_path / "data"
    index.run(folder_params(folder), data)
    shard.run(COUNTS, data)
    split = {s["key"]: s["split"] for s in read_table(data / "index" / "samples.parquet").to_pylist()}
    assert len(split) == 35
    found = {entry.key: tar.stem.split("-")[0] for tar in (data / "shard").glob("*.tar") for entry in open_shard(tar)}
    assert found == split
    # Dealing is code of the index alone: whoever else dealt would have to import it, or write it again.
    dealers = [path.name for path in sorted(PACKAGE.rglob("*.py")) if re.search(r"\bdeal\(", path.read_text())]
    assert dealers == ["splits.py"]
    assert not any("indexing/splits.py" in path for stage in STAGES[1:] for path in closure(f"stages.{stage}"))


def test_3_an_observation_is_in_one_split(tmp_path: Path) -> None:
    paths = lessons.PATHS[:3]
    rows = [
        row(f"{t}/{i}.jpg", path, observation=f"visit {t} {i // 4}") for t, path in enumerate(paths) for i in range(40)
    ]
    folder = write_folder(tmp_path / "photographs", rows, (*FIELDS, "observation"))
    index.run(folder_params(folder), tmp_path / "data")
    visit = {line["file"]: line["observation"] for line in rows}
    splits: dict[str, set[str]] = {}
    for sample in read_table(tmp_path / "data" / "index" / "samples.parquet").to_pylist():
        splits.setdefault(visit[sample["locator"]], set()).add(sample["split"])
    assert len(splits) == 30
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "val", "calibration", "test"}


def test_4_another_teacher_in_the_same_place_is_another_teacher(data: Path, tmp_path: Path) -> None:
    config = teacher._config(lessons.TEACHER["train"], lessons.D, "", {}, spec := preprocessing(32))
    identities = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        about = teachers.save_teacher(
            tmp_path / "model", teachers.build_clip(config), config, spec, "train", "same", None
        )
        identities.append(about["identity"])
    assert identities[0] == identities[2] != identities[1]
    # One shard of the cache, at its path, by another teacher.
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    lessons.write_cached(data, "train-00001", taxa.text, taxa.taxon_ids, "teacher-b")
    with pytest.raises(UserError, match=r"train-00001\.safetensors was embedded by teacher teacher-b"):
        distill.run(lessons.DISTILL, data, "student")
    assert not (data / "distill" / "model").exists()


def test_5_what_is_near_the_teacher_is_not_what_is_right(data: Path) -> None:
    """Two students: one is nearer to the teacher in cosine and wrong, one is farther away and right."""
    labels = read_labels(data)
    text = store.read_taxa(data / "logits" / "taxa.safetensors").text
    truth = truth_of([lessons.IDS[t] for t in range(5)] * 2, labels)
    own = text[truth.leaf]
    other = text[(truth.leaf + 1) % 5]
    aside = np.linalg.svd(text)[2][-1]  # at a right angle to every taxon
    near, far = lessons.unit(0.49 * own + 0.51 * other), lessons.unit(0.4 * own + 0.9 * aside)
    cosine = [(rows * own).sum(1).mean() for rows in (near, far)]
    assert cosine[0] > cosine[1] + 0.1
    scores = {
        name: score(20 * rows @ text.T, truth.leaf, truth.nodes, labels.node_of_leaf)
        for name, rows in (("teacher", own), ("near", near), ("far", far))
    }
    found = summarise(scores, truth.nodes, np.arange(10), {("seen",): np.ones(10, bool)}, ("teacher",), 20, 0)
    assert found["near"]["top1"]["value"] == found["near"]["agreement_with_teacher"]["value"] == 0
    assert found["far"]["top1"]["value"] == found["far"]["agreement_with_teacher"]["value"] == 1
    assert "cosine" not in json.dumps(found)


def test_6_seeds_differ_and_comparisons_have_three(data: Path, tmp_path: Path) -> None:
    weights = []
    for seed in (0, 1, 0):
        distill.run({**lessons.DISTILL, "epochs": 1, "seed": seed}, data, "student")
        weights.append(load_file(data / "distill" / "model" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    defaults = {
        path.name: re.search(r'"--seeds", type=int, default=(\d+)', path.read_text())
        for path in (ROOT / "benchmarks").glob("*.py")
    }
    asked = {name: int(found[1]) for name, found in defaults.items() if found}
    assert asked and min(asked.values()) >= 3
    for path in (ROOT / "benchmarks").glob("*.md"):
        if "±" in path.read_text():
            assert max(map(int, re.findall(r"(\d+) seeds", path.read_text())), default=0) >= 3, path.name


def figures(tree: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of a summary but the macro averages, which lie within one."""
    for key, value in tree.items():
        if isinstance(value, dict) and "value" in value:
            yield f"{name}.{key}", value
        elif isinstance(value, dict):
            yield from figures(value, f"{name}.{key}")


def test_7_every_figure_says_of_how_many_images_and_classes(data: Path) -> None:
    labels = read_labels(data)
    truth = truth_of(ShardSet(data, "test").taxon_ids, labels)  # five species, one photograph known to a genus
    logits = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    scores = {name: score(logits, truth.leaf, truth.nodes, labels.node_of_leaf) for name in ("teacher", "student")}
    seen = np.array([True, True, False, False, True, True])
    strata: dict[tuple[str, ...], np.ndarray] = {("seen",): seen, ("unseen",): ~seen}
    found = dict(figures(summarise(scores, truth.nodes, np.arange(6), strata, ("teacher",), 20, 0)))
    assert len(found) > 30
    for name, figure in found.items():
        assert isinstance(figure["n_images"], int) and isinstance(figure["n_classes"], int), name
        assert figure["n_classes"] <= figure["n_images"] <= 6, name
    assert (found[".student.top1"]["n_images"], found[".student.top1"]["n_classes"]) == (5, 5)
    assert (found[".student.per_rank.genus"]["n_images"], found[".student.per_rank.genus"]["n_classes"]) == (6, 3)


def test_8_a_bundle_names_what_it_was_made_of_by_content(data: Path, tmp_path: Path) -> None:
    write_json(data / "teacher" / "model" / "teacher.json", {"identity": "teacher-a", "name": "t", "licence": "mit"})
    write_json(data / "prune" / "model" / "student.json", {"architecture": "a", "initial_weights": None})
    (data / "index" / "ATTRIBUTION.csv").write_text("key,file,taxon,licence,attribution\n")
    spec = preprocessing(32)

    def made(folder: str, weights: bytes) -> dict[str, Any]:
        model, made = tmp_path / folder, tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
        for path in (model, made):
            path.mkdir(exist_ok=True)
        quantized.save(model, nodes, {"w": np.frombuffer(weights, np.uint8).astype(np.float32)}, {})
        write_json(model / FILE, spec)
        write_json(made / "model.json", {"weightsManifest": [], "modelTopology": {"node": []}})
        text = convert._text(data)
        table = bundle.make_table(data, text, None)
        sure = {"temperature": 1.0, "thresholds": None, "off_list": None, "photographs": 0}
        convert._describe(made, data, convert._read_model(model), text, convert._Table(table, None), sure, None)
        return dict(read_json(made / "bundle.json"))

    nodes: dict[str, Any] = {"input": {"name": "x", "shape": [3, 32, 32]}, "output": "x", "nodes": []}
    first = made("final", b"weights")
    assert first["provenance"]["teacher_identity"] == "teacher-a" and first["preprocess"] == spec
    assert made("renamed", b"weights") == first
    other = made("final", b"strange")  # as many
    assert {key for key in first if first[key] != other[key]} == {"provenance"}
    changed = {key for key, value in first["provenance"].items() if other["provenance"][key] != value}
    assert changed == {"weights_sha256"}
    taxa = read_table(data / "index" / "taxa.parquet").to_pylist()
    taxa[0]["common_name"] = "Northern Gannet"
    lessons.write_table(data / "index" / "taxa.parquet", lessons.pa.Table.from_pylist(taxa))
    assert made("final", b"weights")["provenance"]["taxonomy_sha256"] != first["provenance"]["taxonomy_sha256"]
    write_json(data / "teacher" / "model" / "teacher.json", {"identity": "teacher-b", "name": "t", "licence": "mit"})
    with pytest.raises(UserError, match="another teacher"):
        made("final", b"weights")


def test_9_the_web_model_is_what_node_says_of_the_jpegs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = read_labels(data)
    model, folder = data / "quantize" / "model", data / "convert" / "tfjs"
    for path in (model, folder):
        path.mkdir(parents=True)
    (model / quantized.WEIGHTS_FILE).write_bytes(b"weights")
    about: dict[str, Any] = {"taxa": [{"id": taxon, "rank": "species"} for taxon in labels.ids]}
    about |= {"text": {"file": "taxa.bin"}, "temperature": 1.0, "thresholds": None}
    about["provenance"] = {"weights_sha256": web_variants._sha256(model / quantized.WEIGHTS_FILE)}
    about |= {"temperature": 1.0, "thresholds": {"level": 0.95, "ranks": {}}}
    write_json(folder / "bundle.json", about)
    (folder / "taxa.bin").touch()
    said = np.arange(30, dtype="<f4").reshape(6, 5)
    asked: list[str] = []

    def node(program: str, arguments: list[str], what: str) -> None:
        asked.extend(arguments)
        prefix = arguments[arguments.index("--raw") + 1]
        latency = {"median": 1.0, "min": 1.0, "runs": 3}
        keys = ShardSet(data, "test").keys
        about_run = {"keys": keys, "rows": 6, "taxa": 5, "embedding": 2, "latency_ms": latency, "backend": "wasm"}
        write_json(f"{prefix}.json", about_run)
        said.tofile(f"{prefix}.logits.f32")
        said[:, :2].tofile(f"{prefix}.embeddings.f32")

    monkeypatch.setattr(javascript, "node", node)
    # What a simulation would need is not there.
    monkeypatch.setattr(quantized, "load", lambda _: ({}, {}))
    monkeypatch.setattr(execution, "macs", lambda *_: 0)
    answers = web_variants.tfjs({"latency_runs": 3}, data, ["test-00000"], labels)
    blocks = list(answers.blocks)
    np.testing.assert_array_equal(np.concatenate([block.logits for block in blocks]), said)
    np.testing.assert_array_equal(np.concatenate([block.embeddings for block in blocks]), said[:, :2])
    assert asked[:2] == [str(folder), str(data / "shard" / "test-00000.tar")]
    assert "Node" in answers.costs()["latency_ms"]["runtime"]


def test_10_an_architecture_without_weights_is_no_teacher(tmp_path: Path) -> None:
    params = {**lessons.TEACHER, "kind": "pretrained", "allow_research_only": False}
    params["pretrained"] = {"model": "ViT-B-32", "weights": None, "revision": None, "preprocess": None}
    with pytest.raises(UserError, match="only an architecture"):
        teacher.run(params, tmp_path)
    assert not (tmp_path / "teacher").exists()


def test_10_no_damaged_photograph_is_passed_over_in_silence(tmp_path: Path) -> None:
    silent = [
        (path.name, ast.unparse(handler.type) if handler.type else "")
        for path in sorted(PACKAGE.rglob("*.py"))
        for handler in ast.walk(ast.parse(path.read_text()))
        if isinstance(handler, ast.ExceptHandler)
        and all(isinstance(line, ast.Pass | ast.Continue) for line in handler.body)
    ]
    wide = [found for found in silent if re.search(r"^$|Exception|BadImage|OSError|UserError", found[1])]
    assert wide == [("contact_sheet.py", "(BadImage, OSError)")]  # which shows some photographs, and nothing reads
    folder = garden(tmp_path / "photographs")
    (folder / "daisy" / "3.jpg").write_bytes((folder / "daisy" / "3.jpg").read_bytes()[:300])
    index.run(folder_params(folder), tmp_path / "data")
    (reject,) = read_table(tmp_path / "data" / "index" / "rejects.parquet").to_pylist()
    assert reject["locator"] == "daisy/3.jpg" and reject["reason"]
    # Damaged later, it stops what reads it.
    shard.run(COUNTS, tmp_path / "data")
    tar = tmp_path / "data" / "shard" / "train-00000.tar"
    entry = open_shard(tar)[0]
    content = bytearray(tar.read_bytes())
    content[slice(entry.image[0], sum(entry.image))] = bytes(entry.image[1])
    tar.write_bytes(content)
    with pytest.raises(BadImage):
        list(loading.plain_pixels(ShardSet.of(tar), preprocessing(32)))


def test_11_a_pruned_student_is_an_ordinary_model_with_a_measured_gain(tmp_path: Path) -> None:
    name, size = "mobilenetv4_conv_small_050", 32
    whole = student(name, {}, size)
    pruned = pruning.prune(whole, images(8, size), *pruning.limit(whole, size, {"macs": 0.5}), round_to=8)
    spec = {**students.student_spec(name, {}, 16, size), "reparameterized": True}
    students.save_student(tmp_path / "model", pruned, spec, preprocessing(size))
    loaded, _, _ = students.load_student(tmp_path / "model")
    pixels = images(4, size)
    with torch.no_grad():
        assert torch.equal(loaded(pixels), pruned.eval()(pixels))
    # Whoever loads it needs neither the library nor the code that pruned it.
    assert not any("compression" in path for path in closure("models.students"))
    assert "torch_pruning" not in (PACKAGE / "models/students.py").read_text()
    before, after = prune._costs(whole, size), prune._costs(pruned, size)
    assert after["macs"] <= 0.5 * before["macs"] and after["params"] < before["params"]
    assert all(costs["latency_ms"]["median"] > 0 and costs["latency_ms"]["n"] > 1 for costs in (before, after))


def test_12_research_only_weights_are_refused_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = hub.Published("apple/MobileCLIP2-S0", {"model_cfg": {}}, tmp_path, "apple-amlr", "a" * 40)
    monkeypatch.setattr(hub, "find", lambda *_: published)
    params = {**lessons.TEACHER, "kind": "pretrained", "allow_research_only": False}
    params["pretrained"] = {"model": "MobileCLIP2-S0", "weights": "dfndr2b", "revision": None, "preprocess": None}
    params["ensemble"] = [{"name": "second", "seed": 1}]
    for job in (None, "model", "second"):
        with pytest.raises(UserError, match=r"apple-amlr, allows research only, .* inherits"):
            teacher.run(params, tmp_path, job)
    assert not (tmp_path / "teacher").exists()
    # As a student's initial weights, too.
    with pytest.raises(UserError, match=r"distill\.weights: .* inherits that; set distill\.allow_research_only"):
        hub.refuse_research_only("hf-hub:apple/MobileCLIP2-S0", "apple-amlr", "distill.weights")
