"""Read the weights of foreign checkpoints: plain tensors, never code, under the names that their architecture has.

Training programs wrap a model in layers of names: open_clip_train saves {"epoch", "name", "state_dict", "optimizer"}
with ``module.`` before each name, torch.compile adds ``_orig_mod.``, Lightning ``model.``, and timm keeps an
exponential moving average beside the model. BioTrove-CLIP's files are of the first form, with NumPy scalars in the
optimizer.
"""

import argparse
import contextlib
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import load_file

from bioclip_lite.utils.errors import UserError, first_line

State = dict[str, torch.Tensor]

# Where programs keep the weights, the averaged ones first: they are those that their authors evaluate.
_PLACES = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model"),
    *("module", "net", "network", "weights", "params"),
)
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "clip.", "ema_model.")
_COUNTERS = {"n_averaged", "initted", "step"}  # entries of averages that are no weights
# The types beside tensors that open_clip_train's checkpoints hold. They are plain data; NumPy 1 wrote the older names.
_PLAIN: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
    *((multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((multiarray._reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
_LFS_POINTER, _PAGES = b"version https://git-lfs", (b"<!doctype html", b"<html", b"<?xml")


def read_state(path: Path) -> State:
    """Read the state dictionary of a checkpoint (.safetensors, .pt, .pth, .bin), on the CPU.

    Wrappers of the names are taken off. Of several sets of weights the moving average is taken, as timm does.

    Raises:
        UserError: the file is no checkpoint (a pointer of Git LFS, a web page, cut short), holds code or a whole
            pickled model, or has no weights.
    """
    _check_head(path)
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickled(path)
    place, state = _weights_in(content, "")
    if state is None:
        entries = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"{path}: no weights in it ({entries}); give a checkpoint that holds a state dictionary")
    if place:
        print(f"{path.name}: weights of entry {place}")
    return _unwrapped(state)


def _check_head(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise UserError(f"{path} is empty; copy or download it again")
    if head.startswith(_LFS_POINTER):
        raise UserError(f"{path} is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
    if head.lstrip().lower().startswith(_PAGES):
        raise UserError(f"{path} is a web page, not weights; the server may ask for a login, so download it by hand")


def _load_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is no complete safetensors file ({error}); copy or download it again") from error


def _load_pickled(path: Path) -> Any:
    """The content of a file that torch.save wrote; mapped into memory, so that an optimizer's state is never read."""
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and (name := _refused(str(error))):
            raise UserError(
                f"{path} holds more than tensors ({name}), which could run code when it is read, so it is refused; "
                f"where you trust it, load it in Python and save model.state_dict()"
            ) from error
        raise UserError(f"{path} is no checkpoint of PyTorch; is it complete, and not another kind of file?") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript archive; load it with torch.jit.load and save its state_dict(), or take the "
                f"same weights by their tag in open_clip (for OpenAI's CLIP: weights openai)"
            ) from error
        raise UserError(f"{path} cannot be read ({first_line(error)[:120]}); is the file complete?") from error


def _refused(message: str) -> str | None:
    """The type that torch's reader of plain data met, from its message."""
    found = re.search(r"(?:[Uu]nsupported (?:global: )?GLOBAL|Unsupported class|unrecognized function) (\S+)", message)
    return found[1].strip("`.,") if found else None


def _weights_in(content: Any, place: str) -> tuple[str, State | None]:
    """(name of the entry, its tensors) of the first set of weights in a checkpoint."""
    if not isinstance(content, Mapping):
        return place, None
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if tensors and len(tensors) >= len(content) - len(_COUNTERS):
        return place, {str(name): tensor for name, tensor in tensors.items() if name not in _COUNTERS}
    for name in _PLACES:
        found = _weights_in(content.get(name), f"{place}.{name}".strip("."))
        if found[1]:
            return found
    return place, None


def _unwrapped(state: State) -> State:
    """The tensors without the prefixes that wrappers of a model put before all names."""
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


@contextlib.contextmanager
def naming(path: Path, model: str) -> Iterator[None]:
    """Turn PyTorch's report of weights that do not fit an architecture into one sentence."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = " ".join(lines[1:3] if len(lines) > 1 else lines) or type(error).__name__
        raise UserError(
            f"{path}: open_clip cannot load it as {model}: {detail[:240]}; is it of this architecture?"
        ) from error
