"""params.yaml, checked against its schema before anything runs."""

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from bioclip_lite import texts
from bioclip_lite.errors import UserError

STAGES = (
    "index",
    "shard",
    "caption",
    "teacher",
    "logits",
    "distill",
    "prune",
    "quantize",
    "convert",
    "evaluate",
)
SCHEMA = Path(__file__).parents[1] / "schemas" / "params.schema.yaml"


def load(path: Path) -> dict[str, Any]:
    """All sections of a parameter file.

    Raises:
        UserError: the file is missing, is no YAML, or breaks the schema; every violation is listed with the name of
            the parameter, the value found and what is allowed.
    """
    try:
        params = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run from the root of the repository") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    check(params, path.name)
    return params


def check(params: Any, name: str = "params.yaml") -> None:
    """Raise UserError with one line for each violation of the schema."""
    validator = Draft202012Validator(yaml.safe_load(SCHEMA.read_text()))
    lines = sorted(_explain(error) for error in validator.iter_errors(params))
    if not lines:
        lines = _contradictions(params)
    if lines:
        raise UserError(f"{name}: " + ("\n" + " " * len(name) + "  ").join(lines))


def _explain(error: ValidationError) -> str:
    where = ".".join(map(str, error.absolute_path)) or "the file"
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
        "minLength": lambda: "a text that is not empty",
    }.get(str(error.validator))
    wanted = allowed() if allowed else error.message
    return f"{where} is {value!r}; it must be {wanted}"


def _either(types: str | list[str]) -> str:
    return types if isinstance(types, str) else " or ".join(types)


def _contradictions(params: dict[str, Any]) -> list[str]:
    """What no single value breaks, but two together do."""
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
    return lines + texts.problems(params["caption"], params["teacher"]["captions"])


def check_sources(params: dict[str, Any]) -> None:
    """Raise UserError, before any work, if a folder or a file of weights that the parameters name is not there."""
    index, teacher, distill = params["index"], params["teacher"], params["distill"]
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
    wanted = {"distill.weights": distill["weights"]}
    if teacher["kind"] == "lit":
        wanted["teacher.lit.weights"] = teacher["lit"]["weights"]
    for name, file in wanted.items():
        if file and not Path("data/weights", file).is_file():
            raise UserError(f"{name} is {file}, but data/weights/{file} does not exist; copy the weights there")
    for captioner in params["caption"]["captioners"]:
        kind, _, folder = captioner["model"].partition(":")
        if kind == "local-dir" and not (Path("data/weights", folder).is_dir() or Path(folder).is_dir()):
            raise UserError(
                f"caption.captioners: the model of {captioner['name']} is {captioner['model']}, but there is no folder "
                f"data/weights/{folder}; put it there, or train one: python -m bioclip_lite captioner "
                f"--out data/weights/{folder}"
            )
