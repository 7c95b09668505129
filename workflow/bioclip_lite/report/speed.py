"""The report's section on what the web model takes where it runs: time, start, memory, and whether it stays itself."""

from collections.abc import Mapping
from html import escape
from typing import Any

from bioclip_lite.report.text import DASH, bracket, cell, count_of, interval, milliseconds, percent, quantity, size

_SOFTWARE = "SwiftShader"  # in the name of what computes WebGL where no graphics processor does


def section(metrics: Mapping[str, Any]) -> str:
    """HTML; empty if nothing was timed and no browser asked."""
    parts = [_parity(metrics["variants"]), _table(metrics.get("speed") or {})]
    if not any(parts):
        return ""
    return f"<section><h2>What the web model takes to run</h2>{''.join(parts)}</section>"


def _parity(variants: Mapping[str, Any]) -> str:
    """How often the browser's answer is that of Node, and of the same weights in PyTorch."""
    browser = variants.get("chromium")
    if not browser:
        return ""
    node, pytorch = (browser[f"agreement_with_{name}"] for name in ("tfjs", "int8"))
    other = variants["tfjs"]["agreement_with_int8"]
    return (
        f"<p>In Chromium, which decodes the files itself, the web model gives the answer that it gives in Node for "
        f"<b>{_share(node)}</b> of {count_of(node['n_images'], 'photograph')}, and that of the same weights in PyTorch "
        f"for {_share(pytorch)}. Node and PyTorch agree on {_share(other)}.</p>"
    )


def _share(row: Mapping[str, Any]) -> str:
    return DASH if row["value"] is None else f"{percent(row['value'])} %{bracket('', interval(row))}"


def _table(speed: Mapping[str, Any]) -> str:
    rows = speed.get("rows")
    if not rows:
        return ""
    runtimes = list(dict.fromkeys(_runtime(row) for row in rows))
    sizes = {row["size"]: row["macs"] for row in rows}
    found = {(row["size"], _runtime(row)): row for row in rows}
    head = "".join(f"<th scope=col>{escape(runtime)}<small>ms</small></th>" for runtime in runtimes)
    body = ""
    for side, macs in sizes.items():
        shipped = side == speed["size"]
        name = cell(f"{side} px", f"{quantity(macs)} operations", "as it ships" if shipped else "")
        tds = "".join(f"<td>{_times(found.get((side, runtime)))}</td>" for runtime in runtimes)
        body += f'<tr{" class=shipped" if shipped else ""}><th scope="row">{name}</th>{tds}</tr>'
    return (
        f'<h3>Time for one photograph, by its size</h3><div class="scroll"><table class="speed"><thead><tr>'
        f"<th scope=col>Side of the image</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="caption">{_caption(speed, rows)}</p>'
    )


def _runtime(row: Mapping[str, Any]) -> str:
    name: str = row["latency_ms"]["runtime"]
    return name.removeprefix("TensorFlow.js ")


def _times(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return DASH
    latency = row["latency_ms"]
    return cell(
        milliseconds(latency["median"]),
        f"minimum {milliseconds(latency['min'])}",
        f"first answer {row['first_ms'] / 1000:.2g} s",
        f"memory {size(row['peak_bytes'])}" if row["peak_bytes"] else "",
    )


def _caption(speed: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> str:
    latency, processor = rows[0]["latency_ms"], rows[0]["processor"]
    lines = [
        f"TensorFlow.js, the shipped weights; median of {latency['n']} inferences after a warm-up, on one thread"
        f"{f' of {escape(processor)}' if processor else ''}, without decoding and scaling the photograph.",
        "First answer: from starting Node, or opening the page, with nothing cached, to the answer to a first JPEG "
        "file. Memory: the most that the process, or that of the page, has had.",
        f"The weights were trained for {speed['size']} px: at other sizes only the costs are measured.",
    ]
    if any(_SOFTWARE in (row["renderer"] or "") for row in rows):
        lines.append(
            f"{_SOFTWARE}, a program, computed WebGL, for no graphics processor was at hand: the times of WebGL say "
            "nothing about a machine that has one."
        )
    lines += [f"Left out: {escape(_left_out(entry))}." for entry in speed["left_out"]]
    return " ".join(lines)


def _left_out(entry: Mapping[str, Any]) -> str:
    where = f" {entry['runtime']}" if entry["runtime"] else ""
    return f"{entry['size']} px{where} ({entry['why']})"
