"""Job "report" of stage evaluate: compare the predictions of all variants, and write every file about the result.

Reads predictions and no model. A change of the report, templates included, therefore runs this job and no other.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bioclip_lite.evaluation import predictions
from bioclip_lite.evaluation.comparison import Resampling, check_joinable, compare, observation_numbers
from bioclip_lite.evaluation.fitting import read_fit, read_scores
from bioclip_lite.evaluation.predictions import FITTED_ON, SPEED_FILE, SPLIT
from bioclip_lite.evaluation.probes import Photographs, measure
from bioclip_lite.evaluation.variant_names import variants
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.report import plots, suites
from bioclip_lite.report.content import Pictures, Shown, confusion_of, examples_of, sample_of, weakest_of
from bioclip_lite.report.dvc_views import curves, headline
from bioclip_lite.report.model_card import card
from bioclip_lite.report.page import page
from bioclip_lite.report.text import SHIPPED, named
from bioclip_lite.taxa.label_space import read_labels, truth_of
from bioclip_lite.utils.files import read_json, read_table, replacing, require, write_json

_COLUMNS = ["key", "split", "taxon_id", "group", "licence", "attribution", "teacher_saw"]


def publish(params: dict[str, Any], data: Path) -> None:
    """Write metrics.json, headline.json, report.html, MODEL_CARD.md and plots/ to data/evaluate.

    Raises:
        UserError: predictions are missing, or of other photographs or taxa than those of the index.
    """
    folder = data / "evaluate"
    labels = read_labels(data)
    samples = read_table(data / "index" / "samples.parquet", _COLUMNS)
    test, fitted_on = (_split(samples, split) for split in (SPLIT, FITTED_ON))
    keys, fitted_on_keys = test["key"].to_pylist(), fitted_on["key"].to_pylist()
    answers = predictions.read(folder / "predictions", variants(params), shard_names(data, SPLIT))
    check_joinable(answers, keys, fitted_on_keys, labels)

    truth = truth_of(test["taxon_id"].to_pylist(), labels)
    scores = Scores({name: functools.partial(read_scores, of, keys, truth, labels) for name, of in answers.items()})
    taxon_of = dict(zip(fitted_on_keys, fitted_on["taxon_id"].to_pylist(), strict=True))
    fits = {variant: read_fit(answer, taxon_of, labels) for variant, answer in answers.items()}
    resampling = Resampling(params["bootstrap"], params["seed"])
    metrics = compare(answers, scores, fits, test, truth, labels, resampling)
    if params["speed"]["sizes"]:
        metrics["speed"] = read_json(require(folder / "predictions" / SPEED_FILE))
    if params["suites"]:
        metrics["suites"] = suites.read(data, [entry["name"] for entry in params["suites"]])
    metrics |= measure(answers, Photographs(keys, truth, observation_numbers(test)), labels, *resampling)

    sample = sample_of(samples, test, answers["teacher"].costs.get("about", {}))
    shown = Shown(test, truth, labels, scores[SHIPPED], Pictures(data, test, answers[SHIPPED]), params["seed"])
    figures = _figures(metrics["variants"])
    content = examples_of(shown, params["examples"]), weakest_of(shown), confusion_of(shown)
    history = read_table(data / "distill" / "history.parquet")
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "headline.json", headline(metrics))
    _write(folder / "report.html", page(metrics, figures, sample, *content).encode())
    _write(folder / "MODEL_CARD.md", card(metrics, sample).encode())
    for name, png in figures.items():
        _write(folder / "plots" / f"{name}.png", png)
    for name, table in curves(metrics, history).items():
        _write(folder / "plots" / f"{name}.csv", table.encode())
    _summarize(metrics["variants"])


class Scores(Mapping[str, dict[str, np.ndarray]]):
    """The scores of each variant, read whenever they are asked for: those of all are never in memory at once."""

    def __init__(self, read: Mapping[str, Callable[[], dict[str, np.ndarray]]]) -> None:
        self._read = read

    def __getitem__(self, variant: str) -> dict[str, np.ndarray]:
        return self._read[variant]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def _split(samples: pa.Table, split: str) -> pa.Table:
    return samples.filter(pc.equal(samples["split"], split)).sort_by("key")


def _figures(variants: dict[str, Any]) -> dict[str, bytes]:
    """PNG files by name."""
    labels = {variant: named(variant)[0] for variant in variants}
    return {
        "per_rank": plots.per_rank(variants, labels),
        "accuracy_by_size": plots.accuracy_by_size(variants, labels),
        "accuracy_by_time": plots.accuracy_by_time(variants, labels),
        "back_off": plots.back_off(variants[SHIPPED]["back_off"]["levels"]),
        "risk_coverage": plots.risk_coverage(variants, labels),
    }


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as scratch:
        scratch.write_bytes(content)


def _summarize(variants: dict[str, Any]) -> None:
    """Print the species accuracy of every variant."""
    for variant, row in variants.items():
        top1 = row["top1"]
        accuracy = "no photograph identified to species"
        if top1["value"] is not None:
            accuracy = f"species accuracy {100 * top1['value']:.1f} %"
        print(f"evaluate: {variant}: {accuracy} (n = {top1['n_images']})")
