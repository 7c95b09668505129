"""The head of the report: the findings in a few sentences."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from bioclip_lite.evaluation.variant_names import ENSEMBLE
from bioclip_lite.metrics.backoff import LEAST_ANSWERS, MOSTLY
from bioclip_lite.report import doubt
from bioclip_lite.report.elements import render
from bioclip_lite.report.text import SHIPPED, stored


def findings(variants: Mapping[str, Any], protocol: Mapping[str, Any]) -> Markup:
    """A list of sentences as HTML. A finding that rests on no photograph is left out."""
    shipped = variants[SHIPPED]
    return render(
        "report/findings.html.j2",
        shipped=shipped,
        protocol=protocol,
        macro=shipped["back_off"]["macro"]["species"],
        mostly=MOSTLY,
        least=LEAST_ANSWERS,
        teacher=variants["teacher"],
        ensemble=variants.get(ENSEMBLE),
        back_off=shipped["back_off"],
        answered=doubt.answered(shipped["back_off"]),
        distillation=variants["student"]["difference_to"].get("control", {}).get("top1"),
        fixed=variants.get("control", {}).get("fixed_classifier"),
        compression=shipped["difference_to"]["student"]["top1"],
        bytes=stored(shipped),
        teacher_bytes=stored(variants["teacher"]),
    )
