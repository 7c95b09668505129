import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch import nn

import lessons
from bioclip_lite import graph, grid, quantized
from bioclip_lite.cache import read_taxa
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, write_json
from bioclip_lite.preprocess import preprocess, preprocessing, resize
from bioclip_lite.shards import ShardSet
from bioclip_lite.stages import convert, quantize
from bioclip_lite.taxonomy import RANKS
from fake_data import FASTVIT, finish_pruning, images, lively, make_data

PACKAGE = Path(__file__).parents[1] / "packages" / "react-bio-clip"
PARAMS = {"images": 4, "tolerance": 1e-4}


def node(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    assert (PACKAGE / "node_modules").exists(), f"{PACKAGE / 'node_modules'} is missing; run: make setup"
    return subprocess.run(["node", *map(str, arguments)], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder up to convert, of a FastViT with attention."""
    folder = make_data(tmp_path_factory.mktemp("data"), *FASTVIT)
    finish_pruning(folder)
    quantize.run({"images": 4, "wide_layers": 3}, folder)
    convert.run(PARAMS, folder)
    return folder


# Preprocessing: the same pixels in Python and JavaScript

_TWIN = """
import {readFileSync} from 'node:fs';
import {createHash} from 'node:crypto';
import {preprocessImage, resizeAndCrop} from '%s';
const hash = (array) =>
  createHash('sha256').update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength)).digest('hex');
const cases = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const results = cases.map(({file, width, height, spec, alpha}) => {
  let data = new Uint8Array(readFileSync(file));
  if (alpha) {
    const rgba = new Uint8ClampedArray(width * height * 4).fill(7);
    for (let i = 0; i < width * height; i++) rgba.set(data.subarray(3 * i, 3 * i + 3), 4 * i);
    data = rgba;
  }
  const image = {data, width, height};
  return [hash(resizeAndCrop(image, spec)), hash(preprocessImage(image, spec))];
});
console.log(JSON.stringify(results));
"""


def test_preprocessing_in_javascript_is_that_of_python_bit_for_bit(tmp_path: Path) -> None:
    sizes = [
        (64, 64),
        (97, 64),
        (64, 97),
        (33, 500),
        (500, 33),
        (31, 47),
        (5, 9),
        (1, 1),
        (256, 171),
        (640, 481),
        (65, 66),
    ]
    specs = [
        preprocessing(64, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        preprocessing(33),
        preprocessing(48, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "squash", "bilinear"),
        preprocessing(47, resize="shortest", interpolation="bilinear"),
        preprocessing(64, resize="squash"),
    ]
    random = np.random.default_rng(0)
    cases, expected = [], []
    for width, height in sizes:
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels[: height // 2] = pixels[: height // 2] // 128 * 255  # hard edges: the filter overshoots and is clipped
        file = tmp_path / f"{width}x{height}"
        file.write_bytes(pixels.tobytes())
        for number, spec in enumerate(specs):
            cases.append({"file": str(file), "width": width, "height": height, "spec": spec, "alpha": number == 0})
            image = Image.fromarray(pixels)
            values = np.ascontiguousarray(preprocess(image, spec).transpose(1, 2, 0))
            expected.append([hashlib.sha256(bytes_).hexdigest() for bytes_ in (resize(image, spec).tobytes(), values)])
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "twin.mjs").write_text(_TWIN % (PACKAGE / "src" / "preprocess.js").as_uri())
    done = node(tmp_path / "twin.mjs", tmp_path / "cases.json")
    assert done.returncode == 0, done.stderr
    for case, found, wanted in zip(cases, json.loads(done.stdout), expected, strict=True):
        assert found == wanted, (case["width"], case["height"], case["spec"])


def test_javascript_has_unit_tests_that_pass() -> None:
    done = node("--test", PACKAGE / "test")
    assert done.returncode == 0, done.stdout[-3000:]


# The bundle


def test_the_bundle_says_what_it_is(data: Path) -> None:
    bundle = data / "convert" / "tfjs"
    about = read_json(bundle / "bundle.json")
    taxa = read_taxa(data / "logits" / "taxa.safetensors")
    assert [taxon["id"] for taxon in about["taxa"]] == taxa.taxon_ids
    assert about["taxa"][0] == {
        "id": lessons.IDS[0],
        "ranks": list(lessons.PATHS[0]),
        "common_name": None,
        "rank": "species",
    }
    assert about["ranks"] == list(RANKS)
    assert about["preprocess"] == preprocessing(32)
    assert about["logit_scale"] == taxa.logit_scale
    assert (about["embedding"], about["text"]["rows"], about["text"]["columns"]) == (lessons.D, 5, lessons.D)
    stored = np.fromfile(bundle / about["text"]["file"], "<f2").reshape(5, lessons.D)
    assert np.abs(stored - taxa.text).max() < 1e-3
    weights = (data / "quantize" / "model" / "weights.safetensors").read_bytes()
    assert about["provenance"]["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert about["provenance"]["teacher_identity"] == "teacher-a"


def test_the_report(data: Path) -> None:
    report = read_json(data / "convert" / "report.json")
    _, tensors, _ = quantized.load_integers(data / "quantize" / "model")
    assert report["images"] == 4
    assert report["weights_identical"] == sum(name.endswith(".weight") for name in tensors)
    assert report["largest_difference"] < 1e-5 and report["least_cosine"] > 1 - 1e-6
    assert report["bytes"] == sum(file.stat().st_size for file in (data / "convert" / "tfjs").iterdir())
    assert report["latency_ms"]["runs"] == 30


def test_the_download_is_as_small_as_the_grid(data: Path) -> None:
    _, tensors, grids = quantized.load_integers(data / "quantize" / "model")
    stored = sum(file.stat().st_size for file in (data / "convert" / "tfjs").glob("*.bin") if file.name != "taxa.bin")
    assert stored < sum(array.nbytes for array in tensors.values()) + 200  # and the few numbers of the activations
    model = read_json(data / "convert" / "tfjs" / "model.json")
    entries = [entry for group in model["weightsManifest"] for entry in group["weights"]]
    bits = sorted(entry["quantization"]["dtype"] for entry in entries if "quantization" in entry)
    assert bits == sorted(f"uint{used.bits}" for used in grids.values())


def test_two_runs_give_the_same_bundle(data: Path) -> None:
    bundle = data / "convert" / "tfjs"
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    convert.run(PARAMS, data)
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before


# The command line of the package


def logits_in_python(data: Path, shards: ShardSet) -> np.ndarray:
    folded, weights = quantized.load(data / "quantize" / "model")
    pixels = np.stack([preprocess(shards.image(i), preprocessing(32)) for i in range(len(shards))])
    embeddings = torch.nn.functional.normalize(graph.run(folded, weights, torch.from_numpy(pixels)), dim=1).numpy()
    taxa = read_taxa(data / "logits" / "taxa.safetensors")
    logits: np.ndarray = taxa.logit_scale * embeddings @ taxa.text.T
    return logits


def test_a_shard_gives_the_logits_of_pytorch(data: Path, tmp_path: Path) -> None:
    bundle, shard = data / "convert" / "tfjs", data / "shard" / "train-00000.tar"
    done = node(PACKAGE / "bin/classify.mjs", bundle, shard, "--raw", tmp_path / "x", "--latency", "2")
    assert done.returncode == 0, done.stderr
    report = read_json(tmp_path / "x.json")
    shards = ShardSet.of(shard)
    assert report["keys"] == shards.keys
    assert report["latency_ms"]["runs"] == 2 and report["latency_ms"]["median"] > 0
    found = np.fromfile(tmp_path / "x.logits.f32", "<f4").reshape(report["rows"], report["taxa"])
    assert np.abs(found - logits_in_python(data, shards)).max() < 0.02  # float16 text, logit scale 20
    embeddings = np.fromfile(tmp_path / "x.embeddings.f32", "<f4").reshape(report["rows"], report["embedding"])
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_an_image_gives_a_line_of_taxa(data: Path, tmp_path: Path) -> None:
    shards = ShardSet(data, "test")
    files = [tmp_path / f"{shards.keys[i]}.jpg" for i in range(2)]
    for i, file in enumerate(files):
        file.write_bytes(shards.jpeg(i))
    done = node(PACKAGE / "bin/classify.mjs", data / "convert" / "tfjs", *files, "--top", "2")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    scores = np.exp(logits_in_python(data, shards)[:2])
    scores /= scores.sum(axis=1, keepdims=True)
    leaves = [path for path in lessons.PATHS if path[6]]
    for line, row, key in zip(lines, scores, shards.keys, strict=False):
        assert line["key"] == key
        assert line["taxon_id"] == lessons.IDS[int(row.argmax())]
        assert line["probability"] == pytest.approx(row.max(), abs=5e-3)
        assert [entry["taxon_id"] for entry in line["top"]] == [lessons.IDS[i] for i in np.argsort(-row)[:2]]
        animals = sum(p for p, path in zip(row, leaves, strict=True) if path[0] == "Animalia")
        best = max(("Animalia", animals), ("Plantae", 1 - animals), key=lambda pair: pair[1])
        assert line["ranks"]["kingdom"]["name"] == best[0]
        assert line["ranks"]["kingdom"]["probability"] == pytest.approx(best[1], abs=5e-3)


def test_what_is_no_image_is_named_and_fails(data: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    done = node(PACKAGE / "bin/classify.mjs", data / "convert" / "tfjs", tmp_path / "broken.jpg")
    assert done.returncode == 1
    assert "broken.jpg: cannot be decoded as an image" in done.stderr
    assert "    at " not in done.stderr  # no stack


# Every operation of the graph, in TensorFlow.js


class AllOperations(nn.Module):
    """Each kind of node, activation and padding that ``graph`` knows and FastViT lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, padding="same"), nn.BatchNorm2d(8), nn.SiLU())
        self.pool = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, (3, 5), padding=(1, 2)), nn.Hardswish())
        self.average = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
            nn.ReLU6(),
            nn.Conv2d(8, 16, 3, groups=8, padding=1),
        )
        self.gate = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.dilated = nn.Sequential(nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.BatchNorm2d(16), nn.GELU())
        self.norm = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, lessons.D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.average(self.pool(self.stem(x)))
        x = x * self.gate(x.mean((2, 3), keepdim=True)) + self.dilated(x)
        return self.head(self.norm(x * torch.sigmoid(x)).mean((2, 3)))


def test_every_operation_is_the_same_in_tensorflow_js(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = lively(AllOperations(), 33)
    folded, weights = graph.fold(model, 33)
    used = {node["op"] for node in folded["nodes"]} | {node.get("function") for node in folded["nodes"]}
    fastvit = {node["op"] for node in quantized.load(data / "quantize" / "model")[0]["nodes"]}
    assert used | fastvit >= {*graph.ACTIVATIONS, "conv", "depthwise", "linear", "add", "multiply", "attention"}
    assert used >= {"max_pool", "average_pool", "mean", "flatten"}
    with torch.no_grad():
        exact = model.double()(images(4, 33).double()).numpy()
    assert np.abs(graph.run(folded, weights, images(4, 33)).numpy() - exact).max() < 1e-5 * np.abs(exact).max()

    for name in ("shard", "logits", "index", "teacher"):
        (tmp_path / name).symlink_to(data / name)
    folder = tmp_path / "quantize" / "model"
    folder.mkdir(parents=True)
    quantized.save(folder, folded, weights, {n: grid.fit(w, 8) for n, w in weights.items() if n.endswith(".weight")})
    write_json(folder / "preprocess.json", preprocessing(33))
    convert.run(PARAMS, tmp_path)
    assert read_json(tmp_path / "convert" / "report.json")["largest_difference"] < 1e-5


# What goes wrong


@pytest.fixture
def broken(data: Path, tmp_path: Path) -> Path:
    """A copy of the inputs of convert, to damage."""
    for name in ("shard", "logits", "index", "teacher", "quantize"):
        shutil.copytree(data / name, tmp_path / name)
    return tmp_path


def test_without_the_converters_environment(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOCLIP_LITE_CONVERT_PYTHON", str(broken / "nowhere" / "python"))
    with pytest.raises(UserError, match="make setup"):
        convert.run(PARAMS, broken)


def test_other_weights_in_javascript_are_found(broken: Path, data: Path) -> None:
    """Parity is measured against the quantised model, so changing one of its integers must be noticed."""
    path = broken / "quantize" / "model" / "weights.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".weight"))
    tensors[name] = tensors[name] ^ 1
    save_file(tensors, path)
    folded, weights = quantized.load(broken / "quantize" / "model")
    with pytest.raises(UserError, match=f"1 of .* weights have other bits in JavaScript.*{name}"):
        convert._compare_weights(data / "convert" / "tfjs", "node", folded, weights)


def test_embeddings_that_differ_are_found(data: Path) -> None:
    model, bundle = data / "quantize" / "model", data / "convert" / "tfjs"
    with pytest.raises(UserError, match=r"differs between PyTorch and TensorFlow\.js.*no bundle was written"):
        convert._compare({**PARAMS, "tolerance": 0.0}, data, model, bundle, "node")


def test_a_converter_that_fails_leaves_no_bundle(broken: Path) -> None:
    path = broken / "quantize" / "model" / "graph.json"
    described = read_json(path)
    described["nodes"][0]["op"] = "unheard of"
    write_json(path, described)
    with pytest.raises(UserError, match="converter failed with status 1"):
        convert.run(PARAMS, broken)
    assert not (broken / "convert" / "tfjs").exists()


def test_taxa_of_another_teacher(broken: Path) -> None:
    write_json(broken / "teacher" / "model" / "teacher.json", {"identity": "b", "name": "b", "licence": None})
    with pytest.raises(UserError, match="another teacher"):
        convert._write_taxa(broken, broken, broken / "quantize" / "model")


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((PACKAGE / "package-lock.json").read_text())
    wanted = json.loads((PACKAGE / "package.json").read_text())
    for name, entry in lock["packages"].items():
        assert "resolved" not in entry and "http" not in json.dumps(entry), name
    for name, version in wanted["dependencies"].items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
