"""Thresholds of a site: the promise, its limits, and the same numbers in JavaScript."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from bioclip_lite.metrics import calibration, site
from bioclip_lite.metrics.ranks import capped, softmax
from bioclip_lite.metrics.site import Confirmed
from bioclip_lite.taxa.taxonomy import RANKS
from support import ranges
from support.checkout import ROOT

SITE = ROOT / "packages" / "react-bio-clip" / "dist" / "core" / "site.js"
LEAVES = ranges.sample()
NODES = calibration.nodes_of(LEAVES)
FINEST = np.where([leaf[5] == LEAVES[3][5] for leaf in LEAVES], 5, 6)


def draw(count: int, seed: int, shift: float = 0.0) -> tuple[list[Confirmed], np.ndarray, list[Any]]:
    """Confirmed answers of a model that is surer than it should be by ``shift``; probabilities and labels too."""
    random = np.random.default_rng(seed)
    truth = random.integers(len(LEAVES), size=count)
    logits = random.normal(size=(count, len(LEAVES)))
    logits[np.arange(count), truth] += 3.5
    probabilities = softmax((1.5 + shift) * logits)
    labels = [LEAVES[leaf][: int(random.integers(5, 8))] if random.random() < 0.99 else None for leaf in truth]
    share, node = calibration.best_nodes(probabilities, capped(NODES, FINEST))
    answered = calibration.lowest(share, dict.fromkeys(RANKS, 0.8))
    deepest = calibration.lowest(share, dict.fromkeys(RANKS, 0.5))
    confirmed = []
    for row, at in enumerate(deepest.tolist()):
        best = LEAVES[int(np.flatnonzero(NODES[at] == node[row, at])[0])][: at + 1] if at >= 0 else ()
        confirmed.append(Confirmed(best, share[row, : at + 1].tolist(), int(answered[row]), labels[row]))
    return confirmed, share, labels


def test_the_thresholds_are_those_of_the_calibration_of_a_model() -> None:
    """With labels in the tree ``fit_reduced`` of the same photographs gives the same number."""
    confirmed, share, labels = draw(400, 1)
    known = [row for row, label in enumerate(labels) if label]
    found = site.recalibrate([confirmed[row] for row in known])
    named = capped(NODES, FINEST)
    node = np.array([[node_of(confirmed[row].best, rank) for rank in range(7)] for row in known])
    padded = [(*(labels[row] or ()), *[None] * (7 - len(labels[row] or ()))) for row in known]
    truth = calibration.place(padded, LEAVES)
    fitted = calibration.fit_reduced(share[known], node, truth, named, calibration.LEVEL)
    assert found["threshold"] == fitted["kingdom"] and found["threshold"] is not None


def node_of(best: Sequence[str | None], rank: int) -> int:
    """The number of the node at a rank of a path; -1 below its end."""
    leaf = next(n for n, leaf in enumerate(LEAVES) if leaf[: len(best)] == tuple(best))
    return int(NODES[rank, leaf]) if rank < len(best) else -1


def test_the_promise_holds_at_a_site_in_nine_of_ten_draws() -> None:
    everything, *_ = draw(800, 2)
    broken = promised = 0
    for seed in range(60):
        rows = np.random.default_rng(seed).integers(len(everything), size=100)
        found = site.recalibrate([everything[row] for row in rows])
        if found["threshold"] is None:
            continue
        promised += 1
        now = site.recalibrate([one._replace(answered=_at(one, found["threshold"])) for one in everything])["before"]
        broken += now["right"] / now["of"] < calibration.LEVEL
    assert promised > 15 and broken <= 0.1 * promised + 2 * np.sqrt(promised * 0.1 * 0.9)


def _at(one: Confirmed, threshold: float) -> int:
    return max((rank for rank, score in enumerate(one.scores) if score >= threshold), default=-1)


def test_a_label_above_the_answer_cannot_tell_and_one_of_another_branch_is_wrong() -> None:
    best = LEAVES[0]
    one = Confirmed(best, [0.9] * 7, 6, best)
    assert [site.judge(one, rank) for rank in range(7)] == [1.0] * 7
    family = one._replace(label=best[:5])
    assert site.judge(family, 4) == 1 and np.isnan([site.judge(family, rank) for rank in (5, 6)]).all()
    assert site.judge(one._replace(label=(*best[:6], "other")), 6) == 0
    assert site.judge(one._replace(label=(*best[:6], "other")), 5) == 1
    assert site.judge(one._replace(label=None), 0) == 0


def test_intervals_are_those_of_clopper_and_pearson() -> None:
    for right, of in ((0, 5), (5, 5), (87, 96), (1, 3)):
        exact = binomtest(right, of).proportion_ci(0.95, "exact")
        found = site.counted(np.array([1.0] * right + [0.0] * (of - right)))["interval"]
        assert found == pytest.approx([exact.low, exact.high], abs=1e-9)
    assert site.counted(np.array([np.nan]))["interval"] is None


def test_too_few_answers_show_nothing() -> None:
    sure = Confirmed(LEAVES[0], [1.0] * 7, 6, LEAVES[0])
    few, enough = site.recalibrate([sure] * 44), site.recalibrate([sure] * 45)
    assert few["threshold"] is None and few["too_few"]
    assert enough["threshold"] == 0.5 and not enough["too_few"]
    wrong = site.recalibrate([sure._replace(label=None)] * 60)
    assert wrong["threshold"] is None and not wrong["too_few"] and wrong["before"]["right"] == 0


SCRIPT = """
import {readFileSync} from 'node:fs';
const {recalibrate} = await import(process.argv[1]);
const {ranks, sets} = JSON.parse(readFileSync(0));
console.log(JSON.stringify(sets.map((confirmed) => recalibrate({ranks}, confirmed))));
"""


def test_javascript_computes_the_same_numbers() -> None:
    sets = [
        draw(count, seed, shift)[0] for count, seed, shift in ((30, 3, 0.0), (150, 4, 0.0), (300, 5, 1.5), (90, 6, -1))
    ]
    given = [[{"answer": answer_of(one), "label": one.label} for one in confirmed] for confirmed in sets]
    command = ["node", "--input-type=module", "-e", SCRIPT, SITE.as_uri()]
    done = subprocess.run(command, input=json.dumps({"ranks": RANKS, "sets": given}), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    thresholds = set()
    for confirmed, there in zip(sets, json.loads(done.stdout), strict=True):
        here = site.recalibrate(confirmed)
        thresholds.add(here["threshold"])
        same = {
            **{name: here[name] for name in ("level", "confidence")},
            "ranks": dict.fromkeys(RANKS, here["threshold"]),
        }
        assert there["thresholds"] == (None if here["threshold"] is None else same)
        assert there["tooFew"] == here["too_few"]
        for when in ("before", "now"):
            assert (there[when]["right"], there[when]["of"]) == (here[when]["right"], here[when]["of"])
            if here[when]["of"]:
                assert there[when]["interval"] == pytest.approx(here[when]["interval"], abs=1e-9)
    assert None in thresholds and len(thresholds) > 2


def answer_of(one: Confirmed) -> dict[str, Any]:
    """The answer of the package that a confirmed one stands for."""
    ranks = {
        RANKS[rank]: {"path": one.best[: rank + 1], "probability": score}
        for rank, score in enumerate(one.scores)
        if score
    }
    return {"ranks": ranks, "answer": {"rank": RANKS[one.answered]} if one.answered >= 0 else None}
