"""Fingerprints of the stages' code are the same by whichever way they are written."""

from pathlib import Path

import pytest

from bioclip_lite.engines import stage_code
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.utils.stage_names import STAGES
from support.checkout import ROOT


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_and_sync_write_the_same_fingerprint(stage: str) -> None:
    """Templates and style sheets included, which count by their bytes."""
    text = stage_code.fingerprint(stage)
    assert text == stage_code.fingerprint(stage, Hashes(ask_dvc=False).__getitem__)
    assert list(stage_code.parse(text)) == stage_code.files(stage)
    assert all(Path(file).is_file() for file in stage_code.parse(text))


def test_a_fingerprint_covers_every_kind_of_job_and_a_job_its_own_code() -> None:
    coca = "workflow/bioclip_lite/captioning/coca.py"
    assert coca in stage_code.files("caption") and coca in stage_code.code("caption", "captioner")
    assert coca not in stage_code.code("caption")
    training = "workflow/bioclip_lite/captioning/fine_tuning.py"
    assert training in stage_code.code("caption", "fine_tuning") and training not in stage_code.code(
        "caption", "captioner"
    )
    assert "workflow/rules/caption.smk" in stage_code.files("caption")
    with pytest.raises(KeyError):
        stage_code.code("caption", "captioneer")
