"""Memory formats in training: where channels_last is faster, and where it is safe."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

_LARGEST_REGISTER = 16  # float32 numbers, of AVX-512


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Keep the weights of ``model``'s 2-d convolutions in channels_last, in place, while it trains.

    Every convolution then computes in channels_last, whatever the memory format of its input. On a GPU tensor cores
    want it; on a CPU a training step takes up to 1.7 times as long in contiguous memory (benchmarks/memory_format.md).

    On a CPU, oneDNN corrupts memory in the backward pass of some of these convolutions (``_overruns``): the process
    crashes, hangs or learns from wrong gradients. They are given only the pixels that their stride reads, and stride 1:
    the same function, computed by kernels that are sound, in the same time.
    """
    model.to(memory_format=torch.channels_last)
    strides = {conv: conv.stride for conv in model.modules() if isinstance(conv, nn.Conv2d) and _overruns(conv)}
    hooks = [conv.register_forward_pre_hook(partial(_subsample, stride)) for conv, stride in strides.items()]
    for conv in strides:
        conv.stride = (1, 1)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for conv, stride in strides.items():
            conv.stride = stride
        for tensor in (*model.parameters(), *model.buffers()):
            # ``Module.to`` would leave 1 x 1 kernels in channels_last: PyTorch takes them for contiguous as well.
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def _overruns(conv: nn.Conv2d) -> bool:
    """Whether oneDNN, in channels_last, writes beyond its buffer when it computes the gradient of ``conv``'s weight.

    Its 1 x 1 kernels copy the pixels that the stride reads into a buffer with ``in_channels`` numbers for each, but
    place them as if each filled a vector register: 8 numbers with AVX2, 16 with AVX-512, where it depends on sizes and
    on luck whether it shows (uxlfoundation/oneDNN, issue 6035; torch 2.14.1). FastViT, MobileOne and MobileCLIP begin
    with such a convolution.
    """
    pointwise = conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.padding in ((0, 0), "valid")
    return pointwise and conv.in_channels < _LARGEST_REGISTER and conv.weight.device.type == "cpu"


def _subsample(stride: tuple[int, ...], _: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    """Pixels that a 1 x 1 convolution of ``stride`` reads: (b, c, h, w) to (b, c, ceil(h / stride), ...)."""
    return inputs[0][..., :: stride[0], :: stride[1]]
