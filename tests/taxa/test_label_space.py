"""Distances in the tree, calibration errors and back-off: laws, numbers by hand, and other people's implementations."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    auc,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_score,
    top_k_accuracy_score,
)

from bioclip_lite.metrics import backoff, bootstrap, confusion
from bioclip_lite.metrics.calibration import nodes_of, place
from bioclip_lite.metrics.ranks import softmax
from bioclip_lite.metrics.reliability import expected_error
from bioclip_lite.metrics.scoring import score
from bioclip_lite.metrics.summary import ratios
from bioclip_lite.metrics.tree import depth_of, heights, overlap, specificity
from bioclip_lite.taxa.taxonomy import RANKS, Path, label_space
from metrics.test_calibration import NODES, photographs
from metrics.test_metrics import LEAVES, NODE_OF_LEAF
from support.fake_evaluation import tree

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(st.tuples(*[st.sampled_from(["a", "b"])] * 5, names, names), min_size=1, max_size=10, unique=True)


# ---- heights


def test_heights_by_hand() -> None:
    answers = np.array([[0, 1, 2, 3]])  # itself, its sister, another family, another kingdom
    np.testing.assert_array_equal(heights(answers, np.array([0]), NODE_OF_LEAF), [[0, 1, 3, 7]])
    assert np.isnan(heights(answers, np.array([-1]), NODE_OF_LEAF)).all()


@given(paths, st.integers(0, 9), st.integers(0, 9))
def test_height_is_a_distance_in_the_tree(taxa: list[Path], one: int, other: int) -> None:
    leaves = label_space(taxa)
    one, other = one % len(leaves), other % len(leaves)
    nodes = nodes_of(leaves)
    far = heights(np.arange(len(leaves))[None], np.array([one]), nodes)[0]
    assert far[one] == 0 and (np.delete(far, one) > 0).all()  # 0 if and only if right
    assert far[other] == heights(np.array([[one]]), np.array([other]), nodes)[0, 0]
    expected = 7 - next((r for r in range(7) if leaves[one][r] != leaves[other][r]), 7)
    assert far[other] == expected
    third = heights(np.arange(len(leaves))[None], np.array([other]), nodes)[0]
    assert (far <= np.maximum(far[other], third)).all()  # ultrametric: a tree's distances are


def test_average_distance_and_severity_are_those_of_the_answers() -> None:
    logits, truth = photographs(200, 0)
    found = score(logits, truth, NODES[:, truth].T, NODES)
    assert ((found["height"] == 0) == (found["top1"] == 1)).all()
    leaves = label_space(tree(24))
    top = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    by_hand = [
        np.mean([7 - next((r for r in range(7) if leaves[a][r] != leaves[t][r]), 7) for a in row])
        for row, t in zip(top, truth, strict=True)
    ]
    np.testing.assert_allclose(found["height5"], by_hand)


# ---- hierarchical precision and recall


def test_precision_and_recall_by_hand() -> None:
    taxa: list[Path] = [LEAVES[0], LEAVES[0], LEAVES[0], LEAVES[0], (*LEAVES[0][:5], None, None)]
    rank = np.array([6, 5, 4, -1, 6])
    node = np.array([1, 0, 1, -1, 0])  # its sister, its genus, another family, no answer; below its label
    found = np.array(overlap(rank, node, place(taxa, LEAVES), NODE_OF_LEAF))
    np.testing.assert_array_equal(found, [[6, 6, 4, 0, 5], [7, 6, 5, 0, 5], [7, 7, 7, 7, 5]])


@settings(max_examples=50, deadline=None)
@given(paths, st.data())
def test_f_is_symmetric_and_1_only_if_right(taxa: list[Path], data: st.DataObject) -> None:
    leaves = label_space(taxa)
    numbers = st.integers(0, len(leaves) - 1)
    one, other = (np.array(data.draw(st.lists(numbers, min_size=4, max_size=4))) for _ in range(2))
    nodes, group = nodes_of(leaves), np.arange(4)

    def measured(answer: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
        rank = depth_of(answer, nodes)
        sums = overlap(rank, nodes[rank, answer], nodes[:, truth].T, nodes)
        return {name: row["value"] for name, row in ratios(*sums, truth, group, 20, 0).items()}

    there, back = measured(one, other), measured(other, one)
    assert there["f"] == pytest.approx(back["f"]) and there["precision"] == pytest.approx(back["recall"])
    assert (there["f"] == 1) == (one == other).all()
    assert 0 <= there["f"] <= 1


def test_a_label_is_as_specific_as_its_share_of_the_leaves() -> None:
    rank, node = np.array([6, 5, 4, 0, -1]), np.array([0, 0, 0, 0, -1])
    found = specificity(rank, node, NODE_OF_LEAF)
    np.testing.assert_allclose(found, [1, 0.5, 0.5, 1 - np.log2(3) / 2, 0])


# ---- calibration


def test_calibration_error_by_hand_and_without_groups() -> None:
    confidence = np.array([0.95, 0.97, 0.55, 0.55, 0.2])
    right = np.array([1, 0, 1, 1, np.nan])
    bins = [abs(1 - 0.95 + 0 - 0.97), 2 * 0.45]
    each = [np.ones(5, dtype=int)]
    found = expected_error(np.stack([confidence, np.full(5, 0.99)], axis=1), right, np.arange(5), each)
    np.testing.assert_allclose(found, [[sum(bins) / 4, 0.99 - 0.75]])
    grouped = expected_error(confidence[:, None], right, np.array([0, 0, 1, 1, 2]), [np.ones(3, dtype=int)])
    np.testing.assert_allclose(grouped[0], found[0, :1])


def test_calibration_error_of_honest_probabilities_is_small_and_of_boasts_is_not() -> None:
    errors = []
    for boast in (1.0, 3.0):
        logits, truth = photographs(5000, 1, boast=boast)
        found = score(logits, truth, NODES[:, truth].T, NODES)
        each = [np.ones(5000, dtype=int)]
        errors.append(expected_error(found["probability"][:, None], found["top1"], np.arange(5000), each)[0, 0])
    assert errors[0] < 0.03 < 0.2 < errors[1]


# ---- against scikit-learn


def test_accuracies_and_surprise_are_those_of_scikit_learn() -> None:
    logits, truth = photographs(400, 2)
    truth[-7:] = truth[:7]
    found = score(logits, truth, NODES[:, truth].T, NODES, temperature=1.7)
    everything = np.arange(NODES.shape[1])
    assert found["top1"].mean() == pytest.approx(accuracy_score(truth, logits.argmax(1)))
    assert found["top5"].mean() == pytest.approx(top_k_accuracy_score(truth, logits, k=5, labels=everything))
    assert found["nll"].mean() == pytest.approx(log_loss(truth, softmax(logits / 1.7), labels=everything))
    assert found["nll_raw"].mean() == pytest.approx(log_loss(truth, softmax(logits), labels=everything))
    for rank, name in enumerate(RANKS):
        summed = np.zeros((400, NODES[rank].max() + 1))
        np.add.at(summed.T, NODES[rank], softmax(logits / 1.7).T)
        answer, wanted = summed.argmax(1), NODES[rank][truth]
        assert found[name].mean() == pytest.approx(accuracy_score(wanted, answer))
        macro = bootstrap.class_mean(found[name], wanted)
        assert macro == pytest.approx(balanced_accuracy_score(wanted, answer))
        micro = precision_score(wanted, answer, average="micro", zero_division=0)
        assert found[name].mean() == pytest.approx(micro)


# ---- confusion


def test_confusion_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth, answers = random.integers(-1, 5, size=200), random.integers(0, 8, size=200)
    nodes, table = confusion.counts(truth, answers)
    known = truth >= 0
    expected = confusion_matrix(truth[known], answers[known], labels=range(8))[:5]
    np.testing.assert_array_equal(nodes, range(5))
    np.testing.assert_array_equal(table[:, :5], expected[:, :5])
    np.testing.assert_array_equal(table[:, 5], expected[:, 5:].sum(axis=1))


def test_confusion_is_shown_at_the_lowest_rank_with_room() -> None:
    nodes = np.stack([np.arange(60) % count for count in (1, 2, 3, 14, 15, 60, 60)], axis=1)
    assert confusion.rank_to_show(nodes) == 3
    assert confusion.rank_to_show(np.zeros((5, 7), int)) is None


# ---- back-off


def test_back_off_shares_add_up_and_the_strictest_level_is_the_most_often_right() -> None:
    fitted_on, labels = photographs(800, 3)
    logits, truth = photographs(800, 4)
    nodes = NODES[:, truth].T
    fit, test = (score(x, y, NODES[:, y].T, NODES) for x, y in ((fitted_on, labels), (logits, truth)))
    curve = backoff.operating_curve(fit, NODES[:, labels].T, test, nodes, NODES)
    assert list(curve) == ["0.8", "0.85", "0.9", "0.925", "0.95", "0.975", "0.99"][: len(curve)] and len(curve) >= 5
    for point in curve.values():
        assert sum(point[rank] for rank in RANKS) == pytest.approx(point["answered"], abs=1e-5)
    right, answered = ([point[name] for point in curve.values()] for name in ("right", "specificity"))
    assert answered == sorted(answered, reverse=True) and right[-1] > right[0]
    for level, point in curve.items():
        assert point["right"] >= float(level) - 0.02
    thresholds = dict.fromkeys(RANKS, 0.8)
    strata: dict[tuple[str, ...], np.ndarray] = {("in_calibration",): np.arange(800) < 400}
    row = backoff.summarise(test, thresholds, nodes, NODES, np.arange(800), strata, 50, 0)
    parts = [
        row["answered_at"][rank]["value"] * row["right_at"][rank]["value"]
        for rank in RANKS
        if row["right_at"][rank]["value"]
    ]
    assert sum(parts) == pytest.approx(row["right"]["value"] * row["answered"]["value"], abs=1e-4)
    assert row["strata"]["in_calibration"]["answered"]["n_images"] == 400
    assert row["right"]["n_images"] == row["answered"]["value"] * 800


# ---- taxon by taxon


def test_every_taxon_counts_alike() -> None:
    """A species with 95 right of 100 answers, one with 3 of 5, one with 4 answers, and photographs without one."""
    species = np.repeat([4, 7, 9, -1], [100, 5, 4, 6])
    genus = np.repeat([0, 0, 1, 1], [100, 5, 4, 6])
    truth_nodes = np.stack([*[np.zeros(115, int)] * 5, genus, species], axis=1)
    right = np.concatenate([np.arange(100) >= 5, [1, 1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1, 1, np.nan]]).astype(float)
    found = backoff.macro(right, truth_nodes, 400, 0)
    numbers = found["species"]
    assert numbers["mostly_right"] == {"value": 0.5, "ci95": [0, 1], "n_images": 105, "n_classes": 2}
    assert numbers["mean"]["value"] == pytest.approx((0.95 + 0.6) / 2) and numbers["n_left_out"] == 1
    # the genera: 98 of 105, and 5 of 9 that can be judged
    assert found["genus"]["mostly_right"]["value"] == 0.5 and found["genus"]["mean"]["n_images"] == 114
    assert found["genus"]["mean"]["value"] == pytest.approx((98 / 105 + 5 / 9) / 2)
    assert np.nanmean(right) == pytest.approx(103 / 114)  # what a promise about all answers looks at


def test_the_bounds_of_mostly_right_count() -> None:
    right = np.array([1.0] * 9 + [0] + [1] * 8 + [0] * 2)
    truth_nodes = np.repeat([0, 1], 10)[:, None].repeat(7, axis=1)
    found = backoff.macro(right, truth_nodes, 10, 0)["species"]["mostly_right"]
    assert found["value"] == 0.5  # 9 of 10 is mostly, 8 of 10 is not
    few = backoff.macro(right[:4], truth_nodes[:4], 10, 0)["species"]
    assert few["mostly_right"] == {"value": None, "ci95": None, "n_images": 0, "n_classes": 0}
    assert few["n_left_out"] == 1


# ---- risk and coverage


def area(logits: np.ndarray, truth: np.ndarray, nodes: np.ndarray) -> dict[str, Any]:
    found = score(logits, truth, nodes[:, truth].T, nodes)
    return backoff.area(found, nodes[:, truth].T, nodes, np.arange(len(truth)), 20, 0)


def test_area_by_hand() -> None:
    """One photograph of the first leaf; its sister has 0.5 of the probability, itself 0.3, another family 0.2."""
    nodes = NODE_OF_LEAF[:, :3]
    leaves = np.log(np.array([[0.3, 0.5, 0.2]]))
    found = area(leaves, np.array([0]), nodes)
    # From 1 down to 0.8: the order, which is all leaves and covers nothing. To 0.5: the family, which is right and
    # covers 1 - log 2 / log 3. Then the wrong species: a trapezoid of height 1 over what is left.
    assert found["value"] == pytest.approx(0.5 * np.log(2) / np.log(3), abs=1e-6)
    assert found["risk"][0] == 0 and found["risk"][-1] == 1 and found["n_images"] == 1 and found["ci95"] is None
    assert area(leaves[:, [1, 0, 2]], np.array([0]), nodes)["value"] == 0  # now the species is right


def test_area_is_that_of_a_curve_drawn_threshold_by_threshold() -> None:
    logits, truth = photographs(60, 5)
    truth_nodes = NODES[:, truth].T
    found = score(logits, truth, truth_nodes, NODES)
    coverage, risk = [0.0], [0.0]
    for threshold in sorted({*found["share"].ravel().tolist()}, reverse=True):
        row = backoff.summarise(found, dict.fromkeys(RANKS, threshold), truth_nodes, NODES, np.arange(60), {}, 1, 0)
        coverage.append(row["specificity"]["value"])
        risk.append(row["answered"]["value"] * (1 - row["right"]["value"]))
    assert area(logits, truth, NODES)["value"] == pytest.approx(np.trapezoid(risk, coverage), abs=1e-5)
    assert (coverage[-1], risk[-1]) == (1, pytest.approx(1 - found["top1"].mean(), abs=1e-6))
    # scikit-learn wants rising coverage; above a threshold of one half it rises by itself
    order = np.argsort(coverage, kind="stable")
    assert auc(np.array(coverage)[order], np.array(risk)[order]) == pytest.approx(
        area(logits, truth, NODES)["value"], abs=2e-3
    )


def test_area_is_zero_if_all_is_right_and_smaller_for_the_better_model() -> None:
    truth = np.arange(24)
    assert area(9.0 * np.eye(24), truth, NODES)["value"] == 0
    areas = []
    for skill in (0.5, 1.0, 2.0):
        logits, labels = photographs(800, 6)
        noise = np.random.default_rng(7).normal(size=logits.shape) / skill
        areas.append(area(logits + 3 * noise, labels, NODES)["value"])
    assert areas == sorted(areas, reverse=True) and areas[-1] > 0


def test_area_has_an_interval_that_holds_it_and_asks_species_only() -> None:
    logits, truth = photographs(300, 8)
    nodes = NODES[:, truth].T.copy()
    nodes[:40, 6] = -1
    found = score(logits, np.where(nodes[:, 6] < 0, -1, truth), nodes, NODES)
    row = backoff.area(found, nodes, NODES, np.arange(300) // 2, 100, 0)
    assert row["n_images"] == 260 and row["ci95"][0] < row["value"] < row["ci95"][1]
    nothing = {name: values[:40] for name, values in found.items()}
    assert backoff.area(nothing, nodes[:40], NODES, np.arange(40), 10, 0)["value"] is None


def test_a_promise_is_broken_only_beyond_doubt() -> None:
    assert backoff.kept({"value": 0.94, "ci95": [0.92, 0.96]}) is True
    assert backoff.kept({"value": 0.92, "ci95": [0.9, 0.94]}) is False
    assert backoff.kept({"value": 0.97, "ci95": None}) is True
    assert backoff.kept({"value": None, "ci95": None}) is None
