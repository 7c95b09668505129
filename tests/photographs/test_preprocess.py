import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from bioclip_lite.photographs import preprocess as p
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_json
from support.photographs import picture


@given(width=st.integers(8, 150), height=st.integers(8, 150), size=st.integers(4, 64))
@settings(max_examples=60, deadline=None)
def test_is_what_clip_does(width: int, height: int, size: int) -> None:
    image = picture("clip", size=(width, height))
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    clip = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    ours = p.preprocess(image, p.preprocessing(size, mean, std))
    assert ours.dtype == np.float32
    assert ours.shape == (3, size, size)
    # Ours fixes the order of the two resampling passes, Pillow's depends on the sizes, and each pass rounds to 8 bits.
    levels = np.abs(ours - clip(image).numpy()) * 255 * np.array(std)[:, None, None]
    assert levels.max() < 2.01
    assert levels.mean() < 0.5


def test_squash_ignores_the_aspect_ratio() -> None:
    image = picture("squash", size=(80, 20))
    expected = image.resize((16, 16), Image.Resampling.BICUBIC)
    assert p.resize(image, p.preprocessing(16, resize="squash")).tobytes() == expected.tobytes()


def test_golden_image() -> None:
    """The same bytes are expected of packages/react-bio-clip; Pillow's fixed-point resampling is exact."""
    x = np.arange(61 * 47 * 3, dtype=np.uint32)
    image = Image.fromarray((x * 2654435761 >> 13 & 255).astype(np.uint8).reshape(47, 61, 3))
    resized = p.resize(image, p.preprocessing(32))
    assert resized.size == (32, 32)
    assert hashlib.md5(resized.tobytes()).hexdigest() == "0c36db32cb73a85b9b78ef37fd391e12"


def test_other_modes_become_rgb() -> None:
    grey = picture("grey", mode="L")
    assert p.preprocess(grey, p.preprocessing(16)).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": 0}, "size"),
        ({"resize": "longest"}, "shortest, squash"),
        ({"interpolation": "nearest"}, "bicubic"),
        ({"std": [0.5, 0.5, 0]}, "std"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_file_it_cannot_honour_is_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    write_json(tmp_path / "preprocess.json", {**p.preprocessing(32), **change})
    with pytest.raises(UserError, match=says):
        p.read_preprocess(tmp_path)


def test_a_model_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"preprocess\.json is missing"):
        p.read_preprocess(tmp_path)
