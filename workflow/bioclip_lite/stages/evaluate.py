"""Every variant on the same test photographs, with the same metrics.

Jobs: one per variant writes what it answers to data/evaluate/predictions/; "report" reads only those and writes
metrics.json, headline.json, report.html, MODEL_CARD.md and plots/. Predictions are joined by sample key, never by row
number.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bioclip_lite.evaluation import predictions, references, variant_names
from bioclip_lite.evaluation.predictions import Predictions
from bioclip_lite.evaluation.probes import Photographs, measure
from bioclip_lite.metrics import backoff, calibration
from bioclip_lite.metrics.ranks import softmax
from bioclip_lite.metrics.scoring import score
from bioclip_lite.metrics.summary import agreement, summarise
from bioclip_lite.report import suites as report_suites
from bioclip_lite.report.content import Pictures, Shown, confusion_of, examples_of, sample_of, weakest_of
from bioclip_lite.report.dvc_views import curves, headline
from bioclip_lite.report.model_card import card
from bioclip_lite.report.page import render
from bioclip_lite.report.text import LABELS, SHIPPED
from bioclip_lite.taxa.label_space import Labels, Truth, observations, read_labels, truth_of
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils import job_names
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, replacing, require, write_json
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import drawn

if TYPE_CHECKING:
    from bioclip_lite.params import jobs
    from bioclip_lite.utils import sections

JOBS = ("report", "speed", "suites/{suite}", "{variant}")  # job_names
REFERENCES = ("teacher", "student", "control")  # agreement is measured with the first
TWINS = {"tfjs": ("int8",), "chromium": ("int8", "tfjs")}  # the same weights, which should give the same answers
SPLIT, FITTED_ON = "test", "calibration"  # temperatures and thresholds come from a split of their own
SPEED_FILE = "speed.json"  # beside the predictions, in a folder that is there whether anything is timed or not

# Part of the protocol's id. Raise it when a definition changes: figures of two protocols must not be compared.
_DEFINITIONS = 2
_COSTS = ("params", "macs", "bytes", "gzipped", "table_bytes", "table_gzipped", "latency_ms")  # of <variant>.json
_FITTED_ON_AT_MOST = 10_000  # photographs for a temperature: their mean is good to a hundredth
_TRAINING_IMAGES = (0, 10, 50)  # upper ends of the bins of training frequency; the last one is open


def run(params: "sections.Evaluate", data: Path, job: str | None = None) -> None:
    """Evaluate one variant, or one suite (job "suites/<suite>"), time other sizes (job "speed"), write the report (job
    "report"), or do all of it (None).

    ``params`` hold the whole section for None, what ``params.jobs`` lists for one job.
    """
    for name in _jobs(params) if job is None else [job]:
        form, fields = job_names.parse("evaluate", name, JOBS)
        if form == "report":
            _report(params, data)
        elif form == "speed":
            _time(params, data)
        elif form == "suites/{suite}":
            _answer_suite(params, data, fields["suite"])
        else:
            _predict(name, params, data)


def _jobs(params: "sections.Evaluate") -> list[str]:
    timing = ["speed"] if params["speed"]["sizes"] else []
    suites = [f"suites/{entry['name']}" for entry in params["suites"]]
    return [*variant_names.variants(params), *timing, *suites, "report"]


def _predict(variant: str, params: Any, data: Path) -> None:
    """Write the answers of one variant; ``params`` are those of ``jobs.of_job`` for it."""
    if variant not in variant_names.KNOWN and not variant_names.further_teacher(variant):
        jobs = ", ".join((*variant_names.KNOWN, "teacher-<name>", *(form for form in JOBS if "{" not in form)))
        raise UserError(f"evaluate has no job {variant!r}; its jobs are {jobs}, suites/<suite>")
    labels, splits, extras = read_labels(data), (FITTED_ON, SPLIT), {}
    if variant in references.ANSWERS:
        found = references.ANSWERS[variant](params, data, splits, labels)
    else:
        from bioclip_lite.evaluation.prompts import texts_of  # PyTorch: the references and the report do without
        from bioclip_lite.evaluation.variants import answers

        found = answers(variant, params, data, splits, labels)
        extras = texts_of(params, data, SPLIT, labels) if variant == "teacher" else {}
    folder = data / "evaluate" / "predictions"
    predictions.write(folder, variant, found.keys, labels.ids, found.blocks, found.costs, extras)
    print(f"evaluate: {variant} answered {len(found.keys)} photographs among {len(labels.ids)} taxa")


def _answer_suite(params: "jobs.OneSuite", data: Path, suite: str) -> None:
    # Not an import that closure sees: the other jobs need not run again when what reads suites changes.
    answering = importlib.import_module("bioclip_lite.suites.answering")
    answering.run(params, data, suite)


def _time(params: "jobs.Timing", data: Path) -> None:
    from bioclip_lite.evaluation import speed  # PyTorch

    found = speed.measure(params, data)
    write_json(data / "evaluate" / "predictions" / SPEED_FILE, found)
    for row in found["rows"]:
        latency = row["latency_ms"]
        print(f"evaluate: {row['size']} px, {latency['runtime']}: {latency['median']:.1f} ms")


def _report(params: "jobs.Report", data: Path) -> None:
    from bioclip_lite.report import plots  # Matplotlib: the predictions do without

    labels = read_labels(data)
    samples = read_table(
        data / "index" / "samples.parquet", ["key", "split", "taxon_id", "group", "licence", "attribution"]
    )
    test, fitted_on = (samples.filter(pc.equal(samples["split"], split)).sort_by("key") for split in (SPLIT, FITTED_ON))
    found = predictions.read(data / "evaluate" / "predictions", variant_names.variants(params))
    _check_joinable(found, test["key"].to_pylist(), fitted_on["key"].to_pylist(), labels)
    truth = truth_of(test["taxon_id"].to_pylist(), labels)
    scores: dict[str, dict[str, np.ndarray]] = {}
    fits: dict[str, _Fit] = {}
    for variant, prediction in progress(found.items(), len(found), "evaluate: variants scored"):
        fits[variant] = _fit(prediction, fitted_on, labels)
        scores[variant] = _scores(prediction, test["key"].to_pylist(), truth, labels, fits[variant].temperature)
    metrics = _metrics(params, scores, fits, found, test, truth, labels)
    if params["speed"]["sizes"]:
        metrics["speed"] = read_json(require(data / "evaluate" / "predictions" / SPEED_FILE))
    if params["suites"]:
        metrics["suites"] = report_suites.read(data, [entry["name"] for entry in params["suites"]])
    photographs = Photographs(test["key"].to_pylist(), truth, _groups(test))
    metrics |= measure(found, photographs, labels, params["bootstrap"], params["seed"])
    figures = {
        "per_rank": plots.per_rank(metrics["variants"], LABELS),
        "accuracy_by_size": plots.accuracy_by_size(metrics["variants"], LABELS),
        "accuracy_by_time": plots.accuracy_by_time(metrics["variants"], LABELS),
        "back_off": plots.back_off(metrics["variants"][SHIPPED]["back_off"]["levels"]),
        "risk_coverage": plots.risk_coverage(metrics["variants"], LABELS),
    }
    sample = sample_of(samples, test, found["teacher"].costs.get("about", {}))
    shown = Shown(test, truth, labels, scores[SHIPPED], Pictures(data, test), params["seed"])
    content = examples_of(shown, params["examples"]), weakest_of(shown), confusion_of(shown)
    tables = curves(metrics, read_table(data / "distill" / "history.parquet"))
    folder = data / "evaluate"
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "headline.json", headline(metrics))
    for name, png in figures.items():
        with replacing(folder / "plots" / f"{name}.png") as scratch:
            scratch.write_bytes(png)
    texts = {f"plots/{name}.csv": text for name, text in tables.items()}
    texts |= {"report.html": render(metrics, figures, sample, *content), "MODEL_CARD.md": card(metrics, sample)}
    for name, text in texts.items():
        with replacing(folder / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
    for variant, row in metrics["variants"].items():
        top1 = row["top1"]
        right = (
            "no photograph known to species" if top1["value"] is None else f"species right {100 * top1['value']:.1f} %"
        )
        print(f"evaluate: {variant}: {right} (n = {top1['n_images']})")


def _check_joinable(found: Mapping[str, Predictions], keys: list[str], fitted_on: list[str], labels: Labels) -> None:
    """Every variant must have answered exactly these photographs, among exactly the leaves of the taxonomy."""
    wanted = {*keys, *fitted_on}
    if not keys:
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


@dataclass(frozen=True)
class _Fit:
    """What the calibration split says about a variant."""

    source: str  # "fitted", or "shipped" in its bundle
    temperature: float
    thresholds: calibration.Thresholds
    best: dict[str, np.ndarray]  # "share" and "node" (calibration.best_nodes) of one photograph per observation
    truth_nodes: np.ndarray  # int64 [m, 7], their labels


def _fit(prediction: Predictions, fitted_on: pa.Table, labels: Labels) -> _Fit:
    """Temperature and thresholds of one variant; those that it is shipped with, if it has any."""
    keys = fitted_on["key"].to_pylist()
    truth = truth_of(fitted_on["taxon_id"].to_pylist(), labels).nodes
    shipped = prediction.costs.get("calibration")
    if shipped:
        temperature = float(shipped["temperature"])
    else:
        rows = drawn(keys, _FITTED_ON_AT_MOST, "temperature")
        logits = np.empty((len(rows), len(labels.ids)), dtype=np.float32)
        for here, block in prediction.placed([keys[row] for row in rows], prediction.blocks()):
            logits[here] = block
        temperature = calibration.fit_temperature(logits, truth[rows], labels.node_of_leaf)
    first = calibration.first_of_each(fitted_on["group"].to_pylist())
    share = np.empty((len(first), len(RANKS)))
    node = np.empty((len(first), len(RANKS)), dtype=np.int64)
    for here, block in prediction.placed([keys[row] for row in first], prediction.blocks()):
        share[here], node[here] = calibration.best_nodes(softmax(block / temperature), labels.node_of_leaf)
    if shipped:
        thresholds = shipped["thresholds"]["ranks"]
    else:
        thresholds = calibration.fit_reduced(share, node, truth[first], labels.node_of_leaf, calibration.LEVEL)
    best = {"share": share, "node": node}
    return _Fit("shipped" if shipped else "fitted", temperature, thresholds, best, truth[first])


def _scores(
    prediction: Predictions, keys: list[str], truth: Truth, labels: Labels, temperature: float
) -> dict[str, np.ndarray]:
    """``scoring.score`` of all images, rows in the order of ``keys``."""
    columns: dict[str, np.ndarray] = {}
    for here, logits in prediction.placed(keys, prediction.blocks()):
        found = score(logits, truth.leaf[here], truth.nodes[here], labels.node_of_leaf, temperature)
        for name, values in found.items():
            columns.setdefault(name, np.empty((len(keys), *values.shape[1:]), dtype=values.dtype))[here] = values
    return columns


def _metrics(
    params: "jobs.Report",
    scores: Mapping[str, Mapping[str, np.ndarray]],
    fits: Mapping[str, _Fit],
    found: Mapping[str, Predictions],
    test: pa.Table,
    truth: Truth,
    labels: Labels,
) -> dict[str, Any]:
    """The content of metrics.json."""
    keys, groups = test["key"].to_pylist(), _groups(test)
    resampling = params["bootstrap"], params["seed"]
    rows = summarise(scores, truth.nodes, groups, _strata(test, labels), REFERENCES, *resampling)
    identity = [_DEFINITIONS, SPLIT, list(zip(keys, test["taxon_id"].to_pylist(), strict=True)), labels.ids]
    protocol = f"{SPLIT}-" + hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    n_species = len({leaf for leaf in truth.leaf.tolist() if leaf >= 0})
    for variant, twins in TWINS.items():
        if variant in rows:
            rows[variant] |= agreement(scores, variant, twins, truth.nodes, groups, *resampling)
    for variant, row in rows.items():
        for rank, of_rank in enumerate(row["per_rank"].values()):
            of_rank["n_classes"] = len(np.unique(truth.nodes[truth.nodes[:, rank] >= 0, rank]))
            of_rank["label_space"] = len(labels.nodes[rank])
        row |= {"n_images": len(keys), "n_classes": n_species, "label_space": len(labels.ids), "protocol": protocol}
        row["calibration"] |= {"temperature": fits[variant].temperature, "source": fits[variant].source}
        row["back_off"] = _back_off(scores[variant], fits[variant], test, truth, labels, groups, resampling)
        row |= {name: found[variant].costs.get(name) for name in _COSTS}
    return {
        "protocol": {
            "id": protocol,
            "definitions": _DEFINITIONS,
            "split": SPLIT,
            "n_images": len(keys),
            "n_groups": int(groups.max()) + 1,
            "n_classes": n_species,
            "label_space": len(labels.ids),
            "top_k": "images known to species; all leaves compete; equal logits in tree order",
            "per_rank": "argmax over the nodes of a rank, keyed by full path, of summed leaf probabilities at the "
            "fitted temperature",
            "calibration": f"temperature of least NLL and thresholds from split {FITTED_ON}; ECE in 15 bins of equal "
            "width of the best leaf's probability",
            "back_off": "the lowest rank whose best node reaches the rank's threshold",
            "haurc": "images known to species; share of wrong answers over mean specificity as one threshold for all "
            "ranks falls",
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


def _strata(test: pa.Table, labels: Labels) -> dict[tuple[str, ...], np.ndarray]:
    """Photographs by what was there to learn their species from, and by kingdom; bool [n] each."""
    taxa = test["taxon_id"].to_pylist()
    training = dict(zip(labels.taxa["taxon_id"].to_pylist(), labels.taxa["train"].to_pylist(), strict=True))
    images = np.array([training[taxon] for taxon in taxa])
    strata: dict[tuple[str, ...], np.ndarray] = {("seen",): images > 0, ("unseen",): images == 0}
    low = -1
    for high in (*_TRAINING_IMAGES, None):
        name = f"{low + 1}-{high}" if high else "0" if high == 0 else f">{low}"
        strata["training_images", name] = (images > low) & (images <= high if high is not None else True)
        low = high if high is not None else low
    kingdom = dict(zip(labels.taxa["taxon_id"].to_pylist(), labels.taxa["kingdom"].to_pylist(), strict=True))
    names = np.array([kingdom[taxon] or "not stated" for taxon in taxa])
    return strata | {("kingdom", str(name)): names == name for name in np.unique(names)}


def _back_off(
    scores: Mapping[str, np.ndarray],
    fit: _Fit,
    test: pa.Table,
    truth: Truth,
    labels: Labels,
    groups: np.ndarray,
    resampling: tuple[int, int],
) -> dict[str, Any]:
    """What a variant answers if it climbs to where it is sure, and whether the promise is kept.

    The promise is about species that the calibration split has; what species it lacks add is told apart.
    """
    counts = dict(zip(labels.taxa["taxon_id"].to_pylist(), labels.taxa[FITTED_ON].to_pylist(), strict=True))
    known = np.array([counts[taxon] > 0 for taxon in test["taxon_id"].to_pylist()])
    found = backoff.summarise(
        scores,
        fit.thresholds,
        truth.nodes,
        labels.node_of_leaf,
        groups,
        {("in_calibration",): known, ("not_in_calibration",): ~known},
        *resampling,
    )
    return {
        "level": calibration.LEVEL,
        "confidence": calibration.CONFIDENCE,
        "thresholds": dict(fit.thresholds),
        "n_fitted_on": len(fit.truth_nodes),
        "kept": backoff.kept(found["strata"]["in_calibration"]["right"]),
        **found,
        "haurc": backoff.area(scores, truth.nodes, labels.node_of_leaf, groups, *resampling),
        "levels": backoff.operating_curve(fit.best, fit.truth_nodes, scores, truth.nodes, labels.node_of_leaf),
    }


def _groups(test: pa.Table) -> np.ndarray:
    """Number of each photograph's observation, int64 [n]."""
    return np.unique(observations(test), return_inverse=True)[1].astype(np.int64)
