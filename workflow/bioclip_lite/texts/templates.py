"""A plain language for captions of the user's own: ``a photo of {scientific_name}[, commonly {common_name}]``.

A template is text with fields in braces and optional parts in square brackets. There is nothing else in it: no
expressions, no attributes, no formats, no nesting, so a template cannot do anything but name fields.

- ``{field}`` is replaced by its value: a rank (``{kingdom}`` to ``{species}``, which is the epithet),
  ``{scientific_name}``, ``{taxon}`` (all known ranks), ``{supercategory}`` (iNaturalist's iconic group),
  ``{common_name}``, ``{common_name_de}`` for a language.
- ``[...]`` vanishes if a field in it is unknown.
- Outside brackets the scientific name stands in for a common name that is unknown, as in BioCLIP's captions; a rank
  that is unknown leaves nothing behind.
- ``{{``, ``}}``, ``[[`` and ``]]`` are a brace or bracket itself.
- Spaces are written once, however many there are.
"""

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bioclip_lite.utils.errors import UserError

_TOKEN = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{[^{}\[\]]*\}|[{}\[\]]|[^{}\[\]]+")
_LITERAL = {"{{": "{", "}}": "}", "[[": "[", "]]": "]"}


@dataclass(frozen=True)
class Part:
    """A piece of a template: ``words`` are (text, False) or (name of a field, True)."""

    optional: bool
    words: tuple[tuple[str, bool], ...]


Word = tuple[str, bool]  # of Part.words


@functools.cache
def parse(template: str, fields: tuple[str, ...], where: str) -> tuple[Part, ...]:
    """The parts of a template. Raises UserError, which begins with ``where``, for a mistake in it."""
    try:
        parts = tuple(_parts(template, fields))
        if not any(is_field for part in parts for _, is_field in part.words):
            raise _Mistake(f"no field, so all photographs would have the same caption; fields are {', '.join(fields)}")
    except _Mistake as mistake:
        raise UserError(f"{where} is {template!r}: {mistake}") from None
    return parts


class _Mistake(Exception):
    """What is wrong with a template."""


def _parts(template: str, fields: tuple[str, ...]) -> Iterator[Part]:
    words: list[Word] = []
    optional = False
    for token in _TOKEN.findall(template):
        if token not in ("[", "]"):
            words.append(_word(token, fields))
            continue
        _check_bracket(token, words, optional)
        if words:
            yield Part(optional, tuple(words))
        words, optional = [], token == "["
    if optional:
        raise _Mistake("a [ without its ]; [[ is the bracket itself")
    if words:
        yield Part(False, tuple(words))


def _check_bracket(bracket: str, words: Sequence[Word], optional: bool) -> None:
    """Raise _Mistake if a bracket cannot follow ``words``, which are ``optional`` if a bracket is open."""
    if bracket == "[" and optional:
        raise _Mistake("a [ within [ ]; optional parts do not nest, and [[ is the bracket itself")
    if bracket == "]" and not optional:
        raise _Mistake("a ] without its [; ]] is the bracket itself")
    if bracket == "]" and not any(is_field for _, is_field in words):
        raise _Mistake("a part in [ ] without a {field}, which could never vanish; [[ ]] are the brackets themselves")


def _word(token: str, fields: tuple[str, ...]) -> Word:
    if token in _LITERAL:
        return _LITERAL[token], False
    if token in ("{", "}"):
        raise _Mistake(f"a single {token}; fields look like {{genus}}, and {token * 2} is the brace itself")
    if token[0] != "{":
        return token, False
    name = token[1:-1]
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        guess = f"; did you mean {{{near[0]}}}" if near else ""
        raise _Mistake(f"unknown field {{{name}}}{guess}; known are {', '.join(fields)}")
    return name, True


def fill(parts: tuple[Part, ...], values: Mapping[str, str | None]) -> str:
    """The caption that a template gives for the ``values`` of its fields, None where unknown; never empty.

    ``values["scientific_name"]`` must be known: it stands alone where nothing else is left.
    """
    texts = []
    for part in parts:
        filled = [(values[text] or "") if is_field else text for text, is_field in part.words]
        if part.optional and not all(filled):
            continue
        for (text, is_field), value in zip(part.words, filled, strict=True):
            unnamed = is_field and not value and text.startswith("common_name")
            texts.append(str(values["scientific_name"]) if unnamed else value)
    return " ".join("".join(texts).split()) or str(values["scientific_name"])
