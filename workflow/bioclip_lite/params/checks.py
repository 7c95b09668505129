"""The check of params.yaml against its schema, before anything runs.

DVC reads YAML 1.2 with ruamel.yaml: 1e-05 is a number, 010 is ten, ``no`` is text, and a key may not occur twice.
PyYAML, and so Snakemake's ``configfile:``, reads text, eight, false, and the last value. One engine must run what the
other records, so all code reads parameters with ``yaml_files.read``.
"""

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from bioclip_lite.evaluation import variant_names
from bioclip_lite.teacher_cache.ensemble import FIRST, teacher_sections
from bioclip_lite.utils.defaults import SCHEMA, complete, defaults, schema
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import parse_yaml
from bioclip_lite.utils.job_names import FIELDS
from bioclip_lite.utils.yaml_files import read

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

DEFAULTS = SCHEMA.parents[1] / "defaults.yaml"  # DVC compares it; generated from the schema


def load(path: Path) -> dict[str, Any]:
    """All sections of a parameter file, completed with the defaults.

    Raises:
        UserError: ``read`` refuses the file, it breaks the schema, or workflow/defaults.yaml differs from the schema.
            The message lists every violation with the name of the parameter, its value and what is allowed.
    """
    given = read(path)
    check(given, path.name)
    _check_defaults()
    completed: dict[str, Any] = complete(given)
    return completed


def check(params: Any, name: str = "params.yaml") -> None:
    """Check the content of a parameter file, complete or not.

    Raises:
        UserError: the content breaks the schema, or parameters contradict each other; one line for each violation.
    """
    lines = violations(params)
    if not lines:
        completed = complete(params)
        lines = _ensemble_violations(completed["teacher"]) or _contradictions(completed)
    if lines:
        raise UserError(f"{name}: " + ("\n" + " " * len(name) + "  ").join(lines))


def violations(params: Any) -> list[str]:
    """One line for each value of a parameter file's content, complete or not, that the schema refuses."""
    return sorted({*_not_json(params), *(_explain(error) for error in _violations(params, _with_sources(schema())))})


def _with_sources(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy of the schema that allows the sources that exist; ``suites.formats`` checks the layouts of test sets."""
    from bioclip_lite.sources.registry import SOURCES  # jobs get checked parameters, and start faster without

    schema = copy.deepcopy(schema)
    schema["properties"]["index"]["properties"]["source"]["enum"] = list(SOURCES)
    return schema


def _check_defaults() -> None:
    """Both engines must see the same defaults: DVC compares the file, jobs get what the schema says."""
    written = parse_yaml(DEFAULTS.read_text(encoding="utf-8"))
    for name, default in defaults().items():
        if written.get(name) != default:
            raise UserError(
                f"workflow/defaults.yaml: section {name} differs from the defaults in workflow/schemas/{SCHEMA.name}, "
                f"from which the file is generated. To set a parameter, write it to params.yaml (dvc exp run -S "
                f"++{name}.PARAMETER=VALUE). To change a default, edit the schema and run: "
                "python -m bioclip_lite.params.reference"
            )


def _not_json(value: Any, where: str = "", around: tuple[int, ...] = ()) -> Iterator[str]:
    """Describe values that YAML can express but JSON cannot; jobs get their parameters as JSON."""
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
    from jsonschema import Draft202012Validator  # jobs get checked parameters, and start faster without this import

    return Draft202012Validator(schema).iter_errors(value)


def _ensemble_violations(section: dict[str, Any]) -> list[str]:
    """Check each further teacher as the complete section that it stands for."""
    part = schema()["properties"]["teacher"]
    own = {
        **part,
        "$defs": schema()["$defs"],
        "properties": {name: value for name, value in part["properties"].items() if name != "ensemble"},
    }
    names = [FIRST, *(entry["name"] for entry in section["ensemble"])]
    lines = [f"teacher.ensemble has {name} twice" for name in sorted({n for n in names if names.count(n) > 1})]
    for name, teacher in teacher_sections(section).items():
        errors = [] if name == FIRST else _violations(teacher, own)
        lines += sorted(_explain(error, ("teacher", "ensemble", name)) for error in errors)
    return lines


def _explain(error: "ValidationError", above: tuple[str, ...] = ()) -> str:
    """One line for a violation of the schema: which parameter, its value, what is allowed."""
    where = ".".join(map(str, (*above, *error.absolute_path)))
    rules, value = error.schema, error.instance
    if error.validator == "additionalProperties":
        unknown = sorted(map(str, set(value) - set(rules["properties"])))
        return f"{where or 'the file'} has unknown {', '.join(unknown)}; known are {', '.join(rules['properties'])}"
    if error.validator == "required":
        return _missing(where, [name for name in rules["required"] if name not in value])
    if error.validator == "propertyNames":
        return f"{where} has unknown {error.instance}; known are {', '.join(rules.get('enum', []))}"
    allowed = _ALLOWED.get(str(error.validator))
    return f"{where or 'the file'} is {value!r}; it must be {allowed(rules) if allowed else error.message}"


def _missing(where: str, names: list[str]) -> str:
    if not where:
        return f"the file lacks {', '.join(names)}; dvc.yaml names these sections, so write {names[0]}: {{}} at least"
    if where in schema()["properties"]:
        return f"{where} lacks {', '.join(names)}; dvc.yaml reads it from this file, so write it even at its default"
    return f"{where} lacks {', '.join(names)}"


_ALLOWED: dict[str, Callable[[dict[str, Any]], str]] = {  # keyword of the schema -> what it allows, in words
    "oneOf": lambda rules: _one_of(rules),
    "type": lambda rules: f"of type {_either(rules['type'])}",
    "enum": lambda rules: f"one of {', '.join(map(str, rules['enum']))}",
    "minimum": lambda rules: f"at least {rules['minimum']}",
    "maximum": lambda rules: f"at most {rules['maximum']}",
    "exclusiveMinimum": lambda rules: f"above {rules['exclusiveMinimum']}",
    "exclusiveMaximum": lambda rules: f"below {rules['exclusiveMaximum']}",
    "minItems": lambda rules: f"a list of at least {rules['minItems']}",
    "maxItems": lambda rules: f"a list of at most {rules['maxItems']}",
    "uniqueItems": lambda rules: "a list without repetitions",
    "minProperties": lambda rules: f"one of {', '.join(rules['properties'])} with a number",
    "maxProperties": lambda rules: f"one of {', '.join(rules['properties'])}, not several",
    "minLength": lambda rules: "a text that is not empty",
    "multipleOf": lambda rules: f"a multiple of {rules['multipleOf']}",
    "pattern": lambda rules: f"of the form {rules['pattern']}",
    "not": lambda rules: f"none of {', '.join(map(str, rules['not']['enum']))}",
}


def _one_of(rules: dict[str, Any]) -> str:
    from bioclip_lite.params.reference import allowed  # here, because that module is run by its name too

    return allowed(rules)


def _either(types: str | list[str]) -> str:
    return types if isinstance(types, str) else " or ".join(types)


def _contradictions(params: dict[str, Any]) -> list[str]:
    """Describe combinations of values that do not go together; ``params`` are complete and fit the schema."""
    from bioclip_lite.texts import captions  # here, so that jobs, which get checked parameters, start faster

    teachers = teacher_sections(params["teacher"])
    lines = [*_wrong_index(params["index"]), *_wrong_lists(params), *_wrong_teachers(params, teachers)]
    lines += [*_unknown_variants(params, teachers), *_wrong_text_encoder(params), *_wrong_species_lists(params)]
    lines += [*_wrong_splits(params), *_wrong_accumulation(params, teachers), *_wrong_initial_weights(teachers)]
    captioners = params["caption"]["captioners"]
    lines += _wrong_caption_sets(captioners)
    lines += _unknown_captioners(captions.synthetic(params["distill"]["text_tower"])[0], captioners)
    lines += captions.problems(params["caption"], teachers[FIRST]["captions"])
    lines += captions.unknown(params["caption"], params["evaluate"]["retrieval"], "evaluate.retrieval")
    for name, teacher in teachers.items():
        if teacher["captions"] != teachers[FIRST]["captions"]:
            lines += captions.unknown(params["caption"], teacher["captions"], f"teacher.ensemble.{name}.captions")
    return lines


def _wrong_index(index: dict[str, Any]) -> Iterator[str]:
    total, synthetic = sum(index["split"].values()), index["synthetic"]
    if abs(total - 1) > 1e-6:
        yield f"index.split adds up to {total:g}; the shares must add up to 1"
    if synthetic["unseen_species"] >= synthetic["species"]:
        yield (
            f"index.synthetic.unseen_species is {synthetic['unseen_species']}; "
            f"it must be below species ({synthetic['species']})"
        )


def _wrong_lists(params: dict[str, Any]) -> Iterator[str]:
    low, high = params["logits"]["crop_scale"]
    if low > high:
        yield f"logits.crop_scale is {[low, high]}; the smaller value comes first"
    suites = [suite["name"] for suite in params["evaluate"]["suites"]]
    yield from (f"evaluate.suites has {name} twice" for name in sorted({n for n in suites if suites.count(n) > 1}))


def _wrong_splits(params: dict[str, Any]) -> Iterator[str]:
    splits, kept = params["distill"]["splits"], params["index"]["unlabelled"] == "keep"
    if splits[0] != "train":
        yield f"distill.splits is {splits}; train comes first"
    if "unlabelled" in splits and not (kept and params["shard"]["counts"]["unlabelled"]):
        yield (
            "distill.splits has unlabelled, but there are no such photographs: set index.unlabelled to keep and "
            "shard.counts.unlabelled to 1 or more"
        )


def _wrong_caption_sets(captioners: list[dict[str, Any]]) -> Iterator[str]:
    for captioner in captioners:
        asked = captioner.get("fine_tuning") or {}
        for name in ("captions", "images"):
            if asked and ".." in PurePath(asked[name]).parts:
                yield (
                    f"caption.captioners: fine_tuning.{name} of {captioner['name']} is {asked[name]}; it must be in "
                    "data/captions"
                )


def _unknown_captioners(chosen: list[str], captioners: list[dict[str, Any]]) -> Iterator[str]:
    known = [captioner["name"] for captioner in captioners]
    for name in chosen:
        if name not in known:
            yield (
                f"distill.text_tower.synthetic.captioners has unknown {name}; caption.captioners has "
                f"{', '.join(known) or 'none'}"
            )


def _wrong_accumulation(params: dict[str, Any], teachers: Mapping[str, Any]) -> Iterator[str]:
    trained = {stage: params[stage] for stage in ("distill", "prune")}
    for name, teacher in teachers.items():
        if teacher["kind"] in ("train", "lit"):
            above = "teacher" if name == FIRST else f"teacher.ensemble.{name}"
            trained[f"{above}.{teacher['kind']}"] = teacher[teacher["kind"]]
    for name, section in trained.items():
        if section["accumulation"] > 1 and section["batch_size"] < 2 * section["accumulation"]:
            yield (
                f"{name}.accumulation is {section['accumulation']}, but a batch of {section['batch_size']} photographs "
                f"gives {section['batch_size'] // 2} micro-batches of 2 at most; lower accumulation or raise batch_size"
            )


def _wrong_teachers(params: dict[str, Any], teachers: Mapping[str, Any]) -> Iterator[str]:
    chosen = params["distill"]["teachers"]
    for name in chosen:
        if name not in teachers:
            yield f"distill.teachers has unknown {name}; known are {', '.join(teachers)} (see teacher.ensemble)"
    if FIRST not in chosen:
        yield f"distill.teachers is {chosen}; {FIRST}, in whose space students answer, must be among them"


def _wrong_initial_weights(teachers: Mapping[str, Any]) -> Iterator[str]:
    for name, teacher in teachers.items():
        where = "teacher.open_clip" if name == FIRST else f"teacher.ensemble.{name}.open_clip"
        model, pretrained = teacher["open_clip"]["model"], teacher["open_clip"]["pretrained"]
        if teacher["kind"] != "open_clip":
            continue
        if model is None and pretrained is None:
            yield f"{where}.model and {where}.pretrained are null; name an architecture, or weights that say theirs"
        if model and (pretrained or "").startswith(("hf-hub:", "local-dir:")):
            yield (
                f"{where}.model is {model}, but {where}.pretrained is {pretrained}, which has an architecture of its "
                "own; set model to null, or pretrained to a tag or file of that architecture, or to null"
            )


def _unknown_variants(params: dict[str, Any], teachers: Mapping[str, Any]) -> Iterator[str]:
    for variant in params["evaluate"]["also"]:
        name = variant_names.further_teacher(variant)
        if variant == variant_names.BEFORE_FINETUNING and not params["distill"]["finetune"]["epochs"]:
            yield (
                f"evaluate.also has {variant}, the student before its fine-tuning, but distill.finetune.epochs is 0: "
                "take one of them back"
            )
        elif variant == variant_names.ENSEMBLE and len(variant_names.members(params["evaluate"]["also"])) == 1:
            yield f"evaluate.also has {variant}, but no teacher beside the first one; add teacher-NAME for each of them"
        elif name == FIRST or (name is not None and name not in teachers):
            further = ", ".join(other for other in teachers if other != FIRST) or "none"
            yield f"evaluate.also has {variant}, but teacher.ensemble has no {name}; there is {further}"


def _wrong_species_lists(params: dict[str, Any]) -> Iterator[str]:
    files = params["convert"]["lists"]
    names = [PurePath(file).stem.lower() for file in files]
    for file, name in zip(files, names, strict=True):
        if not re.fullmatch(FIELDS["list"], name):
            yield (
                f"convert.lists has {file}, after which a folder is named; rename the file, with English letters, "
                "digits, _ and - only"
            )
        if PurePath(file).is_absolute() or ".." in PurePath(file).parts:
            yield f"convert.lists has {file}; it must be a file in data/lists"
    occurrences = params["convert"]["prior"]
    if occurrences and (PurePath(occurrences).is_absolute() or ".." in PurePath(occurrences).parts):
        yield f"convert.prior is {occurrences}; it must be a file in data/lists"
    for name in sorted({name for name in names if names.count(name) > 1}):
        both = " and ".join(file for file, other in zip(files, names, strict=True) if other == name)
        yield f"convert.lists has {both}, whose bundles would be one folder; rename one of them"


def _wrong_text_encoder(params: dict[str, Any]) -> Iterator[str]:
    if params["convert"]["text_encoder"] == "student" and params["distill"]["text_tower"] is None:
        yield "convert.text_encoder is student, but distill.text_tower is null; give the student one, or take teacher"
