import re
from pathlib import Path

import numpy as np
import pytest
import torch

import lessons
from bioclip_lite import cache, models
from bioclip_lite.preprocess import preprocessing
from bioclip_lite.stages import logits
from bioclip_lite.stages.teacher import _config
from bioclip_lite.verify_cache import main, verify


def save_teacher(data: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = _config(lessons.TEACHER["train"], lessons.D, "", {}, preprocessing(32))
    model, prepared = models.build_clip(config), models.open_clip_preprocess(config, "test")
    models.save_teacher(data / "teacher" / "model", model, config, prepared, "train", "small", None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = lessons.make_data(tmp_path)
    save_teacher(folder, 0)
    logits.run(lessons.VIEWS, folder)
    return folder


def test_a_good_cache_passes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify(data, 40)
    assert len(found) == 40
    assert len({f.shard for f in found}) >= 4 and {f.view for f in found} == {0, 1, 2}
    assert main(["--data", str(data), "--views", "20"]) == 0
    assert re.search(r"20 views embedded again, lowest cosine (0\.9999|1\.0000)", capsys.readouterr().out)


def test_one_wrong_row_is_found_and_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data / "logits" / "val-00000.safetensors"
    shard = cache.read_shard(path)
    embeddings = np.array(shard.embeddings)
    embeddings[[0, 1], 0] = embeddings[[1, 0], 0]  # e.g. photographs in another order
    cache.write_shard(path, shard.keys, embeddings, np.array(shard.views), shard.identity)
    assert main(["--data", str(data), "--views", "100000"]) == 1
    message = capsys.readouterr().err
    assert f"val-00000 {shard.keys[0]} view 0: cosine 0." in message
    assert "2 of" in message and "--forcerun embed_shard" in message


def test_another_teacher_or_other_photographs_are_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data / "logits" / "test-00000.safetensors"
    shard = cache.read_shard(path)
    cache.write_shard(
        path, ["other", *shard.keys[1:]], np.array(shard.embeddings), np.array(shard.views), shard.identity
    )
    assert main(["--data", str(data)]) == 1
    assert "lists other photographs than data/shard/test-00000.tar" in capsys.readouterr().err
    save_teacher(data, 1)
    assert main(["--data", str(data)]) == 1
    assert "was not made by the teacher in data/teacher/model" in capsys.readouterr().err
