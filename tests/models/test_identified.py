from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from bioclip_lite.models import identified, teachers
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_json
from support import fake_bundles

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


def test_a_folder_of_the_wanted_teacher_is_loaded(tmp_path: Path) -> None:
    teacher = fake_bundles.make_teacher(tmp_path)
    folder = tmp_path / "teacher" / "model"
    assert identified.load(str(folder), None, tmp_path, teacher.identity).identity == teacher.identity
    with pytest.raises(UserError, match=f"is teacher {teacher.identity[:12]}, but .* by aaaaaaaaaaaa"):
        identified.load(str(folder), None, tmp_path, 64 * "a")
    with pytest.raises(UserError, match="is no teacher"):
        identified.load(str(tmp_path), None, tmp_path, teacher.identity)


def test_a_published_model_is_known_by_what_it_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, config = open_clip.CLIP(**SMALL), {"model_cfg": SMALL, "preprocess_cfg": {}}
    prepared = teachers.open_clip_preprocess(config, "test")
    about = teachers.save_teacher(tmp_path / "own", model, config, prepared, "pretrained", "small", None)
    published = tmp_path / "weights" / "published"
    published.mkdir(parents=True)
    write_json(published / "open_clip_config.json", config)
    (published / "open_clip_model.safetensors").write_bytes(
        (tmp_path / "own" / "open_clip_model.safetensors").read_bytes()
    )
    found = identified.load("local-dir:published", None, tmp_path / "weights", about["identity"])
    expected = teachers.embed_texts(teachers.load_teacher(tmp_path / "own"), ["a photo of Morus alba."])
    assert np.array_equal(teachers.embed_texts(found, ["a photo of Morus alba."]), expected)
    with pytest.raises(UserError, match="rows of two teachers cannot be compared"):
        identified.load("local-dir:published", None, tmp_path / "weights", 64 * "a")
