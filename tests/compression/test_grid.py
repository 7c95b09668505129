import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bioclip_lite.compression import grid

bits = st.sampled_from([8, 16])
weights = arrays(
    np.float32, array_shapes(max_dims=4, max_side=5), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
)


@given(weights, bits)
def test_zero_is_exact(w: np.ndarray, bits: int) -> None:
    used = grid.fit(w, bits)
    zero = np.zeros(1, np.float32)
    assert grid.decode(grid.encode(zero, used), used)[0] == 0
    assert (grid.decode(grid.encode(w, used), used)[w == 0] == 0).all()


@given(weights, bits)
def test_error_is_at_most_half_a_step(w: np.ndarray, bits: int) -> None:
    used = grid.fit(w, bits)
    error = np.abs(grid.decode(grid.encode(w, used), used).astype(np.float64) - w)
    rounding = np.spacing(np.abs(w).max())  # of the decoded value to float32
    if used.scale != 1 or w.any():
        assert error.max() <= 0.5 * used.scale * (1 + 1e-9) + rounding


@given(weights, bits)
def test_points_of_the_grid_stay(w: np.ndarray, bits: int) -> None:
    used = grid.fit(w, bits)
    q = grid.encode(w, used)
    assert (grid.encode(grid.decode(q, used), used) == q).all()


@given(weights, bits)
def test_integers_have_the_type_and_shape_that_is_stored(w: np.ndarray, bits: int) -> None:
    q = grid.encode(w, grid.fit(w, bits))
    assert q.shape == w.shape
    assert q.dtype == {8: np.uint8, 16: np.uint16}[bits]


@given(weights)
def test_decoding_is_what_javascript_computes(w: np.ndarray) -> None:
    used = grid.fit(w, 8)
    q = grid.encode(w, used)
    one_by_one = [np.float32(float(value) * used.scale + used.minimum) for value in q.reshape(-1)]
    assert grid.decode(q, used).reshape(-1).tolist() == [float(value) for value in one_by_one]


def test_a_tensor_of_zeros() -> None:
    used = grid.fit(np.zeros((2, 2), np.float32), 8)
    assert (grid.decode(grid.encode(np.zeros((2, 2), np.float32), used), used) == 0).all()


def test_values_beyond_the_grid_go_to_its_ends() -> None:
    used = grid.fit(np.array([-1, 1], np.float32), 8)
    assert grid.encode(np.array([-5, 5], np.float32), used).tolist() == [0, 255]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        grid.fit(np.array([0, bad], np.float32), 8)


def test_other_numbers_of_bits() -> None:
    with pytest.raises(ValueError, match="8 or 16 bits"):
        grid.fit(np.ones(2, np.float32), 4)


def test_fingerprints_tell_bits_apart() -> None:
    w = np.arange(6, dtype=np.float32)
    assert grid.fingerprint(w) == grid.fingerprint(w.reshape(2, 3))
    assert grid.fingerprint(w) != grid.fingerprint(np.nextafter(w, np.float32(9)))
    assert grid.fingerprint(np.array([0.0], np.float32)) != grid.fingerprint(np.array([-0.0], np.float32))
