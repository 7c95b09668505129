"""Sections of the report on the teacher's space: other words for the taxa, the tree, texts that find photographs."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bioclip_lite.report.text import (
    DASH,
    LABELS,
    SHIPPED,
    bracket,
    cell,
    count_of,
    interval,
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
_COMPARED = ("teacher", "student", SHIPPED)  # the steps between them answer as they do
_WAYS = {"image_to_text": "Photograph finds text", "text_to_image": "Text finds photograph"}


def section(metrics: Mapping[str, Any]) -> str:
    """HTML; empty if nothing was asked."""
    retrieval = metrics.get("retrieval") or {}
    return "".join(
        (
            _prompts(metrics.get("prompts") or {}),
            _taxonomy(metrics.get("taxonomy") or {}),
            "".join(_retrieval(name, found) for name, found in retrieval.items()),
        )
    )


def _prompts(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    variants, own = found["variants"], (found["own"]["type"], found["own"]["templates"])
    asked = {(kind, how) for kind, row in variants["teacher"].items() for how in row}
    columns = [(v, how) for v in _COMPARED if v in variants for how in TEMPLATES if how in {h for _, h in asked}]
    rows = []
    for kind, name in TYPES.items():
        if kind not in {k for k, _ in asked}:
            continue
        cells = [_accuracy(variants[v][kind].get(how), (kind, how) == own) for v, how in columns]
        rows.append(_row(cell(name), cells))
    nameless = found["n_without_common_name"]
    unnamed = f" {count_of(nameless, 'taxon has', 'taxa have')} no common name and go by another." if nameless else ""
    return (
        "<section><h2>Other words for the same species</h2>"
        + _table(("Text", *(cell(LABELS[v], TEMPLATES[how]) for v, how in columns)), rows)
        + f'<p class="caption">Species right, %, if photographs are compared with these texts: '
        f"{count_of(found['n_images'], 'photograph')} of "
        f"{count_of(found['n_classes'], 'species', 'species')}, among {count_of(found['label_space'], 'taxon', 'taxa')}"
        f"{bracket('', _left_out(found['n_left_out']))}.{unnamed} 80 templates: the mean over OpenAI's sentences "
        "around the same words. Small print: 95 % intervals, and the paired difference to the words that the pipeline "
        "uses, in points; students learned from the teacher's answers to these alone.</p></section>"
    )


def _left_out(count: int) -> str:
    return f"{count_of(count, 'photograph')} of other species, or not known to species, left out" if count else ""


def _accuracy(row: Mapping[str, Any] | None, own: bool) -> str:
    if row is None:
        return DASH
    top1, difference = row["top1"], row["difference_to_own"]
    if own:
        return cell(percent(top1["value"]), interval(top1), "the pipeline's")
    return cell(
        percent(top1["value"]), interval(top1), f"{points(difference['value'])} points", points_interval(difference)
    )


def _taxonomy(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    variants, texts = found["variants"], found["texts"]
    heights = list(variants["teacher"]["by_height"])
    n = {at: variants["teacher"]["by_height"][at]["n_pairs"] for at in heights}
    head = [cell(_relation(int(at)), f"{n[at]:,} of {found['n_pairs_there_are'][at]:,} pairs") for at in heights]
    rows = [
        _row(cell(LABELS[variant], "photographs"), _distances(variants[variant], heights), variant == SHIPPED)
        for variant in _COMPARED
        if variant in variants
    ]
    for kind in (kind for kind in TYPES if kind in texts):
        how = next(how for how in TEMPLATES if how in texts[kind])
        rows.append(_row(cell(TYPES[kind], f"texts, {TEMPLATES[how]}"), _distances(texts[kind][how], heights)))
    correlation = variants[SHIPPED if SHIPPED in variants else "teacher"]["spearman"]
    return (
        "<section><h2>Is what is near in the tree near as an embedding?</h2>"
        + _table(("", "Rank correlation", *head), rows)
        + f'<p class="caption">{count_of(found["n_classes"], "species", "species")}, '
        f"{count_of(found['n_images'], 'photograph')}, {count_of(correlation['n_pairs'], 'pair')}. A species is the "
        "mean of the embeddings of its photographs, or its text. Correlation: Spearman's, of cosine distance and "
        "height of the lowest common ancestor; 1 if species are the farther apart, the farther their relation. "
        "Columns: mean cosine distance of species of one genus, of one family but not genus, and so on. Small "
        "print: 95 % intervals, resampling species.</p></section>"
    )


def _relation(height: int) -> str:
    return "nothing in common" if height > 6 else f"same {RANKS[len(RANKS) - 1 - height]}"


def _distances(row: Mapping[str, Any], heights: Sequence[str]) -> list[str]:
    correlation = row["spearman"]
    value = DASH if correlation["value"] is None else f"{correlation['value']:.2f}"
    bounds = DASH.join(f"{bound:.2f}" for bound in correlation["ci95"] or ())
    return [cell(value, bounds), *(cell(f"{row['by_height'][at]['cosine_distance']:.2f}") for at in heights)]


def _retrieval(name: str, found: Mapping[str, Any]) -> str:
    columns = [(way, k) for way in _WAYS for k in found["chance"][way]]
    head = [cell(_WAYS[way], f"among the first {k.removeprefix('recall_at_')}") for way, k in columns]
    rows = [
        _row(cell(LABELS[variant]), _recalls(found["variants"][variant], columns), variant == SHIPPED)
        for variant in _COMPARED
        if variant in found["variants"]
    ]
    rows.append(_row(cell("By lot"), [cell(percent(found["chance"][way][k])) for way, k in columns]))
    silent = found["n_without_text"]
    without = f" {count_of(silent, 'photograph')} of which nothing is said left out." if silent else ""
    return (
        f"<section><h2>Photographs found by text: {escape(TYPES.get(name, name).lower())}</h2>"
        + _table(("Model", *head), rows)
        + f'<p class="caption">Recall, %: of {count_of(found["n_images"], "photograph")} and '
        f"{count_of(found['n_texts'], 'different text')}, the share that has one of its own among the first. A text "
        f"belongs to every photograph of which it is said, on average {found['images_per_text']:.3g}; how often one is "
        f"found depends on how many there are, see the last line."
        f"{without} Small print: 95 % intervals.</p></section>"
    )


def _recalls(row: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> list[str]:
    return [cell(percent(row[way][k]["value"]), interval(row[way][k])) for way, k in columns]


def _row(name: str, cells: Sequence[str], shipped: bool = False) -> str:
    tds = "".join(f"<td>{content}</td>" for content in cells)
    return f'<tr{" class=shipped" if shipped else ""}><th scope="row">{name}</th>{tds}</tr>'


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    titles = "".join(f"<th scope=col>{title}</th>" for title in head)
    return (
        f'<div class="scroll"><table class="ranks doubt"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody>'
        '</table></div><p class="caption phone">Scroll sideways for more.</p>'
    )
