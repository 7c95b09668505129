from pathlib import Path

import pytest

from bioclip_lite.captions import TYPES, caption
from bioclip_lite.errors import UserError
from bioclip_lite.files import read_table, write_json
from bioclip_lite.shards import write_shard
from bioclip_lite.stages import caption as stage
from photographs import DAISY, GANNET, encoded, picture

PARAMS = {"lit_columns": ["common_name", "family"]}
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
    assert table.column_names == ["key", *TYPES]
    for row, (key, (path, common_name)) in zip(table.to_pylist(), TAXA.items(), strict=True):
        assert row.pop("key") == key
        assert row == {kind: caption(path, common_name, kind, PARAMS["lit_columns"]) for kind in TYPES}


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
