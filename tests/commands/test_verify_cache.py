import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bioclip_lite.commands.verify_cache import main, verify
from bioclip_lite.models import teachers
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.stages import logits
from bioclip_lite.stages.teacher import _config
from bioclip_lite.teacher_cache import store
from support import lessons


def save_teacher(data: Path, seed: int, name: str = "model", size: int = 32) -> None:
    torch.manual_seed(seed)
    config = _config(lessons.TEACHER["train"] | {"image_size": size}, lessons.D, "", {}, preprocessing(size))
    model, prepared = teachers.build_clip(config), teachers.open_clip_preprocess(config, "test")
    teachers.save_teacher(data / "teacher" / name, model, config, prepared, "train", "small", None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = lessons.make_data(tmp_path)
    save_teacher(folder, 0)
    logits.run(lessons.VIEWS, folder)
    return folder


def rewrite(path: Path, **changes: Any) -> None:
    shard = store.read_shard(path)
    made = {"keys": shard.keys, "images": shard.images, "views": shard.views, "embeddings": shard.embeddings, **changes}
    made = {name: np.array(part) if name != "keys" else part for name, part in made.items()}
    encoded = {"embeddings": made.pop("embeddings")}
    store.write_shard(path, encoded=encoded, identity=shard.identity, **made)


def test_a_good_cache_passes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify(data, 40)
    assert len(found) == 40
    assert len({f.shard for f in found}) >= 4 and {f.view for f in found} == {0, 1, 2}
    assert main(["--data", str(data), "--views", "20"]) == 0
    assert re.search(r"20 views embedded again, lowest cosine (0\.9999|1\.0000)", capsys.readouterr().out)


def test_every_teacher_is_asked_in_its_own_size(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_teacher(data, 1, "second", size=40)
    logits.run({**lessons.VIEWS, "precision": "int8"}, data)
    found = verify(data, 30)
    assert len(found) == 60
    assert sum(finding.shard.startswith("second/train-0000") for finding in found) > 10
    assert found[0].cosine > 0.9999
    save_teacher(data, 2, "second", size=40)
    assert main(["--data", str(data)]) == 1
    assert "logits/second/" in (said := capsys.readouterr().err) and "the teacher in data/teacher/second" in said


def test_one_wrong_row_is_found_and_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data / "logits" / "val-00000.safetensors"
    shard = store.read_shard(path)
    embeddings = np.array(shard.embeddings)
    embeddings[[0, 1], 0] = embeddings[[1, 0], 0]  # e.g. photographs in another order
    rewrite(path, embeddings=embeddings)
    assert main(["--data", str(data), "--views", "100000"]) == 1
    message = capsys.readouterr().err
    assert f"val-00000 {shard.keys[0]} view 0: cosine 0." in message
    assert "2 of" in message and "--forcerun embed_shard" in message


def test_another_teacher_or_other_photographs_are_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data / "logits" / "test-00000.safetensors"
    shard = store.read_shard(path)
    rewrite(path, images=shard.images + 1)
    assert main(["--data", str(data), "--views", "100000"]) == 1
    assert f"another photograph {shard.keys[0]} than" in capsys.readouterr().err
    rewrite(path, keys=["other", *shard.keys[1:]], images=shard.images)
    assert main(["--data", str(data)]) == 1
    assert "lists other photographs than data/shard/test-00000.tar" in capsys.readouterr().err
    save_teacher(data, 1)
    assert main(["--data", str(data)]) == 1
    assert "was not made by the teacher in data/teacher/model" in capsys.readouterr().err
