"""Safetensors files whose bytes depend on their content alone, and arrays in them, mapped when they are read."""

import functools
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing

HEADER_BYTES = 100_000_000  # the safetensors library refuses a file with a longer header
_TYPES = {
    **{"I8": "|i1", "I32": "<i4", "U8": "|u1", "U32": "<u4", "U64": "<u8"},
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8"},
}
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}
_MAPPED = 256  # files at a time: each takes a file descriptor, of which most systems allow a process 1,024


_Place = tuple[np.dtype[Any], tuple[int, ...], int]  # type, shape, and where it begins in the file
_State = tuple[int, int, int]  # size in bytes, time of change and number of a file, which differ once it is replaced


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a safetensors file by name: read-only arrays that lie in the file and not in memory.

    The file is mapped when an array is asked for. However many of these objects a process has, no more than ``_MAPPED``
    files stay mapped, and those whose arrays are in use. Worker processes may be sent it.
    """

    def __init__(self, path: Path, state: _State, places: dict[str, _Place]) -> None:
        """See ``map_tensors``."""
        self._path, self._state, self._places = path, state, places

    def __getitem__(self, name: str) -> np.ndarray:
        dtype, shape, offset = self._places[name]
        content = _map(self._path, self._state)
        return np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def map_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """(the tensors of a safetensors file, its metadata).

    Raises:
        ValueError: the file is not complete, or not one of ``write_tensors``.
        OSError: there is none.
    """
    state = _state(path)
    length, header = _header(path)
    metadata = header.pop("__metadata__")
    places = {name: _place(entry, 8 + length, state[0]) for name, entry in header.items()}
    return Tensors(path, state, places), metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; raises as ``map_tensors``."""
    metadata: dict[str, str] = _header(path)[1]["__metadata__"]
    return metadata


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes depend on the content alone.

    The safetensors library writes metadata in random order. The format: the length of the header as 8 little-endian
    bytes, the header as JSON padded to a multiple of 8, the values.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as scratch, scratch.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).data)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """(its length in bytes, what it says), with metadata in it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if 0 < length <= path.stat().st_size else {}
        except RecursionError:
            raise ValueError("its header is nested too deeply") from None
    if "__metadata__" not in header:
        raise ValueError("no '__metadata__'")
    return length, header


def _place(entry: Mapping[str, Any], start: int, size: int) -> _Place:
    try:
        dtype, shape, (begin, end) = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
        fits = min((*shape, begin)) >= 0 and end - begin == dtype.itemsize * math.prod(shape) and start + end <= size
    except (KeyError, TypeError) as error:
        raise ValueError(f"no {error}") from error
    if not fits:
        raise ValueError(f"a tensor ends at byte {start + end} of {size}")
    return dtype, shape, start + begin


def _state(path: Path) -> _State:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@functools.lru_cache(maxsize=_MAPPED)
def _map(path: Path, state: _State) -> mmap.mmap:
    with path.open("rb") as file:
        if _state(path) != state:
            raise UserError(f"{path} was replaced while it was being read; run this again")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
