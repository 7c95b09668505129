"""A captioner is fine-tuned on a caption set of the user's, as a job of stage caption."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bioclip_lite.captioning import coca, fine_tuning
from bioclip_lite.models import hub
from bioclip_lite.params import of_job
from bioclip_lite.photographs.shards import write_shard
from bioclip_lite.stages import caption as stage
from bioclip_lite.training import checkpoint
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, write_json
from support.photographs import encoded
from support.small_coca import BEAM, COLOURS, GENERA, caption_set, photograph, untrained

SET = {"captions": "mine/captions.json", "images": "mine/photos"}
TUNED: Any = {
    **BEAM,
    "name": "tuned",
    "captions": 1,
    "fine_tuning": {**SET, "epochs": 14, "batch_size": 8, "learning_rate": 0.006},
}
SECTION: Any = {"lit_columns": ["genus"], "templates": {}, "languages": [], "captioners": [TUNED], "seed": 0}


def tuned_for(epochs: int, **changes: Any) -> Any:
    asked = {**TUNED["fine_tuning"], "epochs": epochs}
    return {**SECTION, "captioners": [{**TUNED, "fine_tuning": asked, **changes}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a CoCa that knows nothing, a caption set with a photograph missing, and a shard."""
    folder = tmp_path_factory.mktemp("work") / "data"
    untrained(folder / "weights" / "tiny")
    caption_set(folder / "captions" / "mine")
    (folder / "captions" / "mine" / "photos" / "000000000003.jpg").unlink()
    samples = [
        (key, encoded(photograph(genus, key)), {"taxon_id": genus})
        for key, genus in sorted((f"{genus}-{n}", genus) for genus in GENERA for n in range(4))
    ]
    size = write_shard(folder / "shard" / "test-00000.tar", samples)
    write_json(folder / "shard" / "sizes.json", {"test-00000.tar": size})
    return folder


def test_it_learns_to_say_what_the_caption_set_says(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own: Any = of_job({"caption": SECTION}, "caption", "tuned/model")
    stage.run(own, data, "tuned/model")
    said = capsys.readouterr().out
    assert "39 photographs. Left out: 1 missing file; first '000000000003.jpg'" in said
    folder = coca.model_folder(data, "tuned")
    assert {path.name for path in folder.iterdir()} == {*fine_tuning.FILES, fine_tuning.REJECTS}
    (reject,) = read_table(folder / fine_tuning.REJECTS).to_pylist()
    assert (reject["locator"], reject["reason"]) == ("000000000003.jpg", "missing file")
    about = read_json(folder / fine_tuning.FILE)
    assert about["photographs"] == {"learned from": 38, "held out": 1} and about["left out"] == {"missing file": 1}
    assert (about["from"], about["captions"], about["images"]) == ("tiny", [SET["captions"]], SET["images"])
    losses = [row["val_caption_loss"] for row in about["history"]]
    assert len(losses) == 14 and losses[-1] < 0.4 * losses[0]

    stage.run(SECTION, data, "tuned/test-00000")
    rows = read_table(data / "caption" / "tuned" / "test-00000.parquet").to_pylist()
    right = [COLOURS[row["key"].split("-")[0]] in row["tuned_0"] for row in rows]
    assert sum(right) > 0.7 * len(right)  # chance: 0.25


def test_a_stopped_fine_tuning_goes_on_to_the_same_bytes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, section = coca.model_folder(data, "tuned"), tuned_for(2)

    def run() -> dict[str, bytes]:
        stage.run(section, data, "tuned/model")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    undisturbed = run()  # an earlier one is replaced
    shutil.rmtree(folder)
    with monkeypatch.context() as patch, pytest.raises(checkpoint.Stopped, match="step 1 of 4"):
        patch.setenv(checkpoint.END_TIME, "0")
        run()
    assert not folder.exists() and checkpoint.path(data, "caption", "tuned").exists()
    assert run() == undisturbed
    assert not checkpoint.path(data, "caption", "tuned").parent.exists()


def test_name_and_seed_draw_batches_and_views_of_their_own(data: Path) -> None:
    weights = set()
    for name, seed in (("a", 0), ("b", 0), ("b", 1)):
        section: Any = {**tuned_for(1, name=name), "seed": seed}
        stage.run(section, data, f"{name}/model")
        weights.add((coca.model_folder(data, name) / hub.WEIGHTS[0]).read_bytes())
    assert len(weights) == 3


def test_what_cannot_be_fine_tuned_is_named(data: Path) -> None:
    plain: Any = {**SECTION, "captioners": [BEAM]}
    with pytest.raises(UserError, match="captioners, ray has no fine_tuning, so there is no job"):
        stage.run(plain, data, "ray/model")
    with pytest.raises(UserError, match=r"tuned\.model: no folder .*absent"):
        stage.run(tuned_for(1, model="local-dir:absent"), data, "tuned/model")
    asked = {**TUNED["fine_tuning"], "captions": "other.json"}
    with pytest.raises(UserError, match=r"captions/other.json cannot be read"):
        stage.run(tuned_for(1, fine_tuning=asked), data, "tuned/model")
