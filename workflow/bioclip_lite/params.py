"""params.yaml, read as DVC reads it and checked against its schema before anything runs.

DVC reads YAML 1.2 with ruamel.yaml: 1e-05 is a number, 010 is ten, ``no`` is text, and a key may not stand twice. To
PyYAML, and so to Snakemake's ``configfile:``, they are text, eight, false, and the last one counts. What one engine
runs must be what the other records, so every reader of parameters calls ``read``.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioclip_lite.evaluation import variant_names
from bioclip_lite.teacher_cache.ensemble import FIRST, teacher_sections
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import parse_yaml
from bioclip_lite.utils.yaml_files import read

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

SCHEMA = Path(__file__).parents[1] / "schemas" / "params.schema.yaml"


def load(path: Path) -> dict[str, Any]:
    """All sections of a parameter file.

    Raises:
        UserError: ``read`` refuses the file, or it breaks the schema; every violation is listed with the name of the
            parameter, the value found and what is allowed.
    """
    params = read(path)
    check(params, path.name)
    return params


def check(params: Any, name: str = "params.yaml") -> None:
    """Raise UserError with one line for each violation of the schema."""
    from bioclip_lite.sources.registry import SOURCES  # jobs get what was checked, and start faster without

    schema = parse_yaml(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["index"]["properties"]["source"] = {"enum": list(SOURCES)}
    lines = sorted({*_not_json(params), *(_explain(error) for error in _violations(params, schema))})
    lines = lines or _of_ensemble(params["teacher"], schema) or _contradictions(params)
    if lines:
        raise UserError(f"{name}: " + ("\n" + " " * len(name) + "  ").join(lines))


def _not_json(value: Any, where: str = "", around: tuple[int, ...] = ()) -> Iterator[str]:
    """What YAML can say and JSON, as which jobs get their parameters, cannot."""
    if id(value) in around:
        yield f"{where} contains itself; write the value out"
    elif isinstance(value, dict):
        for key, item in value.items():
            part = f"{where}.{key}" if where else str(key)
            if isinstance(key, str):
                yield from _not_json(item, part, (*around, id(value)))
            else:
                yield f"{where or 'the file'} has the key {key!r}, which is not text; put it in quotes"
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _not_json(item, f"{where}.{number}", (*around, id(value)))
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is {value}; it must be a finite number"
    elif not isinstance(value, str | int | float | None):
        yield f"{where} is {value}, a {type(value).__name__} to YAML; put it in quotes"


def _violations(value: Any, schema: dict[str, Any]) -> Iterator["ValidationError"]:
    from jsonschema import (
        Draft202012Validator,
    )  # jobs get what was checked, and start faster without

    return Draft202012Validator(schema).iter_errors(value)


def _of_ensemble(section: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """What is wrong with the further teachers: each, as part of the section that it changes, must fit the schema."""
    part = schema["properties"]["teacher"]
    own = {
        **part,
        "$defs": schema["$defs"],
        "required": [name for name in part["required"] if name != "ensemble"],
        "properties": {name: value for name, value in part["properties"].items() if name != "ensemble"},
    }
    names = [FIRST, *(entry["name"] for entry in section["ensemble"])]
    lines = [f"teacher.ensemble has {name} twice" for name in sorted({n for n in names if names.count(n) > 1})]
    for name, teacher in teacher_sections(section).items():
        errors = [] if name == FIRST else _violations(teacher, own)
        lines += sorted(_explain(error, ("teacher", "ensemble", name)) for error in errors)
    return lines


def _explain(error: "ValidationError", above: tuple[str, ...] = ()) -> str:
    where = ".".join(map(str, (*above, *error.absolute_path))) or "the file"
    schema, value = error.schema, error.instance
    if error.validator == "additionalProperties":
        unknown = sorted(map(str, set(value) - set(schema["properties"])))
        return f"{where} has unknown {', '.join(unknown)}; known are {', '.join(schema['properties'])}"
    if error.validator == "required":
        missing = sorted(set(schema["required"]) - set(value))
        return f"{where} lacks {', '.join(missing)}"
    if error.validator == "propertyNames":
        return f"{where} has unknown {error.instance}; known are {', '.join(schema.get('enum', []))}"
    allowed = {
        "type": lambda: f"of type {_either(schema['type'])}",
        "enum": lambda: f"one of {', '.join(map(str, schema['enum']))}",
        "minimum": lambda: f"at least {schema['minimum']}",
        "maximum": lambda: f"at most {schema['maximum']}",
        "exclusiveMinimum": lambda: f"above {schema['exclusiveMinimum']}",
        "exclusiveMaximum": lambda: f"below {schema['exclusiveMaximum']}",
        "minItems": lambda: f"a list of at least {schema['minItems']}",
        "maxItems": lambda: f"a list of at most {schema['maxItems']}",
        "uniqueItems": lambda: "a list without repetitions",
        "minProperties": lambda: f"one of {', '.join(schema['properties'])} with a number",
        "maxProperties": lambda: f"one of {', '.join(schema['properties'])}, not several",
        "minLength": lambda: "a text that is not empty",
        "multipleOf": lambda: f"a multiple of {schema['multipleOf']}",
        "pattern": lambda: f"of the form {schema['pattern']}",
        "not": lambda: f"none of {', '.join(map(str, schema['not']['enum']))}",
    }.get(str(error.validator))
    wanted = allowed() if allowed else error.message
    return f"{where} is {value!r}; it must be {wanted}"


def _unknown_variants(params: dict[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    for variant in params["evaluate"]["also"]:
        name = variant_names.further_teacher(variant)
        if name is None and not params["distill"]["finetune"]["epochs"]:
            yield (
                f"evaluate.also has {variant}, the student before its fine-tuning, but distill.finetune.epochs is 0: "
                "take one of them back"
            )
        elif name == FIRST or (name is not None and name not in known):
            further = ", ".join(other for other in known if other != FIRST) or "none"
            yield f"evaluate.also has {variant}, but teacher.ensemble has no {name}; there is {further}"


def _either(types: str | list[str]) -> str:
    return types if isinstance(types, str) else " or ".join(types)


def _contradictions(params: dict[str, Any]) -> list[str]:
    """What no single value breaks, but two together do."""
    from bioclip_lite.texts import captions  # here for the same reason

    lines = []
    split = params["index"]["split"]
    if abs(sum(split.values()) - 1) > 1e-6:
        lines.append(f"index.split adds up to {sum(split.values()):g}; the shares must add up to 1")
    synthetic = params["index"]["synthetic"]
    if synthetic["unseen_species"] >= synthetic["species"]:
        lines.append(
            f"index.synthetic.unseen_species is {synthetic['unseen_species']}; "
            f"it must be below species ({synthetic['species']})"
        )
    for name, value in (("logits.crop_scale", params["logits"]["crop_scale"]),):
        if value[0] > value[1]:
            lines.append(f"{name} is {value}; the smaller value comes first")
    suites = [suite["name"] for suite in params["evaluate"]["suites"]]
    lines += [f"evaluate.suites has {name} twice" for name in sorted({n for n in suites if suites.count(n) > 1})]
    known = teacher_sections(params["teacher"])
    named = params["distill"]["teachers"]
    lines += [
        f"distill.teachers has unknown {name}; known are {', '.join(known)} (see teacher.ensemble)"
        for name in named
        if name not in known
    ]
    if FIRST not in named:
        lines.append(f"distill.teachers is {named}; {FIRST}, in whose space students answer, must be among them")
    lines += _unknown_variants(params, known)
    tower = params["distill"]["text_tower"]
    if params["convert"]["text_encoder"] == "student" and (tower is None or tower["kind"] == "mixer"):
        lines.append(
            f"convert.text_encoder is student, but distill.text_tower is {'null' if tower is None else 'a mixer'}; the "
            "web model reads towers of kind transformer and own, and the teacher's"
        )
    lines += captions.problems(params["caption"], known[FIRST]["captions"])
    lines += captions.unknown(params["caption"], params["evaluate"]["retrieval"], "evaluate.retrieval")
    for name, teacher in known.items():
        if teacher["captions"] != known[FIRST]["captions"]:
            lines += captions.unknown(params["caption"], teacher["captions"], f"teacher.ensemble.{name}.captions")
    return lines


def check_sources(params: dict[str, Any]) -> None:
    """Raise UserError, before any work, if a folder or a file of weights that the parameters name is not there."""
    index, distill = params["index"], params["distill"]
    indexed = Path("data/provenance/index.json").exists()  # results are of use where the photographs are not
    if index["source"] == "folder" and not Path(index["path"]).is_dir() and not indexed:
        raise UserError(
            f"index.path is {index['path']}, but there is no such folder; put the photographs and metadata.csv there, "
            f"make a link to them, or fetch them (dvc pull {index['path']})"
        )
    if index["source"] != "synthetic" and not Path(index["path"]).exists() and not indexed:
        raise UserError(
            f"index.path is {index['path']}, but there is nothing; put what source {index['source']} reads there, or "
            f"make a link to it"
        )
    for name in ("species_list", "synonyms"):
        if index[name] and not Path("data/lists", index[name]).is_file() and not indexed:
            raise UserError(f"index.{name} is {index[name]}, but data/lists/{index[name]} does not exist; put it there")
    at_the_hub = distill["weights"] == "pretrained" or str(distill["weights"]).startswith("hf-hub:")
    wanted = {"distill.weights": None if at_the_hub else distill["weights"]}
    for name, teacher in teacher_sections(params["teacher"]).items():
        if teacher["kind"] == "lit":
            where = "teacher" if name == FIRST else f"teacher.ensemble.{name}"
            wanted[f"{where}.lit.weights"] = teacher["lit"]["weights"]
    for name, file in wanted.items():
        if file and not Path("data/weights", file).is_file():
            raise UserError(f"{name} is {file}, but data/weights/{file} does not exist; copy the weights there")
    for suite in params["evaluate"]["suites"]:
        if not Path(suite["path"]).is_dir() and not Path("data/provenance/evaluate.json").exists():
            raise UserError(
                f"evaluate.suites: {suite['name']} is in {suite['path']}, but there is no such folder; put the test "
                f"set there, make a link to it, or fetch it (dvc pull {suite['path']})"
            )
    for captioner in params["caption"]["captioners"]:
        kind, _, folder = captioner["model"].partition(":")
        if kind == "local-dir" and not (Path("data/weights", folder).is_dir() or Path(folder).is_dir()):
            raise UserError(
                f"caption.captioners: the model of {captioner['name']} is {captioner['model']}, but there is no folder "
                f"data/weights/{folder}; put it there, or train one: python -m bioclip_lite captioner "
                f"--out data/weights/{folder}"
            )
