"""The teacher cache as a data set: nothing of it is lost, no photograph is in it, and a foreign program reads it."""

import subprocess
import sys
from pathlib import Path

import mlcroissant
import numpy as np
import pyarrow.parquet as pq
import pytest

from bioclip_lite.commands import export_cache
from bioclip_lite.photographs.shards import ShardSet, shard_names
from bioclip_lite.publishing import cache_export
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.files import read_json, write_json
from support import lessons

# As others run it: beside the data, without this package and without torch.
FOREIGN = """
import sys
sys.modules.update({name: None for name in ("torch", "bioclip_lite", "safetensors")})
import numpy as np
import load_cache
taxa, text, scale = load_cache.read_taxa(".")
for name in sys.argv[1:]:
    table, views, embeddings = load_cache.read_shard(f"{name}.parquet")
    said = load_cache.logits(embeddings, text, scale)
    np.savez(f"../{name}.npz", keys=table["key"].to_pylist(), views=views, embeddings=embeddings, text=text, said=said)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = lessons.make_cache(lessons.make_data(tmp_path_factory.mktemp("run") / "data"))
    about = {"name": "small", "identity": "teacher-a", "licence": "mit"}
    write_json(folder / "teacher" / "model" / "teacher.json", about)
    write_json(folder / "teacher" / "model" / "preprocess.json", {"size": 32})
    return folder


def export(data: Path, folder: Path, *options: str) -> int:
    return export_cache.main([str(folder), "--data", str(data), *options])


def names(data: Path) -> list[str]:
    return [name for name in shard_names(data) if not name.startswith("pretrain")]


def test_a_foreign_program_reads_the_same_embeddings(data: Path, tmp_path: Path) -> None:
    assert export(data, tmp_path / "cache") == 0
    command = [sys.executable, "-c", FOREIGN, *names(data)]
    done = subprocess.run(command, cwd=tmp_path / "cache", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(cache_export.LOADER.read_text().splitlines()) <= 36
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    for name in names(data):
        shard, read = store.read_shard(data / "logits" / f"{name}.safetensors"), np.load(tmp_path / f"{name}.npz")
        exact = shard.target(slice(None), slice(None))
        coded = store.decode(*reversed(store.encode(exact, "int8").values()))
        assert read["keys"].tolist() == shard.keys and (read["views"] == shard.views).all()
        assert (read["embeddings"] == (coded if shard.scales is None else exact)).all()
        assert np.abs(read["embeddings"] - exact).max() < 0.005
        assert (read["text"] == taxa.text).all()
        assert np.allclose(read["said"], taxa.logit_scale * read["embeddings"] @ taxa.text.T, atol=1e-5)


def test_it_says_whose_photographs_they_are_and_holds_none(data: Path, tmp_path: Path) -> None:
    export(data, tmp_path / "cache")
    export(data, tmp_path / "again")
    files = {file.name: file.read_bytes() for file in (tmp_path / "cache").iterdir()}
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    for name in names(data):
        shard = ShardSet.of(data / "shard" / f"{name}.tar")
        table = pq.read_table(tmp_path / "cache" / f"{name}.parquet").to_pylist()
        for i, row in enumerate(table):
            assert row["image"] == store.image_digest(shard.jpeg(i))
            assert row["taxon_id"] == shard.taxon_id(i) and row["split"] == name.split("-")[0]
            assert row["licence"] == shard.description(i).get("licence")
            assert not any(shard.jpeg(i)[:40] in content for content in files.values())
    about = read_json(tmp_path / "cache" / "cache.json")
    assert about["identity"] == store.read_shard(data / "logits" / "train-00000.safetensors").identity
    assert about["photographs"] == sum(len(ShardSet.of(data / "shard" / f"{name}.tar")) for name in names(data))
    assert "(licence: mit; identity teacher-a)" in files["README.md"].decode()


def test_croissant_reads_it(data: Path, tmp_path: Path) -> None:
    export(data, tmp_path / "cache")
    described = mlcroissant.Dataset(jsonld=tmp_path / "cache" / "croissant.json")  # ValidationError if it is wrong
    fields = {field.id: field for table in described.metadata.record_sets for field in table.fields}
    assert fields["photographs/embeddings"].is_array and not fields["photographs/key"].is_array
    taxa = list(described.records("taxa"))
    text = store.read_taxa(data / "logits" / "taxa.safetensors").text
    assert np.array([row["taxa/text"] for row in taxa], np.float32).tolist() == text.tolist()
    rows = {row["photographs/key"].decode(): row for row in described.records("photographs")}
    shard = store.read_shard(data / "logits" / "val-00000.safetensors")
    assert set(shard.keys) <= rows.keys()
    assert len(rows) == read_json(tmp_path / "cache" / "cache.json")["photographs"]
    row = rows[shard.keys[0]]
    assert len(row["photographs/embeddings"]) == lessons.D and row["photographs/split"] == b"val"


def test_mistakes_are_told_and_nothing_is_lost(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(data, tmp_path / "cache", "--teacher", "second") == 1
    assert "there are caches of model" in capsys.readouterr().err
    assert export(tmp_path, tmp_path / "cache") == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert export(data, tmp_path / "mine") == 1
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine" and not (tmp_path / "cache").exists()
    capsys.readouterr()
    write_json(data / "teacher" / "model" / "teacher.json", {"name": "b", "identity": "teacher-b", "licence": None})
    assert export(data, tmp_path / "cache") == 1
    assert "of another teacher" in capsys.readouterr().err and not (tmp_path / "cache").exists()
