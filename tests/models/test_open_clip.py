"""open_clip trains on our shards as they are: tars, captions and sizes.json."""

import json
import re
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from bioclip_lite.models import checkpoints, hub
from bioclip_lite.stages import index, shard
from support.photographs import folder_params, garden

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 64, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def test_open_clip_trains_on_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.run(folder_params(garden(tmp_path / "source", each=40)), tmp_path / "data")
    shard.run(
        {"counts": {"pretrain": 0, "train": 2, "val": 1, "calibration": 1, "test": 1}, "max_side": None},
        tmp_path / "data",
    )
    (tmp_path / "tiny.json").write_text(json.dumps(MODEL))
    program = (
        "import open_clip, sys; from open_clip_train.main import main;"
        "open_clip.add_model_config('tiny.json'); main(sys.argv[1:])"
    )
    options = "--model tiny --dataset-type webdataset --batch-size 8 --workers 1 --epochs 2 --lr 0.001 --warmup 1"
    data = "--train-data data/shard/train-{00000..00001}.tar --val-data data/shard/val-00000.tar"
    done = subprocess.run(
        [sys.executable, "-c", program, *options.split(), *data.split(), "--logs", "logs", "--name", "trial"],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"Train Epoch: 1 \[ *72/72 \(100%\)\]", done.stdout), done.stdout[-3000:]  # from sizes.json
    assert (tmp_path / "logs/trial/checkpoints/epoch_2.pt").exists()
    assert "image_to_text_R@1" in done.stdout
    # The checkpoint is a teacher: trained with betas and rates of NumPy, on one process.
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", MODEL)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    folder = tmp_path / "logs/trial/checkpoints"
    model = hub.load(hub.find("tiny", "epoch_2.pt", folder, preprocess=preprocess))
    with torch.serialization.safe_globals(checkpoints._PLAIN):
        trained = torch.load(folder / "epoch_2.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(model.state_dict()[name.removeprefix("module.")], value) for name, value in trained.items())
