"""``python -m bioclip_lite.params.reference``: write the files that are generated from the schema of all parameters.

workflow/defaults.yaml           the defaults, which DVC compares
workflow/bioclip_lite/utils/sections.py  the types of all sections, for the signatures of stages
docs/parameters.md               the reference page
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bioclip_lite.utils.defaults import defaults, schema
from bioclip_lite.utils.files import replacing
from bioclip_lite.utils.yaml_files import dump, dump_flow

Part = dict[str, Any]
SOURCE = "workflow/schemas/params.schema.yaml"
COMMAND = "python -m bioclip_lite.params.reference"


def files() -> dict[Path, str]:
    """Path relative to the root of the repository -> content of each generated file."""
    return {
        Path("workflow/defaults.yaml"): defaults_file(),
        Path("workflow/bioclip_lite/utils/sections.py"): types_module(),
        Path("docs/parameters.md"): reference_page(),
    }


def main() -> int:
    for path, content in files().items():
        with replacing(path) as scratch:
            scratch.write_text(content, encoding="utf-8")
    return 0


def resolved(part: Part) -> Part:
    """``part`` with the definition that its $ref names merged in."""
    if "$ref" not in part:
        return part
    own = {name: value for name, value in part.items() if name != "$ref"}
    return {**schema()["$defs"][part["$ref"].rpartition("/")[2]], **own}


# workflow/defaults.yaml


def defaults_file() -> str:
    return (
        f"# The defaults of all parameters, generated from {SOURCE} ({COMMAND}).\n"
        "# Set parameters in params.yaml, which overrides this file. docs/parameters.md describes them.\n"
        f"{dump(defaults())}"
    )


# The types


def types_module() -> str:
    """Python: one TypedDict for each section and for each mapping with fixed keys in one."""
    classes: dict[str, str] = {}
    for name, section in schema()["properties"].items():
        _type_of(section, _class_name(name), classes)
    return (
        f'"""The types of all sections of parameters, generated from {SOURCE}\n'
        f'({COMMAND}).\n\nImport this module for type checking only, so that it is no code input of a job.\n"""\n\n'
        "# fmt: off\n\nfrom typing import Any, Literal, NotRequired, TypedDict\n\n"
        + "".join(f"{name} = {_type_of(part, name, {})}\n" for name, part in _named_choices().items())
        + "".join(f"\n\n{text}" for text in classes.values())
    )


def _named_choices() -> dict[str, Part]:
    """Definitions that are a choice between texts, which get a type of their own."""
    return {_class_name(name): part for name, part in schema()["$defs"].items() if "enum" in part}


def _class_name(*names: str) -> str:
    return "".join(word.title() for name in names for word in name.split("_"))


def _type_of(part: Part, name: str, classes: dict[str, str]) -> str:
    """The Python type of one part; the TypedDicts that it needs are added to ``classes``, innermost first."""
    if "$ref" in part and (choice := _class_name(part["$ref"].rpartition("/")[2])) in _named_choices():
        return choice
    part = resolved(part)
    if "oneOf" in part:
        return " | ".join(_type_of(option, name, classes) for option in part["oneOf"])
    if "enum" in part or "const" in part:
        values = part.get("enum") or [part["const"]]
        named = [f'"{value}"' for value in values if value is not None]
        return f"Literal[{', '.join(named)}]" + (" | None" if None in values else "")
    kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
    return " | ".join(_type_of_kind(kind, part, name, classes) for kind in kinds)


def _type_of_kind(kind: str, part: Part, name: str, classes: dict[str, str]) -> str:
    if kind == "array":
        return f"list[{_type_of(part['items'], name, classes)}]"
    if kind == "object":
        return _type_of_mapping(part, name, classes)
    return {"null": "None", "boolean": "bool", "integer": "int", "number": "float", "string": "str"}[kind]


def _type_of_mapping(part: Part, name: str, classes: dict[str, str]) -> str:
    """A TypedDict if it is known which keys are there, and a dict otherwise or if all values are of one type.

    Code reads mappings of one type, such as shares per split, with variable keys.
    """
    inner, more = part.get("properties", {}), part.get("additionalProperties", {})
    types = {key: _type_of(value, name + _class_name(key), classes) for key, value in inner.items()}
    if (
        more is False
        and ("default" not in part or "required" in part)
        and (len(types) == 1 or len({*types.values()}) > 1)
    ):
        lines = [
            f"    {key}: {f'NotRequired[{kind}]' if _may_be_left_out(part, key) else kind}\n"
            for key, kind in types.items()
        ]
        classes[name] = f"class {name}(TypedDict):\n{''.join(lines)}"
        return name
    kinds = {*types.values(), *([_type_of(more, name, classes)] if more else [])}
    return f"dict[str, {kinds.pop() if len(kinds) == 1 and 'required' not in part else 'Any'}]"


def _may_be_left_out(part: Part, key: str) -> bool:
    """Whether a mapping may lack a key, because others are required and nothing completes it."""
    value = resolved(part["properties"][key])
    completed = "default" in value or value.get("type") == "object"
    return "required" in part and key not in part["required"] and not completed


# docs/parameters.md

_INTRODUCTION = """\
`params.yaml` sets parameters by stage; what it leaves out has the default given here. Write any parameter of this page
into its section of `params.yaml`, or change it for one experiment: `dvc exp run -S prune.epochs=3`. For a parameter
that `params.yaml` leaves out, write `++`: `dvc exp run -S ++prune.steps=3`. A change runs again the stages that read
the parameter and the stages that depend on those.

`params.yaml` must hold every section, `index.path`, `distill.text_tower`, `convert.taxa_bytes` and
`convert.over_budget`, since `dvc.yaml` names them; other sections may be empty (`{}`). Mappings such as `index.split`
may be given in part. Lists, and mappings with a default of their own such as `prune.budget`, replace the default as a
whole."""


def reference_page() -> str:
    """Markdown: a table for each section, in the order of the stages."""
    lines = [
        f"<!-- Generated from {SOURCE} by `{COMMAND}`. Do not edit. -->",
        "",
        "# Parameters",
        "",
        _INTRODUCTION,
    ]
    for name, section in schema()["properties"].items():
        lines += ["", f"## {name}", "", section["description"], "", "| parameter | default | allowed | meaning |"]
        lines += ["|---|---|---|---|", *_rows(section, f"{name}.")]
    return "\n".join(lines) + "\n"


def _rows(part: Part, prefix: str) -> Iterator[str]:
    """Table rows of all parameters in a mapping, nested ones below their parent."""
    required = part.get("required", [])
    for name, raw in part["properties"].items():
        inner, path = resolved(raw), f"{prefix}{name}"
        group = "properties" in inner and "default" not in inner
        default = f"`{dump_flow(inner['default'])}`" if "default" in inner else "required" if name in required else ""
        yield _row(f"`{path}`", default, "" if group else allowed(inner), inner.get("description", ""))
        if group or "required" in inner:
            yield from _rows(inner, f"{path}.")
        elif "properties" in (entry := resolved(inner.get("items", {}))):
            yield from _rows(entry, f"{path}[].")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"


def allowed(part: Part) -> str:
    """The values that one part of the schema allows, in words."""
    part = resolved(part)
    if "oneOf" in part:
        return " or ".join(allowed(option) for option in part["oneOf"])
    if "enum" in part or "const" in part:
        return ", ".join(f"`{dump_flow(value)}`" for value in part.get("enum") or [part["const"]])
    kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
    words = [_allowed_of_kind(kind, part) for kind in kinds if kind != "null"]
    return ", or ".join([*words, "`null`"] if "null" in kinds else words)


def _allowed_of_kind(kind: str, part: Part) -> str:
    if kind == "array":
        return _allowed_list(part)
    if kind == "object":
        return _allowed_mapping(part)
    if kind == "string":
        text = f"text of the form `{part['pattern']}`" if "pattern" in part else "text"
        return text + (f" except {', '.join(part['not']['enum'])}" if "not" in part else "")
    return "`true`, `false`" if kind == "boolean" else f"{kind}{_range(part)}"


def _allowed_list(part: Part) -> str:
    least, most = part.get("minItems", 0), part.get("maxItems")
    size = f" of {least}" if least and least == most else " (not empty)" if least else ""
    inner = resolved(part["items"])
    items = "mappings, see below" if inner.get("type") == "object" else allowed(inner)
    return f"list{size}: {items}"


def _allowed_mapping(part: Part) -> str:
    inner = part.get("properties")
    if not inner or "required" in part:
        return "mapping"
    names = ", ".join(f"`{name}`" for name in inner)
    values = sorted({allowed(value) for value in inner.values()})
    return f"mapping of {'one of ' if part.get('maxProperties') == 1 else ''}{names} to {' or '.join(values)}"


def _range(part: Part) -> str:
    low, above = part.get("minimum"), part.get("exclusiveMinimum")
    high, below = part.get("maximum"), part.get("exclusiveMaximum")
    limits = [f"at least {low}"] if low is not None else [f"above {above}"] if above is not None else []
    limits += [f"at most {high}"] if high is not None else [f"below {below}"] if below is not None else []
    limits += [f"a multiple of {part['multipleOf']}"] if "multipleOf" in part else []
    return ", " + ", ".join(limits) if limits else ""


if __name__ == "__main__":
    sys.exit(main())
