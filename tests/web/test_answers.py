"""The package and `predict` give the same answers from the same probabilities, whatever the list says of the taxa."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bioclip_lite.evaluation.web_variants import columns
from bioclip_lite.metrics.ranks import softmax
from bioclip_lite.predicting import csv_table
from bioclip_lite.predicting.answers import Answer, answers
from bioclip_lite.predicting.on_list import OffList, allowing, on_list
from bioclip_lite.taxa.label_space import Labels, read_labels
from bioclip_lite.taxa.taxonomy import RANKS, label_space, scientific_name, taxon_id
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.files import write_table
from bioclip_lite.web import bundle, parts
from support import lessons
from support.checkout import ROOT

TREE = ROOT / "packages" / "react-bio-clip" / "dist" / "core" / "tree.js"
SCRIPT = """
import {readFileSync} from 'node:fs';
const {answerOf, plantTree} = await import(process.argv[1]);
const {info, probabilities, options} = JSON.parse(readFileSync(0));
const tree = plantTree(info);
console.log(JSON.stringify(probabilities.map((row) => answerOf(info, tree, Float64Array.from(row), options))));
"""


def in_node(info: dict[str, Any], probabilities: np.ndarray, options: dict[str, Any]) -> list[dict[str, Any]]:
    given = json.dumps({"info": info, "probabilities": probabilities.tolist(), "options": options})
    command = ["node", "--input-type=module", "-e", SCRIPT, TREE.as_uri()]
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def listed(folder: Path, seed: int) -> tuple[Labels, list[dict[str, Any]]]:
    """The list of ``embedded``, and its entries in a bundle."""
    labels, text = embedded(folder, seed)
    return labels, bundle.make_table(folder, text, None).described


def embedded(folder: Path, seed: int, capped: bool = True) -> tuple[Labels, store.Taxa]:
    """A list of up to 40 taxa, some known to genus only or without a family, with caps, notes and zero-shot taxa."""
    random = np.random.default_rng(seed)
    paths = set()
    for order, family, genus, species in random.integers([2, 3, 3, 3], size=(40, 4)):
        name = f"{order}{family}"
        known = f"s{species}" if random.random() < 0.9 else None
        paths.add(("A", "p", "c", f"O{order}", f"F{name}" if family else None, f"G{name}{genus}", known))
    rows: list[dict[str, Any]] = [
        {
            "taxon_id": taxon_id(path),
            **dict(zip(RANKS, path, strict=True)),
            **{"common_name": None, "common_names": {}, "leaf": True, "pretrain": 0, "train": int(random.integers(2))},
            "finest_rank": (*RANKS[3:], None)[random.choice(5, p=[0.1, 0.1, 0.3, 0.1, 0.4])] if capped else None,
            "note": f"note {number}" if capped and random.random() < 0.5 else None,
        }
        for number, path in enumerate(label_space(paths))
    ]
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("taxon_id", *RANKS, "common_name", "finest_rank", "note")),
            *(("common_names", pa.map_(pa.string(), pa.string())), ("leaf", pa.bool_())),
            *((split, pa.int32()) for split in ("pretrain", "train")),
        ]
    )
    write_table(folder / "index" / "taxa.parquet", pa.Table.from_pylist(rows, schema))
    labels = read_labels(folder)
    text = store.Taxa(labels.ids, lessons.unit(random.normal(size=(len(labels.ids), 4))), 20.0, "teacher", "plain")
    return labels, text


@pytest.mark.parametrize("seed", range(4))
def test_python_and_javascript_give_the_same_answers(tmp_path: Path, seed: int) -> None:
    labels, taxa = listed(tmp_path, seed)
    assert {"finest_rank", "note", "zero_shot"} <= {name for taxon in taxa for name in taxon}
    random = np.random.default_rng(seed)
    probabilities = random.gamma(0.1, size=(200, len(taxa))) + 1e-9
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    thresholds = dict.fromkeys(RANKS, 0.6)
    info = {"ranks": RANKS, "taxa": taxa, "thresholds": {"level": 0.95, "ranks": thresholds}}
    found = in_node(info, probabilities, {"topK": 3})
    backed_off = answers(probabilities, labels, "species", 1, thresholds)
    marks = set()
    for there, here in zip(found, map(row_of, backed_off), strict=True):
        assert said(there["answer"]) == here
        marks |= {bool(here.get(mark)) for mark in ("note", "zero_shot")} | {there["answer"] is None}
    assert marks == {True, False}
    for rank in ("species", "genus", "family"):
        found = in_node(info, probabilities, {"topK": 3, "rank": rank})
        rows = [row_of([answer]) for three in answers(probabilities, labels, rank, 3, None) for answer in three]
        candidates = [said(candidate) for answer in found for candidate in answer["taxa"]]
        assert candidates == rows


def row_of(found: list[Answer]) -> dict[str, Any]:
    """The row of a table that tells of the answer, but for how it was found; empty without one."""
    row = csv_table.of_answer(found[0]) if found else {}
    told = ("score", "zero_shot", "note")
    return {name: value for name, value in row.items() if name not in ("rank", "threshold") and (value or name in told)}


def said(candidate: dict[str, Any] | None) -> dict[str, Any]:
    """A candidate of the package in the words of `predict`."""
    if candidate is None:
        return {}
    path = (*candidate["path"], *[None] * (7 - len(candidate["path"])))
    row = {rank: name for rank, name in zip(RANKS[:-1], path, strict=False) if name}
    if candidate["rank"] == "species":
        row |= {"species_epithet": path[6], "species": scientific_name(path)}
    told = f"not told apart below the {candidate['rank']}" if candidate["isFinest"] else ""
    return row | {
        "score": f"{candidate['probability']:.6g}",
        "zero_shot": "yes" if candidate["zeroShot"] else "",
        "note": ": ".join(part for part in (told, candidate["note"]) if part),
    }


@pytest.mark.parametrize("seed", range(2))
def test_python_and_javascript_allow_for_what_is_not_on_the_list_alike(tmp_path: Path, seed: int) -> None:
    labels, taxa = listed(tmp_path, seed)
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, size=(200, len(taxa))).astype(np.float32)
    logits[np.arange(200), random.integers(len(taxa), size=200)] += random.uniform(0, 20, size=200).astype(np.float32)
    known = {rank: [float(random.uniform(0.4, 0.6)), float(random.normal(-4, 1))] for rank in RANKS}
    fitted = {"share": 0.2, "level": 0.95, "confidence": 0.9, "known": known, "ranks": dict.fromkeys(RANKS, 0.5)}
    info = {"ranks": RANKS, "taxa": taxa, "temperature": 2.0, "thresholds": None, "off_list": fitted}
    given = json.dumps({"info": info, "logits": logits.tolist()})
    core = TREE.parent.as_uri()
    script = """
import {readFileSync} from 'node:fs';
const core = process.argv[1];
const {answerFor} = await import(`${core}/off-list.js`);
const {plantTree} = await import(`${core}/tree.js`);
const {softmax} = await import(`${core}/taxa.js`);
const {info, logits} = JSON.parse(readFileSync(0));
const tree = plantTree(info);
const rows = logits.map((row) => Float32Array.from(row));
const found = rows.map((row) => answerFor(info, tree, softmax(row, info.temperature), row, {offList: true}));
console.log(JSON.stringify(found));
"""
    command = ["node", "--input-type=module", "-e", script, core]
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    question = OffList({"known": known, "ranks": fitted["ranks"]}, True)
    probable = on_list(logits, question)
    here = allowing(logits, 2.0, labels, probable, question)
    ranks = set()
    for there, mine, chance in zip(json.loads(done.stdout), here, probable[:, -1], strict=True):
        assert there["onList"] == pytest.approx(chance, abs=1e-6)
        row, expected = said(there["answer"]), row_of(mine)
        assert float(row.pop("score", 0)) == pytest.approx(float(expected.pop("score", 0)), abs=1e-5)
        assert row == expected
        ranks |= {answer["rank"] for answer in mine} | (set() if mine else {None})
    assert {None, "species", "genus"} <= ranks


BY_EMBEDDING = """
import {readFileSync} from 'node:fs';
const [core, folder] = process.argv.slice(1);
const {answerFor} = await import(`${core}/off-list.js`);
const {openTaxa} = await import(`${core}/parts.js`);
const {logits, probabilitiesOf} = await import(`${core}/taxa.js`);
const read = async (name) => readFileSync(`${folder}/${name}`);
const info = JSON.parse(await read('bundle.json'));
const files = new Map([[info.text.file, new Uint8Array(await read(info.text.file))]]);
const taxa = openTaxa({origin: {where: folder, read, shelf: null}, info, files});
const found = [];
for (const embedding of JSON.parse(readFileSync(0))) {
  const rows = await taxa.rowsFor(Float32Array.from(embedding));
  const scores = logits(rows.info, rows.table, Float32Array.from(embedding));
  const probabilities = probabilitiesOf(rows.info, scores);
  found.push([false, true].map((offList) => answerFor(rows.info, rows.tree, probabilities, scores, {offList})));
}
console.log(JSON.stringify(found));
"""


@pytest.mark.parametrize("rows", [None, 18], ids=["all", "representatives"])
@pytest.mark.parametrize("chosen", [None, 2, 1], ids=["whole", "two clades", "one clade"])
def test_python_and_javascript_answer_alike_from_a_table_without_all_species(
    tmp_path: Path, rows: int | None, chosen: int | None
) -> None:
    """Where a genus or a clade stands for its species, it counts as often as they would, at any temperature."""
    labels, text = embedded(tmp_path, 3, capped=False)
    table = bundle.make_table(tmp_path, text, rows and 8 * rows)
    assert (table.representatives > 0) == (rows is not None)
    divided = parts.split(table, 1) if chosen else None
    if divided and chosen:
        divided = replace(divided, chosen=chosen)
        assert max(divided.sizes) > 1 < len(divided.clades)
    known: dict[str, list[float]] = {rank: [0.4, -3.0] for rank in RANKS}
    thresholds: dict[str, float | None] = dict.fromkeys(RANKS, 0.5)
    written = parts.write(tmp_path, table, divided)
    about = {
        **{"ranks": RANKS, "embedding": 4, "logit_scale": 20.0, "temperature": 3.0},
        "thresholds": {"level": 0.95, "ranks": thresholds},
        "off_list": {"share": 0.2, "level": 0.95, "confidence": 0.9, "known": known, "ranks": thresholds},
        **written,
        "text": {**written["text"], "dtype": "int8", "columns": 4},
    }
    contents = {name: (tmp_path / name).read_bytes() for name in parts.files(about)}
    about["files"] = {name: {"bytes": len(some), "sha256": bundle.sha256(some)} for name, some in contents.items()}
    (tmp_path / "bundle.json").write_bytes(bundle.json_bytes(about))
    embeddings = lessons.unit(np.random.default_rng(5).normal(size=(200, 4))).astype(np.float32)
    command = ["node", "--input-type=module", "-e", BY_EMBEDDING, TREE.parent.as_uri(), str(tmp_path)]
    done = subprocess.run(command, input=json.dumps(embeddings.tolist()), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    shipped = parts.read(tmp_path, about)
    ask = parts.answering(store.decode(shipped.integers, shipped.scales), shipped.split, 20.0)
    logits = ask(embeddings)[:, columns(tmp_path, shipped.entries, labels)]
    question = OffList({"known": known, "ranks": thresholds}, True)
    probable = on_list(logits, question)
    plain = answers(softmax(logits / 3.0), labels, "species", 1, thresholds)
    others = allowing(logits, 3.0, labels, probable, question)
    ranks = set()
    for there, mine, chance in zip(json.loads(done.stdout), zip(plain, others, strict=True), probable, strict=True):
        assert there[0]["onList"] == pytest.approx(chance[-1], abs=1e-6)
        for answer, expected in zip(there, map(row_of, mine), strict=True):
            row = said(answer["answer"])
            assert float(row.pop("score", 0)) == pytest.approx(float(expected.pop("score", 0)), abs=1e-5)
            assert row == expected
        ranks |= {answer["rank"] for answer in mine[0]} | (set() if mine[0] else {None})
    assert {"genus", "family"} <= ranks
