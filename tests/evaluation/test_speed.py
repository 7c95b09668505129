"""What the web model costs: its weights at other sizes, its runtimes, and how the report says it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bioclip_lite.compression import quantized, rounding
from bioclip_lite.compression.grid import fit
from bioclip_lite.evaluation import speed
from bioclip_lite.evaluation.variant_names import IN_BROWSER, ON_PHONES, VARIANTS, further_teacher, variants
from bioclip_lite.graph import folding
from bioclip_lite.metrics.summary import agreement
from bioclip_lite.models.students import load_student
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.report import speed as report_speed
from bioclip_lite.stages import evaluate
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, write_json
from bioclip_lite.web import javascript
from support.fake_data import STUDENTS, finish_pruning, make_data
from support.fake_evaluation import PARAMS, plausible, write_data, write_prediction

TIMED = PARAMS | {"chromium": True, "speed": {"sizes": [96, 64]}}
VIT: tuple[str, dict[str, Any]] = ("vit_tiny_patch16_224", {"embed_dim": 32, "depth": 1, "num_heads": 2})


def shipped(folder: Path, name: str, options: dict[str, Any], size: int) -> Path:
    """Data up to convert, whose bundle has no model: a student on the grid that is nearest, and what describes it."""
    data = make_data(folder, name, options, size)
    finish_pruning(data)
    folded, weights = folding.fold(load_student(data / "prune" / "model")[0], size)
    model, bundle = data / "quantize" / "model", data / "convert" / "tfjs"
    model.mkdir(parents=True)
    bundle.mkdir(parents=True)
    grids = {array: fit(weights[array], 8) for array in rounding.arrays(folded)}
    quantized.save(model, folded, weights, grids)
    (bundle / "taxa.bin").write_bytes(b"taxa")
    about = {"preprocess": preprocessing(size), "text": {"file": "taxa.bin"}, "model": {"file": "model-1.json"}}
    write_json(bundle / "bundle.json", about | {"files": {}, "bytes": 0})
    return data


class Runtimes:
    """In place of Node and Chromium: remembers what it is asked, and answers as they do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, webgl: str | None = None) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.models: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []
        self.webgl = webgl
        monkeypatch.setattr(javascript, "convert", self.convert)
        monkeypatch.setattr(javascript, "answer", self.answer)

    def convert(self, model: Path, folder: Path) -> None:
        described, tensors, _ = quantized.load_integers(model)
        self.models.append((described, tensors))
        folder.mkdir()
        (folder / "model.json").write_text("{}")

    def answer(
        self, where: str, bundle: Path, images: list[Path], prefix: Path, runs: int, backend: str
    ) -> dict[str, Any]:
        about = read_json(bundle / "bundle.json")
        for name, file in about["files"].items():
            assert file["bytes"] == (bundle / name).stat().st_size
        assert [image.read_bytes()[:2] for image in images] == [b"\xff\xd8"]  # a JPEG file
        self.asked.append((where, backend, about))
        if backend == "webgl" and self.webgl:
            raise UserError(f"the web model in Chromium failed with status 1:\n{self.webgl}")
        size = about["preprocess"]["size"]
        found = {"backend": backend, "first_ms": 100.0 + size, "peak_bytes": 10**8, "processor": "A Processor"}
        found |= {"browser": "Chromium 156.0.1"} if where == "chromium" else {}
        found |= {"renderer": "ANGLE (SwiftShader driver)"} if backend == "webgl" else {}
        return found | {"latency_ms": {"median": size / 10, "min": size / 20, "runs": runs, "preprocess": 1.0}}


def test_the_shipped_weights_are_timed_at_every_size_in_every_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shipped(tmp_path, *STUDENTS["mobilenetv4"])
    runtimes = Runtimes(monkeypatch)
    found = speed.measure(TIMED, data)
    everywhere = ["WASM, Node", "WASM, Chromium 156", "WebGL, Chromium 156"]
    assert [(row["size"], row["latency_ms"]["runtime"]) for row in found["rows"]] == [
        (size, f"TensorFlow.js {runtime}") for size in (64, 96) for runtime in everywhere
    ]
    assert found["size"] == 64 and found["left_out"] == []
    assert [about["preprocess"]["size"] for _, _, about in runtimes.asked] == [64] * 3 + [96] * 3
    # What ships is asked as it ships, and the other model has its integers in a graph of its own size.
    ((described, tensors),) = runtimes.models
    whole = quantized.load_integers(data / "quantize" / "model")
    assert described["input"]["shape"] == [3, 96, 96] and described["grids"] == whole[0]["grids"]
    assert tensors.keys() == whole[1].keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, whole[1][name])
    smaller, larger = (next(row["macs"] for row in found["rows"] if row["size"] == size) for size in (64, 96))
    assert 2 < larger / smaller < 2.5  # (96 / 64)^2, but for the last layer
    latency = {"runtime": "TensorFlow.js WASM, Node", "median": 9.6, "min": 4.8, "n": 3, "threads": 1, "batch": 1}
    expected = {"latency_ms": latency, "first_ms": 196.0, "peak_bytes": 10**8, "processor": "A Processor"}
    assert found["rows"][3] == {"size": 96, "macs": larger, "renderer": None, **expected}


def test_without_chromium_only_node_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shipped(tmp_path, *STUDENTS["mobilenetv4"])
    runtimes = Runtimes(monkeypatch)
    speed.measure(TIMED | {"chromium": False}, data)
    assert {(where, backend) for where, backend, _ in runtimes.asked} == {("node", "wasm")}


def test_tables_of_positions_are_timed_at_their_own_size_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shipped(tmp_path, *VIT, 64)
    runtimes = Runtimes(monkeypatch)
    found = speed.measure(TIMED, data)
    assert {row["size"] for row in found["rows"]} == {64} and not runtimes.models
    why = "vit_tiny_patch16_224 is made for images of 64 pixels"
    assert found["left_out"] == [{"size": 96, "runtime": None, "why": why}]


def test_a_browser_without_webgl_is_said_to_lack_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shipped(tmp_path, *STUDENTS["mobilenetv4"])
    Runtimes(monkeypatch, webgl="the TensorFlow.js backend webgl does not start: no context")
    found = speed.measure(TIMED | {"speed": {"sizes": []}}, data)
    assert len(found["rows"]) == 2 and "no context" in found["left_out"][0]["why"]
    assert "64 px WebGL in Chromium (the TensorFlow.js backend" in shown({"variants": {}, "speed": found})
    Runtimes(monkeypatch, webgl="the page crashed")  # which is no lack but a fault
    with pytest.raises(UserError, match="the page crashed"):
        speed.measure(TIMED, data)


# ---- other programs


def test_node_says_what_went_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "node_modules" / "sharp").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "classify.mjs").write_text("console.error('no such bundle'); process.exitCode = 1;\n")
    monkeypatch.setattr(javascript, "PACKAGE", tmp_path)
    with pytest.raises(UserError, match="the web model in Node failed with status 1:\nno such bundle"):
        javascript.answer("node", tmp_path, [], tmp_path / "x")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="node is not installed"):
        javascript.answer("node", tmp_path, [], tmp_path / "x")
    monkeypatch.setattr(javascript, "PACKAGE", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="make setup"):
        javascript.answer("node", tmp_path, [], tmp_path / "x")


def test_a_missing_chromium_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node
    (tmp_path / "node").symlink_to(node)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"evaluate\.chromium.*\n.*looked for chromium, .*: apt-get install chromium"):
        javascript.answer("chromium", tmp_path, [tmp_path / "a.jpg"], tmp_path / "x")


# ---- the variant "chromium"


def test_chromium_is_a_variant_where_it_is_asked_for() -> None:
    asked = {"also": [], "chromium": False, "tflite": False, "control": True}
    assert variants(asked) == VARIANTS
    assert variants({**asked, "chromium": True}) == (*VARIANTS[:6], IN_BROWSER, *VARIANTS[6:])
    assert variants({**asked, "tflite": True}) == (*VARIANTS[:6], ON_PHONES, *VARIANTS[6:])
    assert VARIANTS[5] == "tfjs"


def test_further_variants_stand_with_their_like() -> None:
    found = variants({"also": ["first", "teacher-b", "teacher-a"], "chromium": False, "tflite": False, "control": True})
    assert found[:5] == ("teacher", "teacher-b", "teacher-a", "table", "first") and found[5:] == VARIANTS[2:]
    assert [further_teacher(name) for name in ("teacher-b", "teacher", "first")] == ["b", None, None]


def test_agreement_by_hand() -> None:
    scores = {"a": {"answer": np.array([1, 2, 3, 4])}, "b": {"answer": np.array([1, 2, 0, 4])}}
    found = agreement(scores, "a", ["b", "a"], np.zeros((4, 7), np.int64), np.arange(4), 100, 0)
    assert found["agreement_with_b"]["value"] == 0.75 and found["agreement_with_b"]["n_images"] == 4
    low, high = found["agreement_with_b"]["ci95"]
    assert 0 <= low < 0.75 < high <= 1
    assert found["agreement_with_a"]["ci95"] == [1, 1]


def test_metrics_say_how_often_the_browser_answers_as_node_and_what_was_timed(tmp_path: Path) -> None:
    labels = write_data(tmp_path)
    leaves = sorted(set(labels.values()), key=lambda path: tuple(name or "" for name in path))
    leaves = [leaf for leaf in leaves if leaf[6] is not None]
    logits = plausible("tfjs", labels, leaves)
    logits[:2] = np.roll(logits[:2], 1, axis=1)  # two photographs, of which the browser thinks otherwise
    write_prediction(tmp_path, IN_BROWSER, list(labels), leaves, logits)
    write_json(tmp_path / "evaluate" / "predictions" / evaluate.SPEED_FILE, FOUND)
    evaluate.run(TIMED | {"bootstrap": 100, "examples": 0}, tmp_path, "report")
    metrics = read_json(tmp_path / "evaluate" / "metrics.json")
    assert metrics["speed"] == FOUND
    rows = metrics["variants"]
    assert rows[IN_BROWSER]["agreement_with_tfjs"]["value"] == pytest.approx(1 - 2 / len(labels), abs=1e-6)
    assert set(rows["tfjs"]) & set(rows[IN_BROWSER]) >= {"agreement_with_int8", "agreement_with_teacher"}
    page = (tmp_path / "evaluate" / "report.html").read_text()
    assert "In Chromium" in page and f"<b>{100 - 200 / len(labels):.1f} %" in page.replace("&nbsp;", " ")
    assert "Time per photograph by its size" in page


def test_the_model_for_phones_has_a_row_in_report_and_card(tmp_path: Path) -> None:
    labels = write_data(tmp_path)
    leaves = sorted(set(labels.values()), key=lambda path: tuple(name or "" for name in path))
    leaves = [leaf for leaf in leaves if leaf[6] is not None]
    write_prediction(tmp_path, ON_PHONES, list(labels), leaves, plausible("tfjs", labels, leaves))
    evaluate.run(PARAMS | {"tflite": True, "bootstrap": 100, "examples": 0}, tmp_path, "report")
    rows = read_json(tmp_path / "evaluate" / "metrics.json")["variants"]
    assert rows[ON_PHONES]["agreement_with_tfjs"]["value"] == 1
    assert set(rows[ON_PHONES]) == set(rows["tfjs"]) | {"agreement_with_tfjs"}
    for name in ("report.html", "MODEL_CARD.md"):
        assert "Phone model" in (tmp_path / "evaluate" / name).read_text()


# ---- the section of the report


def _row(size: int, runtime: str, median: float, renderer: str | None = None) -> dict[str, Any]:
    latency = {"runtime": f"TensorFlow.js {runtime}", "median": median, "min": median / 2, "n": 30}
    costs = {"first_ms": 1234.0, "peak_bytes": 98_700_000, "processor": "A <fast> one", "renderer": renderer}
    return {"size": size, "macs": 1000 * size, "latency_ms": {**latency, "threads": 1, "batch": 1}, **costs}


FOUND: dict[str, Any] = {
    "size": 64,
    "rows": [_row(64, "WASM, Node", 8.5), _row(96, "WASM, Node", 21.5), _row(96, "WebGL, Chromium 156", 333.0)],
    "left_out": [{"size": 128, "runtime": None, "why": "it is made for images of 64 pixels"}],
}


def shown(metrics: dict[str, Any]) -> str:
    """The body of the section, on one line."""
    section = report_speed.section(metrics)
    assert section is not None
    return " ".join(section.body.split())


def test_no_section_where_nothing_was_asked() -> None:
    assert report_speed.section({"variants": {"tfjs": {}}}) is None


def test_the_table_has_a_row_for_each_size_and_a_column_for_each_runtime() -> None:
    page = shown({"variants": {}, "speed": FOUND})
    assert page.count("<tr") == 3 and page.count('<th scope="col"') == 3 and page.count('class="shipped"') == 1
    for text in ("8.5", "21.5", "333", "first answer 1.2 s", "memory 98.7 MB", "64 k operations", "as shipped"):
        assert text in page, text
    assert "A &lt;fast&gt; one" in page and "128 px (it is made for images of 64 pixels)" in page
    assert "SwiftShader" not in page
    software = {**FOUND, "rows": [_row(64, "WebGL, Chromium 156", 9.0, "ANGLE (Google, SwiftShader driver)")]}
    assert "WebGL ran on SwiftShader, a software renderer" in shown({"variants": {}, "speed": software})


def test_bundles_of_the_split_that_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shipped(tmp_path, *STUDENTS["mobilenetv4"])
    Runtimes(monkeypatch)
    monkeypatch.setattr(ShardSet, "__len__", lambda self: 0)
    with pytest.raises(UserError, match="split test has no photographs"):
        speed.measure(TIMED, data)
