"""params.yaml: every mistake is named with its value and what is allowed, before anything runs."""

import copy
from pathlib import Path

import pytest

from bioclip_lite import params as parameters
from bioclip_lite.teacher_cache.ensemble import teacher_sections
from bioclip_lite.utils import yaml_files
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.stage_names import STAGES
from support import checkout

DEFAULT = yaml_files.read(checkout.ROOT / "params.yaml")
PRESETS = sorted(checkout.ROOT.glob("workflow/presets/*.yaml"))
COMPLETE = [checkout.ROOT / "params.yaml", checkout.ROOT / "tests/tiny.yaml", *PRESETS]


@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: path.stem)
def test_the_files_that_we_ship_are_valid(path: Path) -> None:
    assert tuple(parameters.load(path)) == STAGES


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prune.macz", 0.5, "prune has unknown macz; known are budget, importance"),
        ("prune.budget.macz", 0.5, "prune.budget has unknown macz; known are macs, params, bytes, ms"),
        ("prune.budget.macs", 0, "prune.budget.macs is 0; it must be above 0"),
        ("prune.budget", {}, "prune.budget is {}; it must be one of macs, params, bytes, ms with a number"),
        ("prune.budget", {"macs": 0.5, "ms": 3}, "it must be one of macs, params, bytes, ms, not several"),
        ("prune.round_to", 0, "prune.round_to is 0; it must be at least 1"),
        ("index.source", "gbif", "index.source is 'gbif'; it must be one of synthetic, folder"),
        ("index.where", {"clas": ["Aves"]}, "index.where has unknown clas; known are kingdom, phylum, class"),
        ("index.min_side", -1, "index.min_side is -1; it must be at least 1"),
        ("index.split.train", 0.5, "index.split adds up to 0.9; the shares must add up to 1"),
        ("index.synthetic.unseen_species", 64, "unseen_species is 64; it must be below species (64)"),
        ("logits.views", "six", "logits.views is 'six'; it must be of type integer"),
        ("logits.crop_scale", [0.9, 0.2], "logits.crop_scale is [0.9, 0.2]; the smaller value comes first"),
        ("teacher.captions", [], "teacher.captions is []; it must be a list of at least 1"),
        ("teacher.train.text_width", 100, "teacher.train.text_width is 100; it must be a multiple of 64"),
        ("distill.teachers", ["model", "second"], "distill.teachers has unknown second; known are model (see"),
        ("distill.teachers", [], "distill.teachers is []; it must be a list of at least 1"),
        ("evaluate", None, "evaluate is None; it must be of type object"),
        ("evaluate.retrieval", ["scii"], "evaluate.retrieval has unknown scii; did you mean sci; known are sci, com"),
        ("evaluate.prompts.types", ["lit"], "evaluate.prompts.types.0 is 'lit'; it must be one of sci, com, taxon"),
    ],
)
def test_a_mistake_is_named(name: str, value: object, message: str) -> None:
    params = copy.deepcopy(DEFAULT)
    *path, last = name.split(".")
    place = params
    for step in path:
        place = place[step]
    place[last] = value
    with pytest.raises(UserError) as error:
        parameters.check(params)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"seed": 1}], "teacher.ensemble.0 lacks name"),
        ([{"name": "Second"}], "teacher.ensemble.0.name is 'Second'; it must be of the form ^[a-z][a-z0-9_]*$"),
        ([{"name": "model"}], "teacher.ensemble.0.name is 'model'; it must be none of model, features, captions"),
        ([{"name": "second"}, {"name": "second", "seed": 1}], "teacher.ensemble has second twice"),
        ([{"name": "second", "sede": 1}], "teacher.ensemble.second has unknown sede; known are kind, captions"),
        ([{"name": "second", "ensemble": []}], "teacher.ensemble.second has unknown ensemble; known are kind"),
        ([{"name": "second", "kind": "lti"}], "teacher.ensemble.second.kind is 'lti'; it must be one of train, lit"),
        ([{"name": "second", "train": 3}], "teacher.ensemble.second.train is 3; it must be of type object"),
        ([{"name": "second", "lit": {"epochs": 0}}], "teacher.ensemble.second.lit.epochs is 0; it must be at least 1"),
        ([{"name": "second", "captions": ["scii"]}], "teacher.ensemble.second.captions has unknown scii; did you mean"),
    ],
)
def test_a_mistake_in_an_ensemble_names_the_teacher(entries: list[dict[str, object]], message: str) -> None:
    params = copy.deepcopy(DEFAULT)
    params["teacher"]["ensemble"] = entries
    with pytest.raises(UserError) as error:
        parameters.check(params)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_students_answer_in_the_space_of_the_first_teacher() -> None:
    params = copy.deepcopy(DEFAULT)
    params["teacher"]["ensemble"] = [{"name": "second", "seed": 1}]
    params["distill"]["teachers"] = ["second"]
    with pytest.raises(UserError, match=r"distill\.teachers is \['second'\]; model, in whose space .* among them"):
        parameters.check(params)
    params["distill"]["teachers"] = ["model", "second"]
    parameters.check(params)


@pytest.mark.parametrize(("tower", "what"), [(None, "null"), ({"kind": "mixer", "width": 64, "layers": 3}, "a mixer")])
def test_a_text_encoder_for_the_web_needs_a_tower_that_converts(tower: dict[str, object] | None, what: str) -> None:
    params = copy.deepcopy(DEFAULT)
    if tower:
        tower["batch_affinity"] = 1.0
    params["convert"]["text_encoder"], params["distill"]["text_tower"] = "student", tower
    with pytest.raises(UserError, match=f"convert.text_encoder is student, but distill.text_tower is {what};"):
        parameters.check(params)
    params["convert"]["text_encoder"] = "teacher"
    parameters.check(params)


def test_variants_that_are_not_made_cannot_be_evaluated() -> None:
    params = copy.deepcopy(DEFAULT)
    assert params["evaluate"]["also"] == ["first"]
    params["distill"]["finetune"]["epochs"] = 0
    with pytest.raises(UserError, match=r"evaluate.also has first, .* but distill.finetune.epochs is 0"):
        parameters.check(params)
    params["evaluate"]["also"] = ["teacher-second"]
    with pytest.raises(UserError, match=r"also has teacher-second, but teacher.ensemble has no second; .* none"):
        parameters.check(params)
    params["teacher"]["ensemble"] = [{"name": "second", "seed": 1}]
    parameters.check(params)
    params["evaluate"]["also"] = ["teacher-model"]
    with pytest.raises(UserError, match=r"teacher.ensemble has no model; there is second"):
        parameters.check(params)


def test_further_teachers_are_the_first_but_for_what_differs() -> None:
    section = copy.deepcopy(DEFAULT["teacher"])
    options = {"drop_path_rate": 0.1}
    section["ensemble"] = [
        {"name": "second", "seed": 7},
        {"name": "third", "kind": "lit", "lit": {"image_size": 96, "image_tower_options": options}},
    ]
    before = copy.deepcopy(section)
    found = teacher_sections(section)
    assert section == before
    assert list(found) == ["model", "second", "third"]
    first = {name: value for name, value in DEFAULT["teacher"].items() if name != "ensemble"}
    assert found["model"] == first
    assert found["second"] == {**first, "seed": 7}
    # Parts key by key; an entry can also take an option away.
    assert found["third"] == {
        **{**first, "kind": "lit"},
        "lit": {**first["lit"], "image_size": 96, "image_tower_options": options},
    }
    assert teacher_sections(first) == {"model": first}


def test_every_mistake_is_named_at_once() -> None:
    params = copy.deepcopy(DEFAULT)
    params["prune"]["round_to"], params["convert"]["images"] = -7, 0
    with pytest.raises(UserError) as error:
        parameters.check(params)
    assert "prune.round_to is -7" in str(error.value)
    assert "convert.images is 0" in str(error.value)


def test_a_missing_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; run from the root"):
        parameters.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("index: [")
    with pytest.raises(UserError, match="not valid YAML"):
        parameters.load(tmp_path / "params.yaml")


def test_both_engines_refuse_before_anything_runs(tmp_path: Path) -> None:
    folder = checkout.new(tmp_path / "wrong")
    checkout.set_parameter(folder, "prune.steps", 0)
    checkout.set_parameter(folder, "convert.imagez", 3)
    for command in ("snakemake --cores 1 evaluate", "dvc repro"):
        output = checkout.sh(command, folder, check=False)
        assert "prune.steps is 0; it must be at least 1" in output
        assert "convert has unknown imagez" in output
        assert "Traceback" not in output
    assert not (folder / "data/index").exists()


def test_weights_at_the_hub_are_no_missing_file() -> None:
    params = copy.deepcopy(DEFAULT)
    for weights in ("hf-hub:timm/fastvit_t8.apple_in1k", "pretrained"):
        params["distill"]["weights"] = weights
        parameters.check_sources(params)


def test_missing_ingredients_are_named_before_anything_runs(tmp_path: Path) -> None:
    folder = checkout.new(tmp_path / "missing")
    for name, value, message in (
        ("index", {"source": "folder", "path": "data/nowhere"}, "index.path is data/nowhere, but there is no such"),
        ("teacher", {"kind": "lit"}, "teacher.lit.weights is none, but data/weights/none does not exist"),
        (
            "teacher",
            {"ensemble": [{"name": "second", "kind": "lit"}]},
            "teacher.ensemble.second.lit.weights is none, but data/weights/none does not exist",
        ),
        ("distill", {"weights": "start.safetensors"}, "data/weights/start.safetensors does not exist"),
    ):
        params = yaml_files.read(checkout.ROOT / "tests/tiny.yaml")
        params[name] |= value
        (folder / "params.yaml").write_text(yaml_files.dump(params))
        output = checkout.sh("snakemake --cores 1 evaluate", folder, check=False)
        assert message in output
        assert "Traceback" not in output
    assert not (folder / "data/index").exists()
