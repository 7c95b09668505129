import argparse
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from bioclip_lite.models import architectures, checkpoints, hub
from bioclip_lite.utils.errors import UserError
from support.small_clip import CONFIG, small

STATE = small().state_dict()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


def trained() -> dict[str, Any]:
    """A checkpoint of open_clip_train, which BioTrove-CLIP's files are: a rate set by NumPy's cosine, a scaler."""
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, dtype=torch.long))[0].sum().backward()
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * (1 + np.cos(np.pi * 3 / 40)) * 1e-3
    return {
        "epoch": 40,
        "name": "2024_05_25-model_ViT-B-16-lr_0.0005-b_4096",
        "state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()},
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": np.int64(7)},
    }


def as_numpy_1_wrote(content: Any, path: Path) -> None:
    """Write a pickle whose NumPy scalars are named as NumPy 1 named them."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue().replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"))
    assert b"numpy.core.multiarray" in path.read_bytes()


FORMS: dict[str, Any] = {
    "plain": STATE,
    "open_clip_train": trained(),
    "compiled": {"state_dict": prefixed("_orig_mod.")},
    "compiled and parallel": {"state_dict": prefixed("module._orig_mod.")},
    "Lightning": {"state_dict": prefixed("model."), "pytorch-lightning_version": "2.0"},
    "with arguments": {"state_dict": STATE, "args": argparse.Namespace(lr=1e-3, model="ViT-B-16")},
    "with NumPy": {"state_dict": STATE, "loss": np.float64(1.5), "history": np.arange(3.0)},
    "moving average beside the model": {"state_dict": {k: v * 0 for k, v in STATE.items()}, "state_dict_ema": STATE},
    "torch's average": {"model": {k: v * 0 for k, v in STATE.items()}, "ema": AveragedModel(small()).state_dict()},
    "nested average": {"ema": {"decay": 0.999, "module": STATE}},
    "half precision": {name: tensor.bfloat16() for name, tensor in STATE.items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin"])
def test_the_weights_of_every_form_are_read(tmp_path: Path, form: str, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    torch.save(FORMS[form], path)
    state = checkpoints.read_state(path)
    assert set(state) == set(STATE)
    for name, tensor in STATE.items():
        torch.testing.assert_close(state[name].float(), tensor, rtol=1e-2, atol=1e-2)


def test_a_file_that_numpy_1_wrote_is_read(tmp_path: Path) -> None:
    as_numpy_1_wrote(trained(), tmp_path / "x.pt")
    assert set(checkpoints.read_state(tmp_path / "x.pt")) == set(STATE)


def test_safetensors_with_wrapped_names_are_read(tmp_path: Path) -> None:
    save_file(prefixed("module."), tmp_path / "x.safetensors")
    assert set(checkpoints.read_state(tmp_path / "x.safetensors")) == set(STATE)


def whole() -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 598641023\n"


@pytest.mark.parametrize("ending", [".bin", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (POINTER, "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"\n\n<HTML>", "is a web page"),
        (whole()[: len(whole()) // 2], "complete"),
        (b"hello world, these are no weights", "complete"),
    ],
)
def test_files_that_are_no_weights_are_named_for_what_they_are(
    tmp_path: Path, ending: str, content: bytes, says: str
) -> None:
    (tmp_path / f"x{ending}").write_bytes(content)
    with pytest.raises(UserError, match=says):
        checkpoints.read_state(tmp_path / f"x{ending}")


def test_a_whole_pickled_model_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"more than tensors \(open_clip.model.CLIP\)"):
        checkpoints.read_state(tmp_path / "x.pt")


def test_an_archive_of_torchscript_is_told(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(UserError, match="TorchScript"):
        checkpoints.read_state(tmp_path / "ViT-B-32.pt")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {}}, {"optimizer": {"state": {}}}])
def test_a_checkpoint_without_weights_is_told(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match="no weights in it"):
        checkpoints.read_state(tmp_path / "x.pt")


def test_code_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.mkdir, (tmp_path / "exploded",)  # type: ignore[return-value]

    torch.save({"state_dict": STATE, "x": Bomb()}, tmp_path / "x.pt", pickle_module=pickle)
    with pytest.raises(UserError, match="could run code"):
        checkpoints.read_state(tmp_path / "x.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("file", "architecture"),
    [
        ("biotroveclip-vit-b-16-from-openai-epoch-40.pt", "ViT-B-16-quickgelu"),
        ("biotroveclip-vit-b-16-from-bioclip-epoch-8.pt", "ViT-B-16"),
        ("biotroveclip-vit-l-14-from-metaclip-epoch-12.pt", "ViT-L-14-quickgelu"),
        ("RemoteCLIP-ViT-B-32.pt", "ViT-B-32"),
        ("MobileCLIP2-S4.safetensors", "MobileCLIP2-S4"),
        ("mobileclip2_s0.pt", "MobileCLIP2-S0"),
        ("mobileclip_s0.pt", "MobileCLIP-S0"),
        ("ViT-B-16-SigLIP-256.bin", "ViT-B-16-SigLIP-256"),
        ("epoch_40.pt", None),
        ("vit-b-161.pt", None),
    ],
)
def test_a_file_is_named_after_its_architecture(file: str, architecture: str | None) -> None:
    assert architectures.named_in(file) == architecture


@pytest.mark.parametrize(
    ("architecture", "mean", "interpolation", "resize"),
    [
        ("MobileCLIP-S1", 0.0, "bilinear", "shortest"),
        ("MobileCLIP2-S0", 0.0, "bilinear", "shortest"),
        ("PE-Core-B-16", 0.5, "bilinear", "squash"),
        ("ViT-B-32", 0.481, "bicubic", "shortest"),
        ("ViT-B-16-SigLIP", 0.5, "bicubic", "squash"),
    ],
)
def test_a_weights_file_is_preprocessed_as_its_architecture_is(
    tmp_path: Path, architecture: str, mean: float, interpolation: str, resize: str
) -> None:
    found = architectures.preprocess_of(architecture, "teacher.pretrained")
    assert (round(found["mean"][0], 3), found["interpolation"], found["resize_mode"]) == (mean, interpolation, resize)


@pytest.mark.parametrize("architecture", ["ViT-L-14", "ViT-S-16", "ViT-H-14"])
def test_an_architecture_without_one_preprocessing_asks_for_it(tmp_path: Path, architecture: str) -> None:
    (tmp_path / "mine.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"state it in teacher\.pretrained\.preprocess"):
        hub.find(architecture, "mine.pt", tmp_path)
    stated = {"mean": [0.1] * 3, "std": [0.3] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    assert hub.find(architecture, "mine.pt", tmp_path, preprocess=stated).config["preprocess_cfg"] == stated


def test_weights_of_another_architecture_say_which_tensors_differ(tmp_path: Path) -> None:
    other = {**CONFIG["model_cfg"], "embed_dim": 12}
    torch.save(CLIP(**other).state_dict(), tmp_path / "x.pt")
    published = hub.Published("small", CONFIG, tmp_path / "x.pt", None)
    with pytest.raises(UserError, match=r"size mismatch for (text_projection|visual\.proj)"):
        hub.load(published)
