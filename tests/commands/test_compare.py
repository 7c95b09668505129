"""`compare`: what got better and worse between two revisions, by hand, by law, and from DVC's cache."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bioclip_lite.commands import compare
from bioclip_lite.commands.compare import Comparison, Row, read_side, summary
from bioclip_lite.metrics import paired
from bioclip_lite.stages import evaluate
from bioclip_lite.taxa.label_space import read_labels
from bioclip_lite.taxa.taxonomy import RANKS, label_space, scientific_name, taxon_id
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table, write_json, write_table
from support.checkout import ROOT, sh
from support.fake_evaluation import PARAMS, tree, write_data, write_prediction

SPECIES = tree(6)  # the first two of one genus, the next two of another
Mistakes = dict[TaxonPath, TaxonPath]


def write_side(data: Path, mistakes: Mistakes, paths: list[TaxonPath] = SPECIES, images: int = 8) -> None:
    """A model that takes every photograph of some species for another one, and names all others right."""
    labels = write_data(data, paths=paths, images=images, unseen=0, known_to_genus=0, variants=())
    _regroup(data)
    leaves = label_space(paths)
    answers = [mistakes.get(path, path) for path in labels.values()]
    logits = np.array([[9.0 * (leaf == answer) for leaf in leaves] for answer in answers], np.float32)
    write_prediction(data, "tfjs", list(labels), leaves, logits)
    metrics = {"tfjs": {"calibration": {"temperature": 1.0}}}
    bootstrap = {"resamples": 100, "seed": 0}
    write_json(data / "evaluate" / "metrics.json", {"variants": metrics, "protocol": {"bootstrap": bootstrap}})


def _regroup(data: Path) -> None:
    """Every photograph an observation of its own."""
    path = data / "index" / "samples.parquet"
    table = read_table(path)
    write_table(path, table.drop_columns("group").append_column("group", table["key"]))


def compared(tmp_path: Path, before: Mistakes, after: Mistakes, rank: str = "species", **options: Any) -> Comparison:
    for name, mistakes in (("old", before), ("new", after)):
        write_side(tmp_path / name, mistakes, **options)
    sides = [read_side(name, None, tmp_path / name, "tfjs", rank) for name in ("old", "new")]
    return compare.compare(sides[0], sides[1], rank)


def row_of(found: Comparison, path: TaxonPath) -> Row:
    (row,) = (row for row in found.rows if row.taxon == path)
    return row


def test_lost_and_won_species_by_hand(tmp_path: Path) -> None:
    a, b, c = SPECIES[:3]
    found = compared(tmp_path, {c: a}, {a: b})
    assert {row.taxon: (row.before, row.after) for row in found.rows} == {
        path: (8 * (path != c), 8 * (path != a)) for path in SPECIES
    }
    lost, won = row_of(found, a), row_of(found, c)
    assert (lost.photographs, lost.lost, lost.won, lost.appeared) == (8, 8, 0, [(b, 8)])
    assert (won.lost, won.won, won.appeared) == (0, 8, [])
    assert lost.p == pytest.approx(2 * 0.5**8) == lost.q  # both tested species have the same
    assert np.isnan(row_of(found, b).q)
    overall = found.overall
    assert overall["difference"]["value"] == 0 and overall["difference"]["n_images"] == 48
    assert overall["lost"]["value"] == overall["won"]["value"] == pytest.approx(1 / 6, abs=1e-6)
    assert overall["difference"]["ci95"][0] < 0 < overall["difference"]["ci95"][1]
    assert found.p == 1
    text = summary(found, "tfjs", "species", None)
    assert "worse: 1 of 6" in text and "better: 1 of 6" in text
    assert f"{scientific_name(b)} (8)" in next(
        line for line in text.splitlines() if line.startswith(scientific_name(a))
    )


def test_a_mistake_within_the_genus_is_none_at_the_genus(tmp_path: Path) -> None:
    a, b, c = SPECIES[:3]
    assert a[5] == b[5] != c[5]
    found = compared(tmp_path, {}, {a: b, b: c}, rank="genus")
    assert len(found.rows) == 4 and found.overall["difference"]["value"] == pytest.approx(-1 / 6, abs=1e-6)
    row = row_of(found, (*a[:6], None))
    assert (row.before, row.after, row.appeared) == (16, 8, [((*c[:6], None), 8)])


def test_a_longer_list_of_taxa_is_said_and_only_common_photographs_count(tmp_path: Path) -> None:
    write_side(tmp_path / "old", {}, SPECIES[:4])
    write_side(tmp_path / "new", {SPECIES[0]: SPECIES[5], SPECIES[4]: SPECIES[5]}, SPECIES)
    old, new = (read_side(name, None, tmp_path / name, "tfjs", "species") for name in ("old", "new"))
    # photographs are named by their place: those of the longer list have other labels
    new = compare.replace(new, keys=[f"{taxon}{i}" for i, taxon in enumerate(new.taxa)])
    with pytest.raises(UserError, match="have 0 test photographs in common"):
        compare.compare(old, new, "species")
    count = dict.fromkeys(SPECIES, 0)
    for side in (old, new):
        count = dict.fromkeys(SPECIES, 0)
        for i, taxon in enumerate(side.taxa):
            assert taxon is not None
            side.keys[i] = f"{taxon_id(taxon)}-{count[taxon]}"
            count[taxon] += 1
    found = compare.compare(old, new, "species")
    assert found.only == (0, 16) and found.overall["difference"]["n_images"] == 32
    assert found.overall["difference"]["value"] == -0.25
    assert row_of(found, SPECIES[0]).appeared == [(SPECIES[5], 8)]
    assert found.new == (0.5, 16, 2)
    text = summary(found, "tfjs", "species", None)
    assert "4 -> 6 to choose among (2 new, 0 gone)" in text
    assert "of 16 photographs of 2 taxa that only new has, 50.0 % are right" in text


def test_photographs_with_another_label_are_left_out(tmp_path: Path) -> None:
    for name in ("old", "new"):
        write_side(tmp_path / name, {})
    path = tmp_path / "new" / "index" / "samples.parquet"
    table = read_table(path)
    ids = table["taxon_id"].to_pylist()
    first = next(i for i, split in enumerate(table["split"].to_pylist()) if split == "test")
    ids[first] = next(other for other in ids if other != ids[first])
    write_table(path, table.set_column(table.schema.get_field_index("taxon_id"), "taxon_id", [ids]))
    sides = [read_side(name, None, tmp_path / name, "tfjs", "species") for name in ("old", "new")]
    found = compare.compare(sides[0], sides[1], "species")
    assert found.relabelled == 1 and found.overall["difference"]["n_images"] == 47
    assert "their label has changed: 1 photograph\n" in summary(found, "tfjs", "species", None)


def test_answers_that_belong_to_another_index_are_refused(tmp_path: Path) -> None:
    write_side(tmp_path, {})
    labels = read_labels(tmp_path)
    write_prediction(tmp_path, "tfjs", [], labels.leaves, np.zeros((0, 6), np.float32))
    with pytest.raises(UserError, match="48 test photographs have no answer; run stage evaluate again"):
        read_side("here", None, tmp_path, "tfjs", "species")


def test_metrics_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    write_side(tmp_path, {})
    write_json(tmp_path / "evaluate" / "metrics.json", {"variants": {"tfjs": {}}, "protocol": {}})
    with pytest.raises(UserError, match="of here has no 'bootstrap' of tfjs: an earlier version"):
        read_side("here", None, tmp_path, "tfjs", "species")


# ---- doubt


def test_sign_test_is_mcnemars_where_photographs_are_independent() -> None:
    change = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 20)
    found = paired.sign_test(change, np.arange(31))
    tail = sum(n for n in (1, 11, 55)) / 2**11  # of 11, at most 2
    assert found == (9, 2, pytest.approx(2 * tail))


def test_photographs_of_one_observation_count_once() -> None:
    change, group = np.array([1.0, 1.0, 1.0, 1.0, -1.0]), np.array([0, 0, 0, 1, 1])
    assert paired.sign_test(change, group) == (1, 0, 1.0)
    assert paired.sign_test(np.zeros(0), np.zeros(0, int)) == (0, 0, 1.0)


def test_correction_by_hand_leaves_out_what_cannot_be_told() -> None:
    p = np.array([0.01, 0.04, 0.03, 1.0, 0.5])
    found = paired.corrected(p, np.array([8, 9, 7, 0, 5]))
    np.testing.assert_allclose(found[:3], [0.03, 0.04, 0.04])
    assert np.isnan(found[3:]).all()
    assert np.isnan(paired.corrected(p, np.zeros(5, int))).all()


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_which_side_comes_first_changes_no_doubt(change: list[float], random: Any) -> None:
    values, group = np.array(change), np.array([random.randrange(5) for _ in change])
    group = np.unique(group, return_inverse=True)[1]
    better, worse, p = paired.sign_test(values, group)
    assert paired.sign_test(-values, group) == (worse, better, pytest.approx(p))
    assert 0 < p <= 1


def test_fewer_changes_than_stated_never_reach_the_level() -> None:
    def least(n: int) -> float:
        return paired.sign_test(np.ones(n), np.arange(n))[2]

    assert least(paired.AT_LEAST) <= paired.ALPHA < least(paired.AT_LEAST - 1)


# ---- revisions


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two revisions with their reports, the first pushed; what dvc.yaml says of evaluate is this project's."""
    folder = tmp_path_factory.mktemp("revisions") / "project"
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    evaluated = {part: stages["stages"]["evaluate"][part] for part in ("outs", "metrics")}
    evaluated["outs"] = [out for out in evaluated["outs"] if "suites" not in str(out) and "provenance" not in str(out)]
    jobs = {"index": {"cmd": "true", "outs": ["data/index"]}, "evaluate": {"cmd": "true", **evaluated}}
    folder.mkdir()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": jobs, "plots": stages["plots"]}))
    labels = write_data(folder / "data")
    evaluate.run(PARAMS, folder / "data", "report")
    sh(f"git init -q -b main && dvc init -q && dvc remote add -q -d lab {folder.parent / 'lab'}", folder)
    (folder / ".gitignore").write_text("/data\n")
    sh("dvc commit -q -f && dvc push -q && git add -A && git commit -q -m one && git tag one", folder)
    leaves = label_space(labels.values())
    right = np.array([[9.0 * (leaf == path) for leaf in leaves] for path in labels.values()], np.float32)
    write_prediction(folder / "data", "tfjs", list(labels), leaves, right)
    evaluate.run(PARAMS, folder / "data", "report")
    sh("dvc commit -q -f && git add -A && git commit -q -m two && git tag two", folder)
    return folder


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.chdir(folder)
    return compare.main(list(arguments))


def test_two_revisions_and_the_working_tree(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "all.csv"
    assert run(repository, monkeypatch, "one", "two", "--csv", str(file)) == 0
    text = capsys.readouterr().out
    assert text.startswith("Web model, species: one (") and "compared on 60 photographs of 12 species" in text
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 12 and all(row["after"] == row["photographs"] == "5" for row in rows)
    diff = json.loads(sh("dvc metrics diff --json one two", repository))
    shown = diff["data/evaluate/headline.json"]["tfjs.species_right"]["old"]
    assert f"right: {100 * shown:.1f} % -> 100.0 %" in text
    assert sum(int(row["before"]) for row in rows) == round(60 * shown)
    assert list(rows[0])[: len(RANKS)] == list(RANKS)
    assert run(repository, monkeypatch, "two") == 0
    assert "+0.0" not in (said := capsys.readouterr().out) and "100.0 % -> 100.0 %, 0.0 points" in said
    assert run(repository, monkeypatch, "one", "--variant", "student", "--rank", "family") == 0
    assert "Student, family: one" in capsys.readouterr().out


def test_what_the_cache_lacks_comes_from_the_remote_or_is_named(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    sh(f"git clone -q {repository} {clone}", tmp_path)
    assert run(clone, monkeypatch, "one", "one") == 0  # from the remote, list of the folder and all
    assert "0.0 points" in capsys.readouterr().out
    assert run(clone, monkeypatch, "one", "two") == 1  # never pushed
    said = capsys.readouterr().err
    assert "revision two has data/evaluate" in said and "neither in the cache nor in remote lab" in said
    assert "python -m bioclip_lite push" in said and "Traceback" not in said
    sh("dvc remote remove lab", clone)
    shutil.rmtree(clone / ".dvc" / "cache")
    assert run(clone, monkeypatch, "one", "two") == 1
    assert "there is no remote; name a colleague's remote (dvc remote add -d NAME PLACE)" in capsys.readouterr().err


def test_wrong_revisions_are_named(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(repository, monkeypatch, "three") == 1
    assert "compare: unknown Git revision 'three'" in capsys.readouterr().err
    assert run(repository, monkeypatch, "one", "--variant", "chromium") == 1
    assert "revision one has no data/evaluate/predictions/chromium.safetensors" in capsys.readouterr().err


# ---- what DVC shows of the same revisions


def test_dvc_metrics_diff_is_short_and_right(repository: Path) -> None:
    found = json.loads(sh("dvc metrics diff --json one two", repository))
    ((path, numbers),) = found.items()
    assert path == "data/evaluate/headline.json"
    assert numbers["tfjs.species_right"]["new"] == 1 and numbers["tfjs.species_right"]["diff"] > 0
    assert len(numbers) <= 20 and not any(name.startswith("teacher") for name in numbers)


def test_dvc_plots_show_draws_every_plot_of_dvc_yaml(repository: Path) -> None:
    shown = json.loads(sh("dvc plots show --json", repository).splitlines()[-1])
    assert not shown.get("errors")
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    names = [next(iter(plot)) if isinstance(plot, dict) else plot for plot in plots]
    drawn = {name for name in shown["data"] if shown["data"][name]}
    assert {name.rpartition("::")[2] for name in drawn} == set(names)
    points = json.dumps(shown["data"])
    assert '"val_top1"' in points and '"tfjs"' in points
