import math
import os
import shutil
import signal
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bioclip_lite.models import students
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import ShardSet, shard_names
from bioclip_lite.stages import teacher
from bioclip_lite.taxa import label_space
from bioclip_lite.teacher_cache import reader, store
from bioclip_lite.training import checkpoint, distillation, losses, shuffling, trainer, warm_start
from bioclip_lite.training.moving_average import MovingAverage
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table, write_table
from support import lessons


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lessons.make_cache(lessons.make_data(tmp_path_factory.mktemp("data")))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A data folder that a test may break."""
    return lessons.make_cache(lessons.make_data(tmp_path))


def student(outputs: int = lessons.D) -> nn.Module:
    torch.manual_seed(0)
    return students.build_student(students.student_spec("mobilenetv4_conv_small_035", {}, outputs, 32))


def options(**changes: Any) -> distillation.Options:
    """The options of a short distillation, with some of them changed; weights of losses by their names."""
    weights = {name: changes.pop(name) for name in losses.LOSSES if name in changes}
    chosen: dict[str, Any] = {"stage": "distill", "job": "student", "seed": 0, **trainer.chosen(lessons.DISTILL)}
    chosen |= {"preprocess": preprocessing(32), "weights": losses.Weights(**weights)}
    return distillation.Options(**{**chosen, **changes})


def distil(
    model: nn.Module, data: Path, control: bool = False, checkpoint_file: Path | None = None, **changes: Any
) -> list[dict[str, float]]:
    objective = distillation.Control if control else distillation.Distillation
    return distillation.train(objective(model, data, options(**changes)), checkpoint_file=checkpoint_file)


@given(steps=st.integers(1, 500), peak=st.floats(1e-5, 1), data=st.data())
@settings(max_examples=50, deadline=None)
def test_the_learning_rate_rises_then_falls_and_is_never_zero(steps: int, peak: float, data: st.DataObject) -> None:
    warm_up = data.draw(st.integers(1, steps))
    rates = [trainer.learning_rate_at(step, steps, peak, warm_up) for step in range(steps)]
    assert rates[warm_up - 1] == pytest.approx(peak)
    assert max(rates) <= peak * (1 + 1e-9)
    assert min(rates) > 0
    top = int(np.argmax(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(
    ("warm_up", "steps", "expected"),
    [(0.1, 40, 4), (0.1, 4, 1), (0, 40, 1), (0.5, 40, 20), (1, 40, 1), (30, 40, 30), (30.0, 40, 30)],
)
def test_a_warm_up_is_a_share_or_a_number_of_steps(warm_up: float, steps: int, expected: int) -> None:
    assert trainer.warm_up_steps(warm_up, steps) == expected


def test_a_warm_up_that_never_ends_is_refused(data: Path) -> None:
    total = 2 * steps(data)
    message = (
        f"distill student: warm_up is {total + 1} steps, but the training has {total} \\(2 epochs of {steps(data)}"
    )
    with pytest.raises(UserError, match=message):
        distil(student(), data, warm_up=total + 1)
    assert distil(student(), data, warm_up=total)[-1]["learning_rate"] == 0.002


def test_the_optimizer_is_the_one_asked_for() -> None:
    chosen = options(learning_rate=0.3, weight_decay=0.2, betas=(0.8, 0.95), eps=1e-6)
    decaying, others = trainer.optimizer(student(), chosen).param_groups
    for group in (decaying, others):
        assert (group["lr"], group["betas"], group["eps"]) == (0.3, (0.8, 0.95), 1e-6)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.2, 0.0)
    assert all(parameter.ndim > 1 for parameter in decaying["params"])
    assert all(parameter.ndim <= 1 for parameter in others["params"])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_student_learns_in_half_precision(precision: str, data: Path) -> None:
    formats: set[torch.dtype] = set()
    model, whole = student(), student()
    convolution = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_hook(lambda layer, inputs, out: formats.add(out.dtype))
    chosen: dict[str, Any] = {"epochs": 25, "batch_size": 36, "learning_rate": 0.001}  # one step an epoch
    history = distil(model, data, precision=precision, **chosen)
    assert formats == {getattr(torch, precision)}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    expected = distil(whole, data, precision="float32", **chosen)
    assert history[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.05)
    assert history[-1]["loss"] < history[0]["loss"] / 3


def test_gradients_beyond_float16_move_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step is left out and the scale halved, instead of a training that ends with NaN."""
    scale = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scale(device, 1e30, enabled=enabled))
    model = student()
    distil(model, data, epochs=1, precision="float16")
    before, after = dict(student().named_parameters()), dict(model.named_parameters())
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_cores_follow_snakemake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert machine.cores() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert machine.cores() == 6
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert machine.cores() == 6


def test_leaves_below_an_inner_taxon(data: Path) -> None:
    leaves, below = label_space.leaves_below(data)
    assert leaves == lessons.IDS[:5]
    assert [[*below[taxon]] for taxon in lessons.IDS] == [[0], [1], [2], [3], [4], [3, 4]]


def test_leaves_out_of_the_order_of_the_tree_are_refused(own: Path) -> None:
    file = own / "index" / "taxa.parquet"
    write_table(file, read_table(file).take([0, 3, 1, 2, 4, 5]))
    with pytest.raises(UserError, match=r"leaves of Animalia Chordata .* stand apart; run stage index again"):
        label_space.leaves_below(own)


def test_students_learn_and_two_runs_are_one(data: Path) -> None:
    first, second = student(), student()
    history = distil(first, data, epochs=4)
    assert distil(second, data, epochs=4) == history
    assert history[-1]["val_cosine"] > history[0]["val_cosine"] + 0.03
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert set(history[0]) == {"epoch", "loss", "learning_rate", "val_top1", "val_nll", "val_agreement", "val_cosine"}
    assert not first.training
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert any(
        not torch.equal(a, b) for a, b in zip(first.state_dict().values(), student().state_dict().values(), strict=True)
    )


def test_the_number_of_workers_changes_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, helped = student(), student()
    distil(alone, data, epochs=1, shuffle_buffer=20)  # of 36: several windows
    monkeypatch.setattr(machine, "workers", lambda: 2)
    distil(helped, data, epochs=1, shuffle_buffer=20)
    assert all(
        torch.equal(a, b) for a, b in zip(alone.state_dict().values(), helped.state_dict().values(), strict=True)
    )


def test_the_control_learns_from_labels_alone(data: Path, own: Path) -> None:
    first, second = student(5), student(5)
    history = distil(first, data, control=True)
    assert set(history[0]) == {"epoch", "loss", "learning_rate", "val_top1", "val_nll", "val_agreement"}
    # Other targets of the teacher, same photographs, views and labels: the same control.
    leaves, _ = label_space.leaves_below(own)
    text = lessons.unit(np.random.default_rng(1).normal(size=(5, lessons.D)))
    for name in shard_names(own, "train"):
        lessons.write_cached(own, name, text, leaves, "teacher-a")
    distil(second, own, control=True)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_the_target_is_the_embedding_of_the_view_shown(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = reader.CachedSplit(data, "train")
    shown: list[bytes] = []
    original = loading.Lessons.batches

    def spy(self: loading.Lessons, asked: Any) -> Any:
        plan = list(asked)
        for (items, _), (pixels, beside) in zip(plan, original(self, plan), strict=True):
            if len(self.replays.images) == len(cached.images):
                for (i, k), image in zip(items, pixels.numpy(), strict=True):
                    row, preprocess = cached.view(i, k), self.replays.preprocess
                    np.testing.assert_array_equal(image, views.reapply(cached.images.image(i), row, preprocess))
                    shown.append(row.tobytes())
            yield pixels, beside

    monkeypatch.setattr(loading.Lessons, "batches", spy)
    asked: list[bytes] = []
    target = reader.CachedSplit.target

    def spy_target(self: reader.CachedSplit, i: int, k: int, teacher: int = 0) -> np.ndarray:
        if len(self.images) == len(cached.images):
            asked.append(self.view(i, k).tobytes())
        return target(self, i, k)

    monkeypatch.setattr(reader.CachedSplit, "target", spy_target)
    distil(student(), data, epochs=5)  # more than there are views
    assert shown == asked
    # In as many epochs as there are views, a photograph that is never left out is shown under each once.
    assert len(set(asked)) > len(cached.images)


def test_a_view_is_made_once_while_there_is_room(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, made = [], []
    original = views.replay

    def watched(*arguments: Any) -> Any:
        made.append(0)
        return original(*arguments)

    monkeypatch.setattr(views, "replay", watched)
    for room in (2**28, 40_000, 0):  # for all, for some, for none
        made.clear()
        monkeypatch.setattr(loading, "_BYTES_KEPT", room)
        distil(model := student(), data, epochs=4)
        trained.append((len(made), model.state_dict()))
    (all_kept, first), (some_kept, second), (none_kept, third) = trained
    assert all_kept < some_kept < none_kept
    for other in (second, third):
        assert all(torch.equal(a, other[name]) for name, a in first.items())


def test_rows_of_the_cache_are_found_across_shards(data: Path) -> None:
    cached = reader.CachedSplit(data, "train")
    images = ShardSet(data, "train")
    assert len(cached.shards[0]) == 2
    parts = [shard.embeddings[:, 1] for shard in cached.shards[0]]
    expected = np.concatenate(parts).astype(np.float32)
    found = np.stack([cached.target(i, 1) for i in range(len(images))])
    np.testing.assert_array_equal(found, expected)


def test_caches_that_do_not_fit_are_refused(own: Path) -> None:
    with pytest.raises(UserError, match="gives 7 numbers"):
        distil(student(7), own)
    with pytest.raises(UserError, match="asks for 5"):
        distil(student(), own, control=True)

    leaves, _ = label_space.leaves_below(own)
    text = store.read_taxa(own / "logits" / "taxa.safetensors").text
    lessons.write_cached(own, "train-00001", text, leaves, "teacher-b")
    with pytest.raises(UserError, match="learn from two"):
        distil(student(), own)

    lessons.make_cache(own, width=8)
    with pytest.raises(UserError, match="gives 16 numbers"):
        distil(student(), own)
    lessons.make_cache(own)
    shard = store.read_shard(own / "logits" / "train-00000.safetensors")
    less = [np.array(x[:-1]) for x in (shard.images, shard.views, shard.embeddings)]
    store.write_shard(shard.path, shard.keys[:-1], less[0], less[1], {"embeddings": less[2]}, shard.identity)
    with pytest.raises(UserError, match="1 of them not in the cache"):
        distil(student(), own)

    lessons.make_cache(own)
    store.write_taxa(own / "logits" / "taxa.safetensors", leaves[::-1], text, 20.0, "teacher-a", "sci")
    with pytest.raises(UserError, match="list different taxa"):
        distil(student(), own)


def test_divergence_is_an_error(data: Path) -> None:
    model = student()
    with torch.no_grad():
        next(model.parameters())[0] = torch.nan
    expected = f"the loss is nan in epoch 1, steps 1 to {steps(data)} of {steps(data)}: .*lower learning_rate"
    with pytest.raises(UserError, match=expected):
        distil(model, data)


def test_weights_that_are_no_numbers_are_never_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the step that spoils them is finite, and the checkpoint of before stays."""
    monkeypatch.setattr(checkpoint, "_SECONDS_WITHIN_EPOCH", -1.0)
    path, rate = tmp_path / "checkpoint.safetensors", trainer._learning_rate
    kept: list[bytes] = []

    def spoiling(objective: trainer.Objective, epoch: int, step: int) -> float:
        kept[step:] = [path.read_bytes()] if path.exists() else [b""]
        return rate(objective, epoch, step) if step < 2 else math.inf

    monkeypatch.setattr(trainer, "_learning_rate", spoiling)
    with pytest.raises(UserError, match="weights are no longer finite numbers in epoch 1, steps 3 to 3"):
        distil(student(), data, checkpoint_file=path)
    assert path.read_bytes() == kept[2] != kept[1]


def test_memory_that_is_short_names_what_helps(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(distillation.Distillation, "loss", full)
    with pytest.raises(UserError, match="batch of 8 photographs in 2 micro-batches; raise accumulation"):
        distil(student(), data, batch_size=8, accumulation=2)


def second_teacher(data: Path, *, other_views: bool = False) -> None:
    """A further teacher's cache, of another width and scale, that is sure of the next species on the list."""
    leaves, _ = label_space.leaves_below(data)
    text = lessons.unit(np.random.default_rng(2).normal(size=(5, 8)))
    folder = store.folder(data, "second")
    store.write_taxa(folder / "taxa.safetensors", leaves, text, 60.0, "teacher-b", "sci")
    for name in (*shard_names(data, "train"), *shard_names(data, "val")):
        first = store.read_shard(data / "logits" / f"{name}.safetensors")
        sure = [text[(leaves.index(t) + 1) % 5] if t in leaves else text.mean(0) for t in taxa_of(data, name)]
        embeddings = np.repeat(lessons.unit(np.array(sure))[:, None], first.views.shape[1], 1)
        rows = np.array(first.views) + (0.01 if other_views else 0)
        identity = {**first.identity, "teacher": "teacher-b"}
        encoded = store.encode(embeddings, "float16")
        store.write_shard(folder / f"{name}.safetensors", first.keys, np.array(first.images), rows, encoded, identity)


def taxa_of(data: Path, name: str) -> list[str]:
    return ShardSet.of(data / "shard" / f"{name}.tar").taxon_ids


def test_two_teachers_are_averaged_over_the_same_views(own: Path) -> None:
    second_teacher(own)
    together: dict[str, Any] = {"affinity": 1.0, "cosine": 0.0, "epochs": 1, "batch_size": 4, "learning_rate": 1e-9}
    alone = distil(student(), own, **together)[0]["loss"]
    both = distil(student(), own, teachers=("model", "second"), **together)[0]["loss"]
    twice = distil(student(), own, teachers=("model", "model"), **together)[0]["loss"]
    assert both < alone - 0.5  # nobody can be as far from two species as from one
    assert twice == pytest.approx(alone, rel=1e-5)
    second_teacher(own, other_views=True)
    with pytest.raises(UserError, match="hold different views"):
        distil(student(), own, teachers=("model", "second"))
    with pytest.raises(UserError, match=r"absent.taxa\.safetensors is missing"):
        distil(student(), own, teachers=("model", "absent"))


def test_further_losses_teach(data: Path) -> None:
    """Each moves the student towards what it asks for, from the same start."""
    start: dict[str, Any] = {"affinity": 0.0, "cosine": 0.0, "epochs": 10, "batch_size": 36, "learning_rate": 0.001}
    told = distil(student(), data, **start, labels=1.0)
    assert told[-1]["loss"] < told[0]["loss"]
    ranked = distil(student(), data, **start, ranks=1.0)
    assert ranked[-1]["loss"] < ranked[0]["loss"]
    assert distil(student(), data, **start)[0]["loss"] == 0.0


def test_the_moving_average_is_that_of_the_weights(data: Path, tmp_path: Path) -> None:
    still, moved, averaged = student(), student(), student()
    distil(moved, data, epochs=1)
    distil(averaged, data, epochs=1, ema=0.9)

    def away(model: nn.Module) -> float:
        pairs = zip(model.parameters(), still.parameters(), strict=True)
        return sum(float((a - b).detach().square().sum()) for a, b in pairs) ** 0.5

    assert 0 < away(averaged) < away(moved)
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(3))
    average = MovingAverage(model, 0.5)
    for step in range(1000, 1003):
        model.w.data += 1
        average.follow(step)
    torch.testing.assert_close(average.tensors["w"], torch.full((3,), 0.5 * 3 + 0.25 * 2 + 0.125 * 1))
    average = MovingAverage(model, 0.5)
    model.w.data += 10
    average.follow(0)  # where the decay is a tenth
    torch.testing.assert_close(average.tensors["w"], torch.full((3,), 3 + 0.9 * 10))
    with average.applied():
        torch.testing.assert_close(model.w.data, torch.full((3,), 12.0))
    torch.testing.assert_close(model.w.data, torch.full((3,), 13.0))


def test_tensorboard_gets_every_step_and_epoch(own: Path) -> None:
    distil(student(), own)
    folder = own.parent / "logs" / "tensorboard" / "distill-student"
    written = b"".join(path.read_bytes() for path in folder.iterdir())
    assert written.count(b"loss_of_step") == 2 * steps(own)
    assert written.count(b"val_top1") == 2
    (folder / "notes.txt").write_text("precious")
    distil(student(), own, epochs=1)  # a new run is a new line
    written = b"".join(path.read_bytes() for path in folder.iterdir())
    assert written.count(b"val_top1") == 1
    assert (folder / "notes.txt").read_text() == "precious"


def test_half_precision_only_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    dense, depthwise = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 3, groups=4)
    assert machine.autocast_helps(dense)
    assert not machine.autocast_helps(nn.Sequential(dense, depthwise))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)  # ONEDNN_MAX_CPU_ISA=AVX2
    assert not machine.autocast_helps(dense)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not machine.autocast_helps(dense)


def folded(model: nn.Module) -> nn.Module:
    """As an inference format leaves it: normalisations that hold a scale and a shift, but no statistics."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.fill_(0.3)
            norm.running_var.fill_(4.0)
    return model.eval()


def test_measured_batch_norms_compute_the_same_and_work_in_training(data: Path) -> None:
    torch.manual_seed(0)
    model = folded(student())
    pixels = torch.rand(64, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        right = model(pixels)
        far = (model.train()(pixels) - right).square().mean()
        model = folded(student())
        right = model(pixels)
        warm_start.measure_batch_norms(model, pixels.split(16))
        assert torch.allclose(model.eval()(pixels), right, rtol=1e-3, atol=1e-4 * float(right.abs().max()))
        near = (model.train()(pixels) - right).square().mean()
    assert near < 1e-3 * right.square().mean()
    assert near < 1e-2 * far


def test_a_fitted_head_answers_as_the_teacher_does_from_the_start(data: Path) -> None:
    torch.manual_seed(0)
    preprocess = preprocessing(32)
    train = reader.CachedSplit(data, "train")
    by_embeddings, by_leaves, by_texts = (
        warm_start.embeddings(train),
        warm_start.leaves(data, train),
        warm_start.texts(data, train),
    )
    for targets, outputs in ((by_embeddings, lessons.D), (by_leaves, 5), (by_texts, lessons.D)):
        model, labels = student(outputs), targets is by_leaves
        before = agreement(model, data, preprocess, labels)
        warm_start.fit_head(model, preprocess, train, targets)
        assert agreement(model, data, preprocess, labels) > before + 0.1


def test_a_start_is_measured_on_some_photographs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "_PHOTOGRAPHS", 7)
    train, preprocess = reader.CachedSplit(data, "train"), preprocessing(32)
    numbers = warm_start.photographs(train.images)
    assert len(numbers) == 7 < len(train.images) and numbers == sorted(numbers)
    shown = torch.cat([*warm_start.pixels(train.images, preprocess)])
    every = torch.cat([*loading.plain_pixels(train.images, preprocess)])
    assert torch.equal(shown, every[numbers])
    model, seen = student(), 0

    def count(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    model.register_forward_pre_hook(count)
    warm_start.fit_head(model, preprocess, train, warm_start.embeddings(train))
    assert seen == 7
    answers = model(shown)  # seven photographs teach the head their own targets
    target = torch.from_numpy(np.stack([train.target(i, 0) for i in numbers]))
    assert nn.functional.cosine_similarity(answers, target).mean() > 0.5


def test_both_heads_of_a_model_with_two_are_fitted(data: Path) -> None:
    torch.manual_seed(0)
    preprocess = preprocessing(32)
    model = students.build_student(students.student_spec("repvit_m0_9", {"embed_dim": [16, 16, 24, 32]}, lessons.D, 32))
    assert len(warm_start.heads(model)) == 2
    warm_start.measure_batch_norms(model, loading.plain_pixels(reader.CachedSplit(data, "train").images, preprocess))
    before = agreement(model, data, preprocess, False)
    train = reader.CachedSplit(data, "train")
    warm_start.fit_head(model, preprocess, train, warm_start.embeddings(train))
    assert agreement(model, data, preprocess, False) > before + 0.1


def agreement(model: nn.Module, data: Path, preprocess: dict[str, Any], labels: bool) -> float:
    """Mean cosine to the target on split train: the teacher's embedding, or one-hot labels less their mean."""
    train = reader.CachedSplit(data, "train")
    with torch.inference_mode():
        out = torch.cat([model.eval()(pixels) for pixels in loading.plain_pixels(train.images, preprocess)])
    if not labels:
        target = torch.from_numpy(np.stack([train.target(i, 0) for i in range(len(train.images))]))
        return float(nn.functional.cosine_similarity(out, target).mean())
    _, below = label_space.leaves_below(data)
    target = torch.zeros(len(out), 5)
    for i, taxon in enumerate(train.images.taxon_ids):
        target[i, below[taxon]] = 1
    return float(nn.functional.cosine_similarity(out - out.mean(0), target - target.mean(0)).mean())


# Stop and resume


def steps(data: Path) -> int:
    return shuffling.batch_count(len(ShardSet(data, "train")), 8)


def dropping() -> nn.Module:
    """A student that draws random numbers while it trains."""
    torch.manual_seed(0)
    return students.build_student(
        students.student_spec("mobilenetv4_conv_small_035", {"drop_rate": 0.3}, lessons.D, 32)
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("precision", ["auto", "float16"])  # which has a scale of gradients to go on with
def test_a_run_stopped_after_every_step_ends_with_the_same_bytes(
    precision: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: dict[str, Any] = {"ema": 0.9, "precision": precision, "shuffle_buffer": 20}
    checkpoint_file = tmp_path / "partial" / "checkpoint"
    undisturbed = dropping()
    history = distil(undisturbed, data, checkpoint_file=checkpoint_file, **chosen)
    assert not checkpoint_file.exists()  # too quick to be worth one
    assert not same(undisturbed, dropping())

    monkeypatch.setenv(checkpoint.END_TIME, str(int(time.time()) + 5))
    stops = []
    while True:
        model = dropping()
        try:
            assert distil(model, data, checkpoint_file=checkpoint_file, **chosen) == history
            break
        except checkpoint.Stopped as stop:
            stops.append(str(stop))
    assert len(stops) == 2 * steps(data)
    assert stops[1] == (
        f"distill student: stopped before the time limit of the job at epoch 1 of 2, step 2 of {steps(data)}; "
        f"run the same command again to continue"
    )
    assert same(model, undisturbed)
    monkeypatch.setenv(checkpoint.END_TIME, str(int(time.time()) + 3600))
    checkpoint.remove(checkpoint_file)
    assert distil(dropping(), data, checkpoint_file=checkpoint_file, **chosen) == history  # far enough away


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_after_the_step(
    number: signal.Signals, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_file = tmp_path / "partial" / "checkpoint"
    undisturbed = student()
    history = distil(undisturbed, data)
    handler, cosine, calls = signal.getsignal(number), losses.cosine, []

    def interrupt(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return cosine(*arguments)

    monkeypatch.setattr(losses, "cosine", interrupt)
    with pytest.raises(checkpoint.Stopped, match="stopped as asked at epoch 1 of 2, step 2 of"):
        distil(student(), data, checkpoint_file=checkpoint_file)
    assert signal.getsignal(number) == handler
    model = student()
    assert distil(model, data, checkpoint_file=checkpoint_file) == history
    assert len(calls) == 2 * steps(data)  # none twice
    assert same(model, undisturbed)


@pytest.mark.parametrize(("short", "long", "behind"), [(0.0, 1e9, 1), (1e9, 0.0, 0)])
def test_a_killed_run_loses_the_time_since_its_checkpoint(
    short: float, long: float, behind: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_file = tmp_path / "partial" / "checkpoint"
    undisturbed = student()
    history = distil(undisturbed, data, epochs=3)
    monkeypatch.setattr(checkpoint, "_SECONDS_AT_END_OF_EPOCH", short)
    monkeypatch.setattr(checkpoint, "_SECONDS_WITHIN_EPOCH", long)
    cosine, calls = losses.cosine, []

    def counted(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == steps(data) + 2:  # in the second step of the second epoch
            raise KeyboardInterrupt
        return cosine(*arguments)

    monkeypatch.setattr(losses, "cosine", counted)
    with pytest.raises(KeyboardInterrupt):
        distil(student(), data, epochs=3, checkpoint_file=checkpoint_file)
    model = student()
    assert distil(model, data, epochs=3, checkpoint_file=checkpoint_file) == history
    assert len(calls) == 3 * steps(data) + 1 + behind
    assert same(model, undisturbed)


def test_a_checkpoint_of_another_training_is_removed(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_file = tmp_path / "partial" / "checkpoint"

    def stop_and_go_on(change: Any = None, **changes: Any) -> str:
        with monkeypatch.context() as patch, pytest.raises(checkpoint.Stopped):
            patch.setenv(checkpoint.END_TIME, "0")
            distil(student(), own, epochs=1, checkpoint_file=checkpoint_file)
        model = change() if change else student()
        capsys.readouterr()
        distil(model or student(), own, **{"epochs": 1, "checkpoint_file": checkpoint_file, **changes})
        said = capsys.readouterr().out
        checkpoint.remove(checkpoint_file)
        return said

    def other_targets() -> None:
        leaves, _ = label_space.leaves_below(own)
        text = lessons.unit(np.random.default_rng(1).normal(size=(5, lessons.D)))
        lessons.write_cached(own, "train-00001", text, leaves, "teacher-a")

    def other_weights() -> nn.Module:
        torch.manual_seed(1)
        return students.build_student(students.student_spec("mobilenetv4_conv_small_035", {}, lessons.D, 32))

    def torn() -> None:
        checkpoint_file.write_bytes(checkpoint_file.read_bytes()[:-100])

    assert "continues in epoch 1 of 1, after step 1" in stop_and_go_on()
    assert "is of other parameters; removed, training starts" in stop_and_go_on(learning_rate=0.001)
    assert "is of other parameters; removed" in stop_and_go_on(seed=1)
    assert "is of other parameters; removed" in stop_and_go_on(warm_up=2)
    assert "is of other parameters; removed" in stop_and_go_on(accumulation=2)
    assert "is of other parameters; removed" in stop_and_go_on(shuffle_buffer=20)
    assert "is of other initial weights; removed" in stop_and_go_on(other_weights)
    assert "is of other files; removed" in stop_and_go_on(other_targets)
    assert "cannot be read" in stop_and_go_on(torn)
    with monkeypatch.context() as patch:
        assert "is of other code; removed" in stop_and_go_on(lambda: patch.setattr(checkpoint, "meaning", str))


def test_a_teacher_stops_and_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {**lessons.TEACHER, "train": {**lessons.TEACHER["train"], "batch_size": 24, "epochs": 1}}

    def made() -> dict[str, bytes]:
        files = (path for path in (data / "teacher").rglob("*") if path.is_file())
        return {str(path.relative_to(data)): path.read_bytes() for path in files}

    teacher.run(params, data)
    undisturbed = made()
    shutil.rmtree(data / "teacher")
    monkeypatch.setenv(checkpoint.END_TIME, "0")
    for _ in range(2):
        with pytest.raises(checkpoint.Stopped):
            teacher.run(params, data)
        assert list(made()) == ["teacher/.partial-model/checkpoint.safetensors"]
    teacher.run(params, data)
    assert made() == undisturbed


def other(value: Any) -> Any:
    """A value of the same kind that is not ``value``."""
    if isinstance(value, tuple):
        return (*value, "another")
    return {**value, "another": 0} if isinstance(value, dict) else value + type(value)("1")


def test_a_training_is_known_by_every_option(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None can be forgotten: a checkpoint would resume under another weight, temperature ..."""
    monkeypatch.setattr(distillation.Student, "files", lambda self: [])  # there is no other teacher

    def parameters(changed: distillation.Options) -> str:
        objective.options = changed
        return trainer.training_identity(objective)["parameters"]

    chosen = options()
    objective = distillation.Distillation(student(), data, chosen)
    seen = {parameters(chosen)}
    for option in fields(chosen):
        if option.name != "weights":
            seen.add(parameters(replace(chosen, **{option.name: other(getattr(chosen, option.name))})))
    for name in losses.LOSSES:
        seen.add(parameters(replace(chosen, weights=replace(chosen.weights, **{name: 0.123}))))
    assert len(seen) == len(fields(chosen)) + len(losses.LOSSES)
    control = distillation.Control(student(5), data, chosen)
    assert trainer.training_identity(control)["parameters"] not in seen


def test_the_code_of_a_training_is_that_of_its_objective_and_layers(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closures: list[tuple[str, ...]] = []
    closure = checkpoint.closure

    def watched(*modules: str) -> list[str]:
        closures.append(modules)
        return closure(*modules)

    monkeypatch.setattr(checkpoint, "closure", watched)
    spec = students.student_spec("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 96, "num_heads": 3}, lessons.D, 32)
    objective = distillation.Distillation(students.build_student(spec), data, options())
    trainer.training_identity(objective)
    assert closures == [("models.prunable", "training.distillation")]
    with pytest.raises(ValueError, match=r"no module training\.distilation"):
        checkpoint.training_identity(nn.Linear(1, 1), ["bioclip_lite.training.distilation"], [], {})
