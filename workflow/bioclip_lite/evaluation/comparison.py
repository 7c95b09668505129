"""Compare all variants on the same test photographs, with the same metrics: the content of metrics.json."""

import hashlib
import json
import operator
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bioclip_lite.evaluation.fitting import FITTED_ON_AT_MOST, Fit
from bioclip_lite.evaluation.predictions import FITTED_ON, SPLIT, Predictions, identity_of
from bioclip_lite.metrics import backoff, calibration, off_list, off_list_summary
from bioclip_lite.metrics.summary import Columns, Strata, agreement, summarise
from bioclip_lite.taxa.label_space import Labels, Truth, observations
from bioclip_lite.taxa.taxonomy import label_rank
from bioclip_lite.utils.errors import UserError

REFERENCES = ("teacher", "student", "control")  # agreement is measured with the first
# The same weights, which should give the same answers.
TWINS = {"tfjs": ("int8",), "chromium": ("int8", "tfjs"), "tflite": ("int8", "tfjs")}

# Part of the protocol's id. Raise it when a definition changes: figures of two protocols must not be compared.
_DEFINITIONS = 2
NOT_SEEN = "not_seen_by_teacher"  # a stratum: the photographs that the teacher was not trained on
_COSTS = ("params", "macs", "bytes", "gzipped", "table_bytes", "table_gzipped", "latency_ms")  # of <variant>.json
_IF_KNOWN = ("fixed_classifier",)  # of a control whose last layer are the teacher's text embeddings
_TRAINING_IMAGES = (0, 10, 50)  # upper ends of the bins of training frequency; the last one is open


class Resampling(NamedTuple):
    """Settings of the bootstrap, the same for all variants."""

    resamples: int
    seed: int


def check_joinable(
    predictions: Mapping[str, Predictions], keys: list[str], fitted_on: list[str], labels: Labels
) -> None:
    """Check that every variant answered exactly these photographs, among exactly the leaves of the taxonomy.

    Args:
        keys: photographs of the test split.
        fitted_on: photographs of the calibration split.

    Raises:
        UserError: there is no test photograph, or the predictions differ; all variants that differ are named.
    """
    if not keys:
        raise UserError(
            f"data/index/samples.parquet has no photograph in split {SPLIT}, so there is nothing to report; "
            f"raise index.split.{SPLIT} (or index.synthetic.images.{SPLIT}) in params.yaml"
        )
    wanted, known, taxa = set(keys), set(fitted_on), identity_of(labels)
    faults = []
    for variant, prediction in predictions.items():
        test, calibrated = set(prediction.keys()), set(prediction.calibration_keys())
        missing, surplus = wanted - test, (test - wanted) | (calibrated - known)
        if len(calibrated) < min(len(known), FITTED_ON_AT_MOST):  # of more, some are enough
            missing |= known - calibrated
        for fault, some in (("lacks", sorted(missing)), ("has, unknown to the index,", sorted(surplus))):
            if some:
                faults.append(
                    f"{variant} {fault} {len(some)} photographs ({', '.join(some[:3])}{' ...' * (len(some) > 3)})"
                )
        if prediction.taxa != taxa:
            faults.append(f"{variant} answers among other taxa than data/index/taxa.parquet lists")
    if faults:
        names = ", ".join(dict.fromkeys(fault.split()[0] for fault in faults))
        raise UserError(
            "predictions cannot be compared: " + "; ".join(faults) + f"; run evaluate again for {names} "
            "(snakemake --cores all evaluate does, once the stages before it are up to date)"
        )


def compare(
    predictions: Mapping[str, Predictions],
    scores: Mapping[str, Columns],
    fits: Mapping[str, Fit],
    test: pa.Table,
    truth: Truth,
    labels: Labels,
    resampling: Resampling,
) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        predictions, scores (``fitting.read_scores``), fits: by variant.
        test: the rows of data/index/samples.parquet in the test split, in the order of the scores.
    """
    groups = observation_numbers(test)
    protocol = _protocol(test, truth, groups, labels, resampling)
    references = tuple(name for name in REFERENCES if name in scores)
    covered = _guaranteed(test, labels)
    rows = summarise(scores, truth.nodes, groups, _strata(test, labels), references, *resampling)
    for variant, twins in TWINS.items():
        if variant in rows:
            rows[variant] |= agreement(scores, variant, twins, truth.nodes, groups, *resampling)
    for variant, row in rows.items():
        for rank, of_rank in enumerate(row["per_rank"].values()):
            of_rank["n_classes"] = len(np.unique(truth.nodes[truth.nodes[:, rank] >= 0, rank]))
            of_rank["label_space"] = len(labels.nodes[rank])
        row |= {name: protocol[name] for name in ("n_images", "n_classes", "label_space")}
        row["protocol"] = protocol["id"]
        row["calibration"] |= {"temperature": fits[variant].temperature, "source": fits[variant].source}
        row["back_off"] = _back_off(scores[variant], fits[variant], covered, truth, labels, groups, resampling)
        row["off_list"] = _off_list(scores[variant], fits[variant], covered, test, truth, labels, groups, resampling)
        costs = predictions[variant].costs
        row |= {name: costs.get(name) for name in _COSTS} | {name: costs[name] for name in _IF_KNOWN if name in costs}
    return {"protocol": protocol, "variants": rows}


def _protocol(
    test: pa.Table, truth: Truth, groups: np.ndarray, labels: Labels, resampling: Resampling
) -> dict[str, Any]:
    """Identity and size of the test, and the definitions of its metrics."""
    rows = list(zip(test["key"].to_pylist(), test["taxon_id"].to_pylist(), strict=True))
    identity = json.dumps([_DEFINITIONS, SPLIT, rows, labels.ids])
    return {
        "id": f"{SPLIT}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}",
        "definitions": _DEFINITIONS,
        "split": SPLIT,
        "n_images": test.num_rows,
        "n_groups": int(groups.max()) + 1,
        "n_classes": len({leaf for leaf in truth.leaf.tolist() if leaf >= 0}),
        "label_space": len(labels.ids),
        "teacher_saw": _trained_on(test),
        **_coverage(labels),
        "top_k": "images known to species; all leaves compete; equal logits in tree order",
        "per_rank": "argmax over the nodes of a rank, keyed by full path, of summed leaf probabilities at the "
        "fitted temperature",
        "calibration": f"temperature of least NLL and thresholds from split {FITTED_ON}; ECE in 15 bins of equal "
        "width of the best leaf's probability",
        "back_off": "the lowest rank whose best node reaches the rank's threshold, and never below the finest_rank of "
        "a taxon; accuracies per rank know no finest_rank",
        "off_list": f"{100 * off_list.SHARE:.0f} % of the photographs, drawn by their keys, show what the list is "
        "taken to lack: their species, genus or group (the highest node that is not the whole list); without the group "
        "any answer is wrong",
        "macro": f"taxa with {backoff.LEAST_ANSWERS} answers or more; mostly right: {100 * backoff.MOSTLY:.0f} % or "
        "more of the answers; percentile interval, 95 %, bootstrap over taxa",
        "haurc": "images known to species; share of wrong answers over mean specificity as one threshold for all "
        "ranks falls",
        "bootstrap": {
            "resamples": resampling.resamples,
            "seed": resampling.seed,
            "cluster": "group (observation)",
            "interval": "percentile, 95 %",
            "paired": True,
        },
    }


def _coverage(labels: Labels) -> dict[str, int]:
    """Numbers of leaves: "zero_shot", of them "untested" by any photograph, "calibrated", which the guarantee covers,
    and "capped", which have a finest_rank above their own."""
    leaves = labels.taxa.filter(labels.taxa["leaf"])
    shown = {split: leaves[split].to_numpy() > 0 for split in (SPLIT, FITTED_ON)}
    return {
        "zero_shot": int(labels.zero_shot.sum()),
        "untested": int((labels.zero_shot & ~shown[SPLIT]).sum()),
        "calibrated": int(shown[FITTED_ON].sum()),
        "capped": sum(map(operator.lt, labels.finest_rank.tolist(), map(label_rank, labels.leaves))),
    }


def _is_zero_shot(test: pa.Table, labels: Labels) -> np.ndarray:
    """Bool [n]: the photographs of zero-shot leaves."""
    taxa = {taxon for taxon, zero_shot in zip(labels.ids, labels.zero_shot, strict=True) if zero_shot}
    return np.array([taxon in taxa for taxon in test["taxon_id"].to_pylist()])


def _strata(test: pa.Table, labels: Labels) -> dict[tuple[str, ...], np.ndarray]:
    """Strata by training photographs of the taxon, by kingdom, and by what the teacher saw; bool [n] each."""
    taxa = test["taxon_id"].to_pylist()
    training = dict(zip(labels.taxa["taxon_id"].to_pylist(), labels.taxa["train"].to_pylist(), strict=True))
    images = np.array([training[taxon] for taxon in taxa])
    zero_shot = _is_zero_shot(test, labels)
    strata: dict[tuple[str, ...], np.ndarray] = {
        ("trained",): images > 0,
        ("pretrain_only",): (images == 0) & ~zero_shot,  # the teacher alone may have learned from photographs
        ("zero_shot",): zero_shot,
    }
    low = -1
    for high in (*_TRAINING_IMAGES, None):
        name = f"{low + 1}-{high}" if high else "0" if high == 0 else f">{low}"
        strata["training_images", name] = (images > low) & (images <= high if high is not None else True)
        low = high if high is not None else low
    kingdom = dict(zip(labels.taxa["taxon_id"].to_pylist(), labels.taxa["kingdom"].to_pylist(), strict=True))
    names = np.array([kingdom[taxon] or "not stated" for taxon in taxa])
    strata |= {("kingdom", str(name)): names == name for name in np.unique(names)}
    return strata | _not_seen_by_teacher(test)


def _not_seen_by_teacher(test: pa.Table) -> dict[tuple[str, ...], np.ndarray]:
    """The photographs that the teacher was not trained on, where the index knows of any."""
    unseen = pc.equal(test["teacher_saw"], False).fill_null(False).to_numpy()
    return {(NOT_SEEN,): unseen} if test["teacher_saw"].null_count < test.num_rows else {}


def _trained_on(test: pa.Table) -> dict[str, int] | None:
    """How many photographs the teacher was trained on, was not, and may have been; None if that is not known."""
    seen = Counter(test["teacher_saw"].to_pylist())
    counts = {"seen": seen[True], "not_seen": seen[False], "unknown": seen[None]}
    return counts if seen.keys() - {None} else None


def _guaranteed(test: pa.Table, labels: Labels) -> Strata:
    """Strata of answers with back-off, bool [n] each.

    The guarantee covers species present in the calibration split; others are reported separately.
    """
    counts = dict(zip(labels.taxa["taxon_id"].to_pylist(), labels.taxa[FITTED_ON].to_pylist(), strict=True))
    known = np.array([counts[taxon] > 0 for taxon in test["taxon_id"].to_pylist()])
    named = {("in_calibration",): known, ("not_in_calibration",): ~known, ("zero_shot",): _is_zero_shot(test, labels)}
    return named | _not_seen_by_teacher(test)


def _back_off(
    scores: Columns,
    fit: Fit,
    strata: Strata,
    truth: Truth,
    labels: Labels,
    groups: np.ndarray,
    resampling: Resampling,
) -> dict[str, Any]:
    """The answers of a variant with back-off, and whether the guarantee holds."""
    found = backoff.summarise(
        scores,
        fit.thresholds,
        truth.nodes,
        labels.node_of_leaf,
        groups,
        strata,
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


def _off_list(
    scores: Columns,
    fit: Fit,
    strata: Strata,
    test: pa.Table,
    truth: Truth,
    labels: Labels,
    groups: np.ndarray,
    resampling: Resampling,
) -> dict[str, Any] | None:
    """The answers of a variant among photographs of what is not on the list; None if that could not be fitted."""
    if fit.off_list is None:
        return None
    drawn = off_list.hidden(test["key"].to_pylist(), truth.nodes, labels.node_of_leaf, off_list.SHARE)
    covered = strata["in_calibration",]
    found = off_list_summary.summarise(scores, drawn, covered, labels.node_of_leaf, groups, *resampling)
    return {**fit.off_list, **found}


def observation_numbers(test: pa.Table) -> np.ndarray:
    """Number of each photograph's observation, int64 [n]."""
    return np.unique(observations(test), return_inverse=True)[1].astype(np.int64)
