"""Every x86-64 processor computes the same: oneDNN is asked for the kernels of processors without AVX-512, or AVX2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bioclip_lite.models import students
from bioclip_lite.training import memory_format
from models.test_students import FAMILIES, spec
from support.checkout import ROOT

LIMIT = 300.0  # seconds for a process that takes 20; kernels that overrun their buffers may also never end
# Largest errors, in parts of the norm of a gradient (of at least a hundredth of the norm of all).
EXACT, ROUGH = 5e-3, 0.5
# Rough: changing the pixels by one millionth moves the gradients of these by up to 3 %, through ReLUs that switch.
STEEP = ("mobilenetv4", "mobileone")
DENSE = ("MobileCLIP2-B", "vit_tiny", "resnet10t")  # in bfloat16 where all instructions are allowed


def run(folder: Path, instructions: str | None, reference: bool = False) -> dict[str, torch.Tensor]:
    """What processors.py found; ``instructions``: the most of the processor that oneDNN may use, None: all."""
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    environment["PYTHONPATH"] = os.pathsep.join(str(ROOT / folder) for folder in ("workflow", "tests"))
    environment |= {"OMP_NUM_THREADS": "1"} | ({"REFERENCE": "1"} if reference else {})
    environment |= {"ONEDNN_MAX_CPU_ISA": instructions} if instructions else {}
    command = [sys.executable, str(ROOT / "tests/support/processors.py"), str(folder)]
    log = folder.with_suffix(".log")
    with log.open("w") as file:
        try:
            status = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=LIMIT)
            how = f"ended with status {status.returncode}"
        except subprocess.TimeoutExpired:
            how = f"had not ended after {LIMIT:.0f} s"
    text = log.read_text()
    begun = [line for line in text.splitlines() if line.startswith("case ")]
    assert text.endswith("done\n"), f"{instructions or 'all instructions'}: {how} in {begun[-1:]}\n{text[-2000:]}"
    return load_file(folder / "found.safetensors")


@pytest.fixture(scope="module")
def channels_first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return run(tmp_path_factory.mktemp("reference"), None, reference=True)


@pytest.mark.parametrize("instructions", [None, "AVX2", "SSE41"])
def test_gradients_and_answers_are_those_of_channels_first(
    tmp_path: Path, channels_first: dict[str, torch.Tensor], instructions: str | None
) -> None:
    found = run(tmp_path / "run", instructions)
    assert found.keys() == channels_first.keys()
    norms: dict[str, float] = {}
    for key, expected in channels_first.items():
        part = key.rpartition("/")[0]
        norms[part] = norms.get(part, 0.0) + expected.double().square().sum().item()
    wrong = []
    for key, expected in channels_first.items():
        part = key.rpartition("/")[0]
        error = (found[key].double() - expected.double()).norm() / max(expected.norm(), 0.01 * norms[part] ** 0.5)
        rough = any(name in key for name in (*STEEP, *(() if instructions else DENSE)))
        if rough and "step 2" in part:
            error = torch.zeros(()) if found[key].isfinite().all() else torch.tensor(torch.inf)
        if not error <= (ROUGH if rough and "graph" not in key else EXACT):
            wrong.append(f"{key}: {error:.1e}")
    assert not wrong, wrong[:20]


class _Convolutions(TorchFunctionMode):
    """Refuse the convolutions whose backward pass overruns oneDNN's buffers."""

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is F.conv2d:
            x, weight, _, stride = args[:4]
            last = any(t.is_contiguous(memory_format=torch.channels_last) for t in (x, weight))
            narrow = x.shape[1] < 16 and tuple(weight.shape[2:]) == (1, 1) and tuple(stride) != (1, 1)
            assert not (last and narrow), f"a 1 x 1 convolution of {x.shape[1]} channels with stride {stride}"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "options"), [family[:2] for family in FAMILIES], ids=[f[0] for f in FAMILIES])
def test_no_narrow_strided_convolution_reaches_onednn(name: str, options: dict[str, object]) -> None:
    model = students.build_student(spec(name, options))
    with memory_format.channels_last(model), _Convolutions():
        model(torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize(("channels", "side"), [(3, 64), (3, 161), (7, 64), (12, 160)])
@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_a_narrow_strided_convolution_computes_the_same(
    channels: int, side: int, stride: int | tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 24, 1, stride)
    pixels = torch.rand(2, channels, side, side)

    def gradients() -> list[torch.Tensor]:
        conv.zero_grad()
        out = conv(pixels)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        return [out.detach(), *(p.grad.clone() for p in conv.parameters() if p.grad is not None)]

    expected = gradients()
    before = conv.stride
    with memory_format.channels_last(conv):
        found = gradients()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert (conv.stride, len(conv._forward_pre_hooks), conv.weight.stride()) == (before, 0, (channels, 1, 1, 1))
