"""Temperature and back-off: recovered where the truth is known, and the promise kept in simulated draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bioclip_lite.metrics import calibration
from bioclip_lite.metrics.calibration import (
    back_off,
    best_nodes,
    calibrate,
    fit_thresholds,
    judge,
    nodes_of,
)
from bioclip_lite.metrics.ranks import capped, softmax, uncapped
from bioclip_lite.taxa.taxonomy import RANKS, Path, label_space, nodes_at
from support.fake_evaluation import tree

LEAVES = label_space(tree(24))
NODES = nodes_of(LEAVES)
ANY = np.full(len(LEAVES), 6, np.int8)  # no taxon is capped
CLOSE = np.array([[next((r for r in range(7) if a[r] != b[r]), 7) for b in LEAVES] for a in LEAVES])

names = st.sampled_from(["a", "b", None])
paths = st.lists(st.tuples(*[st.sampled_from(["a", "b"])] * 4, names, names, names), min_size=1, max_size=10)


def photographs(n: int, seed: int, skill: float = 1.0, boast: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(logits, leaves) of n photographs whose labels are drawn from the model's own probabilities.

    The logits are ``boast`` times those that the labels are drawn from.
    """
    random = np.random.default_rng(seed)
    centre = random.integers(len(LEAVES), size=n)
    hard = random.gamma(2.0, 0.5, size=(n, 1))  # some photographs are harder than others
    logits = skill * hard * CLOSE[centre] + random.normal(size=(n, len(LEAVES)))
    drawn = (softmax(logits).cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    return boast * logits, drawn


# ---- back-off


@settings(max_examples=60, deadline=None)
@given(paths, st.data())
def test_the_answer_is_the_lowest_rank_that_reaches_its_threshold(taxa: list[Path], data: st.DataObject) -> None:
    leaves = label_space(path if any(path) else ("a", *path[1:]) for path in taxa)
    logits = data.draw(arrays(np.float64, (4, len(leaves)), elements=st.floats(-9, 9)))
    limits = st.one_of(st.none(), st.floats(0.01, 1))
    thresholds = {rank: data.draw(limits) for rank in RANKS}
    probabilities = softmax(logits)
    rank, node = back_off(probabilities, nodes_of(leaves), thresholds)
    for row in range(4):
        expected = -1, -1
        for r, name in enumerate(RANKS):  # the last one that reaches it is the lowest
            numbers: list[Path] = []
            sums: list[float] = []
            for p, leaf in zip(probabilities[row], leaves, strict=True):
                if not leaf[r]:
                    continue
                if leaf[: r + 1] not in numbers:
                    numbers.append(leaf[: r + 1])
                    sums.append(0.0)
                sums[numbers.index(leaf[: r + 1])] += p
            limit = thresholds[name]
            if sums and limit is not None and abs(max(sums) - limit) < 1e-9:
                return  # a sum in another order may fall on the other side
            if sums and limit is not None and max(sums) >= limit:
                expected = r, int(np.argmax(sums))
        assert rank[row] == expected[0]
        if len(set(np.round(probabilities[row], 9))) == len(leaves):  # no ties
            assert node[row] == expected[1]


def test_taxa_that_are_not_told_apart_are_named_together() -> None:
    """Two sisters are never named below the genus, a third one is; a fourth species is never named below the family."""
    leaves: list[Path] = [
        *(("A", "p", "c", "o", "f", "G", name) for name in "xyz"),
        ("A", "p", "c", "o", "f", "H", "w"),
    ]
    nodes = nodes_of(leaves)
    named = capped(nodes, np.array([5, 5, 6, 4]))
    probabilities = np.array(
        [
            [0.50, 0.45, 0.04, 0.01],  # the genus, however sure it is of one sister
            [0.30, 0.25, 0.40, 0.05],  # the third is the best leaf, but one of the sisters is more probable
            [0.05, 0.05, 0.85, 0.05],  # the third
            [0.02, 0.02, 0.02, 0.94],  # the family
        ]
    )
    share, node = best_nodes(probabilities, named)
    np.testing.assert_allclose(share[:, 6], [0, 0, 0.85, 0])
    np.testing.assert_array_equal(node[:, 6], [-1, -1, 2, -1])
    np.testing.assert_allclose(share[:, 5], [0.99, 0.95, 0.95, 0])
    np.testing.assert_array_equal(node[:, 5], [0, 0, 0, -1])
    np.testing.assert_allclose(share[:, 4], 1)
    rank, node = back_off(probabilities, named, dict.fromkeys(RANKS, 0.8))
    np.testing.assert_array_equal(rank, [5, 5, 6, 4])
    np.testing.assert_array_equal(node, [0, 0, 2, 0])
    assert [uncapped(int(name), 6, 4) for name in named[6]] == [(5, 0), (5, 0), (6, 2), (4, 0)]
    labels = calibration.place([leaves[0], leaves[1], leaves[2], leaves[3]], leaves)
    np.testing.assert_array_equal(judge(rank, node, labels, named), 1)  # the genus of either sister is right


def test_a_rank_without_a_name_is_passed_over_by_a_cap() -> None:
    """Never below the family, where none is known: the order; without any name above there is no answer."""
    leaves: list[Path] = [("A", "p", "c", "o", None, "G", "x"), (None, None, None, None, None, None, "y")]
    named = capped(nodes_of(leaves), np.array([4, 4]))
    share, node = best_nodes(np.array([[0.9, 0.1], [0.1, 0.9]]), named)
    np.testing.assert_array_equal(share[:, 4:], 0)
    np.testing.assert_array_equal(node[:, 3], 0)
    np.testing.assert_allclose(share[:, 3], [0.9, 0.1])
    assert uncapped(int(named[6, 0]), 6, 2) == (3, 0) and named[6, 1] == -1


@given(paths, arrays(float, (4, 10), elements=st.floats(0, 1)), st.lists(st.integers(0, 6), min_size=10, max_size=10))
@settings(max_examples=60, deadline=None)
def test_an_answer_is_never_below_the_finest_rank_of_the_most_probable_taxa(
    taxa: list[Path], raw: np.ndarray, caps: list[int]
) -> None:
    """Compared with a search through dictionaries of names."""
    leaves = label_space(taxa)
    probabilities = raw[:, : len(leaves)] + 1e-3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    finest = np.array(caps[: len(leaves)])
    nodes = nodes_of(leaves)
    rank, node = back_off(probabilities, capped(nodes, finest), dict.fromkeys(RANKS, 0.6))
    for row in range(4):
        expected: tuple[int, Path | None] = -1, None
        for r in range(7):
            sums: dict[Path, float] = {}
            for p, leaf, cap in zip(probabilities[row], leaves, finest, strict=True):
                ends = [leaf[: at + 1] for at in range(min(r, cap) + 1) if leaf[at]]
                if leaf[r] and ends:
                    sums[ends[-1]] = sums.get(ends[-1], 0.0) + p
            if any(abs(total - 0.6) < 1e-9 for total in sums.values()):
                return  # a sum in another order may fall on the other side
            expected = next(((r, end) for end, p in sums.items() if p > 0.6 and len(end) == r + 1), expected)
        found = nodes_at(leaves, int(rank[row]))[1][node[row]] if rank[row] >= 0 else None
        assert (rank[row], found) == expected


def test_thresholds_are_none_where_no_taxon_may_be_named() -> None:
    logits = np.where(np.arange(len(LEAVES)) == np.arange(60)[:, None] % len(LEAVES), 30.0, 0.0)
    taxa = [LEAVES[row % len(LEAVES)] for row in range(60)]
    found = calibrate(logits, taxa, LEAVES, [None] * 60, np.full(len(LEAVES), 5))["thresholds"]["ranks"]
    assert found == {rank: None if rank == "species" else 0.5 for rank in RANKS}


def test_judged_by_hand() -> None:
    leaves = [
        ("A", "p", "c", "o", "f", "G", "x"),
        ("A", "p", "c", "o", "f", "G", "y"),
        ("A", "p", "c", "o", "g", "H", "z"),
    ]
    nodes = nodes_of(leaves)
    taxa: list[Path] = [
        leaves[0],  # answered to species, right
        leaves[1],  # answered as its sister
        leaves[1],  # answered to genus: right
        ("A", "p", "c", "o", "f", None, None),  # of that family, answered to species: cannot tell
        ("A", "p", "c", "o", "g", None, None),  # of the other family: wrong
        ("A", "p", "c", "o", "f", "G", "new"),  # a species that the list lacks: wrong
        ("A", "p", "c", "o", "f", "G", "new"),  # its genus: right
        leaves[0],  # no answer
    ]
    rank = np.array([6, 6, 5, 6, 6, 6, 5, -1])
    found = judge(rank, np.array([0, 0, 0, 0, 0, 0, 0, -1]), calibration.place(taxa, leaves), nodes)
    np.testing.assert_array_equal(found, [1, 0, 1, np.nan, 0, 0, 1, np.nan])


def test_a_name_that_the_label_lacks_is_not_right() -> None:
    """A species without a family is in no family, also if its genus bears the same name as one that has one."""
    leaves: list[Path] = [("A", "p", "c", "o", None, "G", "x"), ("A", "p", "c", "o", "f", "G", "x")]
    found = judge(np.array([4, 4]), np.array([0, 0]), calibration.place(leaves, leaves), nodes_of(leaves))
    np.testing.assert_array_equal(found, [0, 1])


@pytest.mark.parametrize(("boast", "every"), [(0.7, None), (1.0, None), (2.0, None), (2.0, 2), (1.0, 1)])
def test_the_promise_is_kept_in_most_draws(boast: float, every: int | None) -> None:
    """The share of the draws whose answers are right less often than promised is at most 10 %, whatever the model.

    ``every``: one in so many taxa is never named below its genus, or below its family.
    """
    everyone, truth = photographs(20_000, 99, boast=boast)
    finest = ANY.copy()
    if every:
        finest[::every], finest[:: 3 * every] = 5, 4
    named = capped(NODES, finest)
    share, node = best_nodes(softmax(everyone), named)
    nodes = NODES[:, truth].T
    random, broken, answered = np.random.default_rng(0), 0, []
    for _ in range(150):
        drawn = random.choice(len(truth), 250, replace=False)
        thresholds = calibration.fit_reduced(share[drawn], node[drawn], nodes[drawn], named, 0.9)
        rank = calibration.lowest(share, thresholds)
        right = judge(rank, calibration.chosen(node, rank), nodes, NODES)
        answered.append(float((rank >= 0).mean()))
        broken += bool(np.nanmean(right) < 0.9) if (rank >= 0).any() else 0
    assert broken <= 22  # 15 of 150 promised; 23 or more happen in 2 % of such tests
    assert np.mean(answered) > 0.5  # kept by answering, not by silence


def test_a_model_that_guesses_gives_no_answer() -> None:
    random = np.random.default_rng(0)
    logits = 10 * random.normal(size=(400, len(LEAVES)))
    truth = random.integers(len(LEAVES), size=400)
    found = fit_thresholds(softmax(logits), NODES[:, truth].T, NODES, 0.95)
    assert list(found) == list(reversed(RANKS)) and set(found.values()) == {None}


def test_too_few_photographs_promise_nothing() -> None:
    logits = np.where(np.arange(len(LEAVES)) == np.arange(60)[:, None] % len(LEAVES), 30.0, 0.0)
    nodes = NODES[:, np.arange(60) % len(LEAVES)].T
    probabilities = softmax(logits)
    assert set(fit_thresholds(probabilities[:44], nodes[:44], NODES, 0.95).values()) == {None}
    assert set(fit_thresholds(probabilities[:45], nodes[:45], NODES, 0.95).values()) == {0.5}  # always right


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.floats(0.5, 2))
def test_a_higher_level_is_never_less_careful(seed: int, boast: float) -> None:
    logits, truth = photographs(200, seed, boast=boast)
    nodes = NODES[:, truth].T
    probabilities = softmax(logits)
    order = np.random.default_rng(seed).permutation(200)
    before: dict[str, float | None] = dict.fromkeys(RANKS, 0.0)
    for level in (0.6, 0.8, 0.9, 0.95):
        found = fit_thresholds(probabilities, nodes, NODES, level)
        assert found == fit_thresholds(probabilities[order], nodes[order], NODES, level)
        for rank, threshold in found.items():
            lower = before[rank]
            assert threshold is None or (lower is not None and lower <= threshold <= 1)
        before = found


def test_answers_of_all_ranks_lie_on_one_path() -> None:
    logits, truth = photographs(300, 5)
    probabilities = softmax(logits)
    thresholds = fit_thresholds(probabilities, NODES[:, truth].T, NODES, 0.9)
    assert all(t is not None and t >= 0.5 for t in thresholds.values())
    rank, node = back_off(probabilities, NODES, thresholds)
    top = probabilities.argmax(axis=1)
    for row in np.flatnonzero(rank >= 0):
        under = np.flatnonzero(NODES[rank[row]] == node[row])
        assert probabilities[row, under].sum() >= 0.5
        if probabilities[row].max() > 0.5:
            assert top[row] in under


# ---- as stage convert calls it


def test_calibrate_takes_one_photograph_of_each_observation() -> None:
    logits, truth = photographs(120, 6)
    taxa = [LEAVES[leaf] for leaf in truth]
    twice = np.repeat(logits, 2, axis=0), [path for path in taxa for _ in range(2)]
    single = calibrate(logits, taxa, LEAVES, [None] * 120, ANY)
    double = calibrate(*twice, LEAVES, [f"observation {i // 2}" for i in range(240)], ANY)
    assert single == double  # copies are no evidence
    assert set(single["thresholds"]["ranks"]) == set(RANKS)
    assert (single["thresholds"]["level"], single["thresholds"]["confidence"]) == (0.95, 0.9)
    np.testing.assert_array_equal(calibration.first_of_each(["a", None, "a", None, "b"]), [0, 1, 3, 4])


def test_calibrate_without_photographs() -> None:
    found = calibrate(np.zeros((0, len(LEAVES)), np.float32), [], LEAVES, [], ANY)
    assert found["temperature"] == 1 and set(found["thresholds"]["ranks"].values()) == {None}


def test_a_genus_that_stands_for_its_species_is_answered_as_a_genus() -> None:
    """A table shortened to a byte budget has no species under some genera."""
    short: list[Path] = [*LEAVES[:-2], (*LEAVES[-1][:6], None)]
    logits = np.zeros((100, len(short)), np.float32)
    logits[:, -1] = 30
    found = calibrate(logits, [LEAVES[-1]] * 100, short, [None] * 100, ANY[: len(short)])["thresholds"]["ranks"]
    rank, _ = back_off(softmax(logits), nodes_of(short), found)
    assert (rank == RANKS.index("genus")).all()
