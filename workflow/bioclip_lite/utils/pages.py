"""Render pages from Jinja2 templates that lie beside the modules that fill them in.

``report/speed.py`` computes what ``report/speed.html.j2`` shows. Templates, style sheets and scripts bear the name of a
module, and so belong to the code of every job that imports the module (``code_fingerprint.closure``).
"""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_PACKAGE = Path(__file__).parents[1]

Filters = dict[str, Callable[..., Any]]


def renderer(filters: Filters) -> Callable[..., Markup]:
    """Return ``render(template, **values)``, which fills in a template named from the package down.

    Everything is escaped, unless it is Markup: what another call of ``render`` returned, or the text of a template.

    Args:
        filters: functions that templates may apply besides those of Jinja2 and of this module.
    """
    environment = Environment(
        loader=FileSystemLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count_of": count_of, "data_uri": data_uri, "grouped": grouped, "sha256": sha256, **filters}

    def render(template: str, **values: Any) -> Markup:
        return Markup(environment.get_template(template).render(**values))

    return render


def count_of(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun: "1 taxon", "2,000 taxa"."""
    return f"{grouped(number)} {singular if number == 1 else plural or singular + 's'}"


def grouped(number: int) -> str:
    """A number with its digits in groups of three."""
    return f"{number:,}"


def data_uri(content: bytes, kind: str) -> str:
    """A file as the address of itself, so that the page asks for no other."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sha256(text: str) -> str:
    """The hash by which a Content-Security-Policy allows an inline script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _printable(value: Any) -> Any:
    """Replace the characters that no page can show (controls, changes of direction, lone surrogates)."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value)
