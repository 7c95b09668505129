"""Teachers as they are published, from their file to a student."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from bioclip_lite.models import students
from bioclip_lite.stages import distill, logits, teacher
from bioclip_lite.teacher_cache import store
from support import lessons
from support.small_clip import CONFIG, siglip, small, unigram

BIOTROVE = "biotroveclip-vit-b-16-from-openai-epoch-40.pt"
Publish = Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]


def biotrove(weights: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """BioTrove-CLIP O, in small: what open_clip_train wrote on many GPUs, its rate set by NumPy."""
    small_config = {**CONFIG["model_cfg"], "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16-quickgelu", small_config)
    state = {f"module.{name}": tensor for name, tensor in small().state_dict().items()}
    optimizer = {"state": {}, "param_groups": [{"lr": np.float64(5e-4), "betas": (0.98, 0.99)}]}
    torch.save({"epoch": 40, "name": "x", "state_dict": state, "optimizer": optimizer}, weights / BIOTROVE)
    return {"model": BIOTROVE, "weights": None}


def sigmoid(weights: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A SigLIP, in small: its bias is the same for all taxa, so it changes no distribution."""
    unigram(siglip(weights / "siglip"))
    return {"model": "local-dir:siglip", "weights": None}


def trained(weights: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write a checkpoint in the form of open_clip_train, with an architecture named beside it."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16", CONFIG["model_cfg"])
    state = {f"module.{name}": tensor for name, tensor in small().state_dict().items()}
    torch.save({"epoch": 3, "name": "x", "state_dict": state, "optimizer": {}}, weights / "epoch_3.pt")
    return {"model": "ViT-B-16", "weights": "epoch_3.pt", "preprocess": CONFIG["preprocess_cfg"]}


def mobileclip(weights: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """MobileCLIP2-S4, in small: a FastViT that ends in the embedding, and text towers that look both ways."""
    config = open_clip.get_model_config("MobileCLIP2-S4")
    config["vision_cfg"] |= {"timm_model_name": "fastvit_t8", "image_size": 64}
    config["text_cfg"] |= {"width": 64, "heads": 1, "layers": 1}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "MobileCLIP2-S4", config)
    torch.manual_seed(0)
    model = open_clip.create_model("MobileCLIP2-S4")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, weights / "MobileCLIP2-S4.safetensors")
    return {"model": "MobileCLIP2-S4.safetensors", "weights": None}


@pytest.mark.parametrize("publish", [biotrove, trained, sigmoid, mobileclip])
def test_a_published_file_becomes_a_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish: Publish) -> None:
    data = lessons.make_data(tmp_path / "data")
    (data / "weights").mkdir()
    chosen = {"revision": None, "preprocess": None, **publish(data / "weights", monkeypatch)}
    teacher.run(
        {"kind": "pretrained", "allow_research_only": False, "allow_weak": False, "pretrained": chosen}, data, "model"
    )
    for name in [*(f"{split}-00000" for split in ("val", "calibration", "test")), "train-00000", "train-00001", "taxa"]:
        logits.run({**lessons.VIEWS, "prompt": "sci"}, data, name)  # the small towers read 16 tokens
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    assert np.isfinite(taxa.text).all() and taxa.logit_scale > 0
    distill.run({**lessons.DISTILL, "epochs": 1}, data, "student")
    model, _, preprocess = students.load_student(data / "distill" / "model")
    pixels = torch.zeros(1, 3, preprocess["size"], preprocess["size"])
    assert model(pixels).shape == (1, taxa.text.shape[1])
