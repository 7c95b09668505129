"""Define the entry of an operation in the table, and the functions that several operations share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bioclip_lite.graph.channel_groups import ChannelGroups
from bioclip_lite.graph.nodes import Node

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, np.ndarray]  # of one node, by key
Shapes = list[list[int]]  # of a node's inputs, without the batch


@dataclass(frozen=True)
class Operation:
    """One operation of the graph; all runtimes compute the same values up to rounding.

    pytorch: ``(node, arrays, *inputs)`` to the output, float32 (batch, *shape).
    tensorflow: ``(tf, node, arrays, *inputs)`` to the symbolic output, channels last. ``arrays`` have TensorFlow's
        layout. Takes only operations that TensorFlow.js has, on at most four axes: its backends transpose no more.
    onnx: ``(file, node, arrays, shapes, *inputs)``, names of values, to the name of the output, which is the node's.
        The values of a layer's weight and bias exist and are called ``node["weight"]`` and ``node["bias"]``.
    macs: ``(node, arrays, shapes)`` to the multiply-accumulates of one image.
    channels: ``(groups, node, *inputs)``, a channel number for each channel of the inputs, to those of the output:
        if inputs are scaled by positive factors that are equal within each group, so is the output, by its own.
    layouts: by array key ``(array, input channels)`` to TensorFlow's layout; other arrays stay as they are.
    """

    pytorch: Callable[..., "torch.Tensor"]
    tensorflow: Callable[..., Any]
    onnx: Callable[..., str]
    macs: Callable[[Node, Arrays, Shapes], int]
    channels: Callable[..., list[int]]
    layouts: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = field(default_factory=dict)


def no_macs(node: Node, arrays: Arrays, shapes: Shapes) -> int:
    """Count 0: the operation multiplies no matrices."""
    return 0


def same_channels(groups: ChannelGroups, node: Node, channels: list[int]) -> list[int]:
    """The factors of the input pass."""
    return channels


def fixed_channels(groups: ChannelGroups, node: Node, *inputs: list[int]) -> list[int]:
    """No factor but 1 passes."""
    for channels in inputs:
        groups.fix(channels)
    return [groups.FIXED] * node["shape"][0]


def onnx_pads(node: Node) -> list[int]:
    """``pads`` as ONNX orders them: the beginnings of all axes before their ends."""
    top, bottom, left, right = node["pads"]
    return [top, left, bottom, right]
