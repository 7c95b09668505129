"""MODEL_CARD.md: what the web model is, laid out as Hugging Face's model cards, from the numbers of metrics.json."""

from collections.abc import Mapping
from typing import Any

import yaml

from bioclip_lite.report.content import Sample
from bioclip_lite.report.suites import TITLES
from bioclip_lite.report.text import LABELS, SHIPPED, interval, percent, quantity, size
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.pages import count_of

_ROWS = ("teacher", "student", SHIPPED, "control", "majority", "random")


def card(metrics: Mapping[str, Any], sample: Sample) -> str:
    """The whole file: YAML front matter with the results, then text.

    Args:
        metrics: the content of metrics.json.
        sample: where the photographs and the teacher come from.
    """
    shipped, protocol = metrics["variants"][SHIPPED], metrics["protocol"]
    front = yaml.safe_dump(_front(shipped, protocol), sort_keys=False, allow_unicode=True)
    sections = (
        f"# A species classifier for the browser, {count_of(protocol['label_space'], 'taxon', 'taxa')}",
        _details(shipped, sample),
        _uses(shipped),
        _limits(shipped),
        _start(),
        _training(sample),
        _evaluation(metrics["variants"], protocol),
        *([_suites(metrics["suites"])] if metrics.get("suites") else []),
    )
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _front(shipped: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    found = shipped["back_off"]
    numbers = {
        ("accuracy", "Species right"): shipped["top1"],
        ("accuracy", "Species among the first five"): shipped["top5"],
        ("accuracy", "Family right"): shipped["per_rank"]["family"],
        ("precision", f"Right answers with back-off at {100 * found['level']:.0f} %"): found["right"],
        ("coverage", "Species answered with back-off"): found["answered_at"]["species"],
    }
    return {
        "license": "other",
        "license_name": "see-licences-below",
        "library_name": "tfjs",
        "pipeline_tag": "image-classification",
        "tags": ["biology", "species", "taxonomy", "clip", "distillation"],
        "model-index": [
            {
                "name": "bioclip-lite",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": protocol["id"], "type": "image-folder", "split": protocol["split"]},
                        "metrics": [
                            {"type": kind, "name": name, "value": row["value"]}
                            for (kind, name), row in numbers.items()
                            if row["value"] is not None
                        ],
                    }
                ],
            }
        ],
    }


def _details(shipped: Mapping[str, Any], sample: Sample) -> str:
    table = f" and {size(shipped['table_bytes'])} of taxa" if shipped.get("table_bytes") else ""
    lines = [
        f"- **Files:** {size(shipped.get('bytes'))} of weights and graph{table}",
        f"- **Network:** {quantity(shipped.get('params'))} parameters, {quantity(shipped.get('macs'))} "
        "multiply-accumulates for one photograph, 8-bit weights",
        f"- **Teacher:** {sample.teacher or 'not stated'}",
        "- **Licences of the test photographs:** "
        + ", ".join(f"{name} ({n:,})" for name, n in sorted(sample.licences.items())),
        "- **Attribution:** in `bundle.json`, with the licences of teacher and training photographs",
    ]
    return "## Model details\n\n" + "\n".join(lines)


def _uses(shipped: Mapping[str, Any]) -> str:
    found = shipped["back_off"]
    level = f"{100 * found['level']:.0f} %"
    if found["right"]["value"] is None:
        promise = f"It makes no promise about how often it is right: no thresholds reach {level} on split calibration."
    else:
        at = found["answered_at"]
        promise = (
            f"It answers with the lowest rank of which it is sure enough, so that at least {level} of its answers are "
            f"right. It names the species in {percent(at['species']['value'])} % of the test photographs, the genus in "
            f"{percent(at['genus']['value'])} %, the family in {percent(at['family']['value'])} %; of all its answers "
            f"{percent(found['right']['value'])} % are right{_bounds(found['right'])}."
        )
    return (
        "## Uses\n\nTo name what is on a photograph, offline, in a browser or on a phone, among the taxa of its list. "
        f"{promise}"
    )


def _limits(shipped: Mapping[str, Any]) -> str:
    lines = ["- Whatever is not in its list is named as something that is."]
    new = shipped["back_off"]["strata"]["not_in_calibration"]["right"]
    if new["value"] is not None:
        lines.append(
            f"- The promise is about species like those that it was calibrated on. For other species of the list "
            f"{percent(new['value'])} % of the answers are right{_bounds(new)}."
        )
    kingdoms = {
        name: row["species"]
        for name, row in shipped["strata"].get("kingdom", {}).items()
        if row["species"]["value"] is not None
    }
    if len(kingdoms) > 1:
        lines.append(
            "- Species right by kingdom: "
            + ", ".join(
                f"{name} {percent(row['value'])} % ({count_of(row['n_images'], 'photograph')})"
                for name, row in kingdoms.items()
            )
            + "."
        )
    lines.append("- It is no tool to decide whether a mushroom or a plant may be eaten, or a bite is harmless.")
    return "## Bias, risks and limitations\n\n" + "\n".join(lines)


def _start() -> str:
    return (
        "## How to get started\n\n"
        "```js\nimport { loadBioClip } from 'react-bio-clip';\n\n"
        "const clip = await loadBioClip('path/to/the/bundle');\n"
        "const { answer } = await clip.classify(image);\n```"
    )


def _training(sample: Sample) -> str:
    splits = ", ".join(f"{name} {n:,}" for name, n in sample.images.items())
    return f"## Training details\n\nPhotographs per split, divided by observation: {splits}."


def _evaluation(variants: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    ranks = ("species", "genus", "family")
    rows = [
        f"| | {' | '.join(f'{rank} right, %' for rank in ranks)} | size |",
        f"|---|{'---|' * (len(ranks) + 1)}",
    ]
    for variant in _ROWS:
        row = variants[variant]
        # of species as everywhere else in the card: all taxa of the list compete
        found = [row["top1"], *(row["per_rank"][rank] for rank in ranks[1:])]
        numbers = [f"{percent(number['value'])}{_bounds(number)}" for number in found]
        rows.append(f"| {LABELS[variant]} | {' | '.join(numbers)} | {size(row.get('bytes'))} |")
    shown = [rank for rank in RANKS if variants[SHIPPED]["per_rank"][rank]["value"] is not None]
    return (
        f"## Evaluation\n\n{count_of(protocol['n_images'], 'test photograph')} of "
        f"{count_of(protocol['n_groups'], 'observation')} and {count_of(protocol['n_classes'], 'species', 'species')}; "
        f"every model chooses among {count_of(protocol['label_space'], 'taxon', 'taxa')}. Protocol `{protocol['id']}`: "
        "figures with another protocol must not be compared with these. In brackets: 95 % intervals.\n\n"
        + "\n".join(rows)
        + f"\n\nAll ranks ({', '.join(shown)}), intervals and further measures are in `report.html` and `metrics.json`."
    )


def _suites(suites: Mapping[str, Any]) -> str:
    rows = ["| | photographs | measure | teacher | web model | guessing |", "|---|---|---|---|---|---|"]
    for name, suite in suites.items():
        teacher, shipped = (suite["variants"][variant][suite["headline"]] for variant in ("teacher", SHIPPED))
        cells = (
            f"{name} (`{suite['protocol']}`)",
            f"{shipped['n_images']:,}",
            TITLES[suite["headline"]],
            *(f"{percent(row['value'])}{_bounds(row)}" for row in (teacher, shipped)),
            percent(shipped["chance"]),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "## Other test sets\n\nNames are read by the teacher's text tower.\n\n" + "\n".join(rows)


def _bounds(row: Mapping[str, Any]) -> str:
    return f" ({interval(row)})" if row["ci95"] is not None else ""
