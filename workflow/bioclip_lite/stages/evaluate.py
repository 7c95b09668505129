"""Stage evaluate: compare every variant on the same test photographs, with the same metrics.

Jobs: one per variant writes its answers to data/evaluate/predictions/; "report" reads only those and writes
metrics.json, headline.json, report.html, MODEL_CARD.md and plots/. Predictions are joined by sample key, never by row
number.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioclip_lite.evaluation import predictions, references, variant_names
from bioclip_lite.evaluation.predictions import FITTED_ON, SPEED_FILE, SPLIT
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.utils import job_names
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_json

if TYPE_CHECKING:
    from bioclip_lite.params import jobs
    from bioclip_lite.utils import sections

JOBS = ("report", "speed", "suites/{suite}", "{variant}")  # job_names


def run(params: "sections.Evaluate", data: Path, job: str | None = None) -> None:
    """Run one job, or all of them (None).

    Jobs: the name of a variant, "suites/<suite>", "speed" (time other sizes of the image), and "report".

    Args:
        params: the whole section for None, else what ``params.jobs`` lists for the job.
    """
    for name in _jobs(params) if job is None else [job]:
        form, fields = job_names.parse("evaluate", name, JOBS)
        if form == "report":
            _publish(params, data)
        elif form == "speed":
            _time(params, data)
        elif form == "suites/{suite}":
            _ask_suite(params, data, fields["suite"])
        else:
            _predict(name, params, data)


def _jobs(params: "sections.Evaluate") -> list[str]:
    timing = ["speed"] if params["speed"]["sizes"] else []
    suites = [f"suites/{entry['name']}" for entry in params["suites"]]
    return [*variant_names.variants(params), *timing, *suites, "report"]


def _predict(variant: str, params: Any, data: Path) -> None:
    """Write the answers of one variant to the photographs of the test and calibration splits.

    ``params`` are those of ``jobs.of_job`` for it.
    """
    if variant not in variant_names.KNOWN and not variant_names.further_teacher(variant):
        jobs = ", ".join((*variant_names.KNOWN, "teacher-<name>", *(form for form in JOBS if "{" not in form)))
        raise UserError(f"evaluate has no job {variant!r}; its jobs are {jobs}, suites/<suite>")
    labels, splits, extras = read_labels(data), (FITTED_ON, SPLIT), {}
    if variant in references.ANSWERS:
        answers = references.ANSWERS[variant](params, data, splits, labels)
    else:
        from bioclip_lite.evaluation import variants as models
        from bioclip_lite.evaluation.prompts import texts_of  # PyTorch: the references and the report do without

        answers = models.answers(variant, params, data, splits, labels)
        extras = texts_of(params, data, SPLIT, labels) if variant == "teacher" else {}
    folder = data / "evaluate" / "predictions"
    predictions.write(folder, variant, answers.keys, labels.ids, answers.blocks, answers.costs, extras)
    print(f"evaluate: {variant} answered {len(answers.keys)} photographs among {len(labels.ids)} taxa")


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
