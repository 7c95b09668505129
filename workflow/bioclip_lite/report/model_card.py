"""MODEL_CARD.md: a Hugging Face model card of the web model, with the numbers of metrics.json."""

from collections.abc import Mapping
from typing import Any

import yaml
from markupsafe import Markup

from bioclip_lite.evaluation.comparison import NOT_SEEN
from bioclip_lite.evaluation.variant_names import ON_PHONES
from bioclip_lite.metrics.backoff import LEAST_ANSWERS, MOSTLY
from bioclip_lite.report.content import Sample
from bioclip_lite.report.elements import render
from bioclip_lite.report.suites import TITLES
from bioclip_lite.report.text import LABELS, SHIPPED
from bioclip_lite.taxa.taxonomy import RANKS

_ROWS = ("teacher", "student", SHIPPED, ON_PHONES, "control", "majority", "random")


def card(metrics: Mapping[str, Any], sample: Sample) -> str:
    """The whole file: YAML front matter with the results, then text.

    Args:
        metrics: the content of metrics.json.
        sample: where the photographs and the teacher come from.
    """
    variants, protocol = metrics["variants"], metrics["protocol"]
    shipped = variants[SHIPPED]
    front = yaml.safe_dump(_front(shipped, protocol, sample), sort_keys=False, allow_unicode=True)
    return render(
        "report/model_card.md.j2",
        front=Markup(front),  # YAML, which HTML escapes would change
        shipped=shipped,
        back_off=shipped["back_off"],
        mostly=MOSTLY,
        least=LEAST_ANSWERS,
        kingdoms=_kingdoms(shipped),
        unseen=shipped["strata"].get(NOT_SEEN, {}).get("species"),
        teacher_unseen=variants["teacher"]["strata"].get(NOT_SEEN, {}).get("species"),
        sample=sample,
        protocol=protocol,
        rows=[(LABELS[variant], variants[variant]) for variant in _ROWS if variant in variants],
        ranks=[rank for rank in RANKS if shipped["per_rank"][rank]["value"] is not None],
        suites=[(name, suite, TITLES[suite["headline"]]) for name, suite in (metrics.get("suites") or {}).items()],
    )


def _front(shipped: Mapping[str, Any], protocol: Mapping[str, Any], sample: Sample) -> dict[str, Any]:
    """The front matter, whose ``model-index`` Hugging Face shows beside the card."""
    back_off = shipped["back_off"]
    numbers = {
        ("accuracy", "Species accuracy"): shipped["top1"],
        ("accuracy", "Species top-5 accuracy"): shipped["top5"],
        ("accuracy", "Family accuracy"): shipped["per_rank"]["family"],
        ("precision", f"Correct answers with back-off at {100 * back_off['level']:.0f} %"): back_off["right"],
        ("coverage", "Species answered with back-off"): back_off["answered_at"]["species"],
        ("precision", f"Species with {100 * MOSTLY:.0f} % correct answers"): back_off["macro"]["species"][
            "mostly_right"
        ],
    }
    results = {
        "task": {"type": "image-classification"},
        "dataset": {"name": protocol["id"], "type": "image-folder", "split": protocol["split"]},
        "metrics": [
            {"type": kind, "name": name, "value": row["value"]}
            for (kind, name), row in numbers.items()
            if row["value"] is not None
        ],
    }
    return {
        "license": "other",
        "license_name": "see-licences-below",
        **({"base_model": sample.base_model} if sample.base_model else {}),
        "library_name": "tfjs",
        "pipeline_tag": "image-classification",
        "tags": ["biology", "species", "taxonomy", "clip", "distillation"],
        "model-index": [{"name": "bioclip-lite", "results": [results]}],
    }


def _kingdoms(shipped: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Species accuracy by kingdom; empty if the test photographs show only one."""
    kingdoms = {name: row["species"] for name, row in shipped["strata"].get("kingdom", {}).items()}
    measured = {name: row for name, row in kingdoms.items() if row["value"] is not None}
    return measured if len(measured) > 1 else {}
