import csv
import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from timm.layers import LayerNorm
from timm.layers.activations import QuickGELU
from timm.layers.attention import Attention as TokenAttention
from timm.layers.attention2d import MultiQueryAttention2d
from timm.models.edgenext import CrossCovarianceAttn
from timm.models.efficientvit_mit import LiteMLA
from timm.models.mobilevit import MobileVitV2Block
from timm.models.shvit import SHSA
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from timm.models.tiny_vit import TinyVitBlock
from torch import nn

from bioclip_lite import params
from bioclip_lite.commands import predict
from bioclip_lite.compression import quantized
from bioclip_lite.evaluation import variants
from bioclip_lite.graph import execution, folding
from bioclip_lite.graph.operations.activations import ACTIVATIONS
from bioclip_lite.graph.operations.table import OPERATIONS
from bioclip_lite.models.students import build_student, reparameterize, student_spec
from bioclip_lite.params import jobs
from bioclip_lite.photographs.preprocess import preprocess, preprocessing, resize
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import convert, quantize
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import store
from bioclip_lite.teacher_cache.store import read_taxa
from bioclip_lite.utils import sections
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, write_json
from bioclip_lite.web import bundle, confidence, javascript, litert, manifest, parts
from support import keys, lessons
from support.checkout import ROOT
from support.fake_data import FASTVIT, finish_pruning, lively, make_data

PACKAGE = ROOT / "packages" / "react-bio-clip"
TINY = params.load(ROOT / "tests/tiny.yaml")
PARAMS: sections.Convert = {
    "images": 4,
    "tolerance": 1e-4,
    "taxa_bytes": None,
    "over_budget": "refuse",
    "whole_table": None,
    "sign_with": None,
    "onnx": [],
    "tflite": False,
    "text_encoder": None,
    "lists": [],
    "prior": None,
}


def node(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    assert (PACKAGE / "node_modules").exists(), f"{PACKAGE / 'node_modules'} is missing; run: make setup"
    return subprocess.run(["node", *map(str, arguments)], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder up to convert, of a FastViT with attention."""
    folder = make_data(tmp_path_factory.mktemp("data"), *FASTVIT)
    finish_pruning(folder)
    quantize.run(TINY["quantize"], folder)
    convert.run({**PARAMS, "onnx": ["fp32", "qdq"], "tflite": True}, folder)
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
            contents = (resize(image, spec).tobytes(), values.tobytes())
            expected.append([hashlib.sha256(content).hexdigest() for content in contents])
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "twin.mjs").write_text(_TWIN % (PACKAGE / "dist" / "core" / "preprocess.js").as_uri())
    done = node(tmp_path / "twin.mjs", tmp_path / "cases.json")
    assert done.returncode == 0, done.stderr
    for case, found, wanted in zip(cases, json.loads(done.stdout), expected, strict=True):
        assert found == wanted, (case["width"], case["height"], case["spec"])


# The bundle


UNFUSED = {"BiasAdd", "Conv2D", "DepthwiseConv2dNative", "MatMul"}


def about(data: Path) -> dict[str, Any]:
    return dict(read_json(data / "convert" / "tfjs" / "bundle.json"))


def table_in_bundle(data: Path) -> np.ndarray:
    """The rows as the format says they are stored: float32 scales, then int8 rows."""
    text = about(data)["text"]
    content = (data / "convert" / "tfjs" / text["file"]).read_bytes()
    scales = np.frombuffer(content[: 4 * text["rows"]], "<f4")
    integers = np.frombuffer(content[4 * text["rows"] :], "i1").reshape(text["rows"], text["columns"])
    table: np.ndarray = scales[:, None] * integers.astype(np.float32)
    return table


def test_the_bundle_says_what_it_is(data: Path) -> None:
    said, taxa = about(data), read_taxa(data / "logits" / "taxa.safetensors")
    assert [taxon["id"] for taxon in said["taxa"]] == taxa.taxon_ids  # which are in tree order
    gannet = {"id": lessons.IDS[0], "ranks": list(lessons.PATHS[0]), "common_names": {}, "rank": "species"}
    assert said["taxa"][0] == gannet
    assert (said["format"], said["ranks"], said["languages"]) == (2, list(RANKS), [])
    assert said["preprocess"] == preprocessing(32)
    assert said["logit_scale"] == taxa.logit_scale
    text = said["text"]
    assert (said["embedding"], text["rows"], text["columns"], text["dtype"]) == (lessons.D, 5, lessons.D, "int8")
    assert (text["left_out"], text["representatives"]) == (0, 0)
    assert np.abs(table_in_bundle(data) - taxa.text).max() < 0.5 / 127
    weights = (data / "quantize" / "model" / "weights.safetensors").read_bytes()
    assert said["provenance"]["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert said["provenance"]["teacher_identity"] == "teacher-a"
    assert said["provenance"]["student"] == FASTVIT[0]
    assert said["licences"]["photographs"] == {"CC-BY-4.0": 1, "CC0-1.0": 1, "not stated": 1}
    assert {"name": "A. Person", "photographs": 1} in said["attribution"]


def test_files_are_named_by_what_is_in_them(data: Path) -> None:
    folder, said = data / "convert" / "tfjs", about(data)
    assert set(said["files"]) == {file.name for file in folder.iterdir()} - {"bundle.json"}
    for name, described in said["files"].items():
        content = (folder / name).read_bytes()
        assert described == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert described["sha256"][:8] in name and len(content) <= 4 * 1024 * 1024
    assert said["bytes"] == sum(described["bytes"] for described in said["files"].values())
    model = read_json(folder / said["model"]["file"])
    paths = [path for group in model["weightsManifest"] for path in group["paths"]]
    assert {said["model"]["file"], said["text"]["file"], *paths} == set(said["files"])


# The bundle for phones

_STORED = """
import json, sys
import numpy as np
import tensorflow as tf
interpreter = tf.lite.Interpreter(sys.argv[1])
found = [
    [entry["quantization"], interpreter.get_tensor(entry["index"]).reshape(-1).tolist()]
    for entry in interpreter.get_tensor_details() if entry["dtype"] == np.int8
]
print(json.dumps(found))
"""


def test_the_phone_model_holds_the_integers_that_were_measured(data: Path) -> None:
    graph, tensors, grids = quantized.load_integers(data / "quantize" / "model")
    folder = data / "convert" / "tflite"
    command = javascript.in_converter("x", str(folder / read_json(folder / "bundle.json")["model"]["file"]))
    done = subprocess.run([command[0], "-c", _STORED, command[-1]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored = sorted((sorted(values), scale, zero) for (scale, zero), values in json.loads(done.stdout))
    narrow = {name: used for name, used in grids.items() if used.bits == 8}
    assert len(stored) == len(narrow) > 10
    factors = set()
    for values, scale, zero in stored:
        ((used, factor),) = [
            (used, scale / used.scale)
            for name, used in narrow.items()
            if sorted((tensors[name].astype(int) - 128).reshape(-1).tolist()) == values
        ]
        assert zero == round(-used.minimum / used.scale) - 128
        factors.add(round(factor, 5))
    assert factors <= {1.0, 1.41421, 2.0}  # beside a GELU
    assert {tensors[name].dtype for name in narrow} == {np.dtype(np.uint8)} and graph["nodes"]


def test_the_phone_bundle_is_the_web_bundle_with_another_model(data: Path) -> None:
    folder, said = data / "convert" / "tflite", about(data)
    phone = read_json(folder / "bundle.json")
    assert {key for key in said if said[key] != phone[key]} == {"model", "files", "bytes"}
    assert phone["model"] == {
        "file": phone["model"]["file"],
        "macs": said["model"]["macs"],
        "parameters": said["model"]["parameters"],
    }
    assert set(phone["files"]) == {phone["model"]["file"], said["text"]["file"]}
    assert {file.name for file in folder.iterdir()} == {"bundle.json", *phone["files"]}
    for name, described in phone["files"].items():
        content = (folder / name).read_bytes()
        assert described == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found = read_json(data / "convert" / "tflite_report.json")
    assert found["images"] == PARAMS["images"] and found["latency_ms"] > 0
    assert found["largest_difference"] < 1e-5 and found["least_cosine"] > 0.9995


def test_a_phone_model_that_answers_otherwise_is_not_handed_over(data: Path) -> None:
    reference = convert._reference(2, data, convert._read_model(data / "quantize" / "model"))
    turned = litert.Computed(np.roll(reference.embeddings, 1, axis=1), np.ones(2, np.float32))
    phone: jobs.Phone = {"images": 2, "tolerance": 1e-4, "sign_with": None, "tflite": True}
    with pytest.raises(UserError, match=r"differs between PyTorch and LiteRT .*convert\.tflite to false"):
        convert._compare_litert(lambda pixels: turned, reference, phone)
    with pytest.raises(UserError, match="convert has no job 'tflite'"):
        convert.run(PARAMS, data, "tflite")
    same = litert.Computed(3 * reference.embeddings, np.ones(2, np.float32))
    assert convert._compare_litert(lambda pixels: same, reference, phone)["largest_difference"] < 1e-6


def test_the_phone_model_answers_in_evaluate_as_the_web_model_does(data: Path, tmp_path: Path) -> None:
    labels, shards = read_labels(data), ["test-00000"]
    phone, web = (variants.answers(name, {"latency_runs": 3}, data, shards, labels) for name in ("tflite", "tfjs"))
    costs, others = phone.costs(), web.costs()
    (block,), (other,) = list(phone.blocks), list(web.blocks)
    assert phone.keys == web.keys and np.abs(block.logits - other.logits).max() < 1e-3
    same = ("params", "macs", "calibration")
    assert {key: costs[key] for key in same} == {key: others[key] for key in same}
    assert costs["latency_ms"] == {
        **{"runtime": "LiteRT, CPU", "n": 3, "threads": 1, "batch": 1},
        **{key: costs["latency_ms"][key] for key in ("median", "min")},
    }
    assert costs["latency_ms"]["median"] >= costs["latency_ms"]["min"] > 0

    for name in ("convert", "shard", "logits", "index"):
        (tmp_path / name).symlink_to(data / name)
    shutil.copytree(data / "quantize", tmp_path / "quantize")
    weights = tmp_path / "quantize" / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"tflite was not made from the weights in"):
        variants.answers("tflite", {"latency_runs": 3}, tmp_path, shards, labels)


# React Native: react-native-fast-tflite is replaced by LiteRT on this machine, and the device's JPEG decoder by sharp.
_PHONE = """
import {spawn} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {decode} from '%s';
const {loadBioClip} = createRequire(import.meta.url)('./native.cjs');
const [folder, python, ...photographs] = process.argv.slice(2);

async function openTflite(name) {
  const stdio = ['pipe', 'pipe', 'ignore'];
  const child = spawn(python, ['-m', 'bioclip_lite.web.tflite', 'run', `${folder}/${name}`], {stdio});
  let bytes = Buffer.alloc(0);
  let arrived = () => {};
  child.stdout.on('data', (part) => {
    bytes = Buffer.concat([bytes, part]);
    arrived();
  });
  const read = async (count) => {
    while (bytes.length < count) await new Promise((resolve) => (arrived = resolve));
    const found = Uint8Array.from(bytes.subarray(0, count)).buffer;
    bytes = bytes.subarray(count);
    return found;
  };
  const width = new Int32Array(await read(4))[0];
  const run = async ([input]) => {
    child.stdin.write(Buffer.from(input));
    return [(await read(4 * (1 + width))).slice(4)];
  };
  return {run, stop: () => child.stdin.end()};
}

let model;
const clip = await loadBioClip({
  readFile: async (name) => readFileSync(`${folder}/${name}`),
  decodeJpeg: decode,
  openTflite: async (name) => (model = await openTflite(name)),
});
for (const file of photographs) {
  console.log(JSON.stringify([...(await clip.embedJpeg(new Uint8Array(readFileSync(file))))]));
}
model.stop();
"""


def test_react_native_sees_photographs_as_node_does(data: Path, tmp_path: Path) -> None:
    shards = ShardSet(data, "test")
    files = [tmp_path / f"{shards.key(i)}.jpg" for i in range(len(shards))]
    for i, file in enumerate(files):
        file.write_bytes(shards.jpeg(i))
    bundle_it = "import {build} from 'esbuild'; await build(JSON.parse(process.argv[1]));"
    options = {"entryPoints": ["src/native/index.ts"], "outfile": str(tmp_path / "native.cjs"), "bundle": True}
    options |= {"format": "cjs", "platform": "node", "logLevel": "error"}
    bundled = node("--input-type=module", "-e", bundle_it, json.dumps(options), cwd=PACKAGE)
    assert bundled.returncode == 0, bundled.stderr
    (tmp_path / "phone.mjs").write_text(_PHONE % (PACKAGE / "dist" / "core" / "node.js").as_uri())
    (python, *_) = javascript.in_converter("x")
    environment = javascript.environment()
    phone = node(tmp_path / "phone.mjs", data / "convert" / "tflite", python, *files, env=environment)
    assert phone.returncode == 0, phone.stderr
    found = np.array([json.loads(line) for line in phone.stdout.splitlines()])
    javascript.answer("node", data / "convert" / "tfjs", files, tmp_path / "web")
    expected = np.fromfile(tmp_path / "web.embeddings.f32", "<f4").reshape(len(files), lessons.D)
    assert found.shape == expected.shape and len(files) > 3
    assert (found * expected).sum(axis=1).min() > 0.9995 and np.abs(found - expected).max() < 1e-5


def test_a_table_in_parts_answers_in_node_and_on_phones_as_in_python(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "data"
    shutil.copytree(data, own, ignore=shutil.ignore_patterns("convert"))
    (converted,) = (data / "convert" / "tflite").glob("*.tflite")
    monkeypatch.setattr(javascript, "convert_to_litert", lambda _, out: shutil.copyfile(converted, out))  # takes long
    convert.run({**PARAMS, "whole_table": 1, "tflite": True}, own)
    folder, measured = own / "convert" / "tfjs", read_json(own / "convert" / "report.json")["taxa"]["parts"]
    about, phone = read_json(folder / "bundle.json"), read_json(own / "convert" / "tflite" / "bundle.json")
    assert about["format"] == phone["format"] == 3 and about["text"] == phone["text"]
    assert about["text"]["parts"]["chosen"] == measured["chosen"] and measured["same_taxon"] >= parts.SAME
    assert {*parts.files(phone)} < {*phone["files"]}
    before = read_json(data / "convert" / "tfjs" / "bundle.json")
    assert about["provenance"]["taxonomy_sha256"] == before["provenance"]["taxonomy_sha256"]
    # With one clade left, so that the others stand for their taxa.
    about["text"]["parts"]["chosen"] = phone["text"]["parts"]["chosen"] = 1
    write_json(folder / "bundle.json", about)
    write_json(own / "convert" / "tflite" / "bundle.json", phone)
    labels, shards = read_labels(own), ["test-00000"]
    found = [variants.answers(name, {"latency_runs": 1}, own, shards, labels).blocks for name in ("tfjs", "tflite")]
    shipped = parts.read(folder, about)
    ask = parts.answering(store.decode(shipped.integers, shipped.scales), shipped.split, about["logit_scale"])
    for blocks in found:
        logits, units = (np.concatenate(column) for column in zip(*blocks, strict=True))
        assert np.abs(logits - ask(units)).max() < 1e-3
        assert any(len(set(row)) < len(row) for row in logits.round(4).tolist())


def test_litert_says_why_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '\\002\\000\\000\\000'\necho no kernel >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setenv("BIOCLIP_LITE_CONVERT_PYTHON", str(python))
    compute = litert.load(tmp_path / "model.tflite")
    with pytest.raises(UserError, match=r"LiteRT, which runs .*model\.tflite, failed with status 3:\nno kernel"):
        compute(np.zeros((1, 3, 64, 64), np.float32))
    python.write_text("#!/bin/sh\necho no model >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"failed with status 1:\nno model"):
        litert.load(tmp_path / "model.tflite")


def test_every_layer_is_fused_with_its_bias(data: Path) -> None:
    folded, weights = quantized.load(data / "quantize" / "model")
    ops = [node["op"] for node in folded["nodes"]]
    said = about(data)["model"]
    counts = said["operations"]
    assert counts["_FusedConv2D"] == ops.count("conv") and counts["_FusedMatMul"] == ops.count("linear")
    assert counts["FusedDepthwiseConv2dNative"] == ops.count("depthwise")
    assert not UNFUSED & set(counts) and "Relu" not in counts
    assert counts["Erf"] == sum("gelu" in node.get("function", "") for node in folded["nodes"])
    assert said["nodes"] == sum(counts.values())
    assert said["macs"] == execution.macs(folded, weights)
    assert said["parameters"] == sum(array.size for array in weights.values())


def test_how_sure_to_be_comes_from_the_calibration_photographs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def calibrate(logits: np.ndarray, *others: Any) -> dict[str, Any]:
        asked.extend((logits, *others))
        return {"temperature": 2.0, "thresholds": {"level": 0.95, "ranks": dict.fromkeys(RANKS, 0.5)}, "off_list": None}

    monkeypatch.setattr(confidence.calibration, "calibrate", calibrate)
    text = read_taxa(data / "logits" / "taxa.safetensors")
    table = bundle.make_table(data, text, None)
    photographs = convert._calibration(data, convert._read_model(data / "quantize" / "model"), len(table.paths))
    assert confidence.fit(table, text.logit_scale, photographs)["temperature"] == 2.0
    assert about(data)["provenance"]["calibration_photographs"] == len(photographs.keys) == 6
    shards = ShardSet(data, "calibration")
    logits, taxa, leaves, _, finest_rank = asked
    assert np.abs(logits - logits_in_python(data, shards)).max() < 1e-3
    assert taxa == [lessons.PATHS[lessons.IDS.index(taxon)] for taxon in shards.taxon_ids]
    assert leaves == [path for path in lessons.PATHS if path[6]] and (finest_rank == 6).all()


def test_the_calibration_photographs_are_kept_as_the_model_sees_them(data: Path) -> None:
    weights = about(data)["provenance"]["weights_sha256"]
    kept = confidence.read(data / "convert" / "calibration.safetensors", weights, lessons.D)
    shards = ShardSet(data, "calibration")
    assert kept.keys == shards.keys and kept.observations == [None] * 6
    assert kept.taxa == [lessons.PATHS[lessons.IDS.index(taxon)] for taxon in shards.taxon_ids]
    scale = about(data)["logit_scale"]
    assert np.abs(scale * kept.embeddings @ table_in_bundle(data).T - logits_in_python(data, shards)).max() < 0.05


def test_the_report(data: Path) -> None:
    report = read_json(data / "convert" / "report.json")
    _, tensors, _ = quantized.load_integers(data / "quantize" / "model")
    assert report["images"] == 4
    assert report["weights_identical"] == len(tensors)
    assert report["largest_difference"] < 1e-5 and report["least_cosine"] > 1 - 1e-6
    assert report["bytes"] == sum(file.stat().st_size for file in (data / "convert" / "tfjs").iterdir())
    assert report["latency_ms"]["runs"] == 30
    assert set(report["confidence"]["thresholds"]["ranks"]) == set(RANKS)
    content = read_json(data / "convert" / "tfjs" / "bundle.json")
    assert report["taxa"]["table_bytes"] == content["files"][content["text"]["file"]]["bytes"] == 5 * (lessons.D + 4)
    assert report["taxa"]["names_bytes"] == len(bundle.json_bytes(content["taxa"]))
    leaves = [row for row in read_table(data / "index" / "taxa.parquet").to_pylist() if row["leaf"]]
    plain = [{key: entry[key] for key in ("id", "ranks", "common_names", "rank")} for entry in content["taxa"]]
    assert bundle.names_bytes(leaves) == len(bundle.json_bytes(plain)) - 1  # which plan counts before there is a bundle


def test_the_download_is_as_small_as_the_grid(data: Path) -> None:
    folder = data / "convert" / "tfjs"
    _, tensors, grids = quantized.load_integers(data / "quantize" / "model")
    stored = sum(file.stat().st_size for file in folder.glob("weights-*.bin"))
    assert stored < sum(array.nbytes for array in tensors.values()) + 200  # and the few numbers of the activations
    model = read_json(folder / about(data)["model"]["file"])
    entries = [entry for group in model["weightsManifest"] for entry in group["weights"]]
    bits = sorted(entry["quantization"]["dtype"] for entry in entries if "quantization" in entry)
    assert bits == sorted(f"uint{used.bits}" for used in grids.values())


def test_onnx_files_are_written_when_asked_for(data: Path) -> None:
    report = read_json(data / "convert" / "report.json")["onnx"]
    assert report["fp32"]["largest_difference"] < 1e-5
    assert 0.99 < report["qdq"]["least_cosine"] < 1
    for kind, said in report.items():
        assert said["bytes"] == (data / "convert" / "onnx" / f"{kind}.onnx").stat().st_size
    assert report["qdq"]["bytes"] < 0.6 * report["fp32"]["bytes"]


_CHANGED = """
import {readFileSync} from 'node:fs';
import {downloadBundle} from '%s';
import {folderOrigin} from '%s';
const [folder, key] = process.argv.slice(2);
const [origin, publicKey] = [folderOrigin(folder), readFileSync(key, 'utf8')];
const {files} = await downloadBundle(origin, {publicKey});
const codes = {};
for (const name of [...files.keys(), 'bundle.json', 'bundle.json.sig']) {
  const read = async (asked) => {
    const bytes = await origin.read(asked);
    if (asked === name) bytes[bytes.length >> 1] ^= 1;
    return bytes;
  };
  codes[name] = await downloadBundle({...origin, read}, {publicKey}).then(() => 'accepted', ({code}) => code);
}
console.log(JSON.stringify(codes));
"""


def test_two_runs_give_the_same_bundle_and_a_key_adds_its_signature(data: Path, tmp_path: Path) -> None:
    private, public = keys.make_pair(tmp_path / "keys")
    again = tmp_path / "data"
    again.mkdir()
    for stage in {path.name for path in data.iterdir()} - {"convert"}:
        (again / stage).symlink_to(data / stage)
    convert.run({**PARAMS, "sign_with": str(private), "tflite": True}, again)
    before, after = (
        {file.name: file.read_bytes() for file in (folder / "convert" / "tfjs").iterdir()} for folder in (data, again)
    )
    said = json.loads(after.pop("bundle.json"))
    key = manifest.read_public_key(public)
    assert said["provenance"].pop("signing_key_sha256") == manifest.fingerprint(key)
    assert bundle.json_bytes(said) + b"\n" == before.pop("bundle.json")
    assert len(after.pop("bundle.json.sig")) == 64 and after == before
    written = [file.read_bytes() for file in again.rglob("*") if file.is_file()]
    assert not any(b"PRIVATE KEY" in content or private.read_bytes()[30:90] in content for content in written)

    signed = again / "convert" / "tfjs"
    assert len(manifest.verify(signed, key)) == len(before) + 1
    assert len(manifest.verify(again / "convert" / "tflite", key)) == 3
    script = tmp_path / "changed.mjs"
    script.write_text(_CHANGED % tuple((PACKAGE / "dist/core" / f"{name}.js").as_uri() for name in ("bundle", "node")))
    done = node(script, signed, public)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    assert codes == dict.fromkeys(before, "damaged") | dict.fromkeys(("bundle.json", "bundle.json.sig"), "signature")


# The command line of the package


def logits_in_python(data: Path, shards: ShardSet) -> np.ndarray:
    folded, weights = quantized.load(data / "quantize" / "model")
    pixels = np.stack([preprocess(shards.image(i), preprocessing(32)) for i in range(len(shards))])
    embeddings = torch.nn.functional.normalize(execution.run(folded, weights, torch.from_numpy(pixels)), dim=1).numpy()
    taxa = read_taxa(data / "logits" / "taxa.safetensors")
    logits: np.ndarray = taxa.logit_scale * embeddings @ table_in_bundle(data).T
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
    assert np.abs(found - logits_in_python(data, shards)).max() < 1e-3
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
    scores = np.exp(logits_in_python(data, shards)[:2] / about(data)["temperature"])
    scores /= scores.sum(axis=1, keepdims=True)
    leaves = [path for path in lessons.PATHS if path[6]]
    for line, row, key in zip(lines, scores, shards.keys, strict=False):
        assert line["key"] == key
        assert line["taxon_id"] == lessons.IDS[int(row.argmax())]
        assert line["probability"] == pytest.approx(row.max(), abs=1e-4)
        assert [entry["taxon_id"] for entry in line["top"]] == [lessons.IDS[i] for i in np.argsort(-row)[:2]]
        animals = sum(p for p, path in zip(row, leaves, strict=True) if path[0] == "Animalia")
        best = max(("Animalia", animals), ("Plantae", 1 - animals), key=lambda pair: pair[1])
        assert line["ranks"]["kingdom"]["name"] == best[0]
        assert line["ranks"]["kingdom"]["probability"] == pytest.approx(best[1], abs=1e-4)


def test_predict_says_the_same_with_the_bundle_and_with_the_weights(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("index", "logits", "quantize", "convert"):
        (tmp_path / name).symlink_to(data / name)
    write_json(
        tmp_path / "evaluate" / "metrics.json",
        {"variants": {variant: {"calibration": {"temperature": 1.5}} for variant in ("int8", "tfjs")}},
    )
    shards, photographs = ShardSet(data, "test"), tmp_path / "photographs"
    photographs.mkdir()
    for i in range(3):
        (photographs / f"{shards.keys[i]}.jpg").write_bytes(shards.jpeg(i))
    tables = []
    for variant in ("int8", "tfjs"):
        assert predict.main([str(photographs), "--variant", variant, "--k", "3", "--data", str(tmp_path)]) == 0
        tables.append(list(csv.DictReader(io.StringIO(capsys.readouterr().out))))
    assert len(tables[0]) == len(tables[1]) == 9
    for one, other in zip(*tables, strict=True):
        assert float(one.pop("score")) == pytest.approx(float(other.pop("score")), abs=5e-3)
        assert all(one.pop(name) != other.pop(name) for name in ("model", "model_sha256"))
        assert one == other


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
        self.windows = TinyVitBlock(16, 2, window_size=4)  # of 9 x 9 positions: padded, windows, cropped
        self.queries = MultiQueryAttention2d(16, num_heads=2, kv_stride=2)
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, 16))
        self.positions = nn.Parameter(0.1 * torch.randn(1, 82, 16))
        self.tokens = nn.Sequential(LayerNorm(16), TokenAttention(16, 2, qkv_bias=True), nn.GELU("tanh"))
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), QuickGELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, lessons.D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.average(self.pool(self.stem(x)))
        x = x * self.gate(x.mean((2, 3), keepdim=True)) + self.dilated(x)
        x = self.norm(x * torch.sigmoid(x))
        x = x + self.queries(self.windows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))  # which ends without a bias
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], dim=1) + self.positions
        x = x + self.tokens(x)
        x = x + self.mlp(x)
        return self.head((x[:, 0] + x[:, 1:].mean(dim=1)) / 2)


class PhoneOperations(nn.Module):
    """What phone families and Swin have besides, for images of 33 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 5, stride=4), nn.BatchNorm2d(16), nn.GELU())
        self.grouped = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.BatchNorm2d(16), nn.ReLU())
        self.memory = LiteMLA(16, 16, dim=8)
        self.single = SHSA(16, qk_dim=4, pdim=8)
        self.patches = MobileVitV2Block(16, 16, patch_size=2, transformer_dim=8, transformer_depth=1)
        self.channels = CrossCovarianceAttn(16, 2)
        self.shifted = SwinTransformerBlock(16, (8, 8), num_heads=2, window_size=4, shift_size=2)
        self.merging = PatchMerging(16)
        self.head = nn.Linear(32, lessons.D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.stem(x))
        x = x + self.memory(x)
        x = x + self.single(x)
        x = x + self.patches(x)
        x = x + self.channels(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
        return self.head(self.merging(self.shifted(x.permute(0, 2, 3, 1))).mean((1, 2)))


def phone_operations() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(4)
    model = PhoneOperations()
    model.shifted.attn.relative_position_bias_table.data.normal_()
    model.channels.temperature.data.uniform_(1, 3)
    lively(model, 33)
    return model, model


def all_operations() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    model = AllOperations()
    model.windows.attn.attention_biases.data.normal_()
    lively(model, 33)
    return model, model


def fastvit() -> tuple[nn.Module, nn.Module]:
    """With its training-time branches, and without them."""
    torch.manual_seed(0)
    model = lively(build_student(student_spec(*FASTVIT, lessons.D, 33)), 33)
    return model, reparameterize(model)


def in_onnxruntime(model: nn.Module, pixels: torch.Tensor, path: Path) -> np.ndarray:
    """Unit embeddings by the exporter of PyTorch and another runtime: nothing of this project has a part in them."""
    torch.onnx.export(model.eval(), (pixels,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    units: np.ndarray = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    return units


@pytest.mark.parametrize("make", [all_operations, phone_operations, fastvit])
def test_node_computes_what_another_converter_and_runtime_make_of_the_model(
    data: Path, tmp_path: Path, make: Callable[[], tuple[nn.Module, nn.Module]]
) -> None:
    model, deployed = make()
    folded, weights = folding.fold(deployed, 33)
    for name in ("shard", "logits", "index", "teacher", "prune"):
        (tmp_path / name).symlink_to(data / name)
    folder = tmp_path / "quantize" / "model"
    folder.mkdir(parents=True)
    quantized.save(folder, folded, weights, {})  # float32: what differs is the operations
    write_json(folder / "preprocess.json", preprocessing(33))
    convert.run(PARAMS, tmp_path)
    assert read_json(tmp_path / "convert" / "report.json")["largest_difference"] < 1e-5

    assert not all(weights[node["bias"]].any() for node in folded["nodes"] if "bias" in node)
    assert not UNFUSED & set(about(tmp_path)["model"]["operations"])  # not even where the bias is zero

    shard = tmp_path / "shard" / "test-00000.tar"
    shards = ShardSet(data, "test")
    pixels = np.stack([preprocess(shards.image(i), preprocessing(33)) for i in range(len(shards))])
    expected = in_onnxruntime(model, torch.from_numpy(pixels), tmp_path / "x.onnx")
    assert expected.std(axis=0).max() > 1e-3  # a dead network would agree with anything
    for backend in ("wasm", "cpu"):
        options = ["--raw", tmp_path / backend, "--backend", backend]
        done = node(PACKAGE / "bin/classify.mjs", tmp_path / "convert" / "tfjs", shard, *options)
        assert done.returncode == 0, done.stderr
        found = np.fromfile(tmp_path / f"{backend}.embeddings.f32", "<f4").reshape(-1, lessons.D)
        assert np.abs(found - expected).max() < 1e-5, backend


def test_every_operation_is_tried(data: Path) -> None:
    tried = [
        folding.fold(deployed, 33)[0]["nodes"] for _, deployed in (all_operations(), phone_operations(), fastvit())
    ]
    nodes = [node for nodes in tried for node in nodes]
    assert {node["op"] for node in nodes} == set(OPERATIONS) > {"conv", "shift", "multi_query", "flatten"}
    assert {node["function"] for node in nodes if "function" in node} == set(ACTIVATIONS)
    attention = [node for node in nodes if node["op"] == "attention"]
    assert any("window" in node and "positions" in node for node in attention)


# What goes wrong


@pytest.fixture
def broken(data: Path, tmp_path: Path) -> Path:
    """A copy of the inputs of convert, to damage."""
    for name in ("shard", "logits", "index", "teacher", "prune", "quantize"):
        shutil.copytree(data / name, tmp_path / name)
    return tmp_path


def test_without_the_converters_environment(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOCLIP_LITE_CONVERT_PYTHON", str(broken / "nowhere" / "python"))
    with pytest.raises(UserError, match="make setup"):
        convert.run(PARAMS, broken)


def test_other_weights_in_javascript_are_found(broken: Path, data: Path) -> None:
    """Parity is measured against the quantized model, so changing one of its integers must be noticed."""
    path = broken / "quantize" / "model" / "weights.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".weight"))
    tensors[name] = tensors[name] ^ 1
    save_file(tensors, path)
    folded, weights = quantized.load(broken / "quantize" / "model")
    with pytest.raises(UserError, match=f"1 of .* weights have other bits in JavaScript.*{name}"):
        convert._compare_weights(data / "convert" / "tfjs", folded, weights)


def test_embeddings_that_differ_are_found(data: Path) -> None:
    model, bundle = convert._read_model(data / "quantize" / "model"), data / "convert" / "tfjs"
    reference = convert._reference(4, data, model)
    with pytest.raises(UserError, match=r"differs between PyTorch and TensorFlow\.js.*no bundle was written"):
        convert._compare(bundle, model, reference, tolerance=0.0)


def test_a_converter_that_fails_leaves_no_bundle(broken: Path) -> None:
    path = broken / "quantize" / "model" / "graph.json"
    described = read_json(path)
    described["nodes"][0]["op"] = "unheard of"
    write_json(path, described)
    with pytest.raises(UserError, match="converter failed with status 1"):
        convert.run(PARAMS, broken)
    assert not (broken / "convert" / "tfjs").exists()


def test_a_table_that_is_too_large_leaves_no_bundle(broken: Path) -> None:
    with pytest.raises(UserError, match=r"table of 5 taxa would take .* more than convert.taxa_bytes .*convert.lists"):
        convert.run({**PARAMS, "taxa_bytes": 5 * (lessons.D + 4) - 1}, broken)
    assert not (broken / "convert").exists()


def test_taxa_of_another_teacher(broken: Path) -> None:
    write_json(broken / "teacher" / "model" / "teacher.json", {"identity": "b", "name": "b", "licence": None})
    with pytest.raises(UserError, match="another teacher"):
        convert.run(PARAMS, broken)
