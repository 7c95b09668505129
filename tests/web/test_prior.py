"""The prior of place and month: its laws, its bytes, the weight that is chosen, and the same numbers in JavaScript."""

import json
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bioclip_lite.metrics import calibration
from bioclip_lite.metrics.ranks import capped, softmax, sum_up
from bioclip_lite.sources.occurrences import Occurrence
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.errors import UserError
from bioclip_lite.web import bundle, manifest, prior, prior_fitting
from bioclip_lite.web.parent import Parent
from bioclip_lite.web.prior import Prior
from support import keys, ranges
from support.checkout import ROOT

CORE = ROOT / "packages" / "react-bio-clip" / "dist" / "core"
LEAVES = ranges.sample()
ABOUT = {"file": "prior.bin", "cell": 2.0, "weight": 0.5, "floor": 0.1}


def prior_of(found: list[Occurrence], **changes: float) -> Prior:
    counted = prior_fitting.count(found, LEAVES, Counter())
    cells = [prior_fitting.coarser(counts, 2.0) for counts in counted.cells]
    return prior.decode(prior.encode(cells, counted.months), ABOUT | changes, len(LEAVES))


@pytest.fixture(scope="module")
def made() -> Prior:
    return prior_of(ranges.occurrences(LEAVES[:-1], 60))  # the table does not have the last taxon


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Parent, dict[str, Any], bytes, dict[str, Any]]:
    """A bundle one of whose genera is not told apart, and its prior."""
    finest = {path: "genus" for path in LEAVES if path[5] == LEAVES[3][5]}
    parent = ranges.parent_of(LEAVES, finest, tmp_path_factory.mktemp("parent"))
    counted = prior_fitting.count(ranges.occurrences(LEAVES, 80), LEAVES, Counter())
    some = prior_fitting.place_photographs(parent, ranges.photographs(parent, 20, 0.35, "fit"), counted, "table")
    return parent, *prior_fitting.fit(parent, some, counted)


def test_levels_are_whole_numbers_at_most_an_eighth_below_their_counts() -> None:
    for count in (*range(9), 15, 16, 17, 100, 999, 12_345, 10**8):
        value = int(prior._VALUES[prior.level_of(count)])
        assert value <= count <= value * 1.25
    assert [int(prior._VALUES[level]) for level in range(13)] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]


def test_five_hundred_species_take_at_most_50_kilobytes_however_widely_they_live() -> None:
    random = np.random.default_rng(0)
    cells = [{int(cell): 1 + int(cell) % 9 for cell in random.integers(720 * 360, size=150)} for _ in range(500)]
    counted = prior_fitting.Counted(cells, np.full((500, 12), 34), [], 0, Counter(), Counter())
    contents = dict(prior_fitting._contents(counted))
    assert contents and all(len(content) <= 50_000 for content in contents.values())
    for cell, content in contents.items():
        read = prior.decode(content, ABOUT | {"cell": cell}, 500)
        assert max(read.cells) < round(180 / cell) * round(360 / cell)
        wanted = [{c: int(prior._VALUES[prior.level_of(n)]) for c, n in prior_fitting.coarser(one, cell).items()}
                  for one in cells]  # fmt: skip
        found: list[dict[int, int]] = [{} for _ in cells]
        for number, (taxa, counts) in read.cells.items():
            for taxon, count in zip(taxa.tolist(), counts.tolist(), strict=True):
                found[taxon][number] = count
        assert found == wanted


def test_a_taxon_is_expected_where_it_occurs_and_not_where_or_when_it_does_not(made: Prior) -> None:
    for number, one in [(n, ranges.occurrences(LEAVES, 1)[n]) for n in range(len(LEAVES) - 1)]:
        there = prior.expect(made, one.latitude, one.longitude, one.month)
        assert there and there.share.sum() == pytest.approx(1)
        assert not there.unexpected[number] and there.share[number] > 1.5 / len(LEAVES)
        away = prior.expect(made, one.latitude, one.longitude, (one.month + 5) % 12 + 1)
        assert away is None or (away.unexpected[number] and away.share[number] < there.share[number])
        # the table does not have the last: neither favoured nor suppressed
        assert not there.unexpected[-1] and there.share[-1] > min(there.share)


def test_neighbours_wrap_around_the_date_line_and_end_at_the_poles() -> None:
    assert prior.near(prior.cell_of(0, 180, 2.0), 2.0) == prior.near(prior.cell_of(0, -180, 2.0), 2.0)
    pole = prior.near(prior.cell_of(90, 0, 2.0), 2.0)
    assert len(pole) == 6 and prior.cell_of(90, 0, 2.0) in pole
    assert all(sum(prior.near(prior.cell_of(0, 3, cell), cell).values()) == 16 for cell in prior.CELLS)


def test_without_a_known_place_and_month_all_is_as_without_a_prior(made: Prior) -> None:
    logits = np.random.default_rng(1).normal(size=(4, len(LEAVES))).astype(np.float32)
    plain = softmax(logits / 0.7)
    one = ranges.occurrences(LEAVES, 1)[0]
    known = prior.expect(made, one.latitude, one.longitude, one.month)
    assert prior.expect(made, 80.0, -100.0, 1) is None  # where the table has nothing
    assert prior.expect(prior_of(ranges.occurrences(LEAVES, 20), weight=0.0), *one[1:]) is None
    assert prior.combine(logits, 0.7, [None] * 4, 0.5).tobytes() == plain.tobytes()
    mixed = prior.combine(logits, 0.7, [None, known, None, known], 0.5)
    assert mixed[[0, 2]].tobytes() == plain[[0, 2]].tobytes()
    assert not np.allclose(mixed[1], plain[1])


def test_probabilities_sum_up_the_tree_with_a_prior(made: Prior) -> None:
    logits = np.random.default_rng(2).normal(size=(3, len(LEAVES))).astype(np.float32)
    expected = [prior.expect(made, *one[1:]) for one in ranges.occurrences(LEAVES, 1)[:3]]
    found, nodes = prior.combine(logits, 1.0, expected, made.weight), calibration.nodes_of(LEAVES)
    at_rank = [sum_up(found, nodes[rank]) for rank in range(len(RANKS))]
    for higher, (above, below) in enumerate(pairwise(at_rank)):
        parents = [nodes[higher][nodes[higher + 1] == node][0] for node in np.unique(nodes[higher + 1])]
        summed = np.stack(
            [below[:, np.array(parents) == node].sum(axis=1) for node in np.unique(nodes[higher])], axis=1
        )
        assert np.allclose(above, summed, atol=1e-12) and np.allclose(above.sum(axis=1), 1)


def test_the_prior_helps_and_costs_a_photograph_out_of_range_at_most_a_point(
    fitted: tuple[Parent, dict[str, Any], bytes, dict[str, Any]],
) -> None:
    parent, about, content, report = fitted
    assert about["weight"] > 0 and len(content) <= prior.BYTES * len(LEAVES)
    made = prior.decode(content, {"file": "", **about}, len(LEAVES))
    fresh = ranges.seen(parent, ranges.photographs(parent, 50, 0.35, "fresh"), ranges.occurrences(LEAVES, 150))
    nodes, truth = ranges.truth_of(parent, fresh.taxa)

    def right(rows: Any, places: list[Occurrence]) -> np.ndarray:
        expected = [prior_fitting.expected(made, one) for one in places]
        return prior_fitting.right(prior.combine(fresh.logits[rows], 1.0, expected, made.weight), truth[rows], nodes)

    without = prior_fitting.right(fresh.logits, truth, nodes)
    assert len(fresh.away) > 2000
    assert right(slice(None), fresh.inside).mean() > without.mean() + 0.02
    assert right(fresh.away, fresh.outside).mean() >= without[fresh.away].mean() - 0.01
    assert report["right"]["with"] > report["right"]["without"]


def test_an_answer_never_gets_finer_than_its_cap_and_the_promise_holds_with_the_prior(
    fitted: tuple[Parent, dict[str, Any], bytes, dict[str, Any]],
) -> None:
    parent, about, content, _ = fitted
    made = prior.decode(content, {"file": "", **about}, len(LEAVES))
    fresh = ranges.seen(parent, ranges.photographs(parent, 50, 0.35, "fresh"), ranges.occurrences(LEAVES, 150))
    nodes, truth = ranges.truth_of(parent, fresh.taxa)
    finest = np.array([RANKS.index(entry.get("finest_rank", "species")) for entry in parent.entries.values()])
    expected = [prior_fitting.expected(made, one) for one in fresh.inside]
    found = prior.combine(fresh.logits, about["temperature"], expected, made.weight)
    share, node = calibration.best_nodes(found, named := capped(nodes, finest))
    rank = calibration.lowest(share, about["thresholds"]["ranks"])
    answered = calibration.chosen(node, rank)
    for leaf in np.flatnonzero(finest < 6):
        own = nodes[6][leaf]
        assert not ((rank == 6) & (answered == own)).any()
    right = calibration.judge(rank, answered, truth, named)
    assert (rank == 6).any() and np.nanmean(right) >= calibration.LEVEL


def test_too_few_occurrences_are_refused(fitted: tuple[Parent, dict[str, Any], bytes, dict[str, Any]]) -> None:
    parent = fitted[0]
    with pytest.raises(UserError, match=r"table.zip lends a place to \d+ observations of split calibration, too few"):
        ranges.seen(parent, ranges.photographs(parent, 20, 0.35, "fit"), ranges.occurrences(LEAVES[:1], 10))


SCRIPT = """
import {readFileSync} from 'node:fs';
const [core, file] = process.argv.slice(1);
const {readPrior, expect} = await import(`${core}/prior.js`);
const {probabilitiesOf} = await import(`${core}/taxa.js`);
const {info, where, logits} = JSON.parse(readFileSync(0));
const prior = readPrior(info, new Uint8Array(readFileSync(file)));
console.log(JSON.stringify(where.map((one, i) => {
  const expected = expect(prior, one);
  return {
    share: expected ? [...expected.share] : null,
    unexpected: expected ? [...expected.unexpected] : null,
    probabilities: [...probabilitiesOf(info, Float32Array.from(logits[i]), expected)],
  };
})));
"""


def test_javascript_computes_the_same_numbers(
    fitted: tuple[Parent, dict[str, Any], bytes, dict[str, Any]], tmp_path: Path
) -> None:
    parent, about, content, _ = fitted
    private, public = keys.make_pair(tmp_path / "keys")
    (folder := tmp_path / "bundle").mkdir()
    key = manifest.read_private_key(str(private), tmp_path / "data")
    written = prior_fitting.write_bundle(folder, parent, about, content, key)
    assert json.loads((folder / bundle.FILE).read_text()) == written and written["bytes"] == len(content)
    assert manifest.verify(folder, manifest.read_public_key(public)) == [bundle.FILE, *written["files"]]
    made = prior.decode(content, written["prior"], len(LEAVES))
    random = np.random.default_rng(3)
    occurrences = ranges.occurrences(LEAVES, 8)
    places = [(one.latitude, one.longitude) for one in occurrences] + [(90.0, 180.0), (-90.0, -180.0), (0.0, 179.9)]
    months = [one.month for one in occurrences] + [1, 12, 6]
    logits = random.normal(size=(len(places), len(LEAVES))).astype(np.float32) * 3
    where = [
        {"place": {"latitude": place[0], "longitude": place[1]}, "date": f"2026-{month:02d}-01"}
        for place, month in zip(places, months, strict=True)
    ]
    given = json.dumps({"info": written, "where": where, "logits": logits.tolist()})
    command = ["node", "--input-type=module", "-e", SCRIPT, CORE.as_uri(), str(folder / written["prior"]["file"])]
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [prior.expect(made, *place, month) for place, month in zip(places, months, strict=True)]
    found = prior.combine(logits, about["temperature"], expected, made.weight)
    for there, here, row in zip(json.loads(done.stdout), expected, found, strict=True):
        assert np.abs(np.array(there["probabilities"]) - row).max() < 1e-6  # float32 logits are divided before
        assert (there["share"] is None) == (here is None)
        if here is not None:
            assert np.abs(np.array(there["share"]) - here.share).max() < 1e-12
            assert there["unexpected"] == here.unexpected.astype(int).tolist()
    assert {one is None for one in expected} == {True, False}
