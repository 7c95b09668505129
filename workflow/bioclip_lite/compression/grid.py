"""The grid of quantized weights, defined once for PyTorch (which measures) and TensorFlow.js (which ships).

A tensor is stored as unsigned integers q of 8 or 16 bits with one ``scale`` and one ``minimum``. Its values are
``float32(float64(q) * scale + minimum)``, computed as TensorFlow.js does on loading, operation for operation
(tfjs-core/src/io/io_utils.ts, decodeWeights). Zero is always a grid point, so that absent connections stay absent.
Needs NumPy only: the environment of the converter imports it too.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

DTYPES: dict[int, type[np.unsignedinteger[Any]]] = {8: np.uint8, 16: np.uint16}


@dataclass(frozen=True)
class Grid:
    """The values of the integers 0 ... 2**bits - 1: ``minimum`` + q * ``scale``."""

    scale: float
    minimum: float
    bits: int


def fit(weights: np.ndarray, bits: int) -> Grid:
    """Fit the grid of 2**bits points that spans ``weights`` (any shape, finite) and zero.

    The ends may move by up to half a step so that zero falls on a point. Raises ValueError for ``bits`` other than 8
    and 16 and for weights that are not finite.
    """
    if bits not in DTYPES:
        raise ValueError(f"a grid has 8 or 16 bits, not {bits}")
    if not np.isfinite(weights).all():
        raise ValueError("weights with NaN or infinity have no grid")
    low, high = min(float(weights.min()), 0.0), max(float(weights.max()), 0.0)
    scale = (high - low) / (2**bits - 1)
    if scale < np.finfo(np.float32).tiny:  # all zero, or too small for float32 to tell neighbours apart
        return Grid(1.0, 0.0, bits)
    # -zero * scale + zero * scale is exactly 0 in floating point, whatever the rounding of the product
    return Grid(scale, -(round(-low / scale) * scale), bits)


def encode(weights: np.ndarray, grid: Grid) -> np.ndarray:
    """Round to the nearest grid points: unsigned integers of the shape of ``weights``; values beyond the grid clip."""
    q = np.rint((weights.astype(np.float64) - grid.minimum) / grid.scale)
    return np.clip(q, 0, 2**grid.bits - 1).astype(DTYPES[grid.bits])


def decode(q: np.ndarray, grid: Grid) -> np.ndarray:
    """Float32 weights of the integers ``q``, of the same shape."""
    return (q.astype(np.float64) * grid.scale + grid.minimum).astype(np.float32)


def fingerprint(weights: np.ndarray) -> str:
    """SHA-256 of the little-endian float32 values in row-major order: equal only for bit-identical weights."""
    return hashlib.sha256(np.ascontiguousarray(weights, dtype="<f4").tobytes()).hexdigest()
