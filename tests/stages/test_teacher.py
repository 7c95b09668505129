import copy
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from open_clip.model import CLIP
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file, save_file
from torch import nn

from bioclip_lite.commands import why
from bioclip_lite.models import hub, students, teachers, tokenizers
from bioclip_lite.models.prompt_ensemble import embed_in_templates
from bioclip_lite.params import of_job
from bioclip_lite.photographs.preprocess import preprocess, preprocessing
from bioclip_lite.photographs.shards import ShardSet, shard_names
from bioclip_lite.stages import teacher
from bioclip_lite.teacher_cache import locked_tower
from bioclip_lite.training import contrastive, losses, trainer
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table
from bioclip_lite.utils.tensors import Tensors, write_tensors
from support import checkout, lessons, thin
from support.small_clip import CONFIG, publish, siglip, unigram


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lessons.make_data(tmp_path_factory.mktemp("data"))


def params(kind: str, **changes: Any) -> Any:
    chosen = copy.deepcopy(lessons.TEACHER)
    chosen["kind"] = kind
    chosen[kind].update(changes)
    return chosen


SPEC = preprocessing(32)
FILES = {
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "preprocess.json",
    "teacher.json",
    "text_tokenizer.json",
}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def save_tower(data: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """Write weights with batch statistics of their own, and a head that the tower does not have; returns them."""
    torch.manual_seed(seed)
    options = lessons.TEACHER["lit"]["image_tower_options"]
    tower = students.build_student(students.student_spec("mobilenetv2_050", options, 7, 32))
    with torch.no_grad():
        tower.train()(torch.randn(16, 3, 32, 32))
    (data / "weights").mkdir(exist_ok=True)
    save_file(tower.state_dict(), data / "weights" / "tower.safetensors")
    return tower.state_dict()


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """A data folder without teachers, with an image tower."""
    for name in ("index", "shard", "caption"):
        shutil.copytree(data / name, tmp_path / name)
    save_tower(tmp_path)
    return tmp_path


def test_a_trained_teacher_is_complete_and_two_runs_are_one(data: Path) -> None:
    shutil.rmtree(data / "teacher", ignore_errors=True)
    teacher.run(params("train"), data)
    first = contents(data / "teacher")
    assert set(first) == {*(f"model/{name}" for name in FILES), "history.parquet"}
    teacher.run(params("train"), data, "model")
    assert contents(data / "teacher") == first
    history = read_table(data / "teacher" / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[1]["loss"] < history[0]["loss"]
    loaded = teachers.load_teacher(data / "teacher" / "model")
    assert (loaded.about["kind"], loaded.preprocess["size"]) == ("train", 32)
    assert loaded.logit_scale <= 100.0001


def test_lit_tunes_the_text_and_leaves_the_image_tower_alone(own: Path) -> None:
    teacher.run(params("lit"), own)
    before = load_file(own / "weights" / "tower.safetensors")
    after = load_file(own / "teacher" / "model" / "open_clip_model.safetensors")
    trunk = {name.removeprefix("visual.trunk."): x for name, x in after.items() if name.startswith("visual.")}
    assert set(before) - set(trunk) == {"classifier.weight", "classifier.bias"}
    assert any(name.endswith("running_var") for name in trunk)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.items())
    history = read_table(own / "teacher" / "history.parquet").to_pylist()
    assert history[-1]["loss"] < history[0]["loss"]

    loaded = teachers.load_teacher(own / "teacher" / "model")
    assert teachers.embed_texts(loaded, ["a photo of Morus alba."]).shape == (1, 1280)
    assert read_json(own / "teacher" / "model" / "teacher.json")["kind"] == "lit"
    # What it was tuned to is what it says of photographs.
    for split in ("train", "val"):
        shards = [path.stem for path in sorted((own / "teacher" / "features" / "model").glob(f"{split}-*"))]
        identity = locked_tower.tower(params("lit")["lit"], own / "weights", "x", False).identity
        features = locked_tower.Features(own / "teacher" / "features" / "model", shards, identity)
        images = ShardSet(own, split)
        assert (features.keys, features.taxon_ids) == (images.keys, images.taxon_ids)
        rows = np.array([len(images) - 1, 0, 3])
        pixels = np.stack([preprocess(images.image(int(i)), loaded.preprocess) for i in rows])
        expected = teachers.embed_images(loaded.model, torch.from_numpy(pixels)).numpy()
        np.testing.assert_allclose(features.rows(rows), expected, atol=1e-5)
        assert [type(part) for part in features.parts] == [Tensors] * len(shards)


def jobs_of(own: Path) -> list[str]:
    names = sorted(path.stem for path in (own / "shard").glob("*.tar"))
    return [f"features/model/{name}" for name in names if name.startswith(("train", "val"))]


def test_features_are_jobs_and_tuning_reads_no_photographs(own: Path, tmp_path: Path) -> None:
    teacher.run(params("lit"), own)
    expected = contents(own / "teacher")
    shutil.rmtree(own / "teacher")
    # As Snakemake calls them: of the section only what decides.
    reads = ("image_tower", "image_tower_options", "weights", "image_size", "mean", "std")
    section = {"allow_research_only": False, "lit": {name: params("lit")["lit"][name] for name in reads}}
    for job in jobs_of(own):
        teacher.run(section, own, job)
    for path in (own / "shard").glob("*.tar"):
        path.write_bytes(b"")
    teacher.run(part(params("lit"), "model"), own, "model")
    assert contents(own / "teacher") == expected
    # Another text tower: the same features do.
    teacher.run(part(params("lit", text_width=128), "model"), own, "model")
    assert contents(own / "teacher" / "features") == {
        name.removeprefix("features/"): content for name, content in expected.items() if name.startswith("features/")
    }
    assert contents(own / "teacher" / "model") != expected


@pytest.mark.parametrize("change", ["weights", "size", "mean", "another file", "photographs", "absent"])
def test_features_of_something_else_are_refused(own: Path, change: str) -> None:
    chosen = params("lit")
    for job in jobs_of(own):
        teacher.run(chosen, own, job)
    path = own / "teacher" / "features" / "model" / "train-00001.safetensors"
    says = r"train-\d{5}\.safetensors holds features of another image tower.* python -m bioclip_lite teacher features/"
    if change == "weights":
        save_tower(own, seed=1)
    elif change == "size":
        chosen = params("lit", image_size=48)
    elif change == "mean":
        chosen = params("lit", mean=[0.4, 0.5, 0.5])
    elif change == "another file":
        write_tensors(path, {"text": np.zeros((2, 3), np.float32)}, {})
        says = "train-00001.safetensors is not a complete file of features"
    elif change == "photographs":
        shutil.copy(path, path.with_name("train-00000.safetensors"))
        says = "caption and .*features/model list different photographs"
    else:
        path.unlink()
        says = "train-00001.safetensors is missing"
    with pytest.raises(UserError, match=says):
        teacher.run(chosen, own, "model")
    assert not (own / "teacher" / "model").exists()


class Seen(Exception):
    """The model at the moment when its training would begin."""

    def __init__(self, objective: trainer.Objective) -> None:
        objective.train_mode()
        self.model = objective.model


def test_locked_is_what_open_clip_calls_locked(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same parameters learn, the same modules are in training mode; BatchNorm keeps its statistics in both.

    Where open_clip goes on with dropout and path drop in a locked tower, ours is in eval mode as a whole: features
    that are computed once can be no others.
    """

    def stop(objective: trainer.Objective, **_: Any) -> None:
        raise Seen(objective)

    monkeypatch.setattr(trainer, "fit", stop)
    with pytest.raises(Seen) as seen:
        teacher.run(params("lit"), own)
    ours: Any = seen.value.model

    chosen = params("lit")["lit"]
    tower = locked_tower.tower(chosen, own / "weights", "x", False)
    theirs = teachers.build_clip(
        teacher._config(chosen, tower.width, "none", chosen["image_tower_options"], tower.preprocess)
    )
    theirs.lock_image_tower(unlocked_groups=0, freeze_bn_stats=True)
    theirs.train()

    def learning(model: nn.Module) -> set[str]:
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def awake(model: nn.Module) -> set[str]:
        return {name for name, module in model.get_submodule("text").named_modules() if module.training}

    assert learning(ours) == learning(theirs)
    assert any(name.startswith("text.") for name in learning(ours)) and "logit_scale" in learning(ours)
    assert awake(ours) == awake(theirs) != set()
    visual = ours.visual
    norms = [module for module in visual.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(module.training for module in visual.modules())
    # open_clip's frozen norms are of another class, without a training mode.
    assert not any(isinstance(module, nn.BatchNorm2d) for module in theirs.visual.modules())
    before = {name: x.clone() for name, x in visual.state_dict().items()}
    ours.encode_image(torch.randn(4, 3, 32, 32))
    assert all(torch.equal(x, before[name]) for name, x in visual.state_dict().items())


def test_tuning_warms_up_clips_gradients_and_stops_when_it_diverges(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, norms = [], []
    make, contrastive = trainer.optimizer, losses.contrastive

    def watched(*arguments: Any) -> torch.optim.Optimizer:
        optim = make(*arguments)
        parameters = [parameter for group in optim.param_groups for parameter in group["params"]]
        step = optim.step

        def watch() -> None:
            rates.append(optim.param_groups[0]["lr"])
            norms.append(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().item())
            step()

        monkeypatch.setattr(optim, "step", watch)
        return optim

    monkeypatch.setattr(trainer, "optimizer", watched)
    monkeypatch.setattr(losses, "contrastive", lambda *x: 1e4 * contrastive(*x))
    teacher.run(params("lit", epochs=20, learning_rate=0.0001), own)
    steps, warm_up = 40, 4  # two batches an epoch; a tenth of the steps
    assert len(rates) == steps
    np.testing.assert_allclose(rates[:warm_up], [0.0001 * (n + 1) / warm_up for n in range(warm_up)])
    assert max(rates) == pytest.approx(0.0001) and rates[warm_up:] == sorted(rates[warm_up:], reverse=True)
    np.testing.assert_allclose(norms, 1, rtol=1e-3)

    shutil.rmtree(own / "teacher" / "model")
    losses_seen = []

    def diverging(*x: Any) -> torch.Tensor:
        losses_seen.append(contrastive(*x))
        return losses_seen[-1] * (float("nan") if len(losses_seen) == 3 else 1)

    monkeypatch.setattr(losses, "contrastive", diverging)
    with pytest.raises(
        UserError, match="loss is nan in epoch 2, steps 1 to 2 of 2: training has diverged; lower learning_rate"
    ):
        teacher.run(params("lit"), own)
    assert len(losses_seen) == 4  # the epoch ends, and is not measured
    assert not (own / "teacher" / "model").exists()


# Ensembles


def part(section: dict[str, Any], job: str) -> dict[str, Any]:
    """Return the parameters that the rules hand to a job."""
    return of_job({"teacher": section}, "teacher", job)


def ensemble() -> dict[str, Any]:
    further = [
        {"name": "second", "seed": 1, "train": {"image_size": 48, "embed_dim": 8}},
        {"name": "tuned", "kind": "lit", "lit": {"epochs": 1}},
    ]
    return {**params("train"), "ensemble": further}


def test_an_ensemble_is_a_folder_each_and_each_alone_gives_the_same(own: Path) -> None:
    teacher.run(ensemble(), own)
    together = contents(own / "teacher")
    features = {f"features/tuned/{job.rpartition('/')[2]}.safetensors" for job in jobs_of(own)}
    folders = {f"{name}/{file}" for name in ("second", "tuned") for file in (*FILES, "history.parquet")}
    assert set(together) == {*(f"model/{name}" for name in FILES), "history.parquet", *folders, *features}
    second = teachers.load_teacher(own / "teacher" / "second")
    assert second.preprocess["size"] == 48
    assert teachers.embed_texts(second, ["a photo of Morus alba."]).shape == (1, 8)
    identities = {json.loads(together[f"{name}/teacher.json"])["identity"] for name in ("model", "second", "tuned")}
    assert len(identities) == 3
    assert read_json(own / "teacher" / "tuned" / "teacher.json")["kind"] == "lit"

    # One by one, with the parameters of the job alone; the first is what it is without the others.
    shutil.rmtree(own / "teacher")
    teacher.run(part(ensemble(), "second"), own, "second")
    assert {f"second/{name}" for name in contents(own / "teacher" / "second")} == set(contents(own / "teacher"))
    for job in jobs_of(own):
        further = job.replace("model", "tuned")
        teacher.run(part(ensemble(), further), own, further)
    teacher.run(part(ensemble(), "tuned"), own, "tuned")
    teacher.run(params("train"), own)
    assert contents(own / "teacher") == together


def test_each_teacher_of_an_ensemble_has_a_licence(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = teachers.build_clip(teacher._config(params("train")["train"], 8, "", {}, SPEC))
    published = hub.Published("small", {"model_cfg": {"text_cfg": {}}}, tmp_path / "w", "apple-amlr", "a" * 40)
    monkeypatch.setattr(hub, "find", lambda *_: published)
    monkeypatch.setattr(hub, "load", lambda *_: model)
    monkeypatch.setattr(teachers, "open_clip_preprocess", lambda *_: SPEC)
    chosen = {**params("train"), "allow_research_only": False}
    chosen["pretrained"] = {"model": "small", "weights": None, "revision": None, "preprocess": None}
    chosen["ensemble"] = [{"name": "second", "kind": "pretrained"}]
    with pytest.raises(UserError, match=r"^teacher\.ensemble\.second\.pretrained\.model: .*small, apple-amlr"):
        teacher.run(part(chosen, "second"), own, "second")
    assert not (own / "teacher").exists()
    chosen["ensemble"][0]["allow_research_only"] = True
    teacher.run(part(chosen, "second"), own, "second")
    about = read_json(own / "teacher" / "second" / "teacher.json")
    assert (about["licence"], about["revision"], about["kind"]) == ("apple-amlr", "a" * 40, "pretrained")


def test_mistakes_name_the_teacher(own: Path) -> None:
    chosen = ensemble()
    chosen["ensemble"][1]["lit"]["weights"] = "absent.safetensors"
    with pytest.raises(UserError, match=r"^teacher\.ensemble\.tuned\.lit\.weights: .*absent\.safetensors does not"):
        teacher.run(part(chosen, "tuned"), own, "tuned")
    chosen["ensemble"][0]["train"]["text_width"] = 100
    with pytest.raises(UserError, match=r"^teacher\.ensemble\.second\.train\.text_width is 100; it must be a multiple"):
        teacher.run(part(chosen, "second"), own, "second")
    with pytest.raises(UserError, match=r"no job 'third'; its jobs are model, second, tuned, features/<teacher>/"):
        part(chosen, "third")


def test_a_teacher_that_hardly_knows_the_taxa_stops_half_way_unless_it_may_be_weak(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of both kinds that are trained here; allowed, training goes on where it stopped."""
    for kind in ("train", "lit"):
        teacher.run(params(kind, epochs=4), own)
        expected = contents(own / "teacher" / "model")
        expected["teacher.json"] = expected["teacher.json"].replace(b' "allow_weak": true,\n', b"")
        for right, says in (
            (0.0, r"^after epoch 2 of 4 this teacher names 0\.0% of split val right \(0 of 12 "),
            (1.0, ""),
        ):
            measured = {"logit_scale": 1.0, "val_top1": right, "val_top5": 1.0}
            monkeypatch.setattr(contrastive, "zero_shot", lambda *_, measured=measured: measured)
            chosen = {**params(kind, epochs=4), "allow_weak": False}
            if says:
                with pytest.raises(UserError, match=says):
                    teacher.run(chosen, own)
                assert contents(own / "teacher" / "model") != {}  # of the earlier run
                teacher.run({**chosen, "allow_weak": True}, own)
                assert "continues in epoch 3 of 4" in capsys.readouterr().out
            else:
                teacher.run(chosen, own)
                assert contents(own / "teacher" / "model") == expected
        monkeypatch.undo()


def test_the_own_caption_is_looked_for_among_all_and_among_five(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = {f"taxon {number}": f"caption {number}" for number in range(8)}
    texts = SimpleNamespace(prompts=lambda: [captions[taxon] for taxon in pairs.taxon_ids])
    pairs: Any = SimpleNamespace(taxon_ids=[f"taxon {number}" for number in (*range(8), 7, 7)], texts=texts)
    model: Any = SimpleNamespace(logit_scale=torch.tensor(0.0))
    monkeypatch.setattr(teachers, "embed_texts", lambda _, found: np.eye(8, dtype=np.float32)[: len(found)])
    scores = np.tile(np.arange(8, dtype=np.float32), (10, 1))  # the last caption is the best one of all photographs
    scores[0] = np.eye(8)[0]
    found = contrastive.zero_shot(model, list, pairs, [scores[:3], scores[3:]])  # type: ignore[arg-type]
    assert found == {"logit_scale": 1.0, "val_top1": 4 / 10, "val_top5": 8 / 10}  # 0, and 7 three times; 3 to 6


def test_too_few_photographs_are_a_warning(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher.run(params("train"), own)
    assert re.search(
        r"^warning: teacher\.kind is train: .* 48 photographs of 6 taxa, 8 each", capsys.readouterr().out, re.M
    )


def test_a_moving_average_is_what_is_kept(own: Path) -> None:
    teacher.run(params("train"), own)
    last = load_file(own / "teacher" / "model" / "open_clip_model.safetensors")
    teacher.run(params("train", ema=0.9), own)
    average = load_file(own / "teacher" / "model" / "open_clip_model.safetensors")
    assert any(not torch.equal(average[name], last[name]) for name in last)
    history = read_table(own / "teacher" / "history.parquet").to_pylist()
    assert len(history) == 2 and history[1]["loss"] < history[0]["loss"]


def test_weights_that_are_missing_or_of_another_tower_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.safetensors does not exist"):
        teacher.run(params("lit", weights="absent.safetensors"), data)
    (data / "weights").mkdir(exist_ok=True)
    other = teachers.image_tower("mobilenetv2_050", {}).state_dict()
    other.pop("conv_head.weight")
    save_file(other, data / "weights" / "other.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 tensors of the tower, e\.g\. conv_head"):
        teacher.run(params("lit", weights="other.safetensors"), data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_tower": "resnet11"}, "no image tower 'resnet11'"),
        ({"text_width": 100}, "multiple of 64"),
        ({"splits": ["absent"]}, "absent have no shard"),
    ],
)
def test_bad_parameters_are_named(data: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        teacher.run(params("train", **change), data)


@pytest.mark.parametrize("kind", ["nan", "zero", "constant"])
def test_a_teacher_that_gives_no_embeddings_is_refused_before_it_is_saved(
    own: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Weights as a damaged file, an unfinished download or a diverged training leave them."""
    teacher.run(params("train"), own)
    made = teachers.load_teacher(own / "teacher" / "model")
    config = read_json(own / "teacher" / "model" / "open_clip_config.json")
    shutil.rmtree(own / "teacher")
    last = [p for name, p in made.model.visual.named_parameters() if p.ndim > 1][-1]
    with torch.no_grad():
        if kind == "nan":
            last[0, 0] = torch.nan
        else:
            for parameter in made.model.visual.parameters():
                parameter.zero_()
            if kind == "constant":
                [p for name, p in made.model.visual.named_parameters() if p.ndim == 1][-1].fill_(1.0)
    published = hub.Published("some model", config, own / "x", "MIT")
    monkeypatch.setattr(hub, "find", lambda *_: published)
    monkeypatch.setattr(hub, "load", lambda *_: made.model)
    says = {"nan": "1 of .* weights in visual.* are NaN", "zero": "zero", "constant": "same embedding"}[kind]
    chosen = params("pretrained", revision=None, preprocess=None) | {"allow_research_only": False}
    with pytest.raises(UserError, match=says) as refused:
        teacher.run(chosen, own)
    assert "some model" in str(refused.value)
    assert not (own / "teacher" / "model").exists()


def test_captions_of_one_species_are_all_right_answers() -> None:
    texts, same = contrastive.matches(["a", "b", "c", "a"], ["x", "x", "y", "x"])
    assert texts == ["a", "b", "c"]
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True], [True, True, False]]
    # One common name for two species: the caption is right for both.
    texts, same = contrastive.matches(["daisy", "daisy"], ["x", "y"])
    assert same.tolist() == [[True], [True]]


def test_a_caption_is_drawn_by_key_and_epoch(data: Path) -> None:
    images = ShardSet(data, "train")
    types = ["sci", "taxon", "com"]
    pairs = contrastive.Pairs(data, shard_names(data, "train"), images.keys, images.taxon_ids, types, data / "shard")
    rows = range(len(pairs.keys))
    alone = [pairs.draw(0, 3, [i])[0][0] for i in rows]
    together, same = pairs.draw(0, 3, list(rows))
    assert set(alone) == set(together)
    assert same.any(0).all()
    assert same.any(1).all()
    assert alone != [pairs.draw(0, 4, [i])[0][0] for i in rows]


def test_texts_go_through_a_model_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no forward grows with the taxa: captions of validation, and names in templates."""
    chosen: Any = {**lessons.TEACHER["train"], "embed_dim": 8}
    config = teacher._config(chosen, 8, "", {}, SPEC)
    model, tokenize = teachers.build_clip(config).eval(), tokenizers.of_clip(config)
    at_once, encode = [], teachers.encode_text

    def counted(model: teachers.Clip, tokens: torch.Tensor) -> torch.Tensor:
        at_once.append(len(tokens))
        return encode(model, tokens)

    monkeypatch.setattr(teachers, "encode_text", counted)
    names = [f"Morus {number}" for number in range(300)]
    pairs: Any = SimpleNamespace(taxon_ids=names, texts=SimpleNamespace(prompts=lambda: names))
    own = teachers.embed_texts(teachers.Teacher(model, tokenize, {}, 0.0, {}), names)
    at_once.clear()
    right = contrastive.zero_shot(model, tokenize, pairs, np.split(own, 3))
    assert right["val_top1"] > 0.9 and sum(at_once) == 300 and max(at_once) <= 256
    at_once.clear()
    templates = [lambda name: name, lambda name: f"a photo of {name}."]
    made = embed_in_templates(teachers.Teacher(model, tokenize, {}, 0.0, {}), names, templates)
    assert made.shape == own.shape and at_once == [256, 256, 44, 44]


def test_cut_captions_are_embedded_as_whole_ones(data: Path) -> None:
    torch.manual_seed(0)
    chosen = lessons.TEACHER["train"]
    config = teacher._config(chosen, 8, "", {}, SPEC)
    model, tokenize = teachers.build_clip(config).eval(), tokenizers.of_clip(config)
    texts = ["a photo of Morus alba.", "a photo of Plantae Tracheophyta Magnoliopsida Rosales Moraceae Morus nigra."]
    with torch.inference_mode():
        whole = model.encode_text(tokenize(texts))
        cut = teachers.encode_text(model, teachers.cut(model, tokenize(texts)))
        np.testing.assert_allclose(cut.numpy(), whole.numpy(), atol=1e-5)
        assert model.text.attn_mask.shape == (64, 64)
        # "!" before other punctuation is token 0, as padding is.
        tokens = tokenize(["a photo of Morus nigra !% !("])
        assert (tokens[0, : tokens[0].argmax()] == 0).any()
        np.testing.assert_allclose(
            teachers.encode_text(model, tokens).numpy(), model.encode_text(tokens).numpy(), atol=1e-5
        )


@pytest.mark.parametrize("job", ["train-00000", "features/model", "second", "features/second/train-00000"])
def test_unknown_jobs_are_named(job: str) -> None:
    with pytest.raises(UserError, match=rf"no job '{job}'; its jobs are model, features/"):
        part(params("train"), job)


# Towers of published models


def plain_clip(weights: Path) -> dict[str, Any]:
    publish(weights / "plain", "open_clip_pytorch_model.bin")
    return {"model": "local-dir:plain"}


def quick_clip(weights: Path) -> dict[str, Any]:
    """With OpenAI's GELU, another width and QuickGELU, and in the space of 12 numbers."""
    model_cfg = {**CONFIG["model_cfg"], "embed_dim": 12, "quick_gelu": True}
    folder = publish(weights / "quick", "open_clip_model.safetensors", {**CONFIG, "model_cfg": model_cfg})
    torch.manual_seed(3)
    save_file(CLIP(**model_cfg).state_dict(), folder / "open_clip_model.safetensors")
    return {"model": f"local-dir:{folder}"}


def sigmoid_clip(weights: Path) -> dict[str, Any]:
    unigram(siglip(weights / "siglip"))
    return {"model": "local-dir:siglip"}


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (plain_clip, None),
        (plain_clip, "own"),
        (sigmoid_clip, "own"),
        (quick_clip, "own"),
        (quick_clip, plain_clip),
        (plain_clip, sigmoid_clip),
        ("mobilenetv2_050", quick_clip),
    ],
)
def test_lit_takes_towers_of_published_models(own: Path, image: Any, text: Any) -> None:
    weights = own / "weights"
    chosen: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-9}  # so the start is what is saved
    chosen["image_tower"] = image if isinstance(image, str) else image(weights)
    chosen["text_tower"] = text(weights) if callable(text) else text
    teacher.run(params("lit", **chosen), own)
    made = teachers.load_teacher(own / "teacher" / "model")
    pixels = torch.rand(2, 3, made.preprocess["size"], made.preprocess["size"])

    def original(named: Any) -> tuple[Any, Any]:
        found = hub.find(named["model"], None, weights)
        return hub.load(found), tokenizers.build(tokenizers.describe(found.config, found.tokenizer))

    if not isinstance(image, str):
        clip, _ = original(chosen["image_tower"])
        assert torch.equal(teachers.embed_images(made.model, pixels), teachers.embed_images(clip.eval(), pixels))
        assert made.preprocess["mean"] == [0.4] * 3
        assert made.preprocess["resize"] == ("squash" if image is sigmoid_clip else "shortest")
    captions = ["a photo of Morus alba.", "Bellis perennis"]
    if text is not None:
        clip, tokenize = original(chosen["image_tower" if text == "own" else "text_tower"])
        assert torch.equal(made.tokenizer(captions), tokenize(captions))
        tower = getattr(clip, "text", clip)
        state, own_state = tower.state_dict(), made.model.text.state_dict()
        same = {name for name, tensor in own_state.items() if tensor.shape == state[name].shape}
        started = {name for name in same if torch.allclose(own_state[name], state[name], atol=1e-6)}
        projection = {name for name in own_state if name.startswith("text_projection")}
        anew = set() if text == "own" else {name for name in projection if not name.endswith("bias")}
        assert started == set(own_state) - anew
        if text == "own":
            assert made.logit_scale == pytest.approx(min(clip.logit_scale.exp().item(), 100), rel=1e-5)
            tokens = made.tokenizer(captions)
            expected = torch.nn.functional.normalize(clip.eval().encode_text(tokens), dim=-1).detach().numpy()
            np.testing.assert_allclose(teachers.embed_texts(made, captions), expected, atol=1e-5)
    quick = quick_clip if text == "own" and image is quick_clip else text
    activations = {type(module) for module in made.model.text.modules()}
    assert (QuickGELU in activations) == (quick is quick_clip)
    widths = made.model.encode_image(pixels).shape[1], teachers.embed_texts(made, captions).shape[1]
    assert widths[0] == widths[1]
    assert made.about["licence"] == (None if isinstance(image, str) and text is None else "mit")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text_tower": "own"}, r"lit\.text_tower is own, but the image tower mobilenetv2_050 .* is of timm"),
        ({"image_tower": {"model": "local-dir:none"}}, r"^teacher\.lit\.image_tower\.model: no folder"),
        ({"text_tower": {"model": "local-dir:none"}}, r"^teacher\.lit\.text_tower\.model: no folder"),
        ({"text_tower": {"model": "local-dir:apple"}}, r"^teacher\.lit\.text_tower\.model: .* allows research only"),
        ({"image_tower": {"model": "local-dir:apple"}}, r"^teacher\.lit\.image_tower\.model: .* allows research only"),
        ({"image_tower": {"model": "local-dir:coca"}}, r"image_tower\.model: coca is a CoCa, whose image tower"),
        ({"mean": None}, r"^teacher\.lit\.mean is null, but nothing is published of tower\.safetensors"),
    ],
)
def test_towers_that_cannot_be_taken_are_refused(own: Path, changes: dict[str, Any], says: str) -> None:
    publish(own / "weights" / "apple", "open_clip_model.safetensors")
    (own / "weights" / "apple" / "README.md").write_text("---\nlicense: apple-amlr\n---\n")
    coca = {**CONFIG, "model_cfg": {**CONFIG["model_cfg"], "multimodal_cfg": {}}}
    publish(own / "weights" / "coca", "open_clip_model.safetensors", coca)
    with pytest.raises(UserError, match=says):
        teacher.run(params("lit", **changes), own)
    assert not (own / "teacher" / "model").exists()


def test_a_timm_tower_of_the_hub_is_prepared_as_it_was_trained(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(own / "hub"))
    repository = own / "hub" / "models--timm--mobilenetv2_050.lamb_in1k"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (own / "weights" / "tower.safetensors").rename(snapshot / "model.safetensors")
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    chosen = params("lit", image_tower="mobilenetv2_050.lamb_in1k", weights="pretrained", epochs=1)
    with pytest.raises(UserError, match=r"lit\.mean is \[0\.5, 0\.5, 0\.5\], but hf-hub:timm/.* set .* to null"):
        teacher.run(chosen, own)
    chosen["lit"] |= {"mean": None, "std": None}
    teacher.run(chosen, own)
    made = teachers.load_teacher(own / "teacher" / "model")
    assert made.preprocess["mean"] == [0.485, 0.456, 0.406] and made.preprocess["interpolation"] == "bicubic"
    assert (made.about["licence"], made.about["revision"]) == ("apache-2.0", "a" * 40)


# The graph


def test_why_compares_a_teacher_with_its_own_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {**ensemble(), "ensemble": [{"name": "second", "seed": 1}]}
    monkeypatch.setattr(why.yaml_files, "read", lambda path: {"teacher": own})
    monkeypatch.setattr(why, "stage_of", lambda _: "teacher")

    def changes(path: str, **recorded: Any) -> list[str]:
        # As Snakemake records it: the representation of the JSON that the rule handed over.
        return list(why._parameter_changes(f"data/teacher/{path}", {"params": [repr(json.dumps(recorded))]}))

    seed = {name: own[name] for name in ("kind", "captions", "train")}
    assert changes("second/teacher.json", **seed, seed=1) == changes("model/teacher.json", **seed, seed=0) == []
    assert changes("history.parquet", **seed, seed=2) == ["teacher.seed is 0, it was made with 2"]
    assert changes("second/teacher.json", **seed, seed=2) == ["teacher.seed is 1, it was made with 2"]
    features = "features/second/val-00000.safetensors"
    assert changes(features, lit={"image_size": 32}) == []
    assert changes(features, lit={"image_size": 48}) == ["teacher.lit.image_size is 32, it was made with 48"]


@pytest.mark.pipeline
def test_only_what_a_change_reaches_is_made_again(tmp_path: Path) -> None:
    folder = thin.new(tmp_path / "thin")
    (folder / "data/weights/tower.safetensors").write_bytes(b"a tower")
    checkout.set_parameter(folder, "teacher.kind", "lit")
    checkout.set_parameter(folder, "teacher.lit.weights", "tower.safetensors")
    shards = thin.COUNTS["train"] + thin.COUNTS["val"]
    made = checkout.snakemake(folder, "teacher")
    assert (made["embed_locked"], made["make_teacher"]) == (shards, 1)
    assert "make_further_teacher" not in made

    def again(name: str, value: object) -> dict[str, int]:
        checkout.set_parameter(folder, f"teacher.{name}", value)
        jobs = checkout.planned(folder, "teacher")
        assert checkout.snakemake(folder, "teacher") == jobs
        return jobs

    tuned = {"make_teacher": 1, "teacher": 1}
    assert again("lit.text_width", 128) == tuned
    assert again("lit.image_size", 48) == tuned | {"embed_locked": shards}
    assert again("train.epochs", 7) == {}
    (folder / "data/weights/tower.safetensors").write_bytes(b"another tower")
    assert again("lit.epochs", 5) == tuned | {"embed_locked": shards}
    # Further teachers: the first and each other are left alone.
    second, third = {"name": "second", "lit": {"image_size": 64}}, {"name": "third", "kind": "pretrained"}
    further = {"make_further_teacher": 1, "teacher": 1}
    assert again("ensemble", [second]) == further | {"embed_locked": shards}
    assert again("ensemble", [second, third]) == further
    assert again("ensemble", [{**second, "seed": 3}, third]) == further
    assert {path.name for path in (folder / "data/teacher/second").iterdir()} == {*FILES, "history.parquet"}
    # What is no longer asked for goes.
    assert again("ensemble", [third]) == {"teacher": 1}
    assert not (folder / "data/teacher/second/teacher.json").exists()
    assert not list((folder / "data/teacher/features/second").glob("*.safetensors"))
    assert len(list((folder / "data/teacher/features/model").glob("*.safetensors"))) == shards
