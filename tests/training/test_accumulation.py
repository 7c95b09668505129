"""A batch in parts is the whole batch: same losses, same gradients, less memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bioclip_lite.models import students, teachers, text_towers, tokenizers
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.stages import teacher
from bioclip_lite.teacher_cache import locked_tower
from bioclip_lite.training import accumulation, contrastive, distillation, losses, text_distillation, trainer
from support import lessons


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = lessons.make_cache(lessons.make_data(tmp_path_factory.mktemp("data")))
    lessons.write_texts(data)
    return data


def student(data: Path, outputs: int, **changes: Any) -> tuple[nn.Module, distillation.Options]:
    torch.manual_seed(0)
    model = students.build_student(students.student_spec("mobilenetv4_conv_small_035", {}, outputs, 32))
    weights = losses.Weights(batch_affinity=1.0)
    named: dict[str, Any] = {
        "stage": "distill",
        "job": "student",
        "preprocess": preprocessing(32),
        "weights": weights,
        "seed": 0,
    }
    return model, distillation.Options(**{**named, **trainer.chosen(lessons.DISTILL), **changes})


def distilled(data: Path, **changes: Any) -> trainer.Objective:
    model, options = student(data, lessons.D, **changes)
    return distillation.Distillation(model, data, options)


def controlled(data: Path, **changes: Any) -> trainer.Objective:
    model, options = student(data, 5, **changes)
    return distillation.Control(model, data, options)


def two_towers(data: Path, **changes: Any) -> trainer.Objective:
    model, options = student(data, lessons.D, **changes)
    arguments: dict[str, Any] = {"kind": "transformer", "width": 64, "layers": 2, "outputs": lessons.D}
    arguments |= {"context": 64, "student": None}
    tower, tokenizer = text_towers.build(**arguments), text_towers.tokenizer(arguments)
    return text_distillation.TwoTowerDistillation(model, tower, tokenizer, data, options)


def clip(section: dict[str, Any], embed_dim: int, projection: str) -> tuple[teachers.Clip, Any, dict[str, Any]]:
    options = section.get("image_tower_options", {})
    config = teacher._config(section, embed_dim, projection, options, preprocessing(32))  # type: ignore[arg-type]
    torch.manual_seed(0)
    return teachers.build_clip(config), tokenizers.of_clip(config), teachers.open_clip_preprocess(config, "the teacher")


def trained(data: Path, **changes: Any) -> trainer.Objective:
    section = lessons.TEACHER["train"]
    model, tokenizer, preprocess = clip(section, lessons.D, "")
    options = contrastive.Options(seed=0, captions=("sci", "taxon_com"), **{**trainer.chosen(section), **changes})
    return contrastive.ClipTraining(model, tokenizer, preprocess, data, ["train-00000"], ["val-00000"], options, True)


def tuned(data: Path, **changes: Any) -> trainer.Objective:
    section = lessons.TEACHER["lit"]
    model, tokenizer, preprocess = clip(section, 1280, "none")
    locked = locked_tower.Tower(model.visual.trunk.eval(), preprocess, 1280, "tower", "a tower")
    folder = data / "teacher" / "features" / "model"
    for shard in ("train-00000", "val-00000"):
        if not (folder / f"{shard}.safetensors").exists():
            locked_tower.embed(locked, data / "shard" / f"{shard}.tar", folder / f"{shard}.safetensors")
    options = contrastive.Options(seed=0, captions=("sci", "taxon_com"), **{**trainer.chosen(section), **changes})
    shards = (["train-00000"], ["val-00000"])
    return contrastive.LockedImageTuning(model, tokenizer, "tower", folder, data, *shards, options, True)


OBJECTIVES = pytest.mark.parametrize("build", [distilled, controlled, two_towers, trained, tuned])


def gradients(objective: trainer.Objective, **changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of the first batch, and what it asks of the parameters."""
    objective.options = replace(objective.options, **changes)
    objective.model.zero_grad()
    loss = objective.loss(next(objective.batches(0, 0)))
    loss.backward()
    parameters = objective.model.named_parameters()
    return loss.item(), {name: p.grad.clone() for name, p in parameters if p.grad is not None}


@OBJECTIVES
def test_micro_batches_add_up_to_the_batch(build: Callable[[Path], trainer.Objective], data: Path) -> None:
    objective = build(data)
    objective.model.eval()  # normalised by the batch, a part is another function
    loss, expected = gradients(objective)
    assert sum(float(gradient.square().sum()) for gradient in expected.values()) > 0
    for parts in (2, 3):
        again, found = gradients(objective, accumulation=parts)
        assert again == pytest.approx(loss, rel=1e-5)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            tolerance = 1e-4 * float(expected[name].norm()) + 1e-7
            assert float((gradient - expected[name]).norm()) < tolerance, name


@OBJECTIVES
def test_every_objective_computes_in_the_format_asked_for(
    build: Callable[[Path], trainer.Objective], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, multiply = trainer.chosen, {torch.float32, torch.bfloat16}
    monkeypatch.setattr(trainer, "chosen", lambda section: {**chosen(section), "precision": "bfloat16"})
    objective = build(data)
    formats: set[torch.dtype] = set()
    for module in objective.model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda layer, inputs, out: formats.add(out.dtype))
    loss, _ = gradients(objective)
    assert formats <= multiply and torch.bfloat16 in formats
    monkeypatch.setattr(trainer, "chosen", lambda section: {**chosen(section), "precision": "float32"})
    assert loss == pytest.approx(gradients(build(data))[0], rel=0.1)


def test_a_part_is_embedded_again_as_it_was() -> None:
    """With the same random numbers, and its statistics counted once."""
    rows, target = torch.randn(7, 6), torch.randn(7, 4)

    def passed(parts: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
        if parts:
            out = accumulation.in_parts(model, model, rows, 7, parts)
        else:
            out = torch.cat([model(part) for part in rows.tensor_split(3)])
        (out - target).square().mean().backward()
        return [*(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()]

    plain, parts = passed(0), passed(3)
    assert len(plain) == len(parts) == 9
    for expected, found in zip(plain, parts, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert int(parts[-1]) == 3


def test_activations_of_one_part_are_kept() -> None:
    layers = [nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(4)]
    model, rows, kept, seen = nn.Sequential(*layers), torch.randn(60, 64), [0], []

    def encode(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        out: torch.Tensor = model(part)
        return out

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] += 0 if isinstance(tensor, nn.Parameter) else tensor.numel()
        return tensor

    def measured(parts: int) -> int:
        kept[0] = 0
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = accumulation.in_parts(model, encode, rows, len(rows), parts)
        held = kept[0]
        out.square().mean().backward()
        return held

    assert measured(6) < measured(1) / 3
    assert seen == [10] * 12 + [60]


def test_captions_may_be_fewer_than_parts() -> None:
    model = nn.Linear(3, 2)
    assert accumulation.in_parts(model, model, torch.randn(2, 3), 2, 5).shape == (2, 2)
    assert accumulation.in_parts(model, model, torch.randn(1, 3), 1, 5).shape == (1, 2)
