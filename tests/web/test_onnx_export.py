from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bioclip_lite.compression import grid, quantized, rounding
from bioclip_lite.compression.mixed_precision import embed
from bioclip_lite.graph import execution, folding
from bioclip_lite.graph.nodes import Graph, Weights, is_layer
from bioclip_lite.utils.errors import UserError
from bioclip_lite.web import onnx_export
from support.fake_data import STUDENTS, images, lively, student

MORE: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": ("vit_tiny_patch16_224", {"embed_dim": 48, "depth": 2, "num_heads": 3}, 64),
    "tiny_vit": (
        "tiny_vit_5m_224",
        {"embed_dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
        224,
    ),
}


def write(folder: Path, folded: Graph, weights: Weights, pixels: torch.Tensor, kind: str, wide: int = 0) -> Path:
    """Quantize without repair, the first ``wide`` weights to 16 bits, the others to 8."""
    grids = {name: grid.fit(weights[name], 16 if i < wide else 8) for i, name in enumerate(rounding.arrays(folded))}
    rounded = rounding.onto_grids(folded, weights, grids, pixels, "nearest", False)
    quantized.save(folder, {**folded, "ranges": rounded.ranges}, rounded.weights, rounded.grids)
    export(folder, folder / f"{kind}.onnx", kind)
    return folder / f"{kind}.onnx"


def export(folder: Path, path: Path, kind: str) -> None:
    folded, tensors, grids = quantized.load_integers(folder)
    onnx_export.write(folded, quantized.decode(tensors, grids), grids, path, kind)


def difference(folder: Path, folded: Graph, weights: Weights, size: int) -> float:
    """Largest difference of the float32 file to the graph, relative to the largest output."""
    pixels = images(3, size)
    found = onnx_export.run(write(folder, folded, weights, pixels, "fp32"), pixels.numpy())
    expected = execution.run(*quantized.load(folder), pixels).numpy()
    assert expected.std() > 1e-3
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("which", [*STUDENTS, *MORE])
def test_float32_is_what_the_graph_computes(which: str, tmp_path: Path) -> None:
    name, options, size = {**STUDENTS, **MORE}[which]
    assert difference(tmp_path, *folding.fold(student(name, options, size), size), size) < 1e-5


class Small(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean((2, 3)))


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(2, 1)), nn.Sigmoid()],
        [nn.Conv2d(3, 4, 4, padding="same"), nn.SiLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True)],
        [nn.Conv2d(3, 4, 1), nn.Hardswish(), nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)],
        [nn.Conv2d(3, 6, 3, groups=3), nn.ReLU6(), nn.Conv2d(6, 4, 1), nn.Hardsigmoid()],
        [nn.Conv2d(3, 4, 3), nn.GELU(), nn.BatchNorm2d(4), nn.ReLU()],
    ],
)
def test_single_nodes(layers: list[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(1)
    assert difference(tmp_path, *folding.fold(lively(Small(*layers), 17), 17), 17) < 1e-5


def test_nodes_that_no_tested_student_has(tmp_path: Path) -> None:
    folded: Graph = {
        "input": {"name": "x", "shape": [3, 8, 6]},
        "nodes": [
            {"op": "pad", "name": "p", "inputs": ["x"], "pads": [1, 0, 2, 3], "shape": [3, 9, 11]},
            {"op": "crop", "name": "c", "inputs": ["p"], "start": [2, 1], "shape": [3, 6, 9]},
            {"op": "activation", "function": "gelu_tanh", "name": "a", "inputs": ["c"], "shape": [3, 6, 9]},
            {"op": "activation", "function": "scaled_gelu", "name": "b", "inputs": ["a"], "shape": [3, 6, 9]},
            {"op": "reshape", "name": "r", "inputs": ["b"], "shape": [3, 54, 1]},
            {"op": "shift", "name": "s", "inputs": ["r"], "shift": "s.shift", "shape": [3, 54, 1]},
            {"op": "normalize", "name": "n", "inputs": ["s"], "eps": 1e-5, "shape": [3, 54, 1]},
            {"op": "multiply", "name": "m", "inputs": ["n", "s"], "shape": [3, 54, 1]},
            {"op": "mean", "name": "e", "inputs": ["m"], "shape": [3, 1, 1]},
            {"op": "flatten", "name": "f", "inputs": ["e"], "shape": [3]},
        ],
        "output": "f",
    }
    weights = {"s.shift": np.random.default_rng(0).normal(size=(3, 54, 1)).astype(np.float32)}
    pixels = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    found = onnx_export.run(write(tmp_path, folded, weights, pixels, "fp32"), pixels.numpy())
    assert np.abs(found - execution.run(*quantized.load(tmp_path), pixels).numpy()).max() < 1e-5


def test_multi_query_attention(tmp_path: Path) -> None:
    conv = {"op": "conv", "inputs": ["x"], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
    half = {"strides": [2, 2]}
    folded: Graph = {
        "input": {"name": "x", "shape": [3, 4, 6]},
        "nodes": [
            {**conv, "name": "q", "weight": "q.weight", "bias": "q.bias", "shape": [8, 4, 6]},
            {**conv, **half, "name": "k", "weight": "k.weight", "bias": "k.bias", "shape": [4, 2, 3]},
            {**conv, **half, "name": "v", "weight": "v.weight", "bias": "v.bias", "shape": [5, 2, 3]},
            {"op": "multi_query", "name": "a", "heads": 2, "inputs": ["q", "k", "v"], "shape": [10, 4, 6]},
            {"op": "mean", "name": "e", "inputs": ["a"], "shape": [10, 1, 1]},
            {"op": "flatten", "name": "f", "inputs": ["e"], "shape": [10]},
        ],
        "output": "f",
    }
    random = np.random.default_rng(0)
    sizes = {"q.weight": (8, 3, 1, 1), "k.weight": (4, 3, 1, 1), "v.weight": (5, 3, 1, 1)}
    weights = {name: random.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    weights |= {name.replace("weight", "bias"): np.zeros(size[0], np.float32) for name, size in sizes.items()}
    pixels = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    found = onnx_export.run(write(tmp_path, folded, weights, pixels, "fp32"), pixels.numpy())
    assert np.abs(found - execution.run(*quantized.load(tmp_path), pixels).numpy()).max() < 1e-5


def test_layers_with_16_bits_stay_float(tmp_path: Path) -> None:
    name, options, size = STUDENTS["mobilenetv3"]
    folded, weights = folding.fold(student(name, options, size), size)
    pixels = images(8, size)
    exact, squares, stored = embed(folded, weights, pixels), [], []
    for wide in (0, 4):
        path = write(tmp_path, folded, weights, pixels, "qdq", wide)
        found = onnx_export.run(path, pixels.numpy())
        squares.append(np.square(found / np.linalg.norm(found, axis=1, keepdims=True) - exact).sum())
        stored.append({tensor.name for tensor in onnx.load(path).graph.initializer})
    first = rounding.arrays(folded)[0]
    assert f"{first} integers" in stored[0] and first not in stored[0]
    assert first in stored[1] and f"{first} integers" not in stored[1]
    assert squares[1] < 0.9 * squares[0]


@pytest.mark.parametrize("which", ["fastvit with attention", "mobilenetv3", "resnet", "vit"])
def test_integers_come_close(which: str, tmp_path: Path) -> None:
    name, options, size = {**STUDENTS, **MORE}[which]
    folded, weights = folding.fold(student(name, options, size), size)
    pixels = images(8, size)
    found = onnx_export.run(write(tmp_path, folded, weights, pixels, "qdq"), pixels.numpy())
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = (unit * embed(folded, weights, pixels)).sum(axis=1)
    assert 0.98 < cosines.min() < 1 - 1e-7
    model = onnx.load(tmp_path / "qdq.onnx")
    integers = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name.endswith(".weight integers")}
    layers = [node for node in folded["nodes"] if is_layer(node)]
    assert len(integers) == len(layers)
    assert all(tensor.data_type == onnx.TensorProto.INT8 for tensor in integers.values())
    weight = quantized.load(tmp_path)[1][layers[0]["weight"]]
    stored = onnx.numpy_helper.to_array(integers[f"{layers[0]['weight']} integers"])
    assert (np.abs(stored).reshape(len(weight), -1).max(axis=1) == 127).all()  # each channel fills its own grid


def test_it_runs_in_integers(tmp_path: Path) -> None:
    """onnxruntime fuses what the file wraps: no convolution is left in float32."""
    import onnxruntime

    name, options, size = STUDENTS["mobilenetv4"]
    path = write(tmp_path, *folding.fold(student(name, options, size), size), images(4, size), "qdq")
    sessions = onnxruntime.SessionOptions()
    sessions.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    sessions.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), sessions, providers=["CPUExecutionProvider"])
    operations = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "Conv" not in operations and "Gemm" not in operations
    assert operations.count("QLinearConv") > 20


@pytest.mark.parametrize("kind", onnx_export.KINDS)
def test_equal_folders_give_equal_bytes(kind: str, tmp_path: Path) -> None:
    name, options, size = STUDENTS["mobilenetv3"]
    folded, weights = folding.fold(student(name, options, size), size)
    first = write(tmp_path, folded, weights, images(2, size), kind).read_bytes()
    export(tmp_path, tmp_path / "again.onnx", kind)
    assert (tmp_path / "again.onnx").read_bytes() == first


def test_it_takes_any_number_of_photographs(tmp_path: Path) -> None:
    name, options, size = STUDENTS["resnet"]
    path = write(tmp_path, *folding.fold(student(name, options, size), size), images(2, size), "fp32")
    many = onnx_export.run(path, images(33, size).numpy())
    assert many.shape == (33, 16)
    assert np.abs(many[:1] - onnx_export.run(path, images(33, size)[:1].numpy())).max() < 1e-5


def test_a_folder_without_ranges_and_an_unknown_kind(tmp_path: Path) -> None:
    name, options, size = STUDENTS["mobilenetv3"]
    folded, weights = folding.fold(student(name, options, size), size)
    quantized.save(tmp_path, folded, weights, {})
    with pytest.raises(UserError, match="run stage quantize again"):
        export(tmp_path, tmp_path / "model.onnx", "qdq")
    with pytest.raises(ValueError, match="fp32, qdq"):
        export(tmp_path, tmp_path / "model.onnx", "int4")
    assert not (tmp_path / "model.onnx").exists()
