"""report.html: one page that explains metrics.json, without a request to any other file or host."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from bioclip_lite.report import doubt, prompts, speed, suites
from bioclip_lite.report.text import (
    DASH,
    SHIPPED,
    bracket,
    cell,
    count_of,
    interval,
    milliseconds,
    named,
    percent,
    points,
    points_interval,
    quantity,
    size,
    stored,
)
from bioclip_lite.taxa.taxonomy import RANKS


@dataclass(frozen=True)
class Name:
    """A taxon as the page shows it."""

    scientific: str
    common: str | None
    italic: bool = True  # genus and species are set in italics


@dataclass(frozen=True)
class Example:
    """One test photograph and what the shipped model says; ``jpeg`` is a thumbnail's file content."""

    jpeg: bytes
    truth: Name
    answer: Name
    probability: float
    right: bool
    shared: str | None  # the lowest rank that truth and answer share
    credit: str


@dataclass(frozen=True)
class Weak:
    """A species that the shipped model often gets wrong."""

    name: Name
    images: int
    right: int
    mistaken: Sequence[tuple[Name, int]]  # most frequent wrong answers
    jpeg: bytes  # a thumbnail of a photograph that it gets wrong
    credit: str


@dataclass(frozen=True)
class Confusion:
    """What the shipped model takes the m groups of one rank for."""

    rank: str
    names: Sequence[str]
    counts: Sequence[Sequence[int]]  # m rows of truth; m columns of answers and one for all other groups


@dataclass(frozen=True)
class Sample:
    """Where the photographs come from."""

    images: Mapping[str, int]  # per split
    licences: Mapping[str, int]  # of the test photographs
    sources: Mapping[str, int]
    teacher: str = ""


def render(
    metrics: Mapping[str, Any],
    figures: Mapping[str, bytes],
    sample: Sample,
    examples: Sequence[Example],
    weakest: Sequence[Weak],
    confusion: Confusion | None,
) -> str:
    """The whole page.

    Args:
        metrics: the content of metrics.json.
        figures: PNG files "accuracy_by_size", "accuracy_by_time", "per_rank", "back_off" and "risk_coverage".
        sample, examples, weakest, confusion: what metrics.json does not hold; all but the first may be empty.
    """
    variants, protocol = metrics["variants"], metrics["protocol"]
    head = _head(variants, protocol, _figures(variants, figures, ("accuracy_by_size", "accuracy_by_time")))
    contents, body = _anchored(
        "\n".join(
            section
            for section in (
                _rank_table(variants, _figures(variants, figures, ("per_rank",))),
                doubt.back_off(variants, _figures(variants, figures, ("back_off", "risk_coverage"))),
                doubt.errors(variants),
                _strata(variants),
                prompts.section(metrics),
                suites.section(metrics),
                _confusion(confusion),
                _weakest(weakest),
                _examples(examples),
                _variant_table(variants),
                speed.section(metrics),
                _sources(sample),
                _about(protocol),
            )
            if section
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>Evaluation of a species classifier</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{_unbroken(f'{head}{contents}{body}')}\n</main>\n</body>\n</html>\n"
    )


def _anchored(body: str) -> tuple[str, str]:
    """A list of links to the sections, and the sections with names to link to."""
    titles = re.findall(r"<section><h2>(.*?)</h2>", body)
    numbers = iter(range(1, len(titles) + 1))
    links = "".join(f'<li><a href="#s{number}">{title}</a></li>' for number, title in enumerate(titles, 1))
    named = re.sub(r"<section>(?=<h2>)", lambda _: f'<section id="s{next(numbers)}">', body)
    return f'<nav aria-label="Contents"><ol>{links}</ol></nav>\n', named


def _unbroken(body: str) -> str:
    """Keep numbers and units on one line."""
    return re.sub(r"(?<=\d) (?=%|[kMG]?B\b|ms\b|[kMG]\b)", "&nbsp;", body)


# ---- sections


def _head(variants: Mapping[str, Any], protocol: Mapping[str, Any], figures: str) -> str:
    shipped, teacher = variants[SHIPPED], variants["teacher"]
    top1, family = shipped["top1"], shipped["per_rank"]["family"]
    latency = shipped.get("latency_ms") or {}
    cards = [
        _card(
            "Species right", _with_unit(percent(top1["value"]), " %"), f"95 % interval {interval(top1) or 'not known'}"
        ),
        _card(
            "Family right",
            _with_unit(percent(family["value"]), " %"),
            f"95 % interval {interval(family) or 'not known'}",
        ),
        _card("Size", size(stored(shipped)), f"teacher {size(stored(teacher))}"),
        _card(
            "Time per photograph", _with_unit(milliseconds(latency.get("median")), " ms"), latency.get("runtime", "")
        ),
    ]
    lead = (
        f"Web model on {count_of(protocol['n_images'], 'test photograph')} of "
        f"{count_of(protocol['n_groups'], 'observation')}; it chooses among "
        f"{count_of(protocol['label_space'], 'taxon', 'taxa')}."
    )
    sentences = "".join(f"<li>{sentence}</li>" for sentence in headlines(variants))
    return (
        f'<header><h1>How well does it name species?</h1><p class="lead">{lead}</p></header>\n'
        f'<div class="cards">{"".join(cards)}</div>\n<ul class="findings">{sentences}</ul>\n{figures}\n'
    )


def _card(title: str, value: str, note: str) -> str:
    return f'<div class="card"><h2>{title}</h2><p class="big">{value}</p><p class="note">{escape(note)}</p></div>'


def _with_unit(number: str, unit: str) -> str:
    return number if number == DASH else f"{number}{unit}"


def headlines(variants: Mapping[str, Any]) -> list[str]:
    """The findings as HTML sentences; what cannot be said for lack of photographs is left out."""
    shipped = variants[SHIPPED]
    found = []
    top1, top5 = shipped["top1"], shipped["top5"]
    if top1["value"] is not None:
        found.append(
            f"The web model names the species right for <b>{percent(top1['value'])} %</b> of "
            f"{count_of(top1['n_images'], 'photograph')} of {count_of(top1['n_classes'], 'species', 'species')}"
            f"{bracket('95 % interval ', interval(top1))}; for {percent(top5['value'])} % the species is among its "
            f"first five answers. The teacher reaches {percent(variants['teacher']['top1']['value'])} %."
        )
    found += doubt.headline(shipped)
    family = shipped["per_rank"]["family"]
    if family["value"] is not None:
        found.append(
            f"The family is right for <b>{percent(family['value'])} %</b>{bracket('', interval(family))} of "
            f"{count_of(family['n_images'], 'photograph')} of {count_of(family['n_classes'], 'family', 'families')}."
        )
    gain = variants["student"]["difference_to"]["control"]["top1"]
    if gain["value"] is not None:
        found.append(_compared("The student", gain, "against the same network trained on labels alone"))
    loss = shipped["difference_to"]["student"]["top1"]
    if loss["value"] is not None:
        found.append(_compared("The web model", loss, "against the student before pruning and 8-bit weights"))
    small, full = stored(shipped), stored(variants["teacher"])
    if small and full:
        found.append(
            f"Model and taxon table take <b>{size(small)}</b>, {100 * small / full:.2g} % of the teacher's "
            f"{size(full)}."
        )
    unseen = shipped["strata"]["unseen"]["species"]
    if unseen["value"] is not None:
        relatives = shipped["strata"]["unseen"]["family"]
        found.append(
            f"Of {count_of(unseen['n_classes'], 'species', 'species')} without a training photograph "
            f"({count_of(unseen['n_images'], 'test photograph')}) it names {percent(unseen['value'])} % to species and "
            f"{percent(relatives['value'])} % to family."
        )
    return found


def _compared(who: str, difference: Mapping[str, Any], against: str) -> str:
    value, bounds = difference["value"], difference["ci95"]
    unsure = ", which includes 0" if bounds and bounds[0] <= 0 <= bounds[1] else ""
    verb = "gains" if value > 0 else "loses"
    amount = f"{verb} <b>{percent(abs(value))} points</b>"
    if not float(percent(value)):
        amount, unsure = "<b>neither gains nor loses</b> points", ""
    return (
        f"{who} {amount} of species accuracy {against}{bracket('95 % interval ', points_interval(difference), unsure)}."
    )


def _variant_table(variants: Mapping[str, Any]) -> str:
    header = ("Model", "Species right, %", "Top 5, %", "Against teacher, points", "Same as teacher, %", "Size",
              "Operations", "Time, ms")  # fmt: skip
    rows = []
    for variant, metrics in variants.items():
        name, what = named(variant)
        difference = metrics.get("difference_to", {}).get("teacher", {}).get("top1")
        agreement = metrics.get("agreement_with_teacher")
        latency = metrics.get("latency_ms") or {}
        table = metrics.get("table_bytes")
        zipped = metrics.get("gzipped") and metrics["gzipped"] + (metrics.get("table_gzipped") or 0)
        cells = (
            cell(percent(metrics["top1"]["value"]), interval(metrics["top1"])),
            cell(percent(metrics["top5"]["value"]), interval(metrics["top5"])),
            cell(points(difference["value"]), points_interval(difference)) if difference else cell(DASH),
            cell(percent(agreement["value"]), interval(agreement)) if agreement else cell(DASH),
            cell(
                size(metrics.get("bytes")),
                f"+ {size(table)} taxa" if table else "",
                f"{size(zipped)} gzipped" if zipped else "",
            ),
            cell(
                quantity(metrics.get("macs")),
                f"{quantity(metrics['params'])} parameters" if metrics.get("params") else "",
            ),
            cell(
                milliseconds(latency.get("median")),
                f"minimum {milliseconds(latency['min'])}" if latency else "",
                latency.get("runtime", ""),
            ),
        )
        tds = "".join(
            f'<td data-label="{label}"{" class=none" if content == DASH else ""}>{content}</td>'
            for label, content in zip(header[1:], cells, strict=True)
        )
        shipped = ' class="shipped"' if variant == SHIPPED else ""
        rows.append(f'<tr{shipped}><th scope="row">{escape(name)}<small>{escape(what)}</small></th>{tds}</tr>')
    top1 = next(iter(variants.values()))["top1"]
    return (
        "<section><h2>What each model is, and what it costs</h2>"
        f'<table class="variants"><thead><tr>{"".join(f"<th scope=col>{h}</th>" for h in header)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
        f'<p class="caption">{count_of(top1["n_images"], "photograph")} whose species is known, '
        f"{count_of(top1['n_classes'], 'species', 'species')}. Small print: 95 % intervals. Operations: "
        "multiply-accumulates for one photograph. Gzipped: model and taxa as a server sends them. Time: median"
        f"{_runs(variants)} for one photograph on one thread, without decoding and scaling it; compare times of one "
        "runtime only.</p></section>"
    )


def _runs(variants: Mapping[str, Any]) -> str:
    runs = {metrics["latency_ms"]["n"] for metrics in variants.values() if metrics.get("latency_ms")}
    return f" of {' or '.join(map(str, sorted(runs)))} runs" if runs else ""


def _figures(variants: Mapping[str, Any], figures: Mapping[str, bytes], names: Sequence[str]) -> str:
    n = f"n = {count_of(variants[SHIPPED]['top1']['n_images'], 'photograph')}"
    joined = "Joined: models that no other beats in both. Hollow: controls. Bars: 95 % intervals. Mind where the axis "
    joined += "begins."
    captions = {
        "accuracy_by_size": ("Species right, by size", f"{n}. {joined}"),
        "accuracy_by_time": (
            "Species right, by time",
            f"{n}. {joined} The web model is timed in TensorFlow.js, the others in PyTorch: what a photograph takes "
            "there, not which network is faster.",
        ),
        "per_rank": (
            "Photographs whose taxon is right at each rank",
            "The answer at a rank is the taxon with the largest summed probability. Bars: 95 % intervals.",
        ),
        "back_off": (
            "What the web model answers at other promises",
            "Above each bar: the share of the answers to test photographs that are right. A level that no thresholds "
            "hold is left out.",
        ),
        "risk_coverage": (
            "Wrong answers, the further down the tree models answer",
            "One threshold for all ranks falls from 1 to 0. Coverage: 100 % if every answer is a species, 0 if there "
            "is none; a genus of 3 of 64 species counts 1 \u2212 log 3 / log 64. Legend: the area under each curve "
            "(hAURC); less is better.",
        ),
    }
    shown = "".join(
        f'<figure><img src="data:image/png;base64,{base64.b64encode(figures[name]).decode()}" '
        f'alt="{escape(_in_words(name, variants) or title, quote=True)}">'
        f"<figcaption><b>{title}.</b> {text}</figcaption></figure>"
        for name, (title, text) in captions.items()
        if name in names and name in figures
    )
    return f'<div class="figures{" one" if len(names) == 1 else ""}">{shown}</div>' if shown else ""


def _in_words(figure: str, variants: Mapping[str, Any]) -> str:
    """What a figure shows, for those who cannot see it; "" where a table beside it says the same."""

    def listed(costs: Mapping[str, str]) -> str:
        shown = [f"{named(v)[0]} {percent(variants[v]['top1']['value'])} % at {costs[v]}" for v in costs]
        return "Species right: " + ", ".join(shown)

    if figure == "accuracy_by_size":
        return listed({v: size(stored(m)) for v, m in variants.items() if stored(m)})
    if figure == "accuracy_by_time":
        timed = {v: m["latency_ms"]["median"] for v, m in variants.items() if m.get("latency_ms")}
        return listed({v: f"{milliseconds(median)} ms" for v, median in timed.items()})
    if figure == "back_off":
        points = variants[SHIPPED]["back_off"]["levels"].items()
        shares = [f"{percent(point['species'])} % at {100 * float(level):g} % promised" for level, point in points]
        return f"Answered with the species: {', '.join(shares)}" if shares else ""
    return ""


def _rank_table(variants: Mapping[str, Any], figure: str) -> str:
    ours = {variant: " class=ours" if variant == SHIPPED else "" for variant in variants}
    head = "".join(f"<th scope=col{ours[v]}>{escape(named(v)[0])}</th>" for v in variants)
    rows = []
    for rank in RANKS:
        first = next(iter(variants.values()))["per_rank"][rank]
        n = f"n = {first['n_images']:,}; {_taxa(first['n_classes'], first['label_space'])}"
        cells = "".join(
            f"<td{ours[v]}>{cell(percent(m['per_rank'][rank]['value']), interval(m['per_rank'][rank]))}</td>"
            for v, m in variants.items()
        )
        rows.append(f'<tr><th scope="row">{rank.capitalize()}<small>{n}</small></th>{cells}</tr>')
    averages = {v: m["per_rank"]["species"]["macro"] for v, m in variants.items()}
    macro = "".join(f"<td{ours[v]}>{cell(percent(m['value']), interval(m))}</td>" for v, m in averages.items())
    rows.append(
        f'<tr class="rule"><th scope="row">Species, macro<small>every species weighs the same</small></th>{macro}</tr>'
    )
    return (
        "<section><h2>Right at each rank, %</h2>"
        f'<div class="scroll"><table class="ranks"><thead><tr><th scope=col>Rank</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="caption"><span class="phone">Scroll sideways for more models. </span>n: photographs. Taxa: those '
        "that the photographs show, of those that a model chooses among. Photographs known only to genus or family "
        f"count at the ranks they have.{_other_leaves(variants)}</p>{figure}</section>"
    )


def _other_leaves(variants: Mapping[str, Any]) -> str:
    """Where the list has taxa that are no species, a species is right in one way here and in another elsewhere."""
    shipped = variants[SHIPPED]
    if shipped["top1"]["value"] == shipped["per_rank"]["species"]["value"]:
        return ""
    return (
        " The list has taxa that are known to a higher rank only. At the rank of the species only species compete; "
        f"everywhere else on this page all taxa do, and the web model is right for {percent(shipped['top1']['value'])} "
        "%."
    )


def _taxa(scored: int, space: int) -> str:
    return f"{scored:,} of {count_of(space, 'taxon', 'taxa')}"


def _strata(variants: Mapping[str, Any]) -> str:
    first = next(iter(variants.values()))["strata"]
    if not first["unseen"]["species"]["n_images"]:
        return (
            "<section><h2>Species without training photographs</h2>"
            "<p>Every species of the test photographs has training photographs.</p></section>"
        )
    columns = [(s, q) for s in ("seen", "unseen") for q in ("species", "family")]
    titles = {"seen": "trained on", "unseen": "never trained on"}
    head = "".join(f"<th scope=col>{q.capitalize()}<small>{titles[s]}</small></th>" for s, q in columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(named(v)[0])}</th>'
        + "".join(
            f"<td>{cell(percent(m['strata'][s][q]['value']), interval(m['strata'][s][q]))}</td>" for s, q in columns
        )
        + "</tr>"
        for v, m in variants.items()
    )
    n = "; ".join(
        f"{titles[s]}: {count_of(first[s]['species']['n_classes'], 'species', 'species')}, "
        f"{count_of(first[s]['species']['n_images'], 'photograph')}"
        for s in ("seen", "unseen")
    )
    return (
        "<section><h2>Species with and without training photographs, % right</h2>"
        f'<table class="strata"><thead><tr><th scope=col>Model</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="caption">{n[0].upper() + n[1:]}. The teacher may have seen more species than the student.</p>'
        "</section>"
    )


def _confusion(confusion: Confusion | None) -> str:
    if confusion is None:
        return ""
    others = any(row[-1] for row in confusion.counts)
    width = len(confusion.names) + others
    head = "".join(f"<th scope=col>{n + 1 if n < len(confusion.names) else 'other'}</th>" for n in range(width))
    rows = []
    for n, (name, counts) in enumerate(zip(confusion.names, confusion.counts, strict=True)):
        tds = "".join(
            # the right answers in one colour and the wrong ones in another, darker the larger their share
            f'<td style="background:rgba({"0,114,178" if n == m else "213,94,0"},{0.55 * count / sum(counts):.3f})">'
            f"{count or ''}</td>"
            for m, count in enumerate(counts[:width])
        )
        rows.append(f'<tr><th scope="row">{n + 1}&ensp;{escape(name)}</th>{tds}</tr>')
    return (
        f"<section><h2>What each {confusion.rank} is taken for</h2>"
        f'<div class="scroll"><table class="confusion"><thead><tr><th scope=col>True {confusion.rank}</th>{head}</tr>'
        f'</thead><tbody>{"".join(rows)}</tbody></table></div><p class="caption">Photographs, by the '
        f"{confusion.rank} that the web model answers (columns are numbered as the rows).</p></section>"
    )


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    groups = ((True, "Right"), (False, "Wrong"))
    blocks = []
    for right, title in groups:
        shown = [e for e in examples if e.right == right]
        if shown:
            blocks.append(f'<h3>{title}</h3><div class="gallery">{"".join(map(_example, shown))}</div>')
    return (
        "<section><h2>Examples</h2>"
        + "".join(blocks)
        + '<p class="caption">Drawn by lot among the right and among the '
        "wrong answers of the web model, so their numbers say nothing about its accuracy. Per cent: the probability "
        "that the model gives its answer.</p></section>"
    )


def _example(example: Example) -> str:
    image = base64.b64encode(example.jpeg).decode()
    answer = f'<p>{_taxon(example.truth)}</p><p class="note">{100 * example.probability:.0f} %</p>'
    if not example.right:
        shared = f"; both in the same {example.shared}" if example.shared else ""
        answer = (
            f"<p>{_taxon(example.truth)}</p>"
            f'<p class="note">taken for {_taxon(example.answer)}, {100 * example.probability:.0f} %{shared}</p>'
        )
    credit = f'<p class="credit">{escape(example.credit)}</p>' if example.credit else ""
    mark = '<span class="mark ok">&#10003;</span>' if example.right else '<span class="mark no">&#10007;</span>'
    alt = escape(example.truth.scientific, quote=True)
    return (
        f'<div class="example"><div class="photo"><img src="data:image/jpeg;base64,{image}" alt="{alt}">{mark}</div>'
        f"{answer}{credit}</div>"
    )


def _taxon(name: Name) -> str:
    scientific = f"<i>{escape(name.scientific)}</i>" if name.italic else escape(name.scientific)
    return f'{escape(name.common)} <span class="sci">{scientific}</span>' if name.common else scientific


def _weakest(weakest: Sequence[Weak]) -> str:
    if not weakest:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_thumbnail(w)}<span>{_taxon(w.name)}<small>{escape(w.credit)}</small></span></th>'
        f"<td>{w.right} of {w.images}</td>"
        f'<td class="text">{", ".join(f"{_taxon(name)} ({n})" for name, n in w.mistaken) or DASH}</td></tr>'
        for w in weakest
    )
    return (
        "<section><h2>Species that the web model gets wrong most</h2>"
        '<table class="weak"><thead><tr><th scope=col>Species</th><th scope=col>Right</th>'
        f"<th scope=col>Most often taken for</th></tr></thead><tbody>{rows}</tbody></table>"
        '<p class="caption">Few photographs per species: the order is a hint, not a measurement. Pictures: one that '
        "the model gets wrong, drawn by lot.</p></section>"
    )


def _thumbnail(weak: Weak) -> str:
    image, alt = base64.b64encode(weak.jpeg).decode(), escape(weak.name.scientific, quote=True)
    return f'<img src="data:image/jpeg;base64,{image}" alt="{alt}">'


def _sources(sample: Sample) -> str:
    facts = {
        "Photographs per split": ", ".join(f"{name} {n:,}" for name, n in sample.images.items()),
        "Sources of the test photographs": _listed(sample.sources),
        "Licences of the test photographs": _listed(sample.licences),
        "Teacher": sample.teacher,
    }
    return f"<section><h2>Photographs, teacher and licences</h2>{_facts(facts)}</section>"


def _about(protocol: Mapping[str, Any]) -> str:
    facts = {
        "Test photographs": f"{protocol['n_images']:,} of {count_of(protocol['n_groups'], 'observation')}",
        "Label space": f"{count_of(protocol['label_space'], 'taxon', 'taxa')}; every model chooses among all of them",
        "Intervals": f"bootstrap over observations, {protocol['bootstrap']['resamples']:,} resamples, the same for "
        "every model. They tell how far the result depends on the photographs drawn, not on the seed of the training; "
        "where all answers are right, or all wrong, they shrink to a point, which is no certainty",
        "Protocol": f"{protocol['id']}: figures with another protocol id must not be compared with these",
    }
    return f"<section><h2>About these figures</h2>{_facts(facts)}</section>"


def _facts(facts: Mapping[str, str]) -> str:
    return (
        f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in facts.items() if text)}</dl>"
    )


def _listed(counts: Mapping[str, int], most: int = 8) -> str:
    first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{name} ({n:,})" for name, n in first[:most])
    return text + (f" and {len(first) - most} more" if len(first) > most else "")


_CSS = """
:root { color-scheme: light; --ink: #1c2126; --soft: #5c6670; --line: #dfe3e6; --tint: #f5f7f8; --mark: #d55e00; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 32px 24px 64px; counter-reset: figure; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 20px; line-height: 1.3; margin: 44px 0 10px; }
h3 { font-size: 15px; margin: 16px 0 8px; color: var(--soft); font-weight: 600; }
p { margin: 0; }
.lead { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 24px 0 20px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.card h2 { font-size: 13px; font-weight: 600; color: var(--soft); margin: 0; }
.big { font-size: 28px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.note, .caption, small, .credit { color: var(--soft); font-size: 13px; line-height: 1.4; }
.findings { padding-left: 20px; margin: 0; max-width: 76ch; } .findings li { margin: 6px 0; }
.caption { margin-top: 8px; max-width: 90ch; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; vertical-align: top; padding: 7px 0 7px 14px; border-bottom: 1px solid var(--line); }
thead th { font-size: 13px; line-height: 1.3; color: var(--soft); font-weight: 600; vertical-align: bottom;
  border-bottom: 2px solid var(--ink); }
th:first-child, .text, .weak thead th:last-child { text-align: left; } th:first-child { padding-left: 0; }
tbody th { font-weight: 600; }
small { display: block; font-weight: 400; font-size: 12px; }
.shipped > * { background: #fdf3ec; } .shipped > th { box-shadow: inset 3px 0 var(--mark); padding-left: 10px; }
.variants th[scope=row] { max-width: 230px; } .variants td { white-space: nowrap; }
.rule > * { border-top: 2px solid var(--line); }
.scroll { overflow-x: auto; } .phone { display: none; }
.ranks { font-size: 15px; } .ranks td, .ranks th { white-space: nowrap; padding-left: 9px; }
.ranks thead th { white-space: normal; } .ranks th:first-child { padding-left: 0; }
.ranks .shipped th:first-child { padding-left: 10px; } .ranks .ours { background: #fdf3ec; }
.doubt thead th { white-space: normal; min-width: 84px; } .strata th + th { width: 19%; }
.figures { display: grid; grid-template-columns: 1fr 1fr; gap: 28px; margin-top: 28px; }
.figures.one { grid-template-columns: minmax(0, 620px); }
figcaption::before { counter-increment: figure; content: "Figure " counter(figure) ". "; }
nav { margin-top: 36px; padding: 12px 0; border: solid var(--line); border-width: 1px 0; font-size: 14px; }
nav ol { columns: 2; column-gap: 28px; margin: 0; padding-left: 22px; } nav li { padding: 2px 0; }
a { color: #00579c; text-decoration-thickness: 1px; text-underline-offset: 2px; }
figure { margin: 0; break-inside: avoid; } figure img { width: 100%; display: block; }
figcaption { font-size: 13px; line-height: 1.4; color: var(--soft); margin-top: 6px; }
figcaption b { color: var(--ink); }
.gallery { display: grid; grid-template-columns: repeat(6, 1fr); gap: 16px 14px; }
.example { font-size: 13px; line-height: 1.35; break-inside: avoid; min-width: 0; overflow-wrap: anywhere; }
.photo { position: relative; margin-bottom: 6px; }
.photo img { width: 100%; aspect-ratio: 1; object-fit: cover; display: block; border-radius: 6px;
  background: var(--tint); }
.mark { position: absolute; right: 6px; bottom: 6px; width: 20px; height: 20px; border-radius: 50%; color: #fff;
  font-size: 12px; line-height: 20px; text-align: center; }
.ok { background: #00785a; } .no { background: #b34700; }
.example p:first-of-type .sci { display: block; } .example .note { font-size: 12px; } .credit { font-size: 11px; }
.sci { color: var(--soft); }
.confusion { width: auto; font-size: 14px; } .confusion th, .confusion td { padding: 5px 9px; white-space: nowrap; }
.confusion td { min-width: 40px; border: 1px solid var(--line); print-color-adjust: exact; }
.confusion tbody th { font-weight: 400; } .confusion th:first-child { padding-left: 0; }
.weak tbody th img { width: 64px; height: 64px; object-fit: cover; border-radius: 6px; float: left;
  margin-right: 12px; }
.weak tbody th { width: 36%; } .weak tbody th span { display: block; overflow: hidden; overflow-wrap: anywhere; }
.weak tbody th .sci { display: inline; }
.weak tbody th { font-weight: 400; } .weak td:nth-child(2) { white-space: nowrap; }
dl { display: grid; grid-template-columns: 220px 1fr; gap: 6px 20px; margin: 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
section { break-inside: auto; } tr { break-inside: avoid; }
@media (max-width: 720px) {
  main { padding: 20px 16px 48px; } h1 { font-size: 25px; }
  .cards { grid-template-columns: 1fr 1fr; gap: 8px; } .big { font-size: 23px; } .card { padding: 9px 11px; }
  .figures, .figures.one { grid-template-columns: 1fr; }
  nav ol { columns: 1; } nav li { padding: 5px 0; }
  .gallery { grid-template-columns: repeat(3, 1fr); gap: 14px 10px; }
  .variants thead { display: none; }
  .variants, .variants tbody { display: block; }
  .variants tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 16px; padding: 10px 0;
    border-bottom: 1px solid var(--line); }
  .variants th[scope=row] { grid-column: 1 / -1; max-width: none; border: 0; padding: 0 0 4px; }
  .variants td.none { display: none; } .phone { display: inline; }
  .variants td { border: 0; padding: 3px 0; text-align: left; }
  .variants td::before { content: attr(data-label); display: block; font-size: 12px; color: var(--soft); }
  .shipped { border-left: 3px solid var(--mark); padding-left: 10px !important; background: #fdf3ec; }
  .shipped > th { box-shadow: none; } .shipped > * { background: none; }
  .ranks, .strata { font-size: 14px; } .ranks th, .ranks td, .strata td { padding-left: 10px; }
  .ranks th:first-child { padding-left: 0; }
  .ranks small, .strata small { font-size: 11px; }
  .ranks th:first-child { position: sticky; left: 0; background: #fff; white-space: normal; min-width: 92px; }
  .ranks .shipped th:first-child { background: #fdf3ec; }
  .weak { font-size: 14px; } .weak thead { display: none; }
  .weak tr { display: block; position: relative; padding: 9px 0 9px 76px; min-height: 83px;
    border-bottom: 1px solid var(--line); }
  .weak tbody th img { position: absolute; left: 0; top: 9px; float: none; margin: 0; }
  .weak tbody th { display: block; width: auto; border: 0; padding: 0; }
  .weak td { display: inline; border: 0; padding: 0; }
  .weak td:nth-child(2)::after { content: " right; most often taken for "; color: var(--soft); white-space: normal; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 10px; }
}
@media print {
  @page { margin: 14mm; }
  body { font-size: 10.5px; } main { max-width: none; padding: 0; }
  h1 { font-size: 22px; } h2 { font-size: 14px; margin-top: 20px; break-after: avoid; } h3 { break-after: avoid; }
  .card h2, .note, .caption, figcaption, dl, thead th, h3 { font-size: 9.5px; } .big { font-size: 19px; }
  nav { display: none; } .figures.one { grid-template-columns: 60%; }
  .cards { margin: 14px 0 10px; } .card { padding: 7px 10px; } .findings li { margin: 2px 0; }
  .shipped > *, .ours, .card { print-color-adjust: exact; } .scroll { overflow: visible; }
  table, .gallery, dl, .caption { break-inside: avoid; } .caption { break-before: avoid; }
  .ranks { font-size: 10.5px; }
  th, td { padding: 3px 0 3px 8px; } small { font-size: 8px; } .figures { margin-top: 20px; }
  .weak tbody th img { width: 36px; height: 36px; } .confusion { font-size: 9px; }
  .gallery { grid-template-columns: repeat(6, 1fr); } .example, .example .note, .credit { font-size: 8.5px; }
}
"""
