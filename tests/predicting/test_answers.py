"""The taxa that are named, by hand-made probabilities."""

from pathlib import Path

import numpy as np
import pytest

from bioclip_lite.predicting.answers import Answer, answers
from bioclip_lite.taxa.label_space import Labels, read_labels
from bioclip_lite.taxa.taxonomy import RANKS
from support.fake_evaluation import write_data, write_list


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path, species=4, images=3, known_to_genus=0, variants=())
    return tmp_path


def asked(
    labels: Labels, shares: list[float], rank: str, k: int, limits: dict[str, float | None] | None
) -> list[Answer]:
    (found,) = answers(np.array([shares]), labels, rank, k, limits)
    return found


def test_answers_by_hand(data: Path) -> None:
    labels = read_labels(data)
    assert labels.node_of_leaf[5].tolist() == [0, 0, 1, 2]  # a genus of two species and two of one
    shares = [0.3, 0.25, 0.4, 0.05]
    best, second = asked(labels, shares, "genus", 2, None)
    assert best["scientific_name"] == best["path"][5] == labels.leaves[0][5] and best["rank"] == "genus"
    assert (best["score"], second["score"]) == (pytest.approx(0.55), pytest.approx(0.4))
    assert best["path"][6] is None and best["common_name"] is None and best["threshold"] is None
    limits = dict.fromkeys(RANKS) | {"species": 0.5, "genus": 0.5}
    assert asked(labels, shares, "species", 5, limits) == [best | {"threshold": 0.5}]
    assert asked(labels, shares, "species", 5, limits | {"genus": 0.6}) == []


def test_taxa_that_the_list_does_not_tell_apart_are_named_together(data: Path) -> None:
    leaves = read_labels(data).leaves
    write_list(data, {leaves[0]: "genus", leaves[1]: "genus"}, {leaves[0]: "needs the spores"}, [leaves[3]])
    labels = read_labels(data)
    assert labels.finest_rank.tolist() == [5, 5, 6, 6] and labels.zero_shot.tolist() == [False, False, False, True]
    shares = [0.3, 0.25, 0.4, 0.05]
    best, second, third = asked(labels, shares, "species", 5, None)
    assert best["path"] == [*leaves[0][:6], None] and best["score"] == pytest.approx(0.55)
    assert best["note"] == "not told apart below the genus: needs the spores" and not best["zero_shot"]
    assert (second["path"], second["note"]) == (list(leaves[2]), "") and second["score"] == pytest.approx(0.4)
    assert third["path"] == list(leaves[3]) and third["zero_shot"]
    assert asked(labels, shares, "species", 5, dict.fromkeys(RANKS, 0.5)) == [best | {"threshold": 0.5}]
    (row,) = asked(labels, [0.97, 0.01, 0.01, 0.01], "species", 5, dict.fromkeys(RANKS, 0.9))
    assert row["path"] == [*leaves[0][:6], None] and row["score"] == pytest.approx(0.98)
    # one sister is told apart: the genus of the other is as probable as both
    write_list(data, {leaves[0]: "genus"}, {}, [])
    best, second, third, _ = asked(read_labels(data), [0.5, 0.3, 0.1, 0.1], "species", 5, None)
    assert (best["rank"], best["note"]) == ("genus", "not told apart below the genus")
    assert best["score"] == pytest.approx(0.8)
    assert second["path"] == list(leaves[1]) and second["score"] == pytest.approx(0.3)
