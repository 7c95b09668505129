"""Photographs of what is not on the list: what is hidden, what the answers then promise, and laws of the tree."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip_lite.metrics import calibration, off_list
from bioclip_lite.metrics.ranks import capped, grouping, softmax, sum_up
from bioclip_lite.taxa.taxonomy import RANKS, label_space
from support.fake_evaluation import tree

LEAVES = label_space(tree(24))
NODES = calibration.nodes_of(LEAVES)
GENUS, SPECIES = RANKS.index("genus"), RANKS.index("species")
SLOPE = st.floats(0, 5)


def photographs(count: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(keys, logits, leaves): logits fall with the distance in the tree, and are high for none of the other taxa."""
    random = np.random.default_rng(seed)
    leaf = random.integers(len(LEAVES), size=count)
    close = np.array([[next((r for r in range(7) if a[r] != b[r]), 7) for b in LEAVES] for a in LEAVES])
    logits = close[leaf] + 5.0 * (leaf[:, None] == np.arange(len(LEAVES))) + random.normal(size=(count, len(LEAVES)))
    return [f"{seed}-{number}" for number in range(count)], logits, leaf


def best(logits: np.ndarray, truth: np.ndarray, rank: np.ndarray, named: np.ndarray = NODES) -> off_list.Best:
    probabilities = softmax(logits)
    groups = [[grouping(names) for names in nodes] for nodes in (NODES, named)]
    whole = off_list.Best(*calibration.best_of_groups(probabilities, groups[1]), logits.max(axis=1))
    return off_list.among_others(whole, logits, truth, rank, groups[0], groups[1], 1.0)


def test_what_is_hidden_does_not_depend_on_other_photographs_and_is_a_third_each() -> None:
    keys, _, leaf = photographs(6000, 0)
    truth = NODES[:, leaf].T
    drawn = off_list.hidden(keys, truth, NODES, 0.3)
    share = np.bincount(drawn.kind, minlength=4) / len(keys)
    assert share == pytest.approx([0.7, 0.1, 0.1, 0.1], abs=0.02)
    some = np.random.default_rng(1).permutation(len(keys))[:500]
    again = off_list.hidden([keys[row] for row in some], truth[some], NODES, 0.3)
    for whole, part in zip(drawn, again, strict=True):
        assert (whole[some] == part).all()
    fewer = off_list.hidden(keys, truth, NODES, 0.1)
    assert (drawn.kind[fewer.kind > 0] > 0).all()  # who is hidden of a tenth is so of three tenths


def test_labels_lose_the_ranks_that_have_no_leaf_left() -> None:
    keys, _, leaf = photographs(2000, 0)
    truth = NODES[:, leaf].T
    drawn = off_list.hidden(keys, truth, NODES, 0.9)
    genera = np.bincount(NODES[GENUS], minlength=len(LEAVES))
    assert {1, 2} <= set(genera[genera > 0].tolist())  # genera of one species and of two
    for kind, own, now in zip(drawn.kind, truth, drawn.truth_nodes, strict=True):
        if kind == off_list.SPECIES:
            assert now[SPECIES] == calibration.UNLISTED
            assert (now[GENUS] == own[GENUS]) == (genera[own[GENUS]] > 1)
        if kind == off_list.GENUS:
            assert (now[GENUS:] == calibration.UNLISTED).all() and now[0] == own[0]
        if kind == off_list.GROUP:
            assert (now == calibration.UNLISTED).all()
        if kind == off_list.LISTED:
            assert (now == own).all()


def test_labels_that_do_not_reach_the_rank_keep_their_taxon() -> None:
    keys, _, leaf = photographs(900, 0)
    truth = NODES[:, leaf].T.copy()
    truth[:, GENUS:] = calibration.UNNAMED
    assert set(off_list.hidden(keys, truth, NODES, 1.0).kind.tolist()) == {off_list.LISTED, off_list.GROUP}
    alone = calibration.nodes_of(LEAVES[:1])
    assert not off_list.hidden(keys, np.zeros((900, 7), int), alone, 1.0).kind.any()  # the node is the whole list


def test_the_hidden_have_no_probability_left() -> None:
    keys, logits, leaf = photographs(300, 0)
    truth = NODES[:, leaf].T
    drawn = off_list.hidden(keys, truth, NODES, 0.9)
    found = best(logits, truth, drawn.rank)
    for row, (rank, at) in enumerate(zip(drawn.rank, truth, strict=True)):
        kept = NODES[rank] != at[rank] if rank >= 0 else np.ones(len(LEAVES), bool)
        alone = np.zeros((1, len(LEAVES)))
        alone[0, kept] = softmax(logits[row : row + 1, kept])[0]
        share, node = calibration.best_nodes(alone, NODES)
        assert found.share[row] == pytest.approx(share[0]) and (found.node[row] == node[0]).all()
        assert found.largest[row] == logits[row, kept].max()


def fit(keys: list[str], logits: np.ndarray, leaf: np.ndarray, named: np.ndarray = NODES) -> dict[str, Any] | None:
    truth = NODES[:, leaf].T
    return off_list.calibrate(logits, off_list.hidden(keys, truth, NODES, off_list.HIDDEN), truth, NODES, named, 1.0)


def test_memory_does_not_grow_with_photographs_times_taxa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_AT_ONCE", 50 * len(LEAVES))
    keys, logits, leaf = photographs(6000, 99)
    many, nodes = np.repeat(logits.astype(np.float32), 20, axis=1), np.repeat(NODES, 20, axis=1)
    truth = NODES[:, leaf].T
    drawn = off_list.hidden(keys, truth, nodes, off_list.HIDDEN)
    tracemalloc.start()
    off_list.calibrate(many, drawn, truth, nodes, nodes, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < many.nbytes  # all probabilities at once take six times as much


def test_the_promise_holds_among_photographs_off_the_list() -> None:
    keys, logits, leaf = photographs(6000, 99)
    truth = NODES[:, leaf].T
    drawn = off_list.hidden(keys, truth, NODES, off_list.HIDDEN)
    here = best(logits, truth, drawn.rank)
    broken, answered = 0, []
    for seed in range(40):
        fitted = fit(*photographs(400, seed))
        assert fitted is not None
        rank, node, known = off_list.answer(here, fitted)
        right = calibration.judge(rank, node, drawn.truth_nodes, NODES)
        broken += bool(np.nanmean(right) < calibration.LEVEL)
        answered.append((rank[drawn.kind == off_list.LISTED] >= 0).mean())
        told = known[:, -1] < off_list.PROBABLY
        assert told[drawn.kind > 0].mean() > 0.8 > 0.2 > told[drawn.kind == 0].mean()
        assert (rank[told] < SPECIES).all()  # who is probably off the list is never named to the species
    assert np.mean(answered) > 0.85
    assert broken <= 40 * (1 - calibration.CONFIDENCE + 2 * np.sqrt(0.09 / 40))


def test_the_order_of_photographs_does_not_matter() -> None:
    keys, logits, leaf = photographs(300, 3)
    order = np.random.default_rng(0).permutation(300)
    assert fit([keys[row] for row in order], logits[order], leaf[order]) == fit(keys, logits, leaf)


def test_without_anything_hidden_nothing_is_fitted() -> None:
    _, logits, leaf = photographs(50, 0)
    drawn = off_list.hidden([f"{n}" for n in range(50)], NODES[:, leaf].T, NODES, 0.0)
    assert off_list.fit(best(logits, NODES[:, leaf].T, drawn.rank), drawn.truth_nodes, NODES) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SLOPE, st.floats(-9, 9)), min_size=7, max_size=7), st.integers(0, 99))
def test_probabilities_still_sum_up_the_tree(function: list[tuple[float, float]], seed: int) -> None:
    """A node is as probable as those below it together, or more; the rest is another taxon, or none of these."""
    _, logits, _ = photographs(5, seed)
    probable = off_list.known(dict(zip(RANKS, function, strict=True)), logits.max(axis=1))
    assert (np.diff(probable, axis=1) <= 0).all() and (probable >= 0).all() and (probable <= 1).all()
    leaves = softmax(logits)
    for rank in range(1, len(RANKS)):
        low = sum_up(leaves, NODES[rank]) * probable[:, [rank]]
        above = np.array([NODES[rank - 1][np.flatnonzero(NODES[rank] == node)[0]] for node in np.unique(NODES[rank])])
        high = sum_up(leaves, NODES[rank - 1]) * probable[:, [rank - 1]]
        for place, node in enumerate(np.unique(NODES[rank - 1])):
            assert (high[:, place] + 1e-12 >= low[:, above == node].sum(axis=1)).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=len(LEAVES), max_size=len(LEAVES)), st.integers(0, 99))
def test_an_answer_is_never_finer_than_its_cap(caps: list[int], seed: int) -> None:
    keys, logits, leaf = photographs(60, seed)
    named = capped(NODES, np.array(caps, np.int8))
    found = fit(keys, logits, leaf, named)
    if found is None:
        return
    here = best(logits, NODES[:, leaf].T, np.full(60, -1), named)
    rank, node, _ = off_list.answer(here, found | {"ranks": dict.fromkeys(RANKS, 0.5)})
    for at, number in zip(rank, node, strict=True):
        assert at < 0 or max(cap for cap, name in zip(caps, NODES[at], strict=True) if name == number) >= at
