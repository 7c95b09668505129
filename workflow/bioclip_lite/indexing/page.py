"""data/index/report.html: what the index holds and what it left out, on one page that asks for no other file."""

import base64
import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageFile

from bioclip_lite.photographs import licences
from bioclip_lite.photographs.images import BadImage, decode
from bioclip_lite.sources.sample import SPLITS
from bioclip_lite.taxa import taxonomy

EXAMPLES, PAIRS = 6, 12  # thumbnails per reason, and pairs of near duplicates
_THUMBNAILS = 36  # of rejects, over all reasons
_TAXA, _NAMES = 2000, 300  # rows shown of long tables; the tables themselves have all
_SIDE = 120  # pixels of a thumbnail


@dataclass(frozen=True)
class Facts:
    """What the page is made of."""

    splits: Mapping[str, int]  # photographs
    observations: int
    taxa: pa.Table  # as taxa.parquet
    rejects: Mapping[str, int]  # by reason, the most frequent first
    examples: Mapping[str, Sequence[tuple[str, str]]]  # by reason: locator, detail
    look_alikes: tuple[int, int, int]  # photographs with near duplicates, sets of them, photographs labelled otherwise
    pairs: Sequence[tuple[str, str, str, str]]  # locator and taxon of one, locator and taxon of the other
    licences: Mapping[str, int]  # as written; "" where there is none
    names: Sequence[tuple[Any, ...]]  # the rows of names.parquet


def render(facts: Facts, read: Callable[[str], bytes]) -> str:
    """The whole page; ``read`` gets the file of a photograph."""
    script = hashlib.sha256(_SCRIPT.encode()).digest()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{_source(script)}'"
    sections = (
        _head(facts),
        _splits(facts),
        _tail(facts.taxa),
        _taxa(facts.taxa),
        _rejects(facts, read),
        _look_alikes(facts, read),
        _licences(facts.licences),
        _names(facts.names),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>What the index holds</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f"{chr(10).join(filter(None, sections))}\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _source(digest: bytes) -> str:
    return f"sha256-{base64.b64encode(digest).decode()}"


def _text(text: object) -> str:
    """Any text as HTML; what no page can show is replaced."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))
    return escape(shown)


def _short(text: object, most: int = 90) -> str:
    shown = str(text)
    return _text(shown if len(shown) <= most else f"{shown[: most - 1]}\N{HORIZONTAL ELLIPSIS}")


def _number(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]], sortable: bool = False, kind: str = "") -> str:
    head = "".join(f"<th scope=col>{f'<button>{name}</button>' if sortable else name}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _card(title: str, value: str, note: str) -> str:
    return f'<div class="card"><h2>{title}</h2><p class="big">{value}</p><p class="note">{note}</p></div>'


# ---- sections


def _head(facts: Facts) -> str:
    leaves = facts.taxa.filter(facts.taxa["leaf"])
    ranks = Counter(leaves["rank"].to_pylist())
    species = _number(ranks["species"], "species", "species")
    photographs, left_out = sum(facts.splits.values()), sum(facts.rejects.values())
    untrained = leaves.num_rows - int(np.count_nonzero(_totals(leaves, ("pretrain", "train"))))
    cards = (
        _card("Photographs", f"{photographs:,}", f"of {_number(facts.observations, 'observation')}"),
        _card("Taxa to tell apart", f"{leaves.num_rows:,}", species),
        _card("Left out", f"{left_out:,}", f"{100 * left_out / max(1, left_out + photographs):.1f} % of those listed"),
        _card("Without training", f"{untrained:,}", "taxa without a training photograph"),
    )
    return f'<header><h1>What the index holds</h1></header>\n<div class="cards">{"".join(cards)}</div>'


def _totals(taxa: pa.Table, splits: Sequence[str] = SPLITS) -> np.ndarray:
    """Photographs of each taxon, int64 [n]."""
    return np.sum([taxa[split].to_numpy().astype(np.int64) for split in splits], axis=0)


def _splits(facts: Facts) -> str:
    total = sum(facts.splits.values())
    rows = []
    for split in SPLITS:
        if number := facts.splits.get(split, 0):
            taxa = int(np.count_nonzero(facts.taxa[split].to_numpy()))
            rows.append((split, f"{number:,}", f"{100 * number / total:.1f} %", f"{taxa:,}"))
    table = _table(("Split", "Photographs", "Share", "Taxa"), rows, kind="numbers narrow")
    note = "Photographs of one observation, and near duplicates, are in one split."
    return f'<section><h2>Splits</h2>{table}<p class="caption">{note}</p></section>'


def _tail(taxa: pa.Table) -> str:
    """The long tail: photographs of each taxon, the most frequent first, as an SVG drawing."""
    counts = np.sort(_totals(taxa.filter(taxa["leaf"])))[::-1]
    counts = counts[counts > 0]
    if len(counts) < 2:
        return ""
    width, height, left, bottom, top = 720, 260, 48, 34, 10
    high = max(1.0, math.log10(int(counts[0])))

    def x(place: float) -> float:
        return left + (width - left - 8) * place / (len(counts) - 1)

    def y(number: float) -> float:
        return height - bottom - (height - bottom - top) * math.log10(max(1.0, number)) / high

    places = np.unique(np.linspace(0, len(counts) - 1, 300).astype(int)).tolist()
    line = " ".join(f"{x(place):.1f},{y(int(counts[place])):.1f}" for place in places)
    area = f"{left},{height - bottom} {line} {x(len(counts) - 1):.1f},{height - bottom}"
    marks = [10**e * m for e in range(8) for m in ((1, 2, 5) if high < 2 else (1,)) if 10**e * m <= counts[0]]
    grid = "".join(
        f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>'
        f'<text x="{left - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:,}</text>'
        for mark in marks
    )
    ends = "".join(
        f'<text x="{x(place):.1f}" y="{height - bottom + 16}" text-anchor="{anchor}">{place + 1:,}</text>'
        for place, anchor in ((0, "start"), ((len(counts) - 1) // 2, "middle"), (len(counts) - 1, "end"))
    )
    half = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1
    few = int(np.count_nonzero(counts < 10))
    says = (
        f"Half of the photographs are of {_number(half, 'taxon', 'taxa')} of {len(counts):,}; "
        f"{_number(few, 'taxon has', 'taxa have')} fewer than ten. "
        f"Most: {int(counts[0]):,}, median: {int(np.median(counts)):,}, fewest: {int(counts[-1]):,}."
    )
    return (
        f'<section><h2>Photographs per taxon</h2><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(says)}">{grid}<polygon class="area" points="{area}"/>'
        f'<polyline class="line" points="{line}"/>{ends}'
        f'<text x="{(width + left) / 2:.0f}" y="{height - 2}" text-anchor="middle">taxa, the most frequent first</text>'
        f'</svg><p class="caption">{says} Logarithmic scale.</p></section>'
    )


def _taxa(taxa: pa.Table) -> str:
    order = np.argsort(-_totals(taxa), kind="stable")
    shown = taxa.take(order[:_TAXA])
    used = [split for split in SPLITS if pc.sum(taxa[split]).as_py()]
    rows = []
    for row in shown.to_pylist():
        path = tuple(row[rank] for rank in taxonomy.RANKS)
        name = _text(taxonomy.scientific_name(path))
        name = f"<i>{name}</i>" if path[5] else name
        if row["common_name"]:
            name += f"<small>{_short(row['common_name'])}</small>"
        above = " ".join(filter(None, path[2:5]))
        leaf = "" if row["leaf"] else " <small>known to this rank only</small>"
        counts = [row[split] for split in used]
        rows.append((name + leaf, _text(above), *(f"{n:,}" for n in counts), f"{sum(counts):,}"))
    more = f" The {_TAXA:,} most frequent of {taxa.num_rows:,}; taxa.parquet has all." if taxa.num_rows > _TAXA else ""
    table = _table(("Taxon", "Class, order, family", *used, "all"), rows, sortable=True, kind="numbers taxa")
    return (
        f"<section><h2>Taxa</h2><details{' open' if len(rows) <= 30 else ''}>"
        f"<summary>{_number(len(rows), 'taxon', 'taxa')} with photographs per split</summary>{table}"
        f'<p class="caption">Choose a heading to sort.{more}</p></details></section>'
    )


def _rejects(facts: Facts, read: Callable[[str], bytes]) -> str:
    if not facts.rejects:
        return "<section><h2>Left out</h2><p>Nothing was left out.</p></section>"
    rows = [(_text(reason), f"{number:,}") for reason, number in facts.rejects.items()]
    blocks = []
    left = _THUMBNAILS
    for reason, examples in facts.examples.items():
        if reason in ("not listed", "licence"):  # nothing is wrong with these
            continue
        shown = [_thumbnail(locator, read) if place < left else None for place, (locator, _) in enumerate(examples)]
        left -= sum(thumbnail is not None for thumbnail in shown)
        tiles = "".join(
            f'<div class="example">{_picture(thumbnail)}<p>{_short(locator, 60)}</p>'
            f'<p class="note">{_short(detail, 100)}</p></div>'
            for (locator, detail), thumbnail in zip(examples, shown, strict=True)
        )
        blocks.append(f'<h3>{_text(reason)}</h3><div class="gallery">{tiles}</div>')
    return (
        f"<section><h2>Left out</h2>{_table(('Reason', 'Photographs'), rows, kind='numbers narrow')}"
        '<p class="caption">rejects.parquet lists every one. Below: the first of each reason.</p>'
        f"{''.join(blocks)}</section>"
    )


def _thumbnail(locator: str, read: Callable[[str], bytes]) -> bytes | None:
    """A small JPEG file, of as much as can be read; None if there is nothing to see."""
    try:
        content = read(locator)
        try:
            image = decode(content)
        except BadImage:
            image = _remains(content)
        image.thumbnail((_SIDE, _SIDE))
    except Exception:  # a photograph that was left out may fail in any way
        return None
    image.info.clear()
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return file.getvalue()


def _remains(content: bytes) -> Image.Image:
    """What a truncated file still shows."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
        if image.width * image.height > 10_000_000:
            raise BadImage("too large", "for a thumbnail")
        return image.convert("RGB")
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _picture(thumbnail: bytes | None) -> str:
    if thumbnail is None:
        return '<div class="photo nothing">no picture</div>'
    return f'<div class="photo"><img src="data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}" alt=""></div>'


def _look_alikes(facts: Facts, read: Callable[[str], bytes]) -> str:
    alike, sets, odd = facts.look_alikes
    if not alike:
        return "<section><h2>Near duplicates</h2><p>No two photographs look the same.</p></section>"
    tiles = []
    for one, taxon, other, its in facts.pairs:
        differ = "" if taxon == its else ' <b class="warn">labels differ</b>'
        pictures = "".join(_picture(_thumbnail(locator, read)) for locator in (other, one))
        names = f"<i>{_text(its)}</i>" if taxon == its else f"<i>{_text(its)}</i> and <i>{_text(taxon)}</i>"
        tiles.append(
            f'<div class="pair"><div class="two">{pictures}</div><p>{names}{differ}</p>'
            f'<p class="note">{_short(other, 60)}<br>{_short(one, 60)}</p></div>'
        )
    says = f"{_number(alike, 'photograph')} in {_number(sets, 'set')} look alike; their observations share one split."
    if odd:
        verb = "bears" if odd == 1 else "bear"
        says += (
            f" {_number(odd, 'photograph')} of them {verb} another label than the first of the set; labels are kept."
        )
    return f'<section><h2>Near duplicates</h2><p>{says}</p><div class="pairs">{"".join(tiles)}</div></section>'


def _licences(counts: Mapping[str, int]) -> str:
    rows = [
        (_short(text) if text else "none stated", licences.code(text) or "&ndash;", f"{number:,}")
        for text, number in list(counts.items())[:30]
    ]
    free = sum(number for text, number in counts.items() if licences.may_be_published(text))
    more = f" The first 30 of {len(counts):,} licences." if len(counts) > 30 else ""
    table = _table(("Licence as written", "Code", "Photographs"), rows, kind="numbers")
    says = f"{free:,} of {sum(counts.values()):,} photographs may be published."
    says += f" ATTRIBUTION.csv names the owner of each.{more}"
    return f'<section><h2>Licences</h2>{table}<p class="caption">{says}</p></section>'


def _names(rows: Sequence[tuple[Any, ...]]) -> str:
    """Names that were changed, are ambiguous, or match nothing."""
    parts = []
    for origin, status, title, explained in _CASES:
        found = [row for row in rows if row[0] == origin and row[4] == status]
        if not found:
            continue
        found.sort(key=lambda row: -(row[7] or 0))
        header = {"changed": ("Written", "Taxon", "Change"), "ambiguous": ("Written", "May mean")}
        cells = []
        for _, verbatim, name, _, _, change, candidates, number in found[:_NAMES]:
            shown = [_short(verbatim), _text(name or ""), _text(change or "")]
            if status != "changed":
                shown = [_short(verbatim), _short("; ".join(candidates), 200)]
            cells.append((*shown, "" if number is None else f"{number:,}"))
        more = f" The first {_NAMES} of {len(found):,}; names.parquet has all." if len(found) > _NAMES else ""
        table = _table((*header.get(status, ("Written", "Like it")), "Photographs"), cells, kind="words")
        parts.append(
            f"<details{' open' if len(found) <= 12 else ''}><summary>{title}: {len(found):,}</summary>{table}"
            f'<p class="caption">{explained}{more}</p></details>'
        )
    body = "".join(parts) or "<p>Every name is as the source writes it.</p>"
    return f"<section><h2>Names</h2>{body}</section>"


_CASES = (
    ("species list", "unmatched", "Names of the list that nothing matches", "Like it: names of the source."),
    (
        "species list",
        "ambiguous",
        "Names of the list that may mean several taxa",
        "None was taken; name a kingdom too.",
    ),
    ("source", "ambiguous", "Names of the source that may mean several taxa", "They are kept as they are written."),
    ("source", "unmatched", "Names of the source that give no taxon", "Their photographs were left out."),
    ("source", "changed", "Names of the source that were changed", "The name as written is kept in names.parquet."),
    ("species list", "changed", "Names of the list that are written otherwise", "They were understood as shown."),
)

_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const place = button.parentNode.cellIndex, body = button.closest("table").tBodies[0];
  const down = button.dataset.order !== "down";
  for (const other of button.closest("tr").querySelectorAll("button")) delete other.dataset.order;
  button.dataset.order = down ? "down" : "up";
  const value = (row) => { const text = row.cells[place].textContent; const n = Number(text.replaceAll(",", ""));
    return Number.isNaN(n) ? text : n; };
  const rows = [...body.rows].map((row) => [value(row), row]);
  rows.sort(([a], [b]) => (typeof a === "number" && typeof b === "number" ? b - a : String(a).localeCompare(b))
    * (down ? 1 : -1));
  body.append(...rows.map(([, row]) => row));
});
"""

_CSS = """
:root { color-scheme: light; --ink: #1c2126; --soft: #5c6670; --line: #dfe3e6; --tint: #f5f7f8; --mark: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 20px; line-height: 1.3; margin: 44px 0 10px; }
h3 { font-size: 15px; margin: 20px 0 8px; color: var(--soft); font-weight: 600; }
p { margin: 0; }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 24px 0 20px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.card h2 { font-size: 13px; font-weight: 600; color: var(--soft); margin: 0; }
.big { font-size: 28px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.note, .caption, small { color: var(--soft); font-size: 13px; line-height: 1.4; }
.caption { margin-top: 8px; max-width: 90ch; }
small { display: block; font-size: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 15px; }
table.narrow { max-width: 520px; }
th, td { text-align: left; vertical-align: top; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
thead th { font-size: 13px; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--ink); }
.numbers :is(th, td):nth-child(n+2) { text-align: right; white-space: nowrap; padding-right: 0; padding-left: 14px; }
.taxa :is(th, td):nth-child(2) { text-align: left; white-space: normal; color: var(--soft); font-size: 13px; }
.words :is(th, td):last-child { text-align: right; padding-right: 0; }
.scroll { overflow-x: auto; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th button:hover { text-decoration: underline; }
th button[data-order=down]::after { content: " \\2193"; } th button[data-order=up]::after { content: " \\2191"; }
details { margin: 8px 0; } summary { cursor: pointer; font-weight: 600; font-size: 15px; padding: 4px 0; }
svg { width: 100%; height: auto; display: block; max-width: 860px; font-size: 11px; }
svg text { fill: var(--soft); } .grid { stroke: var(--line); } .area { fill: #d8e8f3; }
.line { fill: none; stroke: var(--mark); stroke-width: 1.6; }
.gallery { display: grid; grid-template-columns: repeat(6, 1fr); gap: 16px 14px; }
.example, .pair { font-size: 13px; line-height: 1.35; min-width: 0; overflow-wrap: anywhere; }
.example .note, .pair .note { font-size: 12px; }
.photo { margin-bottom: 6px; aspect-ratio: 1; border-radius: 6px; background: var(--tint); overflow: hidden; }
.photo img { width: 100%; height: 100%; object-fit: cover; display: block; }
.nothing { display: flex; align-items: center; justify-content: center; color: var(--soft); font-size: 12px; }
.pairs { display: grid; grid-template-columns: repeat(4, 1fr); gap: 20px 18px; margin-top: 14px; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
.warn { color: #b34700; white-space: nowrap; }
tr, .example, .pair { break-inside: avoid; }
@media (max-width: 720px) {
  main { padding: 20px 16px 48px; } h1 { font-size: 25px; } .big { font-size: 23px; }
  .cards { grid-template-columns: 1fr 1fr; gap: 8px; } .card { padding: 9px 11px; }
  .gallery { grid-template-columns: repeat(3, 1fr); gap: 14px 10px; }
  .pairs { grid-template-columns: 1fr 1fr; gap: 16px 12px; }
  table { font-size: 14px; } .taxa :is(th, td):nth-child(2) { display: none; }
  .taxa :is(th, td):first-child { min-width: 130px; } svg { font-size: 17px; }
}
"""
