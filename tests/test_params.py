"""params.yaml: every mistake is named with its value and what is allowed, before anything runs."""

import copy
from pathlib import Path

import pytest
import yaml

import checkout
from bioclip_lite import params as parameters
from bioclip_lite.errors import UserError

DEFAULT = yaml.safe_load((checkout.ROOT / "params.yaml").read_text())
PRESETS = sorted(checkout.ROOT.glob("workflow/presets/*.yaml"))
COMPLETE = [checkout.ROOT / "params.yaml", checkout.ROOT / "tests/tiny.yaml", *PRESETS]


@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: path.stem)
def test_the_files_that_we_ship_are_valid(path: Path) -> None:
    assert tuple(parameters.load(path)) == parameters.STAGES


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prune.macz", 0.5, "prune has unknown macz; known are macs, round_to"),
        ("prune.macs", 3, "prune.macs is 3; it must be at most 1"),
        ("prune.macs", 0, "prune.macs is 0; it must be above 0"),
        ("index.source", "gbif", "index.source is 'gbif'; it must be one of synthetic, folder"),
        ("index.where", {"clas": ["Aves"]}, "index.where has unknown clas; known are kingdom, phylum, class"),
        ("index.min_side", -1, "index.min_side is -1; it must be at least 1"),
        ("index.split.train", 0.5, "index.split adds up to 0.9; the shares must add up to 1"),
        ("index.synthetic.unseen_species", 64, "unseen_species is 64; it must be below species (64)"),
        ("logits.views", "six", "logits.views is 'six'; it must be of type integer"),
        ("logits.crop_scale", [0.9, 0.2], "logits.crop_scale is [0.9, 0.2]; the smaller value comes first"),
        ("teacher.captions", [], "teacher.captions is []; it must be a list of at least 1"),
        ("evaluate", None, "evaluate is None; it must be of type object"),
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


def test_every_mistake_is_named_at_once() -> None:
    params = copy.deepcopy(DEFAULT)
    params["prune"]["macs"], params["convert"]["images"] = 7, 0
    with pytest.raises(UserError) as error:
        parameters.check(params)
    assert "prune.macs is 7" in str(error.value)
    assert "convert.images is 0" in str(error.value)


def test_a_missing_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; run from the root"):
        parameters.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("index: [")
    with pytest.raises(UserError, match="not valid YAML"):
        parameters.load(tmp_path / "params.yaml")


def test_both_engines_refuse_before_anything_runs(tmp_path: Path) -> None:
    folder = checkout.new(tmp_path / "wrong")
    checkout.set_parameter(folder, "prune.macs", 3)
    checkout.set_parameter(folder, "convert.imagez", 3)
    for command in ("snakemake --cores 1 evaluate", "dvc repro"):
        output = checkout.sh(command, folder, check=False)
        assert "prune.macs is 3; it must be at most 1" in output
        assert "convert has unknown imagez" in output
        assert "Traceback" not in output
    assert not (folder / "data/index").exists()


def test_missing_ingredients_are_named_before_anything_runs(tmp_path: Path) -> None:
    folder = checkout.new(tmp_path / "missing")
    for name, value, message in (
        ("index", {"source": "folder", "path": "data/nowhere"}, "index.path is data/nowhere, but there is no such"),
        ("teacher", {"kind": "lit"}, "data/weights/none does not exist"),
        ("distill", {"weights": "start.safetensors"}, "data/weights/start.safetensors does not exist"),
    ):
        params = yaml.safe_load((checkout.ROOT / "tests/tiny.yaml").read_text())
        params[name] |= value
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        output = checkout.sh("snakemake --cores 1 evaluate", folder, check=False)
        assert message in output
        assert "Traceback" not in output
    assert not (folder / "data/index").exists()
