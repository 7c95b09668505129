"""A made-up GPU: code for GPUs is executed where there is none, without a single number.

Tensors have a shape, a type and a device, and no content (PyTorch's ``FakeTensorMode``), on a device that PyTorch's
door for foreign hardware (``PrivateUse1``) lets us name "gpu". An operation on tensors of two devices raises as it
would on a GPU. What makes a process wait for a GPU is counted, by file and line: to read a number, to copy to the CPU,
to copy from memory that is not pinned.

What it cannot show: numbers (each one read is 1.0), speed, memory, kernels that a GPU lacks, races of streams,
exchange between processes. ``install`` changes PyTorch for the rest of the process, so it has one of its own.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import bioclip_lite
from bioclip_lite.models import students, teachers
from bioclip_lite.utils import machine

_PACKAGE = Path(bioclip_lite.__file__).parent
_aten = torch.ops.aten
_AUTOCAST, _CASTS = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
_READ = {torch.bool: False, torch.float32: 1.0, torch.float64: 1.0}  # what each number is, by its type; integers: 1

Waits = Counter[str]  # "file:line function", of this package, and what it did there


class _Backend:
    """What PyTorch asks of the module of a device."""

    device = mock.MagicMock
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
    is_autocast_enabled = staticmethod(lambda: False)
    is_available = is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = set_rng_state = staticmethod(lambda *_: None)  # there is nothing to be random
    get_rng_state = staticmethod(lambda *_: torch.zeros(1, dtype=torch.uint8))
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)


def install() -> None:
    """Give PyTorch a device "gpu", and this package that one to work on."""
    backend_registration._setup_privateuseone_for_python_backend("gpu", _Backend())
    _AUTOCAST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in ("conv2d", "linear", "matmul", "scaled_dot_product_attention"):
        _CASTS.impl(name, _cast(getattr(_aten, name).default), "AutocastPrivateUse1")
    nn.Module._apply = _apply  # type: ignore
    for module in (students, teachers):
        module.load_file = _with_content(load_file)  # type: ignore[attr-defined]
    torch.Tensor.pin_memory = _pin  # type: ignore
    FakeTensor.numpy, FakeTensor.tolist = _numpy, lambda tensor: _numpy(tensor.cpu()).tolist()  # type: ignore
    machine.device = lambda: torch.device("gpu", 0)


def _cast(operation: Callable[..., Any]) -> Callable[..., Any]:
    """``operation`` under autocast: computed in its format."""

    def cast(*arguments: Any, **named: Any) -> Any:
        dtype = torch.get_autocast_dtype("gpu")
        with torch.autocast("gpu", enabled=False):
            return operation(*(x.to(dtype) if torch.is_tensor(x) else x for x in arguments), **named)

    return cast


def _apply(module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """``nn.Module._apply``, which can neither exchange nor overwrite a parameter without content."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                changed = function(parameter.detach())
                part._parameters[name] = nn.Parameter(changed, requires_grad=parameter.requires_grad)
        part._buffers.update({name: x if x is None else function(x) for name, x in part._buffers.items()})
    return module


def _with_content(read: Callable[..., Any]) -> Callable[..., Any]:
    """``read``, outside of all modes."""

    def found(*arguments: Any) -> Any:
        with _disable_current_modes():
            return read(*arguments)

    return found


def _pin(tensor: torch.Tensor) -> torch.Tensor:
    tensor.pinned = True  # type: ignore[attr-defined]
    return tensor


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise TypeError(f"can't convert {tensor.device} device type tensor to numpy. Use Tensor.cpu() first")
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    values = np.random.default_rng(0).random(shape) if tensor.is_floating_point() else np.ones(shape)
    return values.astype(dtype)


@contextmanager
def fake_gpu() -> Iterator[Waits]:
    """Within it, after ``install``, no tensor has content; counts what makes this process wait for the GPU."""
    waits: Waits = Counter()
    with FakeTensorMode(allow_non_fake_inputs=True), _Watch(waits):
        yield waits


class _Watch(TorchDispatchMode):
    """Sees every operation before it is computed."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        first: Any = arguments[0] if arguments else None
        if operation.overloadpacket in (_aten._local_scalar_dense, _aten.item, _aten.is_nonzero):
            self._note(first.device.type != "cpu", "reads a number")
            return _READ.get(first.dtype, 1)
        if operation.overloadpacket in (_aten.to, _aten._to_copy, _aten.copy_):
            given = (
                dict(zip((argument.name for argument in operation._schema.arguments), arguments, strict=False)) | named
            )
            values, to = given.get("src", first), first.device if "src" in given else given.get("device")
            self._copied(values, torch.device(to or values.device), given.get("non_blocking", False))
        result = operation(*arguments, **named)
        if isinstance(result, FakeTensor):
            result.constant = None  # a number that is known all the same would be computed with, on the device
        return result

    def _copied(self, values: torch.Tensor, to: torch.device, non_blocking: bool) -> None:
        places = values.device.type, to.type
        free = non_blocking and getattr(values, "pinned", False)
        self._note(places == ("gpu", "cpu"), "copies to the CPU")
        self._note(places == ("cpu", "gpu") and not free, "copies from memory that is not pinned")

    def _note(self, waits: bool, what: str) -> None:
        if waits:
            frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(_PACKAGE)]
            place = "elsewhere"
            if frames:
                place = f"{Path(frames[-1].filename).relative_to(_PACKAGE)}:{frames[-1].lineno} {frames[-1].name}"
            self.waits[f"{place} {what}"] += 1
