"""Find the initial weights of a training by open_clip_train, and name each mistake in them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bioclip_lite.models import hub, initial_clip
from bioclip_lite.utils.errors import UserError
from support import small_clip

WHERE = "teacher.open_clip"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/weights, on a computer without the hub."""
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.json").write_text(json.dumps(small_clip.CONFIG["model_cfg"]))
    save_file(small_clip.small().state_dict(), tmp_path / "tiny.safetensors")
    small_clip.publish(tmp_path / "published", "open_clip_pytorch_model.bin")
    return tmp_path


def find(folder: Path, model: str | None, pretrained: str | None, **more: Any) -> initial_clip.InitialClip:
    chosen: Any = {"model": model, "pretrained": pretrained, "revision": None, "preprocess": None, **more}
    return initial_clip.find(chosen, folder, WHERE)


@pytest.mark.parametrize(
    ("model", "pretrained"), [("tiny.json", "tiny.safetensors"), (None, "local-dir:published"), ("tiny.json", None)]
)
def test_it_is_loaded_and_written_as_it_was_found(folder: Path, model: str | None, pretrained: str | None) -> None:
    found = find(folder, model, pretrained)
    loaded = initial_clip.load(found, 0, WHERE)
    initial_clip.write(folder / "start", loaded, found.config)
    written = load_file(folder / "start" / "open_clip_model.safetensors")
    expected = small_clip.small().state_dict() if pretrained else initial_clip.load(found, 0, WHERE).state_dict()
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    assert json.loads((folder / "start" / "open_clip_config.json").read_text()) == found.config
    assert (found.about()["sha256"] is None) == (pretrained is None)
    if pretrained is None:
        other = initial_clip.load(found, 1, WHERE).state_dict()
        assert not torch.equal(other["visual.proj"], written["visual.proj"])


def test_preprocessing_is_that_of_openai_unless_stated(folder: Path) -> None:
    stated = find(folder, "tiny.json", None, preprocess={"resize_mode": "squash"}).config["preprocess_cfg"]
    assert (round(stated["mean"][0], 3), stated["interpolation"], stated["resize_mode"]) == (0.481, "bicubic", "squash")
    published = find(folder, None, "local-dir:published", preprocess={"interpolation": "bilinear"})
    assert (published.config["preprocess_cfg"]["mean"], published.about()["licence"]) == ([0.4] * 3, "mit")
    assert published.config["preprocess_cfg"]["interpolation"] == "bilinear"


@pytest.mark.parametrize(
    ("model", "pretrained", "says"),
    [
        ("ViT-B-16", "openai", r"\.model: timm/vit_base_patch16_clip_224\.openai .*\(HF_HUB_OFFLINE is set\)"),
        (None, "hf-hub:imageomics/bioclip", r"\.pretrained: imageomics/bioclip .* `hf download imageomics/bioclip`"),
        ("ViT-B-16", "openia", r"\.pretrained: no file .*, and 'openia' is no tag of ViT-B-16"),
        (None, "local-dir:absent", r"\.pretrained: no folder .*absent"),
        (None, "absent.pt", r"\.pretrained: open_clip has no model 'absent\.pt', and there is no file"),
        ("ViT-B-17", None, r"\.model: open_clip has no architecture 'ViT-B-17'"),
        ("absent.json", None, r"\.model: .*absent\.json: there is no such file"),
        ("list.json", None, r"\.model: .*list\.json: it has no embed_dim, vision_cfg and text_cfg"),
        ("tiny.safetensors.json", None, r"\.model: .* it is no JSON object"),
        ("tiny.json", "absent.pt", r"\.pretrained is absent\.pt, but .* does not exist"),
        ("coca_ViT-B-32", None, r": coca_ViT-B-32, random weights is a CoCa"),
        ("ViT-B-16-SigLIP", None, r": .* has a tokenizer of its own, for which open_clip_train needs the library"),
        ("xlm-roberta-base-ViT-B-32", None, r": .* has a tokenizer of its own"),
        ("sigmoid.json", None, r": sigmoid\.json, random weights was trained with a sigmoid loss"),
    ],
)
def test_what_cannot_be_had_or_trained_is_refused_with_its_parameter(
    folder: Path, model: str | None, pretrained: str | None, says: str
) -> None:
    (folder / "list.json").write_text('{"model_cfg": {"embed_dim": 3}}')
    (folder / "tiny.safetensors.json").write_bytes(b"\x00\x01 no JSON")
    (folder / "sigmoid.json").write_text(json.dumps({**small_clip.CONFIG["model_cfg"], "init_logit_bias": -10}))
    with pytest.raises(UserError, match=rf"^teacher\.open_clip{says}"):
        find(folder, model, pretrained)
