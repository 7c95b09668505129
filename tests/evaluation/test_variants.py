"""How variants answer, with real (random) models, and what an answer is said to cost."""

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from bioclip_lite.evaluation import fitting, predictions, variants
from bioclip_lite.evaluation.predictions import Answers, Block
from bioclip_lite.metrics.ranks import softmax
from bioclip_lite.models import costs, students, teachers
from bioclip_lite.photographs.preprocess import preprocess, preprocessing
from bioclip_lite.photographs.shards import ShardSet, shard_paths
from bioclip_lite.predicting import models
from bioclip_lite.stages import evaluate
from bioclip_lite.taxa.label_space import Labels, read_labels
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, write_json
from support.fake_data import save_teacher
from support.fake_evaluation import PARAMS, write_data

DIMENSIONS = 6
TEACHER = "f" * 64
SHARDS = ["calibration-00000", "test-00000"]


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    """A folder with photographs and a taxon text matrix, but no predictions."""
    write_data(tmp_path, species=4, images=20, known_to_genus=0, variants=())
    labels = read_labels(tmp_path)
    text = np.random.default_rng(0).normal(size=(len(labels.ids), DIMENSIONS)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    store.write_taxa(tmp_path / "logits" / "taxa.safetensors", labels.ids, text, 20.0, TEACHER, "taxon")
    return labels


def save_student(folder: Path, outputs: int, trained_on: str | None) -> nn.Module:
    torch.manual_seed(0)
    spec = students.student_spec("test_byobnet", {}, outputs, 32, trained_on)
    model = students.build_student(spec).eval()
    students.save_student(folder, model, spec, preprocessing(32))
    return model


def answers(data: Path, variant: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Logits by key, and costs."""
    found = variants.answers(variant, PARAMS, data, SHARDS, read_labels(data))
    costs = found.costs()
    return dict(zip(found.keys, np.concatenate([block.logits for block in found.blocks]), strict=True)), costs


def test_a_student_answers_in_the_space_of_its_teacher(tmp_path: Path, labels: Labels) -> None:
    model = save_student(tmp_path / "distill" / "model", DIMENSIONS, TEACHER)
    found, cost = answers(tmp_path, "student")
    shards = ShardSet(tmp_path, "test")
    calibration = ShardSet(tmp_path, "calibration")
    assert sorted(found) == sorted([*calibration.keys, *shards.keys]) and len(shards) == 80  # more than one batch
    text = store.read_taxa(tmp_path / "logits" / "taxa.safetensors").text
    for row in (0, 79):
        pixels = torch.from_numpy(preprocess(shards.image(row), preprocessing(32)))[None]
        with torch.inference_mode():
            embedding = nn.functional.normalize(model(pixels), dim=1).numpy()
        np.testing.assert_allclose(found[shards.keys[row]], 20 * (embedding @ text.T)[0], atol=1e-3)
    assert cost["params"] > 0 and cost["macs"] > 0 and cost["table_bytes"] == len(labels.ids) * DIMENSIONS * 4
    assert cost["bytes"] == (tmp_path / "distill" / "model" / "model.safetensors").stat().st_size
    latency = cost["latency_ms"]
    assert 0 < latency["min"] <= latency["median"] and (latency["n"], latency["threads"], latency["batch"]) == (3, 1, 1)


def test_what_is_kept_is_that_of_the_logits(tmp_path: Path, labels: Labels) -> None:
    save_student(tmp_path / "distill" / "model", DIMENSIONS, TEACHER)
    found, _ = answers(tmp_path, "student")
    evaluate.run(PARAMS, tmp_path, "student")
    stored = predictions.read(tmp_path / "evaluate" / "predictions", ["student"], ["test-00000"])["student"]
    ((keys, columns),) = stored.columns()
    logits = np.stack([found[key] for key in keys])
    np.testing.assert_array_equal(columns["top"], np.argsort(-logits, axis=1, kind="stable"))
    scaled = np.exp(logits.astype(np.float64) / stored.costs["calibration"]["temperature"])
    np.testing.assert_allclose(columns["probability"], (scaled / scaled.sum(axis=1, keepdims=True)).max(axis=1))
    (_, _), (names, embeddings) = stored.embeddings()
    text = store.read_taxa(tmp_path / "logits" / "taxa.safetensors").text
    assert names == keys
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(20 * embeddings @ text.T, logits, atol=0.03)


def test_two_runs_give_the_same_predictions(tmp_path: Path, labels: Labels) -> None:
    save_student(tmp_path / "distill" / "model", DIMENSIONS, TEACHER)
    path = tmp_path / "evaluate" / "predictions" / "student" / "test-00000.safetensors"
    evaluate.run(PARAMS, tmp_path, "student")
    first = path.read_bytes()
    evaluate.run(PARAMS, tmp_path, "student")
    assert path.read_bytes() == first


def test_what_is_not_held_is_computed_again(tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep only a summary of the calibration photographs' logits between the two looks at them, with many taxa."""
    save_student(tmp_path / "distill" / "model", DIMENSIONS, TEACHER)
    evaluate.run(PARAMS, tmp_path, "student")
    files = sorted((tmp_path / "evaluate" / "predictions").rglob("*.safetensors"))
    first = [path.read_bytes() for path in files]
    monkeypatch.setattr(fitting, "_HELD", 100)
    evaluate.run(PARAMS, tmp_path, "student")
    assert [path.read_bytes() for path in files] == first and len(files) == 2


def test_the_student_before_its_fine_tuning_is_another(tmp_path: Path, labels: Labels) -> None:
    save_student(tmp_path / "distill" / "model", DIMENSIONS, TEACHER)
    shutil.copytree(tmp_path / "distill" / "model", tmp_path / "distill" / "first")
    weights = load_file(file := tmp_path / "distill" / "first" / "model.safetensors")
    save_file({name: np.roll(array, 1) for name, array in weights.items()}, file)
    both = [variants.answers(name, PARAMS, tmp_path, ["test-00000"], labels) for name in ("student", "first")]
    student, first = (np.concatenate([block.logits for block in found.blocks]) for found in both)
    assert student.shape == first.shape and np.abs(student - first).max() > 0.1


def test_a_further_teacher_answers_in_its_own_space(tmp_path: Path, labels: Labels) -> None:
    for name, width in (("model", 16), ("second", 8)):
        save_teacher(tmp_path, name, width=width)
        identity = teachers.load_teacher(tmp_path / "teacher" / name).identity
        folder = store.folder(tmp_path, name)
        text = np.eye(len(labels.ids), width, dtype=np.float32)
        store.write_taxa(folder / "taxa.safetensors", labels.ids, text, 10.0, identity, "taxon")
        for split in ("calibration", "test"):
            (shard,) = shard_paths(tmp_path, split)
            keys = ShardSet.of(shard).keys
            encoded = store.encode(np.eye(width, dtype=np.float32)[np.arange(len(keys)) % width, None], "float16")
            of = {"teacher": identity, "precision": "float16"}
            views = np.zeros((len(keys), 1, 1))
            store.write_shard(folder / f"{shard.stem}.safetensors", keys, np.arange(len(keys)), views, encoded, of)
    alone = [variants.answers(f"teacher{name}", PARAMS, tmp_path, SHARDS, labels) for name in ("", "-second")]
    chances = [softmax(np.concatenate([block.logits for block in one.blocks])) for one in alone]
    both: Any = {**PARAMS, "also": ["teacher-second", "ensemble"]}
    together = variants.answers("ensemble", both, tmp_path, SHARDS, labels)
    logits = np.concatenate([block.logits for block in together.blocks])
    np.testing.assert_allclose(np.exp(logits), np.mean(chances, axis=0), atol=1e-6)
    assert together.keys == alone[0].keys and "latency_ms" not in together.costs()
    both["also"] = ["ensemble"]
    with pytest.raises(UserError, match="lists ensemble but no further teacher"):
        variants.answers("ensemble", both, tmp_path, SHARDS, labels)
    found = variants.answers("teacher-second", PARAMS, tmp_path, ["test-00000"], labels)
    blocks = list(found.blocks)
    assert [block.embeddings for block in blocks] == [None] * len(blocks)
    logits = np.concatenate([block.logits for block in blocks])
    np.testing.assert_array_equal(logits[:4, :4], 10 * np.eye(4))
    own = next(iter(variants.answers("teacher", PARAMS, tmp_path, ["test-00000"], labels).blocks))
    assert own.embeddings is not None and own.embeddings.shape[1] == 16
    towers = [teachers.load_teacher(tmp_path / "teacher" / name).model.visual for name in ("model", "second")]
    first, second = map(costs.parameters, towers)
    assert found.costs()["params"] == second != first


def test_a_student_of_another_teacher_is_refused(tmp_path: Path, labels: Labels) -> None:
    save_student(tmp_path / "prune" / "model", DIMENSIONS, "0" * 64)
    with pytest.raises(UserError, match=r"distilled from teacher 0000.* by ffff.*run stage prune again"):
        evaluate.run(PARAMS, tmp_path, "pruned")


def test_the_control_answers_without_the_text_matrix(tmp_path: Path, labels: Labels) -> None:
    save_student(tmp_path / "distill" / "control", len(labels.ids), None)
    (tmp_path / "logits" / "taxa.safetensors").unlink()
    found, cost = answers(tmp_path, "control")
    assert set(ShardSet(tmp_path, "test").keys) < set(found) and "table_bytes" not in cost


def test_a_control_without_a_classifier_answers_against_the_texts(tmp_path: Path, labels: Labels) -> None:
    folder = tmp_path / "distill" / "control"
    save_student(tmp_path / "distill" / "model", DIMENSIONS, TEACHER)
    save_student(folder, DIMENSIONS, TEACHER)
    sizes = {"instead_of_parameters": 9, "student_parameters": 5}
    write_json(folder / "student.json", read_json(folder / "student.json") | {"fixed_classifier": sizes})
    found, cost = answers(tmp_path, "control")
    same, _ = answers(tmp_path, "student")
    assert found.keys() == same.keys() and all(np.array_equal(found[key], same[key]) for key in found)
    assert cost["fixed_classifier"] == sizes and cost["table_bytes"] == len(labels.ids) * DIMENSIONS * 4
    evaluate.run(PARAMS, tmp_path, "control")
    stored = predictions.read(tmp_path / "evaluate" / "predictions", ["control"], ["test-00000"])["control"]
    assert stored.costs["fixed_classifier"] == sizes and not [*stored.embeddings()]
    assert "logits/taxa.safetensors" in models.hashes(tmp_path, "control")
    _, answer = variants.load(tmp_path, "control", labels)
    shards = ShardSet(tmp_path, "test")
    pixels = torch.from_numpy(preprocess(shards.image(0), preprocessing(32)))[None]
    np.testing.assert_allclose(answer(pixels).logits[0], found[shards.keys[0]], atol=1e-4)
    save_student(folder, DIMENSIONS, "e" * 64)
    with pytest.raises(UserError, match="was distilled from teacher eeeeeeeeeeee, but"):
        answers(tmp_path, "control")


def test_a_control_for_other_taxa_is_refused(tmp_path: Path, labels: Labels) -> None:
    save_student(tmp_path / "distill" / "control", len(labels.ids) + 1, None)
    with pytest.raises(UserError, match="has 5 outputs for the 4 leaves"):
        evaluate.run(PARAMS, tmp_path, "control")


def test_a_text_matrix_for_other_taxa_is_refused(tmp_path: Path, labels: Labels) -> None:
    text = np.eye(len(labels.ids), DIMENSIONS, dtype=np.float32)
    store.write_taxa(tmp_path / "logits" / "taxa.safetensors", labels.ids[::-1], text, 20.0, TEACHER, "taxon")
    save_student(tmp_path / "distill" / "model", DIMENSIONS, TEACHER)
    with pytest.raises(UserError, match="they differ; run stage logits again"):
        evaluate.run(PARAMS, tmp_path, "student")


@pytest.mark.parametrize("variant", ["teacher", "table", "student", "pruned", "int8", "tfjs", "control"])
def test_what_is_missing_is_named(tmp_path: Path, labels: Labels, variant: str) -> None:
    with pytest.raises(UserError, match="is missing"):
        evaluate.run(PARAMS, tmp_path, variant)
    assert not (tmp_path / "evaluate" / "predictions").exists()


def test_a_bundle_for_other_taxa_or_weights_is_refused(tmp_path: Path, labels: Labels) -> None:
    weights = tmp_path / "quantize" / "model" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    save_file({"w": np.zeros(1, np.float32)}, weights)
    bundle = tmp_path / "convert" / "tfjs" / "bundle.json"
    taxa = [{"id": taxon, "rank": "species"} for taxon in labels.ids]
    about = {"taxa": taxa, "text": {}, "provenance": {"weights_sha256": "0" * 64}}
    write_json(bundle, about)
    with pytest.raises(UserError, match="was not made from the weights in"):
        evaluate.run(PARAMS, tmp_path, "tfjs")
    for others in (taxa[1:], [*taxa, {"id": "0" * 16, "rank": "species"}]):
        write_json(bundle, {**about, "taxa": others})
        with pytest.raises(UserError, match="answers among other taxa"):
            evaluate.run(PARAMS, tmp_path, "tfjs")


def test_the_teacher_answers_from_the_table_that_ships(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, labels: Labels
) -> None:
    """In the order of the taxa, whatever that of the bundle."""
    order = [2, 0, 3, 1]
    taxa = [{"id": labels.ids[i], "ranks": list(labels.leaves[i]), "rank": "species"} for i in order]
    bundle = tmp_path / "convert" / "tfjs"
    write_json(bundle / "bundle.json", {"taxa": taxa, "text": {"file": "taxa.bin", "rows": 4, "columns": DIMENSIONS}})
    integers = np.arange(4 * DIMENSIONS, dtype=np.int8).reshape(4, DIMENSIONS)
    scales = np.array([1, 2, 3, 4], "<f4")
    (bundle / "taxa.bin").write_bytes(scales.tobytes() + integers.tobytes())
    seen: list[store.Taxa] = []

    def taught(params: object, data: object, shards: object, taxa: store.Taxa) -> Answers:
        seen.append(taxa)
        return Answers(
            ["a"],
            iter([Block(np.zeros((1, 4), np.float32), np.zeros((1, 2)))]),
            lambda: {"table_bytes": 96, "bytes": 7},
        )

    monkeypatch.setattr(variants, "_taught", taught)
    found = variants.table(PARAMS, tmp_path, ["test-00000"], labels)
    np.testing.assert_array_equal(seen[0].text[order], integers * scales[:, None])
    zipped = len(gzip.compress(scales.tobytes() + integers.tobytes(), 9))
    assert found.costs() == {"table_bytes": 4 * 4 + 4 * DIMENSIONS, "table_gzipped": zipped, "bytes": 7}
    block = next(found.blocks)
    np.testing.assert_array_equal(block.logits, np.zeros((1, 4)))
    assert block.embeddings is None  # they are the teacher's own


# ---- costs


def test_multiply_accumulates_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(288, 5))
    image = torch.zeros(1, 3, 8, 8)
    assert costs.macs(model, image) == 8 * 3 * 9 * 64 + 8 * 9 * 36 + 288 * 5
    assert costs.parameters(model) == (8 * 27 + 8) + (8 * 9 + 8) + (288 * 5 + 5)


def test_attention_is_counted() -> None:
    def attend(image: torch.Tensor) -> torch.Tensor:
        tokens = image.flatten(2).transpose(1, 2)  # 16 tokens of 3 numbers
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    assert costs.macs(attend, torch.zeros(1, 3, 4, 4)) == 2 * 16 * 16 * 3


def test_latency_leaves_the_number_of_threads_alone() -> None:
    before = torch.get_num_threads()
    costs.latency(nn.Identity(), torch.zeros(1, 3, 2, 2), 2)
    assert torch.get_num_threads() == before


def test_bytes_of_some_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"visual.a": np.zeros(3, np.float32), "text.b": np.zeros(5, np.float16)}, path, {"about": "x"})
    assert costs.tensors(path, "visual.") == {"bytes": 12, "gzipped": len(gzip.compress(bytes(12), 9))}
    assert costs.tensors(path)["bytes"] == 22


def test_every_file_is_gzipped_by_itself(tmp_path: Path) -> None:
    contents = [b"abc" * 1_000_000, np.random.default_rng(0).bytes(3 << 20), b""]  # more than is read at once; nothing
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    found = costs.files(sorted(tmp_path.iterdir()))
    assert found["bytes"] == sum(map(len, contents))
    assert found["gzipped"] == sum(len(gzip.compress(content, 9)) for content in contents)


def test_an_array_costs_what_a_file_of_it_would(tmp_path: Path) -> None:
    values = np.arange(600_000, dtype=np.float32).reshape(1000, 600)[:, ::2]  # not contiguous
    (tmp_path / "values").write_bytes(values.tobytes())
    assert costs.array(values) == costs.files([tmp_path / "values"])
    assert costs.of_table({"bytes": 1, "gzipped": 2}) == {"table_bytes": 1, "table_gzipped": 2}
