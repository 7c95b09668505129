"""Metrics against implementations that are not ours: scikit-learn, SciPy, clip_benchmark, and trees worked by hand."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    top_k_accuracy_score,
)

from bioclip_lite.metrics import bootstrap, choices, confusion, detection, reliability
from bioclip_lite.metrics.ranks import grouping, softmax
from bioclip_lite.metrics.summary import ratios
from bioclip_lite.metrics.temperature import evidence
from bioclip_lite.metrics.topk import places
from bioclip_lite.metrics.tree import heights, overlap
from bioclip_lite.suites import scoring
from bioclip_lite.suites.suite import Class, Photograph, Suite
from bioclip_lite.taxa.taxonomy import Path, nodes_at

seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, images: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits without ties and labels, of which classes have very different numbers."""
    random = np.random.default_rng(seed)
    truth = np.minimum(random.integers(0, classes, images), random.integers(0, classes, images))
    logits = random.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), truth] += random.uniform(0, 3)
    return logits, truth


def row_of(logits: np.ndarray, truth: np.ndarray) -> dict[str, dict[str, float]]:
    """The row of a suite with one class per label."""
    photographs = [Photograph(f"{i}.jpg", (t,), t, str(i)) for i, t in enumerate(truth.tolist())]
    suite = Suite([Class(str(c)) for c in range(logits.shape[1])], photographs, [], lambda _: b"", "")
    observed = {"teacher": scoring.observe("class", logits, photographs)}
    return scoring.summarise(suite, photographs, observed, 3, 0)["teacher"]


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(seeds, st.integers(1, 60), st.integers(6, 20))
def test_shares_of_right_answers_as_scikit_learn_has_them(seed: int, images: int, classes: int) -> None:
    logits, truth = drawn(seed, images, classes)
    row = row_of(logits, truth)
    for k in (1, 5):
        expected = top_k_accuracy_score(truth, logits, k=k, labels=np.arange(classes))
        assert row[f"top{k}"]["value"] == pytest.approx(expected, abs=1e-6)
        assert (places(logits, truth) < k).mean() == pytest.approx(expected)
    present = np.isin(logits.argmax(1), truth)  # scikit-learn warns of answers that are no label
    if present.all():
        assert row["macro"]["value"] == pytest.approx(balanced_accuracy_score(truth, logits.argmax(1)), abs=1e-6)


def test_the_figures_of_clip_benchmark() -> None:
    """Its version 1.6.2 gave these for the same logits (its ``accuracy`` and scikit-learn's balanced accuracy).

    It is no dependency: it needs transformers, and stops at NumPy 2.4 in converting an array of one number, which was
    put right for the comparison. Of a whole set in its form, 400 photographs read by a small CLIP in 3 templates, it
    said 0.9075, 1.0 and 0.9075, as the suite does.
    """
    random = np.random.default_rng(20261121)
    truth = random.integers(0, 12, 300)
    truth[:90] = 3
    logits = random.normal(size=(300, 12)).astype(np.float32)
    logits[np.arange(300), truth] += 1.2 * (truth % 3)
    row = row_of(logits, truth)
    assert [row[name]["value"] for name in ("top1", "top5")] == [0.35, 0.66]
    assert row["macro"]["value"] == pytest.approx(0.4727130038767433, abs=1e-6)
    best = torch.from_numpy(logits).topk(5).indices  # what it computes, in PyTorch
    hits = best == torch.from_numpy(truth)[:, None]
    assert (hits[:, 0].float().mean().item(), hits.any(1).float().mean().item()) == pytest.approx((0.35, 0.66))


@given(seeds, st.integers(2, 80), st.sampled_from([3, 1000]))
def test_average_precision_as_scikit_learn_has_it(seed: int, images: int, values: int) -> None:
    """With many equal scores, and with images drawn several times or not at all."""
    random = np.random.default_rng(seed)
    score, positive = random.integers(0, values, images) / values, random.random(images) < 0.3
    positive[0] = True
    each = np.arange(images)
    whole = detection.average_precision(score, positive, each, [np.ones(images, dtype=np.int64)])
    assert whole[0] == pytest.approx(average_precision_score(positive, score))
    group = random.integers(0, 5, images)
    count = bootstrap.draws(int(group.max()) + 1, 1, seed)[0]
    (resampled,) = detection.average_precision(score, positive, group, [count])
    weight = count[group]
    if (weight * positive).sum():
        drawn_once = weight > 0
        expected = average_precision_score(positive[drawn_once], score[drawn_once], sample_weight=weight[drawn_once])
        assert resampled == pytest.approx(expected)
    else:
        assert np.isnan(resampled)


def test_average_precision_by_hand() -> None:
    """In the order of scores: positive, negative, positive: (1/1 + 2/3) / 2."""
    score, positive = np.array([0.9, 0.8, 0.7]), np.array([True, False, True])
    assert detection.average_precision(score, positive, np.arange(3), [np.ones(3, dtype=np.int64)]) == (1 + 2 / 3) / 2


@given(seeds, st.integers(1, 200))
def test_calibration_as_scikit_learn_has_it(seed: int, images: int) -> None:
    random = np.random.default_rng(seed)
    confidence = random.random(images)
    right = (random.random(images) < confidence**2).astype(np.float64)
    once = [np.ones(images, dtype=np.int64)]
    found = reliability.expected_error(confidence[:, None], right, np.arange(images), once)[0, 0]
    share, mean = calibration_curve(right, confidence, n_bins=reliability.BINS, strategy="uniform")
    size = np.histogram(confidence, np.linspace(0, 1, reliability.BINS + 1))[0]
    assert found == pytest.approx(np.abs(share - mean) @ size[size > 0] / images)


@given(seeds, st.integers(1, 40), st.integers(2, 9))
def test_surprise_as_scikit_learn_has_it(seed: int, images: int, classes: int) -> None:
    logits, truth = drawn(seed, images, classes)
    leaves: list[Path] = [("Animalia", "P", "C", "O", "F", "G", f"s{n}") for n in range(classes)]
    node_of_leaf = np.stack([nodes_at(leaves, rank)[0] for rank in range(7)])
    nodes = [grouping(names) for names in node_of_leaf]
    found = evidence(logits, node_of_leaf[:, truth].T, nodes).surprise(1.0).mean()
    assert found == pytest.approx(log_loss(truth, softmax(logits), labels=np.arange(classes)))


@given(seeds, st.integers(1, 50), st.integers(2, 6))
def test_confusion_as_scikit_learn_has_it(seed: int, images: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    truth, answers = random.integers(0, classes, (2, images))
    nodes, table = confusion.counts(truth, answers)
    expected = confusion_matrix(truth, answers, labels=np.arange(classes))
    np.testing.assert_array_equal(table[:, : len(nodes)], expected[np.ix_(nodes, nodes)])
    np.testing.assert_array_equal(table.sum(axis=1), expected[nodes].sum(axis=1))


# ---- choices


@given(st.integers(1, 30), st.data())
def test_chance_is_hypergeometric(classes: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, classes)), data.draw(st.integers(1, 8))
    expected = hypergeom.sf(0, classes, right, min(k, classes))
    assert choices.chance(right, classes, k) == pytest.approx(expected, abs=1e-9)


@given(seeds, st.integers(1, 20))
def test_the_best_of_several_right_classes(seed: int, images: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.integers(0, 4, (images, 7)).astype(np.float32)  # with many draws
    right = [tuple(random.choice(7, random.integers(1, 5), replace=False).tolist()) for _ in range(images)]
    order = np.argsort(-logits, axis=1, kind="stable").tolist()
    expected = [min(order[i].index(c) for c in one) for i, one in enumerate(right)]
    assert choices.best_places(logits, right).tolist() == expected


@given(seeds, st.integers(1, 20))
def test_the_other_way_round_the_other_wins(seed: int, images: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.integers(0, 3, (images, 4)).astype(np.float32)
    among = [tuple(random.choice(4, 2, replace=False).tolist()) for _ in range(images)]
    there, back = (choices.choice(logits, pairs) for pairs in (among, [pair[::-1] for pair in among]))
    np.testing.assert_array_equal(there + back, np.ones(images))
    first = [1.0 if row[a] > row[b] else 0.5 if row[a] == row[b] else 0.0 for row, (a, b) in zip(logits, among)]  # noqa: B905
    assert there.tolist() == first


@given(seeds, st.integers(0, 20))
def test_of_a_draw_between_options_the_right_one_has_its_share(seed: int, images: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.integers(0, 3, (images, 6)).astype(np.float32)
    among = [random.choice(6, random.integers(1, 6), replace=False).tolist() for _ in range(images)]
    expected = []
    for row, options in zip(logits, among, strict=True):
        best = [option for option in options if row[option] == max(row[options])]
        expected.append((options[0] in best) / len(best))
    assert choices.choice(logits, among).tolist() == expected


# ---- trees

# Kingdom, phylum and class are one; no name below the genus of the last.
TREE: list[Path] = [
    ("K", "P", "C", "O1", "F1", "G1", "a"),
    ("K", "P", "C", "O1", "F1", "G1", "b"),
    ("K", "P", "C", "O1", "F2", "G2", "a"),
    ("K", "P", "C", "O2", "F3", "G3", "c"),
    ("L", "Q", "D", "O3", "F4", "G4", None),
]
NODE_OF_LEAF = np.stack([nodes_at(TREE, rank)[0] for rank in range(7)])


def test_heights_by_hand() -> None:
    """Same species 0, genus 1, order 3 (the families differ), class 4, nothing in common 7."""
    answers = np.array([[0, 1, 2, 3, 4]])
    assert heights(answers, np.array([0]), NODE_OF_LEAF).tolist() == [[0, 1, 3, 4, 7]]


def test_hierarchical_precision_and_recall_by_hand() -> None:
    """Three photographs of leaf 0, whose path has 7 nodes.

    Answered: leaf 1, of whose 7 nodes 6 are shared; order O2, 4 nodes of which 3 are shared; nothing at all. So 9 of 11
    nodes answered are right, hP = 9/11, of 21 true ones 9 are found, hR = 9/21, and hF = 2 * 9 / (11 + 21).
    """
    rank = np.array([6, 3, -1])
    node = np.array([NODE_OF_LEAF[6, 1], NODE_OF_LEAF[3, 3], -1])
    truth = np.repeat(NODE_OF_LEAF[:, [0]].T, 3, axis=0)
    sums = overlap(rank, node, truth, NODE_OF_LEAF)
    assert [column.tolist() for column in sums] == [[6, 3, 0], [7, 4, 0], [7, 7, 7]]
    found = ratios(*sums, np.zeros(3, dtype=np.int64), np.arange(3), 3, 0)
    values = [found[name]["value"] for name in ("precision", "recall", "f")]
    assert values == pytest.approx([9 / 11, 9 / 21, 18 / 32], abs=1e-6)


def nodes_of(path: Path) -> set[Path]:
    """A taxon and what is above it, each as its path."""
    return {path[: rank + 1] for rank in range(7) if path[rank]}


@settings(max_examples=50)
@given(seeds)
def test_trees_as_sets_of_names(seed: int) -> None:
    """Heights, precision and recall of random trees, counted by the names that two paths share."""
    random = np.random.default_rng(seed)
    choice = [("K", "L")[: 1 + (rank < 6)] if rank in (1, 2) else ("K", "L", "M") for rank in range(7)]
    every = list(itertools.islice(itertools.product(*choice), 0, None, int(random.integers(20, 60))))
    leaves: list[Path] = sorted({tuple(name and f"{name}{rank}" for rank, name in enumerate(path)) for path in every})
    node_of_leaf = np.stack([nodes_at(leaves, rank)[0] for rank in range(7)])
    truth, answer = random.integers(0, len(leaves), (2, 6))
    rank = random.integers(-1, 7, 6)
    node = np.where(rank < 0, -1, node_of_leaf[rank, answer])
    sums = overlap(rank, node, node_of_leaf[:, truth].T, node_of_leaf)
    far = heights(answer[:, None], truth, node_of_leaf)[:, 0]
    for i in range(6):
        asked, true = nodes_of(leaves[answer[i]][: rank[i] + 1] + (None,) * (6 - rank[i])), nodes_of(leaves[truth[i]])
        assert [column[i] for column in sums] == [len(asked & true), len(asked), len(true)]
        assert far[i] == 7 - len(nodes_of(leaves[answer[i]]) & true)
