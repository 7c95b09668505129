from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip_lite import views
from bioclip_lite.preprocess import preprocess, preprocessing
from bioclip_lite.randomness import generator
from photographs import picture

PARAMS: dict[str, Any] = {"crop_scale": [0.2, 1.0], "operations": 2, "magnitude": 1.0}
PHOTOGRAPH = picture("views", size=(312, 240))


def test_the_plain_view_is_the_preprocessing() -> None:
    spec = preprocessing(64)
    plain = views.apply(PHOTOGRAPH, views.plain_view(2), spec)
    np.testing.assert_array_equal(plain, preprocess(PHOTOGRAPH, spec))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_a_row_is_the_same_view_at_another_size(seed: int) -> None:
    row = views.draw(generator(seed), PARAMS)
    small = views.apply(PHOTOGRAPH, row, preprocessing(64))
    large = views.apply(PHOTOGRAPH, row, preprocessing(128)).reshape(3, 64, 2, 64, 2).mean((2, 4))
    # Where contrast and brightness leave almost nothing, rounding to 8 bits weakens the correlation.
    assert np.abs(small - large).mean() < 0.04
    if small.std() > 0.2:
        assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.96


def test_translation_in_pixels_would_be_noticed() -> None:
    row = views.draw(generator(0), {**PARAMS, "operations": 1})
    row[4:] = views.OPERATIONS.index("translate_x"), 1.0
    moved = row.copy()
    moved[5] = 0.5  # what the same number of pixels means at twice the size
    small = views.apply(PHOTOGRAPH, row, preprocessing(64))
    large = views.apply(PHOTOGRAPH, moved, preprocessing(128)).reshape(3, 64, 2, 64, 2).mean((2, 4))
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] < 0.9


@given(seed=st.integers(0, 10**6), width=st.integers(1, 300), height=st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_the_crop_lies_within_the_image(seed: int, width: int, height: int) -> None:
    row = views.draw(generator(seed), PARAMS)
    left, top, right, bottom = views.crop_box(width, height, row)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    inner = left > 0 and right < width and top > 0 and bottom < height
    if inner:
        assert (right - left) * (bottom - top) == pytest.approx(float(row[0]) * width * height, rel=1e-4)


@pytest.mark.parametrize("operation", views.OPERATIONS)
def test_an_operation_does_what_its_amount_says(operation: str) -> None:
    row = views.draw(generator(3), {**PARAMS, "operations": 1})
    spec = preprocessing(32)
    row[4:] = views.OPERATIONS.index(operation), 0.0
    nothing = views.apply(PHOTOGRAPH, row, spec)
    np.testing.assert_allclose(nothing, views.apply(PHOTOGRAPH, row[:4], spec), atol=1e-6)
    row[5] = 0.8
    assert np.abs(views.apply(PHOTOGRAPH, row, spec) - nothing).mean() > 0.01


def test_rows_depend_on_names_alone_and_have_one_length() -> None:
    rows = [views.draw(generator("a", k), PARAMS) for k in range(20)]
    assert {row.shape for row in rows} == {(views.columns(2),)}
    assert rows[0].dtype == np.float32
    np.testing.assert_array_equal(rows[7], views.draw(generator("a", 7), PARAMS))
    assert len({row.tobytes() for row in rows}) == 20
    assert all(0.2 <= row[0] <= 1 and np.abs(row[5::2]).max() <= 1 for row in rows)
