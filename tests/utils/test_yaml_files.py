"""params.yaml means the same to DVC, to Snakemake and to us, and what else is given is refused."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.exceptions import InvalidArgumentError
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from bioclip_lite import params
from bioclip_lite.engines import dvc_yaml
from bioclip_lite.engines.snakemake_config import refuse_changes
from bioclip_lite.utils import yaml_files
from bioclip_lite.utils.defaults import SCHEMA as SCHEMA_FILE
from bioclip_lite.utils.defaults import complete, schema
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import parse_yaml
from bioclip_lite.utils.stage_names import STAGES
from support import checkout

SCHEMA = schema()
SAMPLE = yaml_files.read(checkout.ROOT / "params.yaml")

FREQUENT = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_SCALARS = ["no", "010", "1e3", "1e-05", "null", "true", "~", ".5", "1_0", "0x1F", "2024-01-02", "=", "<<", "a: b"]
_MARKS = [
    "it's",
    '"',
    "\\",
    "a\\",
    "\\'",
    "${x}",
    "\\${x}",
    "$",
    "{a}",
    "[a]",
    "a,b",
    "a=b",
    " a ",
    "a #b",
    "\t",
    "é 🐛",
]
# A command line holds no NUL. DVC's own reader cannot read back what its writer makes of the other three characters and
# of text that begins with ? or :. Nor can anybody give OmegaConf ???, its word for what must still be given.
_READABLE = st.characters(exclude_characters="\0\x85\u2028\u2029", exclude_categories=["Cs"])
_ANY = st.text(_READABLE, max_size=12)
TEXT = st.one_of(st.sampled_from(_SCALARS), st.sampled_from(_MARKS), _ANY).filter(
    lambda text: text != "???" and not text.startswith(("?", ":"))
)
FREE = st.recursive(  # of arguments that the schema leaves to timm
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"\A[a-z_]{1,6}\Z"), inner, max_size=3),
    max_leaves=5,
)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Every value that a part of the schema allows."""
    if "$ref" in schema:
        return values(
            {**SCHEMA["$defs"][schema["$ref"].split("/")[-1]], **{k: v for k, v in schema.items() if k != "$ref"}}
        )
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    if "oneOf" in schema:
        return st.one_of(*map(values, schema["oneOf"]))
    if isinstance(schema["type"], list):
        return st.one_of(*(values({**schema, "type": kind}) for kind in schema["type"]))
    found: st.SearchStrategy[Any] = {
        "null": lambda: st.none(),
        "boolean": lambda: st.booleans(),
        "integer": lambda: st.integers(
            -(-schema.get("minimum", -(10**9)) // schema.get("multipleOf", 1)),
            schema.get("maximum", 10**20) // schema.get("multipleOf", 1),
        ).map(lambda number: number * schema.get("multipleOf", 1)),
        "number": lambda: numbers(schema),
        "string": lambda: st.from_regex(schema["pattern"], alphabet=_READABLE) if "pattern" in schema else TEXT,
        "array": lambda: st.lists(
            values(schema["items"]),
            min_size=schema.get("minItems", 0),
            max_size=schema.get("maxItems", 3),
            unique_by=repr if schema.get("uniqueItems") else None,
        ),
        "object": lambda: objects(schema),
    }[schema["type"]]()
    return found.filter(Draft202012Validator({**schema, "$defs": SCHEMA["$defs"]}).is_valid)


def numbers(schema: dict[str, Any]) -> st.SearchStrategy[float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    usual = [value for value in (1, 1e-05, 0.5, 1e-300, 1e20, 12345678901234567.0) if high is None or value <= high]
    return st.sampled_from(usual) | st.floats(low, high, allow_nan=False, allow_infinity=False)


def objects(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    parts = {name: values(part) for name, part in schema.get("properties", {}).items()}
    record = schema.get("additionalProperties") is False and "default" not in schema
    required = list(parts) if record else schema.get("required", [])
    fixed = st.fixed_dictionaries(
        {name: parts[name] for name in required}, optional={name: parts[name] for name in parts if name not in required}
    )
    if schema.get("maxProperties") == 1:
        return st.sampled_from(sorted(parts)).flatmap(lambda name: parts[name].map(lambda value: {name: value}))
    if schema.get("additionalProperties") is False:
        return fixed
    more = values(schema["additionalProperties"]) if "additionalProperties" in schema else FREE
    names = st.from_regex(schema.get("propertyNames", {}).get("pattern", r"\A[a-z_]{1,6}\Z"), fullmatch=True)
    return st.tuples(st.dictionaries(names, more, max_size=3), fixed).map(lambda both: both[0] | both[1])


def overrides(name: str, before: Any, value: Any) -> list[str]:
    """Arguments of -S that change one value into another: a mapping key by key, ~ takes a key away, + adds one."""
    if not (isinstance(before, dict) and isinstance(value, dict)):
        return [f"{name}={literal(value)}"]
    return [
        *(f"~{name}.{key}" for key in before if key not in value),
        *(f"+{name}.{key}={literal(item)}" for key, item in value.items() if key not in before),
        *(line for key in before if key in value for line in overrides(f"{name}.{key}", before[key], value[key])),
    ]


def literal(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{literal(item)}' for key, item in value.items())}}}"
    return json.dumps(value)


def quoted(text: str) -> str:
    """Text as Hydra wants it: what stands before a quote, and at the end, has its backslashes doubled; so has ${."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", text) + "'"


@pytest.mark.parametrize("stage", STAGES)
@FREQUENT
@given(data=st.data())
def test_an_experiment_can_set_every_parameter_to_every_value(stage: str, data: st.DataObject, tmp_path: Path) -> None:
    wanted = data.draw(values(SCHEMA["properties"][stage]))
    path = tmp_path / "params.yaml"
    YAML().dump({stage: SAMPLE[stage]}, path)
    apply_overrides(path, overrides(stage, SAMPLE[stage], wanted))
    found = yaml_files.read(path)
    assert repr(found) == repr(load_yaml(path))
    assert json.dumps(found[stage], sort_keys=True) == json.dumps(wanted, sort_keys=True)


def leaves(part: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and schema of every parameter that has a default of its own."""
    if "default" in part:
        yield name, part
        return
    for key, inner in part["properties"].items():
        yield from leaves(inner, f"{name}.{key}" if name else key)


@pytest.mark.parametrize("stage", STAGES)
@FREQUENT
@given(data=st.data())
def test_two_plus_signs_set_any_parameter_wherever_it_is(stage: str, data: st.DataObject, tmp_path: Path) -> None:
    """dvc exp run -S ++prune.steps=3 sets this parameter alone, whether params.yaml has it already or not."""
    name, part = data.draw(st.sampled_from([*leaves(SCHEMA["properties"][stage], stage)]))
    wanted, expected, path = data.draw(values(part)), complete(SAMPLE), tmp_path / "params.yaml"
    *above, last = name.split(".")
    place = functools.reduce(dict.__getitem__, above, expected)
    in_the_file: Any = SAMPLE
    for key in name.split("."):
        in_the_file = (in_the_file or {}).get(key)
    # DVC merges two mappings, as it does for a single plus sign.
    merged = isinstance(wanted, dict) and isinstance(in_the_file, dict)
    place[last] = _merged(in_the_file, wanted) if merged else wanted
    YAML().dump(SAMPLE, path)
    apply_overrides(path, [f"++{name}={literal(wanted)}"])
    found = complete(yaml_files.read(path))
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


def _merged(before: Any, value: Any) -> Any:
    if not (isinstance(before, dict) and isinstance(value, dict)):
        return value
    return before | {key: _merged(before.get(key), item) for key, item in value.items()}


def test_a_parameter_that_params_yaml_lacks_needs_a_plus_sign_and_dvc_says_so(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    YAML().dump(SAMPLE, path)
    with pytest.raises(InvalidArgumentError) as error:
        apply_overrides(path, ["prune.steps=3"])
    assert "To append to your config use +prune.steps=3" in str(error.value.__cause__)
    apply_overrides(path, ["prune.epochs=3"])
    assert yaml_files.read(path)["prune"]["epochs"] == 3


SCALARS = st.text(st.sampled_from("0179.eE+-_xobaFnulyst~:=<\t #'\"\\[]{},&*!|>%?\x85\ufeff\r\né"), max_size=8)


@pytest.mark.filterwarnings("ignore::ruamel.yaml.error.ReusedAnchorWarning")
@FREQUENT
@given(text=SCALARS)
def test_what_we_read_is_what_dvc_reads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(f"a: {text}\nb: [{text}]\n".encode())
    try:
        found = yaml_files.read(path)
    except UserError as error:
        assert re.match(rf"{path}, (line \d+: |a value that looks like a number is none)", str(error))
        return
    assert repr(found) == repr(load_yaml(path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-05", 1e-05),
        ("2e-3", 2e-3),
        ("1e+20", 1e20),
        (".5", 0.5),
        ("010", 10),
        ("0o10", 8),
        ("1_000", 1000),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("~", None),
        ("TRUE", True),
    ],
)
def test_yaml_is_that_of_version_1_2(text: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"a: {text}\n")
    found = yaml_files.read(tmp_path / "params.yaml")["a"]
    assert (type(found), found) == (type(value), value)
    assert parse_yaml(yaml_files.dump({"a": value})) is not None
    (tmp_path / "params.yaml").write_text(yaml_files.dump({"a": value}))
    assert yaml_files.read(tmp_path / "params.yaml") == {"a": value}


@pytest.mark.parametrize("value", [1e-8, 2.5e-8, 1e20, 0.1, 3.0, float("inf")])
def test_a_number_that_we_write_is_one_in_both_versions(value: float, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml_files.dump({"a": value}))
    assert parse_yaml((tmp_path / "params.yaml").read_text()) == {"a": value}
    assert yaml_files.read(tmp_path / "params.yaml") == {"a": value}


def test_what_libyaml_reads_for_us_says_the_same_in_both_versions() -> None:
    for path in (checkout.ROOT / "dvc.yaml", SCHEMA_FILE, checkout.ROOT / "workflow/defaults.yaml"):
        assert parse_yaml(path.read_text("utf-8")) == load_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: 2\na: 3\n", "line 3: a is there twice; remove one of them"),
        (b"a:\n\tb: 2\n", "line 2: there is a tab, which YAML does not allow here; use spaces"),
        (b"# Gr\xf6\xdfe\na: 1\n", "line 1: byte 0xF6 is not UTF-8; save the file as UTF-8"),
        (b"a: 1\nb: \xff\n", "line 2: byte 0xFF is not UTF-8"),
        (b"a: 1\nb: \x07\n", "line 2: the character U+0007 is not allowed; remove it"),
        (b"a: b: c\n", "line 1: this is not valid YAML (mapping values are not allowed here); correct it"),
        (b"a: 1\n--- \nb: 2\n", "line 2: this is not valid YAML (but found another document)"),
        (b"a: ._\n", "a value that looks like a number is none (could not convert string to float: '.'); put it in"),
        (b"- 1\n", "line 1: the file holds no mapping, but [1]; it must have sections"),
        (b"", "line 1: the file holds no mapping, but nothing; it must have sections"),
    ],
)
def test_a_broken_file_is_a_sentence_with_its_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        yaml_files.read(path)
    assert str(error.value).startswith(f"{path}, {message}")
    assert "\n" not in str(error.value)


def test_a_folder_and_a_byte_order_mark(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        yaml_files.read(tmp_path)
    (tmp_path / "params.yaml").write_bytes("a: Łódź\r\n".encode("utf-8-sig"))
    assert yaml_files.read(tmp_path / "params.yaml") == load_yaml(tmp_path / "params.yaml") == {"a": "Łódź"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{when: 2024-01-02}", "distill.student_options.when is 2024-01-02, a date to YAML; put it in quotes"),
        ("{data: !!binary aGk=}", "distill.student_options.data is b'hi', a bytes to YAML; put it in quotes"),
        ("{1: 2}", "distill.student_options has the key 1, which is not text; put it in quotes"),
        ("{rate: .nan}", "distill.student_options.rate is nan; it must be a finite number"),
        ("{rates: [1, 1e999]}", "distill.student_options.rates.1 is inf; it must be a finite number"),
        ("&own {deep: [*own]}", "distill.student_options.deep.0 contains itself; write the value out"),
    ],
)
def test_what_json_cannot_hold_is_named(text: str, message: str, tmp_path: Path) -> None:
    tiny = (checkout.ROOT / "tests/tiny.yaml").read_text("utf-8")
    (tmp_path / "params.yaml").write_text(tiny.replace("distill:\n", f"distill:\n  student_options: {text}\n"))
    with pytest.raises(UserError) as error:
        params.load(tmp_path / "params.yaml")
    assert str(error.value) == f"params.yaml: {message}"


def test_a_path_in_dvc_yaml_may_look_like_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  index:\n    deps: ['${index.path}']\n    outs: [data/index, data/provenance/index.json]\n"
    )
    for path in ("010", "my #1: photos", "no"):
        (tmp_path / "params.yaml").write_text(yaml_files.dump({"index": {"path": path}}))
        dvc_yaml.dvc_stages.cache_clear()
        assert dvc_yaml.dvc_stages()["index"]["deps"] == [path]
    dvc_yaml.dvc_stages.cache_clear()


# --------------------------------------------------------------------------- Snakemake's options

RECORDED = {"index": {"seed": 0, "where": {}, "path": "a"}, "prune": {"steps": 1}}


@pytest.mark.parametrize(
    ("files", "options", "alone", "message"),
    [
        (
            [],
            {"index": {"seed": 5}},
            False,
            "index.seed is 5 by --config, --configfile or a profile, but is 0 in params",
        ),
        ([], {"index": {"seed": "0"}}, False, None),  # Snakemake takes text from nested options
        ([], {"index": {"seed": "1"}}, False, "index.seed is 1 by"),
        ([], {"index": {"seed": "false"}}, False, "index.seed is False by"),
        ([], {"index": {"seed": "none"}}, False, "index.seed is 'none' by"),
        ([], {"index": {"sed": 0}}, False, "index.sed is 0 by --config, --configfile or a profile, but is missing in"),
        ([], {"index": 3}, False, "index is 3 by"),
        ([], {"index": {"where": {"class": ["Aves"]}}}, False, "index.where.class is \\['Aves'\\] by"),
        (["index: {seed: 5}"], {}, False, "index.seed is 5 by"),
        (["index: {seed: 5}", "index: {seed: 0}"], {}, False, None),
        (["index: {seed: 5}"], {"index": {"seed": 0}}, False, None),
        (["index: {seed: 0}"], {}, False, None),
        (["index: {seed: 0}"], {}, True, "index.where is missing by"),
        (["index: {seed: 0, where: {}, path: a}"], {}, True, "prune is missing by"),
        (["index: {seed: 0, where: {}, path: a}\nprune: {steps: 1}"], {}, True, None),
        (["index: {seed: false}"], {}, False, "index.seed is False by"),
        (["index: {seed: 1, seed: 0}"], {}, False, "line 1: seed is there twice"),
        ([], {}, True, None),  # Snakemake replaces nothing by nothing
        ([], {}, False, None),
    ],
)
def test_a_config_may_only_repeat_params_yaml(
    files: list[str], options: dict[str, Any], alone: bool, message: str | None, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.yaml" for number in range(len(files))]
    for path, text in zip(paths, files, strict=True):
        path.write_text(text)
    if message is None:
        refuse_changes(RECORDED, paths, options, alone)
        return
    with pytest.raises(UserError, match=message):
        refuse_changes(RECORDED, paths, options, alone)


@pytest.mark.pipeline
def test_what_ran_is_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkout.new(tmp_path / "run")
    (folder / "mine.yaml").write_text("index: {seed: 5}\n")
    (folder / "site").mkdir()
    (folder / "site/config.yaml").write_text("config: ['index={\"seed\": 1}']\n")
    for command, value in (
        ("snakemake --cores 1 --configfile mine.yaml -- index", "5"),
        ("SNAKEMAKE_PROFILE=site snakemake --cores 1 -- index", "1"),
    ):
        output = checkout.sh(command, folder, check=False)
        assert f"index.seed is {value} by --config, --configfile or a profile, but is 0 in params.yaml" in output
        assert "Traceback" not in output
    assert not (folder / "data/index").exists()
    # The same values are no other ones; job processes get the options too, and read the file as the main process did.
    checkout.sh("snakemake --mode subprocess --configfile mine.yaml -n -- index", folder)
    output = checkout.sh("dvc exp run -S ++index.reject_budget=0.00001 -S ++index.seed=10 index", folder)
    assert "Ran experiment" in output
    recorded = load_yaml(folder / "dvc.lock")["stages"]["index"]["params"]["params.yaml"]["index"]
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text("utf-8").replace("seed: 10", "seed: 010", 1))
    assert recorded == yaml_files.read(folder / "params.yaml")["index"]
    assert (recorded["reject_budget"], recorded["seed"]) == (1e-05, 10)
    made_with = json.loads((folder / "data/provenance/index.json").read_text("utf-8"))["definitions"]
    completed = complete({"index": recorded})["index"]
    assert any(
        json.dumps(completed, sort_keys=True) in text for definition in made_with for text in definition["params"]
    )
    # 010 is 10, by --configfile as well.
    assert "Nothing to be done" in checkout.sh("snakemake -n --configfile params.yaml -- index", folder)
    assert "index" not in checkout.changed(folder)
