"""A plain language for captions of the user's own: ``a photo of {scientific_name}[, commonly {common_name}]``.

A template is text with fields in braces and optional parts in square brackets. There is nothing else in it: no
expressions, no attributes, no formats, no nesting, so a template cannot do anything but name fields.

- ``{field}`` is replaced by its value: a rank (``{kingdom}`` to ``{species}``, which is the epithet),
  ``{scientific_name}``, ``{taxon}`` (all known ranks), ``{common_name}``, ``{common_name_de}`` for a language.
- ``[...]`` vanishes if a field in it is unknown.
- Outside brackets the scientific name stands in for a common name that is unknown, as in BioCLIP's captions; a rank
  that is unknown leaves nothing behind.
- ``{{``, ``}}``, ``[[`` and ``]]`` are a brace or bracket itself.
- Spaces are written once, however many there are.
"""

import difflib
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bioclip_lite.utils.errors import UserError

_TOKEN = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{[^{}\[\]]*\}|[{}\[\]]|[^{}\[\]]+")
_ITSELF = {"{{": "{", "}}": "}", "[[": "[", "]]": "]"}


@dataclass(frozen=True)
class Part:
    """A piece of a template: ``words`` are (text, False) or (name of a field, True)."""

    optional: bool
    words: tuple[tuple[str, bool], ...]


@functools.cache
def parse(template: str, fields: tuple[str, ...], where: str) -> tuple[Part, ...]:
    """The parts of a template. Raises UserError, which begins with ``where``, for a mistake in it."""
    parts: list[Part] = []
    words: list[tuple[str, bool]] = []
    optional = False

    def close() -> None:
        if words:
            parts.append(Part(optional, tuple(words)))
            words.clear()

    def wrong(what: str) -> UserError:
        return UserError(f"{where} is {template!r}: {what}")

    for token in _TOKEN.findall(template):
        if token in _ITSELF:
            words.append((_ITSELF[token], False))
        elif token == "[":
            if optional:
                raise wrong("a [ within [ ]; optional parts do not nest, and [[ is the bracket itself")
            close()
            optional = True
        elif token == "]":
            if not optional:
                raise wrong("a ] without its [; ]] is the bracket itself")
            if not any(is_field for _, is_field in words):
                raise wrong(
                    "a part in [ ] without a {field}, which could never vanish; [[ ]] are the brackets themselves"
                )
            close()
            optional = False
        elif token in ("{", "}"):
            raise wrong(f"a single {token}; fields look like {{genus}}, and {token * 2} is the brace itself")
        elif token[0] == "{":
            words.append((_known(token[1:-1], fields, wrong), True))
        else:
            words.append((token, False))
    if optional:
        raise wrong("a [ without its ]; [[ is the bracket itself")
    close()
    if not any(is_field for part in parts for _, is_field in part.words):
        raise wrong(f"no field, so it would say the same of every photograph; fields are {', '.join(fields)}")
    return tuple(parts)


def _known(name: str, fields: tuple[str, ...], wrong: Callable[[str], UserError]) -> str:
    if name in fields:
        return name
    near = difflib.get_close_matches(name, fields, n=1)
    guess = f"; did you mean {{{near[0]}}}" if near else ""
    raise wrong(f"unknown field {{{name}}}{guess}; known are {', '.join(fields)}")


def fill(parts: tuple[Part, ...], values: Mapping[str, str | None]) -> str:
    """The caption that a template gives for the ``values`` of its fields, None where unknown; never empty.

    ``values["scientific_name"]`` must be known: it stands alone where nothing else is left.
    """
    said = []
    for part in parts:
        found = [(values[text] or "") if is_field else text for text, is_field in part.words]
        if part.optional and not all(found):
            continue
        for (text, is_field), value in zip(part.words, found, strict=True):
            unnamed = is_field and not value and text.startswith("common_name")
            said.append(str(values["scientific_name"]) if unnamed else value)
    return " ".join("".join(said).split()) or str(values["scientific_name"])
