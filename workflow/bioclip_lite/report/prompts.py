"""Sections on the teacher's embedding space: other prompts, the taxonomy, and retrieval by text."""

from collections.abc import Iterable, Mapping
from typing import Any

from bioclip_lite.report.elements import Cell, Row, Section, cell, render, share, shipped_style
from bioclip_lite.report.text import (
    LABELS,
    SHIPPED,
    decimal,
    decimal_interval,
    percent,
    points,
    points_interval,
)
from bioclip_lite.taxa.taxonomy import RANKS

TYPES = {
    "com": "Common name",
    "sci": "Scientific name",
    "taxon": "Taxonomy",
    "taxonTag": "Taxonomy with ranks",
    "sci_com": "Scientific and common name",
    "taxon_com": "Taxonomy and common name",
    "taxonTag_com": "Taxonomy with ranks and common name",
    "lit": "LiT sentence",
}
TEMPLATES = {"plain": "plain", "openai": "80 templates"}
_COMPARED = ("teacher", "student", SHIPPED)  # the steps between student and web model answer as these do
_WAYS = {"image_to_text": "Photograph to text", "text_to_image": "Text to photograph"}


def sections(metrics: Mapping[str, Any]) -> list[Section]:
    """One section each for prompts, the taxonomy, and every text type of retrieval, as far as they were measured."""
    found = []
    if metrics.get("prompts"):
        found.append(_prompts(metrics["prompts"]))
    if metrics.get("taxonomy"):
        found.append(_taxonomy(metrics["taxonomy"]))
    return found + [_retrieval(name, measured) for name, measured in (metrics.get("retrieval") or {}).items()]


def _prompts(measured: Mapping[str, Any]) -> Section:
    variants = {variant: measured["variants"][variant] for variant in _COMPARED if variant in measured["variants"]}
    used = {templates for row in variants["teacher"].values() for templates in row}
    columns = [(variant, templates) for variant in variants for templates in TEMPLATES if templates in used]
    own = measured["own"]["type"], measured["own"]["templates"]
    rows = [
        Row(cell(name), [_accuracy(variants[v][kind].get(how), (kind, how) == own) for v, how in columns])
        for kind, name in TYPES.items()
        if kind in variants["teacher"]
    ]
    head = ["Prompt", *(cell(LABELS[variant], TEMPLATES[templates]) for variant, templates in columns)]
    body = render("report/prompts.words.html.j2", head=head, rows=rows, measured=measured)
    return Section("Accuracy with other prompts, %", body)


def _accuracy(row: Mapping[str, Any] | None, own: bool) -> Cell:
    """Species accuracy, and its difference to that with the prompt of the pipeline."""
    if row is None:
        return cell(percent(None))
    if own:
        return share(row["top1"], "the pipeline's")
    difference = row["difference_to_own"]
    return share(row["top1"], f"{points(difference['value'])} points", points_interval(difference))


def _taxonomy(measured: Mapping[str, Any]) -> Section:
    variants, texts = measured["variants"], measured["texts"]
    by_height = variants["teacher"]["by_height"]
    rows = [
        Row(cell(LABELS[v], "photographs"), _distances(variants[v], by_height), shipped_style(v))
        for v in _COMPARED
        if v in variants
    ]
    for kind in (kind for kind in TYPES if kind in texts):
        how = next(how for how in TEMPLATES if how in texts[kind])
        rows.append(Row(cell(TYPES[kind], f"texts, {TEMPLATES[how]}"), _distances(texts[kind][how], by_height)))
    head = [
        cell(_relation(int(height)), f"{row['n_pairs']:,} of {measured['n_pairs_there_are'][height]:,} pairs")
        for height, row in by_height.items()
    ]
    body = render(
        "report/prompts.taxonomy.html.j2",
        head=["Embedding", "Rank correlation", *head],
        rows=rows,
        measured=measured,
        n_pairs=variants[SHIPPED if SHIPPED in variants else "teacher"]["spearman"]["n_pairs"],
    )
    return Section("Do embeddings follow the taxonomy?", body)


def _relation(height: int) -> str:
    return "nothing in common" if height > 6 else f"same {RANKS[len(RANKS) - 1 - height]}"


def _distances(row: Mapping[str, Any], heights: Iterable[str]) -> list[Cell]:
    correlation = cell(decimal(row["spearman"]["value"]), decimal_interval(row["spearman"]))
    return [correlation, *(cell(decimal(row["by_height"][height]["cosine_distance"])) for height in heights)]


def _retrieval(name: str, measured: Mapping[str, Any]) -> Section:
    variants, chance = measured["variants"], measured["chance"]
    columns = [(way, recall) for way in _WAYS for recall in sorted(chance[way], key=_first)]
    rows = [
        Row(cell(LABELS[v]), [share(variants[v][way][recall]) for way, recall in columns], shipped_style(v))
        for v in _COMPARED
        if v in variants
    ]
    rows.append(Row(cell("Chance"), [cell(percent(chance[way][recall])) for way, recall in columns], "rule"))
    head = ["Model", *(cell(_WAYS[way], f"among first {_first(recall)}") for way, recall in columns)]
    body = render("report/prompts.retrieval.html.j2", head=head, rows=rows, measured=measured)
    return Section(f"Retrieval by text: {TYPES.get(name, name).lower()}", body)


def _first(recall: str) -> int:
    """The k of "recall_at_k"."""
    return int(recall.removeprefix("recall_at_"))
