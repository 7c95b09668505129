"""Every variant on the same test photographs, with the same metrics.

Jobs: one per variant writes what it answers to data/evaluate/predictions/; "report" reads only those and writes
metrics.json, report.html and plots/*.png. Predictions are joined by sample key, never by row number.
"""

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from bioclip_lite import predictions
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_table, replacing, write_json
from bioclip_lite.labels import Labels, Truth, read_labels, truth_of
from bioclip_lite.metrics.scoring import score
from bioclip_lite.metrics.summary import summarise
from bioclip_lite.predictions import Predictions
from bioclip_lite.progress import progress
from bioclip_lite.randomness import digest
from bioclip_lite.report import LABELS, SHIPPED, Example, Name, Sample, Weak, render
from bioclip_lite.shards import ShardSet
from bioclip_lite.taxonomy import RANKS, label_rank, scientific_name
from bioclip_lite.taxonomy import Path as TaxonPath

VARIANTS = ("teacher", "student", "pruned", "int8", "tfjs", "control", "random")
REFERENCES = ("teacher", "student", "control")  # agreement is measured with the first
SPLIT = "test"

# Part of the protocol's id. Raise it when a definition changes: figures of two protocols must not be compared.
_DEFINITIONS = 1
_THUMBNAIL = 240  # pixels, longest side
_WEAKEST = 10
_MISTAKES = 3  # wrong answers listed per species


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    """Evaluate one variant, write the report (job "report"), or do all of it (None)."""
    jobs = (*VARIANTS, "report")
    if job is not None and job not in jobs:
        raise UserError(f"evaluate knows no job {job!r}; its jobs are {', '.join(jobs)}")
    for name in jobs if job is None else (job,):
        if name == "report":
            _report(params, data)
        else:
            _predict(name, params, data)


def _predict(variant: str, params: dict[str, Any], data: Path) -> None:
    from bioclip_lite.variants import ANSWERS  # PyTorch: the report does without

    labels = read_labels(data)
    answers = ANSWERS[variant](params, data, SPLIT, labels)
    predictions.write(
        data / "evaluate" / "predictions", variant, answers.keys, labels.ids, answers.blocks, answers.costs
    )
    print(f"evaluate: {variant} answered {len(answers.keys)} {SPLIT} photographs among {len(labels.ids)} taxa")


def _report(params: dict[str, Any], data: Path) -> None:
    from bioclip_lite import plots  # Matplotlib: the predictions do without

    labels = read_labels(data)
    samples = read_table(
        data / "index" / "samples.parquet", ["key", "split", "taxon_id", "group", "licence", "attribution"]
    )
    test = samples.filter(pc.equal(samples["split"], SPLIT)).sort_by("key")
    keys = test["key"].to_pylist()
    found = predictions.read(data / "evaluate" / "predictions", VARIANTS)
    _check_joinable(found, keys, labels)
    truth = truth_of(test["taxon_id"].to_pylist(), labels)
    scores = {
        variant: _scores(prediction, keys, truth, labels)
        for variant, prediction in progress(found.items(), len(found), "evaluate: variants scored")
    }
    metrics = _metrics(params, scores, found, test, truth, labels)
    figures = {
        "per_rank": plots.per_rank(metrics["variants"], LABELS),
        "accuracy_by_size": plots.accuracy_by_size(metrics["variants"], LABELS),
    }
    page = render(
        metrics,
        figures,
        _sample(samples, test, found["teacher"].costs.get("about", {})),
        _examples(params, data, scores[SHIPPED], test, truth, labels),
        _weakest(scores[SHIPPED], truth, labels),
    )
    folder = data / "evaluate"
    write_json(folder / "metrics.json", metrics)
    for name, png in figures.items():
        with replacing(folder / "plots" / f"{name}.png") as scratch:
            scratch.write_bytes(png)
    with replacing(folder / "report.html") as scratch:
        scratch.write_text(page, encoding="utf-8")
    for variant, row in metrics["variants"].items():
        top1 = row["top1"]
        right = (
            "no photograph known to species" if top1["value"] is None else f"species right {100 * top1['value']:.1f} %"
        )
        print(f"evaluate: {variant}: {right} (n = {top1['n_images']})")


def _check_joinable(found: Mapping[str, Predictions], keys: list[str], labels: Labels) -> None:
    """Every variant must have answered exactly the test photographs, among exactly the leaves of the taxonomy."""
    wanted = set(keys)
    if not wanted:
        raise UserError(
            f"data/index/samples.parquet has no photograph in split {SPLIT}, so there is nothing to report; "
            f"raise index.split.{SPLIT} (or index.synthetic.images.{SPLIT}) in params.yaml"
        )
    faults = []
    for variant, prediction in found.items():
        missing, surplus = sorted(wanted - set(prediction.keys)), sorted(set(prediction.keys) - wanted)
        for what, some in (("lacks", missing), ("has, unknown to the index,", surplus)):
            if some:
                faults.append(
                    f"{variant} {what} {len(some)} photographs ({', '.join(some[:3])}{' ...' * (len(some) > 3)})"
                )
        if prediction.taxon_ids != labels.ids:
            faults.append(f"{variant} answers among other taxa than data/index/taxa.parquet lists")
    if faults:
        names = ", ".join(dict.fromkeys(fault.split()[0] for fault in faults))
        raise UserError(
            "predictions cannot be compared: " + "; ".join(faults) + f"; run evaluate again for {names} "
            "(snakemake --cores all evaluate does, once the stages before it are up to date)"
        )


def _scores(prediction: Predictions, keys: list[str], truth: Truth, labels: Labels) -> dict[str, np.ndarray]:
    """``scoring.score`` of all images, rows in the order of ``keys``."""
    row_of = {key: row for row, key in enumerate(keys)}
    rows = np.array([row_of[key] for key in prediction.keys], dtype=np.int64)
    columns: dict[str, np.ndarray] = {}
    for block, logits in prediction.blocks():
        here = rows[block]
        for name, values in score(logits, truth.leaf[here], truth.nodes[here], labels.node_of_leaf).items():
            columns.setdefault(name, np.empty(len(keys), dtype=values.dtype))[here] = values
    return columns


def _metrics(
    params: dict[str, Any],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    found: Mapping[str, Predictions],
    test: pa.Table,
    truth: Truth,
    labels: Labels,
) -> dict[str, Any]:
    """The content of metrics.json."""
    keys, groups = test["key"].to_pylist(), _groups(test)
    trained = set(labels.taxa.filter(pc.greater(labels.taxa["train"], 0))["taxon_id"].to_pylist())
    seen = np.array([taxon in trained for taxon in test["taxon_id"].to_pylist()])
    rows = summarise(scores, truth.nodes, groups, seen, REFERENCES, params["bootstrap"], params["seed"])
    identity = [_DEFINITIONS, SPLIT, list(zip(keys, test["taxon_id"].to_pylist(), strict=True)), labels.ids]
    n_species = len({leaf for leaf in truth.leaf.tolist() if leaf >= 0})
    for variant, row in rows.items():
        for rank, of_rank in enumerate(row["per_rank"].values()):
            of_rank["n_classes"] = len(np.unique(truth.nodes[truth.nodes[:, rank] >= 0, rank]))
            of_rank["label_space"] = len(labels.nodes[rank])
        row |= {"n_images": len(keys), "n_classes": n_species, "label_space": len(labels.ids)}
        row |= {
            name: found[variant].costs.get(name) for name in ("params", "macs", "bytes", "table_bytes", "latency_ms")
        }
    return {
        "protocol": {
            "id": f"{SPLIT}-" + hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12],
            "definitions": _DEFINITIONS,
            "split": SPLIT,
            "n_images": len(keys),
            "n_groups": int(groups.max()) + 1,
            "n_classes": n_species,
            "label_space": len(labels.ids),
            "top_k": "images known to species; all leaves compete; equal logits in tree order",
            "per_rank": "argmax over the nodes of a rank, keyed by full path, of summed leaf probabilities",
            "bootstrap": {
                "resamples": params["bootstrap"],
                "seed": params["seed"],
                "cluster": "group (observation)",
                "interval": "percentile, 95 %",
                "paired": True,
            },
        },
        "variants": rows,
    }


def _groups(test: pa.Table) -> np.ndarray:
    """Number of each photograph's observation, int64 [n]; a photograph without one stands alone."""
    pairs = zip(test["key"].to_pylist(), test["group"].to_pylist(), strict=True)
    names = [f"photograph {key}" if group is None else f"observation {group}" for key, group in pairs]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


# ---- what the page shows beside the metrics


def _sample(samples: pa.Table, test: pa.Table, teacher: Mapping[str, Any]) -> Sample:
    per_split = Counter(samples["split"].to_pylist())
    order = [split for split in ("pretrain", "train", "val", "calibration", SPLIT) if split in per_split]
    return Sample(
        images={split: per_split[split] for split in order},
        licences=Counter(name or "not stated" for name in test["licence"].to_pylist()),
        sources=Counter(name or "not stated" for name in test["attribution"].to_pylist()),
        teacher=", ".join(
            f"{what}{teacher[key]}" for key, what in (("name", ""), ("licence", "licence ")) if teacher.get(key)
        ),
    )


def _examples(
    params: dict[str, Any], data: Path, scores: Mapping[str, np.ndarray], test: pa.Table, truth: Truth, labels: Labels
) -> list[Example]:
    """As many right as wrong answers, drawn by hash among photographs known to species."""
    keys = test["key"].to_pylist()
    drawn: list[int] = []
    for right in (1.0, 0.0):
        rows = np.flatnonzero(scores["top1"] == right).tolist()
        rows.sort(key=lambda row: digest(params["seed"], "example", keys[row]))
        drawn += rows[: params["examples"] // 2]
    if not drawn:
        return []
    shards = ShardSet(data, SPLIT)
    place = {key: i for i, key in enumerate(shards.keys)}
    examples = []
    for row in drawn:
        if keys[row] not in place:
            raise UserError(
                f"the shards of split {SPLIT} lack photograph {keys[row]} of data/index/samples.parquet; "
                "run stage shard again"
            )
        right_leaf, answer = int(truth.leaf[row]), int(scores["answer"][row])
        shared = _shared(labels.leaves[right_leaf], labels.leaves[answer])
        credit = [test[column][row].as_py() for column in ("attribution", "licence")]
        examples.append(
            Example(
                jpeg=_thumbnail(shards.image(place[keys[row]])),
                truth=_name(right_leaf, labels),
                answer=_name(answer, labels),
                probability=float(scores["probability"][row]),
                right=right_leaf == answer,
                shared=None if shared < 0 else RANKS[shared],
                credit=", ".join(part for part in credit if part),
            )
        )
    return examples


def _weakest(scores: Mapping[str, np.ndarray], truth: Truth, labels: Labels) -> list[Weak]:
    """The species with the lowest share of right answers, if any is wrong."""
    given: dict[int, Counter[int]] = defaultdict(Counter)
    for leaf, answer in zip(truth.leaf.tolist(), scores["answer"].tolist(), strict=True):
        if leaf >= 0:
            given[leaf][answer] += 1
    wrong = [leaf for leaf, answers in given.items() if answers[leaf] < answers.total()]
    # of two species that are always wrong, the one with more photographs says more
    wrong.sort(key=lambda leaf: (given[leaf][leaf] / given[leaf].total(), -given[leaf].total(), leaf))
    weakest = []
    for leaf in wrong[:_WEAKEST]:
        mistakes = sorted(
            ((answer, n) for answer, n in given[leaf].items() if answer != leaf), key=lambda item: (-item[1], item[0])
        )
        weakest.append(
            Weak(
                name=_name(leaf, labels),
                images=given[leaf].total(),
                right=given[leaf][leaf],
                mistaken=[(_name(answer, labels), n) for answer, n in mistakes[:_MISTAKES]],
            )
        )
    return weakest


def _name(leaf: int, labels: Labels) -> Name:
    path = labels.leaves[leaf]
    return Name(scientific_name(path), labels.common_names[leaf], italic=label_rank(path) >= RANKS.index("genus"))


def _shared(one: TaxonPath, other: TaxonPath) -> int:
    """Index of the lowest rank down to which two paths are equal and named; -1 if none."""
    shared = -1
    for rank, (a, b) in enumerate(zip(one, other, strict=True)):
        if a != b:
            break
        if a:
            shared = rank
    return shared


def _thumbnail(image: Image.Image) -> bytes:
    """A small JPEG without the metadata of the photograph (place and owner)."""
    small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    clean = Image.new("RGB", small.size)
    clean.paste(small)
    file = io.BytesIO()
    clean.save(file, "JPEG", quality=85)
    return file.getvalue()
