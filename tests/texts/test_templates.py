"""The template language: what it says, what it refuses, and that it can do nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioclip_lite.texts.templates import fill, parse
from bioclip_lite.utils.errors import UserError

FIELDS = ("class", "genus", "common_name", "common_name_de", "scientific_name")
BEE = {"class": "Insecta", "genus": "Apis", "common_name": "honey bee", "common_name_de": None}
BEE["scientific_name"] = "Apis mellifera"
NOTHING = dict.fromkeys(FIELDS) | {"scientific_name": "Apis mellifera"}


def say(template: str, values: dict[str, str | None] = BEE) -> str:
    return fill(parse(template, FIELDS, "it"), values)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a {class} called {common_name}", "a Insecta called honey bee"),
        ("a photo of {scientific_name}[, commonly {common_name}].", "a photo of Apis mellifera, commonly honey bee."),
        ("a photo of {scientific_name}[, German {common_name_de}].", "a photo of Apis mellifera."),
        ("{common_name_de}, a {class}", "Apis mellifera, a Insecta"),  # outside brackets, as in BioCLIP
        ("  two   {genus}\n\tlines ", "two Apis lines"),
        ("{{{genus}}} [[{class}]] [ [[{genus}]]]", "{Apis} [Insecta] [Apis]"),
        ("[{common_name_de}]{genus}[ or {class} and {common_name_de}]", "Apis"),
    ],
)
def test_what_templates_say(template: str, expected: str) -> None:
    assert say(template) == expected


def test_unknown_ranks_leave_nothing_and_the_scientific_name_is_the_last_resort() -> None:
    assert say("a {class} of {genus} {scientific_name}", NOTHING) == "a of Apis mellifera"
    assert say("{genus}", NOTHING) == say("[{genus} {class}]", NOTHING) == "Apis mellifera"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("a {genuss}", "unknown field {genuss}; did you mean {genus}; known are class, genus"),
        ("a {class.__class__}", "unknown field {class.__class__}"),
        ("a {genus!r} {class:>9}", "unknown field"),
        ("a {} b", "unknown field"),
        ("a { genus }", "unknown field"),
        ("a {genus", "a single {"),
        ("a genus}", "a single }"),
        ("[a {genus} [b {class}]]", "do not nest"),
        ("[a {genus}", "without its ]"),
        ("a {genus}]", "without its ["),
        ("[a] {genus}", "could never vanish"),
        ("a photo", "no field"),
        ("{genus[0]}", "a single {"),
        ("{% if genus %}x{% endif %}{genus}", "unknown field"),
        ("[{genus}]]", "without its ]"),
    ],
)
def test_mistakes_are_named(template: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        say(template)
    assert str(error.value).startswith(f"it is {template!r}: ")
    assert why in str(error.value)


@given(st.text("{}[] abcgenus_.!", max_size=30))
def test_any_text_is_a_caption_or_a_named_mistake(template: str) -> None:
    try:
        caption = say(template)
    except UserError:
        return
    assert caption and "  " not in caption and caption == caption.strip()


@given(st.text(max_size=20), st.text(max_size=20))
def test_doubled_signs_are_the_signs_and_values_are_never_read_as_templates(text: str, value: str) -> None:
    escaped = "".join(sign * 2 if sign in "{}[]" else sign for sign in text)
    values = {**BEE, "genus": value}
    assert say(escaped + "|{genus}", values) == " ".join(f"{text}|{value}".split())


@given(st.sets(st.sampled_from(FIELDS[:4])))
def test_optional_parts_are_there_exactly_if_all_their_fields_are_known(known: set[str]) -> None:
    values = {name: f"<{name}>" if name in known else None for name in FIELDS} | {"scientific_name": "S s"}
    caption = say("{scientific_name}[ A {class} {genus}][ B {common_name_de}]", values)
    assert caption == "S s" + " A <class> <genus>" * ({"class", "genus"} <= known) + (
        " B <common_name_de>" * ("common_name_de" in known)
    )
