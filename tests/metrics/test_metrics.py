"""The laws that the metrics obey, and numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bioclip_lite.metrics import bootstrap
from bioclip_lite.metrics.ranks import answers, softmax, sum_up
from bioclip_lite.metrics.scoring import score
from bioclip_lite.metrics.summary import summarise
from bioclip_lite.metrics.topk import places
from bioclip_lite.taxa.taxonomy import RANKS, Path, label_space, nodes_at

# Two kingdoms; genus A1 has two species, B1 one, genus C1 is known only as a genus.
LEAVES: list[Path] = [
    ("A", "p", "c", "o", "f", "A1", "x"),
    ("A", "p", "c", "o", "f", "A1", "y"),
    ("A", "p", "c", "o", "g", "B1", "x"),
    ("P", "q", "d", "r", "h", "C1", None),
]
NODE_OF_LEAF = np.stack([nodes_at(LEAVES, rank)[0] for rank in range(7)])

names = st.sampled_from(["a", "b", "c", None])
paths = st.lists(st.tuples(*[st.sampled_from(["a", "b"])] * 5, names, names), min_size=1, max_size=12, unique=True)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Path], np.ndarray]:
    """A label space and logits for some images."""
    leaves = label_space(draw(paths))
    images = draw(st.integers(1, 8))
    values = st.floats(-30, 30, width=32)
    return leaves, draw(arrays(np.float32, (images, len(leaves)), elements=values))


def truth_nodes(leaves: list[Path], truth: np.ndarray) -> np.ndarray:
    return np.stack([nodes_at(leaves, rank)[0][truth] for rank in range(7)], axis=1)


# ---- the tree


@given(problems())
def test_probabilities_sum_up_the_tree(problem: tuple[list[Path], np.ndarray]) -> None:
    leaves, logits = problem
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    for rank in range(7):
        index, nodes = nodes_at(leaves, rank)
        summed = sum_up(probabilities, index)
        assert summed.shape == (len(logits), len(nodes))
        for number, node in enumerate(nodes):
            under = [column for column, leaf in enumerate(leaves) if leaf[: rank + 1] == node]
            np.testing.assert_allclose(summed[:, number], probabilities[:, under].sum(axis=1), atol=1e-12)
        np.testing.assert_allclose(summed.sum(axis=1), probabilities[:, index >= 0].sum(axis=1), atol=1e-12)


@given(problems(), st.randoms(use_true_random=False))
def test_rank_answers_do_not_depend_on_the_order_of_leaves(
    problem: tuple[list[Path], np.ndarray], random: object
) -> None:
    leaves, logits = problem
    order = list(range(len(leaves)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for rank in range(7):
        index, nodes = nodes_at(leaves, rank)
        shuffled, shuffled_nodes = nodes_at([leaves[i] for i in order], rank)
        if not nodes:
            assert (answers(softmax(logits), index) == -1).all()
            continue
        before = sum_up(softmax(logits), index)
        after = sum_up(softmax(logits[:, order]), shuffled)
        columns = [shuffled_nodes.index(node) for node in nodes]
        np.testing.assert_allclose(before, after[:, columns], atol=1e-12)


def test_a_genus_can_beat_the_most_probable_species() -> None:
    logits = np.log(np.array([[0.3, 0.3, 0.4, 1e-9]], dtype=np.float32))
    assert softmax(logits).argmax() == 2  # species B1 x
    genus = nodes_at(LEAVES, RANKS.index("genus"))
    assert genus[1][answers(softmax(logits), genus[0])[0]][-1] == "A1"
    np.testing.assert_allclose(sum_up(softmax(logits), genus[0]), [[0.6, 0.4, 0]], atol=1e-6)


def test_a_leaf_without_a_species_gives_no_species_its_probability() -> None:
    logits = np.array([[0, 1, 0, 9]], dtype=np.float32)  # the genus C1 wins
    truth = np.array([1])
    found = score(logits, truth, truth_nodes(LEAVES, truth), NODE_OF_LEAF)
    assert found["top1"] == 0 and found["answer"] == 3
    assert found["species"] == 1  # among the species, A1 y is the best
    assert found["kingdom"] == 0


@given(problems())
def test_perfect_predictions_are_right_at_every_rank(problem: tuple[list[Path], np.ndarray]) -> None:
    leaves, logits = problem
    truth = np.arange(len(logits)) % len(leaves)
    perfect = np.full_like(logits, -50)
    perfect[np.arange(len(logits)), truth] = 50
    index = np.stack([nodes_at(leaves, rank)[0] for rank in range(7)])
    found = score(perfect, truth, truth_nodes(leaves, truth), index)
    assert (found["top1"] == 1).all() and (found["top5"] == 1).all() and (found["answer"] == truth).all()
    for rank, name in enumerate(RANKS):
        known = index[rank][truth] >= 0
        assert (found[name][known] == 1).all() and np.isnan(found[name][~known]).all()


def test_images_known_to_genus_count_down_to_genus() -> None:
    logits = np.array([[5, 0, 0, 0]], dtype=np.float32)
    nodes = truth_nodes(LEAVES, np.array([0]))
    nodes[0, 6] = -1
    found = score(logits, np.array([-1]), nodes, NODE_OF_LEAF)
    assert found["genus"] == 1 and np.isnan(found["species"]) and np.isnan(found["top1"]) and np.isnan(found["top5"])


# ---- top k


@given(problems(), st.integers(0, 10**6))
def test_top_k_is_monotone_and_complete(problem: tuple[list[Path], np.ndarray], seed: int) -> None:
    leaves, logits = problem
    truth = np.random.default_rng(seed).integers(len(leaves), size=len(logits))
    place = places(logits, truth)
    shares = [(place < k).mean() for k in range(1, len(leaves) + 1)]
    assert shares == sorted(shares) and shares[-1] == 1
    order = np.argsort(-logits, axis=1, kind="stable")
    np.testing.assert_array_equal(order[np.arange(len(logits)), place], truth)


def test_equal_logits_are_not_all_right() -> None:
    logits = np.zeros((4, 4), dtype=np.float32)
    np.testing.assert_array_equal(places(logits, np.array([0, 1, 2, -1])), [0, 1, 2, -1])


# ---- bootstrap


def test_draws_depend_on_names_alone_and_keep_the_number_of_groups() -> None:
    first, again = list(bootstrap.draws(7, 5, 0, "a")), list(bootstrap.draws(7, 5, 0, "a"))
    np.testing.assert_array_equal(first, again)
    assert all(count.sum() == 7 for count in first)
    assert not np.array_equal(first, list(bootstrap.draws(7, 5, 1, "a")))
    np.testing.assert_array_equal(first[:3], list(bootstrap.draws(7, 3, 0, "a")))


def test_resampled_means_by_hand() -> None:
    values = np.array([[1.0, np.nan], [0, 1], [1, 0]])
    group = np.array([0, 0, 1])
    counts = [np.array([1, 1]), np.array([2, 0]), np.array([0, 2])]
    np.testing.assert_allclose(bootstrap.means(values, group, counts), [[2 / 3, 0.5], [0.5, 1.0], [1.0, 0.0]])
    classes = np.array([0, 1, 1])
    np.testing.assert_allclose(bootstrap.class_means(values[:, :1], classes, group, counts), [[0.75], [0.5], [1.0]])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.sampled_from([0.0, 1.0]), st.integers(0, 9))
def test_constant_answers_give_an_interval_without_width(images: int, value: float, seed: int) -> None:
    values, group = np.full((images, 1), value), np.arange(images) // 2
    groups = int(group.max()) + 1
    assert bootstrap.interval(bootstrap.means(values, group, bootstrap.draws(groups, 50, seed))[:, 0]) == (value, value)


def test_intervals_mostly_hold_the_true_share() -> None:
    covered = 0
    for trial in range(100):
        random = np.random.default_rng(trial)
        of_group = random.random(120) < 0.7  # photographs of one observation are all right or all wrong
        values, group = np.repeat(of_group, 3).astype(float)[:, None], np.repeat(np.arange(120), 3)
        found = bootstrap.interval(bootstrap.means(values, group, bootstrap.draws(120, 200, trial))[:, 0])
        assert found is not None
        covered += found[0] <= 0.7 <= found[1]
    assert 88 <= covered <= 100  # 95 expected; were groups ignored, about 74 would be


def test_no_image_no_interval() -> None:
    resampled = bootstrap.means(np.full((3, 1), np.nan), np.arange(3), bootstrap.draws(3, 10, 0))
    assert bootstrap.interval(resampled[:, 0]) is None


# ---- summary


def columns(right: list[float], answer: list[int]) -> dict[str, np.ndarray]:
    """Scores in which every error is of height 2, and every answer 80 % sure."""
    values = np.array(right, dtype=float)
    sure = dict.fromkeys(("probability", "probability_raw", "nll", "nll_raw"), np.full(len(right), 0.8))
    far = dict.fromkeys(("height", "height5"), 2 * (1 - values))
    return {**dict.fromkeys(("top1", "top5", *RANKS), values), **sure, **far, "answer": np.array(answer)}


def seen_or_not(seen: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
    return {("seen",): seen, ("unseen",): ~seen}


def test_summary_by_hand() -> None:
    scores = {"teacher": columns([1, 1, 1, 0], [0, 0, 1, 0]), "student": columns([1, 0, 1, 0], [0, 1, 1, 0])}
    nodes = np.tile(np.array([[0], [0], [0], [1]]), (1, 7))
    seen = np.array([True, True, False, False])
    found = summarise(scores, nodes, np.arange(4), seen_or_not(seen), ("teacher",), 50, 0)
    assert found["teacher"]["top1"]["value"] == 0.75
    student = found["student"]
    assert (student["top1"]["value"], student["top1"]["n_images"], student["top1"]["n_classes"]) == (0.5, 4, 2)
    assert student["per_rank"]["genus"]["macro"]["value"] == pytest.approx(1 / 3)  # mean of 2/3 and 0
    assert student["difference_to"]["teacher"]["top1"]["value"] == -0.25
    assert student["agreement_with_teacher"]["value"] == 0.75
    assert student["strata"]["seen"]["species"]["value"] == 0.5
    assert student["strata"]["unseen"]["family"]["n_images"] == 2
    assert "difference_to" not in found["teacher"]
    flips = student["flips_to"]["teacher"]
    assert (flips["negative"]["value"], flips["positive"]["value"]) == (0.25, 0)
    assert [flips["negative_by_height"][str(h)]["value"] for h in range(1, 8)] == [0, 0.25, 0, 0, 0, 0, 0]
    assert student["hierarchy"]["ahd_at_1"]["value"] == 1 and student["hierarchy"]["severity"]["value"] == 2
    assert student["hierarchy"]["severity"]["n_images"] == 2
    assert student["calibration"]["ece"]["after"]["value"] == pytest.approx(0.3)  # half right, 80 % sure


def test_difference_is_paired() -> None:
    """A student that always fails on just the same photographs differs by nothing, however few they are."""
    right = [1.0, 0.0] * 10
    scores = {"teacher": columns(right, [0] * 20), "student": columns(right, [0] * 20)}
    found = summarise(scores, np.zeros((20, 7), int), np.arange(20), {}, ("teacher",), 100, 0)
    low, high = found["student"]["top1"]["ci95"]
    assert low < 0.5 < high
    assert found["student"]["difference_to"]["teacher"]["top1"]["ci95"] == [0, 0]


def test_one_observation_has_no_interval() -> None:
    scores = {"teacher": columns([1, 0, 1], [0, 0, 0])}
    found = summarise(
        scores, np.zeros((3, 7), int), np.zeros(3, int), seen_or_not(np.zeros(3, bool)), ("teacher",), 20, 0
    )
    assert found["teacher"]["top1"]["ci95"] is None and found["teacher"]["top1"]["value"] == pytest.approx(
        2 / 3, abs=1e-6
    )
    assert found["teacher"]["strata"]["seen"]["species"] == {"value": None, "ci95": None, "n_images": 0, "n_classes": 0}
