"""params.yaml: every mistake is named with its value and what is allowed, before anything runs."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints, is_typeddict

import pytest

from bioclip_lite import params as parameters
from bioclip_lite.params import checks, jobs, reference
from bioclip_lite.teacher_cache.ensemble import teacher_sections
from bioclip_lite.utils import sections, yaml_files
from bioclip_lite.utils.defaults import complete, defaults, schema
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import parse_yaml
from bioclip_lite.utils.stage_names import STAGES
from support import checkout

DEFAULT = parameters.load(checkout.ROOT / "params.yaml")
PRESETS = sorted(checkout.ROOT.glob("workflow/presets/*.yaml"))
SHIPPED = [checkout.ROOT / "params.yaml", checkout.ROOT / "tests/tiny.yaml", *PRESETS]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
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
        (
            "teacher.lit.warm_up",
            1.5,
            "lit.warm_up is 1.5; it must be number, at least 0, below 1 or integer, at least 1",
        ),
        ("distill.betas", [0.9, 1], "distill.betas.1 is 1; it must be below 1"),
        ("distill.eps", 0, "distill.eps is 0; it must be above 0"),
        ("prune.precision", "half", "prune.precision is 'half'; it must be one of auto, float32, bfloat16, float16"),
        ("prune.accumulation", 17, "prune.accumulation is 17, but a batch of 32 photographs gives 16 micro-batches"),
        ("teacher.train.accumulation", 65, "teacher.train.accumulation is 65, but a batch of 128 photographs gives"),
        (
            "teacher",
            {"kind": "open_clip", "open_clip": {"pretrained": None}},
            "open_clip.model and teacher.open_clip.pret",
        ),
        (
            "teacher",
            {"kind": "open_clip", "open_clip": {"model": "ViT-B-16"}},
            "hf-hub:imageomics/bioclip, which has an",
        ),
        ("distill.teachers", ["model", "second"], "distill.teachers has unknown second; known are model (see"),
        ("distill.splits", ["unlabelled"], "distill.splits is ['unlabelled']; train comes first"),
        ("distill.splits", ["train", "unlabelled"], "no such photographs: set index.unlabelled to keep and"),
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
        (
            [{"name": "model"}],
            "teacher.ensemble.0.name is 'model'; it must be none of model, features, initial, captions",
        ),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": "/a"}, "fine_tuning.images is '/a'; it must be of the form"),
        ({"images": "a/../../b"}, "fine_tuning.images of coca is a/../../b; it must be in data/captions"),
        ({"epochs": 0}, "fine_tuning.epochs is 0; it must be at least 1"),
        ({"photos": "a"}, "fine_tuning has unknown photos; known are captions, images, epochs"),
    ],
)
def test_a_mistake_in_a_fine_tuning_is_named(change: dict[str, object], message: str) -> None:
    params = copy.deepcopy(DEFAULT)
    params["caption"]["captioners"] = [{**CAPTIONER, "fine_tuning": {**FINE_TUNING, **change}}]
    with pytest.raises(UserError) as error:
        parameters.check(params)
    assert message in str(error.value)


def test_a_prompt_has_words_and_no_full_stop() -> None:
    params = copy.deepcopy(DEFAULT)
    for prompt in (" ", "st. john"):
        params["caption"]["captioners"] = [{**CAPTIONER, "prompt": prompt}]
        with pytest.raises(UserError, match="prompt is"):
            parameters.check(params)
    params["caption"]["captioners"] = [{**CAPTIONER, "prompt": "a photo of"}]
    parameters.check(params)


def test_a_text_tower_learns_from_captioners_that_there_are() -> None:
    params = copy.deepcopy(DEFAULT)
    tower: dict[str, Any] = {"kind": "mixer", "width": 64, "layers": 3, "batch_affinity": 1.0}
    params["distill"]["text_tower"] = {**tower, "synthetic": {"captioners": ["coca"], "share": 0.5}}
    with pytest.raises(UserError, match=r"synthetic\.captioners has unknown coca; caption\.captioners has none"):
        parameters.check(params)
    params["caption"]["captioners"] = [CAPTIONER]
    parameters.check(params)
    params["distill"]["text_tower"]["synthetic"]["share"] = 0
    with pytest.raises(UserError, match=r"synthetic\.share is 0; it must be above 0"):
        parameters.check(params)


def test_students_answer_in_the_space_of_the_first_teacher() -> None:
    params = copy.deepcopy(DEFAULT)
    params["teacher"]["ensemble"] = [{"name": "second", "seed": 1}]
    params["distill"]["teachers"] = ["second"]
    with pytest.raises(UserError, match=r"distill\.teachers is \['second'\]; model, in whose space .* among them"):
        parameters.check(params)
    params["distill"]["teachers"] = ["model", "second"]
    parameters.check(params)


def test_a_text_encoder_of_the_student_needs_a_tower() -> None:
    params = copy.deepcopy(DEFAULT)
    params["convert"]["text_encoder"] = "student"
    with pytest.raises(UserError, match=r"convert\.text_encoder is student, but distill\.text_tower is null;"):
        parameters.check(params)
    params["distill"]["text_tower"] = {"kind": "mixer", "width": 64, "layers": 3, "batch_affinity": 1.0}
    parameters.check(params)


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (["my list.csv"], "has my list.csv, after which a folder is named; rename the file"),
        (["b\u00e4ume.txt"], "after which a folder is named"),
        (["Alps.csv", "alps.txt"], "has Alps.csv and alps.txt, whose bundles would be one folder"),
        (["/lists/alps.csv"], "it must be a file in data/lists"),
        (["../alps.csv"], "it must be a file in data/lists"),
    ],
)
def test_bundles_of_species_lists_are_named_after_their_files(files: list[str], what: str) -> None:
    params = copy.deepcopy(DEFAULT)
    params["convert"]["lists"] = files
    with pytest.raises(UserError, match=re.escape(what)):
        parameters.check(params)
    params["convert"]["lists"] = ["alps.csv", "Coast_2.txt"]
    parameters.check(params)
    with pytest.raises(UserError, match=r"convert\.lists has alps\.csv, but data/lists/alps\.csv does not exist"):
        parameters.check_sources(params)


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


def test_an_ensemble_needs_no_finetuning_but_a_second_teacher() -> None:
    params = copy.deepcopy(DEFAULT)
    params["distill"]["finetune"]["epochs"] = 0
    params["evaluate"]["also"] = ["ensemble"]
    with pytest.raises(UserError, match=r"also has ensemble, but no teacher beside the first one"):
        parameters.check(params)
    params["teacher"]["ensemble"] = [{"name": "second", "seed": 1}]
    params["evaluate"]["also"] = ["teacher-second", "ensemble"]
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
        ("index", {"taxonomy": "gbif"}, "index.taxonomy is gbif, but data/lists/gbif does not exist"),
        ("teacher", {"kind": "lit"}, "teacher.lit.weights is none, but data/weights/none does not exist"),
        (
            "teacher",
            {"ensemble": [{"name": "second", "kind": "lit"}]},
            "teacher.ensemble.second.lit.weights is none, but data/weights/none does not exist",
        ),
        ("distill", {"weights": "start.safetensors"}, "data/weights/start.safetensors does not exist"),
    ):
        params = yaml_files.read(checkout.ROOT / "tests/tiny.yaml")
        params[name] = {**params[name], **value}
        (folder / "params.yaml").write_text(yaml_files.dump(params))
        output = checkout.sh("snakemake --cores 1 evaluate", folder, check=False)
        assert message in output
        assert "Traceback" not in output
    assert not (folder / "data/index").exists()


def test_the_sample_has_the_parameters_that_its_published_figures_come_from() -> None:
    pinned = json.loads((checkout.ROOT / "tests/sample_params.json").read_text("utf-8"))
    assert json.dumps(DEFAULT) == json.dumps(pinned)


def test_the_file_that_a_newcomer_edits_is_short() -> None:
    given = yaml_files.read(checkout.ROOT / "params.yaml")
    assert sum(map(len, given.values())) <= 19
    assert len((checkout.ROOT / "params.yaml").read_text("utf-8").splitlines()) < 50


def test_defaults_fit_the_schema() -> None:
    parameters.check(defaults())
    assert complete({}) == defaults()


def test_a_mapping_is_completed_key_by_key_and_a_value_with_a_default_is_replaced() -> None:
    completed = complete({"index": {"split": {"train": 0.3, "test": 0.5}}, "prune": {"budget": {"bytes": 400000}}})
    assert completed["index"]["split"] == {"train": 0.3, "val": 0.1, "calibration": 0.1, "test": 0.5}
    assert completed["prune"] == defaults()["prune"] | {"budget": {"bytes": 400000}}
    given: dict[str, dict[str, Any]] = {"prune": {"budget": {"macs": 0.1}}}
    complete(given)["prune"]["budget"]["macs"] = 7
    assert given == {"prune": {"budget": {"macs": 0.1}}}
    complete({})["teacher"]["captions"].clear()
    assert defaults()["teacher"]["captions"]


def test_presets_hold_only_what_differs_from_the_defaults() -> None:
    for path in PRESETS:
        given = yaml_files.read(path)
        for name, section in given.items():
            needed = {"path", "text_tower", "taxa_bytes", "over_budget"}  # dvc.yaml reads them from params.yaml
            same = {key for key, value in section.items() if complete({name: {key: value}}) == defaults()}
            assert same <= needed, f"{path}: {name}.{same - needed}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shard", "the file lacks shard; dvc.yaml names these sections, so write shard: {} at least"),
        ("distill.text_tower", "distill lacks text_tower; dvc.yaml reads it from this file, so write it even at its"),
        ("index.path", "index lacks path; dvc.yaml reads it from this file"),
        ("convert.over_budget", "convert lacks over_budget; dvc.yaml reads it from this file"),
    ],
)
def test_what_dvc_reads_must_be_in_the_file(text: str, message: str, tmp_path: Path) -> None:
    given = yaml_files.read(checkout.ROOT / "params.yaml")
    *above, last = text.split(".")
    (given[above[0]] if above else given).pop(last)
    (tmp_path / "params.yaml").write_text(yaml_files.dump(given))
    with pytest.raises(UserError, match=re.escape(message)):
        parameters.load(tmp_path / "params.yaml")


def test_every_parameter_that_dvc_yaml_names_must_be_in_the_file() -> None:
    """DVC fails on a name that its file lacks, and compares the defaults of the same names."""
    stages = parse_yaml((checkout.ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
    named = {name: stage["params"] for name, stage in stages.items() if "params" in stage}
    assert set(named) >= set(STAGES)
    for entries in named.values():
        *names, fallback = entries
        assert fallback == {"workflow/defaults.yaml": names}
        for name in names:
            section, _, key = name.partition(".")
            assert section in schema()["required"]
            assert not key or key in schema()["properties"][section]["required"]


@pytest.mark.parametrize("path", [*reference.files()], ids=str)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert (checkout.ROOT / path).read_text("utf-8") == reference.files()[path], f"run: {reference.COMMAND}"


def test_the_reference_describes_every_parameter() -> None:
    def names(part: dict[str, Any], above: str) -> Iterator[str]:
        for name, inner in part["properties"].items():
            yield f"{above}{name}"
            if "properties" in inner and "default" not in inner:
                yield from names(inner, f"{above}{name}.")
            elif above:
                assert "description" in inner and "default" in inner, f"{above}{name}"

    page = (checkout.ROOT / "docs/parameters.md").read_text("utf-8")
    for name in names(schema(), ""):
        assert (f"| `{name}` |" if "." in name else f"## {name}\n") in page


def test_defaults_that_differ_from_the_schema_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (checkout.ROOT / "workflow/defaults.yaml").read_text("utf-8")
    (tmp_path / "defaults.yaml").write_text(text.replace("round_to: 8", "round_to: 16"))
    monkeypatch.setattr(checks, "DEFAULTS", tmp_path / "defaults.yaml")
    with pytest.raises(UserError, match=r"defaults.yaml: section prune differs .* -S \+\+prune.PARAMETER=VALUE"):
        parameters.load(checkout.ROOT / "params.yaml")


# --------------------------------------------------------------------------- the part that each job reads

CAPTIONER: dict[str, Any] = {"name": "coca", "model": "coca_ViT-B-32", "weights": None, "captions": 1, "method": "beam"}
CAPTIONER |= {"top_p": 0.9, "beams": 3, "tokens": 30}
FINE_TUNING = {"captions": "a/b.json", "images": "a/c", "epochs": 1, "batch_size": 8, "learning_rate": 0.0001}
SUITE = {"name": "rare", "format": "folder", "path": "data/suites/rare", "prompt": "name", "templates": "plain"}
JOBS: list[tuple[str, str, Any]] = [
    ("index", "manifest", jobs.Listing),
    ("index", "downloads/00000", jobs.Origin),
    ("index", "read/00000", jobs.ReadPart),
    ("shard", "manifests", jobs.Manifests),
    ("shard", "sizes", jobs.Manifests),
    ("shard", "train-00000", jobs.OneShard),
    ("caption", "columns", jobs.Nothing),
    ("caption", "train-00000", jobs.Texts),
    ("caption", "coca/train-00000", jobs.Descriptions),
    ("caption", "coca/model", jobs.FineTunedCaptioner),
    ("teacher", "model", jobs.TrainedTeacher),
    ("teacher", "tuned", jobs.LitTeacher),
    ("teacher", "bought", jobs.PretrainedTeacher),
    ("teacher", "features/tuned/train-00000", jobs.LockedFeatures),
    ("logits", "taxa", jobs.ShippedTaxa),
    ("logits", "tuned/taxa", jobs.TaxonPrompts),
    ("logits", "tuned/val-00000", jobs.CachedViews),
    ("logits", "texts", jobs.Nothing),
    ("logits", "captions/coca/val-00000", jobs.Nothing),
    ("logits", "texts/coca/train-00000", jobs.Nothing),
    ("distill", "student", jobs.Student),
    ("distill", "finetune", jobs.FinetunedStudent),
    ("distill", "control", jobs.Control),
    ("convert", "bundle", jobs.Bundle),
    ("convert", "tflite", jobs.Phone),
    ("convert", "text", jobs.TextEncoder),
    ("convert", "lists/alps", jobs.OneList),
    ("convert", "prior", jobs.Prior),
    ("evaluate", "teacher", jobs.TeacherVariant),
    ("evaluate", "teacher-tuned", jobs.Latency),
    ("evaluate", "ensemble", jobs.EnsembleVariant),
    ("evaluate", "ensemble/test-00000", jobs.EnsembleShard),
    ("evaluate", "int8", jobs.Latency),
    ("evaluate", "int8/test-00000", jobs.Nothing),
    ("evaluate", "random/test-00000", jobs.RandomVariant),
    ("evaluate", "majority", jobs.Nothing),
    ("evaluate", "random", jobs.RandomVariant),
    ("evaluate", "suites/rare", jobs.OneSuite),
    ("evaluate", "speed", jobs.Timing),
    ("evaluate", "report", jobs.Report),
]


def with_every_job() -> dict[str, Any]:
    params = copy.deepcopy(DEFAULT)
    params["caption"]["captioners"] = [CAPTIONER, {**CAPTIONER, "name": "other"}]
    params["teacher"]["ensemble"] = [{"name": "tuned", "kind": "lit"}, {"name": "bought", "kind": "pretrained"}]
    params["convert"]["lists"] = ["coast.txt", "mountains/alps.csv"]
    params["evaluate"]["also"] = ["first", "teacher-tuned", "ensemble"]
    params["evaluate"]["suites"] = [{**SUITE, "name": "common"}, SUITE]
    parameters.check(params)
    return params


@pytest.mark.parametrize(("stage", "job", "kind"), JOBS, ids=[f"{stage}-{job}" for stage, job, _ in JOBS])
def test_a_job_gets_the_keys_of_its_type(stage: str, job: str, kind: Any) -> None:
    part = parameters.of_job(with_every_job(), stage, job)
    keys = with_every_job()[stage].keys() - {"control"} if kind is jobs.Student else kind.__annotations__.keys()
    assert part.keys() == keys >= kind.__annotations__.keys()


@pytest.mark.parametrize("kind", [*dict.fromkeys(kind for *_, kind in JOBS)], ids=lambda kind: kind.__name__)
def test_the_types_of_jobs_agree_with_those_of_sections(kind: Any) -> None:
    """Field by field; of a part of a mapping, the fields of that part."""
    whole = {stage: getattr(sections, stage.title()) for stage in STAGES}
    stage = next(stage for stage, _, one in JOBS if one is kind)
    _agree(kind, whole[stage])


def _agree(part: Any, whole: Any) -> None:
    fields = get_type_hints(whole)
    if whole is sections.Evaluate:  # whose jobs are told of both
        fields["control"] = get_type_hints(sections.Distill)["control"]
        fields["tflite"] = get_type_hints(sections.Convert)["tflite"]
    if whole is sections.Logits:
        fields |= {name: get_type_hints(sections.Convert)[name] for name in ("taxa_bytes", "over_budget")}
    for name, wanted in get_type_hints(part, localns={"sections": sections}).items():
        if name == "kind":
            assert set(get_args(wanted)) < set(get_args(fields[name]))
        elif is_typeddict(wanted) and wanted is not fields[name]:
            _agree(wanted, fields[name])
        else:
            assert wanted == fields[name], name


def test_of_captioners_lists_and_suites_a_job_gets_its_own() -> None:
    params = with_every_job()
    assert parameters.of_job(params, "convert", "lists/alps")["lists"] == ["mountains/alps.csv"]
    with pytest.raises(UserError, match=r"convert has no job 'lists/andes'; its jobs are .*lists/coast, lists/alps"):
        parameters.of_job(params, "convert", "lists/andes")
    assert parameters.of_job(params, "caption", "coca/train-00000")["captioners"] == [CAPTIONER]
    tuned = {**CAPTIONER, "fine_tuning": FINE_TUNING}
    params["caption"]["captioners"] = [tuned]
    assert parameters.of_job(params, "caption", "coca/train-00000")["captioners"] == [tuned]
    learned = {"name": "coca", "model": "coca_ViT-B-32", "weights": None, "fine_tuning": FINE_TUNING}
    assert parameters.of_job(params, "caption", "coca/model")["captioners"] == [learned]
    assert parameters.of_job(params, "evaluate", "suites/rare")["suites"] == [SUITE]
    assert parameters.of_job(params, "teacher", "tuned")["lit"] == params["teacher"]["lit"]
    assert parameters.of_job(params, "distill", "student")["finetune"] == {"epochs": 10}


def test_a_whole_section_is_for_all_jobs_and_for_stages_with_one() -> None:
    """With what the stage is told of other sections."""
    told = {
        "evaluate": {"control": "auto", "tflite": False},
        "logits": {"taxa_bytes": 40_000_000, "over_budget": "refuse"},
    }
    for stage in STAGES:
        assert parameters.of_job(DEFAULT, stage, None) == DEFAULT[stage] | told.get(stage, {})
    assert parameters.of_job(DEFAULT, "prune", "anything") == DEFAULT["prune"]


@pytest.mark.parametrize("job", ["second", "features/second/train-00000", "../model"])
def test_a_teacher_that_the_parameters_do_not_name_has_no_job(job: str) -> None:
    with pytest.raises(UserError, match=rf"teacher has no job '{re.escape(job)}'; its jobs are model, features/"):
        parameters.of_job(DEFAULT, "teacher", job)
