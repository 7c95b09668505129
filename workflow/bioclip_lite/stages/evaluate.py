"""Stage evaluate: compare every variant on the same test photographs, with the same metrics.

Jobs: one per variant fits its temperature and its thresholds on split calibration and measures its costs; one per
variant and shard of split test reduces its answers, at that temperature, to what the report needs. Where split test is
one shard, the variant's job writes its answers too, since the model is loaded. All write to data/evaluate/predictions/;
"report" reads only those and writes metrics.json, headline.json, report.html, MODEL_CARD.md and plots/. Predictions are
joined by sample key, never by row number.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioclip_lite.evaluation import fitting, predictions, references, variant_names
from bioclip_lite.evaluation.predictions import SPEED_FILE, SPLIT
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.taxa.label_space import Labels, read_labels
from bioclip_lite.utils import job_names
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, require, write_json

if TYPE_CHECKING:
    from bioclip_lite.params import jobs

JOBS = ("report", "speed", "suites/{suite}", "{variant}", "{variant}/{shard}")  # job_names


def run(params: "jobs.Evaluate", data: Path, job: str | None = None) -> None:
    """Run one job, or all of them (None).

    Jobs: the name of a variant, "<variant>/<shard>", "suites/<suite>", "speed" (time other sizes of the image), and
    "report".

    Args:
        params: the whole section for None, else what ``params.jobs`` lists for the job.
    """
    for name in _jobs(params, data) if job is None else [job]:
        form, fields = job_names.parse("evaluate", name, JOBS)
        if form == "report":
            _publish(params, data)
        elif form == "speed":
            _time(params, data)
        elif form == "suites/{suite}":
            _ask_suite(params, data, fields["suite"])
        elif form == "{variant}/{shard}":
            _predict(fields["variant"], fields["shard"], params, data)
        else:
            _calibrate(name, params, data)


def _jobs(params: "jobs.Evaluate", data: Path) -> list[str]:
    variants, shards = variant_names.variants(params), shard_names(data, SPLIT)
    predictions = [f"{variant}/{shard}" for variant in variants for shard in shards] if len(shards) > 1 else []
    timing = ["speed"] if params["speed"]["sizes"] else []
    suites = [f"suites/{entry['name']}" for entry in params["suites"]]
    return [*variants, *predictions, *timing, *suites, "report"]


def _calibrate(variant: str, params: Any, data: Path) -> None:
    """Write costs and calibration of one variant; its answers too, where split test is one shard.

    ``params`` are those of ``jobs.of_job`` for it.
    """
    _check(variant)
    labels, shards = read_labels(data), fitting.calibration_shards(data)
    photographs = fitting.photographs_of(data, shards, labels)
    costs, columns = fitting.calibrate(lambda: _answers(variant, params, data, shards, labels), photographs, labels)
    extras = {}
    if variant == "teacher":
        from bioclip_lite.evaluation.prompts import texts_of  # PyTorch

        extras = texts_of(params, data, SPLIT, labels)
    folder = data / "evaluate" / "predictions"
    predictions.write(
        folder / f"{variant}.safetensors", photographs.keys, predictions.identity_of(labels), columns, extras
    )
    write_json(folder / f"{variant}.json", costs)
    print(f"evaluate: {variant} is calibrated on {len(photographs.keys)} photographs among {len(labels.ids)} taxa")
    tested = shard_names(data, SPLIT)
    if len(tested) == 1:
        _predict(variant, tested[0], params, data)


def _predict(variant: str, shard: str, params: Any, data: Path) -> None:
    """Write what is kept of the answers of one variant to one shard of split test."""
    _check(variant)
    folder, labels = data / "evaluate" / "predictions", read_labels(data)
    fitted = read_json(require(folder / f"{variant}.json"))["calibration"]
    photographs = fitting.photographs_of(data, [shard], labels)
    answers = _answers(variant, params, data, [shard], labels)
    columns = fitting.reduce_answers(answers, photographs, labels, fitted)
    predictions.write(
        folder / variant / f"{shard}.safetensors", photographs.keys, predictions.identity_of(labels), columns
    )
    print(f"evaluate: {variant} answered {len(photographs.keys)} photographs of {shard} among {len(labels.ids)} taxa")


def _answers(variant: str, params: Any, data: Path, shards: list[str], labels: Labels) -> predictions.Answers:
    if variant in references.ANSWERS:
        return references.ANSWERS[variant](params, data, shards, labels)
    from bioclip_lite.evaluation import variants  # PyTorch: the references and the report do without

    return variants.answers(variant, params, data, shards, labels)


def _check(variant: str) -> None:
    if variant not in variant_names.KNOWN and not variant_names.further_teacher(variant):
        jobs = ", ".join((*variant_names.KNOWN, "teacher-<name>", *(form for form in JOBS if "{" not in form)))
        raise UserError(f"evaluate has no job {variant!r}; its jobs are {jobs}, suites/<suite>, <variant>/<shard>")


def _ask_suite(params: "jobs.OneSuite", data: Path, suite: str) -> None:
    # Loaded by name, so that a change of the suites' code does not run other jobs again (code_fingerprint.closure).
    answering = importlib.import_module("bioclip_lite.suites.answering")
    answering.run(params, data, suite)


def _time(params: "jobs.Timing", data: Path) -> None:
    from bioclip_lite.evaluation import speed  # PyTorch

    measured = speed.measure(params, data)
    write_json(data / "evaluate" / "predictions" / SPEED_FILE, measured)
    for row in measured["rows"]:
        latency = row["latency_ms"]
        print(f"evaluate: {row['size']} px, {latency['runtime']}: {latency['median']:.1f} ms")


def _publish(params: "jobs.Report", data: Path) -> None:
    # Loaded by name, so that a change of the report does not run the predictions again (code_fingerprint.closure).
    importlib.import_module("bioclip_lite.report.publish").publish(params, data)
