import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bioclip_lite.photographs.shards import write_shard
from bioclip_lite.stages import caption as stage
from bioclip_lite.taxa import taxonomy
from bioclip_lite.texts.text_types import TYPES, caption
from bioclip_lite.utils import sections
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, write_json, write_table
from support import checkout, small_coca, thin
from support.photographs import DAISY, GANNET, encoded, picture

PARAMS: sections.Caption = {
    "lit_columns": ["common_name", "family"],
    "templates": {},
    "languages": [],
    "captioners": [],
    "seed": 0,
}
TAXA = {"a-0": (DAISY, "Daisy"), "b-1": ((*GANNET[:6], None), None)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    samples = (
        (key, encoded(picture(key)), {"taxon_id": key, "ranks": list(path), "common_name": common_name})
        for key, (path, common_name) in TAXA.items()
    )
    write_shard(tmp_path / "shard" / "train-00000.tar", samples)
    write_json(tmp_path / "shard" / "sizes.json", {"train-00000.tar": 2})
    return tmp_path


def test_one_row_per_sample_one_column_per_type(data: Path) -> None:
    stage.run(PARAMS, data)
    table = read_table(data / "caption" / "train-00000.parquet")
    assert table.column_names == ["key", *TYPES, "source"]
    for row, (key, (path, common_name)) in zip(table.to_pylist(), TAXA.items(), strict=True):
        assert row.pop("key") == key
        texts = {kind: caption(path, common_name, kind, PARAMS["lit_columns"]) for kind in TYPES}
        assert row == {**texts, "source": None}


def test_a_job_gives_the_bytes_of_the_whole_stage(data: Path) -> None:
    path = data / "caption" / "train-00000.parquet"
    stage.run(PARAMS, data)
    whole = path.read_bytes()
    path.unlink()
    stage.run(PARAMS, data, "train-00000")
    assert path.read_bytes() == whole


def test_a_missing_shard_is_named(data: Path) -> None:
    with pytest.raises(UserError, match="test-00000"):
        stage.run(PARAMS, data, "test-00000")


def test_languages_and_templates_are_columns_of_their_own(data: Path) -> None:
    texts = {"note": "a {family}[ called {common_name_de}]", "brief": "{scientific_name}"}
    params: sections.Caption = {**PARAMS, "languages": ["de"], "templates": texts}
    samples = [("x", encoded(picture(1)), _description(DAISY, "Daisy", common_names={"de": "Maßliebchen"}))]
    samples.append(("y", encoded(picture(2)), _description(GANNET, None)))  # of an older shard: no "common_names"
    write_shard(data / "shard" / "train-00000.tar", samples)
    stage.run(params, data)
    table = read_table(data / "caption" / "train-00000.parquet")
    assert table.column_names == ["key", *TYPES, "com_de", "brief", "note", "source"]
    assert table["com_de"].to_pylist() == ["a photo of Maßliebchen.", "a photo of Morus bassanus."]
    assert table["note"].to_pylist() == ["a Asteraceae called Maßliebchen", "a Sulidae"]
    assert table["brief"].to_pylist() == ["Bellis perennis", "Morus bassanus"]


def _description(path: taxonomy.Path, common_name: str | None, **more: Any) -> dict[str, Any]:
    return {"taxon_id": taxonomy.taxon_id(path), "ranks": list(path), "common_name": common_name, **more}


def test_columns_of_the_lit_sentence_are_chosen_when_asked(data: Path) -> None:
    rows = [
        {**dict(zip(taxonomy.RANKS, path, strict=True)), "common_name": name, "supercategory": group, "leaf": leaf}
        for path, name, group, leaf in (
            *((DAISY, "Daisy", "Plants", True), ((*GANNET[:6], None), "Daisy", "Birds", True)),
            (GANNET, "Fish", "Birds", False),
        )
    ]
    write_table(data / "index" / "taxa.parquet", pa.Table.from_pylist(rows))
    auto: sections.Caption = {**PARAMS, "lit_columns": "auto"}
    with pytest.raises(UserError, match=r"caption/lit_columns\.json is missing"):
        stage.run(auto, data, "train-00000")
    stage.run(auto, data)
    chosen = read_json(data / "caption" / "lit_columns.json")
    assert chosen and set(chosen) <= {
        "supercategory",
        *taxonomy.RANKS,
    }  # the one common name of both leaves tells nothing
    whole = (data / "caption" / "train-00000.parquet").read_bytes()
    metadata = read_table(data / "caption" / "train-00000.parquet").schema.metadata
    assert json.loads(metadata[b"lit_columns"]) == chosen
    stage.run({**PARAMS, "lit_columns": chosen}, data)
    assert (data / "caption" / "train-00000.parquet").read_bytes() == whole
    first = (data / "caption" / "lit_columns.json").read_bytes()
    stage.run(auto, data, "columns")
    assert (
        (data / "caption" / "lit_columns.json").read_bytes() == first == json.dumps(chosen, indent=1).encode() + b"\n"
    )


def test_an_unknown_captioner_is_named(data: Path) -> None:
    with pytest.raises(UserError, match="names no 'coca'"):
        stage.run(PARAMS, data, "coca/train-00000")


@pytest.mark.pipeline
def test_a_change_reaches_one_captioner_and_what_learns_from_it(tmp_path: Path) -> None:
    folder = thin.new(tmp_path / "thin", (*thin.RULES, "caption"))
    small_coca.untrained(folder / "data/weights/tiny")
    small_coca.caption_set(folder / "data/captions/mine", each=1)
    asked = {"captions": "mine/captions.json", "images": "mine/photos", "epochs": 2, "batch_size": 2}
    tuned: dict[str, Any] = {**small_coca.NUCLEUS, "name": "tuned", "fine_tuning": {**asked, "learning_rate": 0.001}}
    tower: dict[str, Any] = {"kind": "transformer", "width": 64, "layers": 1, "batch_affinity": 1.0}
    both = {"captioners": ["tuned", "ray"], "share": 0.5}
    checkout.set_parameter(folder, "caption.captioners", [small_coca.BEAM, tuned])
    checkout.set_parameter(folder, "distill.text_tower", {**tower, "synthetic": both})
    train, shards = thin.COUNTS["train"], sum(thin.COUNTS.values())
    made = checkout.snakemake(folder, "distill")
    assert (made["fine_tune_captioner"], made["write_synthetic"], made["embed_captions"]) == (1, 2 * shards, 2 * train)
    model = folder / "data/caption/tuned/model"
    assert {path.name for path in model.iterdir()} == {
        *("captioner.json", "open_clip_config.json", "open_clip_model.safetensors", "rejects.parquet")
    }

    def again(name: str, value: object) -> dict[str, int]:
        checkout.set_parameter(folder, name, value)
        jobs = checkout.planned(folder, "distill")
        assert checkout.snakemake(folder, "distill") == jobs
        return jobs

    student = {"distill": 1, "train_student": 1}
    described = {"caption": 1, "logits": 1, "write_synthetic": shards, "score_captions": shards}
    described |= {"embed_captions": train, **student}
    assert again("caption.captioners", [small_coca.BEAM, {**tuned, "top_p": 0.8}]) == described
    tuned = {**tuned, "top_p": 0.8}
    next((folder / "data/captions/mine/photos").iterdir()).write_bytes(b"another photograph")
    assert again("caption.captioners", [small_coca.BEAM, tuned]) == described | {"fine_tune_captioner": 1}
    # What is no longer asked for goes.
    one = {"captioners": ["ray"], "share": 0.4}
    assert again("distill.text_tower", {**tower, "synthetic": one}) == student | {"logits": 1}
    texts = sorted(path.parent.name for path in (folder / "data/logits/texts").rglob("*.safetensors"))
    assert texts == ["ray"] * train
