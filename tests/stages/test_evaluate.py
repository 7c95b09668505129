"""Stage evaluate, on a folder in the formats that the stages before it promise."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from bioclip_lite.evaluation import predictions, references
from bioclip_lite.evaluation.predictions import Block
from bioclip_lite.evaluation.variant_names import VARIANTS
from bioclip_lite.stages import evaluate
from bioclip_lite.taxa.label_space import read_labels, truth_of
from bioclip_lite.taxa.taxonomy import RANKS, label_space
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, write_json, write_table
from support.fake_evaluation import (
    PARAMS,
    plausible,
    tree,
    write_all,
    write_answers,
    write_data,
    write_list,
    write_prediction,
)


def report(data: Path) -> dict[str, Any]:
    evaluate.run(PARAMS, data, "report")
    metrics: dict[str, Any] = read_json(data / "evaluate" / "metrics.json")
    return metrics


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = tmp_path_factory.mktemp("evaluate")
    write_data(data)
    return report(data)


def test_metrics_have_every_variant_rank_and_number(metrics: dict[str, Any]) -> None:
    assert sorted(metrics["variants"]) == sorted(VARIANTS)
    for variant, row in metrics["variants"].items():
        for number in (row["top1"], row["top5"], *row["per_rank"].values()):
            assert {"value", "ci95", "n_images", "n_classes"} <= set(number)
            low, high = number["ci95"]
            assert 0 <= low <= number["value"] <= high <= 1
        assert list(row["per_rank"]) == sorted(RANKS)  # JSON is written with sorted keys
        assert row["n_images"] == 62 and row["n_classes"] == 12 and row["label_space"] == 12
        assert (row["bytes"] is None) == (variant in ("majority", "random"))


def test_photographs_known_to_genus_count_at_the_ranks_they_have(metrics: dict[str, Any]) -> None:
    row = metrics["variants"]["student"]
    assert row["top1"]["n_images"] == row["per_rank"]["species"]["n_images"] == 60
    assert row["per_rank"]["genus"]["n_images"] == 62


def test_ranks_get_easier_upwards_and_the_teacher_is_better_than_lots(metrics: dict[str, Any]) -> None:
    teacher, random = metrics["variants"]["teacher"], metrics["variants"]["random"]
    assert teacher["per_rank"]["kingdom"]["value"] >= teacher["per_rank"]["species"]["value"]
    assert teacher["top1"]["ci95"][0] > random["top1"]["ci95"][1]
    difference = metrics["variants"]["random"]["difference_to"]["teacher"]["top1"]
    assert difference["value"] == pytest.approx(random["top1"]["value"] - teacher["top1"]["value"], abs=2e-6)


def test_strata_are_the_species_without_training_photographs(metrics: dict[str, Any]) -> None:
    strata = metrics["variants"]["student"]["strata"]
    assert strata["pretrain_only"]["species"]["n_classes"] == 2 and strata["pretrain_only"]["species"]["n_images"] == 10
    assert strata["trained"]["family"]["n_images"] == 50


def test_accuracy_by_hand(tmp_path: Path) -> None:
    """Everyone answers the first leaf; its share of the photographs is right."""
    labels = write_data(tmp_path, species=4, images=3, known_to_genus=0)
    leaves = label_space(labels.values())
    logits = np.zeros((len(labels), len(leaves)), np.float32)
    logits[:, 0] = 1
    write_prediction(tmp_path, "tfjs", list(labels), leaves, logits)
    row = report(tmp_path)["variants"]["tfjs"]
    assert row["top1"]["value"] == pytest.approx(1 / 4) and row["top5"]["value"] == 1
    assert row["per_rank"]["species"]["macro"]["value"] == pytest.approx(1 / 4)
    same_genus = sum(path[:6] == leaves[0][:6] for path in labels.values()) / len(labels)
    assert row["per_rank"]["genus"]["value"] == pytest.approx(same_genus)


def test_same_predictions_give_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("one", "other"):
        write_data(tmp_path / name)
        report(tmp_path / name)
        folder = tmp_path / name / "evaluate"
        files.append({path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()})
    assert set(files[0]) >= {"metrics.json", "report.html", "per_rank.png", "accuracy_by_size.png"}
    assert [name for name in files[0] if files[0][name] != files[1][name]] == []


def test_predictions_are_joined_by_key(tmp_path: Path, metrics: dict[str, Any]) -> None:
    write_data(tmp_path)
    for path in (tmp_path / "evaluate" / "predictions").glob("student*/test-00000.safetensors"):
        tensors, keys = load_file(path), predictions.read(path.parents[1], ["student"], [path.stem])["student"].keys()
        order = np.random.default_rng(0).permutation(len(keys))
        columns = {name: values[order] for name, values in tensors.items()}
        predictions.write(path, [keys[i] for i in order], predictions.identity_of(read_labels(tmp_path)), columns)
    assert report(tmp_path) == metrics


def test_shards_of_the_test_split_are_merged(tmp_path: Path, metrics: dict[str, Any]) -> None:
    write_data(tmp_path)
    folder, taxa = tmp_path / "evaluate" / "predictions", predictions.identity_of(read_labels(tmp_path))
    sizes = read_json(tmp_path / "shard" / "sizes.json")
    write_json(tmp_path / "shard" / "sizes.json", {**sizes, "test-00000.tar": 20, "test-00001.tar": 42})
    for variant in VARIANTS:
        path = folder / variant / "test-00000.safetensors"
        tensors, keys = load_file(path), predictions.read(folder, [variant], [path.stem])[variant].keys()
        for shard, rows in (("test-00001", slice(20, None)), ("test-00000", slice(20))):
            columns = {name: values[rows] for name, values in tensors.items()}
            predictions.write(folder / variant / f"{shard}.safetensors", keys[rows], taxa, columns)
    shutil.copy(tmp_path / "shard" / "test-00000.tar", tmp_path / "shard" / "test-00001.tar")
    assert report(tmp_path) == metrics


def test_jobs_are_one_for_a_variant_and_one_for_each_of_its_shards(tmp_path: Path) -> None:
    write_data(tmp_path)
    tar = tmp_path / "shard" / "test-00000.tar"
    shutil.copy(tar, tmp_path / "shard" / "test-00001.tar")
    sizes = read_json(tmp_path / "shard" / "sizes.json")
    write_json(tmp_path / "shard" / "sizes.json", {**sizes, "test-00001.tar": 62})
    folder = tmp_path / "evaluate" / "predictions"
    shutil.rmtree(folder)
    evaluate.run(PARAMS, tmp_path, "random")
    assert sorted(path.name for path in folder.rglob("*")) == ["random.json", "random.safetensors"]
    for shard in ("test-00000", "test-00001"):
        evaluate.run(PARAMS, tmp_path, f"random/{shard}")
    contents = [(folder / "random" / f"test-0000{n}.safetensors").read_bytes() for n in (0, 1)]
    assert contents[0] == contents[1]
    write_json(tmp_path / "shard" / "sizes.json", sizes)
    evaluate.run(PARAMS, tmp_path, "majority")  # where there is one shard, one job does both
    assert (folder / "majority" / "test-00000.safetensors").exists()


@pytest.mark.parametrize("species", [12, 300])
def test_what_is_written_of_a_photograph_does_not_grow_with_the_taxa(tmp_path: Path, species: int) -> None:
    write_data(tmp_path, species=species, images=1, known_to_genus=0, common_names=False, variants=())
    evaluate.run(PARAMS, tmp_path, "random")
    size = (tmp_path / "evaluate" / "predictions" / "random" / "test-00000.safetensors").stat().st_size
    assert size < 1200 + 260 * species  # 172 bytes of columns, and the key


def test_missing_variants_are_named(tmp_path: Path) -> None:
    write_data(tmp_path, variants=("teacher", "student", "random"))
    with pytest.raises(UserError, match=r"lacks the predictions of table, pruned, int8, tfjs, control, majority"):
        report(tmp_path)
    assert not (tmp_path / "evaluate" / "metrics.json").exists()


def test_variants_that_answered_other_photographs_are_named(tmp_path: Path) -> None:
    labels = write_data(tmp_path)
    leaves = label_space(labels.values())
    keys = [*list(labels)[1:], "stranger"]
    write_prediction(tmp_path, "int8", keys, leaves, np.zeros((len(keys), len(leaves)), np.float32))
    with pytest.raises(
        UserError, match=rf"int8 lacks 1 .*{next(iter(labels))}.*int8 has.* 1 .*stranger.*for int8 "
    ) as error:
        report(tmp_path)
    assert "teacher" not in str(error.value)


def test_variants_for_another_list_of_taxa_are_named(tmp_path: Path) -> None:
    labels = write_data(tmp_path)
    leaves = label_space(labels.values())
    write_prediction(tmp_path, "control", list(labels), leaves[::-1], np.zeros((len(labels), len(leaves)), np.float32))
    with pytest.raises(UserError, match="control answers among other taxa"):
        report(tmp_path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    """Nothing is greater than NaN, so that every truth would come first."""
    labels = write_data(tmp_path)
    leaves = label_space(labels.values())
    logits = np.zeros((len(labels), len(leaves)), np.float32)
    logits[3, 1] = bad
    with pytest.raises(UserError, match=f"the logits of {list(labels)[3]} are not finite"):
        write_prediction(tmp_path, "tfjs", list(labels), leaves, logits)


def test_unreadable_predictions_are_named(tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "evaluate" / "predictions" / "pruned.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(UserError, match=r"pruned.safetensors is no file of predictions"):
        report(tmp_path)


def test_no_test_photographs(tmp_path: Path) -> None:
    write_data(tmp_path)
    path = tmp_path / "index" / "samples.parquet"
    samples = read_table(path)
    write_table(path, samples.filter(pa.compute.not_equal(samples["split"], "test")))
    with pytest.raises(UserError, match="no photograph in split test"):
        report(tmp_path)


def test_unknown_job(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no job 'studnet'; its jobs are teacher, table, student"):
        evaluate.run(PARAMS, tmp_path, "studnet")


@pytest.mark.parametrize("without", [RANKS[:6], RANKS[3:5], RANKS])
def test_missing_ranks_break_nothing(tmp_path: Path, without: tuple[str, ...]) -> None:
    """A list of species without families, or without anything above: ranks that nobody names have no number."""
    paths = [
        tuple(None if rank in without else name for rank, name in zip(RANKS, path, strict=True)) for path in tree(5)
    ]
    if "species" in without:
        paths = [(f"kingdom {number}", *path[1:]) for number, path in enumerate(paths)]
    write_data(tmp_path, paths=paths, unseen=0, known_to_genus=0, common_names=False)
    metrics = report(tmp_path)
    for rank in RANKS:
        row = metrics["variants"]["tfjs"]["per_rank"][rank]
        assert (row["value"] is None) == (rank in without and not (rank == "kingdom" and "species" in without))


def test_one_species_and_one_photograph(tmp_path: Path) -> None:
    write_data(tmp_path, species=1, images=1, unseen=0, known_to_genus=0)
    metrics = report(tmp_path)
    assert metrics["variants"]["tfjs"]["top1"] == {"value": 1.0, "ci95": None, "n_images": 1, "n_classes": 1}


# ---- what a species list says


def test_answers_stop_at_the_finest_rank_and_accuracy_does_not(tmp_path: Path, metrics: dict[str, Any]) -> None:
    labels = write_data(tmp_path)
    leaves = read_labels(tmp_path).leaves
    write_list(tmp_path, dict.fromkeys(leaves[::2], "genus"), {}, [])
    with pytest.raises(UserError, match="answers among other taxa"):  # they were reduced for another list
        report(tmp_path)
    write_all(tmp_path, labels)
    found = report(tmp_path)
    assert found["protocol"]["capped"] == 6 and metrics["protocol"]["capped"] == 0
    for variant, row in found["variants"].items():
        before = metrics["variants"][variant]
        assert (row["top1"], row["per_rank"]) == (before["top1"], before["per_rank"])
    assert found["variants"]["teacher"]["back_off"]["kept"]
    assert (
        found["variants"]["teacher"]["back_off"]["answered_at"]
        != metrics["variants"]["teacher"]["back_off"]["answered_at"]
    )
    write_list(tmp_path, dict.fromkeys(leaves, "genus"), {}, [])
    write_all(tmp_path, labels)
    teacher = report(tmp_path)["variants"]["teacher"]["back_off"]
    assert teacher["answered_at"]["species"]["value"] == 0 and teacher["thresholds"]["species"] is None
    assert teacher["answered_at"]["genus"]["value"] > 0 and teacher["haurc"]["risk"][-1] is not None


def test_zero_shot_taxa_are_told_apart_from_those_that_only_a_teacher_saw(tmp_path: Path) -> None:
    labels = write_data(tmp_path, unseen=2)
    leaves = read_labels(tmp_path).leaves
    untrained = [leaf for leaf in leaves if leaf in {*tree(12)[::5][:2]}]
    assert len(untrained) == 2
    write_list(tmp_path, {}, {}, untrained[:1])
    found = report(tmp_path)
    assert (found["protocol"]["zero_shot"], found["protocol"]["untested"], found["protocol"]["calibrated"]) == (
        1,
        0,
        10,
    )
    strata = found["variants"]["tfjs"]["strata"]
    counts = {name: strata[name]["species"]["n_images"] for name in ("trained", "pretrain_only", "zero_shot")}
    assert counts == {"trained": 50, "pretrain_only": 5, "zero_shot": 5}
    assert found["variants"]["tfjs"]["back_off"]["strata"]["zero_shot"]["answered"]["n_images"] == 5
    html = (tmp_path / "evaluate" / "report.html").read_text()
    card = (tmp_path / "evaluate" / "MODEL_CARD.md").read_text()
    assert "Zero-shot: 1 species,\n5 photographs." in html and "Of 1 zero-shot species" in html
    assert (
        "1 taxon is zero-shot: named by the teacher's text tower alone" in card and "Of 5 test photographs of 1" in card
    )
    assert "The guarantee covers the 10 of 12 taxa present in the calibration split" in card
    assert "none could test it" not in html

    # a listed species of which there is no photograph at all
    keys = {key for key, path in labels.items() if path == untrained[0]}
    samples = read_table(tmp_path / "index" / "samples.parquet")
    write_table(tmp_path / "index" / "samples.parquet", samples.filter(
        pa.array(not (row["key"] in keys or any(row["key"].startswith(f"{key}-") for key in keys))
                 for row in samples.to_pylist())))  # fmt: skip
    taxa = read_table(tmp_path / "index" / "taxa.parquet").to_pylist()
    for row in taxa:
        row["test"] = row["test"] * (tuple(row[rank] for rank in RANKS) != untrained[0])
    write_table(tmp_path / "index" / "taxa.parquet", pa.Table.from_pylist(taxa))
    left = {key: path for key, path in labels.items() if key not in keys}
    write_all(tmp_path, left)
    found = report(tmp_path)
    assert (found["protocol"]["zero_shot"], found["protocol"]["untested"]) == (1, 1)
    assert found["variants"]["tfjs"]["strata"]["zero_shot"]["species"]["n_images"] == 0
    for name in ("report.html", "MODEL_CARD.md"):
        text = " ".join((tmp_path / "evaluate" / name).read_text().split())
        assert "could test it" in text and "teacher's text tower alone" in text


# ---- back-off and calibration


def test_every_variant_says_how_sure_it_is_and_keeps_its_promise(metrics: dict[str, Any]) -> None:
    for variant, row in metrics["variants"].items():
        found = row["back_off"]
        assert row["protocol"] == metrics["protocol"]["id"]
        assert row["calibration"]["source"] == "fitted" and found["n_fitted_on"] == 208
        shares = [found["answered_at"][rank]["value"] for rank in RANKS]
        assert sum(shares) == pytest.approx(found["answered"]["value"], abs=1e-5)
        if variant in ("majority", "random"):
            assert set(found["thresholds"].values()) == {None} and found["kept"] is None and not found["levels"]
    teacher = metrics["variants"]["teacher"]["back_off"]
    assert teacher["right"]["value"] > 0.9 and teacher["answered"]["value"] > 0.3 and teacher["kept"]
    assert teacher["strata"]["not_in_calibration"]["answered"]["n_images"] == 10
    strata = metrics["variants"]["teacher"]["strata"]
    assert {name: row["species"]["n_images"] for name, row in strata["training_images"].items()} == {
        "0": 10, "1-10": 50, "11-50": 0, ">50": 0
    }  # fmt: skip
    assert sum(row["species"]["n_images"] for row in strata["kingdom"].values()) == 60


def test_every_variant_is_asked_for_what_is_not_on_the_list(metrics: dict[str, Any]) -> None:
    found = metrics["variants"]["student"]["off_list"]
    assert set(found["known"]) == set(RANKS) and found["share"] == 0.2
    hidden = sum(found["hidden"][kind]["told"]["n_images"] for kind in ("species", "genus", "group"))
    covered = metrics["variants"]["student"]["back_off"]["strata"]["in_calibration"]["answered"]["n_images"]
    assert 0 < hidden < 0.5 * covered and hidden + found["answered"]["n_images"] == covered
    assert found["species"]["value"] <= found["answered"]["value"]


def test_what_is_shipped_is_measured_as_it_is_shipped(tmp_path: Path) -> None:
    labels = write_data(tmp_path)
    leaves = label_space(labels.values())
    limits = dict.fromkeys(RANKS, None) | {"genus": 0.5}
    shipped = {"temperature": 2.5, "thresholds": {"level": 0.95, "ranks": limits}, "off_list": None}
    write_prediction(tmp_path, "tfjs", list(labels), leaves, plausible("tfjs", labels, leaves), calibration=shipped)
    row = report(tmp_path)["variants"]["tfjs"]
    assert row["calibration"]["temperature"] == 2.5 and row["calibration"]["source"] == "shipped"
    assert row["back_off"]["thresholds"] == limits and row["off_list"] is None
    answered = {rank: row["back_off"]["answered_at"][rank]["value"] for rank in RANKS}
    assert answered["genus"] == row["back_off"]["answered"]["value"] > 0


def test_a_temperature_takes_away_what_was_boasted(tmp_path: Path) -> None:
    labels = write_data(tmp_path)
    leaves, before = label_space(labels.values()), report(tmp_path)["variants"]["student"]
    samples = read_table(tmp_path / "index" / "samples.parquet").to_pylist()
    fitted_on = {row["key"]: tuple(row[r] for r in RANKS) for row in samples if row["split"] == "calibration"}
    logits = np.concatenate([plausible("student", of, leaves) for of in (labels, fitted_on)])
    write_answers(tmp_path, "student", [*labels, *fitted_on], 3 * logits, None, {})
    after = report(tmp_path)["variants"]["student"]
    assert after["calibration"]["temperature"] == pytest.approx(3 * before["calibration"]["temperature"], rel=0.01)
    assert after["calibration"]["nll"]["before"]["value"] > before["calibration"]["nll"]["before"]["value"]
    assert after["calibration"]["nll"]["after"]["value"] == pytest.approx(
        before["calibration"]["nll"]["after"]["value"], abs=0.01
    )
    assert len(labels) == after["n_images"]


def test_without_a_control_the_report_says_so(tmp_path: Path, metrics: dict[str, Any]) -> None:
    write_data(tmp_path, variants=tuple(variant for variant in VARIANTS if variant != "control"))
    evaluate.run({**PARAMS, "control": False}, tmp_path, "report")
    found = read_json(tmp_path / "evaluate" / "metrics.json")["variants"]
    assert found.keys() == metrics["variants"].keys() - {"control"}
    assert found["student"]["top1"] == metrics["variants"]["student"]["top1"]
    assert found["student"]["difference_to"].keys() == {"teacher"}
    assert "No control was trained (distill.control is false)" in (tmp_path / "evaluate" / "report.html").read_text()
    head = (tmp_path / "evaluate" / "plots" / "per_rank.csv").read_text().splitlines()[0]
    assert head.split(",")[-1] == "control"  # which dvc.yaml names


def test_predictions_without_the_calibration_split_are_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    path = tmp_path / "evaluate" / "predictions" / "student.safetensors"
    nothing = {name: values[:0] for name, values in load_file(path).items()}
    predictions.write(path, [], predictions.identity_of(read_labels(tmp_path)), nothing)
    with pytest.raises(UserError, match="student lacks 208 photographs"):
        report(tmp_path)


# ---- predictions


def test_predictions_are_read_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    keys, top = [f"ké{i}" for i in range(5)], random.integers(9, size=(5, 3)).astype(np.int32)
    columns: dict[str, np.ndarray] = {"top": top, "nll": random.random(5)}
    best: dict[str, np.ndarray] = {
        "share": random.random((1, 7)),
        "node": np.ones((1, 7), np.int32),
        "fitted": np.array([3], np.int32),
    }
    predictions.write(tmp_path / "student.safetensors", keys, "abc", best)
    predictions.write(tmp_path / "student" / "test-00003.safetensors", keys, "abc", columns)
    write_json(tmp_path / "student.json", {"macs": 3})
    found = predictions.read(tmp_path, ["student"], ["test-00003"])["student"]
    assert (found.keys(), found.calibration_keys(), found.costs) == (keys, keys, {"macs": 3})
    ((names, again),) = found.columns()
    assert names == keys and again.keys() == columns.keys()
    assert all((again[name] == columns[name]).all() for name in columns)
    fitted, reduced = found.best()
    assert fitted == [keys[3]] and (reduced["share"] == best["share"]).all()
    with pytest.raises(UserError, match="lacks the predictions of student"):
        predictions.read(tmp_path, ["student"], ["test-00003", "test-00004"])
    predictions.write(tmp_path / "student" / "test-00004.safetensors", keys, "ab", columns)
    with pytest.raises(UserError, match="answers among different lists of taxa"):
        predictions.read(tmp_path, ["student"], ["test-00003", "test-00004"])


def test_answers_to_other_photographs_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path, variants=())

    def one(*_: object) -> predictions.Answers:
        return predictions.Answers(["a"], iter([Block(np.zeros((1, 12), np.float32))]), dict)

    monkeypatch.setitem(references.ANSWERS, "random", one)
    with pytest.raises(UserError, match=r"1 answers for 208 photographs of data/shard, without photo-"):
        evaluate.run(PARAMS, tmp_path, "random")
    assert not (tmp_path / "evaluate").exists()


# ---- labels


def test_labels_keep_the_order_of_taxa(tmp_path: Path) -> None:
    labels = write_data(tmp_path)
    space = read_labels(tmp_path)
    assert space.leaves == label_space(labels.values())
    samples = read_table(tmp_path / "index" / "samples.parquet")
    test = samples.filter(pa.compute.equal(samples["split"], "test"))
    truth = truth_of(test["taxon_id"].to_pylist(), space)
    for row, key in enumerate(test["key"].to_pylist()):
        path = labels[key]
        assert truth.leaf[row] == (space.leaves.index(path) if path[6] else -1)
        for rank in range(7):
            node = truth.nodes[row, rank]
            assert (space.nodes[rank][node] == path[: rank + 1]) if path[rank] else node == -1


def test_what_a_list_says_of_a_taxon_holds_for_those_below_it(tmp_path: Path) -> None:
    labels = write_data(tmp_path, species=6, known_to_genus=1)
    genus = next(path for path in labels.values() if path[6] is None)
    leaves = read_labels(tmp_path).leaves
    assert read_labels(tmp_path).finest_rank.tolist() == [6] * 6 and read_labels(tmp_path).notes == [None] * 6
    below = [leaf[:6] == genus[:6] for leaf in leaves]
    own = leaves[below.index(True)]
    write_list(tmp_path, {genus: "family", own: "genus"}, {genus: "of the genus", own: "its own"}, [own])
    space = read_labels(tmp_path)
    assert space.finest_rank.tolist() == [4 if under else 6 for under in below]
    assert space.notes == [("its own" if leaf == own else "of the genus") if under else None
                           for leaf, under in zip(leaves, below, strict=True)]  # fmt: skip
    assert [leaf for leaf, zero_shot in zip(leaves, space.zero_shot, strict=True) if zero_shot] == [own]


# ---- majority and random


def test_majority_is_the_taxon_with_most_training_photographs(tmp_path: Path) -> None:
    labels = write_data(tmp_path, species=6, images=4, known_to_genus=0, unseen=0)
    path = tmp_path / "index" / "taxa.parquet"
    taxa = read_table(path)
    leaves = label_space(labels.values())
    counts = [3 + (leaf == leaves[4]) for leaf in leaves]
    write_table(path, taxa.set_column(taxa.schema.get_field_index("train"), "train", pa.array(counts, pa.int32())))
    evaluate.run(PARAMS, tmp_path, "majority")
    found = predictions.read(tmp_path / "evaluate" / "predictions", ["majority"], ["test-00000"])["majority"]
    ((keys, columns),) = found.columns()
    assert len(keys) == 24 and (columns["top"] == [4, 0, 1, 2, 3]).all() and len(np.unique(columns["probability"])) == 1
    assert report(tmp_path)["variants"]["majority"]["top1"]["value"] == pytest.approx(1 / 6, abs=1e-6)


def test_random_answers_depend_on_key_and_seed_alone(tmp_path: Path) -> None:
    write_data(tmp_path)
    folder = tmp_path / "evaluate" / "predictions"
    evaluate.run(PARAMS, tmp_path, "random")
    path = folder / "random" / "test-00000.safetensors"
    first = path.read_bytes()
    evaluate.run(PARAMS, tmp_path, "random")
    assert path.read_bytes() == first
    assert list(json.loads((folder / "random.json").read_text())) == ["calibration"]
    evaluate.run({**PARAMS, "seed": 1}, tmp_path, "random")
    assert path.read_bytes() != first


def test_random_answers_are_uniform(tmp_path: Path) -> None:
    labels = write_data(tmp_path, species=4, images=100, known_to_genus=0)
    evaluate.run(PARAMS, tmp_path, "random")
    row = report(tmp_path)["variants"]["random"]
    assert row["top1"]["value"] == pytest.approx(1 / 4, abs=0.07)
    genera = Counter(path[:6] for path in set(labels.values()))
    assert row["per_rank"]["genus"]["value"] == pytest.approx(sum((n / 4) ** 2 for n in genera.values()), abs=0.08)


def test_headline_figures_without_what_the_teacher_was_trained_on(tmp_path: Path) -> None:
    """Photographs of which it is not known count neither as seen nor as not seen."""
    labels = write_data(tmp_path)
    path = tmp_path / "index" / "samples.parquet"
    table = read_table(path)
    test = sorted(labels)
    saw = dict(zip(test, [True, False, False, None] * len(test), strict=False))
    marks = pa.array([saw.get(key) for key in table["key"].to_pylist()], pa.bool_())
    write_table(path, table.set_column(table.schema.get_field_index("teacher_saw"), "teacher_saw", marks))
    metrics = report(tmp_path)
    counts = Counter(saw[key] for key in test)
    assert metrics["protocol"]["teacher_saw"] == {
        "seen": counts[True],
        "not_seen": counts[False],
        "unknown": counts[None],
    }

    unseen = [key for key in test if saw[key] is False]
    of_species = [key for key in unseen if labels[key][6]]
    leaves = label_space(labels.values())
    for variant in ("teacher", "student"):
        logits = plausible(variant, labels, leaves)
        answers = {key: leaves[int(row.argmax())] for key, row in zip(labels, logits, strict=True)}
        right = np.mean([answers[key] == labels[key] for key in of_species])
        row = metrics["variants"][variant]
        number = row["strata"]["not_seen_by_teacher"]["species"]
        assert number["n_images"] == len(of_species) and number["value"] == pytest.approx(right, abs=1e-6)
        assert row["back_off"]["strata"]["not_seen_by_teacher"]["answered"]["n_images"] == len(unseen)
        headline = read_json(tmp_path / "evaluate" / "headline.json")[variant]
        assert headline["species_right_not_seen_by_teacher"] == number["value"]
    page = (tmp_path / "evaluate" / "report.html").read_text()
    assert "Accuracy on photographs that the teacher was not trained on" in page
    card = (tmp_path / "evaluate" / "MODEL_CARD.md").read_text()
    assert f"The teacher was trained on {counts[True]} of the {len(test)} test photographs. On those" in card


def test_without_a_catalogue_nothing_is_said_of_what_the_teacher_saw(tmp_path: Path, metrics: dict[str, Any]) -> None:
    assert metrics["protocol"]["teacher_saw"] is None
    assert not any("not_seen_by_teacher" in row["strata"] for row in metrics["variants"].values())
    write_data(tmp_path)
    report(tmp_path)
    assert "was trained on" not in (tmp_path / "evaluate" / "MODEL_CARD.md").read_text()
