"""A small data folder with an untrained but lively student, for the tests of the compression stages."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bioclip_lite.models import teachers
from bioclip_lite.models.students import build_student, reparameterize, save_student, student_spec
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.stages.teacher import _config
from bioclip_lite.utils.files import write_json
from support import lessons

# A FastViT with one block per stage: expanding depthwise convolutions, squeeze-and-excitation, layer scale, attention.
FASTVIT: tuple[str, dict[str, Any]] = ("fastvit_sa12", {"embed_dims": (16, 32, 32, 64), "layers": (1, 1, 1, 1)})
STUDENTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "fastvit_t8": ("fastvit_t8", {"embed_dims": (24, 48, 96, 192)}, 64),
    "fastvit with attention": (*FASTVIT, 64),
    "mobilenetv4": ("mobilenetv4_conv_small_050", {}, 64),
    "mobilenetv2, asymmetric padding": ("mobilenetv2_100", {"pad_type": "same"}, 48),
    "mobilenetv3": ("mobilenetv3_small_050", {}, 64),
    "resnet": ("resnet10t", {}, 72),
}


def lively(model: nn.Module, size: int) -> nn.Module:
    """Give ``model``, in place, layer scales and batch statistics as training would; returns it in eval mode."""
    random = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.data.uniform_(0.05, 0.5, generator=random)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.3
        norm.weight.data.uniform_(0.5, 1.5, generator=random)
        norm.bias.data.uniform_(-0.3, 0.3, generator=random)
    model.train()
    with torch.no_grad():
        for _ in range(4):
            model(images(8, size))
    return model.eval()


def images(count: int, size: int) -> torch.Tensor:
    """Blurred noise in [-1, 1]: float32 (count, 3, size, size)."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))
    return nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1) * 2 - 1


def student(name: str, options: dict[str, Any], size: int, outputs: int = 16) -> nn.Module:
    """A re-parameterised student with lively weights, the same in every call."""
    torch.manual_seed(0)
    return reparameterize(lively(build_student(student_spec(name, options, outputs, size)), size))


def make_data(folder: Path, name: str, options: dict[str, Any], size: int = 32) -> Path:
    """A data folder up to stage distill: shards, teacher cache, taxa and a student of ``size`` pixels."""
    lessons.make_data(folder)
    lessons.make_cache(folder)
    teacher = {"identity": "teacher-a", "name": "test teacher", "licence": "CC0-1.0", "kind": "train"}
    write_json(folder / "teacher" / "model" / "teacher.json", teacher)
    owned = "a,a.jpg,Morus alba,CC0-1.0,A. Person\nb,b.jpg,Morus alba,CC-BY-4.0,B. Person\nc,c.jpg,Morus alba,,\n"
    (folder / "index" / "ATTRIBUTION.csv").write_text("key,file,taxon,licence,attribution\n" + owned)
    spec = {**student_spec(name, options, lessons.D, size, "teacher-a"), "reparameterized": True}
    model = student(name, options, size, lessons.D)
    save_student(folder / "distill" / "model", model, spec, preprocessing(size))
    return folder


def save_teacher(data: Path, name: str = "model", size: int = 32, width: int = lessons.D) -> None:
    """An untrained teacher."""
    torch.manual_seed(len(name))
    section = lessons.TEACHER["train"] | {"image_size": size, "embed_dim": width}
    config = _config(section, width, "", {}, preprocessing(size))
    model, prepared = teachers.build_clip(config), teachers.open_clip_preprocess(config, "test")
    teachers.save_teacher(data / "teacher" / name, model, config, prepared, "train", "small", None, allow_weak=True)


def finish_pruning(folder: Path) -> None:
    """Take the student as it is for the pruned one."""
    (folder / "prune").mkdir()
    (folder / "prune" / "model").symlink_to(folder / "distill" / "model")


def largest_relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(np.abs(found.numpy() - expected.numpy()).max() / np.abs(expected.numpy()).max())
