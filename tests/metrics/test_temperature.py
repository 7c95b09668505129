"""Temperature: recovered where it is known, and the same from a summary of the logits as from all of them."""

import tracemalloc

import numpy as np
import pytest
import torch

from bioclip_lite.metrics import temperature
from bioclip_lite.metrics.calibration import nodes_of
from bioclip_lite.metrics.ranks import grouping, softmax
from bioclip_lite.metrics.temperature import EXACT, Evidence, best_temperature, evidence, fit_temperature, join
from bioclip_lite.taxa.taxonomy import is_ancestor, label_space
from bioclip_lite.training import losses
from support.fake_evaluation import tree

LEAVES = label_space(tree(24))
NODES = nodes_of(LEAVES)
CLOSE = np.array([[next((r for r in range(7) if a[r] != b[r]), 7) for b in LEAVES] for a in LEAVES])


def photographs(n: int, seed: int, boast: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(logits, leaves) of n photographs whose labels are drawn from the model's own probabilities.

    The logits are ``boast`` times those that the labels are drawn from.
    """
    random = np.random.default_rng(seed)
    centre = random.integers(len(LEAVES), size=n)
    hard = random.gamma(2.0, 0.5, size=(n, 1))  # some photographs are harder than others
    logits = hard * CLOSE[centre] + random.normal(size=(n, len(LEAVES)))
    drawn = (softmax(logits).cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    return boast * logits, drawn


def on(logits: np.ndarray, truth_nodes: np.ndarray, node_of_leaf: np.ndarray = NODES) -> Evidence:
    return evidence(logits, truth_nodes, [grouping(names) for names in node_of_leaf])


@pytest.mark.parametrize("boast", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_known_one(boast: float) -> None:
    logits, truth = photographs(4000, 0, boast=boast)
    assert fit_temperature(logits, NODES[:, truth].T, NODES) == pytest.approx(boast, rel=0.07)


def test_temperature_is_the_best_of_its_neighbours_for_labels_at_every_rank() -> None:
    logits, truth = photographs(300, 1, boast=2)
    nodes = NODES[:, truth].T.copy()
    for row in range(len(nodes)):
        nodes[row, 7 - row % 5 :] = -1  # known to species, genus, family, order, class
    found = fit_temperature(logits, nodes, NODES)
    surprises = [on(logits, nodes).surprise(t).mean() for t in (found, 0.97 * found, 1.03 * found, 1.0)]
    assert surprises[0] == min(surprises)


def test_surprise_is_the_loss_that_students_learn_from() -> None:
    logits, truth = photographs(40, 2)
    nodes = NODES[:, truth].T.copy()
    nodes[20:, 5:] = -1
    labels = [(*LEAVES[leaf][:5], None, None) if row >= 20 else LEAVES[leaf] for row, leaf in enumerate(truth)]
    under = torch.tensor([[leaf == label or is_ancestor(label, leaf) for leaf in LEAVES] for label in labels])
    expected = float(losses.taxon_nll(torch.from_numpy(logits / 1.5), under))
    assert on(logits, nodes).surprise(1.5).mean() == pytest.approx(expected, rel=1e-9)


def test_surprise_does_not_depend_on_how_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, truth = photographs(50, 3)
    nodes = NODES[:, truth].T
    whole = on(logits, nodes).surprise(1.0)
    monkeypatch.setattr(temperature, "_AT_ONCE", 7 * len(LEAVES))
    np.testing.assert_array_equal(on(logits, nodes).surprise(1.0), whole)
    parts = join([on(logits[:20], nodes[:20]), on(logits[20:20], nodes[20:20]), on(logits[20:], nodes[20:])])
    np.testing.assert_array_equal(parts.surprise(1.0), whole)


def test_without_a_label_logits_stay_as_they_are() -> None:
    assert fit_temperature(np.zeros((0, len(LEAVES))), np.zeros((0, 7), int), NODES) == 1
    assert fit_temperature(np.ones((2, len(LEAVES))), np.full((2, 7), -1), NODES) == 1


# ---- many taxa


def many(n: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits float32 [n, classes], truth_nodes, node_of_leaf) with genera of 3000 species, one label in four."""
    random = np.random.default_rng(4)
    leaf = random.integers(classes, size=n)
    logits = random.normal(scale=2.0, size=(n, classes)).astype(np.float32)
    logits[np.arange(n), leaf] += random.normal(7, 3, size=n)
    node_of_leaf = np.stack([*[np.zeros(classes, int)] * 5, np.arange(classes) // 3000, np.arange(classes)])
    nodes = node_of_leaf[:, leaf].T.copy()
    nodes[::4, 6] = -1
    return logits, nodes, node_of_leaf


def test_a_summary_of_many_logits_gives_the_same_surprise(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, nodes, node_of_leaf = many(24, 9000)
    assert EXACT < 3000  # even a genus is summed up
    summary = on(logits, nodes, node_of_leaf)
    assert summary.values.shape == (24, EXACT)
    monkeypatch.setattr(temperature, "EXACT", 10**6)
    whole = on(logits, nodes, node_of_leaf)
    for t in (0.1, 0.3, 1.0, 3.0, 10.0):
        np.testing.assert_allclose(summary.surprise(t), whole.surprise(t), rtol=1e-6, atol=2e-6)
    assert best_temperature(summary) == pytest.approx(best_temperature(whole), rel=2e-4)


def test_what_is_kept_of_a_photograph_does_not_grow_with_the_taxa() -> None:
    kept = []
    for classes in (6000, 60_000):
        logits, nodes, node_of_leaf = many(8, classes)
        nodes[:, 6] = node_of_leaf[6, 0]  # each label is a species
        tracemalloc.start()
        found = on(logits, nodes, node_of_leaf)
        kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(found.own.sizes) == 8
    assert kept[1] < 1.1 * kept[0]
