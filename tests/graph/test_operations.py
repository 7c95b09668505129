"""The table of operations: each is tried by itself, in every runtime, against PyTorch."""

import os
import subprocess
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from bioclip_lite.compression.equalize import scale_layer
from bioclip_lite.graph import execution
from bioclip_lite.graph.channel_groups import ChannelGroups
from bioclip_lite.graph.nodes import Weights, is_layer
from bioclip_lite.graph.onnx_file import OnnxFile
from bioclip_lite.graph.operations.activations import ACTIVATIONS
from bioclip_lite.graph.operations.table import OPERATIONS, operation_of
from bioclip_lite.models import costs
from bioclip_lite.utils.files import write_json
from support.checkout import ROOT

BATCH = 2
CONVERTER = ROOT / ".venv-convert" / "bin" / "python"


@dataclass(frozen=True)
class Example:
    """A node: ``sizes`` are the shapes of its inputs, ``arrays`` those of its arrays by key.

    ``batches``: that of the inputs and that of the output. ``least``: the smallest of the inputs, in windows.
    """

    op: str
    sizes: list[list[int]]
    shape: list[int]
    arrays: dict[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    batches: tuple[int, int] = (BATCH, BATCH)
    least: int = 1

    @property
    def node(self) -> dict[str, Any]:
        inputs = [f"input {number}" for number in range(len(self.sizes))]
        names = {key: f"node.{key}" for key in self.arrays}
        return {"op": self.op, "name": "node", "inputs": inputs, "shape": self.shape, **self.attributes, **names}

    def weights(self) -> Weights:
        random = np.random.default_rng(1)
        return {f"node.{key}": random.normal(size=size).astype(np.float32) for key, size in self.arrays.items()}

    def inputs(self, batch: int | None = None) -> list[torch.Tensor]:
        random = torch.Generator().manual_seed(2)
        return [2 * torch.randn(batch or self.batches[0], *size, generator=random) for size in self.sizes]


PLAIN = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
UNEVEN = {"strides": [2, 1], "pads": [0, 1, 2, 1], "dilations": [1, 2]}
IMAGE = [6, 8, 4]
EXAMPLES = {
    "conv": Example("conv", [IMAGE], [5, 8, 4], {"weight": (5, 6, 1, 1), "bias": (5,)}, PLAIN),
    "conv, uneven": Example("conv", [IMAGE], [5, 4, 3], {"weight": (5, 6, 3, 3), "bias": (5,)}, UNEVEN),
    "depthwise": Example(
        "depthwise", [IMAGE], [6, 8, 4], {"weight": (6, 1, 3, 3), "bias": (6,)}, PLAIN | {"pads": [1] * 4}
    ),
    "depthwise, multiplier": Example("depthwise", [IMAGE], [12, 8, 4], {"weight": (12, 1, 1, 1), "bias": (12,)}, PLAIN),
    "linear": Example("linear", [[6]], [5], {"weight": (5, 6), "bias": (5,)}),
    **{
        f"activation, {function}": Example("activation", [IMAGE], IMAGE, attributes={"function": function})
        for function in ACTIVATIONS
    },
    "add": Example("add", [IMAGE, IMAGE], IMAGE),
    "multiply": Example("multiply", [IMAGE, IMAGE], IMAGE),
    "multiply, gate": Example("multiply", [IMAGE, [6, 1, 1]], IMAGE),
    "multiply, positions": Example("multiply", [IMAGE, [1, 8, 4]], IMAGE),
    "shift": Example("shift", [IMAGE], IMAGE, {"shift": (6, 8, 4)}),
    "normalize_image": Example("normalize_image", [IMAGE], IMAGE, attributes={"eps": 1e-3}),
    "normalize": Example("normalize", [IMAGE], IMAGE, attributes={"eps": 1e-3}),
    "attention": Example("attention", [[12, 8, 4]], [4, 8, 4], attributes={"heads": 2}),
    "attention, seen": Example("attention", [[12, 8, 4], [1, 8, 4]], [4, 8, 4], attributes={"heads": 2}),
    "attention, windows": Example(
        "attention", [[12, 8, 4]], [4, 8, 4], {"positions": (2, 4, 4)}, {"heads": 2, "window": 2}
    ),
    "multi_query": Example("multi_query", [IMAGE, [3, 2, 2], [5, 2, 2]], [10, 8, 4], attributes={"heads": 2}),
    "attention, shifted windows": Example(
        "attention", [[12, 2, 2]], [4, 2, 2], {"positions": (BATCH, 2, 4, 4)}, {"heads": 2}, least=BATCH
    ),
    "cross_attention": Example(
        "cross_attention", [IMAGE, [6, 2, 2], [10, 2, 2]], [10, 8, 4], {"positions": (2, 32, 4)}, {"heads": 2}
    ),
    "cross_attention, no positions": Example(
        "cross_attention", [IMAGE, [6, 3, 2], [4, 3, 2]], [4, 8, 4], attributes={"heads": 2}
    ),
    "linear_attention": Example("linear_attention", [[12, 8, 4]], [4, 8, 4], attributes={"heads": 2, "eps": 1e-3}),
    "channel_attention": Example(
        "channel_attention", [[18, 8, 4]], IMAGE, {"positions": (2, 1, 1)}, attributes={"heads": 2}
    ),
    "channel_attention, no temperature": Example("channel_attention", [[18, 8, 4]], IMAGE, attributes={"heads": 2}),
    "weighted_sum": Example("weighted_sum", [IMAGE, [1, 8, 4]], [6, 1, 1]),
    "weighted_sum, unit": Example("weighted_sum", [IMAGE, [1, 8, 4]], [6, 1, 1], attributes={"weights": "unit"}),
    "max_pool": Example(
        "max_pool", [IMAGE], [6, 4, 2], attributes={"kernel": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 1]}
    ),
    "average_pool": Example("average_pool", [[6, 7, 4]], [6, 4, 2], attributes={"kernel": [2, 2], "strides": [2, 2]}),
    "mean": Example("mean", [IMAGE], [6, 1, 1]),
    "pad": Example("pad", [IMAGE], [6, 9, 9], attributes={"pads": [1, 0, 2, 3]}),
    "crop": Example("crop", [IMAGE], [6, 5, 2], attributes={"start": [2, 1]}),
    "reshape": Example("reshape", [IMAGE], [6, 16, 2]),
    "flatten": Example("flatten", [[6, 1, 1]], [6]),
    "slice": Example("slice", [IMAGE], [3, 8, 4], attributes={"start": 2}),
    "slice, no image": Example("slice", [[6]], [3], attributes={"start": 2}),
    "concat": Example("concat", [IMAGE, [2, 8, 4], IMAGE], [14, 8, 4]),
    "concat, no image": Example("concat", [[6], [2]], [8]),
    "roll": Example("roll", [IMAGE], IMAGE, attributes={"shifts": [-3, 1]}),
    "space_to_depth": Example("space_to_depth", [IMAGE], [24, 4, 2]),
    **{
        f"{op}, {'strided' if strided else 'neighbours'}": Example(op, [before], after, {}, windows, batches, least)
        for strided in (False, True)
        for windows in ({"side": [4, 2], "strided": strided},)
        for op, before, after, batches, least in (
            ("partition", IMAGE, [6, 4, 2], (2, 8), 1),
            ("merge", [6, 4, 2], IMAGE, (8, 2), 4),
        )
    },
}


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> Example:
    return EXAMPLES[request.param]


def in_pytorch(example: Example) -> np.ndarray:
    values: np.ndarray = execution.execute(example.node, example.weights(), *example.inputs()).numpy()
    return values


def assert_close(values: np.ndarray, expected: np.ndarray) -> None:
    assert values.shape == expected.shape
    assert np.abs(values - expected).max() < 1e-5 * np.abs(expected).max()


def test_every_operation_and_activation_is_tried() -> None:
    assert {example.op for example in EXAMPLES.values()} == set(OPERATIONS)
    tried = {example.attributes["function"] for example in EXAMPLES.values() if example.op == "activation"}
    assert tried == set(ACTIVATIONS)


def test_pytorch_gives_the_shape_that_the_node_states(example: Example) -> None:
    values = in_pytorch(example)
    assert values.shape == (example.batches[1], *example.shape)
    assert values.std() > 0.1


def test_onnx_computes_what_pytorch_computes(example: Example) -> None:
    node, weights, inputs = example.node, example.weights(), example.inputs()
    file = OnnxFile()
    if is_layer(node):
        for key in ("weight", "bias"):
            file.constant(node[key], weights[node[key]])
    arrays = {key: weights[node[key]] for key in example.arrays}
    assert operation_of(node).onnx(file, node, arrays, example.sizes, *node["inputs"]) == "node"
    sources = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *size])
        for name, size in zip(node["inputs"], example.sizes, strict=True)
    ]
    target = helper.make_tensor_value_info("node", TensorProto.FLOAT, ["answers", *example.shape])
    body = helper.make_graph(file.nodes, "node", sources, [target], list(file.constants.values()))
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: x.numpy() for name, x in zip(node["inputs"], inputs, strict=True)}
    assert_close(session.run(None, feeds)[0], in_pytorch(example))


@pytest.fixture(scope="module")
def tensorflow_outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """All examples in TensorFlow, which has an environment of its own, without PyTorch."""
    assert CONVERTER.exists(), f"{CONVERTER} is missing; run: make setup"
    folder = tmp_path_factory.mktemp("tensorflow")
    nodes: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for case, example in EXAMPLES.items():
        names = {key: f"{case}/{key}" for key in example.arrays}
        nodes[case] = example.node | names
        values |= {f"{case}/{number}": x.numpy() for number, x in enumerate(example.inputs())}
        values |= {names[key]: example.weights()[f"node.{key}"] for key in example.arrays}
    write_json(folder / "nodes.json", nodes)
    np.savez(folder / "values.npz", **values)
    command = [str(CONVERTER), str(ROOT / "tests" / "support" / "run_tensorflow.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "outputs.npz"))


@pytest.mark.parametrize("case", EXAMPLES)
def test_tensorflow_computes_what_pytorch_computes(case: str, tensorflow_outputs: dict[str, np.ndarray]) -> None:
    assert_close(tensorflow_outputs[case], in_pytorch(EXAMPLES[case]))


def test_multiply_accumulates_are_those_that_pytorch_counts(example: Example) -> None:
    node, weights, inputs = example.node, example.weights(), example.inputs(batch=example.least)
    arrays = {key: weights[node[key]] for key in example.arrays}
    counted = costs.macs(lambda x: execution.execute(node, weights, x, *inputs[1:]), inputs[0])
    assert operation_of(node).macs(node, arrays, example.sizes) * example.least == counted


def test_factors_of_channels_pass_as_the_groups_say(example: Example) -> None:
    """Inputs scaled by one factor per group give the output scaled by the factors of its groups."""
    node, weights, inputs = example.node, example.weights(), example.inputs()
    groups = ChannelGroups()
    before = [groups.new(size[0]) for size in example.sizes]
    after = operation_of(node).channels(groups, node, *before)
    assert len(after) == example.shape[0]
    random = np.random.default_rng(3)
    factors: dict[int, float] = {groups.root(groups.FIXED): 1.0}

    def of(channels: list[int]) -> np.ndarray:
        return np.array([factors.setdefault(groups.root(i), random.uniform(0.5, 2)) for i in channels], np.float32)

    scaled = [x * per_channel(of(channels), x) for x, channels in zip(inputs, before, strict=True)]
    if is_layer(node):
        weights[node["weight"]] = scale_layer(example.op, weights[node["weight"]], of(after), of(before[0]))
        weights[node["bias"]] = weights[node["bias"]] * of(after)
    expected = execution.execute(node, example.weights(), *inputs)
    expected = expected * per_channel(of(after), expected)
    assert_close(execution.execute(node, weights, *scaled).numpy(), expected.numpy())


def per_channel(factors: np.ndarray, values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(factors).reshape(1, -1, *[1] * (values.ndim - 2))


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(ValueError, match="graph node strange has unknown operation unheard of"):
        operation_of({"op": "unheard of", "name": "strange"})
