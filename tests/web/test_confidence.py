from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bioclip_lite.metrics import calibration
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.web import confidence
from support import lessons
from support.fake_bundles import DAISY, GANNETS, MULBERRIES, TAXA, WEIGHTS, photographs

ROWS = dict(zip(TAXA, lessons.unit(lessons.generator("rows").normal(size=(len(TAXA), lessons.D))), strict=True))
SEEN = replace(photographs(ROWS, [DAISY, DAISY, (*GANNETS, "bassanus")]), observations=["one", "one", None])


def test_what_is_written_is_read_and_always_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        confidence.write(tmp_path / name, SEEN, WEIGHTS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = confidence.read(tmp_path / "a", WEIGHTS, lessons.D)
    assert (found.keys, found.observations, found.taxa) == (SEEN.keys, SEEN.observations, SEEN.taxa)
    assert np.abs(found.embeddings - SEEN.embeddings).max() < 1e-3


def test_of_more_photographs_than_are_kept_some_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confidence, "_KEPT", 2)
    confidence.write(tmp_path / "a", SEEN, WEIGHTS)
    found = confidence.read(tmp_path / "a", WEIGHTS, lessons.D)
    rows = [SEEN.keys.index(key) for key in found.keys]
    assert rows == sorted(rows) and len(rows) == 2
    assert found.taxa == [SEEN.taxa[row] for row in rows]


def test_a_file_of_another_model_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    confidence.write(tmp_path / "a", SEEN, WEIGHTS)
    for weights, width in (("c", lessons.D), (WEIGHTS, lessons.D + 1)):
        with pytest.raises(UserError, match="another model sees them"):
            confidence.read(tmp_path / "a", weights, width)
    with pytest.raises(UserError, match="absent is missing"):
        confidence.read(tmp_path / "absent", WEIGHTS, lessons.D)
    store.write_taxa(tmp_path / "taxa", ["a"], SEEN.embeddings[:1], 1.0, "teacher", "sci")
    (tmp_path / "text").write_text("some text, long enough for a header")
    (tmp_path / "cut").write_bytes((tmp_path / "a").read_bytes()[:-3])
    for name in ("taxa", "text", "cut"):
        with pytest.raises(UserError, match=f"{name} is no calibration.safetensors"):
            confidence.read(tmp_path / name, WEIGHTS, lessons.D)


def test_labels_that_may_be_another_taxon_do_not_count() -> None:
    genus: TaxonPath = (*GANNETS, None)
    leaves = [(*GANNETS, "bassanus"), DAISY, (*MULBERRIES, None)]
    labels = [(*GANNETS, "bassanus"), genus, (*GANNETS, "serrator"), DAISY, (*MULBERRIES, "alba")]
    assert confidence.under(labels, leaves, [(*GANNETS, "serrator")]) == [0, 3, 4]
    assert confidence.under(labels, leaves, []) == [0, 1, 3, 4]


def test_too_few_are_those_that_no_threshold_could_be_fitted_on() -> None:
    count = next(n for n in range(1000) if not confidence.too_few(n))
    node_of_leaf = np.zeros((7, 2), int)
    for n, fits in ((count - 1, False), (count, True)):
        found = calibration.fit_thresholds(np.full((n, 2), 0.5), np.zeros((n, 7), int), node_of_leaf, calibration.LEVEL)
        assert any(found.values()) == fits
