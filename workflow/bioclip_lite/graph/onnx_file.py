"""An ONNX graph while it is written: nodes, and constants by name."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


@dataclass
class OnnxFile:
    """Nodes in order and constants by name; every value has the name of the node or constant that gives it."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node with one output, both called ``name``; returns ``name``."""
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """Add an array of any shape; returns ``name``."""
        array = np.ascontiguousarray(values, dtype=dtype)
        self.constants[name] = numpy_helper.from_array(array.reshape(np.shape(values)), name)
        return name

    def number(self, value: float) -> str:
        """Add a float32 scalar; returns its name. Equal numbers share one."""
        return self.constant(f"number {value!r}", np.float32(value))

    def shape(self, *sizes: int) -> str:
        """Add a vector of int64; returns its name. Equal vectors share one."""
        return self.constant(f"shape {json.dumps(sizes)}", list(sizes), np.int64)
