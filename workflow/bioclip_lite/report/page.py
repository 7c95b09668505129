"""report.html: one page that explains metrics.json and requests no other file."""

from collections.abc import Mapping, Sequence
from typing import Any

from bioclip_lite.report import accuracy, doubt, photographs, prompts, speed, suites
from bioclip_lite.report.content import Confusion, Example, Sample, Weak
from bioclip_lite.report.elements import Section, render
from bioclip_lite.report.figures import figures
from bioclip_lite.report.findings import findings
from bioclip_lite.report.text import SHIPPED, stored


def page(
    metrics: Mapping[str, Any],
    plots: Mapping[str, bytes],
    sample: Sample,
    examples: Sequence[Example],
    weakest: Sequence[Weak],
    confusion: Confusion | None,
) -> str:
    """The whole page as HTML.

    Args:
        metrics: the content of metrics.json.
        plots: PNG files "accuracy_by_size", "accuracy_by_time", "per_rank", "back_off" and "risk_coverage".
        sample, examples, weakest, confusion: what metrics.json does not hold; all but the first may be empty.
    """
    variants, protocol = metrics["variants"], metrics["protocol"]
    sections = [
        accuracy.by_rank(variants, protocol, figures(variants, plots, ["per_rank"])),
        doubt.back_off(variants, figures(variants, plots, ["back_off", "risk_coverage"])),
        doubt.off_list(variants),
        doubt.by_taxon(variants),
        doubt.errors(variants),
        accuracy.by_training(variants, protocol),
        accuracy.not_seen_by_teacher(variants, protocol),
        *prompts.sections(metrics),
        suites.section(metrics),
        photographs.confusion_matrix(confusion) if confusion else None,
        photographs.weakest_species(weakest) if weakest else None,
        photographs.examples_drawn(examples) if examples else None,
        accuracy.by_cost(variants),
        speed.section(metrics),
        _sources(sample),
        Section("Methods", render("report/page.methods.html.j2", protocol=protocol)),
    ]
    return render(
        "report/page.html.j2",
        shipped=variants[SHIPPED],
        bytes=stored(variants[SHIPPED]),
        teacher_bytes=stored(variants["teacher"]),
        protocol=protocol,
        findings=findings(variants, protocol),
        figures=figures(variants, plots, ["accuracy_by_size", "accuracy_by_time"]),
        sections=[section for section in sections if section],
    )


def _sources(sample: Sample) -> Section:
    listed = {"sources": _listed(sample.sources), "licences": _listed(sample.licences)}
    body = render("report/page.sources.html.j2", images=sample.images, teacher=sample.teacher, **listed)
    return Section("Photographs, teacher and licences", body)


def _listed(counts: Mapping[str, int], most: int = 8) -> str:
    """The most frequent names with their counts: "CC0 (30), CC-BY (12) and 3 more"."""
    first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{name} ({n:,})" for name, n in first[:most])
    return text + (f" and {len(first) - most} more" if len(first) > most else "")
