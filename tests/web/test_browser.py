"""The files that ship, in headless Chromium: JPEG in, embeddings out, against PyTorch."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bioclip_lite import params
from bioclip_lite.compression import quantized
from bioclip_lite.evaluation import speed, web_variants
from bioclip_lite.graph import execution
from bioclip_lite.metrics import calibration
from bioclip_lite.metrics.ranks import capped, softmax
from bioclip_lite.photographs.preprocess import preprocess, read_preprocess
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.stages import convert, quantize
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.taxa.taxonomy import RANKS, nodes_at
from bioclip_lite.utils.files import read_json, write_json
from support.checkout import ROOT
from support.fake_data import FASTVIT, finish_pruning, make_data
from support.photographs import encoded, picture

PACKAGE = ROOT / "packages" / "react-bio-clip"
TINY = params.load(ROOT / "tests/tiny.yaml")


def node(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def chromium() -> None:
    find = "import {findChromium} from '%s'; process.exit(findChromium() ? 0 : 1)"
    if node("--input-type=module", "-e", find % (PACKAGE / "bin" / "chromium.mjs").as_uri()).returncode:
        pytest.skip("no browser is installed: apt-get install chromium")


@pytest.fixture(scope="module")
def data(chromium: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder up to convert, of a FastViT with attention."""
    folder = make_data(tmp_path_factory.mktemp("data"), *FASTVIT)
    finish_pruning(folder)
    quantize.run(TINY["quantize"], folder)
    convert.run(TINY["convert"], folder)
    return folder


@pytest.fixture(scope="module")
def in_pytorch(data: Path) -> np.ndarray:
    """Unit embeddings of the photographs of split train."""
    shards, model = ShardSet.of(data / "shard" / "train-00000.tar"), data / "quantize" / "model"
    images = np.stack([preprocess(shards.image(i), read_preprocess(model)) for i in range(len(shards))])
    outputs = execution.run(*quantized.load(model), torch.from_numpy(images))
    found: np.ndarray = torch.nn.functional.normalize(outputs, dim=1).numpy()
    return found


def in_chromium(data: Path, prefix: Path, *options: object) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Report, embeddings and logits of the photographs of split train."""
    bundle, shard = data / "convert" / "tfjs", data / "shard" / "train-00000.tar"
    done = node(PACKAGE / "bin" / "browser.mjs", bundle, shard, "--raw", prefix, *options)
    assert done.returncode == 0, done.stderr
    report = read_json(f"{prefix}.json")
    embeddings = np.fromfile(f"{prefix}.embeddings.f32", "<f4").reshape(report["rows"], report["embedding"])
    logits = np.fromfile(f"{prefix}.logits.f32", "<f4").reshape(report["rows"], report["taxa"])
    return report, embeddings, logits


@pytest.mark.parametrize("backend", ["wasm", "webgl", "cpu"])
def test_decoded_pixels_give_the_embeddings_of_pytorch(
    data: Path, in_pytorch: np.ndarray, tmp_path: Path, backend: str
) -> None:
    report, embeddings, _ = in_chromium(data, tmp_path / "x", "--decoded", "--backend", backend)
    assert report["backend"] == backend and report["browser"].startswith("Chromium ")
    assert ("renderer" in report) == (backend == "webgl")
    assert report["keys"] == ShardSet.of(data / "shard" / "train-00000.tar").keys
    assert (embeddings * in_pytorch).sum(axis=1).min() >= 0.9995


def test_jpegs_give_the_embeddings_of_pytorch_and_the_answers_of_node(
    data: Path, in_pytorch: np.ndarray, tmp_path: Path
) -> None:
    report, embeddings, logits = in_chromium(data, tmp_path / "x", "--latency", 2)
    assert (embeddings * in_pytorch).sum(axis=1).min() >= 0.995
    assert report["latency_ms"]["median"] > 0
    assert 0 < report["load_ms"] < report["first_ms"] < 60_000 and 10e6 < report["peak_bytes"] < 2e9
    bundle, shard = data / "convert" / "tfjs", data / "shard" / "train-00000.tar"
    done = node(PACKAGE / "bin" / "classify.mjs", bundle, shard, "--raw", tmp_path / "y")
    assert done.returncode == 0, done.stderr
    in_node = np.fromfile(tmp_path / "y.logits.f32", "<f4").reshape(logits.shape)
    assert (logits.argmax(axis=1) == in_node.argmax(axis=1)).mean() >= 0.99
    there = read_json(tmp_path / "y.json")
    assert there["bytes"] == report["bytes"] and there["processor"] == report["processor"]
    assert 10e6 < there["peak_bytes"] < 1e9  # of Node alone, not what this process takes


def test_the_variant_answers_as_node_does(data: Path) -> None:
    """The same taxa in the same order, and costs that are the same but for the runtime."""
    labels = read_labels(data)
    found = [
        answer({"latency_runs": 2}, data, ["calibration-00000", "test-00000"], labels)
        for answer in (web_variants.tfjs, web_variants.chromium)
    ]
    node, chromium = ([np.concatenate(parts) for parts in zip(*answers.blocks, strict=True)] for answers in found)
    assert found[0].keys == found[1].keys and node[0].shape == (len(found[0].keys), len(labels.ids))
    for here, there in zip(node, chromium, strict=True):
        assert np.abs(here - there).max() < 0.1 * np.abs(here).max()
    assert (node[0].argmax(axis=1) == chromium[0].argmax(axis=1)).all()
    costs = [answers.costs() for answers in found]
    runtimes = [cost.pop("latency_ms")["runtime"] for cost in costs]
    assert runtimes[0].endswith("WASM, Node") and runtimes[1].partition("WASM, Chromium ")[2].isdigit()
    assert costs[0] == costs[1] and 0 < costs[0]["gzipped"] < costs[0]["bytes"]


def test_another_size_of_the_shipped_weights_runs(data: Path) -> None:
    found = speed.measure({"chromium": False, "latency_runs": 2, "speed": {"sizes": [48]}}, data)
    assert found["size"] == 32 and not found["left_out"]
    assert [row["size"] for row in found["rows"]] == [32, 48]
    assert all(row["latency_ms"]["median"] > 0 and row["first_ms"] > 0 for row in found["rows"])


def test_photographs_of_many_sizes_and_forms(data: Path, tmp_path: Path) -> None:
    """Turned by their EXIF, grey, progressive, transparent, far larger than the model's input: as Node reads them."""
    turned = picture("turned").getexif()
    turned[0x0112] = 6  # orientation: rotate by 90 degrees
    contents = {
        "large.jpg": encoded(picture("large", size=(1600, 1100)), quality=92),
        "turned.jpg": encoded(picture("turned", size=(320, 200)), exif=turned),
        "grey.jpg": encoded(picture("grey", size=(90, 120), mode="L")),
        "progressive.jpg": encoded(picture("progressive", size=(300, 301)), progressive=True),
        "small.png": encoded(picture("small", size=(9, 7)), "PNG"),
        "clear.png": encoded(_half_transparent(), "PNG"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = {}
    for script in ("browser", "classify"):
        files = [tmp_path / name for name in contents]
        done = node(PACKAGE / "bin" / f"{script}.mjs", data / "convert" / "tfjs", *files, "--raw", tmp_path / script)
        assert done.returncode == 0, done.stderr
        found[script] = np.fromfile(tmp_path / f"{script}.embeddings.f32", "<f4").reshape(len(contents), -1)
    cosines = dict(zip(contents, (found["browser"] * found["classify"]).sum(axis=1), strict=True))
    assert all(cosine >= 0.995 for cosine in cosines.values()), cosines


def _half_transparent() -> Any:
    image = picture("clear", size=(64, 48), mode="RGBA")
    image.paste((255, 0, 0, 0), (0, 0, 32, 48))
    return image


def test_an_image_gives_the_line_that_node_prints(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(ShardSet(data, "test").jpeg(0))
    lines = []
    for script in ("browser", "classify"):
        done = node(PACKAGE / "bin" / f"{script}.mjs", data / "convert" / "tfjs", file, "--top", 2)
        assert done.returncode == 0, done.stderr
        lines.append(json.loads(done.stdout))
    there, here = lines
    assert there["probability"] == pytest.approx(here["probability"], abs=1e-4)
    assert {**there, "probability": 0, "ranks": 0, "top": 0} == {**here, "probability": 0, "ranks": 0, "top": 0}


def test_answers_back_off_as_they_were_calibrated(data: Path, tmp_path: Path) -> None:
    """Temperature, sums up the tree and thresholds in JavaScript are those of calibration.py."""
    bundle, shard = tmp_path / "tfjs", data / "shard" / "train-00000.tar"
    shutil.copytree(data / "convert" / "tfjs", bundle)
    about = read_json(bundle / "bundle.json")
    done = node(PACKAGE / "bin" / "classify.mjs", bundle, shard, "--raw", tmp_path / "x")
    assert done.returncode == 0, done.stderr
    logits = np.fromfile(tmp_path / "x.logits.f32", "<f4").reshape(-1, len(about["taxa"]))
    probabilities = softmax(logits / 4)
    about["taxa"][0] |= {"finest_rank": "family"}
    finest = np.array([RANKS.index(taxon.get("finest_rank", "species")) for taxon in about["taxa"]])
    nodes = capped(calibration.nodes_of([tuple(taxon["ranks"]) for taxon in about["taxa"]]), finest)
    shares, _ = calibration.best_nodes(probabilities, nodes)
    between = np.sort(shares, axis=0)[[len(shares) // 2, len(shares) // 2 + 1]].mean(axis=0)  # half of the photographs
    thresholds = {**dict(zip(RANKS, between.tolist(), strict=True)), "order": None}
    write_json(bundle / "bundle.json", about | {"temperature": 4, "thresholds": {"level": 0.9, "ranks": thresholds}})
    rank, number = calibration.back_off(probabilities, nodes, thresholds)
    assert len(set(rank)) > 1  # or nothing would back off

    done = node(PACKAGE / "bin" / "classify.mjs", bundle, shard)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    leaves = [tuple(taxon["ranks"]) for taxon in about["taxa"]]
    for line, r, n in zip(lines, rank, number, strict=True):
        if r < 0:
            assert line["answer"] is None
            continue
        path = nodes_at(leaves, r)[1][n]
        name = f"{path[5]} {path[6]}" if RANKS[r] == "species" else path[-1]
        assert (line["answer"]["rank"], line["answer"]["name"]) == (RANKS[r], name)


def test_what_is_no_image_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    done = node(PACKAGE / "bin" / "browser.mjs", data / "convert" / "tfjs", tmp_path / "broken.jpg")
    assert done.returncode == 1
    assert "broken.jpg: the file cannot be decoded as an image" in done.stderr
    assert "    at " not in done.stderr  # no stack
