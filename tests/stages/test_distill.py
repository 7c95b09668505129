import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bioclip_lite.models import students, text_towers
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.stages import distill
from bioclip_lite.teacher_cache import reader, store, synthetic_captions
from bioclip_lite.texts import text_types
from bioclip_lite.training import checkpoint, distillation, losses, text_distillation, trainer
from bioclip_lite.training.cached_batches import CachedBatches, Captions
from bioclip_lite.training.validation import Validation, predictor
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table
from support import lessons

PARAMS = lessons.DISTILL
FILES = {"student.json", "model.safetensors", "preprocess.json"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lessons.make_cache(lessons.make_data(tmp_path_factory.mktemp("data")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("weights", [None, "student.safetensors"])
def test_a_control_of_many_taxa_learns_labels_against_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], weights: str | None
) -> None:
    """And nothing of what the teacher says of photographs: other answers of it give the same control."""
    monkeypatch.setattr(students, "parameters", lambda _spec: (3000, 1281))
    data = lessons.make_cache(lessons.make_data(tmp_path))
    (data / "weights").mkdir()
    torch.manual_seed(0)
    published = students.build_student(students.student_spec(PARAMS["student"], {}, 3, 32))
    save_file(published.state_dict(), data / "weights" / "student.safetensors")
    params: Any = {**PARAMS, "control": "auto", "weights": weights}
    distill.run(params, data, "control")
    made = contents(data / "distill" / "control")
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    other = lessons.unit(np.random.default_rng(1).normal(size=taxa.text.shape))
    for split in ("train", "val"):
        for name in shard_names(data, split):
            lessons.write_cached(data, name, other, taxa.taxon_ids, taxa.teacher)
    distill.run(params, data, "control")
    assert contents(data / "distill" / "control")["model.safetensors"] == made["model.safetensors"]
    spec = read_json(data / "distill" / "control" / "student.json")
    sizes = {"instead_of_parameters": 5 * 1281, "student_parameters": 3000}
    assert (spec["outputs"], spec["trained_on"], spec["fixed_classifier"]) == (lessons.D, "teacher-a", sizes)
    assert "the teacher's text embeddings, fixed, take its place" in capsys.readouterr().out


def test_parameters_of_a_network_and_of_one_more_output() -> None:
    spec = students.student_spec(PARAMS["student"], {}, lessons.D, 32)
    total, each = students.parameters(spec)
    model = students.build_student(spec)
    assert total == sum(parameter.numel() for parameter in model.parameters())
    assert each == model.get_classifier().in_features + 1  # type: ignore[operator]


def test_student_and_control_are_complete_and_two_runs_are_one(data: Path) -> None:
    distill.run(PARAMS, data)
    first = contents(data / "distill")
    assert set(first) == {
        *(f"model/{name}" for name in FILES),
        *(f"control/{name}" for name in FILES),
        "history.parquet",
        "control/history.parquet",
    }
    distill.run({**PARAMS, "control": "auto"}, data, "control")  # of five taxa the same
    distill.run(PARAMS, data, "student")
    assert contents(data / "distill") == first

    spec = read_json(data / "distill" / "model" / "student.json")
    assert spec == {
        "architecture": "mobilenetv4_conv_small_035",
        "options": {},
        "outputs": lessons.D,
        "image_size": 32,
        "reparameterized": True,
        "shapes": {},
        "trained_on": "teacher-a",
        "initial_weights": None,
        "teachers": ["model"],
    }
    control = read_json(data / "distill" / "control" / "student.json")
    assert (control["outputs"], control["trained_on"], control["teachers"]) == (5, None, [])
    model, _, preprocess = students.load_student(data / "distill" / "model")
    assert preprocess == preprocessing(32)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, lessons.D)
    for history in (data / "distill" / "history.parquet", data / "distill" / "control" / "history.parquet"):
        assert len(read_table(history)) == PARAMS["epochs"]


def test_initial_weights_from_a_file_and_their_absence(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    given = students.build_student(students.student_spec(PARAMS["student"], {}, 77, 32))
    (data / "weights").mkdir(exist_ok=True)
    save_file(given.state_dict(), data / "weights" / "given.safetensors")
    slow = {**PARAMS, "weights": "given.safetensors", "epochs": 1, "learning_rate": 1e-9}
    distill.run(slow, data, "student")
    assert "random: classifier.bias, classifier.weight" in capsys.readouterr().out
    made = students.load_student(data / "distill" / "model")[0].state_dict()["conv_stem.weight"]
    torch.testing.assert_close(made, given.state_dict()["conv_stem.weight"], atol=1e-6, rtol=0)
    with pytest.raises(UserError, match=r"absent\.safetensors does not exist"):
        distill.run({**PARAMS, "weights": "absent.safetensors"}, data, "student")


def test_a_head_that_the_file_brings_is_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    given = students.build_student(students.student_spec(PARAMS["student"], {}, lessons.D, 32))
    (data / "weights").mkdir(exist_ok=True)
    save_file(given.state_dict(), data / "weights" / "whole.safetensors")
    opened = []
    cached = reader.CachedSplit

    def watched(*names: Any) -> reader.CachedSplit:
        opened.append(names[1])
        return cached(*names)

    for module in (reader, distillation):
        monkeypatch.setattr(module, "CachedSplit", watched)
    slow = {**PARAMS, "weights": "whole.safetensors", "epochs": 1, "learning_rate": 1e-9}
    distill.run(slow, data, "student")
    made = students.load_student(data / "distill" / "model")[0].state_dict()
    for name in ("classifier.weight", "classifier.bias", "conv_stem.weight"):
        torch.testing.assert_close(made[name], given.state_dict()[name], atol=1e-6, rtol=0)
    assert opened == [("train",), "val"]  # once each


def test_the_second_stage_starts_from_the_first_and_mixes_by_validation(tmp_path: Path) -> None:
    data = lessons.make_cache(lessons.make_data(tmp_path / "data"))
    distill.run(PARAMS, data, "student")
    single = contents(data / "distill" / "model")
    two = {**PARAMS, "finetune": {"epochs": 2, "learning_rate": 0.001, "warm_up": 0.1}}
    distill.run(two, data, "student")
    assert contents(data / "distill" / "first") == single
    distill.run(two, data, "finetune")
    made = contents(data / "distill")
    distill.run(two, data)
    assert {name: content for name, content in contents(data / "distill").items() if "control" not in name} == made

    chosen = read_json(data / "distill" / "interpolation.json")
    curve = {row["share"]: row for row in chosen["curve"]}
    assert sorted(curve) == [n / 10 for n in range(11)]
    best = max(row["val_top1"] for row in curve.values())
    assert curve[chosen["share"]]["val_top1"] == best
    first = students.load_student(data / "distill" / "first")[0]
    model = students.load_student(data / "distill" / "model")[0]
    val = reader.CachedSplit(data, "val")
    measured = Validation(predictor(model, "auto"), data, val, preprocessing(32))()
    assert measured["val_nll"] == pytest.approx(curve[chosen["share"]]["val_nll"], rel=1e-4)
    measured = Validation(predictor(first, "auto"), data, val, preprocessing(32))()
    assert measured["val_nll"] == pytest.approx(curve[0.0]["val_nll"], rel=1e-4)
    with pytest.raises(UserError, match=r"no job 'finetune'; its jobs are student, control$"):
        distill.run(PARAMS, data, "finetune")


def test_a_text_tower_learns_beside_the_image_tower(tmp_path: Path) -> None:
    data = lessons.make_cache(lessons.make_data(tmp_path / "data"))
    lessons.write_texts(data)
    tower = {"kind": "transformer", "width": 64, "layers": 1, "batch_affinity": 0.1}
    params = {**PARAMS, "text_tower": tower, "epochs": 30, "affinity": 0.0, "cosine": 0.0}
    distill.run(params, data, "student")
    first = contents(data / "distill" / "text")
    history = read_table(data / "distill" / "history.parquet").to_pylist()
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert "val_text_top1" in history[-1]
    text, tokenizer, about = text_towers.load_text(data / "distill" / "text")
    assert about["trained_on"] == "teacher-a"
    names = [text_types.caption(path, None, "sci") for path in lessons.PATHS[:5]]
    with torch.inference_mode():
        said = torch.nn.functional.normalize(text(tokenizer(names)), dim=-1).numpy()
    taught = store.read_taxa(data / "logits" / "taxa.safetensors").text
    assert ((said @ taught.T).argmax(1) == range(5)).all()  # it knows all names
    # The image tower trains with the captions: not the same student as without them.
    distill.run({**params, "epochs": 1}, data, "student")
    with_text = contents(data / "distill" / "model")
    distill.run({**PARAMS, "epochs": 1}, data, "student")
    assert contents(data / "distill" / "model") != with_text
    assert first != contents(data / "distill" / "text")
    lessons.write_texts(data, "teacher-b")
    with pytest.raises(UserError, match="--forcerun embed_texts"):
        distill.run(params, data, "student")


def test_a_text_tower_learns_what_captioners_say_only_if_asked(tmp_path: Path) -> None:
    data = lessons.make_cache(lessons.make_data(tmp_path / "data"))
    lessons.write_texts(data)
    lessons.write_synthetic(data)
    tower: Any = {"kind": "transformer", "width": 64, "layers": 1, "batch_affinity": 0.1}
    towers = []
    for more in ({}, {"synthetic": {"captioners": ["coca"], "share": 0.5}}):
        distill.run({**PARAMS, "text_tower": {**tower, **more}, "epochs": 1}, data, "student")
        towers.append(contents(data / "distill" / "text"))
    assert towers[0].keys() == towers[1].keys() and towers[0] != towers[1]


def test_the_share_of_synthetic_captions_is_what_was_asked_for(tmp_path: Path) -> None:
    data = lessons.add_unlabelled(lessons.make_cache(lessons.make_data(tmp_path / "data")), 4)
    lessons.write_texts(data)
    said = {name: lessons.write_synthetic(data, name) for name in ("coca", "git")}

    def objective(share: float, *captioners: str) -> text_distillation.TwoTowerDistillation:
        options = distillation.Options(
            stage="distill",
            job="student",
            preprocess=preprocessing(32),
            seed=0,
            splits=("train", "unlabelled"),
            captioners=captioners,
            synthetic_share=share,
            **trainer.chosen(PARAMS),
        )
        spec = students.student_spec("mobilenetv4_conv_small_035", {}, lessons.D, 32)
        tower = text_towers.build("transformer", 64, 1, lessons.D, text_towers.CONTEXT, "x")
        # A token for each caption, so that the captions of a batch can be read from their tokens.
        return text_distillation.TwoTowerDistillation(students.build_student(spec), tower, _spelt, data, options)

    none, half, whole = objective(0.0), objective(0.5, "coca", "git"), objective(1.0, "coca", "git")
    labelled = [i for i, taxon in enumerate(half.photographs.train.images.taxon_ids) if taxon]
    keys = half.photographs.train.images.keys
    drawn: dict[str, list[int]] = {"coca": [], "git": []}
    for epoch in range(40):
        tokens, target = _drawn(half, labelled, epoch)
        captions = [_read(row) for row in tokens]
        assert target.shape == (len(captions), lessons.D)
        for name, own in said.items():
            spoken = [text for text in captions if text.startswith(name)]
            drawn[name].append(len({*spoken}))
            assert {text.rpartition(" ")[2] for text in spoken} <= {*keys} - {
                k for k, both in own.items() if not both[0]
            }
        again, target_again = _drawn(half, labelled, epoch)
        assert torch.equal(tokens, again) and torch.equal(target, target_again)
    expected = 40 * 0.5 * sum(bool(both[0]) for both in said["coca"].values())
    assert sum(map(sum, drawn.values())) == pytest.approx(expected, rel=0.1)
    assert sum(drawn["coca"]) == pytest.approx(expected / 2, rel=0.15)
    # Whatever is not said of the photograph is said of its taxon; without a share that is all.
    assert all(_read(row).startswith("a photo of") for row in _drawn(none, labelled, 0)[0])
    silent = [i for i in labelled if not said["coca"][keys[i]][0]]
    assert all(_read(row).startswith("a photo of") for row in _drawn(whole, silent, 0)[0])
    one = next(i for i in labelled if i not in silent)
    (row,), (target,) = _drawn(whole, [one], 3)
    shard, place = whole.photographs.train.images.locate(one)
    own_keys = [part.list_keys() for part in whole.photographs.train.images.shards]
    read = synthetic_captions.read_all(data, ["coca", "git"], ["train-00000", "train-00001"], own_keys, "teacher-a")
    cached = dict(caption for captions in read[shard] for caption in captions.of(place))
    np.testing.assert_array_equal(target.numpy(), cached[_read(row)].astype(np.float32))
    assert (
        sum("texts/" in file.as_posix() for file in whole.files()) == 4 and len(none.files()) == len(whole.files()) - 4
    )

    lessons.write_synthetic(data, "git", "teacher-b")
    with pytest.raises(UserError, match=r"texts/git/.* was embedded by teacher teacher-b, .*--forcerun embed_captions"):
        objective(0.5, "coca", "git")
    path = synthetic_captions.path(data, "coca", "train-00001")
    path.write_bytes(synthetic_captions.path(data, "coca", "train-00000").read_bytes())
    with pytest.raises(UserError, match="other photographs than the shard"):
        objective(0.5, "coca")
    path.write_bytes((data / "logits" / "texts.safetensors").read_bytes())
    with pytest.raises(UserError, match="does not hold captions of photographs"):
        objective(0.5, "coca")


def _drawn(objective: text_distillation.TwoTowerDistillation, rows: list[int], epoch: int) -> Captions:
    """What the loader's workers draw for a batch of these photographs."""
    draw = objective.photographs.taught.captions
    assert draw
    drawn = draw(epoch, [(i, 0) for i in rows])
    assert drawn
    return drawn


def _spelt(texts: list[str]) -> torch.Tensor:
    """A tokenizer whose tokens are the letters."""
    return torch.tensor([[*text.encode().ljust(text_towers.CONTEXT, b" ")][: text_towers.CONTEXT] for text in texts])


def _read(tokens: torch.Tensor) -> str:
    return bytes(tokens.tolist()).decode().strip()


def test_mixing_is_linear_in_the_weights() -> None:
    before = {"w": torch.tensor([0.0, 2.0]), "n": torch.tensor(3)}
    after = {"w": torch.tensor([1.0, 4.0]), "n": torch.tensor(9)}
    assert torch.equal(distill.mixed(before, after, 0.25)["w"], torch.tensor([0.25, 2.5]))
    assert torch.equal(distill.mixed(before, after, 0.0)["w"], before["w"])
    assert int(distill.mixed(before, after, 0.5)["n"]) == 9


def test_a_stopped_job_leaves_a_checkpoint_and_no_output(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distill.run(PARAMS, data, "control")
    undisturbed = contents(data / "distill" / "control")
    shutil.rmtree(data / "distill")
    with monkeypatch.context() as patch, pytest.raises(checkpoint.Stopped):
        patch.setenv(checkpoint.END_TIME, "0")
        distill.run(PARAMS, data, "control")
    assert list(contents(data / "distill")) == [".partial-control/checkpoint.safetensors"]
    distill.run(PARAMS, data, "control")
    assert contents(data / "distill") == {f"control/{name}": content for name, content in undisturbed.items()}


def test_a_student_that_cannot_be_shipped_is_refused_before_its_training(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(distillation, "train")
    with pytest.raises(UserError, match=r"operations that cannot be shipped: .*Choose another student"):
        distill.run(PARAMS | {"student": "levit_128s", "image_size": 224}, data, "student")


def test_bad_jobs_and_missing_caches_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="student, control"):
        distill.run(PARAMS, data, "teacher")
    with pytest.raises(UserError, match=r"taxa\.safetensors is missing"):
        distill.run(PARAMS, lessons.make_data(tmp_path))


@pytest.mark.parametrize(
    ("value", "says"), [(torch.nan, "are no number"), (0.0, "are zero"), (1.0, "the same embedding")]
)
def test_a_student_that_tells_nothing_apart_is_not_written(data: Path, value: float, says: str) -> None:
    def answer(pixels: torch.Tensor) -> torch.Tensor:
        return torch.full((len(pixels), lessons.D), value)

    student: Any = SimpleNamespace(
        validation=SimpleNamespace(val=reader.CachedSplit(data, "val")),
        options=SimpleNamespace(job="student", preprocess=preprocessing(32)),
    )
    model: Any = answer
    with pytest.raises(UserError, match=f"distill: the student: .* {says}"):
        distill._check(model, student)


# ---- photographs without labels


def test_photographs_without_labels_change_the_student_alone_and_only_if_asked(data: Path, tmp_path: Path) -> None:
    distill.run(PARAMS, data)
    before = contents(data / "distill")
    more = tmp_path / "data"
    shutil.copytree(data, more, ignore=shutil.ignore_patterns("distill"))
    lessons.add_unlabelled(more, 20)
    distill.run(PARAMS, more)
    assert contents(more / "distill") == before
    asked: Any = {**PARAMS, "splits": ["train", "unlabelled"], "labels": 1.0}
    distill.run(asked, more)
    taught = contents(more / "distill")
    assert {name for name in before if before[name] != taught[name]} == {"model/model.safetensors", "history.parquet"}
    distill.run(asked, more, "student")
    assert contents(more / "distill") == taught


def test_a_text_tower_learns_beside_photographs_without_labels(tmp_path: Path) -> None:
    data = lessons.add_unlabelled(lessons.make_cache(lessons.make_data(tmp_path / "data")), 40)
    lessons.write_texts(data)
    tower: Any = {"kind": "transformer", "width": 64, "layers": 1, "batch_affinity": 1.0}
    # Batches of 2, so that some have no label at all.
    asked: Any = {**PARAMS, "splits": ["train", "unlabelled"], "text_tower": tower, "batch_size": 2, "epochs": 1}
    distill.run(asked, data, "student")
    (row,) = read_table(data / "distill" / "history.parquet").to_pylist()
    assert row["val_text_top1"] >= 0 and 0 < row["loss"] < 100


def test_what_has_no_label_adds_nothing_to_a_loss_over_labels(tmp_path: Path) -> None:
    data = lessons.add_unlabelled(lessons.make_cache(lessons.make_data(tmp_path / "data")), 4)
    split = reader.CachedSplit(data, ("train", "unlabelled"))
    batches = CachedBatches(data, split, preprocessing(32), 8, 100, (0, "distill"), labels=True)
    assert len(split.images) == batches.size * batches.steps == 40
    rows = [i for i, taxon in enumerate(split.images.taxon_ids) if taxon is None]
    assert len(rows) == 4 and split.view(rows[0], 2).any()
    logits = torch.randn(5, len(batches.taught.leaves), requires_grad=True)
    under = losses.under(batches.taught.ranges([(i, 0) for i in (0, *rows)]), logits.shape[1])
    loss = losses.taxon_nll(logits, under)
    loss.backward()
    alone = losses.taxon_nll(logits[:1], under[:1])
    assert loss.item() == pytest.approx(alone.item() / 5, abs=1e-6)
    assert logits.grad is not None and logits.grad[1:].abs().max() < 1e-6 < logits.grad[0].abs().max()


def test_caches_of_different_views_do_not_mix(tmp_path: Path) -> None:
    data = lessons.add_unlabelled(lessons.make_cache(lessons.make_data(tmp_path / "data")), 4)
    shard = store.read_shard(data / "logits" / "unlabelled-00000.safetensors")
    encoded = {"embeddings": np.array(shard.embeddings[:, :1])}
    store.write_shard(
        shard.path, shard.keys, np.array(shard.images), np.array(shard.views[:, :1]), encoded, shard.identity
    )
    with pytest.raises(UserError, match="train and unlabelled have different numbers of views"):
        reader.CachedSplit(data, ("train", "unlabelled"))
